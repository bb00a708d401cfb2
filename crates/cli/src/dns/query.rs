//! `causeway dns query`: asks a name server, and shows what it says.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use causeway_dns::Name;
use causeway_dns::forward::{nameservers, over_tcp, over_udp, parse_list};
use causeway_dns::wire::{Message, Query, Rcode, RecordType};
use clap::Args;
use tokio::time::timeout;

/// How long a server may take.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(super) struct QueryArgs {
    /// The whole name, or an address to ask which name it has
    name: String,
    /// Type of records
    #[arg(value_name = "TYPE")]
    kind: Option<RecordType>,
    /// The server (default: the first of /etc/resolv.conf)
    #[arg(long, value_name = "IP[:PORT]")]
    server: Option<String>,
    /// Ask over TCP at once
    #[arg(long)]
    tcp: bool,
}

pub(super) async fn run(args: QueryArgs) -> Result<()> {
    let server = match &args.server {
        Some(text) => parse_list(text).map_err(|e| anyhow!(e)).context("--server")?,
        None => nameservers(&std::fs::read_to_string("/etc/resolv.conf").context("read /etc/resolv.conf")?),
    };
    let server = *server.first().context("no name server is known: give --server")?;
    let (name, kind) = match args.name.parse() {
        Ok(address) => (Name::of_address(address), args.kind.unwrap_or(RecordType::PTR)),
        Err(_) => (args.name.parse::<Name>()?, args.kind.unwrap_or(RecordType::A)),
    };
    let query = Query::new(rand::random(), name, kind);
    let mut message = ask(server, &query, args.tcp).await?;
    if message.truncated() && !args.tcp {
        message = ask(server, &query, true).await?;
    }
    let [answers, authority, additional] = message.sections();
    for (title, records) in [("", answers), ("authority", authority), ("additional", additional)] {
        if !title.is_empty() && !records.is_empty() {
            println!("\n;; {title}");
        }
        records.iter().for_each(|record| println!("{record}"));
    }
    match message.rcode() {
        Rcode::NO_ERROR => Ok(()),
        rcode => bail!("{server} says {} to {} {kind}", rcode.word(), query.name),
    }
}

async fn ask(server: SocketAddr, query: &Query, tcp: bool) -> Result<Message> {
    let answer = async {
        if tcp { over_tcp(server, query, query.id).await } else { over_udp(server, query, query.id).await }
    };
    let answer = timeout(PATIENCE, answer).await.map_err(|_| anyhow!("{server} does not answer"))?;
    answer.with_context(|| format!("ask {server}"))
}
