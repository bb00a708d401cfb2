//! `causeway install`: the operator's way to [`super::apply`].

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use causeway_model::{ClusterId, ClusterInfo, ClusterName, MaxClusters};
use clap::Args;

use super::{Dns, Network, Options};
use crate::{kubeclient, names};

/// Flags of `causeway install`.
#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    /// Kubeconfig context of the cluster (default: the current context)
    #[arg(long)]
    context: Option<String>,
    /// Kubeconfig (default: $KUBECONFIG or ~/.kube/config)
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Namespace of the installation
    #[arg(short, long, env = "CILIUM_NAMESPACE", default_value = names::NAMESPACE)]
    namespace: String,
    /// Name of the cluster in the mesh (default: the context's name)
    #[arg(long)]
    cluster_name: Option<String>,
    /// Id of the cluster in the mesh: 1 to 255, or to 511; unique
    #[arg(long)]
    cluster_id: u32,
    /// Size of the mesh: 255 or 511, equal in all clusters
    #[arg(long, default_value_t = 255)]
    max_connected_clusters: u32,
    /// Subnet of the mesh server's internal load balancer
    #[arg(long)]
    subnet_id: Option<String>,
    /// IP:PORT of the Kubernetes API for pods that start before services work
    #[arg(long)]
    api_server: Option<SocketAddr>,
    /// Container image
    #[arg(long, default_value = "causeway")]
    image: String,
    /// Cache the other clusters in this cluster's mesh server: one connection per cluster instead of one
    /// per node. Where clusters are connected already, run `causeway clustermesh connect` again
    #[arg(long)]
    enable_kvstoremesh: bool,
    /// Give pods IPv6 addresses beside IPv4; the nodes of the cluster must have a pod CIDR of each
    #[arg(long)]
    enable_ipv6: bool,
    #[command(flatten)]
    network: Network,
    /// Serve the names of the cluster set (*.svc.clusterset.local), and print what CoreDNS needs to know of it
    #[arg(long)]
    enable_dns: bool,
    /// Write endpoints of other clusters as EndpointSlices, for headless global services and whoever else
    /// reads them
    #[arg(long)]
    enable_endpoint_slice_synchronization: bool,
    /// Export Services with ServiceExport and import those of other clusters (multicluster.x-k8s.io); turn it
    /// on in all clusters
    #[arg(long)]
    enable_mcs_api: bool,
}

/// Installs, or brings up to date.
pub(crate) async fn run(args: InstallArgs) -> Result<()> {
    let (client, context) =
        kubeclient::for_context(args.kubeconfig.as_deref(), args.context.as_deref()).await?;
    let max_clusters = MaxClusters::try_from(args.max_connected_clusters)?;
    let name = args.cluster_name.unwrap_or_else(|| context.clone());
    let cluster = ClusterInfo {
        name: ClusterName::new(name).context("give --cluster-name")?,
        id: ClusterId::new(args.cluster_id, max_clusters)?,
        max_clusters,
    };
    let options = Options {
        cluster,
        namespace: args.namespace,
        subnet: args.subnet_id,
        api_server: args.api_server,
        image: args.image,
        kvstoremesh: args.enable_kvstoremesh,
        ipv6: args.enable_ipv6,
        network: args.network,
        dns: args.enable_dns.then_some(Dns { cluster_ip: None, replicas: 2 }),
        endpoint_slices: args.enable_endpoint_slice_synchronization,
        mcs_api: args.enable_mcs_api,
    };
    super::apply(&client, &options).await.with_context(|| format!("install on {context}"))?;
    println!("{context}: installed as {} (id {})", options.cluster.name, options.cluster.id);
    if args.enable_dns {
        let stanza = super::dns::stanza(&client, &options.namespace).await?;
        println!("\nAdd this to the Corefile in ConfigMap kube-system/coredns:\n\n{stanza}");
    }
    Ok(())
}
