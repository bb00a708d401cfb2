//! ServiceExport and ServiceImport of the multi-cluster services API, in the versions a cluster may have.
//! Both versions have the same fields.

use std::borrow::Cow;
use std::collections::BTreeMap;

use causeway_model::{Keyed, ServiceKey};
use k8s_openapi::api::core::v1::SessionAffinityConfig;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use serde::{Deserialize, Serialize};

use super::node::null_default;
use crate::convert::names;

const GROUP: &str = "multicluster.x-k8s.io";

/// The version in which a cluster's API server is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum McsVersion {
    /// `v1alpha1`, the only one before mcs-api 0.3.
    V1alpha1,
    /// `v1beta1`.
    #[default]
    V1beta1,
}

impl McsVersion {
    /// The best of the versions a definition serves.
    pub fn best(served: &[String]) -> Self {
        match served.iter().any(|version| version == Self::V1beta1.as_str()) {
            true => Self::V1beta1,
            false => Self::V1alpha1,
        }
    }

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1alpha1 => "v1alpha1",
            Self::V1beta1 => "v1beta1",
        }
    }

    /// `apiVersion` of an object.
    pub fn api_version(self) -> String {
        format!("{GROUP}/{}", self.as_str())
    }
}

/// ServiceExport: the Service of the same name is offered to all clusters.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceExport {
    /// `multicluster.x-k8s.io/…`
    #[serde(default)]
    pub api_version: String,
    /// `ServiceExport`
    #[serde(default)]
    pub kind: String,
    /// Standard metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What else is exported.
    #[serde(default, deserialize_with = "null_default")]
    pub spec: ServiceExportSpec,
    /// What became of it.
    #[serde(default, deserialize_with = "null_default")]
    pub status: ServiceExportStatus,
}

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

/// What became of an export.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceExportStatus {
    /// `Valid`, `Ready`, `Conflict`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
}

/// ServiceImport: a service that clusters export, as it is here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceImport {
    /// `multicluster.x-k8s.io/…`
    #[serde(default)]
    pub api_version: String,
    /// `ServiceImport`
    #[serde(default)]
    pub kind: String,
    /// Standard metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What it is.
    #[serde(default, deserialize_with = "null_default")]
    pub spec: ServiceImportSpec,
    /// Where it comes from.
    #[serde(default, deserialize_with = "null_default")]
    pub status: ServiceImportStatus,
}

/// What an import is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceImportSpec {
    /// Its ports.
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<ServiceImportPort>,
    /// Its addresses, one per family; none for a headless one.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub ips: Vec<String>,
    /// `ClusterSetIP` or `Headless`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `None` or `ClientIP`.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub session_affinity: String,
    /// Seconds of `ClientIP`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_affinity_config: Option<SessionAffinityConfig>,
    /// The families all exporting clusters have.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub ip_families: Vec<String>,
    /// `Cluster` or `Local`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub internal_traffic_policy: Option<String>,
    /// A hint like `PreferClose`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<String>,
}

/// One port of an import.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceImportPort {
    /// Its name; none when it is the only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `TCP`, `UDP` or `SCTP`; TCP when not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Its application protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
    /// Its number.
    pub port: i32,
}

/// Where an import comes from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceImportStatus {
    /// The exporting clusters.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub clusters: Vec<ClusterStatus>,
    /// `Ready`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
}

/// One exporting cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClusterStatus {
    /// Its name.
    pub cluster: String,
}

/// Implements `kube::Resource` and [`Keyed`] for one of the two.
macro_rules! versioned {
    ($type:ty, $kind:literal, $plural:literal) => {
        impl kube::Resource for $type {
            type DynamicType = McsVersion;
            type Scope = kube::core::DynamicResourceScope;
            fn kind(_: &McsVersion) -> Cow<'_, str> {
                $kind.into()
            }
            fn group(_: &McsVersion) -> Cow<'_, str> {
                GROUP.into()
            }
            fn version(version: &McsVersion) -> Cow<'_, str> {
                version.as_str().into()
            }
            fn plural(_: &McsVersion) -> Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }

        impl $type {
            /// `kind` of the object.
            pub const KIND: &'static str = $kind;
            /// Name of its definition.
            pub const DEFINITION: &'static str = concat!($plural, ".multicluster.x-k8s.io");
        }

        impl Keyed for $type {
            type Key = ServiceKey;
            fn key(&self) -> ServiceKey {
                let (namespace, name) = names(&self.metadata);
                ServiceKey { namespace, name }
            }
        }
    };
}

versioned!(ServiceExport, "ServiceExport", "serviceexports");
versioned!(ServiceImport, "ServiceImport", "serviceimports");
