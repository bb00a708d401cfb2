//! A TCP proxy in front of a peer: it can stop forwarding without telling anybody, and lead elsewhere.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) struct Proxy {
    pub(crate) port: u16,
    target: watch::Sender<SocketAddr>,
    /// Connections stand still, with both ends open.
    stalled: watch::Sender<bool>,
    /// Connections of another generation are closed.
    generation: watch::Sender<u64>,
}

impl Proxy {
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = Self {
            port,
            target: watch::channel(target).0,
            stalled: watch::channel(false).0,
            generation: watch::channel(0).0,
        };
        let (target, stalled) = (proxy.target.subscribe(), proxy.stalled.subscribe());
        let generation = proxy.generation.subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (to, stalled, mut generation) = (*target.borrow(), stalled.clone(), generation.clone());
                generation.mark_unchanged();
                tokio::spawn(async move {
                    tokio::select! {
                        () = carry(client, to, stalled) => {}
                        _ = generation.changed() => {}
                    }
                });
            }
        });
        proxy
    }

    pub(crate) fn stall(&self, stalled: bool) {
        self.stalled.send_replace(stalled);
    }

    /// New connections lead there, old ones end.
    pub(crate) fn lead_to(&self, target: SocketAddr) {
        self.target.send_replace(target);
        self.generation.send_modify(|generation| *generation += 1);
    }
}

async fn carry(client: TcpStream, to: SocketAddr, stalled: watch::Receiver<bool>) {
    let Ok(server) = TcpStream::connect(to).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = copy(&mut from_client, &mut to_server, stalled.clone());
    let down = copy(&mut from_server, &mut to_client, stalled);
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

async fn copy(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    mut stalled: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        if stalled.wait_for(|stalled| !stalled).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
