//! Everything of one node, under one owner.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use causeway_model::{Event, IpEntry, NumericIdentity, Protocol, lb};

use crate::acceleration::{self, Accelerated};
use crate::addresses::{Addresses, Stats};
use crate::attach::{self, AttachMode, Hook};
use crate::config::Config;
use crate::conntrack::Conntrack;
use crate::devices;
use crate::endpoint::{self, Endpoint, EndpointSpec, Records};
use crate::frontends::Frontends;
use crate::maps::ipcache::Ipcache;
use crate::maps::lb::{Flow, L4};
use crate::maps::metrics::{Counter, Metrics};
use crate::maps::pod_flows::PodFlows;
use crate::maps::{Address, Table, endpoint as map};
use crate::nodes::NodeAddresses;
use crate::object::{Constants, Objects, Pins, classifier};
use crate::routing::{RemoteNodes, Routes, device};
use crate::{Error, IpPair, masquerade, netlink, terminate};

/// The socket programs, by their names in `bpf_sock.bpf.c`.
const SOCKET_PROGRAMS: [&str; 9] = [
    "sock_connect4",
    "sock_sendmsg4",
    "sock_recvmsg4",
    "sock_getpeername4",
    "sock_connect6",
    "sock_sendmsg6",
    "sock_recvmsg6",
    "sock_getpeername6",
    "sock_release",
];
/// Those that keep processes of the node off the ports of services.
const BIND_PROGRAMS: [&str; 2] = ["sock_post_bind4", "sock_post_bind6"];

/// The programs of a pod's interface, as its host side sees directions.
const POD_PROGRAMS: [(&str, bool); 2] = [("to_container", false), ("from_container", true)];

/// The datapath of one node. Dropping it changes nothing in the kernel.
#[derive(Debug)]
pub struct Datapath {
    config: Config,
    pins: Pins,
    attach: AttachMode,
    /// Index of the device with the node's addresses in the pod network.
    device: u32,
    objects: Objects,
    addresses: Addresses,
    frontends: Frontends,
    nodes: NodeAddresses,
    flows: Table<Flow, L4>,
    by_address: Table<Address, map::Endpoint>,
    by_interface: Table<u32, map::Endpoint>,
    metrics: Metrics,
    conntrack: Conntrack,
    pod_flows: PodFlows,
    /// The native devices that have our programs.
    devices: Vec<String>,
    accelerated: Vec<Accelerated>,
    records: Records,
    endpoints: BTreeMap<String, Endpoint>,
    routes: Routes,
}

impl Datapath {
    /// Makes the node answer at one more address inside the pod network, like that of its health endpoint.
    ///
    /// # Errors
    /// [`Error::Io`] when the kernel refuses.
    pub fn answer_at(&mut self, ip: IpAddr) -> Result<(), Error> {
        let device = self.device;
        netlink::run(None, async |host| host.add_address(device, ip).await)
    }

    /// Loads the programs, adopts what an earlier process left, and makes the node ready: device,
    /// sysctls, hooks. Forwarding never stops meanwhile.
    ///
    /// # Errors
    /// [`Error`]; the previous programs stay in force for what could not be replaced.
    pub fn open(config: Config) -> Result<Self, Error> {
        config.check()?;
        let pins = Pins::prepare(&config.bpffs)?;
        let internal_ips = config.internal_ips();
        let (name, native) = (device::name(config.routing), config.routing.is_native());
        let device = device::ensure(&config, &pins)?;
        netlink::sysctl("net/ipv4/ip_forward", "1")?;
        if internal_ips.v6.is_some() {
            netlink::route_v6()?;
        }
        // Replies leave by another interface than the kernel's routes would say.
        for scope in ["all", "default", name] {
            netlink::sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "0")?;
        }
        let devices = devices::find(&config.balance.devices, IpAddr::V4(config.node_ip), name)?;
        let constants = Constants {
            vxlan: if native { 0 } else { device },
            native,
            identities: config.identities.clone(),
            netns: netlink::cookie()?,
            host_netns_only: config.balance.host_netns_only,
            refuse_no_backend: !config.balance.drop_no_backend,
            internal: internal_ips,
            node: IpPair { v4: Some(config.node_ip), v6: devices.ip6 },
            nat_ports: devices::nat_ports(&config.balance.node_ports.0, &devices::ephemeral()),
        };
        let mut objects = Objects::load(&pins, &constants, &config.balance.sizes)?;
        let tunnel_end = (!native).then_some(IpAddr::V4(config.node_ip));
        let addresses = Addresses::new(Ipcache::take(&mut objects.lxc)?, tunnel_end);
        let frontends = Frontends::take(&mut objects.sock, config.balance.clone(), native)?;
        let nodes = NodeAddresses::take(&mut objects.sock)?;
        let flows = Table::take(&mut objects.sock, "cw_lb_reverse")?;
        let by_address = Table::take(&mut objects.lxc, "cw_endpoints")?;
        let by_interface = Table::take(&mut objects.lxc, "cw_interfaces")?;
        let metrics = Metrics::take(&mut objects.lxc)?;
        let conntrack = Conntrack::take(&mut objects.host)?;
        let pod_flows = PodFlows::take(&mut objects.host)?;
        let attach = match config.attach {
            Some(mode) => mode,
            None => {
                let (program, interface) = match devices.names.first().filter(|_| native) {
                    Some(interface) => (classifier(&mut objects.host, "to_netdev"), interface.as_str()),
                    None => (classifier(&mut objects.overlay, "to_overlay"), name),
                };
                attach::first(program, Hook { interface, ingress: false }, &pins.links)
            }
        };
        let records = Records::open(config.state_dir.join("endpoints"))?;
        let routes = Routes::new(config.routing, device, internal_ips);
        let mut datapath = Self {
            config,
            pins,
            attach,
            device,
            objects,
            addresses,
            frontends,
            nodes,
            flows,
            by_address,
            by_interface,
            metrics,
            conntrack,
            pod_flows,
            devices: devices.names,
            accelerated: vec![],
            records,
            endpoints: BTreeMap::new(),
            routes,
        };
        datapath.adopt_endpoints()?;
        datapath.attach_node()?;
        // What XDP passes on is for the programs that are there now.
        let balance = &datapath.config.balance;
        datapath.accelerated = acceleration::apply(
            balance.acceleration,
            &datapath.devices,
            &datapath.pins,
            &constants,
            &balance.sizes,
        );
        Ok(datapath)
    }

    fn attach_node(&mut self) -> Result<(), Error> {
        let links = &self.pins.links;
        let tunnel = [("to_overlay", false), ("from_overlay", true)];
        for (program, ingress) in tunnel.into_iter().filter(|_| !self.config.routing.is_native()) {
            let hook = Hook { interface: device::VXLAN, ingress };
            attach::classifier(classifier(&mut self.objects.overlay, program), hook, self.attach, links)?;
        }
        for interface in &self.devices {
            for (program, ingress) in [("to_netdev", false), ("from_netdev", true)] {
                let hook = Hook { interface, ingress };
                attach::classifier(classifier(&mut self.objects.host, program), hook, self.attach, links)?;
            }
        }
        for program in SOCKET_PROGRAMS {
            attach::cgroup(&mut self.objects.sock, program, &self.config.cgroup, links)?;
        }
        for program in BIND_PROGRAMS {
            match self.config.balance.protect_ports {
                true => attach::cgroup(&mut self.objects.sock, program, &self.config.cgroup, links)?,
                false => attach::detach(program, links),
            }
        }
        Ok(())
    }

    /// Takes over the pods of an earlier process: those whose interface is still there.
    fn adopt_endpoints(&mut self) -> Result<(), Error> {
        for endpoint in self.records.load()? {
            let there = netlink::run(None, async |host| host.link(&endpoint.host_ifname).await)?;
            if there.is_some_and(|link| link.header.index == endpoint.ifindex) {
                self.program(&endpoint)?;
                // They go with the device that had the node's address, if that is another one now.
                endpoint::route(&endpoint, self.config.internal_ips())?;
                self.endpoints.insert(endpoint.container_id.clone(), endpoint);
            } else {
                tracing::info!(pod = %endpoint.pod_name, "its interface is gone; the endpoint is forgotten");
                self.records.remove(&endpoint);
            }
        }
        let known: BTreeSet<u32> = self.endpoints.values().map(|e| e.ifindex).collect();
        for (index, _) in self.by_interface.entries()? {
            if !known.contains(&index) {
                self.by_interface.remove(&index)?;
            }
        }
        // By its own interface: the address may have been given to a newer pod.
        for (address, stale) in self.by_address.entries()? {
            if !known.contains(&stale.ifindex) {
                self.by_address.remove(&address)?;
            }
        }
        Ok(())
    }

    /// Applies changes of the ipcache, in their order; many together cost less than one by one.
    /// `Reset … Synced` brackets a full listing: what the kernel holds beyond it is removed at `Synced`, and
    /// not before. Every change is tried, so that one the kernel refuses keeps none of the others back.
    ///
    /// # Errors
    /// [`Error::Map`], the first one; [`Datapath::resync`] repairs what an error left undone.
    pub fn apply_addresses(&mut self, events: impl IntoIterator<Item = Event<IpEntry>>) -> Result<(), Error> {
        self.addresses.apply(events)
    }

    /// Applies one change of a service frontend, as [`Datapath::apply_addresses`] does. A lookup finds a
    /// backend of the old list or of the new one; the list is switched at once, but where few of many
    /// backends change, they are written one by one, and only they.
    ///
    /// # Errors
    /// [`Error::Map`]
    pub fn apply_frontend(&mut self, event: Event<lb::Frontend>) -> Result<(), Error> {
        self.frontends.apply(event)
    }

    /// At which addresses NodePorts answer: those of all nodes of this cluster (true: of this one), and
    /// of no other cluster's. What an earlier process left stays until these are `complete`.
    ///
    /// # Errors
    /// [`Error::Map`]; the next call repairs what an error left undone.
    pub fn set_node_addresses(
        &mut self,
        addresses: &BTreeMap<IpAddr, bool>,
        complete: bool,
    ) -> Result<(), Error> {
        self.nodes.set(addresses, complete)
    }

    /// Ends the sockets of this node and its pods that talk to backends which no frontend has any more,
    /// since the last call: of UDP always, of TCP where that is wanted. Their processes connect again,
    /// to another backend. To be called after changes of frontends; costs nothing where no backend has
    /// gone. A pod whose sockets cannot be looked at is a warning.
    ///
    /// Returns how many sockets were ended.
    pub fn end_stale_sockets(&mut self) -> usize {
        let mut vanished = self.frontends.take_vanished();
        let udp = Protocol::UDP.number();
        vanished.retain(|backend| backend.protocol == udp || self.config.balance.terminate_tcp);
        if vanished.is_empty() {
            return 0;
        }
        let pods = self.endpoints.values().map(|endpoint| Some(endpoint.netns.as_path()));
        let mut ended = 0;
        for netns in [None].into_iter().chain(pods) {
            match terminate::end(netns, &vanished, &mut self.flows) {
                Ok(count) => ended += count,
                Err(error) => {
                    let netns = netns.map_or("the node's own".into(), |path| path.to_string_lossy());
                    tracing::warn!(%error, %netns, "sockets may go on talking to a backend that is gone");
                }
            }
        }
        if ended > 0 {
            tracing::info!(
                sockets = ended,
                backends = vanished.len(),
                "sockets to backends that are gone were ended"
            );
        }
        ended
    }

    /// Compares all maps with what should be in them and applies the difference.
    ///
    /// # Errors
    /// [`Error::Map`]
    pub fn resync(&mut self) -> Result<(), Error> {
        self.routes.recheck();
        self.addresses.sweep()?;
        self.frontends.sweep()
    }

    /// Makes the ways to the pods of all other nodes, of every cluster: into the tunnel, for this node's own
    /// processes, or by the nodes' addresses; and exempts them from masquerading. Pod CIDRs of a family
    /// this node has not are passed over. Others are withdrawn, also those of an earlier process, but not
    /// before these are `complete`. Without nft on the node there is no masquerading, which is a warning:
    /// pods still reach each other. So are nodes that cannot be a gateway; [`Datapath::stats`] counts them.
    ///
    /// # Errors
    /// [`Error::Netlink`], [`Error::Masquerade`]; the next call compares everything.
    pub fn set_remote_nodes(&mut self, nodes: RemoteNodes, complete: bool) -> Result<(), Error> {
        if self.routes.set(nodes, complete)? {
            self.masquerade().inspect_err(|_| self.routes.forget())?;
        }
        Ok(())
    }

    /// Lets the next [`Datapath::set_remote_nodes`] compare all routes with the kernel's, which drops them
    /// with a link that goes down.
    pub fn recheck_routes(&mut self) {
        self.routes.recheck();
    }

    fn masquerade(&mut self) -> Result<(), Error> {
        let mut exempt = self.routes.exempt();
        exempt.extend(&self.config.native_cidrs);
        let rules = masquerade::rules(&self.config.networks, &exempt);
        if !rules.is_empty() && !masquerade::install(&rules)? {
            tracing::warn!(
                "nft is not installed: what pods send out of the mesh keeps the pod's address and \
                 may get no answer; install it with: apt-get install nftables, and restart"
            );
            self.config.networks.iter_mut().for_each(|network| network.masquerade = false);
        }
        Ok(())
    }

    /// Connects a pod. Asked again for the same sandbox and interface it replaces what it made.
    ///
    /// # Errors
    /// [`Error`]; nothing of the endpoint is left then.
    pub fn add_endpoint(&mut self, spec: &EndpointSpec) -> Result<Endpoint, Error> {
        let id = match self.remove_endpoint(&spec.container_id)? {
            Some(replaced) => replaced.id,
            None => self.free_id(),
        };
        let (gateways, mtu) = (self.config.internal_ips(), self.config.mtu());
        let endpoint = endpoint::create(spec, id, gateways, mtu).inspect_err(|_| {
            let name = endpoint::host_ifname(&spec.container_id, &spec.ifname);
            let _ = netlink::run(None, async |host| host.delete_link(&name).await);
        })?;
        if let Err(error) = self.program(&endpoint).and_then(|()| self.records.save(&endpoint)) {
            let _ = self.withdraw(&endpoint);
            return Err(error);
        }
        self.endpoints.insert(spec.container_id.clone(), endpoint.clone());
        Ok(endpoint)
    }

    /// Writes an endpoint's map entries and attaches its program.
    fn program(&mut self, endpoint: &Endpoint) -> Result<(), Error> {
        let value = map::Endpoint {
            ifindex: endpoint.ifindex,
            identity: endpoint.identity,
            ip4: endpoint.ips.v4.map(|ip| ip.octets()).unwrap_or_default(),
            ip6: endpoint.ips.v6.map(|ip| ip.octets()).unwrap_or_default(),
            id: endpoint.id,
            mac: endpoint.mac,
            host_mac: endpoint.host_mac,
            pad: 0,
        };
        self.by_interface.set(endpoint.ifindex, value)?;
        for (program, ingress) in POD_PROGRAMS {
            let hook = Hook { interface: &endpoint.host_ifname, ingress };
            let loaded = classifier(&mut self.objects.lxc, program);
            attach::classifier(loaded, hook, self.attach, &self.pins.links)?;
        }
        endpoint.ips.iter().try_for_each(|ip| self.by_address.set(ip.into(), value))
    }

    /// Gives a pod its identity: what it sends from now on carries it.
    ///
    /// # Errors
    /// [`Error::Endpoint`] for an unknown sandbox, [`Error::Map`].
    pub fn set_identity(&mut self, container_id: &str, identity: NumericIdentity) -> Result<(), Error> {
        let endpoint = self.endpoints.get_mut(container_id).ok_or_else(|| unknown(container_id))?;
        if endpoint.identity == identity.0 {
            return Ok(());
        }
        endpoint.identity = identity.0;
        let endpoint = endpoint.clone();
        self.records.save(&endpoint)?;
        self.program(&endpoint)
    }

    /// Disconnects a pod; an unknown sandbox is fine. Returns what was removed.
    ///
    /// # Errors
    /// [`Error`]
    pub fn remove_endpoint(&mut self, container_id: &str) -> Result<Option<Endpoint>, Error> {
        let Some(endpoint) = self.endpoints.get(container_id).cloned() else { return Ok(None) };
        self.withdraw(&endpoint)?;
        Ok(self.endpoints.remove(container_id))
    }

    /// Takes an endpoint out of the maps, the kernel and the records.
    fn withdraw(&mut self, endpoint: &Endpoint) -> Result<(), Error> {
        for address in endpoint.ips.iter().map(Address::from) {
            // The address may have been given to a newer pod already.
            if self.by_address.get(&address)?.is_some_and(|e| e.ifindex == endpoint.ifindex) {
                self.by_address.remove(&address)?;
            }
        }
        endpoint::delete(endpoint)?;
        self.by_interface.remove(&endpoint.ifindex)?;
        for (_, ingress) in POD_PROGRAMS {
            attach::forget(Hook { interface: &endpoint.host_ifname, ingress }, &self.pins.links);
        }
        self.records.remove(endpoint);
        // Who gets the address next is somebody else.
        if self.pod_flows.clear(endpoint.id)? {
            self.conntrack.forget(&endpoint.ips.iter().collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// Verifies a pod's connection: interfaces, address, map entries (CNI CHECK).
    ///
    /// # Errors
    /// [`Error::Endpoint`] saying what is wrong.
    pub fn check_endpoint(&self, container_id: &str) -> Result<(), Error> {
        let endpoint = self.endpoints.get(container_id).ok_or_else(|| unknown(container_id))?;
        endpoint::check(endpoint)?;
        for ip in endpoint.ips.iter() {
            let entry = self.by_address.get(&ip.into())?;
            if entry.is_none_or(|e| e.ifindex != endpoint.ifindex) {
                let why = format!("the datapath does not deliver {ip} to it");
                return Err(Error::Endpoint { container_id: container_id.to_owned(), why });
            }
        }
        Ok(())
    }

    /// Whether an earlier process has left pods or services here, which are in use: a part of what is known, in
    /// their place, would be less than what there was.
    pub fn is_adopted(&self) -> bool {
        !self.endpoints.is_empty() || self.frontends.is_adopted()
    }

    /// The pods of this node, by sandbox.
    pub fn endpoints(&self) -> &BTreeMap<String, Endpoint> {
        &self.endpoints
    }

    /// The native devices where clients outside come in.
    pub fn devices(&self) -> &[String] {
        &self.devices
    }

    /// How each of them is served: by XDP, or by traffic control alone and why.
    pub fn accelerated(&self) -> &[Accelerated] {
        &self.accelerated
    }

    /// How programs are attached here.
    pub fn attach_mode(&self) -> AttachMode {
        self.attach
    }

    /// How much is programmed.
    pub fn stats(&self) -> Stats {
        let (frontends, backends) = self.frontends.counts();
        Stats {
            addresses: self.addresses.len(),
            frontends,
            backends,
            endpoints: self.endpoints.len(),
            unreachable_nodes: self.routes.unreachable().len(),
        }
    }

    /// Packets and bytes by direction and reason since the maps were made.
    ///
    /// # Errors
    /// [`Error::Map`]
    pub fn counters(&self) -> Result<Vec<Counter>, Error> {
        self.metrics.read()
    }

    fn free_id(&self) -> u16 {
        let used: BTreeSet<u16> = self.endpoints.values().map(|e| e.id).collect();
        (1..=u16::MAX).find(|id| !used.contains(id)).expect("a node has far fewer pods than numbers")
    }
}

fn unknown(container_id: &str) -> Error {
    Error::Endpoint { container_id: container_id.to_owned(), why: "it is not known here".into() }
}
