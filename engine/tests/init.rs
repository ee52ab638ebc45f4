//! Several processes that make a repository in the same place at once: one of them does, and
//! its password opens what is there.

#[allow(dead_code, reason = "each test binary uses a part")]
#[path = "prune/world.rs"]
mod world;

use std::sync::Arc;

use fastrand::Rng;
use tresor_engine::Error;
use tresor_engine::crypto::{KdfCost, Password};
use tresor_engine::format::{Config, ObjectKind, ObjectName, ParityShare};
use tresor_engine::maintenance::{CheckOptions, check, scrub};
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::{InitOptions, OpenOptions, Repository};
use tresor_engine::store::{LocalStore, MemoryStore, Store};

use world::{Turns, hooked};

const COST: KdfCost = KdfCost { memory: 8 * 1024, passes: 1, lanes: 1 };

fn password_of(who: usize) -> Password {
    Password::new(format!("the password of {who}").into_bytes())
}

fn init(store: &Store, who: usize, parity: Option<ParityShare>) -> Result<(), Error> {
    let options =
        InitOptions { label: format!("{who}"), cost: COST, parity, chunks: Default::default() };
    Repository::init(store, &password_of(who), &options)
}

/// Whoever has made the repository can open it, nobody else can, and nothing of the others is
/// left in it.
#[track_caller]
fn is_of_one(store: &Store, made: &[Result<(), Error>], what: &str) {
    let winners: Vec<_> = (0..made.len()).filter(|who| made[*who].is_ok()).collect();
    assert_eq!(winners.len(), 1, "{what}: {made:?}");
    for (who, made) in made.iter().enumerate() {
        let opened = Repository::open(store.clone(), &password_of(who), &OpenOptions::default());
        match (made, opened) {
            (Ok(()), Ok(repo)) => {
                let options = CheckOptions { read_data: true, ..Default::default() };
                let report = check(&repo, &options, &Quiet::default()).unwrap();
                assert!(report.problems.is_empty(), "{what}: {:?}", report.problems);
            }
            (Err(Error::RepositoryExists(_)), Err(Error::WrongPassword(_))) => {}
            (made, opened) => panic!("{what}: {who} {made:?}, and then {:?}", opened.err()),
        }
    }
    assert_eq!(store.list(ObjectKind::Key).unwrap().len(), 1, "{what}");
    let config = Config::parse(&store.get(&ObjectName::CONFIG).unwrap()).unwrap();
    let parity = if config.parity_share().is_some() { 2 } else { 0 };
    assert_eq!(store.list(ObjectKind::Parity).unwrap().len(), parity, "{what}");
    let report = scrub(store, &Quiet::default()).unwrap();
    assert!(report.problems.is_empty(), "{what}: {:?}", report.problems);
}

/// Each one's calls come at any time between those of the others.
#[test]
fn several_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let parity = ParityShare::new(50);
    for round in 0..400 {
        let mut rng = Rng::with_seed(round);
        let (count, is_local) = (2 + usize::from(rng.u8(..4) == 0), round % 4 == 0);
        let store: Store = match is_local {
            true => Arc::new(LocalStore::new(folder.path().join(format!("{round}")))),
            false => Arc::new(MemoryStore::new()),
        };
        let share = |who: usize| parity.filter(|_| (round as usize >> who) & 4 != 0);
        let turns = Turns::new(&vec![1; count], rng);
        let made: Vec<_> = std::thread::scope(|scope| {
            let run = |who: usize| {
                let (turns, store) = (&turns, &store);
                scope.spawn(move || turns.run_on(who, store, |store| init(store, who, share(who))))
            };
            let threads: Vec<_> = (0..count).map(run).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        is_of_one(&store, &made, &format!("round {round}, {}", store.describe()));
    }
}

/// One stops at any of its calls, the other one makes the repository, and the first goes on.
#[test]
fn one_sleeps() {
    for parity in [None, ParityShare::new(50)] {
        for n in 0.. {
            let store: Store = Arc::new(MemoryStore::new());
            let (sender, receiver) = std::sync::mpsc::channel();
            let other = store.clone();
            let sleeping = world::at_call(&store, n, move || {
                sender.send(init(&other, 1, parity)).unwrap();
            });
            let first = init(&sleeping, 0, parity);
            let Ok(second) = receiver.try_recv() else { break };
            is_of_one(&store, &[first, second], &format!("{parity:?}, call {n}"));
        }
    }
}

/// What an interrupted one has left doesn't stay in the repository that the next one makes.
#[test]
fn one_was_interrupted() {
    for parity in [None, ParityShare::new(50)] {
        for n in 0.. {
            let store: Store = Arc::new(MemoryStore::new());
            let (broken, _) = hooked(&store, n, |_| Err(tresor_testkit::HookedStore::broken()));
            if init(&broken, 0, ParityShare::new(50)).is_ok() {
                break;
            }
            let made = init(&store, 1, parity);
            if matches!(made, Err(Error::RepositoryExists(_))) {
                // The config was there already, and so was the slot.
                Repository::open(store, &password_of(0), &OpenOptions::default()).unwrap();
                continue;
            }
            let what = format!("{parity:?}, call {n}");
            is_of_one(&store, &[Err(Error::RepositoryExists(String::new())), made], &what);
        }
    }
}
