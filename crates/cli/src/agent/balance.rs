//! How this node balances services, from settings with Cilium's names.

use std::str::FromStr;

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use causeway_daemon::config::{Config, Key};
use causeway_datapath::{Acceleration, Balance, LbMode, MAGLEV_SIZES, Maglev, NodePorts, Sizes};
use causeway_model::lb;

pub(super) const KEYS: [Key; 19] = [
    Key::with_default("bpf-ct-global-any-max", "0"),
    Key::with_default("bpf-ct-global-tcp-max", "0"),
    Key::with_default("bpf-lb-acceleration", "disabled"),
    Key::with_default("bpf-lb-algorithm", "random"),
    Key::with_default("bpf-lb-dsr-dispatch", "opt"),
    Key::with_default("bpf-lb-mode", "snat"),
    Key::with_default("bpf-lb-maglev-table-size", "16381"),
    Key::with_default("bpf-lb-maglev-hash-seed", "JLfvgnHc2kaSUFaI"),
    Key::with_default("bpf-lb-map-max", "65536"),
    Key::with_default("bpf-map-dynamic-size-ratio", "0.0025"),
    Key::with_default("bpf-nat-global-max", "0"),
    Key::with_default("bpf-lb-sock-hostns-only", "false"),
    Key::with_default("bpf-lb-sock-terminate-tcp", "false"),
    Key::with_default("bpf-sock-rev-map-max", "262144"),
    Key::with_default("conntrack-gc-interval", "0s"),
    Key::without_default("devices"),
    Key::with_default("node-port-bind-protection", "true"),
    Key::with_default("node-port-range", "30000,32767"),
    Key::with_default("service-no-backend-response", "reject"),
];

/// What the datapath is told.
pub(super) fn settings(config: &Config) -> Result<Balance> {
    config.require::<Dispatch>("bpf-lb-dsr-dispatch")?;
    Ok(Balance {
        mode: config.require::<Mode>("bpf-lb-mode")?.0,
        algorithm: config.require::<Algorithm>("bpf-lb-algorithm")?.0,
        maglev: Maglev {
            size: config.require::<Size>("bpf-lb-maglev-table-size")?.0,
            seed: config.require::<Seed>("bpf-lb-maglev-hash-seed")?.0,
        },
        host_netns_only: config.require("bpf-lb-sock-hostns-only")?,
        protect_ports: config.require("node-port-bind-protection")?,
        terminate_tcp: config.require("bpf-lb-sock-terminate-tcp")?,
        sizes: sizes(config)?,
        devices: list(config.text("devices").unwrap_or_default()),
        acceleration: config.require::<Xdp>("bpf-lb-acceleration")?.0,
        drop_no_backend: config.require::<NoBackend>("service-no-backend-response")?.0,
        node_ports: config.require::<Ports>("node-port-range")?.0,
    })
}

fn sizes(config: &Config) -> Result<Sizes> {
    let ratio = config.require::<Ratio>("bpf-map-dynamic-size-ratio")?.0;
    let dynamic = Sizes::of_memory(memory(), ratio);
    // A number that is written down counts as it is.
    let flows = |name, dynamic: Option<u32>| -> Result<Option<u32>> {
        Ok(config.require::<MaybeEntries>(name)?.0.or(dynamic))
    };
    Ok(Sizes {
        services: Some(config.require::<Entries>("bpf-lb-map-max")?.0),
        sockets: Some(config.require::<Entries>("bpf-sock-rev-map-max")?.0),
        tcp_flows: flows("bpf-ct-global-tcp-max", dynamic.tcp_flows)?,
        other_flows: flows("bpf-ct-global-any-max", dynamic.other_flows)?,
        nat: flows("bpf-nat-global-max", dynamic.nat)?,
    })
}

/// Bytes of memory the machine has.
fn memory() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = info.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next());
    total.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Words between commas or spaces.
fn list(text: &str) -> Vec<String> {
    text.split([',', ' ']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

#[derive(Debug)]
struct Mode(LbMode);

impl FromStr for Mode {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "snat" => Ok(Self(LbMode::Snat)),
            "dsr" => Ok(Self(LbMode::Dsr)),
            "hybrid" => Ok(Self(LbMode::Hybrid)),
            _ => Err("it is snat, dsr or hybrid".into()),
        }
    }
}

/// How the frontend gets to the backend's node: there is one way.
#[derive(Debug)]
struct Dispatch;

impl FromStr for Dispatch {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "opt" => Ok(Self),
            "geneve" | "ipip" => {
                Err("that encapsulation is not implemented: set opt, which needs routing-mode=native".into())
            }
            _ => Err("it is opt".into()),
        }
    }
}

#[derive(Debug)]
struct NoBackend(bool);

impl FromStr for NoBackend {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "reject" => Ok(Self(false)),
            "drop" => Ok(Self(true)),
            _ => Err("it is reject or drop".into()),
        }
    }
}

#[derive(Debug)]
struct Xdp(Acceleration);

impl FromStr for Xdp {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "disabled" => Ok(Self(Acceleration::Disabled)),
            "native" => Ok(Self(Acceleration::Native)),
            "best-effort" => Ok(Self(Acceleration::BestEffort)),
            "testing-only" => Ok(Self(Acceleration::Generic)),
            _ => Err("it is disabled, native, best-effort or testing-only".into()),
        }
    }
}

#[derive(Debug)]
struct Ports(NodePorts);

impl FromStr for Ports {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let range = text.split_once([',', '-']).and_then(|(first, last)| {
            let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (0 < first && first <= last).then_some(NodePorts(first..=last))
        });
        range.map(Self).ok_or_else(|| "it is the first and the last port, like 30000,32767".into())
    }
}

#[derive(Debug)]
struct Ratio(f64);

impl FromStr for Ratio {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
        ratio.map(Self).ok_or_else(|| "it is a part of the memory, from 0 to 1".into())
    }
}

/// A number of entries; 0 = none is said.
#[derive(Debug)]
struct MaybeEntries(Option<u32>);

impl FromStr for MaybeEntries {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "0" => Ok(Self(None)),
            _ => text.parse::<Entries>().map(|entries| Self(Some(entries.0))),
        }
    }
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
        assert!(balance.protect_ports && !balance.host_netns_only && !balance.terminate_tcp);
        assert!(!with("node-port-bind-protection", "false").unwrap().protect_ports);
    }

    #[test]
    fn what_is_written_down_counts() {
        let sized = with("bpf-ct-global-tcp-max", "5000").unwrap().sizes;
        assert_eq!(sized.tcp_flows, Some(5000));
        assert_eq!(with("devices", "eth0, eth1").unwrap().devices, ["eth0", "eth1"]);
        assert!(with("service-no-backend-response", "drop").unwrap().drop_no_backend);
        assert_eq!(with("node-port-range", "31000-31999").unwrap().node_ports, NodePorts(31000..=31999));
    }

    #[test]
    fn settings_are_checked() {
        assert_eq!(with("bpf-lb-algorithm", "maglev").unwrap().algorithm, lb::Algorithm::Maglev);
        assert_eq!(with("bpf-lb-mode", "hybrid").unwrap().mode, LbMode::Hybrid);
        assert_eq!(with("bpf-lb-dsr-dispatch", "opt").unwrap().mode, LbMode::Snat);
        assert_eq!(with("bpf-lb-maglev-table-size", "251").unwrap().maglev.size, 251);
        assert_eq!(with("bpf-lb-maglev-hash-seed", "AAAAAAAAAAAAAAAA").unwrap().maglev.seed, [0; 12]);
        let acceleration = |word| with("bpf-lb-acceleration", word).unwrap().acceleration;
        assert_eq!(acceleration("disabled"), Balance::default().acceleration);
        assert_eq!(acceleration("native"), Acceleration::Native);
        assert_eq!(acceleration("best-effort"), Acceleration::BestEffort);
        assert_eq!(acceleration("testing-only"), Acceleration::Generic);
        for (name, value) in [
            ("bpf-lb-acceleration", "hardware"),
            ("bpf-lb-algorithm", "round-robin"),
            ("bpf-lb-mode", "annotation"),
            ("bpf-lb-dsr-dispatch", "geneve"),
            ("bpf-lb-dsr-dispatch", "ipip"),
            ("bpf-lb-maglev-table-size", "16384"),
            ("bpf-lb-maglev-hash-seed", "AAAA"),
            ("bpf-lb-map-max", "0"),
            ("bpf-ct-global-tcp-max", "12"),
            ("bpf-map-dynamic-size-ratio", "2"),
            ("service-no-backend-response", "ignore"),
            ("node-port-range", "32767,30000"),
        ] {
            let error = with(name, value).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
    }
}
