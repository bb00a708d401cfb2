//! The peer's configuration: read before any data, judged, and what follows from it.

use std::time::Duration;

use causeway_model::{ClusterConfig, ClusterInfo};
use tracing::{info, warn};

use super::Ids;
use super::keep::Keep;
use super::messages::StreamId;
use super::session::{Output, Phase, SessionOf};
use super::stream::Stream;
use crate::keys::{self, Kind, Layout};
use crate::wire::config::Unacceptable;
use crate::wire::{Reason, config};

impl<K: Keep> SessionOf<K> {
    pub(super) fn config_read(
        &mut self,
        now: Duration,
        value: Option<Vec<u8>>,
        ids: &mut Ids,
        out: &mut Output<K>,
    ) {
        let Phase::Config { since, attempts, .. } = self.phase else { return };
        let Some(value) = value else {
            let attempts = attempts + 1;
            let wait = Duration::from_secs(u64::from(attempts).min(30));
            self.phase = Phase::Config { since, attempts, ask_at: Some(now + wait) };
            return;
        };
        let accepted = config::decode(&self.name, &value)
            .map_err(|error| (error.reason, error.to_string()))
            .and_then(|config| self.accept(config, ids, out));
        if let Err((reason, text)) = accepted {
            return self.violation(now, reason, text, out);
        }
        self.running(now);
        self.start_kinds(out);
    }

    /// Starts what the peer has, where it has it: at once, or as its markers appear.
    fn start_kinds(&mut self, out: &mut Output<K>) {
        let Some((peer, config)) = &self.peer else { return };
        info!(cluster = %self.name, id = %peer.id, cached = config.cached, "connected to a remote cluster");
        let layout = Layout::of(config);
        let (canaries, exports) = (config.synced_canaries, config.service_exports_enabled.is_some());
        if let Some(known) = self.known.get_mut(&Kind::ServiceExports)
            && !exports
            && (known.is_synced() || known.count() > 0)
        {
            // It had them once and is of an older version now.
            out.events.extend(known.drop_all(&mut self.used));
        }
        let kinds = self.options.kinds.iter().filter(|kind| **kind != Kind::ServiceExports || exports);
        for kind in kinds.copied().collect::<Vec<_>>() {
            let (id, prefix) = (StreamId::Data(kind), keys::prefix(layout, kind, &self.name));
            if canaries {
                self.streams.insert(id, Stream::new(id, prefix, self.options.timing.page));
            } else {
                self.start_named(id, prefix, out);
            }
        }
        if canaries {
            self.start_named(StreamId::Markers, keys::marker_prefix(&self.name), out);
        }
        self.start_named(StreamId::Config, keys::cluster_config(&self.name), out);
    }

    /// The configuration as the peer has it now. What was listed under another one must not be mixed with
    /// what follows, so it is judged on a new connection.
    pub(super) fn config_seen(&mut self, now: Duration, value: &[u8], out: &mut Output<K>) {
        let Phase::Running { since } = self.phase else { return };
        let Some((_, accepted)) = &self.peer else { return };
        if config::decode(&self.name, value).is_ok_and(|config| config == *accepted) {
            return;
        }
        info!(cluster = %self.name, "a remote cluster changed its configuration; connecting again");
        self.reconnect(now, since, out);
    }

    /// The checks of mesh-protocol 3.3. A refused configuration changes nothing, unless it tells that the
    /// peer has given up the id it had.
    fn accept(
        &mut self,
        config: ClusterConfig,
        ids: &mut Ids,
        out: &mut Output<K>,
    ) -> Result<(), (Reason, String)> {
        let local = &self.options.local;
        let max = local.max_clusters;
        let refusal = |why| match why {
            Unacceptable::Id(error) => (Reason::BadConfig, format!("announced {error}")),
            Unacceptable::MaxClusters => (
                Reason::BadConfig,
                format!(
                    "it announces max-connected-clusters {}, this cluster has {}: all members need the same",
                    config.max_connected_clusters,
                    max.max_id()
                ),
            ),
            Unacceptable::OwnId => (
                Reason::IdConflict,
                format!(
                    "it announces cluster id {}, which is this cluster's own: give one of them another",
                    config.id
                ),
            ),
        };
        let id = config::acceptable(&config, max, Some(local.id.get())).map_err(refusal)?;
        if let Some((before, _)) = self.peer.take_if(|(before, _)| before.id != id) {
            // First, whatever becomes of the new one: what was known is of an id that it no longer has, and
            // two clusters that exchange their ids would wait for each other for ever.
            warn!(cluster = %self.name, before = %before.id, now = %id, "a remote cluster changed its id; dropping its state");
            let used = &mut self.used;
            out.events.extend(self.known.values_mut().flat_map(|known| known.drop_all(used)));
            ids.release(before.id, &self.name);
        }
        ids.reserve(id, &self.name).map_err(|holder| {
            let text = format!(
                "it announces cluster id {id}, which cluster {holder} holds already: give one of them another"
            );
            (Reason::IdConflict, text)
        })?;
        let peer = ClusterInfo { name: self.name.clone(), id, max_clusters: max };
        out.events.extend(K::accepted(&peer, &config));
        self.peer = Some((peer, config));
        Ok(())
    }
}
