//! Cluster cls-a: reads its peer and keeps what it is told.

use std::path::{Path, PathBuf};
use std::time::Duration;

use causeway_kvstore::tls::TlsFiles;
use causeway_mesh::remote::{Options, RemoteChange, RemoteClusters, RemoteStatus};
use causeway_model::{ClusterName, Collection, Event, IpEntry, Node};
use ipnet::IpNet;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::publisher::cluster;
use crate::publishing::{Addresses, HOST, numbers};

/// How long anything may take before it counts as lost. Far beyond what is needed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// The folder with the peers' files.
pub(crate) fn peers(dir: &Path) -> PathBuf {
    let peers = dir.join("peers");
    std::fs::create_dir_all(&peers).unwrap();
    peers
}

/// Configures the peer at a port of 127.0.0.1.
pub(crate) fn configure(peers: &Path, port: u16, client: &TlsFiles) {
    let text = format!(
        "endpoints:\n- https://{HOST}:{port}\ntrusted-ca-file: {}\ncert-file: {}\nkey-file: {}\n\
         cilium-host-aliases:\n- hostname: {HOST}\n  ips: [127.0.0.1]\n",
        client.ca.display(),
        client.cert.display(),
        client.key.display()
    );
    // A half-written file is a malformed one.
    std::fs::write(peers.join(".new"), text).unwrap();
    std::fs::rename(peers.join(".new"), peers.join("cls-b")).unwrap();
}

/// What is known, and how it came to be.
#[derive(Debug, Default, Clone)]
pub(crate) struct Told {
    pub(crate) addresses: Collection<IpEntry>,
    pub(crate) nodes: Collection<Node>,
    /// Every address that was ever removed.
    pub(crate) removed: Vec<IpNet>,
    pub(crate) upserts: usize,
}

impl Told {
    fn apply(&mut self, change: RemoteChange) {
        match change {
            RemoteChange::Address(event) => {
                match &event {
                    Event::Remove(key) => self.removed.push(*key),
                    Event::Upsert(_) => self.upserts += 1,
                    Event::Reset | Event::Synced => {}
                }
                self.addresses.apply(event);
            }
            RemoteChange::Node(event) => drop(self.nodes.apply(event)),
            RemoteChange::Removed => *self = Self::default(),
            _ => {}
        }
    }

    /// In numbers; panics on an address that was never published.
    pub(crate) fn numbers(&self) -> Addresses {
        let known = self.addresses.iter();
        known.map(|(_, entry)| numbers(entry).unwrap_or_else(|| panic!("foreign: {entry:?}"))).collect()
    }
}

pub(crate) struct Reading {
    pub(crate) status: watch::Receiver<std::collections::BTreeMap<ClusterName, RemoteStatus>>,
    pub(crate) told: watch::Receiver<Told>,
    _stop: DropGuard,
}

/// Reads with short limits, so that failures are noticed within the test's patience.
pub(crate) async fn read(peers: PathBuf) -> Reading {
    let stop = CancellationToken::new();
    let mut options = Options::agent(cluster("cls-a", 1));
    options.timing.max_backoff = Duration::from_secs(1);
    options.timing.connect = Duration::from_secs(5);
    options.timing.heartbeat = Duration::from_secs(5);
    options.timing.config = Duration::from_secs(5);
    options.limits.addresses = 20_000;
    let (remotes, mut events) = RemoteClusters::spawn(options, peers, stop.clone()).await;
    let (sender, told) = watch::channel(Told::default());
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            sender.send_modify(|told| told.apply(event.change));
        }
    });
    Reading { status: remotes.status(), told, _stop: stop.drop_guard() }
}

impl Reading {
    pub(crate) async fn until(&mut self, what: &str, done: impl Fn(&RemoteStatus) -> bool) -> RemoteStatus {
        let name = ClusterName::new("cls-b").unwrap();
        let found = timeout(PATIENCE, self.status.wait_for(|all| all.get(&name).is_some_and(&done))).await;
        let found = found.ok().map(|found| found.unwrap()[&name].clone());
        found.unwrap_or_else(|| panic!("{what}: {:?}", self.status.borrow().get(&name)))
    }

    /// Waits until exactly these addresses are known.
    pub(crate) async fn until_known(&mut self, wanted: &Addresses) {
        let known = self.told.wait_for(|told| told.numbers() == *wanted);
        let in_time = timeout(PATIENCE, known).await.is_ok();
        if !in_time {
            panic!("known: {:?}, not {wanted:?}; {:?}", self.told.borrow().numbers(), self.status.borrow());
        }
    }
}
