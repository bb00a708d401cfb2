//! ServiceImport → ServiceImport (behaviours 2.9).

use causeway_model::names::DERIVED_SERVICE;
use causeway_model::{ExportType, ImportPort, ServiceImport, ServiceKey};

use super::service::protocol;
use super::{ip, names};
use crate::crd;

/// The import of an object; `None` for types nobody knows.
pub fn import(object: &crd::ServiceImport) -> Option<ServiceImport> {
    let (namespace, name) = names(&object.metadata);
    let ports = object.spec.ports.iter().filter_map(|port| {
        Some(ImportPort {
            name: port.name.clone().unwrap_or_default(),
            protocol: protocol(port.protocol.as_deref())?,
            port: u16::try_from(port.port).ok()?,
        })
    });
    let kind = match object.spec.kind.as_str() {
        "ClusterSetIP" => ExportType::ClusterSetIP,
        "Headless" => ExportType::Headless,
        _ => return None,
    };
    Some(ServiceImport {
        key: ServiceKey { namespace, name },
        kind,
        ips: object.spec.ips.iter().filter_map(|text| ip(text)).collect(),
        ports: ports.collect(),
        derived: object.metadata.annotations.as_ref().and_then(|all| all.get(DERIVED_SERVICE)).cloned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_of_either_version() {
        let read = |object: serde_json::Value| import(&serde_json::from_value(object).unwrap());
        let object = |kind: &str| {
            serde_json::json!({
                "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceImport",
                "metadata": { "name": "db", "namespace": "shop", "annotations": { DERIVED_SERVICE: "derived-x" } },
                "spec": { "type": kind, "ips": ["10.3.0.7", "nonsense"], "ipFamilies": ["IPv4"],
                          "ports": [{ "name": "sql", "port": 5432 }, { "protocol": "UDP", "port": 53 }, { "port": 70000 }] },
            })
        };
        let found = read(object("ClusterSetIP")).unwrap();
        assert_eq!((found.key.to_string().as_str(), found.kind), ("shop/db", ExportType::ClusterSetIP));
        assert_eq!((found.ips.len(), found.derived.as_deref()), (1, Some("derived-x")));
        let ports: Vec<_> =
            found.ports.iter().map(|p| (p.name.as_str(), p.protocol.as_str(), p.port)).collect();
        assert_eq!(ports, [("sql", "TCP", 5432), ("", "UDP", 53)]);
        assert_eq!(read(object("Headless")).unwrap().kind, ExportType::Headless);
        assert!(read(object("Other")).is_none());
        let bare = serde_json::json!({ "metadata": { "name": "db" }, "spec": { "type": "Headless", "ports": null } });
        assert!(read(bare).unwrap().ports.is_empty());
    }
}
