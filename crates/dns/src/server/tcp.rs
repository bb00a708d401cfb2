//! Connections: messages with their lengths before them, one after the other (RFC 7766).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::Transport;
use super::resolver::{Resolver, Step};
use crate::limits::Places;

/// How long a message that has begun, or its answer, may take to pass.
const PASSING: Duration = Duration::from_secs(5);
/// How long accepting rests when the system has no descriptors left.
const REST: Duration = Duration::from_millis(100);

/// The task that accepts connections.
pub(super) struct Acceptor {
    pub(super) listener: TcpListener,
    pub(super) resolver: Arc<Resolver>,
    pub(super) forwards: Arc<Places>,
    pub(super) connections: Arc<Places>,
    pub(super) idle: Duration,
    pub(super) tasks: TaskTracker,
    pub(super) shutdown: CancellationToken,
}

impl Acceptor {
    pub(super) async fn run(self) {
        loop {
            let accepted = tokio::select! {
                () = self.shutdown.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            let (stream, client) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(REST).await;
                    continue;
                }
            };
            // Beyond the limit it is closed at once: the client can come again.
            let Some(place) = self.connections.take(client.ip().to_canonical()) else {
                debug!(%client, "too many connections");
                continue;
            };
            let connection = Connection {
                stream,
                client,
                resolver: self.resolver.clone(),
                forwards: self.forwards.clone(),
                idle: self.idle,
            };
            let shutdown = self.shutdown.clone();
            self.tasks.spawn(async move {
                let _place = place;
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    result = connection.run() => if let Err(error) = result {
                        debug!(%client, %error, "connection ended");
                    }
                }
            });
        }
    }
}

struct Connection {
    stream: TcpStream,
    client: SocketAddr,
    resolver: Arc<Resolver>,
    forwards: Arc<Places>,
    idle: Duration,
}

impl Connection {
    async fn run(mut self) -> io::Result<()> {
        let _ = self.stream.set_nodelay(true);
        loop {
            let length = match timeout(self.idle, self.stream.read_u16()).await? {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                length => usize::from(length?),
            };
            let mut message = vec![0; length];
            timeout(PASSING, self.stream.read_exact(&mut message)).await??;
            let reply = match self.resolver.start(&message, Transport::Tcp, self.client) {
                // Who sends what cannot be answered has nothing to say here.
                Step::Silence => return Ok(()),
                Step::Reply(reply) => reply,
                Step::Ask(pending) => match self.forwards.take(self.client.ip().to_canonical()) {
                    None => self.resolver.reject(pending),
                    Some(_place) => self.resolver.finish(pending).await,
                },
            };
            let mut framed = (reply.len() as u16).to_be_bytes().to_vec();
            framed.extend(reply);
            timeout(PASSING, self.stream.write_all(&framed)).await??;
        }
    }
}
