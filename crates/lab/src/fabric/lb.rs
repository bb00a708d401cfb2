//! What the load-balancer controller tells the fabric: which addresses answer, and which node ports stand behind them.
//!
//! One file per cluster, `<state>/fabric/lb/<cluster>.json`, replaced as a whole by the cluster's controller and followed
//! by the fabric process ([`super::forward`]).

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::runtime::{Context, Result, write_atomic};

/// Transport protocol of a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// One address and port of a load balancer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Frontend {
    /// The load balancer's address.
    pub vip: Ipv4Addr,
    /// Subnet the address is of; none = the public range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// Port of the Service.
    pub port: u16,
    /// Protocol of the port.
    pub protocol: Protocol,
    /// `node address:node port` of the ready nodes; connections go to them in turn.
    pub targets: Vec<SocketAddrV4>,
}

/// All frontends of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Frontends {
    /// In order of address, port and protocol.
    pub frontends: Vec<Frontend>,
}

impl Frontends {
    /// The directory of the files in a lab's state directory.
    pub fn dir(state: &Path) -> PathBuf {
        state.join("fabric").join("lb")
    }

    /// Replaces what a cluster's load balancers answer; `dir` is [`Frontends::dir`].
    ///
    /// # Errors
    /// If the directory cannot be written.
    pub fn write(&self, dir: &Path, cluster: &str) -> Result<()> {
        fs::create_dir_all(dir).what(|| format!("create {}", dir.display()))?;
        let text = serde_json::to_vec_pretty(self).what(|| "encode load-balancer frontends".into())?;
        write_atomic(&dir.join(format!("{cluster}.json")), &text)
    }

    /// What every cluster last wrote, by cluster name; a file that does not parse is an error naming it.
    ///
    /// # Errors
    /// If a file cannot be read or parsed.
    pub fn read_all(dir: &Path) -> Result<Vec<(String, Frontends)>> {
        let entries = match fs::read_dir(dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.what(|| format!("read {}", dir.display()))?,
        };
        let mut all = Vec::new();
        for path in entries.flatten().map(|e| e.path()) {
            let Some(cluster) = path.file_name().and_then(|n| n.to_str()?.strip_suffix(".json")) else {
                continue;
            };
            let text = fs::read(&path).what(|| format!("read {}", path.display()))?;
            let one = serde_json::from_slice(&text).what(|| format!("decode {}", path.display()))?;
            all.push((cluster.to_string(), one));
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    }
}

/// Addresses a cluster may give to its load balancers, both ends included. No two clusters share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressPool {
    /// The first.
    pub first: Ipv4Addr,
    /// The last.
    pub last: Ipv4Addr,
}

impl AddressPool {
    /// The addresses in ascending order.
    pub fn addresses(self) -> impl Iterator<Item = Ipv4Addr> {
        (u32::from(self.first)..=u32::from(self.last)).map(Ipv4Addr::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_frontends_are_read_back_by_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let one = Frontends {
            frontends: vec![Frontend {
                vip: Ipv4Addr::new(10, 20, 0, 200),
                subnet: Some("subnet-gz3abc".into()),
                port: 2379,
                protocol: Protocol::Tcp,
                targets: vec!["10.20.0.10:30379".parse().unwrap()],
            }],
        };
        one.write(dir.path(), "b").unwrap();
        Frontends::default().write(dir.path(), "a").unwrap();
        let all = Frontends::read_all(dir.path()).unwrap();
        assert_eq!(all, [("a".to_string(), Frontends::default()), ("b".to_string(), one)]);
        fs::write(dir.path().join("c.json"), "{").unwrap();
        let error = Frontends::read_all(dir.path()).unwrap_err();
        assert!(error.to_string().contains("c.json"), "{error}");
    }
}
