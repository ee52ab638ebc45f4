//! One client's connection: messages that arrive, and replies that wait to be taken.

use std::collections::VecDeque;
use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nfs3_types::rpc::fragment_header;

/// Longer messages are not read: nobody writes, and the rest is names.
const MOST_RECORD: usize = 128 << 10;
const BUFFER: usize = 16 << 10;
/// Bytes of replies, and calls, of one client that are under way at once. Further calls
/// wait unread.
const MOST_BYTES: usize = 16 << 20;
const MOST_CALLS: usize = 128;
/// How long a client may take to take anything of a reply.
const PATIENCE: Duration = Duration::from_secs(30);

/// Answers a call.
pub type Job = Box<dyn FnOnce() + Send>;

pub struct Connection {
    stream: TcpStream,
    /// Calls that a thread must be found for.
    waiting: Mutex<VecDeque<Job>>,
    /// Held while a reply is written.
    writing: Mutex<()>,
    room: Mutex<UnderWay>,
    less: Condvar,
    closed: AtomicBool,
    known: AtomicBool,
    since: Instant,
}

#[derive(Default)]
struct UnderWay {
    calls: usize,
    bytes: usize,
}

/// A call that is under way, until this is dropped.
pub struct Ticket {
    of: Arc<Connection>,
    bytes: usize,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut room = self.of.room();
        room.calls -= 1;
        room.bytes -= self.bytes;
        drop(room);
        self.of.less.notify_all();
    }
}

impl Connection {
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            waiting: Mutex::default(),
            writing: Mutex::default(),
            room: Mutex::default(),
            less: Condvar::new(),
            closed: AtomicBool::new(false),
            known: AtomicBool::new(false),
            since: Instant::now(),
        })
    }

    fn room(&self) -> MutexGuard<'_, UnderWay> {
        self.room.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The client has shown that it was let in.
    pub fn is_known(&self) -> bool {
        self.known.load(Relaxed)
    }

    pub fn set_known(&self) {
        self.known.store(true, Relaxed);
    }

    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    pub fn close(&self) {
        self.closed.store(true, Relaxed);
        let _ = self.stream.shutdown(Shutdown::Both);
        // Nobody wants an answer. They hold on to this connection, which ends with them.
        let unwanted = std::mem::take(&mut *self.waiting());
        drop(unwanted);
        // Whoever waits for room looks again.
        drop(self.room());
        self.less.notify_all();
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Job>> {
        self.waiting.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Keeps a call until [`next`](Self::next) takes it, or the connection is closed.
    pub fn put_off(&self, job: Job) {
        let mut waiting = self.waiting();
        if !self.is_closed() {
            waiting.push_back(job);
        }
    }

    /// The call that has waited longest.
    pub fn next(&self) -> Option<Job> {
        self.waiting().pop_front()
    }

    /// Waits until another call with so long a reply may be under way; none if the
    /// connection is closed meanwhile.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Option<Ticket> {
        let full = |room: &mut UnderWay| {
            let fits = room.calls < MOST_CALLS && room.bytes + bytes <= MOST_BYTES;
            room.calls > 0 && !fits && !self.is_closed()
        };
        let waited = self.less.wait_while(self.room(), full);
        let mut room = waited.unwrap_or_else(|e| e.into_inner());
        if self.is_closed() {
            return None;
        }
        room.calls += 1;
        room.bytes += bytes;
        Some(Ticket { of: self.clone(), bytes })
    }

    /// Writes a reply. A client that doesn't take it is left.
    pub fn send(&self, reply: &[u8]) {
        let _writing = self.writing.lock().unwrap_or_else(|e| e.into_inner());
        if (&self.stream).write_all(reply).is_err() {
            self.close();
        }
    }

    /// Hands each message to `take`, until that has had enough or the client has gone.
    pub fn read(&self, mut take: impl FnMut(&[u8]) -> bool) {
        let mut input = BufReader::with_capacity(BUFFER, &self.stream);
        let mut record = Vec::new();
        while !self.is_closed()
            && matches!(read_record(&mut input, &mut record), Ok(true))
            && take(&record)
        {
            // What was long once need not be kept.
            record.shrink_to(BUFFER);
        }
        self.close();
    }
}

/// Reads a message, which comes in fragments; not if it is too long. Room is made as bytes
/// arrive, not because a length says so.
fn read_record(input: &mut impl Read, record: &mut Vec<u8>) -> io::Result<bool> {
    record.clear();
    loop {
        let mut header = [0; 4];
        input.read_exact(&mut header)?;
        let header = fragment_header::from(header);
        let len = header.fragment_length() as usize;
        if record.len() + len > MOST_RECORD {
            return Ok(false);
        }
        if input.by_ref().take(len as u64).read_to_end(record)? < len {
            return Ok(false);
        }
        if header.eof() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Option<Vec<u8>> {
        let mut record = Vec::new();
        let whole = read_record(&mut &bytes[..], &mut record);
        assert!(record.capacity() <= 2 * MOST_RECORD);
        matches!(whole, Ok(true)).then_some(record)
    }

    #[test]
    fn messages_come_whole_and_are_not_too_long() {
        assert_eq!(read(b"\x80\0\0\x03abc"), Some(b"abc".to_vec()));
        assert_eq!(read(b"\0\0\0\x03abc\0\0\0\0\x80\0\0\x01d"), Some(b"abcd".to_vec()));
        assert_eq!(read(b"\x80\0\0\x04abc"), None);
        assert_eq!(read(b"\xff\xff\xff\xffabc"), None);
        assert_eq!(read(b"\0\0"), None);
        let fragments = |count| {
            let fragment = [&b"\0\x01\0\0"[..], &[7; 1 << 16]].concat();
            [&fragment.repeat(count)[..], b"\x80\0\0\0"].concat()
        };
        assert_eq!(read(&fragments(2)).map(|all| all.len()), Some(MOST_RECORD));
        assert_eq!(read(&fragments(3)), None);
    }
}
