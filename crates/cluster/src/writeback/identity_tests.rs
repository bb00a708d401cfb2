//! Many allocators against one fake API server.

use std::sync::Arc;

use causeway_model::{ClusterId, MaxClusters};

use super::*;

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<BTreeMap<NumericIdentity, Labels>>>);

impl IdentityStore for Fake {
    async fn create(&self, identity: &Identity) -> Result<Created, Error> {
        // Let other tasks in between, before and after the atomic step.
        tokio::task::yield_now().await;
        let outcome = {
            let mut taken = self.0.lock().unwrap();
            match taken.get(&identity.id) {
                Some(holder) => Created::Taken(holder.clone()),
                None => {
                    taken.insert(identity.id, identity.labels.clone());
                    Created::New
                }
            }
        };
        tokio::task::yield_now().await;
        Ok(outcome)
    }
}

fn labels(n: usize) -> Labels {
    Labels::parse(&format!("k8s:app=a{n};k8s:io.cilium.k8s.policy.cluster=cls-a;"))
}

#[tokio::test]
async fn many_nodes_agree_on_one_number_per_label_set() {
    // A range so small that most first choices collide.
    let range = NumericIdentity(65_536)..=NumericIdentity(65_536 + 63);
    let fake = Fake::default();
    let mut tasks = tokio::task::JoinSet::new();
    for node in 0..16 {
        let allocator = IdentityAllocator::new(fake.clone(), range.clone());
        tasks.spawn(async move {
            let mut out = vec![];
            for n in 0..60 {
                let n = (n * 7 + node * 13) % 60;
                out.push((n, allocator.allocate(&labels(n)).await.unwrap()));
            }
            out
        });
    }
    let mut agreed: BTreeMap<usize, NumericIdentity> = BTreeMap::new();
    while let Some(found) = tasks.join_next().await {
        for (n, id) in found.unwrap() {
            assert_eq!(*agreed.entry(n).or_insert(id), id, "label set {n}");
            assert!(range.contains(&id));
        }
    }
    assert_eq!(agreed.values().collect::<BTreeSet<_>>().len(), 60);
    assert_eq!(fake.0.lock().unwrap().len(), 60);
}

#[tokio::test]
async fn the_watched_identities_come_first_and_a_full_range_is_an_error() {
    let range = NumericIdentity(65_536)..=NumericIdentity(65_537);
    let allocator = IdentityAllocator::new(Fake::default(), range);
    allocator.observe(Event::Upsert(Identity { id: NumericIdentity(65_999), labels: labels(1) }));
    allocator.observe(Event::Upsert(Identity { id: NumericIdentity(65_537), labels: labels(1) }));
    assert_eq!(allocator.allocate(&labels(1)).await.unwrap(), NumericIdentity(65_537));
    allocator.observe(Event::Remove(NumericIdentity(65_537)));
    allocator.allocate(&labels(1)).await.unwrap();
    allocator.allocate(&labels(2)).await.unwrap();
    let text = allocator.allocate(&labels(3)).await.unwrap_err().to_string();
    assert!(text.contains("65536..=65537") && text.contains("all 2"), "{text}");
}

#[test]
fn every_number_is_probed_once() {
    let range = ClusterId::new(3, MaxClusters::C511).unwrap().identities(MaxClusters::C511);
    let all: BTreeSet<_> = probe(&labels(5), &range).collect();
    assert_eq!(all.len(), 1 << 15);
    assert!(all.iter().all(|id| range.contains(id)));
}

#[test]
fn the_object_reads_back() {
    let labels =
        Labels::parse("k8s:app=web;k8s:io.cilium.k8s.policy.cluster=c;k8s:io.kubernetes.pod.namespace=shop;");
    let identity = Identity { id: NumericIdentity(65_540), labels };
    let object = object(&identity);
    assert_eq!(object.metadata.labels.as_ref().unwrap().len(), 2);
    assert_eq!(convert::identity(&object), Some(identity));
}
