//! What an agent tells about its peers: one ConfigMap per node, written on change and at least
//! every [`EVERY`], so that `status` needs no access to nodes or pods, only the Kubernetes API.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// An agent repeats an unchanged report this often.
pub(crate) const EVERY: Duration = Duration::from_secs(30);

/// A report older than this says nothing about now.
pub(crate) const STALE: Duration = Duration::from_secs(100);

/// One agent's view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    /// The node of the agent.
    pub node: String,
    /// When it was written.
    pub time: Timestamp,
    /// Its peers in order of the names.
    pub peers: Vec<Peer>,
}

/// One peer as one agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Peer {
    /// Its name.
    pub name: String,
    /// Its id; 0 until its cluster configuration was read.
    pub id: u32,
    /// The connection to its mesh server is up.
    pub connected: bool,
    /// Connected, and everything it shares has been read.
    pub ready: bool,
    /// What is not synced yet, for instance `nodes`.
    pub syncing: Vec<String>,
    /// Its nodes known here.
    pub nodes: u64,
    /// Its addresses known here.
    pub endpoints: u64,
    /// Its identities known here.
    pub identities: u64,
    /// Its global services known here.
    pub services: u64,
    /// How often the connection failed since the agent started.
    pub failures: u64,
    /// The last failure, if any.
    pub last_failure: Option<String>,
    /// When it was.
    pub last_failure_time: Option<Timestamp>,
}

impl Peer {
    /// Why the peer is not ready; `None` when it is.
    pub(crate) fn problem(&self) -> Option<String> {
        if self.ready {
            return None;
        }
        let failure = self.last_failure.as_deref().map(|f| format!(": {f}")).unwrap_or_default();
        Some(match (self.connected, self.syncing.is_empty()) {
            (false, _) => format!("not connected{failure}"),
            (true, false) => format!("still reading {}", self.syncing.join(", ")),
            (true, true) => format!("connected, not ready{failure}"),
        })
    }
}
