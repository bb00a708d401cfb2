//! What is written into Kubernetes. By a node's agent: its CiliumNode, the identities of its pods, and one
//! CiliumEndpoint per pod. By the mesh server: events about Services.

mod endpoint;
mod identity;
mod node;
mod warnings;

pub use endpoint::{EndpointReport, EndpointWriter};
pub use identity::{Created, IdentityAllocator, IdentityStore, KubeIdentities};
pub use node::CiliumNodeWriter;
pub use warnings::{WarningTap, WarningWriter, warnings};

/// Field manager of everything written here. It is one name for all nodes: the object of a pod that
/// comes back on another node is then taken over whole, with nothing of the old one left in it.
const FIELD_MANAGER: &str = "causeway-agent";
