//! The table of mounts of Linux, and its calls.

use std::ffi::OsStr;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::mount::UnmountFlags;

use super::{Drive, Kind};

/// What the table doesn't name.
const NFS_PORT: u16 = 2049;

pub(super) fn mounts_at(point: &Path) -> Vec<Option<Drive>> {
    mounts_in(&std::fs::read("/proc/self/mountinfo").unwrap_or_default(), point)
}

/// The same of this table, in which what was mounted later comes later.
fn mounts_in(table: &[u8], point: &Path) -> Vec<Option<Drive>> {
    let is_there = |line: &&[u8]| {
        let at = line.split(|b| *b == b' ').nth(4).map(unescape);
        at.is_some_and(|at| Path::new(OsStr::from_bytes(&at)) == point)
    };
    table.split(|b| *b == b'\n').filter(is_there).map(drive).collect()
}

/// The drive of this line.
fn drive(line: &[u8]) -> Option<Drive> {
    let mut fields = line.split(|b| *b == b' ');
    let device = fields.nth(2)?.to_vec();
    let mut mounted = fields.skip_while(|f| *f != b"-").skip(1);
    let (kind, source) = (mounted.next()?, mounted.next()?);
    let kind = Kind::of(kind, source)?;
    let server = mounted.next().filter(|_| kind == Kind::Nfs).and_then(server);
    Some(Drive { kind, source: source.to_vec(), device, server })
}

/// Where the server of a mount with these options listens.
fn server(options: &[u8]) -> Option<SocketAddr> {
    let options = std::str::from_utf8(options).ok()?;
    let value = |name: &str| {
        options.split(',').find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    };
    let address: IpAddr = value("addr")?.parse().ok()?;
    let port = value("port").map_or(Some(NFS_PORT), |port| port.parse().ok())?;
    Some(SocketAddr::new(address, port))
}

/// Undoes the octal escapes of mountinfo.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let code = tail.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        match code.and_then(|d| u8::from_str_radix(d, 8).ok()).filter(|_| byte == b'\\') {
            Some(code) => {
                out.push(code);
                rest = &tail[3..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

pub(crate) fn unmount(point: &Path, lazy: bool) -> io::Result<()> {
    let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    Ok(rustix::mount::unmount(point, flags | UnmountFlags::NOFOLLOW)?)
}

/// What is asked of a server that is gone ends with an error.
pub(super) fn forced_unmount(point: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(
        point,
        UnmountFlags::FORCE | UnmountFlags::DETACH | UnmountFlags::NOFOLLOW,
    )?)
}

pub(super) fn helper_unmount(point: &Path, lazy: bool) -> bool {
    let run = |program: &str| {
        let mut command = Command::new(program);
        command.arg("-u").args(lazy.then_some("-z")).arg("--").arg(point);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|s| s.success())
    };
    run("fusermount3") || run("fusermount")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_escapes() {
        assert_eq!(unescape(br"/a\040b\\134"), b"/a b\\\\");
        assert_eq!(unescape(br"/x\04"), br"/x\04");
        assert!(mounts_at(Path::new("/proc")).iter().all(Option::is_none));
    }

    #[test]
    fn drives_in_the_table_of_mounts() {
        use Kind::{Fuse, Nfs};

        let at = Path::new("/mnt/a drive");
        let top = |table: &str| mounts_in(table.as_bytes(), at).pop().flatten();
        let kind = |table: &str| top(table).map(|drive| drive.kind);
        let line = |kind: &str, source: &str| {
            format!(r"61 29 0:50 / /mnt/a\040drive ro,nosuid - {kind} {source} ro,vers=3")
        };
        assert_eq!(kind(&line("fuse.tresor", "tresor:/srv/repo")), Some(Fuse));
        assert_eq!(kind(&line("macfuse", "tresor:/srv/repo")), Some(Fuse));
        assert_eq!(
            kind(&line("nfs", "127.0.0.1:/tresor-00112233445566778899aabbccddeeff")),
            Some(Nfs)
        );
        assert_eq!(
            kind(&line("nfs", "[::1]:/tresor-00112233445566778899aabbccddeeff/snapshots")),
            Some(Nfs)
        );
        // Names that others may have given.
        assert_eq!(kind(&line("nfs", "127.0.0.1:/srv/tresor-x")), None);
        assert_eq!(kind(&line("nfs", "nas:/tresor-backup")), None);
        assert_eq!(kind(&line("nfs", "nas:/x:/tresor-00112233445566778899aabbccddeeff")), None);
        assert_eq!(kind(&line("fuse.sshfs", "host:/tresor-00ff")), None);
        assert_eq!(kind(&line("ext4", "tresor:/srv/repo")), None);
        assert_eq!(
            kind(
                &line("nfs", "127.0.0.1:/tresor-00112233445566778899aabbccddeeff")
                    .replace("drive", "drives")
            ),
            None
        );
        assert_eq!(kind(""), None);
        let (ours, other) = (line("fuse.tresor", "tresor:/srv/repo"), line("tmpfs", "none"));
        assert_eq!(kind(&format!("{other}\n{ours}\n")), Some(Fuse));
        assert_eq!(kind(&format!("{ours}\n{other}\n")), None);
        // Of two with the same name each is itself.
        let again = ours.replace("0:50", "0:51");
        assert_eq!(top(&ours), top(&ours));
        assert_ne!(top(&ours), top(&again));
    }

    #[test]
    fn servers_in_the_table_of_mounts() {
        let of = |options: &str| {
            let line = format!(
                "61 29 0:50 / /mnt ro - nfs 127.0.0.1:/tresor-00112233445566778899aabbccddeeff {options}"
            );
            drive(line.as_bytes()).unwrap().server
        };
        let told = "ro,vers=3,port=5049,timeo=600,mountaddr=10.0.0.1,mountport=9,addr=127.0.0.1";
        assert_eq!(of(told), Some("127.0.0.1:5049".parse().unwrap()));
        assert_eq!(of("ro,mountport=9,addr=::1"), Some("[::1]:2049".parse().unwrap()));
        assert_eq!(of("ro,port=5049,mountaddr=127.0.0.1"), None);
        assert_eq!(of("ro,port=x,addr=127.0.0.1"), None);
    }
}
