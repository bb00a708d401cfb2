//! What a sandbox, a container and a command inside a container consist of, as steps.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use super::spawn::{Program, SpawnError};
use super::steps::{Step, c};

/// The process that holds a pod's namespaces.
#[derive(Debug, Clone)]
pub struct SandboxSpec {
    /// Host name of the pod.
    pub hostname: String,
    /// cgroup directory to run in.
    pub cgroup: PathBuf,
}

impl SandboxSpec {
    /// A process that sleeps in new network, host name and IPC namespaces; `lo` is up.
    pub fn program(&self) -> Program {
        let steps = vec![
            Step::DieWithParent,
            Step::EnterCgroup(c(self.cgroup.join("cgroup.procs"))),
            Step::Unshare(libc::CLONE_NEWNET | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC),
            Step::Hostname(c(&self.hostname)),
            Step::LoopbackUp,
            Step::Chdir(c("/")),
        ];
        let env = vec![("PATH".into(), DEFAULT_PATH.into())];
        Program { argv: vec!["sleep".into(), "infinity".into()], env, steps, piped: false }
    }
}

/// Devices of the node that every container has, where the node has them.
const DEVICES: [&str; 9] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/pts",
    "/dev/ptmx",
    "/dev/net",
];

/// The search path of a container that sets none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `mountPropagation` of a volume mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Propagation {
    /// Mounts made later on either side stay there.
    #[default]
    None,
    /// Mounts made on the node appear in the container.
    HostToContainer,
    /// Mounts made on either side appear on the other.
    Bidirectional,
}

/// A file or directory of the node that is seen in a container.
#[derive(Debug, Clone)]
pub struct Bind {
    /// Path on the node; must exist.
    pub source: PathBuf,
    /// Absolute path in the container; made if absent.
    pub target: PathBuf,
    /// Refuse writes.
    pub read_only: bool,
    /// What happens to mounts made later.
    pub propagation: Propagation,
    /// Replace what is at the target, even a symbolic link (files the kubelet owns, as `/etc/resolv.conf`).
    pub replace: bool,
}

/// A container.
#[derive(Debug, Clone)]
pub struct ContainerSpec {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Working directory; made if absent.
    pub cwd: PathBuf,
    /// cgroup directory, which exists.
    pub cgroup: PathBuf,
    /// The sandbox whose namespaces to join; none for the node's (host network).
    pub sandbox: Option<u32>,
    /// Directory below the root's overlay.
    pub lower: PathBuf,
    /// An existing directory on which the root is put together.
    pub scratch: PathBuf,
    /// Mounts, applied in this order.
    pub binds: Vec<Bind>,
    /// User and group to run as.
    pub user: Option<(u32, u32)>,
}

impl ContainerSpec {
    /// The steps: namespaces of the sandbox, a mount namespace, an overlay as root, system directories, volumes.
    ///
    /// # Errors
    /// If the sandbox is gone.
    pub fn program(&self) -> Result<Program, SpawnError> {
        let mut steps = vec![Step::DieWithParent, Step::EnterCgroup(c(self.cgroup.join("cgroup.procs")))];
        if let Some(pid) = self.sandbox {
            steps.extend(join(pid, &["net", "uts", "ipc"])?);
        }
        steps.push(Step::Unshare(libc::CLONE_NEWNS));
        // System directories and volumes are cloned while the node's root is still in place.
        let system = self.system();
        for (slot, path) in system.iter().enumerate() {
            steps.push(Step::CloneTree(c(path), slot));
        }
        for (index, bind) in self.binds.iter().enumerate() {
            steps.push(Step::CloneTree(c(&bind.source), system.len() + index));
        }
        steps.push(Step::Propagate(c("/"), libc::MS_SLAVE));
        self.root(&mut steps);
        self.system_mounts(&mut steps, &system);
        for (index, bind) in self.binds.iter().enumerate() {
            place(&mut steps, bind, system.len() + index);
        }
        steps.extend(make_dirs(&self.cwd));
        steps.push(Step::Chdir(c(&self.cwd)));
        if let Some((uid, gid)) = self.user {
            steps.push(Step::Become(uid, gid));
        }
        Ok(Program { argv: self.argv.clone(), env: self.env.clone(), steps, piped: true })
    }

    /// Parts of the node's system directories that a container sees. Devices one by one: the rest of `/dev` is its own.
    fn system(&self) -> Vec<PathBuf> {
        let mut paths = vec![PathBuf::from("/proc")];
        if self.sandbox.is_none() {
            paths.push("/sys".into());
        }
        paths.extend(DEVICES.iter().map(PathBuf::from).filter(|p| p.exists()));
        paths
    }

    fn system_mounts(&self, steps: &mut Vec<Step>, system: &[PathBuf]) {
        let plain = libc::MS_NOSUID | libc::MS_NODEV;
        for dir in ["/proc", "/sys", "/dev", "/run"] {
            steps.push(Step::MakeDir(c(dir)));
        }
        if self.sandbox.is_some() {
            // sysfs shows the network devices of the namespace it is mounted in.
            steps.push(Step::mount("sysfs", "/sys", libc::MS_RDONLY | libc::MS_NOEXEC | plain, ""));
        }
        steps.push(Step::mount("tmpfs", "/dev", libc::MS_NOSUID, "mode=755,size=65536k"));
        steps.push(Step::MakeDir(c("/dev/shm")));
        steps.push(Step::mount("tmpfs", "/dev/shm", plain, "mode=1777"));
        for (content, path) in [
            ("/proc/self/fd", "fd"),
            ("/proc/self/fd/0", "stdin"),
            ("/proc/self/fd/1", "stdout"),
            ("/proc/self/fd/2", "stderr"),
        ] {
            steps.push(Step::Symlink(c(content), c(Path::new("/dev").join(path))));
        }
        for (slot, path) in system.iter().enumerate() {
            steps.push(if path.is_dir() { Step::MakeDir(c(path)) } else { Step::MakeFile(c(path)) });
            steps.push(Step::PlaceTree(slot, c(path)));
            steps.push(Step::Propagate(c(path), libc::MS_SLAVE));
        }
        steps.push(Step::mount("tmpfs", "/run", plain, "mode=755"));
    }

    /// The image: the node's idea of the host's root below, memory above.
    fn root(&self, steps: &mut Vec<Step>) {
        let scratch = self.scratch.display().to_string();
        steps.push(Step::mount("tmpfs", &scratch, libc::MS_NODEV, "mode=755"));
        for dir in ["upper", "work", "root"] {
            steps.push(Step::MakeDir(c(self.scratch.join(dir))));
        }
        let lower = self.lower.display();
        let options = format!("lowerdir={lower},upperdir={scratch}/upper,workdir={scratch}/work");
        let root = self.scratch.join("root");
        steps.push(Step::mount("overlay", &root.display().to_string(), 0, &options));
        steps.push(Step::Chdir(c(root)));
        steps.push(Step::PivotHere);
    }
}

fn place(steps: &mut Vec<Step>, bind: &Bind, slot: usize) {
    let is_dir = bind.source.is_dir();
    steps.extend(make_dirs(if is_dir {
        &bind.target
    } else {
        bind.target.parent().unwrap_or(Path::new("/"))
    }));
    if !is_dir {
        let file = c(&bind.target);
        steps.push(if bind.replace { Step::ReplaceFile(file) } else { Step::MakeFile(file) });
    }
    steps.push(Step::PlaceTree(slot, c(&bind.target)));
    match bind.propagation {
        Propagation::None => steps.push(Step::Propagate(c(&bind.target), libc::MS_PRIVATE)),
        Propagation::HostToContainer => steps.push(Step::Propagate(c(&bind.target), libc::MS_SLAVE)),
        Propagation::Bidirectional => {}
    }
    if bind.read_only {
        steps.push(Step::ReadOnly(c(&bind.target)));
    }
}

fn make_dirs(path: &Path) -> Vec<Step> {
    let mut at = PathBuf::from("/");
    let mut steps = Vec::new();
    for part in path.components() {
        if let Component::Normal(name) = part {
            at.push(name);
            steps.push(Step::MakeDir(c(&at)));
        }
    }
    steps
}

fn join(pid: u32, kinds: &[&str]) -> Result<Vec<Step>, SpawnError> {
    kinds
        .iter()
        .map(|kind| {
            let path = format!("/proc/{pid}/ns/{kind}");
            let file = File::open(&path)
                .map_err(|source: io::Error| SpawnError::Setup { what: format!("open {path}"), source })?;
            Ok(Step::Enter(OwnedFd::from(file)))
        })
        .collect()
}

/// A command in the namespaces of a running container.
#[derive(Debug, Clone)]
pub struct ExecSpec {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub cwd: PathBuf,
    /// cgroup of the container.
    pub cgroup: PathBuf,
    /// First process of the container.
    pub pid: u32,
    /// User and group to run as.
    pub user: Option<(u32, u32)>,
}

impl ExecSpec {
    /// The steps.
    ///
    /// # Errors
    /// If the container is gone.
    pub fn program(&self) -> Result<Program, SpawnError> {
        let mut steps = vec![Step::DieWithParent, Step::EnterCgroup(c(self.cgroup.join("cgroup.procs")))];
        steps.extend(join(self.pid, &["net", "uts", "ipc", "mnt"])?);
        steps.push(Step::Chdir(c(&self.cwd)));
        if let Some((uid, gid)) = self.user {
            steps.push(Step::Become(uid, gid));
        }
        Ok(Program { argv: self.argv.clone(), env: self.env.clone(), steps, piped: true })
    }
}
