//! Addresses with the identity behind them: what the ipcache is made of.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{Keyed, NumericIdentity};

/// IPsec key index of an address; 0 = none.
pub type EncryptKey = u8;

/// The pod an address belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodRef {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Kubernetes pod name.
    pub name: String,
}

impl PodRef {
    /// Both in one text with a slash between, which neither can have.
    pub fn to_text(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The pod of such a text; `None` if it has no slash.
    pub fn of_text(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/')?;
        Some(Self { namespace: namespace.into(), name: name.into() })
    }
}

/// An address or prefix, the identity behind it and the node that hosts it (mesh-protocol 2.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpEntry {
    /// The prefix; a single address has full length.
    pub prefix: IpNet,
    /// The identity; [`NumericIdentity::UNKNOWN`] when none is known yet.
    pub identity: NumericIdentity,
    /// The node that hosts it, which is also the tunnel endpoint; `None` if unknown or local.
    pub host_ip: Option<IpAddr>,
    /// IPsec key index, 0 = none.
    pub key_index: EncryptKey,
    /// The pod, where it is one.
    pub pod: Option<PodRef>,
}

impl Keyed for IpEntry {
    type Key = IpNet;
    fn key(&self) -> IpNet {
        self.prefix
    }
}

/// The addresses one pod's endpoint object claims. Two objects may claim one address for a short
/// while (a pod was replaced and its object lingers); who consumes these decides between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The pod; also the namespace and name of its endpoint object.
    pub pod: PodRef,
    /// Its addresses.
    pub addresses: Vec<IpEntry>,
}

impl Keyed for Endpoint {
    type Key = PodRef;
    fn key(&self) -> PodRef {
        self.pod.clone()
    }
}
