//! One API server on loopback with an authority of its own: for tests, examples and benchmarks that need Kubernetes
//! objects and no lab.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::Duration;

use causeway_kvstore::{Store, StoreOptions};
use tokio_util::sync::CancellationToken;

use super::pki::{Authority, kubeconfig};
use super::{ApiServer, ApiServerOptions};
use crate::error::Result;
use crate::runtime::Context;

/// The names a client may know it by, besides its address.
const NAMES: [&str; 4] = ["127.0.0.1", "localhost", "kubernetes", "kubernetes.default.svc"];

/// A server that is about to be served; its port is taken already.
pub struct Loopback {
    /// What it will be started with; can be changed until then. Nothing is kept when it ends.
    pub options: ApiServerOptions,
    /// `https://127.0.0.1:PORT`.
    pub url: String,
    /// A kubeconfig (YAML) of an administrator; its only context has the name of the cluster.
    pub kubeconfig: String,
    listener: TcpListener,
}

impl Loopback {
    /// For a cluster of this name, on a port, or on any free one with 0.
    ///
    /// # Errors
    /// If the port is taken, or no certificate can be made.
    pub fn new(cluster: &str, port: u16) -> Result<Self> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).what(|| format!("listen on port {port}"))?;
        listener.set_nonblocking(true).what(|| "listen".into())?;
        let port = listener.local_addr().what(|| "listen".into())?.port();
        let authority = Authority::new("kubernetes")?;
        let server = authority.server(&NAMES)?;
        let admin = authority.client("admin", "system:masters")?;
        let url = format!("https://127.0.0.1:{port}");
        let kubeconfig = kubeconfig(cluster, &url, &authority.pair.cert, &admin);
        let options = ApiServerOptions {
            store: Store::new(StoreOptions::default()),
            cluster_name: cluster.to_owned(),
            service_cidr: "10.96.0.0/16".parse().expect("a legal prefix"),
            service_cidr_v6: None,
            cert_pem: server.cert,
            key_pem: server.key,
            client_ca_pem: authority.pair.cert.clone(),
            advertise: Ipv4Addr::LOCALHOST.into(),
            advertise_port: port,
            token_secret: rand::random::<[u8; 32]>().to_vec(),
            static_tokens: vec![],
            compact_every: Duration::from_secs(3600),
        };
        Ok(Self { options, url, kubeconfig, listener })
    }

    /// Writes the kubeconfig to a file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_kubeconfig(&self, path: &Path) -> Result<()> {
        Ok(std::fs::write(path, &self.kubeconfig).what(|| format!("write {}", path.display()))?)
    }

    /// Serves until `shutdown`, as soon as the future is polled.
    ///
    /// # Errors
    /// Those of [`ApiServer::new`]; and later, of [`ApiServer::serve`].
    pub fn serve(
        self,
        shutdown: CancellationToken,
    ) -> Result<impl Future<Output = Result<()>> + Send + 'static> {
        let (server, listener) = (ApiServer::new(self.options)?, self.listener);
        Ok(async move {
            let listener = tokio::net::TcpListener::from_std(listener).what(|| "listen".into())?;
            Ok(server.serve(vec![listener], shutdown).await?)
        })
    }
}
