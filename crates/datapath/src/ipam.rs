//! Pod addresses of this node, out of its pod CIDRs. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::{Error, IpPair};

/// The addresses of one pod CIDR. Its first usable address is the node's own (CiliumInternalIP), the
/// second its health endpoint's; the network address, and in IPv4 the broadcast address, are never
/// given out. Addresses are handed out in turn, so that a freed one is reused as late as possible.
#[derive(Debug, Clone)]
pub struct Pool {
    cidr: IpNet,
    /// Those that are out, as offsets from the network address.
    used: BTreeSet<u128>,
    last: u128,
}

/// Offset of the first address a pod may have.
const FIRST: u128 = 3;
/// Bits that a CIDR must leave for addresses.
const MIN_BITS: u8 = 3;

impl Pool {
    /// All of `cidr` free.
    ///
    /// # Errors
    /// [`Error::PoolEmpty`] when it is too small to be of use (longer than /29, or /125 in IPv6).
    pub fn new(cidr: IpNet) -> Result<Self, Error> {
        let cidr = cidr.trunc();
        if cidr.max_prefix_len() - cidr.prefix_len() < MIN_BITS {
            return Err(Error::PoolEmpty(cidr.to_string()));
        }
        Ok(Self { cidr, used: BTreeSet::new(), last: FIRST - 1 })
    }

    /// The node's own address in the pod network.
    pub fn internal_ip(&self) -> IpAddr {
        self.nth(1)
    }

    /// The address of the node's health endpoint.
    pub fn health_ip(&self) -> IpAddr {
        self.nth(2)
    }

    /// The CIDR.
    pub fn cidr(&self) -> IpNet {
        self.cidr
    }

    /// How many addresses are given out, and how many there are; as many as can be said of an IPv6
    /// CIDR that has more.
    pub fn usage(&self) -> (usize, usize) {
        (self.used.len(), usize::try_from(self.end() - FIRST).unwrap_or(usize::MAX))
    }

    /// The next free address.
    ///
    /// # Errors
    /// [`Error::PoolEmpty`]
    pub fn allocate(&mut self) -> Result<IpAddr, Error> {
        let (next, end) = (self.last + 1, self.end());
        let free = (next..end).chain(FIRST..next.min(end)).find(|n| !self.used.contains(n));
        let n = free.ok_or_else(|| Error::PoolEmpty(self.cidr.to_string()))?;
        self.used.insert(n);
        self.last = n;
        Ok(self.nth(n))
    }

    /// Takes a certain address, as after a restart.
    ///
    /// # Errors
    /// [`Error::Address`] when it is foreign, reserved or taken.
    pub fn claim(&mut self, ip: IpAddr) -> Result<(), Error> {
        let refuse = |why| Err(Error::Address { ip, why });
        if !self.cidr.contains(&ip) {
            return refuse("it is not in the node's pod CIDR");
        }
        let n = number(ip) - number(self.cidr.network());
        if !(FIRST..self.end()).contains(&n) {
            return refuse("it is reserved for the node");
        }
        if !self.used.insert(n) {
            return refuse("it is in use");
        }
        Ok(())
    }

    /// Gives an address back; one that is not out is fine.
    pub fn release(&mut self, ip: IpAddr) {
        if self.cidr.contains(&ip) {
            self.used.remove(&(number(ip) - number(self.cidr.network())));
        }
    }

    /// Offset of the first address behind those a pod may have.
    fn end(&self) -> u128 {
        let host_bits = self.cidr.max_prefix_len() - self.cidr.prefix_len();
        let all = 1u128.checked_shl(host_bits.into()).map_or(u128::MAX, |size| size - 1);
        // The last one is the broadcast address, which IPv6 does not have.
        if self.cidr.addr().is_ipv4() { all } else { all.saturating_add(1) }
    }

    fn nth(&self, n: u128) -> IpAddr {
        let n = number(self.cidr.network()) + n;
        match self.cidr {
            IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(n).expect("it is within the CIDR"))),
            IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(n)),
        }
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// The pools of a node: one for each family it has.
#[derive(Debug, Clone)]
pub struct Pools(Vec<Pool>);

impl Pools {
    /// All of `cidrs` free, which are of different families.
    ///
    /// # Errors
    /// As [`Pool::new`].
    pub fn new(cidrs: impl IntoIterator<Item = IpNet>) -> Result<Self, Error> {
        cidrs.into_iter().map(Pool::new).collect::<Result<_, _>>().map(Self)
    }

    /// The pools, in the order of their CIDRs.
    pub fn iter(&self) -> impl Iterator<Item = &Pool> {
        self.0.iter()
    }

    /// The node's own addresses in the pod network.
    pub fn internal_ips(&self) -> IpPair {
        self.0.iter().map(Pool::internal_ip).collect()
    }

    /// The addresses of the node's health endpoint.
    pub fn health_ips(&self) -> IpPair {
        self.0.iter().map(Pool::health_ip).collect()
    }

    /// The next free address of every family: all of them or none.
    ///
    /// # Errors
    /// [`Error::PoolEmpty`]
    pub fn allocate(&mut self) -> Result<IpPair, Error> {
        let mut taken = vec![];
        for pool in &mut self.0 {
            match pool.allocate() {
                Ok(ip) => taken.push(ip),
                Err(error) => {
                    self.release(&taken.into_iter().collect());
                    return Err(error);
                }
            }
        }
        Ok(taken.into_iter().collect())
    }

    /// Takes certain addresses, as after a restart; those that can be taken, even if another cannot.
    ///
    /// # Errors
    /// [`Error::Address`] of the first that is foreign, reserved or taken.
    pub fn claim(&mut self, ips: &IpPair) -> Result<(), Error> {
        let mut result = Ok(());
        for ip in ips.iter() {
            result = result.and(match self.pool(ip) {
                Some(pool) => pool.claim(ip),
                None => Err(Error::Address { ip, why: "the node has no pod CIDR of its family" }),
            });
        }
        result
    }

    /// Gives addresses back; those that are not out are fine.
    pub fn release(&mut self, ips: &IpPair) {
        for ip in ips.iter() {
            if let Some(pool) = self.pool(ip) {
                pool.release(ip);
            }
        }
    }

    fn pool(&mut self, ip: IpAddr) -> Option<&mut Pool> {
        self.0.iter_mut().find(|pool| pool.cidr.addr().is_ipv6() == ip.is_ipv6())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(cidr: &str) -> Pool {
        Pool::new(cidr.parse().unwrap()).unwrap()
    }

    fn all(pool: &mut Pool) -> Vec<String> {
        std::iter::from_fn(|| pool.allocate().ok()).map(|ip| ip.to_string()).collect()
    }

    #[test]
    fn hands_out_every_pod_address_once() {
        let mut pool = pool("10.1.0.0/29");
        assert_eq!(
            (pool.internal_ip().to_string(), pool.health_ip().to_string()),
            ("10.1.0.1".into(), "10.1.0.2".into())
        );
        assert_eq!(all(&mut pool), ["10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"]);
        assert_eq!(pool.usage(), (4, 4));
        assert!(pool.allocate().unwrap_err().to_string().contains("10.1.0.0/29"));
    }

    #[test]
    fn ipv6_has_no_broadcast_address() {
        let mut small = pool("fd00:1::/125");
        assert_eq!(
            (small.internal_ip().to_string(), small.health_ip().to_string()),
            ("fd00:1::1".into(), "fd00:1::2".into())
        );
        assert_eq!(all(&mut small), ["fd00:1::3", "fd00:1::4", "fd00:1::5", "fd00:1::6", "fd00:1::7"]);
        assert_eq!(small.usage(), (5, 5));
        // As large as they come.
        for cidr in ["fd00:1::/64", "::/0"] {
            let mut large = pool(cidr);
            assert_eq!(large.allocate().unwrap(), large.nth(3), "{cidr}");
            assert!(large.usage().1 > 1 << 63, "{cidr}: {:?}", large.usage());
        }
    }

    #[test]
    fn reuses_as_late_as_possible() {
        for (cidr, others) in [("10.1.0.0/24", 251), ("fd00:1::/120", 252)] {
            let mut pool = pool(cidr);
            let first = pool.allocate().unwrap();
            pool.release(first);
            for _ in 0..others {
                assert_ne!(pool.allocate().unwrap(), first);
            }
            assert_eq!(pool.allocate().unwrap(), first);
        }
    }

    #[test]
    fn claims_only_what_may_be_claimed() {
        let mut small = pool("10.1.0.0/24");
        small.claim("10.1.0.9".parse().unwrap()).unwrap();
        let mut large = pool("fd00:1::/64");
        large.claim("fd00:1::9".parse().unwrap()).unwrap();
        large.claim("fd00:1::ffff:ffff:ffff:ffff".parse().unwrap()).unwrap();
        for (v6, ip, why) in [
            (false, "10.1.0.9", "in use"),
            (false, "10.2.0.9", "not in the node's"),
            (false, "10.1.0.1", "reserved"),
            (false, "10.1.0.255", "reserved"),
            (false, "fd00:1::9", "not in the node's"),
            (true, "fd00:1::9", "in use"),
            (true, "fd00:2::9", "not in the node's"),
            (true, "fd00:1::2", "reserved"),
        ] {
            let pool = if v6 { &mut large } else { &mut small };
            assert!(pool.claim(ip.parse().unwrap()).unwrap_err().to_string().contains(why), "{ip}");
        }
        for tiny in ["10.1.0.0/30", "fd00:1::/126"] {
            assert!(Pool::new(tiny.parse().unwrap()).is_err());
        }
    }

    #[test]
    fn a_pod_gets_an_address_of_every_family_or_none() {
        let mut pools = Pools::new(["10.1.0.0/29", "fd00:1::/64"].map(|c| c.parse().unwrap())).unwrap();
        assert_eq!(pools.internal_ips().to_string(), "10.1.0.1 and fd00:1::1");
        pools.claim(&["10.1.0.4".parse().unwrap()].into_iter().collect()).unwrap();
        let first = pools.allocate().unwrap();
        assert_eq!(first.to_string(), "10.1.0.3 and fd00:1::3");
        while pools.allocate().is_ok() {}
        let used = |pools: &Pools| pools.iter().map(|pool| pool.usage().0).collect::<Vec<_>>();
        assert_eq!(used(&pools), [4, 3], "an address of one family only was given back");
        pools.release(&first);
        assert_eq!(used(&pools), [3, 2]);
        // One that an agent with another configuration has given out.
        let mut single = Pools::new(["10.1.0.0/29".parse().unwrap()]).unwrap();
        assert!(single.claim(&first).unwrap_err().to_string().contains("fd00:1::3"));
        assert_eq!(used(&single), [1]);
    }
}
