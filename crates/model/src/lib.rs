//! What a mesh is made of: types, invariants and the event vocabulary; no I/O, no async.
//!
//! Every other crate of Causeway speaks in these types. The wire formats (kvstore JSON, Kubernetes
//! objects, BPF map layouts) live where they are spoken and convert at the edge.

mod address;
mod cluster;
mod collection;
mod event;
mod export;
mod identity;
mod import;
mod labels;
pub mod lb;
pub mod mcs;
pub mod names;
mod node;
mod ports;
mod selector;
mod service;

pub use address::{EncryptKey, Endpoint, IpEntry, PodRef};
pub use cluster::{ClusterConfig, ClusterId, ClusterInfo, ClusterName, MaxClusters};
pub use collection::{Change, Collection};
pub use event::{Event, Keyed};
pub use export::{ExportPort, ExportRequest, ExportType, ServiceExport};
pub use identity::{Identity, NumericIdentity};
pub use import::{ImportPort, ServiceImport};
pub use labels::{
    CLUSTER_LABEL, Label, Labels, NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX, SERVICE_ACCOUNT_LABEL,
};
pub use node::{AddressType, Node, NodeAddress, NodeKey};
pub use ports::{Changes, Port, Ports, PortsByAddress, PortsChange};
pub use selector::{LabelSelector, Operator, Requirement};
pub use service::{
    Affinity, BackendZone, ClusterService, EndpointConditions, EndpointSlice, Exposure, Preference, Protocol,
    Service, ServiceKey, ServicePort, ServiceType, SessionAffinity, Sharing, SliceEndpoint, SliceKey,
    SlicePort, TrafficPolicy,
};

/// A value that breaks an invariant of the model; the text names the value and the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A cluster name that no member of a mesh may have.
    #[error("cluster name {name:?} is invalid: {rule}")]
    ClusterName {
        /// The refused name.
        name: String,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// A cluster id outside the range of the mesh.
    #[error("cluster id {id} is invalid: it must be between 1 and {max}")]
    ClusterId {
        /// The refused id.
        id: u32,
        /// The highest legal id.
        max: u32,
    },
    /// `max-connected-clusters` other than 255 or 511.
    #[error("max-connected-clusters {0} is invalid: it must be 255 or 511")]
    MaxClusters(u32),
    /// A protocol word other than TCP, UDP or SCTP.
    #[error("protocol {0:?} is unknown: it must be TCP, UDP or SCTP")]
    Protocol(String),
    /// A part of a label selector that is none.
    #[error("{0:?} is no label selector like a=b, a!=b, a in (b,c), a notin (b,c), a, !a, a>1 or a<1")]
    Selector(String),
}
