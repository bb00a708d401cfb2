//! `causeway dns`: answers for the names of services, of this cluster and of the cluster set. Composition only: the
//! watchers of `cluster`, the zone, forwarder and server of `dns`.

mod query;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use causeway_cluster::source;
use causeway_daemon::config::{Config, Key};
use causeway_daemon::health::{Guard, Health};
use causeway_daemon::metrics::Metrics;
use causeway_daemon::shutdown::Shutdown;
use causeway_dns::forward::{self, Forwarder};
use causeway_dns::server::{Limits, Resolver, Server};
use causeway_dns::zone::{Settings, SharedZone, Zone};
use causeway_model::ClusterName;
use clap::{Args, Subcommand};
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use crate::kubeclient;
use crate::metrics::dns::{DnsMetrics, DnsSizes};
use crate::settings::{self, DaemonArgs};

/// Port of `/readyz` and `/metrics`: where CoreDNS has its metrics.
pub(crate) const HEALTH_PORT: u16 = 9153;
/// How long tasks may take to end.
const GRACE: Duration = Duration::from_secs(5);
/// How often the file with the name servers is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Word of `dns-upstreams` for: what is not ours is refused.
const NOBODY: &str = "none";

const KEYS: [Key; 6] = [
    Key::with_default("dns-listen", "[::]:53"),
    Key::with_default("cluster-domain", "cluster.local"),
    Key::with_default("clusterset-domain", "clusterset.local"),
    Key::with_default("dns-upstreams", "/etc/resolv.conf"),
    // Headless names follow pods, also those of other clusters: CoreDNS' own default, not the 30 that kubeadm sets.
    Key::with_default("dns-ttl", "5"),
    Key::with_default("health-listen", "0.0.0.0:9153"),
];

const HELP: &str =
    "An empty domain is not served: --cluster-domain= leaves the cluster's own names to the cluster's DNS.
The servers of a file are read again when it changes.";

/// `causeway dns`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, after_help = format!("{HELP}\n\n{}", settings::HELP))]
pub(crate) struct DnsArgs {
    #[command(subcommand)]
    command: Option<DnsCommand>,
    #[command(flatten)]
    daemon: DaemonArgs,
    /// Address of the server, UDP and TCP; several between commas (default: [::]:53)
    #[arg(long, value_name = "IP:PORT")]
    dns_listen: Option<String>,
    /// Domain of this cluster's services (default: cluster.local)
    #[arg(long, value_name = "NAME")]
    cluster_domain: Option<String>,
    /// Domain of imported services (default: clusterset.local)
    #[arg(long, value_name = "NAME")]
    clusterset_domain: Option<String>,
    /// Who is asked for other names: a file like /etc/resolv.conf (default), addresses between commas, or `none`
    #[arg(long, value_name = "FILE|ADDRESSES|none")]
    dns_upstreams: Option<String>,
    /// Seconds for which answers may be kept (default: 5)
    #[arg(long, value_name = "SECONDS")]
    dns_ttl: Option<u32>,
    /// Kubeconfig; without it the pod's service account is used
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum DnsCommand {
    /// Ask a name server
    Query(query::QueryArgs),
}

/// Answers until told to stop, or asks once.
pub(crate) async fn run(args: DnsArgs) -> Result<()> {
    if let Some(DnsCommand::Query(query)) = args.command {
        return query::run(query).await;
    }
    let config = args.daemon.load(&[&KEYS], |loader| {
        loader
            .flag("dns-listen", args.dns_listen)
            .flag("cluster-domain", args.cluster_domain)
            .flag("clusterset-domain", args.clusterset_domain)
            .flag("dns-upstreams", args.dns_upstreams)
            .flag("dns-ttl", args.dns_ttl)
    })?;
    let zone = SharedZone::new(Zone::new(zone_settings(&config)?));
    let upstreams = Upstreams::from_config(&config)?;
    let shutdown = Shutdown::on_signals()?;
    let health = Health::new(Metrics::new("dns", env!("CARGO_PKG_VERSION")));
    let health_listener = Health::listen(config.require("health-listen")?).await?;
    let servers = open(config.text("dns-listen").unwrap_or_default()).await?;
    let client = kubeclient::for_daemon(args.kubeconfig.as_deref()).await?;

    let forwarder = upstreams.start(&shutdown);
    health.metrics.collect(DnsSizes { zone: zone.clone(), forwarder: forwarder.clone() });
    health.show("dns", {
        let (zone, forwarder) = (zone.clone(), forwarder.clone());
        move || state(&zone, forwarder.as_deref())
    });
    let counters = DnsMetrics::register(&health.metrics);
    for server in servers {
        let address = server.address();
        let observer = Arc::new(counters.of(address));
        let resolver = Arc::new(Resolver::new(zone.clone(), forwarder.clone(), observer));
        tracing::info!(%address, "answering");
        let token = shutdown.token();
        let serving = async move {
            server.serve(resolver, Limits::default(), token).await;
            Ok::<(), std::convert::Infallible>(())
        };
        shutdown.spawn_vital("server", serving);
    }
    let guard = health.readiness.guard("names", "services, endpoints and imports are not all listed yet");
    shutdown.spawn(follow(client, zone, guard, shutdown.token()));
    shutdown.spawn_vital("health", health.serve(health_listener, shutdown.token()));
    shutdown.finish(GRACE).await;
    Ok(())
}

fn zone_settings(config: &Config) -> Result<Settings> {
    let cluster_name: ClusterName = config.require("cluster-name")?;
    Ok(Settings {
        cluster_domain: config.get("cluster-domain")?,
        clusterset_domain: config.get("clusterset-domain")?,
        cluster_name: cluster_name.to_string(),
        ttl: config.require("dns-ttl")?,
    })
}

/// Opens the sockets. Where the system has no IPv6, "any address" means any of IPv4.
async fn open(list: &str) -> Result<Vec<Server>> {
    let mut servers = vec![];
    for address in forward::parse_list(list).map_err(|e| anyhow!(e)).context("dns-listen")? {
        let server = match Server::bind(address).await {
            Err(causeway_dns::Error::Listen { source, .. })
                if address.ip().is_unspecified() && source.raw_os_error() == Some(libc::EAFNOSUPPORT) =>
            {
                Server::bind((Ipv4Addr::UNSPECIFIED, address.port()).into()).await?
            }
            other => other?,
        };
        servers.push(server);
    }
    anyhow::ensure!(!servers.is_empty(), "dns-listen names no address");
    Ok(servers)
}

/// Who is asked for names that are not ours.
#[derive(Debug, PartialEq, Eq)]
enum Upstreams {
    Nobody,
    These(Vec<SocketAddr>),
    File(PathBuf),
}

impl Upstreams {
    fn from_config(config: &Config) -> Result<Self> {
        match config.text("dns-upstreams").unwrap_or(NOBODY) {
            NOBODY => Ok(Self::Nobody),
            path if path.starts_with('/') => Ok(Self::File(path.into())),
            list => {
                Ok(Self::These(forward::parse_list(list).map_err(|e| anyhow!(e)).context("dns-upstreams")?))
            }
        }
    }

    fn start(self, shutdown: &Shutdown) -> Option<Arc<Forwarder>> {
        let forwarder = Arc::new(Forwarder::new(forward::Options::default()));
        match self {
            Self::Nobody => return None,
            Self::These(servers) => forwarder.set_servers(&servers),
            Self::File(path) => {
                // Once before the first question.
                let text = read(&path, &forwarder);
                shutdown.spawn(reread(path, text, forwarder.clone(), shutdown.token()));
            }
        }
        Some(forwarder)
    }
}

/// Takes the servers of a file; what was there stays if it cannot be read.
fn read(path: &std::path::Path, forwarder: &Forwarder) -> Option<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let servers = forward::nameservers(&text);
            if servers != forwarder.servers() {
                tracing::info!(file = %path.display(), ?servers, "other names are asked of these");
                forwarder.set_servers(&servers);
            }
            Some(text)
        }
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "cannot read the name servers");
            None
        }
    }
}

async fn reread(
    path: PathBuf,
    mut text: Option<String>,
    forwarder: Arc<Forwarder>,
    token: CancellationToken,
) {
    let mut timer = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            _ = timer.tick() => {}
        }
        if std::fs::read_to_string(&path).ok() != text {
            text = read(&path, &forwarder);
        }
    }
}

/// Keeps the zone as Kubernetes has it; opens the guard when all is known.
async fn follow(client: kube::Client, zone: SharedZone, guard: Guard, token: CancellationToken) {
    let mut services = pin!(source::all_services(client.clone()));
    let mut slices = pin!(source::all_endpoint_slices(client.clone()));
    let mut imports = pin!(source::imports(client));
    let mut complete = false;
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            Some(event) = services.next() => zone.change(|zone| zone.apply_service(event)),
            Some(event) = slices.next() => zone.change(|zone| zone.apply_slice(event)),
            Some(event) = imports.next() => zone.change(|zone| zone.apply_import(event)),
        }
        if !complete && zone.look(Zone::is_complete) {
            complete = true;
            guard.open();
            let [services, imports, slices] = zone.look(Zone::sizes);
            tracing::info!(services, imports, slices, "all names are known");
        }
    }
}

/// What `/debug/state` shows.
fn state(zone: &SharedZone, forwarder: Option<&Forwarder>) -> serde_json::Value {
    let ([services, imports, slices], complete) = zone.look(|zone| (zone.sizes(), zone.is_complete()));
    let upstreams = forwarder.map(|f| f.servers().iter().map(ToString::to_string).collect::<Vec<_>>());
    serde_json::json!({
        "complete": complete, "services": services, "imports": imports, "endpoint_slices": slices,
        "upstreams": upstreams, "cached": forwarder.map(Forwarder::cached),
    })
}

#[cfg(test)]
mod tests {
    use causeway_daemon::config::Loader;

    use super::*;

    fn config(flags: &[(&str, &str)]) -> Config {
        let keys = [&KEYS[..], &[Key::with_default("cluster-name", "cls-a")]].concat();
        flags.iter().fold(Loader::new(&keys), |loader, (name, value)| loader.flag(name, Some(value))).load()
    }

    #[test]
    fn whom_others_are_asked_of() {
        let of = |value| Upstreams::from_config(&config(&[("dns-upstreams", value)]));
        assert_eq!(Upstreams::from_config(&config(&[])).unwrap(), Upstreams::File("/etc/resolv.conf".into()));
        assert_eq!(of("none").unwrap(), Upstreams::Nobody);
        assert_eq!(of("").unwrap(), Upstreams::Nobody);
        assert_eq!(of("10.0.0.2").unwrap(), Upstreams::These(vec!["10.0.0.2:53".parse().unwrap()]));
        assert!(format!("{:#}", of("resolver.example").unwrap_err()).contains("dns-upstreams"));
    }

    #[test]
    fn an_empty_domain_is_not_served() {
        let settings = zone_settings(&config(&[])).unwrap();
        assert_eq!(settings.cluster_domain.unwrap().to_string(), "cluster.local.");
        assert_eq!((settings.ttl, settings.cluster_name.as_str()), (5, "cls-a"));
        let settings =
            zone_settings(&config(&[("cluster-domain", ""), ("clusterset-domain", "set.example.")])).unwrap();
        assert_eq!(settings.cluster_domain, None);
        assert_eq!(settings.clusterset_domain.unwrap().to_string(), "set.example.");
        assert!(zone_settings(&config(&[("cluster-domain", "a..b")])).is_err());
    }

    #[tokio::test]
    async fn servers_of_a_file_follow_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        std::fs::write(&path, "nameserver 10.0.0.2\n").unwrap();
        let forwarder = Arc::new(Forwarder::new(forward::Options::default()));
        let text = read(&path, &forwarder);
        assert_eq!(forwarder.servers(), ["10.0.0.2:53".parse().unwrap()]);
        std::fs::write(&path, "nameserver 10.0.0.3\n").unwrap();
        let token = CancellationToken::new();
        let task = tokio::spawn(reread(path.clone(), text, forwarder.clone(), token.clone()));
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while forwarder.servers() != ["10.0.0.3:53".parse().unwrap()] {
            assert!(std::time::Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        std::fs::remove_file(&path).unwrap();
        assert!(read(&path, &forwarder).is_none());
        assert_eq!(forwarder.servers(), ["10.0.0.3:53".parse().unwrap()], "what was there stays");
        token.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn several_addresses_may_be_served() {
        let servers = open("127.0.0.1:0,[::1]:0").await;
        // A machine may have no IPv6 at all.
        if let Ok(servers) = servers {
            assert_eq!(servers.len(), 2);
        }
        assert!(open("").await.is_err() && open("localhost").await.is_err());
    }
}
