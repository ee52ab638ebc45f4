//! A way without FUSE: the drive as an NFS version 3 server (RFC 1813), for the clients that
//! every system has. Why it is made this way: docs/decisions/0009-nfs.md.
//!
//! `server` takes connections, `calls` the messages, `drive` and `listing` answer them out of
//! [`SnapshotFs`](crate::SnapshotFs), `mountd` gives the first handle. The layout of
//! replies is the crate `nfs3_types`'; what clients send is read here.

mod access;
mod calls;
mod connection;
mod drive;
mod handle;
mod listing;
mod mount;
mod mountd;
mod peer;
mod request;
mod rpc;
mod server;
mod status;
mod xdr;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use calls::Calls;
pub use mount::{Mounted, System, mount};
pub use server::Server;

#[cfg(unix)]
use crate::point::MountError;
use crate::{OnError, OwnDrive};

/// What the exported path begins with.
pub(crate) const NAME_PREFIX: &str = "tresor-";

pub struct ServeOptions {
    pub address: IpAddr,
    /// 0: one that is free.
    pub port: u16,
    /// Let other users in; their permissions are then checked.
    pub allow_other: bool,
    /// End when nothing has been asked for as long as this.
    pub idle_exit: Option<Duration>,
    /// Folder of the repository, if it is a local one.
    pub repository: Option<PathBuf>,
    /// Will be the drive, if it is to be mounted.
    pub own: OwnDrive,
    /// Told of each operation that fails for want of data.
    pub on_error: OnError,
}

/// Why a drive can't be served, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("can't listen on {0}: {1}; choose another --listen or --port")]
    Listen(SocketAddr, io::Error),
    #[cfg(unix)]
    #[error(transparent)]
    Point(#[from] MountError),
    #[error(
        "`{command}` failed: {said}\nMounting through NFS takes root and the system's NFS client (Debian: package nfs-common); without a mount point the drive is only served"
    )]
    Mount { command: String, said: String },
    #[error(
        "the system's client says that it has mounted the drive on {0}, but there is none; unmount what is there, if anything, and try again"
    )]
    Silent(String),
    #[error(
        "on Windows a drive is served only; leave the mount point out, and mount it as it says"
    )]
    OnlyServed,
    #[error(transparent)]
    Engine(#[from] tresor_engine::Error),
}
