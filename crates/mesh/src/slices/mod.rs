//! EndpointSlices of this cluster that hold the endpoints of others (behaviours 2.7): what headless global
//! services, their DNS names and controllers of third parties need.
//!
//! [`Slices`] is pure: events in, the (service, cluster) pairs that may have changed out, and for each pair
//! the slices it should have. What is really there, and making it so, is the operator's matter.

mod pack;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use causeway_model::mcs::{IpFamily, LocalService, MeshEndpoint, MeshSlice};
use causeway_model::names::{MESH_SLICE_MANAGER, SLICE_MANAGER, SLICE_SERVICE, SOURCE_CLUSTER};
use causeway_model::{
    ClusterName, ClusterService, Collection, Event, Keyed, Ports, ServiceKey, ServiceType, SlicePort,
};
use sha2::{Digest, Sha256};

use crate::mcs::base32hex;
use crate::valid;

/// Label of a headless Service's slices.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Most ports of a slice; Kubernetes refuses more.
const MAX_PORTS: usize = 100;

/// Most zones an endpoint is meant for; Kubernetes refuses more.
const MAX_HINTS: usize = 8;

/// A Service of this cluster and another cluster.
pub type Pair = (ServiceKey, ClusterName);

/// What is known of the Services here and what the other clusters share.
#[derive(Debug)]
pub struct Slices {
    limit: usize,
    services: Collection<LocalService>,
    remotes: BTreeMap<ClusterName, Collection<ClusterService>>,
}

impl Slices {
    /// Nothing is known. A slice has at most `limit` endpoints.
    pub fn new(limit: usize) -> Self {
        Self { limit, services: Collection::new(), remotes: BTreeMap::new() }
    }

    /// A change of a Service of this cluster.
    pub fn apply_service(&mut self, event: Event<LocalService>) -> BTreeSet<Pair> {
        let changed = self.services.apply(event);
        let keys = changed.iter().map(|change| change.key());
        keys.flat_map(|key| self.remotes.keys().map(|cluster| (key.clone(), cluster.clone()))).collect()
    }

    /// A change of what another cluster shares.
    pub fn apply_remote(&mut self, cluster: &ClusterName, event: Event<ClusterService>) -> BTreeSet<Pair> {
        let event = match event {
            Event::Upsert(service) if !service.shared => Event::Remove(service.key()),
            event => event,
        };
        let changed = self.remotes.entry(cluster.clone()).or_default().apply(event);
        changed.iter().map(|change| (change.key().1.clone(), cluster.clone())).collect()
    }

    /// Another cluster is no longer a peer.
    pub fn remove_cluster(&mut self, cluster: &ClusterName) -> BTreeSet<Pair> {
        let gone = self.remotes.remove(cluster).unwrap_or_default();
        gone.iter().map(|((_, key), _)| (key.clone(), cluster.clone())).collect()
    }

    /// True once this cluster's Services have been listed.
    pub fn is_local_synced(&self) -> bool {
        self.services.is_synced()
    }

    /// True once what the cluster shares has been listed.
    pub fn is_read(&self, cluster: &ClusterName) -> bool {
        self.remotes.get(cluster).is_some_and(Collection::is_synced)
    }

    /// Every pair that may have slices.
    pub fn pairs(&self) -> BTreeSet<Pair> {
        let shared = self.remotes.iter().flat_map(|(cluster, shared)| {
            shared.iter().map(move |((_, key), _)| (key.clone(), cluster.clone()))
        });
        shared.filter(|(key, _)| self.services.get(key).is_some()).collect()
    }

    /// The slices a Service should have of a cluster, in order of the names.
    pub fn desired(&self, (key, cluster): &Pair) -> Vec<MeshSlice> {
        let Some(service) = self.services.get(key).filter(|service| is_mirrored(service)) else {
            return vec![];
        };
        let shared = self.remotes.get(cluster).and_then(|shared| shared.get(&(cluster.clone(), key.clone())));
        let Some(shared) = shared else { return vec![] };
        let labels = labels(service, cluster);
        let mut groups: BTreeMap<(IpFamily, Arc<Ports>), Vec<IpAddr>> = BTreeMap::new();
        for (ip, ports) in shared.backends.iter() {
            let family = IpFamily::of(ip);
            let families = &service.service.families;
            if valid::endpoint(ip) && (families.is_empty() || families.contains(&family)) {
                groups.entry((family, ports.clone())).or_default().push(ip);
            }
        }
        let mut out: BTreeMap<String, MeshSlice> = BTreeMap::new();
        for ((family, ports), addresses) in groups {
            let ports = slice_ports(&ports);
            for (first, addresses) in pack::pack(addresses, self.limit, |ip| *ip) {
                let endpoint = |address| endpoint(shared, address);
                let name = slice_name(key, cluster, family, &ports, first);
                let slice = MeshSlice {
                    name: name.clone(),
                    service: key.clone(),
                    service_uid: service.uid.clone(),
                    cluster: cluster.clone(),
                    family,
                    labels: labels.clone(),
                    endpoints: addresses.into_iter().map(endpoint).collect(),
                    ports: ports.clone(),
                };
                out.insert(name, slice);
            }
        }
        out.into_values().collect()
    }
}

/// An endpoint with what is known of it. What is no host name or zone is left out.
fn endpoint(shared: &ClusterService, address: IpAddr) -> MeshEndpoint {
    let hostname = shared.hostnames.get(&address).filter(|name| valid::dns_label(name));
    let zone = shared.zones.get(&address);
    let mut for_zones: Vec<String> = vec![];
    for name in zone.into_iter().flat_map(|zone| &zone.for_zones) {
        if valid::name(name) && !for_zones.contains(name) && for_zones.len() < MAX_HINTS {
            for_zones.push(name.clone());
        }
    }
    MeshEndpoint {
        address,
        hostname: hostname.cloned().unwrap_or_default(),
        zone: zone.map(|zone| zone.zone.clone()).filter(|zone| valid::name(zone)).unwrap_or_default(),
        for_zones,
    }
}

/// Whether a Service gets the endpoints of others as slices: a global one that asks for it, and without a
/// word a headless one.
fn is_mirrored(of: &LocalService) -> bool {
    let service = &of.service;
    service.sharing.global
        && service.kind != ServiceType::ExternalName
        && of.sync_slices.unwrap_or(service.headless)
}

/// The labels of the Service, as every EndpointSlice has them, and those of the slice.
fn labels(of: &LocalService, cluster: &ClusterName) -> BTreeMap<String, String> {
    let mut labels = of.service.labels.clone();
    labels.remove(HEADLESS);
    if of.service.headless {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(SLICE_MANAGER.to_owned(), MESH_SLICE_MANAGER.to_owned());
    labels.insert(SLICE_SERVICE.to_owned(), of.service.key.name.clone());
    labels.insert(SOURCE_CLUSTER.to_owned(), cluster.to_string());
    labels
}

fn slice_ports(ports: &Ports) -> Vec<SlicePort> {
    let good = ports.iter().filter(|(name, port)| valid::port_name(name) && port.port != 0);
    let slice = |(name, port): (&String, &causeway_model::Port)| SlicePort {
        name: name.clone(),
        protocol: port.protocol,
        port: port.port,
    };
    good.take(MAX_PORTS).map(slice).collect()
}

/// `<service>-<cluster>-` and ten characters that stand for all the rest.
fn slice_name(
    key: &ServiceKey,
    cluster: &ClusterName,
    family: IpFamily,
    ports: &[SlicePort],
    first: u64,
) -> String {
    let mut hash = Sha256::new();
    // The parts cannot run into each other: none of them has a line break.
    hash.update(format!("{key}\n{cluster}\n{family}\n{first:016x}\n"));
    for SlicePort { name, protocol, port } in ports {
        hash.update(format!("{name}/{protocol}/{port}\n"));
    }
    format!("{}-{cluster}-{}", key.name, &base32hex(&hash.finalize())[..10])
}

#[cfg(test)]
mod tests;
