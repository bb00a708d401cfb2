//! Which clusters there are: a directory with one etcd client file per remote cluster, named like it
//! (mesh-protocol 3.1, 5.5), as mounted at `/var/lib/cilium/clustermesh`.
//!
//! Files may change at any time. One that cannot be used any more is reported for its cluster and the
//! last good one stays in force; one that disappears removes its cluster.

mod file;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;

use causeway_model::ClusterName;

pub use file::{Found, RemoteConfig, scan};
pub use watch::watch;

/// Why a peer's file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The file name is not a cluster name.
    #[error("{}: {rule}; the file must be named like the remote cluster", path.display())]
    Name {
        /// The file.
        path: PathBuf,
        /// What is wrong with the name.
        rule: String,
    },
    /// A file, or one it refers to, cannot be read.
    #[error("{}: cannot be read: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        reason: String,
    },
    /// The content is not an etcd client configuration.
    #[error("{}: {field}: {rule}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The setting.
        field: &'static str,
        /// What is wrong and what would be right.
        rule: String,
    },
}

/// One configured remote cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peer {
    /// The last configuration that could be used.
    pub config: Option<RemoteConfig>,
    /// Why the present file cannot be used.
    pub error: Option<String>,
}

/// The directory as last read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peers {
    /// By cluster name.
    pub clusters: BTreeMap<ClusterName, Peer>,
    /// Files whose names are no cluster names, and a directory that cannot be read.
    pub errors: Vec<String>,
}

impl Peers {
    /// Joins what was just read with what was known. `None` for files means the directory itself could
    /// not be read: then everything stays.
    pub(crate) fn update(&mut self, found: file::Found) {
        let mut before = std::mem::take(&mut self.clusters);
        for (name, result) in found.clusters {
            let held = before.remove(&name).and_then(|peer| peer.config);
            let peer = match result {
                Ok(config) => Peer { config: Some(config), error: None },
                Err(error) => Peer { config: held, error: Some(error.to_string()) },
            };
            self.clusters.insert(name, peer);
        }
        self.errors = found.invalid.iter().map(Error::to_string).collect();
    }
}

#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod tests;
