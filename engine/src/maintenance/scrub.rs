//! Scrub: are all objects what their names say? Needs no key, so whoever keeps a
//! repository for others can look for rot.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use super::workers::{for_each, reason, stops};
use crate::error::{Error, Result};
use crate::format::{Config, KeySlot, ObjectId, ObjectKind, ObjectName, ParityShare};
use crate::monitor::Monitor;
use crate::object::ALTERED;
use crate::parity::{self, Unmendable, Whole};
use crate::repo::read_slot;
use crate::store::{Store, StoreError};

#[derive(Clone, Debug, Default)]
pub struct ScrubReport {
    pub objects: u64,
    pub bytes: u64,
    /// Sorted by object.
    pub problems: Vec<ScrubProblem>,
    /// How much parity this repository's objects have, if they do.
    pub parity: Option<ParityShare>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScrubProblem {
    /// Path of the object, relative to the repository.
    pub object: String,
    pub message: String,
    pub cure: Cure,
}

/// What helps against a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cure {
    /// Nothing that is in the repository.
    None,
    /// This object is damaged, and its parity suffices to mend it.
    Mend(ObjectName),
    /// The parity of this object is damaged or missing, and can be made anew once that is whole.
    NewParity(ObjectName),
}

/// Objects are read in pieces.
const PIECE: u64 = 4 << 20;

/// Reads every object and compares its hash with its name. What is missing can't be
/// seen from here, only that a whole folder or the config is.
pub fn scrub(store: &Store, monitor: &dyn Monitor) -> Result<ScrubReport> {
    monitor.phase("reading objects");
    let mut report = ScrubReport::default();
    let (config, of_config) = check_config(store, &mut report)?;
    let mut objects = Vec::new();
    let mut folders = 0;
    // Before the others: an object is stored before its parity.
    let mut parity = match report.parity {
        Some(_) => store.list(ObjectKind::Parity)?,
        None => Vec::new(),
    };
    let others = [ObjectKind::Config, ObjectKind::Parity];
    for kind in ObjectKind::ALL.into_iter().filter(|kind| !others.contains(kind)) {
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
    let mut of: HashMap<_, _> = objects.iter().map(|(name, _)| (name.id, *name)).collect();
    of.insert(ObjectName::CONFIG.id, ObjectName::CONFIG);
    // Of what was deleted.
    parity.retain(|(name, _)| of.contains_key(&name.id));
    let has_parity: HashSet<_> = parity.iter().map(|(name, _)| name.id).collect();
    objects.extend(parity);
    monitor.progress().expect(objects.len() as u64, objects.iter().map(|o| o.1).sum());
    let mut report = check_objects(store, &objects, report, (&of, of_config), monitor)?;
    if report.parity.is_some() {
        let bare = of.into_values().filter(|name| !has_parity.contains(&name.id));
        find_unprotected(store, bare, &mut report)?;
    }
    if of_config.is_none() {
        report.keep_parity_of_config();
    }
    report.problems.sort();
    Ok(report)
}

impl ScrubReport {
    fn add(&mut self, object: &str, message: impl Into<String>) {
        self.push(object, message.into(), Cure::None);
    }

    fn push(&mut self, object: &str, message: String, cure: Cure) {
        self.problems.push(ScrubProblem { object: object.to_owned(), message, cure });
    }

    /// Parity isn't made of a config that may be wrong: the parity there is may be what is right.
    fn keep_parity_of_config(&mut self) {
        if self.problems.iter().any(|p| p.cure == Cure::Mend(ObjectName::CONFIG)) {
            return;
        }
        let made = Cure::NewParity(ObjectName::CONFIG);
        self.problems.iter_mut().filter(|p| p.cure == made).for_each(|p| p.cure = Cure::None);
    }

    /// Enters a damaged object; tries what its parity can do about it.
    fn add_damaged(&mut self, store: &Store, name: &ObjectName, message: String) {
        if self.parity.is_none() {
            return self.add(&name.path(), message);
        }
        match parity::mend(store, name) {
            Ok(Ok(Whole { was_damaged: true, .. })) => {
                let message = format!("{message}; its parity can mend it");
                self.push(&name.path(), message, Cure::Mend(*name));
            }
            // It was a moment ago.
            Ok(Ok(_)) => self.add(&name.path(), message),
            Ok(Err(why)) => self.add(&name.path(), format!("{message}; {why}")),
            Err(e) => self.add(&name.path(), format!("{message}; {e}")),
        }
    }
}

/// What a config's parity says of it.
enum ByParity {
    /// Nothing against it; perhaps there is none.
    Nothing,
    /// It must be this one.
    Other(Config),
    /// The parity is of something else: of another object, or of another repository's config.
    Foreign,
    /// It and the parity are of different repositories, and no key slot tells which one this is.
    Undecided,
    /// Its bytes are not those that the parity is of, and there is too little left to make them.
    Doubtful,
}

impl ByParity {
    fn of(store: &Store, there: Option<&Config>) -> Result<Self> {
        let whole = match parity::mend(store, &ObjectName::CONFIG)? {
            Err(Unmendable::NoParity) => return Ok(Self::Nothing),
            Err(Unmendable::TooMuch { .. } | Unmendable::Wrong) => return Ok(Self::Doubtful),
            Ok(whole) if !whole.was_damaged => return Ok(Self::Nothing),
            Ok(whole) => whole,
        };
        let Ok(config) = Config::parse(&whole.bytes) else { return Ok(Self::Foreign) };
        // Without a slot that can tell, what nothing contradicts is right.
        let known = repository_of_slots(store)?;
        let told = known.or(there.map(|there| there.repository));
        Ok(match told.is_none_or(|told| told == config.repository) {
            true => Self::Other(config),
            false if known.is_some() => Self::Foreign,
            false => Self::Undecided,
        })
    }
}

/// The repository that key slots are of; also damaged ones, if parity makes up for that: they may
/// be all there are, and what is told from here decides which config is thrown away.
fn repository_of_slots(store: &Store) -> Result<Option<[u8; 16]>> {
    let slots = match store.list(ObjectKind::Key) {
        Err(e) if e.is_not_found() => Vec::new(),
        other => other?,
    };
    for (name, _) in slots {
        let slot = match read_slot(store, &name) {
            Ok(slot) => Some(slot),
            Err(e) if stops(&e) => return Err(e),
            Err(_) => {
                let whole = parity::mend(store, &name)?.ok();
                whole.and_then(|whole| minicbor::decode::<KeySlot>(&whole.bytes).ok())
            }
        };
        if let Some(slot) = slot {
            return Ok(Some(slot.repository));
        }
    }
    Ok(None)
}

/// The config has no hash in its name: without parity only its plain part can be looked
/// at. Also tells of which bytes its parity must be, if that is known.
fn check_config(store: &Store, report: &mut ScrubReport) -> Result<(bool, Option<ObjectId>)> {
    let name = ObjectName::CONFIG;
    let bytes = match store.get(&name) {
        Ok(bytes) => Ok(bytes),
        Err(e) if e.is_not_found() => {
            Err(Error::damaged(name, "it is missing, so nobody can open the repository"))
        }
        Err(e) => {
            report.objects += 1;
            Err(e.into())
        }
    };
    let hash = bytes.as_ref().ok().map(|bytes| {
        report.objects += 1;
        report.bytes += bytes.len() as u64;
        ObjectId::of(bytes)
    });
    let there = report.objects > 0;
    let parsed = bytes.and_then(|bytes| Config::parse(&bytes));
    let by_parity = ByParity::of(store, parsed.as_ref().ok())?;
    let right = match &by_parity {
        ByParity::Other(config) => Some(config),
        _ => parsed.as_ref().ok(),
    };
    report.parity = right.and_then(Config::parity_share);
    match (parsed, by_parity) {
        (Err(e), _) if stops(&e) => return Err(e),
        (Ok(_), ByParity::Nothing | ByParity::Foreign) => return Ok((there, hash)),
        (Ok(_), ByParity::Undecided) => report.add(
            "config",
            "it and its parity are of different repositories, and no key slot that can be read tells which is right: put config and keys/ back from another copy",
        ),
        (Ok(_), _) => {
            report.add_damaged(store, &name, "its bytes are not what its parity says".into());
        }
        (Err(e), ByParity::Foreign) => {
            report.add("config", format!("{}; its parity is of something else", reason(e)));
        }
        (Err(e), _) => report.add_damaged(store, &name, reason(e)),
    }
    Ok((there, None))
}

fn check_objects(
    store: &Store,
    objects: &[(ObjectName, u64)],
    report: ScrubReport,
    (of, of_config): (&HashMap<ObjectId, ObjectName>, Option<ObjectId>),
    monitor: &dyn Monitor,
) -> Result<ScrubReport> {
    let found = Mutex::new(report);
    // Parity is read whole.
    let bytes = |(name, size): &(ObjectName, u64)| match name.kind {
        ObjectKind::Parity => *size,
        _ => PIECE.min(*size),
    };
    for_each(objects, bytes, |(name, size)| {
        monitor.progress().check()?;
        let outcome = match name.kind {
            ObjectKind::Parity => {
                let is_config = name.id == ObjectName::CONFIG.id;
                let object = if is_config { of_config } else { Some(name.id) };
                check_parity(store, name, object, *size, monitor)
            }
            _ => check_object(store, name, *size, monitor),
        };
        let mut report = found.lock().unwrap_or_else(|e| e.into_inner());
        match outcome {
            Err(e) if stops(&e) => return Err(e),
            // Deleted meanwhile.
            Err(e) if e.is_not_found() => {}
            outcome => {
                report.objects += 1;
                report.bytes += size;
                match (outcome, of.get(&name.id)) {
                    (Ok(()), _) => {}
                    (Err(e), Some(object)) if name.kind == ObjectKind::Parity => {
                        report.push(&name.path(), reason(e), Cure::NewParity(*object));
                    }
                    (Err(e), _) => report.add_damaged(store, name, reason(e)),
                }
            }
        }
        monitor.progress().add(1, 0);
        Ok(())
    })?;
    Ok(found.into_inner().unwrap_or_else(|e| e.into_inner()))
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
    Err(Error::damaged(*name, ALTERED))
}

/// `object`: of which it must be, if that is known.
fn check_parity(
    store: &Store,
    name: &ObjectName,
    object: Option<ObjectId>,
    size: u64,
    monitor: &dyn Monitor,
) -> Result<()> {
    let bytes = store.get(name)?;
    monitor.progress().add(0, size);
    parity::verify(&bytes, object).map_err(|message| Error::damaged(*name, message))
}

/// Objects without parity, but for those that have just been stored or deleted.
fn find_unprotected(
    store: &Store,
    objects: impl Iterator<Item = ObjectName>,
    report: &mut ScrubReport,
) -> Result<()> {
    let is_there = |name: &ObjectName| match store.size(name) {
        Err(e) if e.is_not_found() => Ok(false),
        other => other.map(|_| true),
    };
    for name in objects {
        // In this order: a running backup stores the object first.
        if is_there(&name)? && !is_there(&name.parity())? {
            report.push(&name.path(), "it has no parity".into(), Cure::NewParity(name));
        }
    }
    Ok(())
}
