//! The record of a running pod for `causeway lab exec` and `status`: `<record dir>/pods/<namespace>_<name>.json`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::PodId;

/// A pod with processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodRecord {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    /// Process that holds the network namespace; 0 for host network.
    pub(super) sandbox_pid: u32,
    pub(super) containers: Vec<ContainerRecord>,
}

/// A container with a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ContainerRecord {
    pub(super) name: String,
    pub(super) pid: u32,
    /// cgroup relative to the node's.
    pub(super) cgroup: PathBuf,
    /// Log file, relative to the record directory if it is beneath it.
    pub(super) log: PathBuf,
    /// Environment, for commands run inside.
    pub(super) env: Vec<(String, String)>,
}

fn path(dir: &Path, id: &PodId) -> PathBuf {
    dir.join("pods").join(format!("{}_{}.json", id.namespace, id.name))
}

/// Writes a record as one step. A failure is logged: the pod runs all the same.
pub(super) fn write(dir: &Path, id: &PodId, record: &PodRecord) {
    let path = path(dir, id);
    let temporary = path.with_extension("tmp");
    let result = std::fs::create_dir_all(dir.join("pods"))
        .and_then(|()| std::fs::write(&temporary, serde_json::to_vec_pretty(record).unwrap_or_default()))
        .and_then(|()| std::fs::rename(&temporary, &path));
    if let Err(error) = result {
        tracing::warn!(path = %path.display(), %error, "pod record not written");
    }
}

/// Removes the record of a pod, unless it is already that of another pod of the same name.
pub(super) fn remove(dir: &Path, id: &PodId) {
    let path = path(dir, id);
    let ours = std::fs::read(&path)
        .ok()
        .and_then(|b| serde_json::from_slice::<PodRecord>(&b).ok())
        .is_some_and(|r| r.uid == id.uid);
    if ours {
        let _ = std::fs::remove_file(path);
    }
}
