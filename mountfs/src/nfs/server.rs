//! The server: takes connections and calls, and has them answered. A call that must fetch
//! goes to a pool, so that no client, and no call of a client, waits for another's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crossbeam_channel::{Sender, unbounded};
use tresor_engine::repo::without_fetching;

use super::calls::{Calls, Taken};
use super::connection::{Connection, Ticket};
use super::{ServeError, ServeOptions, peer};
use crate::core::SnapshotFs;
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
    calls: Calls,
    address: SocketAddr,
    pool: Pool,
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
        let calls = Calls::new(fs, options, address.port())?;
        let server = Self(Arc::new(Shared {
            calls,
            address,
            pool: Pool::new(),
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
        self.0.calls.export()
    }

    /// Nobody gets the first handle from now on.
    pub fn close_entrance(&self) {
        self.0.calls.close_entrance();
    }

    pub(crate) fn activity(&self) -> Arc<Activity> {
        self.0.calls.activity()
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
        let (xid, work) = match self.calls.take(record) {
            Taken::Work(xid, work) => (xid, work),
            Taken::Answered(reply) => {
                connection.send(&reply);
                return true;
            }
            Taken::Senseless => return false,
        };
        if work.shows_a_handle() {
            connection.set_known();
        }
        let Some(ticket) = connection.take(work.most()) else { return false };
        match without_fetching(|| self.calls.reply(xid, &work)) {
            Some(reply) => {
                reply.lets_in.then(|| connection.set_known());
                connection.send(&reply.bytes);
            }
            None => {
                let (shared, replies) = (self.clone(), replies.clone());
                let of = connection.clone();
                connection.put_off(Box::new(move || {
                    if let Some(reply) = shared.calls.reply(xid, &work) {
                        reply.lets_in.then(|| of.set_known());
                        // Fails only if the connection is closed.
                        let _ = replies.send((reply.bytes, ticket));
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
