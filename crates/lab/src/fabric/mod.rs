//! The network between the machines of a lab: the VPC, its subnets and routes, and the cloud's load balancers.
//!
//! One network namespace is the VPC. Each subnet is a bridge with the gateway's address, to which the machines (nodes and
//! API servers, each a namespace of its own) are connected by a veth pair; the kernel routes between bridges. The
//! supervisor builds it ([`Fabric`]); the process `causeway lab fabric` answers at load-balancer addresses ([`forward`]).

pub mod forward;
pub mod lb;
pub mod rules;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::address::AddressHeaderFlags;
use rtnetlink::{AddressAddRequest, Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::runtime::{NetNs, Result};
use crate::topology::Plan;
use crate::topology::plan::{ClusterPlan, NodePlan, SubnetPlan};

/// The VPC of a lab.
#[derive(Debug)]
pub struct Fabric {
    netns: NetNs,
    /// The gateways of each subnet, with the subnet's prefix length: IPv4, and IPv6 if it has it.
    subnets: Vec<Vec<IpNet>>,
}

/// Name of a subnet's bridge in the fabric's namespace.
pub fn bridge(subnet: usize) -> String {
    format!("br{subnet}")
}

/// Name of the fabric's end of the link to a node, which is the n-th of its cluster.
pub fn node_port(cluster: &ClusterPlan, n: usize) -> String {
    format!("c{}n{n}", cluster.id)
}

/// Pulls the plug of a machine, or puts it in again. `netns` is the fabric's, `port` its end of the link.
///
/// # Errors
/// If the kernel refuses.
pub fn plug(netns: &NetNs, port: &str, on: bool) -> Result<()> {
    netns.netlink(async |handle| {
        let link = LinkUnspec::new_with_index(index_of(&handle, port).await?);
        handle.link().set(if on { link.up() } else { link.down() }.build()).execute().await
    })
}

impl Fabric {
    /// Creates the VPC: a bridge per subnet, routing, and refusal between subnets without a route.
    ///
    /// # Errors
    /// If the kernel refuses a link, an address or a rule.
    pub fn create(plan: &Plan) -> Result<Fabric> {
        let netns = NetNs::create()?;
        netns.sysctl(&[
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
        ])?;
        if plan.subnets.iter().any(|subnet| subnet.cidr_v6.is_some()) {
            netns.sysctl(&[("ipv6/conf/all/forwarding", "1")])?;
        }
        let subnets: Vec<Vec<IpNet>> = plan.subnets.iter().map(gateways).collect();
        netns.netlink(async |handle| {
            for (i, gateways) in subnets.iter().enumerate() {
                handle.link().add(LinkBridge::new(&bridge(i)).up().build()).execute().await?;
                let index = index_of(&handle, &bridge(i)).await?;
                for gateway in gateways {
                    add_address(&handle, index, *gateway).execute().await?;
                }
            }
            Ok(())
        })?;
        rules::prepare(&netns, plan)?;
        Ok(Fabric { netns, subnets })
    }

    /// Its namespace.
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Connects a machine: its `eth0` gets the addresses, its default routes lead to the subnet's gateways of their
    /// families. `port` is the name of the other end, at most 15 characters, unique in the fabric.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn connect(&self, machine: &NetNs, subnet: usize, port: &str, addresses: &[IpAddr]) -> Result<()> {
        let gateway = |ip: &IpAddr| {
            let same = |gateway: &&IpNet| gateway.addr().is_ipv6() == ip.is_ipv6();
            Some((*ip, *self.subnets[subnet].iter().find(same)?))
        };
        let ways: Vec<(IpAddr, IpNet)> = addresses.iter().filter_map(gateway).collect();
        // Both ends need names that are free here until one of them has left.
        let leaving = format!("x{port}");
        self.netns.netlink(async |handle| {
            handle.link().add(LinkVeth::new(port, &leaving).build()).execute().await?;
            let controller = index_of(&handle, &bridge(subnet)).await?;
            let inner = index_of(&handle, port).await?;
            let joined = LinkUnspec::new_with_index(inner).controller(controller).up().build();
            handle.link().set(joined).execute().await?;
            let outer = index_of(&handle, &leaving).await?;
            let moved = LinkUnspec::new_with_index(outer).setns_by_fd(machine.raw()).build();
            handle.link().set(moved).execute().await
        })?;
        machine.netlink(async |handle| {
            let index = index_of(&handle, &leaving).await?;
            handle.link().set(LinkUnspec::new_with_index(index).name("eth0").build()).execute().await?;
            handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await?;
            for (ip, gateway) in &ways {
                let address = IpNet::new_assert(*ip, gateway.prefix_len());
                add_address(&handle, index, address).execute().await?;
                let default = match gateway.addr() {
                    IpAddr::V4(ip) => RouteMessageBuilder::<Ipv4Addr>::new().gateway(ip).build(),
                    IpAddr::V6(ip) => RouteMessageBuilder::<Ipv6Addr>::new().gateway(ip).build(),
                };
                handle.route().add(default).execute().await?;
            }
            Ok(())
        })
    }
}

impl Fabric {
    /// Sends what is for a node's planned pod CIDRs to the node, which is connected.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn route_pods(&self, node: &NodePlan) -> Result<()> {
        self.netns.netlink(async |handle| {
            for cidr in &node.pod_cidrs {
                let route = match (cidr, node.address_v6) {
                    (IpNet::V4(cidr), _) => RouteMessageBuilder::<Ipv4Addr>::new()
                        .destination_prefix(cidr.addr(), cidr.prefix_len())
                        .gateway(node.address)
                        .build(),
                    (IpNet::V6(cidr), Some(address)) => RouteMessageBuilder::<Ipv6Addr>::new()
                        .destination_prefix(cidr.addr(), cidr.prefix_len())
                        .gateway(address)
                        .build(),
                    (IpNet::V6(_), None) => continue,
                };
                handle.route().add(route).execute().await?;
            }
            Ok(())
        })
    }
}

fn gateways(subnet: &SubnetPlan) -> Vec<IpNet> {
    let v4 = IpNet::new_assert(subnet.gateway.into(), subnet.cidr.prefix_len());
    let v6 = subnet.gateway_v6().zip(subnet.cidr_v6);
    let v6 = v6.map(|(ip, cidr)| IpNet::new_assert(ip.into(), cidr.prefix_len()));
    [v4].into_iter().chain(v6).collect()
}

/// An address that can be used at once: the plan gives none twice, so nobody has to be asked.
fn add_address(handle: &Handle, index: u32, address: IpNet) -> AddressAddRequest {
    let mut request = handle.address().add(index, address.addr(), address.prefix_len());
    if address.addr().is_ipv6() {
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    }
    request
}

/// Index of a link by its name in a handle's namespace.
pub(crate) async fn index_of(
    handle: &rtnetlink::Handle,
    name: &str,
) -> std::result::Result<u32, rtnetlink::Error> {
    use futures::TryStreamExt;
    let mut links = handle.link().get().match_name(name.to_string()).execute();
    match links.try_next().await? {
        Some(link) => Ok(link.header.index),
        None => Err(rtnetlink::Error::RequestFailed),
    }
}
