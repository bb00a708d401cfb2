//! `clustermesh status`: reads the reports of the agents and shows the peers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use causeway_model::ClusterInfo;
use comfy_table::{Table, presets};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use kube::Client;
use kube::api::{Api, ListParams};
use serde_json::json;
use tokio::time::Instant;

use super::facts::{self, Access};
use super::report::Report;
use super::summary::{self, Agent, Summary};
use super::{Global, Output, StatusArgs};
use crate::{kubeclient, names};

/// Everything one look at a cluster shows.
struct Picture {
    cluster: ClusterInfo,
    tunnel: String,
    access: Result<Access, String>,
    server: Result<(), String>,
    agents: Vec<Agent>,
    summary: Summary,
}

impl Picture {
    /// What is not as it should be, one sentence each.
    fn missing(&self) -> Vec<String> {
        let mut list = Vec::new();
        if let Err(why) = &self.access {
            list.push(format!("Service {} has no address: {why}", names::APISERVER));
        }
        if let Err(why) = &self.server {
            list.push(format!("Deployment {}: {why}", names::APISERVER));
        }
        list.extend(summary::missing(&self.summary));
        list
    }
}

pub(super) async fn run(global: &Global, args: &StatusArgs) -> Result<()> {
    let (client, context) =
        kubeclient::for_context(global.kubeconfig.as_deref(), global.context.as_deref()).await?;
    let start = Instant::now();
    let mut told = start;
    loop {
        // One look that fails may be an API server that restarts: with --wait, try again.
        let look =
            tokio::time::timeout(Duration::from_secs(30), look(&client, &context, &global.namespace)).await;
        let look = look.context("the Kubernetes API does not answer").and_then(|look| look);
        let missing = match (&look, args.wait) {
            (Ok(picture), true) => picture.missing(),
            (Err(e), true) => vec![format!("{e:#}")],
            (_, false) => vec![],
        };
        if missing.is_empty() {
            return show(&look?, args.output);
        }
        let waited = start.elapsed();
        if waited >= args.wait_duration {
            if let Ok(picture) = &look {
                show(picture, args.output)?;
            }
            bail!("not ready after {} s; missing:\n  - {}", waited.as_secs(), missing.join("\n  - "));
        }
        if told.elapsed() >= Duration::from_secs(10) {
            eprintln!("waiting for {} s: {}", waited.as_secs(), missing.join("; "));
            told = Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn look(client: &Client, context: &str, namespace: &str) -> Result<Picture> {
    let (cluster, tunnel) = facts::cluster_info(client, context, namespace).await?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let peers = secrets.get_opt(names::PEERS).await.with_context(|| format!("{context}: read the peers"))?;
    let peers = facts::peers(peers.and_then(|s| s.data).as_ref(), &cluster.name);
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let service =
        services.get_opt(names::APISERVER).await.with_context(|| format!("{context}: read the Service"))?;
    let access = match &service {
        Some(service) => facts::derive_access(client, service).await?,
        None => Err("the Service does not exist".into()),
    };
    let agents = agents(client, context, namespace).await?;
    let expected: Vec<_> = peers.into_keys().collect();
    let summary = summary::summarize(&expected, &agents, Timestamp::now());
    let server = server(client, context, namespace).await?;
    Ok(Picture { cluster, tunnel, access, server, agents, summary })
}

/// Whether the mesh server's Deployment is as wanted, else why not.
async fn server(client: &Client, context: &str, namespace: &str) -> Result<Result<(), String>> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let found =
        api.get_opt(names::APISERVER).await.with_context(|| format!("{context}: read the Deployment"))?;
    let Some(deployment) = found else { return Ok(Err("it does not exist".into())) };
    let wanted = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    let status = deployment.status.unwrap_or_default();
    let (ready, updated) = (status.ready_replicas.unwrap_or(0), status.updated_replicas.unwrap_or(0));
    Ok(if status.observed_generation < deployment.metadata.generation {
        Err("its last change is not carried out yet".into())
    } else if wanted == 0 || ready < wanted || updated < wanted {
        Err(format!("{ready} of {wanted} replicas ready, {updated} up to date"))
    } else {
        Ok(())
    })
}

/// The agent pods with their reports, in order of the pods' names.
async fn agents(client: &Client, context: &str, namespace: &str) -> Result<Vec<Agent>> {
    let (label, value) = names::AGENT_LABEL;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pods = pods.list(&ListParams::default().labels(&format!("{label}={value}"))).await;
    let pods = pods.with_context(|| format!("{context}: list agent pods"))?;
    let (label, value) = names::STATUS_LABEL;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let maps = maps.list(&ListParams::default().labels(&format!("{label}={value}"))).await;
    let maps = maps.with_context(|| format!("{context}: list the agents' reports"))?;
    let mut reports: BTreeMap<String, Report> = BTreeMap::new();
    for map in maps {
        let text = map.data.as_ref().and_then(|data| data.get(names::STATUS_KEY));
        if let Some(report) = text.and_then(|text| serde_json::from_str::<Report>(text).ok()) {
            reports.insert(report.node.clone(), report);
        }
    }
    let mut agents: Vec<Agent> = pods
        .into_iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .map(|pod| {
            let node = pod.spec.and_then(|spec| spec.node_name).unwrap_or_default();
            Agent { pod: pod.metadata.name.unwrap_or_default(), report: reports.get(&node).cloned() }
        })
        .collect();
    agents.sort_by(|a, b| a.pod.cmp(&b.pod));
    Ok(agents)
}

fn show(picture: &Picture, output: Output) -> Result<()> {
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&to_json(picture))?),
        Output::Summary => print!("{}", to_text(picture)),
    }
    Ok(())
}

fn to_json(p: &Picture) -> serde_json::Value {
    let access = p.access.as_ref().ok().map(
        |a| json!({ "service_type": a.service_type, "service_ips": a.addresses, "service_port": a.port }),
    );
    json!({
        "cluster_name": p.cluster.name.as_str(),
        "cluster_id": p.cluster.id.to_string(),
        "max_connected_clusters": p.cluster.max_clusters.max_id(),
        "tunnel": p.tunnel,
        "access_information": access,
        "ready": p.missing().is_empty(),
        "missing": p.missing(),
        "peers": p.summary.peers,
        "connectivity": p.summary.connectivity,
    })
}

fn to_text(p: &Picture) -> String {
    let access = match &p.access {
        Ok(a) => {
            let list = a.addresses.iter().map(|ip| SocketAddr::new(*ip, a.port).to_string());
            format!("{} {}", a.service_type, list.collect::<Vec<_>>().join(" "))
        }
        Err(why) => format!("no address: {why}"),
    };
    let server = p.server.as_ref().map_or_else(|why| format!("not ready: {why}"), |()| "ready".to_owned());
    let mut text = format!(
        "cluster {} (id {}), {} agents\n  mesh server {server}, {access}\n",
        p.cluster.name,
        p.cluster.id,
        p.agents.len()
    );
    if p.summary.peers.is_empty() {
        text.push_str("  no cluster is connected; next: causeway clustermesh connect --help\n");
        return text;
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "peer",
        "id",
        "connected",
        "ready",
        "nodes",
        "endpoints",
        "identities",
        "services",
        "last failure",
    ]);
    let total = p.agents.len();
    for peer in &p.summary.peers {
        let id = if peer.id == 0 { "-".to_owned() } else { peer.id.to_string() };
        let failure = match (&peer.last_failure, peer.last_failure_time) {
            (Some(failure), Some(time)) => format!("{} {failure}", time.strftime("%H:%M:%SZ")),
            (Some(failure), None) => failure.clone(),
            (None, _) => "none".to_owned(),
        };
        table.add_row([
            peer.name.clone(),
            id,
            format!("{}/{total}", peer.connected),
            format!("{}/{total}", peer.ready),
            peer.nodes.to_string(),
            peer.endpoints.to_string(),
            peer.identities.to_string(),
            peer.services.to_string(),
            failure,
        ]);
    }
    for line in table.lines() {
        text.push_str(&format!(" {}\n", line.trim_end()));
    }
    let missing = p.missing();
    if missing.is_empty() {
        text.push_str("all agents are ready with all peers\n");
    }
    for line in missing {
        text.push_str(&format!("! {line}\n"));
    }
    text
}
