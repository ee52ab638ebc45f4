//! How a drive is to be mounted, whatever it is mounted through.

use std::path::PathBuf;
use std::time::Duration;

use crate::{OnError, OwnDrive};

/// What a system has nothing for is refused, or, if it is only shown, left out.
pub struct MountOptions {
    /// Let other users in; the system then checks what was recorded of permissions.
    pub allow_other: bool,
    /// A user of Windows, by name or number, who may use the drive beside the one who mounted it.
    pub reader: Option<String>,
    /// What `df` and `mount` show as the source, behind `tresor:`. Windows shows only a label.
    pub source: String,
    /// Folder of the repository, if it is a local one.
    pub repository: Option<PathBuf>,
    /// Unmount when nothing has been asked for as long as this. Not on Windows yet.
    pub idle_exit: Option<Duration>,
    /// Will be the drive.
    pub own: OwnDrive,
    /// Told of each operation that fails for want of data, and, once, of what is passed over.
    pub on_error: OnError,
}
