//! Ports, and the addresses that listen on them: what services of thousands of backends are made of.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::Protocol;

/// A port and its protocol as clusters share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// The protocol.
    pub protocol: Protocol,
    /// The number.
    pub port: u16,
}

/// Port name (may be empty) to port.
pub type Ports = BTreeMap<String, Port>;

/// Address to ports, in address order. Addresses with the same ports share them, so that thousands
/// of backends cost little more than their addresses.
#[derive(Debug, Clone, Default)]
pub struct PortsByAddress(Vec<(IpAddr, Arc<Ports>)>);

impl PortsByAddress {
    /// How many addresses.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True without addresses.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ports of an address.
    pub fn get(&self, address: IpAddr) -> Option<&Ports> {
        let at = self.0.binary_search_by_key(&order(address), |(address, _)| order(*address)).ok()?;
        Some(&self.0[at].1)
    }

    /// All addresses with their ports.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (IpAddr, &Arc<Ports>)> {
        self.0.iter().map(|(address, ports)| (*address, ports))
    }

    /// The addresses whose ports are others in `now`, in order: the ports here and there, `None`
    /// where there is no such address.
    pub fn changes<'a>(&'a self, now: &'a Self) -> Changes<'a> {
        Changes { before: &self.0, now: &now.0, equal: None }
    }
}

/// Later entries of an address replace earlier ones.
impl FromIterator<(IpAddr, Arc<Ports>)> for PortsByAddress {
    fn from_iter<I: IntoIterator<Item = (IpAddr, Arc<Ports>)>>(entries: I) -> Self {
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.sort_by_key(|(address, _)| order(*address));
        entries.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                std::mem::swap(later, kept);
            }
            same
        });
        entries.shrink_to_fit();
        Self(entries)
    }
}

impl PartialEq for PortsByAddress {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.changes(other).next().is_none()
    }
}

impl Eq for PortsByAddress {}

/// The order of addresses, as `IpAddr` has it, in a form that compares fast.
fn order(address: IpAddr) -> (bool, u128) {
    match address {
        IpAddr::V4(v4) => (false, u128::from(v4.to_bits())),
        IpAddr::V6(v6) => (true, v6.to_bits()),
    }
}

/// One address with the ports before and after a change.
pub type PortsChange<'a> = (IpAddr, Option<&'a Arc<Ports>>, Option<&'a Arc<Ports>>);

/// The iterator of [`PortsByAddress::changes`].
#[derive(Debug)]
pub struct Changes<'a> {
    before: &'a [(IpAddr, Arc<Ports>)],
    now: &'a [(IpAddr, Arc<Ports>)],
    /// The last two found equal: thousands of addresses share them, and are compared once.
    equal: Option<(&'a Arc<Ports>, &'a Arc<Ports>)>,
}

impl<'a> Changes<'a> {
    fn same(&mut self, before: &'a Arc<Ports>, now: &'a Arc<Ports>) -> bool {
        let known = |(b, n): (&Arc<Ports>, &Arc<Ports>)| Arc::ptr_eq(b, before) && Arc::ptr_eq(n, now);
        let same = self.equal.is_some_and(known) || before == now;
        if same {
            self.equal = Some((before, now));
        }
        same
    }
}

impl<'a> Iterator for Changes<'a> {
    type Item = PortsChange<'a>;

    fn next(&mut self) -> Option<PortsChange<'a>> {
        loop {
            let (before, now) = (self.before.first(), self.now.first());
            let order = match (before, now) {
                (Some(before), Some(now)) => order(before.0).cmp(&order(now.0)),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (None, None) => return None,
            };
            let before = before.filter(|_| order.is_le());
            let now = now.filter(|_| order.is_ge());
            self.before = &self.before[usize::from(before.is_some())..];
            self.now = &self.now[usize::from(now.is_some())..];
            if let (Some((_, before)), Some((_, now))) = (before, now)
                && self.same(before, now)
            {
                continue;
            }
            let (address, _) = before.or(now)?;
            return Some((*address, before.map(|(_, ports)| ports), now.map(|(_, ports)| ports)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(number: u16) -> Arc<Ports> {
        Arc::new([("http".to_owned(), Port { protocol: Protocol::TCP, port: number })].into())
    }

    fn of(entries: &[(&str, u16)]) -> PortsByAddress {
        entries.iter().map(|(address, number)| (address.parse().unwrap(), ports(*number))).collect()
    }

    #[test]
    fn entries_are_sorted_and_the_last_of_an_address_counts() {
        let all = of(&[("fd00::1", 1), ("10.0.0.9", 2), ("10.0.0.10", 3), ("10.0.0.9", 4), ("10.0.0.9", 5)]);
        let addresses: Vec<_> = all.iter().map(|(address, _)| address.to_string()).collect();
        assert_eq!(addresses, ["10.0.0.9", "10.0.0.10", "fd00::1"]);
        assert_eq!(all.get("10.0.0.9".parse().unwrap()).unwrap()["http"].port, 5);
        assert_eq!(all.get("10.0.0.11".parse().unwrap()), None);
    }

    #[test]
    fn only_what_differs_is_a_change() {
        let before =
            of(&[("10.0.0.1", 1), ("10.0.0.2", 1), ("10.0.0.3", 1), ("10.0.0.4", 2), ("fd00::1", 1)]);
        let now = of(&[("10.0.0.2", 1), ("10.0.0.3", 2), ("10.0.0.4", 2), ("10.0.0.5", 1), ("fd00::1", 1)]);
        let changes: Vec<_> = before
            .changes(&now)
            .map(|(address, b, n)| {
                let number = |ports: Option<&Arc<Ports>>| ports.map_or(0, |ports| ports["http"].port);
                (address.to_string(), number(b), number(n))
            })
            .collect();
        let want = [("10.0.0.1", 1, 0), ("10.0.0.3", 1, 2), ("10.0.0.5", 0, 1)];
        assert_eq!(changes, want.map(|(address, b, n)| (address.to_owned(), b, n)));
        assert!(
            before != now
                && before == before.clone()
                && now
                    == of(&[
                        ("fd00::1", 1),
                        ("10.0.0.5", 1),
                        ("10.0.0.4", 2),
                        ("10.0.0.3", 2),
                        ("10.0.0.2", 1)
                    ])
        );
    }
}
