//! `causeway lab status`.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, api::ListParams};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::state::{LabDir, LabStatus};
use crate::topology::plan::API_PORT;
use crate::wait;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    #[serde(flatten)]
    lab: LabStatus,
    kubeconfig: std::path::PathBuf,
    subnets: Vec<Subnet>,
    /// Pairs of clusters whose control-plane link is cut.
    links_cut: Vec<(String, String)>,
    details: Vec<Cluster>,
}

#[derive(Serialize)]
struct Subnet {
    id: String,
    cidr: String,
    zone: String,
    gateway: Ipv4Addr,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Cluster {
    name: String,
    id: u32,
    pod_cidr: String,
    service_cidr: String,
    #[serde(rename = "podCidrV6", skip_serializing_if = "Option::is_none")]
    pod_cidr_v6: Option<String>,
    #[serde(rename = "serviceCidrV6", skip_serializing_if = "Option::is_none")]
    service_cidr_v6: Option<String>,
    server: String,
    address: String,
    /// Why its API server does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    pods_ready: usize,
    pods: usize,
    nodes: Vec<NodeReport>,
}

#[derive(Serialize)]
struct NodeReport {
    name: String,
    zone: String,
    address: Ipv4Addr,
    ready: bool,
    message: String,
}

pub(super) async fn print(name: &str, json: bool) -> Result<()> {
    let report = match Lab::open(name) {
        Ok(lab) => report(&lab).await?,
        Err(e) => {
            // What there is of it is still shown, and that it is not up is the exit code.
            if let (false, Some(status)) = (json, LabDir::new(name)?.status()) {
                processes(&status);
            }
            return Err(e);
        }
    };
    if json {
        let text = serde_json::to_string_pretty(&report).map_err(|e| Error::refused(e.to_string()))?;
        println!("{text}");
    } else {
        text(&report);
    }
    Ok(())
}

async fn report(lab: &Lab) -> Result<Report> {
    let status = lab.status()?;
    let mut details = Vec::new();
    for cluster in &lab.plan().clusters {
        let server = status.clusters.iter().find(|c| c.name == cluster.name);
        let mut one = Cluster {
            name: cluster.name.clone(),
            id: cluster.id,
            pod_cidr: cluster.pod_cidr.to_string(),
            service_cidr: cluster.service_cidr.to_string(),
            pod_cidr_v6: cluster.pod_cidr_v6.map(|cidr| cidr.to_string()),
            service_cidr_v6: cluster.service_cidr_v6.map(|cidr| cidr.to_string()),
            server: server.map(|c| c.server.clone()).unwrap_or_default(),
            address: format!("{}:{API_PORT}", cluster.api_server),
            problem: None,
            pods_ready: 0,
            pods: 0,
            nodes: Vec::new(),
        };
        let client = lab.client(&cluster.name).await?;
        let all = ListParams::default();
        let (node_api, pod_api) = (Api::<Node>::all(client.clone()), Api::<Pod>::all(client));
        let listed = tokio::try_join!(node_api.list(&all), pod_api.list(&all));
        let nodes = match listed {
            Ok((nodes, pods)) => {
                one.pods = pods.items.len();
                one.pods_ready = pods.items.iter().filter(|p| pod_ready(p)).count();
                nodes.items
            }
            Err(e) => {
                one.problem = Some(e.to_string());
                Vec::new()
            }
        };
        for node in &cluster.nodes {
            let found = nodes.iter().find(|n| n.metadata.name.as_ref() == Some(&node.name));
            let (ready, message) = found.map_or_else(|| (false, "not registered".to_string()), wait::ready);
            one.nodes.push(NodeReport {
                name: node.name.clone(),
                zone: node.zone.clone(),
                address: node.address,
                ready,
                message,
            });
        }
        details.push(one);
    }
    let clusters = &lab.plan().clusters;
    let mut links_cut = Vec::new();
    for (i, a) in clusters.iter().enumerate() {
        for b in &clusters[i + 1..] {
            if lab.is_cut(&a.name, &b.name)? {
                links_cut.push((a.name.clone(), b.name.clone()));
            }
        }
    }
    let subnets = lab.plan().subnets.iter().map(|s| Subnet {
        id: s.id.clone(),
        cidr: s.cidr.to_string(),
        zone: s.zone.clone(),
        gateway: s.gateway,
    });
    let subnets = subnets.collect();
    Ok(Report { lab: status, kubeconfig: lab.kubeconfig(), subnets, links_cut, details })
}

fn pod_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn text(report: &Report) {
    println!("lab {} is up since {}", report.lab.name, report.lab.started);
    for subnet in &report.subnets {
        println!(
            "subnet {:<20} {:<18} zone {}, gateway {}",
            subnet.id, subnet.cidr, subnet.zone, subnet.gateway
        );
    }
    for (a, b) in &report.links_cut {
        println!("control-plane link between {a} and {b} is CUT");
    }
    for cluster in &report.details {
        let both = |v4: &str, v6: &Option<String>| {
            [Some(v4), v6.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(" and ")
        };
        println!(
            "\ncluster {} (id {})  pods {}  services {}",
            cluster.name,
            cluster.id,
            both(&cluster.pod_cidr, &cluster.pod_cidr_v6),
            both(&cluster.service_cidr, &cluster.service_cidr_v6)
        );
        println!("  API server  {} (in the VPC {})", cluster.server, cluster.address);
        if let Some(problem) = &cluster.problem {
            println!("  API server does not answer: {problem}");
        }
        println!("  pods ready  {}/{}", cluster.pods_ready, cluster.pods);
        for node in &cluster.nodes {
            let state = if node.ready { "Ready".to_string() } else { format!("NotReady: {}", node.message) };
            println!("  node {:<24} {:<15} {:<18} {state}", node.name, node.address.to_string(), node.zone);
        }
    }
    println!();
    processes(&report.lab);
    println!("\nexport KUBECONFIG={}", report.kubeconfig.display());
}

fn processes(status: &LabStatus) {
    println!("{:<48} {:>8}", "PROCESS", "PID");
    println!("{:<48} {:>8}", "supervisor", status.supervisor);
    for process in &status.processes {
        let ended = process.ended.as_ref().map(|how| format!("  ended: {how}")).unwrap_or_default();
        println!("{:<48} {:>8}{ended}", process.name, process.pid);
    }
}
