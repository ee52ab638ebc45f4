//! What one try of a password costs: a wrong one never less than a right one, whatever is
//! tried. Counted in memory that is asked for, as Argon2 asks for its own at each run.

#[path = "prune/world.rs"]
#[allow(dead_code, reason = "each test binary uses a part")]
mod world;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use tresor_engine::Error;
use tresor_engine::crypto::{KdfCost, Password};
use tresor_engine::format::{ObjectKind, ObjectName};
use tresor_engine::repo::{OpenOptions, Repository};
use tresor_engine::store::Store;

use world::*;

/// Runs of Argon2 with at least this much memory: nothing else here asks for so much at once.
const RUN: usize = 8 << 20;
static RUNS: AtomicUsize = AtomicUsize::new(0);
static ASKED: AtomicUsize = AtomicUsize::new(0);
/// Tests of one process would count each other's.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: it passes on to the system's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= RUN {
            RUNS.fetch_add(1, SeqCst);
            ASKED.fetch_add(layout.size(), SeqCst);
        }
        // SAFETY: as the caller has promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller has promised.
        unsafe { System.dealloc(at, layout) }
    }
}

fn word(text: &str) -> Password {
    Password::new(text.as_bytes().to_vec())
}

/// Runs of Argon2 that a try takes, their memory, and whether it opens.
fn cost_of(store: &Store, password: &Password) -> (usize, usize, bool) {
    let before = (RUNS.load(SeqCst), ASKED.load(SeqCst));
    let opened = match Repository::open(store.clone(), password, &OpenOptions::default()) {
        Ok(_) => true,
        Err(Error::WrongPassword(_)) => false,
        Err(e) => panic!("{e}"),
    };
    (RUNS.load(SeqCst) - before.0, ASKED.load(SeqCst) - before.1, opened)
}

/// Wrong in every way: nothing is refused before it is hashed.
fn wrong() -> Vec<Password> {
    let right = tresor_testkit::password();
    let mut almost = right.to_vec();
    *almost.last_mut().unwrap() ^= 1;
    let mut wrong = vec![Password::new(almost), Password::new(right[..right.len() - 1].to_vec())];
    wrong.extend([
        word(""),
        word("x"),
        word(&"long ".repeat(10_000)),
        Password::new(vec![0xff; 40]),
    ]);
    wrong
}

#[test]
fn a_wrong_password_takes_all_slots() {
    let _alone = ONE_AT_A_TIME.lock().unwrap();
    for slots in [1, 3] {
        let store = new_store();
        let mut asked = RUN;
        for n in 1..slots {
            // Of different costs: each is paid in full.
            let cost = KdfCost { memory: (8 + n as u32) << 10, passes: 1, lanes: 1 };
            open(&store).add_key(&word(&format!("another {n}")), "another", cost).unwrap();
            asked += (8 + n) << 20;
        }
        for password in wrong() {
            let (runs, memory, opened) = cost_of(&store, &password);
            assert_eq!((runs, opened), (slots, false), "{slots} slots");
            assert!(memory >= asked, "{memory} of {asked} bytes");
        }
        // A right one is done when its slot is reached; each of them by itself.
        let mut words = vec![tresor_testkit::password()];
        words.extend((1..slots).map(|n| word(&format!("another {n}"))));
        let mut runs: Vec<_> = words.iter().map(|p| cost_of(&store, p)).collect();
        assert!(runs.iter().all(|(.., opened)| *opened));
        runs.sort_unstable();
        let runs: Vec<_> = runs.into_iter().map(|(runs, ..)| runs).collect();
        assert_eq!(runs, (1..=slots).collect::<Vec<_>>());
    }
}

/// A slot that opens to something that is no master key, or is of another repository, is
/// hashed all the same.
#[test]
fn a_slot_of_another_repository_is_tried_in_full() {
    let _alone = ONE_AT_A_TIME.lock().unwrap();
    let (store, other) = (new_store(), new_store());
    let (name, _) = other.list(ObjectKind::Key).unwrap()[0];
    store.put(&name, &other.get(&name).unwrap()).unwrap();
    let (own, _) =
        store.list(ObjectKind::Key).unwrap().into_iter().find(|(n, _)| *n != name).unwrap();
    store.delete(&ObjectName::new(ObjectKind::Key, own.id)).unwrap();
    assert_eq!(cost_of(&store, &tresor_testkit::password()).0, 1);
    assert!(!cost_of(&store, &tresor_testkit::password()).2);
}

/// And by the clock, with a wide margin.
#[test]
fn a_wrong_password_takes_as_long() {
    let _alone = ONE_AT_A_TIME.lock().unwrap();
    let store = new_store();
    let time = |password: &Password| {
        let start = Instant::now();
        cost_of(&store, password);
        start.elapsed()
    };
    let right = tresor_testkit::password();
    let wrong = wrong();
    // The least of ever more tries, taken by turns: others may be at work on this machine.
    let mut least = vec![Duration::MAX; 1 + wrong.len()];
    for _ in 0..50 {
        for (least, password) in least.iter_mut().zip(std::iter::once(&right).chain(&wrong)) {
            *least = time(password).min(*least);
        }
        if least[1..].iter().all(|wrong| *wrong * 2 > least[0]) {
            return;
        }
    }
    panic!("a right one takes {:?}, and wrong ones {:?}", least[0], &least[1..]);
}
