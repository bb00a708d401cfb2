//! What a frontend is in the kernel: one list of backends or two, each with its slots and, where not
//! all slots count alike, a lookup table.

use causeway_model::lb::{self, Algorithm, Backend, Forwarding};
use ipnet::IpNet;

use crate::Balance;
use crate::maglev::MAX_BACKENDS;
use crate::maps::lb::{DENY_RANGES, DSR, L4, MAGLEV, SOURCE_RANGES, TWO_SCOPES, kind_number};

/// One list of a frontend as it should be in the kernel, but for its numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan<'a> {
    pub(super) key: L4,
    pub(super) kind: u8,
    pub(super) flags: u8,
    /// Seconds.
    pub(super) affinity: u32,
    /// Which clients from outside may use it, or may not.
    pub(super) ranges: &'a [IpNet],
    /// The backends that get new connections, in the order of the list.
    pub(super) slots: Vec<L4>,
    /// Their weights, where they are not all the same or a table is wanted in any case.
    weights: Option<Vec<u16>>,
}

impl<'a> Plan<'a> {
    /// The lists of a frontend, in the order in which they are written: what is referred to comes first.
    ///
    /// `native`: backends of other nodes can be told which frontend a packet is for.
    pub(super) fn of(frontend: &'a lb::Frontend, balance: &Balance, native: bool) -> Vec<Self> {
        let balancing = &*frontend.balancing;
        let mut flags = 0;
        let mut set = |flag, condition| flags |= if condition { flag } else { 0 };
        set(TWO_SCOPES, frontend.internal.is_some());
        set(SOURCE_RANGES, !balancing.source_ranges.is_empty());
        set(DENY_RANGES, balancing.deny_source_ranges && !balancing.source_ranges.is_empty());
        let outside = frontend.kind.is_external();
        set(MAGLEV, outside && balancing.algorithm.unwrap_or(balance.algorithm) == Algorithm::Maglev);
        let of_node = || balance.mode.forwarding(frontend.address.protocol);
        set(DSR, outside && native && balancing.forwarding.unwrap_or_else(of_node) == Forwarding::Dsr);
        let key = L4::from(frontend.address);
        let internal = frontend.internal.iter().map(|backends| Self {
            key: key.internal(),
            flags: 0,
            ranges: &[],
            ..Self::list(key, frontend, backends)
        });
        let external =
            Self { flags, ranges: &balancing.source_ranges, ..Self::list(key, frontend, &frontend.backends) };
        internal.chain([external]).map(Self::weighed).collect()
    }

    fn list(key: L4, frontend: &lb::Frontend, backends: &[Backend]) -> Self {
        let chosen = || backends.iter().filter(|backend| backend.weight > 0);
        Self {
            key,
            kind: kind_number(frontend.kind),
            flags: 0,
            affinity: frontend.balancing.affinity_seconds,
            ranges: &[],
            slots: chosen().map(|backend| backend.address.into()).collect(),
            weights: Some(chosen().map(|backend| backend.weight).collect()),
        }
    }

    /// Forgets weights that say nothing. One backend needs no table to be found by: a service's table is 64 KiB, and the
    /// kernel waits some ten milliseconds for whoever may be using the one before.
    fn weighed(mut self) -> Self {
        let alike = |weights: &Vec<u16>| weights.windows(2).all(|pair| pair[0] == pair[1]);
        if self.flags & MAGLEV == 0 || self.slots.len() < 2 {
            self.weights = self.weights.filter(|weights| !alike(weights));
        }
        if let Some(weights) = &mut self.weights {
            // A table cannot name more.
            weights.truncate(MAX_BACKENDS);
            self.slots.truncate(MAX_BACKENDS);
        }
        self
    }

    /// True where every slot is as likely as any other, so that no lookup table is needed.
    pub(super) fn is_plain(&self) -> bool {
        self.weights.is_none()
    }

    /// True where the other differs in nothing but its backends.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        (self.key, self.kind, self.flags, self.affinity, self.ranges)
            == (other.key, other.kind, other.flags, other.affinity, other.ranges)
    }

    /// The lookup table, each entry the index of a slot; empty where none is needed.
    pub(super) fn table(&self, balance: &Balance) -> Vec<u16> {
        match &self.weights {
            None => vec![],
            Some(weights) if self.flags & MAGLEV != 0 => {
                let backends: Vec<_> = self.slots.iter().copied().zip(weights.iter().copied()).collect();
                balance.maglev.table(&backends)
            }
            Some(weights) => shares(weights, balance.maglev.size),
        }
    }
}

/// Every index as often as its weight says, and once at least: exactly, where that takes at most `most`
/// entries, and else as near as they go.
fn shares(weights: &[u16], most: u32) -> Vec<u16> {
    let divisor = weights.iter().fold(0, |a, b| gcd(a, *b)).max(1);
    let sum: u64 = weights.iter().map(|weight| u64::from(weight / divisor)).sum();
    let entries = sum.min(u64::from(most));
    let mut table = vec![];
    let mut before = 0;
    for (index, weight) in (0..).zip(weights) {
        // Each ends where its part of the whole ends, so that nothing is lost by rounding.
        before += u64::from(weight / divisor);
        let end = usize::try_from((before * entries).div_ceil(sum.max(1))).unwrap_or(usize::MAX);
        table.resize(end.max(table.len() + 1), index);
    }
    table
}

fn gcd(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use causeway_model::lb::{Balancing, Frontend, FrontendKind, L4Addr};
    use causeway_model::{Protocol, ServiceKey};

    use super::*;
    use crate::LbMode;

    fn backends(weights: &[u16]) -> Vec<Backend> {
        let address = |n| L4Addr { ip: "10.0.0.1".parse().unwrap(), port: n, protocol: Protocol::TCP };
        (1..)
            .zip(weights)
            .map(|(n, weight)| Backend { weight: *weight, ..Backend::new(address(n), None) })
            .collect()
    }

    fn frontend(kind: FrontendKind, weights: &[u16]) -> Frontend {
        let address = L4Addr { ip: "10.96.0.1".parse().unwrap(), port: 80, protocol: Protocol::TCP };
        let service = ServiceKey { namespace: "shop".into(), name: "web".into() };
        Frontend { kind, ..Frontend::new(address, service, backends(weights)) }
    }

    #[test]
    fn slots_hold_what_may_be_chosen() {
        let equal = frontend(FrontendKind::ClusterIP, &[5, 0, 5]);
        let plan = &Plan::of(&equal, &Balance::default(), true)[0];
        assert_eq!(plan.slots, [equal.backends[0].address.into(), equal.backends[2].address.into()]);
        assert!(plan.is_plain() && plan.table(&Balance::default()).is_empty());
        let none = frontend(FrontendKind::ClusterIP, &[0, 0]);
        assert!(Plan::of(&none, &Balance::default(), true)[0].slots.is_empty());
    }

    #[test]
    fn unequal_weights_are_a_table() {
        let plan = |weights: &[u16]| {
            let frontend = frontend(FrontendKind::ClusterIP, weights);
            Plan::of(&frontend, &Balance::default(), true)[0].table(&Balance::default())
        };
        assert_eq!(plan(&[20, 0, 60]), [0, 1, 1, 1]);
        assert_eq!(plan(&[1, 2]), [0, 1, 1]);
        // More than a table has entries: as near as they go, and nobody goes without.
        let table = shares(&[30_000, 1, 65_535], 16381);
        let count = |index| table.iter().filter(|entry| **entry == index).count();
        assert_eq!((table.len(), count(1)), (16381, 1));
        assert!((count(2) as f64 / 16381.0 - 65_535.0 / 95_536.0).abs() < 0.001);
    }

    #[test]
    fn two_lists_are_two_plans() {
        let two = Frontend {
            internal: Some(backends(&[1, 1, 1]).into()),
            balancing: Arc::new(Balancing {
                affinity_seconds: 30,
                algorithm: Some(Algorithm::Maglev),
                forwarding: Some(Forwarding::Dsr),
                source_ranges: vec!["10.0.0.0/8".parse().unwrap()],
                deny_source_ranges: true,
            }),
            ..frontend(FrontendKind::LoadBalancer, &[1, 1])
        };
        let plans = Plan::of(&two, &Balance::default(), true);
        let [internal, external] = &plans[..] else { panic!("{plans:?}") };
        assert_eq!(
            (internal.key, internal.flags, internal.slots.len()),
            (L4::from(two.address).internal(), 0, 3)
        );
        assert!(internal.is_plain() && internal.ranges.is_empty());
        let all = TWO_SCOPES | SOURCE_RANGES | DENY_RANGES | MAGLEV | DSR;
        assert_eq!((external.flags, external.slots.len(), external.ranges.len()), (all, 2, 1));
        assert_eq!((internal.affinity, external.affinity), (30, 30));
        assert_eq!(external.table(&Balance::default()).len(), 16381);
    }

    #[test]
    fn who_answers_directly() {
        let is_dsr = |frontend: &Frontend, mode, native| {
            let balance = Balance { mode, ..Balance::default() };
            Plan::of(frontend, &balance, native).last().unwrap().flags & DSR != 0
        };
        let tcp = frontend(FrontendKind::NodePort, &[1]);
        let udp = Frontend { address: L4Addr { protocol: Protocol::UDP, ..tcp.address }, ..tcp.clone() };
        let modes = [LbMode::Snat, LbMode::Dsr, LbMode::Hybrid];
        assert_eq!(modes.map(|mode| is_dsr(&tcp, mode, true)), [false, true, true]);
        assert_eq!(modes.map(|mode| is_dsr(&udp, mode, true)), [false, true, false]);
        assert_eq!(modes.map(|mode| is_dsr(&tcp, mode, false)), [false; 3]);
        let inside = frontend(FrontendKind::ClusterIP, &[1]);
        assert!(!is_dsr(&inside, LbMode::Dsr, true));
        for (wanted, of_each) in [(Forwarding::Dsr, [true; 3]), (Forwarding::Snat, [false; 3])] {
            let balancing = Arc::new(Balancing { forwarding: Some(wanted), ..Balancing::default() });
            let says = Frontend { balancing, ..udp.clone() };
            assert_eq!(modes.map(|mode| is_dsr(&says, mode, true)), of_each);
            assert_eq!(modes.map(|mode| is_dsr(&says, mode, false)), [false; 3]);
        }
    }

    #[test]
    fn clients_inside_need_no_maglev() {
        let maglev = Balance { algorithm: Algorithm::Maglev, ..Balance::default() };
        assert!(Plan::of(&frontend(FrontendKind::ClusterIP, &[1, 1]), &maglev, true)[0].is_plain());
        assert!(!Plan::of(&frontend(FrontendKind::NodePort, &[1, 1]), &maglev, true)[0].is_plain());
        for few in [&[0][..], &[0, 7]] {
            let frontend = frontend(FrontendKind::NodePort, few);
            let plan = &Plan::of(&frontend, &maglev, true)[0];
            assert!(plan.is_plain() && plan.table(&maglev).is_empty(), "{few:?}");
        }
    }
}
