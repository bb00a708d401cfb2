//! Which device the world is behind.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::route::RouteAttribute;
use rtnetlink::RouteMessageBuilder;

use super::{Netlink, failed};
use crate::Error;

impl Netlink {
    /// Indexes of the devices that default routes of either family leave by.
    pub(crate) async fn default_route_devices(&self) -> Result<Vec<u32>, Error> {
        let queries =
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()];
        let mut devices = Vec::new();
        for query in queries {
            let mut routes = self.0.route().get(query).execute();
            while let Some(route) = routes.try_next().await.map_err(|e| failed("list routes".into(), e))? {
                let main = route.header.table == 254 && route.header.destination_prefix_length == 0;
                let by = route.attributes.iter().find_map(|a| match a {
                    RouteAttribute::Oif(index) => Some(*index),
                    _ => None,
                });
                devices.extend(by.filter(|_| main));
            }
        }
        Ok(devices)
    }

    /// Index of the device that has this address.
    pub(crate) async fn device_of(&self, ip: IpAddr) -> Result<Option<u32>, Error> {
        let mut all = self.0.address().get().execute();
        while let Some(address) = all.try_next().await.map_err(|e| failed("list addresses".into(), e))? {
            let has = |a: &AddressAttribute| matches!(a, AddressAttribute::Address(found) | AddressAttribute::Local(found) if *found == ip);
            if address.attributes.iter().any(has) {
                return Ok(Some(address.header.index));
            }
        }
        Ok(None)
    }

    /// The name of a device.
    pub(crate) async fn name(&self, index: u32) -> Result<Option<String>, Error> {
        let link = self.0.link().get().match_index(index).execute().try_next().await;
        let link = link.map_err(|e| failed(format!("look up interface {index}"), e))?;
        Ok(link.and_then(|link| {
            link.attributes.into_iter().find_map(|a| match a {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            })
        }))
    }
}
