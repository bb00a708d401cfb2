//! How packets get to pods of other nodes, as an installation says it to the agents.

use clap::{Args, ValueEnum};
use ipnet::{Ipv4Net, Ipv6Net};
use serde_json::{Map, Value, json};

/// `routing-mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum RoutingMode {
    /// In VXLAN, from node to node
    #[default]
    Tunnel,
    /// As they are, by the routes of the network or of the nodes
    Native,
}

/// `bpf-lb-mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum LbMode {
    /// Under the node's address
    #[default]
    Snat,
    /// Under the client's address; the backend's node answers. Needs native routing
    Dsr,
    /// TCP as dsr, all else as snat
    Hybrid,
}

/// Flags of `causeway install` with the names of Cilium's settings.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Network {
    /// How packets get to pods of other nodes; the same in all clusters of a mesh
    #[arg(long, value_enum, default_value_t)]
    pub routing_mode: RoutingMode,
    /// Where pods go under their own address, beside the pods and nodes of all clusters
    #[arg(long, value_name = "CIDR")]
    pub ipv4_native_routing_cidr: Option<Ipv4Net>,
    /// The same of IPv6
    #[arg(long, value_name = "CIDR")]
    pub ipv6_native_routing_cidr: Option<Ipv6Net>,
    /// Make routes to the pods of nodes that are on a network of this one (native routing)
    #[arg(long)]
    pub auto_direct_node_routes: bool,
    /// Trust the network to know the way to all other nodes' pods
    #[arg(long, requires = "auto_direct_node_routes")]
    pub direct_routing_skip_unreachable: bool,
    /// How packets of clients outside get to backends of other nodes
    #[arg(long, value_enum, default_value_t)]
    pub bpf_lb_mode: LbMode,
}

impl Network {
    /// Whether it all goes together.
    ///
    /// # Errors
    /// What does not.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        match self.routing_mode {
            RoutingMode::Native => Ok(()),
            RoutingMode::Tunnel if self.auto_direct_node_routes => {
                Err("--auto-direct-node-routes needs --routing-mode native")
            }
            RoutingMode::Tunnel if self.bpf_lb_mode != LbMode::Snat => {
                Err("--bpf-lb-mode dsr and hybrid need --routing-mode native")
            }
            RoutingMode::Tunnel => Ok(()),
        }
    }

    /// The keys of `cilium-config`.
    pub(super) fn settings(&self) -> Map<String, Value> {
        let mut data = Map::new();
        let mut set = |key: &str, value: String| drop(data.insert(key.into(), json!(value)));
        match self.routing_mode {
            RoutingMode::Tunnel => {
                set("routing-mode", "tunnel".into());
                set("tunnel-protocol", "vxlan".into());
                set("tunnel-port", "8472".into());
            }
            RoutingMode::Native => {
                set("routing-mode", "native".into());
                set("auto-direct-node-routes", self.auto_direct_node_routes.to_string());
                set("direct-routing-skip-unreachable", self.direct_routing_skip_unreachable.to_string());
            }
        }
        if let Some(cidr) = self.ipv4_native_routing_cidr {
            set("ipv4-native-routing-cidr", cidr.to_string());
        }
        if let Some(cidr) = self.ipv6_native_routing_cidr {
            set("ipv6-native-routing-cidr", cidr.to_string());
        }
        let mode = match self.bpf_lb_mode {
            LbMode::Snat => "snat",
            LbMode::Dsr => "dsr",
            LbMode::Hybrid => "hybrid",
        };
        set("bpf-lb-mode", mode.into());
        data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_ciliums_names() {
        let tunnel = Network::default().settings();
        assert_eq!(
            (&tunnel["routing-mode"], &tunnel["tunnel-protocol"]),
            (&json!("tunnel"), &json!("vxlan"))
        );
        let native = Network {
            routing_mode: RoutingMode::Native,
            ipv4_native_routing_cidr: Some("10.0.0.0/8".parse().unwrap()),
            auto_direct_node_routes: true,
            bpf_lb_mode: LbMode::Hybrid,
            ..Network::default()
        };
        let data = native.settings();
        assert!(native.check().is_ok() && !data.contains_key("tunnel-protocol"));
        assert_eq!((&data["routing-mode"], &data["bpf-lb-mode"]), (&json!("native"), &json!("hybrid")));
        assert_eq!(data["ipv4-native-routing-cidr"], "10.0.0.0/8");
        assert_eq!(data["auto-direct-node-routes"], "true");
        for wrong in [
            Network { routing_mode: RoutingMode::Tunnel, bpf_lb_mode: LbMode::Snat, ..native.clone() },
            Network { bpf_lb_mode: LbMode::Dsr, ..Network::default() },
        ] {
            assert!(wrong.check().unwrap_err().contains("native"));
        }
    }
}
