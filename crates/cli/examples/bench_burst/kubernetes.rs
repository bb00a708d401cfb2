//! Cluster 2's Kubernetes: the lab's API server, and the objects of a cluster with many pods.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bytes::Bytes;
use causeway_cluster::crd::{
    self, Addressing, CiliumEndpoint, CiliumIdentity, EndpointIdentifiers, EndpointIdentity,
    EndpointNetworking, EndpointStatus, NamedPort,
};
use causeway_cluster::writeback::CiliumNodeWriter;
use causeway_kvstore::{Store, pb};
use causeway_lab::apiserver::loopback::Loopback;
use causeway_lab::apiserver::storage;
use causeway_model::{
    AddressType, ClusterId, ClusterInfo, ClusterName, IpEntry, MaxClusters, Node, NodeAddress,
    NumericIdentity, PodRef,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use kube::{Client, Config};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Nodes and identities of the cluster: a hundred pods a node at a burst of 1,000.
const NODES: u32 = 10;
const IDENTITIES: u32 = 20;

/// An API server of this process; it ends with this value.
pub(crate) struct Kubernetes {
    /// Of an administrator.
    pub(crate) kubeconfig: PathBuf,
    _stop: DropGuard,
}

/// The cluster whose pods are created.
pub(crate) fn info() -> ClusterInfo {
    cluster("cls-b", 2)
}

/// A cluster of a mesh of up to 255.
pub(crate) fn cluster(name: &str, id: u32) -> ClusterInfo {
    let max_clusters = MaxClusters::C255;
    ClusterInfo {
        name: ClusterName::new(name).expect("legal"),
        id: ClusterId::new(id, max_clusters).expect("legal"),
        max_clusters,
    }
}

impl Kubernetes {
    /// Starts an API server whose kubeconfig goes to `dir`, with our definitions, nodes, identities and so
    /// many pods.
    pub(crate) async fn start(dir: &Path, pods: u32) -> Result<Self> {
        let api = Loopback::new(info().name.as_str(), 0)?;
        let (store, path) = (api.options.store.clone(), dir.join("kubeconfig"));
        api.write_kubeconfig(&path)?;
        let stop = CancellationToken::new();
        tokio::spawn(api.serve(stop.clone())?);
        let client = client(&path).await?;
        populate(client.clone()).await?;
        if pods > 0 {
            fill(&client, &store, pods).await?;
        }
        Ok(Self { kubeconfig: path, _stop: stop.drop_guard() })
    }
}

/// Puts endpoints where the API server keeps them, as it keeps one it was sent: what a cluster has had for long.
async fn fill(client: &Client, store: &Store, pods: u32) -> Result<()> {
    create(client, 0).await?;
    let key = |n| storage::key("cilium.io/ciliumendpoints", "default", &pod(n).name);
    let request = pb::RangeRequest { key: key(0).into(), ..Default::default() };
    let found = store.range(&request)?.kvs.pop().context("the endpoint just created")?;
    let first = String::from_utf8(found.value.to_vec())?;
    for n in 1..pods {
        let value = first.replace(&pod(0).name, &pod(n).name);
        let value = value.replace(&address(0).to_string(), &address(n).to_string());
        let value = Bytes::from(value);
        store.put(pb::PutRequest { key: key(n).into(), value, ..Default::default() })?;
    }
    Ok(())
}

/// A client of the API server.
pub(crate) async fn client(kubeconfig: &Path) -> Result<Client> {
    let config = kube::config::Kubeconfig::read_from(kubeconfig)?;
    Ok(Client::try_from(Config::from_custom_kubeconfig(config, &Default::default()).await?)?)
}

async fn populate(client: Client) -> Result<()> {
    crd::ensure_crds(client.clone()).await?;
    let nodes = CiliumNodeWriter::new(client.clone());
    for n in 0..NODES {
        nodes.upsert(&node(n), None).await?;
    }
    let identities = Api::<CiliumIdentity>::all(client);
    for n in 0..IDENTITIES {
        let labels = labels(n).into_iter().map(|(key, value)| (format!("k8s:{key}"), value));
        let object = CiliumIdentity {
            metadata: ObjectMeta { name: Some(identity(n).to_string()), ..Default::default() },
            security_labels: labels.collect(),
            ..Default::default()
        };
        identities.create(&PostParams::default(), &object).await?;
    }
    Ok(())
}

/// Creates the endpoint of the pod `n`, as the agent of its node does.
pub(crate) async fn create(client: &Client, n: u32) -> Result<()> {
    let api = Api::<CiliumEndpoint>::namespaced(client.clone(), "default");
    api.create(&PostParams::default(), &endpoint(n)).await.with_context(|| format!("create {:?}", pod(n)))?;
    Ok(())
}

/// What a reader in another cluster must know of the pod `n`.
pub(crate) fn wanted(n: u32) -> IpEntry {
    IpEntry {
        prefix: address(n).into(),
        identity: identity(n),
        host_ip: Some(node_ip(n)),
        key_index: 0,
        pod: Some(pod(n)),
    }
}

/// The number in a pod's name.
pub(crate) fn number(name: &str) -> Option<u32> {
    name.strip_prefix("pod-")?.parse().ok()
}

fn pod(n: u32) -> PodRef {
    PodRef { namespace: "default".into(), name: format!("pod-{n:06}") }
}

fn address(n: u32) -> IpAddr {
    Ipv4Addr::new(10, (2 + n / 62_500) as u8, (n / 250 % 250) as u8, (n % 250 + 1) as u8).into()
}

fn node_ip(n: u32) -> IpAddr {
    Ipv4Addr::new(172, 18, 0, (n % NODES + 11) as u8).into()
}

fn identity(n: u32) -> NumericIdentity {
    NumericIdentity((info().id.get() << 16) + 256 + n % IDENTITIES)
}

fn labels(n: u32) -> BTreeMap<String, String> {
    let pairs = [
        ("app", format!("app-{}", n % IDENTITIES)),
        ("io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name", "default".to_owned()),
        ("io.cilium.k8s.policy.cluster", info().name.to_string()),
        ("io.cilium.k8s.policy.serviceaccount", "default".to_owned()),
        ("io.kubernetes.pod.namespace", "default".to_owned()),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn endpoint(n: u32) -> CiliumEndpoint {
    let pod = pod(n);
    let container = format!("{n:064x}");
    CiliumEndpoint {
        api_version: CiliumEndpoint::API_VERSION.to_owned(),
        kind: CiliumEndpoint::KIND.to_owned(),
        metadata: ObjectMeta {
            name: Some(pod.name.clone()),
            namespace: Some(pod.namespace.clone()),
            labels: Some(BTreeMap::from([("app".to_owned(), format!("app-{}", n % IDENTITIES))])),
            ..Default::default()
        },
        status: EndpointStatus {
            id: i64::from(n % 4096),
            external_identifiers: Some(EndpointIdentifiers {
                cni_attachment_id: format!("{container}:eth0"),
                container_id: container,
                k8s_namespace: pod.namespace.clone(),
                k8s_pod_name: pod.name.clone(),
                pod_name: format!("{}/{}", pod.namespace, pod.name),
            }),
            identity: Some(EndpointIdentity {
                id: identity(n).0.into(),
                labels: labels(n).into_iter().map(|(key, value)| format!("k8s:{key}={value}")).collect(),
            }),
            networking: Some(EndpointNetworking {
                addressing: vec![Addressing { ipv4: address(n).to_string(), ipv6: String::new() }],
                node: node_ip(n).to_string(),
            }),
            state: "ready".into(),
            named_ports: vec![NamedPort { name: "http".into(), port: 8080, protocol: "TCP".into() }],
            ..Default::default()
        },
    }
}

fn node(n: u32) -> Node {
    let ClusterInfo { name, id, .. } = info();
    Node {
        addresses: vec![NodeAddress { kind: AddressType::InternalIP, ip: node_ip(n) }],
        pod_cidrs: vec![format!("10.1.{n}.0/24").parse().expect("a network")],
        boot_id: "3b7c5a1e-8f0d-4b32-9a4d-77aa00000001".into(),
        ..Node::new(format!("node-{n:02}"), name, id)
    }
}
