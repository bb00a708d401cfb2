//! What an operator's command needs to know about one cluster, read through its API.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use causeway_model::{ClusterId, ClusterInfo, ClusterName, MaxClusters};
use ipnet::IpNet;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret, Service};
use kube::Client;
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use tokio::time::Instant;

use super::entry::Entry;
use crate::{names, pki};

/// Content of a Secret.
pub(crate) type Data = BTreeMap<String, ByteString>;

/// How the mesh server of a cluster is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Access {
    /// Type of the Service, or `given` for endpoints of the command line.
    pub service_type: String,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Its port.
    pub port: u16,
}

/// Where the agents of a cluster read its cache of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalCache {
    /// The name its certificate is for.
    pub host: String,
    /// Address of its Service inside the cluster.
    pub address: IpAddr,
}

/// One cluster as `connect` sees it.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// Its kubeconfig context.
    pub context: String,
    /// Name, id, size of the mesh.
    pub cluster: ClusterInfo,
    /// Tunnel protocol, or `disabled` for native routing.
    pub tunnel: String,
    /// How to reach its mesh server; `None` when not asked for.
    pub access: Option<Access>,
    /// Its cache of the others, if kvstoremesh is on; `None` also when not asked for.
    pub cache: Option<LocalCache>,
    /// Its authority, PEM.
    pub ca: String,
    /// Its public key; equal in two clusters that share an authority.
    pub ca_key: Vec<u8>,
    /// Pod CIDRs with the node that owns each.
    pub pod_cidrs: Vec<(String, IpNet)>,
    /// Its Secrets of peers by name; a missing Secret is absent.
    pub secrets: BTreeMap<&'static str, Data>,
}

impl Facts {
    /// Its configured peers: name and, where it is known, id.
    pub(crate) fn peers(&self) -> BTreeMap<String, Option<u32>> {
        peers(self.secrets.get(names::PEERS), &self.cluster.name)
    }
}

/// The peers a Secret names, without the cluster itself; also those whose entries are malformed, which the agents
/// hold on to.
pub(crate) fn peers(secret: Option<&Data>, own: &ClusterName) -> BTreeMap<String, Option<u32>> {
    let entries = secret.into_iter().flatten().filter(|(name, _)| name.as_str() != own.as_str());
    entries
        .filter_map(|(name, value)| {
            let text = std::str::from_utf8(&value.0).ok().filter(|text| Entry::is_meant(text))?;
            Some((name.clone(), Entry::parse(text).and_then(|entry| entry.cluster_id)))
        })
        .collect()
}

/// Name, id and mesh size from `cilium-config`, and the tunnel protocol.
pub(crate) async fn cluster_info(
    client: &Client,
    context: &str,
    namespace: &str,
) -> Result<(ClusterInfo, String)> {
    let data = settings(client, context, namespace).await?;
    parse_info(&data).with_context(|| format!("{context}: ConfigMap {namespace}/{}", names::CONFIG_MAP))
}

/// The settings of an installation.
async fn settings(client: &Client, context: &str, namespace: &str) -> Result<BTreeMap<String, String>> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = api
        .get_opt(names::CONFIG_MAP)
        .await
        .with_context(|| format!("{context}: read ConfigMap {namespace}/{}", names::CONFIG_MAP))?
        .ok_or_else(|| {
            anyhow!(
                "{context}: no ConfigMap {namespace}/{}: is Causeway or Cilium installed?",
                names::CONFIG_MAP
            )
        })?;
    Ok(map.data.unwrap_or_default())
}

/// Where the agents read the cache, if the settings turn it on.
async fn local_cache(client: &Client, context: &str, namespace: &str) -> Result<Option<LocalCache>> {
    let data = settings(client, context, namespace).await?;
    if data.get("enable-kvstoremesh").is_none_or(|value| value.trim() != "true") {
        return Ok(None);
    }
    let api: Api<Service> = Api::namespaced(client.clone(), namespace);
    let service = api.get(names::APISERVER).await.with_context(|| format!("{context}: read the Service"))?;
    let address = service.spec.and_then(|spec| spec.cluster_ip?.parse().ok()).ok_or_else(|| {
        anyhow!(
            "{context}: enable-kvstoremesh is on, but Service {namespace}/{} has no ClusterIP, by which the agents reach the cache",
            names::APISERVER
        )
    })?;
    Ok(Some(LocalCache { host: format!("{}.{namespace}.svc", names::APISERVER), address }))
}

fn parse_info(data: &BTreeMap<String, String>) -> Result<(ClusterInfo, String)> {
    let number = |key: &str, default: &str| -> Result<u32> {
        let text = data.get(key).map_or(default, |v| v.trim());
        text.parse().with_context(|| format!("{key} = {text:?} is not a number"))
    };
    let name = ClusterName::new(data.get("cluster-name").map_or("default", |v| v.trim()))?;
    let max_clusters = MaxClusters::try_from(number("max-connected-clusters", "255")?)?;
    let id = ClusterId::new(number("cluster-id", "0")?, max_clusters)?;
    let tunnel = match data.get("routing-mode").map(String::as_str) {
        Some("native") => "disabled".to_owned(),
        _ => data.get("tunnel-protocol").cloned().unwrap_or_else(|| "vxlan".to_owned()),
    };
    Ok((ClusterInfo { name, id, max_clusters }, tunnel))
}

/// Which parts of a cluster to read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Want<'a> {
    /// Everything; endpoints of the command line replace the Service's addresses, and a Service
    /// without an address is waited for until the instant.
    All(&'a [SocketAddr], Instant),
    /// Only what `disconnect` needs.
    Peers,
}

/// Reads one cluster.
pub(crate) async fn read(client: &Client, context: &str, namespace: &str, want: Want<'_>) -> Result<Facts> {
    let (cluster, tunnel) = cluster_info(client, context, namespace).await?;
    let secret_api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut secrets = BTreeMap::new();
    for name in [names::PEERS, names::KVSTOREMESH_PEERS, names::PEER_TRUST] {
        let secret =
            secret_api.get_opt(name).await.with_context(|| format!("{context}: read Secret {name}"))?;
        if let Some(secret) = secret {
            secrets.insert(name, secret.data.unwrap_or_default());
        }
    }
    let mut facts = Facts {
        context: context.to_owned(),
        cluster,
        tunnel,
        access: None,
        cache: None,
        ca: String::new(),
        ca_key: vec![],
        pod_cidrs: vec![],
        secrets,
    };
    if let Want::All(endpoints, deadline) = want {
        (facts.ca, facts.ca_key) = authority(&secret_api).await.with_context(|| context.to_owned())?;
        facts.pod_cidrs = pod_cidrs(client).await.with_context(|| context.to_owned())?;
        facts.cache = local_cache(client, context, namespace).await?;
        facts.access = Some(access(client, context, namespace, endpoints, deadline).await?);
    }
    Ok(facts)
}

/// The authority of a cluster; certificate only, its key is never read into a variable of ours.
pub(crate) async fn authority(api: &Api<Secret>) -> Result<(String, Vec<u8>)> {
    let data = |name: &'static str| async move {
        let secret = api.get_opt(name).await.with_context(|| format!("read Secret {name}"))?;
        anyhow::Ok(secret.and_then(|s| s.data).unwrap_or_default())
    };
    let remote = data(names::REMOTE_CERT).await?;
    let leaf = remote.get("tls.crt").ok_or_else(|| {
        anyhow!("Secret {} has no client certificate; is the mesh server enabled?", names::REMOTE_CERT)
    })?;
    let ca_secret = data(names::CA_SECRET).await?;
    let ca = [ca_secret.get("ca.crt"), ca_secret.get("tls.crt"), remote.get("ca.crt")]
        .into_iter()
        .flatten()
        .next()
        .ok_or_else(|| {
            anyhow!("no CA certificate in Secret {} or {}", names::CA_SECRET, names::REMOTE_CERT)
        })?;
    let info = pki::inspect(&ca.0).context("the CA certificate")?;
    if info.days_left < 0 {
        bail!("the CA certificate expired {} days ago", -info.days_left);
    }
    let leaf = pki::inspect(&leaf.0).with_context(|| format!("tls.crt of Secret {}", names::REMOTE_CERT))?;
    if leaf.days_left < 0 {
        bail!("the client certificate in Secret {} expired {} days ago", names::REMOTE_CERT, -leaf.days_left);
    }
    if !pki::signed_by(&leaf, &info) {
        bail!(
            "the client certificate in Secret {} is not signed by the CA in Secret {}: issue it again",
            names::REMOTE_CERT,
            names::CA_SECRET
        );
    }
    let pem = std::str::from_utf8(&ca.0).context("the CA certificate is not text")?;
    Ok((format!("{}\n", pem.trim()), info.public_key))
}

async fn pod_cidrs(client: &Client) -> Result<Vec<(String, IpNet)>> {
    let gvk = GroupVersionKind::gvk("cilium.io", "v2", "CiliumNode");
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::from_gvk(&gvk));
    let nodes = match api.list(&ListParams::default()).await {
        Ok(list) => list.items,
        // No agent has created the definition yet, so there is nothing to compare.
        Err(kube::Error::Api(e)) if e.code == 404 => return Ok(vec![]),
        Err(e) => return Err(e).context("list CiliumNodes"),
    };
    let mut cidrs = Vec::new();
    for node in nodes {
        let name = node.metadata.name.unwrap_or_default();
        for cidr in node.data.pointer("/spec/ipam/podCIDRs").and_then(|v| v.as_array()).into_iter().flatten()
        {
            cidrs.extend(cidr.as_str().and_then(|c| c.parse().ok()).map(|cidr: IpNet| (name.clone(), cidr)));
        }
    }
    cidrs.sort();
    Ok(cidrs)
}

async fn access(
    client: &Client,
    context: &str,
    namespace: &str,
    endpoints: &[SocketAddr],
    deadline: Instant,
) -> Result<Access> {
    if let Some(first) = endpoints.first() {
        if endpoints.iter().any(|e| e.port() != first.port()) {
            bail!("{context}: all given endpoints must have the same port");
        }
        let addresses = endpoints.iter().map(SocketAddr::ip).collect();
        return Ok(Access { service_type: "given".into(), addresses, port: first.port() });
    }
    let api: Api<Service> = Api::namespaced(client.clone(), namespace);
    let mut told = false;
    loop {
        let service =
            api.get_opt(names::APISERVER).await.with_context(|| format!("{context}: read the Service"))?;
        let service = service.ok_or_else(|| {
            anyhow!("{context}: no Service {namespace}/{}: is the mesh server enabled?", names::APISERVER)
        })?;
        let why = match derive_access(client, &service).await? {
            Ok(access) => return Ok(access),
            Err(why) => why,
        };
        if Instant::now() >= deadline {
            bail!("{context}: Service {namespace}/{} has no address: {why}", names::APISERVER);
        }
        if !told {
            eprintln!(
                "{context}: waiting for the address of Service {namespace}/{} ({why})",
                names::APISERVER
            );
            told = true;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// The address of the mesh server (operator-workflow 1.6), or why there is none yet.
pub(crate) async fn derive_access(client: &Client, service: &Service) -> Result<Result<Access, String>> {
    let Some(spec) = &service.spec else { return Ok(Err("it has no spec".into())) };
    let service_type = spec.type_.clone().unwrap_or_else(|| "ClusterIP".into());
    let Some(first) = spec.ports.iter().flatten().next() else { return Ok(Err("it has no port".into())) };
    let mut addresses = BTreeSet::new();
    let mut port = first.port;
    let why = match service_type.as_str() {
        "LoadBalancer" => {
            let status = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
            for ingress in status.and_then(|lb| lb.ingress.as_ref()).into_iter().flatten() {
                if let Some(ip) = ingress.ip.as_deref().and_then(|ip| ip.parse().ok()) {
                    addresses.insert(ip);
                } else if let Some(host) = &ingress.hostname {
                    let found = tokio::net::lookup_host((host.as_str(), 0)).await;
                    let found = found.with_context(|| format!("look up load balancer host {host}"))?;
                    addresses.extend(found.map(|a| a.ip()));
                }
            }
            "the cloud has not assigned one; see its events with `kubectl describe service`"
        }
        "NodePort" => {
            port = first.node_port.unwrap_or_default();
            let nodes: Api<Node> = Api::all(client.clone());
            let nodes = nodes.list(&ListParams::default()).await.context("list nodes")?;
            addresses.extend(nodes.items.iter().filter_map(node_address));
            "no node has an address"
        }
        _ => {
            addresses.extend(spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok()));
            "it is headless"
        }
    };
    let port = u16::try_from(port).unwrap_or_default();
    Ok(if addresses.is_empty() || port == 0 {
        Err(why.to_owned())
    } else {
        Ok(Access { service_type, addresses, port })
    })
}

/// A node's ExternalIP, else its InternalIP.
fn node_address(node: &Node) -> Option<IpAddr> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    ["ExternalIP", "InternalIP"]
        .into_iter()
        .find_map(|kind| addresses.iter().filter(|a| a.type_ == kind).find_map(|a| a.address.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(pairs: &[(&str, &str)]) -> Result<(ClusterInfo, String)> {
        parse_info(&pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect())
    }

    #[test]
    fn a_malformed_entry_is_still_a_peer() {
        let secret: Data = [
            ("cls-b", "endpoints: [1, {"),
            ("cls-b.etcd-client-ca.crt", "-----BEGIN"),
            ("cls-a", "endpoints:"),
        ]
        .map(|(key, text)| (key.to_owned(), k8s_openapi::ByteString(text.into())))
        .into();
        let own = ClusterName::new("cls-a").unwrap();
        assert_eq!(peers(Some(&secret), &own), BTreeMap::from([("cls-b".to_owned(), None)]));
    }

    #[test]
    fn bad_names_and_ids_are_named() {
        let good = [("cluster-name", "cls-a"), ("cluster-id", "1"), ("max-connected-clusters", "255")];
        assert_eq!(info(&good).unwrap().1, "vxlan");
        for (key, value, says) in [
            ("cluster-id", "0", "cluster id 0"),
            ("cluster-id", "256", "cluster id 256"),
            ("cluster-id", "one", "not a number"),
            ("cluster-name", "CLS-A", "lower-case"),
            ("cluster-name", "default", "reserved"),
            ("cluster-name", "a23456789012345678901234567890123", "longer than 32"),
            ("max-connected-clusters", "256", "must be 255 or 511"),
        ] {
            let mut pairs = good.to_vec();
            pairs.retain(|(k, _)| *k != key);
            pairs.push((key, value));
            let text = format!("{:#}", info(&pairs).unwrap_err());
            assert!(text.contains(says), "{key}={value}: {text}");
        }
    }
}
