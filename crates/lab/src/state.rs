//! What is known about a lab outside its processes: its state directory, by default `/run/causeway/labs/<name>/`.
//!
//! ```text
//! lab.json             what runs; written by the supervisor alone
//! topology.yaml        what was asked for        plan.json   every address
//! lock                 held by the supervisor as long as it lives
//! kubeconfig           of the host, a context per cluster
//! bin/causeway         the executable everything runs
//! clusters/<cluster>/  kubeconfig, ca.crt        fabric/lb/<cluster>.json
//! nodes/<cluster>/<node>/  kubeconfig, pods/, logs/
//! logs/<process>.log
//! ```

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::runtime::{Cgroup, Context, write_atomic};
use crate::topology::{Plan, Topology};

/// Where labs are, unless `CAUSEWAY_LAB_ROOT` says otherwise.
const ROOT: &str = "/run/causeway/labs";
/// Longest name of a lab: it is part of cgroup names.
const MAX_NAME: usize = 32;

/// A lab's place on this machine; it need not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabDir {
    name: String,
    path: PathBuf,
}

/// What a lab is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "phase", content = "reason")]
pub enum Phase {
    /// Coming up.
    Starting,
    /// Machines and API servers are there.
    Running,
    /// Could not come up.
    Failed(String),
    /// Being taken down.
    Stopping,
}

/// Something that was done while coming up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// When, in milliseconds since the start.
    pub at_ms: u64,
    /// What.
    pub text: String,
}

/// A process of the lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessStatus {
    /// What it is, as in `kubelet/<cluster>/<node>`; also the name of its log.
    pub name: String,
    /// Its process id.
    pub pid: u32,
    /// How and when it ended; none while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
}

/// A cluster as it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// Its name.
    pub name: String,
    /// Its API server as the host reaches it, `https://127.0.0.1:<port>`.
    pub server: String,
    /// Its nodes.
    pub nodes: Vec<NodeStatus>,
}

/// A node as it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// The process whose namespaces are the node's.
    pub pid: u32,
}

/// `lab.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LabStatus {
    /// Name of the lab.
    pub name: String,
    /// What it is doing.
    #[serde(flatten)]
    pub phase: Phase,
    /// The supervisor's process id.
    pub supervisor: u32,
    /// When it started, RFC 3339.
    pub started: String,
    /// Its cgroup directory.
    pub cgroup: PathBuf,
    /// What was done so far.
    pub steps: Vec<Step>,
    /// The process in whose network namespace the VPC is; 0 until it runs.
    pub fabric: u32,
    /// The clusters that are up.
    pub clusters: Vec<ClusterStatus>,
    /// Every process that was started.
    pub processes: Vec<ProcessStatus>,
}

impl LabDir {
    /// The place of the lab of a name.
    ///
    /// # Errors
    /// If the name cannot be part of paths and cgroup names.
    pub fn new(name: &str) -> Result<LabDir> {
        let root = std::env::var_os("CAUSEWAY_LAB_ROOT").map_or_else(|| ROOT.into(), PathBuf::from);
        Self::below(&root, name)
    }

    /// The same with a directory of labs of one's own.
    ///
    /// # Errors
    /// As [`LabDir::new`].
    pub fn below(root: &Path, name: &str) -> Result<LabDir> {
        let inner = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if name.is_empty() || name.len() > MAX_NAME || !inner || name.starts_with('-') {
            let rule = format!("use 1 to {MAX_NAME} lower-case letters, digits and '-'");
            return Err(Error::refused(format!("{name:?} cannot be the name of a lab: {rule}")));
        }
        Ok(LabDir { name: name.into(), path: root.join(name) })
    }

    /// Name of the lab.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its state directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its cgroup.
    ///
    /// # Errors
    /// If cgroup v2 is not mounted.
    pub fn cgroup(&self) -> Result<Cgroup> {
        let mount = Cgroup::mount_point()?.ok_or_else(|| {
            Error::Preflight("cgroup v2 is not mounted: mount it with `mount -t cgroup2 none <dir>`".into())
        })?;
        Ok(Cgroup::at(mount.join(format!("causeway-{}", self.name))))
    }

    /// Directory of a cluster.
    pub fn cluster(&self, cluster: &str) -> PathBuf {
        self.path.join("clusters").join(cluster)
    }

    /// Directory of a node.
    pub fn node(&self, cluster: &str, node: &str) -> PathBuf {
        self.path.join("nodes").join(cluster).join(node)
    }

    /// The merged kubeconfig of the host.
    pub fn kubeconfig(&self) -> PathBuf {
        self.path.join("kubeconfig")
    }

    /// The executable of the lab's processes.
    pub fn executable(&self) -> PathBuf {
        self.path.join("bin").join("causeway")
    }

    /// Log of a process.
    pub fn log(&self, process: &str) -> PathBuf {
        self.path.join("logs").join(format!("{}.log", process.replace('/', "_")))
    }

    /// Whether a supervisor lives. It holds the lock as long as it does, so process ids that were reused do not matter.
    pub fn is_alive(&self) -> bool {
        let Ok(file) = File::open(self.path.join("lock")) else { return false };
        matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
    }

    /// Takes the lock for a supervisor that is about to be started; it is held as long as any process has the file open.
    ///
    /// # Errors
    /// If another holds it.
    pub fn lock(&self) -> Result<File> {
        let path = self.path.join("lock");
        let file = File::create(&path).what(|| format!("create {}", path.display()))?;
        file.try_lock().map_err(|_| {
            Error::refused(format!("lab {} is being brought up by another process", self.name))
        })?;
        Ok(file)
    }

    /// What runs; none if nothing was written yet.
    pub fn status(&self) -> Option<LabStatus> {
        serde_json::from_slice(&fs::read(self.path.join("lab.json")).ok()?).ok()
    }

    /// Replaces `lab.json`.
    ///
    /// # Errors
    /// If the directory is gone.
    pub fn write_status(&self, status: &LabStatus) -> Result<()> {
        let text = serde_json::to_vec_pretty(status).what(|| "encode the status".into())?;
        Ok(write_atomic(&self.path.join("lab.json"), &text)?)
    }

    /// What was asked for.
    ///
    /// # Errors
    /// If the lab is not there.
    pub fn topology(&self) -> Result<Topology> {
        let path = self.path.join("topology.yaml");
        let text = fs::read_to_string(&path).what(|| format!("read {}", path.display()))?;
        Ok(Topology::parse(&text)?)
    }

    /// What was asked for, with every address.
    ///
    /// # Errors
    /// If the lab is not there.
    pub fn plan(&self) -> Result<Plan> {
        Ok(Plan::new(&self.topology()?))
    }

    /// The status of a lab that is up.
    ///
    /// # Errors
    /// If it is not, saying how to get one.
    pub fn running(&self) -> Result<LabStatus> {
        let up = format!("bring it up with `causeway lab up --name {}`", self.name);
        match self.status() {
            Some(status) if self.is_alive() => match &status.phase {
                Phase::Running => Ok(status),
                Phase::Starting => Err(Error::refused(format!("lab {} is still coming up", self.name))),
                Phase::Failed(why) => Err(Error::refused(format!("lab {} failed: {why}", self.name))),
                Phase::Stopping => Err(Error::refused(format!("lab {} is being taken down", self.name))),
            },
            Some(_) => Err(Error::refused(format!("lab {} has crashed; {up}", self.name))),
            None => Err(Error::refused(format!("there is no lab {}; {up}", self.name))),
        }
    }

    /// Removes everything a lab leaves: processes, cgroups, state. Harmless if there is nothing.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn clean(&self) -> Result<()> {
        if Cgroup::mount_point()?.is_some() {
            self.cgroup()?.destroy(std::time::Duration::from_secs(10))?;
        }
        match fs::remove_dir_all(&self.path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            other => other.what(|| format!("remove {}", self.path.display()))?,
        }
        // The directories of all labs go with the last one.
        for dir in self.path.ancestors().skip(1).take(2).filter(|d| d.starts_with("/run/causeway")) {
            let _ = fs::remove_dir(dir);
        }
        Ok(())
    }

    /// Whether any process of this machine still runs the lab's executable, also after it was removed.
    pub fn has_processes(&self) -> bool {
        let executable = self.executable();
        let runs_it = |entry: fs::DirEntry| {
            let path = fs::read_link(entry.path().join("exe")).unwrap_or_default();
            path.to_string_lossy().trim_end_matches(" (deleted)") == executable.to_string_lossy()
        };
        fs::read_dir("/proc").into_iter().flatten().flatten().any(runs_it)
    }

    /// The labs of this machine by name.
    ///
    /// # Errors
    /// None at present: an unreadable directory has no labs.
    pub fn all() -> Result<Vec<LabDir>> {
        let root = std::env::var_os("CAUSEWAY_LAB_ROOT").map_or_else(|| ROOT.into(), PathBuf::from);
        let entries = fs::read_dir(&root).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort();
        Ok(names.iter().filter_map(|n| Self::below(&root, n).ok()).collect())
    }
}
