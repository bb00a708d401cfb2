//! ClusterIPs and node ports. The services themselves are the record; this keeps who holds what, so that two creations
//! at once cannot get the same one. Which families a service has is decided in [`families`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::{Value, json};

use super::error::{ApiResult, FieldErrors};
use super::object::{each, int, list, text};
use super::options::Error;
use super::{Api, families, storage};

/// First and last node port.
pub const NODE_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;

/// What one [`Allocator::assign`] took, for [`Allocator::undo`].
#[derive(Debug, Default)]
pub struct Held {
    ips: BTreeSet<IpAddr>,
    ports: BTreeSet<(u16, String)>,
}

/// Addresses and ports in use.
#[derive(Debug)]
pub struct Allocator {
    /// The range of IPv4, and that of IPv6 if the cluster is dual stack.
    cidr: Ipv4Net,
    cidr_v6: Option<Ipv6Net>,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    ips: BTreeSet<IpAddr>,
    /// Port and protocol to the service holding it.
    ports: BTreeMap<(u16, String), String>,
}

impl Allocator {
    /// An empty one for a range, or one of each family.
    ///
    /// # Errors
    /// If a range has fewer than 8 addresses.
    pub fn new(cidr: Ipv4Net, cidr_v6: Option<Ipv6Net>) -> Result<Self, Error> {
        if cidr.prefix_len() > 29 {
            return Err(Error::ServiceCidr(cidr.into()));
        }
        if let Some(small) = cidr_v6.filter(|cidr| cidr.prefix_len() > 125) {
            return Err(Error::ServiceCidr(small.into()));
        }
        Ok(Allocator { cidr, cidr_v6, used: Mutex::default() })
    }

    /// The range of a family.
    fn range(&self, family: &str) -> Option<IpNet> {
        if family == families::V4 { Some(self.cidr.into()) } else { self.cidr_v6.map(IpNet::V6) }
    }

    /// The families there are ranges of, the default one first.
    fn families(&self) -> &'static [&'static str] {
        if self.cidr_v6.is_some() { &[families::V4, families::V6] } else { &[families::V4] }
    }

    /// The address of the `kubernetes` Service.
    pub fn first(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.cidr.network()) + 1)
    }

    /// Gives a service what its type needs and it does not have. `old` is the stored service, for an update. If the
    /// write then does not happen, give the result to [`Self::undo`].
    pub fn assign(
        &self,
        svc: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
        errors: &mut FieldErrors,
    ) -> Held {
        let mut held = Held::default();
        let mut used = self.used.lock().unwrap_or_else(|e| e.into_inner());
        let owner = format!("{}/{}", text(svc, "metadata.namespace"), text(svc, "metadata.name"));
        let kind = text(svc, "spec.type").to_string();
        let Some(spec) = svc.get_mut("spec") else { return held };
        if kind == "ExternalName" {
            for f in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
                spec.as_object_mut().map(|m| m.remove(f));
            }
        } else {
            held.ips = self.cluster_ips(spec, old, &used, errors);
        }
        let wants_ports =
            kind == "NodePort" || (kind == "LoadBalancer" && spec["allocateLoadBalancerNodePorts"] != false);
        if !matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
            for port in each(spec, "ports") {
                port.as_object_mut().map(|m| m.remove("nodePort"));
            }
        } else {
            held.ports = node_ports(spec, old, &owner, wants_ports, &used, errors);
        }
        if dry_run {
            return Held::default();
        }
        used.ips.extend(&held.ips);
        used.ports.extend(held.ports.iter().map(|p| (p.clone(), owner.clone())));
        held
    }

    /// Gives back what an [`Self::assign`] took.
    pub fn undo(&self, held: Held) {
        let mut used = self.used.lock().unwrap_or_else(|e| e.into_inner());
        for ip in held.ips {
            used.ips.remove(&ip);
        }
        for port in held.ports {
            used.ports.remove(&port);
        }
    }

    /// Decides the families of a service and gives it an address of each; what it did not have is returned.
    fn cluster_ips(
        &self,
        spec: &mut Value,
        old: Option<&Value>,
        used: &Used,
        errors: &mut FieldErrors,
    ) -> BTreeSet<IpAddr> {
        let old = old.map(|old| &old["spec"]).filter(|old| text(old, "type") != "ExternalName");
        families::carry_over(spec, old);
        let mut new = BTreeSet::new();
        let Some(families) = families::decide(spec, self.families(), errors) else { return new };
        if text(spec, "clusterIP") == "None" {
            return new;
        }
        let had = old.map(families::cluster_ips).unwrap_or_default();
        let mut wanted = families::cluster_ips(spec);
        wanted.resize(families.len(), String::new());
        for (i, (ip, family)) in wanted.iter_mut().zip(&families).enumerate() {
            if !ip.is_empty() && had.contains(ip) {
                continue;
            }
            match self.cluster_ip(i, family, ip, used, errors) {
                Some(given) => {
                    new.insert(given);
                    *ip = given.to_string();
                }
                None => return BTreeSet::new(),
            }
        }
        spec["clusterIP"] = wanted[0].as_str().into();
        spec["clusterIPs"] = json!(wanted);
        new
    }

    /// The address `wanted`, or a free one of the family.
    fn cluster_ip(
        &self,
        i: usize,
        family: &str,
        wanted: &str,
        used: &Used,
        errors: &mut FieldErrors,
    ) -> Option<IpAddr> {
        let cidr = self.range(family)?;
        if wanted.is_empty() {
            let free = free_ip(cidr, used);
            if free.is_none() {
                let why = format!("failed to allocate a serviceIP: range {cidr} is full");
                errors.invalid(format!("spec.clusterIPs[{i}]"), "", why);
            }
            return free;
        }
        // What is no address has been complained about already.
        let ip: IpAddr = wanted.parse().ok()?;
        let why = if !cidr.contains(&ip) {
            format!("the provided IP is not in the valid range. The range of valid IPs is {cidr}")
        } else if used.ips.contains(&ip) {
            "provided IP is already allocated".to_owned()
        } else {
            return Some(ip);
        };
        errors.invalid("spec.clusterIPs", json!([wanted]), format!("failed to allocate IP {ip}: {why}"));
        None
    }

    /// Releases what `svc` holds and `keep` (what remains stored, if anything) does not.
    pub fn release(&self, svc: &Value, keep: Option<&Value>) {
        let mut used = self.used.lock().unwrap_or_else(|e| e.into_inner());
        let (ips, ports) = holdings(svc);
        let (kept_ips, kept_ports) = keep.map(holdings).unwrap_or_default();
        for ip in ips.difference(&kept_ips) {
            used.ips.remove(ip);
        }
        for port in ports.difference(&kept_ports) {
            used.ports.remove(port);
        }
    }

    /// Marks what a stored service holds.
    pub fn hold(&self, svc: &Value) {
        let owner = format!("{}/{}", text(svc, "metadata.namespace"), text(svc, "metadata.name"));
        let mut used = self.used.lock().unwrap_or_else(|e| e.into_inner());
        let (ips, ports) = holdings(svc);
        used.ips.extend(ips);
        used.ports.extend(ports.into_iter().map(|p| (p, owner.clone())));
    }
}

/// A free address, looked for from a random place in the upper part of the range first, as Kubernetes does, so
/// that low addresses stay free for services that ask for one.
fn free_ip(cidr: IpNet, used: &Used) -> Option<IpAddr> {
    let bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len());
    let last = u32::try_from((1u64 << bits.min(32)) - 2).unwrap_or(u32::MAX - 1);
    let reserved = (last / 16).clamp(1, 256);
    let start = reserved + 1 + rand::random::<u32>() % (last - reserved).max(1);
    let candidates = (start..=last).chain(reserved + 1..start).chain(2..=reserved);
    let at = |n: u32| match cidr {
        IpNet::V4(cidr) => IpAddr::V4((u32::from(cidr.network()) + n).into()),
        IpNet::V6(cidr) => IpAddr::V6((u128::from(cidr.network()) + u128::from(n)).into()),
    };
    candidates.map(at).find(|ip| !used.ips.contains(ip))
}

fn node_ports(
    spec: &mut Value,
    old: Option<&Value>,
    owner: &str,
    wants: bool,
    used: &Used,
    errors: &mut FieldErrors,
) -> BTreeSet<(u16, String)> {
    let had: Vec<Value> = old.map(|o| list(o, "spec.ports").to_vec()).unwrap_or_default();
    let mut own: BTreeSet<(u16, String)> = BTreeSet::new();
    for (i, port) in each(spec, "ports").enumerate() {
        let protocol = text(port, "protocol").to_string();
        let path = format!("spec.ports[{i}].nodePort");
        // A client that leaves the number out keeps the one the same port had.
        if int(port, "nodePort").unwrap_or(0) == 0
            && let Some(before) =
                had.iter().find(|h| h["port"] == port["port"] && text(h, "protocol") == protocol)
            && int(before, "nodePort").unwrap_or(0) > 0
        {
            port["nodePort"] = before["nodePort"].clone();
        }
        let wanted = int(port, "nodePort").unwrap_or(0);
        let number = if wanted != 0 {
            let in_range = u16::try_from(wanted).ok().filter(|n| NODE_PORTS.contains(n));
            let Some(n) = in_range else {
                errors.invalid(
                    path,
                    wanted,
                    format!(
                        "provided port is not in the valid range. The range of valid ports is {}-{}",
                        NODE_PORTS.start(),
                        NODE_PORTS.end()
                    ),
                );
                continue;
            };
            if used.ports.get(&(n, protocol.clone())).is_some_and(|o| o != owner) {
                errors.invalid(path, wanted, "provided port is already allocated");
                continue;
            }
            n
        } else if wants {
            let span = u32::from(NODE_PORTS.end() - NODE_PORTS.start()) + 1;
            let start = rand::random::<u32>() % span;
            let taken = |n: u16| {
                ["TCP", "UDP", "SCTP"].iter().any(|p| {
                    used.ports.contains_key(&(n, p.to_string())) || own.contains(&(n, p.to_string()))
                })
            };
            let free =
                (0..span).map(|k| NODE_PORTS.start() + ((start + k) % span) as u16).find(|n| !taken(*n));
            let Some(n) = free else {
                errors.invalid(path, 0, "failed to allocate a nodePort: range is full");
                continue;
            };
            n
        } else {
            continue;
        };
        port["nodePort"] = number.into();
        if !used.ports.contains_key(&(number, protocol.clone())) {
            own.insert((number, protocol));
        }
    }
    own
}

fn holdings(svc: &Value) -> (BTreeSet<IpAddr>, BTreeSet<(u16, String)>) {
    let ips = families::cluster_ips(&svc["spec"]).iter().filter_map(|ip| ip.parse().ok()).collect();
    let ports = list(svc, "spec.ports")
        .iter()
        .filter_map(|p| {
            let n = u16::try_from(int(p, "nodePort")?).ok().filter(|n| *n > 0)?;
            Some((n, text(p, "protocol").to_string()))
        })
        .collect();
    (ips, ports)
}

/// Marks what the stored services hold; at start.
///
/// # Errors
/// If the store fails.
pub fn restore(api: &Api) -> ApiResult<()> {
    for stored in api.storage.list(&storage::prefix("core/services", ""), None, 0, 0)?.items {
        api.allocator.hold(&stored.value);
    }
    Ok(())
}
