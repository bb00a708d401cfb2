//! What clusters publish: entries that tell their version, and garbage.

use std::sync::Arc;

use causeway_mesh::keys::Kind;
use causeway_mesh::wire::Entry;
use causeway_model::{
    AddressType, ClusterInfo, ClusterService, ExportPort, ExportType, Identity, IpEntry, Labels, Node,
    NodeAddress, NumericIdentity, PodRef, Port, Protocol, ServiceExport, ServiceKey, SessionAffinity,
};

/// Version of entries that nobody may accept.
pub(crate) const EVIL: u32 = 999;

/// Entry `n` of a kind, of the cluster with this index; its version can be read off it.
pub(crate) fn entry(from: &ClusterInfo, index: usize, kind: Kind, n: usize, version: u32) -> Entry {
    let first = from.id.identities(from.max_clusters).start().0;
    let service = || ServiceKey { namespace: "ns".into(), name: format!("s{n}") };
    let text = version.to_string();
    match kind {
        Kind::Ip => {
            let prefix =
                if n == 3 { format!("10.{index}.64.0/24") } else { format!("10.{index}.0.{}/32", n + 1) };
            Entry::Address(IpEntry {
                prefix: prefix.parse().unwrap(),
                identity: NumericIdentity(first + version),
                host_ip: Some(format!("172.20.{index}.1").parse().unwrap()),
                key_index: 0,
                pod: Some(PodRef { namespace: "ns".into(), name: format!("p{n}") }),
            })
        }
        Kind::Identities => {
            let labels = format!("k8s:io.cilium.k8s.policy.cluster={};k8s:v={text};", from.name);
            Entry::Identity(Identity {
                id: NumericIdentity(first + n as u32),
                labels: Labels::parse(&labels),
            })
        }
        Kind::Nodes => Entry::Node(Node {
            addresses: vec![NodeAddress {
                kind: AddressType::InternalIP,
                ip: format!("172.20.{index}.{}", n + 1).parse().unwrap(),
            }],
            pod_cidrs: vec![format!("10.{index}.{}.0/24", 100 + n).parse().unwrap()],
            boot_id: text,
            ..Node::new(format!("n{n}"), from.name.clone(), from.id)
        }),
        Kind::Services => {
            let ports = |port| Arc::new([("http".to_owned(), Port { protocol: Protocol::TCP, port })].into());
            Entry::Service(ClusterService {
                cluster: from.name.clone(),
                cluster_id: from.id,
                key: service(),
                frontends: [(format!("10.{index}.255.{}", n + 1).parse().unwrap(), ports(80))]
                    .into_iter()
                    .collect(),
                backends: [(format!("10.{index}.0.{}", n + 1).parse().unwrap(), ports(8080))]
                    .into_iter()
                    .collect(),
                hostnames: [].into(),
                zones: [].into(),
                labels: [("v".to_owned(), text)].into(),
                selector: [].into(),
                shared: is_shared(version),
            })
        }
        Kind::ServiceExports => Entry::Export(ServiceExport {
            cluster: from.name.clone(),
            key: service(),
            annotations: Some([("v".to_owned(), text)].into()),
            labels: None,
            created: "2026-02-10T09:00:00Z".into(),
            ports: vec![ExportPort {
                name: "http".into(),
                protocol: "TCP".into(),
                app_protocol: String::new(),
                port: 80,
            }],
            kind: ExportType::ClusterSetIP,
            session_affinity: SessionAffinity::None,
            families: vec![],
            internal_traffic: Default::default(),
            traffic_distribution: String::new(),
        }),
    }
}

/// Some versions of a service are not shared, which withdraws it.
pub(crate) fn is_shared(version: u32) -> bool {
    !version.is_multiple_of(7)
}

/// The version of an entry of this cluster.
pub(crate) fn version(entry: &Entry, from: &ClusterInfo) -> u32 {
    let first = from.id.identities(from.max_clusters).start().0;
    let text = match entry {
        Entry::Address(entry) => return entry.identity.0.wrapping_sub(first),
        Entry::Identity(identity) => identity.labels.get("v").map(|label| label.value.clone()),
        Entry::Node(node) => Some(node.boot_id.clone()),
        Entry::Service(service) => service.labels.get("v").cloned(),
        Entry::Export(export) => export.annotations.as_ref().and_then(|a| a.get("v").cloned()),
    };
    text.and_then(|text| text.parse().ok()).unwrap_or(EVIL)
}

/// Sorts of garbage.
pub(crate) const GARBAGE: usize = 6;

/// Suffix and value of garbage at or near entry `n`; `other` is another cluster. Whatever is in it,
/// it is never to be accepted, and no key of it is a legal one of another entry.
pub(crate) fn garbage(
    sort: usize,
    from: &ClusterInfo,
    other: &ClusterInfo,
    index: usize,
    kind: Kind,
    n: usize,
    huge: usize,
) -> (Vec<u8>, Vec<u8>) {
    let (suffix, good) = entry(from, index, kind, n, EVIL).encode();
    let (_, foreign) = entry(other, index, kind, n, EVIL).encode();
    let suffix = suffix.into_bytes();
    match sort {
        0 => (suffix, b"{\"IP\":".to_vec()),
        // An address names no cluster: that of a cluster with the same id by mistake is a good one.
        1 if from.id != other.id => (suffix, foreign),
        1 => (suffix, b"{\"IP\":".to_vec()),
        2 => (suffix, [vec![b'['; 40], vec![b']'; 40]].concat()),
        3 => (suffix, vec![b' '; huge]),
        4 => ([b"\xff\xfe/".as_slice(), &suffix].concat(), good),
        _ => ([&suffix, "/x".repeat(600).as_bytes()].concat(), good),
    }
}
