//! Shadow copies: the Volume Shadow Copy Service holds volumes still for a backup, together
//! with those that write the files (its *writers*). The order of calls is Microsoft's, see
//! docs/decisions/0010-source-snapshots.md.

mod com;
mod error;
mod metadata;
mod mounted;
mod session;
mod system_state;
mod writers;

pub use system_state::system_state;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::windows::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tresor_engine::source::SourceDir;
use windows_sys::core::GUID;

use super::machine::{self, Machine};
use crate::snapshot::{NoSnapshot, Problem, SourceSnapshot, Wanted};
use error::Failure;
use session::Session;
use writers::Failures;

/// How long another program may take to make its own shadow copies.
const PATIENCE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(1);

/// Makes shadow copies of the volumes that the paths lie on.
pub fn hold_source(wanted: &Wanted) -> Result<Box<dyn SourceSnapshot>, NoSnapshot> {
    super::privileges::take();
    let mut copies = ShadowCopies::new(Session::create()?);
    // If this fails, what there is already is removed with it.
    copies.make(wanted)?;
    Ok(Box::new(copies))
}

/// What has to be undone.
enum Stage {
    Nothing,
    /// Nobody else can make shadow copies until this set is made or given up.
    Started,
    Made(GUID),
}

struct ShadowCopies {
    session: Session,
    stage: Stage,
    devices: BTreeMap<u8, PathBuf>,
    held: Vec<String>,
    not_held: Vec<Problem>,
    failures: Failures,
}

fn volume(letter: u8) -> session::Volume {
    [u16::from(letter), u16::from(b':'), u16::from(b'\\'), 0]
}

fn name(letter: u8) -> String {
    format!("{}:", char::from(letter))
}

/// The drive letters that the paths lie on.
fn letters(paths: &[&[u8]]) -> Vec<u8> {
    let mut all: Vec<u8> = Vec::new();
    for path in paths {
        match path {
            [b'/', letter @ b'A'..=b'Z'] | [b'/', letter @ b'A'..=b'Z', b'/', ..] => {
                all.push(*letter);
            }
            [b'/'] => all.extend(machine::fixed()),
            _ => {}
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

impl ShadowCopies {
    fn new(session: Session) -> Self {
        let (devices, held, not_held) = (BTreeMap::new(), Vec::new(), Vec::new());
        let failures = Failures::default();
        Self { session, stage: Stage::Nothing, devices, held, not_held, failures }
    }

    fn make(&mut self, wanted: &Wanted) -> Result<(), NoSnapshot> {
        let stop = wanted.stop;
        self.session.initialize(wanted.system_state)?;
        self.session.gather_metadata(stop)?;
        let letters = self.supported(letters(wanted.paths))?;
        let message = "is a volume that is mounted in a folder, and no shadow copy of such is made";
        let mounted = mounted::met(wanted).into_iter();
        self.not_held.extend(mounted.map(|what| Problem { what, message: message.into() }));
        if letters.is_empty() {
            let message = "there are no shadow copies of any volume that the paths lie on";
            return Err(NoSnapshot::Unavailable(message.into()));
        }
        let set = self.start(stop)?;
        self.stage = Stage::Started;
        let ids = letters.iter().map(|letter| self.session.add(&volume(*letter)));
        let ids: Vec<GUID> = ids.collect::<Result<_, _>>()?;
        self.session.prepare(stop)?;
        self.failures.add(self.session.writers(stop)?);
        self.session.make(stop)?;
        self.stage = Stage::Made(set);
        self.failures.add(self.session.writers(stop)?);
        for (letter, id) in letters.into_iter().zip(ids) {
            let mut device = self.session.device(id)?;
            device.push(u16::from(b'\\'));
            self.devices.insert(letter, PathBuf::from(OsString::from_wide(&device)));
            self.held.push(name(letter));
        }
        Ok(())
    }

    /// Of these volumes, those that there can be shadow copies of.
    fn supported(&mut self, mut letters: Vec<u8>) -> Result<Vec<u8>, Failure> {
        let mut result = Ok(());
        letters.retain(|letter| {
            let message = match self.session.is_supported(&volume(*letter)) {
                Ok(true) => return true,
                Ok(false) => error::describe(error::VOLUME_NOT_SUPPORTED),
                Err(Failure {
                    result: of @ (error::VOLUME_NOT_SUPPORTED | error::OBJECT_NOT_FOUND),
                    ..
                }) => error::describe(of),
                Err(failure) => {
                    result = Err(failure);
                    return false;
                }
            };
            self.not_held.push(Problem { what: name(*letter), message });
            false
        });
        result.map(|()| letters)
    }

    /// Only one set can be begun at a time on a machine.
    fn start(&self, stop: &dyn Fn() -> bool) -> Result<GUID, Failure> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.session.start_set() {
                Err(Failure { result: error::IN_PROGRESS, call }) if Instant::now() < until => {
                    if stop() {
                        return Err(Failure { call, result: error::CANCELLED });
                    }
                    std::thread::sleep(RETRY);
                }
                started => return started,
            }
        }
    }
}

impl SourceSnapshot for ShadowCopies {
    fn root(&self) -> Arc<dyn SourceDir> {
        Arc::new(Machine { held: self.devices.clone() })
    }

    fn held(&self) -> &[String] {
        &self.held
    }

    fn not_held(&self) -> &[Problem] {
        &self.not_held
    }

    fn finish(mut self: Box<Self>) -> Vec<Problem> {
        let completed = self.session.complete();
        let writers = self.session.writers(&|| false);
        let removed = match std::mem::replace(&mut self.stage, Stage::Nothing) {
            Stage::Made(set) => self.session.delete(set),
            Stage::Nothing | Stage::Started => Ok(()),
        };
        let mut problems = Vec::new();
        let failed = [completed.err(), writers.as_ref().err().copied(), removed.err()];
        for Failure { call, result } in failed.into_iter().flatten() {
            let message = format!("{call} failed: {}", error::describe(result));
            problems.push(Problem { what: "Volume Shadow Copy Service".into(), message });
        }
        self.failures.add(writers.unwrap_or_default());
        problems.extend(std::mem::take(&mut self.failures).into_problems());
        problems
    }
}

impl Drop for ShadowCopies {
    fn drop(&mut self) {
        // What can't be undone is undone by the service when this process has gone.
        let _ = match self.stage {
            Stage::Nothing => Ok(()),
            Stage::Started => self.session.abort(),
            Stage::Made(set) => self.session.abort().and(self.session.delete(set)),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_paths() {
        let paths: [&[u8]; 5] = [b"/D/x", b"/C/Users/Anna", b"/C", b"/UNC/server/share", b"/c/x"];
        assert_eq!(letters(&paths), b"CD");
        assert_eq!(letters(&[b"/"]), machine::fixed().collect::<Vec<_>>());
    }
}
