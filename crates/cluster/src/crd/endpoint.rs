//! CiliumEndpoint: a pod's endpoint as its node's agent reports it. It has no specification.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::node::null_default;

/// `cilium.io/v2` CiliumEndpoint, named like the pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CiliumEndpoint {
    /// `cilium.io/v2`
    #[serde(default)]
    pub api_version: String,
    /// `CiliumEndpoint`
    #[serde(default)]
    pub kind: String,
    /// Standard metadata; owned by the pod.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The report.
    #[serde(default)]
    pub status: EndpointStatus,
}

super::resource!(
    CiliumEndpoint,
    "cilium.io",
    "v2",
    "CiliumEndpoint",
    "ciliumendpoints",
    kube::core::NamespaceResourceScope
);

/// The part of the status Causeway uses.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct EndpointStatus {
    /// Number of the endpoint on its node.
    #[serde(skip_serializing_if = "is_zero")]
    pub id: i64,
    /// Who it is outside Cilium.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_identifiers: Option<EndpointIdentifiers>,
    /// Its security identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<EndpointIdentity>,
    /// Its addresses and node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networking: Option<EndpointNetworking>,
    /// IPsec.
    pub encryption: EndpointEncryption,
    /// `ready` and others.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// Named container ports.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub named_ports: Vec<NamedPort>,
}

/// Names of an endpoint outside Cilium.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct EndpointIdentifiers {
    /// The container runtime's id of the sandbox.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub container_id: String,
    /// The CNI attachment: sandbox id and interface name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cni_attachment_id: String,
    /// Namespace of the pod.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub k8s_namespace: String,
    /// Name of the pod.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub k8s_pod_name: String,
    /// `namespace/name` of the pod.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pod_name: String,
}

/// Security identity of an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointIdentity {
    /// The number.
    #[serde(skip_serializing_if = "is_zero")]
    pub id: i64,
    /// `source:key=value`, sorted.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub labels: Vec<String>,
}

/// Addresses and node of an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointNetworking {
    /// Pairs of addresses.
    #[serde(deserialize_with = "null_default")]
    pub addressing: Vec<Addressing>,
    /// Address of the node.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
}

/// One address of each family.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Addressing {
    /// IPv4; empty = none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ipv4: String,
    /// IPv6; empty = none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ipv6: String,
}

/// IPsec of an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointEncryption {
    /// Key index; 0 = none.
    #[serde(skip_serializing_if = "is_zero")]
    pub key: i64,
}

/// A named container port.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// Its number.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}
