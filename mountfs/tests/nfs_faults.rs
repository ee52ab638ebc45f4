//! The drive through NFS: stores with faults, and clients that mean harm or don't care.

mod kit;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use fastrand::Rng;
use kit::faults::{Fault, Faults};
use kit::nfs::{Client, Served};
use kit::{drive, in_time, wait_until};
use nfs3_types::mount;
use nfs3_types::nfs3::{self, *};
use nfs3_types::xdr_codec::Void;
use tresor_engine::repo::Snapshot;
use tresor_engine::store::{MemoryStore, Store};
use tresor_testkit::{Item, backup, init, open, options, random_bytes};

const CACHE: u64 = 8 << 20;
/// Never cut, wherever the repository's own table would, and not put together with others.
const ONE_BLOCK: usize = 64 << 10;

/// A repository whose store has faults, with some files of a block each, and a large one.
struct World {
    store: Store,
    faults: Arc<Faults>,
    snapshot: Snapshot,
    tree: Item,
}

impl World {
    fn new() -> Self {
        let mut rng = Rng::with_seed(5);
        let mut file = |len| Item::file(random_bytes(&mut rng, len));
        let many = (0..40).fold(Item::dir(), |dir, n| dir.with(format!("{n:02}"), file(ONE_BLOCK)));
        let tree = Item::dir()
            .with("slow", file(ONE_BLOCK))
            .with("warm", file(ONE_BLOCK))
            .with("large", file(4 << 20))
            .with("many", many);
        let inner: Store = Arc::new(MemoryStore::new());
        init(&inner);
        let (snapshot, _) = backup(&open(&inner), &tree, &options(None));
        let faults = Arc::new(Faults::default());
        Self { store: faults.store(inner), faults, snapshot, tree }
    }

    /// A drive with nothing in its caches.
    fn serve(&self) -> Served {
        Served::new(drive(&open(&self.store), Some(self.snapshot.clone()), CACHE))
    }

    fn bytes(&self, name: &str) -> &[u8] {
        self.tree.entries()[name.as_bytes()].bytes()
    }
}

fn read_args(file: &nfs_fh3, offset: u64, count: u32) -> READ3args {
    READ3args { file: file.clone(), offset, count }
}

#[test]
fn what_fails_concerns_who_reads_it() {
    let world = World::new();
    let served = world.serve();
    let mut client = served.client();
    let (slow, warm) = (client.at("slow").unwrap().handle, client.at("warm").unwrap().handle);
    assert!(client.read_all(&warm, 1 << 20).unwrap() == world.bytes("warm"));
    for fault in [Fault::Fail(1), Fault::Damage(1)] {
        world.faults.set(fault);
        assert_eq!(client.read(&slow, 0, 4096).err(), Some(nfsstat3::NFS3ERR_IO));
        assert!(client.read_all(&warm, 1 << 20).unwrap() == world.bytes("warm"));
        assert!(client.list(&client.root.clone(), 4096).is_ok());
    }
    wait_until("it is said", || !served.complaints.lock().unwrap().is_empty());
    let said = served.complaints.lock().unwrap().concat();
    assert!(said.starts_with("/slow: "), "{said}");
    world.faults.set(Fault::None);
    assert!(client.read_all(&slow, 1 << 20).unwrap() == world.bytes("slow"));
}

/// A listing that is damaged in the middle isn't said to be whole.
#[test]
fn a_damaged_listing_ends_with_an_error() {
    let inner: Store = Arc::new(MemoryStore::new());
    init(&inner);
    // In pages of their own.
    let name = |n: u32| format!("{n:04} {}", "x".repeat(200));
    let tree = (0..2000).fold(Item::dir(), |dir, n| dir.with(name(n), Item::file("text")));
    let (snapshot, _) = backup(&open(&inner), &tree, &options(None));
    let faults = Arc::new(Faults::default());
    let store = faults.store(inner);
    let mut seen = (0, 0);
    for nth in 1.. {
        let served = Served::new(drive(&open(&store), Some(snapshot.clone()), CACHE));
        let mut client = served.client();
        let root = client.root.clone();
        faults.set(Fault::Damage(nth));
        let plus = client.list_plus(&root, 1 << 20).map(|all| all.len());
        faults.set(Fault::Damage(nth));
        let plain = client.list(&root, 1 << 20).map(|all| all.len());
        let was_hit = faults.hit.lock().unwrap().is_some();
        for listed in [plus, plain] {
            match listed {
                Ok(2002) => seen.0 += 1,
                Err(nfsstat3::NFS3ERR_IO) => seen.1 += 1,
                other => panic!("{other:?}"),
            }
        }
        if !was_hit && nth > 1 {
            break;
        }
    }
    assert!(seen.0 > 0 && seen.1 > 1, "{seen:?}");
}

#[test]
fn a_stalled_store_holds_up_nobody_else() {
    let world = World::new();
    let served = world.serve();
    let mut client = served.client();
    let warm = client.at("warm").unwrap().handle;
    client.read(&warm, 0, 1 << 20).unwrap();
    let many = client.at("many").unwrap().handle;
    let files = client.list_plus(&many, 1 << 16).unwrap();
    let handles: Vec<nfs_fh3> =
        files.iter().skip(2).map(|e| e.name_handle.clone().unwrap()).collect();
    // As long as a client may ask for.
    let most = client.info().rtmax;
    world.faults.set(Fault::StallAll);
    // More than there are threads that fetch.
    let asked: Vec<u32> = handles
        .iter()
        .map(|file| client.ask(NFS_PROGRAM::NFSPROC3_READ, &read_args(file, 0, most)))
        .collect();
    wait_until("the store stalls", || world.faults.waiting.load(SeqCst) >= 16);
    // What is in memory is answered on the same connection, and on another one.
    let mut other = served.client();
    let warm_again = warm.clone();
    let mut client = in_time("in memory", move || {
        let xid = client.ask(NFS_PROGRAM::NFSPROC3_READ, &read_args(&warm, 0, 4096));
        let (of, _) = client.reply::<READ3res<'_>>().unwrap();
        assert_eq!(of, xid);
        client
    });
    in_time("on another connection", move || {
        assert!(other.read(&warm_again, 0, 4096).is_ok());
        assert!(other.at("many/07").is_ok());
    });
    world.faults.set(Fault::None);
    let mut answered = Vec::new();
    for _ in &asked {
        let (of, read) = client.reply::<READ3res<'_>>().unwrap();
        let n = asked.iter().position(|xid| *xid == of).unwrap();
        let want = &world.tree.entries()[&b"many"[..]].entries()[format!("{n:02}").as_bytes()];
        assert!(*read.unwrap().data == want.bytes()[..], "{n}");
        answered.push(of);
    }
    answered.sort_unstable();
    assert_eq!(answered, asked);
}

/// Who stops while a call is under way doesn't keep others from being answered afterwards.
#[test]
fn clients_that_leave_are_forgotten() {
    let world = World::new();
    let served = world.serve();
    let mut client = served.client();
    let slow = client.at("slow").unwrap().handle;
    world.faults.set(Fault::StallAll);
    for _ in 0..60 {
        let mut leaving = served.client();
        leaving.ask(NFS_PROGRAM::NFSPROC3_READ, &read_args(&slow, 0, 4096));
    }
    world.faults.set(Fault::None);
    in_time("afterwards", move || assert!(client.read(&slow, 0, 4096).is_ok()));
    wait_until("they are gone", || !served.mounted.server().has_clients());
}

/// How many files, and connections, this process has open.
fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// What waits for a thread goes with its client, though the store stalls on.
#[test]
fn what_waits_goes_with_its_client() {
    let world = World::new();
    let served = world.serve();
    let mut client = served.client();
    let many = client.at("many").unwrap().handle;
    let files = client.list_plus(&many, 1 << 16).unwrap();
    let handles: Vec<nfs_fh3> =
        files.iter().skip(2).map(|e| e.name_handle.clone().unwrap()).collect();
    world.faults.set(Fault::StallAll);
    let ask_all = |client: &mut Client| {
        for file in &handles {
            client.ask(NFS_PROGRAM::NFSPROC3_READ, &read_args(file, 0, 4096));
        }
    };
    ask_all(&mut client);
    wait_until("the store stalls", || world.faults.waiting.load(SeqCst) >= 16);
    let before = open_files();
    for _ in 0..40 {
        ask_all(&mut served.client());
    }
    wait_until("they are gone", || open_files() <= before + 2);
    world.faults.set(Fault::None);
    let mut other = served.client();
    in_time("afterwards", move || assert!(other.at("many/07").is_ok()));
}

/// The most memory that this process has had.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn who_takes_no_replies_takes_no_memory() {
    let world = World::new();
    let served = world.serve();
    let mut client = served.client();
    let large = client.at("large").unwrap().handle;
    client.read_all(&large, 1 << 20).unwrap();
    let before = peak();
    // 20 clients that want 1 GB together and take nothing.
    let record = client.record(
        nfs3::PROGRAM,
        nfs3::VERSION,
        NFS_PROGRAM::NFSPROC3_READ as u32,
        &read_args(&large, 0, 1 << 20),
    );
    let idle: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = TcpStream::connect(served.address()).unwrap();
            stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
            let _ = (0..50).try_for_each(|_| stream.write_all(&record));
            stream
        })
        .collect();
    in_time("others", move || {
        for name in ["slow", "many/03", "many/39"] {
            let file = client.at(name).unwrap().handle;
            assert!(client.read(&file, 0, 4096).is_ok());
        }
    });
    let more = peak() - before;
    assert!(more < 100 << 20, "{} MiB", more >> 20);
    drop(idle);
}

#[test]
fn who_takes_no_replies_keeps_no_thread_and_bounded_memory() {
    let world = World::new();
    let served = world.serve();
    let mut client = served.client();
    let large = client.at("large").unwrap().handle;
    let before = peak();
    world.faults.set(Fault::StallAll);
    // More calls that must fetch than there are threads for that, for 400 MB.
    let mut idle: Vec<Client> = (0..4).map(|_| served.client()).collect();
    for client in &mut idle {
        for _ in 0..100 {
            client.ask(NFS_PROGRAM::NFSPROC3_READ, &read_args(&large, 0, 1 << 20));
        }
    }
    wait_until("the store stalls", || world.faults.waiting.load(SeqCst) > 0);
    world.faults.set(Fault::None);
    in_time("others", move || {
        for name in ["slow", "many/03", "many/39"] {
            let file = client.at(name).unwrap().handle;
            assert!(client.read(&file, 0, 4096).is_ok());
        }
    });
    let more = peak() - before;
    assert!(more < 150 << 20, "{} MiB", more >> 20);
    drop(idle);
}

/// Sends bytes, and closes; what came back until the server closed, or for a moment.
fn send(served: &Served, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(served.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut back = Vec::new();
    let _ = stream.read_to_end(&mut back);
    back
}

#[test]
fn lengths_that_make_no_sense() {
    let world = World::new();
    let served = world.serve();
    let mut client = served.client();
    let before = peak();
    let words = |words: &[u32]| words.iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<u8>>();
    let marked =
        |body: Vec<u8>| [&(0x8000_0000 | body.len() as u32).to_be_bytes()[..], &body].concat();
    let call = |proc: u32, cred: &[u32], args: &[u32]| {
        let body = [&[9, 0, 2, PROGRAM, 3, proc][..], cred, &[0, 0], args].concat();
        marked(words(&body))
    };
    let unix: [u32; 7] = [1, 20, 0, 0, 0, 0, 0];
    // A fragment of 2 GiB, many of them without an end, half of a message, and nothing.
    assert_eq!(send(&served, &words(&[u32::MAX])), b"");
    assert_eq!(send(&served, &[&words(&[0x7fff_ffff])[..], &[0; 1 << 20]].concat()), b"");
    assert_eq!(
        send(&served, &[&words(&[0x0001_0000])[..], &[0; 1 << 16]].concat().repeat(99)),
        b""
    );
    assert_eq!(send(&served, &words(&[0; 10_000])), b"");
    assert_eq!(send(&served, &marked(words(&[9, 0, 2]))), b"");
    assert_eq!(send(&served, b"GET / HTTP/1.1\r\n\r\n"), b"");
    assert_eq!(send(&served, &[]), b"");
    // Credentials, a handle, a name and a path that say they are 4 GiB long.
    assert_eq!(send(&served, &call(1, &[1, u32::MAX], &[])), b"");
    for bytes in [
        call(1, &[1, 20, 0, u32::MAX, 0, 0, 0], &[]),
        call(1, &[1, 20, 0, 0, 0, 0, u32::MAX], &[]),
        call(1, &unix, &[u32::MAX]),
        call(1, &unix, &[64, 0]),
        call(3, &unix, &[20, 0, 0, 0, 0, 0, u32::MAX]),
        marked(words(&[&[9, 0, 2, mount::PROGRAM, 3, 1][..], &unix, &[0, 0, u32::MAX]].concat())),
    ] {
        let reply = send(&served, &bytes);
        assert!(reply.len() > 8 && reply.len() < 64, "{reply:?}");
    }
    // Of a client that has been let in: as much as there can be, of as much as it likes.
    let root = client.root.clone();
    let large = client.at("large").unwrap().handle;
    let (read, eof) = client.read(&large, 0, u32::MAX).unwrap();
    assert!(read == world.bytes("large")[..client.info().rtmax as usize] && !eof);
    assert_eq!(client.read(&large, u64::MAX, u32::MAX), Ok((Vec::new(), true)));
    assert!(client.list(&root, u32::MAX).is_ok() && client.list_plus(&root, u32::MAX).is_ok());
    assert_eq!(client.lookup(&root, vec![b'x'; 100_000]).err(), Some(nfsstat3::NFS3ERR_NOENT));
    for name in ["", "/", "a/b", "warm\0", "./warm"] {
        assert_eq!(client.lookup(&root, name).err(), Some(nfsstat3::NFS3ERR_NOENT), "{name:?}");
    }
    let more = peak() - before;
    assert!(more < 64 << 20, "{} MiB", more >> 20);
}

/// Calls with bytes changed, cut off, and put together: answered or not, the server goes on.
#[test]
fn garbage() {
    let world = World::new();
    let served = world.serve();
    let mut client = served.client();
    let mut rng = Rng::with_seed(7);
    let (root, file) = (client.root.clone(), client.at("warm").unwrap().handle);
    let procs = [1, 3, 4, 5, 6, 16, 17, 18, 19, 20];
    let start = Instant::now();
    for round in 0..400 {
        let mut sent = Vec::new();
        for _ in 0..rng.usize(1..5) {
            let proc = *rng.choice(&procs).unwrap();
            let at = if rng.bool() { &root } else { &file };
            let mut record = client.record(
                nfs3::PROGRAM,
                nfs3::VERSION,
                proc,
                &read_args(at, rng.u64(..), rng.u32(..)),
            );
            for _ in 0..rng.usize(0..4) {
                let byte = rng.usize(4..record.len());
                record[byte] = rng.u8(..);
            }
            sent.extend(record);
        }
        if rng.u8(..) < 30 {
            let byte = rng.usize(0..sent.len());
            sent[byte] ^= 1 << rng.u8(0..8);
        }
        sent.truncate(if rng.bool() { sent.len() } else { rng.usize(0..sent.len()) });
        let mut stream = TcpStream::connect(served.address()).unwrap();
        let _ = stream.write_all(&sent);
        if round % 20 == 0 {
            assert!(client.read(&file, 0, 9).is_ok());
        }
    }
    assert!(start.elapsed() < Duration::from_secs(30));
    assert!(client.read_all(&file, 1 << 20).unwrap() == world.bytes("warm"));
}

#[test]
fn strangers_make_room() {
    let world = World::new();
    let served = world.serve();
    let mut first = served.client();
    let connect = || TcpStream::connect(served.address()).unwrap();
    let start = Instant::now();
    let mut silent: Vec<TcpStream> = (0..200).map(|_| connect()).collect();
    // Some have said something, but nothing that only those know who were let in.
    for stream in silent.iter_mut().skip(150) {
        let record = first.record(nfs3::PROGRAM, nfs3::VERSION, 0, &Void);
        let _ = stream.write_all(&record);
    }
    in_time("who was here, and who comes", move || {
        assert!(first.at("warm").is_ok());
        let mut second = served.client();
        assert!(second.at("warm").is_ok());
        // Those who say nothing have to go, those who were let in may stay.
        let mut rest = silent.split_off(199);
        rest[0].set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let gone = std::thread::spawn(move || {
            let mut all = Vec::new();
            let _ = rest[0].read_to_end(&mut all);
        });
        drop(silent);
        (first, second, served, gone)
    });
    assert!(start.elapsed() < Duration::from_secs(60));
}

#[test]
fn who_says_nothing_has_to_go() {
    let world = World::new();
    let served = world.serve();
    let mut client = served.client();
    let mut silent = Client::new(served.address());
    let start = Instant::now();
    assert_eq!(silent.stream.read(&mut [0]).unwrap(), 0, "closed");
    assert!(start.elapsed() > Duration::from_secs(5));
    assert!(client.at("warm").is_ok());
}
