//! The process `causeway lab control-plane`: a cluster's API server, its controllers, and the certificates of both.

use std::fs;
use std::os::fd::RawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use causeway_kvstore::{Store, StoreOptions};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::apiserver::pki::{Authority, kubeconfig};
use crate::apiserver::{ApiServer, ApiServerOptions};
use crate::controllers::{self, ControllersConfig};
use crate::error::{Error, Result};
use crate::fabric::lb::Frontends;
use crate::runtime::{Context, spawn};
use crate::topology::Plan;
use crate::topology::plan::{API_PORT, ClusterPlan};

/// How long a node may be silent before it counts as unreachable, as in Kubernetes.
const NODE_GRACE: Duration = Duration::from_secs(40);
/// How long old revisions of objects stay readable.
const COMPACT: Duration = Duration::from_secs(300);

/// Serves a cluster's Kubernetes API at its address in the VPC and on an inherited listener (the host's 127.0.0.1), and
/// runs its controllers. Writes the kubeconfigs of the host and of the nodes when it can answer.
///
/// # Errors
/// If certificates, listeners or the server fail.
pub async fn run(
    state: &Path,
    plan: &Plan,
    cluster: &str,
    listener: RawFd,
    shutdown: CancellationToken,
) -> Result<()> {
    let cluster = plan
        .cluster(cluster)
        .ok_or_else(|| Error::refused(format!("the topology has no cluster {cluster}")))?;
    let host = std::net::TcpListener::from(spawn::inherited(listener)?);
    host.set_nonblocking(true).what(|| "use the inherited listener".into())?;
    let host = TcpListener::from_std(host).what(|| "use the inherited listener".into())?;
    let port = host.local_addr().what(|| "use the inherited listener".into())?.port();
    let address = cluster.api_server;
    let inside =
        TcpListener::bind((address, API_PORT)).await.what(|| format!("listen on {address}:{API_PORT}"))?;

    let ca = Authority::new("kubernetes")?;
    let service = cluster.service_cidr.hosts().next().unwrap_or(cluster.service_cidr.addr()).to_string();
    let address_text = address.to_string();
    let names = [
        "127.0.0.1",
        "localhost",
        &address_text,
        &service,
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let server = ca.server(&names)?;
    let api = ApiServer::new(ApiServerOptions {
        store: Store::new(StoreOptions::default()),
        cluster_name: cluster.name.clone(),
        service_cidr: cluster.service_cidr,
        service_cidr_v6: cluster.service_cidr_v6,
        cert_pem: server.cert,
        key_pem: server.key,
        client_ca_pem: ca.pair.cert.clone(),
        advertise: address.into(),
        advertise_port: API_PORT,
        token_secret: rand::random::<[u8; 32]>().to_vec(),
        static_tokens: Vec::new(),
        compact_every: COMPACT,
    })?;
    let serving = tokio::spawn({
        let (api, shutdown) = (api.clone(), shutdown.clone());
        async move { api.serve(vec![host, inside], shutdown).await }
    });
    write_kubeconfigs(state, cluster, &ca, port)?;
    info!(cluster = cluster.name, %address, port, "API server");

    let own = state.join("clusters").join(&cluster.name).join("controllers.kubeconfig");
    let client = crate::kubeconfig::client(&own, &cluster.name).await?;
    let config = ControllersConfig {
        cluster: cluster.name.clone(),
        pod_cidr: cluster.pod_cidr,
        node_cidr_mask: cluster.node_cidr_mask,
        pod_cidr_v6: cluster.pod_cidr_v6,
        subnets: cluster.pools.clone(),
        public: Some(cluster.public_pool),
        load_balancers: Frontends::dir(state),
        node_grace: NODE_GRACE,
    };
    let controllers = tokio::spawn(controllers::run(client, config, shutdown.clone()));
    let (served, controlled) = tokio::join!(serving, controllers);
    served.map_err(|e| Error::refused(format!("the API server panicked: {e}")))??;
    Ok(controlled.map_err(|e| Error::refused(format!("the controllers panicked: {e}")))??)
}

/// The host's kubeconfig says 127.0.0.1, which this process cannot reach from its namespace; controllers use the address
/// in the VPC.
fn write_kubeconfigs(state: &Path, cluster: &ClusterPlan, ca: &Authority, port: u16) -> Result<()> {
    let inside = format!("https://{}:{API_PORT}", cluster.api_server);
    for node in &cluster.nodes {
        let user = ca.client(&format!("system:node:{}", node.name), "system:nodes")?;
        let text = kubeconfig(&cluster.name, &inside, &ca.pair.cert, &user);
        secret(&state.join("nodes").join(&cluster.name).join(&node.name).join("kubeconfig"), &text)?;
    }
    let dir = state.join("clusters").join(&cluster.name);
    let user = ca.client("system:kube-controller-manager", "system:masters")?;
    secret(&dir.join("controllers.kubeconfig"), &kubeconfig(&cluster.name, &inside, &ca.pair.cert, &user))?;
    secret(&dir.join("ca.crt"), &ca.pair.cert)?;
    // Last, since it is what others wait for.
    let user = ca.client("admin", "system:masters")?;
    let host = format!("https://127.0.0.1:{port}");
    secret(&dir.join("kubeconfig"), &kubeconfig(&cluster.name, &host, &ca.pair.cert, &user))
}

/// Writes a file only root may read, as one step.
fn secret(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let temporary = path.with_extension("new");
    let file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary);
    let mut file = file.what(|| format!("write {}", temporary.display()))?;
    file.write_all(text.as_bytes()).what(|| format!("write {}", temporary.display()))?;
    Ok(fs::rename(&temporary, path).what(|| format!("replace {}", path.display()))?)
}
