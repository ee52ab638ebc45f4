//! The drive of this program, for whoever ends it while others do something else.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::system::{Mount, MountError};

/// Known from before it is mounted until the program ends.
#[derive(Clone, Default)]
pub struct OwnDrive(Arc<Mutex<Option<Mount>>>);

impl OwnDrive {
    fn mount(&self) -> MutexGuard<'_, Option<Mount>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Mounts it. Who ends it meanwhile waits until it is known what to end.
    pub(crate) fn mounting<T, E>(
        &self,
        mount: impl FnOnce() -> Result<(T, Mount), E>,
    ) -> Result<T, E> {
        let mut own = self.mount();
        let (mounted, known) = mount()?;
        *own = Some(known);
        Ok(mounted)
    }

    /// Unmounts it and nothing else, unless that has been done; whether it was ever mounted. A
    /// lazy one goes as soon as nothing on it is in use.
    pub fn unmount(&self, lazy: bool) -> Result<bool, MountError> {
        match &*self.mount() {
            Some(mount) => mount.unmount(lazy).map(|()| true),
            None => Ok(false),
        }
    }
}
