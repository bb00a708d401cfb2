//! Loads for benchmark BURST: many pods at once in cluster 2, seen from cluster 1; and what the mesh server
//! of a cluster with many pods weighs. A run prints one JSON line.
//!
//! ```text
//! bench_burst burst  --causeway PATH --pods 1000 [--cache]   # how late is each pod routable?
//! bench_burst memory --causeway PATH --pods 100000           # resident memory of the mesh server
//! bench_burst kubernetes --dir DIR --pods 0                  # the API server the others start
//! ```
//! Everything is on the loopback: the API server is the lab's, in a process of its own; the mesh server and the
//! cache are the executable's; the reader is in this process.

mod burst;
mod kubernetes;
mod processes;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser};
use serde_json::json;

use kubernetes::Kubernetes;
use processes::{Folders, Process};

#[derive(Parser)]
enum Load {
    Burst {
        #[command(flatten)]
        common: Common,
        /// Read through `causeway kvstoremesh`
        #[arg(long)]
        cache: bool,
    },
    Memory(Common),
    Kubernetes {
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        pods: u32,
    },
}

#[derive(Args)]
struct Common {
    /// The executable
    #[arg(long)]
    causeway: PathBuf,
    #[arg(long)]
    pods: u32,
}

#[tokio::main]
async fn main() -> Result<()> {
    rustls::crypto::ring::default_provider().install_default().ok().context("a provider of cryptography")?;
    match Load::parse() {
        Load::Burst { common, cache } => {
            let dir = tempfile::tempdir()?;
            let _api = api(dir.path(), 0)?;
            let kubeconfig = dir.path().join("kubeconfig");
            let report = burst::run(common.causeway, &kubeconfig, dir.path(), common.pods, cache).await?;
            println!("{}", serde_json::to_string(&report)?);
        }
        Load::Memory(common) => memory(common).await?,
        Load::Kubernetes { dir, pods } => {
            let kubernetes = Kubernetes::start(&dir, pods).await?;
            println!("{}", json!({ "kubeconfig": kubernetes.kubeconfig }));
            std::future::pending::<()>().await;
        }
    }
    Ok(())
}

/// The API server in a process of its own, with so many pods.
fn api(dir: &Path, pods: u32) -> Result<Process> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("kubernetes").arg("--dir").arg(dir).args(["--pods", &pods.to_string()]);
    command.stdout(Stdio::piped());
    let mut process = Process::spawn(command, 0)?;
    let mut line = String::new();
    let output = process.child.stdout.take().context("its output was asked for")?;
    BufReader::new(output).read_line(&mut line)?;
    ensure!(line.starts_with('{'), "the API server did not start");
    Ok(process)
}

async fn memory(common: Common) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let _api = api(dir.path(), common.pods)?;
    let folders = Folders::new(common.causeway, dir.path())?;
    let mut apiserver = folders.apiserver(&dir.path().join("kubeconfig"))?;
    apiserver.process.ready().await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let published = apiserver.published()?;
    ensure!(published > common.pods.into(), "{published} keys are too few");
    let (rss, anonymous) = apiserver.process.resident()?;
    println!("{}", json!({ "pods": common.pods, "rss": rss, "anonymous": anonymous, "keys": published }));
    Ok(())
}
