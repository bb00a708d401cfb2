//! How endpoints are packed into slices, so that one pod's change touches one slice.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::ResourceExt;
use kube::api::ObjectMeta;

use super::endpoints::{Group, families};
use crate::controllers::pods;

/// Label that names the Service of a slice.
pub(super) const SERVICE: &str = "kubernetes.io/service-name";
/// Label that names who writes a slice.
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// That is this controller.
pub(super) const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Most endpoints in a slice.
const MOST: usize = 100;

/// Writes that make the slices what they should be.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Changes {
    /// New slices.
    pub(super) create: Vec<EndpointSlice>,
    /// Slices in their new state.
    pub(super) update: Vec<EndpointSlice>,
    /// Slices that go.
    pub(super) delete: Vec<Arc<EndpointSlice>>,
}

/// Labels of a Service's slices: the Service's own and the controller's.
fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.labels().clone();
    labels.remove(HEADLESS);
    labels.insert(SERVICE.into(), service.name_any());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None") {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels
}

fn new_slice(service: &Service, group: &Group, endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", service.name_any())),
            namespace: service.namespace(),
            labels: Some(labels(service)),
            owner_references: Some(vec![pods::controller_reference(service)]),
            ..ObjectMeta::default()
        },
        address_type: group.family.clone(),
        endpoints,
        ports: Some(group.ports()),
    }
}

/// What identifies an endpoint while its state changes.
fn identity(e: &Endpoint) -> (Option<&String>, Option<&String>) {
    (e.addresses.first(), e.target_ref.as_ref().and_then(|t| t.uid.as_ref()))
}

/// A slice while it is being filled.
struct Filling {
    slice: Arc<EndpointSlice>,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

/// The writes that turn `existing` slices into ones that hold `desired`. Every endpoint stays in its slice; new ones go
/// to slices that change anyway, then to the fullest with room for all of them, then to new slices.
pub(super) fn pack(
    service: &Service,
    desired: BTreeMap<Group, Vec<Endpoint>>,
    existing: &[Arc<EndpointSlice>],
) -> Changes {
    let mut changes = Changes::default();
    let mut groups = desired;
    // A Service without endpoints keeps one slice, which says so.
    for family in families(service) {
        if !groups.keys().any(|g| g.family == family) {
            groups.insert(Group::empty(&family), Vec::new());
        }
    }
    let mut by_group: BTreeMap<Group, Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in existing.iter().filter(|s| s.metadata.deletion_timestamp.is_none()) {
        let group = Group::of(&slice.address_type, slice.ports.as_deref().unwrap_or_default());
        by_group.entry(group).or_default().push(slice);
    }
    for (group, endpoints) in groups {
        let slices = by_group.remove(&group).unwrap_or_default();
        pack_group(service, &group, endpoints, &slices, &mut changes);
    }
    changes.delete.extend(by_group.into_values().flatten().cloned());
    changes
}

fn pack_group(
    service: &Service,
    group: &Group,
    endpoints: Vec<Endpoint>,
    slices: &[&Arc<EndpointSlice>],
    changes: &mut Changes,
) {
    let nothing = endpoints.is_empty();
    let mut wanted: BTreeMap<_, _> = endpoints.iter().map(|e| (identity(e), e)).collect();
    let (labels, owners) = (labels(service), vec![pods::controller_reference(service)]);
    let mut filling: Vec<Filling> = Vec::new();
    for slice in slices {
        let kept = slice.endpoints.iter().filter_map(|e| wanted.remove(&identity(e)).cloned());
        let kept: Vec<Endpoint> = kept.collect();
        let dressed = slice.labels() == &labels && slice.metadata.owner_references.as_ref() == Some(&owners);
        let changed = kept != slice.endpoints || !dressed;
        filling.push(Filling { slice: (*slice).clone(), endpoints: kept, changed });
    }
    let mut rest: Vec<Endpoint> =
        endpoints.iter().filter(|e| wanted.contains_key(&identity(e))).cloned().collect();
    for f in filling.iter_mut().filter(|f| f.changed && !f.endpoints.is_empty()) {
        let room = MOST.saturating_sub(f.endpoints.len()).min(rest.len());
        f.endpoints.extend(rest.drain(..room));
    }
    while !rest.is_empty() {
        let count = rest.len().min(MOST);
        let fits = |f: &&mut Filling| f.endpoints.len() + count <= MOST;
        match filling.iter_mut().filter(fits).max_by_key(|f| f.endpoints.len()) {
            Some(f) => {
                f.endpoints.extend(rest.drain(..count));
                f.changed = true;
            }
            None => changes.create.push(new_slice(service, group, rest.drain(..count).collect())),
        }
    }
    let mut placeholder = nothing;
    for f in filling {
        // Emptied slices go, except one that says there is nothing.
        if f.endpoints.is_empty() && !std::mem::take(&mut placeholder) {
            changes.delete.push(f.slice);
        } else if f.changed {
            let mut slice = (*f.slice).clone();
            slice.endpoints = f.endpoints;
            slice.metadata.labels = Some(labels.clone());
            slice.metadata.owner_references = Some(owners.clone());
            changes.update.push(slice);
        }
    }
    if placeholder {
        changes.create.push(new_slice(service, group, Vec::new()));
    }
}

/// Whether a slice is this controller's, and for which Service.
pub(super) fn service_of(slice: &EndpointSlice) -> Option<&String> {
    let labels = slice.labels();
    (labels.get(MANAGED_BY).map(String::as_str) == Some(MANAGER)).then(|| labels.get(SERVICE)).flatten()
}
