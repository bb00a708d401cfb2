//! What nodes and pods are made of: network and mount namespaces, overlay roots, cgroups, processes.
//!
//! The supervisor and the kubelet describe a process as a [`Container`]; [`spawn`] starts this executable's hidden
//! subcommand `lab run-container`, which enters what the description says, one system call after the other in a fresh
//! single-threaded process, and becomes the command. Nothing complicated happens between fork and exec.

pub mod cgroup;
pub mod container;
pub mod init;
pub mod namespaces;
pub mod registry;
pub mod rootfs;
pub mod spawn;

use std::io;
use std::path::Path;

pub use cgroup::Cgroup;
pub use container::{Container, Mount, Root};
pub use namespaces::NetNs;
pub use spawn::{Exit, Process, Stdio};

/// Where a node's root shows the host's root filesystem, read-only. Roots of containers are overlays over this one, not
/// over the node's own root: overlayfs allows two levels only, and the host's root may be one already.
pub const HOST_ROOT: &str = "/run/causeway/hostroot";
/// Where a node's root shows the node's own cgroup directory.
pub const NODE_CGROUP: &str = "/run/causeway/cgroupv2";
/// Where a node's root shows its directory in the lab's state directory (kubelet configuration, pod records, logs).
pub const NODE_STATE: &str = "/run/causeway/node";
/// Where every root shows the executable of the lab.
pub const EXECUTABLE: &str = "/usr/local/bin/causeway";
/// An empty directory of a node's root on which the roots of containers are put together.
pub const SCRATCH: &str = "/run/causeway/rootfs";

/// What went wrong, and with what.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct Error {
    /// What was being done to what, as in `mount overlay on /run/x`.
    pub what: String,
    /// The system's answer.
    #[source]
    pub source: io::Error,
}

/// Result of everything here.
pub type Result<T> = std::result::Result<T, Error>;

/// Says what failed.
pub trait Context<T> {
    /// Adds a description to a system error.
    ///
    /// # Errors
    /// The error passed in, described.
    fn what(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn what(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error { what: what(), source: e.into() })
    }
}

/// Replaces a file as one step, so that a reader sees the old or the new content.
///
/// # Errors
/// If the directory cannot be written.
pub fn write_atomic(path: &Path, content: &[u8]) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    std::fs::write(&temporary, content).what(|| format!("write {}", Path::new(&temporary).display()))?;
    std::fs::rename(&temporary, path).what(|| format!("replace {}", path.display()))
}
