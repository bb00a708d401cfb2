//! The lab's Kubernetes API server: one per lab cluster, real enough that stock kubectl and kube-rs controllers work with
//! it unmodified. Objects are JSON in an embedded [`causeway_kvstore::Store`]; their resourceVersion is the store's
//! revision.
//!
//! Who may do what: every authenticated user may do everything (a lab has no tenants); without credentials only
//! `/healthz`, `/readyz`, `/livez` and `/version` answer. Started by `causeway lab control-plane` through
//! [`ApiServer::new`] and [`ApiServer::serve`].

pub mod allocate;
pub mod apply;
pub mod authn;
pub mod bootstrap;
pub mod crd;
pub mod defaults;
pub mod discovery;
pub mod error;
pub mod events;
pub mod families;
pub mod gc;
pub mod handlers;
pub mod loopback;
pub mod namespace;
pub mod negotiate;
pub mod object;
pub mod openapi;
pub mod ops;
pub mod options;
pub mod patch;
pub mod pki;
pub mod request;
pub mod resources;
pub mod schema;
pub mod selector;
pub mod server;
pub mod storage;
pub mod table;
pub mod tokens;
pub mod validation;

use std::sync::Arc;

pub use options::{ApiServerOptions, Error, StaticToken};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What all handlers share.
pub struct Api {
    /// The objects.
    pub storage: storage::Storage,
    /// The resources being served.
    pub catalog: resources::Catalog,
    /// Service addresses and node ports in use.
    pub allocator: allocate::Allocator,
    /// Tokens: static ones and those of service accounts.
    pub tokens: tokens::Tokens,
    /// What the server was started with.
    pub options: ApiServerOptions,
    /// Held while a write that must see all others of its kind happens (allocation, catalogue).
    pub serial: std::sync::Mutex<()>,
}

/// A Kubernetes API server. Cheap to clone.
#[derive(Clone)]
pub struct ApiServer {
    api: Arc<Api>,
    tls: Arc<rustls::ServerConfig>,
}

impl ApiServer {
    /// Prepares a server: reads what the store already holds and creates what every cluster has (namespaces, the
    /// `kubernetes` Service).
    ///
    /// # Errors
    /// For certificates or keys that do not parse, a service CIDR without room, or a store that fails.
    pub fn new(options: ApiServerOptions) -> Result<Self, Error> {
        let tls = server::tls_config(&options)?;
        let storage = storage::Storage::new(options.store.clone());
        let api = Api {
            allocator: allocate::Allocator::new(options.service_cidr, options.service_cidr_v6)?,
            tokens: tokens::Tokens::new(&options),
            catalog: resources::Catalog::default(),
            serial: std::sync::Mutex::new(()),
            storage,
            options,
        };
        crd::reload(&api)?;
        allocate::restore(&api)?;
        bootstrap::bootstrap(&api)?;
        Ok(ApiServer { api: Arc::new(api), tls })
    }

    /// Serves on all listeners until `shutdown`; runs the garbage collector and the namespace controller meanwhile.
    ///
    /// # Errors
    /// None at present besides a listener that fails for good.
    pub async fn serve(&self, listeners: Vec<TcpListener>, shutdown: CancellationToken) -> Result<(), Error> {
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(gc::run(self.api.clone(), shutdown.clone()));
        tasks.spawn(namespace::run(self.api.clone(), shutdown.clone()));
        tasks.spawn(server::compact(self.api.clone(), shutdown.clone()));
        for listener in listeners {
            tasks.spawn(server::accept(self.api.clone(), self.tls.clone(), listener, shutdown.clone()));
        }
        while tasks.join_next().await.is_some() {}
        Ok(())
    }
}
