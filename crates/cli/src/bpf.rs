//! `causeway bpf`: what the kernel of this node holds, read from the pinned maps. No agent is needed.

mod flows;

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use causeway_datapath::inspect::{BackendEntry, FrontendEntry, Inspector, IpcacheEntry, Scope};
use causeway_model::lb::Algorithm;
use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use flows::Flows;

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
    /// Connection tracking: flows under a translation, packet by packet
    #[command(subcommand)]
    Ct(Flows),
    /// Source NAT of clients outside, towards backends on other nodes
    #[command(subcommand)]
    Nat(Flows),
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
    /// Those of which packets choose by Maglev, with the entries of their tables
    Maglev,
}

/// Prints what was asked for.
pub(crate) fn run(args: BpfArgs) -> Result<()> {
    let json = args.output == Output::Json;
    let inspector = || Inspector::open(&args.bpffs);
    let text = match args.map {
        Map::Ipcache(Ipcache::List) => {
            let entries = inspector()?.ipcache()?;
            if json { serde_json::to_string_pretty(&entries)? } else { addresses(&entries) }
        }
        Map::Ipcache(Ipcache::Get { ip }) => match inspector()?.lookup(ip)? {
            Some(entry) if json => serde_json::to_string_pretty(&entry)?,
            Some(entry) => addresses(&[entry]),
            None => bail!("no entry covers {ip}: packets to it leave the node as to the world outside"),
        },
        Map::Lb(Lb::List) => {
            let entries = inspector()?.frontends()?;
            if json { serde_json::to_string_pretty(&entries)? } else { services(&entries) }
        }
        Map::Lb(Lb::Maglev) => {
            let mut entries = inspector()?.frontends()?;
            entries.retain(|entry| entry.algorithm == Algorithm::Maglev);
            if json { serde_json::to_string_pretty(&entries)? } else { maglev(&entries) }
        }
        Map::Ct(wish) => flows::ct(&args.bpffs, &wish, json)?,
        Map::Nat(wish) => flows::nat(&args.bpffs, &wish, json)?,
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
    let mut table = table(&["FRONTEND", "KIND", "OPTIONS", "BACKENDS"]);
    for e in entries {
        // A weight is worth a word only where there are different ones.
        let alike = e.backends.windows(2).all(|pair| pair[0].weight == pair[1].weight);
        let backend = |b: &BackendEntry| match alike || e.table == 0 {
            true => b.address.to_string(),
            false => format!("{} (weight {})", b.address, b.weight),
        };
        let backends = e.backends.iter().map(backend).collect::<Vec<_>>().join("\n");
        let backends = if backends.is_empty() { "none: refused".into() } else { backends };
        table.add_row([e.frontend.to_string(), format!("{:?}", e.kind), options(e), backends]);
    }
    table.trim_fmt()
}

/// What is special about a frontend.
fn options(e: &FrontendEntry) -> String {
    let mut words = vec![];
    match e.scope {
        Scope::All => {}
        Scope::External => words.push("external".to_owned()),
        Scope::Internal => words.push("internal".to_owned()),
    }
    if e.algorithm == Algorithm::Maglev {
        words.push("maglev".into());
    }
    if e.affinity_seconds > 0 {
        words.push(format!("affinity {} s", e.affinity_seconds));
    }
    words.extend(e.source_ranges.map(|ranges| format!("{ranges:?} ranges").to_lowercase()));
    if e.dsr {
        words.push("dsr".into());
    }
    if words.is_empty() { "-".into() } else { words.join(", ") }
}

fn maglev(entries: &[FrontendEntry]) -> String {
    let mut table = table(&["FRONTEND", "ENTRIES", "BACKEND", "OF THEM"]);
    for e in entries {
        for b in &e.backends {
            let row =
                [e.frontend.to_string(), e.table.to_string(), b.address.to_string(), b.weight.to_string()];
            table.add_row(row);
        }
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use causeway_datapath::inspect::Ranges;
    use causeway_model::Protocol;
    use causeway_model::lb::{FrontendKind, L4Addr};

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
        let entry = FrontendEntry {
            frontend: address("10.96.0.1", 80),
            kind: FrontendKind::ClusterIP,
            scope: Scope::All,
            algorithm: Algorithm::Random,
            affinity_seconds: 0,
            source_ranges: None,
            dsr: false,
            table: 0,
            backends: vec![BackendEntry { address: address("10.2.0.5", 8080), weight: 1 }],
        };
        let special = FrontendEntry {
            frontend: address("0.0.0.0", 30080),
            kind: FrontendKind::NodePort,
            scope: Scope::External,
            algorithm: Algorithm::Maglev,
            affinity_seconds: 30,
            source_ranges: Some(Ranges::Deny),
            dsr: true,
            table: 4,
            backends: vec![
                BackendEntry { address: address("10.2.0.5", 8080), weight: 1 },
                BackendEntry { address: address("fd00::1", 8080), weight: 3 },
            ],
        };
        let text = services(&[entry.clone(), special.clone(), FrontendEntry { backends: vec![], ..entry }]);
        let rows: Vec<&str> = text.lines().map(str::trim).collect();
        assert!(rows[1].starts_with("10.96.0.1:80/TCP") && rows[1].ends_with("10.2.0.5:8080/TCP"), "{text}");
        assert!(rows[2].contains("NodePort"), "{text}");
        assert!(rows[2].contains("external, maglev, affinity 30 s, deny ranges, dsr"), "{text}");
        assert!(rows[3].contains("[fd00::1]:8080/TCP (weight 3)"), "{text}");
        assert!(rows[4].contains("none: refused"), "{text}");
        let text = maglev(&[special]);
        let row: Vec<&str> = text.lines().nth(2).unwrap().split_whitespace().collect();
        assert_eq!(row, ["0.0.0.0:30080/TCP", "4", "[fd00::1]:8080/TCP", "3"]);
    }
}
