//! What a user types, as the path that a backup records.

use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// The absolute path of what the user typed, as raw bytes without `.`, `..` and
/// trailing slashes. Symlinks on the way are resolved, the last part is not: to
/// name a link is to mean the link. `link/` means what it leads to, as
/// everywhere. What isn't there is an error that names it.
pub fn absolute_path(path: &Path) -> io::Result<Vec<u8>> {
    let found =
        resolve(path).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
    Ok(found.into_os_string().into_vec())
}

/// A path of this system as a backup records it: as it is.
pub fn recorded_path(path: &[u8]) -> Vec<u8> {
    path.to_vec()
}

fn resolve(path: &Path) -> io::Result<PathBuf> {
    let typed = path.as_os_str().as_bytes();
    let means_target = typed.ends_with(b"/") || typed.ends_with(b"/.");
    let Some(Component::Normal(name)) = path.components().next_back().filter(|_| !means_target)
    else {
        return path.canonicalize();
    };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let found = parent.canonicalize()?.join(name);
    found.symlink_metadata()?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    fn absolute(path: impl AsRef<Path>) -> PathBuf {
        PathBuf::from(std::ffi::OsString::from_vec(absolute_path(path.as_ref()).unwrap()))
    }

    #[test]
    fn resolves_the_way_and_not_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        std::fs::create_dir_all(top.join("real/sub")).unwrap();
        std::os::unix::fs::symlink("real", top.join("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", top.join("real/dangling")).unwrap();
        assert_eq!(absolute(top.join("link")), top.join("link"));
        assert_eq!(absolute(top.join("link/")), top.join("real"));
        assert_eq!(absolute(top.join("link/.")), top.join("real"));
        assert_eq!(absolute(top.join("link/sub/")), top.join("real/sub"));
        assert_eq!(absolute(top.join("link/sub/..")), top.join("real"));
        assert_eq!(absolute(top.join("link/./dangling")), top.join("real/dangling"));
        assert_eq!(absolute(top.join("real/../link")), top.join("link"));
        let odd = top.join(OsStr::from_bytes(b"\xff odd"));
        std::fs::write(&odd, b"").unwrap();
        assert_eq!(absolute(&odd), odd);
    }

    #[test]
    fn roots_and_relative_paths() {
        for root in ["/", "//", "/.", "/..", "/./"] {
            assert_eq!(absolute_path(Path::new(root)).unwrap(), b"/");
        }
        let here = std::env::current_dir().unwrap().canonicalize().unwrap();
        assert_eq!(absolute("."), here);
        assert_eq!(absolute("src"), here.join("src"));
        assert_eq!(absolute("./src/"), here.join("src"));
    }

    #[test]
    fn what_is_not_there_is_named() {
        for missing in ["no-such-name", "/no-such-folder/x", "no-such-name/", ""] {
            let e = absolute_path(Path::new(missing)).unwrap_err();
            assert_eq!(e.kind(), io::ErrorKind::NotFound);
            assert!(e.to_string().starts_with(&format!("{missing}: ")), "{e}");
        }
    }
}
