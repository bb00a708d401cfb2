//! How a node balances, where services do not say it themselves.

use std::ops::RangeInclusive;

use causeway_model::Protocol;
use causeway_model::lb::{Algorithm, Forwarding};

use crate::Acceleration;
use crate::maglev::Maglev;

/// How packets of clients outside get to backends of other nodes (`bpf-lb-mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LbMode {
    /// Under the node's address; answers come back by the node.
    #[default]
    Snat,
    /// Under the client's; the backend's node answers the client itself. Needs native routing.
    Dsr,
    /// TCP as [`LbMode::Dsr`], all else as [`LbMode::Snat`].
    Hybrid,
}

impl LbMode {
    /// What it is for a protocol.
    pub(crate) fn forwarding(self, protocol: Protocol) -> Forwarding {
        match self {
            Self::Dsr => Forwarding::Dsr,
            Self::Hybrid if protocol == Protocol::TCP => Forwarding::Dsr,
            Self::Hybrid | Self::Snat => Forwarding::Snat,
        }
    }
}

/// What a node is told at start about its services.
#[derive(Debug, Clone, Default)]
pub struct Balance {
    /// How clients outside are balanced (`bpf-lb-algorithm`). At the socket it is always at random.
    pub algorithm: Algorithm,
    /// How clients outside get to backends of other nodes, of services that do not say it.
    pub mode: LbMode,
    /// The tables of Maglev. Unequal weights have tables of at most this size, too.
    pub maglev: Maglev,
    /// Leave the sockets of pods to the packet layer (`bpf-lb-sock-hostns-only`).
    pub host_netns_only: bool,
    /// Refuse processes of the node the ports of services (`node-port-bind-protection`).
    pub protect_ports: bool,
    /// End TCP connections to backends that are gone, too (`bpf-lb-sock-terminate-tcp`); those of UDP
    /// always end.
    pub terminate_tcp: bool,
    /// Sizes of the maps; `None` = as they are compiled.
    pub sizes: Sizes,
    /// The devices where clients outside come in (`devices`); empty = those of the node's address and
    /// of default routes.
    pub devices: Vec<String>,
    /// Whether XDP serves clients outside there (`bpf-lb-acceleration`).
    pub acceleration: Acceleration,
    /// Say nothing to clients of services that nobody is behind, instead of refusing them
    /// (`service-no-backend-response`).
    pub drop_no_backend: bool,
    /// The ports NodePorts are given (`node-port-range`): source NAT keeps off them.
    pub node_ports: NodePorts,
}

/// The range of NodePorts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePorts(pub RangeInclusive<u16>);

impl Default for NodePorts {
    /// Kubernetes' own.
    fn default() -> Self {
        Self(30000..=32767)
    }
}

/// How many entries maps may have that have not been made yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Frontends, lookup tables, clients with affinity, source ranges; backends and slots 16 times as
    /// many (`bpf-lb-map-max`).
    pub services: Option<u32>,
    /// Sockets and the backends they talk to (`bpf-sock-rev-map-max`).
    pub sockets: Option<u32>,
    /// Tracked flows of TCP (`bpf-ct-global-tcp-max`).
    pub tcp_flows: Option<u32>,
    /// Tracked flows of all other protocols (`bpf-ct-global-any-max`).
    pub other_flows: Option<u32>,
    /// Flows under source NAT (`bpf-nat-global-max`).
    pub nat: Option<u32>,
}

impl Sizes {
    /// Sizes for flows that take about this part of the machine's memory together
    /// (`bpf-map-dynamic-size-ratio`), in the proportions of the compiled ones; 0 = as compiled.
    pub fn of_memory(bytes: u64, ratio: f64) -> Self {
        /// Entries as compiled, and the fewest worth having.
        const FLOWS: [(u32, u32); 3] = [(524_288, 131_072), (262_144, 65_536), (524_288, 131_072)];
        /// What an entry takes: key, value and the kernel's own.
        const ENTRY: f64 = 40.0 + 40.0 + 64.0;
        if bytes == 0 || ratio <= 0.0 {
            return Self::default();
        }
        let compiled: f64 = FLOWS.iter().map(|(entries, _)| f64::from(*entries) * ENTRY).sum();
        let scale = bytes as f64 * ratio / compiled;
        let size = |index: usize| {
            let (entries, fewest) = FLOWS[index];
            Some(((f64::from(entries) * scale) as u32).clamp(fewest, 1 << 24))
        };
        Self { tcp_flows: size(0), other_flows: size(1), nat: size(2), ..Self::default() }
    }

    /// The maps that are of another size than compiled.
    pub(crate) fn maps(&self) -> impl Iterator<Item = (&'static str, u32)> {
        const SERVICES: [&str; 4] =
            ["cw_lb_frontends", "cw_lb_tables", "cw_lb_affinity", "cw_lb_source_ranges"];
        const BACKENDS: [&str; 3] = ["cw_lb_slots", "cw_lb_backends", "cw_lb_matches"];
        let services = self.services.into_iter().flat_map(|size| {
            let services = SERVICES.into_iter().map(move |map| (map, size));
            services.chain(BACKENDS.into_iter().map(move |map| (map, size.saturating_mul(16))))
        });
        let single = [
            ("cw_lb_reverse", self.sockets),
            ("cw_ct_tcp", self.tcp_flows),
            ("cw_ct_any", self.other_flows),
            ("cw_nat", self.nat),
        ];
        services.chain(single.into_iter().filter_map(|(map, size)| Some((map, size?))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_of_flows_follow_the_memory() {
        let of = |gib: u64| Sizes::of_memory(gib << 30, 0.0025);
        assert_eq!(of(1).tcp_flows, Some(131_072), "the fewest");
        let (large, larger) = (of(64), of(128));
        assert!(large.tcp_flows > Some(131_072) && larger.nat > large.nat, "{large:?} {larger:?}");
        assert_eq!(large.tcp_flows, large.nat);
        assert_eq!(Sizes::of_memory(1 << 40, 0.0), Sizes::default());
        assert!(of(1 << 20).tcp_flows <= Some(1 << 24));
    }
}
