//! The `causeway` executable: every role is a subcommand, so there is one image and one link step.

mod agent;
mod apiserver;
mod backend;
mod bpf;
mod caching;
mod clustermesh;
mod cni;
mod content;
mod dns;
mod install;
mod kubeclient;
mod kvstore;
mod kvstoremesh;
mod kvstoremesh_dbg;
mod lab;
mod local_status;
mod metrics;
mod names;
mod node_health;
mod operator;
mod output;
mod pki;
mod service;
mod serving;
mod settings;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Joins Kubernetes clusters into one network
#[derive(Debug, Parser)]
#[command(name = "causeway", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Install on a cluster, or bring an installation up to date
    #[command(after_help = "Example:
  causeway install --context cls-gz3k8a2m --cluster-id 1 --subnet-id subnet-0a1b2c3d

Certificates that are still good are kept. Next: causeway clustermesh connect --help")]
    Install(install::InstallArgs),
    /// Connect and disconnect clusters, and see what they see of each other
    Clustermesh(clustermesh::ClustermeshArgs),
    /// Look into the store of a remote cluster, a cache or any etcd
    Kvstore(kvstore::KvstoreArgs),
    /// Show what the agent of this node does
    Status(local_status::StatusArgs),
    /// Show services, their backends in all clusters, and why a connection gets the one it gets
    Service(service::ServiceArgs),
    /// Show which nodes answer this one
    Health(node_health::HealthArgs),
    /// Show what the kernel of this node holds: addresses and services
    Bpf(bpf::BpfArgs),
    /// Run the agent of this node
    Agent(agent::AgentArgs),
    /// Run the server other clusters read this cluster's state from
    #[command(name = "clustermesh-apiserver")]
    Apiserver(apiserver::ApiserverArgs),
    /// Run the cache of the other clusters, which the agents read instead of the clusters themselves
    Kvstoremesh(kvstoremesh::KvstoremeshArgs),
    /// Show what a cache of the other clusters sees of them, and why not
    #[command(name = "kvstoremesh-dbg")]
    KvstoremeshDbg(kvstoremesh_dbg::DbgArgs),
    /// Run a server for the names of services, of this cluster and of the cluster set; `dns query` asks one
    Dns(dns::DnsArgs),
    /// Run the operator, which writes what other clusters export into this cluster's Kubernetes
    Operator(operator::OperatorArgs),
    /// Clusters out of network namespaces on this machine
    Lab(causeway_lab::cli::LabCommand),
    /// Act as CNI plugin (container runtimes call this)
    Cni,
    /// Print the version
    Version,
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    // The first stage of a lab's processes must be alone in its process: it does not return.
    causeway_lab::runtime::init::early_main();
    // Container runtimes call a plugin by its file name, with everything in the environment.
    if cni::called_by_runtime() {
        return cni::main();
    }
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("error: another cryptography provider is already installed");
        return ExitCode::FAILURE;
    }
    match run(Cli::parse().role) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(role: Role) -> anyhow::Result<ExitCode> {
    let done = |result: anyhow::Result<()>| result.map(|()| ExitCode::SUCCESS);
    match role {
        Role::Install(args) => done(runtime()?.block_on(install::run(args))),
        Role::Version => {
            println!("causeway {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
        Role::Clustermesh(args) => done(once(clustermesh::run(args))),
        Role::Kvstore(args) => done(once(kvstore::run(args))),
        Role::Status(args) => done(runtime()?.block_on(local_status::run(args))),
        Role::Service(args) => done(runtime()?.block_on(service::run(args))),
        Role::Health(args) => done(runtime()?.block_on(node_health::run(args))),
        Role::Bpf(args) => done(bpf::run(args)),
        Role::Agent(args) => done(runtime()?.block_on(agent::run(args))),
        Role::Apiserver(args) => {
            let runtime = runtime_of(causeway_kvstore::server::worker_threads())?;
            done(runtime.block_on(apiserver::run(args)))
        }
        Role::Kvstoremesh(args) => done(runtime()?.block_on(kvstoremesh::run(args))),
        Role::KvstoremeshDbg(args) => done(once(kvstoremesh_dbg::run(args))),
        Role::Dns(args) => done(runtime()?.block_on(dns::run(args))),
        Role::Operator(args) => done(runtime()?.block_on(operator::run(args))),
        Role::Lab(command) => runtime()?.block_on(lab::run(command)),
        Role::Cni => Ok(cni::main()),
        Role::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "causeway", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Runs a command to its end. What still waits for the system then (a name that is being resolved)
/// does not keep the process.
fn once<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = runtime()?;
    let result = runtime.block_on(command);
    runtime.shutdown_background();
    result
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

fn runtime_of(worker_threads: usize) -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(worker_threads).enable_all().build()?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        super::Cli::command().debug_assert();
    }
}
