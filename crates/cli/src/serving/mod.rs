//! The embedded store with its server: what `causeway clustermesh-apiserver` and `causeway kvstoremesh` have in
//! common.

mod options;
mod room;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use causeway_daemon::config::{Config, Key, Loader, Origin};
use causeway_daemon::health::Health;
use causeway_daemon::shutdown::Shutdown;
use causeway_kvstore::Store;
use causeway_kvstore::server::Server;
use causeway_kvstore::tls::TlsFiles;
use causeway_mesh::access::{self, Administrators};
use causeway_model::ClusterInfo;
use clap::Args;
use tokio::net::TcpListener;

use crate::names;
pub(crate) use options::store_options;

/// Those of the store are named, and read, as etcd does.
pub(crate) const KEYS: [Key; 7] = [
    Key::with_default("listen", "0.0.0.0:2379"),
    Key::with_default("tls-dir", names::SERVER_CERT_DIR),
    Key::with_default("advertise-client-urls", ""),
    Key::with_default("quota-backend-bytes", "0"),
    Key::with_default("auto-compaction-mode", "periodic"),
    Key::with_default("auto-compaction-retention", "0"),
    Key::with_default("max-request-bytes", "1572864"),
];

#[derive(Debug, Args)]
pub(crate) struct ServingArgs {
    /// Address of the etcd protocol
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Folder with ca.crt, tls.crt and tls.key
    #[arg(long)]
    tls_dir: Option<PathBuf>,
    /// URLs under which clients reach the store, https://HOST:PORT, as its list of members shows them (default: the
    /// address of --listen)
    #[arg(long, value_name = "URLS")]
    advertise_client_urls: Option<String>,
    /// Bytes of keys, values and history in the store after which nothing is added; 0 = 2147483648 (2 GiB),
    /// below 0 = no limit
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    quota_backend_bytes: Option<String>,
    /// What --auto-compaction-retention counts: periodic (time) or revision (default: periodic)
    #[arg(long, value_name = "MODE")]
    auto_compaction_mode: Option<String>,
    /// How much history the store keeps: hours like 1 or a duration like 30m, or a number of revisions; 0 = the last
    /// 100000 revisions, which is also the most that is kept for a time (default: 0)
    #[arg(long, value_name = "RETENTION")]
    auto_compaction_retention: Option<String>,
    /// Bytes of the largest request (default: 1572864)
    #[arg(long, value_name = "BYTES")]
    max_request_bytes: Option<String>,
}

impl ServingArgs {
    /// Adds what was given.
    pub(crate) fn flags(self, loader: Loader) -> Loader {
        loader
            .flag("listen", self.listen)
            .flag("tls-dir", self.tls_dir.as_deref().map(Path::display))
            .flag("advertise-client-urls", self.advertise_client_urls)
            .flag("quota-backend-bytes", self.quota_backend_bytes)
            .flag("auto-compaction-mode", self.auto_compaction_mode)
            .flag("auto-compaction-retention", self.auto_compaction_retention)
            .flag("max-request-bytes", self.max_request_bytes)
    }
}

/// The settings of the store that are not left at their defaults.
pub(crate) fn given(config: &Config) -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|key| key.name).filter(|name| config.settings[name].origin != Origin::Default)
}

/// A store with its server, which is listening already.
pub(crate) struct Serving {
    pub(crate) store: Store,
    server: Server,
    listener: TcpListener,
}

impl Serving {
    /// Opens the port. `trust`: folder with the authorities of others whose clients may read.
    ///
    /// # Errors
    /// When a setting, a certificate or the address cannot be used; the text names it.
    pub(crate) async fn open(
        config: &Config,
        info: &ClusterInfo,
        store: Store,
        trust: Option<PathBuf>,
    ) -> Result<Self> {
        let files = TlsFiles::in_dir(&config.require::<PathBuf>("tls-dir")?);
        // We write to the store in-process, so nobody has to through the network. A peer's authority may
        // sign any common name, also our administrator's; with this it cannot make a writer of this
        // cluster's state. The users follow from the configuration, so a durable store keeps none.
        let rules = access::rules(&info.name, Administrators::Read);
        let server = match trust {
            Some(trust) => Server::mutual_tls_trusting(store.clone(), rules, files, trust),
            None => Server::mutual_tls(store.clone(), rules, files),
        };
        let urls = config.get::<options::ClientUrls>("advertise-client-urls")?.unwrap_or_default();
        let server = server.context("the certificates of the store's server")?;
        let server = server.advertising(names::APISERVER, urls.0);
        let address: SocketAddr = config.require("listen")?;
        let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
        let address = listener.local_addr()?;
        tracing::info!(%address, "the store is served here");
        Ok(Self { store, server, listener })
    }

    /// Serves until the shutdown, and shows the store.
    pub(crate) fn start(self, health: &Health, shutdown: &Shutdown) {
        let Self { store, server, listener } = self;
        let monitor = server.monitor();
        health.metrics.collect_text(move || monitor.metrics());
        health.show("store", {
            let store = store.clone();
            move || {
                serde_json::json!({
                    "revision": store.revision(), "bytes": store.live_bytes(), "full": store.space_alarm(),
                })
            }
        });
        let token = shutdown.token();
        shutdown.spawn(room::keep(store, token.clone()));
        shutdown.spawn_vital("serve", async move {
            server.serve(listener, token).await;
            anyhow::Ok(())
        });
    }
}
