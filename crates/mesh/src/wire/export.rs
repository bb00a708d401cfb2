//! MCS-API service exports (mesh-protocol 2.7). The last three fields are those of Cilium 1.19; older readers pass
//! over them.

use std::collections::BTreeMap;

use causeway_model::mcs::IpFamily;
use causeway_model::{
    ClusterInfo, ExportPort, ExportType, ServiceExport, ServiceKey, SessionAffinity, TrafficPolicy,
};

use super::go::{self, go_struct};
use super::{Fault, Reason, at_most, fault};
use crate::keys;

const MAX_PORTS: usize = 1024;
const MAX_FAMILIES: usize = 16;

go_struct! {
    struct Wire {
        cluster: String = "cluster",
        name: String = "name",
        namespace: String = "namespace",
        // Capitals: the 1.18 struct has no tags for these two.
        annotations: Option<BTreeMap<String, String>> = "Annotations",
        labels: Option<BTreeMap<String, String>> = "Labels",
        created: String = "exportCreationTimestamp",
        ports: Vec<WirePort> = "ports",
        kind: String = "type",
        session_affinity: String = "sessionAffinity",
        #[serde(skip_serializing_if = "Option::is_none")]
        session_affinity_config: Option<AffinityConfig> = "sessionAffinityConfig",
        #[serde(skip_serializing_if = "Vec::is_empty")]
        ip_families: Vec<String> = "ipFamilies",
        #[serde(skip_serializing_if = "String::is_empty")]
        internal_traffic_policy: String = "internalTrafficPolicy",
        #[serde(skip_serializing_if = "String::is_empty")]
        traffic_distribution: String = "trafficDistribution",
    }
}

go_struct! {
    struct WirePort {
        #[serde(skip_serializing_if = "String::is_empty")]
        name: String = "name",
        #[serde(skip_serializing_if = "String::is_empty")]
        protocol: String = "protocol",
        #[serde(skip_serializing_if = "String::is_empty")]
        app_protocol: String = "appProtocol",
        port: u16 = "port",
    }
}

go_struct! {
    struct AffinityConfig {
        #[serde(skip_serializing_if = "Option::is_none")]
        client_ip: Option<ClientIp> = "clientIP",
    }
}

go_struct! {
    struct ClientIp {
        #[serde(skip_serializing_if = "Option::is_none")]
        timeout_seconds: Option<u32> = "timeoutSeconds",
    }
}

pub(super) fn encode(export: &ServiceExport) -> Vec<u8> {
    let (affinity, config) = match export.session_affinity {
        SessionAffinity::None => ("None", None),
        SessionAffinity::ClientIP { timeout_seconds: None } => ("ClientIP", None),
        SessionAffinity::ClientIP { timeout_seconds } => {
            ("ClientIP", Some(AffinityConfig { client_ip: Some(ClientIp { timeout_seconds }) }))
        }
    };
    go::print(&Wire {
        cluster: export.cluster.to_string(),
        name: export.key.name.clone(),
        namespace: export.key.namespace.clone(),
        annotations: export.annotations.clone(),
        labels: export.labels.clone(),
        created: export.created.clone(),
        ports: export
            .ports
            .iter()
            .map(|p| WirePort {
                name: p.name.clone(),
                protocol: p.protocol.clone(),
                app_protocol: p.app_protocol.clone(),
                port: p.port,
            })
            .collect(),
        kind: match export.kind {
            ExportType::ClusterSetIP => "ClusterSetIP".to_owned(),
            ExportType::Headless => "Headless".to_owned(),
        },
        session_affinity: affinity.to_owned(),
        session_affinity_config: config,
        ip_families: export.families.iter().map(|family| family.as_str().to_owned()).collect(),
        internal_traffic_policy: match export.internal_traffic {
            TrafficPolicy::Cluster => String::new(),
            TrafficPolicy::Local => LOCAL.to_owned(),
        },
        traffic_distribution: export.traffic_distribution.clone(),
    })
}

pub(super) fn decode(suffix: &str, value: &[u8], from: &ClusterInfo) -> Result<ServiceExport, Fault> {
    let wire: Wire = go::parse(value)?;
    if wire.cluster != from.name.as_str() {
        return fault(
            Reason::ForeignCluster,
            "cluster",
            format!("{:?} is not the cluster this key belongs to, {}", wire.cluster, from.name),
        );
    }
    if keys::parse_service(suffix).is_none() {
        return fault(Reason::BadKey, "key", format!("{suffix:?} is not <namespace>/<name>"));
    }
    let key = ServiceKey { namespace: wire.namespace, name: wire.name };
    if keys::service_suffix(&key) != suffix {
        return fault(
            Reason::BadKey,
            "name",
            format!("{key} is not the namespace and name in the key, {suffix:?}"),
        );
    }
    match wire.created.parse::<jiff::Timestamp>() {
        Ok(time) if time != ZERO_TIME => {}
        Ok(_) => return fault(Reason::BadValue, "exportCreationTimestamp", "not set"),
        Err(e) => {
            return fault(
                Reason::BadValue,
                "exportCreationTimestamp",
                format!("{:?} is not RFC 3339: {e}", wire.created),
            );
        }
    }
    at_most("ports", wire.ports.len(), MAX_PORTS)?;
    at_most("ipFamilies", wire.ip_families.len(), MAX_FAMILIES)?;
    let kind = match wire.kind.as_str() {
        "ClusterSetIP" => ExportType::ClusterSetIP,
        "Headless" => ExportType::Headless,
        other => {
            return fault(
                Reason::BadValue,
                "type",
                format!("{other:?} is unknown: ClusterSetIP or Headless"),
            );
        }
    };
    let session_affinity = match wire.session_affinity.as_str() {
        "None" => SessionAffinity::None,
        "ClientIP" => SessionAffinity::ClientIP {
            timeout_seconds: wire
                .session_affinity_config
                .and_then(|config| config.client_ip)
                .and_then(|client_ip| client_ip.timeout_seconds),
        },
        other => {
            return fault(
                Reason::BadValue,
                "sessionAffinity",
                format!("{other:?} is unknown: None or ClientIP"),
            );
        }
    };
    Ok(ServiceExport {
        cluster: from.name.clone(),
        key,
        annotations: wire.annotations,
        labels: wire.labels,
        created: wire.created,
        ports: wire
            .ports
            .into_iter()
            .map(|p| ExportPort {
                name: p.name,
                protocol: p.protocol,
                app_protocol: p.app_protocol,
                port: p.port,
            })
            .collect(),
        kind,
        session_affinity,
        // Families that are none are passed over: more may come.
        families: wire.ip_families.iter().filter_map(|word| IpFamily::parse(word)).collect(),
        internal_traffic: match wire.internal_traffic_policy.as_str() {
            LOCAL => TrafficPolicy::Local,
            _ => TrafficPolicy::Cluster,
        },
        traffic_distribution: wire.traffic_distribution,
    })
}

/// `internalTrafficPolicy` other than the default.
const LOCAL: &str = "Local";

/// Go's zero time, 0001-01-01T00:00:00Z, in seconds before 1970.
const ZERO_TIME: jiff::Timestamp = jiff::Timestamp::constant(-62_135_596_800, 0);
