//! What is known of the nodes, for people, programs and metrics.

use std::net::IpAddr;
use std::time::Instant;

use causeway_model::NodeKey;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::watched::{State, Watched};
use super::{Kind, Way};

/// Everything that is known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Every node that is probed, in order of cluster and name.
    pub nodes: Vec<NodeHealth>,
    /// How many nodes are not, because there are too many.
    pub not_probed: usize,
    /// How many are silent and held, because nobody answers.
    pub held: usize,
    /// Why this node does not answer the probes of others at some of its addresses.
    pub responder_faults: Vec<String>,
}

/// Whether packets to the pods of a node arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeStatus {
    /// It has never answered.
    Unknown,
    /// It answers.
    Reachable,
    /// It is silent, inside the tunnel at least.
    Unreachable,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NodeHealth {
    /// Its cluster.
    pub cluster: String,
    /// Its name.
    pub name: String,
    /// Whether its pods can be reached.
    pub status: NodeStatus,
    /// Whether the node itself answers, whatever becomes of the tunnel.
    pub outside: NodeStatus,
    /// Since when its pods can be reached, or not.
    pub since: Timestamp,
    /// It is silent, but so is everybody: it stays as it was.
    #[serde(default, skip_serializing_if = "is_false")]
    pub held: bool,
    /// When a probe was sent that it answered, any way; none = never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// Through the tunnel, ICMP.
    pub tunnel_icmp: WayReport,
    /// Through the tunnel, HTTP.
    pub tunnel_http: WayReport,
    /// Outside the tunnel, ICMP.
    pub underlay_icmp: WayReport,
    /// Outside the tunnel, HTTP.
    pub underlay_http: WayReport,
}

/// One way of asking a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct WayReport {
    /// Which address is asked; none = it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Whether the last probe whose end is known was answered; none = no probe has ended yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<bool>,
    /// How long the last answer took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    /// When the last probe was sent that was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// What was wrong with the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// How many nodes answer one way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Either kind of probe was answered.
    pub reachable: u64,
    /// Neither was.
    pub unreachable: u64,
    /// Nothing is known yet.
    pub unknown: u64,
}

impl Report {
    /// How many nodes can be reached through the tunnel (true) or outside it (false).
    pub fn counts(&self, tunnel: bool) -> Counts {
        let mut counts = Counts::default();
        for node in &self.nodes {
            match if tunnel { node.status } else { node.outside } {
                NodeStatus::Reachable => counts.reachable += 1,
                NodeStatus::Unreachable => counts.unreachable += 1,
                NodeStatus::Unknown => counts.unknown += 1,
            }
        }
        counts
    }
}

/// The report of one node. `wall` is the time of day at `now`.
pub(super) fn of(node: &Watched, now: Instant, wall: Timestamp) -> NodeHealth {
    let when = |at: Instant| {
        let ago = SignedDuration::try_from(now.saturating_duration_since(at)).unwrap_or_default();
        wall.checked_sub(ago).unwrap_or(wall)
    };
    let way = |way, kind| {
        let heard = node.heard(way, kind);
        let sent = heard.answered.map(|(sent, _)| sent);
        WayReport {
            address: node.target.address(way, kind),
            answered: (sent.is_some() || heard.failed.is_some()).then_some(sent >= heard.failed),
            latency_ms: heard.answered.map(|(_, rtt)| rtt.as_micros() as f64 / 1000.0),
            last_seen: sent.map(when),
            fault: heard.fault.as_deref().map(str::to_owned),
        }
    };
    let (icmp, http) = (way(Way::Underlay, Kind::Icmp), way(Way::Underlay, Kind::Http));
    let outside = match (icmp.answered, http.answered) {
        (None, None) => NodeStatus::Unknown,
        // One way may have been asked long before the silence.
        (Some(true), _) | (_, Some(true)) if node.silent_from.is_none() || node.answers_outside() => {
            NodeStatus::Reachable
        }
        _ => NodeStatus::Unreachable,
    };
    let all = Way::ALL.into_iter().flat_map(|way| Kind::ALL.map(|kind| node.heard(way, kind)));
    let last = all.filter_map(|heard| heard.answered).map(|(sent, _)| sent).max();
    let NodeKey { cluster, name } = &node.target.node;
    NodeHealth {
        cluster: cluster.to_string(),
        name: name.clone(),
        status: match node.state {
            State::Unknown => NodeStatus::Unknown,
            State::Reachable => NodeStatus::Reachable,
            State::Unreachable => NodeStatus::Unreachable,
        },
        outside,
        since: when(node.since),
        held: node.held,
        last_seen: last.map(when),
        tunnel_icmp: way(Way::Tunnel, Kind::Icmp),
        tunnel_http: way(Way::Tunnel, Kind::Http),
        underlay_icmp: icmp,
        underlay_http: http,
    }
}

fn is_false(value: &bool) -> bool {
    !value
}
