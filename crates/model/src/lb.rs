//! What the load balancer is told: a frontend address and the backends behind it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::{ClusterName, Keyed, Protocol, ServiceKey};

/// Address, port and protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct L4Addr {
    /// The address.
    pub ip: IpAddr,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl fmt::Display for L4Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.ip, self.port), self.protocol)
    }
}

/// One chosen backend of a frontend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    /// Where it listens.
    pub address: L4Addr,
    /// The remote cluster it runs in; `None` = this cluster.
    pub cluster: Option<ClusterName>,
}

/// A frontend with its selected backends, ready for the datapath. No backends: connections are
/// refused at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontend {
    /// What clients connect to.
    pub address: L4Addr,
    /// The service it belongs to.
    pub service: ServiceKey,
    /// The backends to balance over, sorted; shared with the other addresses of the service.
    pub backends: Arc<[Backend]>,
}

impl Keyed for Frontend {
    type Key = L4Addr;
    fn key(&self) -> L4Addr {
        self.address
    }
}
