//! One object and its parity, damaged in every way; and all kinds of objects in a repository.

use tresor_engine::format::ObjectId;
use tresor_engine::maintenance::Cure;
use tresor_engine::parity::{self, Unmendable, Whole};
use tresor_engine::store::{MemoryStore, StoreError, StoreErrorKind};
use tresor_testkit::{Call, HookedStore};

use super::*;

fn random(rng: &mut Rng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes
}

/// A store with nothing but this object and its parity.
fn lone(bytes: &[u8], percent: u32) -> (Store, ObjectName) {
    let store: Store = Arc::new(MemoryStore::new());
    let name = ObjectName::new(ObjectKind::Pack, ObjectId::of(bytes));
    store.put(&name, bytes).unwrap();
    store.put(&name.parity(), &parity::make(bytes, share(percent).unwrap()).unwrap()).unwrap();
    (store, name)
}

fn mend(store: &Store, name: &ObjectName) -> std::result::Result<Vec<u8>, Unmendable> {
    parity::mend(store, name).unwrap().map(|whole| whole.bytes)
}

/// Ways to damage a sector. Each changes it for certain.
fn damage_sector(sector: &mut [u8], rng: &mut Rng) {
    match rng.u8(..4) {
        0 => sector[rng.usize(..sector.len())] ^= 1 << rng.u8(..8),
        1 if sector.iter().any(|b| *b != 0) => sector.fill(0),
        2 => sector.iter_mut().for_each(|b| *b = !*b),
        _ => sector[0] ^= 0xff,
    }
}

fn sectors(bytes: &mut [u8], which: &[usize], rng: &mut Rng) {
    for at in which.iter().map(|n| n * SECTOR) {
        let end = (at + SECTOR).min(bytes.len());
        damage_sector(&mut bytes[at..end], rng);
    }
}

fn choose(rng: &mut Rng, of: usize, count: usize) -> Vec<usize> {
    rng.choose_multiple(0..of, count)
}

#[test]
fn objects_of_any_length_survive_as_much_damage_as_they_have_parity_for() {
    let mut rng = Rng::with_seed(1);
    let lengths =
        [1, 63, 64, 65, 500, 4095, 4096, 4097, 32 << 10, 40_001, 123_456, 700_001, 3 << 20];
    for len in lengths {
        let bytes = random(&mut rng, len);
        let (store, name) = lone(&bytes, 5);
        assert_eq!(
            parity::mend(&store, &name).unwrap(),
            Ok(Whole { bytes: bytes.clone(), was_damaged: false })
        );
        let all = len.div_ceil(SECTOR);
        // A share of five percent, and eight sectors at least.
        let most = (all * 5).div_ceil(100).max(8).min(all);
        for round in 0..6 {
            let mut damaged = bytes.clone();
            sectors(&mut damaged, &choose(&mut rng, all, most), &mut rng);
            store.replace(&name, &damaged).unwrap();
            let what = format!("{len} bytes, {most} of {all} sectors, round {round}");
            let whole = parity::mend(&store, &name).unwrap();
            assert!(whole == Ok(Whole { bytes: bytes.clone(), was_damaged: true }), "{what}");
        }
        if most == all {
            continue;
        }
        let mut damaged = bytes.clone();
        sectors(&mut damaged, &choose(&mut rng, all, most + 1), &mut rng);
        store.replace(&name, &damaged).unwrap();
        let shard = SECTOR;
        let why = Unmendable::TooMuch { damaged: most + 1, parity: most, shard };
        assert_eq!(mend(&store, &name), Err(why));
    }
}

#[test]
fn every_sector_in_turn_of_an_object_and_of_its_parity() {
    let mut rng = Rng::with_seed(2);
    // Not a whole number of sectors.
    let bytes = random(&mut rng, 500_123);
    let (store, name) = lone(&bytes, 5);
    for n in 0..bytes.len().div_ceil(SECTOR) {
        let end = ((n + 1) * SECTOR).min(bytes.len());
        let mut damaged = bytes.clone();
        damaged[n * SECTOR..end].fill(0);
        store.replace(&name, &damaged).unwrap();
        assert!(mend(&store, &name).as_ref() == Ok(&bytes), "sector {n}");
        // Cut off there.
        if bytes.len() - n * SECTOR <= 8 * SECTOR {
            store.replace(&name, &bytes[..n * SECTOR + 1]).unwrap();
            assert!(mend(&store, &name).as_ref() == Ok(&bytes), "cut off at sector {n}");
        }
    }
    // Hashes for two blocks.
    let bytes = random(&mut rng, 2_200_123);
    let (store, name) = lone(&bytes, 5);
    let good = store.get(&name.parity()).unwrap();
    let mut damaged = bytes.clone();
    sectors(&mut damaged, &[0, 5, 300], &mut rng);
    store.replace(&name, &damaged).unwrap();
    for n in 0..good.len() / SECTOR {
        let mut parity = good.clone();
        parity[n * SECTOR..][..SECTOR].fill(0);
        store.replace(&name.parity(), &parity).unwrap();
        assert!(mend(&store, &name).as_ref() == Ok(&bytes), "sector {n} of the parity");
        assert!(parity::verify(&parity, Some(name.id)).is_err(), "sector {n} of the parity");
    }
    // With the second copy of the table the last pieces are gone.
    for n in [1, 2, 3, 20] {
        store.replace(&name.parity(), &good[..good.len() - n * SECTOR]).unwrap();
        assert!(mend(&store, &name).as_ref() == Ok(&bytes), "{n} sectors cut off");
    }
    assert_eq!(parity::verify(&good, Some(name.id)), Ok(()));
}

#[test]
fn damage_in_both_at_once() {
    let mut rng = Rng::with_seed(3);
    let bytes = random(&mut rng, 2 << 20);
    let (store, name) = lone(&bytes, 5);
    let good = store.get(&name.parity()).unwrap();
    // 512 sectors of the object, 26 of parity, and a table of two blocks before and after.
    assert_eq!(good.len(), (2 + 26 + 2) * SECTOR);
    for round in 0..50 {
        let in_object = rng.usize(..=26);
        let mut damaged = bytes.clone();
        sectors(&mut damaged, &choose(&mut rng, 512, in_object), &mut rng);
        let mut parity = good.clone();
        let of_parity: Vec<_> =
            choose(&mut rng, 26, 26 - in_object).into_iter().map(|n| n + 2).collect();
        sectors(&mut parity, &of_parity, &mut rng);
        // One copy of each block of the table.
        sectors(
            &mut parity,
            &[if rng.bool() { 0 } else { 28 }, if rng.bool() { 1 } else { 29 }],
            &mut rng,
        );
        store.replace(&name, &damaged).unwrap();
        store.replace(&name.parity(), &parity).unwrap();
        assert!(mend(&store, &name).as_ref() == Ok(&bytes), "round {round}");
    }
}

/// Without the hashes of a shard nobody knows whether it is good. Most likely it is.
#[test]
fn both_copies_of_a_block_of_hashes_are_lost() {
    let mut rng = Rng::with_seed(4);
    let bytes = random(&mut rng, 4 << 20);
    let (store, name) = lone(&bytes, 5);
    let good = store.get(&name.parity()).unwrap();
    let blocks = 3;
    for block in 0..blocks {
        let mut parity = good.clone();
        sectors(&mut parity, &[block, good.len() / SECTOR - blocks + block], &mut rng);
        store.replace(&name.parity(), &parity).unwrap();
        let mut damaged = bytes.clone();
        // A shard whose hash is in another block.
        sectors(&mut damaged, &[(block * 500 + 700) % 1000], &mut rng);
        store.replace(&name, &damaged).unwrap();
        assert!(mend(&store, &name).as_ref() == Ok(&bytes), "block {block}");
    }
    store.replace(&name.parity(), &[0; 100]).unwrap();
    assert_eq!(mend(&store, &name), Err(Unmendable::NoParity));
}

/// The medium can't read some sectors, of the object and of its parity.
#[test]
fn unreadable_sectors_are_read_around() {
    let mut rng = Rng::with_seed(5);
    let bytes = random(&mut rng, 3 << 20);
    let (plain, name) = lone(&bytes, 5);
    for round in 0..20 {
        let bad = choose(&mut rng, 768, 20);
        let hook = move |call: &Call| {
            let unreadable =
                || StoreError::new(StoreErrorKind::Unreadable, "read", "a disk", "bad sector");
            match *call {
                Call::Get(_) => Err(unreadable()),
                Call::GetRange(of, at, len) => {
                    let hit = |n: &usize| {
                        let sector = (n * SECTOR) as u64;
                        at < sector + SECTOR as u64 && sector < at + len as u64
                    };
                    // Four sectors of the parity, and one copy of the table.
                    let which = if of == name { &bad[..] } else { &[0, 4, 9, 12] };
                    if which.iter().any(hit) { Err(unreadable()) } else { Ok(()) }
                }
                _ => Ok(()),
            }
        };
        let store: Store = Arc::new(HookedStore::new(plain.clone(), hook));
        assert!(mend(&store, &name).as_ref() == Ok(&bytes), "round {round}");
    }
}

#[test]
fn parity_of_other_bytes_does_no_harm() {
    let mut rng = Rng::with_seed(6);
    let (bytes, other) = (random(&mut rng, 100_000), random(&mut rng, 100_000));
    let (store, name) = lone(&bytes, 100);
    // As it is: of another object. Then with the name of this one put into its blocks.
    let forged = parity::make(&other, share(100).unwrap()).unwrap();
    let mut renamed = forged.clone();
    for at in (0..renamed.len()).step_by(64) {
        if renamed[at..].starts_with(b"TRSRPR01") {
            renamed[at + 8..at + 40].copy_from_slice(&name.id.0);
            let sum = blake3::hash(&renamed[at..at + 60 + 50 * 8]);
            renamed[at + 60 + 50 * 8..][..32].copy_from_slice(sum.as_bytes());
        }
    }
    let mut damaged = bytes.clone();
    damaged[77] ^= 1;
    store.replace(&name, &damaged).unwrap();
    store.replace(&name.parity(), &forged).unwrap();
    assert_eq!(mend(&store, &name), Err(Unmendable::NoParity));
    store.replace(&name.parity(), &renamed).unwrap();
    assert_eq!(mend(&store, &name), Err(Unmendable::Wrong));
}

/// Whatever a parity object says, nothing panics, and no memory is taken because of it.
#[test]
fn parity_of_impossible_shapes_is_no_parity() {
    let mut rng = Rng::with_seed(7);
    let bytes = random(&mut rng, 10_000);
    let (store, name) = lone(&bytes, 5);
    let good = store.get(&name.parity()).unwrap();
    let mut damaged = bytes.clone();
    damaged[0] ^= 1;
    store.replace(&name, &damaged).unwrap();
    for round in 0..3000 {
        let mut parity = good.clone();
        // Length, shard length, number of parity shards, number of the block.
        let at = [40, 48, 52, 56][round % 4];
        let value = [0, 1, 63, 64, 128, 4096, 4160, u32::MAX, rng.u32(..), rng.u32(..70_000)];
        parity[at..at + 4].copy_from_slice(&value[rng.usize(..value.len())].to_le_bytes());
        if at == 40 {
            parity[44..48]
                .copy_from_slice(&[rng.u32(..2), rng.u32(..)][rng.usize(..2)].to_le_bytes());
        }
        // As if it had been written so.
        let hashes = rng.usize(..520);
        let end = (60 + hashes * 8).min(parity.len() - 32);
        let sum = blake3::hash(&parity[..end]);
        parity[end..end + 32].copy_from_slice(sum.as_bytes());
        parity.truncate(end + 32);
        store.replace(&name.parity(), &parity).unwrap();
        let result = mend(&store, &name);
        assert!(result.as_ref().is_ok_and(|b| *b == bytes) || result.is_err());
        let _ = parity::verify(&parity, None);
    }
}

/// Damage to any object is found without a key, told, and mended; the repository is then
/// byte for byte what it was.
#[test]
fn each_kind_of_object() {
    let mut rng = Rng::with_seed(8);
    let (base, _) = repository(5, &one_file(900_000));
    let before = objects(&base);
    for (name, bytes) in &before {
        for round in 0..6 {
            let store = copy(&base);
            change_object(&store, name, |bytes| {
                let all = bytes.len().div_ceil(SECTOR);
                match round {
                    0 => bytes.truncate(bytes.len() - 1),
                    1 => bytes.extend([0; 10]),
                    // Small objects are there as good as twice.
                    2 if all <= 8 => bytes.clear(),
                    _ => sectors(bytes, &choose(&mut rng, all, all.min(3)), &mut rng),
                }
            });
            let what = format!("{name}, round {round}");
            let found = scrub(&store, &Quiet::default()).unwrap();
            let [problem] = &found.problems[..] else { panic!("{what}: {:?}", found.problems) };
            assert_eq!(problem.object, name.path(), "{what}");
            assert_ne!(problem.cure, Cure::None, "{what}");
            let dry = try_repair(&store, true).unwrap();
            assert!(dry.left.is_empty() && store.get(name).unwrap() != *bytes, "{what}");
            let report = repair(&store);
            assert!(report.left.is_empty(), "{what}: {report:?}");
            assert_eq!(
                (report.mended, report.parity_made),
                (dry.mended, dry.parity_made),
                "{what}"
            );
            assert!(objects(&store) == before, "{what}");
        }
    }
}

#[test]
fn many_objects_at_once_and_what_can_t_be_mended_is_left_as_it_is() {
    let mut rng = Rng::with_seed(9);
    let (store, _) = repository(5, &one_file(900_000));
    let before = objects(&store);
    let pack = largest(&store, ObjectKind::Pack);
    for name in before.keys().filter(|n| n.kind != ObjectKind::Parity) {
        let parity = before[&name.parity()].len();
        change_object(&store, name, |bytes| bytes[0] ^= 1);
        // Its parity, too: not both copies of a block.
        change_object(&store, &name.parity(), |bytes| bytes[parity - 1 - rng.usize(..200)] ^= 1);
    }
    let hopeless = before[&pack].iter().map(|b| !b).collect::<Vec<_>>();
    store.replace(&pack, &hopeless).unwrap();
    let report = repair(&store);
    let left: Vec<_> = report.left.iter().map(|p| p.object.clone()).collect();
    assert!(left.contains(&pack.path()), "{left:?}");
    assert!(left.iter().all(|o| *o == pack.path() || *o == pack.parity().path()), "{left:?}");
    for (name, bytes) in objects(&store) {
        if name == pack {
            assert!(bytes == hopeless);
        } else if name != pack.parity() {
            assert!(bytes == before[&name], "{name}");
        }
    }
}

/// A config is always wanted; of all else that is gone nobody knows why.
#[test]
fn only_a_config_that_is_gone_is_made_anew() {
    let (base, _) = repository(5, &one_file(1000));
    // Nothing is forgotten yet.
    let others = [ObjectKind::Parity, ObjectKind::Forgotten];
    for kind in ObjectKind::ALL.into_iter().filter(|kind| !others.contains(kind)) {
        let store = copy(&base);
        let name = largest(&store, kind);
        store.delete(&name).unwrap();
        let report = repair(&store);
        let there = names(&store, kind).contains(&name.id);
        assert_eq!(there, kind == ObjectKind::Config, "{name}");
        assert_eq!(report.parity_removed, u64::from(kind != ObjectKind::Config), "{name}");
        if kind == ObjectKind::Config {
            assert!(objects(&store) == objects(&base));
        }
    }
}

#[test]
fn parity_that_is_gone_is_made_again() {
    let (store, _) = repository(5, &one_file(50_000));
    let before = objects(&store);
    for name in before.keys().filter(|name| name.kind == ObjectKind::Parity) {
        store.delete(name).unwrap();
    }
    let report = repair(&store);
    assert_eq!(report.parity_made.len(), before.len() / 2);
    assert!(objects(&store) == before);
}

#[test]
fn a_repository_without_parity_is_told_so() {
    let error = try_repair(&new_store(), false).unwrap_err().to_string();
    assert!(error.contains("--parity"), "{error}");
}

/// As when a copy of another repository is put back: all configs have one name.
#[test]
fn parity_of_another_repository_doesnt_replace_the_config() {
    let (store, kept) = repository(5, &one_file(1000));
    let (other, _) = repository(5, &one_file(1000));
    let parity = ObjectName::CONFIG.parity();
    store.replace(&parity, &other.get(&parity).unwrap()).unwrap();
    let config = store.get(&ObjectName::CONFIG).unwrap();
    let report = repair(&store);
    assert!(report.left.is_empty() && report.mended.is_empty(), "{report:?}");
    assert_eq!(report.parity_made.len(), 1, "{report:?}");
    assert!(store.get(&ObjectName::CONFIG).unwrap() == config);
    assert_tidy(&store, "with the parity of another repository");
    kept.verify(&store, "with the parity of another repository");
    // Nor if the config is damaged, too.
    store.replace(&parity, &other.get(&parity).unwrap()).unwrap();
    change_object(&store, &ObjectName::CONFIG, |bytes| bytes.truncate(20));
    let damaged = store.get(&ObjectName::CONFIG).unwrap();
    let _ = try_repair(&store, false);
    assert!(store.get(&ObjectName::CONFIG).unwrap() == damaged);
}

/// Between the damage that was found and the replacement, it was deleted.
#[test]
fn what_is_deleted_while_it_is_mended_stays_away() {
    let (base, _) = repository(5, &one_file(1000));
    let slot = largest(&base, ObjectKind::Key);
    change_object(&base, &slot, |bytes| bytes[5] ^= 1);
    let inner = base.clone();
    let store: Store = Arc::new(HookedStore::new(base.clone(), move |call| {
        if matches!(call, Call::Replace(name) if *name == slot) {
            inner.delete(&slot.parity())?;
            inner.delete(&slot)?;
        }
        Ok(())
    }));
    repair(&store);
    assert!(names(&base, ObjectKind::Key).is_empty(), "a removed key slot is there again");
}

/// A config has no hash in its name. With one wrong byte, wherever, it is mended, whatever else is
/// damaged that could tell which one is right.
#[test]
fn a_config_is_mended_whatever_vouches_for_it() {
    let (store, _) = repository(5, &Item::dir());
    let whole = objects(&store);
    let slot = store.list(ObjectKind::Key).unwrap()[0].0;
    let config = ObjectName::CONFIG;
    let damaged_too: [&[ObjectName]; 4] =
        [&[], &[slot], &[config.parity()], &[slot, config.parity()]];
    for at in 0..whole[&config].len() {
        for others in damaged_too {
            let store = store_of(&whole);
            change_object(&store, &config, |bytes| bytes[at] ^= 0x55);
            for name in others {
                change_object(&store, name, |bytes| {
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 0x55;
                });
            }
            repair(&store);
            assert!(objects(&store) == whole, "byte {at}, and {others:?}");
        }
    }
}

/// The config and its parity tell of different repositories, and no slot of which this is: nobody
/// throws away the one that may be right; nor if a byte of the parity is wrong, too.
#[test]
fn nobody_decides_between_configs_without_a_key_slot() {
    let (base, _) = repository(5, &Item::dir());
    let whole = objects(&base);
    let slot = base.list(ObjectKind::Key).unwrap()[0].0;
    let id = open(&base).id();
    let config = ObjectName::CONFIG;
    let at = whole[&config].windows(16).position(|part| *part == id).unwrap();
    for flipped in [None, Some(60), Some(whole[&config.parity()].len() / 2)] {
        let store = copy(&base);
        change_object(&store, &config, |bytes| bytes[at] ^= 1);
        for name in [slot, slot.parity()] {
            change_object(&store, &name, |bytes| bytes.fill(0));
        }
        if let Some(at) = flipped {
            change_object(&store, &config.parity(), |bytes| bytes[at] ^= 1);
        }
        let parity = store.get(&config.parity()).unwrap();
        let report = repair(&store);
        let of_config = report.left.iter().find(|p| p.object == "config").unwrap();
        assert!(of_config.message.contains("different repositories"), "{report:?}");
        assert!(store.get(&config.parity()).unwrap() == parity, "byte {flipped:?}: made anew");
        // Put back from a copy, the slot tells.
        for name in [slot, slot.parity()] {
            store.replace(&name, &whole[&name]).unwrap();
        }
        repair(&store);
        assert!(objects(&store) == whole, "byte {flipped:?}");
    }
}
