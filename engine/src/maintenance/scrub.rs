//! Scrub: are all objects what their names say? Needs no key, so whoever keeps a
//! repository for others can look for rot.

use std::sync::Mutex;

use super::workers::{for_each, reason, stops};
use crate::error::{Error, Result};
use crate::format::{Config, ObjectKind, ObjectName};
use crate::monitor::Monitor;
use crate::store::{Store, StoreError};

#[derive(Clone, Debug, Default)]
pub struct ScrubReport {
    pub objects: u64,
    pub bytes: u64,
    /// Sorted by object.
    pub problems: Vec<ScrubProblem>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScrubProblem {
    /// Path of the object, relative to the repository.
    pub object: String,
    pub message: String,
}

/// Objects are read in pieces.
const PIECE: u64 = 4 << 20;

/// Reads every object and compares its hash with its name. What is missing can't be
/// seen from here, only that a whole folder or the config is.
pub fn scrub(store: &Store, monitor: &dyn Monitor) -> Result<ScrubReport> {
    monitor.phase("reading objects");
    let mut report = ScrubReport::default();
    let config = check_config(store, &mut report)?;
    let mut objects = Vec::new();
    let mut folders = 0;
    let kinds = ObjectKind::ALL.into_iter().filter(|kind| *kind != ObjectKind::Config);
    for kind in kinds {
        match store.list(kind) {
            Ok(listed) => {
                folders += 1;
                if kind == ObjectKind::Key && listed.is_empty() {
                    report.add("keys", "there is no key slot, so nobody can open the repository");
                }
                objects.extend(listed);
            }
            Err(e) if e.is_not_found() => report.add(kind.folder(), "the folder is missing"),
            Err(e) => return Err(e.into()),
        }
    }
    if !config && (folders == 0 || objects.is_empty()) {
        return Err(Error::NoRepository(store.describe()));
    }
    monitor.progress().expect(objects.len() as u64, objects.iter().map(|o| o.1).sum());
    let found = Mutex::new(report);
    for_each(&objects, |(name, size)| {
        monitor.progress().check()?;
        let outcome = check_object(store, name, *size, monitor);
        let mut report = found.lock().unwrap_or_else(|e| e.into_inner());
        match outcome {
            Err(e) if stops(&e) => return Err(e),
            // Deleted meanwhile.
            Err(e) if e.is_not_found() => {}
            outcome => {
                report.objects += 1;
                report.bytes += size;
                if let Err(e) = outcome {
                    report.add(&name.path(), reason(e));
                }
            }
        }
        monitor.progress().add(1, 0);
        Ok(())
    })?;
    let mut report = found.into_inner().unwrap_or_else(|e| e.into_inner());
    report.problems.sort();
    Ok(report)
}

impl ScrubReport {
    fn add(&mut self, object: &str, message: impl Into<String>) {
        self.problems.push(ScrubProblem { object: object.to_owned(), message: message.into() });
    }
}

/// The config has no hash in its name: only its plain part can be looked at. False
/// if it isn't there.
fn check_config(store: &Store, report: &mut ScrubReport) -> Result<bool> {
    let error = match store.get(&ObjectName::CONFIG) {
        Ok(bytes) => {
            report.objects += 1;
            report.bytes += bytes.len() as u64;
            match Config::parse(&bytes) {
                Ok(_) => return Ok(true),
                Err(e) => e,
            }
        }
        Err(e) if e.is_not_found() => {
            report.add("config", "it is missing, so nobody can open the repository");
            return Ok(false);
        }
        Err(e) => e.into(),
    };
    if stops(&error) {
        return Err(error);
    }
    report.add("config", reason(error));
    Ok(true)
}

fn check_object(store: &Store, name: &ObjectName, size: u64, monitor: &dyn Monitor) -> Result<()> {
    if size > name.kind.max_len() {
        return Err(StoreError::too_long(name.path(), name.kind, size).into());
    }
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    while at < size {
        monitor.progress().check()?;
        let len = PIECE.min(size - at);
        hasher.update(&store.get_range(name, at, len as usize)?);
        monitor.progress().add(0, len);
        at += len;
    }
    if hasher.finalize().as_bytes() == &name.id.0 {
        return Ok(());
    }
    Err(Error::damaged(*name, "its bytes are not what its name says"))
}
