//! What the kubelet writes down about running pods, so that `lab exec`, `lab status` and `lab logs` find their processes:
//! one file per pod in `<node state>/pods/<namespace>_<pod>.json`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Context, Result, write_atomic};

/// A pod with processes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRecord {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Process id (as everywhere: the host's) of the sandbox that holds the network namespace; 0 for host network.
    #[serde(default)]
    pub sandbox_pid: u32,
    /// Its running containers, in the order of the pod's description.
    #[serde(default)]
    pub containers: Vec<ContainerRecord>,
}

/// A container with a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerRecord {
    /// Name in the pod.
    pub name: String,
    /// Its first process.
    pub pid: u32,
    /// Its log file, relative to the node's state directory.
    #[serde(default)]
    pub log: PathBuf,
    /// Environment of the container, for commands run inside it.
    #[serde(default)]
    pub env: Vec<(String, String)>,
}

impl PodRecord {
    fn file(node_state: &Path, namespace: &str, name: &str) -> PathBuf {
        node_state.join("pods").join(format!("{namespace}_{name}.json"))
    }

    /// Writes the record into a node's state directory, replacing an older one.
    ///
    /// # Errors
    /// If the directory cannot be written.
    pub fn write(&self, node_state: &Path) -> Result<()> {
        let path = Self::file(node_state, &self.namespace, &self.name);
        let dir = node_state.join("pods");
        fs::create_dir_all(&dir).what(|| format!("create {}", dir.display()))?;
        let text = serde_json::to_vec_pretty(self).what(|| "encode a pod record".into())?;
        write_atomic(&path, &text)
    }

    /// Removes the record of a pod; harmless if there is none.
    pub fn remove(node_state: &Path, namespace: &str, name: &str) {
        let _ = fs::remove_file(Self::file(node_state, namespace, name));
    }

    /// Reads the record of a pod; none if it does not run on this node.
    pub fn read(node_state: &Path, namespace: &str, name: &str) -> Option<PodRecord> {
        let text = fs::read(Self::file(node_state, namespace, name)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// All records of a node, by namespace and name.
    pub fn list(node_state: &Path) -> Vec<PodRecord> {
        let Ok(entries) = fs::read_dir(node_state.join("pods")) else { return Vec::new() };
        let mut files: Vec<_> = entries
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == "json"))
            .collect();
        files.sort();
        files.iter().filter_map(|f| serde_json::from_slice(&fs::read(f).ok()?).ok()).collect()
    }
}
