//! One peer in the Secrets `cilium-clustermesh` and `cilium-kvstoremesh`: an etcd client
//! configuration named by the peer (mesh-protocol 5.5).
//!
//! Beyond etcd's own keys, `cilium-host-aliases` says where to dial the endpoint's host name (Cilium
//! before 1.19 needs `hostAliases` and a restart for that), and `cluster-id`, ours, lets `connect` refuse an
//! id that a connected peer already has.

use std::collections::BTreeSet;
use std::net::IpAddr;

use causeway_model::ClusterName;
use serde::Deserialize;

use super::facts::LocalCache;
use crate::{names, pki};

/// What the entry of a peer says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Entry {
    /// URLs of its mesh server.
    pub endpoints: Vec<String>,
    /// Where the host names of `endpoints` are.
    #[serde(default)]
    pub cilium_host_aliases: Vec<HostAlias>,
    /// Its id, if the entry was written by us.
    #[serde(default)]
    pub cluster_id: Option<u32>,
    /// File of the authority its server certificate comes from.
    #[serde(default)]
    pub trusted_ca_file: Option<String>,
}

/// The addresses of one host name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct HostAlias {
    /// The name.
    pub hostname: String,
    /// Where it is.
    pub ips: BTreeSet<IpAddr>,
}

impl Entry {
    /// Whether the text is meant as an entry, well-formed or not: the agent's rule. Other keys of the Secret are
    /// certificates.
    pub(crate) fn is_meant(text: &str) -> bool {
        text.contains("endpoints:")
    }

    /// Reads an entry; `None` when the text is not one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::is_meant(text).then(|| serde_saphyr::from_str(text).ok()).flatten()
    }
}

/// Key of a peer's own CA certificate in the Secrets.
pub(crate) fn ca_key(peer: &ClusterName) -> String {
    format!("{peer}.etcd-client-ca.crt")
}

/// All keys a peer may have in the Secrets.
pub(crate) fn keys(peer: &str) -> [String; 4] {
    [
        peer.to_owned(),
        format!("{peer}.etcd-client-ca.crt"),
        format!("{peer}.etcd-client.crt"),
        format!("{peer}.etcd-client.key"),
    ]
}

/// The text of an entry; byte for byte the same for the same input, so that a second `connect`
/// changes nothing. `own_ca`: the peer's authority differs from ours and lies beside the entry.
pub(crate) fn render(
    peer: &ClusterName,
    id: u32,
    addresses: &BTreeSet<IpAddr>,
    port: u16,
    own_ca: bool,
) -> String {
    let ca = if own_ca { ca_key(peer) } else { "common-etcd-client-ca.crt".to_owned() };
    render_files(&pki::mesh_host(peer), port, (&ca, "common"), id, addresses)
}

/// The text of an entry by which the agents read a peer from the cache of their own cluster
/// (operator-workflow 3.3).
pub(crate) fn render_cached(id: u32, cache: &LocalCache) -> String {
    let files = ("local-etcd-client-ca.crt", "local");
    render_files(&cache.host, names::MESH_PORT, files, id, &BTreeSet::from([cache.address]))
}

fn render_files(
    host: &str,
    port: u16,
    (ca, client): (&str, &str),
    id: u32,
    addresses: &BTreeSet<IpAddr>,
) -> String {
    let dir = names::PEERS_DIR;
    let mut text = format!(
        "endpoints:\n- https://{host}:{port}\n\
         trusted-ca-file: {dir}/{ca}\n\
         key-file: {dir}/{client}-etcd-client.key\n\
         cert-file: {dir}/{client}-etcd-client.crt\n\
         cluster-id: {id}\n\
         cilium-host-aliases:\n- hostname: {host}\n  ips:\n"
    );
    for ip in addresses {
        text.push_str(&format!("  - \"{ip}\"\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_what_it_parses() {
        let peer = ClusterName::new("cls-b").unwrap();
        let addresses = BTreeSet::from(["10.1.4.7".parse().unwrap(), "fd00::7".parse().unwrap()]);
        let text = render(&peer, 2, &addresses, 2379, true);
        let entry = Entry::parse(&text).unwrap();
        assert_eq!(entry.endpoints, ["https://cls-b.mesh.cilium.io:2379"]);
        assert_eq!(entry.cilium_host_aliases[0].hostname, "cls-b.mesh.cilium.io");
        assert_eq!(entry.cilium_host_aliases[0].ips, addresses);
        assert_eq!(entry.cluster_id, Some(2));
        assert_eq!(
            entry.trusted_ca_file.as_deref(),
            Some("/var/lib/cilium/clustermesh/cls-b.etcd-client-ca.crt")
        );
        assert!(render(&peer, 2, &addresses, 2379, false).contains("/common-etcd-client-ca.crt"));
        let host = "clustermesh-apiserver.kube-system.svc".to_owned();
        let text = render_cached(2, &LocalCache { host, address: "10.96.0.7".parse().unwrap() });
        let entry = Entry::parse(&text).unwrap();
        assert_eq!(entry.endpoints, ["https://clustermesh-apiserver.kube-system.svc:2379"]);
        assert_eq!(entry.cluster_id, Some(2));
        assert!(text.contains("cert-file: /var/lib/cilium/clustermesh/local-etcd-client.crt"), "{text}");
        assert!(text.contains("hostname: clustermesh-apiserver.kube-system.svc\n  ips:\n  - \"10.96.0.7\""));
        assert_eq!(Entry::parse("-----BEGIN CERTIFICATE-----"), None);
        assert_eq!(Entry::parse("endpoints: [1, {"), None);
    }
}
