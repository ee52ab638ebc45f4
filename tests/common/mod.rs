//! The built command, run in a folder of its own with a repository and things to save.
#![allow(dead_code, reason = "each test binary uses a part")]

pub mod disks;
pub mod drive;
pub mod files;
pub mod halted;
pub mod leftovers;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tresor_engine::crypto::{KdfCost, Password};
use tresor_engine::format::ParityShare;
use tresor_engine::repo::{InitOptions, Repository};
use tresor_engine::store::{LocalStore, Store};

pub const PASSWORD: &str = "correct horse battery staple";
/// The user and the group of the same number who are nobody.
pub const NOBODY: u32 = 65534;
/// No test may take longer: a drive that hangs would hang the test.
const MOST_SECONDS: u64 = 300;

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether a drive can be mounted here; says so if not.
pub fn can_mount() -> bool {
    let can = is_root() && Path::new("/dev/fuse").exists();
    if !can {
        eprintln!("skipped: this needs root and /dev/fuse");
    }
    can
}

/// Whether a command's system calls can be looked at here; says so if not.
pub fn can_trace() -> bool {
    let there = Command::new("strace").arg("-V").stdout(Stdio::null()).status();
    let can = there.is_ok_and(|status| status.success());
    if !can {
        eprintln!("skipped: this needs strace");
    }
    can
}

/// Whether the test may make what only root can; says so if not.
pub fn can_be_root() -> bool {
    if !is_root() {
        eprintln!("skipped: this needs root");
    }
    is_root()
}

/// A folder with `repo`, `password` and `cache`; commands run in it.
pub struct World {
    folder: TempDir,
}

impl World {
    /// With an empty repository whose password is quick to try.
    pub fn new() -> Self {
        let world = Self::bare();
        world.init();
        world
    }

    /// With two files, `src/good` and `src/bad`, in packs of their own; and the pack of `bad`.
    pub fn in_two_packs() -> (Self, PathBuf) {
        let world = Self::new();
        files::write(world.path("src/good"), files::noise(1, 3 << 20));
        world.ok("backup -q src");
        let before = world.objects("packs");
        files::write(world.path("src/bad"), files::noise(2, 3 << 20));
        world.ok("backup -q src");
        let added = world.objects("packs").into_iter().filter(|pack| !before.contains(pack));
        let pack = added.max_by_key(|pack| pack.metadata().unwrap().len()).unwrap();
        (world, pack)
    }

    /// With an empty repository, for a test that goes on for so long, and then ends as
    /// others do.
    pub fn lasting(work: Duration) -> Self {
        let world = Self::bare_for(work);
        world.init();
        world
    }

    /// Makes the repository.
    pub fn init(&self) {
        self.init_with(None);
    }

    /// Makes it with so much parity.
    pub fn init_with(&self, parity: Option<ParityShare>) {
        let store: Store = Arc::new(LocalStore::new(self.path("repo")));
        let password = Password::new(PASSWORD.into());
        let cost = KdfCost { memory: 8 * 1024, passes: 1, lanes: 1 };
        let options =
            InitOptions { label: "test".into(), cost, parity, chunks: Default::default() };
        Repository::init(&store, &password, &options).unwrap();
    }

    /// Without a repository.
    pub fn bare() -> Self {
        Self::bare_for(Duration::ZERO)
    }

    /// The same, for a test that goes on for so long.
    pub fn bare_for(work: Duration) -> Self {
        let folder = tempfile::Builder::new().prefix("tresor-it-").tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(folder.path().join("password"), format!("{PASSWORD}\n")).unwrap();
        let most = work + Duration::from_secs(MOST_SECONDS);
        std::thread::spawn(move || {
            std::thread::sleep(most);
            eprintln!("a test took longer than {} seconds", most.as_secs());
            std::process::abort();
        });
        Self { folder }
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Path of something in this folder, as it is in a snapshot: without the `/` at its beginning.
    pub fn inside(&self, name: &str) -> String {
        self.path(name).to_str().unwrap()[1..].to_owned()
    }

    /// The command with these words, which hold no blanks, and paths from here.
    pub fn command(&self, words: &str) -> Command {
        let mut command = self.plain(env!("CARGO_BIN_EXE_tresor"));
        command.args(words.split_whitespace());
        command
    }

    /// Some program, with tresor's settings in its environment.
    pub fn plain(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TRESOR_") {
                command.env_remove(name);
            }
        }
        command
            .current_dir(self.folder.path())
            .env("TRESOR_REPOSITORY", self.path("repo"))
            .env("TRESOR_PASSWORD_FILE", self.path("password"))
            .env("TRESOR_CACHE_DIR", self.path("cache"))
            .env("XDG_CACHE_HOME", self.path("xdg-cache"))
            .env("HOME", self.path("home"))
            .env("TZ", "UTC")
            .stdin(Stdio::null());
        command
    }

    /// The command as an ordinary user, with a cache of his own. The built one may
    /// lie where he can't go, so he gets a copy.
    pub fn command_of_nobody(&self, words: &str) -> Command {
        let program = self.path("tresor");
        if !program.exists() {
            let built = env!("CARGO_BIN_EXE_tresor");
            fs::hard_link(built, &program)
                .or_else(|_| fs::copy(built, &program).map(drop))
                .unwrap();
        }
        let mut command = self.as_nobody(program);
        command.args(words.split_whitespace());
        command
    }

    pub fn as_nobody(&self, program: impl AsRef<OsStr>) -> Command {
        let home = self.path("nobody");
        if !home.exists() {
            fs::create_dir(&home).unwrap();
            std::os::unix::fs::chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let mut command = self.plain(program);
        command.env("TRESOR_CACHE_DIR", home.join("cache")).env("HOME", home);
        // With another user the standard library drops the supplementary groups too.
        command.uid(NOBODY).gid(NOBODY);
        command
    }

    pub fn run(&self, words: &str) -> Ran {
        ran(&mut self.command(words))
    }

    /// Standard output of a command that must succeed.
    pub fn ok(&self, words: &str) -> String {
        self.run(words).expect(0).out
    }

    /// Standard error of a command that must end so.
    pub fn fails(&self, code: i32, words: &str) -> String {
        self.run(words).expect(code).err
    }

    /// Everything that is said by a command that must end so.
    pub fn fails_with(&self, code: i32, words: &str) -> String {
        let ran = self.run(words).expect(code);
        ran.out + &ran.err
    }

    /// What a command says with `--json`, line by line.
    pub fn json_lines(&self, words: &str) -> Vec<Value> {
        let ran = self.run(&with_json(words));
        lines(&ran.expect(0).out)
    }

    /// The last line of JSON: the answer, or the summary.
    pub fn json(&self, words: &str) -> Value {
        self.json_lines(words).pop().unwrap()
    }

    /// Bytes of all objects of the repository.
    pub fn stored(&self) -> u64 {
        // One that is only being written may have got its name meanwhile.
        let size = |file: &PathBuf| file.metadata().map_or(0, |m| m.size());
        files::below(&self.path("repo")).iter().map(size).sum()
    }

    /// Objects of a kind that are stored whole. Some folders are made with their first one.
    pub fn objects(&self, kind: &str) -> BTreeSet<PathBuf> {
        let folder = self.path("repo").join(kind);
        let all = if folder.exists() { files::below(&folder) } else { Default::default() };
        all.into_iter()
            .filter(|file| file.file_name().is_some_and(|name| name.len() == 64))
            .collect()
    }

    /// The largest object of a kind.
    pub fn largest(&self, kind: &str) -> PathBuf {
        let size = |path: &PathBuf| path.metadata().unwrap().size();
        self.objects(kind).into_iter().max_by_key(size).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drive::unmount_all_below(self.folder.path());
    }
}

pub fn with_json(words: &str) -> String {
    // What stands behind `--` belongs to others.
    match words.split_once(" -- ") {
        Some((ours, theirs)) => format!("{ours} --json -- {theirs}"),
        None => format!("{words} --json"),
    }
}

pub fn lines(text: &str) -> Vec<Value> {
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in {line}"));
    text.lines().map(parse).collect()
}

/// How a command ended.
pub struct Ran {
    what: String,
    /// Negative: the signal.
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        let Self { what, out, err, .. } = &self;
        assert_eq!(self.code, code, "{what}\n{out}\n{err}");
        self.expect_no_panic()
    }

    #[track_caller]
    pub fn expect_no_panic(self) -> Self {
        assert!(!self.err.contains("panicked"), "{}\n{}", self.what, self.err);
        self
    }
}

pub fn ran(command: &mut Command) -> Ran {
    let child = start(command);
    ended(command, child)
}

/// Starts a command whose output is wanted.
pub fn start(command: &mut Command) -> Child {
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

pub fn ended(command: &Command, child: Child) -> Ran {
    use std::os::unix::process::ExitStatusExt;
    let output = child.wait_with_output().unwrap();
    let signal = |status: std::process::ExitStatus| -status.signal().unwrap_or(999);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let words = command.get_args().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ");
    Ran {
        what: format!("{} {words}", command.get_program().display()),
        code: output.status.code().unwrap_or_else(|| signal(output.status)),
        out: text(&output.stdout),
        err: text(&output.stderr),
    }
}

/// Runs another program that must succeed; its output.
pub fn sh(program: &str, args: &[&dyn AsRef<OsStr>]) -> String {
    let mut command = Command::new(program);
    command.args(args.iter().map(|a| (*a).as_ref())).env("LC_ALL", "C").stdin(Stdio::null());
    ran(&mut command).expect(0).out
}

/// Waits until something is so.
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "not in a minute: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Every word must be in the text.
#[track_caller]
pub fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no {word:?} in: {text}");
    }
}
