//! Retention, by subject.

mod histories;
mod periods;
mod repaired;
mod restic;
mod rules;
mod service;
mod times;

use std::sync::Arc;

use jiff::Timestamp;

use super::*;
use crate::format::{BlobId, ObjectId, PathBytes};
use crate::repo::REPAIRED;

const NOW: &str = "2026-11-25T12:00Z";

/// Central European time, without needing the system's database.
fn berlin() -> TimeZone {
    TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
}

fn at(text: &str) -> Time {
    let text = if text.contains('T') { text.to_owned() } else { format!("{text}T11:00Z") };
    Time::new(text.parse::<Timestamp>().unwrap().as_second(), 0)
}

/// Ids follow the order, so that it is the order of a repository.
fn snapshot(n: usize, time: Time, saved: Time) -> Snapshot {
    let data = SnapshotData {
        host: "web".into(),
        user: "root".into(),
        paths: vec![PathBytes(b"/etc".into())],
        saved,
        ..SnapshotData::new(time, BlobId([0; 32]))
    };
    let mut id = [0; 32];
    id[..8].copy_from_slice(&(n as u64).to_be_bytes());
    Snapshot { id: ObjectId(id), data: Arc::new(data) }
}

fn made(times: &[&str]) -> Vec<Snapshot> {
    times.iter().enumerate().map(|(n, t)| snapshot(n, at(t), at(t))).collect()
}

/// Made where clocks are so.
fn made_in(zone: &TimeZone, snapshots: &[Snapshot]) -> Vec<Snapshot> {
    let mut snapshots = snapshots.to_vec();
    for s in &mut snapshots {
        let offset = zone.to_offset(timestamp(s.data.time)).seconds();
        Arc::make_mut(&mut s.data).utc_offset = offset;
    }
    snapshots
}

/// Places of the snapshots that are kept, and why, if they were made in a time zone.
fn kept_in(
    zone: &TimeZone,
    policy: &RetentionPolicy,
    snapshots: &[Snapshot],
) -> Vec<(usize, String)> {
    let snapshots = made_in(zone, snapshots);
    let decisions = apply(policy, &snapshots, &OddSnapshots::new(), at(NOW));
    let kept = decisions.into_iter().enumerate().filter(|(_, d)| d.keep);
    kept.map(|(n, d)| (n, d.reasons.join("; "))).collect()
}

fn kept(policy: RetentionPolicy, times: &[&str]) -> Vec<usize> {
    kept_in(&TimeZone::UTC, &policy, &made(times)).into_iter().map(|(n, _)| n).collect()
}

fn kept_berlin(policy: RetentionPolicy, times: &[&str]) -> Vec<usize> {
    kept_in(&berlin(), &policy, &made(times)).into_iter().map(|(n, _)| n).collect()
}

fn none() -> RetentionPolicy {
    RetentionPolicy::default()
}

fn age(text: &str) -> Option<Age> {
    Some(text.parse().unwrap())
}

/// What `repair snapshots` saves of it, with an id of its own.
fn repaired(original: &Snapshot, id: u8) -> Snapshot {
    let mut repaired = original.clone();
    repaired.id.0[31] = id;
    let data = Arc::make_mut(&mut repaired.data);
    data.tree = BlobId([id; 32]);
    data.tags.push(REPAIRED.into());
    data.tags.sort();
    repaired
}

const DAYS: [&str; 6] =
    ["2026-11-01", "2026-11-08", "2026-11-15", "2026-11-15T20:00Z", "2026-11-22", "2026-11-23"];

fn survivors(policy: &RetentionPolicy, s: &[Snapshot]) -> Vec<Snapshot> {
    survivors_among(policy, s, &OddSnapshots::new())
}

fn survivors_among(policy: &RetentionPolicy, s: &[Snapshot], odd: &OddSnapshots) -> Vec<Snapshot> {
    let decisions = apply(policy, s, odd, at(NOW));
    decisions.into_iter().filter(|d| d.keep).map(|d| d.snapshot).collect()
}
