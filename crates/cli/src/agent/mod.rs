//! `causeway agent`: the agent of one node. Composition only.
//!
//! ```text
//! Kubernetes ─► cluster::source ─┐
//! other clusters ─► mesh::remote ┼► merge (state) ─► datapath (owner thread) ─► kernel
//! other nodes ◄═ mesh::health ═══┘
//! container runtime ─► cni plugin ─► api ─► endpoints ─► datapath, CiliumEndpoint
//! ```

mod api;
mod balance;
mod cidrs;
mod cni_install;
mod conntrack;
mod deletions;
mod endpoints;
mod files;
mod health;
mod health_checks;
mod looks;
mod node;
mod node_addresses;
mod owner;
mod report;
mod routing;
mod state;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use causeway_cluster::crd;
use causeway_daemon::config::Key;
use causeway_daemon::duration::GoDuration;
use causeway_daemon::health::Health;
use causeway_daemon::metrics::Metrics;
use causeway_daemon::shutdown::Shutdown;
use causeway_datapath::conntrack::Interval;
use causeway_datapath::ipam::{Pool, Pools};
use causeway_datapath::{Config, Datapath, NodeRoutes, PodNetwork, Routing};
use causeway_mesh::remote::{self, RemoteClusters};
use clap::Args;
use ipnet::IpNet;

use crate::metrics::conntrack::Collections;
use crate::metrics::packets::Packets;
use crate::metrics::pressure::Pressure;
use crate::metrics::remotes::Remotes;
use crate::metrics::services::ServiceMetrics;
use crate::settings::{self, DaemonArgs, cluster_info};
use crate::{kubeclient, metrics, names};
pub(crate) use api::{ContainerRequest, SOCKET};
pub(crate) use cni_install::PLUGIN;
pub(crate) use deletions::leave_note;
use endpoints::Endpoints;
use health_checks::HealthChecks;
use owner::Owner;

/// Port of `/healthz`, as Cilium's agent; the default of `health-listen`.
pub(crate) const HEALTH_PORT: u16 = 9879;
/// How long tasks may take to end.
const GRACE: Duration = Duration::from_secs(3);

const KEYS: [Key; 18] = [
    Key::with_default("clustermesh-sync-timeout", "1m0s"),
    Key::with_default("clustermesh-cache-ttl", "0s"),
    Key::with_default("health-listen", "127.0.0.1:9879"),
    Key::with_default("bpf-root", "/sys/fs/bpf"),
    Key::with_default("cgroup-root", "/run/causeway/cgroupv2"),
    Key::with_default("state-dir", "/run/causeway/state"),
    Key::with_default("agent-socket", api::SOCKET),
    Key::with_default("cni-conf-dir", "/etc/cni/net.d"),
    Key::with_default("cni-bin-dir", "/opt/cni/bin"),
    Key::with_default("enable-ipv4", "true"),
    Key::with_default("enable-ipv6", "false"),
    Key::with_default("enable-ipv4-masquerade", "true"),
    Key::with_default("enable-ipv6-masquerade", "true"),
    Key::with_default("enable-cilium-endpoint-slice", "false"),
    Key::without_default("k8s-service-proxy-name"),
    Key::with_default("enable-service-topology", "false"),
    Key::with_default("enable-health-check-nodeport", "true"),
    Key::with_default("service-metrics-limit", "1000"),
];

/// `causeway agent`
#[derive(Debug, Args)]
#[command(after_help = format!(
    "{}\n\nStopping the agent stops nothing: programs and maps stay in the kernel, and the next agent adopts them.",
    settings::HELP
))]
pub(crate) struct AgentArgs {
    #[command(flatten)]
    daemon: DaemonArgs,
    /// Name of this node in Kubernetes
    #[arg(long, env = "K8S_NODE_NAME")]
    node_name: String,
    /// Withdraw the services of a remote cluster that has not been reached for this long, like 15m0s;
    /// 0s keeps them for ever
    #[arg(long)]
    clustermesh_cache_ttl: Option<String>,
    /// Where a bpffs is mounted
    #[arg(long)]
    bpf_root: Option<PathBuf>,
    /// The cgroup v2 folder whose processes reach services
    #[arg(long)]
    cgroup_root: Option<PathBuf>,
    /// Namespace of the installation
    #[arg(long, env = "POD_NAMESPACE", default_value = names::NAMESPACE)]
    namespace: String,
    /// Kubeconfig; without it the pod's service account is used
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
}

/// Runs until told to stop.
pub(crate) async fn run(args: AgentArgs) -> Result<()> {
    let config = args.daemon.load(&[&KEYS, &balance::KEYS, &health::KEYS, &routing::KEYS], |loader| {
        loader
            .flag("clustermesh-cache-ttl", args.clustermesh_cache_ttl)
            .flag("bpf-root", args.bpf_root.as_deref().map(Path::display))
            .flag("cgroup-root", args.cgroup_root.as_deref().map(Path::display))
    })?;
    let info = cluster_info(&config)?;
    let shutdown = Shutdown::on_signals()?;
    let token = shutdown.token();
    let health = Health::new(Metrics::new("agent", env!("CARGO_PKG_VERSION")));
    let guards = state::Guards {
        local: health.readiness.guard("local", "this cluster's state has not been listed yet"),
    };
    let api_guard = health.readiness.guard("cni", "the CNI socket is not open yet");
    let health_listener = Health::listen(config.require("health-listen")?).await?;
    shutdown.spawn_vital("health", health.clone().serve(health_listener, token.clone()));

    let client = kubeclient::for_daemon(args.kubeconfig.as_deref()).await?;
    crd::ensure_crds(client.clone()).await.context("create the CustomResourceDefinitions of cilium.io")?;
    let families = node::Families { v4: config.require("enable-ipv4")?, v6: config.require("enable-ipv6")? };
    let facts = tokio::select! {
        facts = node::wait(&client, &args.node_name, families) => facts?,
        () = token.cancelled() => return Ok(()),
    };
    let pools = Pools::new(facts.pod_cidrs.iter().copied())?;
    let masquerade = (config.require("enable-ipv4-masquerade")?, config.require("enable-ipv6-masquerade")?);
    let network = |pool: &Pool| PodNetwork {
        cidr: pool.cidr(),
        internal_ip: pool.internal_ip(),
        masquerade: if pool.cidr().addr().is_ipv6() { masquerade.1 } else { masquerade.0 },
    };
    let identities = info.id.identities(info.max_clusters);
    let datapath = Config {
        bpffs: config.require("bpf-root")?,
        cgroup: config.require("cgroup-root")?,
        state_dir: config.require("state-dir")?,
        node_ip: facts.node_ip,
        routing: routing::settings(&config)?,
        identities: identities.start().0..=identities.end().0,
        native_cidrs: routing::native_cidrs(&config)?,
        networks: pools.iter().map(network).collect(),
        underlay_mtu: node::underlay_mtu(facts.node_ip),
        attach: None,
        balance: balance::settings(&config)?,
    };
    let (mtu, routing) = (datapath.mtu(), datapath.routing);
    let owner = Owner::start(move || Datapath::open(datapath)).await.context("open the datapath")?;
    let adopted = owner.run(|datapath| datapath.is_adopted()).await?;
    let own = node::describe(&facts, &info, &pools);
    node::publish(&client, &own, &facts.uid).await?;

    let mut reading = remote::Options::agent(info.clone());
    reading.cache_ttl = config.require::<GoDuration>("clustermesh-cache-ttl")?.0;
    let node_ips = [IpAddr::V4(facts.node_ip)].into_iter().chain(facts.more_ips.iter().copied());
    reading.own_prefixes = facts.pod_cidrs.iter().copied().chain(node_ips.map(IpNet::from)).collect();
    let (remotes, remote_events) =
        RemoteClusters::spawn(reading, config.require("clustermesh-config")?, token.clone()).await;
    let sync_timeout = config.require::<GoDuration>("clustermesh-sync-timeout")?.0;
    let limit = config.require("service-metrics-limit")?;
    let service_metrics = ServiceMetrics::register(&health.metrics, info.name.clone(), limit);
    let topology = config.require("enable-service-topology")?;
    let mut state = state::State::new(&own, owner.clone(), adopted, topology, service_metrics);
    if let Routing::Native(NodeRoutes::Direct | NodeRoutes::DirectWherePossible) = routing {
        state.recheck_routes();
    }
    let (global_services, services) = (state.global_services(), state.services());
    if config.require("enable-health-check-nodeport")? {
        let (checks, answers) = HealthChecks::new();
        state.answer_health_checks(checks);
        shutdown.spawn(health_checks::serve(answers, token.clone()));
    }
    health.metrics.collect(Remotes {
        prefix: metrics::AGENT,
        source: vec![("source_cluster", info.name.to_string()), ("source_node_name", args.node_name.clone())],
        status: remotes.status(),
        global_services: Some(global_services.clone()),
    });
    let pressure = Pressure::default();
    health.metrics.collect(pressure.clone());
    shutdown.spawn(pressure.follow(config.require("bpf-root")?, token.clone()));
    health.metrics.collect(Packets { bpffs: config.require("bpf-root")? });
    let collections = Collections::default();
    health.metrics.collect(collections.clone());
    let interval = Interval::new(config.require::<GoDuration>("conntrack-gc-interval")?.0);
    shutdown.spawn(conntrack::run(config.require("bpf-root")?, interval, collections, token.clone()));
    for ip in [own.health_v4, own.health_v6].into_iter().flatten() {
        let answering = owner.run(move |datapath| datapath.answer_at(ip)).await?;
        answering.context("take the health endpoint's address")?;
    }
    let (feed, node_health) = health::start(&config, &own, &health.metrics, &shutdown)?;
    let sources = state::Sources::new(
        &client,
        &info,
        &config,
        &args.node_name,
        (remote_events, remotes.status()),
        feed,
    )?;
    shutdown.spawn_vital("state", state.run(sources, guards, sync_timeout, token.clone()));

    let endpoints = Arc::new(Endpoints::new(&client, info.clone(), &facts, pools, mtu, owner.clone()));
    endpoints.restore().await?;
    deletions::carry_out(&endpoints).await;
    shutdown.spawn_vital("endpoints", endpoints.clone().follow(token.clone()));
    let socket: PathBuf = config.require("agent-socket")?;
    let served = api::Api {
        endpoints: endpoints.clone(),
        owner: owner.clone(),
        remotes: remotes.clone(),
        global_services,
        services,
        health: node_health.clone(),
    };
    let listener = api::listen(&socket)?;
    shutdown.spawn_vital("cni", served.serve(listener, token.clone()));
    cni_install::install(
        &config.require::<PathBuf>("cni-bin-dir")?,
        &config.require::<PathBuf>("cni-conf-dir")?,
        &socket,
    )?;
    api_guard.open();
    shutdown.spawn(report::run(
        client,
        args.namespace,
        args.node_name.clone(),
        remotes.status(),
        token.clone(),
    ));
    health.show("datapath", {
        let owner = owner.clone();
        move || owner.last_stats()
    });
    health.show("nodes", move || serde_json::json!(node_health.report()));
    health.show("remotes", move || serde_json::json!(*remotes.status().borrow()));
    tracing::info!(
        node = args.node_name, cluster = %info.name, id = %info.id, pods = ?facts.pod_cidrs, ?routing,
        "the agent is up"
    );
    shutdown.finish(GRACE).await;
    Ok(())
}
