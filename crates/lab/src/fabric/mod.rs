//! The network between the machines of a lab: the VPC, its subnets and routes, and the cloud's load balancers.
//!
//! One network namespace is the VPC. Each subnet is a bridge with the gateway's address, to which the machines (nodes and
//! API servers, each a namespace of its own) are connected by a veth pair; the kernel routes between bridges. The
//! supervisor builds it ([`Fabric`]); the process `causeway lab fabric` answers at load-balancer addresses ([`forward`]).

pub mod forward;
pub mod lb;
pub mod rules;

use std::net::Ipv4Addr;

use rtnetlink::{LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::runtime::{NetNs, Result};
use crate::topology::Plan;

/// The VPC of a lab.
#[derive(Debug)]
pub struct Fabric {
    netns: NetNs,
    /// Prefix length of each subnet and its gateway.
    subnets: Vec<(u8, Ipv4Addr)>,
}

/// Name of a subnet's bridge in the fabric's namespace.
pub fn bridge(subnet: usize) -> String {
    format!("br{subnet}")
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
        let subnets: Vec<_> = plan.subnets.iter().map(|s| (s.cidr.prefix_len(), s.gateway)).collect();
        netns.netlink(async |handle| {
            for (i, (prefix, gateway)) in subnets.iter().enumerate() {
                handle.link().add(LinkBridge::new(&bridge(i)).up().build()).execute().await?;
                let index = index_of(&handle, &bridge(i)).await?;
                handle.address().add(index, (*gateway).into(), *prefix).execute().await?;
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

    /// Connects a machine: its `eth0` gets the address, its default route leads to the subnet's gateway. `port` is the name
    /// of the other end, at most 15 characters, unique in the fabric.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn connect(&self, machine: &NetNs, subnet: usize, port: &str, address: Ipv4Addr) -> Result<()> {
        let (prefix, gateway) = self.subnets[subnet];
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
            handle.address().add(index, address.into(), prefix).execute().await?;
            handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await?;
            let default = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
            handle.route().add(default).execute().await
        })
    }
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
