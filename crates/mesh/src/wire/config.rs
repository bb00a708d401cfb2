//! A cluster's announcement of itself: `cilium/cluster-config/<c>` (mesh-protocol 2.1).

use causeway_model::{ClusterConfig, ClusterId, ClusterName, MaxClusters};

use super::go::{self, go_struct};
use super::{Error, check_size};
use crate::keys::{self, Kind};

go_struct! {
    struct Wire {
        #[serde(skip_serializing_if = "is_zero")]
        id: u32 = "id",
        capabilities: Capabilities = "capabilities",
    }
}

go_struct! {
    struct Capabilities {
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        synced_canaries: bool = "syncedCanaries",
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        cached: bool = "cached",
        #[serde(skip_serializing_if = "is_zero")]
        max_connected_clusters: u32 = "maxConnectedClusters",
        // Three states: absent, false, true.
        #[serde(skip_serializing_if = "Option::is_none")]
        service_exports_enabled: Option<bool> = "serviceExportsEnabled",
    }
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// The kinds whose sync markers a cluster of this announcement owes once they are complete
/// (mesh-protocol 2.1, trap 6): service exports only from those that know of them.
pub fn marked_kinds(config: &ClusterConfig) -> Vec<Kind> {
    let owes = |kind: &Kind| *kind != Kind::ServiceExports || config.service_exports_enabled.is_some();
    Kind::ALL.into_iter().filter(|kind| config.synced_canaries && owes(kind)).collect()
}

/// Why a cluster of this announcement cannot be a peer (mesh-protocol 3.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unacceptable {
    /// Its id is none of a mesh of our size.
    Id(causeway_model::Error),
    /// Its mesh is of another size.
    MaxClusters,
    /// Its id is our own.
    OwnId,
}

/// Judges an announcement, for a cluster with the id `own` in a mesh of at most `max` clusters. Whether
/// another peer holds the id is not known here.
///
/// # Errors
/// [`Unacceptable`].
pub fn acceptable(
    config: &ClusterConfig,
    max: MaxClusters,
    own: Option<u32>,
) -> Result<ClusterId, Unacceptable> {
    let id = ClusterId::new(config.id, max).map_err(Unacceptable::Id)?;
    if max != MaxClusters::C255 && config.max_connected_clusters != max.max_id() {
        return Err(Unacceptable::MaxClusters);
    }
    if own == Some(config.id) { Err(Unacceptable::OwnId) } else { Ok(id) }
}

/// The value of a cluster configuration.
pub fn encode(config: &ClusterConfig) -> Vec<u8> {
    go::print(&Wire {
        id: config.id,
        capabilities: Capabilities {
            synced_canaries: config.synced_canaries,
            cached: config.cached,
            max_connected_clusters: config.max_connected_clusters,
            service_exports_enabled: config.service_exports_enabled,
        },
    })
}

/// Reads a cluster configuration; its id is not judged here.
///
/// # Errors
/// [`Error`] if the value is too long or not JSON of this shape.
pub fn decode(cluster: &ClusterName, value: &[u8]) -> Result<ClusterConfig, Error> {
    let wire = check_size(value).and_then(|()| go::parse::<Wire>(value));
    let wire = wire.map_err(|fault| fault.at(&keys::cluster_config(cluster)))?;
    Ok(ClusterConfig {
        id: wire.id,
        synced_canaries: wire.capabilities.synced_canaries,
        cached: wire.capabilities.cached,
        max_connected_clusters: wire.capabilities.max_connected_clusters,
        service_exports_enabled: wire.capabilities.service_exports_enabled,
    })
}
