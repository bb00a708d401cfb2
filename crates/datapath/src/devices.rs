//! The node's native devices, where clients outside come in: which they are, what addresses the node
//! has there, and which ports of it source NAT may use.

use std::net::{IpAddr, Ipv6Addr};
use std::ops::RangeInclusive;

use crate::{Error, netlink};

/// Ports below belong to well-known servers.
const LOWEST: u16 = 1024;

/// The native devices of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Devices {
    /// Their names, sorted.
    pub(crate) names: Vec<String>,
    /// An IPv6 address of the node that others can answer, of one of them.
    pub(crate) ip6: Option<Ipv6Addr>,
}

/// Finds the devices: those that are `wanted`, or else the one with the node's address and those of
/// default routes. One that is wanted and not there is a warning.
pub(crate) fn find(wanted: &[String], node_ip: IpAddr, not: &str) -> Result<Devices, Error> {
    netlink::run(None, async |host| {
        let mut names = Vec::new();
        if wanted.is_empty() {
            let mut indexes = host.default_route_devices().await?;
            indexes.extend(host.device_of(node_ip).await?);
            indexes.sort_unstable();
            indexes.dedup();
            for index in indexes {
                names.extend(host.name(index).await?.filter(|name| name != not && name != "lo"));
            }
        }
        for name in wanted {
            match host.link(name).await? {
                Some(_) => names.push(name.clone()),
                None => tracing::warn!(
                    device = name,
                    "there is no such device (devices): clients that come in by it are not served"
                ),
            }
        }
        names.sort();
        let mut ip6 = None;
        for name in &names {
            let (index, _) = host.index_and_mac(name).await?;
            ip6 = ip6.or(host.addresses(index).await?.into_iter().find_map(global));
        }
        Ok(Devices { names, ip6 })
    })
}

fn global(ip: IpAddr) -> Option<Ipv6Addr> {
    match ip {
        IpAddr::V6(ip) if !ip.is_loopback() && !ip.is_unicast_link_local() => Some(ip),
        _ => None,
    }
}

/// The largest range of ports that is outside both: NodePorts and what the kernel gives to sockets.
pub(crate) fn nat_ports(
    node_ports: &RangeInclusive<u16>,
    ephemeral: &RangeInclusive<u16>,
) -> RangeInclusive<u16> {
    let taken = [node_ports, ephemeral];
    // A range begins at the lowest port or right after one that is taken.
    let starts = [LOWEST].into_iter().chain(taken.iter().filter_map(|range| range.end().checked_add(1)));
    let largest = starts
        .filter(|start| *start >= LOWEST && !taken.iter().any(|range| range.contains(start)))
        .map(|start| {
            let next = taken.iter().map(|range| *range.start()).filter(|taken| *taken > start).min();
            start..=next.map_or(u16::MAX, |next| next - 1)
        })
        .max_by_key(ExactSizeIterator::len);
    // Everything is taken: then what nobody listens on for long.
    largest.unwrap_or_else(|| ephemeral.clone())
}

/// The ports the kernel gives to sockets of the calling thread's network namespace.
pub(crate) fn ephemeral() -> RangeInclusive<u16> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().filter_map(|number| number.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) => first..=last,
        _ => 32768..=60999,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nat_keeps_off_the_ports_of_others() {
        assert_eq!(nat_ports(&(30000..=32767), &(32768..=60999)), 1024..=29999);
        assert_eq!(nat_ports(&(1024..=2047), &(10000..=20000)), 20001..=65535);
        assert_eq!(nat_ports(&(1..=40000), &(50000..=65535)), 40001..=49999);
        assert_eq!(nat_ports(&(30000..=32767), &(1024..=65535)), 1024..=65535);
    }

    #[test]
    fn only_addresses_that_others_can_answer() {
        let find = |ip: &str| global(ip.parse().unwrap()).map(|ip| ip.to_string());
        assert_eq!(find("fd31::1").as_deref(), Some("fd31::1"));
        assert_eq!([find("fe80::1"), find("::1"), find("10.0.0.1")], [None, None, None]);
    }
}
