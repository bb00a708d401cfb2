//! All remote clusters: one driver per configured peer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use causeway_model::ClusterName;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::driver::{Board, Command, Driver};
use super::keep::Keep;
use super::transport::Transport;
use super::{Ids, Options, RemoteStatus};
use crate::config_dir::{self, Peers};

/// The remote clusters of a process.
#[derive(Debug, Clone)]
pub struct RemoteClusters {
    status: watch::Receiver<BTreeMap<ClusterName, RemoteStatus>>,
    peers: watch::Receiver<Peers>,
}

impl RemoteClusters {
    pub(super) async fn spawn_over<T: Transport, K: Keep>(
        transport: T,
        options: Options,
        dir: PathBuf,
        shutdown: CancellationToken,
    ) -> (Self, mpsc::Receiver<K::Message>) {
        let peers = config_dir::watch(dir, options.local.name.clone(), shutdown.clone()).await;
        let (events, received) = mpsc::channel(K::QUEUE);
        // All that are configured are shown from the start: none of them has been read yet.
        let unread = |name: &ClusterName| RemoteStatus { name: name.to_string(), ..Default::default() };
        let known = peers.borrow().clusters.keys().map(|name| (name.clone(), unread(name))).collect();
        let (board, status) = watch::channel(known);
        let manager = Manager::<T, K> {
            transport: Arc::new(transport),
            ids: Arc::new(Mutex::new(Ids::new(options.local.id, options.local.name.clone()))),
            options,
            events,
            board: Arc::new(board),
            drivers: BTreeMap::new(),
        };
        let follow = peers.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = manager.run(follow) => {}
            }
        });
        (Self { status, peers }, received)
    }

    /// The status of every configured remote cluster, by name; changes as it changes.
    pub fn status(&self) -> watch::Receiver<BTreeMap<ClusterName, RemoteStatus>> {
        self.status.clone()
    }

    /// The configuration directory as last read.
    pub fn peers(&self) -> watch::Receiver<Peers> {
        self.peers.clone()
    }
}

struct Manager<T: Transport, K: Keep> {
    transport: Arc<T>,
    options: Options,
    ids: Arc<Mutex<Ids>>,
    events: mpsc::Sender<K::Message>,
    board: Arc<Board>,
    drivers: BTreeMap<ClusterName, (mpsc::Sender<Command>, JoinHandle<()>)>,
}

impl<T: Transport, K: Keep> Manager<T, K> {
    async fn run(mut self, mut peers: watch::Receiver<Peers>) {
        loop {
            let now = peers.borrow_and_update().clone();
            self.follow(&now).await;
            if peers.changed().await.is_err() {
                return;
            }
        }
    }

    async fn follow(&mut self, peers: &Peers) {
        let gone: Vec<_> =
            self.drivers.keys().filter(|name| !peers.clusters.contains_key(name)).cloned().collect();
        for name in gone {
            if let Some((commands, task)) = self.drivers.remove(&name) {
                // Its withdrawal is complete before the name may come back.
                drop(commands.send(Command::Close).await);
                drop(task.await);
            }
        }
        for (name, peer) in &peers.clusters {
            let (commands, _) = self.drivers.entry(name.clone()).or_insert_with(|| {
                let (commands, received) = mpsc::channel(4);
                let driver = Driver::<T, K>::new(
                    name.clone(),
                    self.options.clone(),
                    self.transport.clone(),
                    self.ids.clone(),
                    self.events.clone(),
                    self.board.clone(),
                );
                (commands, tokio::spawn(driver.run(received)))
            });
            let config = peer.config.clone().map(Box::new);
            drop(commands.send(Command::Configure { config, error: peer.error.clone() }).await);
        }
    }
}
