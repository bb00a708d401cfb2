//! Logs of containers: files in the format of container runtimes (`<time> <stream> <F|P> <text>`), one per run of a
//! container, rotated by size, and read back for `kubectl logs`.

mod read;
mod server;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

pub use read::LogQuery;
pub use server::{bind, serve};
pub use write::{LogFile, pump};

/// Which stream of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// As in the file.
    pub fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// What is known of one container's logs.
#[derive(Debug, Clone, Default)]
struct Entry {
    /// The present or last run; none before the first.
    run: Option<u32>,
    /// Whether it runs.
    running: bool,
}

#[derive(Debug, Default)]
struct PodEntry {
    uid: String,
    containers: BTreeMap<String, Entry>,
}

/// The logs of a node: where files are, and which container has which. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Logs {
    dir: PathBuf,
    pods: Arc<Mutex<BTreeMap<(String, String), PodEntry>>>,
}

impl Logs {
    /// Over a directory.
    pub fn new(dir: PathBuf) -> Self {
        Logs { dir, pods: Arc::default() }
    }

    /// Directory of a pod.
    pub fn pod_dir(&self, namespace: &str, pod: &str, uid: &str) -> PathBuf {
        self.dir.join(format!("{namespace}_{pod}_{uid}"))
    }

    /// Makes a pod's containers known.
    pub fn add(&self, namespace: &str, pod: &str, uid: &str, containers: impl Iterator<Item = String>) {
        let containers = containers.map(|c| (c, Entry::default())).collect();
        self.locked().insert((namespace.into(), pod.into()), PodEntry { uid: uid.into(), containers });
    }

    /// Forgets a pod and removes its files.
    pub fn remove(&self, namespace: &str, pod: &str, uid: &str) {
        let key = (namespace.to_string(), pod.to_string());
        let mut pods = self.locked();
        if pods.get(&key).is_some_and(|p| p.uid == uid) {
            pods.remove(&key);
        }
        drop(pods);
        let _ = std::fs::remove_dir_all(self.pod_dir(namespace, pod, uid));
    }

    /// Notes that a run of a container began or ended.
    pub fn mark(&self, namespace: &str, pod: &str, container: &str, run: u32, running: bool) {
        let key = (namespace.to_string(), pod.to_string());
        if let Some(e) = self.locked().get_mut(&key).and_then(|p| p.containers.get_mut(container)) {
            *e = Entry { run: Some(run), running };
        }
    }

    fn find(&self, namespace: &str, pod: &str, container: &str) -> Option<(String, Entry)> {
        let pods = self.locked();
        let p = pods.get(&(namespace.to_string(), pod.to_string()))?;
        Some((p.uid.clone(), p.containers.get(container)?.clone()))
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, BTreeMap<(String, String), PodEntry>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// File of a run.
pub fn file(pod_dir: &Path, container: &str, run: u32) -> PathBuf {
    pod_dir.join(container).join(format!("{run}.log"))
}

/// Where the older part of a rotated file is.
fn rotated(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}
