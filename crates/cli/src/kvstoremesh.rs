//! `causeway kvstoremesh`: caches what the other clusters publish in a store of its own, for the agents of
//! this cluster. Composition only.

use std::time::Duration;

use anyhow::Result;
use causeway_daemon::config::Key;
use causeway_daemon::health::Health;
use causeway_daemon::metrics::Metrics;
use causeway_daemon::shutdown::Shutdown;
use causeway_kvstore::Store;
use clap::Args;

use crate::caching::{self, CachingArgs};
use crate::serving::{self, Serving, ServingArgs, store_options};
use crate::settings::{self, DaemonArgs, cluster_info};

/// How often the heartbeat is written (mesh-protocol 3.5).
const HEARTBEAT: Duration = Duration::from_secs(60);
/// How long tasks may take to end.
const GRACE: Duration = Duration::from_secs(5);

const KEYS: [Key; 1] = [Key::with_default("health-listen", "0.0.0.0:9881")];

const HELP: &str =
    "One connection per remote cluster instead of one per node: the agents read this store, whose
certificate names are clustermesh-apiserver.NAMESPACE.svc and the like. The clusters are the files of
--clustermesh-config, as in Cilium: each an etcd client configuration, named like its cluster. What is cached
of a cluster stays while it cannot be reached, and goes three minutes after its file.";

/// `causeway kvstoremesh`
#[derive(Debug, Args)]
#[command(after_help = format!("{HELP}\n\n{}", settings::HELP))]
pub(crate) struct KvstoremeshArgs {
    #[command(flatten)]
    daemon: DaemonArgs,
    #[command(flatten)]
    serving: ServingArgs,
    #[command(flatten)]
    caching: CachingArgs,
}

/// Caches and serves until told to stop.
pub(crate) async fn run(args: KvstoremeshArgs) -> Result<()> {
    let config = args.daemon.load(&[&KEYS, &serving::KEYS, &caching::KEYS], |loader| {
        args.caching.flags(args.serving.flags(loader))
    })?;
    let info = cluster_info(&config)?;
    let shutdown = Shutdown::on_signals()?;
    let health = Health::new(Metrics::new("kvstoremesh", env!("CARGO_PKG_VERSION")));
    let health_listener = Health::listen(config.require("health-listen")?).await?;

    let store = Store::new(store_options(&config)?);
    let serving = Serving::open(&config, &info, store.clone(), None).await?;
    caching::start(&config, &info, store, Some(HEARTBEAT), &health, &shutdown).await?;
    serving.start(&health, &shutdown);
    shutdown.spawn_vital("health", health.serve(health_listener, shutdown.token()));
    tracing::info!(cluster = %info.name, id = %info.id, "caching the other clusters");
    shutdown.finish(GRACE).await;
    Ok(())
}
