//! What clients of a drive that is served may send: whatever it is, it is answered in form,
//! and nobody gets anything who wasn't let in or has made his handle himself.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};

use arbitrary::Unstructured;
use tresor_engine::store::{MemoryStore, Store};
use tresor_mountfs::nfs::{Calls, ServeOptions};
use tresor_mountfs::{Layout, OwnDrive};
use tresor_testkit::{backup, options};

use crate::kit::{byte, bytes};
use crate::{visit, world};

const NFS: u32 = 100_003;
const MOUNT: u32 = 100_005;
const PROGRAMS: [u32; 4] = [NFS, MOUNT, 100_000, 7];
/// Of NFS version 3.
const PROCEDURES: u8 = 23;
const LOOKUP: u8 = 3;
const READ: u8 = 6;
const READDIR: u8 = 16;
const READDIRPLUS: u8 = 17;
/// Those that would change something.
const CHANGES: [u8; 11] = [2, 7, 8, 9, 10, 11, 12, 13, 14, 15, 21];

/// What a client may be told at once, and what stands around it.
const LONGEST: usize = (256 << 10) + (8 << 10);
const MOST_CALLS: usize = 32;
const MOST_HANDLES: usize = 16;
/// Nobody's number.
const STRANGER: u32 = 0xfffe_fffe;

const NAMES: [&str; 14] = [
    "snapshots",
    "latest",
    "docs",
    "many",
    "large",
    "small",
    "link",
    "sparse",
    "entry 07",
    "..",
    ".",
    "hosts",
    ".versions",
    "empty",
];

/// For the user who serves and root only, and for everybody as recorded.
static SERVED: LazyLock<[Calls; 2]> = LazyLock::new(|| {
    let store: Store = Arc::new(MemoryStore::new());
    let repo = world::init(&store);
    backup(&repo, &world::tree(true), &options(None));
    let fs = Arc::new(visit::drive(&repo, None, Layout::Folders).unwrap());
    [false, true].map(|allow_other| {
        let options = ServeOptions {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            allow_other,
            idle_exit: None,
            repository: None,
            own: OwnDrive::default(),
            on_error: Arc::new(|_| {}),
        };
        Calls::new(fs.clone(), &options, 2049).unwrap()
    })
});

/// A client, and what it has been given.
struct Client {
    calls: &'static Calls,
    /// Whether strangers are refused.
    strict: bool,
    handles: Vec<Vec<u8>>,
    /// Of the listing before.
    verifier: [u8; 8],
    xid: u32,
}

pub fn nfs_calls(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let which = usize::from(byte(&mut input) & 1);
    let calls = &SERVED[which];
    let mut client =
        Client { calls, strict: which == 0, handles: Vec::new(), verifier: [0; 8], xid: 0 };
    let root = client.mount(b"", 0).expect("who names the export is let in");
    client.handles.push(root);
    for _ in 0..MOST_CALLS {
        if input.is_empty() {
            break;
        }
        client.call(&mut input);
    }
}

/// How a call is to be; the lowest bits say what it is.
#[derive(Clone, Copy)]
struct How(u8);

impl How {
    fn kind(self) -> u8 {
        self.0 & 7
    }
    fn by_stranger(self) -> bool {
        self.0 & 0x08 != 0
    }
    fn with_forged_handle(self) -> bool {
        self.0 & 0x10 != 0
    }
    fn by_nobody(self) -> bool {
        self.0 & 0x20 != 0
    }
    fn is_cut(self) -> bool {
        self.0 & 0x40 != 0
    }
    fn is_changed(self) -> bool {
        self.0 & 0x80 != 0
    }
}

impl Client {
    fn call(&mut self, input: &mut Unstructured<'_>) {
        let how = How(byte(input));
        match how.kind() {
            0 => drop(self.send(bytes(input, 255))),
            1 => {
                let uid = if how.by_stranger() { STRANGER } else { 0 };
                let handle = self.mount(bytes(input, 64), uid);
                assert!(!(handle.is_some() && self.strict && uid == STRANGER), "a stranger mounts");
                self.keep(handle);
            }
            2 => {
                let program = PROGRAMS[usize::from(byte(input)) % PROGRAMS.len()];
                let (version, procedure) = (byte(input) % 5, byte(input));
                let mut record = self.head(how, program, version.into(), procedure.into());
                record.extend(bytes(input, 64));
                self.damaged(how, record, input);
            }
            _ => self.nfs(how, input),
        }
    }

    fn nfs(&mut self, how: How, input: &mut Unstructured<'_>) {
        let procedure = byte(input) % PROCEDURES;
        let mut handle = self.handles[usize::from(byte(input)) % self.handles.len()].clone();
        if how.with_forged_handle() {
            let at = usize::from(byte(input)) % handle.len();
            handle[at] ^= 1 << (byte(input) % 8);
        }
        let mut record = self.head(how, NFS, 3, procedure.into());
        record.extend(opaque(&handle));
        match procedure {
            LOOKUP => {
                let name = NAMES.get(usize::from(byte(input))).map(|name| name.as_bytes());
                record.extend(opaque(name.unwrap_or_else(|| bytes(input, 255))));
            }
            READ => {
                record.extend(input.arbitrary::<u64>().unwrap_or_default().to_be_bytes());
                record.extend(input.arbitrary::<u32>().unwrap_or_default().to_be_bytes());
            }
            READDIR | READDIRPLUS => {
                record.extend(u64::from(byte(input)).to_be_bytes());
                record.extend(self.verifier);
                let words = 1 + usize::from(procedure == READDIRPLUS);
                for _ in 0..words {
                    record.extend(input.arbitrary::<u32>().unwrap_or_default().to_be_bytes());
                }
            }
            _ => record.extend(bytes(input, 255)),
        }
        let Some(reply) = self.damaged(how, record, input) else { return };
        let body = done(&reply);
        let is_good = body.is_some_and(|body| body.starts_with(&[0; 4]));
        let refused = how.with_forged_handle()
            || self.strict && (how.by_stranger() || how.by_nobody())
            || CHANGES.contains(&procedure);
        assert!(procedure == 0 || !(is_good && refused), "procedure {procedure} is answered");
        if let Some(body) = body.filter(|_| is_good) {
            match procedure {
                LOOKUP => self.keep(first_opaque(&body[4..])),
                // After the attributes of the directory.
                READDIR | READDIRPLUS => {
                    let verifier = body.get(92..100).and_then(|bytes| bytes.try_into().ok());
                    self.verifier = verifier.unwrap_or_default();
                }
                _ => {}
            }
        }
    }

    /// Mounts what lies at a path below the export.
    fn mount(&mut self, below: &[u8], uid: u32) -> Option<Vec<u8>> {
        let mut record = self.words(MOUNT, 3, 1);
        record.extend(credentials(uid));
        record.extend(opaque(&[self.calls.export().as_bytes(), below].concat()));
        let reply = self.send(&record).expect("a call in form is answered");
        let body = done(&reply)?;
        body.strip_prefix(&[0; 4]).and_then(first_opaque)
    }

    fn keep(&mut self, handle: Option<Vec<u8>>) {
        self.handles.extend(handle.filter(|_| self.handles.len() < MOST_HANDLES));
    }

    fn head(&mut self, how: How, program: u32, version: u32, procedure: u32) -> Vec<u8> {
        let mut record = self.words(program, version, procedure);
        record.extend(match (how.by_nobody(), how.by_stranger()) {
            (true, _) => vec![0; 16],
            (false, true) => credentials(STRANGER),
            (false, false) => credentials(0),
        });
        record
    }

    fn words(&mut self, program: u32, version: u32, procedure: u32) -> Vec<u8> {
        self.xid += 1;
        [self.xid, 0, 2, program, version, procedure].map(u32::to_be_bytes).concat()
    }

    /// Sends a call, cut off or changed if it is to be so; the reply if it is whole.
    fn damaged(
        &mut self,
        how: How,
        mut record: Vec<u8>,
        input: &mut Unstructured<'_>,
    ) -> Option<Vec<u8>> {
        if how.is_cut() {
            record.truncate(usize::from(byte(input)));
        }
        if how.is_changed() {
            let at = usize::from(byte(input)) % record.len().max(1);
            let with = byte(input);
            record.get_mut(at).into_iter().for_each(|byte| *byte ^= with);
        }
        let reply = self.send(&record);
        if how.is_cut() || how.is_changed() {
            return None;
        }
        assert!(reply.is_some(), "a call in form is answered");
        reply
    }

    /// What stands around every reply.
    fn send(&mut self, record: &[u8]) -> Option<Vec<u8>> {
        let reply = self.calls.answer(record)?;
        assert!(reply.len() <= LONGEST, "{} bytes", reply.len());
        let len = (reply.len() as u32 - 4) | 1 << 31;
        assert_eq!(reply[..4], len.to_be_bytes());
        assert!(reply[4..8] == record[..4] && reply[8..12] == [0, 0, 0, 1]);
        assert!(reply.len().is_multiple_of(4));
        Some(reply)
    }
}

/// What a call has given, if it could be understood.
fn done(reply: &[u8]) -> Option<&[u8]> {
    // Accepted, nothing to prove who answers, and done.
    reply[12..].strip_prefix(&[0; 16])
}

fn credentials(uid: u32) -> Vec<u8> {
    [1, 20, 0, 0, uid, uid, 0, 0, 0].map(u32::to_be_bytes).concat()
}

fn opaque(bytes: &[u8]) -> Vec<u8> {
    let mut out = (bytes.len() as u32).to_be_bytes().to_vec();
    out.extend(bytes);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

fn first_opaque(bytes: &[u8]) -> Option<Vec<u8>> {
    let (len, rest) = bytes.split_first_chunk()?;
    rest.get(..u32::from_be_bytes(*len) as usize).map(<[u8]>::to_vec)
}
