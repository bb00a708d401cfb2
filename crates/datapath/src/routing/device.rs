//! The device that has the node's addresses in the pod network: the tunnel's, or where there is none a
//! pair of interfaces by which nothing is ever sent.

use super::{NodeRoutes, Routing, withdraw};
use crate::attach::{self, Hook};
use crate::config::Config;
use crate::object::Pins;
use crate::{Error, netlink};

/// The tunnel device, under the name Cilium gives it.
pub(crate) const VXLAN: &str = "cilium_vxlan";
/// Its UDP port (behaviours 4.2).
const VXLAN_PORT: u16 = 8472;
/// The pair, under Cilium's names.
const PAIR: [&str; 2] = ["cilium_host", "cilium_net"];

/// Its name.
pub(crate) fn name(routing: Routing) -> &'static str {
    if routing.is_native() { PAIR[0] } else { VXLAN }
}

/// Makes the device with the node's addresses, and removes what an agent with another routing mode has
/// left: nothing may come in by a tunnel that is no longer used. Returns its index.
pub(crate) fn ensure(config: &Config, pins: &Pins) -> Result<u32, Error> {
    let name = name(config.routing);
    if config.routing.is_native() {
        for ingress in [false, true] {
            attach::forget(Hook { interface: VXLAN, ingress }, &pins.links);
        }
    }
    let internal_ips = config.internal_ips();
    netlink::run(None, async |host| {
        let index = match config.routing {
            Routing::Native(routes) => {
                host.delete_link(VXLAN).await?;
                if routes == NodeRoutes::Network {
                    withdraw(host).await?;
                }
                host.ensure_pair(PAIR[0], PAIR[1]).await?
            }
            Routing::Tunnel => {
                host.delete_link(PAIR[0]).await?;
                withdraw(host).await?;
                host.ensure_vxlan(VXLAN, VXLAN_PORT, config.mtu()).await?
            }
        };
        if internal_ips.v6.is_some() {
            netlink::enable_v6(name)?;
        }
        for ip in internal_ips.iter() {
            host.add_address(index, ip).await?;
        }
        Ok(index)
    })
}
