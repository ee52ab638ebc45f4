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

fn server() -> Server {
    let tree = Item::dir().with("file", Item::file(vec![7; 300_000]));
    Server::new(drive_of(&tree), Opens::default(), None)
}

impl Asker {
    fn new() -> Self {
        let kind = SocketType::SEQPACKET;
        let (socket, served) =
            socketpair(AddressFamily::UNIX, kind, SocketFlags::empty(), None).unwrap();
        sockopt::set_socket_send_buffer_size(&served, 1 << 20).unwrap();
        let patience = Some(Duration::from_secs(20));
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, patience).unwrap();
        let device = Device::new(served.as_fd()).unwrap();
        let server = server();
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
        if !std::thread::panicking() {
            assert_eq!(self.ask(38, 0, &[]), Ok(vec![]));
            self.serving.take().unwrap().join().unwrap().unwrap();
        }
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
