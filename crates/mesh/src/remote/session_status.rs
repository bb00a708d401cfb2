//! The status of a session, for people and for Cilium's REST model.

use std::time::Duration;

use super::keep::Keep;
use super::session::{Phase, SessionOf};
use super::{ConfigStatus, RemoteStatus, SyncedStatus};
use crate::keys::{self, Kind};

impl<K: Keep> SessionOf<K> {
    /// Status for people and the REST model. `wall` turns session time into RFC 3339.
    pub fn status(&self, wall: impl Fn(Duration) -> String) -> RemoteStatus {
        let connected = matches!(self.phase, Phase::Running { .. });
        let count = |kind| self.known.get(&kind).map_or(0, K::count);
        let synced = |kind| self.known.get(&kind).is_some_and(K::is_synced);
        let config = self.peer.as_ref().map(|(_, config)| config);
        let reads_exports = self.known.contains_key(&Kind::ServiceExports)
            && config.is_some_and(|config| config.service_exports_enabled.is_some());
        let wanted = |kind: &Kind| *kind != Kind::ServiceExports || reads_exports;
        let missing: Vec<&str> = self
            .known
            .keys()
            .filter(|kind| wanted(kind) && !synced(**kind))
            .map(|kind| kind.word())
            .collect();
        let error = self.last_failure.as_ref().map(|(_, text)| text.clone());
        let status = match self.phase {
            Phase::Running { .. } if missing.is_empty() => "ready".to_owned(),
            Phase::Running { .. } => format!("connected; waiting for {}", missing.join(", ")),
            Phase::Config { .. } => format!("connected; waiting for {}", keys::cluster_config(&self.name)),
            Phase::Connecting { .. } => match &error {
                Some(error) => format!("connecting again after: {error}"),
                None => "connecting".to_owned(),
            },
            Phase::Waiting { .. } => error.clone().unwrap_or_else(|| "not started".to_owned()),
        };
        RemoteStatus {
            name: self.name.to_string(),
            connected,
            ready: connected && missing.is_empty(),
            status,
            num_nodes: count(Kind::Nodes),
            num_endpoints: count(Kind::Ip),
            num_identities: count(Kind::Identities),
            num_shared_services: count(Kind::Services),
            num_service_exports: count(Kind::ServiceExports),
            num_failures: self.failures,
            last_failure: self.last_failure.as_ref().map(|(at, _)| wall(*at)),
            last_error: error,
            config_error: None,
            config: ConfigStatus {
                cluster_id: config.map_or(0, |config| config.id),
                kvstoremesh: config.is_some_and(|config| config.cached),
                required: true,
                retrieved: connected,
                service_exports_enabled: config.and_then(|config| config.service_exports_enabled),
                sync_canaries: config.is_some_and(|config| config.synced_canaries),
            },
            synced: SyncedStatus {
                nodes: synced(Kind::Nodes),
                endpoints: synced(Kind::Ip),
                identities: synced(Kind::Identities),
                services: synced(Kind::Services),
                service_exports: reads_exports.then(|| synced(Kind::ServiceExports)),
            },
            rejected: self.rejected.clone(),
            num_cache_revocations: self.cache_revocations,
            num_bytes: self.used,
        }
    }
}
