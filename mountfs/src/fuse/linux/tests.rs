//! The server without a kernel: whatever is asked, it answers, and goes on.

use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;
use std::time::Duration;

use fastrand::Rng;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair, sockopt};
use tresor_testkit::Item;

use super::device::Device;
use super::serve::{Opens, Server};
use crate::fuse::drive::tests::drive_of;

/// Asks as the kernel does.
struct Asker {
    socket: OwnedFd,
    serving: Option<JoinHandle<std::io::Result<()>>>,
}

impl Asker {
    fn new() -> Self {
        Self::of(&Item::dir().with("file", Item::file(vec![7; 300_000])))
    }

    /// Of a drive that shows this tree.
    fn of(tree: &Item) -> Self {
        let kind = SocketType::SEQPACKET;
        let (socket, served) =
            socketpair(AddressFamily::UNIX, kind, SocketFlags::empty(), None).unwrap();
        sockopt::set_socket_send_buffer_size(&served, 1 << 20).unwrap();
        let patience = Some(Duration::from_secs(20));
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, patience).unwrap();
        let device = Device::new(served.as_fd()).unwrap();
        let server = Server::new(drive_of(tree), Opens::default(), None);
        let serving = Some(std::thread::spawn(move || server.run(device)));
        Self { socket, serving }
    }

    fn send(&self, code: u32, unique: u64, ino: u64, body: &[u8]) {
        let mut bytes = (40 + body.len() as u32).to_ne_bytes().to_vec();
        bytes.extend(code.to_ne_bytes());
        bytes.extend(unique.to_ne_bytes());
        bytes.extend(ino.to_ne_bytes());
        bytes.extend([0; 16]);
        bytes.extend(body);
        rustix::io::write(&self.socket, &bytes).unwrap();
    }

    /// What was answered to which request: errno, or bytes.
    fn answer(&self) -> (u64, Result<Vec<u8>, i32>) {
        let mut room = vec![0; 1 << 20];
        let (len, _) = recv(&self.socket, &mut room[..], RecvFlags::empty()).unwrap();
        let number = |at: usize| u32::from_ne_bytes(room[at..at + 4].try_into().unwrap());
        assert_eq!(number(0) as usize, len);
        let unique = u64::from_ne_bytes(room[8..16].try_into().unwrap());
        let error = number(4).wrapping_neg() as i32;
        (unique, if error == 0 { Ok(room[16..len].to_vec()) } else { Err(error) })
    }

    fn ask(&self, code: u32, ino: u64, body: &[u8]) -> Result<Vec<u8>, i32> {
        self.send(code, 5, ino, body);
        let (unique, answer) = self.answer();
        assert_eq!(unique, 5);
        answer
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        let Some(serving) = self.serving.take().filter(|_| !std::thread::panicking()) else {
            return;
        };
        assert_eq!(self.ask(38, 0, &[]), Ok(vec![]));
        serving.join().unwrap().unwrap();
    }
}

#[test]
fn a_file_is_looked_up_and_read() {
    let asker = Asker::new();
    let entry = asker.ask(1, 1, b"file\0").unwrap();
    let ino = u64::from_ne_bytes(entry[..8].try_into().unwrap());
    // What is longer than one chunk.
    let body: Vec<u8> = [0u64, 1000, 250_000, 0, 0].iter().flat_map(|n| n.to_ne_bytes()).collect();
    assert_eq!(asker.ask(15, ino, &body), Ok(vec![7; 250_000]));
    assert_eq!(asker.ask(15, 1, &body), Err(libc::EISDIR));
    assert_eq!(asker.ask(15, 4711, &body), Err(libc::ESTALE));
    // That there is none is told as an entry without a number, to be kept.
    assert_eq!(asker.ask(1, 1, b"none\0").unwrap()[..8], [0; 8]);
}

#[test]
fn what_makes_no_sense_is_answered_too() {
    let asker = Asker::new();
    assert_eq!(asker.ask(1, 1, b"no end"), Err(libc::EIO));
    assert_eq!(asker.ask(15, 1, &[0; 8]), Err(libc::EIO));
    assert_eq!(asker.ask(4711, 1, &[]), Err(libc::ENOSYS));
    assert_eq!(asker.ask(16, 1, &[0; 100]), Err(libc::EROFS));
    // What programs like `ls` or `less` may try on any file.
    assert_eq!(asker.ask(39, 1, &[0; 32]), Err(libc::ENOTTY));
    // Too short to be answered, and what is never answered: the next answer is to the next one.
    rustix::io::write(&asker.socket, &[1; 39]).unwrap();
    asker.send(2, 4, 1, &1u64.to_ne_bytes());
    asker.send(42, 4, 1, &[0xff; 24]);
    assert!(asker.ask(17, 1, &[]).is_ok());
}

#[test]
fn each_request_gets_one_answer_whatever_it_holds() {
    let rng = &mut Rng::with_seed(5);
    let asker = Asker::new();
    for unique in 10..3000 {
        let body: Vec<u8> = (0..rng.usize(..64)).map(|_| rng.u8(..)).collect();
        let code = rng.u32(..60);
        if matches!(code, 2 | 38 | 42) {
            continue;
        }
        // Mostly numbers that mean something.
        let mut body = body;
        if rng.bool() && body.len() >= 20 {
            body[8..16].copy_from_slice(&rng.u64(..400_000).to_ne_bytes());
            body[16..20].copy_from_slice(&rng.u32(..400_000).to_ne_bytes());
        }
        asker.send(code, unique, rng.u64(..3), &body);
        assert_eq!(asker.answer().0, unique, "code {code}");
    }
}

/// The names of a directory and where a listing goes on after each, out of pieces of one page.
fn listed(asker: &Asker, code: u32, dir: u64) -> Vec<Vec<u8>> {
    const READDIRPLUS: u32 = 44;
    let before = if code == READDIRPLUS { 128 } else { 0 };
    let (mut names, mut offset) = (Vec::new(), 0u64);
    loop {
        let body: Vec<u8> = [0, offset, 4096, 0, 0].iter().flat_map(|n| n.to_ne_bytes()).collect();
        let piece = asker.ask(code, dir, &body).unwrap();
        let mut rest = &piece[..];
        if rest.is_empty() {
            return names;
        }
        while !rest.is_empty() {
            let entry = &rest[before..];
            offset = u64::from_ne_bytes(entry[8..16].try_into().unwrap());
            let len = u32::from_ne_bytes(entry[16..20].try_into().unwrap()) as usize;
            names.push(entry[24..24 + len].to_vec());
            rest = &rest[before + (24 + len).next_multiple_of(8)..];
        }
    }
}

#[test]
fn names_that_no_kernel_takes_hide_nothing_else() {
    let mut dir = Item::dir().with("z", Item::file("")).with("m".repeat(1024), Item::file(""));
    for name in ["a".repeat(5000), "b".repeat(1025), "y".repeat(5000)] {
        dir = dir.with(name, Item::dir());
    }
    let asker = Asker::of(&dir);
    let wanted = [b".".to_vec(), b"..".to_vec(), vec![b'm'; 1024], b"z".to_vec()];
    for code in [28, 44] {
        assert!(listed(&asker, code, 1) == wanted, "{code}");
    }
    // The root and the status: directories that weren't listed don't count as looked up.
    assert_eq!(number_of(&asker, "inodes"), 2);
    assert!(number_of(&asker, "errors") >= 2);
    // No room for a single entry isn't the end.
    let body: Vec<u8> = [0u64, 0, 8, 0, 0].iter().flat_map(|n| n.to_ne_bytes()).collect();
    assert_eq!([28, 44].map(|code| asker.ask(code, 1, &body)), [Err(libc::EIO), Err(libc::EIO)]);
}

/// What the drive's status says.
fn number_of(asker: &Asker, field: &str) -> u64 {
    let entry = asker.ask(1, 1, b".tresor-status\0").unwrap();
    let ino = u64::from_ne_bytes(entry[..8].try_into().unwrap());
    let body: Vec<u8> = [0u64, 0, 4096, 0, 0].iter().flat_map(|n| n.to_ne_bytes()).collect();
    let status: serde_json::Value =
        serde_json::from_slice(&asker.ask(15, ino, &body).unwrap()).unwrap();
    asker.send(2, 4, ino, &1u64.to_ne_bytes());
    status[field].as_u64().unwrap()
}

/// As one that is given back for want of memory.
#[test]
fn an_error_of_the_device_ends_nothing() {
    let mut asker = Asker::new();
    let serving = asker.serving.take().unwrap();
    asker.send(17, 5, 1, &[]);
    let answered = || rustix::io::ioctl_fionread(&asker.socket).unwrap() > 0;
    while !answered() {
        std::thread::sleep(Duration::from_millis(5));
    }
    // What nobody has taken makes the next read fail, once.
    drop(asker);
    serving.join().unwrap().unwrap();
}
