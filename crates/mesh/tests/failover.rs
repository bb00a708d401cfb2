//! Two replicas of one cluster's apiserver behind one address, each with a store of its own: a reader
//! that is moved from one to the other ends up with exactly what that one publishes, and meanwhile
//! nothing goes that both of them publish.

mod publisher;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use causeway_kvstore::server::{Access, Server};
use causeway_kvstore::{Store, StoreOptions};
use causeway_mesh::publish::{PublishStatus, StoreSink};
use causeway_mesh::remote::{Options, RemoteChange, RemoteClusters, RemoteEvent};
use causeway_model::{Event, IpEntry, NumericIdentity};
use publisher::cluster;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long anything in a test may take before it counts as lost. Far beyond what is needed.
const PATIENCE: Duration = Duration::from_secs(60);

fn address(n: u16) -> IpEntry {
    IpEntry {
        prefix: format!("10.2.{}.{}/32", n / 250, n % 250 + 1).parse().unwrap(),
        identity: NumericIdentity((2 << 16) + 64),
        host_ip: None,
        key_index: 0,
        pod: None,
    }
}

/// The address of an entry as a reader names it.
type Name = String;

fn names(range: std::ops::Range<u16>) -> BTreeSet<Name> {
    range.map(|n| address(n).prefix.to_string()).collect()
}

/// A publisher of addresses with its store and server.
struct Replica {
    events: mpsc::UnboundedSender<Event<IpEntry>>,
    status: watch::Receiver<PublishStatus>,
    store: Store,
    address: SocketAddr,
    _stop: DropGuard,
}

impl Replica {
    async fn of(addresses: std::ops::Range<u16>) -> Self {
        let stop = CancellationToken::new();
        let store = Store::new(StoreOptions::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(Server::plaintext(store.clone(), Access::open()).serve(listener, stop.clone()));
        let sink = StoreSink(store.clone());
        let (events, status) =
            publisher::start(cluster("cls-b", 2), sink, Default::default(), stop.clone(), |_| {});
        events.send(Event::Reset).unwrap();
        addresses.for_each(|n| events.send(Event::Upsert(self::address(n))).unwrap());
        events.send(Event::Synced).unwrap();
        let mut replica = Self { events, status, store, address, _stop: stop.drop_guard() };
        replica.settled().await;
        replica
    }

    async fn settled(&mut self) {
        let settled = self.status.wait_for(|status| status.ready && status.pending == 0);
        timeout(PATIENCE, settled).await.expect("it is never published").unwrap();
    }
}

/// Forwards connections to the present replica; they are cut when that becomes another one.
async fn proxy(to: SocketAddr) -> (SocketAddr, Arc<watch::Sender<SocketAddr>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let target = Arc::new(watch::Sender::new(to));
    let sender = target.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut present = sender.subscribe();
            let to = *present.borrow_and_update();
            tokio::spawn(async move {
                let Ok(mut far) = TcpStream::connect(to).await else { return };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    _ = present.changed() => {}
                }
            });
        }
    });
    (address, target)
}

/// A reader in cls-a, and what it has been told.
struct Reading {
    events: mpsc::Receiver<RemoteEvent>,
    known: BTreeSet<Name>,
    _remotes: RemoteClusters,
    _stop: DropGuard,
}

impl Reading {
    async fn through(address: SocketAddr, dir: &Path) -> Self {
        std::fs::write(dir.join("cls-b"), format!("endpoints:\n- http://{address}\n")).unwrap();
        let stop = CancellationToken::new();
        let mut options = Options::agent(cluster("cls-a", 1));
        options.timing.max_backoff = Duration::from_millis(100);
        let (remotes, events) = RemoteClusters::spawn(options, dir.to_owned(), stop.clone()).await;
        Self { events, known: BTreeSet::new(), _remotes: remotes, _stop: stop.drop_guard() }
    }

    /// Follows until exactly `wanted` is known; nothing of `kept` may go on the way.
    async fn until(&mut self, wanted: &BTreeSet<Name>, kept: &BTreeSet<Name>) {
        while self.known != *wanted {
            let event = timeout(PATIENCE, self.events.recv()).await;
            let event =
                event.unwrap_or_else(|_| panic!("{} of {} are known", self.known.len(), wanted.len()));
            match event.unwrap().change {
                RemoteChange::Address(Event::Upsert(entry)) => {
                    self.known.insert(entry.prefix.to_string());
                }
                RemoteChange::Address(Event::Remove(prefix)) => {
                    let name = prefix.to_string();
                    assert!(!kept.contains(&name), "{name} went, and is published by both");
                    self.known.remove(&name);
                }
                RemoteChange::Address(Event::Reset) => assert!(self.known.is_empty(), "all was withdrawn"),
                RemoteChange::Removed => panic!("the cluster was withdrawn"),
                _ => {}
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_follows_from_replica_to_replica() {
    let dir = tempfile::tempdir().unwrap();
    let (mut a, mut b) = (Replica::of(0..600).await, Replica::of(300..900).await);
    // The second has a long history, so that moving there goes forward in numbers, and back backward.
    for _ in 0..500 {
        let put = causeway_kvstore::pb::PutRequest { key: "other".into(), ..Default::default() };
        b.store.put(put).unwrap();
    }
    assert!(b.store.revision() > a.store.revision() && a.store.cluster_id() != b.store.cluster_id());
    let (at, target) = proxy(a.address).await;
    let mut reading = Reading::through(at, dir.path()).await;
    let both = names(300..600);
    reading.until(&names(0..600), &both).await;
    for round in 0..3u16 {
        target.send_replace(b.address);
        // What changes while the reader is on its way is neither missed nor kept.
        b.events.send(Event::Remove(address(800 + round).prefix)).unwrap();
        b.events.send(Event::Upsert(address(1000 + round))).unwrap();
        b.settled().await;
        let mut wanted = names(300..800);
        wanted.extend(names(801 + round..900));
        wanted.extend(names(1000..1001 + round));
        reading.until(&wanted, &both).await;

        target.send_replace(a.address);
        a.events.send(Event::Remove(address(round).prefix)).unwrap();
        a.settled().await;
        reading.until(&names(round + 1..600), &both).await;
    }
}
