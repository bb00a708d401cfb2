//! How a node balances, where services do not say it themselves.

use causeway_model::lb::Algorithm;

use crate::maglev::Maglev;

/// What a node is told at start about its services.
#[derive(Debug, Clone, Default)]
pub struct Balance {
    /// How clients outside are balanced (`bpf-lb-algorithm`). At the socket it is always at random.
    pub algorithm: Algorithm,
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
}

/// How many entries maps may have that have not been made yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Frontends, lookup tables, clients with affinity, source ranges; backends and slots 16 times as
    /// many (`bpf-lb-map-max`).
    pub services: Option<u32>,
    /// Sockets and the backends they talk to (`bpf-sock-rev-map-max`).
    pub sockets: Option<u32>,
}

impl Sizes {
    /// The maps that are of another size than compiled.
    pub(crate) fn maps(&self) -> impl Iterator<Item = (&'static str, u32)> {
        const SERVICES: [&str; 4] =
            ["cw_lb_frontends", "cw_lb_tables", "cw_lb_affinity", "cw_lb_source_ranges"];
        const BACKENDS: [&str; 3] = ["cw_lb_slots", "cw_lb_backends", "cw_lb_matches"];
        let services = self.services.into_iter().flat_map(|size| {
            let services = SERVICES.into_iter().map(move |map| (map, size));
            services.chain(BACKENDS.into_iter().map(move |map| (map, size.saturating_mul(16))))
        });
        services.chain(self.sockets.map(|size| ("cw_lb_reverse", size)))
    }
}
