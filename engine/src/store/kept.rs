//! Files of a local store that are kept open: reading a part of a pack opens none.

use std::fs::{File, Metadata};
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use lru::LruCache;

use crate::format::ObjectName;

const OPEN_FILES: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// After this time it is looked whether another process has put another file in a kept
/// one's place.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

pub struct KeptFiles(Mutex<LruCache<ObjectName, Kept>>);

/// An open file.
struct Kept {
    file: Arc<OpenFile>,
    stamp: Stamp,
    looked: Instant,
}

/// What files differ in of which one has replaced the other: a copy may be as long, and have
/// the same time.
type Stamp = (u64, Option<SystemTime>, u64);

fn stamp(meta: &Metadata) -> Stamp {
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(meta);
    #[cfg(not(unix))]
    let inode = 0;
    (meta.len(), meta.modified().ok(), inode)
}

impl KeptFiles {
    pub fn new() -> Self {
        Self(Mutex::new(LruCache::new(OPEN_FILES)))
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<ObjectName, Kept>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The file of an object, opened if it isn't kept.
    pub fn get(&self, name: &ObjectName, path: &Path) -> io::Result<Arc<OpenFile>> {
        // Looking may take long, and others shall not wait for that.
        let kept = self.lock().get_mut(name).map(|kept| {
            let due = kept.looked.elapsed() >= LOOK_AGAIN;
            if due {
                kept.looked = Instant::now();
            }
            (kept.file.clone(), due.then_some(kept.stamp))
        });
        if let Some((file, look)) = kept
            && !look.is_some_and(|stamp| is_replaced(path, stamp))
        {
            return Ok(file);
        }
        let (file, meta) = open(path)?;
        let file = Arc::new(OpenFile::from(file));
        let kept = Kept { file: file.clone(), stamp: stamp(&meta), looked: Instant::now() };
        self.lock().put(*name, kept);
        Ok(file)
    }

    /// No longer keeps it; who reads from it reads on.
    pub fn close(&self, name: &ObjectName) {
        self.lock().pop(name);
    }
}

/// One that is gone is not: as long as it is kept open, it can be read.
fn is_replaced(path: &Path, before: Stamp) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| stamp(&meta) != before)
}

/// Opens an object, and tells its length. A FIFO or a device in its place is an error,
/// and nothing to wait for.
pub fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
    }
    let file = options.open(path)?;
    let meta = file.metadata()?;
    if meta.is_file() {
        return Ok((file, meta));
    }
    Err(io::Error::other("it is no file"))
}

/// Where reads have places of their own, they don't wait for each other.
#[cfg(unix)]
pub type OpenFile = File;
#[cfg(not(unix))]
pub type OpenFile = Mutex<File>;

#[cfg(unix)]
pub fn length(file: &OpenFile) -> io::Result<u64> {
    Ok(file.metadata()?.len())
}

#[cfg(not(unix))]
pub fn length(file: &OpenFile) -> io::Result<u64> {
    Ok(file.lock().unwrap_or_else(|e| e.into_inner()).metadata()?.len())
}

#[cfg(unix)]
pub fn read_at(file: &OpenFile, len: usize, offset: u64) -> io::Result<Vec<u8>> {
    // Not zeroed first: large reads are what restoring consists of.
    let mut buffer = Vec::with_capacity(len);
    while buffer.len() < len {
        let at = offset + buffer.len() as u64;
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut buffer), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    // The allocator may have given more room than was asked for.
    buffer.truncate(len);
    Ok(buffer)
}

#[cfg(not(unix))]
pub fn read_at(file: &OpenFile, len: usize, offset: u64) -> io::Result<Vec<u8>> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = file.lock().unwrap_or_else(|e| e.into_inner());
    file.seek(SeekFrom::Start(offset))?;
    let mut buffer = vec![0; len];
    file.read_exact(&mut buffer)?;
    Ok(buffer)
}
