//! What a backup or restore leaves out: patterns as in restic.
//!
//! A pattern that begins with `/` is about the whole path, any other about the
//! last part of it: `*.o`, `build/tmp`. `*` stays within a name, `**` doesn't.
//! A trailing `/` means directories only, a leading `!` takes back what an
//! earlier pattern excluded.

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
    directories_only: bool,
    negated: bool,
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

    /// Patterns of a file: one a line; empty lines and those beginning with `#` don't count.
    pub fn add_file(&mut self, text: &str) -> Result<(), BadPattern> {
        let lines = text.lines().map(str::trim_end);
        lines.filter(|l| !l.is_empty() && !l.starts_with('#')).try_for_each(|l| self.add(l))
    }

    pub fn add(&mut self, pattern: &str) -> Result<(), BadPattern> {
        let (negated, rest) = match pattern.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, pattern),
        };
        let (directories_only, rest) = match rest.strip_suffix('/') {
            Some(rest) if !rest.is_empty() => (true, rest),
            _ => (false, rest),
        };
        let bad = |reason: String| BadPattern { pattern: pattern.to_owned(), reason };
        if rest.is_empty() {
            return Err(bad("it is empty".into()));
        }
        let text = if rest.starts_with('/') { rest.to_owned() } else { format!("**/{rest}") };
        // A set of one: unlike a matcher, it doesn't panic at a pattern that is too large.
        let glob = GlobBuilder::new(&text)
            .literal_separator(true)
            .backslash_escape(true)
            .build()
            .and_then(|glob| GlobSet::builder().add(glob).build())
            .map_err(|e| bad(e.kind().to_string()))?;
        self.rules.push(Rule { glob, directories_only, negated });
        self.note(b'p', pattern.as_bytes());
        Ok(())
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
        if self.paths.iter().any(|p| p == path) {
            return true;
        }
        let path = os_str(path);
        let path = Path::new(&path);
        let hit = |rule: &&Rule| (is_dir || !rule.directories_only) && rule.glob.is_match(path);
        self.rules.iter().rev().find(hit).is_some_and(|rule| !rule.negated)
    }
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
        assert!(Patterns::new(["!"]).is_err());
    }

    #[test]
    fn a_pattern_that_is_too_much_is_an_error() {
        let nested = format!("{}a{}", "{".repeat(300), "}".repeat(300));
        assert!(Patterns::new([nested]).is_err());
        assert!(Patterns::new(["{a,b}".repeat(100)]).is_ok());
        let _ = Patterns::new(["[!a]*".repeat(100_000)]);
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
