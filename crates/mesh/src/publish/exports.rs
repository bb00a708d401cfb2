//! ServiceExports joined with their Services (mesh-protocol 2.7, 6.5).

use std::collections::BTreeSet;

use causeway_model::{ClusterName, Collection, Event, ExportRequest, Service, ServiceExport, ServiceKey};

use crate::mcs;

/// An export is published while both objects exist.
#[derive(Debug)]
pub(super) struct ExportJoin {
    cluster: ClusterName,
    services: Collection<Service>,
    exports: Collection<ExportRequest>,
    started: bool,
}

impl ExportJoin {
    pub(super) fn new(cluster: ClusterName) -> Self {
        Self { cluster, services: Collection::new(), exports: Collection::new(), started: false }
    }

    pub(super) fn apply_service(&mut self, event: Event<Service>) -> Vec<Event<ServiceExport>> {
        let changed = self.services.apply(event).iter().map(|change| change.key().clone()).collect();
        self.emit(changed)
    }

    pub(super) fn apply_export(&mut self, event: Event<ExportRequest>) -> Vec<Event<ServiceExport>> {
        let changed = self.exports.apply(event).iter().map(|change| change.key().clone()).collect();
        self.emit(changed)
    }

    fn emit(&mut self, changed: BTreeSet<ServiceKey>) -> Vec<Event<ServiceExport>> {
        if self.started {
            return changed.into_iter().map(|key| self.event(key)).collect();
        }
        if !(self.services.is_synced() && self.exports.is_synced()) {
            return vec![];
        }
        self.started = true;
        let all: Vec<_> = self.exports.iter().map(|(key, _)| key.clone()).collect();
        let upserts = all.into_iter().map(|key| self.event(key));
        upserts.filter(|event| matches!(event, Event::Upsert(_))).chain([Event::Synced]).collect()
    }

    fn event(&self, key: ServiceKey) -> Event<ServiceExport> {
        let (Some(service), Some(export)) = (self.services.get(&key), self.exports.get(&key)) else {
            return Event::Remove((self.cluster.clone(), key));
        };
        Event::Upsert(mcs::export(self.cluster.clone(), service, export))
    }
}
