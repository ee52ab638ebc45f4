//! Names of users and groups. Each is looked up once: a lookup may ask a server.

use std::collections::HashMap;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::ptr;
use std::sync::{LazyLock, PoisonError, RwLock};

use libc::{c_char, c_int};
use tresor_engine::format::Node;

type Cache = LazyLock<RwLock<HashMap<u32, Option<String>>>>;

static USERS: Cache = LazyLock::new(Default::default);
static GROUPS: Cache = LazyLock::new(Default::default);

/// The user's name, if he has one.
pub(crate) fn user(id: u32) -> Option<String> {
    cached(&USERS, id, |buffer| find_user(id, buffer, |entry| entry.pw_name))
}

/// The user's home folder as the system lists it, whatever the environment says.
pub(crate) fn home(id: u32) -> Option<PathBuf> {
    let found = with_room(|buffer| find_user(id, buffer, |entry| entry.pw_dir));
    found.map(PathBuf::from).filter(|home| home.is_absolute())
}

/// The group's name, if it has one.
fn group(id: u32) -> Option<String> {
    cached(&GROUPS, id, |buffer| find_group(id, buffer))
}

/// Fills in the names of a node's owner and group.
pub(super) fn name(node: &mut Node) {
    node.user = user(node.uid);
    node.group = group(node.gid);
}

/// A name, or nothing, or an error number.
type Found = Result<Option<String>, c_int>;

fn cached(cache: &Cache, id: u32, find: impl FnMut(&mut [c_char]) -> Found) -> Option<String> {
    if let Some(known) = cache.read().unwrap_or_else(PoisonError::into_inner).get(&id) {
        return known.clone();
    }
    let name = with_room(find);
    cache.write().unwrap_or_else(PoisonError::into_inner).insert(id, name.clone());
    name
}

/// Calls again with a larger buffer while the system asks for one.
fn with_room(mut find: impl FnMut(&mut [c_char]) -> Found) -> Option<String> {
    let mut buffer = vec![0; 1 << 10];
    loop {
        match find(&mut buffer) {
            Err(libc::ERANGE) if buffer.len() < 1 << 22 => buffer.resize(buffer.len() * 4, 0),
            Err(libc::EINTR) => {}
            found => return found.ok().flatten(),
        }
    }
}

fn find_user(
    id: u32,
    buffer: &mut [c_char],
    field: impl Fn(&libc::passwd) -> *mut c_char,
) -> Found {
    let mut entry = MaybeUninit::<libc::passwd>::uninit();
    let mut found = ptr::null_mut();
    // SAFETY: all pointers are to live memory of the lengths given.
    let code = unsafe {
        libc::getpwuid_r(id, entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &mut found)
    };
    if code != 0 || found.is_null() {
        return if code == 0 { Ok(None) } else { Err(code) };
    }
    // SAFETY: not null, so it points to `entry`, filled in, with strings in `buffer`.
    Ok(unsafe { text(field(&*found)) })
}

fn find_group(id: u32, buffer: &mut [c_char]) -> Found {
    let mut entry = MaybeUninit::<libc::group>::uninit();
    let mut found = ptr::null_mut();
    // SAFETY: all pointers are to live memory of the lengths given.
    let code = unsafe {
        libc::getgrgid_r(id, entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &mut found)
    };
    if code != 0 || found.is_null() {
        return if code == 0 { Ok(None) } else { Err(code) };
    }
    // SAFETY: not null, so it points to `entry`, filled in, with strings in `buffer`.
    Ok(unsafe { text((*found).gr_name) })
}

/// # Safety
/// `name` is null or points to a string that ends with a NUL.
unsafe fn text(name: *const c_char) -> Option<String> {
    if name.is_null() {
        return None;
    }
    // SAFETY: as the caller vouches.
    unsafe { CStr::from_ptr(name) }.to_str().ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_and_unknown_owners() {
        assert_eq!(user(0).as_deref(), Some("root"));
        assert_eq!(user(0).as_deref(), Some("root"));
        assert_eq!(
            group(0).as_deref(),
            Some(if cfg!(target_os = "macos") { "wheel" } else { "root" })
        );
        assert_eq!(user(3_999_999_999), None);
        assert!(home(0).is_some() && home(3_999_999_999).is_none());
        assert_eq!(group(u32::MAX), None);
    }

    #[test]
    fn long_entries_get_room() {
        let name =
            with_room(
                |buffer| {
                    if buffer.len() < 50_000 { Err(libc::ERANGE) } else { Ok(Some("x".into())) }
                },
            );
        assert_eq!(name.as_deref(), Some("x"));
        assert_eq!(with_room(|_| Err(libc::ERANGE)), None);
    }
}
