//! MCS-API service exports as clusters share them (mesh-protocol 2.7).

use std::collections::BTreeMap;

use crate::mcs::IpFamily;
use crate::{ClusterName, Keyed, ServiceKey, SessionAffinity, TrafficPolicy};

/// How an exported service is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportType {
    /// One virtual address.
    ClusterSetIP,
    /// The addresses of its pods.
    Headless,
}

/// One port of an exported service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportPort {
    /// Its name; empty when unnamed.
    pub name: String,
    /// Its protocol word; empty when not set.
    pub protocol: String,
    /// Its application protocol; empty when not set.
    pub app_protocol: String,
    /// Its number.
    pub port: u16,
}

/// A ServiceExport joined with its Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceExport {
    /// The exporting cluster.
    pub cluster: ClusterName,
    /// Namespace and name.
    pub key: ServiceKey,
    /// `spec.exportedAnnotations`; `None` when not set.
    pub annotations: Option<BTreeMap<String, String>>,
    /// `spec.exportedLabels`; `None` when not set.
    pub labels: Option<BTreeMap<String, String>>,
    /// When the export was created: RFC 3339, UTC, seconds.
    pub created: String,
    /// The ports of the Service.
    pub ports: Vec<ExportPort>,
    /// How it is offered.
    pub kind: ExportType,
    /// Session affinity of the Service.
    pub session_affinity: SessionAffinity,
    /// Address families of the Service, the first one first; empty from writers before 1.19.
    pub families: Vec<IpFamily>,
    /// `internalTrafficPolicy` of the Service; the default from writers before 1.19.
    pub internal_traffic: TrafficPolicy,
    /// `trafficDistribution` of the Service; empty when not set and from writers before 1.19.
    pub traffic_distribution: String,
}

impl Keyed for ServiceExport {
    type Key = (ClusterName, ServiceKey);
    fn key(&self) -> Self::Key {
        (self.cluster.clone(), self.key.clone())
    }
}

/// A ServiceExport object as Kubernetes holds it, before it is joined with its Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportRequest {
    /// Namespace and name; the Service has the same.
    pub key: ServiceKey,
    /// `spec.exportedAnnotations`; `None` when not set.
    pub annotations: Option<BTreeMap<String, String>>,
    /// `spec.exportedLabels`; `None` when not set.
    pub labels: Option<BTreeMap<String, String>>,
    /// `metadata.creationTimestamp`: RFC 3339, UTC, seconds.
    pub created: String,
}

impl Keyed for ExportRequest {
    type Key = ServiceKey;
    fn key(&self) -> ServiceKey {
        self.key.clone()
    }
}
