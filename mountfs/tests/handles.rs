//! File handles, by which an NFS server knows entries: they outlive the kernel's
//! own memory of an inode. Needs root.

mod kit;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use kit::{Mount, drive, status};
use tresor_mountfs::{FsError, Ino};
use tresor_testkit::{Item, backup, options, repository};

/// `struct file_handle` with room for what file systems put in it.
#[repr(C)]
struct Handle {
    len: u32,
    kind: i32,
    bytes: [u8; 128],
}

fn handle_of(path: &Path) -> io::Result<Handle> {
    let name = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let mut handle = Handle { len: 128, kind: 0, bytes: [0; 128] };
    let mut mount = 0;
    // SAFETY: the name ends with a zero, and the handle has the room it says.
    let done = unsafe {
        libc::name_to_handle_at(
            libc::AT_FDCWD,
            name.as_ptr(),
            (&raw mut handle).cast(),
            &mut mount,
            0,
        )
    };
    if done == 0 { Ok(handle) } else { Err(io::Error::last_os_error()) }
}

fn open(mount: &File, handle: &mut Handle) -> io::Result<File> {
    // SAFETY: the handle is one that the system gave, and a new descriptor is owned by nobody.
    unsafe {
        let flags = libc::O_RDONLY | libc::O_CLOEXEC;
        let new = libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut *handle).cast(), flags);
        if new >= 0 { Ok(File::from_raw_fd(new)) } else { Err(io::Error::last_os_error()) }
    }
}

fn forget_all(mount: &Mount) {
    let before = status(&mount.fs, "inodes");
    kit::wait_until("the kernel forgets", || {
        std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
        // Others may drop the caches, too.
        status(&mount.fs, "inodes") <= 30.max(before / 2)
    });
}

#[test]
fn handles_open_what_the_kernel_has_forgotten() {
    let repo = repository();
    let dir = |d: usize| {
        (0..50).fold(Item::dir(), |dir, f| {
            dir.with(format!("{f}"), Item::file(format!("{d} {f}").into_bytes()))
        })
    };
    let tree = (0..20).fold(Item::dir(), |root, d| root.with(format!("{d}"), dir(d)));
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    let mount = Mount::new(drive(&repo, Some(snapshot), 4 << 20));
    let root = File::open(mount.path()).unwrap();
    let mut handles = Vec::new();
    for (d, f) in (0..20).flat_map(|d| (0..50).map(move |f| (d, f))) {
        handles.push((format!("{d} {f}"), handle_of(&mount.at(format!("{d}/{f}"))).unwrap()));
    }
    let mut folder = handle_of(&mount.at("7")).unwrap();
    if let Err(e) = open(&root, &mut handles[0].1) {
        assert_eq!(e.kind(), io::ErrorKind::PermissionDenied, "{e}");
        eprintln!("skipped: only root may open by handle");
        return;
    }
    for _ in 0..2 {
        forget_all(&mount);
        for (text, handle) in &mut handles {
            let mut read = String::new();
            open(&root, handle).unwrap().read_to_string(&mut read).unwrap();
            assert_eq!(read, *text);
        }
    }
    // A folder whose place in the tree must be found out first.
    forget_all(&mount);
    let folder = open(&root, &mut folder).unwrap();
    let listed = std::fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd())).unwrap();
    assert_eq!(listed.count(), 50);
    let up = std::fs::read_dir(format!("/proc/self/fd/{}/..", folder.as_raw_fd())).unwrap();
    assert_eq!(up.count(), 20);
}

/// What was forgotten last, and not what was asked for most often.
#[test]
fn those_forgotten_last_are_known_and_their_number_is_bounded() {
    const FILES: usize = 50_000;
    let repo = repository();
    let tree = (0..FILES).fold(Item::dir(), |d, n| d.with(format!("{n:05}"), Item::file("")));
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    let fs = drive(&repo, Some(snapshot), 4 << 20);
    let look = |n: usize| fs.lookup(Ino::ROOT, format!("{n:05}").as_bytes()).unwrap().ino;
    let numbers: Vec<_> = (0..FILES)
        .map(|n| {
            let ino = look(n);
            fs.forget(ino, 1);
            ino
        })
        .collect();
    let known = |ino: Ino| match fs.lookup(ino, b".") {
        Ok(attr) => {
            assert_eq!(attr.ino, ino);
            fs.forget(ino, 1);
            true
        }
        Err(e) => {
            assert_eq!(e, FsError::Stale);
            false
        }
    };
    let lost = numbers[FILES - 32_000..].iter().filter(|ino| !known(**ino)).count();
    assert_eq!(lost, 0, "of the last 32,000");
    assert!(!numbers[..10_000].iter().any(|ino| known(*ino)));
    // Without a lookup by an NFS server they are unknown.
    assert_eq!(fs.attr(numbers[FILES - 1]), Err(FsError::Stale));
}

#[test]
fn handles_of_snapshots_and_folders_above_them() {
    let repo = repository();
    let tree = Item::dir().with("d", Item::dir().with("f", Item::file("text")));
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    let mount = Mount::new(drive(&repo, None, 4 << 20));
    let root = File::open(mount.path()).unwrap();
    let id = snapshot.id.short();
    let paths = ["ids".to_owned(), format!("ids/{id}"), format!("ids/{id}/d")];
    let mut folders: Vec<_> = paths.iter().map(|p| handle_of(&mount.at(p)).unwrap()).collect();
    let mut versions = handle_of(&mount.at(format!("ids/{id}/d/.versions/f"))).unwrap();
    let mut file = handle_of(&mount.at(format!("ids/{id}/d/f"))).unwrap();
    if let Err(e) = open(&root, &mut file) {
        assert_eq!(e.kind(), io::ErrorKind::PermissionDenied, "{e}");
        eprintln!("skipped: only root may open by handle");
        return;
    }
    let forget = || {
        kit::wait_until("the kernel forgets", || {
            std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
            status(&mount.fs, "inodes") < 3
        });
    };
    for (handle, entries) in folders.iter_mut().zip([2, 1, 1]).rev() {
        forget();
        let folder = open(&root, handle).unwrap();
        let listed = std::fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd())).unwrap();
        assert_eq!(listed.count(), entries);
    }
    forget();
    // The kernel looks for the name in the listing of the folder above, and it is in none.
    let error = open(&root, &mut versions).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}");
    forget();
    let mut read = String::new();
    open(&root, &mut file).unwrap().read_to_string(&mut read).unwrap();
    assert_eq!(read, "text");
}
