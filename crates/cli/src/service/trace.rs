//! What `trace` asks and what the agent answers. The answer is [`ServiceMerger::explain`]'s, cut down to
//! what was asked for.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use causeway_mesh::merge::{BackendView, FrontendView, ServiceMerger, ServiceView};
use causeway_model::ServiceKey;
use causeway_model::lb::L4Addr;
use serde::{Deserialize, Serialize};

/// Clients outside the cluster.
const OUTSIDE: &str = "outside";
/// Processes of the node itself.
const NODE: &str = "node";

/// Who connects to what, as it was typed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Question {
    pub(crate) from: String,
    pub(crate) to: String,
}

/// The services that were found, with the addresses that were meant.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Trace {
    pub(crate) from: String,
    /// Clients inside are translated where they connect, others where their packets come in.
    pub(crate) inside: bool,
    pub(crate) services: Vec<TracedService>,
}

/// A service, and what a client gets at each of its addresses.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TracedService {
    pub(crate) service: String,
    pub(crate) preference: String,
    /// The traffic policy that holds for this client.
    pub(crate) policy: String,
    pub(crate) warnings: Vec<String>,
    pub(crate) frontends: Vec<TracedFrontend>,
}

/// An address with everything that was looked at.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TracedFrontend {
    pub(crate) address: String,
    pub(crate) kind: String,
    pub(crate) held_by: Option<String>,
    pub(crate) backends: Vec<BackendView>,
}

/// What is asked for, read.
#[derive(Debug, PartialEq)]
enum To<'a> {
    Address(IpAddr, Option<u16>),
    Service(ServiceKey, Option<&'a str>),
}

impl Question {
    /// The pod that connects, if it is one: namespace and name.
    ///
    /// # Errors
    /// A text that names no client.
    pub(crate) fn pod(&self) -> Result<Option<(&str, &str)>, String> {
        match self.from.split_once('/') {
            _ if self.from == OUTSIDE || self.from == NODE => Ok(None),
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                Ok(Some((namespace, name)))
            }
            _ => Err(format!(
                "{:?} is no client: give a pod of this node as NAMESPACE/NAME, or {NODE:?}, or {OUTSIDE:?}",
                self.from
            )),
        }
    }

    /// Answers from what is merged now.
    ///
    /// # Errors
    /// What is not there, with what to do.
    pub(crate) fn answer(&self, merger: &ServiceMerger) -> Result<Trace, String> {
        let inside = self.from != OUTSIDE;
        let mut wanted: BTreeMap<&ServiceKey, Vec<L4Addr>> = BTreeMap::new();
        let to = self.to()?;
        match &to {
            To::Address(ip, port) => {
                for (address, service) in merger.services_at(*ip, *port) {
                    wanted.entry(service).or_default().push(address);
                }
                if wanted.is_empty() {
                    return Err(format!("no service of this cluster has the address {}", self.to));
                }
            }
            To::Service(key, _) if merger.service(key).is_none() => {
                return Err(format!(
                    "there is no Service {key} in this cluster: without one, nothing is balanced"
                ));
            }
            To::Service(key, _) => drop(wanted.insert(key, vec![])),
        }
        let mut services = vec![];
        for (key, addresses) in wanted {
            let Some(view) = merger.explain(key) else { continue };
            let port = if let To::Service(_, port) = &to { *port } else { None };
            let meant = |frontend: &FrontendView| {
                let named =
                    addresses.is_empty() || addresses.iter().any(|a| a.to_string() == frontend.address);
                named
                    && port.is_none_or(|port| has_port(frontend, port))
                    && (inside || frontend.kind != "ClusterIP")
            };
            let traced = traced(view, inside, meant);
            if traced.frontends.is_empty() {
                let of = if inside { "" } else { " for clients outside" };
                let port = port.map(|port| format!(" of port {port}")).unwrap_or_default();
                return Err(format!("{key} has no address{port}{of}"));
            }
            services.push(traced);
        }
        Ok(Trace { from: self.from.clone(), inside, services })
    }

    fn to(&self) -> Result<To<'_>, String> {
        let text = self.to.as_str();
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(To::Address(address.ip(), Some(address.port())));
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(To::Address(ip, None));
        }
        let (service, port) =
            text.split_once(':').map_or((text, None), |(service, port)| (service, Some(port)));
        match service.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                let key = ServiceKey { namespace: namespace.to_owned(), name: name.to_owned() };
                Ok(To::Service(key, port.filter(|port| !port.is_empty())))
            }
            _ => Err(format!("{text:?} is no service: give NAMESPACE/NAME[:PORT] or IP[:PORT]")),
        }
    }
}

/// By number or name.
fn has_port(frontend: &FrontendView, port: &str) -> bool {
    let number = frontend.address.rsplit_once('/').and_then(|(address, _)| address.rsplit_once(':'));
    frontend.port_name == port || number.is_some_and(|(_, number)| number == port)
}

fn traced(view: ServiceView, inside: bool, meant: impl Fn(&FrontendView) -> bool) -> TracedService {
    let frontends = view.frontends.into_iter().filter(meant).map(|frontend| TracedFrontend {
        address: frontend.address,
        kind: frontend.kind,
        held_by: frontend.held_by,
        backends: frontend.internal.filter(|_| inside).unwrap_or(frontend.backends),
    });
    TracedService {
        service: format!("{}/{}", view.namespace, view.name),
        preference: view.preference,
        policy: if inside { view.internal_traffic_policy } else { view.external_traffic_policy },
        warnings: view.warnings,
        frontends: frontends.collect(),
    }
}

#[cfg(test)]
mod tests {
    use causeway_model::{Event, Protocol, Service, ServicePort, ServiceType};

    use super::*;

    fn merger() -> ServiceMerger {
        let port = |name: &str, port, node_port| ServicePort {
            name: name.into(),
            protocol: Protocol::TCP,
            app_protocol: None,
            port,
            node_port,
        };
        let key = |name: &str| ServiceKey { namespace: "shop".into(), name: name.into() };
        let mut merger = ServiceMerger::new();
        merger.apply_service(Event::Upsert(Service {
            kind: ServiceType::LoadBalancer,
            cluster_ips: vec!["10.96.0.1".parse().unwrap(), "fd96::1".parse().unwrap()],
            load_balancer_ips: vec!["203.0.113.5".parse().unwrap()],
            ports: vec![port("http", 80, 0), port("admin", 81, 0)],
            ..Service::new(key("web"))
        }));
        merger.apply_service(Event::Upsert(Service {
            cluster_ips: vec!["10.96.0.2".parse().unwrap()],
            ports: vec![port("http", 80, 0)],
            ..Service::new(key("api"))
        }));
        merger
    }

    /// `address kind` of what was found, or the error.
    fn ask(from: &str, to: &str) -> Result<Vec<String>, String> {
        let trace = Question { from: from.into(), to: to.into() }.answer(&merger())?;
        let frontends = trace.services.iter().flat_map(|service| &service.frontends);
        Ok(frontends.map(|frontend| format!("{} {}", frontend.address, frontend.kind)).collect())
    }

    #[test]
    fn services_and_addresses_are_found() {
        assert_eq!(ask("node", "shop/api").unwrap(), ["10.96.0.2:80/TCP ClusterIP"]);
        let admin =
            ["10.96.0.1:81/TCP ClusterIP", "203.0.113.5:81/TCP LoadBalancer", "[fd96::1]:81/TCP ClusterIP"];
        assert_eq!(ask("shop/client", "shop/web:admin").unwrap(), admin);
        assert_eq!(ask("shop/client", "shop/web:81").unwrap(), admin);
        assert_eq!(ask("node", "203.0.113.5:80").unwrap(), ["203.0.113.5:80/TCP LoadBalancer"]);
        assert_eq!(ask("node", "[fd96::1]:80").unwrap(), ["[fd96::1]:80/TCP ClusterIP"]);
        assert_eq!(ask("node", "10.96.0.1").unwrap().len(), 2);
        let outside = ["203.0.113.5:80/TCP LoadBalancer"];
        assert_eq!(ask("outside", "shop/web:http").unwrap(), outside);
    }

    #[test]
    fn what_is_not_there_is_said() {
        for (from, to, says) in [
            ("outside", "shop/api", "no address for clients outside"),
            ("node", "shop/web:82", "no address of port 82"),
            ("node", "shop/none", "there is no Service shop/none"),
            ("node", "10.9.9.9:80", "no service of this cluster has the address 10.9.9.9:80"),
            ("node", "web", "give NAMESPACE/NAME[:PORT]"),
        ] {
            let error = ask(from, to).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        let pod = |from: &str| {
            Question { from: from.into(), to: String::new() }
                .pod()
                .map(|pod| pod.map(|(_, name)| name.to_owned()))
        };
        assert_eq!((pod("outside"), pod("shop/a")), (Ok(None), Ok(Some("a".to_owned()))));
        assert!(pod("client").unwrap_err().contains("NAMESPACE/NAME"));
    }
}
