//! The two programs that stand beside NFS: MOUNT, from which a client has the first handle,
//! and the port mapper, for clients that can't be told a port.

use std::collections::VecDeque;

use nfs3_types::mount::{self, MOUNT_PROGRAM, fhandle3, mountres3, mountres3_ok};
use nfs3_types::nfs3;
use nfs3_types::portmap::{self, IPPROTO_TCP, PMAP_PROG, mapping};
use nfs3_types::rpc::accept_stat_data;
use nfs3_types::xdr_codec::{List, Opaque};
use tresor_engine::format::NodeKind;

use super::access::{self, Rights};
use super::drive::Drive;
use super::handle::{self, Target};
use super::rpc::packed;
use super::status::{Problem, mount_status};
use super::xdr::Args;
use crate::core::{Attr, FsError, Ino};

const AUTH_UNIX: u32 = 1;
const MOST_PATH: usize = mount::MNTPATHLEN;
/// More links than this on one path lead in a circle.
const MOST_LINKS: usize = 40;

/// What MOUNT can be asked that takes work.
pub enum MountCall {
    /// The handle of a path below the export.
    Mount(Vec<u8>),
    /// Nothing to be done: the body of the answer.
    Answered(Vec<u8>),
}

pub fn parse(procedure: u32, args: &mut Args<'_>) -> Result<MountCall, accept_stat_data> {
    let garbage = |_| accept_stat_data::GARBAGE_ARGS;
    match MOUNT_PROGRAM::try_from(procedure) {
        Ok(MOUNT_PROGRAM::MOUNTPROC3_MNT) => {
            Ok(MountCall::Mount(args.opaque(MOST_PATH).map_err(garbage)?.to_vec()))
        }
        // Who has mounted is nobody's business, and what is exported is the secret.
        Ok(MOUNT_PROGRAM::MOUNTPROC3_DUMP | MOUNT_PROGRAM::MOUNTPROC3_EXPORT) => {
            Ok(MountCall::Answered(packed(&List::<u32>(Vec::new()))))
        }
        Ok(_) => Ok(MountCall::Answered(Vec::new())),
        Err(_) => Err(accept_stat_data::PROC_UNAVAIL),
    }
}

/// Answers for both programs are where the client has asked.
pub fn port_of(procedure: u32, args: &mut Args<'_>, port: u16) -> Option<Vec<u8>> {
    let ours = [(nfs3::PROGRAM, nfs3::VERSION), (mount::PROGRAM, mount::VERSION)];
    match PMAP_PROG::try_from(procedure).ok()? {
        PMAP_PROG::PMAPPROC_NULL => Some(Vec::new()),
        PMAP_PROG::PMAPPROC_GETPORT => {
            let asked = (args.u32().ok()?, args.u32().ok()?);
            let is_here = args.u32().ok()? == IPPROTO_TCP && ours.contains(&asked);
            Some(packed(&if is_here { u32::from(port) } else { 0 }))
        }
        PMAP_PROG::PMAPPROC_DUMP => {
            let port = u32::from(port);
            let here = ours.map(|(prog, vers)| mapping { prog, vers, prot: IPPROTO_TCP, port });
            Some(packed(&List(here.to_vec())))
        }
        _ => None,
    }
}

impl Drive {
    /// The answer to a client that mounts the export, or a folder in it.
    pub fn mount(&self, export: &str, path: &[u8], rights: &Rights) -> Result<Vec<u8>, Problem> {
        let parts = path.split_at_checked(export.len());
        let named = parts.filter(|(start, _)| handle::same(start, export.as_bytes()));
        let (_, rest) = named.ok_or(Problem::Denied)?;
        if !matches!(rest.first(), None | Some(b'/')) || *rights == Rights::Nothing {
            return Err(Problem::Denied);
        }
        let handle = match self.walk(rest, rights)? {
            Some(folder) => self.handles.seal(&Target::Known(folder.ino)),
            None => self.handles.root(),
        };
        let fhandle = fhandle3(Opaque::owned(handle));
        let ok = mountres3_ok { fhandle, auth_flavors: vec![AUTH_UNIX] };
        Ok(packed(&mountres3::Ok(ok)))
    }

    /// The folder that a path leads to; none for the root. Links in it are followed.
    fn walk(&self, path: &[u8], rights: &Rights) -> Result<Option<Attr>, Problem> {
        let mut names: VecDeque<Vec<u8>> = parts(path).map(<[u8]>::to_vec).collect();
        let (mut at, mut links): (Option<Attr>, usize) = (None, 0);
        while let Some(name) = names.pop_front() {
            let dir = at.as_ref().map_or(Ino::ROOT, |attr| attr.ino);
            self.with(&Target::Known(dir), |dir| {
                rights.need(&self.fs, &self.fs.attr(dir)?, access::SEARCH)?;
                let attr = self.fs.lookup(dir, &name)?;
                match attr.kind {
                    NodeKind::Directory => at = Some(attr),
                    NodeKind::Symlink if links < MOST_LINKS => {
                        links += 1;
                        let target = self.fs.readlink(attr.ino);
                        self.fs.forget(attr.ino, 1);
                        let target = target?;
                        if target.first() == Some(&b'/') {
                            return Err(Problem::Fs(FsError::Invalid));
                        }
                        parts(&target).rev().for_each(|part| names.push_front(part.to_vec()));
                    }
                    _ => {
                        self.fs.forget(attr.ino, 1);
                        return Err(Problem::Fs(FsError::NotADirectory));
                    }
                }
                Ok(())
            })?;
        }
        Ok(at)
    }
}

fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".")
}

/// The answer to a client that can't mount.
pub fn refused(problem: &Problem) -> Vec<u8> {
    packed(&mountres3::Err(mount_status(problem)))
}

/// Version of a program that is here.
pub fn version_of(program: u32) -> Option<u32> {
    match program {
        nfs3::PROGRAM => Some(nfs3::VERSION),
        mount::PROGRAM => Some(mount::VERSION),
        portmap::PROGRAM => Some(portmap::VERSION),
        _ => None,
    }
}
