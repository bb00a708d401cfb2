//! Which address a load balancer has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;

use crate::controllers::config::ControllersConfig;
use crate::fabric::lb::AddressPool;

/// Annotation that asks for an address in a VPC subnet, by its id.
pub(super) const SUBNET: &str = "service.kubernetes.io/qcloud-loadbalancer-internal-subnetid";

/// An address and the subnet it is from (none: public).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Assigned {
    pub(super) ip: Ipv4Addr,
    pub(super) subnet: Option<String>,
}

/// Whether a Service is one for this controller.
pub(super) fn is_ours(service: &Service) -> bool {
    let Some(spec) = &service.spec else { return false };
    spec.type_.as_deref() == Some("LoadBalancer")
        && spec.load_balancer_class.is_none()
        && service.metadata.deletion_timestamp.is_none()
}

/// The subnet a Service asks for.
pub(super) fn subnet(service: &Service) -> Option<&str> {
    service.annotations().get(SUBNET).map(String::as_str).filter(|s| !s.is_empty())
}

/// The address in a Service's status.
pub(super) fn recorded(service: &Service) -> Option<Ipv4Addr> {
    let ingress = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?;
    ingress.first()?.ip.as_ref()?.parse().ok()
}

fn contains(pool: AddressPool, ip: Ipv4Addr) -> bool {
    (pool.first..=pool.last).contains(&ip)
}

fn pool(config: &ControllersConfig, subnet: Option<&str>) -> Result<AddressPool, String> {
    match subnet {
        Some(id) => config.subnets.get(id).copied().ok_or_else(|| {
            let known: Vec<&str> = config.subnets.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".into() } else { known.join(", ") };
            format!("subnet {id:?} does not exist; known subnets: {known}. Correct the annotation {SUBNET}")
        }),
        None => config.public.ok_or_else(|| {
            format!(
                "cluster {} has no public range; name a subnet with the annotation {SUBNET}",
                config.cluster
            )
        }),
    }
}

/// The address for a Service: the one it has if that is in the pool it asks for, the one it names, or the lowest free
/// one. `used` are the others' addresses, by the Service that has them.
///
/// # Errors
/// Why it gets none, for an event.
pub(super) fn assign(
    service: &Service,
    config: &ControllersConfig,
    used: &BTreeMap<Ipv4Addr, String>,
) -> Result<Assigned, String> {
    let subnet = subnet(service);
    let pool = pool(config, subnet)?;
    let assigned = |ip| Assigned { ip, subnet: subnet.map(str::to_string) };
    let place = || subnet.map_or_else(|| "the public range".to_string(), |id| format!("subnet {id:?}"));
    let named = service.spec.as_ref().and_then(|s| s.load_balancer_ip.as_deref()).filter(|ip| !ip.is_empty());
    if let Some(named) = named {
        let ip: Ipv4Addr =
            named.parse().map_err(|_| format!("loadBalancerIP {named:?} is not an IPv4 address"))?;
        if !contains(pool, ip) {
            let (first, last) = (pool.first, pool.last);
            return Err(format!(
                "loadBalancerIP {ip} is outside {}, which has {first} to {last} for it",
                place()
            ));
        }
        return match used.get(&ip) {
            Some(owner) => Err(format!("loadBalancerIP {ip} is in use by Service {owner}")),
            None => Ok(assigned(ip)),
        };
    }
    if let Some(ip) = recorded(service).filter(|ip| contains(pool, *ip) && !used.contains_key(ip)) {
        return Ok(assigned(ip));
    }
    let taken: BTreeSet<Ipv4Addr> = used.keys().copied().collect();
    let free = pool.addresses().find(|ip| !taken.contains(ip));
    free.map(assigned).ok_or_else(|| {
        let (first, last) = (pool.first, pool.last);
        format!(
            "all addresses of {} ({first} to {last}) are in use; delete a LoadBalancer Service to free one",
            place()
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config() -> ControllersConfig {
        serde_json::from_value(json!({
            "cluster": "cls", "pod_cidr": "10.1.0.0/16", "node_cidr_mask": 24, "load_balancers": "/x",
            "node_grace": {"secs": 40, "nanos": 0},
            "subnets": {"subnet-a1": {"first": "10.0.0.10", "last": "10.0.0.11"}, "subnet-b2": {"first": "10.0.1.10", "last": "10.0.1.10"}},
            "public": {"first": "203.0.113.1", "last": "203.0.113.9"},
        }))
        .unwrap()
    }

    fn service(subnet: &str, named: &str, has: &str) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "s", "annotations": {SUBNET: subnet}},
            "spec": {"type": "LoadBalancer", "loadBalancerIP": named},
            "status": {"loadBalancer": {"ingress": if has.is_empty() { json!([]) } else { json!([{"ip": has}]) }}},
        }))
        .unwrap()
    }

    fn used(ips: &[&str]) -> BTreeMap<Ipv4Addr, String> {
        ips.iter().map(|ip| (ip.parse().unwrap(), "ns/other".to_string())).collect()
    }

    #[test]
    fn lowest_free_address_and_then_always_the_same() {
        let get = |s: &Service, u: &[&str]| assign(s, &config(), &used(u)).map(|a| a.ip.to_string());
        assert_eq!(get(&service("subnet-a1", "", ""), &[]).unwrap(), "10.0.0.10");
        assert_eq!(get(&service("subnet-a1", "", "10.0.0.11"), &[]).unwrap(), "10.0.0.11");
        assert_eq!(get(&service("subnet-a1", "", ""), &["10.0.0.10"]).unwrap(), "10.0.0.11");
        assert_eq!(get(&service("", "", ""), &[]).unwrap(), "203.0.113.1");
        // The annotation changed: the address moves.
        assert_eq!(get(&service("subnet-b2", "", "10.0.0.11"), &[]).unwrap(), "10.0.1.10");
        assert_eq!(get(&service("subnet-a1", "10.0.0.11", "10.0.0.10"), &[]).unwrap(), "10.0.0.11");
    }

    #[test]
    fn refusals_name_the_thing_and_the_fix() {
        let why = |s: &Service, u: &[&str]| assign(s, &config(), &used(u)).unwrap_err();
        let unknown = why(&service("subnet-zz", "", ""), &[]);
        assert!(unknown.contains("\"subnet-zz\"") && unknown.contains("subnet-a1, subnet-b2"), "{unknown}");
        assert!(
            why(&service("subnet-b2", "", ""), &["10.0.1.10"])
                .contains("all addresses of subnet \"subnet-b2\"")
        );
        assert!(why(&service("subnet-a1", "10.9.9.9", ""), &[]).contains("outside subnet"));
        assert!(
            why(&service("subnet-a1", "10.0.0.10", ""), &["10.0.0.10"])
                .contains("in use by Service ns/other")
        );
        assert!(why(&service("", "nonsense", ""), &[]).contains("not an IPv4 address"));
    }
}
