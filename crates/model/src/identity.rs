//! Security identities: a number that stands for a set of labels.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Keyed, Labels};

/// A 24-bit identity on the wire, 32 bits in maps; the top 8 bits are the scope
/// (0 global, 1 node-local CIDR, 2 node-local remote node; behaviours 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NumericIdentity(pub u32);

impl NumericIdentity {
    /// Not known.
    pub const UNKNOWN: Self = Self(0);
    /// This node.
    pub const HOST: Self = Self(1);
    /// Everything outside the mesh.
    pub const WORLD: Self = Self(2);
    /// Pods that Causeway does not manage.
    pub const UNMANAGED: Self = Self(3);
    /// Health endpoints.
    pub const HEALTH: Self = Self(4);
    /// A pod whose labels are not known yet.
    pub const INIT: Self = Self(5);
    /// All other nodes, of this and of other clusters.
    pub const REMOTE_NODE: Self = Self(6);
    /// The Kubernetes API server.
    pub const KUBE_APISERVER: Self = Self(7);
    /// Ingress endpoints.
    pub const INGRESS: Self = Self(8);
    /// First number that is not reserved (mesh-protocol 4).
    pub const MIN_ALLOCATED: Self = Self(256);

    /// True for numbers with a fixed meaning in every cluster.
    pub const fn is_reserved(self) -> bool {
        self.0 < Self::MIN_ALLOCATED.0
    }
}

impl fmt::Display for NumericIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// An allocated identity with the labels it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The number.
    pub id: NumericIdentity,
    /// The labels.
    pub labels: Labels,
}

impl Keyed for Identity {
    type Key = NumericIdentity;
    fn key(&self) -> NumericIdentity {
        self.id
    }
}
