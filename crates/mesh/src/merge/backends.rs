//! The backends of one service: who names which address, and which of them each port of the service
//! selects. What a change costs here depends on the addresses that it names, but for copying the list
//! it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use causeway_model::lb::{Backend, L4Addr};
use causeway_model::{Affinity, ClusterName, Port, Ports, Service, ServicePort};

/// Somebody names an address as a backend: an EndpointSlice of this cluster, or another cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    /// The remote cluster; `None` = this one. Who sorts first has the address.
    pub(super) cluster: Option<ClusterName>,
    /// False: terminating, used only while nothing is active.
    pub(super) active: bool,
    /// The ports it listens on.
    pub(super) ports: Arc<Ports>,
}

/// One claim more, or one less.
#[derive(Debug, Clone)]
pub(super) enum Delta {
    Add(Claim),
    Remove(Claim),
}

/// Which list of a service: the number of its port among the service's, and whether it is of IPv6
/// addresses.
pub(super) type ListId = (usize, bool);

/// The claims, and the lists that follow from them.
#[derive(Debug, Default)]
pub(super) struct ServiceBackends {
    /// Of each address in their order. Two slices may claim the same, so they are counted.
    claims: BTreeMap<IpAddr, Vec<Claim>>,
    lists: BTreeMap<ListId, List>,
}

#[derive(Debug, Default)]
struct List {
    /// Active ones of this cluster that fit the port.
    local: usize,
    /// Those of other clusters that fit the port.
    remote: usize,
    mode: Mode,
    /// Sorted by address.
    backends: Arc<[Backend]>,
}

/// Which of the fitting backends are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Mode {
    local: bool,
    remote: bool,
    active: bool,
}

impl Mode {
    /// The affinity rule first, then active ones before terminating ones. `local`, `remote`: how many
    /// are active here and in other clusters.
    fn of(service: &Service, local: usize, remote: usize) -> Self {
        let (use_local, use_remote) = match service.sharing.affinity {
            _ if !service.sharing.global => (true, false),
            Affinity::None => (true, true),
            // Terminating local backends stay listed but do not hold back the failover.
            Affinity::Local => (true, local == 0),
            Affinity::Remote => (remote == 0, true),
        };
        let active = (use_local && local > 0) || (use_remote && remote > 0);
        Self { local: use_local, remote: use_remote, active }
    }

    fn uses(self, offer: &Offer<'_>) -> bool {
        let by_cluster = if offer.cluster.is_some() { self.remote } else { self.local };
        by_cluster && offer.active == self.active
    }
}

/// One port an address listens on, where it fits a port of the service.
#[derive(Debug)]
struct Offer<'a> {
    number: u16,
    cluster: Option<&'a ClusterName>,
    active: bool,
    /// Under a name that fits.
    named: bool,
}

impl ServiceBackends {
    /// The lists of a service with these claims.
    pub(super) fn new(service: &Service, claims: impl IntoIterator<Item = (IpAddr, Claim)>) -> Self {
        let mut new = Self::default();
        for id in 0..service.ports.len() {
            new.lists.insert((id, false), List::default());
            new.lists.insert((id, true), List::default());
        }
        let deltas = claims.into_iter().map(|(ip, claim)| (ip, Delta::Add(claim))).collect();
        new.change(service, deltas);
        new
    }

    /// Takes a change of claims; says which lists are others now. `service` is the one these are of.
    pub(super) fn change(&mut self, service: &Service, deltas: Vec<(IpAddr, Delta)>) -> BTreeSet<ListId> {
        let mut before: BTreeMap<IpAddr, Vec<Claim>> = BTreeMap::new();
        for (ip, delta) in deltas {
            let claims = self.claims.entry(ip).or_default();
            before.entry(ip).or_insert_with(|| claims.clone());
            match delta {
                Delta::Add(claim) => {
                    let at = claims.partition_point(|held| *held < claim);
                    claims.insert(at, claim);
                }
                Delta::Remove(claim) => {
                    if let Ok(at) = claims.binary_search(&claim) {
                        claims.remove(at);
                    }
                }
            }
            if claims.is_empty() {
                self.claims.remove(&ip);
            }
        }
        let mut changed = BTreeSet::new();
        for (id, list) in &mut self.lists {
            let port = &service.ports[id.0];
            if list.change(service, port, id.1, &before, &self.claims) {
                changed.insert(*id);
            }
        }
        changed
    }

    /// The backends of one port and family, sorted by address.
    pub(super) fn list(&self, id: ListId) -> Arc<[Backend]> {
        self.lists.get(&id).map(|list| list.backends.clone()).unwrap_or_default()
    }
}

impl List {
    /// Follows the addresses of `before`, which says what their claims were; true if the list changed.
    fn change(
        &mut self,
        service: &Service,
        port: &ServicePort,
        v6: bool,
        before: &BTreeMap<IpAddr, Vec<Claim>>,
        now: &BTreeMap<IpAddr, Vec<Claim>>,
    ) -> bool {
        let changed = before.iter().filter(|(ip, _)| ip.is_ipv6() == v6);
        for (ip, claims) in changed.clone() {
            let (local, remote) = count(&offers(claims, port));
            self.local -= local;
            self.remote -= remote;
            let (local, remote) = count(&offers(claims_of(now, ip), port));
            self.local += local;
            self.remote += remote;
        }
        let mode = Mode::of(service, self.local, self.remote);
        if std::mem::replace(&mut self.mode, mode) == mode {
            self.splice(changed.map(|(ip, _)| (*ip, used(*ip, claims_of(now, ip), port, mode))))
        } else {
            let all = now.iter().filter(|(ip, _)| ip.is_ipv6() == v6);
            let all: Arc<[Backend]> = all.flat_map(|(ip, claims)| used(*ip, claims, port, mode)).collect();
            let changed = all != self.backends;
            self.backends = all;
            changed
        }
    }

    /// Puts these in the place of what the list has of their addresses, which come in order.
    fn splice(&mut self, addresses: impl Iterator<Item = (IpAddr, Vec<Backend>)>) -> bool {
        let old = self.backends.clone();
        let (mut new, mut copied, mut changed) = (Vec::new(), 0, false);
        for (ip, backends) in addresses {
            let start = copied + old[copied..].partition_point(|held| held.address.ip < ip);
            let end = start + old[start..].iter().take_while(|held| held.address.ip == ip).count();
            if old[start..end] == backends[..] {
                continue;
            }
            if !changed {
                new.reserve_exact(old.len() + backends.len());
            }
            changed = true;
            new.extend_from_slice(&old[copied..start]);
            new.extend(backends);
            copied = end;
        }
        if changed {
            new.extend_from_slice(&old[copied..]);
            self.backends = new.into();
        }
        changed
    }
}

fn claims_of<'a>(claims: &'a BTreeMap<IpAddr, Vec<Claim>>, ip: &IpAddr) -> &'a [Claim] {
    claims.get(ip).map_or(&[], Vec::as_slice)
}

/// What an address offers a port of the service. A number that several clusters name belongs to the
/// first one, and only its names count.
fn offers<'a>(claims: &'a [Claim], port: &ServicePort) -> Vec<Offer<'a>> {
    let mut out: Vec<Offer<'a>> = vec![];
    for claim in claims {
        let fitting = claim.ports.iter().filter(|(_, p)| p.protocol == port.protocol && p.port != 0);
        for (name, Port { port: number, .. }) in fitting.map(|(name, port)| (name, *port)) {
            let named = port.name.is_empty() || name.is_empty() || *name == port.name;
            match out.iter_mut().find(|offer| offer.number == number) {
                Some(offer) if offer.cluster != claim.cluster.as_ref() => {}
                Some(offer) => {
                    offer.active |= claim.active;
                    offer.named |= named;
                }
                None => {
                    out.push(Offer { number, cluster: claim.cluster.as_ref(), active: claim.active, named })
                }
            }
        }
    }
    out.retain(|offer| offer.named);
    out
}

/// How many are active here, and in other clusters.
fn count(offers: &[Offer<'_>]) -> (usize, usize) {
    let local = offers.iter().filter(|offer| offer.cluster.is_none() && offer.active).count();
    (local, offers.iter().filter(|offer| offer.cluster.is_some()).count())
}

/// The backends of an address that are used, sorted.
fn used(ip: IpAddr, claims: &[Claim], port: &ServicePort, mode: Mode) -> Vec<Backend> {
    let mut offers = offers(claims, port);
    offers.retain(|offer| mode.uses(offer));
    offers.sort_unstable_by_key(|offer| offer.number);
    let address = |number| L4Addr { ip, port: number, protocol: port.protocol };
    let backend = |offer: Offer<'_>| Backend::new(address(offer.number), offer.cluster.cloned());
    offers.into_iter().map(backend).collect()
}
