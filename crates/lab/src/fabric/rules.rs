//! Which traffic the VPC refuses: between subnets without a route, and on a control-plane link that was cut.
//!
//! Both are policy rules of the kernel's routing, looked up before the table of local addresses, because load-balancer
//! addresses are local to the fabric. A refused packet of a cut link vanishes, as on a real one; established connections
//! notice too, since a change of rules drops all cached routes.

use std::net::Ipv4Addr;

use futures::TryStreamExt;
use ipnet::{IpNet, Ipv4Net, Ipv4Subnets};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange};
use netlink_packet_route::{AddressFamily, IpProtocol};

use crate::runtime::{NetNs, Result};
use crate::topology::Plan;
use crate::topology::plan::ClusterPlan;

/// Port of `clustermesh-apiserver`: what "the control-plane link" is.
pub const CONTROL_PLANE_PORT: u16 = 2379;

const UNROUTED: u32 = 100;
const CUT: u32 = 200;
const LOCAL: u32 = 1000;
/// The kernel's table of local addresses (RT_TABLE_LOCAL).
const LOCAL_TABLE: u32 = 255;

/// Something that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refusal {
    priority: u32,
    from: IpNet,
    to: IpNet,
    port: Option<u16>,
}

/// Orders the rules of a new fabric and refuses what its plan does not route.
pub(super) fn prepare(netns: &NetNs, plan: &Plan) -> Result<()> {
    let refusal = |from, to| Refusal { priority: UNROUTED, from, to, port: None };
    let refusals: Vec<_> = plan
        .unrouted
        .iter()
        .flat_map(|(a, b)| [(*a, *b), (*b, *a)])
        .map(|(a, b)| (&plan.subnets[a], &plan.subnets[b]))
        .flat_map(|(a, b)| {
            let v6 = a.cidr_v6.zip(b.cidr_v6).map(|(a, b)| refusal(a.into(), b.into()));
            [refusal(a.cidr.into(), b.cidr.into())].into_iter().chain(v6)
        })
        .collect();
    netns.netlink(async |handle| {
        let local = handle.rule().add().v4().action(RuleAction::ToTable);
        local.table_id(LOCAL_TABLE).priority(LOCAL).execute().await?;
        let mut first = RuleMessage::default();
        first.header.family = AddressFamily::Inet;
        first.header.action = RuleAction::ToTable;
        first.attributes.push(RuleAttribute::Priority(0));
        handle.rule().del(first).execute().await?;
        for refusal in &refusals {
            add(&handle, refusal).await?;
        }
        Ok(())
    })
}

/// Cuts the control-plane link between two clusters: no packet of one's machines reaches the other's load balancers at
/// [`CONTROL_PLANE_PORT`]. Harmless if it is cut. `netns` is the fabric's.
///
/// # Errors
/// If the kernel refuses.
pub fn cut(netns: &NetNs, plan: &Plan, a: &ClusterPlan, b: &ClusterPlan) -> Result<()> {
    let refusals = link(plan, a, b);
    netns.netlink(async |handle| {
        for refusal in &refusals {
            match add(&handle, refusal).await {
                Err(e) if code(&e) == libc::EEXIST => {}
                other => other?,
            }
        }
        Ok(())
    })
}

/// Restores what [`cut`] cut. Harmless if it is whole.
///
/// # Errors
/// If the kernel refuses.
pub fn restore(netns: &NetNs, plan: &Plan, a: &ClusterPlan, b: &ClusterPlan) -> Result<()> {
    let refusals = link(plan, a, b);
    netns.netlink(async |handle| {
        for refusal in &refusals {
            match handle.rule().del(message(refusal)).execute().await {
                Err(e) if code(&e) == libc::ENOENT => {}
                other => other?,
            }
        }
        Ok(())
    })
}

/// Whether the link between two clusters is cut.
///
/// # Errors
/// If the rules cannot be read.
pub fn is_cut(netns: &NetNs, plan: &Plan, a: &ClusterPlan, b: &ClusterPlan) -> Result<bool> {
    let Some(probe) = link(plan, a, b).into_iter().next() else { return Ok(false) };
    netns.netlink(async |handle| {
        let mut rules = handle.rule().get(rtnetlink::IpVersion::V4).execute();
        while let Some(rule) = rules.try_next().await? {
            let has = |a: &RuleAttribute| rule.attributes.contains(a);
            if has(&RuleAttribute::Priority(probe.priority))
                && has(&RuleAttribute::Source(probe.from.addr()))
                && has(&RuleAttribute::Destination(probe.to.addr()))
            {
                return Ok(true);
            }
        }
        Ok(false)
    })
}

fn code(error: &rtnetlink::Error) -> i32 {
    match error {
        rtnetlink::Error::NetlinkError(message) => -message.raw_code(),
        _ => 0,
    }
}

async fn add(handle: &rtnetlink::Handle, refusal: &Refusal) -> std::result::Result<(), rtnetlink::Error> {
    let mut request = handle.rule().add();
    *request.message_mut() = message(refusal);
    request.execute().await
}

fn message(refusal: &Refusal) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = match refusal.from {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    // An unroutable address is answered as such; a cut link is silent.
    message.header.action =
        if refusal.port.is_some() { RuleAction::Blackhole } else { RuleAction::Unreachable };
    message.header.src_len = refusal.from.prefix_len();
    message.header.dst_len = refusal.to.prefix_len();
    message.attributes = vec![
        RuleAttribute::Priority(refusal.priority),
        RuleAttribute::Source(refusal.from.addr()),
        RuleAttribute::Destination(refusal.to.addr()),
    ];
    if let Some(port) = refusal.port {
        message.attributes.push(RuleAttribute::IpProtocol(IpProtocol::Tcp));
        let range = RulePortRange { start: port, end: port };
        message.attributes.push(RuleAttribute::DestinationPortRange(range));
    }
    message
}

/// Machines of each of two clusters against the load-balancer addresses of the other.
fn link(plan: &Plan, a: &ClusterPlan, b: &ClusterPlan) -> Vec<Refusal> {
    debug_assert!(plan.clusters.contains(a) && plan.clusters.contains(b));
    let mut all = Vec::new();
    for (from, to) in [(a, b), (b, a)] {
        for machine in machines(from) {
            for range in balancers(to) {
                let (from, to) = (Ipv4Net::from(machine).into(), range.into());
                all.push(Refusal { priority: CUT, from, to, port: Some(CONTROL_PLANE_PORT) });
            }
        }
    }
    all
}

fn machines(cluster: &ClusterPlan) -> impl Iterator<Item = Ipv4Addr> {
    cluster.nodes.iter().map(|n| n.address).chain([cluster.api_server])
}

fn balancers(cluster: &ClusterPlan) -> Vec<Ipv4Net> {
    let pools = cluster.pools.values().chain([&cluster.public_pool]);
    pools.flat_map(|p| Ipv4Subnets::new(p.first, p.last, 0)).collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::topology::Topology;

    #[test]
    fn a_cut_covers_every_balancer_address_of_the_other_cluster_and_no_other() {
        let plan = Plan::new(&Topology::default());
        let (a, b) = (&plan.clusters[0], &plan.clusters[1]);
        let refusals = link(&plan, a, b);
        let refused = |from: Ipv4Addr, to: Ipv4Addr| {
            refusals.iter().any(|r| r.from.contains(&IpAddr::V4(from)) && r.to.contains(&IpAddr::V4(to)))
        };
        for (from, to) in [(a, b), (b, a)] {
            for machine in machines(from) {
                for pool in to.pools.values().chain([&to.public_pool]) {
                    assert!(pool.addresses().all(|vip| refused(machine, vip)));
                }
                for pool in from.pools.values() {
                    assert!(pool.addresses().all(|vip| !refused(machine, vip)));
                }
            }
        }
    }
}
