//! What the merger holds and why, for people: `causeway service list` and `trace`, and metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use causeway_model::lb::{FrontendKind, HostPort, L4Addr};
use causeway_model::{
    Affinity, ClusterName, Protocol, Service, ServiceKey, ServicePort, ServiceType, SliceEndpoint,
    TrafficPolicy,
};
use serde::{Deserialize, Serialize};

use super::ServiceMerger;
use crate::merge::backends::{Candidate, ListId, ServiceBackends, Verdict};
use crate::merge::selection::{Grade, Loss};

/// A service of this cluster with its addresses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceView {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Kubernetes name.
    pub name: String,
    /// Its type as Kubernetes calls it; `Headless` where it has no addresses of its own, `HostPort` for a
    /// pod with ports of this node.
    #[serde(rename = "type")]
    pub kind: String,
    /// It uses the backends of other clusters.
    pub global: bool,
    /// Other clusters may use its backends.
    pub shared: bool,
    /// Which clusters are used first, and how much each gets; empty = all alike.
    pub preference: String,
    /// `Cluster` or `Local`, for clients outside.
    pub external_traffic_policy: String,
    /// The same for clients inside.
    pub internal_traffic_policy: String,
    /// What its annotations say that means nothing.
    pub warnings: Vec<String>,
    /// Its addresses, in order.
    pub frontends: Vec<FrontendView>,
}

/// An address of a service with everything that was looked at for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendView {
    /// Address, port and protocol, like `10.96.0.1:80/TCP`.
    pub address: String,
    /// What it is to the service: `ClusterIP`, `NodePort`, `LoadBalancer`, `ExternalIP`, `HostPort`.
    pub kind: String,
    /// The name of the service's port.
    pub port_name: String,
    /// The service that has this address instead, if two want it.
    pub held_by: Option<String>,
    /// Backends for clients outside; for all where `internal` is not there.
    pub backends: Vec<BackendView>,
    /// Backends for clients inside, where they get others.
    pub internal: Option<Vec<BackendView>>,
}

/// How a backend is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendState {
    /// Ready.
    Active,
    /// On its way out.
    Terminating,
    /// Its node does not answer.
    Unreachable,
    /// Neither ready nor serving.
    NotReady,
}

impl BackendState {
    /// The word for it, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Terminating => "terminating",
            Self::Unreachable => "unreachable",
            Self::NotReady => "not-ready",
        }
    }
}

/// A backend that was looked at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendView {
    /// Address, port and protocol; the port is 0 where it has none that fits.
    pub address: String,
    /// Its cluster; `None` = this one.
    pub cluster: Option<String>,
    /// Its node, of backends of this cluster.
    pub node: Option<String>,
    /// How it is.
    pub state: BackendState,
    /// The datapath knows it: it gets new connections, or keeps those it has.
    pub listed: bool,
    /// Its part of new connections, 0 to 1.
    pub share: f64,
    /// Why it gets none.
    pub reason: Option<String>,
}

/// What load balancers ask a node: how many backends of a service it has itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// The service.
    pub service: ServiceKey,
    /// `spec.healthCheckNodePort`.
    pub port: u16,
    /// Active backends on this node. Those of other clusters never count.
    pub local_endpoints: usize,
}

impl ServiceMerger {
    /// What has addresses, or could: the services of this cluster, and the pods of this node with ports of it.
    pub fn owners(&self) -> impl Iterator<Item = &ServiceKey> {
        self.services.iter().map(|(key, _)| key).chain(self.host_ports.iter().map(|(key, _)| key))
    }

    /// The services at an address, with the addresses they have; at any port if none is given. A port of
    /// every node is at all addresses.
    pub fn services_at(&self, ip: IpAddr, port: Option<u16>) -> Vec<(L4Addr, &ServiceKey)> {
        let ip = ip.to_canonical();
        let everywhere = match ip {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let exact = self.claimed(ip, port);
        if exact.is_empty() && port.is_some() { self.claimed(everywhere, port) } else { exact }
    }

    fn claimed(&self, ip: IpAddr, port: Option<u16>) -> Vec<(L4Addr, &ServiceKey)> {
        let first = L4Addr { ip, port: 0, protocol: Protocol::TCP };
        let all = self.claims.range(first..).take_while(|(address, _)| address.ip == ip);
        let fitting = all.filter(|(address, _)| port.is_none_or(|port| address.port == port));
        fitting.filter_map(|(address, claims)| Some((*address, &claims.first()?.1))).collect()
    }

    /// A service with its addresses, and for each the backends that were looked at, which of them take
    /// new connections, and why the others do not. `None` if there is no such service.
    pub fn explain(&self, key: &ServiceKey) -> Option<ServiceView> {
        let Some(service) = self.services.get(key) else { return self.explain_pod(key) };
        let backends = self.backends.get(key)?;
        let nodes = self.endpoints(service);
        let wanted = self.wanted.get(key).into_iter().flatten();
        let frontends = wanted.filter_map(|(address, wanted)| {
            let main = wanted.list?;
            let list = |id| self.list(service, backends, id, &nodes);
            Some(FrontendView {
                address: address.to_string(),
                kind: format!("{:?}", wanted.rank.kind()),
                port_name: service.ports[main.port].name.clone(),
                held_by: self.held_by(address, key),
                backends: list(main),
                internal: wanted.internal.as_ref().map(|(id, _)| list(*id)),
            })
        });
        Some(ServiceView {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            kind: if service.headless { "Headless".to_owned() } else { format!("{:?}", service.kind) },
            global: service.sharing.global,
            shared: service.sharing.shared,
            preference: preference(service),
            external_traffic_policy: format!("{:?}", service.external_traffic),
            internal_traffic_policy: format!("{:?}", service.internal_traffic),
            warnings: service.warnings.clone(),
            frontends: frontends.collect(),
        })
    }

    /// A pod with ports of this node: it alone answers there.
    fn explain_pod(&self, key: &ServiceKey) -> Option<ServiceView> {
        let pod = self.host_ports.get(key)?;
        let view = |port: &HostPort| FrontendView {
            address: port.address.to_string(),
            kind: format!("{:?}", FrontendKind::HostPort),
            port_name: String::new(),
            held_by: self.held_by(&port.address, key),
            backends: vec![BackendView {
                address: port.backend.to_string(),
                cluster: None,
                node: self.location.node.clone(),
                state: BackendState::Active,
                listed: true,
                share: 1.0,
                reason: None,
            }],
            internal: None,
        };
        Some(ServiceView {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            kind: format!("{:?}", FrontendKind::HostPort),
            global: false,
            shared: false,
            preference: String::new(),
            external_traffic_policy: format!("{:?}", TrafficPolicy::Local),
            internal_traffic_policy: format!("{:?}", TrafficPolicy::Local),
            warnings: vec![],
            frontends: pod.ports.iter().map(view).collect(),
        })
    }

    /// Who has an address instead of the one that wants it.
    fn held_by(&self, address: &L4Addr, wanting: &ServiceKey) -> Option<String> {
        let (_, first) = self.claims.get(address)?.first()?;
        (first != wanting).then(|| first.to_string())
    }

    /// How many backends a service has by cluster and state: of that port which has most.
    pub fn backend_counts(
        &self,
        key: &ServiceKey,
    ) -> Option<BTreeMap<(Option<ClusterName>, BackendState), u32>> {
        let mut out = BTreeMap::new();
        for ((cluster, grade), count) in self.backends.get(key)?.counts() {
            *out.entry((cluster, state(grade))).or_default() += count;
        }
        Some(out)
    }

    /// What this node answers load balancers that ask for a service; `None` if nobody should ask.
    pub fn health_check(&self, key: &ServiceKey) -> Option<HealthCheck> {
        let service = self.services.get(key)?;
        let wanted = service.health_check_node_port != 0
            && service.kind == ServiceType::LoadBalancer
            && service.external_traffic == TrafficPolicy::Local;
        wanted.then(|| HealthCheck {
            service: key.clone(),
            port: service.health_check_node_port,
            local_endpoints: self.backends.get(key).map_or(0, ServiceBackends::active_here),
        })
    }

    /// What this cluster's slices say of the addresses of a service.
    fn endpoints<'a>(&'a self, service: &Service) -> BTreeMap<IpAddr, &'a SliceEndpoint> {
        let slices = self.slices_of.get(&service.key).into_iter().flatten();
        let endpoints = slices.filter_map(|key| self.slices.get(key)).flat_map(|slice| &slice.endpoints);
        endpoints
            .flat_map(|endpoint| endpoint.addresses.iter().map(move |ip| (ip.to_canonical(), endpoint)))
            .collect()
    }

    /// One list, with the reasons; behind those that were weighed, those that never came so far.
    fn list(
        &self,
        service: &Service,
        backends: &ServiceBackends,
        id: ListId,
        endpoints: &BTreeMap<IpAddr, &SliceEndpoint>,
    ) -> Vec<BackendView> {
        let candidates = backends.candidates(service, id);
        let weights = candidates.iter().map(|candidate| match candidate.verdict {
            Verdict::Wins(weight) => u64::from(weight),
            _ => 0,
        });
        let sum = weights.sum::<u64>().max(1) as f64;
        let winners: BTreeSet<_> = candidates
            .iter()
            .filter(|candidate| matches!(candidate.verdict, Verdict::Wins(_)))
            .map(|candidate| named(candidate.cluster.as_ref()))
            .collect();
        let winners: Vec<_> = winners.into_iter().collect();
        let port = &service.ports[id.port];
        let mut out: Vec<BackendView> = vec![];
        for Candidate { address, cluster, grade, verdict } in candidates {
            let (share, listed, reason) = match verdict {
                Verdict::Wins(weight) => (f64::from(weight) / sum, true, None),
                Verdict::Loses(loss) => (0.0, loss != Loss::Node, Some(self.reason(loss, &winners))),
                Verdict::OtherName => {
                    (0.0, false, Some(format!("it has no port of the name {:?}", port.name)))
                }
                Verdict::Taken => {
                    let reason = "the address is named by this cluster or by one that goes before";
                    (0.0, false, Some(reason.to_owned()))
                }
            };
            let node = endpoints.get(&address.ip).filter(|_| cluster.is_none());
            out.push(BackendView {
                address: address.to_string(),
                cluster: cluster.map(|name| name.to_string()),
                node: node.and_then(|endpoint| endpoint.node.clone()),
                state: state(grade),
                listed,
                share,
                reason,
            });
        }
        out.extend(self.left_out(service, port, id, endpoints));
        out
    }

    /// Who never came to be weighed: endpoints that are not ready, and those of other clusters where
    /// the service is not global.
    fn left_out(
        &self,
        service: &Service,
        port: &ServicePort,
        id: ListId,
        endpoints: &BTreeMap<IpAddr, &SliceEndpoint>,
    ) -> Vec<BackendView> {
        let view = |ip: IpAddr, cluster: Option<&ClusterName>, node, state, reason: &str| BackendView {
            address: L4Addr { ip, port: 0, protocol: port.protocol }.to_string(),
            cluster: cluster.map(ToString::to_string),
            node,
            state,
            listed: false,
            share: 0.0,
            reason: Some(reason.to_owned()),
        };
        let family = |ip: &IpAddr| ip.is_ipv6() == id.v6;
        let mut out = vec![];
        for (ip, endpoint) in endpoints.iter().filter(|(ip, _)| family(ip)) {
            let conditions = endpoint.conditions;
            if !(conditions.ready || conditions.serving && conditions.terminating) {
                out.push(view(*ip, None, endpoint.node.clone(), BackendState::NotReady, "it is not ready"));
            }
        }
        for (cluster, shared) in self.remotes.iter().filter(|_| !service.sharing.global) {
            let theirs = shared.get(&(cluster.clone(), service.key.clone()));
            for (ip, _) in
                theirs.into_iter().flat_map(|theirs| theirs.backends.iter()).filter(|(ip, _)| family(ip))
            {
                let reason = "the service of this cluster is not global";
                out.push(view(ip, Some(cluster), None, BackendState::Active, reason));
            }
        }
        out
    }

    fn reason(&self, loss: Loss, winners: &[String]) -> String {
        match loss {
            Loss::Step if winners.is_empty() => "other clusters go before".to_owned(),
            Loss::Step if winners.len() == 1 => format!("{} goes before it", winners[0]),
            Loss::Step => format!("{} go before it", winners.join(" and ")),
            Loss::Node => "it is on another node, and the traffic policy is Local".to_owned(),
            Loss::Terminating => "it is terminating, and others are not".to_owned(),
            Loss::Unreachable => "its node does not answer".to_owned(),
            Loss::Zone => {
                let zone = self.location.zone.as_deref().unwrap_or_default();
                format!("others are hinted for the zone {zone}")
            }
        }
    }
}

fn named(cluster: Option<&ClusterName>) -> String {
    cluster.map_or("this cluster".to_owned(), ToString::to_string)
}

const fn state(grade: Grade) -> BackendState {
    match grade {
        Grade::Active => BackendState::Active,
        Grade::Terminating => BackendState::Terminating,
        Grade::Unreachable | Grade::UnreachableTerminating => BackendState::Unreachable,
    }
}

/// What a service prefers, in words.
fn preference(service: &Service) -> String {
    if !service.sharing.global {
        return String::new();
    }
    let name = |name: &Option<ClusterName>| name.as_ref().map_or("local", |name| name.as_str()).to_owned();
    let mut parts = vec![];
    if !service.preference.order.is_empty() {
        let order: Vec<_> = service.preference.order.iter().map(name).collect();
        parts.push(format!("order {}", order.join(",")));
    } else if service.sharing.affinity != Affinity::None {
        parts.push(format!("affinity {:?}", service.sharing.affinity).to_lowercase());
    }
    if !service.preference.weights.is_empty() {
        let weights = service.preference.weights.iter();
        let weights: Vec<_> =
            weights.map(|(cluster, weight)| format!("{}={weight}", name(cluster))).collect();
        parts.push(format!("weights {}", weights.join(",")));
    }
    parts.join("; ")
}
