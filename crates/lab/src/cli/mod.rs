//! `causeway lab …`: the arguments of the lab's subcommands and what they call. The executable passes in what it installs on
//! a new lab, so that the lab does not know the product.

mod logs;
mod roles;
mod status;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::error::{Error, Result};
use crate::kubeconfig;
use crate::lab::{self, BoxError, Lab, LabOptions};
use crate::runtime::{Context, spawn};
use crate::state::LabDir;
use crate::topology::Topology;
use crate::workload;

/// Clusters out of network namespaces on this machine
#[derive(Debug, Args)]
pub struct LabCommand {
    /// Name of the lab; several can be up side by side
    #[arg(long, global = true, default_value = "default", env = "CAUSEWAY_LAB")]
    name: String,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Bring a lab up; harmless if it is up
    Up {
        /// Topology (YAML); the default is two clusters of two nodes
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Address families of pods, Services and nodes; ranges that the topology does not name are chosen
        #[arg(long, value_name = "FAMILIES", value_parser = families, default_value = "ipv4")]
        ip_families: Families,
        /// How packets get to pods of other nodes: in tunnels, or by routes of the VPC, which the lab makes
        #[arg(long, value_enum, default_value_t = RoutingMode::Tunnel)]
        routing_mode: RoutingMode,
        /// Stay, and take the lab down on Ctrl-C or SIGTERM
        #[arg(long)]
        foreground: bool,
    },
    /// Take a lab down and remove whatever is left of it; harmless if there is none
    Down {
        /// Every lab of this machine
        #[arg(long)]
        all: bool,
    },
    /// Show clusters, nodes, pods, processes and addresses
    Status {
        /// How to print it
        #[arg(short, long, value_enum, default_value_t = Format::Text)]
        output: Format,
    },
    /// Run a command in a pod, or on a node with `node/NAME`
    Exec {
        /// Namespace of the pod
        #[arg(short, long, default_value = "default")]
        namespace: String,
        /// Cluster of the pod; needed if several have one of that name
        #[arg(long)]
        cluster: Option<String>,
        /// Container of the pod; the first if not given
        #[arg(short, long)]
        container: Option<String>,
        /// Name of the pod (or the beginning of exactly one), or node/NAME
        pod: String,
        /// Command and arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Print the kubeconfig of all clusters; contexts are named by cluster
    Kubeconfig {
        /// Print the path of the file instead
        #[arg(long, conflicts_with = "merge")]
        path: bool,
        /// Put the contexts into another kubeconfig instead (`$KUBECONFIG` or ~/.kube/config if no file is named)
        #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "")]
        merge: Option<PathBuf>,
    },
    /// Print the log of a pod or of a process of the lab; without a name, list the processes
    Logs {
        /// Namespace of the pod
        #[arg(short, long, default_value = "default")]
        namespace: String,
        /// Cluster of the pod; needed if several have one of that name
        #[arg(long)]
        cluster: Option<String>,
        /// Container of the pod; the first if not given
        #[arg(short, long)]
        container: Option<String>,
        /// Go on as more is written
        #[arg(short, long)]
        follow: bool,
        /// Name of the pod, or of the process as `lab status` shows it
        of: Option<String>,
    },
    /// Cut or restore the control-plane link between two clusters
    Link {
        /// What to do
        #[arg(value_enum)]
        action: LinkAction,
        /// One cluster
        a: String,
        /// The other
        b: String,
    },
    /// Small servers and clients that run in pods of examples and tests
    #[command(hide = true)]
    Workload(workload::WorkloadCommand),
    #[command(flatten)]
    Role(roles::Role),
}

/// What `--ip-families` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Families {
    /// IPv4, and IPv6 where the topology has ranges of it.
    AsWritten,
    /// Both everywhere.
    Dual,
}

fn families(text: &str) -> std::result::Result<Families, String> {
    match text {
        "ipv4" => Ok(Families::AsWritten),
        "ipv4,ipv6" => Ok(Families::Dual),
        "ipv6" => Err("IPv6 alone is not possible: the tunnel between nodes and the API servers have IPv4 addresses; use \
                       ipv4,ipv6, and give Services `ipFamilies: [IPv6]`"
            .to_owned()),
        _ => Err(format!("{text:?} is not possible: use ipv4, or ipv4,ipv6")),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RoutingMode {
    Tunnel,
    Native,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LinkAction {
    Cut,
    Restore,
}

impl LabCommand {
    /// Whether this is one of the lab's own long-running processes, which log to standard error.
    pub fn is_process(&self) -> bool {
        matches!(self.action, Action::Role(_))
    }

    /// Does it. `install` is called once a new lab's API servers answer and its nodes are registered; nodes become Ready by
    /// what it installs. Returns the exit code.
    ///
    /// # Errors
    /// What went wrong, in a sentence.
    pub async fn run(
        self,
        install: impl AsyncFnOnce(&Lab) -> std::result::Result<(), BoxError>,
    ) -> Result<u8> {
        let name = self.name;
        match self.action {
            Action::Up { file, ip_families, routing_mode, foreground } => {
                let mut topology = topology(file, ip_families)?;
                topology.pod_routes |= routing_mode == RoutingMode::Native;
                up(name, topology, foreground, install).await?;
            }
            Action::Down { all } => down(&name, all)?,
            Action::Status { output } => status::print(&name, output == Format::Json).await?,
            Action::Exec { namespace, cluster, container, pod, command } => {
                exec(&name, &namespace, cluster.as_deref(), container.as_deref(), &pod, &command)?;
            }
            Action::Kubeconfig { path, merge } => print_kubeconfig(&name, path, merge)?,
            Action::Logs { namespace, cluster, container, follow, of } => {
                let pod = logs::Pod { namespace, cluster, container };
                logs::print(&name, pod, of.as_deref(), follow).await?;
            }
            Action::Link { action, a, b } => {
                let lab = Lab::open(&name)?;
                match action {
                    LinkAction::Cut => lab.cut(&a, &b)?,
                    LinkAction::Restore => lab.restore(&a, &b)?,
                }
                let done = if action == LinkAction::Cut { "cut" } else { "restored" };
                println!("control-plane link between {a} and {b} {done}");
            }
            Action::Workload(workload) => return workload.run().await,
            Action::Role(role) => role.run(&name).await?,
        }
        Ok(0)
    }
}

fn topology(file: Option<PathBuf>, families: Families) -> Result<Topology> {
    let topology = match file {
        Some(path) => {
            let text = std::fs::read_to_string(&path).what(|| format!("read {}", path.display()))?;
            Topology::parse(&text)?
        }
        None => Topology::default(),
    };
    Ok(if families == Families::Dual { topology.dual_stack() } else { topology })
}

async fn up(
    name: String,
    topology: Topology,
    foreground: bool,
    install: impl AsyncFnOnce(&Lab) -> std::result::Result<(), BoxError>,
) -> Result<()> {
    let progress: lab::Progress = Box::new(|at, text| println!("{:>6.1}s  {text}", at.as_secs_f64()));
    let options = LabOptions { name, executable: None, progress: Some(progress) };
    let lab = Lab::up_with(&topology, options, install).await?;
    if foreground && lab.was_up() {
        let name = lab.dir().name();
        return Err(Error::refused(format!(
            "lab {name} is up already, without --foreground: take it down first with `causeway lab down --name {name}`"
        )));
    }
    let told = roles::until_told()?;
    if !lab.was_up() {
        let names: Vec<_> = lab.plan().clusters.iter().map(|c| c.name.as_str()).collect();
        println!("lab {} is up: {}", lab.dir().name(), names.join(", "));
    }
    println!("export KUBECONFIG={}", lab.kubeconfig().display());
    if !foreground {
        lab.keep();
        return Ok(());
    }
    told.cancelled().await;
    let name = lab.dir().name().to_owned();
    lab.down()?;
    println!("lab {name} is down");
    Ok(())
}

fn down(name: &str, all: bool) -> Result<()> {
    let labs = if all { LabDir::all()? } else { vec![LabDir::new(name)?] };
    for dir in labs {
        let was = dir.path().exists();
        lab::down(&dir)?;
        let text = if was { "is down" } else { "was not up" };
        println!("lab {} {text}", dir.name());
    }
    Ok(())
}

fn exec(
    name: &str,
    namespace: &str,
    cluster: Option<&str>,
    container: Option<&str>,
    pod: &str,
    command: &[String],
) -> Result<()> {
    let lab = Lab::open(name)?;
    let argv: Vec<&str> = command.iter().map(String::as_str).collect();
    let inside = match pod.strip_prefix("node/") {
        Some(node) => {
            let of = |c: &&crate::topology::plan::ClusterPlan| {
                cluster.is_none_or(|name| c.name == name) && c.nodes.iter().any(|n| n.name == node)
            };
            let found = lab.plan().clusters.iter().find(of);
            let found = found.ok_or_else(|| Error::refused(format!("lab {name} has no node {node}")))?;
            lab.in_node(&found.name, node, &argv)?
        }
        None => lab.in_pod(cluster, namespace, pod, container, &argv)?,
    };
    match spawn::replace(&lab.dir().executable(), &inside)? {}
}

fn print_kubeconfig(name: &str, path: bool, merge: Option<PathBuf>) -> Result<()> {
    let lab = Lab::open(name)?;
    let file = lab.kubeconfig();
    if path {
        println!("{}", file.display());
        return Ok(());
    }
    let Some(target) = merge else {
        print!("{}", std::fs::read_to_string(&file).what(|| format!("read {}", file.display()))?);
        return Ok(());
    };
    let target = if target.as_os_str().is_empty() { own_kubeconfig()? } else { target };
    let names = kubeconfig::merge_into(&file, &target)?;
    println!("contexts {} are in {}", names.join(", "), target.display());
    Ok(())
}

fn own_kubeconfig() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("KUBECONFIG").filter(|p| !p.is_empty()) {
        return Ok(path.into());
    }
    let home = std::env::var_os("HOME")
        .ok_or_else(|| Error::refused("HOME is not set: name a file after --merge"))?;
    Ok(PathBuf::from(home).join(".kube").join("config"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_that_can_be() {
        assert_eq!(families("ipv4"), Ok(Families::AsWritten));
        assert_eq!(families("ipv4,ipv6"), Ok(Families::Dual));
        assert!(families("ipv6").unwrap_err().contains("use ipv4,ipv6"));
        assert!(families("ipv5").is_err());
    }
}
