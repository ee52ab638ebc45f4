//! Whose a connection is. On a machine with several users anybody can connect to a local
//! port, and say in a call that he is somebody else. Linux tells which user a local socket
//! belongs to; that of the kernel's own client is root's.

use std::net::TcpStream;
#[cfg(target_os = "linux")]
use std::net::{IpAddr, SocketAddr, UdpSocket};

/// Whether a connection may be answered: from another machine, or of this user or root.
#[cfg(target_os = "linux")]
pub fn may_connect(stream: &TcpStream) -> bool {
    let (Ok(peer), Ok(own)) = (stream.peer_addr(), stream.local_addr()) else { return false };
    let user = owner(peer, own);
    is_welcome(user, || is_loopback(peer) || is_loopback(own) || is_of_this_machine(peer))
}

/// Other systems don't tell; the handles must do.
#[cfg(not(target_os = "linux"))]
pub fn may_connect(_: &TcpStream) -> bool {
    true
}

/// A socket of another machine has no user here. Nor has one of this machine whose program
/// has closed it, or that can't be found: addresses tell them apart, but only then, since
/// a program chooses from which of the machine's addresses it comes.
#[cfg(target_os = "linux")]
fn is_welcome(user: Option<u32>, is_local: impl FnOnce() -> bool) -> bool {
    let me = rustix::process::geteuid().as_raw();
    match user {
        Some(user) => user == 0 || user == me,
        None => !is_local(),
    }
}

/// An IPv4 address is one also where it is written as one of IPv6.
#[cfg(target_os = "linux")]
fn unmapped(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

#[cfg(target_os = "linux")]
fn is_loopback(end: SocketAddr) -> bool {
    unmapped(end.ip()).is_loopback()
}

/// Whether a socket could have this address here. If that can't be found out, it could.
#[cfg(target_os = "linux")]
fn is_of_this_machine(end: SocketAddr) -> bool {
    let mut any_port = end;
    any_port.set_ip(unmapped(end.ip()));
    any_port.set_port(0);
    let bound = UdpSocket::bind(any_port);
    !bound.is_err_and(|e| e.kind() == std::io::ErrorKind::AddrNotAvailable)
}

/// The user whose socket has these ends, the first one being its own.
#[cfg(target_os = "linux")]
fn owner(socket: SocketAddr, other: SocketAddr) -> Option<u32> {
    ["/proc/self/net/tcp", "/proc/self/net/tcp6"].iter().find_map(|table| {
        let table = std::fs::read_to_string(table).ok()?;
        table.lines().skip(1).find_map(|line| owner_in(line, socket, other))
    })
}

#[cfg(target_os = "linux")]
fn owner_in(line: &str, socket: SocketAddr, other: SocketAddr) -> Option<u32> {
    let mut fields = line.split_whitespace().skip(1);
    let is = |field: Option<&str>, end: SocketAddr| {
        field
            .and_then(address)
            .is_some_and(|(ip, port)| unmapped(ip) == unmapped(end.ip()) && port == end.port())
    };
    if !is(fields.next(), socket) || !is(fields.next(), other) {
        return None;
    }
    // State, queues, timer and retransmissions stand before the user.
    let user = fields.nth(4)?.parse().ok()?;
    // A socket that its program has closed is said to be root's, and has no inode any more.
    let inode: u64 = fields.nth(1)?.parse().ok()?;
    (inode != 0).then_some(user)
}

/// An address as the kernel's tables have it: words of this machine in hexadecimal digits.
#[cfg(target_os = "linux")]
fn address(text: &str) -> Option<(IpAddr, u16)> {
    let (ip, port) = text.split_once(':')?;
    let word =
        |at: usize| u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let bytes = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)
        }
        _ => return None,
    };
    Some((ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_owner_of_a_socket_is_found() {
        let me = rustix::process::geteuid().as_raw();
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(local) else { continue };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, peer) = listener.accept().unwrap();
            assert_eq!(owner(peer, server.local_addr().unwrap()), Some(me), "{local}");
            assert!(may_connect(&server));
            drop(client);
            // A socket without a program is nobody's.
            assert_eq!(owner(peer, server.local_addr().unwrap()), None, "{local}");
        }
    }

    #[test]
    fn who_is_welcome() {
        let me = rustix::process::geteuid().as_raw();
        for local in [false, true] {
            assert!(is_welcome(Some(0), || local) && is_welcome(Some(me), || local));
            assert!(!is_welcome(Some(me + 1), || local), "wherever it comes from");
        }
        assert!(is_welcome(None, || false) && !is_welcome(None, || true));
    }

    #[test]
    fn addresses_of_this_machine() {
        let here = |end: &str| is_of_this_machine(end.parse().unwrap());
        assert!(here("127.0.0.1:5") && here("127.1.2.3:5") && here("[::ffff:127.0.0.1]:5"));
        // Of no machine (RFC 5737), except where somebody tests.
        assert!(!here("203.0.113.77:5") && !here("[::ffff:203.0.113.77]:5"));
        assert!(is_loopback("[::ffff:127.0.0.1]:5".parse().unwrap()));
    }

    #[test]
    fn lines_of_the_kernels_table() {
        let line = "   1: 0100007F:E4C2 0100007F:0801 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1";
        let (socket, other) =
            ("127.0.0.1:58562".parse().unwrap(), "127.0.0.1:2049".parse().unwrap());
        assert_eq!(owner_in(line, socket, other), Some(1000));
        assert_eq!(owner_in(line, other, socket), None);
        assert_eq!(owner_in(&line.replace("4711", "0"), socket, other), None);
    }
}
