//! A disk that keeps what a power loss would leave of it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use fastrand::Rng;
use tresor_engine::format::{ObjectId, ObjectKind, ObjectName};
use tresor_engine::store::{Disk, MemoryStore, OsDisk, Store};

/// A file's bytes, or a folder.
pub type Entry = Option<Arc<Vec<u8>>>;

/// What is on the platter, and changed names that may or may not be: path, and
/// what it now stands for, if anything.
#[derive(Clone, Default)]
pub struct Platter {
    durable: BTreeMap<PathBuf, Entry>,
    pending: Vec<(PathBuf, Option<Entry>)>,
}

impl Platter {
    fn apply(&mut self, path: PathBuf, entry: Option<Entry>) {
        match entry {
            Some(entry) => drop(self.durable.insert(path, entry)),
            None => drop(self.durable.remove(&path)),
        }
    }

    /// After the power failed: each change of a name may have been lost.
    pub fn after(mut self, rng: &mut Rng, share: f64) -> BTreeMap<PathBuf, Entry> {
        for (path, entry) in std::mem::take(&mut self.pending) {
            if rng.f64() < share {
                self.apply(path, entry);
            }
        }
        self.durable
    }
}

/// Does what the system does, and keeps what a power loss would leave after each call, with
/// what had been reported by then.
pub struct Watched<R> {
    platter: Mutex<Platter>,
    reported: Mutex<Arc<R>>,
    images: Mutex<Vec<(Platter, Arc<R>)>>,
}

impl<R: Clone> Watched<R> {
    pub fn new(reported: R) -> Arc<Self> {
        let reported = Mutex::new(Arc::new(reported));
        Arc::new(Self { platter: Mutex::default(), reported, images: Mutex::default() })
    }

    pub fn report(&self, change: impl FnOnce(&mut R)) {
        change(Arc::make_mut(&mut self.reported.lock().unwrap()));
    }

    /// Everything that was done so far is there for certain.
    pub fn everything_is_there(&self) {
        let mut platter = self.platter.lock().unwrap();
        for (path, entry) in std::mem::take(&mut platter.pending) {
            platter.apply(path, entry);
        }
        self.images.lock().unwrap().clear();
    }

    /// What there was after each call, and what there is when nothing more is done.
    pub fn images(&self) -> Vec<(Platter, Arc<R>)> {
        self.change(|_| {});
        std::mem::take(&mut *self.images.lock().unwrap())
    }

    fn renamed(&self, from: &Path, to: &Path) -> io::Result<()> {
        let entry = Some(Arc::new(std::fs::read(to)?));
        self.change(|p| {
            p.pending.push((to.into(), Some(entry)));
            p.pending.push((from.into(), None));
        });
        Ok(())
    }

    fn change(&self, changes: impl FnOnce(&mut Platter)) {
        let mut platter = self.platter.lock().unwrap();
        changes(&mut platter);
        let reported = self.reported.lock().unwrap().clone();
        self.images.lock().unwrap().push((platter.clone(), reported));
    }
}

impl<R: Clone + Send + Sync> Disk for Watched<R> {
    fn write_new(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        std::fs::write(path, data)?;
        let entry = Some(Arc::new(data.to_vec()));
        self.change(|p| p.pending.push((path.into(), Some(entry))));
        Ok(())
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.rename_new(from, to)?;
        self.renamed(from, to)
    }

    fn rename_over(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.rename_over(from, to)?;
        self.renamed(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove(path)?;
        self.change(|p| p.pending.push((path.into(), None)));
        Ok(())
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        OsDisk.make_dir(path)?;
        self.change(|p| p.pending.push((path.into(), Some(None))));
        Ok(())
    }

    fn make_dir_above(&self, path: &Path) -> io::Result<()> {
        OsDisk.make_dir_above(path)?;
        self.change(|p| p.pending.push((path.into(), Some(None))));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let is_in = |change: &(PathBuf, _)| change.0.parent() == Some(dir);
        if !self.platter.lock().unwrap().pending.iter().any(is_in) {
            return Ok(());
        }
        self.change(|p| {
            for (path, entry) in std::mem::take(&mut p.pending) {
                match path.parent() == Some(dir) {
                    true => p.apply(path, entry),
                    false => p.pending.push((path, entry)),
                }
            }
        });
        Ok(())
    }

    fn sync_file(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

/// The objects of an image: files whose folders are all there.
pub fn store_of_image(image: &BTreeMap<PathBuf, Entry>, root: &Path) -> Store {
    let store: Store = Arc::new(MemoryStore::new());
    for (path, entry) in image {
        let Some(bytes) = entry else { continue };
        let folders = path.ancestors().skip(1).take_while(|a| a.starts_with(root));
        if !folders.into_iter().all(|f| image.contains_key(f)) {
            continue;
        }
        let id = path.file_name().unwrap().to_str().unwrap().parse::<ObjectId>();
        let kinds = ObjectKind::ALL.into_iter().filter(|k| *k != ObjectKind::Config);
        let name = match id {
            Ok(id) => kinds
                .map(|kind| ObjectName::new(kind, id))
                .find(|n| root.join(n.path()) == *path)
                .unwrap(),
            Err(_) if path.ends_with("config") => ObjectName::CONFIG,
            Err(_) => continue,
        };
        store.put(&name, bytes).unwrap();
    }
    store
}
