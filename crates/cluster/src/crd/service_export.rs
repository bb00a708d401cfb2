//! ServiceExport of the multi-cluster services API.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

/// `multicluster.x-k8s.io/v1alpha1` ServiceExport, named like the Service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceExport {
    /// `multicluster.x-k8s.io/v1alpha1`
    #[serde(default)]
    pub api_version: String,
    /// `ServiceExport`
    #[serde(default)]
    pub kind: String,
    /// Standard metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What else is exported.
    #[serde(default, deserialize_with = "super::node::null_default")]
    pub spec: ServiceExportSpec,
}

super::resource!(
    ServiceExport,
    "multicluster.x-k8s.io",
    "v1alpha1",
    "ServiceExport",
    "serviceexports",
    kube::core::NamespaceResourceScope
);

/// Labels and annotations that travel with the export.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceExportSpec {
    /// Labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exported_labels: Option<BTreeMap<String, String>>,
    /// Annotations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exported_annotations: Option<BTreeMap<String, String>>,
}
