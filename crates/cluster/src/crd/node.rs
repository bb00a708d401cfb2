//! CiliumNode: a node as its agent announces it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

/// `cilium.io/v2` CiliumNode, cluster-scoped, named like the Node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CiliumNode {
    /// `cilium.io/v2`
    #[serde(default)]
    pub api_version: String,
    /// `CiliumNode`
    #[serde(default)]
    pub kind: String,
    /// Standard metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What the agent announces.
    #[serde(default)]
    pub spec: CiliumNodeSpec,
}

super::resource!(
    CiliumNode,
    "cilium.io",
    "v2",
    "CiliumNode",
    "ciliumnodes",
    kube::core::ClusterResourceScope
);

/// The part of the specification Causeway uses.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CiliumNodeSpec {
    /// Addresses in order.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub addresses: Vec<CiliumNodeAddress>,
    /// The kernel's boot id.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub bootid: String,
    /// IPsec.
    pub encryption: EncryptionSpec,
    /// Addresses of the health endpoint.
    pub health: AddressPair,
    /// Addresses of the ingress endpoint.
    pub ingress: AddressPair,
    /// Pod addressing.
    pub ipam: IpamSpec,
}

/// One address.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CiliumNodeAddress {
    /// The address.
    pub ip: String,
    /// `InternalIP`, `CiliumInternalIP`, …
    #[serde(rename = "type")]
    pub kind: String,
}

/// IPsec parameters.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EncryptionSpec {
    /// Key index; 0 = none.
    #[serde(skip_serializing_if = "is_zero")]
    pub key: i64,
}

/// One address of each family.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AddressPair {
    /// IPv4; empty = none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ipv4: String,
    /// IPv6; empty = none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ipv6: String,
}

/// Pod addressing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IpamSpec {
    /// Pod CIDRs of the node.
    #[serde(rename = "podCIDRs", skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub pod_cidrs: Vec<String>,
    /// Pools (multi-pool mode).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pools: Option<IpamPools>,
}

/// Pools of the node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IpamPools {
    /// What is allocated to the node.
    #[serde(deserialize_with = "null_default")]
    pub allocated: Vec<IpamPool>,
}

/// One pool.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IpamPool {
    /// Its name.
    pub pool: String,
    /// Its CIDRs.
    #[serde(deserialize_with = "null_default")]
    pub cidrs: Vec<String>,
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// `null` is the empty value, as Go reads it.
pub(super) fn null_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
