//! No false alarms, and what looking costs.

use super::*;

/// Junk in `snapshots/` that is removed again was never a snapshot.
#[test]
fn junk_is_not_missed() {
    let history = History::new(8, 2);
    let store = history.store.clone();
    let client = Client::new();
    let junk = ObjectName::new(ObjectKind::Snapshot, ObjectId::of(b"junk"));
    store.put(&junk, b"junk").unwrap();
    client.is_content(&store, "with junk");
    store.delete(&junk).unwrap();
    client.is_content(&store, "without");
    // One that is damaged is there.
    let name = ObjectName::new(ObjectKind::Snapshot, history.id(0));
    let bytes = store.get(&name).unwrap();
    store.delete(&name).unwrap();
    store.put(&name, b"rot").unwrap();
    client.is_content(&store, "damaged");
    let options = RepairSnapshotsOptions { forget_unreadable: true, ..Default::default() };
    repair_snapshots(&client.open(&store), &options, &Quiet::default()).unwrap();
    client.is_content(&store, "removed by repair");
    store.put(&name, &bytes).unwrap();
    assert_eq!(client.look(&store).snapshots.put_back, [name.id]);
}

/// What a command costs that does nothing but list snapshots.
fn calls(client: &Client, store: &Store) -> Vec<Call> {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let noted = calls.clone();
    let hook = move |call: &Call| {
        noted.lock().unwrap().push(*call);
        Ok(())
    };
    let repo = client.open(&(Arc::new(HookedStore::new(store.clone(), hook)) as Store));
    calls.lock().unwrap().clear();
    for _ in 0..3 {
        repo.snapshots().unwrap();
    }
    let is_about =
        |call: &&Call| !matches!(call, Call::Get(name) if name.kind == ObjectKind::Snapshot);
    let calls = calls.lock().unwrap();
    calls.iter().filter(is_about).copied().collect()
}

#[test]
fn comparing_costs_next_to_nothing() {
    let mut history = History::new(9, 30);
    let store = history.store.clone();
    let (client, other) = (Client::new(), Client::new());
    client.is_content(&store, "at first");
    let list = Call::List(ObjectKind::Snapshot);
    assert_eq!(calls(&client, &store), [list; 3]);
    for round in 0..20 {
        history.kept.forget(&other.open(&store), 0);
        let cost = calls(&client, &store);
        let is_record =
            |c: &&Call| matches!(c, Call::Get(name) if name.kind == ObjectKind::Forgotten);
        let listings = cost.iter().filter(|c| **c == Call::List(ObjectKind::Forgotten)).count();
        assert_eq!((cost.iter().filter(is_record).count(), listings), (1, 1), "{round}: {cost:?}");
        assert_eq!(cost.len(), 5, "{round}: {cost:?}");
        assert_eq!(calls(&client, &store), [list; 3], "{round}");
        assert!(names(&store, ObjectKind::Forgotten).len() <= 16);
    }
}

/// Processes of one computer share a state file.
#[test]
fn processes_that_write_at_once_lose_nothing() {
    let history = History::new(10, 1);
    let store = history.store.clone();
    let client = Client::new();
    client.is_content(&store, "at first");
    let data = &history.kept.0[0].0.data;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..8 {
                    let repo = client.open(&store);
                    let id = repo.save_snapshot(data).unwrap();
                    repo.snapshots().unwrap();
                    if id.0[0].is_multiple_of(2) {
                        repo.forget(&[id]).unwrap();
                    }
                }
            });
        }
    });
    client.is_content(&store, "afterwards");
    let there = names(&store, ObjectKind::Snapshot);
    for id in &there {
        store.delete(&ObjectName::new(ObjectKind::Snapshot, *id)).unwrap();
    }
    assert_eq!(client.look(&store).snapshots.lost.len(), there.len());
}

/// A name that a changing folder didn't show once is looked for again.
#[test]
fn a_listing_with_a_gap_is_no_alarm() {
    for kind in [ObjectKind::Snapshot, ObjectKind::Key] {
        let history = History::new(11, 2);
        let store = history.store.clone();
        let client = Client::new();
        let slot = client.open(&store).add_key(&other_password(1), "second", COST).unwrap();
        client.is_content(&store, "at first");
        let id = if kind == ObjectKind::Key { slot } else { history.id(0) };
        let name = ObjectName::new(kind, id);
        let (bytes, base) = (store.get(&name).unwrap(), store.clone());
        let gap = Mutex::new(None);
        let hook = move |call: &Call| {
            let mut gap = gap.lock().unwrap();
            match *gap {
                None if *call == Call::List(kind) => {
                    base.delete(&name).unwrap();
                    *gap = Some(true);
                }
                Some(true) => {
                    base.put(&name, &bytes).unwrap();
                    *gap = Some(false);
                }
                _ => {}
            }
            Ok(())
        };
        client.is_content(&(Arc::new(HookedStore::new(store, hook)) as Store), kind.noun());
    }
}

/// What was stored after a listing can't be missing from it.
#[test]
fn what_comes_after_a_listing_is_not_missed() {
    let history = History::new(12, 2);
    let store = history.store.clone();
    let client = Client::new();
    let data = history.kept.0[0].0.data.clone();
    let repo: Arc<Mutex<Option<Arc<Repository>>>> = Arc::default();
    let later = repo.clone();
    let hook = move |call: &Call| {
        let repo = later.lock().unwrap().take();
        if let Some(repo) = repo.filter(|_| *call == Call::List(ObjectKind::Snapshot)) {
            repo.save_snapshot(&data).unwrap();
        }
        Ok(())
    };
    let opened =
        client.open(&(Arc::new(HookedStore::new(store.clone(), hook).afterwards()) as Store));
    *repo.lock().unwrap() = Some(opened.clone());
    assert_eq!(opened.snapshots().unwrap().len(), 2);
    assert_eq!(client.told(), []);
    client.is_content(&store, "afterwards");
    assert_eq!(opened.snapshots().unwrap().len(), 3);
}

/// A record may be read before what it tells of is seen: of a backup that takes its snapshot back.
#[test]
fn a_record_may_come_before_what_it_tells_of() {
    let history = History::new(13, 3);
    let store = history.store.clone();
    let client = Client::new();
    let name = ObjectName::new(ObjectKind::Snapshot, history.id(0));
    let bytes = store.get(&name).unwrap();
    store.delete(&name).unwrap();
    client.is_content(&store, "without it");
    open(&store).forget(&[name.id]).unwrap();
    open(&store).forget(&[history.id(1)]).unwrap();
    client.is_content(&store, "the record is read");
    store.put(&name, &bytes).unwrap();
    client.is_content(&store, "it is there");
    store.delete(&name).unwrap();
    client.is_content(&store, "and gone");
}

/// What an honest client may do, perhaps with somebody else in between, or interrupted.
fn act(
    history: &mut History,
    client: &Client,
    what: u8,
    store: &Store,
) -> tresor_engine::Result<()> {
    let repo = client.try_open(store, false)?;
    let count = history.kept.0.len();
    match what {
        0..4 => {
            let tree = change(&mut history.rng, &history.tree);
            let parent = history.kept.0.last().map(|(s, _)| s.clone());
            let snapshot = try_backup(&repo, &tree, parent)?;
            history.kept.0.push((snapshot, tree));
        }
        4..9 if count > 2 => {
            let n = history.rng.usize(..count);
            let id = history.id(n);
            // Forgotten or not: it may go.
            history.kept.0.remove(n);
            repo.forget(&[id])?;
        }
        9 | 10 => drop(prune_at(&repo, &all(), 0)?),
        11 => {
            // An object of it is lost.
            let lost = history.any(ObjectKind::Index);
            lost.iter().for_each(|name| history.store.delete(name).unwrap());
            let options = RepairIndexOptions { read_all: true, dry_run: false };
            let report = repair_index(&repo, &options, &Quiet::default())?;
            history.repaired.extend((report.packs_added > 0).then_some("an index"));
        }
        12 => {
            // A pack is lost, and put back afterwards.
            let lost = history.any(ObjectKind::Pack);
            let lost = lost.map(|name| (name, history.store.get(&name).unwrap()));
            lost.iter().for_each(|(name, _)| history.store.delete(name).unwrap());
            let report = repair_snapshots(&repo, &Default::default(), &Quiet::default());
            lost.iter().for_each(|(name, bytes)| history.store.put(name, bytes).unwrap());
            history.repaired.extend((!report?.repaired.is_empty()).then_some("a snapshot"));
        }
        13 => drop(repo.add_key(&other_password(history.rng.u32(..)), "more", COST)?),
        14 => {
            let slots = repo.key_slots()?;
            if let Some(slot) = slots.iter().find(|slot| !slot.current) {
                repo.remove_key(&slot.id)?;
            }
        }
        _ => drop(repo.snapshots()?),
    }
    Ok(())
}

#[test]
fn honest_histories_raise_no_alarm() {
    let rounds = std::env::var("TRESOR_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let (mut joined, mut repaired) = (false, BTreeSet::new());
    for seed in 0..rounds {
        let mut history = History::new(100 + seed, 3);
        let base = history.store.clone();
        for _ in 0..12 {
            let id = open(&base).save_snapshot(&history.kept.0[0].0.data).unwrap();
            open(&base).forget(&[id]).unwrap();
        }
        let clients = [Client::new(), Client::new()];
        // A drive that stays mounted.
        let mounted = clients[1].open(&base);
        for step in 0..60 {
            let by = history.rng.usize(..2);
            let what = history.rng.u8(..16);
            let at = history.rng.usize(..12);
            let store: Store = match history.rng.u8(..3) {
                0 => base.clone(),
                // It dies.
                1 => {
                    let calls = AtomicUsize::new(0);
                    let hook = move |_: &Call| match calls.fetch_add(1, SeqCst) {
                        n if n >= at => Err(HookedStore::broken()),
                        _ => Ok(()),
                    };
                    Arc::new(HookedStore::new(base.clone(), hook))
                }
                // Somebody else forgets and looks in between.
                _ => {
                    let (base, twin) = (base.clone(), clients[1 - by].twin());
                    let victim =
                        history.kept.0.len().checked_sub(3).map(|_| history.kept.0.remove(0).0.id);
                    at_call(&base.clone(), at, move || {
                        let repo = twin.open(&base);
                        repo.snapshots().unwrap();
                        victim.iter().for_each(|id| repo.forget(&[*id]).unwrap());
                        twin.is_content(&base, "in between");
                    })
                }
            };
            let result = act(&mut history, &clients[by], what, &store);
            let text = format!("seed {seed}, step {step}: {what} by {by}, {result:?}");
            assert!(!matches!(result, Err(Error::OlderState(_))), "{text}");
            mounted.snapshots().unwrap();
            for client in &clients {
                client.is_content(&base, &text);
            }
            joined |= names(&base, ObjectKind::Forgotten).len() < 12;
        }
        repaired.extend(history.repaired);
    }
    eprintln!("{rounds} histories raised no alarm");
    assert!(joined, "no records were joined");
    assert_eq!(repaired.len(), 2, "only {repaired:?} was ever repaired");
}
