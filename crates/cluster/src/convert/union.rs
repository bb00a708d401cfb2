//! One endpoint per pod, out of CiliumEndpoints and CiliumEndpointSlices.
//!
//! Slices are made of CiliumEndpoints by Cilium's operator, so where both tell of a pod the
//! CiliumEndpoint is at least as new; where only one does, it counts. Thus switching slices on or
//! off, and the operator moving endpoints from slice to slice, leave no gap (mesh-protocol 6.1, 6.2).

use std::collections::BTreeMap;

use causeway_model::{Collection, Endpoint, Event, Keyed, PodRef};

/// The endpoints of one CiliumEndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointGroup {
    /// Name of the slice.
    pub name: String,
    /// Its endpoints that have addresses.
    pub endpoints: Vec<Endpoint>,
}

impl Keyed for EndpointGroup {
    type Key = String;
    fn key(&self) -> String {
        self.name.clone()
    }
}

/// Joins the two listings. `Reset` is absorbed, since only differences come out; `Synced` comes once,
/// when both are complete.
#[derive(Debug, Default)]
pub struct EndpointUnion {
    single: Collection<Endpoint>,
    groups: Collection<EndpointGroup>,
    /// Which slices tell of a pod, oldest first; the last one counts.
    groups_of: BTreeMap<PodRef, Vec<String>>,
    complete: bool,
}

impl EndpointUnion {
    /// Nothing is known.
    pub fn new() -> Self {
        Self::default()
    }

    /// A change of a CiliumEndpoint.
    pub fn apply_endpoint(&mut self, event: Event<Endpoint>) -> Vec<Event<Endpoint>> {
        let changed: Vec<PodRef> =
            self.single.apply(event).iter().map(|change| change.key().clone()).collect();
        self.emit(changed)
    }

    /// A change of a CiliumEndpointSlice.
    pub fn apply_group(&mut self, event: Event<EndpointGroup>) -> Vec<Event<Endpoint>> {
        let mut changed = vec![];
        for change in self.groups.apply(event) {
            let (name, before) = change.into_parts();
            let now = self.groups.get(&name).map(|group| group.endpoints.as_slice()).unwrap_or_default();
            for Endpoint { pod, .. } in before.iter().flat_map(|group| &group.endpoints) {
                if now.iter().any(|endpoint| endpoint.pod == *pod) {
                    continue;
                }
                if let Some(names) = self.groups_of.get_mut(pod) {
                    names.retain(|held| *held != name);
                    if names.is_empty() {
                        self.groups_of.remove(pod);
                    }
                }
                changed.push(pod.clone());
            }
            for endpoint in now {
                let names = self.groups_of.entry(endpoint.pod.clone()).or_default();
                if !names.contains(&name) {
                    names.push(name.clone());
                }
                changed.push(endpoint.pod.clone());
            }
        }
        self.emit(changed)
    }

    /// What counts for these pods now; who takes it passes over what is no change.
    fn emit(&mut self, changed: Vec<PodRef>) -> Vec<Event<Endpoint>> {
        let now = changed.into_iter().map(|pod| match self.endpoint(&pod) {
            Some(endpoint) => Event::Upsert(endpoint.clone()),
            None => Event::Remove(pod),
        });
        let mut out: Vec<_> = now.collect();
        if !self.complete && self.single.is_synced() && self.groups.is_synced() {
            self.complete = true;
            out.push(Event::Synced);
        }
        out
    }

    fn endpoint(&self, pod: &PodRef) -> Option<&Endpoint> {
        let in_slice = || {
            let group = self.groups.get(self.groups_of.get(pod)?.last()?)?;
            group.endpoints.iter().find(|endpoint| endpoint.pod == *pod)
        };
        self.single.get(pod).or_else(in_slice)
    }
}

#[cfg(test)]
mod tests {
    use causeway_model::{IpEntry, NumericIdentity};

    use super::super::AddressOwners;
    use super::*;

    fn endpoint(name: &str, ip: &str, identity: u32) -> Endpoint {
        let pod = PodRef { namespace: "shop".into(), name: name.into() };
        let entry = IpEntry {
            prefix: format!("{ip}/32").parse().unwrap(),
            identity: NumericIdentity(identity),
            host_ip: None,
            key_index: 0,
            pod: Some(pod.clone()),
        };
        Endpoint { pod, addresses: vec![entry] }
    }

    fn group(name: &str, endpoints: &[Endpoint]) -> Event<EndpointGroup> {
        Event::Upsert(EndpointGroup { name: name.into(), endpoints: endpoints.to_vec() })
    }

    /// Both of them, as the source puts them together.
    #[derive(Default)]
    struct Addresses {
        union: EndpointUnion,
        owners: AddressOwners,
    }

    impl Addresses {
        fn endpoint(&mut self, event: Event<Endpoint>) -> Vec<Event<IpEntry>> {
            self.union.apply_endpoint(event).into_iter().flat_map(|event| self.owners.apply(event)).collect()
        }

        fn group(&mut self, event: Event<EndpointGroup>) -> Vec<Event<IpEntry>> {
            self.union.apply_group(event).into_iter().flat_map(|event| self.owners.apply(event)).collect()
        }
    }

    fn synced() -> Addresses {
        let mut all = Addresses::default();
        all.endpoint(Event::Reset);
        assert_eq!(all.endpoint(Event::Synced), [], "the slices are not listed yet");
        all.group(Event::Reset);
        assert_eq!(all.group(Event::Synced), [Event::Synced]);
        all
    }

    #[test]
    fn a_pod_in_both_counts_once_and_switching_leaves_no_gap() {
        let mut all = synced();
        let a = endpoint("a", "10.1.0.5", 65_600);
        let up = Event::Upsert(a.addresses[0].clone());
        assert_eq!(all.endpoint(Event::Upsert(a.clone())), [up]);
        // The operator begins to write slices; then CiliumEndpoints are written no more.
        assert_eq!(all.group(group("s1", std::slice::from_ref(&a))), []);
        assert_eq!(all.endpoint(Event::Remove(a.pod.clone())), []);
        // And back.
        assert_eq!(all.endpoint(Event::Upsert(a.clone())), []);
        assert_eq!(all.group(Event::Remove("s1".into())), []);
        assert_eq!(all.endpoint(Event::Remove(a.pod.clone())), [Event::Remove(a.addresses[0].prefix)]);
    }

    #[test]
    fn the_endpoint_is_newer_than_its_slice() {
        let mut all = synced();
        let (old, new) = (endpoint("a", "10.1.0.5", 65_600), endpoint("a", "10.1.0.6", 65_601));
        all.group(group("s1", std::slice::from_ref(&old)));
        let moved = [Event::Remove(old.addresses[0].prefix), Event::Upsert(new.addresses[0].clone())];
        assert_eq!(all.endpoint(Event::Upsert(new.clone())), moved);
        // The slice follows late.
        assert_eq!(all.group(group("s1", std::slice::from_ref(&new))), []);
    }

    #[test]
    fn endpoints_move_between_slices_in_either_order() {
        let mut all = synced();
        let a = endpoint("a", "10.1.0.5", 65_600);
        let b = endpoint("b", "10.1.0.6", 65_600);
        assert_eq!(all.group(group("s1", &[a.clone(), b.clone()])).len(), 2);
        // Added there first, then removed here.
        assert_eq!(all.group(group("s2", std::slice::from_ref(&a))), []);
        assert_eq!(all.group(group("s1", std::slice::from_ref(&b))), []);
        // What the later slice says counts.
        let changed = endpoint("a", "10.1.0.5", 65_700);
        assert_eq!(
            all.group(group("s2", std::slice::from_ref(&changed))),
            [Event::Upsert(changed.addresses[0].clone())]
        );
        // A relisting that does not name a slice removes it.
        all.group(Event::Reset);
        assert_eq!(all.group(group("s1", std::slice::from_ref(&b))), []);
        assert_eq!(all.group(Event::Synced), [Event::Remove(a.addresses[0].prefix)]);
    }
}
