//! At most one address of each family: what a pod or a node has in the pod network.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// The addresses of one pod, or of one node inside the pod network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IpPair {
    /// Its IPv4 address; `ip` in records, as before there was IPv6.
    #[serde(rename = "ip", default, skip_serializing_if = "Option::is_none")]
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    #[serde(rename = "ip6", default, skip_serializing_if = "Option::is_none")]
    pub v6: Option<Ipv6Addr>,
}

impl IpPair {
    /// Those that are there, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }

    /// The one of the same family as `other`.
    pub fn like(&self, other: IpAddr) -> Option<IpAddr> {
        self.iter().find(|ip| ip.is_ipv6() == other.is_ipv6())
    }
}

impl FromIterator<IpAddr> for IpPair {
    /// The first of each family.
    fn from_iter<I: IntoIterator<Item = IpAddr>>(ips: I) -> Self {
        let mut pair = Self::default();
        for ip in ips {
            match ip {
                IpAddr::V4(v4) => pair.v4 = pair.v4.or(Some(v4)),
                IpAddr::V6(v6) => pair.v6 = pair.v6.or(Some(v6)),
            }
        }
        pair
    }
}

impl fmt::Display for IpPair {
    /// As in `10.1.0.5 and fd00::5`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.iter().map(|ip| ip.to_string()).collect();
        f.write_str(&texts.join(" and "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_each_family_is_kept() {
        let ips = ["fd00::5", "10.1.0.5", "10.1.0.6"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let pair: IpPair = ips.into_iter().collect();
        assert_eq!(pair.to_string(), "10.1.0.5 and fd00::5");
        assert_eq!(pair.like("fd00::1".parse().unwrap()), Some(ips[0]));
        assert_eq!(IpPair { v6: None, ..pair }.like("fd00::1".parse().unwrap()), None);
    }
}
