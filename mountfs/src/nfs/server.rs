//! The server: takes connections and calls, and has them answered. A call that must fetch
//! goes to a pool, so that no client, and no call of a client, waits for another's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crossbeam_channel::{Sender, unbounded};
use nfs3_types::nfs3::{self, NFS_PROGRAM};
use nfs3_types::portmap;
use nfs3_types::rpc::accept_stat_data;
use tresor_engine::crypto;
use tresor_engine::repo::without_fetching;

use super::access::{Readers, Rights};
use super::connection::{Connection, Ticket};
use super::drive::{Answer, Drive};
use super::handle::Handles;
use super::mountd::{self, MountCall};
use super::request::{Request, Unparsed, failure_words};
use super::rpc::{self, Call, Malformed, packed};
use super::status::{Problem, status};
use super::{NAME_PREFIX, ServeError, ServeOptions, peer};
use crate::core::{FsError, SnapshotFs};
use crate::idle::Activity;
use crate::pool::Pool;

const MOST_CONNECTIONS: usize = 128;
/// How long a client may stay that hasn't shown that it was let in.
const STRANGER: Duration = Duration::from_secs(10);
const SWEEP: Duration = Duration::from_secs(1);
/// Before another try if a connection can't be taken.
const AGAIN: Duration = Duration::from_millis(100);

/// A drive that is served. Dropped, it goes on; see [`stop`](Self::stop).
#[derive(Clone)]
pub struct Server(Arc<Shared>);

struct Shared {
    drive: Drive,
    address: SocketAddr,
    /// The path that clients must name to get the first handle.
    export: String,
    /// Whether they still get it.
    entrance: AtomicBool,
    pool: Pool,
    activity: Arc<Activity>,
    connections: Mutex<Vec<Arc<Connection>>>,
    stopped: Mutex<bool>,
    stop: Condvar,
}

impl Server {
    pub fn start(fs: Arc<SnapshotFs>, options: &ServeOptions) -> Result<Self, ServeError> {
        let wanted = SocketAddr::new(options.address, options.port);
        let listen = |e| ServeError::Listen(wanted, e);
        let listener = TcpListener::bind(wanted).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let secret = crypto::random::<16>()?;
        let drive = Drive {
            fs,
            handles: Handles::new()?,
            readers: readers(options.allow_other),
            id: u64::from_le_bytes(crypto::random()?),
            on_error: options.on_error.clone(),
        };
        let server = Self(Arc::new(Shared {
            drive,
            address,
            export: format!("/{NAME_PREFIX}{:032x}", u128::from_le_bytes(secret)),
            entrance: AtomicBool::new(true),
            pool: Pool::new(),
            activity: Arc::new(Activity::new()),
            connections: Mutex::default(),
            stopped: Mutex::default(),
            stop: Condvar::new(),
        }));
        let (accepting, sweeping) = (server.0.clone(), server.0.clone());
        std::thread::spawn(move || accepting.accept(&listener));
        std::thread::spawn(move || sweeping.sweep());
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Where this machine reaches it.
    pub fn local_address(&self) -> SocketAddr {
        reachable(self.0.address)
    }

    pub fn export(&self) -> &str {
        &self.0.export
    }

    /// Nobody gets the first handle from now on.
    pub fn close_entrance(&self) {
        self.0.entrance.store(false, Relaxed);
    }

    pub(crate) fn activity(&self) -> Arc<Activity> {
        self.0.activity.clone()
    }

    /// Whether somebody is connected who has been let in.
    pub fn has_clients(&self) -> bool {
        self.0.connections().iter().any(|connection| connection.is_known())
    }

    /// Leaves all clients.
    pub fn stop(&self) {
        *self.0.stopped() = true;
        self.0.stop.notify_all();
        self.0.connections().iter().for_each(|connection| connection.close());
        // It may be waiting for a connection.
        let _ = TcpStream::connect_timeout(&reachable(self.0.address), SWEEP);
    }

    /// Waits until it is stopped, or for so long; says whether it is.
    pub fn wait_for(&self, most: Duration) -> bool {
        let waiting = self.0.stop.wait_timeout_while(self.0.stopped(), most, |stopped| !*stopped);
        *waiting.unwrap_or_else(|e| e.into_inner()).0
    }
}

/// An address at which this machine reaches itself.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
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

impl Shared {
    fn connections(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.connections.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn stopped(&self) -> MutexGuard<'_, bool> {
        self.stopped.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn accept(self: Arc<Self>, listener: &TcpListener) {
        loop {
            let accepted = listener.accept();
            if *self.stopped() {
                return;
            }
            match accepted {
                Ok((stream, _)) => self.admit(stream),
                // No more files may be open, say.
                Err(_) => std::thread::sleep(AGAIN),
            }
        }
    }

    fn admit(self: &Arc<Self>, stream: TcpStream) {
        if !peer::may_connect(&stream) {
            return;
        }
        let Ok(connection) = Connection::new(stream).map(Arc::new) else { return };
        let Some(admitted) = self.enter(connection) else { return };
        let serve = move || admitted.shared.serve(&admitted.connection);
        // If there can be no thread, the connection is closed with what that would have had.
        let _ = std::thread::Builder::new().name("nfs client".into()).spawn(serve);
    }

    /// Enters a connection in the list if there is room; one that a stranger holds is made
    /// free. Who stops the server closes all that are in the list by then, and no others
    /// come in after that.
    fn enter(self: &Arc<Self>, connection: Arc<Connection>) -> Option<Admitted> {
        let mut connections = self.connections();
        if *self.stopped() {
            return None;
        }
        if connections.len() >= MOST_CONNECTIONS {
            // The longest here come first.
            let stranger = connections.iter().position(|c| !c.is_known())?;
            connections.remove(stranger).close();
        }
        connections.push(connection.clone());
        Some(Admitted { shared: self.clone(), connection })
    }

    fn sweep(&self) {
        loop {
            let stopped = self.stop.wait_timeout_while(self.stopped(), SWEEP, |stopped| !*stopped);
            if *stopped.unwrap_or_else(|e| e.into_inner()).0 {
                return;
            }
            let connections = self.connections();
            connections
                .iter()
                .filter(|c| !c.is_known() && c.age() > STRANGER)
                .for_each(|c| c.close());
        }
    }

    fn serve(self: &Arc<Self>, connection: &Arc<Connection>) {
        let (replies, waiting) = unbounded::<(Vec<u8>, Ticket)>();
        let to = connection.clone();
        let write = move || waiting.iter().for_each(|(reply, _ticket)| to.send(&reply));
        if std::thread::Builder::new().name("nfs replies".into()).spawn(write).is_ok() {
            connection.read(|record| self.take(connection, &replies, record));
        }
    }

    /// Deals with one message. Says whether more may follow.
    fn take(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        replies: &Sender<(Vec<u8>, Ticket)>,
        record: &[u8],
    ) -> bool {
        let call = match rpc::parse(record) {
            Ok(call) => call,
            Err(Malformed::Refused(reply)) => {
                connection.send(&reply);
                return true;
            }
            Err(Malformed::Senseless) => return false,
        };
        let xid = call.xid;
        let work = match self.work(call) {
            Ok(work) => work,
            Err(Done { stat, body }) => {
                connection.send(&rpc::accepted(xid, stat, &body));
                return true;
            }
        };
        if let Work::Nfs(..) = work {
            connection.set_known();
        }
        let Some(ticket) = connection.take(work.most()) else { return false };
        match without_fetching(|| self.reply(connection, xid, &work)) {
            Some(reply) => connection.send(&reply),
            None => {
                let (shared, replies) = (self.clone(), replies.clone());
                let of = connection.clone();
                connection.put_off(Box::new(move || {
                    if let Some(reply) = shared.reply(&of, xid, &work) {
                        // Fails only if the connection is closed.
                        let _ = replies.send((reply, ticket));
                    }
                }));
                // What waits for a thread goes with its client.
                let of = Arc::downgrade(connection);
                self.pool.run(move || {
                    let job = of.upgrade().and_then(|connection| connection.next());
                    job.into_iter().for_each(|job| job());
                });
            }
        }
        true
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
                let port = self.address.port();
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
                Ok(Work::Nfs(procedure, request, rights))
            }
            Err(Unparsed::Call(stat)) => Err(Done::failed(stat)),
            Err(Unparsed::Problem(problem)) => Err(Done::with(failure(procedure, &problem))),
        }
    }

    /// The reply to a call; none if something must be fetched for it and may not be.
    fn reply(&self, connection: &Connection, xid: u32, work: &Work) -> Option<Vec<u8>> {
        let body = catch_unwind(AssertUnwindSafe(|| self.body(connection, work)));
        match body {
            Ok(body) => Some(rpc::accepted(xid, accept_stat_data::SUCCESS, &body?)),
            Err(_) => Some(rpc::accepted(xid, accept_stat_data::SYSTEM_ERR, &[])),
        }
    }

    fn body(&self, connection: &Connection, work: &Work) -> Option<Vec<u8>> {
        let answer = match work {
            Work::Nfs(_, request, rights) => self.drive.answer(request, rights),
            Work::Mount(path, rights) => self.mount(connection, path, rights),
        };
        match (answer, work) {
            (Ok(body), _) => Some(body),
            (Err(Problem::Fs(FsError::WouldFetch)), _) => None,
            (Err(problem), Work::Nfs(procedure, ..)) => Some(failure(*procedure, &problem)),
            (Err(problem), Work::Mount(..)) => Some(mountd::refused(&problem)),
        }
    }

    fn mount(&self, connection: &Connection, path: &[u8], rights: &Rights) -> Answer {
        if !self.entrance.load(Relaxed) {
            return Err(Problem::Denied);
        }
        let body = self.drive.mount(&self.export, path, rights)?;
        connection.set_known();
        Ok(body)
    }
}

/// A connection that is in the list as long as this lives, and open no longer.
struct Admitted {
    shared: Arc<Shared>,
    connection: Arc<Connection>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.connection.close();
        self.shared.connections().retain(|c| !Arc::ptr_eq(c, &self.connection));
    }
}

/// What a call wants.
enum Work {
    Nfs(NFS_PROGRAM, Request, Rights),
    Mount(Vec<u8>, Rights),
}

impl Work {
    /// How long the reply may be.
    fn most(&self) -> usize {
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
