//! `causeway clustermesh connect | disconnect | status`: the operator's commands.
//!
//! Everything goes through the Kubernetes API of each cluster: [`facts`] reads one cluster,
//! [`plan`] decides (pure), [`write`] carries out with rollback, [`status`] reads what agents
//! report. No private key is read out of a cluster, moved or printed.

mod connect;
mod entry;
mod facts;
mod plan;
pub(crate) mod report;
mod status;
mod summary;
mod troubleshoot;
mod write;

pub(crate) use troubleshoot::{TroubleshootArgs, run as troubleshoot};

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use causeway_daemon::duration::GoDuration;
use clap::{Args, Subcommand, ValueEnum};

use crate::names;

/// `causeway clustermesh …`
#[derive(Debug, Args)]
pub(crate) struct ClustermeshArgs {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// Flags of every verb; the names are Cilium's.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Kubeconfig context of the cluster (default: the current context)
    #[arg(long, global = true)]
    context: Option<String>,
    /// Kubeconfig with the contexts of all clusters (default: $KUBECONFIG or ~/.kube/config)
    #[arg(long, global = true)]
    kubeconfig: Option<PathBuf>,
    /// Namespace of the installation, the same in all clusters
    #[arg(short, long, global = true, env = "CILIUM_NAMESPACE", default_value = names::NAMESPACE)]
    namespace: String,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make clusters see each other: exchange addresses and trust
    #[command(after_help = "Examples:
  causeway clustermesh connect --context cls-gz3k8a2m --destination-context cls-sh7d4f9q
  causeway clustermesh connect --context a --destination-context b,c --connection-mode mesh --dry-run

Nothing is written unless every check of every cluster passes; if a write fails, the ones before it
are taken back. Running it again changes nothing. Certificates travel, private keys never do.")]
    Connect(ConnectArgs),
    /// Undo `connect`: remove the peers' addresses and their trust
    #[command(after_help = "Examples:
  causeway clustermesh disconnect --context cls-gz3k8a2m --destination-context cls-sh7d4f9q
  causeway clustermesh disconnect --context cls-gz3k8a2m --destination-name cls-gone")]
    Disconnect(DisconnectArgs),
    /// Show what each agent sees of each peer
    #[command(after_help = "Examples:
  causeway clustermesh status --context cls-gz3k8a2m
  causeway clustermesh status --context cls-gz3k8a2m --wait --wait-duration 1m
  causeway clustermesh status -o json | jq .peers")]
    Status(StatusArgs),
    /// On a node: name the step at which reading a remote cluster fails
    #[command(after_help = "Examples:
  kubectl -n kube-system exec ds/causeway -- causeway clustermesh troubleshoot
  causeway clustermesh troubleshoot cls-sh7d4f9q --timeout 2s -o json | jq '.clusters[].cause'

Steps: file, certificates, name resolution, TCP, TLS, authorisation, heartbeat, configuration, sync markers.
Exit code 1 when a remote cluster fails; one endpoint of several that works is enough.")]
    Troubleshoot(troubleshoot::TroubleshootArgs),
}

/// Which sides of a connection are configured (operator-workflow 1.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// The cluster reads the destinations; they do not read it
    Unicast,
    /// The cluster and each destination read each other (a star)
    Bidirectional,
    /// All of them read each other
    Mesh,
}

#[derive(Debug, Args)]
pub(crate) struct ConnectArgs {
    /// Context of a cluster to connect with; comma-separated or repeated
    #[arg(long, required = true, value_delimiter = ',')]
    destination_context: Vec<String>,
    /// Who reads whom
    #[arg(long, value_enum, default_value = "bidirectional")]
    connection_mode: Mode,
    /// IP:PORT of a destination's mesh server instead of its Service's address (one destination only)
    #[arg(long, value_delimiter = ',')]
    destination_endpoint: Vec<String>,
    /// IP:PORT of this cluster's mesh server instead of its Service's address
    #[arg(long, value_delimiter = ',')]
    source_endpoint: Vec<String>,
    /// Accepted for compatibility: differing authorities are always exchanged, certificates only
    #[arg(long)]
    allow_mismatching_ca: bool,
    /// Check and show what would be written, write nothing
    #[arg(long)]
    dry_run: bool,
    /// How long to wait for addresses that are still being assigned (seconds, or 90s, 2m)
    #[arg(long, default_value = "60s", value_parser = duration)]
    timeout: Duration,
    /// Output
    #[arg(short, long, value_enum, default_value = "summary")]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct DisconnectArgs {
    /// Context of a cluster to disconnect from; comma-separated or repeated
    #[arg(long, value_delimiter = ',', required_unless_present = "destination_name")]
    destination_context: Vec<String>,
    /// Name of a peer to forget on this side only, for a cluster that is gone
    #[arg(long, value_delimiter = ',')]
    destination_name: Vec<String>,
    /// Which sides forget
    #[arg(long, value_enum, default_value = "bidirectional")]
    connection_mode: Mode,
    /// Show what would be removed, write nothing
    #[arg(long)]
    dry_run: bool,
    /// Output
    #[arg(short, long, value_enum, default_value = "summary")]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Wait until every agent is ready with every peer; exit 1 when it takes too long
    #[arg(long)]
    wait: bool,
    /// How long to wait (seconds, or 90s, 15m)
    #[arg(long, default_value = "15m", value_parser = duration)]
    wait_duration: Duration,
    /// Output
    #[arg(short, long, value_enum, default_value = "summary")]
    output: Output,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Summary,
    /// For programs
    Json,
}

/// Runs one verb.
pub(crate) async fn run(args: ClustermeshArgs) -> Result<()> {
    match args.verb {
        Verb::Connect(verb) => connect::connect(&args.global, &verb).await,
        Verb::Disconnect(verb) => connect::disconnect(&args.global, &verb).await,
        Verb::Status(verb) => status::run(&args.global, &verb).await,
        Verb::Troubleshoot(verb) => troubleshoot::run(&verb).await,
    }
}

/// `90`, `90s`, `2m`, `1h`, `1m30s`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    match text.parse::<u64>() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => text.parse::<GoDuration>().map(|duration| duration.0).map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn durations() {
        for (text, seconds) in
            [("90", 90), ("90s", 90), ("2m", 120), ("1m30s", 90), ("15m0s", 900), ("1h", 3600)]
        {
            assert_eq!(super::duration(text).unwrap().as_secs(), seconds, "{text}");
        }
        for bad in ["", "m", "5x", "1m3", "-1"] {
            assert!(super::duration(bad).is_err(), "{bad}");
        }
    }
}
