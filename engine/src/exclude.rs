//! What a backup or restore leaves out: patterns as in restic.
//!
//! A pattern that begins with `/` is about the whole path, any other about the
//! last part of it: `*.o`, `build/tmp`. `*` stays within a name, `**` doesn't.
//! A trailing `/` means directories only, a leading `!` takes back what an
//! earlier pattern excluded. The system may have rules of its own, too.

#[cfg(unix)]
use std::ffi::OsStr;
use std::path::Path;

use globset::{GlobBuilder, GlobSet};

#[derive(Default)]
pub struct Patterns {
    rules: Vec<Rule>,
    /// Left out whatever the rules say.
    paths: Vec<Vec<u8>>,
    /// Of all that was added.
    digest: blake3::Hasher,
}

struct Rule {
    glob: GlobSet,
    of: Of,
    negated: bool,
    /// For a rule of the system: where it is from.
    why: Option<String>,
}

/// What entries a rule is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    All,
    Directories,
    Files,
}

/// What the system says is not to be backed up. Case doesn't matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemRule {
    /// Patterns about the whole path, any of which may match.
    pub patterns: Vec<String>,
    /// Directories that match are gone through.
    pub files_only: bool,
    /// Where the rule is from, for people.
    pub why: String,
}

/// Why an entry is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason<'a> {
    /// It was asked for.
    Asked,
    /// A rule of the system, with where it is from.
    System(&'a str),
}

/// A pattern that means nothing.
#[derive(Debug, thiserror::Error)]
#[error("bad pattern {pattern:?}: {reason}")]
pub struct BadPattern {
    pub pattern: String,
    pub reason: String,
}

impl Patterns {
    pub fn new<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Result<Self, BadPattern> {
        let mut all = Self::default();
        patterns.into_iter().try_for_each(|p| all.add(p.as_ref()))?;
        Ok(all)
    }

    /// Patterns of a file: one a line; empty lines and those beginning with `#` don't count, nor
    /// does the mark that some editors put at the beginning.
    pub fn add_file(&mut self, text: &str) -> Result<(), BadPattern> {
        let lines = text.strip_prefix('\u{feff}').unwrap_or(text).lines().map(str::trim_end);
        lines.filter(|l| !l.is_empty() && !l.starts_with('#')).try_for_each(|l| self.add(l))
    }

    pub fn add(&mut self, pattern: &str) -> Result<(), BadPattern> {
        let (negated, rest) = match pattern.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, pattern),
        };
        let (of, rest) = match rest.strip_suffix('/') {
            Some(rest) if !rest.is_empty() => (Of::Directories, rest),
            _ => (Of::All, rest),
        };
        if rest.is_empty() {
            return Err(BadPattern { pattern: pattern.to_owned(), reason: "it is empty".into() });
        }
        if let Some(reason) = never_matches(rest) {
            return Err(BadPattern { pattern: pattern.to_owned(), reason: reason.into() });
        }
        let text = if rest.starts_with('/') { rest.to_owned() } else { format!("**/{rest}") };
        let glob = glob_set(&[text], false)
            .map_err(|reason| BadPattern { pattern: pattern.to_owned(), reason })?;
        self.rules.push(Rule { glob, of, negated, why: None });
        self.note(b'p', pattern.as_bytes());
        Ok(())
    }

    /// Patterns that are added later may take back what this one leaves out.
    pub fn add_system(&mut self, rule: &SystemRule) -> Result<(), BadPattern> {
        let glob = glob_set(&rule.patterns, true)
            .map_err(|reason| BadPattern { pattern: rule.patterns.join(" "), reason })?;
        let of = if rule.files_only { Of::Files } else { Of::All };
        self.rules.push(Rule { glob, of, negated: false, why: Some(rule.why.clone()) });
        let kind = if rule.files_only { b'f' } else { b's' };
        rule.patterns.iter().for_each(|pattern| self.note(kind, pattern.as_bytes()));
        Ok(())
    }

    /// What is named (absolute path, raw bytes) is not left out by rules of the system: those that match it, or a
    /// folder that it lies in, don't count.
    pub fn ask_for(&mut self, path: &[u8]) {
        let path = os_str(path);
        let is_about = |rule: &Rule| Path::new(&path).ancestors().any(|p| rule.glob.is_match(p));
        self.rules.retain(|rule| rule.why.is_none() || !is_about(rule));
    }

    /// Leaves out exactly this path (absolute, raw bytes), whatever the patterns say.
    pub fn add_path(&mut self, path: &[u8]) {
        self.paths.push(path.to_vec());
        self.note(b'/', path);
    }

    fn note(&mut self, kind: u8, text: &[u8]) {
        self.digest.update(&[kind]).update(&(text.len() as u64).to_le_bytes()).update(text);
    }

    /// Tells these patterns from others.
    pub fn digest(&self) -> [u8; 32] {
        *self.digest.finalize().as_bytes()
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.paths.is_empty()
    }

    /// Whether this entry (absolute path, raw bytes) matches. The last rule that says something decides.
    pub fn matches(&self, path: &[u8], is_dir: bool) -> bool {
        self.reason(path, is_dir).is_some()
    }

    /// Why this entry matches, if it does.
    pub fn reason(&self, path: &[u8], is_dir: bool) -> Option<Reason<'_>> {
        if self.paths.iter().any(|p| p == path) {
            return Some(Reason::Asked);
        }
        let path = os_str(path);
        let path = Path::new(&path);
        let is_meant = |rule: &Rule| match rule.of {
            Of::All => true,
            Of::Directories => is_dir,
            Of::Files => !is_dir,
        };
        let rule = self.rules.iter().rev().find(|r| is_meant(r) && r.glob.is_match(path))?;
        (!rule.negated).then(|| rule.why.as_deref().map_or(Reason::Asked, Reason::System))
    }
}

/// Why a pattern can't mean what it seems to.
fn never_matches(pattern: &str) -> Option<&'static str> {
    let mut parts = pattern.strip_prefix('/').unwrap_or(pattern).split('/');
    if parts.any(|part| matches!(part, "" | "." | "..")) {
        return Some(
            "no path has an empty part, `.` or `..`: write it as paths are in the snapshot",
        );
    }
    let (mut in_class, mut escaped) = (false, false);
    for c in pattern.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if !in_class => escaped = true,
            '[' => in_class = true,
            ']' => in_class = false,
            // They are matched byte by byte.
            c if in_class && !c.is_ascii() => {
                return Some("there can be ASCII only between [ and ]: write {ä,ö} for [äö]");
            }
            _ => {}
        }
    }
    None
}

/// A set also of one pattern: unlike a matcher, it doesn't panic at one that is too large.
fn glob_set(patterns: &[String], ignore_case: bool) -> Result<GlobSet, String> {
    let mut set = GlobSet::builder();
    for pattern in patterns {
        let glob = GlobBuilder::new(pattern)
            .literal_separator(true)
            .backslash_escape(true)
            .case_insensitive(ignore_case)
            .build();
        set.add(glob.map_err(|e| e.kind().to_string())?);
    }
    set.build().map_err(|e| e.kind().to_string())
}

#[cfg(unix)]
fn os_str(bytes: &[u8]) -> &OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}

/// What is no text has something else in place of it, which `*` and `?` match too.
#[cfg(not(unix))]
fn os_str(bytes: &[u8]) -> std::ffi::OsString {
    String::from_utf8_lossy(bytes).into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_the_manual_says() {
        let cases: &[(&[&str], &str, bool, bool)] = &[
            (&["*.o"], "/a/b.o", false, true),
            (&["*.o"], "/a/b.oo", false, false),
            (&["b.o"], "/a/b.o", false, true),
            (&["a/b"], "/x/a/b", true, true),
            (&["/a/*"], "/a/b/c", false, false),
            (&["/a/**"], "/a/b/c", false, true),
            (&["/a"], "/x/a", true, false),
            (&["tmp/"], "/tmp", true, true),
            (&["tmp/"], "/tmp", false, false),
            (&["*.log", "!keep.log"], "/v/keep.log", false, false),
            (&["*.log", "!keep.log"], "/v/other.log", false, true),
            (&["[ab].txt"], "/c/a.txt", false, true),
        ];
        for (patterns, path, is_dir, expected) in cases {
            let set = Patterns::new(*patterns).unwrap();
            assert_eq!(set.matches(path.as_bytes(), *is_dir), *expected, "{patterns:?} {path}");
        }
        assert!(Patterns::new(["[a"]).is_err());
        for never in ["./log", "log//", "/a//b", "../a", "[Ää]*", "x[!ß]"] {
            assert!(Patterns::new([never]).is_err(), "{never}");
        }
        for fine in ["{Ä,ä}*", "ä", "/a/", "\\[ä", "[a]ä"] {
            assert!(Patterns::new([fine]).is_ok(), "{fine}");
        }
        let set = Patterns::new(["{Ä,ä}*"]).unwrap();
        assert!(set.matches("/Ärger".as_bytes(), false) && !set.matches("/Über".as_bytes(), false));
        assert!(Patterns::new(["!"]).is_err());
    }

    #[test]
    fn a_file_may_begin_with_the_mark_of_an_editor() {
        let mut set = Patterns::default();
        set.add_file("\u{feff}*.o\r\n# none\r\n\u{feff}b\r\n").unwrap();
        assert!(set.matches(b"/a.o", false) && !set.matches(b"/b", false), "only at the beginning");
    }

    #[test]
    fn a_pattern_that_is_too_much_is_an_error() {
        let nested = format!("{}a{}", "{".repeat(300), "}".repeat(300));
        assert!(Patterns::new([nested]).is_err());
        assert!(Patterns::new(["{a,b}".repeat(100)]).is_ok());
        let _ = Patterns::new(["[!a]*".repeat(100_000)]);
    }

    #[test]
    fn rules_of_the_system_know_no_case_and_can_be_taken_back() {
        let rule = |patterns: &[&str], files_only| SystemRule {
            patterns: patterns.iter().map(ToString::to_string).collect(),
            files_only,
            why: "the system".into(),
        };
        let mut set = Patterns::default();
        set.add_system(&rule(&["/?/Page.sys", "/C/Old"], false)).unwrap();
        set.add_system(&rule(&["/C/Logs/*"], true)).unwrap();
        let system = Some(Reason::System("the system"));
        assert_eq!(set.reason(b"/D/pagE.SYS", false), system);
        assert_eq!(set.reason(b"/c/old", true), system);
        assert_eq!(set.reason(b"/C/x/page.sys", false), None);
        assert_eq!(set.reason(b"/C/Logs/a.log", false), system);
        assert_eq!(set.reason(b"/C/Logs/folder", true), None);
        set.add("!/D/page.sys").unwrap();
        set.add("*.log").unwrap();
        assert_eq!(set.reason(b"/D/page.sys", false), None);
        assert_eq!(set.reason(b"/C/Logs/a.log", false), Some(Reason::Asked));
        assert!(set.add_system(&rule(&["/["], false)).is_err());

        // Who names what the system would leave out gets it, and nothing else of the kind.
        let mut set = Patterns::new(["*.log"]).unwrap();
        set.add_system(&rule(&["/C/Temp/**/*"], false)).unwrap();
        set.add_system(&rule(&["/C/Logs/*"], true)).unwrap();
        set.ask_for(b"/C/Users");
        assert_eq!(set.reason(b"/C/Temp/project/a", false), system);
        set.ask_for(b"/C/Temp/project");
        assert_eq!(set.reason(b"/C/Temp/project/a", false), None);
        assert_eq!(set.reason(b"/C/Logs/a", false), system);
        assert_eq!(set.reason(b"/C/Temp/project/a.log", false), Some(Reason::Asked));
    }

    #[test]
    fn a_literal_path_and_names_that_are_no_utf8() {
        let mut set = Patterns::default();
        set.add_path(b"/a/[x]*");
        assert!(set.matches(b"/a/[x]*", true));
        assert!(!set.matches(b"/a/x", true));
        assert!(Patterns::new(["*.o"]).unwrap().matches(b"/\xff\xfe.o", false));
    }
}
