//! `causeway status`: what the agent of this node does, asked over its socket.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use causeway_daemon::duration::GoDuration;
use causeway_mesh::health::Report;
use causeway_mesh::remote::RemoteStatus;
use clap::Args;
use hyper::Method;
use jiff::Timestamp;
use serde::Deserialize;

use crate::agent::SOCKET;
use crate::clustermesh::Output;
use crate::output::printable;
use crate::{cni, node_health};

/// `causeway status`
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Socket of the agent
    #[arg(long, default_value = SOCKET)]
    socket: PathBuf,
    /// Show every remote cluster, also those that are ready
    #[arg(long)]
    verbose: bool,
    /// The same as --verbose
    #[arg(long)]
    all_clusters: bool,
    /// Output
    #[arg(short, long, value_enum, default_value = "summary")]
    output: Output,
}

#[derive(Debug, Default, Deserialize)]
struct Status {
    attach: String,
    #[serde(default)]
    devices: Vec<Device>,
    programmed: Programmed,
    #[serde(rename = "global-services", default)]
    global_services: u64,
    remotes: Vec<RemoteStatus>,
    packets: Vec<Packets>,
    #[serde(rename = "node-health", default)]
    health: Report,
}

/// How a native device is served.
#[derive(Debug, Deserialize)]
struct Device {
    device: String,
    xdp: Option<String>,
    error: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Programmed {
    addresses: u64,
    frontends: u64,
    backends: u64,
    endpoints: u64,
}

#[derive(Debug, Deserialize)]
struct Packets {
    direction: String,
    reason: String,
    packets: u64,
    bytes: u64,
}

pub(crate) async fn run(args: StatusArgs) -> Result<()> {
    let (code, text) = cni::request(&args.socket, Method::GET, "/v1/status", Vec::new()).await?;
    if !code.is_success() {
        bail!("the agent answered {code}: {text}");
    }
    if args.output == Output::Json {
        println!("{text}");
        return Ok(());
    }
    let status: Status = serde_json::from_str(&text)?;
    let p = &status.programmed;
    println!(
        "datapath   attached by {}; {} addresses, {} endpoints",
        status.attach, p.addresses, p.endpoints
    );
    for device in &status.devices {
        println!("device     {}", served(device));
    }
    println!("services   {} frontends, {} backends", p.frontends, p.backends);
    for counter in &status.packets {
        let Packets { direction, reason, packets, bytes } = counter;
        println!("packets    {direction} {reason}: {packets} ({bytes} bytes)");
    }
    // Reasons quote what the remote clusters sent.
    let (all, now) = (args.verbose || args.all_clusters, Timestamp::now());
    let health = node_health::of_all(&status.health, all, now);
    // Without being asked, no more than how many.
    let health: Vec<_> = health.lines().take(if all { usize::MAX } else { 1 }).collect();
    for line in remotes(&status, all, now).lines().chain(health) {
        println!("{}", printable(line.as_bytes()));
    }
    Ok(())
}

/// How clients outside are served at a device.
fn served(Device { device, xdp, error }: &Device) -> String {
    let by = xdp.as_ref().map_or("tc".into(), |mode| format!("XDP ({mode}) and tc"));
    let why =
        error.as_ref().map(|error| format!("; XDP as it is set cannot be: {error}")).unwrap_or_default();
    format!("{device}: clients outside are served by {by}{why}")
}

/// The remote clusters as Cilium's agents tell of them: details only of those that are not ready,
/// unless all are asked for.
fn remotes(status: &Status, verbose: bool, now: Timestamp) -> String {
    let ready = status.remotes.iter().filter(|r| r.ready).count();
    let head = format!(
        "ClusterMesh: {ready}/{} remote clusters ready, {} global-services\n",
        status.remotes.len(),
        status.global_services
    );
    head + &details(&status.remotes, verbose, now)
}

/// What is known of each that is not ready, or of all.
pub(crate) fn details(remotes: &[RemoteStatus], verbose: bool, now: Timestamp) -> String {
    remotes.iter().filter(|remote| verbose || !remote.ready).map(|remote| of_one(remote, now)).collect()
}

fn of_one(r: &RemoteStatus, now: Timestamp) -> String {
    let ready = if r.ready { "ready" } else { "not-ready" };
    let last = r.last_failure.as_deref().and_then(|time| time.parse::<Timestamp>().ok());
    let last = last.map_or("never".to_owned(), |time| format!("{} ago", since(time, now)));
    let mut text = format!(
        "   {}: {ready}, {} nodes, {} endpoints, {} identities, {} services, {} MCS-API service exports, \
         {} reconnections (last: {last})\n   └  {}\n",
        r.name,
        r.num_nodes,
        r.num_endpoints,
        r.num_identities,
        r.num_shared_services,
        r.num_service_exports,
        r.num_failures,
        r.status
    );
    let c = &r.config;
    let retrieved = if c.retrieved {
        let exports = match c.service_exports_enabled {
            None => "unsupported",
            Some(true) => "enabled",
            Some(false) => "disabled",
        };
        format!(
            "retrieved=true, cluster-id={}, kvstoremesh={}, sync-canaries={}, service-exports={exports}",
            c.cluster_id, c.kvstoremesh, c.sync_canaries
        )
    } else {
        "retrieved=false".to_owned()
    };
    text.push_str(&format!("   └  remote configuration: expected={}, {retrieved}\n", c.required));
    let s = &r.synced;
    let exports = s.service_exports.map_or(String::new(), |synced| format!(", service-exports={synced}"));
    text.push_str(&format!(
        "   └  synchronization status: nodes={}, endpoints={}, identities={}, services={}{exports}\n",
        s.nodes, s.endpoints, s.identities, s.services
    ));
    if let Some(error) = &r.config_error {
        text.push_str(&format!("   └  configuration file: {error}\n"));
    }
    if r.rejected.count > 0 {
        let reasons = r.rejected.last_reasons.join("; ");
        text.push_str(&format!("   └  refused entries: {}, last: {reasons}\n", r.rejected.count));
    }
    text
}

/// How long ago, in whole seconds; clocks that differ make it 0.
pub(crate) fn since(time: Timestamp, now: Timestamp) -> GoDuration {
    let seconds = u64::try_from(now.as_second() - time.as_second()).unwrap_or(0);
    GoDuration(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use causeway_mesh::remote::{ConfigStatus, SyncedStatus};

    use super::*;

    #[test]
    fn devices_say_who_serves_clients_outside_and_why() {
        let text = |json: &str| served(&serde_json::from_str(json).unwrap());
        assert_eq!(
            text(r#"{"device": "eth0", "xdp": null, "error": null}"#),
            "eth0: clients outside are served by tc"
        );
        assert_eq!(
            text(r#"{"device": "eth0", "xdp": "native", "error": null}"#),
            "eth0: clients outside are served by XDP (native) and tc"
        );
        assert_eq!(
            text(r#"{"device": "br0", "xdp": null, "error": "not supported"}"#),
            "br0: clients outside are served by tc; XDP as it is set cannot be: not supported"
        );
    }

    #[test]
    fn remote_clusters_are_shown_as_cilium_shows_them() {
        let good = RemoteStatus {
            name: "cls-b".into(),
            ready: true,
            status: "ready".into(),
            num_nodes: 2,
            num_endpoints: 5,
            num_failures: 1,
            last_failure: Some("2026-03-01T08:13:55Z".into()),
            config: ConfigStatus {
                cluster_id: 2,
                required: true,
                retrieved: true,
                sync_canaries: true,
                service_exports_enabled: Some(false),
                ..Default::default()
            },
            synced: SyncedStatus {
                nodes: true,
                endpoints: true,
                identities: true,
                services: true,
                ..Default::default()
            },
            ..Default::default()
        };
        let mut bad =
            RemoteStatus { name: "cls-c".into(), status: "connecting".into(), ..Default::default() };
        bad.config.required = true;
        let status = Status { remotes: vec![good, bad], global_services: 3, ..Default::default() };
        let now = "2026-03-01T08:15:30Z".parse().unwrap();
        let short = remotes(&status, false, now);
        assert!(
            short.starts_with(
                "ClusterMesh: 1/2 remote clusters ready, 3 global-services\n   cls-c: not-ready,"
            ),
            "{short}"
        );
        assert!(!short.contains("cls-b"), "{short}");
        let long = remotes(&status, true, now);
        for line in [
            "   cls-b: ready, 2 nodes, 5 endpoints, 0 identities, 0 services, 0 MCS-API service exports, 1 reconnections (last: 1m35s ago)",
            "   └  remote configuration: expected=true, retrieved=true, cluster-id=2, kvstoremesh=false, sync-canaries=true, service-exports=disabled",
            "   └  synchronization status: nodes=true, endpoints=true, identities=true, services=true",
            "   └  remote configuration: expected=true, retrieved=false",
        ] {
            assert!(long.contains(&format!("{line}\n")), "{line} in\n{long}");
        }
    }
}
