//! Services: as this cluster's Kubernetes declares them, and as clusters share them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::lb::{Balancing, FrontendKind};
use crate::mcs::IpFamily;
use crate::{ClusterId, ClusterName, Error, Keyed, LabelSelector, PortsByAddress};

/// Namespace and name of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Kubernetes name.
    pub name: String,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A transport protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(clippy::upper_case_acronyms)]
pub enum Protocol {
    /// TCP, protocol number 6.
    TCP,
    /// UDP, protocol number 17.
    UDP,
    /// SCTP, protocol number 132.
    SCTP,
}

impl Protocol {
    /// The IANA protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::TCP => 6,
            Self::UDP => 17,
            Self::SCTP => 132,
        }
    }

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TCP => "TCP",
            Self::UDP => "UDP",
            Self::SCTP => "SCTP",
        }
    }
}

impl std::str::FromStr for Protocol {
    type Err = Error;
    fn from_str(word: &str) -> Result<Self, Error> {
        match word {
            "TCP" => Ok(Self::TCP),
            "UDP" => Ok(Self::UDP),
            "SCTP" => Ok(Self::SCTP),
            _ => Err(Error::Protocol(word.to_owned())),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which backends a global service prefers (`service.cilium.io/affinity`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Affinity {
    /// All backends alike.
    #[default]
    None,
    /// Those of this cluster while any is healthy.
    Local,
    /// Those of other clusters while any is healthy.
    Remote,
}

/// What a service's annotations say about the mesh (behaviours 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sharing {
    /// Uses the backends of other clusters.
    pub global: bool,
    /// Offers its backends to other clusters; never true unless global.
    pub shared: bool,
    /// Preference between local and remote backends.
    pub affinity: Affinity,
}

/// Which clusters a global service uses first, and how much each gets (`service.causeway.io/cluster-order`,
/// `/cluster-weights`). `None` in the place of a name is this cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Preference {
    /// The clusters in the order in which they are used; those not named come after them, all alike.
    /// Empty: by affinity.
    pub order: Vec<Option<ClusterName>>,
    /// The share of each cluster as a whole, against the sum of those in use. A cluster with 0, or not
    /// named, is used when no other has a healthy backend. Empty: every backend gets the same.
    pub weights: BTreeMap<Option<ClusterName>, u16>,
}

/// Which backends take connections (`externalTrafficPolicy`, `internalTrafficPolicy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum TrafficPolicy {
    /// Those of all nodes.
    #[default]
    Cluster,
    /// Those of the node that the connection comes to.
    Local,
}

/// Which kinds of addresses of a service are served (`service.cilium.io/type`); empty = all it has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exposure(pub Vec<FrontendKind>);

impl Exposure {
    /// True if addresses of this kind are served. External addresses go with those of the load balancer.
    pub fn has(&self, kind: FrontendKind) -> bool {
        let kind = if kind == FrontendKind::ExternalIP { FrontendKind::LoadBalancer } else { kind };
        self.0.is_empty() || self.0.contains(&kind)
    }
}

/// Kubernetes service types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServiceType {
    /// A virtual address inside the cluster.
    #[default]
    ClusterIP,
    /// Also a port on every node.
    NodePort,
    /// Also an address of the cloud.
    LoadBalancer,
    /// A DNS alias; no datapath.
    ExternalName,
}

/// `spec.sessionAffinity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SessionAffinity {
    /// Every connection chooses anew.
    #[default]
    None,
    /// A client keeps its backend for this many seconds after its last use.
    ClientIP {
        /// Seconds; `None` where Kubernetes did not set it (default 10800).
        timeout_seconds: Option<u32>,
    },
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty when unnamed.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The application protocol Kubernetes declares, if any.
    pub app_protocol: Option<String>,
    /// The port clients connect to.
    pub port: u16,
    /// The port on every node; 0 = none.
    pub node_port: u16,
}

/// A service of this cluster as Kubernetes declares it; its backends come as [`EndpointSlice`]s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub key: ServiceKey,
    /// Its type.
    pub kind: ServiceType,
    /// `spec.clusterIPs`; empty for headless services and before allocation.
    pub cluster_ips: Vec<IpAddr>,
    /// `clusterIP: None`, or the headless label is present.
    pub headless: bool,
    /// `spec.externalName` of services of that type.
    pub external_name: Option<String>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// Addresses the cloud gave (`status.loadBalancer.ingress[].ip`).
    pub load_balancer_ips: Vec<IpAddr>,
    /// The ports in Kubernetes' order.
    pub ports: Vec<ServicePort>,
    /// Session affinity.
    pub session_affinity: SessionAffinity,
    /// Labels of the Service.
    pub labels: BTreeMap<String, String>,
    /// `spec.selector`.
    pub selector: BTreeMap<String, String>,
    /// What its annotations say about the mesh.
    pub sharing: Sharing,
    /// Which clusters it uses first.
    pub preference: Preference,
    /// Which backends clients outside the cluster reach.
    pub external_traffic: TrafficPolicy,
    /// Which backends clients inside the cluster reach.
    pub internal_traffic: TrafficPolicy,
    /// Where every node tells load balancers how many backends it has itself; 0 = nowhere.
    pub health_check_node_port: u16,
    /// `spec.ipFamilies`, the first one first.
    pub families: Vec<IpFamily>,
    /// Clients should stay in their zone, as far as the endpoints have hints (`trafficDistribution`).
    pub prefer_zone: bool,
    /// `spec.trafficDistribution`; empty when not set.
    pub traffic_distribution: String,
    /// How its connections are balanced. The source ranges are those of its load balancer's addresses.
    pub balancing: Arc<Balancing>,
    /// Which kinds of its addresses are served.
    pub exposed: Exposure,
    /// Which nodes serve its external addresses, by their labels.
    pub nodes: LabelSelector,
    /// What its annotations and fields say that means nothing, a sentence each.
    pub warnings: Vec<String>,
}

impl Service {
    /// A ClusterIP service without addresses, ports and annotations.
    pub fn new(key: ServiceKey) -> Self {
        Self {
            key,
            kind: ServiceType::ClusterIP,
            cluster_ips: vec![],
            headless: false,
            external_name: None,
            external_ips: vec![],
            load_balancer_ips: vec![],
            ports: vec![],
            session_affinity: SessionAffinity::None,
            labels: BTreeMap::new(),
            selector: BTreeMap::new(),
            sharing: Sharing::default(),
            preference: Preference::default(),
            external_traffic: TrafficPolicy::Cluster,
            internal_traffic: TrafficPolicy::Cluster,
            health_check_node_port: 0,
            families: vec![],
            prefer_zone: false,
            traffic_distribution: String::new(),
            balancing: Arc::default(),
            exposed: Exposure::default(),
            nodes: LabelSelector::default(),
            warnings: vec![],
        }
    }
}

impl Keyed for Service {
    type Key = ServiceKey;
    fn key(&self) -> ServiceKey {
        self.key.clone()
    }
}

/// Namespace and name of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceKey {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Kubernetes name.
    pub name: String,
}

/// Conditions of one endpoint, with Kubernetes' defaults already applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointConditions {
    /// Takes new connections.
    pub ready: bool,
    /// Answers, perhaps while terminating.
    pub serving: bool,
    /// On its way out.
    pub terminating: bool,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its addresses; all stand for the same pod.
    pub addresses: Vec<IpAddr>,
    /// Its conditions.
    pub conditions: EndpointConditions,
    /// DNS host name; empty = none.
    pub hostname: String,
    /// The node it runs on, if known.
    pub node: Option<String>,
    /// Its zone, if known.
    pub zone: Option<String>,
    /// Zones that should use it (`hints.forZones`).
    pub for_zones: Vec<String>,
}

/// One port of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePort {
    /// The name of the service port it serves; empty when unnamed.
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The port the endpoints listen on.
    pub port: u16,
}

/// A Kubernetes EndpointSlice of addresses (types other than IPv4 and IPv6 never become one).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub key: SliceKey,
    /// The service it belongs to.
    pub service: ServiceKey,
    /// The endpoints.
    pub endpoints: Vec<SliceEndpoint>,
    /// The ports all endpoints serve.
    pub ports: Vec<SlicePort>,
    /// The cluster it comes from, where its label says so: the own one is not named.
    pub source_cluster: Option<String>,
    /// Name of the ServiceImport it belongs to, where its label says so.
    pub import: Option<String>,
}

impl Keyed for EndpointSlice {
    type Key = SliceKey;
    fn key(&self) -> SliceKey {
        self.key.clone()
    }
}

/// The zone of a backend of another cluster, and the zones that should use it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct BackendZone {
    /// Where it runs; empty = unknown.
    pub zone: String,
    /// Who should use it (`hints.forZones`).
    pub for_zones: Vec<String>,
}

/// A global service as one cluster shares it (mesh-protocol 2.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterService {
    /// The cluster that shares it.
    pub cluster: ClusterName,
    /// The id of that cluster.
    pub cluster_id: ClusterId,
    /// Namespace and name.
    pub key: ServiceKey,
    /// That cluster's ClusterIPs with the service ports; informative, never programmed here.
    pub frontends: PortsByAddress,
    /// Backend address to the ports it listens on.
    pub backends: PortsByAddress,
    /// Backend address to DNS host name.
    pub hostnames: BTreeMap<IpAddr, String>,
    /// Backend address to zone, of those with zone hints; backends with the same share it.
    pub zones: BTreeMap<IpAddr, Arc<BackendZone>>,
    /// Labels of the Service.
    pub labels: BTreeMap<String, String>,
    /// Selector of the Service.
    pub selector: BTreeMap<String, String>,
    /// False withdraws the service.
    pub shared: bool,
}

impl Keyed for ClusterService {
    type Key = (ClusterName, ServiceKey);
    fn key(&self) -> Self::Key {
        (self.cluster.clone(), self.key.clone())
    }
}
