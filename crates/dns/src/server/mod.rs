//! The sockets: UDP and TCP on one address.
//!
//! Answers of our own are made where a message is read, so they cost no task and cannot be crowded out. What others are
//! asked for takes a place of a bounded number, of which one client gets only a part; connections likewise.

mod resolver;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use resolver::{Exchange, Observer, Resolver, Source};

use crate::Error;
use crate::limits::Places;

/// How a message travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// Over a connection.
    Tcp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        })
    }
}

/// What a server takes on.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Questions others are asked at once, and of one client.
    pub forwards: (usize, usize),
    /// Connections at once, and of one client.
    pub connections: (usize, usize),
    /// How long a connection may be silent.
    pub idle: Duration,
    /// Tasks that read datagrams.
    pub readers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            forwards: (1000, 250),
            connections: (500, 50),
            idle: Duration::from_secs(10),
            readers: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// The open sockets of a server.
#[derive(Debug)]
pub struct Server {
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Opens both sockets; with port 0 the system chooses one port for both.
    ///
    /// # Errors
    /// [`Error::Listen`].
    pub async fn bind(address: SocketAddr) -> Result<Self, Error> {
        let error = |source| Error::Listen { address, source };
        // The port of the connections may be taken for datagrams when the system chose it.
        let mut attempts = if address.port() == 0 { 20 } else { 1 };
        loop {
            attempts -= 1;
            let tcp = TcpListener::bind(address).await.map_err(error)?;
            let bound = tcp.local_addr().map_err(error)?;
            match UdpSocket::bind(bound).await {
                Ok(udp) => return Ok(Self { udp: Arc::new(udp), tcp, address: bound }),
                Err(_) if attempts > 0 => {}
                Err(source) => return Err(error(source)),
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown`; what is under way then is left.
    pub async fn serve(self, resolver: Arc<Resolver>, limits: Limits, shutdown: CancellationToken) {
        let tasks = TaskTracker::new();
        let forwards = Places::new(limits.forwards.0, limits.forwards.1);
        let connections = Places::new(limits.connections.0, limits.connections.1);
        for _ in 0..limits.readers.max(1) {
            let reader = udp::Reader {
                socket: self.udp.clone(),
                resolver: resolver.clone(),
                forwards: forwards.clone(),
                tasks: tasks.clone(),
                shutdown: shutdown.clone(),
            };
            tasks.spawn(reader.run());
        }
        let acceptor = tcp::Acceptor {
            listener: self.tcp,
            resolver,
            forwards,
            connections,
            idle: limits.idle,
            tasks: tasks.clone(),
            shutdown: shutdown.clone(),
        };
        tasks.spawn(acceptor.run());
        shutdown.cancelled().await;
        tasks.close();
        tasks.wait().await;
    }
}
