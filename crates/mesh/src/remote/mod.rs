//! Reading the other clusters.
//!
//! [`Session`] is the state machine of one remote cluster: no socket, no clock, no task. The driver
//! owns one per remote and moves bytes; [`RemoteClusters`] owns the drivers and follows the
//! configuration directory. What was read comes out as [`RemoteEvent`]s, validated.

mod driver;
mod ids;
mod keep;
mod known;
mod kvstore;
mod manager;
mod messages;
mod session;
mod session_config;
mod session_data;
mod session_status;
mod status;
mod stream;
mod transport;

use std::time::Duration;

use causeway_model::{
    ClusterInfo, ClusterName, ClusterService, Event, Identity, IpEntry, Node, ServiceExport,
};
use ipnet::IpNet;

pub use ids::Ids;
pub use keep::{Intake, Keep};
pub use known::Known;
pub(crate) use known::{shown, suffix};
pub use kvstore::client_config;
pub use manager::RemoteClusters;
pub use messages::{Action, Body, Change, Input, LostReason, Output, StreamId};
pub use session::{Session, SessionOf};
pub use status::{ConfigStatus, RejectedStatus, RemoteStatus, SyncedStatus};

use crate::keys::Kind;

/// What to read and how patiently.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who we are.
    pub local: ClusterInfo,
    /// The kinds to read.
    pub kinds: Vec<Kind>,
    /// The protocol's timing.
    pub timing: Timing,
    /// How much of one cluster is accepted.
    pub limits: Limits,
    /// Prefixes of this node that no remote cluster may claim: its pods' and its own addresses.
    pub own_prefixes: Vec<IpNet>,
    /// After this long without a connection the services and exports of a cluster are withdrawn, not
    /// its nodes, identities and addresses. Zero: never.
    pub cache_ttl: Duration,
}

impl Options {
    /// What an agent reads: everything but service exports.
    pub fn agent(local: ClusterInfo) -> Self {
        let kinds = vec![Kind::Nodes, Kind::Services, Kind::Identities, Kind::Ip];
        Self {
            local,
            kinds,
            timing: Timing::default(),
            limits: Limits::default(),
            own_prefixes: vec![],
            cache_ttl: Duration::ZERO,
        }
    }
}

/// How much of one remote cluster is accepted. A cluster of Kubernetes' own limits (5,000 nodes,
/// 150,000 pods, 10,000 services) is far within the defaults; what goes beyond them is refused key by
/// key and counted, and read again when there is room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Nodes.
    pub nodes: usize,
    /// Global services.
    pub services: usize,
    /// Service exports.
    pub service_exports: usize,
    /// Identities; the range of a cluster has no more than 65,536.
    pub identities: usize,
    /// Addresses.
    pub addresses: usize,
    /// Bytes of the keys and values of all kinds together.
    pub bytes: u64,
}

impl Limits {
    /// Most keys of a kind.
    pub fn keys(&self, kind: Kind) -> usize {
        match kind {
            Kind::Nodes => self.nodes,
            Kind::Services => self.services,
            Kind::ServiceExports => self.service_exports,
            Kind::Identities => self.identities,
            Kind::Ip => self.addresses,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            nodes: 20_000,
            services: 65_536,
            service_exports: 65_536,
            identities: 65_536,
            addresses: 1_000_000,
            bytes: 512 << 20,
        }
    }
}

/// Time limits of a session (mesh-protocol 3.2, 3.5, 3.7).
#[derive(Debug, Clone)]
pub struct Timing {
    /// From the start of a connection to the first answer.
    pub connect: Duration,
    /// How long a missing cluster configuration is asked for before the connection is rebuilt.
    pub config: Duration,
    /// Longest gap between two heartbeats.
    pub heartbeat: Duration,
    /// Longest wait before connecting again.
    pub max_backoff: Duration,
    /// Keys per page of a list.
    pub page: i64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            config: Duration::from_secs(180),
            heartbeat: Duration::from_secs(120),
            max_backoff: Duration::from_secs(30),
            page: 256,
        }
    }
}

/// One change of what a remote cluster announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteEvent {
    /// The cluster.
    pub cluster: ClusterName,
    /// The change.
    pub change: RemoteChange,
}

/// The change itself. A kind begins with `Reset` and says `Synced` once its first listing is
/// complete; later listings (after a reconnection) come out as differences only. `Reset` directly
/// followed by `Synced` drops everything: the cluster changed its id, or its cache TTL ran out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoteChange {
    /// A node.
    Node(Event<Node>),
    /// An address.
    Address(Event<IpEntry>),
    /// An identity.
    Identity(Event<Identity>),
    /// A global service; never one with `shared` false.
    Service(Event<ClusterService>),
    /// A service export.
    Export(Event<ServiceExport>),
    /// The cluster is no longer configured: everything of it is gone.
    Removed,
}

#[cfg(test)]
mod bounds_tests;
#[cfg(test)]
mod driver_tests;
#[cfg(test)]
mod sim_tests;
