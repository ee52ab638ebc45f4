//! Noticing that a repository was set back. A client keeps in a file what it has seen, and
//! compares each listing with it. What is missing must have been forgotten: there are
//! records of that ([`forgotten`](super::forgotten)). See docs/decisions/0007.

mod file;
mod state;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

pub use state::Whole;

use self::file::StateFile;
use self::state::{Seen, Sight, State};
use super::forgotten::Evidence;
use super::open::now;
use super::{Repository, Snapshot};
use crate::error::{Error, Result};
use crate::format::{ObjectId, ObjectKind, SnapshotData, Time};

/// Keeping what this client has seen of repositories.
#[derive(Clone)]
pub struct StateOptions {
    /// Where the state files of all repositories are.
    pub folder: PathBuf,
    /// Takes the repository as it is, and forgets what was seen of a newer state.
    pub accept_older: bool,
    /// Called with what is noticed, each thing once.
    pub tell: Arc<dyn Fn(&Notice) + Send + Sync>,
}

impl fmt::Debug for StateOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { folder, accept_older, .. } = self;
        f.debug_struct("StateOptions")
            .field("folder", folder)
            .field("accept", accept_older)
            .finish()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    SetBack(Setback),
    /// It was taken as it is.
    Accepted(Setback),
    /// The state file is of no use and made anew, and why.
    NoState(PathBuf, String),
    /// What is seen can't be kept in the state file, and why.
    NotKept(PathBuf, String),
}

/// Signs that the repository was set back to an older state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setback {
    pub snapshots: Difference,
    pub key_slots: Difference,
    /// Records of what was forgotten that can't be read: they may have told of what is lost.
    pub damaged_records: usize,
    /// When and where nothing was missing.
    pub whole: Option<Whole>,
    /// Where the repository is now.
    pub place: String,
}

/// What is otherwise than it was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Seen, not there, and not removed on purpose; with the times of snapshots, the newest first.
    pub lost: Vec<(ObjectId, Time)>,
    /// Removed on purpose, and there again.
    pub put_back: Vec<ObjectId>,
}

impl Difference {
    pub fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.put_back.is_empty()
    }
}

impl Setback {
    /// How many things are otherwise than they were seen.
    pub fn count(&self) -> usize {
        let parts = [&self.snapshots, &self.key_slots];
        parts.iter().map(|part| part.lost.len() + part.put_back.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.snapshots.is_empty() && self.key_slots.is_empty()
    }

    fn part(&mut self, kind: ObjectKind) -> &mut Difference {
        if kind == ObjectKind::Key { &mut self.key_slots } else { &mut self.snapshots }
    }
}

/// Snapshots that can't have been saved when they say, and when each was seen first, as far as
/// that is known.
pub type OddSnapshots = HashMap<ObjectId, Option<Time>>;

/// Compares listings of one repository with what was seen.
pub(super) struct Watch {
    file: StateFile,
    options: StateOptions,
    watching: Mutex<Watching>,
}

struct Watching {
    state: Arc<State>,
    setback: Setback,
    /// The last listing of snapshots, if there was nothing wrong with it.
    same: Option<HashSet<ObjectId>>,
    /// Whether it was told that the state can't be kept.
    complained: bool,
}

/// What was seen before a listing began: only of that it can be said that it is missing.
pub(super) struct Before(Option<Arc<State>>);

impl Before {
    pub fn of(watch: Option<&Watch>) -> Self {
        Self(watch.map(|watch| watch.lock().state.clone()))
    }
}

impl Watch {
    pub fn new(options: &StateOptions, repository: [u8; 16]) -> Self {
        let file = StateFile::new(&options.folder, repository);
        let loaded = file.load();
        if let Err(reason) = &loaded {
            (options.tell)(&Notice::NoState(file.path().to_owned(), reason.clone()));
        }
        let state = loaded.ok().flatten().unwrap_or_default();
        let watching = Watching {
            state: Arc::new(state),
            setback: Setback::default(),
            same: None,
            complained: false,
        };
        Self { file, options: options.clone(), watching: Mutex::new(watching) }
    }

    fn lock(&self) -> MutexGuard<'_, Watching> {
        self.watching.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Writes down what is new. That it can't be kept is told once, and stops nothing.
    fn take_up(&self, sight: &Sight<'_>) {
        let known = {
            let mut watching = self.lock();
            // The same listing may tell something new from now on.
            watching.same = None;
            watching.state.clone()
        };
        let change = |state: &mut State| state.take_up(sight);
        let mut changed = State::clone(&known);
        change(&mut changed);
        if changed == *known {
            return;
        }
        let updated = self.file.update(&known, &change);
        let mut watching = self.lock();
        match updated {
            Ok(state) => watching.state = Arc::new(state),
            Err(e) => {
                watching.state = Arc::new(changed);
                if !std::mem::replace(&mut watching.complained, true) {
                    drop(watching);
                    let path = self.file.path().to_owned();
                    (self.options.tell)(&Notice::NotKept(path, e.to_string()));
                }
            }
        }
    }

    /// Keeps what was found of one kind, and tells what is new about it.
    fn found(&self, kind: ObjectKind, part: Difference, damaged_records: usize, place: &str) {
        let mut watching = self.lock();
        let mut now = Setback {
            damaged_records,
            whole: watching.state.whole.clone(),
            place: place.to_owned(),
            ..Setback::default()
        };
        *now.part(kind) = part.clone();
        let is_new = *watching.setback.part(kind) != part;
        let accepted = self.options.accept_older;
        if !accepted {
            let Setback { snapshots, key_slots, .. } = std::mem::take(&mut watching.setback);
            watching.setback = Setback { snapshots, key_slots, ..now.clone() };
            *watching.setback.part(kind) = part;
        }
        drop(watching);
        if is_new && !now.is_empty() {
            let notice = if accepted { Notice::Accepted(now) } else { Notice::SetBack(now) };
            (self.options.tell)(&notice);
        }
    }
}

/// A listing compared with what was seen before.
#[derive(Default)]
struct Compared {
    difference: Difference,
    removed: Vec<ObjectId>,
    evidence: Option<Evidence>,
}

impl Repository {
    /// Signs that the repository was set back, as far as has been looked.
    pub fn setback(&self) -> Setback {
        self.watch.as_ref().map(|watch| watch.lock().setback.clone()).unwrap_or_default()
    }

    /// To be asked, after snapshots were listed, before anything is removed that a newer state
    /// may need.
    pub fn refuse_older_state(&self) -> Result<()> {
        if self.setback().is_empty() {
            return Ok(());
        }
        Err(Error::OlderState(self.store().describe()))
    }

    /// Snapshots that can't have been saved when they say.
    pub fn odd_snapshots(&self) -> OddSnapshots {
        let Some(watch) = &self.watch else { return OddSnapshots::new() };
        let state = watch.lock().state.clone();
        state.odd(now())
    }

    /// To be called before a listing that is then given to [`compare`](Self::compare).
    pub(super) fn before(&self) -> Before {
        Before::of(self.watch.as_ref())
    }

    /// Compares a listing with what was seen. Costs no call to the store if nothing is missing.
    pub(super) fn compare(
        &self,
        before: &Before,
        kind: ObjectKind,
        listed: &[ObjectId],
        readable: &[Snapshot],
    ) {
        let (Some(watch), Before(Some(before))) = (&self.watch, before) else { return };
        let listed: HashSet<ObjectId> = listed.iter().copied().collect();
        if kind == ObjectKind::Snapshot && watch.lock().same.as_ref() == Some(&listed) {
            return;
        }
        let now = now();
        let there: Vec<(ObjectId, Seen)> = match kind {
            ObjectKind::Key => listed.iter().map(|id| (*id, Seen::default())).collect(),
            _ => readable.iter().map(|s| (s.id, before.sighted(&s.data, now))).collect(),
        };
        let Compared { difference, removed, evidence } = self.tell_apart(before, kind, &listed);
        let accept = watch.options.accept_older;
        let lost = difference.lost.iter().map(|l| l.0);
        let all: Vec<_> = lost.chain(difference.put_back.iter().copied()).collect();
        let is_whole = kind == ObjectKind::Snapshot
            && (accept || difference.is_empty())
            && watch.lock().setback.key_slots.is_empty();
        let place = self.store().describe();
        watch.take_up(&Sight {
            there,
            removed,
            records: evidence.as_ref(),
            accepted: if accept { &all } else { &[] },
            whole_at: is_whole.then_some(place.as_str()),
            ..Sight::empty(kind, now)
        });
        if kind == ObjectKind::Snapshot {
            // With something left to read, the next listing isn't the same.
            let all_known = difference.is_empty() && readable.len() == listed.len();
            watch.lock().same = all_known.then_some(listed);
        }
        let damaged = evidence.map_or(0, |e| e.damaged.len());
        watch.found(kind, difference, damaged, &place);
    }

    /// Which of what is missing was removed on purpose, and which is lost.
    fn tell_apart(&self, before: &State, kind: ObjectKind, listed: &HashSet<ObjectId>) -> Compared {
        let track = before.track(kind);
        let mut lost = track.missing(listed);
        let mut compared = Compared::default();
        if !lost.is_empty() {
            let evidence = self.evidence(|id| before.records.contains(id));
            compared.settle(kind, evidence, &mut lost);
        }
        if !lost.is_empty() {
            // A folder that changes while it is listed may hide a name. And what was passed over may
            // tell something after all: it was read when this was not there yet.
            let again: HashSet<_> = match self.store().list(kind) {
                Ok(listed) => listed.into_iter().map(|(name, _)| name.id).collect(),
                Err(_) => HashSet::new(),
            };
            lost.retain(|id| !again.contains(id));
            compared.settle(kind, self.evidence(|_| false), &mut lost);
        }
        let time = |id: &ObjectId| track.seen.get(id).map(|s| s.time).unwrap_or_default();
        let mut lost: Vec<_> = lost.into_iter().map(|id| (id, time(&id))).collect();
        lost.sort_unstable_by_key(|(id, time)| (std::cmp::Reverse(*time), *id));
        compared.difference = Difference { lost, put_back: track.put_back(listed) };
        compared
    }

    /// What this client has stored, for good; with its data, if it is a snapshot.
    pub(super) fn stored(&self, kind: ObjectKind, id: ObjectId, data: Option<&SnapshotData>) {
        let Some(watch) = &self.watch else { return };
        let now = now();
        let state = watch.lock().state.clone();
        let there = vec![(id, data.map(|data| state.sighted(data, now)).unwrap_or_default())];
        watch.take_up(&Sight { there, ..Sight::empty(kind, now) });
    }

    /// What this client has removed, for good.
    pub(super) fn removed(&self, kind: ObjectKind, ids: &[ObjectId]) {
        let Some(watch) = &self.watch else { return };
        watch.take_up(&Sight { removed: ids.to_vec(), ..Sight::empty(kind, now()) });
    }
}

impl Compared {
    fn settle(&mut self, kind: ObjectKind, found: Result<Evidence>, lost: &mut Vec<ObjectId>) {
        // What can't be read proves nothing, but must not keep anybody from a restore.
        let evidence = found.unwrap_or_else(|e| Evidence::unreadable(&e));
        let forgotten = evidence.of(kind);
        self.removed.extend(lost.extract_if(.., |id| forgotten.contains(id)));
        self.evidence = Some(evidence);
    }
}
