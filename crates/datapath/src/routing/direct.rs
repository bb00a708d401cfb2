//! What has to be done about routes by other nodes, decided from what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::netlink::{Route, Way};

/// The routes as they should be: by the address of the node that has the pod CIDR.
pub(super) type Wanted = BTreeMap<IpNet, Option<IpAddr>>;

/// What to do, and what cannot be done.
#[derive(Debug, Default)]
pub(super) struct Plan<'a> {
    /// To set, with the node's address and the interface to it.
    pub(super) set: Vec<(IpNet, IpAddr, u32)>,
    /// Those of ours that nobody wants any more.
    pub(super) remove: Vec<&'a Route>,
    /// Pod CIDRs that cannot be reached by their node's address, and why.
    pub(super) unreachable: BTreeMap<IpNet, String>,
}

/// Compares. Of those that are wanted only the `checked` are looked at, to whose nodes the `ways` are
/// known. Where somebody else has a route to a pod CIDR, that is left and counts.
pub(super) fn plan<'a>(
    there: &'a [Route],
    wanted: &Wanted,
    checked: &BTreeSet<IpNet>,
    ways: &BTreeMap<IpAddr, Way>,
) -> Plan<'a> {
    let mut plan = Plan::default();
    let mut by_cidr: BTreeMap<IpNet, Vec<&Route>> = BTreeMap::new();
    there.iter().for_each(|route| by_cidr.entry(route.to).or_default().push(route));
    let has = |cidr: &IpNet, which: &dyn Fn(&Route) -> bool| {
        by_cidr.get(cidr).is_some_and(|routes| routes.iter().any(|route| which(route)))
    };
    let is_of_others = |cidr: &IpNet| has(cidr, &|route| !route.ours);
    for (cidr, node) in wanted.iter().filter(|(cidr, _)| checked.contains(cidr)) {
        if is_of_others(cidr) {
            continue;
        }
        let Some(node) = node else {
            plan.unreachable.insert(*cidr, "its node has no address of this family".into());
            continue;
        };
        match ways.get(node) {
            Some(Way::Direct(index)) => {
                if !has(cidr, &|route| route.gateway == Some(*node) && route.is_by(*index)) {
                    plan.set.push((*cidr, *node, *index));
                }
            }
            Some(Way::Router(router)) => {
                let why = format!("its node {node} is not on a network of this node but behind {router}");
                plan.unreachable.insert(*cidr, why);
            }
            Some(Way::Nowhere) | None => {
                plan.unreachable.insert(*cidr, format!("there is no route to its node {node}"));
            }
        }
    }
    let is_wanted =
        |route: &Route| wanted.contains_key(&route.to) && !plan.unreachable.contains_key(&route.to);
    // A route of ours beside one of somebody else's is one too many.
    let unwanted = |route: &&Route| route.ours && (!is_wanted(route) || is_of_others(&route.to));
    plan.remove = there.iter().filter(unwanted).collect();
    plan
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::route::{RouteAttribute, RouteMessage};

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn route(to: &str, gateway: &str, ours: bool) -> Route {
        let mut message = RouteMessage::default();
        message.attributes.push(RouteAttribute::Oif(2));
        Route { to: net(to), gateway: Some(ip(gateway)), ours, message }
    }

    #[test]
    fn routes_lead_by_neighbours_only_and_those_of_others_stay() {
        let there = [
            route("10.2.0.0/24", "172.31.0.2", true),
            route("10.3.0.0/24", "172.31.0.9", true),
            route("10.4.0.0/24", "172.31.0.4", false),
            route("10.9.0.0/24", "172.31.0.9", true),
            route("10.8.0.0/24", "172.31.0.8", false),
        ];
        let wanted: Wanted = [
            ("10.2.0.0/24", Some("172.31.0.2")),
            ("10.3.0.0/24", Some("172.31.0.3")),
            ("10.4.0.0/24", Some("172.31.0.44")),
            ("10.5.0.0/24", Some("172.32.0.5")),
            ("10.6.0.0/24", Some("192.0.2.6")),
            ("fd00:2::/64", None),
        ]
        .into_iter()
        .map(|(to, node)| (net(to), node.map(ip)))
        .collect();
        let ways = BTreeMap::from([
            (ip("172.31.0.2"), Way::Direct(2)),
            (ip("172.31.0.3"), Way::Direct(2)),
            (ip("172.31.0.44"), Way::Direct(2)),
            (ip("172.32.0.5"), Way::Router(ip("172.31.0.1"))),
            (ip("192.0.2.6"), Way::Nowhere),
        ]);
        let all = wanted.keys().copied().collect();
        let nothing = plan(&there[..3], &wanted, &BTreeSet::new(), &ways);
        assert!(nothing.set.is_empty() && nothing.remove.is_empty(), "none is looked at: {nothing:?}");
        let plan = plan(&there, &wanted, &all, &ways);
        assert_eq!(plan.set, [(net("10.3.0.0/24"), ip("172.31.0.3"), 2)], "one has moved");
        let removed: Vec<_> = plan.remove.iter().map(|route| route.to.to_string()).collect();
        assert_eq!(removed, ["10.9.0.0/24"]);
        let unreachable: Vec<_> = plan.unreachable.keys().map(ToString::to_string).collect();
        assert_eq!(unreachable, ["10.5.0.0/24", "10.6.0.0/24", "fd00:2::/64"]);
        assert!(plan.unreachable[&net("10.5.0.0/24")].contains("behind 172.31.0.1"));
    }

    #[test]
    fn one_of_ours_goes_when_its_node_is_no_neighbour_any_more_or_somebody_else_has_one() {
        let there = [
            route("10.2.0.0/24", "172.31.0.2", true),
            route("10.3.0.0/24", "172.31.0.3", true),
            route("10.3.0.0/24", "172.31.0.1", false),
        ];
        let wanted = Wanted::from([(net("10.2.0.0/24"), Some(ip("172.31.0.2"))), (net("10.3.0.0/24"), None)]);
        let ways = BTreeMap::from([(ip("172.31.0.2"), Way::Nowhere)]);
        let plan = plan(&there, &wanted, &wanted.keys().copied().collect(), &ways);
        assert!(plan.set.is_empty());
        assert_eq!(plan.remove.iter().map(|r| r.to).collect::<Vec<_>>(), [there[0].to, there[1].to]);
    }
}
