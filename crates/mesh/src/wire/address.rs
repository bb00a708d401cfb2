//! Addresses with their identity (mesh-protocol 2.5).

use causeway_model::{ClusterInfo, IpEntry, NumericIdentity, PodRef};
use ipnet::IpNet;

use super::go::{self, GoIp, GoMask, go_struct};
use super::{Fault, Reason, claim, fault};
use crate::keys;

go_struct! {
    struct Wire {
        ip: GoIp = "IP",
        mask: Option<GoMask> = "Mask",
        host_ip: GoIp = "HostIP",
        id: u32 = "ID",
        key: u8 = "Key",
        metadata: String = "Metadata",
        #[serde(skip_serializing_if = "String::is_empty")]
        namespace: String = "K8sNamespace",
        #[serde(skip_serializing_if = "String::is_empty")]
        pod: String = "K8sPodName",
    }
}

pub(super) fn encode(entry: &IpEntry) -> Vec<u8> {
    let host = entry.prefix.prefix_len() == entry.prefix.max_prefix_len();
    let (namespace, pod) = match &entry.pod {
        Some(pod) => (pod.namespace.clone(), pod.name.clone()),
        None => Default::default(),
    };
    go::print(&Wire {
        ip: GoIp(Some(entry.prefix.network())),
        mask: (!host).then(|| GoMask::of(&entry.prefix)),
        host_ip: GoIp(entry.host_ip),
        id: entry.identity.0,
        key: entry.key_index,
        metadata: String::new(),
        namespace,
        pod,
    })
}

pub(super) fn decode(suffix: &str, value: &[u8], from: &ClusterInfo) -> Result<IpEntry, Fault> {
    let wire: Wire = go::parse(value)?;
    let Some(ip) = wire.ip.0 else {
        return fault(Reason::BadValue, "IP", "not set");
    };
    let prefix = match &wire.mask {
        None => IpNet::from(ip),
        Some(mask) => go::prefix("Mask", ip, mask)?,
    };
    if keys::address_suffix(&prefix) != suffix {
        return fault(Reason::BadKey, "IP", format!("{prefix} is not the address in the key, {suffix:?}"));
    }
    claim::check("IP", &prefix)?;
    if let Some(host) = wire.host_ip.0 {
        claim::check("HostIP", &host.into())?;
    }
    let range = from.id.identities(from.max_clusters);
    let identity = match NumericIdentity(wire.id) {
        // "host" seen from another node is a remote node.
        NumericIdentity::HOST => NumericIdentity::REMOTE_NODE,
        id if id.is_reserved() || range.contains(&id) => id,
        id => {
            return fault(
                Reason::ForeignIdentity,
                "ID",
                format!(
                    "identity {id} is neither reserved (below 256) nor in {}..={}, the range of cluster {} (id {})",
                    range.start(),
                    range.end(),
                    from.name,
                    from.id
                ),
            );
        }
    };
    // What is no Kubernetes name names no pod.
    let named = [&wire.namespace, &wire.pod].iter().all(|name| !name.is_empty() && !name.contains('/'));
    Ok(IpEntry {
        prefix,
        identity,
        host_ip: wire.host_ip.0,
        key_index: wire.key,
        pod: named.then_some(PodRef { namespace: wire.namespace, name: wire.pod }),
    })
}
