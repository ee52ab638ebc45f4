//! Names between systems. A node's name is raw bytes from Unix or WTF-8 from Windows;
//! Windows can't have all of them. What it can't have is written with characters of
//! Unicode's private use area, U+F001 to U+F0FF, each of which stands for one byte: `a:b`
//! is `a\u{f03a}b` there. Cygwin and WSL do the same.
//!
//! [`windows_name`] and [`node_name`] are inverse to each other: every name comes back as
//! it was, wherever it went in between. docs/format.md describes the rules.

use crate::format::is_valid_name;

/// Where the characters that stand for bytes begin.
const BASE: u32 = 0xf000;
const BYTES: std::ops::RangeInclusive<u32> = 0xf001..=0xf0ff;

/// A piece of a name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Piece {
    /// A code point; surrogates that stand alone are such, too.
    Char(u32),
    /// What is no WTF-8.
    Byte(u8),
}

/// Takes the first piece off; `after` is the one before it.
fn take(bytes: &mut &[u8], after: Option<Piece>) -> Option<Piece> {
    let (first, rest) = bytes.split_first()?;
    let len = match first {
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf7 => 4,
        _ => 1,
    };
    let whole = bytes.get(..len);
    let char = whole.and_then(|b| std::str::from_utf8(b).ok()).and_then(|s| s.chars().next());
    let code = char.map(u32::from).or_else(|| surrogate(whole?, after));
    match code {
        Some(code) => {
            *bytes = &bytes[len..];
            Some(Piece::Char(code))
        }
        None => {
            *bytes = rest;
            Some(Piece::Byte(*first))
        }
    }
}

/// A surrogate, unless it is the second of a pair, which WTF-8 writes as one character.
fn surrogate(bytes: &[u8], after: Option<Piece>) -> Option<u32> {
    let [0xed, b @ 0xa0..=0xbf, c @ 0x80..=0xbf] = bytes else { return None };
    let code = 0xd000 | u32::from(b & 0x3f) << 6 | u32::from(c & 0x3f);
    let is_second = code >= 0xdc00
        && matches!(after, Some(Piece::Char(before)) if (0xd800..0xdc00).contains(&before));
    (!is_second).then_some(code)
}

fn pieces(mut bytes: &[u8]) -> impl Iterator<Item = Piece> {
    let mut after = None;
    std::iter::from_fn(move || {
        after = take(&mut bytes, after);
        after
    })
}

fn push(name: &mut Vec<u8>, code: u32) {
    match char::from_u32(code) {
        Some(c) => name.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        None => name.extend([0xed, 0x80 | (code >> 6 & 0x3f) as u8, 0x80 | (code & 0x3f) as u8]),
    }
}

fn push_byte(name: &mut Vec<u8>, byte: u8) {
    push(name, BASE + u32::from(byte));
}

/// WTF-8 as UTF-16; `None` if it is none.
pub fn to_utf16(bytes: &[u8]) -> Option<Vec<u16>> {
    let mut wide = Vec::with_capacity(bytes.len());
    for piece in pieces(bytes) {
        let Piece::Char(code) = piece else { return None };
        match char::from_u32(code) {
            Some(c) => wide.extend_from_slice(c.encode_utf16(&mut [0; 2])),
            None => wide.push(code as u16),
        }
    }
    Some(wide)
}

/// UTF-16, well formed or not, as WTF-8.
pub fn from_utf16(wide: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(wide.len());
    for unit in char::decode_utf16(wide.iter().copied()) {
        match unit {
            Ok(c) => push(&mut bytes, c.into()),
            Err(e) => push(&mut bytes, e.unpaired_surrogate().into()),
        }
    }
    bytes
}

fn is_forbidden(code: u32) -> bool {
    code < 0x20 || u8::try_from(code).is_ok_and(|b| b"\"*/:<>?\\|".contains(&b))
}

/// `CON`, `nul.txt` and the like, which mean devices in every folder.
fn is_device(name: &[u8]) -> bool {
    let stem = name.split(|b| *b == b'.').next().unwrap_or_default();
    let stem = String::from_utf8_lossy(stem).trim_end_matches(' ').to_ascii_uppercase();
    if matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$") {
        return true;
    }
    let number = stem.strip_prefix("COM").or_else(|| stem.strip_prefix("LPT"));
    number.is_some_and(|n| {
        n.chars().count() == 1 && n.contains(|c: char| c.is_ascii_digit() || "¹²³".contains(c))
    })
}

/// Whether every Windows program can handle a file of this name (WTF-8).
pub fn is_windows_name(name: &[u8]) -> bool {
    let mut last = None;
    for piece in pieces(name) {
        match piece {
            Piece::Char(code) if !is_forbidden(code) => last = Some(code),
            _ => return false,
        }
    }
    !matches!(last, None | Some(0x20 | 0x2e)) && !is_device(name)
}

/// Each byte that stands for itself or is stood for.
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len());
    for piece in pieces(name) {
        match piece {
            Piece::Byte(byte) => bytes.push(byte),
            Piece::Char(code) if BYTES.contains(&code) => bytes.push(code as u8),
            Piece::Char(code) => push(&mut bytes, code),
        }
    }
    bytes
}

fn escape(name: &[u8]) -> Vec<u8> {
    let is_device = is_device(name);
    let mut escaped = Vec::with_capacity(name.len() + 8);
    let mut rest = pieces(name).enumerate().peekable();
    while let Some((i, piece)) = rest.next() {
        let is_last = rest.peek().is_none();
        match piece {
            Piece::Byte(byte) => push_byte(&mut escaped, byte),
            Piece::Char(code)
                if is_forbidden(code)
                    || is_last && matches!(code, 0x20 | 0x2e)
                    || i == 0 && is_device =>
            {
                push_byte(&mut escaped, code as u8);
            }
            // What would be taken for an escape stands for its own three bytes.
            Piece::Char(code) if BYTES.contains(&code) => {
                let mut own = Vec::new();
                push(&mut own, code);
                own.iter().for_each(|byte| push_byte(&mut escaped, *byte));
            }
            Piece::Char(code) => push(&mut escaped, code),
        }
    }
    escaped
}

/// The name (WTF-8) that an entry has on Windows: its own if it can be.
pub fn windows_name(node: &[u8]) -> Vec<u8> {
    // It may be that of another entry, which has to be written so.
    let is_taken = || {
        let other = unescape(node);
        other != node && is_valid_name(&other) && windows_name(&other) == node
    };
    if is_windows_name(node) && !is_taken() { node.to_vec() } else { escape(node) }
}

/// What an entry that has this name (WTF-8) on Windows is called in a snapshot.
pub fn node_name(windows: &[u8]) -> Vec<u8> {
    let node = unescape(windows);
    let is_so = is_valid_name(&node) && windows_name(&node) == windows;
    if is_so { node } else { windows.to_vec() }
}

/// Another spelling, for one of several names that Windows takes for the same: of the
/// characters, those whose bit is set are written as the bytes that they consist of.
/// `None` if there are not so many.
pub fn respelled(windows: &[u8], bits: u64) -> Option<Vec<u8>> {
    let mut left = bits;
    let mut name = Vec::with_capacity(windows.len() + 8);
    for piece in pieces(windows) {
        let Piece::Char(code) = piece else { return None };
        let mut own = Vec::new();
        push(&mut own, code);
        if BYTES.contains(&code) {
            name.extend(own);
            continue;
        }
        match left & 1 {
            0 => name.extend(own),
            _ => own.iter().for_each(|byte| push_byte(&mut name, *byte)),
        }
        left >>= 1;
    }
    (left == 0).then_some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn windows(text: &[u8]) -> String {
        String::from_utf8(windows_name(text)).unwrap()
    }

    #[test]
    fn names_that_windows_can_have_stay() {
        for name in [
            "a",
            "letter.docx",
            "ä ö",
            ".hidden",
            "com",
            "com10",
            "console",
            "a.b.c",
            "~",
            "x\u{e000}",
        ] {
            assert_eq!(windows(name.as_bytes()), name);
        }
    }

    #[test]
    fn others_are_written_with_private_characters() {
        let cases: &[(&[u8], &str)] = &[
            (b"a:b", "a\u{f03a}b"),
            (b"a\\b?", "a\u{f05c}b\u{f03f}"),
            (b"end.", "end\u{f02e}"),
            (b"end..", "end.\u{f02e}"),
            (b"end ", "end\u{f020}"),
            (b"\x01\x7f", "\u{f001}\x7f"),
            (b"con", "\u{f063}on"),
            (b"NUL.tar.gz", "\u{f04e}UL.tar.gz"),
            ("com\u{b9}".as_bytes(), "\u{f063}om\u{b9}"),
            (b"\xff\xfe", "\u{f0ff}\u{f0fe}"),
            (b"\xc3\xa4\xc3", "\u{e4}\u{f0c3}"),
            // It is the name of `a:b` already.
            ("a\u{f03a}b".as_bytes(), "a\u{f0ef}\u{f080}\u{f0ba}b"),
            // It is nothing's name.
            ("a\u{f041}b".as_bytes(), "a\u{f041}b"),
        ];
        for (name, expected) in cases {
            assert_eq!(windows(name), *expected);
            assert_eq!(node_name(expected.as_bytes()), *name);
        }
    }

    #[test]
    fn lone_surrogates_are_kept_and_pairs_are_one_character() {
        let lone = from_utf16(&[0x61, 0xd800, 0x62]);
        assert_eq!(lone, b"a\xed\xa0\x80b");
        assert_eq!(to_utf16(&lone).unwrap(), [0x61, 0xd800, 0x62]);
        assert_eq!(windows_name(&lone), lone);
        assert_eq!(from_utf16(&[0xd83d, 0xde00]), "\u{1f600}".as_bytes());
        assert_eq!(to_utf16(b"\xed\xa0\xbd\xed\xb8\x80"), None);
        assert_eq!(to_utf16(b"\xc0\x80"), None);
    }

    #[test]
    fn respelled_names_differ_and_mean_the_same() {
        assert_eq!(respelled(b"readme", 0).unwrap(), b"readme");
        assert_eq!(respelled(b"readme", 1).unwrap(), "\u{f072}eadme".as_bytes());
        assert_eq!(respelled(b"readme", 33).unwrap(), "\u{f072}eadm\u{f065}".as_bytes());
        assert_eq!(respelled(b"readme", 64), None);
        assert_eq!(respelled("ä".as_bytes(), 1).unwrap(), "\u{f0c3}\u{f0a4}".as_bytes());
        assert_eq!(unescape(&respelled(b"readme", 5).unwrap()), b"readme");
    }

    /// Bytes that are likely to make trouble together.
    fn name() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"a".to_vec()),
            Just(b"con".to_vec()),
            Just(b".".to_vec()),
            Just(b" ".to_vec()),
            Just(b":".to_vec()),
            (0xeffe_u32..0xf102).prop_map(|c| char::from_u32(c).unwrap().to_string().into_bytes()),
            Just("\u{f0ef}\u{f080}\u{f0ba}".as_bytes().to_vec()),
            Just(b"\xed\xa0\xbd".to_vec()),
            Just(b"\xed\xb8\x80".to_vec()),
            any::<u8>().prop_map(|b| vec![b]),
            any::<char>().prop_map(|c| c.to_string().into_bytes()),
        ];
        prop::collection::vec(piece, 1..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn every_name_comes_back(name in name()) {
            prop_assume!(is_valid_name(&name));
            let windows = windows_name(&name);
            prop_assert!(is_windows_name(&windows));
            prop_assert_eq!(node_name(&windows), name);
        }

        #[test]
        fn every_name_of_windows_comes_back(name in name()) {
            let mut possible = b"x".to_vec();
            for piece in pieces(&name) {
                match piece {
                    Piece::Char(code) if !is_forbidden(code) => push(&mut possible, code),
                    _ => possible.push(b'x'),
                }
            }
            possible.push(b'x');
            prop_assert!(is_windows_name(&possible));
            prop_assert_eq!(windows_name(&node_name(&possible)), possible);
        }

        #[test]
        fn utf16_comes_back(wide in prop::collection::vec(any::<u16>(), 0..20)) {
            prop_assert_eq!(to_utf16(&from_utf16(&wide)).unwrap(), wide);
        }
    }
}
