//! Which nodes can be reached, of this cluster and of all others, found out by this node itself: that works
//! without any control plane.
//!
//! A node is asked through the tunnel about once a second, by ICMP echo where it answers that, else on
//! port 4240 over HTTP. After the first loss it is asked again at once and both ways, and outside the tunnel
//! too. It is *unreachable* when neither way through the tunnel has answered [`Options::failures`] times in a
//! row, within [`Options::worst_case`] (2.6 s as it comes) of its last sign of life, and *reachable* again
//! after two answers in a row: four, eight, sixteen where it fell two, three, four times within a minute. A
//! node that has never answered is *unknown*: perhaps a firewall keeps the probes away.
//!
//! **Who cannot reach anybody blames nobody.** From the second on, a loss counts only if something else shows that
//! our own uplink is up: an answer to a probe that was sent after the lost one, of
//!
//! 1. any other node, through the tunnel; else
//! 2. the gateway of a default route, if the node is silent outside the tunnel as well. A node that answers
//!    there while *nobody* answers through the tunnel says that our own tunnel is broken.
//! 3. Where there is nobody to ask (no gateway ever answered, no second node is known), the silence of the
//!    only node counts by itself: in a mesh of two nodes its backends are of no use either way.
//!
//! Otherwise the node is *held*: it stays what it was, and is asked on. Witnesses are asked together with the node: the
//! gateways, and of each cluster (eight at most, the own one first) the node that was heard last.
//!
//! [`Monitor`] decides, without clock or socket. [`Prober`] is the task around it: one raw ICMP socket per
//! family for all nodes ([`icmp`]), at most [`HTTP_AT_ONCE`] connections ([`http`]). [`responder`] answers the
//! probes of others.
//!
//! **Cost**, for n nodes: n echo requests a second, and n answers; per node two sweeps of all ways a minute, and
//! about half a kilobyte. More than [`MAX_RATE`] probes are not begun in a second: beyond 5,000 nodes each is asked
//! less often, and a loss is noticed that much later.

mod http;
mod icmp;
mod monitor;
mod prober;
mod report;
pub mod responder;
mod target;
mod uplink;
mod watched;

#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use causeway_model::NodeKey;

pub use http::HTTP_AT_ONCE;
pub use monitor::{MAX_NODES, MAX_RATE, Monitor};
pub use prober::{Input, Outputs, Prober};
pub use report::{Counts, NodeHealth, NodeStatus, Report, WayReport};
pub use target::Target;

/// Port of the responder: `cluster-health-port` of Cilium.
pub const PORT: u16 = 4240;

/// How a node is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// ICMP echo: its kernel answers.
    Icmp,
    /// `GET /hello` on port 4240: its agent answers. That its kernel takes or refuses the connection is an answer too.
    Http,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Icmp, Self::Http];

    const fn other(self) -> Self {
        match self {
            Self::Icmp => Self::Http,
            Self::Http => Self::Icmp,
        }
    }
}

/// Where a probe goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// To the node's addresses inside the pod network, as packets to its pods go.
    Tunnel,
    /// To the node's own address.
    Underlay,
}

impl Way {
    const ALL: [Self; 2] = [Self::Tunnel, Self::Underlay];
}

/// Names one probe; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProbeId(pub u64);

/// A probe to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Which one it is; the answer must name it.
    pub id: ProbeId,
    /// Where it goes.
    pub to: IpAddr,
    /// Echo request or HTTP.
    pub kind: Kind,
    /// How long an answer is waited for.
    pub timeout: Duration,
}

/// A node can no longer be reached, or can be again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reachability {
    /// The node.
    pub node: NodeKey,
    /// The addresses by which the entries of its pods name it.
    pub hosts: Arc<[IpAddr]>,
    /// Whether it can be reached.
    pub reachable: bool,
}

/// How the nodes are asked.
#[derive(Debug, Clone)]
pub struct Options {
    /// How often a node that answers is asked; a tenth more or less each time, so that they spread.
    pub interval: Duration,
    /// How long an answer may take. It must be longer than the longest way of the mesh.
    pub timeout: Duration,
    /// How many probes in a row a node must lose, at least 2; Cilium's `health-check-icmp-failure-threshold`.
    pub failures: u32,
}

/// Options that cannot be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("intervals and timeouts must be between 10ms and 1h, and 2 to 100 losses be needed")]
pub struct BadOptions;

impl Default for Options {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1), timeout: Duration::from_millis(500), failures: 3 }
    }
}

impl Options {
    /// Whether these can be kept.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check(&self) -> Result<(), BadOptions> {
        let bounds = Duration::from_millis(10)..=Duration::from_secs(3600);
        let within = bounds.contains(&self.interval) && bounds.contains(&self.timeout);
        if within && (2..=100).contains(&self.failures) { Ok(()) } else { Err(BadOptions) }
    }

    /// The longest time from a node's last sign of life to the decision, without what the machine itself takes.
    pub fn worst_case(&self) -> Duration {
        self.interval + self.interval / 10 + self.timeout * self.failures.max(2)
    }
}
