//! Puts Causeway on a cluster, or brings an installation up to date, through the Kubernetes API.
//!
//! [`apply`] is idempotent: manifests are applied server-side under one field manager, and
//! certificates that are still good are kept. It is what `causeway lab up` calls for every cluster
//! of a lab; nothing in it knows that the cluster is a lab.

mod command;
mod dns;
mod manifests;
mod network;
mod rbac;
mod secrets;
mod workloads;

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use causeway_model::ClusterInfo;
use k8s_openapi::api::apps::v1::Deployment;
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};

use crate::names;

pub(crate) use command::{InstallArgs, run};
pub(crate) use network::{Network, RoutingMode};

/// Owner of the fields an installation sets.
pub(crate) const FIELD_MANAGER: &str = "causeway-install";

/// What to install.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Name, id and mesh size of the cluster.
    pub cluster: ClusterInfo,
    /// Where everything goes.
    pub namespace: String,
    /// Subnet of the mesh server's internal load balancer; `None` = the cloud's default.
    pub subnet: Option<String>,
    /// Where hostNetwork pods reach the Kubernetes API before services work; `None` = what the
    /// kubelet tells them (`k8sServiceHost` of Cilium's chart).
    pub api_server: Option<SocketAddr>,
    /// Container image of every role.
    pub image: String,
    /// The mesh server caches the other clusters for the agents of this one.
    pub kvstoremesh: bool,
    /// Pods have IPv6 beside IPv4; the cluster must be dual stack.
    pub ipv6: bool,
    /// How packets get to pods of other nodes.
    pub network: Network,
    /// Install the name server; `None` = leave it as it is.
    pub dns: Option<Dns>,
    /// The operator writes endpoints of other clusters as EndpointSlices.
    pub endpoint_slices: bool,
    /// ServiceExports are published, and the operator imports those of other clusters.
    pub mcs_api: bool,
}

impl Options {
    /// Whether the operator has anything to do.
    fn needs_operator(&self) -> bool {
        self.endpoint_slices || self.mcs_api
    }
}

/// How the name server is installed.
#[derive(Debug, Clone)]
pub(crate) struct Dns {
    /// The address by which it is the cluster's own DNS (`kube-dns`); `None` = beside that, for the cluster set only.
    pub cluster_ip: Option<IpAddr>,
    /// How many of it.
    pub replicas: u8,
}

/// Applies everything. Certificates come first, workloads last, so that no pod waits for a Secret.
pub(crate) async fn apply(client: &Client, options: &Options) -> Result<()> {
    options.network.check().map_err(anyhow::Error::msg)?;
    apply_all(client, &[manifests::namespace(options)]).await?;
    if let Some(dns) = &options.dns {
        apply_all(client, &[dns::service(options, dns)]).await?;
    }
    secrets::ensure(client, options).await?;
    let mut list = vec![manifests::config_map(options)];
    list.extend(rbac::all(options));
    list.push(manifests::service(options));
    list.push(workloads::agent(options));
    list.push(workloads::apiserver(options));
    list.extend(options.dns.iter().flat_map(|dns| dns::workload(options, dns)));
    list.extend(options.needs_operator().then(|| workloads::operator(options)));
    apply_all(client, &list).await?;
    if !options.needs_operator() {
        remove_operator(client, options).await?;
    }
    Ok(())
}

/// Takes away the operator of an installation that had it. What it wrote stays, as with Cilium.
async fn remove_operator(client: &Client, options: &Options) -> Result<()> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), &options.namespace);
    match api.delete(names::OPERATOR, &DeleteParams::background()).await {
        Ok(_) => tracing::info!(deployment = names::OPERATOR, "removed"),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(error).with_context(|| format!("delete Deployment {}", names::OPERATOR)),
    }
    Ok(())
}

/// Applies manifests in order.
async fn apply_all(client: &Client, manifests: &[serde_json::Value]) -> Result<()> {
    for manifest in manifests {
        let object: DynamicObject = serde_json::from_value(manifest.clone()).context("build a manifest")?;
        let types = object.types.clone().context("a manifest without kind")?;
        let name = object.metadata.name.clone().context("a manifest without name")?;
        let resource =
            ApiResource::from_gvk(&GroupVersionKind::try_from(&types).context("kind of a manifest")?);
        let api: Api<DynamicObject> = match &object.metadata.namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        api.patch(&name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&object))
            .await
            .with_context(|| format!("apply {} {name}", types.kind))?;
        tracing::debug!(kind = types.kind, name, "applied");
    }
    Ok(())
}

#[cfg(test)]
pub(crate) fn test_options() -> Options {
    use causeway_model::{ClusterId, ClusterName, MaxClusters};
    Options {
        cluster: ClusterInfo {
            name: ClusterName::new("cls-gz3k8a2m").unwrap(),
            id: ClusterId::new(1, MaxClusters::C255).unwrap(),
            max_clusters: MaxClusters::C255,
        },
        namespace: "kube-system".into(),
        subnet: Some("subnet-a1".into()),
        api_server: Some("10.10.0.2:6443".parse().unwrap()),
        image: "causeway".into(),
        kvstoremesh: true,
        ipv6: true,
        network: Network::default(),
        dns: None,
        endpoint_slices: true,
        mcs_api: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_manifest_is_a_typed_object() {
        use k8s_openapi::api::{apps, core, rbac::v1 as rbac_v1};
        fn parse<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
            serde_json::from_value(value).unwrap()
        }
        let o = test_options();
        let daemons: apps::v1::DaemonSet = parse(workloads::agent(&o));
        let pod = daemons.spec.unwrap().template.spec.unwrap();
        assert_eq!(pod.host_network, Some(true));
        let mounted: Vec<_> = pod.containers[0].volume_mounts.iter().flatten().map(|m| &m.name).collect();
        let volumes: Vec<_> = pod.volumes.iter().flatten().map(|v| &v.name).collect();
        assert_eq!(mounted, volumes, "every volume is mounted once");
        let server: apps::v1::Deployment = parse(workloads::apiserver(&o));
        let pod = server.spec.unwrap().template.spec.unwrap();
        assert_eq!(pod.containers[0].volume_mounts.as_ref().unwrap().len(), pod.volumes.unwrap().len());
        let operator: apps::v1::Deployment = parse(workloads::operator(&o));
        let pod = operator.spec.unwrap().template.spec.unwrap();
        assert_eq!(pod.containers[0].volume_mounts.as_ref().unwrap().len(), pod.volumes.unwrap().len());
        let service: core::v1::Service = parse(manifests::service(&o));
        assert_eq!(service.metadata.annotations.unwrap()[crate::names::TKE_SUBNET], "subnet-a1");
        let config: core::v1::ConfigMap = parse(manifests::config_map(&o));
        let data = config.data.unwrap();
        assert_eq!((data["cluster-id"].as_str(), data["enable-kvstoremesh"].as_str()), ("1", "true"));
        assert_eq!((data["enable-ipv4"].as_str(), data["enable-ipv6"].as_str()), ("true", "true"));
        for cluster_ip in [None, Some("10.96.0.10".parse().unwrap())] {
            let how = Dns { cluster_ip, replicas: 2 };
            let [_, role, _, deployment] = <[_; 4]>::try_from(dns::workload(&o, &how)).unwrap();
            let service: core::v1::Service = parse(dns::service(&o, &how));
            assert_eq!(service.spec.unwrap().cluster_ip, cluster_ip.map(|ip| ip.to_string()));
            let deployment: apps::v1::Deployment = parse(deployment);
            let pod = deployment.spec.unwrap().template.spec.unwrap();
            let alone =
                pod.containers[0].command.as_ref().unwrap().iter().any(|arg| arg == "--cluster-domain=");
            assert_eq!((alone, pod.dns_policy.as_deref()), (cluster_ip.is_none(), Some("Default")));
            assert!(!parse::<rbac_v1::ClusterRole>(role).rules.unwrap().is_empty());
        }
        assert_eq!(data["clustermesh-enable-mcs-api"], "true");
        assert_eq!(data["clustermesh-enable-endpoint-sync"], "true");
        let roles = rbac::all(&o).into_iter().filter(|m| m["kind"] == "ClusterRole");
        assert!(roles.map(parse::<rbac_v1::ClusterRole>).all(|r| !r.rules.unwrap().is_empty()));
    }
}
