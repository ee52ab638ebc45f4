//! Objects as files in a directory: a disk, a NAS, a USB stick.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::disk::{Disk, OsDisk};
use super::kept::{KeptFiles, length, open, read_at};
use super::{ObjectStore, StoreError, StoreErrorKind};
use crate::format::{ObjectId, ObjectKind, ObjectName, Time};
use crate::workers::lock;

/// Files being written are called so until they are whole.
const TEMP_PREFIX: &str = ".tmp-";
/// Before this much is allocated, the file is asked whether it is so long.
const LARGE_READ: usize = 1 << 20;

pub struct LocalStore {
    root: PathBuf,
    disk: Arc<dyn Disk>,
    /// Directories whose names are not on the disk for certain.
    unsettled: Mutex<BTreeSet<PathBuf>>,
    /// Held while settling.
    settling: Mutex<()>,
    kept: KeptFiles,
}

impl LocalStore {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self::with_disk(root, Arc::new(OsDisk))
    }

    /// For tests that inject faults.
    pub fn with_disk(root: impl Into<PathBuf>, disk: Arc<dyn Disk>) -> Self {
        Self {
            root: root.into(),
            disk,
            unsettled: Mutex::default(),
            settling: Mutex::default(),
            kept: KeptFiles::new(),
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, name: &ObjectName) -> PathBuf {
        self.root.join(name.path())
    }

    fn changed(&self, dir: &Path) {
        lock(&self.unsettled).insert(dir.to_owned());
    }

    fn make_dirs(&self, dir: &Path) -> io::Result<()> {
        match self.disk.make_dir(dir) {
            Ok(()) => {
                if let Some(parent) = dir.parent() {
                    self.changed(parent);
                }
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
            Err(e)
                if e.kind() == io::ErrorKind::NotFound
                    && dir.starts_with(&self.root)
                    && dir != self.root =>
            {
                self.make_dirs(dir.parent().unwrap_or(&self.root))?;
                self.make_dirs(dir)
            }
            Err(e) => Err(e),
        }
    }

    /// The folders that the root is in, from the inside out.
    fn above(&self) -> impl Iterator<Item = &Path> {
        self.root.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty())
    }

    /// Makes those that aren't there.
    fn make_above(&self) -> io::Result<()> {
        let mut missing: Vec<_> = self.above().take_while(|above| !above.is_dir()).collect();
        while let Some(folder) = missing.pop() {
            match self.disk.make_dir_above(folder) {
                Ok(()) => folder.parent().into_iter().for_each(|parent| self.changed(parent)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// What leads to the root may have been made a moment ago by somebody who forced nothing to
    /// the disk. Not everybody may open all of that, and a part may be on what nobody can write.
    fn force_above(&self) -> io::Result<()> {
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        self.above().try_for_each(|above| match self.disk.sync_dir(above) {
            Err(e) if matches!(e.kind(), PermissionDenied | ReadOnlyFilesystem) => Ok(()),
            other => other,
        })
    }

    /// Where the repository's disk isn't mounted, its root may be an empty folder of another
    /// disk, on which nothing must be saved.
    fn has_folders(&self) -> bool {
        self.root.join(ObjectKind::Key.folder()).is_dir()
    }

    /// A name for a file that is being written.
    fn temp_in(&self, dir: &Path) -> io::Result<PathBuf> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        Ok(dir.join(format!("{TEMP_PREFIX}{:016x}", u64::from_le_bytes(random))))
    }

    /// Writes a temporary file and gives it its name with `rename`.
    fn write(
        &self,
        path: &Path,
        data: &[u8],
        rename: impl FnOnce(&Path, &Path) -> io::Result<()>,
    ) -> io::Result<()> {
        let dir = path.parent().unwrap_or(&self.root);
        let temp = self.temp_in(dir)?;
        let written = match self.disk.write_new(&temp, data) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.has_folders() => {
                self.make_dirs(dir)?;
                self.disk.write_new(&temp, data)
            }
            other => other,
        };
        let result = written.and_then(|()| rename(&temp, path));
        // Not before it has its name: another thread may settle meanwhile.
        self.changed(dir);
        // Another process may have made the folder and not settled.
        if let Some(parent) = dir.parent().filter(|p| p.starts_with(&self.root)) {
            self.changed(parent);
        }
        if result.is_err() {
            let _ = self.disk.remove(&temp);
        }
        result
    }

    fn read_range(&self, name: &ObjectName, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let file = self.kept.get(name, &self.path(name))?;
        if len == 0 {
            return Ok(Vec::new());
        }
        let end = offset.checked_add(len as u64).filter(|end| *end <= i64::MAX as u64);
        let too_short = match end {
            None => true,
            Some(end) => len > LARGE_READ && length(&file)? < end,
        };
        if too_short {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        read_at(&file, len, offset)
    }

    fn visit(
        &self,
        kind: ObjectKind,
        mut object: impl FnMut(ObjectName, &Metadata),
    ) -> Result<(), StoreError> {
        self.folders(kind).iter().try_for_each(|folder| self.visit_dir(folder, kind, &mut object))
    }

    fn visit_dir(
        &self,
        dir: &Path,
        kind: ObjectKind,
        object: &mut impl FnMut(ObjectName, &Metadata),
    ) -> Result<(), StoreError> {
        let fail = |e: io::Error| self.error("list", dir, &e);
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            // Folders that are made when needed hold nothing yet. Any other one that is
            // missing has been lost, and what it held must not be taken for deleted.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return match self.is_made_when_needed(kind) {
                    true => Ok(()),
                    false => Err(self.folder_is_missing(kind, &self.root.join(kind.folder()), &e)),
                };
            }
            Err(e) => return Err(fail(e)),
        };
        for entry in entries {
            let entry = entry.map_err(fail)?;
            let file_name = entry.file_name();
            let Some(Ok(id)) = file_name.to_str().map(str::parse::<ObjectId>) else { continue };
            let name = ObjectName::new(kind, id);
            if self.path(&name).parent() != Some(dir) {
                continue;
            }
            match entry.metadata() {
                Ok(meta) if meta.is_file() => object(name, &meta),
                Ok(_) => {}
                // Deleted meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(fail(e)),
            }
        }
        Ok(())
    }

    /// What an error with a file or folder of the repository means: all of it may be gone.
    fn error(&self, op: &'static str, path: &Path, error: &io::Error) -> StoreError {
        let what = path.display().to_string();
        if error.kind() != io::ErrorKind::NotFound || self.has_folders() {
            return StoreError::io(op, what, error);
        }
        let message = format!(
            "{error}: there is no repository in {} any more. Its folder was moved away or its disk is not mounted; what was saved there isn't lost by that: bring it back and run this again",
            self.root.display()
        );
        StoreError::new(StoreErrorKind::NotFound, op, what, message)
    }

    /// Says what to do about it, if only that folder is missing.
    fn folder_is_missing(&self, kind: ObjectKind, folder: &Path, error: &io::Error) -> StoreError {
        if !self.root.join("config").is_file() {
            return self.error("list", folder, error);
        }
        let what = folder.display().to_string();
        let way_out = match kind {
            ObjectKind::Key => "without it nothing can be opened",
            _ => {
                "or let `tresor repair index` make it again, empty: that brings nothing back that was in it"
            }
        };
        let message =
            format!("this folder of the repository is gone: put it back from a copy; {way_out}");
        StoreError::new(StoreErrorKind::NotFound, "list", what, message)
    }

    /// Whether this folder for objects of this kind may be missing.
    fn is_made_when_needed(&self, kind: ObjectKind) -> bool {
        match kind {
            ObjectKind::Pack => self.root.join(kind.folder()).is_dir(),
            ObjectKind::Forgotten | ObjectKind::Parity => self.root.is_dir(),
            _ => false,
        }
    }

    fn taken(&self, message: &str) -> StoreError {
        let root = self.root.display().to_string();
        StoreError::new(StoreErrorKind::AlreadyExists, "create", root, message)
    }

    /// An interrupted init leaves key slots at most. Where there is more, a
    /// repository has lost its config.
    fn refuse_without_config(&self) -> Result<(), StoreError> {
        for kind in
            [ObjectKind::Snapshot, ObjectKind::Index, ObjectKind::Pack, ObjectKind::Forgotten]
        {
            match self.list(kind) {
                Ok(objects) if objects.is_empty() => {}
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
                Ok(_) => {
                    return Err(self.taken(
                        "there is a repository whose `config` file is gone; put that back from a copy, or choose another folder",
                    ));
                }
            }
        }
        Ok(())
    }

    fn folders(&self, kind: ObjectKind) -> Vec<PathBuf> {
        match kind {
            ObjectKind::Config => vec![self.root.clone()],
            kind if kind.is_spread() => {
                let folder = self.root.join(kind.folder());
                (0..=255u8).map(|b| folder.join(format!("{b:02x}"))).collect()
            }
            kind => vec![self.root.join(kind.folder())],
        }
    }
}

impl ObjectStore for LocalStore {
    fn put(&self, name: &ObjectName, data: &[u8]) -> Result<(), StoreError> {
        let path = self.path(name);
        let fail = |e: io::Error| self.error("write", &path, &e);
        match self.write(&path, data, |temp, path| self.disk.rename_new(temp, path)) {
            // Names are hashes: the bytes are there, perhaps not yet for certain.
            Err(e)
                if e.kind() == io::ErrorKind::AlreadyExists && name.kind != ObjectKind::Config =>
            {
                self.disk.sync_file(&path).map_err(fail)
            }
            other => other.map_err(fail),
        }
    }

    fn replace(&self, name: &ObjectName, data: &[u8]) -> Result<(), StoreError> {
        let path = self.path(name);
        let written = self.write(&path, data, |temp, path| self.disk.rename_over(temp, path));
        self.kept.close(name);
        written.map_err(|e| self.error("write", &path, &e))
    }

    fn get(&self, name: &ObjectName) -> Result<Vec<u8>, StoreError> {
        let path = self.path(name);
        let fail = |e: io::Error| self.error("read", &path, &e);
        let (file, meta) = open(&path).map_err(fail)?;
        let len = meta.len();
        let most = name.kind.max_len();
        let mut bytes = Vec::with_capacity(len.min(most) as usize);
        if len <= most {
            file.take(most + 1).read_to_end(&mut bytes).map_err(fail)?;
        }
        // It may have grown meanwhile.
        match len.max(bytes.len() as u64) {
            len if len > most => {
                Err(StoreError::too_long(path.display().to_string(), name.kind, len))
            }
            _ => Ok(bytes),
        }
    }

    fn get_range(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        let mut result = self.read_range(name, offset, len);
        if result.is_err() {
            // A kept handle may have outlived its mount, or be of a damaged file
            // that was replaced since.
            self.kept.close(name);
            result = self.read_range(name, offset, len);
        }
        result.map_err(|e| self.error("read", &self.path(name), &e))
    }

    fn size(&self, name: &ObjectName) -> Result<u64, StoreError> {
        let path = self.path(name);
        let meta = std::fs::metadata(&path);
        meta.map(|m| m.len()).map_err(|e| StoreError::io("look up", path.display().to_string(), &e))
    }

    fn list(&self, kind: ObjectKind) -> Result<Vec<(ObjectName, u64)>, StoreError> {
        let mut out = Vec::new();
        if kind == ObjectKind::Config {
            return match self.size(&ObjectName::CONFIG) {
                Ok(size) => Ok(vec![(ObjectName::CONFIG, size)]),
                Err(e) if e.is_not_found() && self.root.is_dir() => Ok(out),
                Err(e) => Err(e),
            };
        }
        self.visit(kind, |name, meta| out.push((name, meta.len())))?;
        Ok(out)
    }

    fn added_since(&self, kind: ObjectKind, time: Time) -> Result<Vec<ObjectName>, StoreError> {
        let mut out = Vec::new();
        let late = |meta: &Metadata| arrival(meta).is_none_or(|arrived| arrived >= time);
        self.visit(kind, |name, meta| out.extend(late(meta).then_some(name)))?;
        Ok(out)
    }

    /// The time that a file written now gets: on a share that of its server.
    fn clock(&self) -> Option<Time> {
        // Where everybody writes who writes anything.
        let temp = self.temp_in(&self.root.join(ObjectKind::Index.folder())).ok()?;
        let time = self.disk.write_new(&temp, b"").and_then(|()| std::fs::metadata(&temp));
        let _ = self.disk.remove(&temp);
        Time::from_system(time.and_then(|meta| meta.modified()).ok()?)
    }

    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        let path = self.path(name);
        self.kept.close(name);
        match self.disk.remove(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(StoreError::io("delete", path.display().to_string(), &e)),
            Ok(()) => {
                self.changed(path.parent().unwrap_or(&self.root));
                Ok(())
            }
        }
    }

    fn settle(&self) -> Result<(), StoreError> {
        // What another thread is syncing may be the caller's, and must be waited for.
        let _one_at_a_time = lock(&self.settling);
        let mut dirs = lock(&self.unsettled).clone();
        // What other processes wrote there is relied on once it is listed, and they may
        // have crashed before they settled. Packs need no such care: their folders were
        // settled before an index object named them.
        dirs.extend([ObjectKind::Index, ObjectKind::Snapshot].map(|k| self.root.join(k.folder())));
        // Taken out first: what changes while we sync must be synced again.
        for dir in dirs {
            lock(&self.unsettled).remove(&dir);
            match self.disk.sync_dir(&dir) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    let error = StoreError::io("write", dir.display().to_string(), &e);
                    self.changed(&dir);
                    return Err(error);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn settle_all(&self) -> Result<(), StoreError> {
        for kind in ObjectKind::ALL.into_iter().filter(|kind| kind.is_spread()) {
            self.folders(kind).iter().for_each(|folder| self.changed(folder));
            self.changed(&self.root.join(kind.folder()));
        }
        self.settle()
    }

    fn sweep(&self, age: Duration) -> Result<(u64, u64), StoreError> {
        let (mut files, mut bytes) = (0, 0);
        // By one clock: a host whose own is fast would remove what is being written.
        let Some(now) = self.clock() else { return Ok((0, 0)) };
        let oldest = now.seconds.saturating_sub_unsigned(age.as_secs());
        for dir in ObjectKind::ALL.into_iter().flat_map(|kind| self.folders(kind)) {
            let Ok(entries) = std::fs::read_dir(&dir) else { continue };
            for entry in entries.flatten() {
                let old = |m: &Metadata| {
                    m.modified()
                        .ok()
                        .and_then(Time::from_system)
                        .is_some_and(|t| t.seconds <= oldest)
                };
                let is_temp = entry.file_name().to_str().is_some_and(is_temp);
                let Ok(meta) = entry.metadata() else { continue };
                if is_temp && old(&meta) && self.disk.remove(&entry.path()).is_ok() {
                    files += 1;
                    bytes += meta.len();
                }
            }
        }
        Ok((files, bytes))
    }

    fn create(&self) -> Result<(), StoreError> {
        let fail = |e: io::Error| StoreError::io("create", self.root.display().to_string(), &e);
        match std::fs::read_dir(&self.root) {
            Ok(entries) => {
                // What an interrupted init has left may be taken over.
                let ours = |name: &str| {
                    ObjectKind::ALL.iter().any(|kind| kind.folder() == name && !name.is_empty())
                };
                for entry in entries {
                    let entry = entry.map_err(fail)?;
                    let known = entry.file_name().to_str().is_some_and(|n| ours(n) || is_temp(n));
                    if !known {
                        return Err(self.taken(
                            "the folder is not empty; a repository needs a folder of its own",
                        ));
                    }
                }
                self.refuse_without_config()?;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.make_above().map_err(fail)?;
                self.make_dirs(&self.root).map_err(fail)?;
            }
            Err(e) => return Err(fail(e)),
        }
        self.force_above().map_err(fail)?;
        for kind in [ObjectKind::Key, ObjectKind::Pack, ObjectKind::Index, ObjectKind::Snapshot] {
            self.make_dirs(&self.root.join(kind.folder())).map_err(fail)?;
        }
        Ok(())
    }

    fn make_folders(&self) -> Result<Vec<ObjectKind>, StoreError> {
        let mut made = Vec::new();
        for kind in [ObjectKind::Pack, ObjectKind::Index, ObjectKind::Snapshot] {
            let folder = self.root.join(kind.folder());
            match self.disk.make_dir(&folder) {
                Ok(()) => made.push(kind),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
                Err(e) => return Err(StoreError::io("create", folder.display().to_string(), &e)),
            }
        }
        if !made.is_empty() {
            self.changed(&self.root);
            self.settle()?;
        }
        Ok(made)
    }

    #[cfg(unix)]
    fn space(&self) -> Option<(u64, u64)> {
        let stat = rustix::fs::statvfs(&self.root).ok()?;
        Some((stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize))
    }

    fn describe(&self) -> String {
        self.root.display().to_string()
    }
}

/// When a file came to where it is. Its own time may be that of an original; the other
/// one is set by the system, and can't be set back.
fn arrival(meta: &Metadata) -> Option<Time> {
    #[cfg(unix)]
    let set_by_system = {
        use std::os::unix::fs::MetadataExt;
        Some(Time::new(meta.ctime(), u32::try_from(meta.ctime_nsec()).unwrap_or(0)))
    };
    #[cfg(not(unix))]
    let set_by_system = meta.created().ok().and_then(Time::from_system);
    set_by_system.max(meta.modified().ok().and_then(Time::from_system))
}

fn is_temp(file_name: &str) -> bool {
    let random = file_name.strip_prefix(TEMP_PREFIX);
    random.is_some_and(|r| r.len() == 16 && r.bytes().all(|b| b.is_ascii_hexdigit()))
}
