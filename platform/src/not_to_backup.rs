//! What Windows lists as not to be backed up, as rules for a backup. The lists are values
//! of the registry, written by Windows and by programs:
//!
//! ```text
//! \Pagefile.sys              on every drive
//! %TEMP%\* /s                with all that is below
//! $UserProfile$\x\*.ost      of every user
//! ```
//!
//! `*` and `?` stand for the last part only. Microsoft describes the keys under "Registry Keys
//! and Values for Backup and Restore" and "Excluding Files from Shadow Copies".

use tresor_engine::exclude::SystemRule;
use tresor_engine::naming::node_name;

/// What stands for other things in the lists.
pub struct Names<'a> {
    /// The value of a variable.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// The folders of all users.
    pub profiles: &'a [String],
}

/// The rule that a line of such a list means; an error says what is wrong with it.
pub fn rule(line: &str, why: &str, names: &Names) -> Result<SystemRule, String> {
    let text = line.trim();
    let (text, below) = match text.len().checked_sub(2).and_then(|at| text.split_at_checked(at)) {
        Some((rest, flag)) if flag.eq_ignore_ascii_case("/s") && rest.ends_with([' ', '\t']) => {
            (rest.trim_end(), true)
        }
        _ => (text, false),
    };
    let mut patterns = Vec::new();
    let mut files_only = false;
    for path in expand(text, names)? {
        let (folder, last) = path.rsplit_once('\\').ok_or("it is no path")?;
        if last.is_empty() {
            return Err("no file is named".into());
        }
        // Without /s, what is in folders that match is not meant.
        files_only = !below && last.contains(['*', '?']);
        let is_profile = |p: &String| p.trim_end_matches('\\').eq_ignore_ascii_case(folder);
        let is_all = below && names_meant(last).contains(&"*");
        if is_all
            && (names.profiles.iter().any(is_profile) || folder.is_empty() || folder.ends_with(':'))
        {
            return Err("it would leave out a whole drive, or all of a user".into());
        }
        let folder = folder_pattern(folder)? + if below { "/**/" } else { "/" };
        for last in names_meant(last) {
            patterns.push(format!("{folder}{}", part(last)));
        }
    }
    Ok(SystemRule { patterns, files_only, why: why.to_owned() })
}

/// The names that Windows means: it doesn't take a dot before `*` at its word.
fn names_meant(last: &str) -> Vec<&str> {
    match last.strip_suffix(".*") {
        Some("*") => vec!["*"],
        Some(stem) => vec![last, stem],
        None => vec![last],
    }
}

/// Puts in what variables stand for.
fn expand(text: &str, names: &Names) -> Result<Vec<String>, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        let (name, after) = after.split_once('%').ok_or("a % has no other one")?;
        let value = (names.variable)(name).ok_or_else(|| format!("there is no %{name}%"))?;
        out += before;
        out += value.trim_end_matches('\\');
        rest = after;
    }
    out += rest;
    let starts_with =
        |name: &str| out.get(..name.len()).is_some_and(|s| s.eq_ignore_ascii_case(name));
    for name in ["$UserProfile$", "$AllVolumes$"] {
        if starts_with(name) {
            let rest = &out[name.len()..];
            let all = if name == "$AllVolumes$" { &[String::new()] } else { names.profiles };
            return Ok(all.iter().map(|p| format!("{}{rest}", p.trim_end_matches('\\'))).collect());
        }
    }
    Ok(vec![out])
}

/// A folder without wildcards, as the beginning of a pattern: `/C/Windows`, or `/?` for all drives.
fn folder_pattern(folder: &str) -> Result<String, String> {
    let folder = folder.strip_prefix(r"\\?\").unwrap_or(folder);
    let (drive, rest) = match folder.as_bytes() {
        [letter, b':', ..] if letter.is_ascii_alphabetic() => {
            (char::from(letter.to_ascii_uppercase()), &folder[2..])
        }
        [b'\\', b'\\', ..] => return Err("it is on another machine".into()),
        [] | [b'\\', ..] => ('?', folder),
        _ => return Err("it is no whole path".into()),
    };
    if rest.contains(['*', '?']) {
        return Err("only the last part can have a wildcard".into());
    }
    let parts = rest.split(['\\', '/']).filter(|p| !p.is_empty());
    Ok(parts.fold(format!("/{drive}"), |path, name| path + "/" + &part(name)))
}

/// A name with wildcards, as patterns have it: anything else that means something there doesn't.
fn part(name: &str) -> String {
    let mut out = String::new();
    let recorded = name.split_inclusive(['*', '?']).map(|piece| {
        let (text, wildcard) = piece.split_at(piece.trim_end_matches(['*', '?']).len());
        (String::from_utf8_lossy(&node_name(text.as_bytes())).into_owned(), wildcard)
    });
    for (text, wildcard) in recorded {
        for c in text.chars() {
            if "*?[]{}\\".contains(c) {
                out.push('\\');
            }
            out.push(c);
        }
        out += wildcard;
    }
    out
}

#[cfg(test)]
mod tests {
    use tresor_engine::exclude::Patterns;

    use super::*;

    fn parsed(line: &str) -> Result<SystemRule, String> {
        let variable = |name: &str| match name.to_ascii_lowercase().as_str() {
            "systemroot" => Some("C:\\Windows".into()),
            "temp" => Some("D:\\Temp\\".into()),
            _ => None,
        };
        let profiles = ["C:\\Users\\Anna".into(), "C:\\Users\\[x]".into()];
        rule(line, "list", &Names { variable: &variable, profiles: &profiles })
    }

    #[test]
    fn lines_mean_what_microsoft_says() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            (r"\Pagefile.sys", &["/C/pagefile.sys", "/D/PAGEFILE.SYS"], &["/C/x/pagefile.sys"]),
            (
                r"%Systemroot%\CSC\* /s",
                &["/C/Windows/csc/a", "/C/WINDOWS/CSC/b/c", "/C/Windows/CSC/dir/"],
                &["/C/Windows/CSC/", "/D/Windows/CSC/a"],
            ),
            (r"%TEMP%\* /S", &["/D/Temp/x", "/D/temp/y/"], &["/D/Temp/"]),
            (r"C:\a\*.*", &["/C/a/b", "/C/a/b.c"], &["/C/a/dir/", "/C/a/dir/b"]),
            (r"c:\a\log.*", &["/C/a/log", "/C/A/LOG.1"], &["/C/a/log.1/", "/C/a/logs"]),
            (r"C:\a\Old", &["/C/a/old/", "/C/a/old"], &["/C/b/old"]),
            (r"\SIS Common Store\*.* /s", &["/E/SIS Common Store/x/y"], &["/E/other/x"]),
            (
                r"\System Volume Information\*{3808876b-c176}  /s",
                &["/C/System Volume Information/1{3808876b-c176}"],
                &["/C/System Volume Information/13808876b-c176"],
            ),
            (
                r"$UserProfile$\x\*.ost",
                &["/C/Users/Anna/x/a.ost", "/C/Users/[x]/x/a.ost"],
                &["/C/Users/x/x/a.ost", "/C/Users/Bob/x/a.ost"],
            ),
            (r"$AllVolumes$\T\*.tmp /s", &["/C/T/a.tmp", "/D/t/u/b.TMP"], &["/D/u/b.tmp"]),
        ];
        for (line, hit, miss) in cases {
            let mut patterns = Patterns::default();
            patterns.add_system(&parsed(line).unwrap()).unwrap();
            let matches = |path: &str| {
                let name = path.strip_suffix('/').unwrap_or(path);
                patterns.matches(name.as_bytes(), path.ends_with('/'))
            };
            hit.iter().for_each(|path| assert!(matches(path), "{line}: {path}"));
            miss.iter().for_each(|path| assert!(!matches(path), "{line}: {path}"));
        }
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        for line in [
            "",
            "x",
            "/s",
            r"C:\",
            r"C:\a\",
            r"%none%\x",
            r"%x\y",
            r"\\server\share\x",
            r"C:\*\x",
            r"a\b",
            "ä/s",
            r"D:\* /s",
            r"D:\*.* /s",
            r"\* /s",
            r"$AllVolumes$\* /s",
            r"$UserProfile$\* /s",
        ] {
            assert!(parsed(line).is_err(), "{line:?}");
        }
    }
}
