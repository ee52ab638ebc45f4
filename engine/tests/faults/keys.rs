//! Passwords that are added, removed and changed.

use std::sync::mpsc;

use tresor_engine::Result;

use super::*;

pub(super) fn other_password() -> Password {
    Password::new(b"battery staple".to_vec())
}

/// The old password opens it whatever happens, and once `work` is done, perhaps only the
/// second time, whether the other one does is decided.
pub(super) fn of_keys(
    base: &Store,
    faults: &[Fault],
    work: impl Fn(&Arc<Repository>) -> Result<()>,
    other_opens: bool,
    look: impl Fn(&Store, &Result<()>, Fault, &str),
) {
    let client = Client::new();
    client.is_content(base, "at first");
    every_call(base, 2, faults, &work, |store, result, fault, what| {
        look(store, &result, fault, what);
        client.twin().is_content(store, what);
        if result.is_err() {
            work(&open(store)).unwrap();
        }
        assert_eq!(try_open(store, &other_password()).is_some(), other_opens, "{what}");
    });
}

/// Everything is there and whole.
fn all_whole(kept: &Kept) -> impl Fn(&Store, &Result<()>, Fault, &str) {
    |store, _, _, what| assert_whole(&open(store), kept, what)
}

pub(super) fn add(repo: &Arc<Repository>) -> Result<()> {
    repo.add_key(&other_password(), "second", COST).map(drop)
}

/// What was reported as not added doesn't open it, unless nobody could remove it.
pub(super) fn opens_if_added(store: &Store, result: &Result<()>, fault: Fault, what: &str) {
    let opens = try_open(store, &other_password()).is_some();
    assert!(result.is_ok() || fault.ends_all() || !opens, "{what}: reported as not added");
}

#[test]
fn a_key_is_added() {
    let (base, kept, _) = three_snapshots();
    of_keys(&base, &Fault::ALL, add, true, |store, result, fault, what| {
        all_whole(&kept)(store, result, fault, what);
        opens_if_added(store, result, fault, what);
    });
}

#[test]
fn a_key_is_removed() {
    let (base, kept, _) = three_snapshots();
    let id = open(&base).add_key(&other_password(), "second", COST).unwrap();
    let remove = |repo: &Arc<Repository>| repo.remove_key(&id);
    of_keys(&base, &Fault::ALL, remove, false, all_whole(&kept));
}

/// Two processes each remove what the other one has opened the repository with: whatever
/// one has done when the other one is through, somebody can open it.
#[test]
fn two_keys_remove_each_other() {
    let (base, kept, _) = three_snapshots();
    let first = open(&base).key_slots().unwrap()[0].id;
    let second = open(&base).add_key(&other_password(), "second", COST).unwrap();
    let (mut neither, mut one) = (0, 0);
    for at in 0.. {
        let store = copy(&base);
        let other = try_open(&store, &other_password()).unwrap();
        let (removed, answer) = mpsc::channel();
        let repo = open_over(&store, |store| {
            at_call(store, at, move || removed.send(other.remove_key(&first).is_ok()).unwrap())
        });
        let result = repo.remove_key(&second);
        drop(repo);
        let Ok(other_result) = answer.try_recv() else { break };
        let what = format!("call {at}: {result:?}, the other one {other_result}");
        let by_first = try_open(&store, &password());
        let by_second = try_open(&store, &other_password());
        neither += usize::from(result.is_err() && !other_result);
        one += usize::from(result.is_ok() != other_result);
        assert!(!(result.is_ok() && other_result), "{what}");
        let repo = by_first.or(by_second).unwrap_or_else(|| panic!("{what}: locked out"));
        assert_whole(&repo, &kept, &what);
    }
    assert!(one > 2, "{one}, {neither}");
}

#[test]
fn the_password_is_changed() {
    let (base, kept, _) = three_snapshots();
    let client = Client::new();
    client.is_content(&base, "at first");
    let change = |repo: &Arc<Repository>| repo.change_password(&other_password(), "new", COST);
    every_call(&base, 4, &Fault::ALL, change, |store, result, _, what| {
        let opened = || (try_open(store, &password()), try_open(store, &other_password()));
        let (old, new) = opened();
        if result.is_ok() {
            assert!(new.is_some() && old.is_none(), "{what}");
        }
        // Done again with the old one as long as that opens it, it is done.
        if let Some(repo) = &old {
            change(repo).unwrap();
        }
        let repo = new.or(old).unwrap_or_else(|| panic!("{what}: locked out"));
        assert_whole(&repo, &kept, what);
        let (old, new) = opened();
        assert!(new.is_some() && old.is_none(), "{what}, and again");
        let mut client = client.twin();
        client.password = other_password;
        client.is_content(store, what);
    });
}
