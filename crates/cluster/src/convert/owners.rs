//! Which endpoint object an address belongs to, when two claim it.
//!
//! When a pod is replaced, its old object may linger and be deleted after the new one with the same
//! address was written. The newest claim counts, and the end of an older claim changes nothing
//! (mesh-protocol trap 37).

use std::collections::BTreeMap;

use causeway_model::{Change, Collection, Endpoint, Event, IpEntry, PodRef};
use ipnet::IpNet;

/// Turns events of endpoints into events of addresses.
#[derive(Debug, Default)]
pub struct AddressOwners {
    endpoints: Collection<Endpoint>,
    /// Claims of an address, oldest first; the last one is in force.
    claims: BTreeMap<IpNet, Vec<PodRef>>,
}

impl AddressOwners {
    /// Nothing is owned.
    pub fn new() -> Self {
        Self::default()
    }

    /// The changes of addresses one event means. `Synced` comes out after the removals it causes;
    /// `Reset` is absorbed, since only differences come out.
    pub fn apply(&mut self, event: Event<Endpoint>) -> Vec<Event<IpEntry>> {
        let synced = matches!(event, Event::Synced);
        let mut out = vec![];
        for change in self.endpoints.apply(event) {
            let (pod, before) = match change {
                Change::Set(pod, before) => (pod, before),
                Change::Gone(pod, before) => (pod, Some(before)),
            };
            let old: Vec<IpEntry> = before.map(|endpoint| endpoint.addresses).unwrap_or_default();
            let now: Vec<IpEntry> = self.endpoints.get(&pod).map(|e| e.addresses.clone()).unwrap_or_default();
            for entry in old.iter().filter(|old| !now.iter().any(|now| now.prefix == old.prefix)) {
                out.extend(self.release(entry.prefix, &pod));
            }
            for entry in now {
                let claims = self.claims.entry(entry.prefix).or_default();
                if !claims.contains(&pod) {
                    claims.push(pod.clone());
                }
                if claims.last() == Some(&pod) && !old.contains(&entry) {
                    out.push(Event::Upsert(entry));
                }
            }
        }
        if synced {
            out.push(Event::Synced);
        }
        out
    }

    fn release(&mut self, prefix: IpNet, pod: &PodRef) -> Option<Event<IpEntry>> {
        let claims = self.claims.get_mut(&prefix)?;
        let in_force = claims.last() == Some(pod);
        claims.retain(|claim| claim != pod);
        let Some(next) = claims.last().cloned() else {
            self.claims.remove(&prefix);
            return Some(Event::Remove(prefix));
        };
        let endpoint = self.endpoints.get(&next).filter(|_| in_force)?;
        endpoint.addresses.iter().find(|entry| entry.prefix == prefix).cloned().map(Event::Upsert)
    }
}

#[cfg(test)]
mod tests {
    use causeway_model::NumericIdentity;

    use super::*;

    fn endpoint(name: &str, ip: &str) -> Endpoint {
        let pod = PodRef { namespace: "ns".into(), name: name.into() };
        let entry = IpEntry {
            prefix: format!("{ip}/32").parse().unwrap(),
            identity: NumericIdentity(65_600),
            host_ip: None,
            key_index: 0,
            pod: Some(pod.clone()),
        };
        Endpoint { pod, addresses: vec![entry] }
    }

    #[test]
    fn the_newest_owner_counts() {
        let mut owners = AddressOwners::new();
        let (a, b) = (endpoint("a", "10.1.0.5"), endpoint("b", "10.1.0.5"));
        owners.apply(Event::Reset);
        assert_eq!(owners.apply(Event::Upsert(a.clone())), [Event::Upsert(a.addresses[0].clone())]);
        assert_eq!(owners.apply(Event::Synced), [Event::Synced]);
        assert_eq!(owners.apply(Event::Upsert(b.clone())), [Event::Upsert(b.addresses[0].clone())]);
        // The old owner goes: nothing changes.
        assert_eq!(owners.apply(Event::Remove(a.pod.clone())), []);
        // It comes back and goes last: the address passes to it, then away.
        assert_eq!(owners.apply(Event::Upsert(a.clone())).len(), 1);
        assert_eq!(owners.apply(Event::Remove(a.pod.clone())), [Event::Upsert(b.addresses[0].clone())]);
        let moved = endpoint("b", "10.1.0.6");
        assert_eq!(
            owners.apply(Event::Upsert(moved.clone())),
            [Event::Remove(b.addresses[0].prefix), Event::Upsert(moved.addresses[0].clone())]
        );
        assert_eq!(owners.apply(Event::Remove(moved.pod)), [Event::Remove(moved.addresses[0].prefix)]);
    }
}
