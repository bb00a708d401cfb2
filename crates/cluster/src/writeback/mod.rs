//! What is written into Kubernetes. By a node's agent: its CiliumNode, the identities of its pods, and one
//! CiliumEndpoint per pod. By the mesh server: events about Services. By the operator: EndpointSlices,
//! ServiceImports and the Services behind them.

mod endpoint;
mod identity;
mod imports;
mod node;
mod operator;
mod slices;
mod warnings;

pub use endpoint::{EndpointReport, EndpointWriter};
pub use identity::{Created, IdentityAllocator, IdentityStore, KubeIdentities};
pub use imports::ImportWriter;
pub use node::CiliumNodeWriter;
pub use slices::{OwnSlice, SliceOp, SliceWriter, plan};
pub use warnings::{WarningTap, WarningWriter, warnings};

/// Field manager of everything agents write. It is one name for all nodes: the object of a pod that
/// comes back on another node is then taken over whole, with nothing of the old one left in it.
const FIELD_MANAGER: &str = "causeway-agent";
