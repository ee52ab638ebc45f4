//! Answers: from requests to calls of [`SnapshotFs`].

use std::sync::Arc;

use nfs3_types::nfs3::{
    ACCESS3_EXECUTE, ACCESS3_LOOKUP, ACCESS3_READ, ACCESS3resok, FSF3_HOMOGENEOUS, FSF3_LINK,
    FSF3_SYMLINK, FSINFO3resok, FSSTAT3resok, LOOKUP3resok, PATHCONF3resok, READ3resok,
    READLINK3resok, fattr3, ftype3, nfs_fh3, nfsstat3, nfstime3, post_op_attr, specdata3,
};
use nfs3_types::xdr_codec::{Opaque, Pack};
use tresor_engine::format::{NodeKind, Time};

use super::access::{self, Readers, Rights};
use super::handle::{Handles, Held, Target};
use super::request::{MOST_DATA, Request};
use super::rpc::packed;
use super::status::Problem;
use crate::core::{Attr, FsError, Ino, SnapshotFs};
use crate::report::Reporter;

/// Most bytes of a listing that clients are advised to ask for at once.
const LISTING: u32 = 64 << 10;
/// Bytes that a client may try to write at once, to be told that it can't.
const WRITTEN: u32 = 64 << 10;

pub struct Drive {
    pub fs: Arc<SnapshotFs>,
    pub handles: Handles,
    pub readers: Readers,
    /// Tells this drive from others.
    pub id: u64,
    pub reporter: Reporter,
}

/// The body of a reply, with its status.
pub type Answer = Result<Vec<u8>, Problem>;

impl Drive {
    pub fn answer(&self, request: &Request, rights: &Rights) -> Answer {
        if *rights == Rights::Nothing {
            return Err(Problem::Denied);
        }
        match request {
            Request::GetAttr(at) => {
                self.with(at, |ino| Ok(good(&self.attributes(&self.fs.attr(ino)?))))
            }
            Request::Lookup(dir, name) => self.with(dir, |dir| self.lookup(dir, name, rights)),
            Request::Access(at, asked) => self.with(at, |ino| self.access(ino, *asked, rights)),
            Request::ReadLink(link) => self.with(link, |ino| {
                let data = self.fs.readlink(ino)?.into();
                Ok(good(&READLINK3resok { symlink_attributes: self.told(ino), data }))
            }),
            Request::Read { file, offset, count } => {
                self.with(file, |ino| self.read(ino, *offset, *count, rights))
            }
            Request::ReadDir { dir, from, count } => {
                self.with(dir, |dir| self.read_dir(dir, *from, *count, rights))
            }
            Request::ReadDirPlus { dir, from, names, count } => {
                self.with(dir, |dir| self.read_dir_plus(dir, *from, *names, *count, rights))
            }
            Request::FsStat(at) => self.with(at, |ino| Ok(self.fs_stat(ino))),
            Request::FsInfo(at) => self.with(at, |ino| Ok(self.fs_info(ino))),
            Request::PathConf(at) => self.with(at, |ino| Ok(self.path_conf(ino))),
        }
    }

    /// Does something with an entry; an error about the repository is reported with the path.
    pub fn with<T>(
        &self,
        target: &Target,
        work: impl FnOnce(Ino) -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        let held = Held::new(&self.fs, target)?;
        work(held.ino).inspect_err(|problem| {
            if let Problem::Fs(error) = problem
                && let Some(message) = self.fs.failed(held.ino, error)
            {
                self.reporter.tell(message);
            }
        })
    }

    fn lookup(&self, dir: Ino, name: &[u8], rights: &Rights) -> Answer {
        let above = self.fs.attr(dir)?;
        // Before permissions: nothing is in a file, whoever asks.
        if above.kind != NodeKind::Directory {
            return Err(Problem::Fs(FsError::NotADirectory));
        }
        rights.need(&self.fs, &above, access::SEARCH)?;
        let attr = self.fs.lookup(dir, name)?;
        let obj_attributes = post_op_attr::Some(self.attributes(&attr));
        let target = Target::of(&self.fs, &attr)?;
        let object = self.handle(&target);
        target.give_out(&self.fs);
        let dir_attributes = self.told(dir);
        Ok(good(&LOOKUP3resok { object, obj_attributes, dir_attributes }))
    }

    fn access(&self, ino: Ino, asked: u32, rights: &Rights) -> Answer {
        let attr = self.fs.attr(ino)?;
        let bits = rights.bits(&self.fs, &attr)?;
        let search =
            if attr.kind == NodeKind::Directory { ACCESS3_LOOKUP } else { ACCESS3_EXECUTE };
        let granted = [(access::READ, ACCESS3_READ), (access::SEARCH, search)];
        let granted = granted.iter().filter(|(bit, _)| bits & bit != 0);
        let access = asked & granted.fold(0, |all, (_, right)| all | right);
        let obj_attributes = post_op_attr::Some(self.attributes(&attr));
        Ok(good(&ACCESS3resok { obj_attributes, access }))
    }

    fn read(&self, ino: Ino, offset: u64, count: u32, rights: &Rights) -> Answer {
        let attr = self.fs.attr(ino)?;
        rights.need(&self.fs, &attr, access::READ)?;
        // What follows is on its way while this is fetched.
        self.fs.read_ahead(ino, offset, count as usize);
        let bytes = self.fs.read_at(ino, offset, count as usize)?;
        Ok(good(&READ3resok {
            file_attributes: post_op_attr::Some(self.attributes(&attr)),
            count: bytes.len() as u32,
            eof: offset.saturating_add(bytes.len() as u64) >= attr.size,
            data: Opaque::borrowed(&bytes),
        }))
    }

    fn fs_stat(&self, ino: Ino) -> Vec<u8> {
        let volume = self.fs.volume();
        good(&FSSTAT3resok {
            obj_attributes: self.told(ino),
            tbytes: volume.bytes,
            fbytes: 0,
            abytes: 0,
            tfiles: volume.entries,
            ffiles: 0,
            afiles: 0,
            invarsec: 0,
        })
    }

    fn fs_info(&self, ino: Ino) -> Vec<u8> {
        good(&FSINFO3resok {
            obj_attributes: self.told(ino),
            rtmax: MOST_DATA,
            rtpref: MOST_DATA,
            rtmult: 4096,
            // Some clients don't mount what takes little.
            wtmax: WRITTEN,
            wtpref: WRITTEN,
            wtmult: 4096,
            dtpref: LISTING,
            maxfilesize: i64::MAX.cast_unsigned(),
            time_delta: nfstime3 { seconds: 0, nseconds: 1 },
            properties: FSF3_LINK | FSF3_SYMLINK | FSF3_HOMOGENEOUS,
        })
    }

    fn path_conf(&self, ino: Ino) -> Vec<u8> {
        good(&PATHCONF3resok {
            obj_attributes: self.told(ino),
            linkmax: u32::MAX,
            name_max: 255,
            no_trunc: true,
            chown_restricted: true,
            case_insensitive: false,
            case_preserving: true,
        })
    }

    pub fn handle(&self, target: &Target) -> nfs_fh3 {
        nfs_fh3 { data: Opaque::owned(self.handles.seal(target)) }
    }

    /// Attributes that a reply may hold, or not if they aren't to be had at once.
    pub fn told(&self, ino: Ino) -> post_op_attr {
        match self.fs.attr(ino) {
            Ok(attr) => post_op_attr::Some(self.attributes(&attr)),
            Err(_) => post_op_attr::None,
        }
    }

    pub fn attributes(&self, attr: &Attr) -> fattr3 {
        let (major, minor) = attr.device_parts();
        fattr3 {
            type_: file_type(attr.kind),
            mode: attr.mode,
            nlink: attr.links,
            uid: attr.uid,
            gid: attr.gid,
            size: attr.size,
            used: attr.allocated,
            rdev: specdata3 { specdata1: major, specdata2: minor },
            fsid: self.id,
            fileid: attr.ino.0,
            atime: time(attr.atime),
            mtime: time(attr.mtime),
            ctime: time(attr.ctime),
        }
    }
}

pub fn good(body: &impl Pack) -> Vec<u8> {
    let mut answer = packed(&nfsstat3::NFS3_OK);
    answer.extend(packed(body));
    answer
}

/// NFS has no times before 1970 or after 2106.
fn time(time: Time) -> nfstime3 {
    match u32::try_from(time.seconds) {
        Ok(seconds) => nfstime3 { seconds, nseconds: time.nanos.min(999_999_999) },
        Err(_) if time.seconds < 0 => nfstime3 { seconds: 0, nseconds: 0 },
        Err(_) => nfstime3 { seconds: u32::MAX, nseconds: 0 },
    }
}

fn file_type(kind: NodeKind) -> ftype3 {
    match kind {
        NodeKind::File => ftype3::NF3REG,
        NodeKind::Directory => ftype3::NF3DIR,
        NodeKind::Symlink => ftype3::NF3LNK,
        NodeKind::Fifo => ftype3::NF3FIFO,
        NodeKind::Socket => ftype3::NF3SOCK,
        NodeKind::CharDevice => ftype3::NF3CHR,
        NodeKind::BlockDevice => ftype3::NF3BLK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_nfs_does_not_have() {
        let both = |seconds| time(Time::new(seconds, 5));
        assert_eq!(both(1 << 31), nfstime3 { seconds: 1 << 31, nseconds: 5 });
        assert_eq!(both(-1), nfstime3 { seconds: 0, nseconds: 0 });
        assert_eq!(both(1 << 33), nfstime3 { seconds: u32::MAX, nseconds: 0 });
    }
}
