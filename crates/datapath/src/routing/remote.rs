//! The routes to the pods of other nodes, and which of them are in the kernel.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{NodeRoutes, RemoteNodes, Routing, direct};
use crate::netlink::{self, Netlink, Way};
use crate::{Error, IpPair, masquerade};

/// The single writer of the routes to pods of other nodes.
#[derive(Debug)]
pub(crate) struct Routes {
    routing: Routing,
    /// The tunnel device; under native routing nothing is sent by it.
    device: u32,
    /// The node's addresses in the pod network: sources of what goes through the tunnel.
    sources: IpPair,
    /// What is in force; `None` = not known: by an earlier process, or after an error.
    known: Option<RemoteNodes>,
    /// What an earlier process has exempted from masquerading, until everything is known. With a tunnel
    /// the routes into it say it.
    inherited: BTreeSet<IpNet>,
    unreachable: BTreeMap<IpNet, String>,
    /// All routes are to be compared with the kernel's.
    recheck: bool,
}

impl Routes {
    pub(crate) fn new(routing: Routing, device: u32, sources: IpPair) -> Self {
        Self {
            routing,
            device,
            sources,
            known: None,
            inherited: BTreeSet::new(),
            unreachable: BTreeMap::new(),
            recheck: false,
        }
    }

    /// Pod CIDRs whose node cannot be their gateway, and why.
    pub(crate) fn unreachable(&self) -> &BTreeMap<IpNet, String> {
        &self.unreachable
    }

    /// Makes the routes those to `wanted`; what is beyond stays while more may be to come (not
    /// `complete`). True if what is behind other nodes has changed.
    pub(crate) fn set(&mut self, mut wanted: RemoteNodes, complete: bool) -> Result<bool, Error> {
        let sources = self.sources;
        wanted.pod_cidrs.retain(|cidr, _| sources.like(cidr.addr()).is_some());
        wanted.addresses.retain(|ip| self.routing.is_native() && sources.like(*ip).is_some());
        let before = self.known.take();
        let first = before.is_none();
        let all = first || std::mem::take(&mut self.recheck);
        let known = match before {
            Some(known) => known,
            None => self.found()?,
        };
        if !complete {
            for (cidr, node) in &known.pod_cidrs {
                wanted.pod_cidrs.entry(*cidr).or_insert(*node);
            }
        }
        let inherited = complete && !std::mem::take(&mut self.inherited).is_empty();
        match self.routing {
            Routing::Tunnel if all || known.pod_cidrs != wanted.pod_cidrs => {
                self.by_tunnel(&known, &wanted, all)?;
            }
            Routing::Native(NodeRoutes::Direct | NodeRoutes::DirectWherePossible)
                if all || known.pod_cidrs != wanted.pod_cidrs =>
            {
                self.by_nodes(&known, &wanted, all)?;
            }
            Routing::Tunnel | Routing::Native(_) => {}
        }
        let changed = first || inherited || known != wanted;
        self.known = Some(wanted);
        Ok(changed)
    }

    /// What is not masqueraded: all pods, and under native routing nodes too, who know the way back.
    pub(crate) fn exempt(&self) -> BTreeSet<IpNet> {
        let known = self.known.iter();
        let nodes = known.clone().filter(|_| self.routing.is_native()).flat_map(|known| &known.addresses);
        let pods = known.flat_map(|known| known.pod_cidrs.keys());
        pods.copied().chain(nodes.copied().map(IpNet::from)).chain(self.inherited.iter().copied()).collect()
    }

    /// The next call compares all routes with the kernel's: some may have gone with a link that was down.
    pub(crate) fn recheck(&mut self) {
        self.recheck = true;
    }

    /// The next call begins anew: what was wanted is not in force.
    pub(crate) fn forget(&mut self) {
        self.known = None;
    }

    /// What an earlier process has set.
    fn found(&mut self) -> Result<RemoteNodes, Error> {
        let device = self.device;
        if !self.routing.is_native() {
            let routes = netlink::run(None, async |host| host.routes_by(device).await)?;
            return Ok(routes.into_iter().map(|(to, _)| to).collect());
        }
        self.inherited = masquerade::exempt();
        let routes = netlink::run(None, async |host| host.main_routes().await)?;
        let ours = routes.into_iter().filter(|route| route.ours);
        Ok(RemoteNodes {
            pod_cidrs: ours.map(|route| (route.to, route.gateway)).collect(),
            ..RemoteNodes::default()
        })
    }

    /// What is new, or `all`.
    fn by_tunnel(&self, known: &RemoteNodes, wanted: &RemoteNodes, all: bool) -> Result<(), Error> {
        let (device, sources) = (self.device, self.sources);
        let gone: BTreeSet<_> =
            known.pod_cidrs.keys().filter(|cidr| !wanted.pod_cidrs.contains_key(*cidr)).copied().collect();
        let new = wanted.pod_cidrs.keys().filter(|cidr| all || !known.pod_cidrs.contains_key(*cidr));
        netlink::run(None, async |host| {
            let routes = if gone.is_empty() { vec![] } else { host.routes_by(device).await? };
            for (_, route) in routes.into_iter().filter(|(to, _)| gone.contains(to)) {
                host.delete_route(route).await?;
            }
            for cidr in new {
                host.route(*cidr, device, sources.like(cidr.addr())).await?;
            }
            Ok(())
        })
    }

    /// Looks at what is new, or `all`.
    fn by_nodes(&mut self, known: &RemoteNodes, wanted: &RemoteNodes, all: bool) -> Result<(), Error> {
        let differs = |(cidr, node): &(&IpNet, &Option<IpAddr>)| known.pod_cidrs.get(*cidr) != Some(*node);
        let checked: BTreeSet<IpNet> =
            wanted.pod_cidrs.iter().filter(|route| all || differs(route)).map(|(cidr, _)| *cidr).collect();
        let unreachable = netlink::run(None, async |host| {
            let mut ways: BTreeMap<IpAddr, Way> = BTreeMap::new();
            for node in checked.iter().filter_map(|cidr| wanted.pod_cidrs[cidr]) {
                if let Entry::Vacant(way) = ways.entry(node) {
                    way.insert(host.way(node).await?);
                }
            }
            let there = host.main_routes().await?;
            let plan = direct::plan(&there, &wanted.pod_cidrs, &checked, &ways);
            for route in plan.remove {
                host.delete_route(route.message.clone()).await?;
            }
            for (cidr, node, index) in plan.set {
                host.route_by_node(cidr, node, index).await?;
            }
            Ok(plan.unreachable)
        })?;
        if self.routing == Routing::Native(NodeRoutes::Direct) {
            for (cidr, why) in
                unreachable.iter().filter(|(cidr, why)| self.unreachable.get(cidr) != Some(why))
            {
                tracing::warn!(
                    pods = %cidr,
                    "no route was set: {why}. If the network between them knows the way to these pods, set \
                     direct-routing-skip-unreachable=true; else give it routes, or use routing-mode=tunnel"
                );
            }
        }
        let still = |cidr: &IpNet| wanted.pod_cidrs.contains_key(cidr) && !checked.contains(cidr);
        self.unreachable.retain(|cidr, _| still(cidr));
        self.unreachable.extend(unreachable);
        Ok(())
    }
}

/// Removes the routes by other nodes that an agent with native routing has set.
pub(crate) async fn withdraw(host: &Netlink) -> Result<(), Error> {
    for route in host.main_routes().await?.into_iter().filter(|route| route.ours) {
        host.delete_route(route.message).await?;
    }
    Ok(())
}
