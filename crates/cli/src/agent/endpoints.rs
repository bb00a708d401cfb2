//! The pods of this node: addresses, identities, CiliumEndpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use causeway_cluster::crd::NamedPort;
use causeway_cluster::pod_labels::pod_labels;
use causeway_cluster::source;
use causeway_cluster::writeback::{EndpointReport, EndpointWriter, IdentityAllocator, KubeIdentities};
use causeway_datapath::cni::{AddResult, Attachment, CniError, Container, code};
use causeway_datapath::ipam::Pools;
use causeway_datapath::{Endpoint, EndpointSpec};
use causeway_model::{ClusterInfo, NumericIdentity, PodRef};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::Client;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::node::NodeFacts;
use super::owner::Owner;

/// How long an ADD waits for the identities of the cluster to be listed.
const LISTED: Duration = Duration::from_secs(10);
/// How often what could not be written to Kubernetes is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// The endpoints of this node.
pub(super) struct Endpoints {
    client: Client,
    info: ClusterInfo,
    node_name: String,
    node_ip: IpAddr,
    mtu: u32,
    owner: Owner,
    allocator: IdentityAllocator<KubeIdentities>,
    writer: EndpointWriter,
    /// Addresses given out; also what makes ADD and DEL happen one after the other.
    pools: Mutex<Pools>,
    /// Sandboxes whose CiliumEndpoint could not be written or removed.
    unwritten: Mutex<BTreeSet<(PodRef, String)>>,
}

impl Endpoints {
    pub(super) fn new(
        client: &Client,
        info: ClusterInfo,
        facts: &NodeFacts,
        pools: Pools,
        mtu: u32,
        owner: Owner,
    ) -> Self {
        let range = info.id.identities(info.max_clusters);
        Self {
            client: client.clone(),
            info,
            node_name: facts.name.clone(),
            node_ip: IpAddr::V4(facts.node_ip),
            mtu,
            owner,
            allocator: IdentityAllocator::new(KubeIdentities::new(client.clone()), range),
            writer: EndpointWriter::new(client.clone()),
            pools: Mutex::new(pools),
            unwritten: Mutex::default(),
        }
    }

    /// Takes over the pods of an earlier agent.
    pub(super) async fn restore(&self) -> Result<()> {
        let endpoints = self.all().await?;
        let mut pools = self.pools.lock().await;
        for endpoint in endpoints.values() {
            if let Err(error) = pools.claim(&endpoint.ips) {
                tracing::warn!(pod = endpoint.pod_name, %error, "an adopted endpoint has an unexpected address");
            }
        }
        if !endpoints.is_empty() {
            tracing::info!(endpoints = endpoints.len(), "pods of an earlier agent are adopted");
        }
        Ok(())
    }

    /// Follows identities, pods and namespaces until cancelled: labels decide identities.
    pub(super) async fn follow(self: std::sync::Arc<Self>, shutdown: CancellationToken) -> Result<()> {
        let config = watcher::Config::default().fields(&format!("spec.nodeName={}", self.node_name));
        let pods = watcher(Api::<Pod>::all(self.client.clone()), config).default_backoff().applied_objects();
        let namespaces = watcher(Api::<Namespace>::all(self.client.clone()), watcher::Config::default())
            .default_backoff()
            .applied_objects();
        let mut identities = source::identities(self.client.clone()).boxed();
        let mut retry = tokio::time::interval(RETRY);
        let mut swept = false;
        tokio::pin!(pods, namespaces);
        loop {
            tokio::select! {
                Some(event) = identities.next() => self.allocator.observe(event),
                Some(Ok(pod)) = pods.next() => self.refresh(|e| Some(&e.pod_uid) == pod.metadata.uid.as_ref()).await?,
                Some(Ok(namespace)) = namespaces.next() => {
                    let name = namespace.metadata.name.unwrap_or_default();
                    self.refresh(|e| e.pod_namespace == name).await?;
                }
                _ = retry.tick() => {
                    swept = swept || self.sweep().await;
                    self.write_again().await?;
                }
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    /// Removes CiliumEndpoints of pods that went while no agent ran; false to try again.
    async fn sweep(&self) -> bool {
        let alive: BTreeSet<String> = match self.all().await {
            Ok(all) => all.into_keys().collect(),
            Err(_) => return false,
        };
        self.writer
            .remove_stale(self.node_ip, &alive)
            .await
            .inspect_err(|error| tracing::warn!(%error, "stale CiliumEndpoints cannot be removed yet"))
            .is_ok()
    }

    async fn all(&self) -> Result<BTreeMap<String, Endpoint>> {
        self.owner.run(|datapath| datapath.endpoints().clone()).await
    }

    /// Recomputes the identities of some endpoints; what fails is tried again.
    async fn refresh(&self, concerned: impl Fn(&Endpoint) -> bool) -> Result<()> {
        for endpoint in self.all().await?.into_values().filter(|e| concerned(e)) {
            if let Err(error) = self.identify(&endpoint).await {
                tracing::warn!(
                    pod = endpoint.pod_name,
                    error = format!("{error:#}"),
                    "its identity is not up to date"
                );
                self.unwritten.lock().await.insert((endpoint.pod(), endpoint.container_id));
            }
        }
        Ok(())
    }

    async fn write_again(&self) -> Result<()> {
        let waiting = std::mem::take(&mut *self.unwritten.lock().await);
        let all = self.all().await?;
        for (pod, container_id) in waiting {
            let done = match all.get(&container_id) {
                Some(endpoint) => self.identify(endpoint).await.map(drop),
                None => self.writer.remove(&pod, &container_id).await.map_err(Into::into),
            };
            if done.is_err() {
                self.unwritten.lock().await.insert((pod, container_id));
            }
        }
        Ok(())
    }

    /// Gives an endpoint the identity of its pod's labels and writes its CiliumEndpoint.
    async fn identify(&self, endpoint: &Endpoint) -> Result<NumericIdentity> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &endpoint.pod_namespace);
        let pod = pods.get(&endpoint.pod_name).await.context("read the pod")?;
        if !endpoint.pod_uid.is_empty() && pod.metadata.uid.as_deref() != Some(&endpoint.pod_uid) {
            return Err(anyhow!("another pod has its name now"));
        }
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace = namespaces.get(&endpoint.pod_namespace).await.context("read the namespace")?;
        let labels = pod_labels(&self.info.name, &pod, &namespace);
        let identity = self.allocator.allocate(&labels).await.context("allocate the identity")?;
        let container_id = endpoint.container_id.clone();
        self.owner.run(move |datapath| datapath.set_identity(&container_id, identity)).await??;
        let report = EndpointReport {
            pod: endpoint.pod(),
            pod_uid: pod.metadata.uid.clone().unwrap_or_default(),
            pod_labels: pod.metadata.labels.clone().unwrap_or_default(),
            container_id: endpoint.container_id.clone(),
            interface: endpoint.ifname.clone(),
            endpoint_id: endpoint.id,
            identity,
            labels,
            ips: endpoint.ips.iter().collect(),
            node_ip: self.node_ip,
            named_ports: named_ports(&pod),
        };
        self.writer.upsert(&report).await.context("write the CiliumEndpoint")?;
        Ok(identity)
    }

    /// CNI ADD: the pod can be reached, under its identity, when this returns.
    pub(super) async fn add(&self, container: &Container, version: &str) -> Result<AddResult, CniError> {
        let again =
            |what: &str, error: anyhow::Error| CniError::new(code::TRY_AGAIN, what, format!("{error:#}"));
        if container.pod_name.is_empty() || container.pod_namespace.is_empty() {
            let details = "K8S_POD_NAMESPACE and K8S_POD_NAME are not in CNI_ARGS";
            return Err(CniError::new(code::INVALID_ENVIRONMENT, "the pod is not named", details));
        }
        self.listed().await?;
        let mut pools = self.pools.lock().await;
        let gateways = pools.internal_ips();
        let known = self.all().await.map_err(|e| again("the datapath does not answer", e))?;
        let ips = match known.get(&container.container_id) {
            Some(endpoint) => endpoint.ips,
            None => pools.allocate().map_err(|e| again("no address for the pod", e.into()))?,
        };
        let spec = EndpointSpec {
            container_id: container.container_id.clone(),
            ifname: container.ifname.clone(),
            netns: container.netns.clone().into(),
            ips,
            pod: PodRef { namespace: container.pod_namespace.clone(), name: container.pod_name.clone() },
            pod_uid: container.pod_uid.clone(),
        };
        let added = self.owner.run(move |datapath| datapath.add_endpoint(&spec)).await;
        let endpoint = match added.and_then(|result| result.map_err(Into::into)) {
            Ok(endpoint) => endpoint,
            Err(error) => {
                pools.release(&ips);
                return Err(again("the pod cannot be connected", error));
            }
        };
        drop(pools);
        match self.identify(&endpoint).await {
            Ok(identity) => {
                tracing::info!(pod = %format!("{}/{}", endpoint.pod_namespace, endpoint.pod_name), %ips, %identity, "pod connected");
                Ok(AddResult::new(version, &endpoint, &gateways, self.mtu))
            }
            Err(error) => {
                let _ = self.delete(&container.container_id).await;
                Err(again("the pod has no identity", error))
            }
        }
    }

    /// Waits for the identities of the cluster, so that known label sets keep their numbers.
    async fn listed(&self) -> Result<(), CniError> {
        let deadline = tokio::time::Instant::now() + LISTED;
        while !self.allocator.is_synced() {
            if tokio::time::Instant::now() > deadline {
                let details = "CiliumIdentities cannot be listed; is the Kubernetes API reachable?";
                return Err(CniError::new(code::TRY_AGAIN, "identities are not known yet", details));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// CNI DEL; an unknown sandbox is fine.
    pub(super) async fn delete(&self, container_id: &str) -> Result<(), CniError> {
        let failed = |error: anyhow::Error| {
            CniError::new(code::TRY_AGAIN, "the pod cannot be disconnected", format!("{error:#}"))
        };
        let mut pools = self.pools.lock().await;
        let id = container_id.to_owned();
        let removed = self.owner.run(move |datapath| datapath.remove_endpoint(&id)).await;
        let Some(endpoint) = removed.and_then(|r| r.map_err(Into::into)).map_err(failed)? else {
            return Ok(());
        };
        pools.release(&endpoint.ips);
        drop(pools);
        if let Err(error) = self.writer.remove(&endpoint.pod(), container_id).await {
            tracing::warn!(pod = endpoint.pod_name, %error, "its CiliumEndpoint is removed later");
            self.unwritten.lock().await.insert((endpoint.pod(), container_id.to_owned()));
        }
        tracing::info!(pod = %format!("{}/{}", endpoint.pod_namespace, endpoint.pod_name), ips = %endpoint.ips, "pod disconnected");
        Ok(())
    }

    /// CNI CHECK.
    pub(super) async fn check(&self, container_id: &str) -> Result<(), CniError> {
        let id = container_id.to_owned();
        let checked = self.owner.run(move |datapath| datapath.check_endpoint(&id)).await;
        checked.and_then(|result| result.map_err(Into::into)).map_err(|e| {
            CniError::new(code::CHECK_FAILED, "the pod is not connected as it should be", format!("{e:#}"))
        })
    }

    /// CNI GC: disconnects every sandbox that is not among the valid ones.
    pub(super) async fn collect(&self, valid: &[Attachment]) -> Result<(), CniError> {
        let all = self
            .all()
            .await
            .map_err(|e| CniError::new(code::TRY_AGAIN, "cannot collect", format!("{e:#}")))?;
        let valid: BTreeSet<&str> = valid.iter().map(|a| a.container_id.as_str()).collect();
        for container_id in all.keys().filter(|id| !valid.contains(id.as_str())) {
            self.delete(container_id).await?;
        }
        Ok(())
    }
}

/// The named ports of a pod's containers.
fn named_ports(pod: &Pod) -> Vec<NamedPort> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|port| {
            Some(NamedPort {
                name: port.name.clone()?,
                port: u16::try_from(port.container_port).ok()?,
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
            })
        })
        .collect()
}
