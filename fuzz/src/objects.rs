//! Config, key slots, index objects and snapshots.

use std::sync::Arc;

use jiff::tz::TimeZone;
use tresor_engine::format::{
    Config, ConfigSecret, ForgottenData, IndexData, KeySlot, ObjectId, ObjectKind, PackEntry,
    Purpose, SlotInfo, SnapshotData, Summary, Time, sealed,
};
use tresor_engine::index::{RunBuilder, read_object};
use tresor_engine::maintenance::retention::{self, GroupBy, RetentionPolicy, groups};
use tresor_engine::repo::{OddSnapshots, Snapshot};
use tresor_engine::select::time_name;

use crate::human;
use crate::kit::*;

/// As it lies in the store, and its secret part as somebody with the key can make it.
pub fn config(input: &[u8]) {
    if let Ok(config) = Config::parse(input) {
        assert_eq!((config.product.as_str(), config.version), ("tresor", 1));
        assert!(config.features.is_empty());
        assert_eq!(
            config.parity_share().is_some(),
            config.write_features.iter().any(|f| f == "parity")
        );
        assert_eq!(Config::parse(&encoded(&config)).unwrap(), config);
        if let Ok(secret) = config.open_secret(keys()) {
            check_secret(&config, &secret);
        }
    }
    let config = Config {
        product: "tresor".into(),
        version: 1,
        repository: [3; 16],
        features: Vec::new(),
        secret: seal(keys(), Purpose::Config, input),
        write_features: Vec::new(),
        parity: None,
    };
    if let Ok(secret) = config.open_secret(keys()) {
        check_secret(&config, &secret);
    }
}

fn check_secret(config: &Config, secret: &ConfigSecret) {
    assert_eq!((secret.version, secret.repository), (config.version, config.repository));
    assert_eq!(secret.features, config.features);
    assert_eq!(secret.write_features, config.write_features);
    assert_eq!(secret.parity, config.parity);
    let sizes = secret.chunks;
    assert!((1 << 10..=1 << 20).contains(&sizes.min));
    assert!(sizes.min <= sizes.average && sizes.average <= 4 << 20);
    assert!(sizes.average <= sizes.max && sizes.max <= 8 << 20);
    assert_round_trip(secret);
}

pub fn key_slot(input: &[u8]) {
    if let Ok(slot) = minicbor::decode::<KeySlot>(input) {
        assert_round_trip(&slot);
        if slot.cost().is_sane() {
            assert!((8_192..=1_048_576).contains(&slot.memory));
            assert!((1..=64).contains(&slot.passes) && (1..=64).contains(&slot.lanes));
        }
        let _ = sealed::open::<SlotInfo>(keys(), Purpose::SlotInfo, slot.info.clone());
    }
    let info =
        sealed::open::<SlotInfo>(keys(), Purpose::SlotInfo, seal(keys(), Purpose::SlotInfo, input));
    if let Ok(info) = info {
        assert_round_trip(&info);
        check_time(info.created);
        assert_printable(&human::foreign(&info.label));
    }
}

/// Any object of any purpose: as it lies there, or its text before it is sealed.
pub fn sealed(input: &[u8]) {
    let Some((&how, rest)) = input.split_first() else { return };
    let purposes =
        [Purpose::Config, Purpose::SlotInfo, Purpose::Index, Purpose::Snapshot, Purpose::Forgotten];
    let purpose = purposes[usize::from(how >> 1) % purposes.len()];
    let object = if how & 1 == 0 { rest.to_vec() } else { sealed_text(keys(), purpose, rest) };
    match purpose {
        Purpose::Config => drop(sealed::open::<ConfigSecret>(keys(), purpose, object)),
        Purpose::SlotInfo => drop(sealed::open::<SlotInfo>(keys(), purpose, object)),
        Purpose::Index => drop(sealed::open::<IndexData>(keys(), purpose, object)),
        Purpose::Snapshot => drop(sealed::open::<SnapshotData>(keys(), purpose, object)),
        Purpose::Forgotten => drop(sealed::open::<ForgottenData>(keys(), purpose, object)),
    }
}

/// What is taken up keeps the rules of format.md section 6, and each blob is found.
pub fn index(input: &[u8]) {
    let (store, name) = store_of(ObjectKind::Index, &seal(keys(), Purpose::Index, input));
    let Ok(data) = read_object(&store, keys(), &name.id) else { return };
    assert_round_trip(&data);
    let mut builder = RunBuilder::default();
    for pack in &data.packs {
        check_pack(pack);
        builder.add(pack);
    }
    let blobs = data.packs.iter().flat_map(|p| &p.segments).map(|s| s.blob_count());
    assert_eq!(builder.len(), blobs.sum::<usize>());
    let run = builder.write(None).unwrap();
    for pack in &data.packs {
        for (offset, segment) in pack.placed() {
            for (id, start, len) in segment.blobs() {
                let is_it = |f: tresor_engine::index::Found| {
                    let at = f.location;
                    let here = (at.segment.pack, at.segment.offset) == (pack.id, offset);
                    here && (at.start, at.len, f.kind) == (start, len, segment.kind)
                };
                assert!(run.find(&id).any(is_it), "{id:?} isn't found");
            }
        }
    }
}

/// The limits of format.md section 6, worked out here anew.
pub fn check_pack(pack: &PackEntry) {
    assert!((60..=64 << 20).contains(&pack.size));
    let mut end = 40u64;
    for segment in &pack.segments {
        assert!(!segment.blobs.is_empty() && segment.blobs.len() % 36 == 0);
        assert!((17..=(16 << 20) + 1024).contains(&segment.sealed_len));
        let lengths =
            segment.blobs.chunks(36).map(|b| u32::from_le_bytes(b[32..].try_into().unwrap()));
        assert!(lengths.map(u64::from).sum::<u64>() <= 16 << 20);
        end += u64::from(segment.sealed_len);
    }
    assert!(end + 20 <= pack.size);
    if let Some(time) = pack.marked {
        check_time(time);
    }
}

pub fn check_time(time: Time) {
    assert!(time.nanos < 1_000_000_000, "{time:?} is no time");
}

pub fn snapshot(input: &[u8]) {
    let object = seal(keys(), Purpose::Snapshot, input);
    let id = ObjectId::of(&object);
    let Ok(data) = sealed::open::<SnapshotData>(keys(), Purpose::Snapshot, object) else { return };
    assert_round_trip(&data);
    check_time(data.time);
    check_time(data.saved);
    // What is shown of it.
    for zone in [TimeZone::UTC, TimeZone::get("Europe/Berlin").unwrap_or(TimeZone::UTC)] {
        assert_printable(&time_name(data.time, &zone));
        assert_printable(&human::time(data.time, &zone));
    }
    assert_printable(&human::rfc3339(data.time, data.utc_offset));
    for text in [&data.host, &data.user, &data.program].into_iter().chain(&data.tags) {
        assert_printable(&human::foreign(text));
    }
    data.paths.iter().for_each(|p| assert_printable(&p.display()));
    let snapshot = Snapshot { id, data: Arc::new(data) };
    check_retention(&snapshot);
}

/// A forged snapshot pushes out none that is there already, and the newest stays.
fn check_retention(forged: &Snapshot) {
    let now = Time::new(1_800_000_000, 0);
    let honest = Snapshot {
        id: ObjectId::of(b"honest"),
        // Of the same host and paths, and else as it is made.
        data: Arc::new(SnapshotData {
            time: now,
            saved: now,
            summary: Summary::default(),
            ..(*forged.data).clone()
        }),
    };
    let all = [honest, forged.clone()];
    for (_, group) in groups(&all, GroupBy::default()) {
        for policy in [
            RetentionPolicy::service(),
            RetentionPolicy { keep_last: Some(1), ..Default::default() },
        ] {
            let decisions = retention::apply(&policy, &group, &OddSnapshots::new(), now);
            assert_eq!(decisions.len(), group.len());
            let newest = group.iter().max_by_key(|s| s.order());
            let newest = decisions.iter().find(|d| Some(d.snapshot.id) == newest.map(|s| s.id));
            assert!(newest.is_some_and(|d| d.keep), "the newest is dropped");
            let honest = decisions.iter().find(|d| d.snapshot.data.time == now);
            assert!(honest.is_some_and(|d| d.keep), "a forged time pushes out a good snapshot");
        }
    }
}
