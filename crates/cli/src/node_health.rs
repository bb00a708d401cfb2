//! `causeway health`: which nodes answer this one, asked over the agent's socket.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Result, bail};
use causeway_mesh::health::{NodeHealth, NodeStatus, Report, WayReport};
use clap::{Args, Subcommand};
use hyper::Method;
use jiff::Timestamp;

use crate::agent::SOCKET;
use crate::clustermesh::Output;
use crate::cni;
use crate::local_status::since;
use crate::output;

/// `causeway health`
#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show which nodes of all clusters answer this one, in the pod network and outside it
    Status {
        /// Socket of the agent
        #[arg(long, default_value = SOCKET)]
        socket: PathBuf,
        /// One line per node
        #[arg(long)]
        succinct: bool,
        /// Output
        #[arg(short, long, value_enum, default_value = "summary")]
        output: Output,
    },
}

pub(crate) async fn run(args: HealthArgs) -> Result<()> {
    let Verb::Status { socket, succinct, output: format } = args.verb;
    let (code, text) = cni::request(&socket, Method::GET, "/v1/health", Vec::new()).await?;
    if !code.is_success() {
        bail!("the agent answered {code}: {text}");
    }
    if format == Output::Json {
        return Ok(output::line(&text)?);
    }
    let report: Report = serde_json::from_str(&text)?;
    let text = of_all(&report, !succinct, Timestamp::now());
    // Names come from other clusters.
    for line in text.lines() {
        if !output::offer(&output::printable(line.as_bytes()))? {
            break;
        }
    }
    Ok(())
}

/// The nodes, after one line about all of them.
pub(crate) fn of_all(report: &Report, ways: bool, now: Timestamp) -> String {
    let counts = report.counts(true);
    let mut text = format!("Cluster health: {}/{} reachable", counts.reachable, report.nodes.len());
    if counts.unknown > 0 {
        let _ = write!(text, ", {} never answered", counts.unknown);
    }
    if report.held > 0 {
        let _ = write!(text, ", {} silent but in use because nobody answers this node", report.held);
    }
    if report.not_probed > 0 {
        let _ = write!(text, ", {} not probed because there are too many", report.not_probed);
    }
    text.push('\n');
    for fault in &report.responder_faults {
        let _ = writeln!(text, "   probes of others are not answered at {fault}");
    }
    for node in &report.nodes {
        text.push_str(&of_one(node, ways, now));
    }
    text
}

fn of_one(node: &NodeHealth, ways: bool, now: Timestamp) -> String {
    let status = match (node.status, node.outside) {
        (NodeStatus::Reachable, _) if node.held => "silent, but so is everybody",
        (NodeStatus::Reachable, _) => "reachable",
        (NodeStatus::Unknown, _) => "has never answered (firewall?)",
        (NodeStatus::Unreachable, NodeStatus::Reachable) => {
            "unreachable: the pod network to it is broken, the node answers"
        }
        (NodeStatus::Unreachable, _) => "unreachable",
    };
    let mut text = format!("   {}/{}: {status}, for {}", node.cluster, node.name, since(node.since, now));
    if let Some(seen) = node.last_seen.filter(|_| node.status != NodeStatus::Reachable || node.held) {
        let _ = write!(text, ", last seen {} ago", since(seen, now));
    }
    text.push('\n');
    if ways {
        let all = [
            ("pod network", &node.tunnel_icmp, &node.tunnel_http),
            ("underlay", &node.underlay_icmp, &node.underlay_http),
        ];
        for (name, icmp, http) in all {
            let _ = writeln!(text, "   └  {name}: ICMP {}; HTTP {}", of_way(icmp), of_way(http));
        }
    }
    text
}

fn of_way(way: &WayReport) -> String {
    let Some(address) = way.address else { return "has no address".to_owned() };
    let result = match (way.answered, way.latency_ms, &way.fault) {
        (None, ..) => "not asked yet".to_owned(),
        (Some(true), Some(latency), None) => format!("ok, {latency:.3} ms"),
        (Some(_), _, fault) => fault.clone().unwrap_or_else(|| "no answer".to_owned()),
    };
    format!("to {address}: {result}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_shown_both_ways() {
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        let ok = |ip: &str| WayReport {
            address: Some(ip.parse().unwrap()),
            answered: Some(true),
            latency_ms: Some(0.25),
            ..Default::default()
        };
        let lost = |ip: &str| WayReport {
            answered: Some(false),
            fault: Some("no answer within 500 ms".into()),
            ..ok(ip)
        };
        let good = NodeHealth {
            cluster: "cls-b".into(),
            name: "n1".into(),
            status: NodeStatus::Reachable,
            outside: NodeStatus::Reachable,
            since: time("2026-03-01T08:00:00Z"),
            held: false,
            last_seen: Some(time("2026-03-01T08:01:30Z")),
            tunnel_icmp: ok("10.2.0.1"),
            tunnel_http: ok("10.2.0.2"),
            underlay_icmp: ok("172.20.0.1"),
            underlay_http: WayReport { address: None, answered: None, ..ok("172.20.0.1") },
        };
        let bad = NodeHealth {
            name: "n2".into(),
            status: NodeStatus::Unreachable,
            tunnel_icmp: lost("10.2.1.1"),
            tunnel_http: lost("10.2.1.2"),
            ..good.clone()
        };
        let gone = NodeHealth {
            name: "n3".into(),
            outside: NodeStatus::Unreachable,
            underlay_icmp: lost("172.20.0.3"),
            ..bad.clone()
        };
        let never = NodeHealth { name: "n4".into(), status: NodeStatus::Unknown, ..gone.clone() };
        let held = NodeHealth { name: "n5".into(), held: true, ..good.clone() };
        let report = Report {
            nodes: vec![good, bad, gone, never, held],
            held: 1,
            not_probed: 2,
            responder_faults: vec!["10.1.0.1:4240: in use".into()],
        };
        let now = time("2026-03-01T08:01:40Z");
        let long = of_all(&report, true, now);
        for line in [
            "Cluster health: 2/5 reachable, 1 never answered, 1 silent but in use because nobody answers this node, \
             2 not probed because there are too many",
            "   probes of others are not answered at 10.1.0.1:4240: in use",
            "   cls-b/n1: reachable, for 1m40s",
            "   └  pod network: ICMP to 10.2.0.1: ok, 0.250 ms; HTTP to 10.2.0.2: ok, 0.250 ms",
            "   └  underlay: ICMP to 172.20.0.1: ok, 0.250 ms; HTTP has no address",
            "   cls-b/n2: unreachable: the pod network to it is broken, the node answers, for 1m40s, last seen 10s ago",
            "   └  pod network: ICMP to 10.2.1.1: no answer within 500 ms; HTTP to 10.2.1.2: no answer within 500 ms",
            "   cls-b/n3: unreachable, for 1m40s, last seen 10s ago",
            "   cls-b/n4: has never answered (firewall?), for 1m40s, last seen 10s ago",
            "   cls-b/n5: silent, but so is everybody, for 1m40s, last seen 10s ago",
        ] {
            assert!(long.contains(&format!("{line}\n")), "{line} in\n{long}");
        }
        assert_eq!(of_all(&report, false, now).lines().count(), 7);
        let again: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(again, report);
    }
}
