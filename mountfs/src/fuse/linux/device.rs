//! `/dev/fuse`: where requests come from, and answers go to.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use fuser::Errno;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno as DeviceError;

use super::protocol::{Answer, answer_header, listing_is_old};
use crate::core::Ino;

/// Longest write that is agreed on with the kernel, though nobody writes: reads are as long.
pub const LONGEST_WRITE: u32 = 1 << 20;
/// The kernel refuses a buffer without room for that; and it fills it, when it forgets many inodes at
/// once.
const LONGEST: usize = LONGEST_WRITE as usize + 4096;
/// `writev` takes no more.
const MOST_PIECES: usize = 1024;

/// An open one. An answer must go to the one that its request came from.
pub struct Device(OwnedFd);

/// Room for a request.
pub struct Room(Vec<u8>);

impl Room {
    pub fn new() -> Self {
        Self(vec![0; LONGEST])
    }
}

impl Device {
    pub fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        fd.try_clone_to_owned().map(Self)
    }

    /// Another one of the same drive, which takes requests by itself.
    pub fn another(&self) -> io::Result<Self> {
        const CLONE: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(229, 0);
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let fd = rustix::fs::open("/dev/fuse", flags, Mode::empty())?;
        let whose = self.0.as_raw_fd() as u32;
        // SAFETY: FUSE_DEV_IOC_CLONE only reads a u32, the number of an open descriptor.
        unsafe { rustix::ioctl::ioctl(&fd, rustix::ioctl::Setter::<CLONE, u32>::new(whose))? };
        Ok(Self(fd))
    }

    /// Waits for a request. `None` if it is to be tried again.
    pub fn next<'r>(&self, room: &'r mut Room) -> Result<Option<&'r [u8]>, DeviceError> {
        match rustix::io::read(&self.0, &mut room.0[..]) {
            Ok(0) => Err(DeviceError::NODEV),
            Ok(len) => Ok(Some(&room.0[..len])),
            // NOENT: it was taken back before it was read.
            Err(DeviceError::AGAIN | DeviceError::INTR | DeviceError::NOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Tells the kernel not to keep the listing of a directory any more. It waits for those who are reading that.
    pub fn take_back(&self, listing: Ino) {
        // Fails if it doesn't know the directory any more.
        let _ = rustix::io::write(&self.0, &listing_is_old(listing));
    }

    fn answer(&self, unique: u64, error: i32, pieces: &[&[u8]]) {
        let header = answer_header(unique, error, pieces.iter().map(|piece| piece.len()).sum());
        let mut all = Vec::with_capacity(pieces.len() + 1);
        all.push(IoSlice::new(&header));
        all.extend(pieces.iter().map(|piece| IoSlice::new(piece)));
        // Fails if nobody waits for it any more.
        let _ = rustix::io::writev(&self.0, &all);
    }
}

/// What a request is to be answered with. Dropped, as by a panic, it answers EIO.
pub struct Reply {
    device: Arc<Device>,
    unique: u64,
    is_done: bool,
}

impl Reply {
    pub fn new(device: Arc<Device>, unique: u64) -> Self {
        Self { device, unique, is_done: false }
    }

    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    pub fn error(self, errno: Errno) {
        self.send(errno.code(), &[]);
    }

    pub fn answer(self, answer: &Answer) {
        self.bytes(answer.as_bytes());
    }

    pub fn bytes(self, bytes: &[u8]) {
        self.send(0, &[bytes]);
    }

    /// All of these one after the other.
    pub fn pieces(self, pieces: &[&[u8]]) {
        if pieces.len() < MOST_PIECES {
            self.send(0, pieces);
        } else {
            self.bytes(&pieces.concat());
        }
    }

    /// Gives what was done, or why it wasn't.
    pub fn give<T>(self, done: Result<T, Errno>, give: impl FnOnce(Self, T)) {
        match done {
            Ok(done) => give(self, done),
            Err(e) => self.error(e),
        }
    }

    /// To a request that nobody waits for.
    pub fn keep_silent(mut self) {
        self.is_done = true;
    }

    fn send(mut self, error: i32, pieces: &[&[u8]]) {
        self.is_done = true;
        self.device.answer(self.unique, error, pieces);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.is_done {
            self.device.answer(self.unique, libc::EIO, &[]);
        }
    }
}
