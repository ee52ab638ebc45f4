//! Security descriptors: owner, group, who may do what, and what is audited.

use std::fs::File;
use std::io;

use tresor_engine::format::windows::descriptor_len;
use windows_sys::Win32::Foundation::ERROR_INSUFFICIENT_BUFFER;
use windows_sys::Win32::Security::{
    DACL_SECURITY_INFORMATION, GROUP_SECURITY_INFORMATION, GetKernelObjectSecurity,
    OWNER_SECURITY_INFORMATION, SACL_SECURITY_INFORMATION, SE_DACL_AUTO_INHERITED, SE_DACL_PRESENT,
    SE_SACL_AUTO_INHERITED, SE_SACL_PRESENT, SetKernelObjectSecurity,
};

use super::{nt, privileges};

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

fn trimmed(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(len) = descriptor_len(&bytes) {
        bytes.truncate(len);
    }
    bytes
}

/// Sets what this user may set; that he may not give files away is no error.
pub(super) fn write(file: &File, descriptor: &[u8]) -> io::Result<()> {
    if descriptor_len(descriptor).is_none() {
        let message = "the recorded security descriptor is damaged";
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    let mut words: Vec<u64> = Vec::with_capacity(descriptor.len().div_ceil(8));
    for chunk in descriptor.chunks(8) {
        words.push(u64::from_le_bytes(std::array::from_fn(|i| chunk.get(i).copied().unwrap_or(0))));
    }
    let mut control = u16::from_le_bytes([descriptor[2], descriptor[3]]);
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
