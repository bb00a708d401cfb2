//! Kubernetes objects to the model, one pure function per kind (mesh-protocol 6).
//!
//! `None` means the object stands for nothing here (another family, no addresses, not a number); a
//! watcher turns that into a removal.

mod annotations;
mod endpoint;
mod export;
mod host_ports;
mod identity;
mod import;
mod local_service;
mod node;
mod owners;
mod service;
mod slice;
mod union;

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use endpoint::{endpoint, endpoint_slice};
pub use export::export;
pub use host_ports::host_ports;
pub use identity::identity;
pub use import::import;
pub use local_service::{local_service, namespace};
pub use node::node;
pub use owners::AddressOwners;
pub use service::{any_service, over_tunnel, service};
pub use slice::{any_slice, slice};
pub use union::{EndpointGroup, EndpointUnion};

/// An address; empty text and nonsense are none.
fn ip(text: &str) -> Option<IpAddr> {
    text.parse().ok().map(|ip: IpAddr| ip.to_canonical())
}

/// Namespace and name of an object.
pub(crate) fn names(metadata: &ObjectMeta) -> (String, String) {
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}
