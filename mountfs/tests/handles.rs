//! File handles, by which an NFS server knows entries: they outlive the kernel's
//! own memory of an inode. Needs root.

mod kit;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use kit::{Mount, drive, status};
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
    std::fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    kit::wait_until("the kernel forgets", || status(&mount.fs, "inodes") < before.min(10));
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
