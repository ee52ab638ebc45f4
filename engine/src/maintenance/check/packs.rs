//! The packs themselves: are they there, and whole?

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use super::parity::{lengths, problem_of_parity};
use super::{CheckOptions, CheckProblem, CheckReport, View};
use crate::error::{Error, Result};
use crate::format::{ObjectId, ObjectKind, ObjectName, PackEntry};
use crate::maintenance::tables::Tables;
use crate::maintenance::workers::{for_each, reason, stops};
use crate::monitor::Monitor;
use crate::pack::verify_pack;
use crate::repo::Repository;

/// Which packs to read when not all of them shall be; of those that came late enough, if
/// only these are looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Subset {
    /// So many of a hundred, chosen at random.
    Percent(f64),
    /// The part `part` (1 is the first) of `of`: whoever reads one part after the other
    /// has read all that was there throughout.
    Part { part: u64, of: u64 },
    /// About so many bytes, chosen at random.
    Bytes(u64),
}

impl Subset {
    /// Leaves the chosen packs. Names of packs are random: those after a random one are
    /// a random choice, and those of a certain remainder too.
    fn choose(self, packs: &mut Vec<(ObjectId, u64)>) -> Result<()> {
        if let Self::Part { part, of } = self {
            let number =
                |id: &ObjectId| id.0[..8].iter().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
            packs.retain(|(id, _)| number(id) % of.max(1) + 1 == part);
            return Ok(());
        }
        let start = usize::from_le_bytes(crate::crypto::random()?) % packs.len().max(1);
        packs.rotate_left(start);
        let count = match self {
            Self::Part { .. } => packs.len(),
            Self::Percent(percent) => (packs.len() as f64 * percent / 100.0).ceil() as usize,
            Self::Bytes(mut left) => {
                let mut count = 0;
                while left > 0 && count < packs.len() {
                    left = left.saturating_sub(packs[count].1);
                    count += 1;
                }
                count
            }
        };
        packs.truncate(count);
        Ok(())
    }
}

/// What was found out by reading packs.
#[derive(Default)]
pub(super) struct PacksRead {
    pub damaged: HashMap<ObjectId, String>,
    /// Of those that are whole.
    pub tables: Tables,
    pub bytes: u64,
    /// Whether packs were read, some or all.
    pub any: bool,
    /// Packs whose parity is damaged.
    pub bad_parity: HashSet<ObjectId>,
}

const CONTRADICTED: &str =
    "the index is wrong about it (`tresor repair index --read-all-packs` corrects that)";

/// Compares the index with the packs in the store; returns the ones that are wrong.
pub(super) fn check_packs(
    repo: &Repository,
    view: &View,
    read: &PacksRead,
    report: &mut CheckReport,
) -> Result<HashSet<ObjectId>> {
    let mut bad = HashSet::new();
    // The index may have changed since they were read; the tables have not.
    let contradicted = read.tables.contradicted(repo)?;
    for pack in view.packs.iter() {
        report.packs += 1;
        let problem = match view.listed.get(&pack.id) {
            // As all that is read with the help of parity, it is told of elsewhere.
            Some(size) if *size != pack.size && is_mended(repo, &pack.id) => None,
            Some(size) if *size != pack.size => {
                Some(format!("it is {size} bytes long and must be {}", pack.size))
            }
            Some(_) if contradicted.contains(&pack.id) => Some(CONTRADICTED.to_owned()),
            Some(_) => read.damaged.get(&pack.id).cloned(),
            None => Some("it is missing".to_owned()),
        };
        let Some(message) = problem else { continue };
        bad.insert(pack.id);
        // Prune deletes marked packs before it can say so.
        if pack.marked == 0 || view.listed.contains_key(&pack.id) {
            let name = ObjectName::new(ObjectKind::Pack, pack.id);
            report.problems.push(CheckProblem::new(name, message));
        }
    }
    report.problems.sort_by(|a, b| a.object.cmp(&b.object));
    let unused = view.listed.keys().filter(|id| view.packs.get(id).is_none());
    report.unused_packs = unused.count() as u64;
    Ok(bad)
}

fn is_mended(repo: &Repository, id: &ObjectId) -> bool {
    repo.store().mended(&ObjectName::new(ObjectKind::Pack, *id)).is_some()
}

/// Reads packs, checks every blob in them, and their parity.
pub(super) fn read_packs(
    repo: &Arc<Repository>,
    options: &CheckOptions,
    view: &View,
    monitor: &dyn Monitor,
) -> Result<PacksRead> {
    let there = view.packs.iter().filter(|p| view.listed.get(&p.id) == Some(&p.size));
    let wanted = there.filter(|p| view.wants(ObjectKind::Pack, p.id));
    let packs: BTreeMap<ObjectId, u64> = wanted.map(|p| (p.id, p.size)).collect();
    let mut packs: Vec<_> = packs.into_iter().collect();
    if let Some(subset) = options.subset.filter(|_| !options.read_data) {
        subset.choose(&mut packs)?;
    }
    let parity = match repo.guard() {
        Some(_) => lengths(repo.store())?,
        None => HashMap::new(),
    };
    let parity_of = |id: &ObjectId| parity.get(id).copied().unwrap_or(0);
    let bytes = packs.iter().map(|(id, size)| size + parity_of(id)).sum();
    monitor.progress().expect(packs.len() as u64, bytes);
    let found = Mutex::new(PacksRead { any: true, ..PacksRead::default() });
    // A pack is let go of before its parity is read.
    let room = |(id, size): &(ObjectId, u64)| (*size).max(parity_of(id));
    for_each(&packs, room, |(id, size)| {
        monitor.progress().check()?;
        let table = read_pack(repo, id);
        let parity_len = parity_of(id);
        let name = ObjectName::new(ObjectKind::Pack, *id);
        let has_bad_parity =
            parity_len > 0 && problem_of_parity(repo.store(), &name, Some(*id))?.is_some();
        let mut found = found.lock().unwrap_or_else(|e| e.into_inner());
        found.bytes += parity_len;
        if has_bad_parity {
            found.bad_parity.insert(*id);
        }
        match table {
            Ok(table) => {
                found.bytes += size;
                found.tables.insert(&table);
            }
            Err(e) if stops(&e) => return Err(e),
            // Deleted meanwhile, or it will be missed.
            Err(Error::Store(e)) if e.is_not_found() => {}
            Err(e) => {
                found.bytes += size;
                found.damaged.insert(*id, reason(e));
            }
        }
        monitor.progress().add(1, size + parity_len);
        Ok(())
    })?;
    Ok(found.into_inner().unwrap_or_else(|e| e.into_inner()))
}

/// Checks a pack; returns its own table.
fn read_pack(repo: &Arc<Repository>, id: &ObjectId) -> Result<PackEntry> {
    let mut bytes = repo.store().get(&ObjectName::new(ObjectKind::Pack, *id))?;
    verify_pack(repo.keys(), *id, &mut bytes)
}
