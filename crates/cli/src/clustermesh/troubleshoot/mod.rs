//! `clustermesh troubleshoot`: walks the way to each remote cluster as this node's agent does, and
//! names the first step that fails.
//!
//! [`certificates`], [`reach`], [`tls`] and [`store`] take the steps, each within its time limit;
//! [`report`] says what they mean together.

mod certificates;
mod reach;
mod report;
mod store;
mod tls;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use causeway_daemon::config::{Key, Loader};
use causeway_kvstore::client::{Client, ClientConfig};
use causeway_mesh::config_dir::{self, Found, RemoteConfig};
use causeway_mesh::remote::client_config;
use causeway_model::{ClusterName, MaxClusters};
use clap::Args;
use futures::StreamExt;

use super::{Output, duration};
use crate::{names, output};
use report::{Outcome, Remote, Stage, Step};

/// Remote clusters that are examined at the same time.
const PARALLEL: usize = 16;

const KEYS: &[Key] = &[
    Key::without_default("cluster-name"),
    Key::without_default("cluster-id"),
    Key::with_default("max-connected-clusters", "255"),
    Key::with_default("clustermesh-config", names::PEERS_DIR),
];

/// `causeway clustermesh troubleshoot`
#[derive(Debug, Args)]
pub(crate) struct TroubleshootArgs {
    /// Remote clusters to examine (default: every one that is configured)
    cluster: Vec<String>,
    /// Folder with one etcd client configuration per remote cluster
    #[arg(long)]
    clustermesh_config: Option<PathBuf>,
    /// Folder with this cluster's settings, for its own name and id
    #[arg(long, default_value = names::CONFIG_DIR)]
    config_dir: PathBuf,
    /// Longest time for each step (seconds, or 5s, 1m)
    #[arg(long, default_value = "5s", value_parser = duration)]
    timeout: Duration,
    /// How long to wait for a heartbeat, when the last one looks too old
    #[arg(long, default_value = "65s", value_parser = duration)]
    heartbeat_wait: Duration,
    /// Output
    #[arg(short, long, value_enum, default_value = "summary")]
    output: Output,
}

/// What is known of this cluster; without its settings less can be checked.
#[derive(Debug, Clone)]
struct Local {
    name: Option<ClusterName>,
    id: Option<u32>,
    max_clusters: MaxClusters,
}

/// How patient to be.
#[derive(Debug, Clone, Copy)]
struct Limits {
    step: Duration,
    heartbeat: Duration,
}

/// Examines and prints.
///
/// # Errors
/// When a remote cluster fails, and when the folder cannot be read.
pub(crate) async fn run(args: &TroubleshootArgs) -> Result<()> {
    let config = Loader::new(KEYS)
        .flag("clustermesh-config", args.clustermesh_config.as_ref().map(|dir| dir.display()))
        .env(std::env::vars())
        .dir(&args.config_dir)?
        .load();
    let local = Local {
        name: config.get("cluster-name")?,
        id: config.get("cluster-id")?,
        max_clusters: MaxClusters::try_from(config.require::<u32>("max-connected-clusters")?)?,
    };
    let dir: PathBuf = config.require("clustermesh-config")?;
    if !dir.is_dir() {
        bail!(
            "{} is not a folder: run this where the agent runs, or give --clustermesh-config",
            dir.display()
        );
    }
    let found = config_dir::scan(&dir, local.name.as_ref()).context("read the configured remote clusters")?;
    let limits = Limits { step: args.timeout, heartbeat: args.heartbeat_wait };
    let mut remotes: Vec<Remote> = futures::stream::iter(select(&dir, found, &args.cluster))
        .map(|chosen| examine(chosen, &local, limits))
        .buffered(PARALLEL)
        .collect()
        .await;
    report::name_conflicts(&mut remotes);
    match args.output {
        Output::Json => output::line(&serde_json::to_string_pretty(&report::to_json(&remotes))?)?,
        Output::Summary if remotes.is_empty() => {
            output::line(&format!("no remote cluster is configured in {}", dir.display()))?;
        }
        Output::Summary => output::line(&report::to_text(&remotes))?,
    }
    let failed: Vec<&str> =
        remotes.iter().filter(|r| r.verdict() == Outcome::Failed).map(|r| r.name.as_str()).collect();
    match failed.as_slice() {
        [] => Ok(()),
        failed => bail!("{} of {} remote clusters fail: {}", failed.len(), remotes.len(), failed.join(", ")),
    }
}

/// One remote cluster to examine: how to reach it, or what is wrong with its file.
struct Chosen {
    name: String,
    file: PathBuf,
    config: Result<(ClusterName, RemoteConfig), Step>,
}

/// The clusters asked for, else all that are configured, well or badly.
fn select(dir: &Path, found: Found, asked: &[String]) -> Vec<Chosen> {
    let known: Vec<String> = found.clusters.keys().map(ToString::to_string).collect();
    let mut all: Vec<Chosen> = vec![];
    for (name, result) in found.clusters {
        let fix = "correct the file; `causeway clustermesh connect` writes it anew";
        let config = match result {
            Ok(config) => Ok((name.clone(), config)),
            Err(error) => Err(Step::failed(Stage::File, error.to_string(), fix)),
        };
        all.push(Chosen { file: dir.join(name.as_str()), name: name.to_string(), config });
    }
    for error in found.invalid {
        let config_dir::Error::Name { path, .. } = &error else { continue };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let fix = "name it exactly like the remote cluster";
        all.push(Chosen {
            name,
            file: path.clone(),
            config: Err(Step::failed(Stage::File, error.to_string(), fix)),
        });
    }
    if asked.is_empty() {
        return all;
    }
    let missing = asked.iter().filter(|name| !all.iter().any(|chosen| chosen.name == **name));
    let missing: Vec<Chosen> = missing.map(|name| absent(dir, name, &known)).collect();
    all.retain(|chosen| asked.contains(&chosen.name));
    all.extend(missing);
    all
}

fn absent(dir: &Path, name: &str, known: &[String]) -> Chosen {
    let file = dir.join(name);
    let finding = match file.exists() {
        true => format!("{} holds no endpoints: agents pass it over", file.display()),
        false if known.is_empty() => format!("{} does not exist, nor does any other", file.display()),
        false => format!("{} does not exist; there are {}", file.display(), known.join(", ")),
    };
    let fix = "connect the clusters with `causeway clustermesh connect`, or correct the name";
    Chosen { name: name.to_owned(), file, config: Err(Step::failed(Stage::File, finding, fix)) }
}

async fn examine(chosen: Chosen, local: &Local, limits: Limits) -> Remote {
    let mut remote = Remote { name: chosen.name, file: chosen.file, id: None, steps: vec![] };
    let (name, config) = match chosen.config {
        Ok(config) => config,
        Err(failed) => {
            remote.steps.push(failed);
            return remote;
        }
    };
    let client = match client_config(&config, limits.step) {
        Ok(client) => client,
        Err(why) => {
            let fix = "correct the file; `causeway clustermesh connect` writes it anew";
            remote.steps.push(Step::failed(Stage::File, why, fix));
            return remote;
        }
    };
    remote.steps.push(Step::ok(
        Stage::File,
        format!("{} endpoints: {}", config.endpoints.len(), config.endpoints.join(" ")),
    ));
    let mut material = None;
    if let Some(files) = &client.tls {
        let (step, loaded) = certificates::load(files);
        remote.steps.push(step);
        let Some(loaded) = loaded else { return remote };
        material = Some(loaded);
    }
    for url in &config.endpoints {
        let asked = Way { name: &name, client: &client, material: material.as_ref(), local, limits };
        let (steps, id) = asked.walk(url).await;
        remote.id = remote.id.or(id);
        remote.steps.extend(steps.into_iter().map(|step| Step { endpoint: Some(url.clone()), ..step }));
    }
    remote
}

/// Everything needed to walk to an endpoint of one cluster.
struct Way<'a> {
    name: &'a ClusterName,
    client: &'a ClientConfig,
    material: Option<&'a certificates::Material>,
    local: &'a Local,
    limits: Limits,
}

impl Way<'_> {
    async fn walk(&self, url: &str) -> (Vec<Step>, Option<u32>) {
        let Some(endpoint) = reach::parse(url) else {
            let fix = "https://host:port is right";
            return (vec![Step::failed(Stage::Resolve, format!("{url:?} is not a URL"), fix)], None);
        };
        let mut steps = vec![];
        let (step, addresses) = reach::resolve(&endpoint, &self.client.resolve, self.limits.step).await;
        steps.push(step);
        if addresses.is_empty() {
            return (steps, None);
        }
        let (step, connected) = reach::tcp(&addresses, self.limits.step).await;
        steps.push(step);
        let Some((address, socket)) = connected else { return (steps, None) };
        let step = match (endpoint.https, self.material) {
            (true, Some(material)) => {
                tls::handshake(material, &endpoint.host, socket, self.limits.step).await
            }
            (true, None) => Step::failed(
                Stage::Tls,
                "the endpoint needs TLS, but the file names no certificates",
                "give trusted-ca-file, cert-file and key-file in it",
            ),
            (false, _) => Step::warning(
                Stage::Tls,
                "not used: the endpoint is http://",
                "use https:// and certificates: everybody on the way can read and change what is read",
            ),
        };
        let stopped = step.is_failed();
        steps.push(step);
        if stopped {
            return (steps, None);
        }
        // The same server that was just spoken with, not another one behind the name.
        let mut pinned = self.client.clone();
        pinned.endpoints = vec![url.to_owned()];
        pinned.resolve.insert(endpoint.host.clone(), vec![address.ip()]);
        let client = match Client::connect(&pinned).await {
            Ok(client) => client,
            Err(error) => {
                let fix = "look at the log of the peer's clustermesh-apiserver";
                steps.push(Step::failed(Stage::Authorisation, format!("gRPC does not begin: {error}"), fix));
                return (steps, None);
            }
        };
        let asked = store::Asked {
            client: &client,
            cluster: self.name,
            user: self.material.map_or("nobody", |material| &material.own.common_name),
            local: self.local,
            patience: self.limits.heartbeat,
        };
        let (more, id) = store::examine(&asked).await;
        steps.extend(more);
        (steps, id)
    }
}
