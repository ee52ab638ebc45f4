//! Who may use a drive: the user who mounted it, the system and administrators; with
//! `--allow-other` everybody, each to what the recorded security descriptors allow.

use std::io;
use std::ptr::{null, null_mut};

use windows_sys::Win32::Foundation::{CloseHandle, HANDLE};
use windows_sys::Win32::Security::{
    GetLengthSid, GetTokenInformation, LookupAccountNameW, TOKEN_ELEVATION_TYPE, TOKEN_QUERY,
    TOKEN_USER, TokenElevationType, TokenElevationTypeFull, TokenUser,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

/// Self-relative, with a list of rights that nothing is inherited into.
const CONTROL: u16 = 0x8000 | 0x1000 | 0x0004;
const ALL: u32 = 0x001f_01ff;
/// What reading and opening folders takes.
const READ: u32 = 0x0012_00a9;
/// S-1-5-18, S-1-5-32-544 and S-1-1-0.
const SYSTEM: &[u8] = &[1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0];
const ADMINISTRATORS: &[u8] = &[1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 32, 2, 0, 0];
const EVERYBODY: &[u8] = &[1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];

/// Security descriptors.
pub(super) struct Rights {
    /// Of everything, or of what has none recorded. It lets the user, and the reader if there
    /// is one, write, too: what they are to be told is that the drive is read-only, not that
    /// they lack rights.
    pub own: Vec<u8>,
    /// If recorded ones count: that of the folders above snapshots, and of their roots.
    pub of_folders: Option<Vec<u8>>,
}

impl Rights {
    pub fn new(reader: Option<&str>, allow_other: bool) -> io::Result<Self> {
        let (user, reader) = (current_user()?, reader.map(number_of).transpose()?);
        let all = |sid| (sid, ALL);
        let mut entries = vec![all(user.as_slice()), all(SYSTEM), all(ADMINISTRATORS)];
        entries.extend(reader.as_deref().map(all));
        let own = descriptor(&user, &entries);
        entries.push((EVERYBODY, READ));
        let of_folders = allow_other.then(|| descriptor(&user, &entries));
        Ok(Self { own, of_folders })
    }
}

fn descriptor(user: &[u8], allowed: &[(&[u8], u32)]) -> Vec<u8> {
    let mut entries = Vec::new();
    for (sid, rights) in allowed {
        entries.extend([0, 0]);
        entries.extend((8 + sid.len() as u16).to_le_bytes());
        entries.extend(rights.to_le_bytes());
        entries.extend(*sid);
    }
    let head = 20u32;
    let group = head + user.len() as u32;
    let list = group + ADMINISTRATORS.len() as u32;
    let mut bytes = vec![1, 0];
    bytes.extend(CONTROL.to_le_bytes());
    bytes.extend([head, group, 0, list].iter().flat_map(|at| at.to_le_bytes()));
    bytes.extend(user);
    bytes.extend(ADMINISTRATORS);
    bytes.extend([2, 0]);
    bytes.extend((8 + entries.len() as u16).to_le_bytes());
    bytes.extend([allowed.len() as u8, 0, 0, 0]);
    bytes.extend(entries);
    bytes
}

/// The number of a user, who may be told by number already.
fn number_of(user: &str) -> io::Result<Vec<u8>> {
    if let Some(number) = parse(user) {
        return Ok(number);
    }
    let name: Vec<u16> = user.encode_utf16().chain([0]).collect();
    // As long as a number, and the name of a domain, can be.
    let (mut sid, mut domain) = ([0u8; 256], [0u16; 512]);
    let (mut sid_len, mut domain_len) = (sid.len() as u32, domain.len() as u32);
    let mut kind = 0;
    // SAFETY: the name ends with a zero, and the buffers are as long as we say.
    let done = unsafe {
        LookupAccountNameW(
            null(),
            name.as_ptr(),
            sid.as_mut_ptr().cast(),
            &mut sid_len,
            domain.as_mut_ptr(),
            &mut domain_len,
            &mut kind,
        )
    };
    if done == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(sid[..8 + 4 * usize::from(sid[1])].to_vec())
}

/// `S-1-5-21-…`
fn parse(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.strip_prefix("S-1-")?.split('-');
    let authority = parts.next()?.parse::<u64>().ok().filter(|n| *n < 1 << 48)?;
    let rest = parts.map(|part| part.parse::<u32>().ok()).collect::<Option<Vec<u32>>>()?;
    let count = u8::try_from(rest.len()).ok().filter(|count| (1..=15).contains(count))?;
    let mut sid = vec![1, count];
    sid.extend(&authority.to_be_bytes()[2..]);
    sid.extend(rest.iter().flat_map(|part| part.to_le_bytes()));
    Some(sid)
}

fn current_user() -> io::Result<Vec<u8>> {
    with_token(user_of)
}

/// Whether this user has another token that isn't an administrator's, with which Explorer runs.
pub(super) fn is_elevated() -> bool {
    with_token(elevation_of).is_ok_and(|kind| kind == TokenElevationTypeFull)
}

fn with_token<T>(ask: impl FnOnce(HANDLE) -> io::Result<T>) -> io::Result<T> {
    let mut token = null_mut();
    // SAFETY: the place for the handle lives, and the handle is closed.
    unsafe {
        if OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &mut token) == 0 {
            return Err(io::Error::last_os_error());
        }
        let answer = ask(token);
        CloseHandle(token);
        answer
    }
}

fn elevation_of(token: HANDLE) -> io::Result<TOKEN_ELEVATION_TYPE> {
    let mut kind: TOKEN_ELEVATION_TYPE = 0;
    let (to, len) = ((&raw mut kind).cast(), size_of_val(&kind) as u32);
    let mut filled = 0;
    // SAFETY: the place for the answer is as long as we say.
    match unsafe { GetTokenInformation(token, TokenElevationType, to, len, &mut filled) } {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(kind),
    }
}

fn user_of(token: HANDLE) -> io::Result<Vec<u8>> {
    // As long as a user's number can be, and aligned.
    let mut buffer = [0u64; 32];
    let (to, len) = (buffer.as_mut_ptr().cast(), size_of_val(&buffer) as u32);
    let mut filled = 0;
    // SAFETY: the buffer is as long as we say; the system points into it.
    unsafe {
        if GetTokenInformation(token, TokenUser, to, len, &mut filled) == 0 {
            return Err(io::Error::last_os_error());
        }
        let sid = (*buffer.as_ptr().cast::<TOKEN_USER>()).User.Sid;
        let bytes = std::slice::from_raw_parts(sid.cast::<u8>(), GetLengthSid(sid) as usize);
        Ok(bytes.to_vec())
    }
}
