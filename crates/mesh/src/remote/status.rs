//! What is known about a remote cluster, in the fields of Cilium's REST model (behaviours 8.1).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::wire::Reason;

/// One remote cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct RemoteStatus {
    /// Its name.
    pub name: String,
    /// The connection is up and the cluster's configuration was accepted.
    pub connected: bool,
    /// Connected, and everything has been listed.
    pub ready: bool,
    /// For people: what is being done, or what went wrong.
    pub status: String,
    /// Nodes known.
    pub num_nodes: usize,
    /// Addresses known.
    pub num_endpoints: usize,
    /// Identities known.
    pub num_identities: usize,
    /// Global services known.
    pub num_shared_services: usize,
    /// Service exports known.
    pub num_service_exports: usize,
    /// Connections that failed since the start.
    pub num_failures: u64,
    /// When the last one failed: RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
    /// Why the last one failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// What the peer's configuration file is like, if it cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_error: Option<String>,
    /// The peer's announcement.
    pub config: ConfigStatus,
    /// What has been listed completely.
    pub synced: SyncedStatus,
    /// What the peer sent and was refused.
    pub rejected: RejectedStatus,
    /// How often the cache TTL ran out, so that services and exports were withdrawn.
    pub num_cache_revocations: u64,
    /// Bytes of keys and values in force.
    pub num_bytes: u64,
}

/// The peer's announcement of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct ConfigStatus {
    /// Its id; 0 = not known.
    pub cluster_id: u32,
    /// Its data come through a cache.
    pub kvstoremesh: bool,
    /// An announcement is required.
    pub required: bool,
    /// It was read and accepted on the present connection.
    pub retrieved: bool,
    /// Absent: unknown to its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_exports_enabled: Option<bool>,
    /// It writes sync markers.
    pub sync_canaries: bool,
}

/// Which kinds have been listed completely at least once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct SyncedStatus {
    /// Nodes.
    pub nodes: bool,
    /// Addresses.
    pub endpoints: bool,
    /// Identities.
    pub identities: bool,
    /// Global services.
    pub services: bool,
    /// Service exports; absent if they are not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_exports: Option<bool>,
}

/// Refused keys, values and answers since the start; what was accepted before stays in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct RejectedStatus {
    /// How many.
    pub count: u64,
    /// How many of each reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub by_reason: BTreeMap<Reason, u64>,
    /// Why the last ones were, newest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub last_reasons: Vec<String>,
}

impl RejectedStatus {
    /// Reasons kept.
    const KEPT: usize = 5;

    pub(crate) fn add(&mut self, reason: Reason, text: String) {
        self.count += 1;
        *self.by_reason.entry(reason).or_default() += 1;
        self.last_reasons.retain(|known| *known != text);
        self.last_reasons.insert(0, text);
        self.last_reasons.truncate(Self::KEPT);
    }

    /// How many were refused for this reason.
    pub fn of(&self, reason: Reason) -> u64 {
        self.by_reason.get(&reason).copied().unwrap_or(0)
    }
}
