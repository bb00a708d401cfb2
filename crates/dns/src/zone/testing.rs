//! Services, slices and imports for tests.

use causeway_model::{
    EndpointConditions, EndpointSlice, ExportType, ImportPort, Protocol, Service, ServiceImport, ServiceKey,
    ServicePort, SliceEndpoint, SliceKey, SlicePort,
};

use super::Settings;

pub(crate) fn settings() -> Settings {
    Settings {
        cluster_domain: Some("cluster.local".parse().unwrap()),
        clusterset_domain: Some("clusterset.local".parse().unwrap()),
        cluster_name: "cls-a".into(),
        ttl: 5,
    }
}

pub(crate) fn key(namespace: &str, name: &str) -> ServiceKey {
    ServiceKey { namespace: namespace.into(), name: name.into() }
}

pub(crate) fn service(namespace: &str, name: &str, ips: &[&str]) -> Service {
    let port = |name: &str, protocol, port| ServicePort {
        name: name.into(),
        protocol,
        app_protocol: None,
        port,
        node_port: 0,
    };
    Service {
        cluster_ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        headless: ips.is_empty(),
        ports: vec![
            port("http", Protocol::TCP, 80),
            port("dns", Protocol::UDP, 53),
            port("", Protocol::TCP, 90),
        ],
        ..Service::new(key(namespace, name))
    }
}

/// A slice of endpoints: address, host name, ready.
pub(crate) fn slice(name: &str, of: ServiceKey, endpoints: &[(&str, &str, bool)]) -> EndpointSlice {
    let endpoint = |(address, hostname, ready): &(&str, &str, bool)| SliceEndpoint {
        addresses: vec![address.parse().unwrap()],
        conditions: EndpointConditions { ready: *ready, serving: *ready, terminating: false },
        hostname: (*hostname).into(),
        node: None,
        zone: None,
        for_zones: vec![],
    };
    EndpointSlice {
        key: SliceKey { namespace: of.namespace.clone(), name: name.into() },
        service: of,
        endpoints: endpoints.iter().map(endpoint).collect(),
        ports: [("http", 8080), ("", 9090)]
            .map(|(name, port)| SlicePort { name: name.into(), protocol: Protocol::TCP, port })
            .to_vec(),
        source_cluster: None,
        import: None,
    }
}

pub(crate) fn import(name: &str, ips: &[&str]) -> ServiceImport {
    ServiceImport {
        key: key("shop", name),
        kind: if ips.is_empty() { ExportType::Headless } else { ExportType::ClusterSetIP },
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        ports: vec![ImportPort { name: "http".into(), protocol: Protocol::TCP, port: 80 }],
        derived: None,
    }
}
