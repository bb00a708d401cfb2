//! The netlink requests we make, each idempotent: what is already so is left.

mod devices;
mod routes;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, RawFd};

use futures::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags};
use netlink_packet_route::link::{InfoVxlan, LinkAttribute, LinkMessage};
use netlink_packet_route::neighbour::NeighbourState;
use netlink_packet_route::route::{RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::packet_core::ErrorMessage;
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan, RouteMessageBuilder};

use crate::Error;
pub(crate) use routes::{Route, Way};

/// A netlink socket of one namespace.
#[derive(Debug, Clone)]
pub(crate) struct Netlink(Handle);

/// What is asked of an interface in the host's namespace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Veth<'a> {
    pub(crate) host: &'a str,
    /// The pod's end gets this name until it is in its namespace, so that it cannot clash.
    pub(crate) peer: &'a str,
    pub(crate) mtu: u32,
}

impl Netlink {
    pub(super) fn new(handle: Handle) -> Self {
        Self(handle)
    }

    /// The interface of this name, if there is one.
    pub(crate) async fn link(&self, name: &str) -> Result<Option<LinkMessage>, Error> {
        match self.0.link().get().match_name(name.to_owned()).execute().try_next().await {
            Ok(link) => Ok(link),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(failed(format!("look up interface {name}"), error)),
        }
    }

    /// Index and MAC address of an interface that must exist.
    pub(crate) async fn index_and_mac(&self, name: &str) -> Result<(u32, [u8; 6]), Error> {
        let missing = || Error::io(format!("find interface {name}"), std::io::ErrorKind::NotFound);
        let link = self.link(name).await?.ok_or_else(missing)?;
        let mac = link.attributes.iter().find_map(|a| match a {
            LinkAttribute::Address(mac) => <[u8; 6]>::try_from(&mac[..]).ok(),
            _ => None,
        });
        Ok((link.header.index, mac.unwrap_or_default()))
    }

    /// Removes an interface; none is fine.
    pub(crate) async fn delete_link(&self, name: &str) -> Result<(), Error> {
        let Some(link) = self.link(name).await? else { return Ok(()) };
        match self.0.link().del(link.header.index).execute().await {
            Err(error) if errno(&error) != Some(libc::ENODEV) => {
                Err(failed(format!("remove interface {name}"), error))
            }
            _ => Ok(()),
        }
    }

    /// The tunnel device: VXLAN whose outer addresses and VNI programs choose for each packet. It
    /// answers no ARP: nobody on the far side has to resolve anything.
    pub(crate) async fn ensure_vxlan(&self, name: &str, port: u16, mtu: u32) -> Result<u32, Error> {
        if self.link(name).await?.is_none() {
            let device = LinkMessageBuilder::<LinkVxlan>::new(name)
                .port(port)
                .append_info_data(InfoVxlan::CollectMetadata(true))
                .append_info_data(InfoVxlan::Learning(false))
                .build();
            self.0.link().add(device).execute().await.map_err(|e| failed(format!("create {name}"), e))?;
        }
        let (index, _) = self.index_and_mac(name).await?;
        self.change(LinkUnspec::new_with_index(index).arp(false).mtu(mtu).up().build(), name).await?;
        Ok(index)
    }

    /// The device that has the node's own addresses in the pod network where there is no tunnel: a pair
    /// whose ends both stay here. Nothing is ever sent by it.
    pub(crate) async fn ensure_pair(&self, name: &str, peer: &str) -> Result<u32, Error> {
        if self.link(name).await?.is_none() {
            let pair = LinkMessageBuilder::<LinkVeth>::new(name, peer).build();
            self.0.link().add(pair).execute().await.map_err(|e| failed(format!("create {name}"), e))?;
        }
        for end in [peer, name] {
            let (index, _) = self.index_and_mac(end).await?;
            self.change(LinkUnspec::new_with_index(index).arp(false).up().build(), end).await?;
        }
        Ok(self.index_and_mac(name).await?.0)
    }

    /// A pair of interfaces with the pod's end already in the namespace of `netns`.
    pub(crate) async fn create_veth(&self, veth: Veth<'_>, netns: &impl AsRawFd) -> Result<(), Error> {
        let pair = LinkMessageBuilder::<LinkVeth>::new(veth.host, veth.peer).mtu(veth.mtu).build();
        self.0.link().add(pair).execute().await.map_err(|e| failed(format!("create {}", veth.host), e))?;
        let (peer, _) = self.index_and_mac(veth.peer).await?;
        let fd: RawFd = netns.as_raw_fd();
        let moved = LinkUnspec::new_with_index(peer).mtu(veth.mtu).setns_by_fd(fd).build();
        self.change(moved, veth.peer).await
    }

    pub(crate) async fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let (index, _) = self.index_and_mac(from).await?;
        self.change(LinkUnspec::new_with_index(index).name(to).build(), from).await
    }

    pub(crate) async fn up(&self, name: &str) -> Result<(), Error> {
        let (index, _) = self.index_and_mac(name).await?;
        self.change(LinkUnspec::new_with_index(index).up().build(), name).await
    }

    async fn change(&self, message: LinkMessage, name: &str) -> Result<(), Error> {
        self.0.link().set(message).execute().await.map_err(|e| failed(format!("change interface {name}"), e))
    }

    /// Gives an interface an address of full length, in use at once: nobody else has been given it.
    pub(crate) async fn add_address(&self, index: u32, ip: IpAddr) -> Result<(), Error> {
        let bits = IpNet::from(ip).prefix_len();
        let mut request = self.0.address().add(index, ip, bits);
        if ip.is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        match request.execute().await {
            Err(error) if errno(&error) != Some(libc::EEXIST) => {
                Err(failed(format!("add address {ip}"), error))
            }
            _ => Ok(()),
        }
    }

    /// A route by an interface, replacing one of the same destination; `source` is of its family.
    pub(crate) async fn route(&self, to: IpNet, index: u32, source: Option<IpAddr>) -> Result<(), Error> {
        let what = || format!("set the route to {to}");
        let mut route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(to.trunc().addr(), to.prefix_len())
            .map_err(|e| unfit(what(), e))?
            .output_interface(index)
            .scope(RouteScope::Link);
        if let Some(source) = source {
            route = route.pref_source(source).map_err(|e| unfit(what(), e))?;
        }
        let request = self.0.route().add(route.build()).replace();
        request.execute().await.map_err(|e| failed(what(), e))
    }

    /// The default route of the gateway's family, by a gateway that is reachable on this interface.
    pub(crate) async fn default_route(&self, gateway: IpAddr, index: u32) -> Result<(), Error> {
        let what = || format!("set the default route by {gateway}");
        let anywhere = match gateway {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(anywhere, 0)
            .and_then(|route| route.gateway(gateway))
            .map_err(|e| unfit(what(), e))?
            .output_interface(index)
            .onlink();
        let request = self.0.route().add(route.build()).replace();
        request.execute().await.map_err(|e| failed(what(), e))
    }

    /// The routes of the main table that leave by an interface, but for those the kernel makes itself
    /// (of the interface's own IPv6 addresses).
    pub(crate) async fn routes_by(&self, index: u32) -> Result<Vec<(IpNet, RouteMessage)>, Error> {
        let ours =
            |route: &Route| route.is_by(index) && route.message.header.protocol != RouteProtocol::Kernel;
        Ok(self.main_routes().await?.into_iter().filter(ours).map(|r| (r.to, r.message)).collect())
    }

    /// Removes a route; none is fine.
    pub(crate) async fn delete_route(&self, route: RouteMessage) -> Result<(), Error> {
        match self.0.route().del(route).execute().await {
            Err(error) if errno(&error) != Some(libc::ESRCH) => Err(failed("remove a route".into(), error)),
            _ => Ok(()),
        }
    }

    /// A neighbour that never has to be resolved.
    pub(crate) async fn neighbour(&self, index: u32, ip: IpAddr, mac: [u8; 6]) -> Result<(), Error> {
        let request =
            self.0.neighbours().add(index, ip).link_layer_address(&mac).state(NeighbourState::Permanent);
        request.replace().execute().await.map_err(|e| failed(format!("set the neighbour {ip}"), e))
    }

    /// The addresses of an interface.
    pub(crate) async fn addresses(&self, index: u32) -> Result<Vec<IpAddr>, Error> {
        let query = self.0.address().get().set_link_index_filter(index).execute();
        let all: Vec<_> = query.try_collect().await.map_err(|e| failed("list addresses".into(), e))?;
        let ip = |a: &AddressAttribute| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None };
        Ok(all.iter().filter_map(|message| message.attributes.iter().find_map(ip)).collect())
    }
}

/// The positive errno of a refused request.
fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(ErrorMessage { code: Some(code), .. }) => Some(-code.get()),
        _ => None,
    }
}

fn failed(what: String, source: rtnetlink::Error) -> Error {
    Error::Netlink { what, source: Box::new(source) }
}

/// An error of a request that was not even sent: its addresses do not go together.
fn unfit(what: String, why: impl std::fmt::Display) -> Error {
    Error::io(what, std::io::Error::new(std::io::ErrorKind::InvalidInput, why.to_string()))
}
