//! The clusters: the shape of Cilium's own scale test by default (benchmarks 1.1).

use bytes::Bytes;
use causeway_kvstore::client::{Client, WatchMessage, WatchStream};
use causeway_kvstore::tls::TlsFiles;
use causeway_kvstore::{KeyRange, WatchOptions, pb};
use causeway_mesh::keys::{self, Kind, Layout};
use causeway_mesh::wire::{Entry, config};
use causeway_model::{
    AddressType, ClusterConfig, ClusterId, ClusterInfo, ClusterName, Identity, IpEntry, Labels, MaxClusters,
    Node, NodeAddress, NumericIdentity, PodRef,
};
use futures::{TryStreamExt, stream};
use ipnet::IpNet;
use serde_json::json;

use super::{Failure, Flags};

/// Keys one transaction puts (etcd takes 128).
const BATCH: usize = 100;

/// How much of what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) clusters: u32,
    pub(crate) nodes: u32,
    pub(crate) identities: u32,
    pub(crate) endpoints: u32,
    /// Under which prefixes: those of a cache, or those of each cluster's own store.
    pub(crate) layout: Layout,
}

/// The cluster that reads all others.
pub(crate) fn local() -> ClusterInfo {
    info("cls-local", 511)
}

fn info(name: &str, id: u32) -> ClusterInfo {
    let max_clusters = MaxClusters::C511;
    ClusterInfo {
        name: ClusterName::new(name).expect("legal"),
        id: ClusterId::new(id, max_clusters).expect("legal"),
        max_clusters,
    }
}

impl Shape {
    pub(crate) fn of(flags: &Flags) -> Result<Self, Failure> {
        let number = |name, default| flags.number(name, default).map(|n| n as u32);
        Ok(Self {
            clusters: number("clusters", 250)?,
            nodes: number("nodes", 100)?,
            identities: number("identities", 100)?,
            endpoints: number("endpoints", 1000)?,
            layout: Layout::Cached,
        })
    }

    /// Keys of data.
    pub(crate) fn keys(self) -> u64 {
        u64::from(self.clusters) * u64::from(self.nodes + self.identities + self.endpoints)
    }

    pub(crate) fn all(self) -> impl Iterator<Item = ClusterInfo> {
        (1..=self.clusters).map(|n| info(&format!("cls-{n:03}"), n))
    }

    /// A folder with one configuration per cluster, all of the store at the URL that a flag gives.
    pub(crate) fn peers(self, flags: &Flags, url: &str) -> Result<tempfile::TempDir, Failure> {
        let dir = tempfile::tempdir()?;
        let mut text = format!("endpoints:\n- {}\n", flags.text(url)?);
        if let Some(TlsFiles { ca, cert, key }) = flags.tls() {
            for (name, path) in [("trusted-ca-file", ca), ("cert-file", cert), ("key-file", key)] {
                text += &format!("{name}: {}\n", path.display());
            }
        }
        for of in self.all() {
            std::fs::write(dir.path().join(of.name.as_str()), &text)?;
        }
        Ok(dir)
    }

    /// The number of an identity.
    pub(crate) fn identity(self, of: &ClusterInfo, n: u32) -> NumericIdentity {
        NumericIdentity(of.id.identities(of.max_clusters).start().0 + 256 + n % self.identities.max(1))
    }

    /// An endpoint as changed for the `version`th time: its key, and its value.
    pub(crate) fn endpoint(self, of: &ClusterInfo, n: u32, version: u64) -> (String, Bytes) {
        let pod = PodRef { namespace: "default".into(), name: format!("deployment-{n}-v{version}") };
        self.write(
            of,
            Entry::Address(IpEntry {
                prefix: address(of, n),
                identity: self.identity(of, n),
                host_ip: Some(node_ip(of, n % self.nodes.max(1))),
                key_index: 0,
                pod: Some(pod),
            }),
        )
    }

    /// A node as changed for the `version`th time.
    pub(crate) fn node(self, of: &ClusterInfo, n: u32, version: u64) -> (String, Bytes) {
        let address = |kind, ip| NodeAddress { kind, ip };
        let (high, low) = (of.id.get() / 256, of.id.get() % 256);
        let pods = format!("{}.{low}.{}.0/24", 10 + high, n % 256).parse().expect("a network");
        let node = Node {
            addresses: vec![address(AddressType::InternalIP, node_ip(of, n))],
            pod_cidrs: vec![pods],
            labels: [("kubernetes.io/hostname".to_owned(), format!("worker-{n:04}-v{version}"))].into(),
            boot_id: "3b7c5a1e-8f0d-4b32-9a4d-77aa00000001".into(),
            ..Node::new(node_name(of, n), of.name.clone(), of.id)
        };
        self.write(of, Entry::Node(node))
    }

    /// An identity as changed for the `version`th time.
    pub(crate) fn labelled(self, of: &ClusterInfo, n: u32, version: u64) -> (String, Bytes) {
        let text = format!(
            "k8s:app=app-{n}-v{version};k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=default;\
             k8s:io.cilium.k8s.policy.cluster={};k8s:io.cilium.k8s.policy.serviceaccount=default;\
             k8s:io.kubernetes.pod.namespace=default;",
            of.name
        );
        let id = self.identity(of, n);
        self.write(of, Entry::Identity(Identity { id, labels: Labels::parse(&text) }))
    }

    /// All data of a cluster.
    pub(crate) fn data(self, of: ClusterInfo) -> impl Iterator<Item = (String, Bytes)> {
        let (owner, other) = (of.clone(), of.clone());
        let nodes = (0..self.nodes).map(move |n| self.node(&owner, n, 0));
        let identities = (0..self.identities).map(move |n| self.labelled(&other, n, 0));
        let endpoints = (0..self.endpoints).map(move |n| self.endpoint(&of, n, 0));
        nodes.chain(identities).chain(endpoints)
    }

    /// The key and value of the cluster's configuration.
    pub(crate) fn config(self, of: &ClusterInfo) -> (String, Bytes) {
        let config = ClusterConfig {
            id: of.id.get(),
            synced_canaries: true,
            cached: self.layout == Layout::Cached,
            max_connected_clusters: of.max_clusters.max_id(),
            service_exports_enabled: Some(false),
        };
        (keys::cluster_config(&of.name), Bytes::from(config::encode(&config)))
    }

    /// The keys and values that say that everything is there.
    pub(crate) fn markers(self, of: &ClusterInfo) -> [(String, Bytes); 5] {
        Kind::ALL.map(|kind| (keys::marker(&of.name, self.layout, kind), Bytes::from("2026-01-01T00:00:00Z")))
    }

    fn write(self, of: &ClusterInfo, entry: Entry) -> (String, Bytes) {
        let kind = match entry {
            Entry::Node(_) => Kind::Nodes,
            Entry::Service(_) => Kind::Services,
            Entry::Export(_) => Kind::ServiceExports,
            Entry::Identity(_) => Kind::Identities,
            Entry::Address(_) => Kind::Ip,
        };
        let (suffix, value) = entry.encode();
        (keys::prefix(self.layout, kind, &of.name) + &suffix, value.into())
    }
}

/// The address of an endpoint.
pub(crate) fn address(of: &ClusterInfo, n: u32) -> IpNet {
    let (high, low) = (of.id.get() / 256, of.id.get() % 256);
    format!("{}.{low}.{}.{}/32", 10 + high, n / 250, n % 250 + 1).parse().expect("an address")
}

/// The name of a node.
pub(crate) fn node_name(of: &ClusterInfo, n: u32) -> String {
    format!("{}-worker-{n:04}", of.name)
}

/// The prefix of all endpoints in a cache.
pub(crate) fn endpoints() -> String {
    format!("{}/{}/v1/", keys::CACHE, Kind::Ip.word())
}

/// A watch of all endpoints in a cache, which has begun.
pub(crate) async fn watch_endpoints(client: &Client) -> Result<WatchStream, Failure> {
    let mut stream = client.watch(WatchOptions::new(KeyRange::prefix(endpoints()), 0)).await?;
    match stream.try_next().await? {
        Some(WatchMessage::Created(_)) => Ok(stream),
        other => Err(format!("no watch but {other:?}").into()),
    }
}

/// The version in a value of [`Shape::endpoint`], [`Shape::node`] or [`Shape::labelled`].
pub(crate) fn version(value: &[u8]) -> Option<u64> {
    let at = value.windows(2).rposition(|pair| pair == b"-v")?;
    let digits = value[at + 2..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&value[at + 2..at + 2 + digits]).ok()?.parse().ok()
}

fn node_ip(of: &ClusterInfo, n: u32) -> std::net::IpAddr {
    std::net::Ipv4Addr::from(0xac10_0000 + of.id.get() * 1024 + n).into()
}

/// Writes the whole mesh: configurations, data, then the markers.
pub(crate) async fn fill(flags: &Flags) -> Result<(), Failure> {
    let shape = Shape::of(flags)?;
    let client = flags.client("source").await?;
    client.put(keys::HEARTBEAT, "2026-01-01T00:00:00Z", 0).await?;
    put_all(&client, shape.all().map(|of| shape.config(&of))).await?;
    put_all(&client, shape.all().flat_map(|of| shape.data(of))).await?;
    put_all(&client, shape.all().flat_map(|of| shape.markers(&of))).await?;
    println!("{}", json!({ "keys": shape.keys() }));
    Ok(())
}

async fn put_all(client: &Client, entries: impl Iterator<Item = (String, Bytes)>) -> Result<(), Failure> {
    let entries: Vec<_> = entries.collect();
    let transactions = entries.chunks(BATCH).map(|batch| {
        let put = |(key, value): &(String, Bytes)| pb::PutRequest {
            key: key.clone().into(),
            value: value.clone(),
            ..Default::default()
        };
        let op = |put| pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) };
        let success = batch.iter().map(|entry| op(put(entry))).collect();
        Ok(client.txn(pb::TxnRequest { success, ..Default::default() }))
    });
    stream::iter(transactions)
        .try_buffer_unordered(8)
        .try_for_each(|_| std::future::ready(Ok(())))
        .await
        .map_err(|error: causeway_kvstore::client::ClientError| error.into())
}
