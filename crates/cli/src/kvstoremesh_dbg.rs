//! `causeway kvstoremesh-dbg`: what a cache sees of the other clusters. The name and the flags are those of Cilium's
//! image, where `cilium clustermesh status` calls them.

use anyhow::{Context, Result, bail};
use causeway_mesh::remote::RemoteStatus;
use clap::{Args, Subcommand};
use hyper::Method;
use jiff::Timestamp;

use crate::clustermesh::{Output, TroubleshootArgs, troubleshoot};
use crate::output::printable;
use crate::{caching, cni, local_status};

/// `causeway kvstoremesh-dbg …`
#[derive(Debug, Args)]
pub(crate) struct DbgArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show what the cache has of each remote cluster; details of those that are not ready
    #[command(after_help = "Example:
  kubectl -n kube-system exec deploy/clustermesh-apiserver -- causeway kvstoremesh-dbg status --verbose")]
    Status(StatusArgs),
    /// Name the step at which reading a remote cluster fails, as `causeway clustermesh troubleshoot`
    Troubleshoot(TroubleshootArgs),
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// Address of the cache's status API
    #[arg(short = 'H', long, default_value = caching::API_ADDRESS, value_name = "HOST:PORT")]
    host: String,
    /// Show every remote cluster, also those that are ready
    #[arg(long)]
    verbose: bool,
    /// Output
    #[arg(short, long, value_enum, default_value = "summary")]
    output: Output,
}

pub(crate) async fn run(args: DbgArgs) -> Result<()> {
    match args.verb {
        Verb::Status(verb) => status(&verb).await,
        Verb::Troubleshoot(verb) => troubleshoot(&verb).await,
    }
}

async fn status(args: &StatusArgs) -> Result<()> {
    let host = args.host.trim_start_matches("http://").trim_end_matches('/');
    let stream = tokio::net::TcpStream::connect(host).await.with_context(|| {
        format!("connect to {host}: does a cache run here? (api-serve-addr of `causeway kvstoremesh`)")
    })?;
    let (code, text) = cni::exchange(stream, host, Method::GET, caching::api::PATH, Vec::new()).await?;
    if !code.is_success() {
        bail!("the cache at {host} answered {code}: {text}");
    }
    let remotes: Vec<RemoteStatus> =
        serde_json::from_str(&text).with_context(|| format!("{host} is no cache's status API"))?;
    if args.output == Output::Json {
        println!("{text}");
        return Ok(());
    }
    // Reasons quote what the remote clusters sent.
    for line in shown(&remotes, args.verbose, Timestamp::now()).lines() {
        println!("{}", printable(line.as_bytes()));
    }
    Ok(())
}

fn shown(remotes: &[RemoteStatus], verbose: bool, now: Timestamp) -> String {
    let ready = remotes.iter().filter(|remote| remote.ready).count();
    let head = format!("KVStoreMesh: {ready}/{} remote clusters ready\n", remotes.len());
    head + &local_status::details(remotes, verbose, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_is_shown_as_an_agent_is() {
        let named = |name: &str, ready| RemoteStatus { name: name.into(), ready, ..Default::default() };
        let remotes = [named("cls-b", true), named("cls-c", false)];
        let now = "2026-03-01T08:15:30Z".parse().unwrap();
        let short = shown(&remotes, false, now);
        assert!(short.starts_with("KVStoreMesh: 1/2 remote clusters ready\n   cls-c: not-ready,"), "{short}");
        assert!(shown(&remotes, true, now).contains("   cls-b: ready,"));
    }
}
