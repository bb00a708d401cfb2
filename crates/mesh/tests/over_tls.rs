//! The whole control plane on a loopback: a publisher of one cluster, its embedded store behind mutual
//! TLS with Cilium's users, and a reader of another cluster that merges.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use causeway_kvstore::server::Server;
use causeway_kvstore::tls::TlsFiles;
use causeway_kvstore::{Store, StoreOptions};
use causeway_mesh::access;
use causeway_mesh::keys::Kind;
use causeway_mesh::merge::AddressMerger;
use causeway_mesh::publish::{PublishStatus, StoreSink};
use causeway_mesh::remote::{Options, RemoteChange, RemoteClusters, RemoteEvent, RemoteStatus};
use causeway_model::{ClusterName, Event, Identity, IpEntry, Labels, NodeKey, NumericIdentity};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

mod certificates;
mod publisher;

use certificates::{Authority, authority, certificate};
use publisher::cluster;

const PATIENCE: Duration = Duration::from_secs(60);
const HOST: &str = "cls-b.mesh.cilium.io";

fn address(ip: &str, identity: u32) -> IpEntry {
    IpEntry {
        prefix: ip.parse::<IpAddr>().unwrap().into(),
        identity: NumericIdentity(identity),
        host_ip: Some("172.20.0.11".parse().unwrap()),
        key_index: 0,
        pod: None,
    }
}

/// Cluster cls-b: publisher and server.
struct Publishing {
    addresses: mpsc::UnboundedSender<Event<IpEntry>>,
    status: watch::Receiver<PublishStatus>,
    port: u16,
    server: TlsFiles,
    _stop: DropGuard,
}

async fn cls_b(dir: &Path, ca: &Authority) -> Publishing {
    let info = cluster("cls-b", 2);
    let stop = CancellationToken::new();
    let store = Store::new(StoreOptions::default());
    let server =
        certificate(dir, "server", "clustermesh-apiserver.cilium.io", &["*.mesh.cilium.io"], ca, 100, ca);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = Server::mutual_tls(
        store.clone(),
        access::rules(&info.name, access::Administrators::Write),
        server.clone(),
    )
    .unwrap();
    tokio::spawn(serving.serve(listener, stop.clone()));
    let labels = Labels::parse("k8s:app=cart;k8s:io.cilium.k8s.policy.cluster=cls-b;");
    let identity = Identity { id: NumericIdentity(140_013), labels };
    let (addresses, status) =
        publisher::start(info, StoreSink(store), Default::default(), stop.clone(), |sources| {
            sources.identities = publisher::listing(vec![identity]);
        });
    Publishing { addresses, status, port, server, _stop: stop.drop_guard() }
}

/// The directory that holds the peers' files and our certificate, as in a pod.
fn peers(dir: &Path) -> PathBuf {
    let peers = dir.join("peers");
    std::fs::create_dir_all(&peers).unwrap();
    peers
}

/// Cluster cls-a: the file of its peer, and what it reads.
struct Reading {
    file: PathBuf,
    text: String,
    status: watch::Receiver<std::collections::BTreeMap<ClusterName, RemoteStatus>>,
    events: mpsc::Receiver<RemoteEvent>,
    _stop: DropGuard,
}

async fn cls_a(dir: &Path, port: u16, client: &TlsFiles) -> Reading {
    let text = format!(
        "endpoints:\n- https://{HOST}:{port}\ntrusted-ca-file: {}\ncert-file: {}\nkey-file: {}\n\
         cilium-host-aliases:\n- hostname: {HOST}\n  ips: [127.0.0.1]\n",
        client.ca.display(),
        client.cert.display(),
        client.key.display()
    );
    let peers = peers(dir);
    let file = peers.join("cls-b");
    std::fs::write(&file, &text).unwrap();
    let stop = CancellationToken::new();
    let mut options = Options::agent(cluster("cls-a", 1));
    options.timing.max_backoff = Duration::from_secs(1);
    let (remotes, events) = RemoteClusters::spawn(options, peers, stop.clone()).await;
    Reading { file, text, status: remotes.status(), events, _stop: stop.drop_guard() }
}

impl Reading {
    async fn until(&mut self, what: &str, done: impl Fn(&RemoteStatus) -> bool) -> RemoteStatus {
        let name = ClusterName::new("cls-b").unwrap();
        let found = timeout(PATIENCE, self.status.wait_for(|all| all.get(&name).is_some_and(&done))).await;
        let found = found.ok().map(|found| found.unwrap()[&name].clone());
        found.unwrap_or_else(|| panic!("{what}: {:?}", self.status.borrow().get(&name)))
    }

    /// Applies events until the merged state is as wanted.
    async fn merge_until(&mut self, merger: &mut AddressMerger, done: impl Fn(&AddressMerger) -> bool) {
        while !done(merger) {
            let event = timeout(PATIENCE, self.events.recv()).await.expect("in time").unwrap();
            match event.change {
                RemoteChange::Address(change) => drop(merger.apply_remote(&event.cluster, change)),
                RemoteChange::Node(change) => drop(merger.apply_remote_node(&event.cluster, change)),
                RemoteChange::Removed => drop(merger.remove_cluster(&event.cluster)),
                _ => {}
            }
        }
    }
}

fn merger() -> AddressMerger {
    AddressMerger::new(NodeKey { cluster: ClusterName::new("cls-a").unwrap(), name: "n".into() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_cluster_publishes_the_other_merges() {
    let dir = tempfile::tempdir().unwrap();
    let ca = authority();
    let mut b = cls_b(dir.path(), &ca).await;
    let peers = peers(dir.path());
    let client = certificate(&peers, "client", "remote", &[], &ca, 100, &ca);
    b.addresses.send(Event::Reset).unwrap();
    for n in 1..=600 {
        b.addresses
            .send(Event::Upsert(address(&format!("10.2.{}.{}", n / 200, n % 200 + 1), 140_013)))
            .unwrap();
    }
    let mut a = cls_a(dir.path(), b.port, &client).await;
    // The marker is not there yet, so the addresses are not read yet.
    let waiting = a.until("connected", |s| s.connected && s.synced.identities).await;
    assert!(!waiting.ready && !waiting.synced.endpoints && waiting.num_endpoints == 0);
    assert_eq!((waiting.num_identities, waiting.config.cluster_id), (1, 2));
    b.addresses.send(Event::Synced).unwrap();
    timeout(PATIENCE, b.status.wait_for(|s| s.ready)).await.unwrap().unwrap();
    assert_eq!(b.status.borrow().keys[Kind::Ip as usize], 600);
    a.until("ready", |s| s.ready && s.num_endpoints == 600).await;
    let mut merged = merger();
    a.merge_until(&mut merged, |m| m.snapshot().len() == 600).await;
    let one: ipnet::IpNet = "10.2.0.2/32".parse().unwrap();
    assert_eq!(merged.snapshot()[&one], address("10.2.0.2", 140_013));
    // A change and a removal.
    b.addresses.send(Event::Upsert(address("10.2.0.2", 140_014))).unwrap();
    b.addresses.send(Event::Remove("10.2.0.3/32".parse().unwrap())).unwrap();
    a.merge_until(&mut merged, |m| m.snapshot()[&one].identity.0 == 140_014 && m.snapshot().len() == 599)
        .await;
    // The peer is no longer configured.
    std::fs::remove_file(&a.file).unwrap();
    a.merge_until(&mut merged, |m| m.snapshot().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_certificates_are_named_and_state_survives_them() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, other) = (authority(), authority());
    let b = cls_b(dir.path(), &ca).await;
    let peers = peers(dir.path());
    let good = certificate(&peers, "client", "remote", &[], &ca, 100, &ca);
    for event in [Event::Reset, Event::Upsert(address("10.2.0.2", 140_013)), Event::Synced] {
        b.addresses.send(event).unwrap();
    }
    let mut a = cls_a(dir.path(), b.port, &good).await;
    a.until("ready", |s| s.ready && s.num_endpoints == 1).await;

    // Our certificate is of an authority the peer does not trust; then for a user it does not know.
    for (cn, issuer, says) in
        [("remote", &other, "refused our client certificate"), ("admin-cls-a", &ca, "permission denied")]
    {
        certificate(&peers, "client", cn, &[], issuer, 100, &ca);
        let status =
            a.until(says, |s| !s.connected && s.last_error.as_ref().is_some_and(|e| e.contains(says))).await;
        assert_eq!(status.num_endpoints, 1, "the old state stays");
        // Renewed files mean a new connection: no restart, no touch of the configuration.
        certificate(&peers, "client", "remote", &[], &ca, 100, &ca);
        a.until("recovered", |s| s.ready).await;
    }
    // The peer's certificate is of another authority, expired, or of the wrong name.
    for (issuer, days, name, says) in [
        (&other, 100, "*.mesh.cilium.io", "issued by an authority that is not in"),
        (&ca, 1, "*.mesh.cilium.io", "has expired"),
        (&ca, 100, "*.elsewhere.io", "is not for the name \"cls-b.mesh.cilium.io\""),
    ] {
        certificate(dir.path(), "server", "x", &[name], issuer, days, &ca);
        // Nudge: a connection that works is not dropped because a file changed somewhere else.
        std::fs::write(&a.file, format!("{}# {says}\n", a.text)).unwrap();
        let status =
            a.until(says, |s| !s.connected && s.last_error.as_ref().is_some_and(|e| e.contains(says))).await;
        assert_eq!(status.num_endpoints, 1, "the old state stays");
        certificate(dir.path(), "server", "x", &["*.mesh.cilium.io"], &ca, 100, &ca);
        a.until("recovered", |s| s.ready).await;
    }
    assert!(b.server.cert.exists());
    let mut merged = merger();
    a.merge_until(&mut merged, |m| m.snapshot().len() == 1).await;
    assert!(
        a.events.try_recv().map_or(true, |e| !matches!(e.change, RemoteChange::Address(Event::Remove(_))))
    );
}

/// A peer's authority may sign any name, so through the network not even an administrator writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_writes_through_the_network() {
    use causeway_kvstore::client::{Client, ClientConfig};
    use causeway_kvstore::pb;

    let dir = tempfile::tempdir().unwrap();
    let ca = authority();
    let server = certificate(dir.path(), "server", "x", &["localhost"], &ca, 100, &ca);
    let store = Store::new(StoreOptions::default());
    let key = "cilium/state/nodes/v1/cls-b/n1";
    let (lease, _) = store.lease_grant(0, 900, std::time::Instant::now()).unwrap();
    let put = pb::PutRequest { key: key.into(), value: "{}".into(), lease, ..Default::default() };
    store.put(put.clone()).unwrap();
    let revision = store.revision();
    let rules = access::rules(&ClusterName::new("cls-b").unwrap(), access::Administrators::Read);
    let serving = Server::mutual_tls(store.clone(), rules, server).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let stop = CancellationToken::new();
    tokio::spawn(serving.serve(listener, stop.clone()));
    let _stop = stop.drop_guard();
    // Who may read the key; nobody may write it.
    let users = [
        ("root", true),
        ("admin-cls-b", true),
        ("local-cls-b", false),
        ("remote", true),
        ("remote-cls-a", true),
        ("admin-cls-a", false),
        ("somebody", false),
    ];
    for (cn, reads) in users {
        let tls = certificate(dir.path(), cn, cn, &[], &ca, 100, &ca);
        let client = Client::connect(&ClientConfig {
            endpoints: vec![endpoint.clone()],
            tls: Some(tls),
            resolve: [("localhost".to_owned(), vec!["127.0.0.1".parse().unwrap()])].into(),
            timeout: PATIENCE,
        })
        .await
        .unwrap();
        assert_eq!(client.get(key).await.is_ok(), reads, "{cn} reads");
        let op = pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put.clone())) };
        let txn = pb::TxnRequest { success: vec![op], ..Default::default() };
        let refused = [
            ("put", client.put(key, "mine", 0).await.is_err()),
            ("put a new key", client.put("cilium/cache/x", "mine", 0).await.is_err()),
            (
                "delete",
                client
                    .delete(pb::DeleteRangeRequest { key: key.into(), ..Default::default() })
                    .await
                    .is_err(),
            ),
            ("txn", client.txn(txn).await.is_err()),
            ("revoke", client.lease_revoke(lease).await.is_err()),
        ];
        for (what, refused) in refused {
            assert!(refused, "{cn}: {what}");
        }
    }
    assert_eq!((store.revision(), store.leases()), (revision, vec![lease]));
}
