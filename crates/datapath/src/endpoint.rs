//! The pods of this node: their interfaces, and the records that let a restart adopt them.

use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use causeway_model::{NumericIdentity, PodRef};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::netlink::{self, Veth};
use crate::{Error, IpPair};

/// What the runtime asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSpec {
    /// The runtime's id of the sandbox.
    pub container_id: String,
    /// Name of the interface inside the sandbox.
    pub ifname: String,
    /// Path of the sandbox's network namespace.
    pub netns: PathBuf,
    /// The pod's addresses, at least one.
    pub ips: IpPair,
    /// The pod.
    pub pod: PodRef,
    /// The pod's uid.
    pub pod_uid: String,
}

/// A pod of this node, as it is in the kernel and on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Number of the endpoint on this node, never 0.
    pub id: u16,
    /// The runtime's id of the sandbox.
    pub container_id: String,
    /// Name of the interface inside the sandbox.
    pub ifname: String,
    /// Path of the sandbox's network namespace.
    pub netns: PathBuf,
    /// The pod's addresses.
    #[serde(flatten)]
    pub ips: IpPair,
    /// Namespace of the pod.
    pub pod_namespace: String,
    /// Name of the pod.
    pub pod_name: String,
    /// The pod's uid.
    pub pod_uid: String,
    /// Its security identity; 5 (init) until its labels are known.
    pub identity: u32,
    /// The host's end of the veth pair.
    pub host_ifname: String,
    /// Index of that interface.
    pub ifindex: u32,
    /// MAC address of the pod's end.
    pub mac: [u8; 6],
    /// MAC address of the host's end.
    pub host_mac: [u8; 6],
}

impl Endpoint {
    /// The pod.
    pub fn pod(&self) -> PodRef {
        PodRef { namespace: self.pod_namespace.clone(), name: self.pod_name.clone() }
    }
}

/// Name of the host's end for a sandbox's interface: `lxc` and ten digits of a hash, within the
/// kernel's 15 characters.
pub(crate) fn host_ifname(container_id: &str, ifname: &str) -> String {
    format!("lxc{:010x}", fnv(&[container_id, ifname]) & 0xff_ffff_ffff)
}

/// FNV-1a: stable over processes and builds, which the standard hasher does not promise.
fn fnv(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Makes the veth pair and sets up both ends; `gateways` are the node's addresses in the pod network.
/// A pair left over from a failed attempt is replaced.
pub(crate) fn create(spec: &EndpointSpec, id: u16, gateways: IpPair, mtu: u32) -> Result<Endpoint, Error> {
    let host_ifname = host_ifname(&spec.container_id, &spec.ifname);
    let peer = format!("tmp{}", &host_ifname[3..]);
    let ways = ways(spec.ips, gateways)?;
    let netns = File::open(&spec.netns)
        .map_err(|e| Error::io(format!("open the namespace {}", spec.netns.display()), e))?;
    let (ifindex, host_mac) = netlink::run(None, async |host| {
        host.delete_link(&host_ifname).await?;
        host.create_veth(Veth { host: &host_ifname, peer: &peer, mtu }, &netns).await?;
        if spec.ips.v6.is_some() {
            netlink::enable_v6(&host_ifname)?;
        }
        host.up(&host_ifname).await?;
        host.index_and_mac(&host_ifname).await
    })?;
    let mac = netlink::run(Some(&spec.netns), async |pod| {
        pod.rename(&peer, &spec.ifname).await?;
        if spec.ips.v6.is_some() {
            netlink::enable_v6("lo")?;
            netlink::enable_v6(&spec.ifname)?;
        }
        pod.up("lo").await?;
        pod.up(&spec.ifname).await?;
        let (index, mac) = pod.index_and_mac(&spec.ifname).await?;
        for (ip, gateway) in &ways {
            pod.add_address(index, *ip).await?;
            // The gateway is a word for "the node": one neighbour that is always resolved.
            pod.neighbour(index, *gateway, host_mac).await?;
            pod.route(IpNet::from(*gateway), index, None).await?;
            pod.default_route(*gateway, index).await?;
        }
        Ok(mac)
    })?;
    netlink::run(None, async |host| {
        for (ip, gateway) in &ways {
            host.neighbour(ifindex, *ip, mac).await?;
            host.route(IpNet::from(*ip), ifindex, Some(*gateway)).await?;
        }
        Ok(())
    })?;
    Ok(Endpoint {
        id,
        container_id: spec.container_id.clone(),
        ifname: spec.ifname.clone(),
        netns: spec.netns.clone(),
        ips: spec.ips,
        pod_namespace: spec.pod.namespace.clone(),
        pod_name: spec.pod.name.clone(),
        pod_uid: spec.pod_uid.clone(),
        identity: NumericIdentity::INIT.0,
        host_ifname,
        ifindex,
        mac,
        host_mac,
    })
}

/// Sets the node's own routes to a pod that is there.
pub(crate) fn route(endpoint: &Endpoint, gateways: IpPair) -> Result<(), Error> {
    let ways = ways(endpoint.ips, gateways)?;
    netlink::run(None, async |host| {
        for (ip, gateway) in &ways {
            host.route(IpNet::from(*ip), endpoint.ifindex, Some(*gateway)).await?;
        }
        Ok(())
    })
}

/// A pod's addresses, each with the gateway of its family.
fn ways(ips: IpPair, gateways: IpPair) -> Result<Vec<(IpAddr, IpAddr)>, Error> {
    let way = |ip| match gateways.like(ip) {
        Some(gateway) => Ok((ip, gateway)),
        None => Err(Error::Address { ip, why: "the node has no pod CIDR of its family" }),
    };
    ips.iter().map(way).collect()
}

/// Removes the pair; the pod's end goes with the host's.
pub(crate) fn delete(endpoint: &Endpoint) -> Result<(), Error> {
    netlink::run(None, async |host| host.delete_link(&endpoint.host_ifname).await)
}

/// Finds out whether both ends are as [`create`] left them.
pub(crate) fn check(endpoint: &Endpoint) -> Result<(), Error> {
    let wrong = |why: String| Error::Endpoint { container_id: endpoint.container_id.clone(), why };
    let (index, _) = netlink::run(None, async |host| host.index_and_mac(&endpoint.host_ifname).await)
        .map_err(|e| wrong(e.to_string()))?;
    if index != endpoint.ifindex {
        return Err(wrong(format!("interface {} is another one now", endpoint.host_ifname)));
    }
    let addresses = netlink::run(Some(&endpoint.netns), async |pod| {
        let (index, _) = pod.index_and_mac(&endpoint.ifname).await?;
        pod.addresses(index).await
    })
    .map_err(|e| wrong(e.to_string()))?;
    if let Some(lost) = endpoint.ips.iter().find(|ip| !addresses.contains(ip)) {
        return Err(wrong(format!("{} has lost its address {lost}", endpoint.ifname)));
    }
    Ok(())
}

/// The records of the endpoints on disk, one file each.
#[derive(Debug)]
pub(crate) struct Records(PathBuf);

impl Records {
    pub(crate) fn open(dir: PathBuf) -> Result<Self, Error> {
        std::fs::create_dir_all(&dir).map_err(|e| Error::io(format!("create {}", dir.display()), e))?;
        Ok(Self(dir))
    }

    fn path(&self, endpoint: &Endpoint) -> PathBuf {
        self.0.join(format!("{}.json", endpoint.host_ifname))
    }

    /// Writes a record, whole or not at all.
    pub(crate) fn save(&self, endpoint: &Endpoint) -> Result<(), Error> {
        let path = self.path(endpoint);
        let fresh = path.with_extension("new");
        let text = serde_json::to_vec(endpoint).expect("an endpoint is plain data");
        std::fs::write(&fresh, text)
            .and_then(|()| std::fs::rename(&fresh, &path))
            .map_err(|e| Error::io(format!("write {}", path.display()), e))
    }

    pub(crate) fn remove(&self, endpoint: &Endpoint) {
        let _ = std::fs::remove_file(self.path(endpoint));
    }

    /// All records; one that cannot be read is reported and passed over.
    pub(crate) fn load(&self) -> Result<Vec<Endpoint>, Error> {
        let entries =
            std::fs::read_dir(&self.0).map_err(|e| Error::io(format!("read {}", self.0.display()), e))?;
        let mut all: Vec<Endpoint> = entries.flatten().filter_map(|entry| read(&entry.path())).collect();
        all.sort_by_key(|endpoint| endpoint.id);
        Ok(all)
    }
}

fn read(path: &Path) -> Option<Endpoint> {
    if path.extension()? != "json" {
        return None;
    }
    let parsed = std::fs::read(path)
        .map_err(|e| e.to_string())
        .and_then(|text| serde_json::from_slice(&text).map_err(|e| e.to_string()));
    match parsed {
        Ok(endpoint) => Some(endpoint),
        Err(why) => {
            tracing::warn!(path = %path.display(), why, "an endpoint record cannot be read; its pod is not adopted");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_fit_and_are_stable() {
        let name = host_ifname("4f0c1b", "eth0");
        assert_eq!((name.len(), name.as_str()), (13, host_ifname("4f0c1b", "eth0").as_str()));
        assert_ne!(name, host_ifname("4f0c1b", "eth1"));
    }
    #[test]
    fn records_of_the_time_before_ipv6_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path().join("endpoints")).unwrap();
        let old = serde_json::json!({
            "id": 1, "container_id": "c", "ifname": "eth0", "netns": "/proc/7/ns/net", "ip": "10.1.0.5",
            "pod_namespace": "shop", "pod_name": "web-1", "pod_uid": "u-1", "identity": 65_600,
            "host_ifname": "lxc0", "ifindex": 9, "mac": [2, 0, 0, 0, 0, 1], "host_mac": [2, 0, 0, 0, 0, 2],
        });
        std::fs::write(dir.path().join("endpoints/lxc0.json"), old.to_string()).unwrap();
        let mut endpoint = records.load().unwrap().remove(0);
        assert_eq!(endpoint.ips, IpPair { v4: Some([10, 1, 0, 5].into()), v6: None });
        endpoint.ips.v6 = Some("fd00:1::5".parse().unwrap());
        records.save(&endpoint).unwrap();
        assert_eq!(records.load().unwrap(), [endpoint]);
    }
}
