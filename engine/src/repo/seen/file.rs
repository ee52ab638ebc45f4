//! The state file: one for each repository, replaced as a whole.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::state::State;

/// What a state file begins with; the hash of the rest follows.
const MAGIC: &[u8] = b"tresor state 1\n";
/// How long another process may hold the lock. It takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

pub(super) struct StateFile {
    path: PathBuf,
    repository: [u8; 16],
}

impl StateFile {
    pub fn new(folder: &Path, repository: [u8; 16]) -> Self {
        let name: String = repository.iter().map(|b| format!("{b:02x}")).collect();
        Self { path: folder.join(name), repository }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `None` if there is none; the error says in words why it is of no use.
    pub fn load(&self) -> Result<Option<State>, String> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            // Below something that is no folder there is nothing either.
            Err(e)
                if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
            {
                return Ok(None);
            }
            Err(e) => return Err(format!("can't be read ({e})")),
        };
        let damaged = || "is damaged".to_owned();
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(damaged)?;
        let (hash, text) = rest.split_first_chunk::<32>().ok_or_else(damaged)?;
        if blake3::hash(text).as_bytes() != hash {
            return Err(damaged());
        }
        let state: State = minicbor::decode(text).map_err(|_| damaged())?;
        if state.repository != self.repository {
            return Err("is that of another repository".into());
        }
        Ok(Some(state))
    }

    /// Changes what is there, which another process may have changed meanwhile. If it is of
    /// no use, `known` takes its place. Returns what is there now.
    pub fn update(&self, known: &State, change: &dyn Fn(&mut State)) -> io::Result<State> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        make_folder(folder)?;
        let _lock = self.lock()?;
        let before = self.load().ok().flatten();
        let mut state = before.clone().unwrap_or_else(|| known.clone());
        state.repository = self.repository;
        change(&mut state);
        if before.as_ref() != Some(&state) {
            self.save(folder, &state)?;
        }
        Ok(state)
    }

    fn save(&self, folder: &Path, state: &State) -> io::Result<()> {
        let text = minicbor::to_vec(state).map_err(io::Error::other)?;
        // Made with mode 0600.
        let mut file = tempfile::Builder::new().prefix(".tmp-").tempfile_in(folder)?;
        file.write_all(MAGIC)?;
        file.write_all(blake3::hash(&text).as_bytes())?;
        file.write_all(&text)?;
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|e| e.error)?;
        Ok(())
    }

    fn lock(&self) -> io::Result<File> {
        let mut options = File::options();
        options.write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(self.path.with_extension("lock"))?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE => {
                    std::thread::sleep(POLL);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "another process holds its lock",
                    ));
                }
                // A file system without locks: the worst is that a sight gets lost.
                Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {
                    return Ok(file);
                }
                Err(TryLockError::Error(e)) => return Err(e),
            }
        }
    }
}

fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}
