//! The store on the wire, as etcd v3 serves it: gRPC, mutual TLS, permissions by common name.

mod access;
mod auth;
mod cluster;
mod connection;
mod cork;
mod health;
mod http;
mod kv;
mod lease;
mod maintenance;
mod methods;
mod metrics;
mod reflection;
mod session;
mod snapshot;
mod unary;
mod watch;
mod watch_stream;

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::pb::{
    auth_server::AuthServer, cluster_server::ClusterServer, health::health_server::HealthServer,
    lease_server::LeaseServer, maintenance_server::MaintenanceServer,
};
use crate::tls::{ReloadingServer, common_name};
use crate::{Store, tls};
pub use access::{Access, KeptAuth};
pub use http::Monitor;
use metrics::{Metered, Metrics};
use session::Session;

/// The version told to clients that ask: the etcd release whose behaviour this server has.
pub const ETCD_VERSION: &str = "3.5.0";

/// Worker threads for the runtime of a process that serves a store: half of the processors. Turns are short, and where
/// processors are few, waking one more thread costs more than it does at the same time.
pub fn worker_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |processors| processors.get().div_ceil(2))
}

/// The protocols offered; HTTP/1.1 is for `/version`, `/health` and `/metrics` only.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// How long a client may take for the TLS handshake.
const HANDSHAKE: std::time::Duration = std::time::Duration::from_secs(10);
/// How long connections may take to end after shutdown.
const GRACE: std::time::Duration = std::time::Duration::from_secs(2);

/// A store with who may use it, ready to be served on any number of listeners.
#[derive(Debug, Clone)]
pub struct Server {
    store: Store,
    access: Access,
    tls: Option<Arc<ReloadingServer>>,
    metrics: Arc<Metrics>,
    name: String,
    advertised: Vec<String>,
}

impl Server {
    fn new(store: Store, access: Access, tls: Option<Arc<ReloadingServer>>) -> Self {
        let (metrics, name) = (Metrics::new(), "causeway".to_owned());
        Self { store, access, tls, metrics, name, advertised: Vec::new() }
    }

    /// Serves without TLS. Every caller is anonymous, so `access` decides for all alike.
    pub fn plaintext(store: Store, access: Access) -> Self {
        Self::new(store, access, None)
    }

    /// Serves over mutual TLS; the files are read again when they change.
    ///
    /// # Errors
    /// [`tls::TlsError`] when the files cannot be used now.
    pub fn mutual_tls(store: Store, access: Access, files: tls::TlsFiles) -> Result<Self, tls::TlsError> {
        let tls = Some(Arc::new(ReloadingServer::new(files, &ALPN, None)?));
        Ok(Self::new(store, access, tls))
    }

    /// The same, for clients of more authorities than our own: those in the `*.crt` files of
    /// `trust`, which may change at any time too.
    ///
    /// # Errors
    /// [`tls::TlsError`] when our own files cannot be used now.
    pub fn mutual_tls_trusting(
        store: Store,
        access: Access,
        files: tls::TlsFiles,
        trust: std::path::PathBuf,
    ) -> Result<Self, tls::TlsError> {
        let tls = Some(Arc::new(ReloadingServer::new(files, &ALPN, Some(trust))?));
        Ok(Self::new(store, access, tls))
    }

    /// The name of the only member and the URLs under which its clients reach it. Without this the
    /// name is `causeway`, and the URL that of the listener.
    #[must_use]
    pub fn advertising(mut self, name: impl Into<String>, client_urls: Vec<String>) -> Self {
        (self.name, self.advertised) = (name.into(), client_urls);
        self
    }

    /// The server as monitoring sees it.
    pub fn monitor(&self) -> Monitor {
        Monitor { store: self.store.clone(), metrics: self.metrics.clone() }
    }

    /// Accepts connections until cancelled; then lets the running ones end for a short while.
    /// Leases run out only while someone calls [`Store::run_leases`], and history is compacted by
    /// itself only while someone calls [`Store::run_compaction`]; this does both.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        let tasks = TaskTracker::new();
        tasks.spawn(self.store.clone().run_leases(shutdown.clone()));
        tasks.spawn(self.store.clone().run_compaction(shutdown.clone()));
        let services = self.services(&listener, &shutdown);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            match accepted {
                Ok((socket, peer)) => {
                    let _ = socket.set_nodelay(true);
                    let server = self.clone();
                    let services = services.clone();
                    let shutdown = shutdown.clone();
                    tasks.spawn(async move {
                        if let Err(error) = server.connection(socket, services, shutdown).await {
                            tracing::debug!(%peer, %error, "connection ended");
                        }
                    });
                }
                Err(error) => {
                    // Out of descriptors: trying again at once would only spin.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
        tasks.close();
        if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
            tracing::debug!("connections were cut at shutdown");
        }
    }

    async fn connection(
        self,
        socket: tokio::net::TcpStream,
        services: axum::Router,
        shutdown: CancellationToken,
    ) -> Result<(), connection::Error> {
        let socket = Metered { stream: socket, metrics: self.metrics.clone() };
        let session = |user: Option<&str>| {
            let (store, caller) = (self.store.clone(), self.access.caller(user));
            Session::new(store, caller, self.metrics.clone(), services, shutdown.clone())
        };
        match self.tls.clone() {
            None => connection::serve(socket, session(None), shutdown).await,
            Some(tls) => {
                let handshake = TlsAcceptor::from(tls.current()).accept(socket);
                let stream = tokio::time::timeout(HANDSHAKE, handshake).await??;
                let user = stream.get_ref().1.peer_certificates().and_then(|c| common_name(c.first()?));
                connection::serve(stream, session(user.as_deref()), shutdown).await
            }
        }
    }

    /// Every service but `KV` and `Watch`, for all connections of a listener.
    fn services(&self, listener: &TcpListener, shutdown: &CancellationToken) -> axum::Router {
        let store = &self.store;
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let client_urls = match (&self.advertised, listener.local_addr()) {
            (advertised, Ok(address)) if advertised.is_empty() => vec![format!("{scheme}://{address}")],
            (advertised, _) => advertised.clone(),
        };
        let cluster = cluster::Cluster { store: store.clone(), name: self.name.clone(), client_urls };
        let health = health::Health { store: store.clone(), shutdown: shutdown.clone() };
        let services = tonic::service::Routes::new(LeaseServer::new(lease::Lease { store: store.clone() }))
            .add_service(ClusterServer::new(cluster))
            .add_service(MaintenanceServer::new(maintenance::Maintenance { store: store.clone() }))
            .add_service(AuthServer::new(auth::AuthService { store: store.clone() }))
            .add_service(HealthServer::new(health))
            .add_service(reflection::v1())
            .add_service(reflection::v1alpha())
            .into_axum_router();
        http::route(services, self.monitor())
    }
}
