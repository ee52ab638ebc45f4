//! The suite. Each test gets an empty store that was created.

use super::*;

pub fn what_is_put_can_be_got(store: Arc<dyn ObjectStore>) {
    for kind in HASHED {
        store.put(&name(kind, 7), format!("{kind:?}").as_bytes()).unwrap();
    }
    store.put(&ObjectName::CONFIG, b"config").unwrap();
    store.put(&pack(8), b"").unwrap();
    store.settle().unwrap();
    for kind in HASHED {
        let text = format!("{kind:?}");
        assert_eq!(store.get(&name(kind, 7)).unwrap(), text.as_bytes());
        assert_eq!(store.get_range(&name(kind, 7), 0, 2).unwrap(), &text.as_bytes()[..2]);
        assert_eq!(store.size(&name(kind, 7)).unwrap(), text.len() as u64);
    }
    assert_eq!(store.get(&ObjectName::CONFIG).unwrap(), b"config");
    assert_eq!(store.get(&pack(8)).unwrap(), b"");
    assert_eq!(store.size(&pack(8)).unwrap(), 0);
}

pub fn what_is_replaced_is_gone(store: Arc<dyn ObjectStore>) {
    for name in HASHED.map(|kind| name(kind, 7)).into_iter().chain([ObjectName::CONFIG]) {
        store.put(&name, b"damaged, and longer").unwrap();
        assert_eq!(store.get_range(&name, 0, 7).unwrap(), b"damaged");
        store.replace(&name, b"as it must be").unwrap();
        store.settle().unwrap();
        assert_eq!(store.get(&name).unwrap(), b"as it must be");
        assert_eq!(store.get_range(&name, 0, 2).unwrap(), b"as");
        assert_eq!(listed(&*store, name.kind), [(name, 13)]);
        // Also what isn't there.
        store.delete(&name).unwrap();
        store.replace(&name, b"new").unwrap();
        assert_eq!(store.get(&name).unwrap(), b"new");
    }
}

pub fn ranges_are_whole_or_an_error(store: Arc<dyn ObjectStore>) {
    store.put(&pack(1), b"0123456789").unwrap();
    for (offset, len, expected) in
        [(0, 10, "0123456789"), (3, 4, "3456"), (9, 1, "9"), (0, 0, ""), (5, 0, ""), (10, 0, "")]
    {
        assert_eq!(store.get_range(&pack(1), offset, len).unwrap(), expected.as_bytes());
    }
    let past_the_end = [
        (0, 11),
        (9, 2),
        (10, 1),
        (11, 1),
        (1 << 40, 1),
        (i64::MAX as u64 - 1, 2),
        (i64::MAX as u64, 1),
        (i64::MAX as u64 + 1, 1),
        (u64::MAX, 1),
        (u64::MAX, usize::MAX),
        (0, 1 << 46),
        (5, isize::MAX as usize),
        (0, usize::MAX),
    ];
    for (offset, len) in past_the_end {
        let result = store.get_range(&pack(1), offset, len);
        assert_eq!(kind(result), StoreErrorKind::Truncated, "{offset}, {len}");
    }
    // Nothing is wanted, so nothing is missing.
    assert_eq!(store.get_range(&pack(1), u64::MAX, 0).unwrap(), b"");
    assert_eq!(store.get_range(&pack(1), 0, 10).unwrap(), b"0123456789");
}

pub fn what_is_too_long_is_not_read(store: Arc<dyn ObjectStore>) {
    for kind in [ObjectKind::Config, ObjectKind::Key] {
        let most = vec![1; kind.max_len() as usize];
        let name = |n| if kind == ObjectKind::Config { ObjectName::CONFIG } else { name(kind, n) };
        store.put(&name(1), &most).unwrap();
        assert!(store.get(&name(1)).unwrap() == most);
        store.delete(&name(1)).unwrap();
        store.put(&name(2), &[&most[..], &[1]].concat()).unwrap();
        let error = store.get(&name(2)).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::TooLong);
        assert!(tresor_engine::Error::from(error).is_damage());
        store.delete(&name(2)).unwrap();
    }
}

pub fn what_isnt_there_is_not_found(store: Arc<dyn ObjectStore>) {
    for name in HASHED.map(|kind| name(kind, 1)).into_iter().chain([ObjectName::CONFIG]) {
        let error = store.get(&name).unwrap_err();
        assert!(error.is_not_found(), "{error}");
        assert!(error.to_string().contains(&name.path()), "{error} names the object");
        assert_eq!(kind(store.get_range(&name, 0, 1)), StoreErrorKind::NotFound);
        assert_eq!(kind(store.get_range(&name, 0, 0)), StoreErrorKind::NotFound);
        assert_eq!(kind(store.size(&name)), StoreErrorKind::NotFound);
        assert_eq!(listed(&*store, name.kind), []);
    }
}

pub fn lists_are_by_kind(store: Arc<dyn ObjectStore>) {
    for kind in HASHED {
        store.put(&name(kind, 200), b"one").unwrap();
        store.put(&name(kind, 100), b"three").unwrap();
    }
    store.put(&ObjectName::CONFIG, b"c").unwrap();
    for kind in HASHED {
        assert_eq!(listed(&*store, kind), [(name(kind, 100), 5), (name(kind, 200), 3)]);
    }
    assert_eq!(listed(&*store, ObjectKind::Config), [(ObjectName::CONFIG, 1)]);
}

pub fn delete_is_idempotent(store: Arc<dyn ObjectStore>) {
    for kind in HASHED {
        let (name, other) = (name(kind, 1), name(kind, 2));
        store.delete(&name).unwrap();
        store.put(&name, b"x").unwrap();
        store.put(&other, b"y").unwrap();
        store.get_range(&name, 0, 1).unwrap();
        store.delete(&name).unwrap();
        store.delete(&name).unwrap();
        store.settle().unwrap();
        assert!(store.get(&name).unwrap_err().is_not_found());
        assert!(store.get_range(&name, 0, 1).unwrap_err().is_not_found());
        assert_eq!(listed(&*store, kind), [(other, 1)]);
        store.put(&name, b"again").unwrap();
        assert_eq!(store.get_range(&name, 0, 5).unwrap(), b"again");
    }
}

pub fn putting_again_changes_nothing(store: Arc<dyn ObjectStore>) {
    for kind in HASHED {
        store.put(&name(kind, 1), b"first").unwrap();
        store.put(&name(kind, 1), b"other").unwrap();
        assert_eq!(store.get(&name(kind, 1)).unwrap(), b"first");
    }
    store.put(&ObjectName::CONFIG, b"first").unwrap();
    let again = store.put(&ObjectName::CONFIG, b"other");
    assert_eq!(kind(again), StoreErrorKind::AlreadyExists);
    assert_eq!(store.get(&ObjectName::CONFIG).unwrap(), b"first");
}

pub fn only_one_config_wins(store: Arc<dyn ObjectStore>) {
    let won: Vec<_> = std::thread::scope(|scope| {
        let put = |n: u8| {
            let store = &store;
            scope.spawn(move || store.put(&ObjectName::CONFIG, &[n; 1000]).ok().map(|()| n))
        };
        let threads: Vec<_> = (0..8).map(put).collect();
        threads.into_iter().filter_map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(won.len(), 1);
    assert_eq!(store.get(&ObjectName::CONFIG).unwrap(), [won[0]; 1000]);
}

pub fn an_empty_store_can_be_created_again(store: Arc<dyn ObjectStore>) {
    store.create().unwrap();
    // What an interrupted init leaves, or the slot of somebody who is about to store the config.
    store.put(&name(ObjectKind::Key, 1), b"slot").unwrap();
    store.create().unwrap();
    assert_eq!(store.get(&name(ObjectKind::Key, 1)).unwrap(), b"slot");
}

pub fn a_repository_is_not_created_over(store: Arc<dyn ObjectStore>) {
    store.put(&name(ObjectKind::Key, 1), b"slot").unwrap();
    store.put(&ObjectName::CONFIG, b"config").unwrap();
    assert_eq!(kind(store.create()), StoreErrorKind::AlreadyExists);
    assert_eq!(store.get(&name(ObjectKind::Key, 1)).unwrap(), b"slot");
}

/// Somebody who has lost the config, and tries `init`, must not lose the keys.
pub fn a_repository_without_config_is_not_created_over(store: Arc<dyn ObjectStore>) {
    store.put(&name(ObjectKind::Key, 1), b"slot").unwrap();
    for kind_of in [ObjectKind::Pack, ObjectKind::Index, ObjectKind::Snapshot] {
        store.put(&name(kind_of, 1), b"x").unwrap();
        assert_eq!(kind(store.create()), StoreErrorKind::AlreadyExists, "{kind_of:?}");
        assert_eq!(store.get(&name(ObjectKind::Key, 1)).unwrap(), b"slot");
        store.delete(&name(kind_of, 1)).unwrap();
    }
}

pub fn sweep_takes_no_object(store: Arc<dyn ObjectStore>) {
    HASHED.iter().for_each(|kind| store.put(&name(*kind, 1), b"x").unwrap());
    store.put(&ObjectName::CONFIG, b"c").unwrap();
    assert_eq!(store.sweep(Duration::ZERO).unwrap(), (0, 0));
    assert!(HASHED.iter().all(|kind| store.get(&name(*kind, 1)).is_ok()));
    assert!(store.get(&ObjectName::CONFIG).is_ok());
}

/// Writers, some of the same object, while others list, read and delete.
pub fn many_threads_at_once(store: Arc<dyn ObjectStore>) {
    const LEN: usize = 100_000;
    let writers = AtomicUsize::new(4);
    let write = |thread: u8| {
        for n in 0..20 {
            for object in [n, 100 + 20 * thread + n] {
                store.put(&pack(object), &[object; LEN]).unwrap();
            }
            store.settle().unwrap();
            store.delete(&pack(100 + 20 * thread + n.saturating_sub(1))).unwrap();
        }
        writers.fetch_sub(1, SeqCst);
    };
    let look = || {
        while writers.load(SeqCst) > 0 {
            for (name, len) in store.list(ObjectKind::Pack).unwrap() {
                assert_eq!(len, LEN as u64, "half an object is listed");
                match store.get_range(&name, LEN as u64 - 1, 1) {
                    Ok(byte) => assert_eq!(byte, [name.id.0[0]]),
                    Err(e) => assert!(e.is_not_found() && name.id.0[0] >= 100, "{e}"),
                }
            }
        }
    };
    std::thread::scope(|scope| {
        (0..4).for_each(|thread| drop(scope.spawn(move || write(thread))));
        (0..2).for_each(|_| drop(scope.spawn(look)));
    });
    let left = listed(&*store, ObjectKind::Pack);
    let shared = (0..20).map(|n| (pack(n), LEN as u64));
    let last = (0..4).map(|thread| (pack(100 + 20 * thread + 19), LEN as u64));
    assert_eq!(left, shared.chain(last).collect::<Vec<_>>());
}
