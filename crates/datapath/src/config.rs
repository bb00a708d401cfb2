//! What a node's datapath is told at start.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::attach::AttachMode;
use crate::routing::Routing;
use crate::{Balance, Error, IpPair, LbMode};

/// What VXLAN over IPv4 adds to a packet, bytes (behaviours 4.2).
const TUNNEL_OVERHEAD: u32 = 50;
/// The smallest MTU of a link that IPv6 works over, bytes (RFC 8200).
const MIN_MTU_V6: u32 = 1280;

/// What a node's datapath is told at start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where a bpffs is mounted.
    pub bpffs: PathBuf,
    /// The cgroup v2 folder whose processes reach services: the node's root.
    pub cgroup: PathBuf,
    /// Where the records of endpoints are kept.
    pub state_dir: PathBuf,
    /// The node's address on the underlay: the end of tunnels to it.
    pub node_ip: Ipv4Addr,
    /// How packets get to pods of other nodes.
    pub routing: Routing,
    /// Where pods go under their own address, beside the pods and, under native routing, the nodes of all
    /// clusters (`ipv4-native-routing-cidr`, `ipv6-native-routing-cidr`).
    pub native_cidrs: Vec<IpNet>,
    /// The identities of this cluster's pods.
    pub identities: RangeInclusive<u32>,
    /// What the node has of the pod network: one for each family in use, at least one.
    pub networks: Vec<PodNetwork>,
    /// MTU of the underlay, bytes.
    pub underlay_mtu: u32,
    /// How to attach programs; `None` = whichever the kernel has.
    pub attach: Option<AttachMode>,
    /// How services are balanced.
    pub balance: Balance,
}

/// A node's part of the pod network, of one address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodNetwork {
    /// The node's pod CIDR.
    pub cidr: IpNet,
    /// The node's own address in it, which is also its pods' gateway.
    pub internal_ip: IpAddr,
    /// Give pods the node's address when they leave the mesh.
    pub masquerade: bool,
}

impl Config {
    /// The node's own addresses in the pod network.
    pub(crate) fn internal_ips(&self) -> IpPair {
        self.networks.iter().map(|network| network.internal_ip).collect()
    }

    pub(crate) fn has_family_of(&self, ip: IpAddr) -> bool {
        self.internal_ips().like(ip).is_some()
    }

    /// MTU of pods, and of the tunnel device where there is one, bytes.
    pub fn mtu(&self) -> u32 {
        match self.routing {
            Routing::Tunnel => self.underlay_mtu.saturating_sub(TUNNEL_OVERHEAD),
            Routing::Native(_) => self.underlay_mtu,
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::Config(why));
        let of_v6 = |network: &&PodNetwork| network.internal_ip.is_ipv6();
        let v6 = self.networks.iter().filter(of_v6).count();
        if self.networks.is_empty() || v6 > 1 || self.networks.len() - v6 > 1 {
            return refuse("it needs one pod CIDR of each address family that is enabled".into());
        }
        if let Some(network) = self.networks.iter().find(|n| !n.cidr.contains(&n.internal_ip)) {
            return refuse(format!("{} is not in the pod CIDR {}", network.internal_ip, network.cidr));
        }
        if let Some(cidr) = self.native_cidrs.iter().find(|cidr| !self.has_family_of(cidr.addr())) {
            tracing::warn!(%cidr, "a native routing CIDR of a family that is not enabled");
        }
        if self.balance.mode != LbMode::Snat && !self.routing.is_native() {
            return refuse(
                "bpf-lb-mode is dsr or hybrid, and a tunnel cannot tell a backend's node what to answer with; \
                 set routing-mode=native, or bpf-lb-mode=snat"
                    .into(),
            );
        }
        if v6 > 0 && self.mtu() < MIN_MTU_V6 {
            return refuse(format!(
                "an underlay with an MTU of {} leaves {} for pods, and IPv6 needs {MIN_MTU_V6}; raise it, \
                 or set enable-ipv6=false",
                self.underlay_mtu,
                self.mtu()
            ));
        }
        Ok(())
    }
}
