//! What the names of services mean: model events in, answers out. Pure; the cost of a change is the size of the change.
//!
//! Names follow Kubernetes' DNS-based service discovery (schema 1.1.0) for this cluster and its multi-cluster extension
//! (schema 1.0.0) for the cluster set.

mod answer;
mod endpoints;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use causeway_model::{Collection, EndpointSlice, Event, Service, ServiceImport, ServiceKey, SliceKey};

pub use answer::{Answer, Outcome};

use crate::Name;
use crate::wire::RecordType;

/// What a zone is made with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The domain of this cluster's services; `None` = they are not ours to answer.
    pub cluster_domain: Option<Name>,
    /// The domain of imported services; `None` = they are not ours to answer.
    pub clusterset_domain: Option<Name>,
    /// Name of this cluster: the source of endpoints that name none.
    pub cluster_name: String,
    /// How long answers may be kept, in seconds; those that say no, too.
    pub ttl: u32,
}

/// The names of services, as far as they are known.
#[derive(Debug)]
pub struct Zone {
    settings: Settings,
    services: Collection<Service>,
    slices: Collection<EndpointSlice>,
    imports: Collection<ServiceImport>,
    /// How many services and imports a namespace has: it has a name as long as something in it has.
    namespaces: BTreeMap<String, usize>,
    import_namespaces: BTreeMap<String, usize>,
    /// The slices of a service.
    of_service: BTreeMap<ServiceKey, BTreeSet<SliceKey>>,
    /// The slices that say which import they belong to.
    of_import: BTreeMap<ServiceKey, BTreeSet<SliceKey>>,
    /// What an address stands for.
    owners: BTreeMap<IpAddr, BTreeSet<Owner>>,
    serial: u32,
}

/// What has an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Service(ServiceKey),
    Import(ServiceKey),
    Slice(SliceKey),
}

impl Zone {
    /// Nothing is known: there are no answers until all three listings are complete.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            services: Collection::new(),
            slices: Collection::new(),
            imports: Collection::new(),
            namespaces: BTreeMap::new(),
            import_namespaces: BTreeMap::new(),
            of_service: BTreeMap::new(),
            of_import: BTreeMap::new(),
            owners: BTreeMap::new(),
            serial: 1,
        }
    }

    /// A change of a Service of this cluster.
    pub fn apply_service(&mut self, event: Event<Service>) {
        for change in self.services.apply(event) {
            let (key, before) = change.into_parts();
            let ips = |service: Option<&Service>| service.map(|s| s.cluster_ips.clone()).unwrap_or_default();
            let now = self.services.get(&key);
            count(&mut self.namespaces, &key.namespace, before.is_some(), now.is_some());
            let (old, new) = (ips(before.as_ref()), ips(now));
            self.own(&Owner::Service(key), &old, &new);
        }
    }

    /// A change of an EndpointSlice, of this cluster or mirrored from another.
    pub fn apply_slice(&mut self, event: Event<EndpointSlice>) {
        for change in self.slices.apply(event) {
            let (key, before) = change.into_parts();
            let addresses = |slice: Option<&EndpointSlice>| -> Vec<IpAddr> {
                slice.iter().flat_map(|s| &s.endpoints).flat_map(|e| e.addresses.iter().copied()).collect()
            };
            let now = self.slices.get(&key);
            let (old, new) = (addresses(before.as_ref()), addresses(now));
            let import = |slice: &EndpointSlice| {
                let name = slice.import.clone()?;
                Some(ServiceKey { namespace: slice.key.namespace.clone(), name })
            };
            let (was, is) = (before.as_ref().map(|s| &s.service), now.map(|s| &s.service));
            relate(&mut self.of_service, &key, was, is);
            let (was, is) = (before.as_ref().and_then(import), now.and_then(import));
            relate(&mut self.of_import, &key, was.as_ref(), is.as_ref());
            self.own(&Owner::Slice(key), &old, &new);
        }
    }

    /// A change of a ServiceImport.
    pub fn apply_import(&mut self, event: Event<ServiceImport>) {
        for change in self.imports.apply(event) {
            let (key, before) = change.into_parts();
            let ips = |import: Option<&ServiceImport>| import.map(|i| i.ips.clone()).unwrap_or_default();
            let now = self.imports.get(&key);
            count(&mut self.import_namespaces, &key.namespace, before.is_some(), now.is_some());
            let (old, new) = (ips(before.as_ref()), ips(now));
            self.own(&Owner::Import(key), &old, &new);
        }
    }

    /// Whether everything has been listed once: before that, what is not known may exist all the same.
    pub fn is_complete(&self) -> bool {
        self.services.is_synced() && self.slices.is_synced() && self.imports.is_synced()
    }

    /// The domain a name belongs to, of those that are ours.
    pub fn domain_of(&self, name: &Name) -> Option<&Name> {
        [&self.settings.cluster_domain, &self.settings.clusterset_domain]
            .into_iter()
            .flatten()
            .filter(|zone| name.is_in(zone))
            .max_by_key(|zone| zone.wire().len())
    }

    /// How many services, imports and slices are known.
    pub fn sizes(&self) -> [usize; 3] {
        [self.services.len(), self.imports.len(), self.slices.len()]
    }

    fn own(&mut self, owner: &Owner, old: &[IpAddr], new: &[IpAddr]) {
        // A serial number of 32 bits wraps (RFC 1982).
        self.serial = self.serial.wrapping_add(1);
        for gone in old.iter().filter(|ip| !new.contains(ip)) {
            if let Some(owners) = self.owners.get_mut(gone) {
                owners.remove(owner);
                if owners.is_empty() {
                    self.owners.remove(gone);
                }
            }
        }
        for ip in new.iter().filter(|ip| !old.contains(ip)) {
            self.owners.entry(*ip).or_default().insert(owner.clone());
        }
    }
}

/// A thing of a namespace came or went.
fn count(namespaces: &mut BTreeMap<String, usize>, namespace: &str, before: bool, now: bool) {
    match (before, now) {
        (false, true) => *namespaces.entry(namespace.to_owned()).or_default() += 1,
        (true, false) => {
            if let Some(count) = namespaces.get_mut(namespace) {
                *count -= 1;
                if *count == 0 {
                    namespaces.remove(namespace);
                }
            }
        }
        _ => {}
    }
}

/// A slice belongs to another service than before.
fn relate(
    all: &mut BTreeMap<ServiceKey, BTreeSet<SliceKey>>,
    slice: &SliceKey,
    was: Option<&ServiceKey>,
    is: Option<&ServiceKey>,
) {
    if was == is {
        return;
    }
    if let Some(slices) = was.and_then(|key| all.get_mut(key)) {
        slices.remove(slice);
    }
    if let Some(key) = was
        && all.get(key).is_some_and(BTreeSet::is_empty)
    {
        all.remove(key);
    }
    if let Some(key) = is {
        all.entry(key.clone()).or_default().insert(slice.clone());
    }
}

/// A zone that one task writes and many read; cheap to clone.
#[derive(Debug, Clone)]
pub struct SharedZone(Arc<RwLock<Zone>>);

impl SharedZone {
    /// Shares a zone.
    pub fn new(zone: Zone) -> Self {
        Self(Arc::new(RwLock::new(zone)))
    }

    /// Changes it, for instance with [`Zone::apply_service`].
    pub fn change(&self, change: impl FnOnce(&mut Zone)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Looks at it.
    pub fn look<T>(&self, look: impl FnOnce(&Zone) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The answer to a question.
    pub fn answer(&self, name: &Name, kind: RecordType) -> Answer {
        self.look(|zone| zone.answer(name, kind))
    }
}
