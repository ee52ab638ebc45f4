//! A drive exported by a real NFS server, as docs/nfs.md says.
#![cfg(target_os = "linux")]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

struct Server {
    dir: tempfile::TempDir,
    port: u16,
    process: Option<Child>,
}

impl Server {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Self { dir: tempfile::tempdir().unwrap(), port, process: None };
        ["source/folder", "drive", "state"]
            .iter()
            .for_each(|name| fs::create_dir_all(server.path(name)).unwrap());
        server
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn tresor(&self, args: &[&str]) {
        let output = Command::new(env!("CARGO_BIN_EXE_tresor"))
            .args(args)
            .env("TRESOR_REPOSITORY", self.path("repo"))
            .env("TRESOR_CACHE_DIR", self.path("cache"))
            .env("TRESOR_PASSWORD", "secret")
            .env_remove("TRESOR_PASSWORD_FILE")
            .env_remove("TRESOR_PASSWORD_COMMAND")
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn backup(&self) {
        self.tresor(&["backup", "--quiet", self.path("source").to_str().unwrap()]);
    }

    fn serve(&mut self) {
        let dir = self.dir.path().display();
        let config = format!(
            "NFS_CORE_PARAM {{ Protocols = 4; NFS_Port = {}; Bind_addr = 127.0.0.1; \
             Enable_NLM = false; Enable_RQUOTA = false; }}\n\
             NFSv4 {{ Graceless = true; RecoveryBackend = fs; RecoveryRoot = {dir}/state; \
             Only_Numeric_Owners = true; }}\n\
             EXPORT {{ Export_Id = 1; Path = {dir}/drive; Pseudo = /restore; Protocols = 4; \
             Access_Type = RO; Squash = No_Root_Squash; SecType = sys; Filesystem_id = 1.1; Attr_Expiration_Time = 1; \
             FSAL {{ Name = VFS; }} }}\n",
            self.port
        );
        fs::write(self.path("ganesha.conf"), config).unwrap();
        let log = self.path("log");
        let process = Command::new("ganesha.nfsd")
            .arg("-F")
            .args([Path::new("-L"), &log, Path::new("-f"), &self.path("ganesha.conf")])
            .args([Path::new("-p"), &self.path("pid")])
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
        let _ = Command::new(env!("CARGO_BIN_EXE_tresor"))
            .args(["umount", "--lazy"])
            .arg(self.path("drive"))
            .output();
    }
}

#[test]
fn a_drive_is_listed_and_read_through_nfs() {
    let mut server = Server::new();
    let bytes: Vec<u8> = (0..3_000_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
    fs::write(server.path("source/folder/large"), &bytes).unwrap();
    for n in 0..200 {
        fs::write(server.path(&format!("source/folder/{n:03}")), format!("{n}")).unwrap();
    }
    server.tresor(&["init"]);
    server.backup();
    let drive = server.path("drive");
    server.tresor(&["mount", "--background", "--allow-other", drive.to_str().unwrap()]);
    server.serve();
    assert!(server.list("").contains("snapshots"));
    let folder = format!("/snapshots/latest{}", server.path("source/folder").display());
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
    fs::write(server.path("source/folder/later"), "later").unwrap();
    server.backup();
    for attempt in 0.. {
        if server.client("nfs-cat", &format!("{folder}/later")) == b"later" {
            break;
        }
        assert!(attempt < 100, "the new snapshot doesn't appear");
        std::thread::sleep(Duration::from_millis(200));
    }
}
