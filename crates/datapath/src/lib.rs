//! The merged state made true: BPF maps and links, routes, tunnels, NAT, CNI.
//!
//! [`Datapath`] owns everything of one node: the pinned maps and programs, the tunnel device, the
//! routes and the pods' interfaces. It is told what should be ([`causeway_model::Event`]s of
//! addresses and frontends, endpoints, pod CIDRs) and makes it so; what the kernel holds survives
//! it, and the next [`Datapath::open`] adopts it.
//!
//! **Every call blocks** (netlink, `bpf(2)`, files) and acts on the network and mount namespaces of
//! the calling thread, which must be the node's. From async code call it on a thread of its own.
//!
//! Pods have IPv4, IPv6 or both. Packets between nodes go in tunnels, which run over IPv4 for both, or by
//! the node's own routes ([`Routing`]).

mod acceleration;
mod addresses;
mod attach;
mod balance;
pub mod cni;
mod config;
pub mod conntrack;
mod datapath;
mod devices;
mod endpoint;
mod error;
mod frontends;
pub mod inspect;
mod ip_pair;
pub mod ipam;
mod maglev;
mod maps;
mod masquerade;
mod netlink;
mod nodes;
mod object;
mod routing;
mod terminate;

pub use acceleration::{Accelerated, Acceleration};
pub use addresses::Stats;
pub use attach::AttachMode;
pub use balance::{Balance, LbMode, NodePorts, Sizes};
pub use config::{Config, PodNetwork};
pub use datapath::Datapath;
pub use endpoint::{Endpoint, EndpointSpec};
pub use error::Error;
pub use ip_pair::IpPair;
pub use maglev::{Maglev, SIZES as MAGLEV_SIZES};
pub use maps::metrics::Counter;
pub use routing::{NodeRoutes, RemoteNodes, Routing};
