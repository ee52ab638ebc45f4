//! What the service answers when something fails, in words, and what to do then.

use windows_sys::Win32::Foundation::{
    E_ACCESSDENIED, E_NOTIMPL, ERROR_SERVICE_DISABLED, REGDB_E_CLASSNOTREG,
};
use windows_sys::core::HRESULT;

use crate::snapshot::NoSnapshot;

/// A call that failed, and what it answered.
#[derive(Clone, Copy)]
pub(super) struct Failure {
    pub call: &'static str,
    pub result: HRESULT,
}

const fn vss(low: u32) -> HRESULT {
    (0x8004_2300 | low) as HRESULT
}

pub(super) const UNEXPECTED: HRESULT = vss(0x02);
/// Not an answer of the service: we have told it to stop.
pub(super) const CANCELLED: HRESULT = 0x0004_230b;
pub(super) const VOLUME_NOT_SUPPORTED: HRESULT = vss(0x0c);
pub(super) const OBJECT_NOT_FOUND: HRESULT = vss(0x08);
pub(super) const IN_PROGRESS: HRESULT = vss(0x16);
/// This system has no such service.
pub(super) const NOT_THERE: Failure = Failure { call: "vssapi.dll", result: E_NOTIMPL };

const DISABLED: HRESULT = (0x8007_0000 | ERROR_SERVICE_DISABLED) as HRESULT;

/// What an answer means, if that is known.
fn meaning(result: HRESULT) -> Option<&'static str> {
    Some(match result as u32 & 0xffff {
        _ if result == E_ACCESSDENIED => "access is denied",
        _ if result as u32 & 0xffff_0000 != 0x8004_0000 => return None,
        0x2301 => "a call came at the wrong time, which is a bug of tresor",
        0x2302 => "an unexpected error; the event log of Windows says more",
        0x2304 => "the provider of shadow copies is not registered",
        0x2306 => "the provider of shadow copies refused; the event log of Windows says more",
        0x230c | 0x230e => "shadow copies of this volume are not supported",
        0x230f => "the provider of shadow copies failed; the event log of Windows says more",
        0x2312 => "there are too many volumes for one shadow copy",
        0x2313 => "what waits to be written could not be flushed in time; try again in ten minutes",
        0x2314 => "writing could not be held in time; try again in ten minutes",
        0x2316 => "another program is making a shadow copy; try again when it has finished",
        0x2317 => {
            "the volume has as many shadow copies as it can have; `vssadmin delete shadows` removes some"
        }
        0x2318 => "the service for events or for shadow copies isn't running properly",
        0x2319 => "it doesn't respond",
        0x231f => {
            "there is too little room for a shadow copy; `vssadmin list shadowstorage` tells how much it may take"
        }
        0x2327 => "Windows must be restarted first",
        0x2328 | 0x2329 => "transactions could not be held in time",
        0x232c => "the volume lies in a virtual disk that is nested too deeply",
        0x23f0 => "the shadow copy has not all the volumes that it needs",
        0x23f1 => "it is out of memory or other resources",
        0x23f2 => "it took too long to hold its files still",
        0x23f3 => "it would probably not happen again if the backup is repeated",
        0x23f4 => "it would probably happen again; the event log of Windows says more",
        0x2409 => "its state is not known: too many backups are running, or it has none to spare",
        _ => return None,
    })
}

/// `…: the provider refused (0x80042306)`
pub(super) fn describe(result: HRESULT) -> String {
    match meaning(result) {
        Some(meaning) => format!("{meaning} ({result:#010x})"),
        None => format!("error {result:#010x}"),
    }
}

impl From<Failure> for NoSnapshot {
    fn from(failure: Failure) -> Self {
        let Failure { call, result } = failure;
        match result {
            CANCELLED => Self::Stopped,
            E_ACCESSDENIED => Self::Unavailable(
                "a shadow copy takes the rights of an administrator or backup operator; run tresor as such".into(),
            ),
            E_NOTIMPL | REGDB_E_CLASSNOTREG => {
                Self::Unavailable("this system has no Volume Shadow Copy Service".into())
            }
            DISABLED => Self::Unavailable(
                "the Volume Shadow Copy Service is disabled; `sc config vss start= demand` enables it".into(),
            ),
            result => Self::Failed(format!("no shadow copy could be made: {call}: {}", describe(result))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let of = |result| NoSnapshot::from(Failure { call: "DoSnapshotSet", result });
        assert!(matches!(of(E_ACCESSDENIED), NoSnapshot::Unavailable(_)));
        assert!(matches!(of(E_NOTIMPL), NoSnapshot::Unavailable(_)));
        assert!(matches!(of(CANCELLED), NoSnapshot::Stopped));
        let failed = of(vss(0x1f)).to_string();
        assert!(failed.contains("DoSnapshotSet") && failed.contains("0x8004231f"), "{failed}");
    }
}
