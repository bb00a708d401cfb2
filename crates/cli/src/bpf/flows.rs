//! `causeway bpf ct` and `causeway bpf nat`: the flows that are translated packet by packet.

use std::path::Path;

use anyhow::{Result, bail};
use causeway_datapath::conntrack::{Conntrack, FlowEntry, NatFlow};
use clap::Subcommand;

use super::table;

#[derive(Debug, Subcommand)]
pub(super) enum Flows {
    /// All entries
    List,
    /// Remove all entries of both maps, connection tracking and NAT: clients of services choose
    /// another backend, and their connections break
    Flush {
        /// Do it
        #[arg(long)]
        yes: bool,
    },
}

/// The text for `ct`.
pub(super) fn ct(bpffs: &Path, wish: &Flows, json: bool) -> Result<String> {
    if let Flows::Flush { yes } = wish {
        return flush(bpffs, *yes);
    }
    let entries = Conntrack::open(bpffs)?.list()?;
    Ok(if json { serde_json::to_string_pretty(&entries)? } else { flows(&entries) })
}

/// The text for `nat`.
pub(super) fn nat(bpffs: &Path, wish: &Flows, json: bool) -> Result<String> {
    if let Flows::Flush { yes } = wish {
        return flush(bpffs, *yes);
    }
    let entries = Conntrack::open(bpffs)?.list_nat()?;
    Ok(if json { serde_json::to_string_pretty(&entries)? } else { translations(&entries) })
}

fn flush(bpffs: &Path, yes: bool) -> Result<String> {
    if !yes {
        bail!("this breaks connections to services through this node; say --yes to do it");
    }
    let collected = Conntrack::open(bpffs)?.flush()?;
    Ok(format!("{} entries were removed", collected.deleted))
}

fn protocol(number: u8) -> String {
    match number {
        6 => "TCP".into(),
        17 => "UDP".into(),
        132 => "SCTP".into(),
        other => other.to_string(),
    }
}

fn flows(entries: &[FlowEntry]) -> String {
    let mut table = table(&["KIND", "PROTOCOL", "SOURCE", "DESTINATION", "TRANSLATION", "LEFT", "SEEN"]);
    for e in entries {
        let translation = match (e.other.port(), e.nat_port) {
            (0, _) => "-".into(),
            (_, 0) => e.other.to_string(),
            (_, port) => format!("{} from port {port}", e.other),
        };
        let seen = if e.seen.is_empty() { "-".into() } else { e.seen.join(",") };
        table.add_row([
            format!("{:?}", e.kind).to_lowercase(),
            protocol(e.protocol),
            e.source.to_string(),
            e.destination.to_string(),
            translation,
            format!("{} s", e.seconds_left),
            seen,
        ]);
    }
    table.trim_fmt()
}

fn translations(entries: &[NatFlow]) -> String {
    let mut table = table(&["PROTOCOL", "CLIENT", "FRONTEND", "SOURCE", "BACKEND", "LEFT"]);
    for e in entries {
        table.add_row([
            protocol(e.protocol),
            e.client.to_string(),
            e.frontend.to_string(),
            e.source.to_string(),
            e.backend.to_string(),
            format!("{} s", e.seconds_left),
        ]);
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use causeway_datapath::conntrack::Kind;

    use super::*;

    #[test]
    fn entries_are_readable() {
        let entry = FlowEntry {
            kind: Kind::Service,
            protocol: 6,
            source: "192.0.2.9:40000".parse().unwrap(),
            destination: "172.20.1.1:30080".parse().unwrap(),
            other: "10.2.0.5:8080".parse().unwrap(),
            nat_port: 1024,
            seconds_left: 7999,
            seen: vec!["non-syn"],
            service: 3,
            identity: 0,
        };
        let text = flows(&[entry]);
        assert!(text.contains("10.2.0.5:8080 from port 1024") && text.contains("7999 s"), "{text}");
        let nat = NatFlow {
            protocol: 17,
            client: "[fd31::9]:40000".parse().unwrap(),
            frontend: "[fd31::1]:30080".parse().unwrap(),
            source: "[fd00:1::1]:1024".parse().unwrap(),
            backend: "[fd00:2::5]:8080".parse().unwrap(),
            seconds_left: 60,
        };
        let text = translations(&[nat]);
        let row: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row[..3], ["UDP", "[fd31::9]:40000", "[fd31::1]:30080"]);
    }

    #[test]
    fn nothing_is_removed_by_accident() {
        let error = flush(Path::new("/nowhere"), false).unwrap_err().to_string();
        assert!(error.contains("--yes"), "{error}");
    }
}
