//! CiliumEndpointSlice: many endpoints in one object, written by Cilium's operator so that not every
//! reader has to watch every CiliumEndpoint.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::endpoint::{EndpointEncryption, EndpointNetworking, NamedPort};
use super::node::null_default;

/// `cilium.io/v2alpha1` CiliumEndpointSlice; not namespaced, but of one namespace.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CiliumEndpointSlice {
    /// `cilium.io/v2alpha1`
    #[serde(default)]
    pub api_version: String,
    /// `CiliumEndpointSlice`
    #[serde(default)]
    pub kind: String,
    /// Standard metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Namespace of all its endpoints.
    #[serde(default)]
    pub namespace: String,
    /// The endpoints, at most 100 of them by default.
    #[serde(default, deserialize_with = "null_default")]
    pub endpoints: Vec<CoreCiliumEndpoint>,
}

super::resource!(
    CiliumEndpointSlice,
    "cilium.io",
    "v2alpha1",
    "CiliumEndpointSlice",
    "ciliumendpointslices",
    kube::core::ClusterResourceScope
);

/// One endpoint of a slice.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct CoreCiliumEndpoint {
    /// Name of the pod.
    pub name: String,
    /// Number of its security identity; 0 = none yet.
    pub id: i64,
    /// Its addresses and node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networking: Option<EndpointNetworking>,
    /// IPsec.
    pub encryption: EndpointEncryption,
    /// Named container ports.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub named_ports: Vec<NamedPort>,
}
