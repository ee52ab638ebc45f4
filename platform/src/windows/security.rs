//! Security descriptors: owner, group, who may do what, and what is audited.

use std::fs::File;
use std::io;

use windows_sys::Win32::Foundation::ERROR_INSUFFICIENT_BUFFER;
use windows_sys::Win32::Security::{
    DACL_SECURITY_INFORMATION, GROUP_SECURITY_INFORMATION, GetKernelObjectSecurity,
    OWNER_SECURITY_INFORMATION, SACL_SECURITY_INFORMATION, SE_DACL_AUTO_INHERITED, SE_DACL_PRESENT,
    SE_SACL_AUTO_INHERITED, SE_SACL_PRESENT, SE_SELF_RELATIVE, SetKernelObjectSecurity,
};

use super::{nt, privileges};

const REVISION: u8 = 1;
const HEAD: usize = 20;
/// Ask the system to keep the marks of what was inherited.
const DACL_AUTO_INHERIT_REQ: u16 = 0x100;
const SACL_AUTO_INHERIT_REQ: u16 = 0x200;

const OWN: u32 = OWNER_SECURITY_INFORMATION | GROUP_SECURITY_INFORMATION;

/// Audit rules are left out unless this user may see them.
pub(crate) fn read(file: &File) -> io::Result<Vec<u8>> {
    let wanted = OWN | DACL_SECURITY_INFORMATION;
    if privileges::may_audit()
        && let Ok(all) = query(file, wanted | SACL_SECURITY_INFORMATION)
    {
        return Ok(all);
    }
    query(file, wanted)
}

fn query(file: &File, wanted: u32) -> io::Result<Vec<u8>> {
    let mut words = vec![0u64; 64];
    loop {
        let (to, len) = (words.as_mut_ptr().cast(), (words.len() * 8) as u32);
        let mut needed = 0;
        // SAFETY: the buffer is as long as we say, and aligned.
        let done = unsafe { GetKernelObjectSecurity(nt::raw(file), wanted, to, len, &mut needed) };
        if done != 0 {
            let bytes = words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
            return Ok(trimmed(bytes));
        }
        let error = io::Error::last_os_error();
        let is_short = error.raw_os_error() == Some(ERROR_INSUFFICIENT_BUFFER as i32);
        if !is_short || needed <= len {
            return Err(error);
        }
        words.resize((needed as usize).div_ceil(8), 0);
    }
}

fn number16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn number32(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize)
}

/// Where a part of the descriptor ends, if it is whole and lies within the bytes.
fn end(bytes: &[u8], field: usize, is_list: bool) -> Option<usize> {
    let at = number32(bytes, field)?;
    if at == 0 {
        return Some(HEAD);
    }
    let part = bytes.get(at..).filter(|_| at >= HEAD)?;
    let len = if is_list {
        usize::from(number16(part, 2)?).max(8)
    } else {
        8 + 4 * usize::from(*part.get(1).filter(|count| **count <= 15)?)
    };
    part.get(..len).map(|_| at + len)
}

/// How long a self-relative descriptor is; `None` if it is none.
fn length(bytes: &[u8]) -> Option<usize> {
    let control = number16(bytes, 2)?;
    if bytes[0] != REVISION || control & SE_SELF_RELATIVE == 0 || bytes.len() < HEAD {
        return None;
    }
    let owners = end(bytes, 4, false)?.max(end(bytes, 8, false)?);
    Some(owners.max(end(bytes, 12, true)?).max(end(bytes, 16, true)?))
}

fn trimmed(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(len) = length(&bytes) {
        bytes.truncate(len);
    }
    bytes
}

/// Sets what this user may set; that he may not give files away is no error.
pub(super) fn write(file: &File, descriptor: &[u8]) -> io::Result<()> {
    if length(descriptor).is_none() {
        let message = "the recorded security descriptor is damaged";
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    let mut words: Vec<u64> = Vec::with_capacity(descriptor.len().div_ceil(8));
    for chunk in descriptor.chunks(8) {
        words.push(u64::from_le_bytes(std::array::from_fn(|i| chunk.get(i).copied().unwrap_or(0))));
    }
    let mut control = number16(descriptor, 2).unwrap_or_default();
    for (inherited, ask) in [
        (SE_DACL_AUTO_INHERITED, DACL_AUTO_INHERIT_REQ),
        (SE_SACL_AUTO_INHERITED, SACL_AUTO_INHERIT_REQ),
    ] {
        control |= if control & inherited != 0 { ask } else { 0 };
    }
    words[0] = words[0] & !0xffff_0000 | u64::from(control) << 16;
    let set = |what: u32| {
        let from = words.as_ptr().cast_mut().cast();
        // SAFETY: every part of the descriptor was found to lie within it, and the system
        // only reads it, whatever the type says.
        let done = unsafe { SetKernelObjectSecurity(nt::raw(file), what, from) };
        if done == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    let owner = set(OWN);
    if privileges::may_give_away() {
        owner?;
    }
    if control & SE_DACL_PRESENT != 0 {
        set(DACL_SECURITY_INFORMATION)?;
    }
    if control & SE_SACL_PRESENT != 0 && privileges::may_audit() {
        set(SACL_SECURITY_INFORMATION)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_that_lead_outside_are_refused() {
        let mut bytes = vec![1, 0, 4, 0x80];
        bytes.extend([20u32, 0, 0, 32].iter().flat_map(|n| n.to_le_bytes()));
        // S-1-1-0, and an empty list.
        bytes.extend([1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 2, 0, 8, 0, 0, 0, 0, 0]);
        assert_eq!(length(&bytes), Some(40));
        for len in 0..bytes.len() {
            assert_eq!(length(&bytes[..len]), None, "{len}");
        }
        for at in [4, 8, 12, 16] {
            let mut bad = bytes.clone();
            bad[at] = 39;
            assert_eq!(length(&bad), None, "{at}");
        }
    }
}
