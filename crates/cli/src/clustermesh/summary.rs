//! Many agents' reports as one picture of a cluster's peers. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::report::{Peer, Report, STALE};

/// What is known about an agent pod and what it reports.
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    /// Name of the pod.
    pub pod: String,
    /// Its report; `None` when there is none.
    pub report: Option<Report>,
}

/// The whole picture; the names of `connectivity` are those of Cilium's JSON.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Summary {
    /// Every agent is ready with every configured peer.
    pub ready: bool,
    /// One line per peer, in order of the names.
    pub peers: Vec<PeerSummary>,
    /// The same as Cilium's tools count it.
    pub connectivity: Connectivity,
}

/// One peer over all agents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PeerSummary {
    /// Its name.
    pub name: String,
    /// Its id; 0 = not known yet.
    pub id: u32,
    /// Agents that know of it.
    pub configured: usize,
    /// Agents connected to it.
    pub connected: usize,
    /// Agents that have read everything.
    pub ready: usize,
    /// Nodes of it; the smallest number any reporting agent sees, like the next three.
    pub nodes: u64,
    /// Addresses of it.
    pub endpoints: u64,
    /// Identities of it.
    pub identities: u64,
    /// Global services of it.
    pub services: u64,
    /// Failures of all agents since they started.
    pub failures: u64,
    /// The newest failure.
    pub last_failure: Option<String>,
    /// When it was.
    pub last_failure_time: Option<Timestamp>,
}

/// Cilium's counts (operator-workflow 2.1); zero is written out.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Connectivity {
    /// Ready peers per agent.
    pub connected: MinAvgMax,
    /// Per peer.
    pub clusters: BTreeMap<String, Counts>,
    /// Agents.
    pub total: usize,
    /// Agents that are not ready with every peer.
    pub not_ready: usize,
    /// Pod → peer → reasons.
    pub errors: BTreeMap<String, BTreeMap<String, Reasons>>,
}

/// Smallest, mean and largest.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct MinAvgMax {
    min: usize,
    avg: f64,
    max: usize,
}

/// Agents that know of a peer and that are connected.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Counts {
    configured: usize,
    connected: usize,
}

/// Why an agent is not ready with a peer.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Reasons {
    /// One sentence each.
    pub errors: Vec<String>,
}

/// Puts the reports together; `expected` are the configured peers.
pub(crate) fn summarize(expected: &[String], agents: &[Agent], now: Timestamp) -> Summary {
    let mut errors: BTreeMap<String, BTreeMap<String, Reasons>> = BTreeMap::new();
    let mut ready_counts = Vec::new();
    for agent in agents {
        let mut ready = 0;
        for name in expected {
            match problem(agent, name, now) {
                None => ready += 1,
                Some(why) => {
                    let of_agent = errors.entry(agent.pod.clone()).or_default();
                    of_agent.insert(name.clone(), Reasons { errors: vec![why] });
                }
            }
        }
        ready_counts.push(ready);
    }
    let peers: Vec<_> = expected.iter().map(|name| peer_summary(name, agents, now)).collect();
    let clusters =
        peers.iter().map(|p| (p.name.clone(), Counts { configured: p.configured, connected: p.connected }));
    let total = agents.len();
    let connectivity = Connectivity {
        connected: MinAvgMax {
            min: ready_counts.iter().copied().min().unwrap_or(0),
            avg: ready_counts.iter().sum::<usize>() as f64 / total.max(1) as f64,
            max: ready_counts.iter().copied().max().unwrap_or(0),
        },
        clusters: clusters.collect(),
        total,
        not_ready: errors.len(),
        errors,
    };
    Summary { ready: total > 0 && connectivity.errors.is_empty(), peers, connectivity }
}

/// The usable part of an agent's report.
fn fresh(agent: &Agent, now: Timestamp) -> Result<&Report, String> {
    let report = agent.report.as_ref().ok_or("the agent has not reported yet")?;
    let age = now.as_second() - report.time.as_second();
    if age > STALE.as_secs() as i64 {
        return Err(format!("the agent's last report is {age} s old"));
    }
    Ok(report)
}

fn problem(agent: &Agent, peer: &str, now: Timestamp) -> Option<String> {
    match fresh(agent, now) {
        Err(why) => Some(why),
        Ok(report) => match report.peers.iter().find(|p| p.name == peer) {
            None => Some("the agent does not know this peer yet".to_owned()),
            Some(peer) => peer.problem(),
        },
    }
}

fn peer_summary(name: &str, agents: &[Agent], now: Timestamp) -> PeerSummary {
    let views: Vec<&Peer> = agents
        .iter()
        .filter_map(|agent| fresh(agent, now).ok())
        .filter_map(|report| report.peers.iter().find(|p| p.name == name))
        .collect();
    let least = |count: fn(&Peer) -> u64| views.iter().map(|p| count(p)).min().unwrap_or(0);
    let newest = views.iter().filter(|p| p.last_failure.is_some()).max_by_key(|p| p.last_failure_time);
    PeerSummary {
        name: name.to_owned(),
        id: views.iter().map(|p| p.id).max().unwrap_or(0),
        configured: views.len(),
        connected: views.iter().filter(|p| p.connected).count(),
        ready: views.iter().filter(|p| p.ready).count(),
        nodes: least(|p| p.nodes),
        endpoints: least(|p| p.endpoints),
        identities: least(|p| p.identities),
        services: least(|p| p.services),
        failures: views.iter().map(|p| p.failures).sum(),
        last_failure: newest.and_then(|p| p.last_failure.clone()),
        last_failure_time: newest.and_then(|p| p.last_failure_time),
    }
}

/// What keeps the picture from being ready, one sentence each.
pub(crate) fn missing(summary: &Summary) -> Vec<String> {
    if summary.connectivity.total == 0 {
        return vec!["no agent is running".into()];
    }
    let errors = &summary.connectivity.errors;
    let of_agent = |(pod, peers): (&String, &BTreeMap<String, Reasons>)| {
        let lines = peers.iter().map(|(peer, why)| format!("{pod} -> {peer}: {}", why.errors.join("; ")));
        lines.collect::<Vec<_>>()
    };
    errors.iter().flat_map(of_agent).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-24T02:00:00Z".parse().unwrap()
    }

    fn agent(pod: &str, age: i64, peers: Vec<Peer>) -> Agent {
        let time = now() - jiff::SignedDuration::from_secs(age);
        Agent { pod: pod.into(), report: Some(Report { node: pod.into(), time, peers }) }
    }

    fn peer(ready: bool, nodes: u64) -> Peer {
        Peer { name: "cls-b".into(), id: 2, connected: true, ready, nodes, ..Default::default() }
    }

    #[test]
    fn ready_when_every_agent_is() {
        let expected = ["cls-b".to_owned()];
        let summary = summarize(
            &expected,
            &[agent("a", 1, vec![peer(true, 3)]), agent("b", 1, vec![peer(true, 2)])],
            now(),
        );
        assert!(summary.ready);
        assert_eq!((summary.peers[0].ready, summary.peers[0].nodes, summary.peers[0].id), (2, 2, 2));
        assert_eq!(summary.connectivity.connected.avg, 1.0);
        assert!(summarize(&[], &[agent("a", 1, vec![])], now()).ready, "no peers, nothing to wait for");
        assert!(!summarize(&[], &[], now()).ready, "no agents");
    }

    #[test]
    fn every_reason_is_said() {
        let expected = ["cls-b".to_owned()];
        let mut failing =
            Peer { name: "cls-b".into(), last_failure: Some("refused".into()), ..Default::default() };
        failing.failures = 3;
        let syncing = Peer { syncing: vec!["nodes".into()], ..peer(false, 0) };
        let agents = [
            agent("a", 1, vec![failing]),
            agent("b", 1, vec![syncing]),
            agent("c", 500, vec![peer(true, 2)]),
            agent("d", 1, vec![]),
            Agent { pod: "e".into(), report: None },
        ];
        let summary = summarize(&expected, &agents, now());
        assert_eq!(
            missing(&summary),
            [
                "a -> cls-b: not connected: refused",
                "b -> cls-b: still reading nodes",
                "c -> cls-b: the agent's last report is 500 s old",
                "d -> cls-b: the agent does not know this peer yet",
                "e -> cls-b: the agent has not reported yet",
            ]
        );
        assert_eq!(summary.connectivity.not_ready, 5);
        assert_eq!((summary.peers[0].configured, summary.peers[0].failures), (2, 3));
    }
}
