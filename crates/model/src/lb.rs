//! What the load balancer is told: a frontend address and the backends behind it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::{ClusterName, Keyed, PodRef, Protocol, ServiceKey};

/// Address, port and protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct L4Addr {
    /// The address.
    pub ip: IpAddr,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl fmt::Display for L4Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.ip, self.port), self.protocol)
    }
}

/// One backend of a frontend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    /// Where it listens.
    pub address: L4Addr,
    /// The remote cluster it runs in; `None` = this cluster.
    pub cluster: Option<ClusterName>,
    /// Its share of new connections, against the sum of all weights of its list. 0: it keeps the
    /// connections it has and gets no new ones (draining, or not preferred at the moment).
    pub weight: u16,
}

impl Backend {
    /// A backend with the usual weight of 1.
    pub const fn new(address: L4Addr, cluster: Option<ClusterName>) -> Self {
        Self { address, cluster, weight: 1 }
    }
}

/// What makes an address a frontend: it decides who may reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum FrontendKind {
    /// A virtual address for clients inside the cluster.
    #[default]
    ClusterIP,
    /// A port of every node of this cluster; the address is unspecified (`0.0.0.0`, `::`).
    NodePort,
    /// An address the cloud's load balancer gave; also reached from outside.
    LoadBalancer,
    /// One of `spec.externalIPs`; also reached from outside.
    ExternalIP,
    /// A port of this node that a pod asked for; the address is a node's, or unspecified.
    HostPort,
}

impl FrontendKind {
    /// True for addresses that clients outside the cluster may use.
    pub const fn is_external(self) -> bool {
        !matches!(self, Self::ClusterIP)
    }
}

/// How a backend is chosen for a new connection (`service.cilium.io/lb-algorithm`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Algorithm {
    /// At random, by weight.
    #[default]
    Random,
    /// By consistent hashing of the connection's addresses and ports (for clients outside).
    Maglev,
}

/// How packets from outside get to a backend on another node (`service.cilium.io/forwarding-mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Forwarding {
    /// With the node's address as source; replies come back through this node.
    #[default]
    Snat,
    /// With the client's address as source; the backend's node answers the client directly.
    Dsr,
}

/// How a service wants its connections balanced; `None` = as the node does by default.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Balancing {
    /// How long after its last use a client keeps its backend, seconds; 0 = every connection chooses.
    pub affinity_seconds: u32,
    /// How a backend is chosen.
    pub algorithm: Option<Algorithm>,
    /// How packets from outside get there.
    pub forwarding: Option<Forwarding>,
    /// Which clients from outside may use it; empty = all.
    pub source_ranges: Vec<IpNet>,
    /// The source ranges are those that may *not* (`service.cilium.io/src-ranges-policy: deny`).
    pub deny_source_ranges: bool,
}

/// A frontend with its backends, ready for the datapath. No backend with a weight: connections are
/// refused at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontend {
    /// What clients connect to.
    pub address: L4Addr,
    /// What it is to the service.
    pub kind: FrontendKind,
    /// The service it belongs to.
    pub service: ServiceKey,
    /// How connections are balanced; shared with the other addresses of the service.
    pub balancing: Arc<Balancing>,
    /// The backends to balance over, sorted; shared with the other addresses of the service.
    pub backends: Arc<[Backend]>,
    /// The backends for clients inside the cluster, where traffic policies make them others.
    pub internal: Option<Arc<[Backend]>>,
}

impl Frontend {
    /// A ClusterIP of a service, balanced by default.
    pub fn new(address: L4Addr, service: ServiceKey, backends: impl Into<Arc<[Backend]>>) -> Self {
        Self {
            address,
            kind: FrontendKind::ClusterIP,
            service,
            balancing: Arc::default(),
            backends: backends.into(),
            internal: None,
        }
    }
}

impl Keyed for Frontend {
    type Key = L4Addr;
    fn key(&self) -> L4Addr {
        self.address
    }
}

/// A port of this node that a pod asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// Where clients connect to; unspecified = every address of the node.
    pub address: L4Addr,
    /// Where the pod listens.
    pub backend: L4Addr,
}

/// The ports of this node that one of its pods asked for (`hostPort`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPorts {
    /// The pod.
    pub pod: PodRef,
    /// Its ports, sorted.
    pub ports: Vec<HostPort>,
}

impl HostPorts {
    /// What its frontends belong to: `NAME:host-port`, a name that no Service can have.
    pub fn owner(pod: &PodRef) -> ServiceKey {
        ServiceKey { namespace: pod.namespace.clone(), name: format!("{}:host-port", pod.name) }
    }
}

impl Keyed for HostPorts {
    type Key = ServiceKey;
    fn key(&self) -> ServiceKey {
        Self::owner(&self.pod)
    }
}
