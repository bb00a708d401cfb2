//! ServiceImport of the multi-cluster services API.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

/// `multicluster.x-k8s.io` ServiceImport. Its versions differ in nothing that is read here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceImport {
    /// `multicluster.x-k8s.io/` and the version
    #[serde(default)]
    pub api_version: String,
    /// `ServiceImport`
    #[serde(default)]
    pub kind: String,
    /// Standard metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is imported.
    #[serde(default, deserialize_with = "super::node::null_default")]
    pub spec: ServiceImportSpec,
}

/// What is imported.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceImportSpec {
    /// `ClusterSetIP` or `Headless`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its addresses in this cluster.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "super::node::null_default")]
    pub ips: Vec<String>,
    /// Its ports.
    #[serde(deserialize_with = "super::node::null_default")]
    pub ports: Vec<ServiceImportPort>,
}

/// One port of an import.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceImportPort {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `TCP`, `UDP` or `SCTP`; TCP when not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Its number.
    pub port: i32,
}

/// A version of the API, which is how the objects are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum McsVersion {
    /// `v1alpha1`
    V1alpha1,
    /// `v1beta1`
    V1beta1,
}

impl McsVersion {
    /// The best of the versions a definition serves.
    pub fn best(served: &[String]) -> Self {
        if served.iter().any(|version| version == Self::V1beta1.as_str()) {
            Self::V1beta1
        } else {
            Self::V1alpha1
        }
    }

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1alpha1 => "v1alpha1",
            Self::V1beta1 => "v1beta1",
        }
    }
}

impl kube::Resource for ServiceImport {
    type DynamicType = McsVersion;
    type Scope = kube::core::NamespaceResourceScope;
    fn kind(_: &McsVersion) -> Cow<'_, str> {
        "ServiceImport".into()
    }
    fn group(_: &McsVersion) -> Cow<'_, str> {
        "multicluster.x-k8s.io".into()
    }
    fn version(version: &McsVersion) -> Cow<'_, str> {
        version.as_str().into()
    }
    fn plural(_: &McsVersion) -> Cow<'_, str> {
        "serviceimports".into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
