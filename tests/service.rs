//! `service`: drives that the system keeps mounted, with a systemd of the test's own.
#![cfg(target_os = "linux")]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::files::*;
use common::*;
use rustix::process::Signal;

const SYSTEMD: &str = "/lib/systemd/systemd";
const PRIVATE: u32 = 0o600;

/// systemd as it runs for a user who has logged in. What it and its services mount is seen only
/// by what is run [inside](Self::inside).
struct Session<'a> {
    w: &'a World,
    systemd: Child,
}

impl<'a> Session<'a> {
    fn new(w: &'a World) -> Self {
        for folder in ["home", "run"] {
            fs::create_dir_all(w.path(folder)).unwrap();
            fs::set_permissions(w.path(folder), Permissions::from_mode(0o700)).unwrap();
        }
        // There is no journal.
        let said = format!("[Service]\nStandardError=append:{}\n", w.path("said").display());
        write(w.path("home/.config/systemd/user/service.d/said.conf"), said);
        // It only starts where systemd has started the machine, and this is how it knows.
        let script = format!(
            "mount -t tmpfs none /run/systemd && mkdir /run/systemd/system && exec {SYSTEMD} --user"
        );
        let mut command = w.plain("unshare");
        command.args(["-m", "sh", "-c", &script]);
        let systemd = Self::settings(w, &mut command);
        let systemd = systemd.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let session = Self { w, systemd };
        wait_until("systemd runs", || {
            // Not before the child has left for its own mounts.
            w.path("run/systemd/private").exists()
                && ran(&mut session.inside("systemctl --user is-system-running")).code == 0
        });
        session
    }

    fn settings<'c>(w: &World, command: &'c mut Command) -> &'c mut Command {
        command.env("XDG_RUNTIME_DIR", w.path("run")).env_remove("XDG_CONFIG_HOME")
    }

    /// A command that sees the drives.
    fn inside(&self, words: &str) -> Command {
        let mut command = self.w.plain("nsenter");
        let target = self.systemd.id().to_string();
        // As a path, or it would be the folder below the drive.
        let here = format!("--wdns={}", self.w.path("").display());
        command.args(["-t", &target, "-m", &here]).args(words.split_whitespace());
        Self::settings(self.w, &mut command);
        command
    }

    fn tresor(&self, words: &str) -> Command {
        self.inside(&format!("{} {words}", env!("CARGO_BIN_EXE_tresor")))
    }

    fn ok(&self, words: &str) -> String {
        ran(&mut self.inside(words)).expect(0).out
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        signal(&self.systemd, Signal::TERM);
        let _ = self.systemd.wait();
    }
}

fn with_backup() -> World {
    let w = World::new();
    write(w.path("src/file"), "what is in it");
    w.ok("backup -q src");
    for point in ["mnt", "a $HOME 100% \"drive\""] {
        fs::create_dir(w.path(point)).unwrap();
    }
    w
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn a_drive_that_systemd_keeps_mounted() {
    if !can_mount() || !Path::new(SYSTEMD).exists() {
        return eprintln!("skipped: this needs root, FUSE and systemd");
    }
    let w = with_backup();
    let session = Session::new(&w);
    let file = format!("cat mnt/snapshots/latest/{}", w.inside("src/file"));
    let unit = w.path("home/.config/systemd/user/tresor-restore.service");

    // A password that others can read is none to be used for ever.
    let install = "service install --user restore mnt";
    let said = ran(&mut session.tresor(install)).expect(1).err;
    says(&said, &["others can read", "password"]);
    fs::set_permissions(w.path("password"), Permissions::from_mode(PRIVATE)).unwrap();
    let installed = ran(&mut session.tresor(install));
    let heard = fs::read_to_string(w.path("said")).unwrap_or_default();
    assert_eq!(installed.code, 0, "{} {heard}", installed.err);
    let said = installed.out;
    says(&said, &["systemctl --user stop tresor-restore.service", "service remove restore"]);
    assert_eq!(session.ok(&file), "what is in it");
    let text = fs::read_to_string(&unit).unwrap();
    says(&text, &["--password-file", w.path("password").to_str().unwrap()]);
    assert!(!text.contains(PASSWORD));

    let listed = || ran(&mut session.tresor("service list --user")).expect(0).out;
    assert_eq!(listed(), "restore  running\n");
    let json = ran(&mut session.tresor("--json service list --user")).expect(0).out;
    assert_eq!(lines(&json)[0]["name"], "restore");
    assert_eq!(lines(&json)[0]["running"], true);
    says(&ran(&mut session.tresor(install)).expect(1).err, &["restore already", "remove restore"]);

    // Killed, it comes back by itself, and clears what it has left.
    session.ok("systemctl --user kill -s KILL tresor-restore.service");
    session.ok("systemctl --user restart tresor-restore.service");
    assert_eq!(session.ok(&file), "what is in it");

    // Stopped in good order: nothing is mounted, and nothing has failed.
    session.ok("systemctl --user stop tresor-restore.service");
    let shown = "systemctl --user show -P Result -P ActiveState tresor-restore.service";
    assert_eq!(session.ok(shown), "success\ninactive\n");
    assert_eq!(ran(&mut session.inside("mountpoint -q mnt")).code, 32);
    assert_eq!(listed(), "restore  stopped\n");
    session.ok("systemctl --user start tresor-restore.service");
    assert_eq!(session.ok(&file), "what is in it");

    // Unmounted by somebody, it stays away.
    ran(&mut session.tresor("umount mnt")).expect(0);
    wait_until("it has ended", || session.ok(shown) == "success\ninactive\n");

    ran(&mut session.tresor("service remove --user restore")).expect(0);
    assert!(!unit.exists() && listed().is_empty());
    let said = ran(&mut session.tresor("service remove --user restore")).expect(1).err;
    says(&said, &["no service restore"]);
}

/// With a password that is asked for, or is in the environment, and names that mean something
/// to systemd.
#[test]
fn a_password_that_is_kept() {
    if !can_mount() || !Path::new(SYSTEMD).exists() {
        return eprintln!("skipped: this needs root, FUSE and systemd");
    }
    let w = with_backup();
    let session = Session::new(&w);
    let point = w.path("a $HOME 100% \"drive\"");
    let kept = w.path("home/.config/tresor/services/odd.password");
    let install = || {
        let mut command = session.tresor("service install --user odd latest");
        command.arg(&point).env_remove("TRESOR_PASSWORD_FILE").env("TRESOR_PASSWORD", PASSWORD);
        command
    };
    ran(&mut install()).expect(0);
    assert_eq!(fs::read_to_string(&kept).unwrap(), format!("{PASSWORD}\n"));
    assert_eq!((mode(&kept), mode(kept.parent().unwrap())), (PRIVATE, 0o700));
    let mut read = session.inside("cat");
    let read = read.arg(point.join(w.inside("src/file")));
    assert_eq!(ran(read).expect(0).out, "what is in it");
    ran(&mut session.tresor("service remove --user odd")).expect(0);
    assert!(!kept.exists());

    // A drive that can't be there leaves nothing behind, and says where to look.
    fs::write(point.join("taken"), "").unwrap();
    let said = ran(&mut install()).expect(1).err;
    says(&said, &["odd doesn't start", "journalctl --user -u tresor-odd.service"]);
    says(&fs::read_to_string(w.path("said")).unwrap(), &["drive\" is not empty"]);
    assert!(!kept.exists());
    assert_eq!(ran(&mut session.tresor("service list --user")).expect(0).out, "");

    // Neither does a wrong password, a name that means nothing, or a snapshot that isn't there.
    let mut wrong = install();
    ran(wrong.env("TRESOR_PASSWORD", "no")).expect(12);
    for (words, said) in [
        ("Odd mnt", "can't be the name"),
        ("../odd mnt", "can't be the name"),
        ("odd 0123abcd mnt", "0123abcd"),
    ] {
        let mut command = session.tresor(&format!("service install --user {words}"));
        let command = command.env_remove("TRESOR_PASSWORD_FILE").env("TRESOR_PASSWORD", PASSWORD);
        says(&ran(command).expect(1).err, &[said]);
        assert!(!kept.exists());
    }
}

#[test]
fn without_systemd_it_says_so() {
    let w = with_backup();
    fs::set_permissions(w.path("password"), Permissions::from_mode(PRIVATE)).unwrap();
    let mut command = w.command("service install --user restore mnt");
    command.env("PATH", w.path("nothing")).env_remove("XDG_CONFIG_HOME");
    let said = ran(&mut command).expect(1).err;
    says(&said, &["no `systemctl`", "tresor mount"]);
    assert!(!w.path("home/.config/systemd/user/tresor-restore.service").exists());
}

/// In place of systemctl: a script that does this when a unit is to be started.
fn systemctl(w: &World, script: &str) {
    let text = format!("#!/bin/sh\ncase \" $* \" in *\" enable \"*) {script};; esac\n");
    write(w.path("bin/systemctl"), text);
    fs::set_permissions(w.path("bin/systemctl"), Permissions::from_mode(0o755)).unwrap();
}

fn with_systemctl(w: &World, words: &str) -> Command {
    let mut command = w.command(words);
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:{path}", w.path("bin").display()));
    command.env_remove("XDG_CONFIG_HOME").env_remove("TRESOR_PASSWORD_FILE");
    command.env("TRESOR_PASSWORD", PASSWORD);
    command
}

#[test]
fn no_password_is_left_when_it_is_interrupted() {
    let w = with_backup();
    let kept = w.path("home/.config/tresor/services/half.password");
    let unit = w.path("home/.config/systemd/user/tresor-half.service");
    let install = || ran(&mut with_systemctl(&w, "service install --user half latest mnt"));
    let remove = || ran(&mut with_systemctl(&w, "service remove --user half"));

    systemctl(&w, "kill -TERM $PPID; sleep 1");
    install().expect(130);
    assert!(!kept.exists() && !unit.exists());

    // Killed, it can't tidy up; `remove` does.
    systemctl(&w, "kill -KILL $PPID; sleep 1");
    install();
    assert!(kept.exists() && unit.exists());
    fs::remove_file(&unit).unwrap();
    remove().expect(0);
    assert!(!kept.exists());
    says(&remove().expect(1).err, &["no service half"]);
}

/// `sudo -E` keeps the environment of another user, whose folders are not root's.
#[test]
fn a_service_of_root_has_folders_of_root() {
    if !can_mount() || !Path::new("/etc/systemd/system").exists() {
        return eprintln!("skipped: this needs root, and a folder of systemd's to cover");
    }
    let w = with_backup();
    fs::set_permissions(w.path("password"), Permissions::from_mode(PRIVATE)).unwrap();
    systemctl(&w, "true");
    let mut command = w.plain("unshare");
    let line = format!(
        "mount -t tmpfs none /etc/systemd/system && PATH={}:$PATH {} service install -q half mnt && \
         cat /etc/systemd/system/tresor-half.service",
        w.path("bin").display(),
        env!("CARGO_BIN_EXE_tresor")
    );
    command.args(["-m", "sh", "-c", &line]);
    command.env("XDG_CACHE_HOME", w.path("home/caches"));
    command.env_remove("TRESOR_CACHE_DIR").env_remove("TRESOR_STATE_DIR");
    let unit = ran(&mut command).expect(0).out;
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let root = users.lines().find(|line| line.split(':').nth(2) == Some("0")).unwrap();
    let home = root.split(':').nth(5).unwrap();
    says(&unit, &[&format!("{home}/.cache/tresor"), &format!("{home}/.local/state/tresor")]);
    assert!(!unit.contains(w.path("home").to_str().unwrap()), "{unit}");
}
