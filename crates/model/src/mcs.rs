//! What the operator decides about: Services of this cluster with what only it needs, and the objects it
//! wants in Kubernetes (behaviours 2.7, 2.9).

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use crate::{
    ClusterName, ExportPort, ExportType, Keyed, Protocol, Service, ServiceKey, SessionAffinity, SlicePort,
    TrafficPolicy,
};

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpFamily {
    /// The family of an address.
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The word Kubernetes has for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The family of Kubernetes' word; `None` for others.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::V4, Self::V6].into_iter().find(|family| family.as_str() == word)
    }
}

impl fmt::Display for IpFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A Service of this cluster with what the operator needs beyond the datapath.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalService {
    /// The Service.
    pub service: Service,
    /// Its uid, for owner references.
    pub uid: String,
    /// `service.cilium.io/global-sync-endpoint-slices`; `None` where it is not set.
    pub sync_slices: Option<bool>,
    /// `targetPort` of the service ports that have one.
    pub targets: BTreeMap<(u16, Protocol), TargetPort>,
    /// The ServiceImport that owns it: it is a derived Service.
    pub import: Option<String>,
}

impl Keyed for LocalService {
    type Key = ServiceKey;
    fn key(&self) -> ServiceKey {
        self.service.key.clone()
    }
}

/// `targetPort` of a service port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// The name of a container port.
    Name(String),
}

/// A namespace of this cluster that is not being deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
}

impl Keyed for Namespace {
    type Key = String;
    fn key(&self) -> String {
        self.name.clone()
    }
}

/// An EndpointSlice that holds endpoints of another cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshSlice {
    /// Its name; the namespace is the Service's.
    pub name: String,
    /// The Service of this cluster it belongs to.
    pub service: ServiceKey,
    /// Uid of that Service: the slice goes when that goes.
    pub service_uid: String,
    /// The cluster the endpoints are in.
    pub cluster: ClusterName,
    /// Family of all its addresses.
    pub family: IpFamily,
    /// All its labels.
    pub labels: BTreeMap<String, String>,
    /// Its endpoints in the order of their addresses.
    pub endpoints: Vec<MeshEndpoint>,
    /// The ports all of them serve, in the order of the names.
    pub ports: Vec<SlicePort>,
}

/// One endpoint of a [`MeshSlice`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshEndpoint {
    /// Its address.
    pub address: IpAddr,
    /// Its DNS host name; empty = none.
    pub hostname: String,
    /// Its zone; empty = not known.
    pub zone: String,
    /// Zones that should use it.
    pub for_zones: Vec<String>,
}

/// A condition of a ServiceExport or ServiceImport; the time of its last change is kept by who writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// `Valid`, `Ready` or `Conflict`.
    pub kind: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// The reason, one word.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// What one exported name is in this cluster: everything the operator wants of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Imported {
    /// The ServiceImport; `None` = there must be none.
    pub import: Option<Import>,
    /// The derived Service; `None` without an import, or while it cannot be.
    pub derived: Option<DerivedService>,
    /// Conditions of this cluster's ServiceExport; `None` = there is no such object. A kind that is
    /// missing must not be there.
    pub export: Option<Vec<Condition>>,
}

/// A ServiceImport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// Namespace and name.
    pub key: ServiceKey,
    /// All its labels.
    pub labels: BTreeMap<String, String>,
    /// All its annotations.
    pub annotations: BTreeMap<String, String>,
    /// How it is offered.
    pub kind: ExportType,
    /// Its ports.
    pub ports: Vec<ExportPort>,
    /// Addresses of the derived Service.
    pub ips: Vec<IpAddr>,
    /// Session affinity.
    pub session_affinity: SessionAffinity,
    /// Families all exporting clusters have; empty where none of them says.
    pub families: Vec<IpFamily>,
    /// Which backends clients inside a cluster reach.
    pub internal_traffic: TrafficPolicy,
    /// Traffic distribution; empty = not set.
    pub traffic_distribution: String,
    /// The exporting clusters, in order of the names.
    pub clusters: Vec<ClusterName>,
    /// Condition `Ready`.
    pub ready: Condition,
}

/// The Service behind a ServiceImport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DerivedService {
    /// Namespace and name.
    pub key: ServiceKey,
    /// All its labels.
    pub labels: BTreeMap<String, String>,
    /// All its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Without ClusterIP.
    pub headless: bool,
    /// Its ports with the target ports of this cluster's own exported Service.
    pub ports: Vec<(ExportPort, Option<TargetPort>)>,
    /// Selector of this cluster's own exported Service; empty when there is none.
    pub selector: BTreeMap<String, String>,
    /// Session affinity.
    pub session_affinity: SessionAffinity,
    /// Families it must have; never empty.
    pub families: Vec<IpFamily>,
    /// Which backends clients inside a cluster reach.
    pub internal_traffic: TrafficPolicy,
    /// Traffic distribution; empty = not set.
    pub traffic_distribution: String,
}
