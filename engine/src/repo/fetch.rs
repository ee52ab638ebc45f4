//! Asking for what needs no fetching: who must not wait tries so first.

use std::cell::Cell;

use crate::error::{Error, Result};

thread_local! {
    static FORBIDDEN: Cell<bool> = const { Cell::new(false) };
}

/// Does `work` on this thread without reading from the store: what is not in
/// memory makes it fail with [`Error::WouldFetch`].
pub fn without_fetching<T>(work: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            FORBIDDEN.set(self.0);
        }
    }
    let _restore = Restore(FORBIDDEN.replace(true));
    work()
}

/// To be asked before anything is read from the store, and before waiting for
/// somebody else who reads it.
pub fn may_fetch() -> Result<()> {
    if FORBIDDEN.get() { Err(Error::WouldFetch) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_forbidden_inside_only() {
        assert!(may_fetch().is_ok());
        without_fetching(|| {
            without_fetching(|| assert!(matches!(may_fetch(), Err(Error::WouldFetch))));
            assert!(may_fetch().is_err());
            assert!(std::thread::spawn(|| may_fetch().is_ok()).join().unwrap());
        });
        assert!(may_fetch().is_ok());
    }
}
