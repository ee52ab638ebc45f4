//! What clients ask (RFC 1813): procedures and their arguments.

use nfs3_types::nfs3::NFS_PROGRAM;
use nfs3_types::rpc::accept_stat_data;

use super::handle::{self, Handles, Target};
use super::status::Problem;
use super::xdr::{Args, Garbage};
use crate::core::FsError;

/// Most bytes that one call reads or lists. Calls that wait for a store take room that
/// others on the connection need, so that it must be enough for many.
pub const MOST_DATA: u32 = 256 << 10;
/// Longer names than any file system has are not looked for.
const MOST_NAME: usize = 4096;
/// Bytes of a reply besides what was asked for, at most.
const AROUND: usize = 4096;

/// Where a listing goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// After which entry; 0: the beginning.
    pub cookie: u64,
    /// What the reply that had the cookie said of the listing.
    pub verifier: u64,
}

impl Place {
    fn parse(args: &mut Args<'_>) -> Result<Self, Garbage> {
        Ok(Self { cookie: args.u64()?, verifier: args.u64()? })
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    GetAttr(Target),
    Lookup(Target, Vec<u8>),
    Access(Target, u32),
    ReadLink(Target),
    Read {
        file: Target,
        offset: u64,
        count: u32,
    },
    ReadDir {
        dir: Target,
        from: Place,
        count: u32,
    },
    /// With attributes and handles; `names` is how many bytes of names and cookies.
    ReadDirPlus {
        dir: Target,
        from: Place,
        names: u32,
        count: u32,
    },
    FsStat(Target),
    FsInfo(Target),
    PathConf(Target),
}

/// Why there is nothing to be done.
#[derive(Debug)]
pub enum Unparsed {
    /// The call can't be understood.
    Call(accept_stat_data),
    /// It can, and fails.
    Problem(Problem),
}

impl From<Garbage> for Unparsed {
    fn from(_: Garbage) -> Self {
        Self::Call(accept_stat_data::GARBAGE_ARGS)
    }
}

impl From<Problem> for Unparsed {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl Request {
    pub fn parse(
        procedure: NFS_PROGRAM,
        args: &mut Args<'_>,
        handles: &Handles,
    ) -> Result<Self, Unparsed> {
        if is_change(procedure) {
            return Err(Problem::ReadOnly.into());
        }
        let at = handles.open(args.opaque(handle::MOST)?)?;
        Ok(match procedure {
            NFS_PROGRAM::NFSPROC3_LOOKUP => Self::Lookup(at, name(args)?),
            NFS_PROGRAM::NFSPROC3_ACCESS => Self::Access(at, args.u32()?),
            NFS_PROGRAM::NFSPROC3_READLINK => Self::ReadLink(at),
            NFS_PROGRAM::NFSPROC3_READ => {
                let (offset, count) = (args.u64()?, args.u32()?.min(MOST_DATA));
                Self::Read { file: at, offset, count }
            }
            NFS_PROGRAM::NFSPROC3_READDIR => {
                let from = Place::parse(args)?;
                Self::ReadDir { dir: at, from, count: args.u32()?.min(MOST_DATA) }
            }
            NFS_PROGRAM::NFSPROC3_READDIRPLUS => {
                let from = Place::parse(args)?;
                let (names, count) = (args.u32()?, args.u32()?.min(MOST_DATA));
                Self::ReadDirPlus { dir: at, from, names, count }
            }
            NFS_PROGRAM::NFSPROC3_FSSTAT => Self::FsStat(at),
            NFS_PROGRAM::NFSPROC3_FSINFO => Self::FsInfo(at),
            NFS_PROGRAM::NFSPROC3_PATHCONF => Self::PathConf(at),
            _ => Self::GetAttr(at),
        })
    }

    /// How long the reply may be.
    pub fn most(&self) -> usize {
        let data = match self {
            Self::Read { count, .. } => *count,
            Self::ReadDir { count, .. } | Self::ReadDirPlus { count, .. } => *count,
            _ => 0,
        };
        data as usize + AROUND
    }
}

fn name(args: &mut Args<'_>) -> Result<Vec<u8>, Unparsed> {
    let name = args.opaque(usize::MAX)?;
    if name.len() > MOST_NAME {
        return Err(Problem::Fs(FsError::NotFound).into());
    }
    Ok(name.to_vec())
}

fn is_change(procedure: NFS_PROGRAM) -> bool {
    failure_words(procedure) > 1
}

/// How many words, all zero, follow the status of a call that failed: attributes that
/// are not told, before and after. Those of calls that would change something come in pairs.
pub fn failure_words(procedure: NFS_PROGRAM) -> usize {
    match procedure {
        NFS_PROGRAM::NFSPROC3_NULL | NFS_PROGRAM::NFSPROC3_GETATTR => 0,
        NFS_PROGRAM::NFSPROC3_LOOKUP
        | NFS_PROGRAM::NFSPROC3_ACCESS
        | NFS_PROGRAM::NFSPROC3_READLINK
        | NFS_PROGRAM::NFSPROC3_READ
        | NFS_PROGRAM::NFSPROC3_READDIR
        | NFS_PROGRAM::NFSPROC3_READDIRPLUS
        | NFS_PROGRAM::NFSPROC3_FSSTAT
        | NFS_PROGRAM::NFSPROC3_FSINFO
        | NFS_PROGRAM::NFSPROC3_PATHCONF => 1,
        NFS_PROGRAM::NFSPROC3_SETATTR
        | NFS_PROGRAM::NFSPROC3_WRITE
        | NFS_PROGRAM::NFSPROC3_CREATE
        | NFS_PROGRAM::NFSPROC3_MKDIR
        | NFS_PROGRAM::NFSPROC3_SYMLINK
        | NFS_PROGRAM::NFSPROC3_MKNOD
        | NFS_PROGRAM::NFSPROC3_REMOVE
        | NFS_PROGRAM::NFSPROC3_RMDIR
        | NFS_PROGRAM::NFSPROC3_COMMIT => 2,
        NFS_PROGRAM::NFSPROC3_LINK => 3,
        NFS_PROGRAM::NFSPROC3_RENAME => 4,
    }
}
