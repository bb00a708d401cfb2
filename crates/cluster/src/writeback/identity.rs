//! One identity number per label set, agreed between nodes without a coordinator.
//!
//! The objects themselves are the lock: an identity is a CiliumIdentity named by its number, and the
//! API server lets only one node create a name. All nodes probe the same numbers in the same order for
//! the same labels, so whoever comes second finds the first one's object before any free number.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};

use causeway_model::{Collection, Event, Identity, Labels, NumericIdentity};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, PostParams};
use sha2::{Digest, Sha256};
use tracing::debug;

use super::FIELD_MANAGER;
use crate::crd::CiliumIdentity;
use crate::{Error, convert};

/// What came of an attempt to create an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// It is ours.
    New,
    /// The number is taken; by these labels.
    Taken(Labels),
    /// The number was taken a moment ago and is free now: try it again.
    Vanished,
}

/// Where identities are created; the API server, or a fake in tests.
pub trait IdentityStore: Send + Sync {
    /// Creates the identity if its number is free.
    fn create(&self, identity: &Identity) -> impl Future<Output = Result<Created, Error>> + Send;
}

/// Allocates identities. Feed it the identity watcher through [`IdentityAllocator::observe`], so that
/// known label sets cost no request.
#[derive(Debug)]
pub struct IdentityAllocator<S> {
    store: S,
    range: RangeInclusive<NumericIdentity>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    identities: Collection<Identity>,
    by_labels: BTreeMap<Labels, BTreeSet<NumericIdentity>>,
}

impl<S: IdentityStore> IdentityAllocator<S> {
    /// An allocator for the numbers of `range`, both ends included.
    pub fn new(store: S, range: RangeInclusive<NumericIdentity>) -> Self {
        Self { store, range, known: Mutex::default() }
    }

    /// A change of an identity in the cluster.
    pub fn observe(&self, event: Event<Identity>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Known { identities, by_labels } = &mut *known;
        for change in identities.apply(event) {
            let (id, before) = change.into_parts();
            if let Some(before) = before
                && let Some(ids) = by_labels.get_mut(&before.labels)
            {
                ids.remove(&id);
                if ids.is_empty() {
                    by_labels.remove(&before.labels);
                }
            }
            if let Some(now) = identities.get(&id) {
                by_labels.entry(now.labels.clone()).or_default().insert(id);
            }
        }
    }

    /// True once the identity watcher has listed everything.
    pub fn is_synced(&self) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).identities.is_synced()
    }

    /// The number of a label set: the known one, or a new one.
    ///
    /// # Errors
    /// [`Error::Api`] if the API server cannot be asked, [`Error::IdentitiesExhausted`] if every number
    /// of the cluster is taken.
    pub async fn allocate(&self, labels: &Labels) -> Result<NumericIdentity, Error> {
        if let Some(id) = self.lookup(labels) {
            return Ok(id);
        }
        for id in probe(labels, &self.range) {
            let identity = Identity { id, labels: labels.clone() };
            // A number that vanishes between two requests is asked for once more, then passed over.
            for _ in 0..2 {
                match self.store.create(&identity).await? {
                    Created::New => {
                        debug!(identity = %id, %labels, "identity created");
                        return Ok(id);
                    }
                    Created::Taken(holder) if holder == *labels => return Ok(id),
                    Created::Taken(_) => break,
                    Created::Vanished => {}
                }
            }
        }
        let (low, high) = (self.range.start().0, self.range.end().0);
        Err(Error::IdentitiesExhausted { low, high, count: high - low + 1 })
    }

    /// The lowest known number of this cluster for these labels.
    fn lookup(&self, labels: &Labels) -> Option<NumericIdentity> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.by_labels.get(labels)?.iter().copied().find(|id| self.range.contains(id))
    }
}

/// Every number of the range once, beginning where the labels' hash points: the same order on every
/// node and in every version.
fn probe(
    labels: &Labels,
    range: &RangeInclusive<NumericIdentity>,
) -> impl Iterator<Item = NumericIdentity> + use<> {
    let digest = Sha256::digest(labels.to_string().as_bytes());
    let hash = u64::from_be_bytes([
        digest[0], digest[1], digest[2], digest[3], digest[4], digest[5], digest[6], digest[7],
    ]);
    let (low, high) = (u64::from(range.start().0), u64::from(range.end().0));
    let size = high - low + 1;
    (0..size).map(move |step| NumericIdentity((low + (hash % size + step) % size) as u32))
}

/// The identities of a Kubernetes API server.
#[derive(Clone)]
pub struct KubeIdentities {
    api: Api<CiliumIdentity>,
}

impl KubeIdentities {
    /// Through this client.
    pub fn new(client: Client) -> Self {
        Self { api: Api::all(client) }
    }
}

impl IdentityStore for KubeIdentities {
    async fn create(&self, identity: &Identity) -> Result<Created, Error> {
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..Default::default() };
        let what = format!("create CiliumIdentity {}", identity.id);
        match self.api.create(&params, &object(identity)).await {
            Ok(_) => Ok(Created::New),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let name = identity.id.to_string();
                let found = self.api.get_opt(&name).await;
                match found.map_err(Error::api(format!("read CiliumIdentity {name}")))? {
                    // One without labels holds its number all the same.
                    Some(held) => {
                        Ok(Created::Taken(convert::identity(&held).map(|i| i.labels).unwrap_or_default()))
                    }
                    None => Ok(Created::Vanished),
                }
            }
            Err(error) => Err(Error::api(what)(error)),
        }
    }
}

/// The object of an identity. Its metadata carries the pod's own labels, for people who search.
fn object(identity: &Identity) -> CiliumIdentity {
    let labels = identity.labels.iter();
    let searchable = labels
        .filter(|(key, label)| label.source == "k8s" && !key.starts_with("io.cilium.k8s."))
        .map(|(key, label)| (key.to_owned(), label.value.clone()))
        .collect();
    CiliumIdentity {
        api_version: CiliumIdentity::API_VERSION.to_owned(),
        kind: CiliumIdentity::KIND.to_owned(),
        metadata: ObjectMeta {
            name: Some(identity.id.to_string()),
            labels: Some(searchable),
            ..Default::default()
        },
        security_labels: identity
            .labels
            .iter()
            .map(|(key, label)| (format!("{}:{key}", label.source), label.value.clone()))
            .collect(),
    }
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
