//! `mount --via nfs`: the whole program, with the programs of libnfs as its clients.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::drive::is_mounted;
use common::files::*;
use common::*;
use rustix::process::Signal;
use serde_json::Value;

/// A drive that is served while this lives.
struct Served {
    command: Command,
    child: Option<Child>,
    said: Value,
}

impl Served {
    fn new(w: &World, words: &str) -> Self {
        Self::with(w.command(&format!("--json mount --via nfs {words}")))
    }

    fn with(mut command: Command) -> Self {
        let mut child = start(&mut command);
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            panic!("{}", ended(&command, child).err);
        }
        Self { command, child: Some(child), said: serde_json::from_str(&line).unwrap() }
    }

    fn port(&self) -> u64 {
        self.said["port"].as_u64().unwrap()
    }

    fn url(&self, path: &str) -> String {
        let (port, export) = (self.port(), self.said["export"].as_str().unwrap());
        format!("nfs://127.0.0.1{export}/{path}?version=3&nfsport={port}&mountport={port}")
    }

    /// Runs a program of libnfs with the address of something on the drive.
    fn client(&self, program: &str, path: &str) -> std::process::Output {
        Command::new(program).arg(self.url(path)).output().unwrap()
    }

    #[track_caller]
    fn cat(&self, path: &str) -> Vec<u8> {
        let done = self.client("nfs-cat", path);
        assert!(done.status.success(), "{path}: {}", String::from_utf8_lossy(&done.stderr));
        done.stdout
    }

    /// Entries of a directory, as a line about each: mode, links, owner, group, size.
    fn list(&self, path: &str) -> BTreeMap<String, String> {
        let done = self.client("nfs-ls", path);
        assert!(done.status.success(), "{path}: {}", String::from_utf8_lossy(&done.stderr));
        let text = String::from_utf8(done.stdout).unwrap();
        let entry = |line: &str| {
            let (mut rest, mut fields) = (line, Vec::new());
            for _ in 0..5 {
                let (field, behind) = rest.trim_start().split_once(' ').unwrap();
                fields.push(field);
                rest = behind;
            }
            (rest.to_owned(), fields.join(" "))
        };
        text.lines().map(entry).collect()
    }

    fn signal(&self, with: Signal) {
        signal(self.child.as_ref().unwrap(), with);
    }

    fn ended(mut self) -> Ran {
        ended(&self.command, self.child.take().unwrap())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether the programs of libnfs are there; says so if not.
fn has_client() -> bool {
    let has = Command::new("nfs-ls").output().is_ok();
    if !has {
        eprintln!("skipped: this needs the package libnfs-utils");
    }
    has
}

/// A file as `nfs-ls` shows it.
fn as_listed(path: &Path) -> String {
    let meta = path.symlink_metadata().unwrap();
    let bits = meta.permissions().mode();
    let kind = match meta.file_type() {
        kind if kind.is_dir() => "d",
        kind if kind.is_symlink() => "l",
        kind if kind.is_fifo() => "",
        _ => "-",
    };
    let letters = ["r", "w", "x"].iter().cycle().enumerate().take(9);
    let mode: String =
        letters.map(|(n, letter)| if bits >> (8 - n) & 1 == 1 { letter } else { "-" }).collect();
    let links = if meta.is_dir() { 1 } else { meta.nlink() };
    let size = if meta.is_dir() { 0 } else { meta.len() };
    format!("{kind}{mode} {links} {} {} {size}", meta.uid(), meta.gid())
}

/// Compares a folder with what is on the drive at this path.
fn compare(served: &Served, at: &str, folder: &Path) {
    let listed = served.list(&format!("{at}/"));
    let expected = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let expected: BTreeMap<_, _> = expected
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), as_listed(&path)))
        .collect();
    assert_eq!(listed, expected);
    for name in listed.keys() {
        let (path, inside) = (folder.join(name), format!("{at}/{name}"));
        let kind = path.symlink_metadata().unwrap().file_type();
        if kind.is_dir() {
            compare(served, &inside, &path);
        } else if kind.is_file() {
            assert!(served.cat(&inside) == fs::read(&path).unwrap(), "{inside}");
        }
    }
}

#[test]
fn what_was_saved_is_what_a_client_sees() {
    if !has_client() {
        return;
    }
    let w = World::new();
    for n in 0..60 {
        write(w.path(format!("src/folder/{}/file {n}", n % 7)), noise(n, 1 + 5000 * n as usize));
    }
    write(w.path("src/Grüße"), "ä");
    write(w.path("src/empty"), "");
    symlink("folder/1", w.path("src/link")).unwrap();
    sh("mkfifo", &[&w.path("src/fifo")]);
    fs::hard_link(w.path("src/Grüße"), w.path("src/folder/second name")).unwrap();
    for (name, mode) in [("src/empty", 0o600), ("src/folder/1", 0o700), ("src/folder", 0o751)] {
        fs::set_permissions(w.path(name), Permissions::from_mode(mode)).unwrap();
    }
    if is_root() {
        chown(w.path("src/empty"), Some(12), Some(34)).unwrap();
    }
    w.ok("backup -q src");
    let served = Served::new(&w, "latest -");
    compare(&served, &w.inside("src"), &w.path("src"));
    // Nobody writes.
    let done = Command::new("nfs-cp")
        .args([w.path("src/Grüße").to_str().unwrap(), &served.url("new")])
        .output()
        .unwrap();
    says(&String::from_utf8_lossy(&done.stderr), &["NFS3ERR_ROFS"]);

    let all = Served::new(&w, "");
    assert_eq!(all.list("").len(), 4);
    compare(&all, &format!("snapshots/latest/{}", w.inside("src")), &w.path("src"));
    compare(&all, &format!("@today/{}", w.inside("src/folder/2")), &w.path("src/folder/2"));
    says(&String::from_utf8(all.cat(".tresor-status")).unwrap(), &["\"errors\": 0"]);
    write(w.path("src/later"), "later");
    w.ok("backup -q src");
    let later = format!("snapshots/latest/{}", w.inside("src/later"));
    wait_until("the new snapshot", || all.client("nfs-cat", &later).stdout == b"later");
}

#[test]
fn a_large_file_and_many_small_ones() {
    if !has_client() {
        return;
    }
    let w = World::new();
    write(w.path("src/large"), noise(1, 200 << 20));
    for n in 0..50_000 {
        if n == 0 {
            fs::create_dir_all(w.path("src/many")).unwrap();
        }
        fs::write(w.path(format!("src/many/{n:05}")), "").unwrap();
    }
    w.ok("backup -q src");
    let served = Served::new(&w, "latest -");
    let names: Vec<String> = served.list(&w.inside("src/many/")).into_keys().collect();
    let expected: Vec<String> = (0..50_000).map(|n| format!("{n:05}")).collect();
    assert!(names == expected);
    let copy = w.path("copy");
    let done = Command::new("nfs-cp")
        .args([served.url(&w.inside("src/large")), copy.display().to_string()])
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    sh("cmp", &[&copy, &w.path("src/large")]);
}

#[test]
fn damage_concerns_what_lies_in_it() {
    if !has_client() {
        return;
    }
    let (w, pack) = World::in_two_packs();
    flip(&pack, pack.metadata().unwrap().len() / 2);
    let served = Served::new(&w, "latest -");
    let at = |name: &str| format!("{}/{name}", w.inside("src"));
    let bad = served.client("nfs-cat", &at("bad"));
    assert!(bad.stdout != noise(2, 3 << 20) && !bad.status.success());
    assert!(served.cat(&at("good")) == noise(1, 3 << 20));
    assert_eq!(served.list(&at("")).len(), 2);
    served.signal(Signal::TERM);
    says(&served.ended().expect(0).err, &["src/bad", "damaged"]);
}

#[test]
fn other_users_are_not_let_in() {
    if !can_be_root() || !has_client() {
        return;
    }
    let w = World::new();
    write(w.path("src/file"), "text");
    fs::set_permissions(w.path("src/file"), Permissions::from_mode(0o600)).unwrap();
    w.ok("backup -q src");
    let file = w.inside("src/file");
    let read_by_nobody = |served: &Served, who: &str| {
        let mut cat = w.as_nobody("nfs-cat");
        cat.arg(served.url(&file) + who).output().unwrap().stdout == b"text"
    };
    // As what he says that he is.
    let all = ["", "&uid=0&gid=0"];
    // Knowing the path doesn't help, nor does saying that one is root.
    for words in ["latest -", "--allow-other latest -"] {
        let served = Served::new(&w, words);
        for who in all {
            assert!(!read_by_nobody(&served, who), "{words} {who}");
        }
        assert_eq!(served.cat(&file), b"text");
    }
    sh("chown", &[&"-R", &"65534:65534", &w.path("repo"), &w.path("src")]);
    let served = Served::with(w.command_of_nobody("--json mount --via nfs latest -"));
    for who in all {
        assert!(read_by_nobody(&served, who), "{who}");
    }
    assert_eq!(served.cat(&file), b"text", "root may");
}

/// An address of this machine by which others reach it, if it has one.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent; it only says how it would be.
    socket.connect("203.0.113.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

/// A program chooses from which of the machine's addresses it connects.
#[test]
fn other_users_are_not_let_in_from_another_address() {
    let Some(own) = own_address().filter(|_| can_be_root()) else {
        return eprintln!("skipped: this needs root, and a network");
    };
    let w = World::new();
    write(w.path("src/file"), "text");
    w.ok("backup -q src");
    // Says `GET`, and waits until it is left; for a call (NULL of NFS) it gets the answer.
    let script = "import socket, struct, sys\n\
        s = socket.socket()\n\
        s.settimeout(5)\n\
        s.bind((sys.argv[1], 0))\n\
        s.connect((sys.argv[2], int(sys.argv[3])))\n\
        try:\n\
        \x20   s.sendall(struct.pack('>11I', 0x80000028, 7, 0, 2, 100003, 3, 0, 0, 0, 0, 0))\n\
        \x20   print(len(s.recv(99)))\n\
        except ConnectionError:\n\
        \x20   print(0)\n";
    for listen in ["127.0.0.1".to_owned(), own.to_string()] {
        let served = Served::new(&w, &format!("--listen {listen} latest -"));
        let port = served.port().to_string();
        for from in ["127.0.0.1".to_owned(), own.to_string()] {
            let ask = |mut python: Command| {
                python.args(["-c", script, &from, &listen, &port]);
                ran(&mut python).expect(0).out
            };
            assert_eq!(ask(w.as_nobody("python3")), "0\n", "{from} to {listen}");
            assert_eq!(ask(Command::new("python3")), "28\n", "{from} to {listen}");
        }
    }
}

#[test]
fn it_says_how_to_mount_it_and_ends_when_asked() {
    let w = World::new();
    write(w.path("src/file"), "text");
    w.ok("backup -q src");
    for with in [Signal::INT, Signal::TERM, Signal::HUP] {
        let served = Served::new(&w, "");
        let (port, export) = (served.port(), served.said["export"].as_str().unwrap());
        assert_eq!(served.said["message_type"], "serving");
        assert_eq!(served.said["address"], "127.0.0.1");
        let words = served.said["mount_command"].as_array().unwrap();
        let words: Vec<_> = words.iter().map(|w| w.as_str().unwrap()).collect();
        says(&words.join(" "), &["mount -t nfs -o vers=3", &format!("port={port}"), export]);
        assert!(TcpStream::connect(("127.0.0.1", port as u16)).is_ok());
        served.signal(with);
        served.ended().expect(0);
        assert!(TcpStream::connect(("127.0.0.1", port as u16)).is_err());
    }
    Served::new(&w, "--idle-exit 1s latest -").ended().expect(0);

    let said = w.ok("mount --via nfs --background");
    says(&said, &["Serving the drive at 127.0.0.1:", "mount -t nfs -o ", "/tresor-", "`kill "]);
    let process = said.split("`kill ").nth(1).unwrap().split('`').next().unwrap();
    let process = rustix::process::Pid::from_raw(process.parse().unwrap()).unwrap();
    let port = said.split("127.0.0.1:").nth(1).unwrap().split(' ').next().unwrap();
    let address = format!("127.0.0.1:{port}");
    assert!(TcpStream::connect(&address).is_ok());
    let taken = w.fails(1, &format!("mount --via nfs --port {port}"));
    says(&taken, &[&address, "in use", "--port"]);
    rustix::process::kill_process(process, Signal::TERM).unwrap();
    wait_until("it has ended", || TcpStream::connect(&address).is_err());
    assert_eq!(w.ok("--quiet mount --via nfs --background --idle-exit 1s"), "");

    let mut open = w.command("mount --via nfs --listen 0.0.0.0 --idle-exit 1s");
    let ran = ran(&mut open).expect(0);
    says(&ran.err, &["0.0.0.0", "neither encrypts nor asks for a password"]);
    says(&ran.out, &[" 127.0.0.1:/tresor-", "On another machine, name this one's address"]);
}

#[test]
fn what_cannot_be_served_or_mounted_says_why() {
    let w = World::new();
    write(w.path("src/file"), "text");
    write(w.path("full/file"), "");
    fs::create_dir(w.path("mnt")).unwrap();
    w.ok("backup -q src");
    let cases: [(&str, &[&str]); 7] = [
        ("--via nfs nowhere", &["nowhere doesn't exist", "mkdir "]),
        ("--via nfs full", &["full is not empty"]),
        ("--via nfs repo", &["holds the repository"]),
        ("--via nfs 0123abcd -", &["0123abcd"]),
        ("--via nfs --listen 192.0.2.1 -", &["192.0.2.1", "--listen"]),
        ("--via system --port 5 mnt", &["--via nfs"]),
        ("--via system", &["no mount point given"]),
    ];
    for (words, said) in cases {
        says(&w.fails(1, &format!("mount {words}")), said);
    }
    says(&w.fails(1, "mount --port 5 mnt"), &["--via"]);
    says(&w.fails(1, "mount"), &["MOUNTPOINT"]);
    // A system without a client, one that refuses, and one that only says it has mounted.
    let mut command = w.command("mount --via nfs mnt");
    says(
        &ran(command.env("PATH", w.path("nothing"))).expect(1).err,
        &["mount -t nfs", "nfs-common"],
    );
    for (script, said) in [
        ("echo no nfs here: $* >&2; exit 32", &["no nfs here: -t", "nfs-common", ":/…"][..]),
        ("exit 0", &["mnt", "says that it has mounted"]),
        ("exec /bin/mount -t tmpfs none mnt", &["mnt"]),
        ("/bin/mount -t tmpfs none mnt; exit 16", &["mnt"]),
    ] {
        let text = stand_in(&w, script);
        let ran = ran(w.command("mount --via nfs mnt").env("PATH", text)).expect(1);
        says(&ran.err, said);
        assert!(!ran.err.contains(":/tresor-"), "the key is told: {}", ran.err);
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains(w.path("mnt").to_str().unwrap()), "{script}: {table}");
    }
}

/// A program `mount` that does this instead; what PATH must be.
fn stand_in(w: &World, script: &str) -> String {
    let program = w.path("bin/mount");
    write(&program, format!("#!/bin/sh\necho \"$@\" >{}\n{script}\n", w.path("asked").display()));
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", w.path("bin").display(), std::env::var("PATH").unwrap())
}

/// Where this kernel has no client, another drive takes the place of what one would mount.
#[test]
fn what_it_has_mounted_goes_with_it_and_it_with_that() {
    if !can_mount() {
        return;
    }
    let w = World::new();
    write(w.path("src/file"), "text");
    w.ok("backup -q src");
    fs::create_dir(w.path("mnt")).unwrap();
    let tresor = env!("CARGO_BIN_EXE_tresor");
    let path = stand_in(&w, &format!("exec {tresor} mount -q --background latest mnt"));
    let serve = |words: &str| {
        let mut command = w.command(&format!("--json mount --via nfs {words} mnt"));
        command.env("PATH", &path);
        Served::with(command)
    };
    let served = serve("latest");
    let point = w.path("mnt");
    assert_eq!(served.said["mount_point"].as_str().map(PathBuf::from), Some(point.clone()));
    assert!(served.said["export"].is_null() && served.said["mount_command"].is_null());
    let asked = fs::read_to_string(w.path("asked")).unwrap();
    says(&asked, &["-t nfs -o vers=3,proto=tcp,", " 127.0.0.1:/tresor-", point.to_str().unwrap()]);
    // What everybody could see then is of no use any more.
    if has_client() {
        let export = asked.split("127.0.0.1:").nth(1).unwrap().split(' ').next().unwrap();
        let port = served.port();
        let url = format!("nfs://127.0.0.1{export}/?version=3&nfsport={port}&mountport={port}");
        let done = Command::new("nfs-ls").arg(url).output().unwrap();
        says(&String::from_utf8_lossy(&done.stderr), &["MNT3ERR_ACCES"]);
    }
    says(&w.fails(1, "mount --via nfs mnt"), &["mnt already"]);
    w.ok("umount mnt");
    served.ended().expect(0);

    // Another drive at its place isn't its own.
    let mut served = serve("latest");
    signal(served.child.as_ref().unwrap(), Signal::STOP);
    w.ok("umount mnt");
    let other = w.path("other");
    sh("cp", &[&"-r", &w.path("repo"), &other]);
    let mut mount = w.command("mount -q --background mnt");
    ran(mount.env("TRESOR_REPOSITORY", &other)).expect(0);
    signal(served.child.as_ref().unwrap(), Signal::CONT);
    wait_until("it has ended", || served.child.as_mut().unwrap().try_wait().unwrap().is_some());
    assert!(is_mounted(&point));
    w.ok("umount mnt");

    // Who can't be told where it is: there is none then.
    let mut command = w.command("mount --via nfs mnt");
    command.env("PATH", &path).stdout(fs::File::options().write(true).open("/dev/full").unwrap());
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    says(&ended(&command, child).expect(1).err, &["No space left"]);
    assert!(!is_mounted(&point) && names(&point).is_empty());

    let served = serve("");
    served.signal(Signal::INT);
    served.ended().expect(0);
    assert!(!is_mounted(&point) && names(&point).is_empty());

    let served = serve("--idle-exit 1s");
    served.ended().expect(0);
    assert!(!is_mounted(&point));

    let mut command = w.command("mount --via nfs --background mnt");
    let said = ran(command.env("PATH", &path)).expect(0).out;
    says(&said, &["The drive is at mnt. `tresor umount mnt` removes it."]);
    assert!(is_mounted(&point));
    w.ok("umount mnt");
}

/// With a kernel that has a client.
#[test]
fn mounted_by_the_kernel() {
    let kinds = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !kinds.lines().any(|line| line.ends_with("\tnfs")) || !can_be_root() {
        return eprintln!(
            "skipped: this needs a kernel with an NFS client (`modprobe nfs`), and root"
        );
    }
    let w = World::new();
    for n in 0..50 {
        write(w.path(format!("src/{}/{n}", n % 5)), noise(n, 1 + 3000 * n as usize));
    }
    w.ok("backup -q src");
    let drive = w.mount("--via nfs", "mnt");
    assert_same(&w.path("src"), &drive.at("snapshots/latest").join(w.inside("src")));
    says(&w.ok("mount --status mnt"), &["errors:   0"]);
    let refused = fs::write(drive.at("new"), "").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(rustix::io::Errno::ROFS.raw_os_error()));
    std::thread::sleep(Duration::from_millis(10));
    w.ok("umount mnt");
    drive.ended().expect(0);
}
