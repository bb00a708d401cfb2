//! How this node balances services, from settings with Cilium's names.

use std::str::FromStr;

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use causeway_daemon::config::{Config, Key};
use causeway_datapath::{Balance, MAGLEV_SIZES, Maglev, Sizes};
use causeway_model::lb;

pub(super) const KEYS: [Key; 8] = [
    Key::with_default("bpf-lb-algorithm", "random"),
    Key::with_default("bpf-lb-maglev-table-size", "16381"),
    Key::with_default("bpf-lb-maglev-hash-seed", "JLfvgnHc2kaSUFaI"),
    Key::with_default("bpf-lb-map-max", "65536"),
    Key::with_default("bpf-lb-sock-hostns-only", "false"),
    Key::with_default("bpf-lb-sock-terminate-tcp", "false"),
    Key::with_default("bpf-sock-rev-map-max", "262144"),
    // Cilium's default is true. Not as long as somebody else has to listen at the port for clients outside.
    Key::with_default("node-port-bind-protection", "false"),
];

/// What the datapath is told.
pub(super) fn settings(config: &Config) -> Result<Balance> {
    Ok(Balance {
        algorithm: config.require::<Algorithm>("bpf-lb-algorithm")?.0,
        maglev: Maglev {
            size: config.require::<Size>("bpf-lb-maglev-table-size")?.0,
            seed: config.require::<Seed>("bpf-lb-maglev-hash-seed")?.0,
        },
        host_netns_only: config.require("bpf-lb-sock-hostns-only")?,
        protect_ports: config.require("node-port-bind-protection")?,
        terminate_tcp: config.require("bpf-lb-sock-terminate-tcp")?,
        sizes: Sizes {
            services: Some(config.require::<Entries>("bpf-lb-map-max")?.0),
            sockets: Some(config.require::<Entries>("bpf-sock-rev-map-max")?.0),
        },
    })
}

#[derive(Debug)]
struct Algorithm(lb::Algorithm);

impl FromStr for Algorithm {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "random" => Ok(Self(lb::Algorithm::Random)),
            "maglev" => Ok(Self(lb::Algorithm::Maglev)),
            _ => Err("it is random or maglev".into()),
        }
    }
}

#[derive(Debug)]
struct Size(u32);

impl FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let size = text.parse().ok().filter(|size| MAGLEV_SIZES.contains(size));
        size.map(Self).ok_or_else(|| format!("it is one of {MAGLEV_SIZES:?}"))
    }
}

#[derive(Debug)]
struct Seed([u8; 12]);

impl FromStr for Seed {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| "it is 12 bytes in base64: head -c12 /dev/urandom | base64 -w0".into())
    }
}

#[derive(Debug)]
struct Entries(u32);

impl FromStr for Entries {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let entries = text.parse().ok().filter(|entries| (1024..=1 << 24).contains(entries));
        entries.map(Self).ok_or_else(|| "it is a number of map entries between 1024 and 16777216".into())
    }
}

#[cfg(test)]
mod tests {
    use causeway_daemon::config::Loader;

    use super::*;

    fn with(name: &str, value: &str) -> Result<Balance> {
        settings(&Loader::new(&KEYS).flag(name, Some(value)).load())
    }

    #[test]
    fn defaults_are_those_of_the_datapath() {
        let balance = settings(&Loader::new(&KEYS).load()).unwrap();
        assert_eq!((balance.algorithm, balance.maglev), (lb::Algorithm::Random, Maglev::default()));
        assert!(!balance.protect_ports && !balance.host_netns_only && !balance.terminate_tcp);
        assert!(with("node-port-bind-protection", "true").unwrap().protect_ports);
    }

    #[test]
    fn settings_are_checked() {
        assert_eq!(with("bpf-lb-algorithm", "maglev").unwrap().algorithm, lb::Algorithm::Maglev);
        assert_eq!(with("bpf-lb-maglev-table-size", "251").unwrap().maglev.size, 251);
        assert_eq!(with("bpf-lb-maglev-hash-seed", "AAAAAAAAAAAAAAAA").unwrap().maglev.seed, [0; 12]);
        for (name, value) in [
            ("bpf-lb-algorithm", "round-robin"),
            ("bpf-lb-maglev-table-size", "16384"),
            ("bpf-lb-maglev-hash-seed", "AAAA"),
            ("bpf-lb-map-max", "0"),
        ] {
            let error = with(name, value).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
    }
}
