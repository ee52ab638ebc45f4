//! Drives whose programs are killed while they are being mounted: the next one can be mounted in
//! the same place, and nothing stays there.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::drive::{is_mounted, mounts_below};
use crate::common::*;
use crate::rounds;

/// One way to mount a drive, and who does it.
struct Way {
    w: World,
    by_nobody: bool,
    /// The words before the mount point.
    mount: String,
    /// It is killed within so many milliseconds: as many as make it be mounted about every other
    /// time.
    window: f64,
    rng: fastrand::Rng,
}

impl Way {
    fn new(by_nobody: bool, mount: &str) -> Self {
        let w = World::bare_for(Duration::from_secs(5 * rounds()));
        w.init();
        files::write(w.path("src/file"), files::noise(1, 100_000));
        w.ok("backup -q src");
        fs::create_dir(w.path("mnt")).unwrap();
        if by_nobody {
            sh("chown", &[&"-R", &"65534:65534", &w.path("repo"), &w.path("mnt"), &w.path("src")]);
        }
        let rng = fastrand::Rng::new();
        Self { w, by_nobody, mount: mount.into(), window: 100.0, rng }
    }

    fn command(&self, words: &str) -> Command {
        if self.by_nobody { self.w.command_of_nobody(words) } else { self.w.command(words) }
    }

    fn run(&self, words: &str) -> Ran {
        ran(&mut self.command(words)).expect_no_panic()
    }

    /// All programs that run for this world: they have its folder in their environment.
    fn running(&self) -> Vec<Pid> {
        let repo = self.w.path("repo");
        let is_ours = |folder: &Path| {
            let environment = fs::read(folder.join("environ")).unwrap_or_default();
            environment
                .windows(repo.as_os_str().len())
                .any(|part| part == repo.as_os_str().as_bytes())
        };
        let all = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        let number = |folder: &Path| folder.file_name()?.to_str()?.parse().ok();
        all.filter(|folder| is_ours(folder)).filter_map(|f| Pid::from_raw(number(&f)?)).collect()
    }

    /// Kills some or all of what is at work on a mount, at any moment.
    fn kill(&mut self) {
        let mut command = self.command(&format!("{} mnt", self.mount));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(self.window as u64).mul_f64(self.rng.f64()));
        let mut running = self.running();
        self.rng.shuffle(&mut running);
        if self.rng.bool() {
            running.truncate(1);
        }
        for process in running {
            // It may have ended meanwhile.
            let _ = kill_process(process, Signal::KILL);
        }
        if !self.mount.contains("--background") {
            let _ = child.kill();
        }
        // Who has started another process doesn't wait for a dead one.
        wait_until("it has ended", || child.try_wait().unwrap().is_some());
    }

    /// Unmounts what is there. A process that finds nobody who wants its drive does so itself.
    #[track_caller]
    fn unmount(&self) {
        let ran = self.run("umount mnt");
        assert!(ran.code == 0 || ran.err.contains("no drive is mounted"), "{}", ran.err);
    }

    /// Mounts a drive where perhaps another one is: does what it is told to do then.
    #[track_caller]
    fn mount_again(&self) {
        let words = format!("{} mnt", self.mount.replace(" --background", "") + " --background");
        for _ in 0..5 {
            let ran = self.run(&words);
            if ran.code == 0 {
                return;
            }
            assert!(ran.code == 1 && ran.err.contains("`tresor umount "), "{}", ran.err);
            self.unmount();
        }
        panic!("it can't be mounted");
    }

    /// Whether there was a drive when it was killed.
    #[track_caller]
    fn round(&mut self) -> bool {
        let point = self.w.path("mnt");
        self.kill();
        let mounted = is_mounted(&point);
        self.window = if mounted { self.window / 1.3 } else { self.window * 1.3 };
        self.mount_again();
        let file = point.join(self.w.inside("src/file"));
        // For a moment that of a process may cover it whose starter is dead.
        let is_read = || ran(&mut self.cat(&file)).out.len() == 100_000;
        wait_until("it is read", is_read);
        wait_until("all have ended", || {
            self.unmount();
            self.running().is_empty()
        });
        // One that was killed below another one stays until it is cleared, too.
        mounts_below(&point).iter().for_each(|_| drop(self.run("umount mnt").expect(0)));
        assert!(!is_mounted(&point) && files::names(&point).is_empty());
        mounted
    }

    /// Nobody else may read what nobody has mounted.
    fn cat(&self, file: &Path) -> Command {
        let mut command =
            if self.by_nobody { self.w.as_nobody("cat") } else { self.w.plain("cat") };
        command.arg(file);
        command
    }

    #[track_caller]
    fn go_on(mut self) {
        let mounted = (0..rounds()).filter(|_| self.round()).count();
        eprintln!("{}: mounted when it was killed {mounted} times of {}", self.mount, rounds());
        // Of a few it says nothing.
        assert!(rounds() < 50 || mounted as u64 * 5 >= rounds(), "killed too early");
        assert!(rounds() < 50 || (rounds() - mounted as u64) * 5 >= rounds(), "killed too late");
    }
}

#[test]
fn a_mount_that_was_killed_is_followed_by_another() {
    if can_mount() {
        Way::new(false, "mount latest").go_on();
    }
}

#[test]
fn so_is_one_in_the_background() {
    if can_mount() {
        Way::new(false, "mount --background latest").go_on();
    }
}

#[test]
fn so_is_that_of_an_ordinary_user() {
    if !can_mount() {
        return;
    }
    if !Path::new("/usr/bin/fusermount3").exists() {
        return eprintln!("skipped: this needs fusermount3");
    }
    // As it is on any machine that has udev.
    sh("chmod", &[&"666", &"/dev/fuse"]);
    Way::new(true, "mount --background latest").go_on();
}

#[test]
fn so_is_one_through_nfs() {
    let systems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !is_root() || !systems.contains("\tnfs\n") || !Path::new("/sbin/mount.nfs").exists() {
        return eprintln!("skipped: this needs root and a kernel with NFS");
    }
    Way::new(false, "mount --via nfs latest").go_on();
}

/// Who waits for an answer of his own can't be killed, and as long as he is there his drive is,
/// too, and answers nobody.
#[test]
fn a_drive_asks_itself_nothing() {
    if !can_mount() || !can_trace() {
        return;
    }
    let Way { w, .. } = Way::new(false, "");
    let point = w.path("mnt");
    let mut command = w.plain("strace");
    command.args(["-f", "-qq", "-e", "trace=%file", "-o", "calls"]);
    command.args([env!("CARGO_BIN_EXE_tresor"), "mount", "latest", "mnt"]);
    let child = start(&mut command);
    wait_until("it is mounted", || is_mounted(&point));
    let read = fs::read(point.join(w.inside("src/file"))).unwrap();
    assert_eq!(read.len(), 100_000);
    w.ok("umount mnt");
    ended(&command, child).expect(0);
    let calls = fs::read_to_string(w.path("calls")).unwrap();
    let is_mount = |call: &&str| call.contains(" mount(") && call.ends_with("= 0");
    let after = calls.lines().skip_while(|call| !is_mount(call));
    let to_point: Vec<_> = after.filter(|call| call.contains(point.to_str().unwrap())).collect();
    assert_eq!(to_point.len(), 1, "{to_point:#?}");
}

/// It may go on later, or never.
#[test]
fn a_drive_that_stands_still_holds_nobody_up() {
    if !can_mount() {
        return;
    }
    let Way { w, .. } = Way::new(false, "");
    let drive = w.mount("latest", "mnt");
    drive.signal(Signal::STOP);
    let start = Instant::now();
    says(&w.fails(1, "mount latest mnt"), &["mnt already; `tresor umount "]);
    says(&w.fails(1, "mount --background latest mnt"), &["mnt already; `tresor umount "]);
    w.ok("umount mnt");
    assert!(start.elapsed() < Duration::from_secs(20));
    drive.signal(Signal::CONT);
    drive.ended().expect(0);
}
