//! Datagrams.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::Transport;
use super::resolver::{Resolver, Step};
use crate::limits::Places;

/// No question is longer; of a longer datagram the rest is not read, and what is read is refused.
const LONGEST: usize = 4096;
/// How long reading rests when the system has an error instead of a datagram.
const REST: Duration = Duration::from_millis(10);

/// One task that reads datagrams.
pub(super) struct Reader {
    pub(super) socket: Arc<UdpSocket>,
    pub(super) resolver: Arc<Resolver>,
    pub(super) forwards: Arc<Places>,
    pub(super) tasks: TaskTracker,
    pub(super) shutdown: CancellationToken,
}

impl Reader {
    pub(super) async fn run(self) {
        let mut buffer = vec![0; LONGEST];
        loop {
            let received = tokio::select! {
                () = self.shutdown.cancelled() => return,
                received = self.socket.recv_from(&mut buffer) => received,
            };
            match received {
                Ok((length, client)) => self.take(&buffer[..length], client).await,
                Err(error) => {
                    debug!(%error, "cannot read a datagram");
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    async fn take(&self, message: &[u8], client: SocketAddr) {
        // Nobody waits on port 0.
        if client.port() == 0 {
            return;
        }
        match self.resolver.start(message, Transport::Udp, client) {
            Step::Silence => {}
            Step::Reply(reply) => send(&self.socket, &reply, client).await,
            Step::Ask(pending) => {
                let Some(place) = self.forwards.take(client.ip().to_canonical()) else {
                    send(&self.socket, &self.resolver.reject(pending), client).await;
                    return;
                };
                let (socket, resolver, shutdown) =
                    (self.socket.clone(), self.resolver.clone(), self.shutdown.clone());
                self.tasks.spawn(async move {
                    let _place = place;
                    tokio::select! {
                        () = shutdown.cancelled() => {}
                        reply = resolver.finish(pending) => send(&socket, &reply, client).await,
                    }
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, reply: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(reply, client).await {
        debug!(%client, %error, "cannot send an answer");
    }
}
