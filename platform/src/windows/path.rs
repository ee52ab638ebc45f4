//! What a user types, as the path that a backup records: `C:\Users\Anna` is
//! `/C/Users/Anna`.

use std::io;
use std::path::{Component, Path, PathBuf, Prefix};

use tresor_engine::naming::node_name;

/// The absolute path of what the user typed. Links on the way are resolved, the last part
/// is not: to name a link is to mean the link. What isn't there is an error that names it.
pub fn absolute_path(path: &Path) -> io::Result<Vec<u8>> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    let found = resolve(path).map_err(named)?;
    let recorded = recorded_path(found.as_os_str().as_encoded_bytes());
    if recorded.starts_with(b"/UNC/") {
        let message = "a folder of another machine can't be saved by its network name; connect a drive letter to it";
        return Err(named(io::Error::new(io::ErrorKind::Unsupported, message)));
    }
    Ok(recorded)
}

fn resolve(path: &Path) -> io::Result<PathBuf> {
    let typed = path.as_os_str().as_encoded_bytes();
    let means_target = typed.ends_with(b"\\") || typed.ends_with(b"/") || typed.ends_with(b".");
    let absolute = std::path::absolute(path)?;
    let (Some(Component::Normal(name)), Some(parent), false) =
        (absolute.components().next_back(), absolute.parent(), means_target)
    else {
        return letter(absolute.canonicalize()?, &absolute);
    };
    let found = letter(parent.canonicalize()?, &absolute)?.join(name);
    found.symlink_metadata()?;
    Ok(found)
}

/// A letter that stands for a folder of another machine is kept, as the user typed it.
fn letter(found: PathBuf, typed: &Path) -> io::Result<PathBuf> {
    let is_network = |path: &Path| match path.components().next() {
        Some(Component::Prefix(p)) => matches!(p.kind(), Prefix::UNC(..) | Prefix::VerbatimUNC(..)),
        _ => false,
    };
    Ok(if is_network(&found) && !is_network(typed) { typed.to_owned() } else { found })
}

/// A path of Windows (WTF-8), which may begin as programs or the system begin them.
pub fn recorded_path(path: &[u8]) -> Vec<u8> {
    let begins = [b"\\\\?\\".as_slice(), b"\\??\\", b"\\\\.\\"];
    let rest = begins.iter().find_map(|b| path.strip_prefix(*b)).unwrap_or(path);
    let (first, rest) = match rest {
        [letter, b':', rest @ ..] => (vec![b'/', letter.to_ascii_uppercase()], rest),
        [b'\\', b'\\', rest @ ..] => (b"/UNC".to_vec(), rest),
        rest => (Vec::new(), rest),
    };
    let parts = rest.split(|b| matches!(b, b'\\' | b'/')).filter(|p| !p.is_empty());
    let path = parts.fold(first, |path, part| [&path, b"/".as_slice(), &node_name(part)].concat());
    if path.is_empty() { b"/".to_vec() } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_folders() {
        let cases = [
            (r"C:\Users\Anna", "/C/Users/Anna"),
            (r"\\?\d:\", "/D"),
            (r"\??\C:\x\\y\", "/C/x/y"),
            (r"\\server\share\x", "/UNC/server/share/x"),
            (r"\\?\UNC\server\share", "/UNC/server/share"),
            ("C:/a\u{f03a}b", "/C/a:b"),
            (r"\", "/"),
        ];
        for (typed, recorded) in cases {
            assert_eq!(String::from_utf8(recorded_path(typed.as_bytes())).unwrap(), recorded);
        }
    }

    #[test]
    fn what_is_not_there_is_named() {
        let e = absolute_path(Path::new(r"C:\no-such-folder\x")).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::NotFound);
        assert!(e.to_string().starts_with(r"C:\no-such-folder\x: "), "{e}");
    }
}
