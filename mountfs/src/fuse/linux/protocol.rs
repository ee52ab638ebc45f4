//! The kernel's protocol (`linux/fuse.h`), as far as a drive that is only read needs it: requests
//! are taken apart here, and answers put together. All numbers are in the machine's own order.

use std::time::Duration;

use tresor_engine::format::NodeKind;

use crate::core::{Attr, Entry, Ino, Volume};
use crate::fuse::drive::{BLOCK, LONGEST_NAME, rdev};

/// What an answer begins with.
pub const ANSWER_HEADER: usize = 16;
/// Entries of listings are aligned to it.
const ALIGNMENT: usize = 8;
/// Longer names are refused by the kernel, and what is listed beside them, too.
pub const LONGEST_LISTED: usize = 1024;
/// Lengths of the structures `fuse_attr`, `fuse_entry_out` and `fuse_dirent`.
const ATTR: usize = 88;
const ENTRY: usize = 40 + ATTR;
const DIRENT: usize = 24;

pub struct Request<'a> {
    /// What its answer refers to.
    pub unique: u64,
    pub ino: Ino,
    /// The user who asks.
    pub uid: u32,
    /// The thread that asks.
    pub who: u32,
    pub call: Call<'a>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Call<'a> {
    Lookup(&'a [u8]),
    Forget(u64),
    ForgetAll(Forgotten<'a>),
    Attributes,
    Target,
    Open {
        flags: u32,
    },
    OpenDirectory,
    Read(Range),
    List(Range),
    ListWithAttributes(Range),
    Volume,
    Xattr {
        name: &'a [u8],
        room: u32,
    },
    XattrNames {
        room: u32,
    },
    Access {
        mask: u32,
    },
    Seek {
        offset: u64,
        whence: u32,
    },
    /// There are no handles, so nothing is to be done.
    Close,
    /// Something would be changed.
    Change,
    /// `ioctl`
    Control,
    /// The kernel asks for nothing any more.
    End,
    /// It is left to the kernel.
    Unknown,
    /// Shorter than it must be.
    Malformed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub offset: u64,
    pub size: u32,
}

impl<'a> Request<'a> {
    /// Nothing if these bytes don't begin as every request does: it can't even be answered.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let (_len, code, unique) = (fields.u32()?, fields.u32()?, fields.u64()?);
        let ino = Ino(fields.u64()?);
        let (uid, _gid, who) = (fields.u32()?, fields.u32()?, fields.u32()?);
        // How much of it are extensions, which nothing that is asked here has.
        fields.u32()?;
        let call = Call::decode(code, fields).unwrap_or(Call::Malformed);
        Some(Self { unique, ino, uid, who, call })
    }
}

impl<'a> Call<'a> {
    fn decode(code: u32, mut fields: Fields<'a>) -> Option<Self> {
        use code::*;
        Some(match code {
            LOOKUP => Self::Lookup(fields.name()?),
            FORGET => Self::Forget(fields.u64()?),
            GETATTR => Self::Attributes,
            READLINK => Self::Target,
            SETATTR | SYMLINK | MKNOD | MKDIR | UNLINK | RMDIR | RENAME | LINK | WRITE
            | SETXATTR | REMOVEXATTR | CREATE | RENAME2 => Self::Change,
            OPEN => Self::Open { flags: fields.u32()? },
            READ => Self::Read(fields.range()?),
            STATFS => Self::Volume,
            RELEASE | RELEASEDIR => Self::Close,
            GETXATTR => {
                let (room, _) = (fields.u32()?, fields.u32()?);
                Self::Xattr { name: fields.name()?, room }
            }
            LISTXATTR => Self::XattrNames { room: fields.u32()? },
            OPENDIR => Self::OpenDirectory,
            READDIR => Self::List(fields.range()?),
            ACCESS => Self::Access { mask: fields.u32()? },
            DESTROY => Self::End,
            IOCTL => Self::Control,
            BATCH_FORGET => Self::ForgetAll(fields.forgotten()?),
            READDIRPLUS => Self::ListWithAttributes(fields.range()?),
            LSEEK => {
                let (_handle, offset) = (fields.u64()?, fields.u64()?);
                Self::Seek { offset, whence: fields.u32()? }
            }
            _ => Self::Unknown,
        })
    }
}

/// Which request it is.
mod code {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const ACCESS: u32 = 34;
    pub const CREATE: u32 = 35;
    pub const DESTROY: u32 = 38;
    pub const IOCTL: u32 = 39;
    pub const BATCH_FORGET: u32 = 42;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
}

/// What is left of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_ne_bytes)
    }

    fn name(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        Some(&self.0[..end])
    }

    fn range(&mut self) -> Option<Range> {
        let (_handle, offset) = (self.u64()?, self.u64()?);
        Some(Range { offset, size: self.u32()? })
    }

    fn forgotten(mut self) -> Option<Forgotten<'a>> {
        let (count, _) = (self.u32()?, self.u32()?);
        Some(Forgotten { count, fields: self })
    }
}

/// Inodes, and how often each was looked up: as many as there are, whatever their number is said
/// to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forgotten<'a> {
    count: u32,
    fields: Fields<'a>,
}

impl Iterator for Forgotten<'_> {
    type Item = (Ino, u64);

    fn next(&mut self) -> Option<(Ino, u64)> {
        self.count = self.count.checked_sub(1)?;
        Some((Ino(self.fields.u64()?), self.fields.u64()?))
    }
}

/// An answer in the making.
#[derive(Default)]
pub struct Answer(Vec<u8>);

impl Answer {
    /// Has room for what most listings hold.
    pub fn for_listing() -> Self {
        Self(Vec::with_capacity(8 << 10))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn u32(&mut self, number: u32) -> &mut Self {
        self.0.extend_from_slice(&number.to_ne_bytes());
        self
    }

    fn u64(&mut self, number: u64) -> &mut Self {
        self.0.extend_from_slice(&number.to_ne_bytes());
        self
    }

    fn zeros(&mut self, len: usize) -> &mut Self {
        self.0.resize(self.0.len() + len, 0);
        self
    }

    /// What is known of an entry, for as long.
    pub fn entry(&mut self, attr: &Attr, valid: Duration) -> &mut Self {
        // Its number, and a generation.
        self.u64(attr.ino.0).u64(0);
        self.u64(valid.as_secs()).u64(valid.as_secs());
        self.u32(valid.subsec_nanos()).u32(valid.subsec_nanos());
        self.attr(attr)
    }

    /// That there is no such entry, for as long.
    pub fn no_entry(&mut self, valid: Duration) -> &mut Self {
        self.zeros(16).u64(valid.as_secs()).u64(0);
        self.u32(valid.subsec_nanos()).zeros(ATTR + 4)
    }

    pub fn attributes(&mut self, attr: &Attr, valid: Duration) -> &mut Self {
        self.u64(valid.as_secs()).u32(valid.subsec_nanos()).u32(0);
        self.attr(attr)
    }

    fn attr(&mut self, attr: &Attr) -> &mut Self {
        let times = [attr.atime, attr.mtime, attr.ctime];
        self.u64(attr.ino.0).u64(attr.size).u64(attr.allocated.div_ceil(512));
        for time in &times {
            self.u64(time.seconds as u64);
        }
        for time in &times {
            self.u32(time.nanos.min(999_999_999));
        }
        self.u32((kind_bits(attr.kind) << 12) | attr.mode).u32(attr.links);
        self.u32(attr.uid).u32(attr.gid).u32(rdev(attr.device_parts())).u32(BLOCK).u32(0)
    }

    /// An entry of a listing; false if there is no room for it.
    pub fn listed(&mut self, entry: &Entry<'_>, room: usize) -> bool {
        let fits = self.0.len() + entry_len(entry.name) <= room;
        if fits {
            self.dirent(entry);
        }
        fits
    }

    /// The same in a listing with attributes. To the kernel one without them is as in a listing
    /// that has none.
    pub fn listed_with(&mut self, entry: &Entry<'_>, valid: Option<Duration>, room: usize) -> bool {
        let fits = self.0.len() + ENTRY + entry_len(entry.name) <= room;
        if fits {
            match valid {
                Some(valid) => self.entry(&entry.attr, valid),
                None => self.zeros(ENTRY),
            };
            self.dirent(entry);
        }
        fits
    }

    fn dirent(&mut self, Entry { name, attr, next, .. }: &Entry<'_>) {
        self.u64(attr.ino.0).u64(*next).u32(name.len() as u32).u32(kind_bits(attr.kind));
        self.0.extend_from_slice(name);
        self.zeros(entry_len(name) - DIRENT - name.len());
    }

    pub fn opened(&mut self, keeps_pages: bool) -> &mut Self {
        const KEEP_CACHE: u32 = 1 << 1;
        const NO_FLUSH: u32 = 1 << 5;
        let flags = if keeps_pages { KEEP_CACHE | NO_FLUSH } else { 0 };
        self.u64(0).u32(flags).u32(0)
    }

    pub fn volume(&mut self, volume: Volume) -> &mut Self {
        let blocks = volume.bytes.div_ceil(u64::from(BLOCK));
        // Blocks and entries, and how many of them are free.
        self.u64(blocks).u64(0).u64(0).u64(volume.entries).u64(0);
        self.u32(BLOCK).u32(LONGEST_NAME).u32(BLOCK).zeros(4 * 7)
    }

    /// How long an extended attribute is.
    pub fn length(&mut self, len: usize) -> &mut Self {
        self.u32(u32::try_from(len).unwrap_or(u32::MAX)).u32(0)
    }

    pub fn offset(&mut self, offset: u64) -> &mut Self {
        self.u64(offset)
    }
}

fn entry_len(name: &[u8]) -> usize {
    (DIRENT + name.len()).next_multiple_of(ALIGNMENT)
}

/// What every answer begins with. The number of an error is positive.
pub fn answer_header(unique: u64, error: i32, len: usize) -> [u8; ANSWER_HEADER] {
    let mut header = [0; ANSWER_HEADER];
    let total = u32::try_from(ANSWER_HEADER + len).unwrap_or(u32::MAX);
    header[..4].copy_from_slice(&total.to_ne_bytes());
    header[4..8].copy_from_slice(&(-error).to_ne_bytes());
    header[8..].copy_from_slice(&unique.to_ne_bytes());
    header
}

/// A message of ours: what the kernel keeps of this directory's pages, all of them, is old. It asks for the
/// directory's attributes again, too.
pub fn listing_is_old(directory: Ino) -> [u8; ANSWER_HEADER + 24] {
    const INVAL_INODE: i32 = 2;
    let mut message = [0; ANSWER_HEADER + 24];
    // Where an answer has a negative error, a message has its kind.
    message[..ANSWER_HEADER].copy_from_slice(&answer_header(0, -INVAL_INODE, 24));
    message[ANSWER_HEADER..ANSWER_HEADER + 8].copy_from_slice(&directory.0.to_ne_bytes());
    message
}

/// The upper bits of a mode, which are also the kinds of a listing.
fn kind_bits(kind: NodeKind) -> u32 {
    let bits = match kind {
        NodeKind::File => libc::S_IFREG,
        NodeKind::Directory => libc::S_IFDIR,
        NodeKind::Symlink => libc::S_IFLNK,
        NodeKind::Fifo => libc::S_IFIFO,
        NodeKind::Socket => libc::S_IFSOCK,
        NodeKind::CharDevice => libc::S_IFCHR,
        NodeKind::BlockDevice => libc::S_IFBLK,
    };
    bits >> 12
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;
    use tresor_engine::format::Time;

    use super::*;

    fn request(code: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = (40 + body.len() as u32).to_ne_bytes().to_vec();
        bytes.extend(code.to_ne_bytes());
        bytes.extend(7u64.to_ne_bytes());
        bytes.extend(100u64.to_ne_bytes());
        [1000u32, 1000, 4321, 0].iter().for_each(|n| bytes.extend(n.to_ne_bytes()));
        bytes.extend(body);
        bytes
    }

    fn numbers(numbers: &[u64]) -> Vec<u8> {
        numbers.iter().flat_map(|n| n.to_ne_bytes()).collect()
    }

    fn call(bytes: &[u8]) -> Call<'_> {
        Request::decode(bytes).unwrap().call
    }

    fn forgotten(batch: &[u64]) -> Vec<(Ino, u64)> {
        match call(&request(code::BATCH_FORGET, &numbers(batch))) {
            Call::ForgetAll(all) => all.collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn requests_are_taken_apart() {
        let bytes = request(code::LOOKUP, b"name\0");
        let lookup = Request::decode(&bytes).unwrap();
        assert_eq!((lookup.unique, lookup.ino, lookup.uid, lookup.who), (7, Ino(100), 1000, 4321));
        assert_eq!(lookup.call, Call::Lookup(b"name"));
        let read = numbers(&[9, 5 << 30, 4096, 0, 0]);
        let range = Range { offset: 5 << 30, size: 4096 };
        assert_eq!(call(&request(code::READ, &read)), Call::Read(range));
        assert_eq!(call(&request(code::READDIRPLUS, &read)), Call::ListWithAttributes(range));
        let xattr = [&64u64.to_ne_bytes()[..], b"user.a\0"].concat();
        let wanted = Call::Xattr { name: b"user.a", room: 64 };
        assert_eq!(call(&request(code::GETXATTR, &xattr)), wanted);
        let seek = numbers(&[9, 8192, libc::SEEK_HOLE as u64]);
        let wanted = Call::Seek { offset: 8192, whence: libc::SEEK_HOLE as u32 };
        assert_eq!(call(&request(code::LSEEK, &seek)), wanted);
        assert_eq!(forgotten(&[2, 5, 1, 6, 2]), [(Ino(5), 1), (Ino(6), 2)]);
        assert_eq!(forgotten(&[1, 5, 1, 6, 2]), [(Ino(5), 1)]);
        assert_eq!(call(&request(code::RENAME2, &[])), Call::Change);
        assert_eq!(call(&request(4711, &[])), Call::Unknown);
    }

    #[test]
    fn nothing_is_reserved_because_a_number_says_so() {
        assert_eq!(forgotten(&[u64::from(u32::MAX), 5, 1, 6]), [(Ino(5), 1)]);
    }

    #[test]
    fn whatever_bytes_come_none_panics() {
        let rng = &mut Rng::with_seed(13);
        for code in (0..60).chain([4096, u32::MAX]) {
            for len in 0..80 {
                let body: Vec<u8> = (0..len).map(|_| rng.u8(..)).collect();
                let mut bytes = request(code, &body);
                assert!(Request::decode(&bytes).is_some());
                bytes.truncate(rng.usize(..=bytes.len()));
                assert_eq!(Request::decode(&bytes).is_some(), bytes.len() >= 40);
            }
        }
        assert_eq!(call(&request(code::LOOKUP, b"no end")), Call::Malformed);
        assert_eq!(call(&request(code::READ, &[0; 19])), Call::Malformed);
    }

    #[test]
    fn answers_are_as_long_as_the_kernel_wants_them() {
        let attr = Attr::of_virtual(Ino(100), NodeKind::File, 5, Time::new(-2, 500_000_000));
        let valid = Duration::from_millis(1500);
        let len = |answer: &mut Answer| answer.as_bytes().len();
        assert_eq!(len(Answer::default().entry(&attr, valid)), 128);
        assert_eq!(len(Answer::default().no_entry(valid)), 128);
        assert_eq!(len(Answer::default().attributes(&attr, valid)), 104);
        assert_eq!(len(Answer::default().opened(true)), 16);
        assert_eq!(len(Answer::default().volume(Volume { bytes: 1, entries: 1 })), 80);
        let mut entry = Answer::default();
        let bytes = entry.entry(&attr, valid).as_bytes();
        assert_eq!(bytes[..24], numbers(&[100, 0, 1])[..]);
        assert_eq!(bytes[32..36], 500_000_000u32.to_ne_bytes());
        // Before 1970.
        assert_eq!(bytes[64..72], (-2i64).to_ne_bytes());
        assert_eq!(answer_header(7, 5, 100)[..8], [116, 0, 0, 0, 251, 255, 255, 255]);
    }

    #[test]
    fn a_listing_is_never_longer_than_its_room() {
        let attr = Attr::of_virtual(Ino(100), NodeKind::File, 5, Time::default());
        for room in 0..600 {
            let (mut listing, mut fitted) = (Answer::default(), 0);
            for name in [&b"a"[..], b"abcdefgh", b"abcdefghi", b"z"] {
                let entry = Entry { name, attr: attr.clone(), looked_up: true, next: 3 };
                let known = (fitted % 2 == 0).then_some(Duration::ZERO);
                if !listing.listed_with(&entry, known, room) {
                    break;
                }
                fitted += 1;
            }
            assert!(listing.as_bytes().len() <= room && listing.as_bytes().len() % ALIGNMENT == 0);
            assert!(room < 4 * (128 + 40) || fitted == 4);
        }
    }
}
