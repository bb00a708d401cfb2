//! What EndpointSlices and other clusters say, as claims, and the difference between two versions of it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use causeway_model::{
    BackendZone, ClusterName, ClusterService, EndpointSlice, Port, Ports, PortsByAddress, ServiceKey,
};

use crate::merge::backends::{Claim, Delta};
use crate::merge::selection::{Hint, Location};

/// Who names which backend, more and less, of each service.
pub(super) type Deltas = BTreeMap<ServiceKey, Vec<(IpAddr, Delta)>>;

/// What a slice says, as claims.
pub(super) fn of_slice(slice: &EndpointSlice, location: &Location) -> Vec<(IpAddr, Claim)> {
    // One name may come with several protocols or numbers, so that these are several sets.
    let mut sets: Vec<Ports> = vec![];
    for port in &slice.ports {
        let number = Port { protocol: port.protocol, port: port.port };
        match sets.iter_mut().find(|set| !set.contains_key(&port.name)) {
            Some(set) => drop(set.insert(port.name.clone(), number)),
            None => sets.push([(port.name.clone(), number)].into()),
        }
    }
    let sets: Vec<Arc<Ports>> = sets.into_iter().map(Arc::new).collect();
    let mut out = vec![];
    for endpoint in &slice.endpoints {
        let conditions = endpoint.conditions;
        let active = conditions.ready;
        let draining = conditions.serving && conditions.terminating;
        if !active && !draining {
            continue;
        }
        let here = endpoint.node.is_none() || endpoint.node == location.node;
        let hint = Hint::of(&endpoint.for_zones, location);
        for ip in &endpoint.addresses {
            for ports in &sets {
                let claim = Claim { cluster: None, active, here, hint, ports: ports.clone() };
                out.push((ip.to_canonical(), claim));
            }
        }
    }
    out
}

/// The difference between two versions of a slice.
pub(super) fn slice_deltas(
    before: Option<&EndpointSlice>,
    now: Option<&EndpointSlice>,
    location: &Location,
    out: &mut Deltas,
) {
    let claims = |slice: Option<&EndpointSlice>| {
        let mut claims = slice.map(|slice| of_slice(slice, location)).unwrap_or_default();
        claims.sort_unstable();
        claims
    };
    let (mut gone, mut new) = (claims(before), claims(now));
    if let (Some(before), Some(now)) = (before, now)
        && before.service == now.service
    {
        (gone, new) = (without(&gone, &new), without(&new, &gone));
    }
    if let Some(before) = before {
        let gone = gone.into_iter().map(|(ip, claim)| (ip, Delta::Remove(claim)));
        out.entry(before.service.clone()).or_default().extend(gone);
    }
    if let Some(now) = now {
        let new = new.into_iter().map(|(ip, claim)| (ip, Delta::Add(claim)));
        out.entry(now.service.clone()).or_default().extend(new);
    }
}

/// What of one sorted list is not in another, each as often as it is there more often.
fn without<T: Ord + Clone>(of: &[T], other: &[T]) -> Vec<T> {
    let mut other = other.iter().peekable();
    let mut out = vec![];
    for item in of {
        while other.next_if(|held| *held < item).is_some() {}
        if other.next_if(|held| *held == item).is_none() {
            out.push(item.clone());
        }
    }
    out
}

/// What another cluster shares, as claims.
pub(super) fn of_remote(
    cluster: &ClusterName,
    theirs: &ClusterService,
    location: &Location,
) -> Vec<(IpAddr, Claim)> {
    let claim = |(ip, ports)| (ip, remote_claim(cluster, ports, theirs.zones.get(&ip), location));
    theirs.backends.iter().map(claim).collect()
}

/// Other clusters do not say on which nodes their backends are.
fn remote_claim(
    cluster: &ClusterName,
    ports: &Arc<Ports>,
    zone: Option<&Arc<BackendZone>>,
    location: &Location,
) -> Claim {
    let hint = zone.map_or(Hint::None, |zone| Hint::of(&zone.for_zones, location));
    Claim { cluster: Some(cluster.clone()), active: true, here: false, hint, ports: ports.clone() }
}

/// The difference between two versions of what a cluster shares.
pub(super) fn remote_deltas(
    cluster: &ClusterName,
    before: Option<&ClusterService>,
    now: Option<&ClusterService>,
    location: &Location,
) -> Vec<(IpAddr, Delta)> {
    let (nothing, nowhere) = (PortsByAddress::default(), BTreeMap::new());
    let (before, zones_before) = before.map_or((&nothing, &nowhere), |s| (&s.backends, &s.zones));
    let (now, zones_now) = now.map_or((&nothing, &nowhere), |s| (&s.backends, &s.zones));
    let mut out = vec![];
    for (ip, before, now) in before.changes(now) {
        let claim = |ports, zones: &BTreeMap<_, _>| remote_claim(cluster, ports, zones.get(&ip), location);
        out.extend(before.map(|ports| (ip, Delta::Remove(claim(ports, zones_before)))));
        out.extend(now.map(|ports| (ip, Delta::Add(claim(ports, zones_now)))));
    }
    if zones_before == zones_now {
        return out;
    }
    // Those that listen as before, but are hinted for other zones.
    for (ip, ports) in now.iter().filter(|(ip, ports)| before.get(*ip) == Some(ports.as_ref())) {
        let claims =
            [zones_before, zones_now].map(|zones| remote_claim(cluster, ports, zones.get(&ip), location));
        let [before, now] = claims;
        if before != now {
            out.push((ip, Delta::Remove(before)));
            out.push((ip, Delta::Add(now)));
        }
    }
    out
}
