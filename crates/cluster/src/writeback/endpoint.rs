//! CiliumEndpoints of the pods of this node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use causeway_model::{Labels, NumericIdentity, PodRef};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use tracing::{debug, info};

use super::FIELD_MANAGER;
use crate::Error;
use crate::convert::names;
use crate::crd::{
    Addressing, CiliumEndpoint, EndpointIdentifiers, EndpointIdentity, EndpointNetworking, EndpointStatus,
    NamedPort,
};

/// Everything a CiliumEndpoint says.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointReport {
    /// The pod.
    pub pod: PodRef,
    /// Its uid; the object goes when the pod goes.
    pub pod_uid: String,
    /// Labels of the pod, copied to the object.
    pub pod_labels: BTreeMap<String, String>,
    /// The runtime's id of the sandbox.
    pub container_id: String,
    /// The interface inside the sandbox, `eth0`.
    pub interface: String,
    /// Number of the endpoint on this node.
    pub endpoint_id: u16,
    /// Its security identity.
    pub identity: NumericIdentity,
    /// The labels the identity stands for.
    pub labels: Labels,
    /// Its addresses, at most one per family.
    pub ips: Vec<IpAddr>,
    /// This node's address: the tunnel endpoint.
    pub node_ip: IpAddr,
    /// Named container ports.
    pub named_ports: Vec<NamedPort>,
}

/// Writes CiliumEndpoints.
#[derive(Clone)]
pub struct EndpointWriter {
    client: Client,
}

impl EndpointWriter {
    /// A writer through this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Creates the object or makes it equal to the report. An object of an earlier pod of the same
    /// name is taken over.
    ///
    /// # Errors
    /// [`Error::Api`] naming the pod.
    pub async fn upsert(&self, report: &EndpointReport) -> Result<(), Error> {
        let api: Api<CiliumEndpoint> = Api::namespaced(self.client.clone(), &report.pod.namespace);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let what = format!("write CiliumEndpoint {}/{}", report.pod.namespace, report.pod.name);
        api.patch(&report.pod.name, &params, &Patch::Apply(&object(report)))
            .await
            .map_err(Error::api(what))?;
        Ok(())
    }

    /// Deletes the object of a pod if it still belongs to this sandbox. The pod may have come back
    /// under the same name, here or on another node; its object then stays.
    ///
    /// # Errors
    /// [`Error::Api`] naming the pod.
    pub async fn remove(&self, pod: &PodRef, container_id: &str) -> Result<(), Error> {
        let api: Api<CiliumEndpoint> = Api::namespaced(self.client.clone(), &pod.namespace);
        let what = format!("read CiliumEndpoint {}/{}", pod.namespace, pod.name);
        let Some(found) = api.get_opt(&pod.name).await.map_err(Error::api(what))? else { return Ok(()) };
        let holder = found.status.external_identifiers.as_ref().map_or("", |ids| ids.container_id.as_str());
        if holder != container_id {
            debug!(pod = %format!("{}/{}", pod.namespace, pod.name), "the endpoint object belongs to a newer sandbox");
            return Ok(());
        }
        delete(&api, &found).await
    }

    /// Deletes the objects that say they live on this node and whose sandbox is not among `alive`:
    /// leftovers of pods that went while the agent was down.
    ///
    /// # Errors
    /// [`Error::Api`] of the first request that fails.
    pub async fn remove_stale(&self, node_ip: IpAddr, alive: &BTreeSet<String>) -> Result<usize, Error> {
        let all: Api<CiliumEndpoint> = Api::all(self.client.clone());
        let list = all.list(&ListParams::default()).await.map_err(Error::api("list CiliumEndpoints"))?;
        let node = node_ip.to_string();
        let mut removed = 0;
        for found in list {
            let here = found.status.networking.as_ref().is_some_and(|networking| networking.node == node);
            let sandbox =
                found.status.external_identifiers.as_ref().map_or("", |ids| ids.container_id.as_str());
            if here && !alive.contains(sandbox) {
                let (namespace, _) = names(&found.metadata);
                delete(&Api::namespaced(self.client.clone(), &namespace), &found).await?;
                removed += 1;
            }
        }
        if removed > 0 {
            info!(removed, "removed CiliumEndpoints of pods that are gone");
        }
        Ok(removed)
    }
}

/// Deletes exactly the object that was read.
async fn delete(api: &Api<CiliumEndpoint>, found: &CiliumEndpoint) -> Result<(), Error> {
    let (namespace, name) = names(&found.metadata);
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: found.metadata.uid.clone(),
            resource_version: found.metadata.resource_version.clone(),
        }),
        ..Default::default()
    };
    match api.delete(&name, &params).await {
        Ok(_) => Ok(()),
        // Gone already, or changed since: then it is no longer ours to delete.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(Error::api(format!("delete CiliumEndpoint {namespace}/{name}"))(error)),
    }
}

fn object(report: &EndpointReport) -> CiliumEndpoint {
    let of = |v6: bool| report.ips.iter().find(|ip| ip.is_ipv6() == v6).map(|ip| ip.to_string());
    let addressing = Addressing { ipv4: of(false).unwrap_or_default(), ipv6: of(true).unwrap_or_default() };
    let mut named_ports = report.named_ports.clone();
    named_ports.sort();
    let mut labels: Vec<String> =
        report.labels.iter().map(|(key, label)| format!("{}:{key}={}", label.source, label.value)).collect();
    labels.sort();
    CiliumEndpoint {
        api_version: CiliumEndpoint::API_VERSION.to_owned(),
        kind: CiliumEndpoint::KIND.to_owned(),
        metadata: ObjectMeta {
            name: Some(report.pod.name.clone()),
            namespace: Some(report.pod.namespace.clone()),
            labels: (!report.pod_labels.is_empty()).then(|| report.pod_labels.clone()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Pod".to_owned(),
                name: report.pod.name.clone(),
                uid: report.pod_uid.clone(),
                ..Default::default()
            }]),
            ..Default::default()
        },
        status: EndpointStatus {
            id: report.endpoint_id.into(),
            external_identifiers: Some(EndpointIdentifiers {
                container_id: report.container_id.clone(),
                cni_attachment_id: format!("{}:{}", report.container_id, report.interface),
                k8s_namespace: report.pod.namespace.clone(),
                k8s_pod_name: report.pod.name.clone(),
                pod_name: format!("{}/{}", report.pod.namespace, report.pod.name),
            }),
            identity: Some(EndpointIdentity { id: report.identity.0.into(), labels }),
            networking: Some(EndpointNetworking {
                addressing: vec![addressing],
                node: report.node_ip.to_string(),
            }),
            state: "ready".to_owned(),
            named_ports,
            ..Default::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_is_cilium_s_and_reads_back() {
        let report = EndpointReport {
            pod: PodRef { namespace: "shop".into(), name: "web-1".into() },
            pod_uid: "uid".into(),
            pod_labels: Default::default(),
            container_id: "abc".into(),
            interface: "eth0".into(),
            endpoint_id: 7,
            identity: NumericIdentity(65_540),
            labels: Labels::parse("k8s:app=web;"),
            ips: vec!["10.1.0.21".parse().unwrap()],
            node_ip: "172.18.0.11".parse().unwrap(),
            named_ports: vec![NamedPort { name: "http".into(), port: 8080, protocol: "TCP".into() }],
        };
        let object = object(&report);
        let json = serde_json::to_value(&object).unwrap();
        assert_eq!(json["status"]["external-identifiers"]["cni-attachment-id"], "abc:eth0");
        assert_eq!(json["status"]["identity"], serde_json::json!({"id": 65540, "labels": ["k8s:app=web"]}));
        assert_eq!(json["status"]["named-ports"][0]["port"], 8080);
        assert_eq!(json["status"]["networking"]["addressing"][0], serde_json::json!({"ipv4": "10.1.0.21"}));
        assert_eq!(json["metadata"]["ownerReferences"][0]["kind"], "Pod");
        let back: CiliumEndpoint = serde_json::from_value(json).unwrap();
        let endpoint = crate::convert::endpoint(&back).unwrap();
        assert_eq!(endpoint.addresses[0].identity, report.identity);
        assert_eq!(endpoint.addresses[0].host_ip, Some(report.node_ip));
    }
}
