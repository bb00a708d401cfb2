//! How packets get to pods of other nodes, from settings with Cilium's names.

use anyhow::{Result, bail};
use causeway_daemon::config::{Config, Key};
use causeway_datapath::{NodeRoutes, Routing};
use ipnet::IpNet;

pub(super) const KEYS: [Key; 6] = [
    Key::with_default("routing-mode", "tunnel"),
    Key::with_default("tunnel-protocol", "vxlan"),
    Key::without_default("ipv4-native-routing-cidr"),
    Key::without_default("ipv6-native-routing-cidr"),
    Key::with_default("auto-direct-node-routes", "false"),
    Key::with_default("direct-routing-skip-unreachable", "false"),
];

/// The routing mode, with whose routes are used.
pub(super) fn settings(config: &Config) -> Result<Routing> {
    let direct = config.require::<bool>("auto-direct-node-routes")?;
    let skip = config.require::<bool>("direct-routing-skip-unreachable")?;
    match config.text("routing-mode").unwrap_or_default() {
        "tunnel" if direct => bail!(
            "auto-direct-node-routes=true needs routing-mode=native: in a tunnel nobody follows such routes"
        ),
        "tunnel" => match config.text("tunnel-protocol").unwrap_or_default() {
            "vxlan" => Ok(Routing::Tunnel),
            other => bail!("tunnel-protocol={other} is not possible: it is vxlan"),
        },
        "native" if skip && !direct => {
            bail!("direct-routing-skip-unreachable=true needs auto-direct-node-routes=true")
        }
        "native" => Ok(Routing::Native(match (direct, skip) {
            (false, _) => NodeRoutes::Network,
            (true, false) => NodeRoutes::Direct,
            (true, true) => NodeRoutes::DirectWherePossible,
        })),
        other => bail!("routing-mode={other} is not possible: it is tunnel or native"),
    }
}

/// What is not masqueraded beside the pods of all clusters.
pub(super) fn native_cidrs(config: &Config) -> Result<Vec<IpNet>> {
    let mut cidrs = vec![];
    for (name, v6) in [("ipv4-native-routing-cidr", false), ("ipv6-native-routing-cidr", true)] {
        let Some(text) = config.text(name).filter(|text| !text.is_empty()) else { continue };
        match text.parse::<IpNet>() {
            Ok(cidr) if cidr.addr().is_ipv6() == v6 => cidrs.push(cidr.trunc()),
            _ => bail!(
                "{name}={text} is not possible: it is a CIDR like {}",
                if v6 { "fd00::/16" } else { "10.0.0.0/8" }
            ),
        }
    }
    Ok(cidrs)
}

#[cfg(test)]
mod tests {
    use causeway_daemon::config::Loader;

    use super::*;

    fn with(values: &[(&'static str, &str)]) -> Config {
        values.iter().fold(Loader::new(&KEYS), |loader, (name, value)| loader.flag(name, Some(*value))).load()
    }

    #[test]
    fn modes_are_those_of_cilium() {
        let of = |values: &[(&'static str, &str)]| settings(&with(values)).map_err(|e| e.to_string());
        let native = ("routing-mode", "native");
        let (direct, skip) =
            (("auto-direct-node-routes", "true"), ("direct-routing-skip-unreachable", "true"));
        assert_eq!(of(&[]), Ok(Routing::Tunnel));
        assert_eq!(of(&[native]), Ok(Routing::Native(NodeRoutes::Network)));
        assert_eq!(of(&[native, direct]), Ok(Routing::Native(NodeRoutes::Direct)));
        assert_eq!(of(&[native, direct, skip]), Ok(Routing::Native(NodeRoutes::DirectWherePossible)));
        for (values, named) in [
            (&[direct][..], "routing-mode=native"),
            (&[native, skip], "auto-direct-node-routes"),
            (&[("routing-mode", "disabled")], "disabled"),
            (&[("tunnel-protocol", "geneve")], "geneve"),
        ] {
            let error = of(values).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn native_cidrs_are_one_of_each_family() {
        let both = [("ipv4-native-routing-cidr", "10.1.2.3/8"), ("ipv6-native-routing-cidr", "fd00::/16")];
        let texts: Vec<_> = native_cidrs(&with(&both)).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.0.0.0/8", "fd00::/16"]);
        assert!(native_cidrs(&with(&[])).unwrap().is_empty());
        for value in ["10.0.0.0", "fd00::/16", "10.0.0.0/40"] {
            let error = native_cidrs(&with(&[("ipv4-native-routing-cidr", value)])).unwrap_err().to_string();
            assert!(error.contains("ipv4-native-routing-cidr") && error.contains(value), "{error}");
        }
    }
}
