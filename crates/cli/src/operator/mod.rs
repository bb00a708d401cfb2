//! `causeway operator`: what comes of other clusters written into this cluster's Kubernetes. Composition only.
//!
//! ```text
//! Kubernetes ─► cluster::source ─┐
//! other clusters ─► mesh::remote ┴► mesh::slices, mesh::mcs (state) ─► cluster::writeback ─► Kubernetes
//! ```
//!
//! Of several replicas the one works that holds the Lease; the others stand by.

pub(crate) mod board;
mod queue;
mod sources;
mod state;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_cluster::crd;
use causeway_cluster::lease::{Elector, Timing};
use causeway_cluster::source::Served;
use causeway_daemon::config::{Config, Key};
use causeway_daemon::duration::GoDuration;
use causeway_daemon::health::Health;
use causeway_daemon::metrics::Metrics;
use causeway_daemon::shutdown::Shutdown;
use causeway_mesh::keys::Kind;
use causeway_mesh::mcs::Imports;
use causeway_mesh::remote::{self, RemoteClusters};
use causeway_model::mcs::IpFamily;
use clap::Args;
use tokio_util::sync::CancellationToken;

use crate::metrics::mcs::Mcs;
use crate::metrics::remotes::Remotes;
use crate::settings::{self, DaemonArgs, cluster_info};
use crate::{kubeclient, metrics, names};
use board::Board;
use sources::{Features, Sources};
use state::{Options, State};

/// Port of everything it serves, as Cilium's operator has it for its metrics; the default of `health-listen`.
pub(crate) const HEALTH_PORT: u16 = 9963;
/// How long tasks may take to end.
const GRACE: Duration = Duration::from_secs(5);
/// How soon creating the definitions is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// The Lease the replicas share, named as Cilium's, so that the two operators never work at the same time.
const LEASE: &str = "cilium-operator-resource-lock";

const KEYS: [Key; 14] = [
    Key::with_default("clustermesh-enable-endpoint-sync", "false"),
    Key::with_default("clustermesh-enable-mcs-api", "false"),
    Key::with_default("clustermesh-mcs-api-install-crds", "true"),
    Key::with_default("clustermesh-endpoints-per-slice", "100"),
    Key::with_default("clustermesh-endpoint-updates-batch-period", "500ms"),
    Key::with_default("clustermesh-concurrent-service-endpoint-syncs", "5"),
    Key::with_default("clustermesh-cache-ttl", "0s"),
    Key::with_default("enable-ipv4", "true"),
    Key::with_default("enable-ipv6", "false"),
    Key::with_default("leader-election-lease-duration", "15s"),
    Key::with_default("leader-election-renew-deadline", "10s"),
    Key::with_default("leader-election-retry-period", "2s"),
    Key::with_default("health-listen", "0.0.0.0:9963"),
    Key::without_default("k8s-service-proxy-name"),
];

/// `causeway operator`
#[derive(Debug, Args)]
#[command(after_help = settings::HELP)]
pub(crate) struct OperatorArgs {
    #[command(flatten)]
    daemon: DaemonArgs,
    /// Write endpoints of other clusters as EndpointSlices: headless global services have them, and those
    /// annotated service.cilium.io/global-sync-endpoint-slices=true (default: false)
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    clustermesh_enable_endpoint_sync: Option<bool>,
    /// Import what other clusters export with ServiceExport (default: false)
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    clustermesh_enable_mcs_api: Option<bool>,
    /// Create the definitions of ServiceExport and ServiceImport if they are not there (default: true)
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    clustermesh_mcs_api_install_crds: Option<bool>,
    /// Most endpoints in an EndpointSlice, up to 1000 (default: 100)
    #[arg(long)]
    clustermesh_endpoints_per_slice: Option<usize>,
    /// How long changes are gathered before they are written (default: 500ms)
    #[arg(long, value_name = "DURATION")]
    clustermesh_endpoint_updates_batch_period: Option<String>,
    /// How many services are written at the same time (default: 5)
    #[arg(long)]
    clustermesh_concurrent_service_endpoint_syncs: Option<usize>,
    /// Withdraw what a remote cluster shares and exports after this long without a connection, like 15m0s;
    /// 0s keeps it for ever
    #[arg(long, value_name = "DURATION")]
    clustermesh_cache_ttl: Option<String>,
    /// Name of this replica (default: the host's name)
    #[arg(long, env = "POD_NAME")]
    replica_name: Option<String>,
    /// Namespace of the installation
    #[arg(long, env = "POD_NAMESPACE", default_value = names::NAMESPACE)]
    namespace: String,
    /// Kubeconfig; without it the pod's service account is used
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
}

fn options(config: &Config) -> Result<Options> {
    let features = Features {
        slices: config.require("clustermesh-enable-endpoint-sync")?,
        mcs: config.require("clustermesh-enable-mcs-api")?,
    };
    let endpoints_per_slice: usize = config.require("clustermesh-endpoints-per-slice")?;
    ensure!(
        (1..=1000).contains(&endpoints_per_slice),
        "clustermesh-endpoints-per-slice {endpoints_per_slice} is not between 1 and 1000"
    );
    let batch = config.require::<GoDuration>("clustermesh-endpoint-updates-batch-period")?.0;
    let concurrency: usize = config.require("clustermesh-concurrent-service-endpoint-syncs")?;
    ensure!(concurrency > 0, "clustermesh-concurrent-service-endpoint-syncs must be at least 1");
    Ok(Options { features, endpoints_per_slice, batch, concurrency })
}

fn timing(config: &Config) -> Result<Timing> {
    let of = |name| config.require::<GoDuration>(name).map(|duration| duration.0);
    let (duration, deadline) = (of("leader-election-lease-duration")?, of("leader-election-renew-deadline")?);
    let retry = of("leader-election-retry-period")?;
    ensure!(
        Duration::ZERO < retry && retry < deadline && deadline < duration,
        "leader-election-retry-period must be shorter than leader-election-renew-deadline, and that shorter than \
         leader-election-lease-duration"
    );
    Ok(Timing { duration, deadline, retry })
}

fn families(config: &Config) -> Result<Vec<IpFamily>> {
    let mut families = vec![];
    for (name, family) in [("enable-ipv4", IpFamily::V4), ("enable-ipv6", IpFamily::V6)] {
        families.extend(config.require::<bool>(name)?.then_some(family));
    }
    Ok(families)
}

/// What tells replicas apart, also those of one name that follow each other.
fn identity(name: Option<String>) -> Result<String> {
    let name = match name {
        Some(name) => name,
        None => nix::unistd::gethostname().context("read the host's name")?.to_string_lossy().into_owned(),
    };
    Ok(format!("{name}-{:08x}", rand::random::<u32>()))
}

/// Works until told to stop.
pub(crate) async fn run(args: OperatorArgs) -> Result<()> {
    let config = args.daemon.load(&[&KEYS], |loader| {
        loader
            .flag("clustermesh-enable-endpoint-sync", args.clustermesh_enable_endpoint_sync)
            .flag("clustermesh-enable-mcs-api", args.clustermesh_enable_mcs_api)
            .flag("clustermesh-mcs-api-install-crds", args.clustermesh_mcs_api_install_crds)
            .flag("clustermesh-endpoints-per-slice", args.clustermesh_endpoints_per_slice)
            .flag("clustermesh-endpoint-updates-batch-period", args.clustermesh_endpoint_updates_batch_period)
            .flag(
                "clustermesh-concurrent-service-endpoint-syncs",
                args.clustermesh_concurrent_service_endpoint_syncs,
            )
            .flag("clustermesh-cache-ttl", args.clustermesh_cache_ttl)
    })?;
    let info = cluster_info(&config)?;
    let (options, timing) = (options(&config)?, timing(&config)?);
    let shutdown = Shutdown::on_signals()?;
    let token = shutdown.token();
    let health = Health::new(Metrics::new("operator", env!("CARGO_PKG_VERSION")));
    let listed = health.readiness.guard("leader", "no replica's turn has been settled yet");
    let health_listener = Health::listen(config.require("health-listen")?).await?;
    let board = Board::default();
    health.show("operator", {
        let board = board.clone();
        move || board.shown()
    });
    health.metrics.collect(Mcs(board.clone()));
    shutdown.spawn_vital("health", health.clone().serve(health_listener, token.clone()));

    let client = kubeclient::for_daemon(args.kubeconfig.as_deref()).await?;
    let mut elector =
        Elector::new(client.clone(), &args.namespace, LEASE, identity(args.replica_name)?, timing);
    // A replica that stands by is as ready as it can be.
    listed.open();
    if !elector.acquire(&token).await {
        shutdown.finish(GRACE).await;
        return Ok(());
    }
    listed.close("this cluster's state has not been listed yet");
    // The Lease is given back when nothing is written any more.
    let working = CancellationToken::new();
    shutdown.spawn_vital("lease", elector.hold(working.clone()));

    if options.features.mcs && config.require("clustermesh-mcs-api-install-crds")? {
        shutdown.spawn(install_definitions(client.clone(), token.clone()));
    }
    let mut reading = remote::Options::agent(info.clone());
    reading.kinds = vec![];
    reading.kinds.extend(options.features.slices.then_some(Kind::Services));
    reading.kinds.extend(options.features.mcs.then_some(Kind::ServiceExports));
    reading.cache_ttl = config.require::<GoDuration>("clustermesh-cache-ttl")?.0;
    let (remotes, events) =
        RemoteClusters::spawn(reading, config.require("clustermesh-config")?, token.clone()).await;
    health.metrics.collect(Remotes {
        prefix: metrics::OPERATOR,
        source: vec![("source_cluster", info.name.to_string())],
        status: remotes.status(),
        global_services: None,
    });
    let served = Served::default();
    let (features, proxy) = (options.features, config.get("k8s-service-proxy-name")?);
    let sources = Sources::new(&client, features, proxy, &served, events, remotes.status(), remotes.peers());
    let imports = Imports::new(info.name.clone(), families(&config)?);
    let state = State::new(client, imports, served, options, board);
    let done = working.drop_guard();
    let work = state.run(sources, listed, token);
    shutdown.spawn_vital("state", async move {
        let result = work.await;
        drop(done);
        result
    });
    health.show("remotes", move || serde_json::json!(*remotes.status().borrow()));
    tracing::info!(cluster = %info.name, id = %info.id, ?features, "the operator is up");
    shutdown.finish(GRACE).await;
    Ok(())
}

/// Creates the definitions as soon as the API server lets it.
async fn install_definitions(client: kube::Client, shutdown: CancellationToken) {
    while let Err(error) = crd::create_mcs_crds(client.clone()).await {
        tracing::warn!(%error, "cannot create the definitions of the multi-cluster services API yet");
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use causeway_daemon::config::Loader;

    use super::*;

    #[test]
    fn settings_have_bounds() {
        let of = |name: &str, value: &str| Loader::new(&KEYS).flag(name, Some(value)).load();
        let defaults = Loader::new(&KEYS).load();
        let options_of = options(&defaults).unwrap();
        assert_eq!((options_of.endpoints_per_slice, options_of.batch.as_millis()), (100, 500));
        assert!(!options_of.features.slices && !options_of.features.mcs);
        assert!(timing(&defaults).is_ok());
        assert_eq!(families(&defaults).unwrap(), [IpFamily::V4]);
        for (name, bad) in [
            ("clustermesh-endpoints-per-slice", "0"),
            ("clustermesh-endpoints-per-slice", "1001"),
            ("clustermesh-concurrent-service-endpoint-syncs", "0"),
            ("clustermesh-endpoint-updates-batch-period", "soon"),
        ] {
            let error = options(&of(name, bad)).err().unwrap().to_string();
            assert!(error.contains(name), "{error}");
        }
        assert!(timing(&of("leader-election-renew-deadline", "15s")).is_err());
    }
}
