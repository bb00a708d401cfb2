//! `connect` and `disconnect`: read all clusters, check, show, write.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use kube::Client;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::facts::{self, Facts, Want};
use super::plan::{self, Change};
use super::{ConnectArgs, DisconnectArgs, Global, Output, write};
use crate::kubeclient;

pub(super) async fn connect(global: &Global, args: &ConnectArgs) -> Result<()> {
    if args.destination_endpoint.len() > 1 && args.destination_context.len() > 1 {
        bail!(
            "--destination-endpoint needs exactly one --destination-context: an address belongs to one cluster"
        );
    }
    let deadline = Instant::now() + args.timeout;
    let source = endpoints(&args.source_endpoint)?;
    let destination = endpoints(&args.destination_endpoint)?;
    let (clients, contexts) = clients(global, &args.destination_context).await?;
    let reads = clients.iter().zip(&contexts).enumerate().map(|(i, (client, context))| {
        let given = if i == 0 { &source } else { &destination };
        facts::read(client, context, &global.namespace, Want::All(given, deadline))
    });
    let facts = try_join_all(reads).await?;
    let links = plan::links(args.connection_mode, facts.len());
    let problems = plan::problems(&facts, &links);
    if !problems.is_empty() {
        bail!("these clusters cannot be connected; nothing was changed:\n  - {}", problems.join("\n  - "));
    }
    let say = Talk { quiet: args.output == Output::Json };
    for f in &facts {
        say.line(&describe(f));
    }
    let changes = plan::connect(&facts, &links);
    carry_out(global, &clients, &facts, &changes, args.dry_run, &say).await?;
    if args.output == Output::Json {
        return print_json(&facts, &links, &changes, args.dry_run);
    }
    if args.dry_run {
        return Ok(());
    }
    for text in sentences(&facts, &links, "now read each other", "now reads") {
        say.line(&text);
    }
    say.line(&format!("next: causeway clustermesh status --context {} --wait", facts[0].context));
    Ok(())
}

pub(super) async fn disconnect(global: &Global, args: &DisconnectArgs) -> Result<()> {
    let (clients, contexts) = clients(global, &args.destination_context).await?;
    let reads = clients
        .iter()
        .zip(&contexts)
        .map(|(client, context)| facts::read(client, context, &global.namespace, Want::Peers));
    let facts = try_join_all(reads).await?;
    let links = plan::links(args.connection_mode, facts.len());
    let say = Talk { quiet: args.output == Output::Json };
    let mut changes = plan::disconnect(&facts, &links);
    changes.extend(plan::forget(&facts[0], &args.destination_name));
    carry_out(global, &clients, &facts, &changes, args.dry_run, &say).await?;
    if args.output == Output::Json {
        return print_json(&facts, &links, &changes, args.dry_run);
    }
    if !args.dry_run {
        for text in sentences(&facts, &links, "no longer read each other", "no longer reads") {
            say.line(&text);
        }
        for name in &args.destination_name {
            say.line(&format!("{} has forgotten {name}", facts[0].cluster.name));
        }
    }
    Ok(())
}

/// Progress for people; silent when the output is for programs.
struct Talk {
    quiet: bool,
}

impl Talk {
    fn line(&self, text: &str) {
        if !self.quiet {
            println!("{text}");
        }
    }
}

async fn carry_out(
    global: &Global,
    clients: &[Client],
    facts: &[Facts],
    changes: &[Change],
    dry_run: bool,
    say: &Talk,
) -> Result<()> {
    if changes.is_empty() {
        say.line("nothing to change");
        return Ok(());
    }
    for change in changes {
        let verb = if dry_run { "would write" } else { "write" };
        let keys = change.keys.iter().map(|(k, v)| format!("{}{k}", if v.is_some() { '+' } else { '-' }));
        let keys = keys.collect::<Vec<_>>().join(" ");
        say.line(&format!("{verb} {}/Secret {}: {keys}", facts[change.cluster].cluster.name, change.secret));
    }
    if dry_run {
        return Ok(());
    }
    write::apply(clients, facts, &global.namespace, changes).await
}

/// Clients of the source and of each destination, in order, and their contexts.
async fn clients(global: &Global, destinations: &[String]) -> Result<(Vec<Client>, Vec<String>)> {
    let kubeconfig = global.kubeconfig.as_deref();
    let mut pairs = vec![kubeclient::for_context(kubeconfig, global.context.as_deref()).await?];
    for context in destinations {
        if context.is_empty() {
            bail!("--destination-context is empty: name a context of the kubeconfig");
        }
        pairs.push(kubeclient::for_context(kubeconfig, Some(context)).await?);
    }
    let mut seen = BTreeSet::new();
    for (_, context) in &pairs {
        if !seen.insert(context) {
            bail!("context {context} is named twice: a cluster is not its own peer");
        }
    }
    Ok(pairs.into_iter().unzip())
}

fn endpoints(texts: &[String]) -> Result<Vec<SocketAddr>> {
    let parse = |text: &String| text.parse().with_context(|| format!("endpoint {text:?} is not IP:PORT"));
    texts.iter().map(parse).collect()
}

fn describe(f: &Facts) -> String {
    let access = f.access.as_ref().map(|access| {
        let list = access.addresses.iter().map(|ip| SocketAddr::new(*ip, access.port).to_string());
        format!("  {} {}", access.service_type, list.collect::<Vec<_>>().join(" "))
    });
    format!("{}  id {}{}", f.cluster.name, f.cluster.id, access.unwrap_or_default())
}

fn sentences(facts: &[Facts], links: &[(usize, usize)], both: &str, one: &str) -> Vec<String> {
    let name = |i: usize| &facts[i].cluster.name;
    let lines = links.iter().filter_map(|&(a, b)| match links.contains(&(b, a)) {
        true if a < b => Some(format!("{} and {} {both}", name(a), name(b))),
        true => None,
        false => Some(format!("{} {one} {}", name(a), name(b))),
    });
    lines.collect()
}

/// Names only: values of Secrets do not belong in output.
fn print_json(facts: &[Facts], links: &[(usize, usize)], changes: &[Change], dry_run: bool) -> Result<()> {
    let name = |i: usize| facts[i].cluster.name.as_str();
    let clusters: Vec<Value> = facts
        .iter()
        .map(|f| {
            let access = f.access.as_ref();
            json!({ "context": f.context, "name": f.cluster.name.as_str(), "id": f.cluster.id.get(),
                    "addresses": access.map(|a| &a.addresses), "port": access.map(|a| a.port) })
        })
        .collect();
    let links: Vec<Value> = links
        .iter()
        .map(|&(reader, target)| json!({ "reader": name(reader), "target": name(target) }))
        .collect();
    let changes: Vec<Value> = changes
        .iter()
        .map(|c| {
            let of = |set: bool| c.keys.iter().filter(move |(_, v)| v.is_some() == set).map(|(k, _)| k);
            json!({ "cluster": name(c.cluster), "secret": c.secret,
                    "set": of(true).collect::<Vec<_>>(), "removed": of(false).collect::<Vec<_>>() })
        })
        .collect();
    let result = json!({ "dryRun": dry_run, "clusters": clusters, "links": links, "changes": changes });
    println!("{}", serde_json::to_string_pretty(&result)?);
    Ok(())
}
