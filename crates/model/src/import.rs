//! Imported services of the multi-cluster services API.

use std::net::IpAddr;

use crate::{ExportType, Keyed, Protocol, ServiceKey};

/// One port of an imported service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportPort {
    /// Its name; empty when unnamed.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port clients connect to.
    pub port: u16,
}

/// A service that clusters of the set export, as this cluster sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceImport {
    /// Namespace and name; the exported Services have the same.
    pub key: ServiceKey,
    /// How it is offered.
    pub kind: ExportType,
    /// Its addresses in this cluster; empty when headless and before allocation.
    pub ips: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ImportPort>,
    /// Name of the Service that stands for it in this cluster, of the same namespace.
    pub derived: Option<String>,
}

impl Keyed for ServiceImport {
    type Key = ServiceKey;
    fn key(&self) -> ServiceKey {
        self.key.clone()
    }
}
