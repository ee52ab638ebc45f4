//! Previous Versions: a real smbd shows a drive's snapshots, as docs/samba.md says.
#![cfg(target_os = "linux")]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

struct Nas {
    dir: tempfile::TempDir,
    port: u16,
    server: Option<Child>,
}

impl Nas {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn tresor(&self, args: &[&str]) {
        let output = Command::new(env!("CARGO_BIN_EXE_tresor"))
            .args(args)
            .env("TRESOR_REPOSITORY", self.path("repo"))
            .env("TRESOR_CACHE_DIR", self.path("cache"))
            .env("TRESOR_STATE_DIR", self.path("state"))
            .env("TRESOR_PASSWORD", "secret")
            .env_remove("TRESOR_PASSWORD_FILE")
            .env_remove("TRESOR_PASSWORD_COMMAND")
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn backup(&self) {
        self.tresor(&["backup", "--quiet", self.path("share").to_str().unwrap()]);
    }

    fn smbclient(&self, commands: &str) -> String {
        let output = Command::new("smbclient")
            .args(["-N", "-p", &self.port.to_string(), "//127.0.0.1/share", "-c", commands])
            .current_dir(self.dir.path())
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn serve(&mut self) {
        let dir = self.dir.path().to_str().unwrap();
        let folders: String = [
            "private dir",
            "lock directory",
            "state directory",
            "cache directory",
            "pid directory",
            "ncalrpc dir",
        ]
        .iter()
        .map(|name| format!("  {name} = {dir}/state\n"))
        .collect();
        let config = format!(
            "[global]\n  server role = standalone server\n  map to guest = Bad User\n  \
             guest account = nobody\n  smb ports = {}\n  interfaces = 127.0.0.1/8\n  \
             bind interfaces only = yes\n  log file = {dir}/state/log\n  load printers = no\n  \
             disable spoolss = yes\n{folders}[share]\n  path = {dir}/share\n  guest ok = yes\n  \
             vfs objects = shadow_copy2\n  shadow:snapdir = {dir}/drive\n  shadow:mountpoint = /\n  \
             shadow:format = @GMT-%Y.%m.%d-%H.%M.%S\n  shadow:sort = desc\n",
            self.port
        );
        fs::write(self.path("smb.conf"), config).unwrap();
        let server = Command::new("smbd")
            .args(["--foreground", "--no-process-group", "-s"])
            .arg(self.path("smb.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.server = Some(server);
        for _ in 0..100 {
            if self.smbclient("ls").contains("blocks available") {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("smbd doesn't answer");
    }
}

impl Drop for Nas {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
        let _ = Command::new("umount").arg("-l").arg(self.path("drive")).status();
    }
}

fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

#[test]
fn a_client_lists_and_fetches_previous_versions() {
    let can = rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists();
    if !(can && is_there("smbd") && is_there("smbclient")) {
        eprintln!("skipped: needs root, FUSE, smbd and smbclient");
        return;
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut nas = Nas { dir: tempfile::tempdir().unwrap(), port, server: None };
    ["share", "share/d", "drive", "state"]
        .iter()
        .for_each(|d| fs::create_dir(nas.path(d)).unwrap());
    // The guest must get in.
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(nas.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(nas.path("share/report.txt"), "first").unwrap();
    fs::write(nas.path("share/d/ü.txt"), "below").unwrap();
    nas.tresor(&["init", "--quiet"]);
    nas.backup();
    std::thread::sleep(Duration::from_millis(1100));
    fs::write(nas.path("share/report.txt"), "second version").unwrap();
    nas.backup();
    let drive = nas.path("drive");
    let mount = ["mount", "--background", "--allow-other", "--layout", "previous-versions"];
    nas.tresor(&[&mount[..], &[drive.to_str().unwrap()]].concat());
    let mut names: Vec<_> = fs::read_dir(&drive)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names.len(), 2);
    nas.serve();

    let info = nas.smbclient("allinfo report.txt");
    assert!(names.iter().all(|name| info.contains(name.as_str())), "{info}");
    nas.smbclient(&format!(
        "get {}\\report.txt old; get \"{}\\d\\ü.txt\" deep",
        names[0], names[0]
    ));
    assert_eq!(fs::read_to_string(nas.path("old")).unwrap(), "first");
    assert_eq!(fs::read_to_string(nas.path("deep")).unwrap(), "below");
    nas.smbclient(&format!("get {}\\report.txt newer", names[1]));
    assert_eq!(fs::read_to_string(nas.path("newer")).unwrap(), "second version");
    // A new snapshot appears by itself.
    std::thread::sleep(Duration::from_millis(1100));
    fs::write(nas.path("share/report.txt"), "third").unwrap();
    nas.backup();
    std::thread::sleep(Duration::from_millis(2100));
    let info = nas.smbclient("allinfo report.txt");
    assert_eq!(info.lines().filter(|line| line.starts_with("@GMT-")).count(), 3, "{info}");
}
