//! Mounting what is served, with the system's own client.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::server::Server;
use super::{ServeError, ServeOptions};
use crate::core::SnapshotFs;
use crate::idle::end_when_idle;
#[cfg(unix)]
use crate::point::{Mount, prepare, system_unmount};

/// How often is looked whether it is still mounted.
const POLL: Duration = Duration::from_millis(300);

/// Systems that have a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    Linux,
    MacOs,
    Windows,
}

impl System {
    pub const fn this() -> Self {
        if cfg!(windows) {
            Self::Windows
        } else if cfg!(target_os = "macos") {
            Self::MacOs
        } else {
            Self::Linux
        }
    }

    /// The command that mounts there. It names what is exported, which is as good as a
    /// password for as long as it can be mounted.
    pub fn command(self, address: SocketAddr, export: &str, point: &str) -> Vec<String> {
        let port = address.port();
        let host = match address.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let source = format!("{host}:{export}");
        let tcp = if address.is_ipv6() { "tcp6" } else { "tcp" };
        let words: Vec<String> = match self {
            Self::Linux => {
                let options = format!(
                    "vers=3,proto={tcp},mountproto={tcp},port={port},mountport={port},nolock,noacl,\
                     ro,soft,timeo=600,retrans=2,retry=0,nosuid,nodev,acdirmin=1,acdirmax=1"
                );
                vec!["mount".into(), "-t".into(), "nfs".into(), "-o".into(), options, source]
            }
            Self::MacOs => {
                let options = format!(
                    "vers=3,{tcp},port={port},mountport={port},nolocks,ro,soft,timeo=600,\
                     nosuid,nodev,rdirplus,acdirmin=1,acdirmax=1"
                );
                vec!["mount_nfs".into(), "-o".into(), options, source]
            }
            // This client can't be told a port: the server must be the port mapper, too.
            Self::Windows => {
                let share = format!("\\\\{}{}", address.ip(), export.replace('/', "\\"));
                vec!["mount".into(), "-o".into(), "anon,nolock,mtype=soft".into(), share]
            }
        };
        words.into_iter().chain([point.to_owned()]).collect()
    }
}

/// A drive that is served, and perhaps mounted. Dropped, it is [left](Self::leave).
pub struct Mounted {
    server: Server,
    #[cfg(unix)]
    mount: Option<Mount>,
}

/// Serves the drive; with a mount point, mounts it there with the system's client.
pub fn mount(
    fs: Arc<SnapshotFs>,
    point: Option<&Path>,
    options: &ServeOptions,
) -> Result<Mounted, ServeError> {
    #[cfg(unix)]
    let point = match point {
        Some(point) => Some(prepare(point, options.repository.as_deref())?),
        None => None,
    };
    #[cfg(windows)]
    if point.is_some() {
        return Err(ServeError::OnlyServed);
    }
    let server = Server::start(fs, options)?;
    #[cfg(unix)]
    let mount = match point {
        Some(point) => {
            let run = || run_client(&server, &point).map(|mount| (mount.clone(), mount));
            let mount = options.own.mounting(run).inspect_err(|_| server.stop())?;
            // Everybody can see it in the table of what is mounted.
            server.close_entrance();
            Some(mount)
        }
        None => None,
    };
    let mounted = Mounted {
        server,
        #[cfg(unix)]
        mount,
    };
    if let Some(limit) = options.idle_exit {
        mounted.end_when_idle(limit);
    }
    Ok(mounted)
}

/// Has the system's client mount it. If that fails, nothing stays mounted.
#[cfg(unix)]
fn run_client(server: &Server, point: &Path) -> Result<Mount, ServeError> {
    let before = device(point);
    let mounted = try_client(server, point);
    // Whatever the client says: what it has left there would have nobody who serves it.
    if mounted.is_err() && device(point) != before {
        let _ = system_unmount(point, true);
    }
    mounted
}

/// Changes when something is mounted there.
#[cfg(unix)]
fn device(point: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(point).ok().map(|meta| meta.dev())
}

#[cfg(unix)]
fn try_client(server: &Server, point: &Path) -> Result<Mount, ServeError> {
    use std::process::{Command, Stdio};

    let shown = point.display().to_string();
    let address = server.local_address();
    let words = System::this().command(address, server.export(), &shown);
    let hidden = System::this().command(address, "/…", &shown).join(" ");
    let failed = |said: String| ServeError::Mount { command: hidden.clone(), said };
    let mut command = Command::new(&words[0]);
    // The path as it is, though it may be no text.
    command.args(&words[1..words.len() - 1]).arg(point).stdin(Stdio::null());
    let output = command.output().map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().replace(server.export(), "/…");
        return Err(failed(said));
    }
    let mount = Mount::made(point.into());
    if mount.is_known() { Ok(mount) } else { Err(ServeError::Silent(shown)) }
}

impl Mounted {
    /// Where it is, without symlinks; none if it is only served.
    pub fn point(&self) -> Option<&Path> {
        #[cfg(unix)]
        return self.mount.as_ref().map(Mount::point);
        #[cfg(not(unix))]
        None
    }

    pub fn server(&self) -> &Server {
        &self.server
    }

    fn end_when_idle(&self, limit: Duration) {
        let activity = self.server.activity();
        #[cfg(unix)]
        if let Some(mount) = &self.mount {
            return end_when_idle(activity, limit, mount.clone().leave_if_unused());
        }
        // Nothing is known of what clients have open.
        let server = self.server.clone();
        end_when_idle(activity, limit, move || {
            server.stop();
            true
        });
    }

    /// Unmounts it, also if something is open there, as long as it is still served: a client
    /// waits long for a server that is gone. What can't be unmounted is served on.
    pub fn leave(&self) -> Result<(), ServeError> {
        #[cfg(unix)]
        if let Some(mount) = &self.mount {
            mount.unmount(true)?;
        }
        self.server.stop();
        Ok(())
    }

    /// Waits until somebody unmounts it, or the server is stopped.
    pub fn wait(self) {
        while !self.server.wait_for(POLL) {
            #[cfg(unix)]
            if let Some(mount) = &self.mount
                && !mount.is_there()
                // Files that are open on what was unmounted lazily.
                && !self.server.has_clients()
            {
                return self.server.stop();
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Nobody is there to be told; it is served on.
        let _ = self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_each_system() {
        let address = "127.0.0.1:5049".parse().unwrap();
        let command = |system: System| system.command(address, "/tresor-0123", "R:").join(" ");
        let linux = command(System::Linux);
        assert!(linux.starts_with("mount -t nfs -o vers=3,proto=tcp,"), "{linux}");
        assert!(linux.contains(",port=5049,mountport=5049,nolock,"), "{linux}");
        assert!(linux.ends_with(" 127.0.0.1:/tresor-0123 R:"), "{linux}");
        let mac = command(System::MacOs);
        assert!(mac.starts_with("mount_nfs -o vers=3,tcp,port=5049,mountport=5049,"), "{mac}");
        assert!(mac.ends_with(" 127.0.0.1:/tresor-0123 R:"), "{mac}");
        let windows = command(System::Windows);
        assert_eq!(windows, r"mount -o anon,nolock,mtype=soft \\127.0.0.1\tresor-0123 R:");
        let six = System::Linux.command("[::1]:111".parse().unwrap(), "/e", "/mnt").join(" ");
        assert!(six.contains("proto=tcp6,") && six.ends_with(" [::1]:/e /mnt"), "{six}");
    }
}
