//! The backends of one service: who names which address, and which of them each port of the service
//! selects. What a change costs here depends on the addresses that it names, but for copying the list
//! it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use causeway_model::lb::{Backend, L4Addr};
use causeway_model::{ClusterName, Port, Ports, Service, ServiceKey, ServicePort, TrafficPolicy};

use super::reach::Reach;
use super::selection::{Census, Class, Grade, Hint, Location, Loss, Mode, Plan};

/// Somebody names an address as a backend: an EndpointSlice of this cluster, or another cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    /// The remote cluster; `None` = this one. Who sorts first has the address.
    pub(super) cluster: Option<ClusterName>,
    /// False: terminating, used only while nothing is active.
    pub(super) active: bool,
    /// On this node, or on none that is known.
    pub(super) here: bool,
    pub(super) hint: Hint,
    /// The ports it listens on.
    pub(super) ports: Arc<Ports>,
}

/// One claim more, or one less.
#[derive(Debug, Clone)]
pub(super) enum Delta {
    Add(Claim),
    Remove(Claim),
}

/// Which list of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ListId {
    /// The number of its port among the service's.
    pub(super) port: usize,
    /// Of IPv6 addresses.
    pub(super) v6: bool,
    pub(super) policy: TrafficPolicy,
}

/// The claims, and the lists that follow from them.
#[derive(Debug)]
pub(super) struct ServiceBackends {
    key: Arc<ServiceKey>,
    plan: Plan,
    addresses: BTreeMap<IpAddr, Address>,
    lists: BTreeMap<ListId, List>,
}

/// Who names an address, in their order. Two slices may claim the same, so they are counted.
#[derive(Debug, Clone, Default)]
struct Address {
    claims: Vec<Claim>,
    unreachable: bool,
}

#[derive(Debug, Default)]
struct List {
    census: Census,
    mode: Mode,
    /// Sorted by address.
    backends: Arc<[Backend]>,
}

/// What a list is of, and how it is chosen.
struct Choice<'a> {
    id: ListId,
    plan: &'a Plan,
    port: &'a ServicePort,
}

/// One port an address listens on, where its protocol is that of a port of the service.
#[derive(Debug)]
struct Offer<'a> {
    number: u16,
    cluster: Option<&'a ClusterName>,
    active: bool,
    here: bool,
    hint: Hint,
    fit: Fit,
}

/// Whether an offer is one for the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    Yes,
    /// It has another name.
    OtherName,
    /// Somebody who goes before names the same address and port.
    Taken,
}

/// A backend as `causeway service` tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) address: L4Addr,
    pub(super) cluster: Option<ClusterName>,
    pub(super) grade: Grade,
    pub(super) verdict: Verdict,
}

/// What became of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Takes new connections with this weight.
    Wins(u16),
    Loses(Loss),
    OtherName,
    Taken,
}

impl ServiceBackends {
    /// The lists of a service with these claims.
    pub(super) fn new(
        service: &Service,
        location: &Location,
        claims: impl IntoIterator<Item = (IpAddr, Claim)>,
        reach: &mut Reach,
    ) -> Self {
        let mut lists = BTreeMap::new();
        for port in 0..service.ports.len() {
            for policy in [service.internal_traffic, service.external_traffic] {
                lists.insert(ListId { port, v6: false, policy }, List::default());
                lists.insert(ListId { port, v6: true, policy }, List::default());
            }
        }
        let plan = Plan::of(service, location);
        let mut new = Self { key: Arc::new(service.key.clone()), plan, addresses: BTreeMap::new(), lists };
        let deltas = claims.into_iter().map(|(ip, claim)| (ip, Delta::Add(claim))).collect();
        new.change(service, deltas, reach);
        new
    }

    /// The service goes, or begins anew.
    pub(super) fn retire(self, reach: &mut Reach) {
        self.addresses.keys().for_each(|ip| reach.unused(*ip, &self.key));
    }

    /// Takes a change of claims; says which lists are others now. `service` is the one these are of.
    pub(super) fn change(
        &mut self,
        service: &Service,
        deltas: Vec<(IpAddr, Delta)>,
        reach: &mut Reach,
    ) -> BTreeSet<ListId> {
        let mut before: BTreeMap<IpAddr, Address> = BTreeMap::new();
        for (ip, delta) in deltas {
            let address = self
                .addresses
                .entry(ip)
                .or_insert_with(|| Address { claims: vec![], unreachable: reach.used(ip, &self.key) });
            before.entry(ip).or_insert_with(|| address.clone());
            match delta {
                Delta::Add(claim) => {
                    let at = address.claims.partition_point(|held| *held < claim);
                    address.claims.insert(at, claim);
                }
                Delta::Remove(claim) => {
                    if let Ok(at) = address.claims.binary_search(&claim) {
                        address.claims.remove(at);
                    }
                }
            }
            if address.claims.is_empty() {
                self.addresses.remove(&ip);
                reach.unused(ip, &self.key);
            }
        }
        self.follow(service, &before)
    }

    /// These addresses can be reached again, or no longer; says which lists are others now.
    pub(super) fn reached(&mut self, service: &Service, changed: &[(IpAddr, bool)]) -> BTreeSet<ListId> {
        let mut before = BTreeMap::new();
        for (ip, unreachable) in changed {
            if let Some(address) = self.addresses.get_mut(ip) {
                before.entry(*ip).or_insert_with(|| address.clone());
                address.unreachable = *unreachable;
            }
        }
        self.follow(service, &before)
    }

    fn follow(&mut self, service: &Service, before: &BTreeMap<IpAddr, Address>) -> BTreeSet<ListId> {
        let mut changed = BTreeSet::new();
        for (id, list) in &mut self.lists {
            let choice = Choice { id: *id, plan: &self.plan, port: &service.ports[id.port] };
            if list.change(&choice, before, &self.addresses) {
                changed.insert(*id);
            }
        }
        changed
    }

    /// The backends of a list, sorted by address. Those with the weight 0 take no new connections.
    pub(super) fn list(&self, id: ListId) -> Arc<[Backend]> {
        self.lists.get(&id).map(|list| list.backends.clone()).unwrap_or_default()
    }

    /// Everything that was looked at for a list, by address, and what became of it.
    pub(super) fn candidates(&self, service: &Service, id: ListId) -> Vec<Candidate> {
        let Some(list) = self.lists.get(&id) else { return vec![] };
        let choice = Choice { id, plan: &self.plan, port: &service.ports[id.port] };
        let mut out = vec![];
        for (ip, address) in self.addresses.iter().filter(|(ip, _)| ip.is_ipv6() == id.v6) {
            for offer in choice.offers(address) {
                let class = choice.class(&offer, address);
                let verdict = match offer.fit {
                    Fit::Taken => Verdict::Taken,
                    Fit::OtherName => Verdict::OtherName,
                    Fit::Yes => list.mode.judge(&class).map_or_else(Verdict::Loses, Verdict::Wins),
                };
                let address = L4Addr { ip: *ip, port: offer.number, protocol: choice.port.protocol };
                out.push(Candidate { address, cluster: class.cluster, grade: class.grade, verdict });
            }
        }
        out
    }

    /// How many backends a list has of each cluster and grade.
    pub(super) fn counts(&self) -> BTreeMap<(Option<ClusterName>, Grade), u32> {
        let mut most: BTreeMap<(Option<ClusterName>, Grade), u32> = BTreeMap::new();
        for policy in [TrafficPolicy::Cluster, TrafficPolicy::Local] {
            let ports = self.lists.keys().filter(|id| id.policy == policy).map(|id| id.port);
            for port in ports.collect::<BTreeSet<_>>() {
                let mut counts: BTreeMap<(Option<ClusterName>, Grade), u32> = BTreeMap::new();
                let families = [false, true].map(|v6| self.lists.get(&ListId { port, v6, policy }));
                for (class, count) in families.into_iter().flatten().flat_map(|list| list.census.iter()) {
                    *counts.entry((class.cluster.clone(), class.grade)).or_default() += count;
                }
                for (of, count) in counts {
                    let most = most.entry(of).or_default();
                    *most = (*most).max(count);
                }
            }
        }
        most
    }

    /// How many addresses it has.
    #[cfg(test)]
    pub(super) fn addresses(&self) -> usize {
        self.addresses.len()
    }

    /// How many addresses of this node are backends and active.
    pub(super) fn active_here(&self) -> usize {
        let here = |address: &&Address| {
            address.claims.first().is_some_and(|claim| claim.cluster.is_none() && claim.here && claim.active)
        };
        self.addresses.values().filter(here).count()
    }
}

impl Choice<'_> {
    /// What an address offers the port. A number that several clusters name belongs to the first one,
    /// and only its names count.
    fn offers<'a>(&self, address: &'a Address) -> Vec<Offer<'a>> {
        let port = self.port;
        let mut out: Vec<Offer<'a>> = vec![];
        for claim in &address.claims {
            let Claim { active, here, hint, .. } = *claim;
            let cluster = claim.cluster.as_ref();
            let fitting = claim.ports.iter().filter(|(_, p)| p.protocol == port.protocol && p.port != 0);
            for (name, Port { port: number, .. }) in fitting.map(|(name, port)| (name, *port)) {
                let named = port.name.is_empty() || name.is_empty() || *name == port.name;
                let fit = if named { Fit::Yes } else { Fit::OtherName };
                let offer = Offer { number, cluster, active, here, hint, fit };
                match out.iter_mut().find(|held| held.number == number) {
                    Some(held) if held.cluster != cluster => {
                        if !out.iter().any(|held| held.number == number && held.cluster == cluster) {
                            out.push(Offer { fit: Fit::Taken, ..offer });
                        }
                    }
                    Some(held) => {
                        held.active |= active;
                        held.here |= here;
                        held.hint = held.hint.min(hint);
                        if named {
                            held.fit = Fit::Yes;
                        }
                    }
                    None => out.push(offer),
                }
            }
        }
        out
    }

    fn class(&self, offer: &Offer<'_>, address: &Address) -> Class {
        let grade = Grade::of(offer.active, address.unreachable);
        self.plan.class(self.id.policy, grade, offer.cluster, offer.hint, offer.here)
    }

    /// The classes of what an address offers that fits.
    fn classes(&self, address: &Address) -> impl Iterator<Item = Class> {
        let fitting = self.offers(address).into_iter().filter(|offer| offer.fit == Fit::Yes);
        fitting.map(|offer| self.class(&offer, address)).collect::<Vec<_>>().into_iter()
    }

    /// The backends of an address, sorted. A traffic policy leaves out those it forbids; others that
    /// take no new connections keep those they have.
    fn backends(&self, ip: IpAddr, address: &Address, mode: &Mode) -> Vec<Backend> {
        let mut offers = self.offers(address);
        offers.retain(|offer| offer.fit == Fit::Yes);
        offers.sort_unstable_by_key(|offer| offer.number);
        let backend = |offer: &Offer<'_>| {
            let weight = match mode.judge(&self.class(offer, address)) {
                Ok(weight) => weight,
                Err(Loss::Node) => return None,
                Err(_) => 0,
            };
            let address = L4Addr { ip, port: offer.number, protocol: self.port.protocol };
            Some(Backend { weight, ..Backend::new(address, offer.cluster.cloned()) })
        };
        offers.iter().filter_map(backend).collect()
    }
}

impl List {
    /// Follows the addresses of `before`, which says what they were; true if the list changed.
    fn change(
        &mut self,
        choice: &Choice<'_>,
        before: &BTreeMap<IpAddr, Address>,
        now: &BTreeMap<IpAddr, Address>,
    ) -> bool {
        let none = Address::default();
        let of = |ip: &IpAddr| now.get(ip).unwrap_or(&none);
        let changed = before.iter().filter(|(ip, _)| ip.is_ipv6() == choice.id.v6);
        for (ip, before) in changed.clone() {
            choice.classes(before).for_each(|class| self.census.remove(&class));
            choice.classes(of(ip)).for_each(|class| self.census.add(class));
        }
        let mode = Mode::of(choice.plan, &self.census);
        if self.mode == mode {
            return self.splice(changed.map(|(ip, _)| (*ip, choice.backends(*ip, of(ip), &mode))));
        }
        let all = now.iter().filter(|(ip, _)| ip.is_ipv6() == choice.id.v6);
        let all: Arc<[Backend]> =
            all.flat_map(|(ip, address)| choice.backends(*ip, address, &mode)).collect();
        self.mode = mode;
        let changed = all != self.backends;
        self.backends = all;
        changed
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
