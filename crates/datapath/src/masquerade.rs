//! Source NAT for pods that leave the mesh; none between pods, of whichever cluster.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use ipnet::Ipv4Net;

use crate::Error;

/// The rule set: what a pod of `own` sends to an address that is no pod's gets the node's address.
pub(crate) fn rules(own: Ipv4Net, pods: &BTreeSet<Ipv4Net>) -> String {
    let mut all: BTreeSet<Ipv4Net> = pods.clone();
    all.insert(own);
    let elements: Vec<String> =
        Ipv4Net::aggregate(&all.into_iter().collect()).iter().map(Ipv4Net::to_string).collect();
    // Declaring the table before deleting it makes the first run and every later one the same.
    format!(
        "table ip causeway {{ }}\n\
         delete table ip causeway\n\
         table ip causeway {{\n\
         \tset pods {{ type ipv4_addr; flags interval; elements = {{ {} }}; }}\n\
         \tchain postrouting {{\n\
         \t\ttype nat hook postrouting priority srcnat; policy accept;\n\
         \t\tip saddr {own} ip daddr != @pods ip daddr != 224.0.0.0/4 masquerade\n\
         \t}}\n\
         }}\n",
        elements.join(", ")
    )
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
    fn no_pod_of_any_cluster_is_behind_nat() {
        let pods = ["10.2.0.0/24", "10.2.1.0/24"].map(|c| c.parse().unwrap()).into();
        let rules = rules("10.1.0.0/24".parse().unwrap(), &pods);
        assert!(rules.contains("elements = { 10.1.0.0/24, 10.2.0.0/23 }"), "{rules}");
        assert!(rules.contains("ip saddr 10.1.0.0/24 ip daddr != @pods"), "{rules}");
    }
}
