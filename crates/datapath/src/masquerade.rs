//! Source NAT for pods that leave the mesh; none between pods, of whichever cluster.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use ipnet::IpNet;

use crate::{Error, PodNetwork};

/// The rule set: what a pod sends to an address that is no pod's, and not `exempt` otherwise, gets the
/// node's address. One table for each family that wants it; empty for none.
pub(crate) fn rules(networks: &[PodNetwork], exempt: &BTreeSet<IpNet>) -> String {
    networks.iter().filter(|network| network.masquerade).map(|network| table(network.cidr, exempt)).collect()
}

fn table(own: IpNet, exempt: &BTreeSet<IpNet>) -> String {
    let same_family = |cidr: &&IpNet| cidr.addr().is_ipv6() == own.addr().is_ipv6();
    let all: Vec<IpNet> = exempt.iter().filter(same_family).copied().chain([own]).collect();
    let elements: Vec<String> = IpNet::aggregate(&all).iter().map(IpNet::to_string).collect();
    // Groups of receivers, and in IPv6 neighbours, are not behind a router.
    let (family, kind, never) = match own {
        IpNet::V4(_) => ("ip", "ipv4_addr", "224.0.0.0/4"),
        IpNet::V6(_) => ("ip6", "ipv6_addr", "{ fe80::/10, ff00::/8 }"),
    };
    // Declaring the table before deleting it makes the first run and every later one the same.
    format!(
        "table {family} causeway {{ }}\n\
         delete table {family} causeway\n\
         table {family} causeway {{\n\
         \tset pods {{ type {kind}; flags interval; elements = {{ {} }}; }}\n\
         \tchain postrouting {{\n\
         \t\ttype nat hook postrouting priority srcnat; policy accept;\n\
         \t\t{family} saddr {own} {family} daddr != @pods {family} daddr != {never} masquerade\n\
         \t}}\n\
         }}\n",
        elements.join(", ")
    )
}

/// The networks that the rules of the calling thread's network namespace exempt; none where there are no
/// rules, or no nft to ask.
pub(crate) fn exempt() -> BTreeSet<IpNet> {
    let set = |family| Command::new("nft").args(["-j", "list", "set", family, "causeway", "pods"]).output();
    ["ip", "ip6"]
        .into_iter()
        .filter_map(|family| set(family).ok())
        .flat_map(|out| elements(&out.stdout))
        .collect()
}

/// What is in a set, as nft's JSON says it.
fn elements(json: &[u8]) -> Vec<IpNet> {
    let json: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
    let read = |element: &serde_json::Value| -> Option<IpNet> {
        match element.as_str() {
            Some(ip) => ip.parse::<std::net::IpAddr>().ok().map(IpNet::from),
            None => {
                let (ip, bits) = (&element["prefix"]["addr"], &element["prefix"]["len"]);
                IpNet::new(ip.as_str()?.parse().ok()?, bits.as_u64()?.try_into().ok()?).ok()
            }
        }
    };
    let sets = json["nftables"].as_array().into_iter().flatten();
    sets.filter_map(|object| object["set"]["elem"].as_array()).flatten().filter_map(read).collect()
}

/// Installs the rules of the calling thread's network namespace in one transaction; false when
/// there is no nft to do it.
pub(crate) fn install(rules: &str) -> Result<bool, Error> {
    let failed = |why: String| Error::Masquerade(why);
    let started = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut nft = match started {
        Ok(nft) => nft,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(failed(format!("cannot run nft: {e}"))),
    };
    let mut stdin = nft.stdin.take().expect("it is piped");
    stdin.write_all(rules.as_bytes()).map_err(|e| failed(e.to_string()))?;
    drop(stdin);
    let output = nft.wait_with_output().map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(true);
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_exempt_is_read_back() {
        let json = br#"{"nftables": [{"metainfo": {"version": "1.1.3"}}, {"set": {"family": "ip",
            "name": "pods", "flags": ["interval"],
            "elem": [{"prefix": {"addr": "10.1.0.0", "len": 24}}, "172.31.0.2", {"range": ["a", "b"]}]}}]}"#;
        assert_eq!(
            elements(json),
            ["10.1.0.0/24".parse().unwrap(), "172.31.0.2/32".parse::<IpNet>().unwrap()]
        );
        assert!(elements(b"").is_empty());
    }

    #[test]
    fn no_pod_of_any_cluster_is_behind_nat() {
        let network = |cidr: &str, masquerade| {
            let cidr: IpNet = cidr.parse().unwrap();
            PodNetwork { cidr, internal_ip: cidr.addr(), masquerade }
        };
        let pods = ["10.2.0.0/24", "10.2.1.0/24", "fd00:2::/64"].map(|c| c.parse().unwrap()).into();
        let both = [network("10.1.0.0/24", true), network("fd00:1::/64", true)];
        let rules = rules(&both, &pods);
        assert!(rules.contains("elements = { 10.1.0.0/24, 10.2.0.0/23 }"), "{rules}");
        assert!(rules.contains("ip saddr 10.1.0.0/24 ip daddr != @pods"), "{rules}");
        assert!(rules.contains("elements = { fd00:1::/64, fd00:2::/64 }"), "{rules}");
        assert!(rules.contains("ip6 saddr fd00:1::/64 ip6 daddr != @pods"), "{rules}");
        let one = super::rules(&[network("10.1.0.0/24", false), network("fd00:1::/64", true)], &pods);
        assert!(!one.contains("table ip causeway") && one.contains("table ip6 causeway"), "{one}");
    }
}
