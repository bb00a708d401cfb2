//! `causeway bpf`: what the kernel of this node holds, read from the pinned maps. No agent is needed.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use causeway_datapath::inspect::{FrontendEntry, Inspector, IpcacheEntry};
use clap::{Args, Subcommand};
use comfy_table::{Table, presets};

use crate::clustermesh::Output;

/// `causeway bpf …`
#[derive(Debug, Args)]
#[command(after_help = "Run it on a node, as root. In a lab:
  causeway lab exec node/NODE -- causeway bpf ipcache list")]
pub(crate) struct BpfArgs {
    /// Where the node's bpffs is mounted
    #[arg(long, global = true, default_value = "/sys/fs/bpf")]
    bpffs: PathBuf,
    /// Output
    #[arg(short, long, global = true, value_enum, default_value = "summary")]
    output: Output,
    #[command(subcommand)]
    map: Map,
}

#[derive(Debug, Subcommand)]
enum Map {
    /// Addresses: whose they are and which node they are behind
    #[command(subcommand)]
    Ipcache(Ipcache),
    /// Services: frontends and their backends
    #[command(subcommand)]
    Lb(Lb),
}

#[derive(Debug, Subcommand)]
enum Ipcache {
    /// All entries
    List,
    /// What the kernel finds for one address; exit 1 when that is nothing
    Get {
        /// The address
        ip: IpAddr,
    },
}

#[derive(Debug, Subcommand)]
enum Lb {
    /// All frontends with their backends
    List,
}

/// Prints what was asked for.
pub(crate) fn run(args: BpfArgs) -> Result<()> {
    let inspector = Inspector::open(&args.bpffs)?;
    let json = args.output == Output::Json;
    let text = match args.map {
        Map::Ipcache(Ipcache::List) => {
            let entries = inspector.ipcache()?;
            if json { serde_json::to_string_pretty(&entries)? } else { addresses(&entries) }
        }
        Map::Ipcache(Ipcache::Get { ip }) => match inspector.lookup(ip)? {
            Some(entry) if json => serde_json::to_string_pretty(&entry)?,
            Some(entry) => addresses(&[entry]),
            None => bail!("no entry covers {ip}: packets to it leave the node as to the world outside"),
        },
        Map::Lb(Lb::List) => {
            let entries = inspector.frontends()?;
            if json { serde_json::to_string_pretty(&entries)? } else { services(&entries) }
        }
    };
    crate::output::line(&text).context("write the output")
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}

fn addresses(entries: &[IpcacheEntry]) -> String {
    let mut table = table(&["PREFIX", "IDENTITY", "TUNNEL ENDPOINT", "KEY"]);
    for e in entries {
        let tunnel = e.tunnel_endpoint.map_or("-".to_owned(), |ip| ip.to_string());
        table.add_row([e.prefix.to_string(), e.identity.to_string(), tunnel, e.encrypt_key.to_string()]);
    }
    table.trim_fmt()
}

fn services(entries: &[FrontendEntry]) -> String {
    let mut table = table(&["FRONTEND", "BACKENDS"]);
    for e in entries {
        let backends = e.backends.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        let backends = if backends.is_empty() { "none: refused".into() } else { backends };
        table.add_row([e.frontend.to_string(), backends]);
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use causeway_model::Protocol;
    use causeway_model::lb::L4Addr;

    use super::*;

    #[test]
    fn entries_are_readable() {
        let entry = IpcacheEntry {
            prefix: "10.2.0.5/32".parse().unwrap(),
            identity: 131_100,
            tunnel_endpoint: Some("172.20.2.1".parse().unwrap()),
            encrypt_key: 0,
        };
        let text = addresses(&[entry, IpcacheEntry { tunnel_endpoint: None, ..entry }]);
        let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["10.2.0.5/32", "131100", "172.20.2.1", "0"]);
        assert_eq!(rows[2], ["10.2.0.5/32", "131100", "-", "0"]);

        let address = |ip: &str, port| L4Addr { ip: ip.parse().unwrap(), port, protocol: Protocol::TCP };
        let frontend = address("10.96.0.1", 80);
        let backends = vec![address("10.2.0.5", 8080), address("fd00::1", 8080)];
        let text = services(&[
            FrontendEntry { frontend, backends },
            FrontendEntry { frontend: address("10.96.0.2", 80), backends: vec![] },
        ]);
        assert!(text.contains("10.96.0.1:80/TCP") && text.contains("[fd00::1]:8080/TCP"), "{text}");
        assert!(text.contains("none: refused"), "{text}");
    }
}
