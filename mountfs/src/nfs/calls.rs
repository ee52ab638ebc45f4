//! Calls: from a message to its reply, whoever brings the one and takes the other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nfs3_types::nfs3::{self, NFS_PROGRAM};
use nfs3_types::portmap;
use nfs3_types::rpc::accept_stat_data;
use tresor_engine::crypto;

use super::access::{Readers, Rights};
use super::drive::{Answer, Drive};
use super::handle::Handles;
use super::mountd::{self, MountCall};
use super::request::{Request, Unparsed, failure_words};
use super::rpc::{self, Call, Malformed, packed};
use super::status::{Problem, status};
use super::{NAME_PREFIX, ServeOptions};
use crate::core::{FsError, SnapshotFs};
use crate::idle::Activity;
use crate::report::Reporter;

/// What answers the calls for one drive.
pub struct Calls {
    drive: Drive,
    /// Where all programs are.
    port: u16,
    /// The path that clients must name to get the first handle.
    export: String,
    /// Whether they still get it.
    entrance: AtomicBool,
    activity: Arc<Activity>,
}

/// What comes of a message.
pub(super) enum Taken {
    Work(u32, Work),
    /// Nothing is left to be done: the reply.
    Answered(Vec<u8>),
    /// Nor will anything make sense that follows.
    Senseless,
}

pub(super) struct Reply {
    pub bytes: Vec<u8>,
    /// Whether it has given the client the first handle.
    pub lets_in: bool,
}

impl Calls {
    pub fn new(
        fs: Arc<SnapshotFs>,
        options: &ServeOptions,
        port: u16,
    ) -> tresor_engine::Result<Self> {
        let secret = crypto::random::<16>()?;
        fs.open_to(options.allow_other, options.on_error.clone());
        let drive = Drive {
            fs,
            handles: Handles::new()?,
            readers: readers(options.allow_other),
            id: u64::from_le_bytes(crypto::random()?),
            reporter: Reporter::new(options.on_error.clone()),
        };
        Ok(Self {
            drive,
            port,
            export: format!("/{NAME_PREFIX}{:032x}", u128::from_le_bytes(secret)),
            entrance: AtomicBool::new(true),
            activity: Arc::new(Activity::new()),
        })
    }

    pub fn export(&self) -> &str {
        &self.export
    }

    /// Nobody gets the first handle from now on.
    pub(super) fn close_entrance(&self) {
        self.entrance.store(false, Relaxed);
    }

    pub(super) fn activity(&self) -> Arc<Activity> {
        self.activity.clone()
    }

    /// The reply to a message, with what stands before it on a stream; none to one that makes
    /// no sense, after which a server listens no more.
    pub fn answer(&self, record: &[u8]) -> Option<Vec<u8>> {
        match self.take(record) {
            Taken::Work(xid, work) => self.reply(xid, &work).map(|reply| reply.bytes),
            Taken::Answered(reply) => Some(reply),
            Taken::Senseless => None,
        }
    }

    pub(super) fn take(&self, record: &[u8]) -> Taken {
        let call = match rpc::parse(record) {
            Ok(call) => call,
            Err(Malformed::Refused(reply)) => return Taken::Answered(reply),
            Err(Malformed::Senseless) => return Taken::Senseless,
        };
        let xid = call.xid;
        match self.work(call) {
            Ok(work) => Taken::Work(xid, work),
            Err(Done { stat, body }) => Taken::Answered(rpc::accepted(xid, stat, &body)),
        }
    }

    /// What there is to do for a call, or the answer if there is nothing.
    fn work(&self, mut call: Call<'_>) -> Result<Work, Done> {
        let version = mountd::version_of(call.program);
        let version = version.ok_or(Done::failed(accept_stat_data::PROG_UNAVAIL))?;
        if call.version != version {
            let (low, high) = (version, version);
            return Err(Done::failed(accept_stat_data::PROG_MISMATCH { low, high }));
        }
        let rights = self.drive.readers.rights(call.who.take());
        match call.program {
            nfs3::PROGRAM => self.nfs_work(&mut call, rights),
            portmap::PROGRAM => {
                let port = self.port;
                let body = mountd::port_of(call.procedure, &mut call.args, port);
                Err(body.map_or(Done::failed(accept_stat_data::PROC_UNAVAIL), Done::with))
            }
            _ => match mountd::parse(call.procedure, &mut call.args).map_err(Done::failed)? {
                MountCall::Answered(body) => Err(Done::with(body)),
                MountCall::Mount(path) => Ok(Work::Mount(path, rights)),
            },
        }
    }

    fn nfs_work(&self, call: &mut Call<'_>, rights: Rights) -> Result<Work, Done> {
        let procedure = NFS_PROGRAM::try_from(call.procedure)
            .map_err(|_| Done::failed(accept_stat_data::PROC_UNAVAIL))?;
        if procedure == NFS_PROGRAM::NFSPROC3_NULL {
            return Err(Done::with(Vec::new()));
        }
        match Request::parse(procedure, &mut call.args, &self.drive.handles) {
            Ok(request) => {
                self.activity.note();
                self.drive.fs.note_request();
                Ok(Work::Nfs(procedure, request, rights))
            }
            Err(Unparsed::Call(stat)) => Err(Done::failed(stat)),
            Err(Unparsed::Problem(problem)) => Err(Done::with(failure(procedure, &problem))),
        }
    }

    /// The reply to a call; none if something must be fetched for it and may not be.
    pub(super) fn reply(&self, xid: u32, work: &Work) -> Option<Reply> {
        let (stat, body, lets_in) = match catch_unwind(AssertUnwindSafe(|| self.body(work))) {
            Ok(Some((body, lets_in))) => (accept_stat_data::SUCCESS, body, lets_in),
            Ok(None) => return None,
            Err(_) => (accept_stat_data::SYSTEM_ERR, Vec::new(), false),
        };
        Some(Reply { bytes: rpc::accepted(xid, stat, &body), lets_in })
    }

    fn body(&self, work: &Work) -> Option<(Vec<u8>, bool)> {
        let answer = match work {
            Work::Nfs(_, request, rights) => self.drive.answer(request, rights),
            Work::Mount(path, rights) => self.mount(path, rights),
        };
        match (answer, work) {
            (Ok(body), Work::Nfs(..)) => Some((body, false)),
            (Ok(body), Work::Mount(..)) => Some((body, true)),
            (Err(Problem::Fs(FsError::WouldFetch)), _) => None,
            (Err(problem), Work::Nfs(procedure, ..)) => {
                Some((failure(*procedure, &problem), false))
            }
            (Err(problem), Work::Mount(..)) => Some((mountd::refused(&problem), false)),
        }
    }

    fn mount(&self, path: &[u8], rights: &Rights) -> Answer {
        if !self.entrance.load(Relaxed) {
            return Err(Problem::Denied);
        }
        self.drive.mount(&self.export, path, rights)
    }
}

fn readers(allow_other: bool) -> Readers {
    match user() {
        _ if allow_other => Readers::AsRecorded,
        Some(user) => Readers::User(user),
        None => Readers::Anybody,
    }
}

/// The number of the user who runs this, where users have one.
fn user() -> Option<u32> {
    #[cfg(unix)]
    return Some(rustix::process::geteuid().as_raw());
    #[cfg(not(unix))]
    None
}

/// What a call wants.
pub(super) enum Work {
    Nfs(NFS_PROGRAM, Request, Rights),
    Mount(Vec<u8>, Rights),
}

impl Work {
    /// Whether the call has a handle that was given out here.
    pub fn shows_a_handle(&self) -> bool {
        matches!(self, Self::Nfs(..))
    }

    /// How long the reply may be.
    pub fn most(&self) -> usize {
        match self {
            Self::Nfs(_, request, _) => request.most(),
            Self::Mount(..) => 0,
        }
    }
}

/// The answer to a call that needs no work.
struct Done {
    stat: accept_stat_data,
    body: Vec<u8>,
}

impl Done {
    fn with(body: Vec<u8>) -> Self {
        Self { stat: accept_stat_data::SUCCESS, body }
    }

    fn failed(stat: accept_stat_data) -> Self {
        Self { stat, body: Vec::new() }
    }
}

/// The body of a reply to a call that fails.
fn failure(procedure: NFS_PROGRAM, problem: &Problem) -> Vec<u8> {
    let mut body = packed(&status(problem));
    body.resize(body.len() + 4 * failure_words(procedure), 0);
    body
}
