//! Service and EndpointSlices joined into what the cluster shares (mesh-protocol 6.3, 6.4).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use causeway_model::{
    BackendZone, ClusterInfo, ClusterService, Collection, EndpointSlice, Event, Port, Ports, Service,
    ServiceKey, ServiceType, SliceKey,
};

/// Joins the two listings. Nothing comes out before both are complete: a store that still holds an
/// earlier process' values must not see them shrink in between.
#[derive(Debug)]
pub(super) struct ServiceJoin {
    info: ClusterInfo,
    services: Collection<Service>,
    slices: Collection<EndpointSlice>,
    slices_of: BTreeMap<ServiceKey, BTreeSet<SliceKey>>,
    started: bool,
}

impl ServiceJoin {
    pub(super) fn new(info: ClusterInfo) -> Self {
        Self {
            info,
            services: Collection::new(),
            slices: Collection::new(),
            slices_of: BTreeMap::new(),
            started: false,
        }
    }

    pub(super) fn apply_service(&mut self, event: Event<Service>) -> Vec<Event<ClusterService>> {
        let changed = self.services.apply(event).iter().map(|change| change.key().clone()).collect();
        self.emit(changed)
    }

    pub(super) fn apply_slice(&mut self, event: Event<EndpointSlice>) -> Vec<Event<ClusterService>> {
        let mut changed = BTreeSet::new();
        for change in self.slices.apply(event) {
            let (key, before) = change.into_parts();
            if let Some(before) = before {
                if let Some(keys) = self.slices_of.get_mut(&before.service) {
                    keys.remove(&key);
                    if keys.is_empty() {
                        self.slices_of.remove(&before.service);
                    }
                }
                changed.insert(before.service);
            }
            if let Some(now) = self.slices.get(&key) {
                self.slices_of.entry(now.service.clone()).or_default().insert(key);
                changed.insert(now.service.clone());
            }
        }
        self.emit(changed)
    }

    fn emit(&mut self, changed: BTreeSet<ServiceKey>) -> Vec<Event<ClusterService>> {
        if self.started {
            return changed.into_iter().map(|key| self.event(key)).collect();
        }
        if !(self.services.is_synced() && self.slices.is_synced()) {
            return vec![];
        }
        self.started = true;
        let all: Vec<_> = self.services.iter().map(|(key, _)| key.clone()).collect();
        let upserts = all.into_iter().map(|key| self.event(key));
        upserts.filter(|event| matches!(event, Event::Upsert(_))).chain([Event::Synced]).collect()
    }

    fn event(&self, key: ServiceKey) -> Event<ClusterService> {
        match self.services.get(&key).and_then(|service| self.join(service)) {
            Some(shared) => Event::Upsert(shared),
            None => Event::Remove((self.info.name.clone(), key)),
        }
    }

    /// `None` for a service that is not shared, or that no reader would accept: an ExternalName, or
    /// one whose ClusterIP is not allocated yet (trap 17).
    fn join(&self, service: &Service) -> Option<ClusterService> {
        if !(service.sharing.global && service.sharing.shared) || service.kind == ServiceType::ExternalName {
            return None;
        }
        let mut frontends = vec![];
        if !service.headless {
            let named = service.ports.iter();
            let ports: Arc<Ports> = Arc::new(
                named.map(|p| (p.name.clone(), Port { protocol: p.protocol, port: p.port })).collect(),
            );
            frontends.extend(service.cluster_ips.iter().map(|ip| (*ip, ports.clone())));
            if frontends.is_empty() {
                return None;
            }
        }
        let mut backends = vec![];
        let (mut hostnames, mut zones) = (BTreeMap::new(), BTreeMap::new());
        let slices = self.slices_of.get(&service.key).into_iter().flatten();
        for slice in slices.filter_map(|key| self.slices.get(key)) {
            let named = slice.ports.iter();
            let ports: Arc<Ports> = Arc::new(
                named.map(|p| (p.name.clone(), Port { protocol: p.protocol, port: p.port })).collect(),
            );
            for endpoint in slice.endpoints.iter().filter(|e| e.conditions.ready || e.conditions.serving) {
                for ip in &endpoint.addresses {
                    // An address in several slices takes the ports of the last one (slice names in order).
                    backends.push((*ip, ports.clone()));
                    if !endpoint.hostname.is_empty() {
                        hostnames.insert(*ip, endpoint.hostname.clone());
                    }
                    if !endpoint.for_zones.is_empty() {
                        let zone = endpoint.zone.clone().unwrap_or_default();
                        let zone = BackendZone { zone, for_zones: endpoint.for_zones.clone() };
                        zones.insert(*ip, Arc::new(zone));
                    }
                }
            }
        }
        Some(ClusterService {
            cluster: self.info.name.clone(),
            cluster_id: self.info.id,
            key: service.key.clone(),
            frontends: frontends.into_iter().collect(),
            backends: backends.into_iter().collect(),
            hostnames,
            zones,
            labels: service.labels.clone(),
            selector: service.selector.clone(),
            shared: true,
        })
    }
}
