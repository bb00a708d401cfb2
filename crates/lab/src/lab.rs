//! A lab as a program uses it: up, down, and what can be done in between.

use std::fs;
use std::io::{PipeReader, PipeWriter, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::{Error, Result};
use crate::fabric::{self, rules};
use crate::runtime::registry::{ContainerRecord, PodRecord};
use crate::runtime::{Container, Context, NetNs, init, spawn};
use crate::state::{LabDir, LabStatus, Phase};
use crate::topology::plan::ClusterPlan;
use crate::topology::{Plan, Topology};
use crate::{kubeconfig, preflight, wait};

/// How long machines and API servers may take to come up.
const UP: Duration = Duration::from_secs(120);
/// How long a lab may take to go down by itself before it is cleaned up from outside.
const DOWN: Duration = Duration::from_secs(20);

/// What a supervisor reads when its lab is to stay up without the process that brought it up.
const KEEP: u8 = b'k';

/// Any error of a caller.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// Told what happens while a lab comes up, with the time since the start.
pub type Progress = Box<dyn Fn(Duration, &str) + Send + Sync>;

/// How a lab is brought up.
#[derive(Default)]
pub struct LabOptions {
    /// Its name; `default` if empty.
    pub name: String,
    /// The `causeway` executable; none = [`spawn::executable`].
    pub executable: Option<PathBuf>,
    /// Told what happens.
    pub progress: Option<Progress>,
}

/// A lab that is up. Unless [`Lab::keep`] is called, dropping it takes the lab down, and so does the end of the process
/// that brought it up, however it ends.
#[derive(Debug)]
pub struct Lab {
    dir: LabDir,
    plan: Plan,
    /// The supervisor's standard input: closed without a word, it goes down. None = the lab stays up without us.
    leash: Option<PipeWriter>,
    already: bool,
}

impl Lab {
    /// Brings a lab up: machines and API servers, nodes registered (they are Ready when something installs a network).
    ///
    /// # Errors
    /// For a topology, machine or name that cannot be, before anything is changed; otherwise what failed, after
    /// everything was taken down again.
    pub async fn up(topology: &Topology, options: LabOptions) -> Result<Lab> {
        Self::start(topology, &options).await
    }

    /// The same, then installs something with `install` and waits until every node is Ready.
    ///
    /// # Errors
    /// As [`Lab::up`]; what `install` returns.
    pub async fn up_with(
        topology: &Topology,
        options: LabOptions,
        install: impl AsyncFnOnce(&Lab) -> std::result::Result<(), BoxError>,
    ) -> Result<Lab> {
        let start = Instant::now();
        let say = |text: &str| say(&options, start, text);
        let lab = Self::start(topology, &options).await?;
        if lab.already {
            return Ok(lab);
        }
        install(&lab).await.map_err(|e| Error::Hook(chain(&*e)))?;
        say("network installed");
        wait::nodes_ready(&lab, &say).await?;
        Ok(lab)
    }

    async fn start(topology: &Topology, options: &LabOptions) -> Result<Lab> {
        topology.validate()?;
        let name = if options.name.is_empty() { "default" } else { &options.name };
        let dir = LabDir::new(name)?;
        let start = Instant::now();
        let say = |text: &str| say(options, start, text);
        let plan = Plan::new(topology);
        if let Some(lab) = Self::existing(&dir, topology, &plan, &say).await? {
            return Ok(lab);
        }
        preflight::check(&dir)?;
        let executable = match &options.executable {
            Some(path) => path.clone(),
            None => spawn::executable()?,
        };
        // From here on whatever fails takes everything with it: the guard is dropped.
        let (end, leash) = std::io::pipe().what(|| "create a pipe".into())?;
        let lab = Lab { dir, plan, leash: Some(leash), already: false };
        lab.prepare(topology, &executable, end)?;
        lab.follow(&say).await?;
        wait::nodes_registered(&lab).await?;
        say("nodes registered");
        Ok(lab)
    }

    /// A lab of this name that is there already.
    async fn existing(
        dir: &LabDir,
        topology: &Topology,
        plan: &Plan,
        say: &(dyn Fn(&str) + Sync),
    ) -> Result<Option<Lab>> {
        if !dir.path().exists() {
            return Ok(None);
        }
        let name = dir.name();
        if !dir.is_alive() {
            say("cleaning up after a lab that crashed");
            dir.clean()?;
            return Ok(None);
        }
        match dir.status().map(|s| s.phase) {
            Some(Phase::Stopping) => {
                say("waiting for the old lab to go down");
                down(dir)?;
                return Ok(None);
            }
            Some(Phase::Failed(why)) => {
                let fix = format!("take it down with `causeway lab down --name {name}`");
                return Err(Error::refused(format!("lab {name} failed to come up: {why}\n{fix}")));
            }
            _ => {}
        }
        if dir.topology()? != *topology {
            return Err(Error::refused(format!(
                "lab {name} is up with another topology: take it down with `causeway lab down --name {name}`, or give \
                 the new one another --name"
            )));
        }
        let lab = Lab { dir: dir.clone(), plan: plan.clone(), leash: None, already: true };
        lab.follow(&|_| {}).await?;
        say("already up");
        Ok(Some(lab))
    }

    /// Makes the state directory and starts the supervisor, with its end of the leash.
    fn prepare(&self, topology: &Topology, executable: &Path, end: PipeReader) -> Result<()> {
        let path = self.dir.path();
        for dir in ["bin", "logs"] {
            let dir = path.join(dir);
            fs::create_dir_all(&dir).what(|| format!("create {}", dir.display()))?;
        }
        let lock = self.dir.lock()?;
        // A copy, so that building a new one does not change what runs.
        let copy = self.dir.executable();
        fs::copy(executable, &copy)
            .what(|| format!("copy {} to {}", executable.display(), copy.display()))?;
        let text = serde_saphyr::to_string(topology).map_err(|e| Error::refused(e.to_string()))?;
        fs::write(path.join("topology.yaml"), text).what(|| "write topology.yaml".into())?;
        let log = self.dir.log("supervisor");
        let log = fs::File::create(&log).what(|| format!("create {}", log.display()))?;
        let errors = log.try_clone().what(|| "duplicate a log file".into())?;
        let fd = lock.as_raw_fd();
        let mut command = Command::new(&copy);
        command.args(["lab", "supervise", "--name", self.dir.name(), "--lock-fd", &fd.to_string()]);
        command.env_remove("CAUSEWAY_EXECUTABLE").current_dir("/");
        command.stdin(end).stdout(log).stderr(errors);
        // SAFETY: setsid and fcntl are system calls without memory of ours.
        unsafe {
            command.pre_exec(move || {
                nix::unistd::setsid()?;
                if libc::fcntl(fd, libc::F_SETFD, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let mut child = command.spawn().what(|| "start the supervisor".into())?;
        // It outlives us, or we it: then someone must take note of its end.
        std::thread::spawn(move || child.wait());
        Ok(())
    }

    /// Tells what the supervisor does until it is done.
    async fn follow(&self, say: &(dyn Fn(&str) + Sync)) -> Result<()> {
        let (deadline, mut told) = (Instant::now() + UP, 0);
        loop {
            let status = self.dir.status();
            if let Some(status) = &status {
                for step in status.steps.iter().skip(told) {
                    say(&step.text);
                }
                told = status.steps.len();
                match &status.phase {
                    Phase::Running => return Ok(()),
                    Phase::Failed(why) => {
                        return Err(Error::refused(format!("the lab cannot come up: {why}")));
                    }
                    Phase::Stopping => return Err(Error::refused("the lab is being taken down")),
                    Phase::Starting => {}
                }
            }
            if !self.dir.is_alive() {
                let log = fs::read_to_string(self.dir.log("supervisor")).unwrap_or_default();
                return Err(Error::refused(format!("the lab's supervisor ended; its log:\n{}", log.trim())));
            }
            if Instant::now() > deadline {
                let wait = UP.as_secs();
                return Err(Error::refused(format!("the lab is not up after {wait} s; last step: {told}")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A lab that is up, by name. Dropping the handle leaves it up.
    ///
    /// # Errors
    /// If it is not up.
    pub fn open(name: &str) -> Result<Lab> {
        let dir = LabDir::new(name)?;
        dir.running()?;
        let plan = dir.plan()?;
        Ok(Lab { dir, plan, leash: None, already: true })
    }

    /// Leaves the lab up when this is dropped.
    pub fn keep(mut self) -> Lab {
        if let Some(mut leash) = self.leash.take() {
            // A supervisor that is gone cannot be told, and need not be.
            let _ = leash.write_all(&[KEEP]);
        }
        self
    }

    /// Whether the lab was up before.
    pub fn was_up(&self) -> bool {
        self.already
    }

    /// Its place on this machine.
    pub fn dir(&self) -> &LabDir {
        &self.dir
    }

    /// Its machines and addresses.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What runs.
    ///
    /// # Errors
    /// If it is not up any more.
    pub fn status(&self) -> Result<LabStatus> {
        self.dir.running()
    }

    /// The kubeconfig of the host, with a context for each cluster, named as it.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.kubeconfig()
    }

    /// A cluster by name.
    ///
    /// # Errors
    /// If there is none, naming those there are.
    pub fn cluster(&self, name: &str) -> Result<&ClusterPlan> {
        self.plan.cluster(name).ok_or_else(|| {
            let names: Vec<_> = self.plan.clusters.iter().map(|c| c.name.as_str()).collect();
            let (lab, names) = (self.dir.name(), names.join(", "));
            Error::refused(format!("lab {lab} has no cluster {name}; it has {names}"))
        })
    }

    /// A client of a cluster's API server.
    ///
    /// # Errors
    /// If there is no such cluster.
    pub async fn client(&self, cluster: &str) -> Result<kube::Client> {
        self.cluster(cluster)?;
        kubeconfig::client(&self.kubeconfig(), cluster).await
    }

    /// Runs stock kubectl against a cluster.
    ///
    /// # Errors
    /// If there is no kubectl; its own failures are in the output.
    pub fn kubectl(&self, cluster: &str, args: &[&str]) -> Result<Output> {
        self.cluster(cluster)?;
        let program = std::env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into());
        let mut command = Command::new(&program);
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(["--context", cluster]).args(args);
        Ok(command.output().what(|| format!("run {}", program.to_string_lossy()))?)
    }

    /// The network namespace of a node.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn node_ns(&self, cluster: &str, node: &str) -> Result<NetNs> {
        Ok(NetNs::of_pid(self.node_pid(cluster, node)?)?)
    }

    /// The network namespace of the VPC.
    ///
    /// # Errors
    /// If the lab is not up.
    pub fn fabric_ns(&self) -> Result<NetNs> {
        Ok(NetNs::of_pid(self.status()?.fabric)?)
    }

    /// The process that holds a node's namespaces.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn node_pid(&self, cluster: &str, node: &str) -> Result<u32> {
        let status = self.status()?;
        let found = status.clusters.iter().find(|c| c.name == cluster);
        let found = found.and_then(|c| c.nodes.iter().find(|n| n.name == node));
        found.map(|n| n.pid).ok_or_else(|| Error::refused(format!("cluster {cluster} has no node {node}")))
    }

    /// A command in a node's namespaces, root and cgroup.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn in_node(&self, cluster: &str, node: &str, argv: &[&str]) -> Result<Container> {
        let pid = self.node_pid(cluster, node)?;
        let cgroup = self.status()?.cgroup.join(cluster).join(node).join("node");
        Ok(Container::inside(pid, Some(cgroup), argv.iter().map(|a| a.to_string()).collect()))
    }

    /// Runs a command on a node.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn node_exec(&self, cluster: &str, node: &str, argv: &[&str]) -> Result<Output> {
        run(&self.dir.executable(), &self.in_node(cluster, node, argv)?)
    }

    /// A command in a running container of a pod: its cgroup first, so that what is attached there applies to the
    /// command's sockets too, then its network, root and host name. `pod` is a name, or the beginning of exactly one.
    ///
    /// # Errors
    /// If there is no such pod or container running.
    pub fn in_pod(
        &self,
        cluster: Option<&str>,
        namespace: &str,
        pod: &str,
        container: Option<&str>,
        argv: &[&str],
    ) -> Result<Container> {
        let (record, found) = self.find(cluster, namespace, pod, container)?;
        let cgroup = own_cgroup(found.pid).ok_or_else(|| {
            Error::refused(format!("container {} of pod {} has ended", found.name, record.name))
        })?;
        let argv = argv.iter().map(|a| a.to_string()).collect();
        Ok(Container { env: found.env.clone(), ..Container::inside(found.pid, Some(cgroup), argv) })
    }

    /// Runs a command in a pod and returns what it printed.
    ///
    /// # Errors
    /// As [`Lab::in_pod`].
    pub fn exec(&self, cluster: &str, namespace: &str, pod: &str, argv: &[&str]) -> Result<Output> {
        run(&self.dir.executable(), &self.in_pod(Some(cluster), namespace, pod, None, argv)?)
    }

    fn find(
        &self,
        cluster: Option<&str>,
        namespace: &str,
        pod: &str,
        container: Option<&str>,
    ) -> Result<(PodRecord, ContainerRecord)> {
        let clusters: Vec<&ClusterPlan> = match cluster {
            Some(name) => vec![self.cluster(name)?],
            None => self.plan.clusters.iter().collect(),
        };
        let nodes = clusters.iter().flat_map(|c| c.nodes.iter().map(|n| self.dir.node(&c.name, &n.name)));
        let all: Vec<PodRecord> = nodes.flat_map(|dir| PodRecord::list(&dir)).collect();
        let here = || all.iter().filter(|r| r.namespace == namespace && !r.containers.is_empty());
        let mut found: Vec<&PodRecord> = here().filter(|r| r.name == pod).collect();
        if found.is_empty() {
            found = here().filter(|r| r.name.starts_with(pod)).collect();
        }
        let record = match found.as_slice() {
            [one] => (*one).clone(),
            [] => {
                let names: Vec<_> = here().map(|r| r.name.as_str()).collect();
                let names = if names.is_empty() { "none".into() } else { names.join(", ") };
                let text = format!("no pod {namespace}/{pod} is running; running there: {names}");
                return Err(Error::refused(text));
            }
            many => {
                let names: Vec<_> = many.iter().map(|r| r.name.as_str()).collect();
                let text =
                    format!("{pod} is several pods: {}; give one name and --cluster", names.join(", "));
                return Err(Error::refused(text));
            }
        };
        let chosen = match container {
            Some(name) => record.containers.iter().find(|c| c.name == name),
            None => record.containers.first(),
        };
        let chosen = chosen.cloned().ok_or_else(|| {
            let names: Vec<_> = record.containers.iter().map(|c| c.name.as_str()).collect();
            let asked = container.unwrap_or("");
            Error::refused(format!(
                "pod {} has no running container {asked}; it has {}",
                record.name,
                names.join(", ")
            ))
        })?;
        Ok((record, chosen))
    }

    /// Cuts the control-plane link between two clusters (the other's load balancers at port 2379). Pods still reach each
    /// other.
    ///
    /// # Errors
    /// If there is no such cluster.
    pub fn cut(&self, a: &str, b: &str) -> Result<()> {
        let (one, two) = self.pair(a, b)?;
        Ok(rules::cut(&self.fabric_ns()?, &self.plan, one, two)?)
    }

    /// Restores what [`Lab::cut`] cut.
    ///
    /// # Errors
    /// If there is no such cluster.
    pub fn restore(&self, a: &str, b: &str) -> Result<()> {
        let (one, two) = self.pair(a, b)?;
        Ok(rules::restore(&self.fabric_ns()?, &self.plan, one, two)?)
    }

    /// Whether the link between two clusters is cut.
    ///
    /// # Errors
    /// If there is no such cluster.
    pub fn is_cut(&self, a: &str, b: &str) -> Result<bool> {
        let (one, two) = self.pair(a, b)?;
        Ok(rules::is_cut(&self.fabric_ns()?, &self.plan, one, two)?)
    }

    /// Takes a node off the network, as when it loses power, or puts it back (`on`). What runs on it runs on.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn plug(&self, cluster: &str, node: &str, on: bool) -> Result<()> {
        let of = self.cluster(cluster)?;
        let n = of.nodes.iter().position(|n| n.name == node);
        let n = n.ok_or_else(|| Error::refused(format!("cluster {cluster} has no node {node}")))?;
        Ok(fabric::plug(&self.fabric_ns()?, &fabric::node_port(of, n), on)?)
    }

    fn pair(&self, a: &str, b: &str) -> Result<(&ClusterPlan, &ClusterPlan)> {
        if a == b {
            return Err(Error::refused(format!("a link has two ends: {a} was given twice")));
        }
        Ok((self.cluster(a)?, self.cluster(b)?))
    }

    /// Takes the lab down and waits until nothing of it is left.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn down(mut self) -> Result<()> {
        self.leash = None;
        down(&self.dir)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.leash.take().is_some()
            && let Err(e) = down(&self.dir)
        {
            eprintln!("lab {}: not taken down: {e}", self.dir.name());
        }
    }
}

/// Takes a lab down, whatever state it is in; harmless if there is none.
///
/// # Errors
/// If something cannot be removed.
pub fn down(dir: &LabDir) -> Result<()> {
    let deadline = Instant::now() + DOWN;
    while dir.is_alive() && Instant::now() < deadline {
        if let Some(status) = dir.status() {
            let _ = kill(Pid::from_raw(status.supervisor as i32), Signal::SIGTERM);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // The watchdog is at it; what it leaves, or a crash left long ago, is removed here.
    dir.clean()?;
    // It is the last to go, and nobody's child that could be waited for.
    while dir.has_processes() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Runs a container, set up by the `causeway` at `executable`, to its end and returns what it printed.
///
/// # Errors
/// If it cannot be started.
pub fn run(executable: &Path, container: &Container) -> Result<Output> {
    let (spec, mut command) = spawn::command(executable, container)?;
    let output = command.output().what(|| format!("run {}", container.argv.join(" ")))?;
    drop(spec);
    if output.status.code() == Some(init::EXIT_SETUP) {
        return Err(Error::refused(String::from_utf8_lossy(&output.stderr).trim().to_string()));
    }
    Ok(output)
}

/// The cgroup v2 directory of a process.
fn own_cgroup(pid: u32) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|l| l.strip_prefix("0::/"))?;
    Some(crate::runtime::Cgroup::mount_point().ok()??.join(path))
}

fn say(options: &LabOptions, start: Instant, text: &str) {
    if let Some(progress) = &options.progress {
        progress(start.elapsed(), text);
    }
}

/// An error with its causes in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    causes.fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}
