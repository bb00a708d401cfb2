//! What this cluster tells the others: its state as keys of the mesh protocol.
//!
//! [`Publisher`] is pure: events of this cluster in, writes out. [`run`] owns one, feeds it from the
//! Kubernetes watchers and keeps a store equal to what it wants, with leases, heartbeat, the cluster
//! configuration and the sync markers (mesh-protocol 3.10, 6).

mod etcd;
mod exports;
mod services;
mod sink;
mod sinks;
mod table;
mod task;

use causeway_kvstore::Pair;
use causeway_model::{
    ClusterConfig, ClusterInfo, ClusterService, EndpointSlice, Event, ExportRequest, Identity, IpEntry,
    Keyed, Node, Service, ServiceExport, ServiceKey,
};
use tracing::debug;

pub use etcd::EtcdSink;
pub use sink::{BATCH_BYTES, MAX_BATCH, Sink, SinkError};
pub use sinks::StoreSink;
pub use task::{Observer, Options, PublishStatus, Sources, run};

use crate::keys::{self, Kind, Layout};
use crate::wire::Entry;
use exports::ExportJoin;
use services::ServiceJoin;
use table::Table;

/// One write to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Set the key, a text, to the value; what is wanted and what is stored are one copy.
    Put(Pair),
    /// Remove the key.
    Delete {
        /// The key.
        key: String,
    },
}

impl Op {
    /// The key it writes.
    pub fn key(&self) -> &str {
        match self {
            Op::Put(pair) => text(pair),
            Op::Delete { key } => key,
        }
    }

    /// Bytes of key and value.
    fn size(&self) -> usize {
        match self {
            Op::Put(pair) => pair.size(),
            Op::Delete { key } => key.len(),
        }
    }
}

/// The key of a pair that was made here.
fn text(pair: &Pair) -> &str {
    std::str::from_utf8(pair.key()).expect("what is published has texts as keys")
}

/// The desired content of the store, kept by events and handed out as differences.
#[derive(Debug)]
pub struct Publisher {
    info: ClusterInfo,
    tables: [Table; 5],
    services: ServiceJoin,
    exports: ExportJoin,
    mcs: bool,
}

impl Publisher {
    /// A publisher of cluster `info`. `mcs`: service exports are watched too; when false their kind
    /// counts as synced from the start, since its marker is owed all the same (mesh-protocol 6.6).
    pub fn new(info: ClusterInfo, mcs: bool) -> Self {
        let mut tables = Kind::ALL.map(|kind| Table::new(keys::prefix(Layout::Native, kind, &info.name)));
        if !mcs {
            tables[index(Kind::ServiceExports)].synced();
        }
        Self {
            services: ServiceJoin::new(info.clone()),
            exports: ExportJoin::new(info.name.clone()),
            tables,
            info,
            mcs,
        }
    }

    /// The cluster it publishes.
    pub fn info(&self) -> &ClusterInfo {
        &self.info
    }

    /// What the cluster announces about itself.
    pub fn config(&self) -> ClusterConfig {
        ClusterConfig {
            id: self.info.id.get(),
            synced_canaries: true,
            cached: false,
            max_connected_clusters: self.info.max_clusters.max_id(),
            service_exports_enabled: Some(self.mcs),
        }
    }

    /// True once the sources of a kind have been listed completely.
    pub fn is_synced(&self, kind: Kind) -> bool {
        self.tables[index(kind)].is_synced()
    }

    /// Every key of a kind with its value, in key order.
    pub fn desired(&self, kind: Kind) -> impl Iterator<Item = &Pair> {
        self.tables[index(kind)].iter()
    }

    /// How many keys of a kind are wanted.
    pub fn count(&self, kind: Kind) -> usize {
        self.tables[index(kind)].len()
    }

    /// True if the key is wanted.
    pub fn wants(&self, kind: Kind, key: &str) -> bool {
        self.tables[index(kind)].contains(key)
    }

    /// A change of a node. Nodes of other clusters are ignored.
    pub fn apply_node(&mut self, event: Event<Node>) -> Vec<Op> {
        let own = self.info.name.clone();
        self.apply(
            Kind::Nodes,
            event,
            |node| (node.cluster == own).then_some(Entry::Node(node)),
            |k| k.name.clone(),
        )
    }

    /// A change of an identity. Numbers outside this cluster's range are never published: every
    /// reader refuses them, and node-local ones mean something else there (mesh-protocol 4).
    pub fn apply_identity(&mut self, event: Event<Identity>) -> Vec<Op> {
        let range = self.info.id.identities(self.info.max_clusters);
        let own = |identity: Identity| match range.contains(&identity.id) {
            true if !identity.labels.is_empty() => Some(Entry::Identity(identity)),
            _ => {
                debug!(identity = %identity.id, "not published: outside this cluster's range or without labels");
                None
            }
        };
        self.apply(Kind::Identities, event, own, |id| keys::identity_suffix(*id))
    }

    /// A change of an address.
    pub fn apply_address(&mut self, event: Event<IpEntry>) -> Vec<Op> {
        let range = self.info.id.identities(self.info.max_clusters);
        let own = |entry: IpEntry| match entry.identity.is_reserved() || range.contains(&entry.identity) {
            true => Some(Entry::Address(entry)),
            false => {
                debug!(address = %entry.prefix, identity = %entry.identity, "not published: a node-local identity");
                None
            }
        };
        self.apply(Kind::Ip, event, own, keys::address_suffix)
    }

    /// A change of a Service.
    pub fn apply_service(&mut self, event: Event<Service>) -> Vec<Op> {
        let mut ops = vec![];
        if self.mcs {
            let events = self.exports.apply_service(event.clone());
            ops.extend(self.apply_exports(events));
        }
        let events = self.services.apply_service(event);
        ops.extend(self.apply_services(events));
        ops
    }

    /// A change of an EndpointSlice.
    pub fn apply_slice(&mut self, event: Event<EndpointSlice>) -> Vec<Op> {
        let events = self.services.apply_slice(event);
        self.apply_services(events)
    }

    /// A change of a ServiceExport.
    pub fn apply_export(&mut self, event: Event<ExportRequest>) -> Vec<Op> {
        let events = self.exports.apply_export(event);
        self.apply_exports(events)
    }

    fn apply_services(&mut self, events: Vec<Event<ClusterService>>) -> Vec<Op> {
        let suffix = |key: &(_, ServiceKey)| keys::service_suffix(&key.1);
        let mut ops = vec![];
        for event in events {
            ops.extend(self.apply(Kind::Services, event, |service| Some(Entry::Service(service)), suffix));
        }
        ops
    }

    fn apply_exports(&mut self, events: Vec<Event<ServiceExport>>) -> Vec<Op> {
        let suffix = |key: &(_, ServiceKey)| keys::service_suffix(&key.1);
        let mut ops = vec![];
        for event in events {
            ops.extend(self.apply(Kind::ServiceExports, event, |export| Some(Entry::Export(export)), suffix));
        }
        ops
    }

    fn apply<T: Keyed>(
        &mut self,
        kind: Kind,
        event: Event<T>,
        entry: impl FnOnce(T) -> Option<Entry>,
        suffix: impl FnOnce(&T::Key) -> String,
    ) -> Vec<Op> {
        let table = &mut self.tables[index(kind)];
        match event {
            Event::Reset => {
                table.reset();
                vec![]
            }
            Event::Upsert(value) => {
                let key = value.key();
                match entry(value) {
                    Some(entry) => {
                        let (suffix, value) = entry.encode();
                        table.put(&suffix, value.as_ref()).into_iter().collect()
                    }
                    // What may not be published must not stay published either.
                    None => table.delete(&suffix(&key)).into_iter().collect(),
                }
            }
            Event::Remove(key) => table.delete(&suffix(&key)).into_iter().collect(),
            Event::Synced => table.synced(),
        }
    }
}

fn index(kind: Kind) -> usize {
    kind as usize
}

#[cfg(test)]
mod tests;
