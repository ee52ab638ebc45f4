//! Takes the kernel's requests and has them answered.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use fuser::Errno;
use rustix::io::Errno as DeviceError;

use super::device::{Device, Reply, Room};
use super::habits::Habits;
use super::listing::Piece;
use super::protocol::{Answer, Call, Range, Request};
use crate::core::{Ino, LookUp, SnapshotFs};
use crate::follow;
use crate::fuse::drive::{Drive, FOR_GOOD, look_up, seeks_hole, valid, xattr, xattr_names};

/// Longer reads are mostly the kernel's readahead: nobody waits for each of them.
const LONG_READ: u32 = 64 << 10;

/// Between an error of the device and the next try.
const AGAIN: Duration = Duration::from_millis(20);

/// It takes a millisecond or two.
const TAKING_BACK: Duration = Duration::from_millis(100);

/// What need not be opened, since there are no handles.
#[derive(Clone, Copy, Debug, Default)]
pub struct Opens {
    pub no_file: bool,
    pub no_directory: bool,
}

pub struct Server {
    drive: Arc<Drive>,
    opens: Opens,
    only: Option<u32>,
    habits: Arc<Habits>,
}

impl Server {
    /// With `only`, no other user is on the drive.
    pub fn new(drive: Arc<Drive>, opens: Opens, only: Option<u32>) -> Self {
        Self { drive, opens, only, habits: Arc::default() }
    }

    /// Until the drive is gone.
    pub fn run(&self, device: Device) -> io::Result<()> {
        let device = Arc::new(device);
        let mut room = Room::new();
        loop {
            follow::settle();
            let request = match device.next(&mut room) {
                Ok(Some(bytes)) => Request::decode(bytes),
                Ok(None) => continue,
                Err(DeviceError::NODEV | DeviceError::CONNABORTED) => return Ok(()),
                // It will never be another.
                Err(e @ (DeviceError::BADF | DeviceError::INVAL | DeviceError::PERM)) => {
                    return Err(e.into());
                }
                // Without memory for the moment, for one: with every thread that ends there is one
                // less to answer.
                Err(_) => {
                    thread::sleep(AGAIN);
                    continue;
                }
            };
            // What can't even be answered is passed over.
            let Some(request) = request else { continue };
            let ends = request.call == Call::End;
            match &request.call {
                // Comes from the kernel itself, whatever else is asked.
                Call::Forget(_) | Call::ForgetAll(_) => {}
                call => follow::asked(request.who, waits(call)),
            }
            let reply = Reply::new(device.clone(), request.unique);
            // A reply that is dropped by a panic answers EIO; the thread lives on.
            let _ = catch_unwind(AssertUnwindSafe(|| self.handle(reply, request)));
            if ends {
                return Ok(());
            }
        }
    }

    fn handle(&self, reply: Reply, request: Request<'_>) {
        let Request { ino, uid, who, call, .. } = request;
        match call {
            // Of the drive's own folder everybody may ask for these, as far as the kernel goes.
            Call::Xattr { .. } if self.only.is_some_and(|only| only != uid) => {
                reply.error(Errno::EACCES)
            }
            Call::Lookup(name) => self.look_up(reply, ino, who, name),
            Call::Forget(count) => self.forget(reply, std::iter::once((ino, count))),
            Call::ForgetAll(all) => self.forget(reply, all),
            Call::Attributes => self.answer(reply, ino, SnapshotFs::attr, |reply, attr| {
                reply.answer(Answer::default().attributes(&attr, valid(&attr)));
            }),
            Call::Target => self.answer(reply, ino, SnapshotFs::readlink, |reply, target| {
                reply.bytes(&target);
            }),
            Call::Open { flags } => self.open(reply, flags),
            // Never asks again.
            Call::OpenDirectory if self.opens.no_directory => reply.error(Errno::ENOSYS),
            Call::OpenDirectory => reply.answer(Answer::default().opened(false)),
            Call::Read(range) => self.read(reply, ino, range),
            Call::List(range) => self.list(reply, ino, range),
            Call::ListWithAttributes(range) => self.list_with(reply, ino, who, range),
            Call::Volume => reply.answer(Answer::default().volume(self.drive.fs.volume())),
            Call::Xattr { name, room } => self.xattr(reply, ino, name, room),
            Call::XattrNames { room } => {
                self.answer(reply, ino, xattr_names, move |reply, names| value(reply, &names, room))
            }
            Call::Access { mask } if mask & libc::W_OK as u32 != 0 => reply.error(Errno::EROFS),
            Call::Access { .. } | Call::Close | Call::End => reply.bytes(&[]),
            Call::Seek { offset, whence } => self.seek(reply, ino, offset, whence),
            Call::Change => reply.error(Errno::EROFS),
            Call::Control => reply.error(Errno::ENOTTY),
            Call::Unknown => reply.error(Errno::ENOSYS),
            Call::Malformed => reply.error(Errno::EIO),
        }
    }

    fn answer<T>(
        &self,
        reply: Reply,
        ino: Ino,
        work: impl Fn(&SnapshotFs, Ino) -> crate::core::FsResult<T> + Send + 'static,
        give: impl FnOnce(Reply, T) + Send + 'static,
    ) {
        self.drive.answer(ino, move |fs| work(fs, ino), move |done| reply.give(done, give));
    }

    fn look_up(&self, reply: Reply, parent: Ino, who: u32, name: &[u8]) {
        let (name, habits) = (name.to_vec(), self.habits.clone());
        let look = move |fs: &SnapshotFs, parent| look_up(fs, parent, &name);
        self.answer(reply, parent, look, move |reply, found| {
            let mut answer = Answer::default();
            match &found {
                Some(attr) => answer.entry(attr, valid(attr)),
                None => answer.no_entry(FOR_GOOD),
            };
            let old = found.map(|attr| habits.looked_up(who, parent, attr.kind));
            if let Some(old) = old.filter(|old| !old.is_empty()) {
                take_back(reply.device(), old);
            }
            reply.answer(&answer);
        });
    }

    fn forget(&self, reply: Reply, all: impl Iterator<Item = (Ino, u64)>) {
        all.for_each(|(ino, count)| self.drive.fs.forget(ino, count));
        reply.keep_silent();
    }

    fn open(&self, reply: Reply, flags: u32) {
        if flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32 {
            reply.error(Errno::EROFS);
        } else if self.opens.no_file {
            // Never asks again, and keeps pages.
            reply.error(Errno::ENOSYS);
        } else {
            reply.answer(Answer::default().opened(true));
        }
    }

    fn read(&self, reply: Reply, ino: Ino, Range { offset, size }: Range) {
        let size = size as usize;
        let read = move |fs: &SnapshotFs, ino| {
            // What follows is on its way while this is fetched.
            fs.read_ahead(ino, offset, size);
            fs.pieces_at(ino, offset, size)
        };
        self.answer(reply, ino, read, |reply, pieces| {
            let slices: Vec<&[u8]> = pieces.iter().flat_map(|piece| piece.slices()).collect();
            reply.pieces(&slices);
        });
    }

    fn list(&self, reply: Reply, ino: Ino, Range { offset, size }: Range) {
        let list =
            move |fs: &SnapshotFs, piece: &mut Piece| piece.fill(fs, ino, offset, LookUp::Nothing);
        let drive = self.drive.clone();
        self.drive.fill(ino, Piece::new(size, false), list, move |piece, done| {
            give_piece(reply, &drive, ino, &piece, done);
        });
    }

    fn list_with(&self, reply: Reply, ino: Ino, who: u32, Range { offset, size }: Range) {
        let fixed = self.drive.fs.is_fixed(ino);
        let look_up = if fixed { self.habits.of(who, offset) } else { LookUp::Everything };
        let list = move |fs: &SnapshotFs, piece: &mut Piece| piece.fill(fs, ino, offset, look_up);
        let (drive, habits) = (self.drive.clone(), self.habits.clone());
        self.drive.fill(ino, Piece::new(size, true), list, move |piece, done| {
            if look_up != LookUp::Everything && piece.bare > 0 {
                habits.listed(who, ino, piece.bare);
            }
            give_piece(reply, &drive, ino, &piece, done);
        });
    }

    fn xattr(&self, reply: Reply, ino: Ino, name: &[u8], room: u32) {
        let none = self.drive.no_such_xattr(name);
        let name = name.to_vec();
        let find = move |fs: &SnapshotFs, ino| xattr(fs, ino, &name);
        self.answer(reply, ino, find, move |reply, found| match found {
            Some(found) => value(reply, &found, room),
            None => reply.error(none),
        });
    }

    fn seek(&self, reply: Reply, ino: Ino, offset: u64, whence: u32) {
        let hole = match seeks_hole(whence as i32) {
            Ok(hole) => hole,
            Err(e) => return reply.error(e),
        };
        let seek = move |fs: &SnapshotFs, ino| fs.seek(ino, offset, hole);
        self.answer(reply, ino, seek, |reply, found| match found {
            Some(at) => reply.answer(Answer::default().offset(at)),
            None => reply.error(Errno::ENXIO),
        });
    }
}

fn give_piece(reply: Reply, drive: &Drive, dir: Ino, piece: &Piece, done: Result<(), Errno>) {
    if let Some(complaint) = piece.complaint().filter(|_| done.is_ok()) {
        drive.fail(dir, &complaint);
    }
    reply.give(done, |reply, ()| reply.answer(&piece.answer));
}

/// Has the kernel forget listings, on a thread of its own: the kernel waits for pages of listings that
/// are being read, and whoever reads them into what he has mapped from a drive that doesn't answer
/// would hold up those who answer here. Mostly that is done before who asks goes through the next one.
fn take_back(device: &Arc<Device>, listings: Vec<Ino>) {
    follow::free();
    let (device, (done, wait)) = (device.clone(), mpsc::channel());
    let work = move || {
        listings.into_iter().for_each(|listing| device.take_back(listing));
        let _ = done.send(());
    };
    // Without a thread they stay as they are, which is slower and nothing more.
    if std::thread::Builder::new().name("listings".into()).spawn(work).is_ok() {
        let _ = wait.recv_timeout(TAKING_BACK);
    }
}

/// Whether who asks so goes on only when it is answered.
fn waits(call: &Call<'_>) -> bool {
    match call {
        Call::Read(range) => range.size <= LONG_READ,
        _ => true,
    }
}

/// Answers with the value of an extended attribute, or with the length of one if there is no room.
fn value(reply: Reply, value: &[u8], room: u32) {
    if room == 0 {
        reply.answer(Answer::default().length(value.len()));
    } else if value.len() > room as usize {
        reply.error(Errno::ERANGE);
    } else {
        reply.bytes(value);
    }
}
