//! Pod addresses of this node, out of its pod CIDR. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use crate::Error;

/// The addresses of one IPv4 pod CIDR. Its first usable address is the node's own
/// (CiliumInternalIP), the second its health endpoint's; network and broadcast address are never
/// given out. Addresses are handed out in turn, so that a freed one is reused as late as possible.
#[derive(Debug, Clone)]
pub struct Pool {
    cidr: Ipv4Net,
    used: BTreeSet<Ipv4Addr>,
    last: Ipv4Addr,
}

impl Pool {
    /// All of `cidr` free.
    ///
    /// # Errors
    /// [`Error::PoolEmpty`] when it is too small to hold a single pod (longer than /29).
    pub fn new(cidr: Ipv4Net) -> Result<Self, Error> {
        let cidr = cidr.trunc();
        if cidr.prefix_len() > 29 {
            return Err(Error::PoolEmpty(cidr.to_string()));
        }
        let mut pool = Self { cidr, used: BTreeSet::new(), last: cidr.network() };
        pool.last = pool.health_ip();
        Ok(pool)
    }

    /// The node's own address in the pod network.
    pub fn internal_ip(&self) -> Ipv4Addr {
        self.nth(1)
    }

    /// The address of the node's health endpoint.
    pub fn health_ip(&self) -> Ipv4Addr {
        self.nth(2)
    }

    /// The CIDR.
    pub fn cidr(&self) -> Ipv4Net {
        self.cidr
    }

    /// How many addresses are given out, and how many there are.
    pub fn usage(&self) -> (usize, usize) {
        (self.used.len(), (u32::from(self.cidr.broadcast()) - u32::from(self.health_ip()) - 1) as usize)
    }

    /// The next free address.
    ///
    /// # Errors
    /// [`Error::PoolEmpty`]
    pub fn allocate(&mut self) -> Result<Ipv4Addr, Error> {
        let (first, end) = (u32::from(self.nth(3)), u32::from(self.cidr.broadcast()));
        let next = u32::from(self.last) + 1;
        let free =
            (next..end).chain(first..next.min(end)).map(Ipv4Addr::from).find(|ip| !self.used.contains(ip));
        let ip = free.ok_or_else(|| Error::PoolEmpty(self.cidr.to_string()))?;
        self.used.insert(ip);
        self.last = ip;
        Ok(ip)
    }

    /// Takes a certain address, as after a restart.
    ///
    /// # Errors
    /// [`Error::Address`] when it is foreign, reserved or taken.
    pub fn claim(&mut self, ip: Ipv4Addr) -> Result<(), Error> {
        let refuse = |why| Err(Error::Address { ip: IpAddr::V4(ip), why });
        if !self.cidr.contains(&ip) {
            return refuse("it is not in the node's pod CIDR");
        }
        if ip < self.nth(3) || ip == self.cidr.broadcast() {
            return refuse("it is reserved for the node");
        }
        if !self.used.insert(ip) {
            return refuse("it is in use");
        }
        Ok(())
    }

    /// Gives an address back; one that is not out is fine.
    pub fn release(&mut self, ip: Ipv4Addr) {
        self.used.remove(&ip);
    }

    fn nth(&self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.cidr.network()) + n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(cidr: &str) -> Pool {
        Pool::new(cidr.parse().unwrap()).unwrap()
    }

    #[test]
    fn hands_out_every_pod_address_once() {
        let mut pool = pool("10.1.0.0/29");
        assert_eq!(
            (pool.internal_ip().to_string(), pool.health_ip().to_string()),
            ("10.1.0.1".into(), "10.1.0.2".into())
        );
        let all: Vec<String> = std::iter::from_fn(|| pool.allocate().ok()).map(|ip| ip.to_string()).collect();
        assert_eq!(all, ["10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"]);
        assert_eq!(pool.usage(), (4, 4));
        assert!(pool.allocate().unwrap_err().to_string().contains("10.1.0.0/29"));
    }

    #[test]
    fn reuses_as_late_as_possible() {
        let mut pool = pool("10.1.0.0/24");
        let first = pool.allocate().unwrap();
        pool.release(first);
        for _ in 0..251 {
            assert_ne!(pool.allocate().unwrap(), first);
        }
        assert_eq!(pool.allocate().unwrap(), first);
    }

    #[test]
    fn claims_only_what_may_be_claimed() {
        let mut pool = pool("10.1.0.0/24");
        pool.claim("10.1.0.9".parse().unwrap()).unwrap();
        for (ip, why) in [
            ("10.1.0.9", "in use"),
            ("10.2.0.9", "not in the node's"),
            ("10.1.0.1", "reserved"),
            ("10.1.0.255", "reserved"),
        ] {
            assert!(pool.claim(ip.parse().unwrap()).unwrap_err().to_string().contains(why), "{ip}");
        }
        assert!(Pool::new("10.1.0.0/30".parse().unwrap()).is_err());
    }
}
