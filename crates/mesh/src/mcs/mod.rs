//! The multi-cluster services API (behaviours 2.9): what all clusters export, merged into what this one
//! imports.
//!
//! [`Imports`] is pure: events in, the names that may have changed out, and for each name everything the
//! operator wants of it: the ServiceImport, the derived Service behind it, and the conditions of this
//! cluster's own ServiceExport. [`merge`] is how exports of one name become one, and who wins.

mod desired;
pub mod merge;
mod names;

use std::collections::{BTreeMap, BTreeSet};

use causeway_model::mcs::{Imported, IpFamily, LocalService, Namespace};
use causeway_model::{
    Change, ClusterName, Collection, Event, ExportPort, ExportRequest, ExportType, Keyed, Service,
    ServiceExport, ServiceKey,
};

pub(crate) use names::base32hex;
pub use names::{GLOBAL, derived_name};

/// What a cluster tells the others of a Service that it exports.
pub fn export(cluster: ClusterName, service: &Service, request: &ExportRequest) -> ServiceExport {
    let ports = service.ports.iter().map(|port| ExportPort {
        name: port.name.clone(),
        protocol: port.protocol.as_str().to_owned(),
        app_protocol: port.app_protocol.clone().unwrap_or_default(),
        port: port.port,
    });
    ServiceExport {
        cluster,
        key: service.key.clone(),
        annotations: request.annotations.clone(),
        labels: request.labels.clone(),
        created: request.created.clone(),
        ports: ports.collect(),
        kind: if service.headless { ExportType::Headless } else { ExportType::ClusterSetIP },
        session_affinity: service.session_affinity,
        families: service.families.clone(),
        internal_traffic: service.internal_traffic,
        traffic_distribution: service.traffic_distribution.clone(),
    }
}

/// What is known of the exports of all clusters and of what is here.
#[derive(Debug)]
pub struct Imports {
    own: ClusterName,
    families: Vec<IpFamily>,
    services: Collection<LocalService>,
    exports: Collection<ExportRequest>,
    namespaces: Collection<Namespace>,
    remotes: BTreeMap<ClusterName, Collection<ServiceExport>>,
    /// Which clusters export a name, without this one.
    exporters: BTreeMap<ServiceKey, BTreeSet<ClusterName>>,
    /// The name each derived Service would stand for.
    derived: BTreeMap<ServiceKey, ServiceKey>,
    /// The other clusters there are.
    peers: BTreeSet<ClusterName>,
    /// Those of them that have been read though they export nothing: they do not know exports.
    without: BTreeSet<ClusterName>,
}

impl Imports {
    /// Nothing is known. `own` is this cluster, `families` what its pods have.
    pub fn new(own: ClusterName, families: Vec<IpFamily>) -> Self {
        Self {
            own,
            families,
            services: Collection::new(),
            exports: Collection::new(),
            namespaces: Collection::new(),
            remotes: BTreeMap::new(),
            exporters: BTreeMap::new(),
            derived: BTreeMap::new(),
            peers: BTreeSet::new(),
            without: BTreeSet::new(),
        }
    }

    /// A change of a Service of this cluster.
    pub fn apply_service(&mut self, event: Event<LocalService>) -> BTreeSet<ServiceKey> {
        let changed = keys(self.services.apply(event));
        // The Service itself may be exported; or it is the derived one of another name.
        let named = changed.iter().filter_map(|key| self.derived.get(key).cloned()).collect::<Vec<_>>();
        changed.into_iter().chain(named).collect()
    }

    /// A change of a ServiceExport of this cluster.
    pub fn apply_export(&mut self, event: Event<ExportRequest>) -> BTreeSet<ServiceKey> {
        let changed = keys(self.exports.apply(event));
        changed.iter().for_each(|key| self.note_derived(key));
        changed
    }

    /// A change of a namespace of this cluster.
    pub fn apply_namespace(&mut self, event: Event<Namespace>) -> BTreeSet<ServiceKey> {
        let changed: Vec<String> =
            self.namespaces.apply(event).iter().map(|change| change.key().clone()).collect();
        let within = changed.into_iter().flat_map(|namespace| {
            let first = ServiceKey { namespace: namespace.clone(), name: String::new() };
            let names = self.derived.range(first..).take_while(move |(key, _)| key.namespace == namespace);
            names.map(|(_, key)| key.clone())
        });
        within.collect()
    }

    /// A change of an export of another cluster.
    pub fn apply_remote(
        &mut self,
        cluster: &ClusterName,
        event: Event<ServiceExport>,
    ) -> BTreeSet<ServiceKey> {
        let remote = self.remotes.entry(cluster.clone()).or_default();
        let before = remote.is_synced();
        let changes = remote.apply(event);
        let first_read = !before && remote.is_synced();
        let mut changed = BTreeSet::new();
        for change in changes {
            let key = change.key().1.clone();
            self.note_exporter(cluster, &key, matches!(change, Change::Set(..)));
            changed.insert(key);
        }
        if first_read {
            // What was held until this cluster has been read may go on.
            changed.extend(self.names());
        }
        changed
    }

    /// Another cluster is no longer a peer: its exports are gone.
    pub fn remove_cluster(&mut self, cluster: &ClusterName) -> BTreeSet<ServiceKey> {
        self.peers.remove(cluster);
        self.without.remove(cluster);
        let gone = self.remotes.remove(cluster).unwrap_or_default();
        let gone: BTreeSet<ServiceKey> = gone.iter().map(|((_, key), _)| key.clone()).collect();
        gone.iter().for_each(|key| self.note_exporter(cluster, key, false));
        gone
    }

    /// Which other clusters there are, and which of those have been read but are of a version that
    /// exports nothing. True if that changed.
    pub fn set_peers(&mut self, peers: BTreeSet<ClusterName>, without: BTreeSet<ClusterName>) -> bool {
        let changed = (&self.peers, &self.without) != (&peers, &without);
        (self.peers, self.without) = (peers, without);
        changed
    }

    /// Whether what a cluster exports is known, or that it is no peer. Until then an import that has been
    /// made of its exports must be left as it is: a restart must not forget who cannot be asked.
    pub fn is_known(&self, cluster: &ClusterName) -> bool {
        *cluster == self.own
            || !self.peers.contains(cluster)
            || self.without.contains(cluster)
            || self.remotes.get(cluster).is_some_and(Collection::is_synced)
    }

    /// True once this cluster's Services, ServiceExports and namespaces have been listed.
    pub fn is_local_synced(&self) -> bool {
        self.services.is_synced() && self.exports.is_synced() && self.namespaces.is_synced()
    }

    /// Every name that some cluster exports.
    pub fn names(&self) -> BTreeSet<ServiceKey> {
        self.derived.values().cloned().collect()
    }

    /// What is wanted of a name.
    pub fn desired(&self, key: &ServiceKey) -> Imported {
        desired::desired(self, key)
    }

    fn note_exporter(&mut self, cluster: &ClusterName, key: &ServiceKey, exports: bool) {
        if exports {
            self.exporters.entry(key.clone()).or_default().insert(cluster.clone());
        } else if let Some(clusters) = self.exporters.get_mut(key) {
            clusters.remove(cluster);
            if clusters.is_empty() {
                self.exporters.remove(key);
            }
        }
        self.note_derived(key);
    }

    fn note_derived(&mut self, key: &ServiceKey) {
        let derived = ServiceKey { namespace: key.namespace.clone(), name: derived_name(key) };
        if self.exporters.contains_key(key) || self.exports.get(key).is_some() {
            self.derived.insert(derived, key.clone());
        } else {
            self.derived.remove(&derived);
        }
    }
}

fn keys<T: Keyed<Key = ServiceKey>>(changes: Vec<Change<T>>) -> BTreeSet<ServiceKey> {
    changes.into_iter().map(|change| change.into_parts().0).collect()
}

#[cfg(test)]
mod conformance_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;
