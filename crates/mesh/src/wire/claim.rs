//! Which addresses a remote cluster may claim at all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Entry, Fault, Reason, fault};

/// Shortest prefix: pod networks are of 10.0.0.0/8 at most, or of a site's share of IPv6. Anything
/// shorter would take over other clusters, or the world, in two or more pieces.
const MIN_V4: u8 = 8;
const MIN_V6: u8 = 16;

/// Special-purpose ranges that no pod or node of another cluster has: this network, loopback,
/// link-local (where metadata services live), multicast, broadcast (RFC 6890).
const SPECIAL_V4: [Ipv4Net; 5] = [
    Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 8),
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4),
    Ipv4Net::new_assert(Ipv4Addr::BROADCAST, 32),
];
/// Unspecified and loopback, mapped IPv4, link-local, multicast.
const SPECIAL_V6: [Ipv6Net; 4] = [
    Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 127),
    Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96),
    Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

/// The special-purpose range that a prefix is in, or reaches into.
pub(super) fn special(net: &IpNet) -> Option<IpNet> {
    match net {
        IpNet::V4(net) => {
            SPECIAL_V4.iter().find(|s| s.contains(net) || net.contains(*s)).copied().map(IpNet::V4)
        }
        IpNet::V6(net) => {
            SPECIAL_V6.iter().find(|s| s.contains(net) || net.contains(*s)).copied().map(IpNet::V6)
        }
    }
}

/// A prefix that pods or nodes of another cluster can have.
pub(super) fn check(field: &'static str, net: &IpNet) -> Result<(), Fault> {
    let min = match net {
        IpNet::V4(_) => MIN_V4,
        IpNet::V6(_) => MIN_V6,
    };
    if net.prefix_len() < min {
        let rule = format!("{net} would claim nearly every address; /{min} is the shortest accepted");
        return fault(Reason::ForeignAddress, field, rule);
    }
    match special(net) {
        Some(range) => fault(
            Reason::ForeignAddress,
            field,
            format!("{net} is in the special-purpose range {range}, which no remote cluster has"),
        ),
        None => Ok(()),
    }
}

/// An address that a pod or node of another cluster can have. A service has thousands of them, so
/// the ranges are compared as numbers, and the refusal is left to [`check`].
pub(super) fn check_host(field: &'static str, ip: IpAddr) -> Result<(), Fault> {
    let special = match ip {
        IpAddr::V4(ip) => SPECIAL_V4.iter().any(|range| {
            let differs = ip.to_bits() ^ range.addr().to_bits();
            differs.leading_zeros() >= u32::from(range.prefix_len())
        }),
        IpAddr::V6(ip) => SPECIAL_V6.iter().any(|range| {
            let differs = ip.to_bits() ^ range.addr().to_bits();
            differs.leading_zeros() >= u32::from(range.prefix_len())
        }),
    };
    if special { check(field, &ip.into()) } else { Ok(()) }
}

/// Whether an entry claims something of `own`, the prefixes that belong to this node.
pub(crate) fn check_own(entry: &Entry, own: &[IpNet]) -> Result<(), Fault> {
    let taken = |field, net: IpNet| {
        let overlap = own.iter().find(|own| own.contains(&net) || net.contains(*own));
        overlap.map_or(Ok(()), |own| {
            let rule = format!("{net} overlaps {own}, which is this node's own");
            fault(Reason::ForeignAddress, field, rule)
        })
    };
    let host = |field, ip: &Option<IpAddr>| ip.map_or(Ok(()), |ip| taken(field, ip.into()));
    match entry {
        _ if own.is_empty() => Ok(()),
        Entry::Address(entry) => {
            taken("IP", entry.prefix)?;
            host("HostIP", &entry.host_ip)
        }
        Entry::Node(node) => {
            node.pod_cidrs.iter().try_for_each(|cidr| taken("PodCIDR", *cidr))?;
            node.addresses.iter().try_for_each(|a| taken("IPAddresses", a.ip.into()))?;
            host("IPv4HealthIP", &node.health_v4)?;
            host("IPv6HealthIP", &node.health_v6)?;
            host("IPv4IngressIP", &node.ingress_v4)?;
            host("IPv6IngressIP", &node.ingress_v6)
        }
        // Backends may be anywhere: an EndpointSlice written by hand can name any pod of the mesh.
        Entry::Service(_) | Entry::Export(_) | Entry::Identity(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Bits near the edges of the ranges, and any.
        #[test]
        fn a_host_is_checked_like_its_prefix(range in 0usize..9, low in any::<u128>(), shift in 0u32..128) {
            let v4 = SPECIAL_V4.get(range).map(|net| IpAddr::V4((net.addr().to_bits() ^ (low as u32 >> (shift % 32))).into()));
            let v6 = || IpAddr::V6((SPECIAL_V6[range - 5].addr().to_bits() ^ (low >> shift)).into());
            let ip = v4.unwrap_or_else(v6);
            let (host, prefix) = (check_host("backends", ip), check("backends", &ip.into()));
            prop_assert_eq!(host.is_ok(), prefix.is_ok(), "{}", ip);
        }
    }
}
