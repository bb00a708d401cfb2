//! EndpointSlices with the endpoints of other clusters (behaviours 2.7).

use std::collections::BTreeMap;

use causeway_model::mcs::{MeshEndpoint, MeshSlice};
use causeway_model::names::{MESH_SLICE_MANAGER, SLICE_MANAGER, SLICE_SERVICE, SOURCE_CLUSTER};
use causeway_model::{ClusterName, Keyed, ServiceKey, SliceKey};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Client;
use kube::api::{Api, PostParams};

use super::operator::{FIELD_MANAGER, exactly, not_deleted, refused};
use crate::Error;
use crate::convert::names;

/// An EndpointSlice of the operator as Kubernetes has it.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnSlice(pub EndpointSlice);

impl OwnSlice {
    /// The Service it belongs to and the cluster its endpoints are in, as its labels say.
    pub fn pair(&self) -> Option<(ServiceKey, ClusterName)> {
        let labels = self.0.metadata.labels.as_ref()?;
        let namespace = self.0.metadata.namespace.clone()?;
        let cluster = ClusterName::new(labels.get(SOURCE_CLUSTER)?.as_str()).ok()?;
        Some((ServiceKey { namespace, name: labels.get(SLICE_SERVICE)?.clone() }, cluster))
    }
}

impl Keyed for OwnSlice {
    type Key = SliceKey;
    fn key(&self) -> SliceKey {
        let (namespace, name) = names(&self.0.metadata);
        SliceKey { namespace, name }
    }
}

/// One write. Endpoints that move between slices are in both for a moment, never in none: slices are
/// written before others go.
#[derive(Debug, Clone, PartialEq)]
pub enum SliceOp {
    /// It is not there.
    Create(EndpointSlice),
    /// It is there and differs.
    Update(EndpointSlice),
    /// It must not be there.
    Delete(EndpointSlice),
}

/// The writes that make what is `there` what is wanted: none where it is.
pub fn plan<'a>(wanted: &[MeshSlice], there: impl IntoIterator<Item = &'a EndpointSlice>) -> Vec<SliceOp> {
    let mut there: BTreeMap<&str, &EndpointSlice> =
        there.into_iter().filter_map(|slice| Some((slice.metadata.name.as_deref()?, slice))).collect();
    let (mut ops, mut deletions) = (vec![], vec![]);
    for slice in wanted {
        let new = object(slice);
        match there.remove(slice.name.as_str()) {
            None => ops.push(SliceOp::Create(new)),
            // The family cannot be changed; names depend on it, so that nobody else's hand would have to be in it.
            Some(old) if old.address_type != new.address_type => {
                deletions.push(SliceOp::Delete(old.clone()));
            }
            Some(old) if is_same(old, &new) => {}
            Some(old) => {
                let mut new = new;
                new.metadata.resource_version = old.metadata.resource_version.clone();
                new.metadata.uid = old.metadata.uid.clone();
                new.metadata.annotations = old.metadata.annotations.clone();
                ops.push(SliceOp::Update(new));
            }
        }
    }
    deletions.extend(there.into_values().map(|old| SliceOp::Delete(old.clone())));
    ops.extend(deletions);
    ops
}

/// Whether everything the operator sets is as it should be.
fn is_same(old: &EndpointSlice, new: &EndpointSlice) -> bool {
    old.metadata.labels == new.metadata.labels
        && old.metadata.owner_references == new.metadata.owner_references
        && old.endpoints == new.endpoints
        && old.ports.as_deref().unwrap_or_default() == new.ports.as_deref().unwrap_or_default()
}

fn object(of: &MeshSlice) -> EndpointSlice {
    let conditions = EndpointConditions { ready: Some(true), serving: Some(true), terminating: Some(false) };
    let set = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let endpoint = |of: &MeshEndpoint| Endpoint {
        addresses: vec![of.address.to_string()],
        conditions: Some(conditions.clone()),
        hostname: set(&of.hostname),
        zone: set(&of.zone),
        hints: (!of.for_zones.is_empty()).then(|| EndpointHints {
            for_zones: Some(of.for_zones.iter().map(|name| ForZone { name: name.clone() }).collect()),
            ..EndpointHints::default()
        }),
        ..Endpoint::default()
    };
    let ports = of.ports.iter().map(|port| EndpointPort {
        name: Some(port.name.clone()),
        protocol: Some(port.protocol.as_str().to_owned()),
        port: Some(port.port.into()),
        ..EndpointPort::default()
    });
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(of.name.clone()),
            namespace: Some(of.service.namespace.clone()),
            labels: Some(of.labels.clone()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Service".to_owned(),
                name: of.service.name.clone(),
                uid: of.service_uid.clone(),
                controller: Some(true),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        address_type: of.family.as_str().to_owned(),
        endpoints: of.endpoints.iter().map(endpoint).collect(),
        ports: Some(ports.collect()),
    }
}

/// Writes EndpointSlices.
#[derive(Clone)]
pub struct SliceWriter {
    client: Client,
}

impl SliceWriter {
    /// A writer through this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Carries the writes out in order. What is written again changes nothing.
    ///
    /// # Errors
    /// [`Error::Foreign`] for a slice of that name that is not the operator's, [`Error::Changed`] when what
    /// was there has changed since, [`Error::Api`] otherwise. What comes before is done then.
    pub async fn carry_out(&self, ops: Vec<SliceOp>) -> Result<(), Error> {
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        for op in ops {
            let (SliceOp::Create(slice) | SliceOp::Update(slice) | SliceOp::Delete(slice)) = &op;
            let (namespace, name) = names(&slice.metadata);
            let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &namespace);
            let what = format!("EndpointSlice {namespace}/{name}");
            let problem = match &op {
                SliceOp::Create(slice) => match api.create(&params, slice).await {
                    Ok(_) => None,
                    Err(kube::Error::Api(status)) if status.code == 409 => {
                        Some(taken(&api, &name, what).await)
                    }
                    Err(error) => refused(what, error),
                },
                SliceOp::Update(slice) => match api.replace(&name, &params, slice).await {
                    Ok(_) => None,
                    // It is gone: what is known of it is old.
                    Err(kube::Error::Api(status)) if status.code == 404 => Some(Error::Changed { what }),
                    Err(error) => refused(what, error),
                },
                SliceOp::Delete(slice) => {
                    let metadata = &slice.metadata;
                    let params = exactly(metadata.uid.as_deref(), metadata.resource_version.as_deref());
                    api.delete(&name, &params).await.err().and_then(|error| not_deleted(what, error))
                }
            };
            problem.map_or(Ok(()), Err)?;
        }
        Ok(())
    }
}

/// Why a name is taken.
async fn taken(api: &Api<EndpointSlice>, name: &str, what: String) -> Error {
    let there = match api.get_opt(name).await {
        Ok(there) => there,
        Err(error) => return Error::api(format!("read {what}"))(error),
    };
    let labels = there.and_then(|there| there.metadata.labels);
    let foreign =
        labels.is_some_and(|labels| labels.get(SLICE_MANAGER).is_none_or(|by| by != MESH_SLICE_MANAGER));
    if foreign { Error::Foreign { what } } else { Error::Changed { what } }
}

#[cfg(test)]
mod tests {
    use causeway_model::mcs::IpFamily;
    use causeway_model::{Protocol, SlicePort};

    use super::*;

    fn wanted(name: &str, ips: &[&str]) -> MeshSlice {
        let endpoints = ips.iter().map(|ip| MeshEndpoint {
            address: ip.parse().unwrap(),
            hostname: String::new(),
            zone: String::new(),
            for_zones: vec![],
        });
        MeshSlice {
            name: name.into(),
            service: ServiceKey { namespace: "shop".into(), name: "web".into() },
            service_uid: "uid".into(),
            cluster: ClusterName::new("cls-b").unwrap(),
            family: IpFamily::V4,
            labels: [(SLICE_SERVICE, "web"), (SOURCE_CLUSTER, "cls-b"), (SLICE_MANAGER, MESH_SLICE_MANAGER)]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            endpoints: endpoints.collect(),
            ports: vec![SlicePort { name: "http".into(), protocol: Protocol::TCP, port: 80 }],
        }
    }

    fn there(slice: &MeshSlice) -> EndpointSlice {
        let mut object = object(slice);
        object.metadata.resource_version = Some("7".into());
        object.metadata.uid = Some("slice-uid".into());
        object
    }

    #[test]
    fn only_what_differs_is_written_and_deletions_come_last() {
        let (a, b, c) = (wanted("a", &["10.2.0.1"]), wanted("b", &["10.2.0.2"]), wanted("c", &["10.2.0.3"]));
        assert_eq!(plan(&[a.clone(), b.clone()], [&there(&a), &there(&b)]), []);
        let more = wanted("b", &["10.2.0.2", "10.2.0.4"]);
        let ops = plan(&[more.clone(), c.clone()], [&there(&a), &there(&b)]);
        let [SliceOp::Update(update), SliceOp::Create(create), SliceOp::Delete(delete)] = ops.as_slice()
        else {
            panic!("{ops:?}")
        };
        assert_eq!(update.metadata.resource_version.as_deref(), Some("7"));
        assert_eq!((update.endpoints.len(), create), (2, &object(&c)));
        assert_eq!(delete, &there(&a));
        // What others add to a slice is no reason to write, what they take away is.
        let mut touched = there(&a);
        touched.metadata.annotations = Some([("x".to_owned(), "y".to_owned())].into());
        assert_eq!(plan(std::slice::from_ref(&a), [&touched]), []);
        touched.metadata.owner_references = None;
        assert!(matches!(plan(&[a], [&touched]).as_slice(), [SliceOp::Update(_)]));
    }

    #[test]
    fn slices_say_whose_they_are_and_no_source_takes_them() {
        let slice = wanted("a", &["10.2.0.1"]);
        let own = OwnSlice(there(&slice));
        assert_eq!(own.pair(), Some((slice.service.clone(), slice.cluster.clone())));
        // Agents and publishers read slices through this: it is none to them.
        assert_eq!(crate::convert::slice(&own.0), None);
        let mut others = own.clone();
        others
            .0
            .metadata
            .labels
            .as_mut()
            .unwrap()
            .insert(SLICE_MANAGER.into(), "endpointslice-controller.k8s.io".into());
        assert!(crate::convert::slice(&others.0).is_some());
    }
}
