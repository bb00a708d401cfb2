//! `causeway service`: the services as the agent of this node balances them, and why.

mod show;
pub(crate) mod trace;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use causeway_mesh::merge::ServiceView;
use clap::{Args, Subcommand};
use hyper::Method;
use serde::de::DeserializeOwned;

use crate::agent::SOCKET;
use crate::clustermesh::Output;
use crate::cni;
use crate::output::printable;
use trace::{Question, Trace};

/// `causeway service …`
#[derive(Debug, Args)]
#[command(after_help = "Run it on a node. In a lab:
  causeway lab exec node/NODE -- causeway service list --clustermesh-affinity
  causeway lab exec node/NODE -- causeway service trace shop/client shop/web:80
  causeway lab exec node/NODE -- causeway service trace outside 203.0.113.5:80

docs/services.md says which annotations there are and what they do.")]
pub(crate) struct ServiceArgs {
    /// Socket of the agent
    #[arg(long, global = true, default_value = SOCKET)]
    socket: PathBuf,
    /// Output
    #[arg(short, long, global = true, value_enum, default_value = "summary")]
    output: Output,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// All addresses of services with their backends
    List(ListArgs),
    /// Which backend a new connection gets, and why not the others
    Trace(TraceArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Mark the backends that get new connections with "(preferred)"
    #[arg(long)]
    clustermesh_affinity: bool,
    /// Only services of this namespace
    #[arg(short, long)]
    namespace: Option<String>,
}

#[derive(Debug, Args)]
struct TraceArgs {
    /// Who connects: a pod of this node (NAMESPACE/NAME), "node" for a process of it, "outside" for a client
    /// outside the cluster
    from: String,
    /// To what: a service (NAMESPACE/NAME[:PORT], number or name) or an address (IP[:PORT])
    to: String,
}

/// Asks the agent and prints what it says.
pub(crate) async fn run(args: ServiceArgs) -> Result<()> {
    let json = args.output == Output::Json;
    let text = match &args.verb {
        Verb::List(list) => {
            let mut services: Vec<ServiceView> = ask(&args, Method::GET, "/v1/services", vec![]).await?;
            services
                .retain(|service| list.namespace.as_ref().is_none_or(|wanted| *wanted == service.namespace));
            match json {
                true => serde_json::to_string_pretty(&services)?,
                false => show::list(&services, list.clustermesh_affinity),
            }
        }
        Verb::Trace(TraceArgs { from, to }) => {
            let question = Question { from: from.clone(), to: to.clone() };
            let body = serde_json::to_vec(&question)?;
            let trace: Trace = ask(&args, Method::POST, "/v1/services/trace", body).await?;
            if json { serde_json::to_string_pretty(&trace)? } else { show::trace(&trace) }
        }
    };
    // Annotations are quoted in it, and names of other clusters.
    let lines: Vec<String> = text.lines().map(|line| printable(line.as_bytes())).collect();
    crate::output::line(&lines.join("\n")).context("write the output")
}

async fn ask<T: DeserializeOwned>(
    args: &ServiceArgs,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<T> {
    let (code, text) = cni::request(&args.socket, method, path, body).await?;
    if code.is_client_error() {
        bail!("{}", printable(text.as_bytes()));
    }
    if !code.is_success() {
        bail!("the agent answered {code}: {text}");
    }
    serde_json::from_str(&text).context("the agent's answer cannot be read: is it of another version?")
}
