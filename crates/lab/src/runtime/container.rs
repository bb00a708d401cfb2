//! The description of a process in its surroundings, as it is handed to `causeway lab run-container`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A process with its namespaces, root, cgroup and command.
///
/// Everything is applied in this order: cgroup, network namespace, host name, mount namespace and root, user, command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Container {
    /// Command and arguments; the command is looked up in `PATH` of `env` inside the root.
    pub argv: Vec<String>,
    /// The whole environment, in order; nothing is inherited. Without `PATH` a usual one is added.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Working directory inside the root; `/` if not given. Created if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<PathBuf>,
    /// cgroup v2 directory to run in, as the starting process sees it; created if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
    /// Network namespace to join (`/proc/<pid>/ns/net`); none = the starter's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<PathBuf>,
    /// Make a new network namespace instead of joining one (sandbox processes); `lo` is up.
    #[serde(default)]
    pub new_netns: bool,
    /// Host name, in a UTS namespace of its own; none = the starter's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// What `/` is.
    #[serde(default)]
    pub root: Root,
    /// Bind mounts in an overlay root, in order.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// User and group id; none = root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<(u32, u32)>,
}

/// The root directory of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Root {
    /// The starter's, in its mount namespace.
    #[default]
    Inherit,
    /// Root and host name of a running process.
    Join {
        /// Its process id.
        pid: u32,
    },
    /// A new mount namespace whose root is an overlay with an empty writable layer in memory.
    #[serde(rename_all = "camelCase")]
    Overlay {
        /// The directory below: `/` of the host, or [`super::HOST_ROOT`] inside a node.
        lower: PathBuf,
        /// An existing directory to put it together on; the mounts are seen by this process only.
        scratch: PathBuf,
        /// A node's root: with a bpf file system of its own at /sys/fs/bpf, and the host's root at
        /// [`super::HOST_ROOT`] for the roots of its containers.
        #[serde(default)]
        node: bool,
    },
}

/// A bind mount into an overlay root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    /// Directory or file as the starting process sees it.
    pub source: PathBuf,
    /// Absolute path inside the root; created if absent.
    pub target: PathBuf,
    /// Refuse writes.
    #[serde(default)]
    pub read_only: bool,
}

impl Container {
    /// A command inside a running container: its network, root and host name.
    pub fn inside(pid: u32, cgroup: Option<PathBuf>, argv: Vec<String>) -> Container {
        let netns = Some(format!("/proc/{pid}/ns/net").into());
        Container { argv, cgroup, netns, root: Root::Join { pid }, ..Container::default() }
    }
}

impl Mount {
    /// A writable bind mount.
    pub fn new(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Mount {
        Mount { source: source.into(), target: target.into(), read_only: false }
    }

    /// The same, read-only.
    pub fn read_only(self) -> Mount {
        Mount { read_only: true, ..self }
    }
}
