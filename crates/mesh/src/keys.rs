//! Every key of the mesh protocol (mesh-protocol 1): how they are built and how they are read.
//!
//! Two layouts exist. *Native* keys are written by the cluster that owns the data; *cached* keys
//! by a kvstoremesh into its own cluster's store. They differ in the base (`cilium/state`,
//! `cilium/cache`) and in where the cluster name sits: identities and addresses carry none in
//! the native layout.

use std::net::IpAddr;

use causeway_model::{ClusterConfig, ClusterName, NumericIdentity, ServiceKey};
use ipnet::IpNet;

/// Base of native data.
pub const STATE: &str = "cilium/state";
/// Base of cached data.
pub const CACHE: &str = "cilium/cache";
/// Base of the cluster configurations.
pub const CLUSTER_CONFIG: &str = "cilium/cluster-config";
/// Base of the sync markers.
pub const SYNCED: &str = "cilium/synced";
/// The heartbeat key; readers list it as a prefix.
pub const HEARTBEAT: &str = "cilium/.heartbeat";

/// Longest key a reader accepts, in bytes. The longest legal one (a service: three DNS names and
/// the base) is well below it.
pub const MAX_KEY: usize = 1024;

/// The five kinds of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Nodes.
    Nodes,
    /// Global services.
    Services,
    /// MCS-API service exports.
    ServiceExports,
    /// Identities.
    Identities,
    /// Addresses.
    Ip,
}

impl Kind {
    /// All kinds, in a fixed order.
    pub const ALL: [Kind; 5] =
        [Kind::Nodes, Kind::Services, Kind::ServiceExports, Kind::Identities, Kind::Ip];

    /// The word in keys and markers.
    pub const fn word(self) -> &'static str {
        match self {
            Kind::Nodes => "nodes",
            Kind::Services => "services",
            Kind::ServiceExports => "serviceexports",
            Kind::Identities => "identities",
            Kind::Ip => "ip",
        }
    }
}

/// Who wrote the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layout {
    /// The cluster that owns it.
    Native,
    /// A kvstoremesh that copied it.
    Cached,
}

impl Layout {
    /// Where a store with this announcement has the data of its cluster.
    pub const fn of(announced: &ClusterConfig) -> Self {
        if announced.cached { Layout::Cached } else { Layout::Native }
    }

    /// The base of the keys.
    pub const fn base(self) -> &'static str {
        match self {
            Layout::Native => STATE,
            Layout::Cached => CACHE,
        }
    }
}

/// The key of a cluster's configuration.
pub fn cluster_config(cluster: &ClusterName) -> String {
    format!("{CLUSTER_CONFIG}/{cluster}")
}

/// The prefix of all sync markers of a cluster.
pub fn marker_prefix(cluster: &ClusterName) -> String {
    format!("{SYNCED}/{cluster}/")
}

/// The key of one sync marker. It names the short prefix (`…/identities/v1`, `…/ip/v1`), not
/// the one that is watched.
pub fn marker(cluster: &ClusterName, layout: Layout, kind: Kind) -> String {
    format!("{SYNCED}/{cluster}/{}/{}/v1", layout.base(), kind.word())
}

/// Reads a marker; `None` for markers this version does not know.
pub fn parse_marker(cluster: &ClusterName, key: &str) -> Option<(Layout, Kind)> {
    let rest = key.strip_prefix(marker_prefix(cluster).as_str())?;
    [Layout::Native, Layout::Cached]
        .into_iter()
        .flat_map(|layout| Kind::ALL.into_iter().map(move |kind| (layout, kind)))
        .find(|(layout, kind)| {
            rest.strip_prefix(layout.base())
                .and_then(|rest| rest.strip_prefix('/'))
                .and_then(|rest| rest.strip_suffix("/v1"))
                == Some(kind.word())
        })
}

/// The prefix under which the entries of a kind live, with its trailing slash; what follows it
/// in a key is the *suffix*, which is the same in both layouts.
pub fn prefix(layout: Layout, kind: Kind, cluster: &ClusterName) -> String {
    let base = layout.base();
    let word = kind.word();
    match (kind, layout) {
        (Kind::Nodes | Kind::Services | Kind::ServiceExports, _) => format!("{base}/{word}/v1/{cluster}/"),
        (Kind::Identities, Layout::Native) => format!("{base}/{word}/v1/id/"),
        (Kind::Identities, Layout::Cached) => format!("{base}/{word}/v1/{cluster}/id/"),
        // "default" is the address space, not a cluster.
        (Kind::Ip, Layout::Native) => format!("{base}/{word}/v1/default/"),
        (Kind::Ip, Layout::Cached) => format!("{base}/{word}/v1/{cluster}/"),
    }
}

/// The kind of a key of data, in either layout; `None` for every other key.
pub fn kind(key: &str) -> Option<Kind> {
    let rest = key.strip_prefix(STATE).or_else(|| key.strip_prefix(CACHE))?.strip_prefix('/')?;
    let (word, _) = rest.split_once('/')?;
    Kind::ALL.into_iter().find(|kind| kind.word() == word)
}

/// First key after all keys that begin with `prefix`: the `range_end` of an etcd request. Empty
/// input and all-0xff input mean "to the end of the key space", which etcd writes as one zero byte.
pub fn range_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < 0xff {
            *last += 1;
            return end;
        }
        end.pop();
    }
    vec![0]
}

/// The suffix of an identity.
pub fn identity_suffix(id: NumericIdentity) -> String {
    id.0.to_string()
}

/// The suffix of a service or export.
pub fn service_suffix(key: &ServiceKey) -> String {
    format!("{}/{}", key.namespace, key.name)
}

/// The suffix of an address: the bare address for a single host, else `network/bits`.
pub fn address_suffix(prefix: &IpNet) -> String {
    if prefix.prefix_len() == prefix.max_prefix_len() {
        canonical(prefix.addr()).to_string()
    } else {
        format!("{}/{}", prefix.network(), prefix.prefix_len())
    }
}

/// Reads an identity suffix: decimal without sign, spaces or leading zeros.
pub fn parse_identity(suffix: &str) -> Option<NumericIdentity> {
    let id: u32 = suffix.parse().ok()?;
    (id.to_string() == suffix).then_some(NumericIdentity(id))
}

/// Reads a service suffix `namespace/name`.
pub fn parse_service(suffix: &str) -> Option<ServiceKey> {
    let (namespace, name) = suffix.split_once('/')?;
    if namespace.is_empty() || name.is_empty() || name.contains('/') {
        return None;
    }
    Some(ServiceKey { namespace: namespace.to_owned(), name: name.to_owned() })
}

/// Reads an address suffix; only the canonical text of an address is one.
pub fn parse_address(suffix: &str) -> Option<IpNet> {
    let net = match suffix.split_once('/') {
        None => IpNet::from(suffix.parse::<IpAddr>().ok()?),
        Some((ip, bits)) => IpNet::new(ip.parse().ok()?, bits.parse().ok()?).ok()?,
    };
    (net.network() == net.addr() && address_suffix(&net) == suffix).then_some(net)
}

/// IPv4-mapped IPv6 addresses are IPv4 addresses, as in Go.
pub fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn c() -> ClusterName {
        ClusterName::new("cls-b").unwrap()
    }

    #[test]
    fn prefixes_of_the_specification() {
        use Kind::*;
        use Layout::*;
        for (key, kind) in [
            ("cilium/state/ip/v1/default/10.2.0.1", Some(Ip)),
            ("cilium/cache/serviceexports/v1/cls-b/a/b", Some(ServiceExports)),
            ("cilium/statement/ip/v1/x", None),
            ("cilium/synced/cls-b/cilium/state/ip/v1", None),
            ("cilium/.heartbeat", None),
        ] {
            assert_eq!(super::kind(key), kind, "{key}");
        }
        for (layout, kind, want) in [
            (Native, Nodes, "cilium/state/nodes/v1/cls-b/"),
            (Cached, Nodes, "cilium/cache/nodes/v1/cls-b/"),
            (Native, Services, "cilium/state/services/v1/cls-b/"),
            (Cached, ServiceExports, "cilium/cache/serviceexports/v1/cls-b/"),
            (Native, Ip, "cilium/state/ip/v1/default/"),
            (Cached, Ip, "cilium/cache/ip/v1/cls-b/"),
            (Native, Identities, "cilium/state/identities/v1/id/"),
            (Cached, Identities, "cilium/cache/identities/v1/cls-b/id/"),
        ] {
            assert_eq!(prefix(layout, kind, &c()), want);
        }
    }

    #[test]
    fn markers_round_trip() {
        for layout in [Layout::Native, Layout::Cached] {
            for kind in Kind::ALL {
                assert_eq!(parse_marker(&c(), &marker(&c(), layout, kind)), Some((layout, kind)));
            }
        }
        assert_eq!(marker(&c(), Layout::Native, Kind::Ip), "cilium/synced/cls-b/cilium/state/ip/v1");
        for unknown in
            ["cilium/synced/cls-b/cilium/state/endpointslices/v1", "cilium/synced/x/cilium/state/ip/v1"]
        {
            assert_eq!(parse_marker(&c(), unknown), None);
        }
    }

    #[test]
    fn range_ends() {
        assert_eq!(range_end(b"cilium/synced/cls-b/"), b"cilium/synced/cls-b0");
        assert_eq!(range_end(b"cilium/.heartbeat"), b"cilium/.heartbeau");
        assert_eq!(range_end(b"a\xff"), b"b");
        assert_eq!(range_end(b"\xff\xff"), b"\0");
    }

    #[test]
    fn addresses() {
        for text in ["10.2.0.21", "10.2.64.0/24", "fd00:1::21", "fd00:1::/120", "0.0.0.0/0"] {
            assert_eq!(address_suffix(&parse_address(text).unwrap()), text);
        }
        for bad in
            ["10.2.0.21/32", "10.2.64.5/24", "FD00::1", "010.0.0.1", "10.2.0.21/", "x", "", "::ffff:1.2.3.4"]
        {
            assert_eq!(parse_address(bad), None, "{bad}");
        }
    }

    #[test]
    fn identities_and_services() {
        assert_eq!(parse_identity("140013"), Some(NumericIdentity(140_013)));
        for bad in ["", "+1", "01", "x", "4294967296", "1/2"] {
            assert_eq!(parse_identity(bad), None, "{bad}");
        }
        assert!(parse_service("a/b").is_some());
        for bad in ["a", "/b", "a/", "a/b/c"] {
            assert_eq!(parse_service(bad), None, "{bad}");
        }
    }
}
