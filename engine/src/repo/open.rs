//! Making and opening a repository.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::seen::{Before, StateOptions, Watch};
use super::{CONTENT_CACHE, Counters, PAGE_CACHE, Repository, TREE_SEGMENT_CACHE};
use crate::cache::Cache;
use crate::crypto::{KdfCost, Keys, MasterKey, Password, TAG_LEN, without_traces};
use crate::error::{Error, Result};
use crate::format::{
    ChunkSizes, Config, KeySlot, ObjectId, ObjectKind, ObjectName, ParityShare, SlotInfo, Time,
};
use crate::index::Index;
use crate::object;
use crate::parity::{self, Guarded, OnMended};
use crate::store::{Store, StoreErrorKind};

#[derive(Clone, Default)]
pub struct OpenOptions {
    /// Where local caches of all repositories are kept; each gets a folder named
    /// by its id. Without it they are temporary.
    pub cache: Option<PathBuf>,
    /// Without it nothing is kept of what was seen, and nobody notices that a repository
    /// was set back.
    pub state: Option<StateOptions>,
    /// Told of damage that parity makes up for.
    pub on_mended: Option<OnMended>,
}

#[derive(Clone, Debug)]
pub struct InitOptions {
    /// What the first key slot is called.
    pub label: String,
    pub cost: KdfCost,
    /// Whether objects get parity, and how much.
    pub parity: Option<ParityShare>,
    pub chunks: ChunkSizes,
}

impl Repository {
    /// Makes a repository. It exists once its config does, which is written after the key slot; that
    /// is then looked after once more, as another one who makes a repository there may have removed it.
    pub fn init(store: &Store, password: &Password, options: &InitOptions) -> Result<()> {
        let exists = || Error::RepositoryExists(store.describe());
        match store.size(&ObjectName::CONFIG) {
            Ok(_) => return Err(exists()),
            Err(e) if e.is_not_found() => {}
            // What can't be looked at may well be there.
            Err(e) => return Err(e.into()),
        }
        match store.create() {
            // Somebody else was first.
            Err(e) if e.kind == StoreErrorKind::AlreadyExists && has_config(store) => {
                return Err(exists());
            }
            other => other?,
        }
        let keys =
            without_traces(|| MasterKey::generate().map(|master| Box::new(Keys::new(master))))?;
        let now = now();
        let config = Config::new(&keys, now, options.parity, options.chunks)?;
        let (store, _) = guarded(store.clone(), &config, None);
        let config_bytes = encode(&config)?;
        let info = SlotInfo { created: now, label: options.label.clone() };
        let slot = KeySlot::new(&keys, &config.repository, password, options.cost, &info)?;
        let slot = encode(&slot)?;
        let name = ObjectName::new(ObjectKind::Key, ObjectId::of(&slot));
        match object::write(&store, &name, &slot) {
            // Whoever was first has removed it.
            Err(e) if e.is_not_found() && has_config(&store) => {
                // Its parity may have come since.
                remove_slot(&store, &name)?;
                return Err(exists());
            }
            other => other?,
        }
        store.settle()?;
        match object::write(&store, &ObjectName::CONFIG, &config_bytes) {
            // Whoever has stored it has made the repository.
            Err(Error::Store(e)) if e.kind == StoreErrorKind::AlreadyExists => {
                if store.get(&ObjectName::CONFIG)? != config_bytes {
                    remove_slot(&store, &name)?;
                    return Err(exists());
                }
            }
            other => other?,
        }
        // Where names can be taken over, another one may have stored its config since, and
        // removed this slot.
        if store.get(&ObjectName::CONFIG)? != config_bytes {
            remove_slot(&store, &name)?;
            return Err(exists());
        }
        remove_foreign_slots(&store, &config, &name)?;
        object::write(&store, &name, &slot)?;
        Ok(store.settle()?)
    }

    /// Opens a repository with a password.
    pub fn open(store: Store, password: &Password, options: &OpenOptions) -> Result<Arc<Self>> {
        let repo = Self::unlock(store, password, options)?;
        repo.refresh_index()?;
        Ok(repo)
    }

    /// Opens a repository that may have lost folders, and makes them anew; also says which.
    pub fn open_for_repair(
        store: Store,
        password: &Password,
        options: &OpenOptions,
    ) -> Result<(Arc<Self>, Vec<ObjectKind>)> {
        let repo = Self::unlock(store, password, options)?;
        let made = repo.store().make_folders()?;
        repo.refresh_index()?;
        Ok((repo, made))
    }

    /// Without its index.
    fn unlock(store: Store, password: &Password, options: &OpenOptions) -> Result<Arc<Self>> {
        let config = match store.get(&ObjectName::CONFIG) {
            Ok(bytes) => Config::parse(&bytes),
            Err(e) if e.is_not_found() => Err(Error::NoRepository(store.describe())),
            Err(e) => Err(e.into()),
        };
        let opened = config.and_then(|c| Self::open_with(store.clone(), c, password, options));
        // The config has no hash in its name, so damage to it shows in many ways.
        opened.or_else(|error| match mended_config(&store) {
            None => Err(error),
            Some(config) => {
                let repo = Self::open_with(store, config, password, options)?;
                if let Some(guard) = &repo.guard {
                    guard.note_mended(ObjectName::CONFIG);
                }
                Ok(repo)
            }
        })
    }

    fn open_with(
        store: Store,
        config: Config,
        password: &Password,
        options: &OpenOptions,
    ) -> Result<Arc<Self>> {
        let (store, guard) = guarded(store, &config, options.on_mended.clone());
        let watch = options.state.as_ref().map(|state| Watch::new(state, config.repository));
        let before = Before::of(watch.as_ref());
        let slots = store.list(ObjectKind::Key)?;
        let folder: String = config.repository.iter().map(|b| format!("{b:02x}")).collect();
        let cache_folder = options.cache.as_ref().map(|c| c.join(folder));
        let unlocked = || without_traces(|| unlock(&store, &slots, &config.repository, password));
        // The password's hashing takes a while, and the local copy needs no key.
        let (unlocked, index) = std::thread::scope(|scope| {
            let index = scope.spawn(|| Index::new(cache_folder.clone()));
            let unlocked = unlocked();
            (unlocked, index.join().unwrap_or_else(|_| Index::new(None)))
        });
        let (slot, keys) = unlocked?;
        let secret = config.open_secret(&keys)?;
        let repo = Self {
            index,
            refreshed: Mutex::new(Instant::now()),
            tree_pages: Cache::new(PAGE_CACHE),
            content_pages: Cache::new(CONTENT_CACHE),
            tree_segments: Cache::new(TREE_SEGMENT_CACHE),
            snapshots: Default::default(),
            records: Default::default(),
            watch,
            counters: Counters::default(),
            distance: Default::default(),
            store,
            guard,
            keys,
            slot: Mutex::new(slot),
            config,
            secret,
            cache_folder,
        };
        let slots: Vec<_> = slots.into_iter().map(|(name, _)| name.id).collect();
        repo.compare(&before, ObjectKind::Key, &slots, &[]);
        Ok(Arc::new(repo))
    }
}

fn has_config(store: &Store) -> bool {
    store.size(&ObjectName::CONFIG).is_ok()
}

/// Slots that interrupted inits have left, or that are of others who have just come too late:
/// they open nothing here. Never the `own` one, whatever reading it gives.
fn remove_foreign_slots(store: &Store, config: &Config, own: &ObjectName) -> Result<()> {
    let listed = store.list(ObjectKind::Key)?;
    for (name, _) in listed.into_iter().filter(|(name, _)| name != own) {
        let is_foreign = match read_slot(store, &name) {
            Ok(slot) => slot.repository != config.repository,
            Err(e) => e.is_damage() && !e.is_not_found() && !e.is_unreadable_now(),
        };
        if is_foreign {
            remove_slot(store, &name)?;
        }
    }
    Ok(())
}

/// With its parity, if whoever stored it has made some.
fn remove_slot(store: &Store, name: &ObjectName) -> Result<()> {
    store.delete(&name.parity())?;
    Ok(store.delete(name)?)
}

/// The store as the repository's own rules want it to be used.
fn guarded(
    store: Store,
    config: &Config,
    on_mended: Option<OnMended>,
) -> (Store, Option<Arc<Guarded>>) {
    match config.parity_share() {
        None => (store, None),
        Some(share) => {
            let guard = Arc::new(Guarded::new(store, share, on_mended));
            (guard.clone(), Some(guard))
        }
    }
}

/// The config made from its parity, if what lies in the store is damaged.
fn mended_config(store: &Store) -> Option<Config> {
    let whole = parity::mend(store, &ObjectName::CONFIG).ok()?.ok()?;
    Config::parse(&whole.bytes).ok().filter(|_| whole.was_damaged)
}

/// Of slots that can't be read.
const MOST_REASONS: usize = 3;
/// Length of a wrapped master key; a longer one doesn't open.
const WRAPPED: usize = 32 + TAG_LEN;

/// Tries one slot after the other. A slot that can't be read doesn't keep the others from opening.
fn unlock(
    store: &Store,
    slots: &[(ObjectName, u64)],
    repository: &[u8; 16],
    password: &Password,
) -> Result<(ObjectId, Arc<Keys>)> {
    let mut readable = 0;
    let mut unsupported = None;
    let mut unreadable = Vec::new();
    let mut usable = Vec::new();
    for (name, _) in slots {
        let name = *name;
        let mut slot = match read_slot(store, &name) {
            Ok(slot) => slot,
            // Removed meanwhile.
            Err(e) if e.is_not_found() => continue,
            Err(e) => {
                unreadable.push(e.to_string());
                continue;
            }
        };
        readable += 1;
        if slot.kind != KeySlot::PASSWORD {
            unsupported = Some(Error::Unsupported {
                object: name,
                feature: format!("key kind {}", slot.kind),
            });
            continue;
        }
        // What isn't needed here may be long, and the slots many.
        slot.info = Vec::new();
        slot.wrapped.truncate(WRAPPED + 1);
        slot.wrapped.shrink_to_fit();
        usable.push((slot.cost().work(), name, slot));
    }
    // Those that cost least come first: whoever puts slots there that cost more than
    // the right one delays nobody who knows a password.
    usable.sort_unstable_by_key(|(work, name, _)| (*work, *name));
    for (_, name, slot) in usable {
        if let Some(master) = slot.unwrap(repository, password)? {
            return Ok((name.id, Arc::new(Keys::new(master))));
        }
    }
    Err(match unsupported {
        _ if !unreadable.is_empty() => {
            let (place, reasons) = (store.describe(), some_of(unreadable));
            Error::UnreadableSlots { place, reasons, others: readable > 0 }
        }
        _ if readable == 0 => Error::NoKeySlot(store.describe()),
        Some(error) if readable == 1 => error,
        _ => Error::WrongPassword(store.describe()),
    })
}

/// Reasons in one line, and not too many of them.
fn some_of(mut reasons: Vec<String>) -> String {
    let more = reasons.len().saturating_sub(MOST_REASONS);
    reasons.truncate(MOST_REASONS);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    reasons.join("; ") + &more
}

pub(crate) fn read_slot(store: &Store, name: &ObjectName) -> Result<KeySlot> {
    let bytes = object::read(store, name)?;
    minicbor::decode(&bytes).map_err(|e| Error::damaged(*name, format!("it can't be decoded: {e}")))
}

pub(super) fn encode<T: minicbor::Encode<()>>(value: &T) -> Result<Vec<u8>> {
    minicbor::to_vec(value).map_err(|e| Error::Invalid(format!("can't encode: {e}")))
}

/// The clock, as the repository writes it down.
pub fn now() -> Time {
    let now = jiff::Timestamp::now();
    Time::new(now.as_second(), now.subsec_nanosecond().max(0) as u32)
}
