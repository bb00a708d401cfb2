//! Routes of the main table that lead on by another node, and what the kernel would do without them.

use std::net::IpAddr;

use futures::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::RouteMessageBuilder;

use super::{Netlink, errno, failed, unfit};
use crate::Error;

/// The number by which routes are known to be ours (`proto 202` of `ip route`); nobody else has it.
const OURS: RouteProtocol = RouteProtocol::Other(202);

/// A route of the main table.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) to: IpNet,
    pub(crate) gateway: Option<IpAddr>,
    /// Set by this or an earlier agent as a way to another node.
    pub(crate) ours: bool,
    pub(crate) message: RouteMessage,
}

impl Route {
    /// Whether it leaves by this interface.
    pub(crate) fn is_by(&self, index: u32) -> bool {
        self.message.attributes.contains(&RouteAttribute::Oif(index))
    }
}

/// Where a packet to an address would go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Straight to it, by this interface.
    Direct(u32),
    /// By a router.
    Router(IpAddr),
    /// It is an address of this node, or there is no route.
    Nowhere,
}

impl Netlink {
    /// All routes of the main table.
    pub(crate) async fn main_routes(&self) -> Result<Vec<Route>, Error> {
        // Of no family: all of them.
        let query = RouteMessageBuilder::<IpAddr>::new().build();
        let routes = self.0.route().get(query).execute().try_collect::<Vec<RouteMessage>>().await;
        let routes = routes.map_err(|e| failed("list routes".into(), e))?;
        let main = |route: &RouteMessage| route.header.table == RouteHeader::RT_TABLE_MAIN;
        let read = |message: RouteMessage| {
            let to = address(&message, |a| match a {
                RouteAttribute::Destination(to) => Some(to),
                _ => None,
            })?;
            let to = IpNet::new(to, message.header.destination_prefix_length).ok()?;
            let gateway = gateway(&message);
            Some(Route { to, gateway, ours: message.header.protocol == OURS, message })
        };
        Ok(routes.into_iter().filter(main).filter_map(read).collect())
    }

    /// Where a packet of the node's own to an address would go.
    pub(crate) async fn way(&self, to: IpAddr) -> Result<Way, Error> {
        let query = RouteMessageBuilder::<IpAddr>::new().destination_prefix(to, IpNet::from(to).prefix_len());
        let query = query.map_err(|e| unfit(format!("look up the route to {to}"), e))?.build();
        let route = match self.0.route().get(query).execute().try_next().await {
            Ok(route) => route,
            Err(error) if matches!(errno(&error), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => None,
            Err(error) => return Err(failed(format!("look up the route to {to}"), error)),
        };
        let Some(route) = route.filter(|route| route.header.kind == RouteType::Unicast) else {
            return Ok(Way::Nowhere);
        };
        let by = route.attributes.iter().find_map(|a| match a {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        });
        Ok(match (gateway(&route), by) {
            // The kernel may name the destination itself as its gateway.
            (Some(gateway), _) if gateway != to => Way::Router(gateway),
            (_, Some(index)) => Way::Direct(index),
            (_, None) => Way::Nowhere,
        })
    }

    /// A route of ours to what is behind another node, in place of one of ours.
    pub(crate) async fn route_by_node(&self, to: IpNet, node: IpAddr, index: u32) -> Result<(), Error> {
        let what = || format!("set the route to {to} by {node}");
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(to.trunc().addr(), to.prefix_len())
            .and_then(|route| route.gateway(node))
            .map_err(|e| unfit(what(), e))?
            .output_interface(index)
            .protocol(OURS)
            .build();
        let request = self.0.route().add(route).replace();
        request.execute().await.map_err(|e| failed(what(), e))
    }
}

fn gateway(route: &RouteMessage) -> Option<IpAddr> {
    address(route, |a| match a {
        RouteAttribute::Gateway(gateway) => Some(gateway),
        _ => None,
    })
}

fn address(route: &RouteMessage, find: impl Fn(&RouteAttribute) -> Option<&RouteAddress>) -> Option<IpAddr> {
    match route.attributes.iter().find_map(find)? {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}
