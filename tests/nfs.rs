//! A drive exported by a real NFS server, as docs/nfs.md says.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::drive::Drive;
use common::files::*;
use common::*;

struct Server {
    w: World,
    drive: Drive,
    port: u16,
    process: Option<Child>,
}

impl Server {
    /// A drive to be exported, with what the folder `source` holds.
    fn new(w: World) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        fs::create_dir(w.path("state")).unwrap();
        w.ok("backup -q source");
        let drive = w.mount("--allow-other", "drive");
        Self { w, drive, port, process: None }
    }

    fn serve(&mut self) {
        let (state, drive) = (self.w.path("state"), self.drive.point.display());
        let state = state.display();
        let config = format!(
            "NFS_CORE_PARAM {{ Protocols = 4; NFS_Port = {}; Bind_addr = 127.0.0.1; \
             Enable_NLM = false; Enable_RQUOTA = false; }}\n\
             NFSv4 {{ Graceless = true; RecoveryBackend = fs; RecoveryRoot = {state}; \
             Only_Numeric_Owners = true; }}\n\
             EXPORT {{ Export_Id = 1; Path = {drive}; Pseudo = /restore; Protocols = 4; \
             Access_Type = RO; Squash = No_Root_Squash; SecType = sys; Filesystem_id = 1.1; Attr_Expiration_Time = 1; \
             FSAL {{ Name = VFS; }} }}\n",
            self.port
        );
        fs::write(self.w.path("ganesha.conf"), config).unwrap();
        let log = self.w.path("log");
        let process = Command::new("ganesha.nfsd")
            .arg("-F")
            .args([Path::new("-L"), &log, Path::new("-f"), &self.w.path("ganesha.conf")])
            .args([Path::new("-p"), &self.w.path("pid")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(process);
        for _ in 0..200 {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("the server doesn't answer: {}", fs::read_to_string(log).unwrap_or_default());
    }

    fn client(&self, program: &str, path: &str) -> Vec<u8> {
        let url = format!("nfs://127.0.0.1/restore{path}?version=4&nfsport={}", self.port);
        Command::new(program).arg(url).output().unwrap().stdout
    }

    fn list(&self, path: &str) -> String {
        String::from_utf8(self.client("nfs-ls", path)).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

#[test]
fn a_drive_is_listed_and_read_through_nfs() {
    if !can_mount() || !can_be_root() {
        return;
    }
    let w = World::new();
    let bytes = noise(1, 3_000_000);
    write(w.path("source/folder/large"), &bytes);
    for n in 0..200 {
        write(w.path(format!("source/folder/{n:03}")), format!("{n}"));
    }
    let mut server = Server::new(w);
    server.serve();
    assert!(server.list("").contains("snapshots"));
    let folder = format!("/snapshots/latest/{}", server.w.inside("source/folder"));
    let listed = server.list(&folder);
    assert_eq!(listed.lines().count(), 201, "{listed}");
    assert!(server.client("nfs-cat", &format!("{folder}/large")) == bytes);
    // The server holds on to what the kernel has forgotten by then.
    if fs::write("/proc/sys/vm/drop_caches", "3").is_err() {
        eprintln!("the kernel's caches stay: only root may drop them");
    }
    for n in (0..200).step_by(40) {
        let read = server.client("nfs-cat", &format!("{folder}/{n:03}"));
        assert_eq!(read, format!("{n}").into_bytes());
    }
    write(server.w.path("source/folder/later"), "later");
    server.w.ok("backup -q source");
    for attempt in 0.. {
        if server.client("nfs-cat", &format!("{folder}/later")) == b"later" {
            break;
        }
        assert!(attempt < 100, "the new snapshot doesn't appear");
        std::thread::sleep(Duration::from_millis(200));
    }
}
