//! Text files that people write with whatever editor: some put a mark at the beginning.

use std::path::Path;

use anyhow::{Context, Result, bail};

/// Bytes of a text without the mark of UTF-8.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// Whether it begins with the mark of UTF-16 and is such a text, of which some letter is ASCII.
pub fn is_utf16(bytes: &[u8]) -> bool {
    (bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff")) && bytes.contains(&0)
}

/// The text of a file.
pub fn read(file: &Path) -> Result<String> {
    let bytes = std::fs::read(file)?;
    if is_utf16(&bytes) {
        bail!("it is in UTF-16: save it as UTF-8");
    }
    let text = std::str::from_utf8(without_mark(&bytes)).context("it is no text in UTF-8")?;
    Ok(text.to_owned())
}
