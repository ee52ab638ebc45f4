//! Mounting through macFUSE, whose library is loaded only when something is to be mounted:
//! the program runs without it. Its function for a bare file descriptor, which the crate
//! fuser calls, is gone since macFUSE 5.3; the ones used here are those that all file systems use.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use fuser::{Config, Filesystem, Session, SessionACL};

/// Where macFUSE 4 and 5 put it.
const LIBRARY: &CStr = c"/usr/local/lib/libfuse.2.dylib";

/// `struct fuse_args`
#[repr(C)]
struct Args {
    count: c_int,
    words: *mut *mut c_char,
    allocated: c_int,
}

type Mount = unsafe extern "C" fn(*const c_char, *mut Args) -> *mut c_void;
type ChannelFd = unsafe extern "C" fn(*mut c_void) -> c_int;

/// The two functions of the library that are needed.
struct Library {
    mount: Mount,
    channel_fd: ChannelFd,
}

impl Library {
    /// `None` if macFUSE is not installed.
    fn load() -> Option<Self> {
        // SAFETY: the path ends with a NUL. What the library does when it is loaded is macFUSE's.
        let library = unsafe { libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW) };
        let find = |name: &CStr| {
            // SAFETY: the library stays loaded, and the name ends with a NUL.
            let found = unsafe { libc::dlsym(library, name.as_ptr()) };
            (!library.is_null() && !found.is_null()).then_some(found)
        };
        let (mount, channel_fd) = (find(c"fuse_mount")?, find(c"fuse_chan_fd")?);
        // SAFETY: what has these names there is of these types (macFUSE's fuse_common_compat.h
        // and fuse_lowlevel.h).
        Some(unsafe {
            Self {
                mount: std::mem::transmute::<*mut c_void, Mount>(mount),
                channel_fd: std::mem::transmute::<*mut c_void, ChannelFd>(channel_fd),
            }
        })
    }

    /// Mounts, and gives what the kernel's requests come through.
    fn mount(&self, point: &Path, options: &[String]) -> io::Result<OwnedFd> {
        let point = CString::new(point.as_os_str().as_bytes())?;
        let words = ["tresor".into(), "-o".into(), options.join(",")].map(CString::new);
        let words = words.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut words: Vec<_> = words.into_iter().map(CString::into_raw).collect();
        let mut args =
            Args { count: words.len() as c_int, words: words.as_mut_ptr(), allocated: 0 };
        // SAFETY: the words live, each ends with a NUL, and there are as many as is said. The
        // library doesn't free them, since they are said not to be its own.
        let channel = unsafe { (self.mount)(point.as_ptr(), &raw mut args) };
        for word in words {
            // SAFETY: it came from `into_raw`, and the library has only read it.
            drop(unsafe { CString::from_raw(word) });
        }
        if channel.is_null() {
            return Err(io::Error::other("macFUSE refused to mount; it may say why above"));
        }
        // SAFETY: the channel is one of the library's, and never freed: it closes what it holds.
        let fd = unsafe { BorrowedFd::borrow_raw((self.channel_fd)(channel)) };
        fd.try_clone_to_owned()
    }
}

/// Mounts with these options. `None` if macFUSE is not installed.
pub(super) fn connect<F: Filesystem>(
    fs: F,
    point: &Path,
    options: &[String],
    acl: SessionACL,
) -> Option<io::Result<Session<F>>> {
    let library = Library::load()?;
    let mounted = library.mount(point, options);
    Some(mounted.and_then(|fd| Session::from_fd(fs, fd, acl, Config::default())))
}
