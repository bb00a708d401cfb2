//! Asks other servers for what is not ours.
//!
//! Each question goes from a socket of its own, with a number of its own, so that an answer cannot be guessed; what is not
//! the answer to it is not looked at. Servers are asked in their order, those that lately did not answer last.

mod cache;
mod resolv_conf;
mod upstreams;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant as Deadline, timeout_at};

pub use resolv_conf::{nameservers, parse_list};

use crate::server::Transport;
use crate::wire::{Invalid, Message, Query, Rcode};
use cache::{Cache, Key};
use upstreams::Upstreams;

/// No datagram is longer: we ask for much shorter ones.
const LONGEST: usize = 4096;

/// How questions are passed on.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long one server may take.
    pub attempt: Duration,
    /// How long all together may take: less than clients wait, so that they learn what happened.
    pub total: Duration,
    /// How many answers are kept; 0 = none.
    pub cache_entries: usize,
    /// How long an answer is kept at most.
    pub cache_longest: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(2),
            total: Duration::from_millis(4500),
            cache_entries: 10_000,
            cache_longest: Duration::from_secs(30),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is nobody to ask.
    #[error("no name server is configured")]
    NoServer,
    /// Nobody answered; what the last one did.
    #[error("{server}: {reason}")]
    NoAnswer {
        /// Who was asked last.
        server: SocketAddr,
        /// What happened.
        reason: String,
    },
}

/// Passes questions on.
#[derive(Debug)]
pub struct Forwarder {
    options: Options,
    upstreams: Mutex<Upstreams>,
    cache: Mutex<Cache>,
}

impl Forwarder {
    /// One that has nobody to ask yet.
    pub fn new(options: Options) -> Self {
        let cache = Cache::new(options.cache_entries, options.cache_longest);
        Self { options, upstreams: Mutex::default(), cache: Mutex::new(cache) }
    }

    /// From now on these are asked.
    pub fn set_servers(&self, servers: &[SocketAddr]) {
        lock(&self.upstreams).replace(servers);
    }

    /// Who is asked.
    pub fn servers(&self) -> Vec<SocketAddr> {
        lock(&self.upstreams).list()
    }

    /// How many answers are kept.
    pub fn cached(&self) -> usize {
        lock(&self.cache).len()
    }

    /// An answer that is kept, and its age in seconds.
    pub fn known(&self, query: &Query) -> Option<(Arc<Message>, u32)> {
        lock(&self.cache).get(&Key::of(query), Instant::now())
    }

    /// Asks. An answer over UDP may be cut.
    ///
    /// # Errors
    /// [`Failure`], after at most the time of the options.
    pub async fn ask(&self, query: &Query, transport: Transport) -> Result<Arc<Message>, Failure> {
        let end = Deadline::now() + self.options.total;
        let servers = lock(&self.upstreams).order(Instant::now());
        let (mut failure, mut refused) = (Failure::NoServer, None);
        // A lone server is asked again: datagrams get lost.
        for (asked, server) in (1..).zip(servers.iter().cycle()) {
            let deadline = end.min(Deadline::now() + self.options.attempt);
            let id = rand::random();
            let result = match transport {
                Transport::Udp => timeout_at(deadline, over_udp(*server, query, id)).await,
                Transport::Tcp => timeout_at(deadline, over_tcp(*server, query, id)).await,
            };
            lock(&self.upstreams).note(*server, matches!(result, Ok(Ok(_))), Instant::now());
            let reason = match result {
                Ok(Ok(message)) => {
                    let message = Arc::new(message);
                    lock(&self.cache).put(Key::of(query), message.clone(), Instant::now());
                    let good = [Rcode::NO_ERROR, Rcode::NX_DOMAIN].contains(&message.rcode());
                    if good || asked >= servers.len() {
                        return Ok(message);
                    }
                    // The next one may do better.
                    refused = Some(message);
                    continue;
                }
                Ok(Err(error)) => {
                    // Not at once again: it may be starting.
                    tokio::time::sleep_until(end.min(Deadline::now() + self.options.attempt / 20)).await;
                    error.to_string()
                }
                Err(_) => "no answer in time".to_owned(),
            };
            failure = Failure::NoAnswer { server: *server, reason };
            if Deadline::now() >= end {
                break;
            }
        }
        refused.ok_or(failure)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks one server with a datagram.
///
/// # Errors
/// What the system says; never returns if nothing comes.
pub async fn over_udp(server: SocketAddr, query: &Query, id: u16) -> std::io::Result<Message> {
    let any: SocketAddr =
        if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(&query.encode(id)).await?;
    let mut buffer = vec![0; LONGEST];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Anybody may have sent it: what is not the answer is not the end either.
        if let Ok(message) = Message::parse(buffer[..length].to_vec(), id, query) {
            return Ok(message);
        }
    }
}

/// Asks one server over a connection.
///
/// # Errors
/// What the system says, or that the answer is none.
pub async fn over_tcp(server: SocketAddr, query: &Query, id: u16) -> std::io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let message = query.encode(id);
    let mut framed = (message.len() as u16).to_be_bytes().to_vec();
    framed.extend(message);
    stream.write_all(&framed).await?;
    let length = usize::from(stream.read_u16().await?);
    let mut buffer = vec![0; length];
    stream.read_exact(&mut buffer).await?;
    Message::parse(buffer, id, query).map_err(|invalid| {
        std::io::Error::other(match invalid {
            Invalid::NotOurs => "the answer is to another question",
            Invalid::Malformed => "the answer cannot be read",
        })
    })
}
