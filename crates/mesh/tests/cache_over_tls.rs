//! The cache over mutual TLS on a loopback: publishers of two clusters, the cache in the store of a third
//! behind Cilium's users, and a reader of that store that has to see exactly what was published.

mod certificates;
mod publisher;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use causeway_kvstore::client::{Client, ClientConfig, ClientError};
use causeway_kvstore::server::Server;
use causeway_kvstore::tls::TlsFiles;
use causeway_kvstore::{Store, StoreOptions, WatchOptions, pb};
use causeway_mesh::access::{self, Administrators};
use causeway_mesh::cache::{self, Cache};
use causeway_mesh::publish::{PublishStatus, StoreSink};
use causeway_mesh::remote::{Options, RemoteChange, RemoteClusters, RemoteEvent};
use causeway_model::{
    ClusterInfo, ClusterName, Collection, Event, Identity, IpEntry, Labels, Node, NumericIdentity,
};
use certificates::{Authority, authority, certificate};
use futures::StreamExt;
use publisher::cluster;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

const PATIENCE: Duration = Duration::from_secs(60);

fn name(text: &str) -> ClusterName {
    ClusterName::new(text).unwrap()
}

/// Serves a store of cluster `of` and returns the port.
async fn serve(dir: &Path, of: &ClusterInfo, store: &Store, ca: &Authority, stop: &CancellationToken) -> u16 {
    let names = ["*.mesh.cilium.io", "clustermesh-apiserver.kube-system.svc"];
    let file = format!("server-{}", of.name);
    let files = certificate(dir, &file, "clustermesh-apiserver.cilium.io", &names, ca, 100, ca);
    let rules = access::rules(&of.name, Administrators::Read);
    let server = Server::mutual_tls(store.clone(), rules, files).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(server.serve(listener, stop.clone()));
    port
}

/// A cluster that publishes.
struct Publishing {
    addresses: mpsc::UnboundedSender<Event<IpEntry>>,
    status: watch::Receiver<PublishStatus>,
    port: u16,
    info: ClusterInfo,
    _stop: DropGuard,
}

impl Publishing {
    async fn start(dir: &Path, info: ClusterInfo, ca: &Authority) -> Self {
        let stop = CancellationToken::new();
        let store = Store::new(StoreOptions::default());
        let port = serve(dir, &info, &store, ca, &stop).await;
        let labels = Labels::parse(&format!("k8s:app=cart;k8s:io.cilium.k8s.policy.cluster={};", info.name));
        let identity = Identity { id: NumericIdentity((info.id.get() << 16) + 13), labels };
        let node = Node::new("n1", info.name.clone(), info.id);
        let sink = StoreSink(store);
        let (addresses, status) =
            publisher::start(info.clone(), sink, Default::default(), stop.clone(), |sources| {
                sources.nodes = publisher::listing(vec![node]);
                sources.identities = publisher::listing(vec![identity]);
            });
        Self { addresses, status, port, info, _stop: stop.drop_guard() }
    }

    fn address(&self, n: u32, version: u32) -> IpEntry {
        IpEntry {
            prefix: format!("10.{}.{}.{}/32", self.info.id, n / 200, n % 200 + 1).parse().unwrap(),
            identity: NumericIdentity((self.info.id.get() << 16) + version),
            host_ip: Some("172.20.0.11".parse().unwrap()),
            key_index: 0,
            pod: None,
        }
    }

    async fn publish(&mut self, addresses: u32) -> Collection<IpEntry> {
        let mut all = Collection::new();
        self.addresses.send(Event::Reset).unwrap();
        for n in 0..addresses {
            let event = Event::Upsert(self.address(n, 13));
            all.apply(event.clone());
            self.addresses.send(event).unwrap();
        }
        self.addresses.send(Event::Synced).unwrap();
        timeout(PATIENCE, self.status.wait_for(|s| s.ready && s.pending == 0)).await.unwrap().unwrap();
        all
    }
}

/// A directory of peers: one file each, and the client's certificate for all of them.
struct Peers {
    dir: PathBuf,
    client: TlsFiles,
}

impl Peers {
    fn new(dir: PathBuf, cn: &str, ca: &Authority) -> Self {
        std::fs::create_dir_all(&dir).unwrap();
        let client = certificate(&dir, "client", cn, &[], ca, 100, ca);
        Self { dir, client }
    }

    fn add(&self, peer: &str, host: &str, port: u16) {
        let text = format!(
            "endpoints:\n- https://{host}:{port}\ntrusted-ca-file: {}\ncert-file: {}\nkey-file: {}\n\
             cilium-host-aliases:\n- hostname: {host}\n  ips: [127.0.0.1]\n",
            self.client.ca.display(),
            self.client.cert.display(),
            self.client.key.display()
        );
        std::fs::write(self.dir.join(peer), text).unwrap();
    }

    fn remove(&self, peer: &str) {
        std::fs::remove_file(self.dir.join(peer)).unwrap();
    }
}

/// What an agent of the third cluster knows of one remote cluster.
struct Agent {
    events: mpsc::Receiver<RemoteEvent>,
    addresses: BTreeMap<ClusterName, Collection<IpEntry>>,
}

impl Agent {
    async fn until(
        &mut self,
        what: &str,
        done: impl Fn(&BTreeMap<ClusterName, Collection<IpEntry>>) -> bool,
    ) {
        while !done(&self.addresses) {
            let event = timeout(PATIENCE, self.events.recv()).await;
            let event = event.unwrap_or_else(|_| panic!("{what}: not in time")).expect("readers run");
            match event.change {
                RemoteChange::Address(change) => {
                    drop(self.addresses.entry(event.cluster).or_default().apply(change));
                }
                RemoteChange::Removed => drop(self.addresses.remove(&event.cluster)),
                _ => {}
            }
        }
    }
}

fn equal(known: Option<&Collection<IpEntry>>, wanted: &Collection<IpEntry>) -> bool {
    known.is_some_and(|known| known.iter().eq(wanted.iter()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_sees_through_the_cache_exactly_what_is_published() {
    let dir = tempfile::tempdir().unwrap();
    let ca = authority();
    let mut a = Publishing::start(dir.path(), cluster("cls-a", 1), &ca).await;
    let mut b = Publishing::start(dir.path(), cluster("cls-b", 2), &ca).await;
    let (mut of_a, of_b) = (a.publish(700).await, b.publish(300).await);

    // The third cluster: a store behind mutual TLS, and the cache that fills it.
    let third = cluster("cls-c", 3);
    let stop = CancellationToken::new();
    let _end = stop.clone().drop_guard();
    let store = Store::new(StoreOptions::default());
    let port = serve(dir.path(), &third, &store, &ca, &stop).await;
    let remotes = Peers::new(dir.path().join("kvstoremesh"), "remote", &ca);
    remotes.add("cls-a", "cls-a.mesh.cilium.io", a.port);
    remotes.add("cls-b", "cls-b.mesh.cilium.io", b.port);
    let mut options = cache::Options::new(third.clone());
    options.heartbeat = Some(Duration::from_secs(60));
    options.drain_grace = Duration::from_millis(300);
    options.timing.max_backoff = Duration::from_secs(1);
    let cache = Cache::spawn(options, remotes.dir.clone(), store.clone(), stop.clone()).await;

    // An agent of it, which knows only the local store.
    let local = Peers::new(dir.path().join("clustermesh"), "local-cls-c", &ca);
    let host = "clustermesh-apiserver.kube-system.svc";
    local.add("cls-a", host, port);
    local.add("cls-b", host, port);
    let mut reading = Options::agent(third.clone());
    reading.timing.max_backoff = Duration::from_secs(1);
    let (readers, events) = RemoteClusters::spawn(reading, local.dir.clone(), stop.clone()).await;
    let mut agent = Agent { events, addresses: BTreeMap::new() };
    agent
        .until("first listing", |known| {
            equal(known.get(&name("cls-a")), &of_a) && equal(known.get(&name("cls-b")), &of_b)
        })
        .await;
    let all = readers.status();
    let mut all_ready = all.clone();
    timeout(PATIENCE, all_ready.wait_for(|all| all.len() == 2 && all.values().all(|s| s.ready)))
        .await
        .expect("in time")
        .unwrap();
    let status = all.borrow()[&name("cls-a")].clone();
    assert!(status.config.kvstoremesh && status.config.cluster_id == 1 && status.rejected.count == 0);
    let cached = timeout(PATIENCE, cache.wait_for(|all| all.len() == 2 && all.values().all(|s| s.ready)));
    let cached = cached.await.expect("in time")[&name("cls-a")].clone();
    assert_eq!((cached.num_endpoints, cached.num_identities, cached.num_nodes), (700, 1, 1));

    // Changes and removals.
    for event in [Event::Upsert(a.address(3, 14)), Event::Remove(a.address(4, 0).prefix)] {
        of_a.apply(event.clone());
        a.addresses.send(event).unwrap();
    }
    agent.until("changes", |known| equal(known.get(&name("cls-a")), &of_a)).await;

    // What remote clusters may read of this store, and what its agents may: a mesh is not transitive.
    for (cn, readable, refused) in [
        ("remote-cls-a", "cilium/state/ip/v1/default/", "cilium/cache/ip/v1/cls-b/"),
        ("local-cls-c", "cilium/cache/ip/v1/cls-b/", "cilium/state/ip/v1/default/"),
    ] {
        let files = certificate(dir.path(), cn, cn, &[], &ca, 100, &ca);
        let config = ClientConfig {
            endpoints: vec![format!("https://{host}:{port}")],
            tls: Some(files),
            resolve: [(host.to_owned(), vec!["127.0.0.1".parse().unwrap()])].into(),
            timeout: PATIENCE,
        };
        let client = Client::connect(&config).await.unwrap();
        assert!(client.list_all(readable.as_bytes()).await.is_ok(), "{cn} {readable}");
        let denied = client.list_all(refused.as_bytes()).await;
        assert!(matches!(denied, Err(ClientError::PermissionDenied { .. })), "{cn} {refused}");
    }

    // A peer that cannot be reached: its state stays, for the agent and in the store.
    drop(b);
    let lost = timeout(PATIENCE, cache.wait_for(|all| !all[&name("cls-b")].connected)).await.unwrap();
    assert_eq!(lost[&name("cls-b")].num_endpoints, 300);
    assert!(equal(agent.addresses.get(&name("cls-b")), &of_b));

    // A peer that is no longer configured: what is cached of it goes, and nothing else.
    let count = |prefix: &str| {
        let range = causeway_kvstore::KeyRange::prefix(prefix.to_owned());
        store.range(&pb::RangeRequest { count_only: true, ..(&range).into() }).unwrap().count
    };
    remotes.remove("cls-b");
    let mut changes = store.watch(WatchOptions::prefix("cilium/", 0));
    let prefixes = [
        "cache/ip/v1/cls-b/",
        "cache/nodes/v1/cls-b/",
        "cache/identities/v1/cls-b/",
        "synced/cls-b/",
        "cluster-config/cls-b",
    ];
    let gone = async {
        while prefixes.iter().any(|of| count(&format!("cilium/{of}")) > 0) {
            changes.next().await.unwrap().unwrap();
        }
    };
    timeout(PATIENCE, gone).await.expect("in time");
    agent.until("drained", |known| known.get(&name("cls-b")).is_none_or(|b| b.iter().next().is_none())).await;
    assert_eq!(count("cilium/cache/ip/v1/cls-a/"), 699);
    assert!(count("cilium/.heartbeat") == 1 && equal(agent.addresses.get(&name("cls-a")), &of_a));
}
