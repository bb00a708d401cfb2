//! Which endpoint object an address belongs to, when two claim it.
//!
//! When a pod is replaced, its old object may linger and be deleted after the new one with the same
//! address was written. The newest claim counts, and the end of an older claim changes nothing
//! (mesh-protocol trap 37).
//!
//! A cluster may have a hundred thousand pods, so what is kept of each is small: its name once, shared by
//! all that speak of it, and the fields of its addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use causeway_model::{Collection, EncryptKey, Endpoint, Event, IpEntry, Keyed, NumericIdentity, PodRef};
use ipnet::IpNet;

/// Turns events of endpoints into events of addresses.
#[derive(Debug, Default)]
pub struct AddressOwners {
    pods: Collection<Pod>,
    claims: BTreeMap<IpNet, Claims>,
}

/// As [`PodRef::to_text`] has it.
type PodName = Arc<str>;

/// What an endpoint says.
#[derive(Debug, PartialEq)]
struct Pod {
    name: PodName,
    addresses: Box<[Address]>,
}

/// An [`IpEntry`] without its pod.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Address {
    prefix: IpNet,
    identity: NumericIdentity,
    host_ip: Option<IpAddr>,
    key_index: EncryptKey,
}

/// Who claims an address.
#[derive(Debug)]
enum Claims {
    /// One pod, as almost always.
    One(PodName),
    /// Several, oldest first; the last one is in force.
    Many(Vec<PodName>),
}

impl Keyed for Pod {
    type Key = PodName;
    fn key(&self) -> PodName {
        self.name.clone()
    }
}

impl Pod {
    fn of(endpoint: Endpoint) -> Self {
        let address = |entry: &IpEntry| Address {
            prefix: entry.prefix,
            identity: entry.identity,
            host_ip: entry.host_ip,
            key_index: entry.key_index,
        };
        Self {
            name: endpoint.pod.to_text().into(),
            addresses: endpoint.addresses.iter().map(address).collect(),
        }
    }
}

impl Address {
    fn entry(self, pod: &str) -> IpEntry {
        let Self { prefix, identity, host_ip, key_index } = self;
        IpEntry { prefix, identity, host_ip, key_index, pod: PodRef::of_text(pod) }
    }
}

impl Claims {
    fn in_force(&self) -> Option<&PodName> {
        match self {
            Self::One(pod) => Some(pod),
            Self::Many(pods) => pods.last(),
        }
    }

    /// Adds the newest claim; one that is there already keeps its place.
    fn add(&mut self, pod: &PodName) {
        match self {
            Self::One(held) if held != pod => *self = Self::Many(vec![held.clone(), pod.clone()]),
            Self::Many(pods) if !pods.contains(pod) => pods.push(pod.clone()),
            _ => {}
        }
    }

    /// Withdraws a claim. False when it was the only one.
    fn remove(&mut self, pod: &PodName) -> bool {
        match self {
            Self::One(held) => held != pod,
            Self::Many(pods) => {
                pods.retain(|held| held != pod);
                if let [one] = pods.as_slice() {
                    *self = Self::One(one.clone());
                }
                true
            }
        }
    }
}

impl AddressOwners {
    /// Nothing is owned.
    pub fn new() -> Self {
        Self::default()
    }

    /// The changes of addresses one event means. `Synced` comes out after the removals it causes;
    /// `Reset` is absorbed, since only differences come out.
    pub fn apply(&mut self, event: Event<Endpoint>) -> Vec<Event<IpEntry>> {
        let event = event.map(Pod::of, |pod| pod.to_text().into());
        let synced = matches!(event, Event::Synced);
        let mut out = vec![];
        for change in self.pods.apply(event) {
            let (name, before) = change.into_parts();
            let old = before.map(|pod| pod.addresses).unwrap_or_default();
            let now = self.pods.get(&name).map(|pod| pod.addresses.clone()).unwrap_or_default();
            for address in old.iter().filter(|old| !now.iter().any(|now| now.prefix == old.prefix)) {
                out.extend(self.release(address.prefix, &name));
            }
            for address in now.iter().copied() {
                let claims = self.claims.entry(address.prefix).or_insert_with(|| Claims::One(name.clone()));
                claims.add(&name);
                if claims.in_force() == Some(&name) && !old.contains(&address) {
                    out.push(Event::Upsert(address.entry(&name)));
                }
            }
        }
        if synced {
            out.push(Event::Synced);
        }
        out
    }

    fn release(&mut self, prefix: IpNet, name: &PodName) -> Option<Event<IpEntry>> {
        let claims = self.claims.get_mut(&prefix)?;
        let in_force = claims.in_force() == Some(name);
        if !claims.remove(name) {
            self.claims.remove(&prefix);
            return Some(Event::Remove(prefix));
        }
        let next = claims.in_force().filter(|_| in_force)?.clone();
        let address = self.pods.get(&next)?.addresses.iter().find(|address| address.prefix == prefix)?;
        Some(Event::Upsert(address.entry(&next)))
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

    /// What [`AddressOwners`] is, without a thought for its size: claims in the order they were made.
    #[derive(Default)]
    struct Slow(Vec<Endpoint>);

    impl Slow {
        fn apply(&mut self, event: &Event<Endpoint>) {
            match event {
                Event::Upsert(endpoint) => match self.0.iter_mut().find(|held| held.pod == endpoint.pod) {
                    Some(held) => *held = endpoint.clone(),
                    None => self.0.push(endpoint.clone()),
                },
                Event::Remove(pod) => self.0.retain(|held| held.pod != *pod),
                Event::Reset | Event::Synced => {}
            }
        }

        /// Every address that somebody claims, with those who do.
        fn claimed(&self) -> BTreeMap<IpNet, Vec<IpEntry>> {
            let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
            for entry in self.0.iter().flat_map(|endpoint| &endpoint.addresses) {
                all.entry(entry.prefix).or_default().push(entry.clone());
            }
            all
        }
    }

    proptest::proptest! {
        #[test]
        fn what_comes_out_is_one_claim_of_each_address(
            steps in proptest::collection::vec((0..6u8, proptest::option::of(proptest::collection::btree_set(0..4u8, 0..3))), 0..60)
        ) {
            let (mut owners, mut slow) = (AddressOwners::new(), Slow::default());
            let mut held: Collection<IpEntry> = Collection::new();
            for (pod, addresses) in steps {
                let whole = endpoint(&format!("pod-{pod}"), "10.1.0.1");
                let event = match addresses {
                    None => Event::Remove(whole.pod),
                    Some(ips) => Event::Upsert(Endpoint {
                        addresses: ips
                            .iter()
                            .flat_map(|ip| endpoint(&format!("pod-{pod}"), &format!("10.1.0.{ip}")).addresses)
                            .collect(),
                        ..whole
                    }),
                };
                slow.apply(&event);
                for change in owners.apply(event) {
                    held.apply(change);
                }
                let claimed = slow.claimed();
                proptest::prop_assert_eq!(held.len(), claimed.len());
                for (prefix, entry) in held.iter() {
                    proptest::prop_assert!(claimed[prefix].contains(entry));
                    if let [only] = claimed[prefix].as_slice() {
                        proptest::prop_assert_eq!(entry, only);
                    }
                }
            }
        }
    }
}
