//! The sockets of a network namespace that talk to an address, and their end (`sock_diag(7)`).

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{FromRawFd, OwnedFd};

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// linux/sock_diag.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// The states a socket with a peer may be in: all (linux/tcp_states.h) but TIME_WAIT, CLOSE, LISTEN and
/// what is not a whole socket. Connected UDP is in state 1.
const CONNECTED: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// `struct nlmsghdr`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Header {
    len: u32,
    kind: u16,
    flags: u16,
    seq: u32,
    pid: u32,
}

/// `struct inet_diag_sockid`, ports and addresses in network byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct SocketId {
    source_port: [u8; 2],
    port: [u8; 2],
    source: [u8; 16],
    destination: [u8; 16],
    interface: u32,
    cookie: [u32; 2],
}

/// `struct inet_diag_req_v2` behind its header.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Request {
    header: Header,
    family: u8,
    protocol: u8,
    extensions: u8,
    pad: u8,
    states: u32,
    id: SocketId,
}

/// What we read of `struct inet_diag_msg`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Message {
    family: u8,
    state: u8,
    timer: u8,
    retransmits: u8,
    id: SocketId,
}

/// A socket with a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Socket {
    family: u8,
    protocol: u8,
    id: SocketId,
}

impl Socket {
    /// The number that BPF programs know it by, too.
    pub(crate) fn cookie(&self) -> u64 {
        u64::from(self.id.cookie[1]) << 32 | u64::from(self.id.cookie[0])
    }

    /// Whom it talks to; IPv4 in an IPv6 socket is IPv4.
    pub(crate) fn peer(&self) -> IpAddr {
        let bytes = self.id.destination;
        match i32::from(self.family) {
            libc::AF_INET => IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]),
            _ => Ipv6Addr::from(bytes).to_canonical(),
        }
    }
}

/// The kernel's socket diagnosis in the calling thread's network namespace.
#[derive(Debug)]
pub(crate) struct Diag(File);

impl Diag {
    pub(crate) fn open() -> io::Result<Self> {
        // SAFETY: no memory is passed; the descriptor that comes back is nobody else's.
        let fd = unsafe {
            let fd =
                libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_SOCK_DIAG);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        Ok(Self(File::from(fd)))
    }

    /// The sockets of a protocol that talk to a port, of whatever host.
    pub(crate) fn connected(&mut self, protocol: u8, port: u16) -> io::Result<Vec<Socket>> {
        let mut found = vec![];
        for family in [libc::AF_INET, libc::AF_INET6] {
            let id = SocketId { port: port.to_be_bytes(), ..SocketId::ANY };
            let family = u8::try_from(family).expect("a family has a byte");
            let flags = libc::NLM_F_REQUEST | libc::NLM_F_DUMP;
            self.ask(SOCK_DIAG_BY_FAMILY, flags, Socket { family, protocol, id })?;
            self.answers(|body| {
                if let Ok((message, _)) = Message::read_from_prefix(body) {
                    // A kernel that does not look at the port lists all.
                    if message.id.port == port.to_be_bytes() {
                        found.push(Socket { family: message.family, protocol, id: message.id });
                    }
                }
            })?;
        }
        Ok(found)
    }

    /// Ends a socket: its process gets ECONNABORTED. One that is gone is fine.
    pub(crate) fn destroy(&mut self, socket: Socket) -> io::Result<()> {
        self.ask(SOCK_DESTROY, libc::NLM_F_REQUEST | libc::NLM_F_ACK, socket)?;
        match self.answers(|_| ()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }

    fn ask(&mut self, kind: u16, flags: i32, socket: Socket) -> io::Result<()> {
        let len = u32::try_from(size_of::<Request>()).expect("a message is small");
        let flags = u16::try_from(flags).expect("flags have 16 bits");
        let request = Request {
            header: Header { len, kind, flags, seq: 1, pid: 0 },
            family: socket.family,
            protocol: socket.protocol,
            extensions: 0,
            pad: 0,
            states: CONNECTED,
            id: socket.id,
        };
        self.0.write_all(request.as_bytes())
    }

    /// Reads answers up to the last one; an error among them is ours.
    fn answers(&mut self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let n = self.0.read(&mut buffer)?;
            let mut rest = &buffer[..n];
            while let Ok((header, _)) = Header::read_from_prefix(rest) {
                let len = usize::try_from(header.len).unwrap_or(usize::MAX);
                let Some(body) = rest.get(size_of::<Header>()..len) else {
                    return Err(io::Error::from(io::ErrorKind::InvalidData));
                };
                match i32::from(header.kind) {
                    libc::NLMSG_DONE => return Ok(()),
                    libc::NLMSG_ERROR => {
                        let code = i32::read_from_prefix(body).map_or(libc::EIO, |(code, _)| -code);
                        return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) };
                    }
                    _ => each(body),
                }
                rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

impl SocketId {
    /// Any socket.
    const ANY: Self = Self {
        source_port: [0; 2],
        port: [0; 2],
        source: [0; 16],
        destination: [0; 16],
        interface: 0,
        cookie: [0; 2],
    };
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_connected_socket_is_found_and_ended() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(("127.0.0.1", port)).unwrap();
        let mut diag = Diag::open().unwrap();
        let found = diag.connected(17, port).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].peer(), "127.0.0.1".parse::<IpAddr>().unwrap());
        match diag.destroy(found[0]) {
            // Not every kernel can, and not every user may.
            Err(error) => {
                assert!(matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EPERM)), "{error}")
            }
            Ok(()) => {
                let error = client.recv(&mut [0; 1]).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
                assert_eq!(diag.connected(17, port).unwrap(), []);
                diag.destroy(found[0]).unwrap();
            }
        }
    }
}
