//! CiliumIdentity: a number (the object's name) and the labels it stands for.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

/// `cilium.io/v2` CiliumIdentity, cluster-scoped.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CiliumIdentity {
    /// `cilium.io/v2`
    #[serde(default)]
    pub api_version: String,
    /// `CiliumIdentity`
    #[serde(default)]
    pub kind: String,
    /// Standard metadata; the name is the number.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// `source:key` to value.
    #[serde(rename = "security-labels", default, deserialize_with = "super::node::null_default")]
    pub security_labels: BTreeMap<String, String>,
}

super::resource!(
    CiliumIdentity,
    "cilium.io",
    "v2",
    "CiliumIdentity",
    "ciliumidentities",
    kube::core::ClusterResourceScope
);
