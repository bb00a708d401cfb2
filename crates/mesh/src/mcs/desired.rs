//! What is wanted of one name, from everything that is known.

use causeway_model::mcs::{Condition, DerivedService, Import, Imported, IpFamily, LocalService};
use causeway_model::names::{DERIVED_SERVICE, IMPORTED_SERVICE, SOURCE_CLUSTER};
use causeway_model::{
    ClusterName, ExportPort, ExportType, Protocol, ServiceExport, ServiceKey, ServiceType, SessionAffinity,
};

use super::merge::{Conflict, Merged, merge};
use super::{GLOBAL, Imports, derived_name, export};
use crate::valid;

pub(super) fn desired(of: &Imports, key: &ServiceKey) -> Imported {
    let request = of.exports.get(key);
    let service = of.services.get(key);
    let invalid = match service {
        None => {
            Some(("NoService", format!("there is no Service {key}: create it, or delete the ServiceExport")))
        }
        Some(service) if service.service.kind == ServiceType::ExternalName => Some((
            "InvalidServiceType",
            format!("Service {key} is an ExternalName, which has no endpoints to export"),
        )),
        Some(_) => None,
    };
    let valid = request.filter(|_| invalid.is_none()).zip(service);
    let own = valid.map(|(request, local)| export(of.own.clone(), &local.service, request));
    let clusters = of.exporters.get(key).into_iter().flatten();
    let exports: Vec<&ServiceExport> = clusters
        .filter_map(|cluster| of.remotes.get(cluster)?.get(&(cluster.clone(), key.clone())))
        .chain(&own)
        .collect();
    let merged = merge(exports.iter().copied());
    let conditions = request.map(|_| match (invalid, &merged) {
        (Some((reason, message)), _) => invalid_export(reason, message),
        (None, merged) => valid_export(merged.as_ref().and_then(|merged| merged.conflict.as_ref())),
    });
    let namespace = of.namespaces.get(&key.namespace);
    let Some(merged) = merged.filter(|_| namespace.is_some()) else {
        return Imported { export: conditions, ..Imported::default() };
    };
    let mut clusters: Vec<ClusterName> = exports.iter().map(|export| export.cluster.clone()).collect();
    clusters.sort();
    let exported = service.filter(|_| own.is_some());
    let (import, derived) = import(of, key, &merged, clusters, exported);
    Imported { import: Some(import), derived, export: conditions }
}

/// The import of what was merged, and the Service behind it unless that cannot be.
fn import(
    of: &Imports,
    key: &ServiceKey,
    merged: &Merged<'_>,
    clusters: Vec<ClusterName>,
    exported: Option<&LocalService>,
) -> (Import, Option<DerivedService>) {
    let winner = merged.winner;
    let name = ServiceKey { namespace: key.namespace.clone(), name: derived_name(key) };
    let there = of.services.get(&name);
    let is_ours = |service: &&LocalService| service.import.as_deref() == Some(key.name.as_str());
    let ours = there.filter(is_ours);
    let supported: Vec<IpFamily> = match merged.families.is_empty() {
        true => of.families.clone(),
        false => merged.families.iter().copied().filter(|family| of.families.contains(family)).collect(),
    };
    let ready = |holds, reason, message: String| Condition { kind: "Ready", holds, reason, message };
    let (ready, possible) = if supported.is_empty() {
        let message = "this cluster has none of the IP families of the exported Service".to_owned();
        (ready(false, "IPFamilyNotSupported", message), false)
    } else if there.is_some() && ours.is_none() {
        let message =
            format!("Service {name} was there before and does not belong to this ServiceImport: delete it");
        (ready(false, "Pending", message), false)
    } else if ours.is_none() {
        (ready(false, "Pending", "the derived Service is not there yet".to_owned()), true)
    } else {
        (ready(true, "Ready", "the derived Service is there".to_owned()), true)
    };
    let headless = winner.kind == ExportType::Headless;
    let ports: Vec<ExportPort> = merged.ports.iter().filter(|port| is_port(port)).cloned().collect();
    let mut labels = valid::labels(&winner.labels.clone().unwrap_or_default());
    let mut annotations = valid::annotations(&winner.annotations.clone().unwrap_or_default());
    let derived = possible.then(|| {
        let own = [(IMPORTED_SERVICE, key.name.clone()), (SOURCE_CLUSTER, of.own.to_string())];
        let mut labels = labels.clone();
        labels.extend(own.map(|(key, value)| (key.to_owned(), value)));
        let mut annotations = annotations.clone();
        annotations.remove(DERIVED_SERVICE);
        annotations.insert(GLOBAL.to_owned(), "true".to_owned());
        let target = |port: &ExportPort| {
            let protocol: Protocol = port.protocol.parse().ok()?;
            exported?.targets.get(&(port.port, protocol)).cloned()
        };
        DerivedService {
            key: name.clone(),
            labels,
            annotations,
            headless,
            ports: ports.iter().map(|port| (port.clone(), target(port))).collect(),
            selector: exported.map(|local| local.service.selector.clone()).unwrap_or_default(),
            session_affinity: if headless { SessionAffinity::None } else { affinity(winner) },
            families: supported,
            internal_traffic: winner.internal_traffic,
            traffic_distribution: winner.traffic_distribution.clone(),
        }
    });
    // A peer's labels must not pass for those of the derived Service and of slices.
    labels.retain(|key, _| key != IMPORTED_SERVICE && key != SOURCE_CLUSTER);
    annotations.insert(DERIVED_SERVICE.to_owned(), name.name.clone());
    let import = Import {
        key: key.clone(),
        labels,
        annotations,
        kind: winner.kind,
        ports,
        ips: ours.filter(|_| !headless).map(|local| local.service.cluster_ips.clone()).unwrap_or_default(),
        session_affinity: affinity(winner),
        families: merged.families.clone(),
        internal_traffic: winner.internal_traffic,
        traffic_distribution: winner.traffic_distribution.clone(),
        clusters,
        ready,
    };
    (import, derived)
}

/// A port no API server refuses.
fn is_port(port: &ExportPort) -> bool {
    let known = port.protocol.parse::<Protocol>().is_ok();
    known && port.port != 0 && valid::port_name(&port.name) && valid::app_protocol(&port.app_protocol)
}

/// The affinity of an export, within the day Kubernetes accepts.
fn affinity(export: &ServiceExport) -> SessionAffinity {
    match export.session_affinity {
        SessionAffinity::ClientIP { timeout_seconds: Some(seconds) } => {
            SessionAffinity::ClientIP { timeout_seconds: Some(seconds.clamp(1, 86_400)) }
        }
        other => other,
    }
}

fn valid_export(conflict: Option<&Conflict>) -> Vec<Condition> {
    let condition =
        |kind, holds, reason, message: &str| Condition { kind, holds, reason, message: message.to_owned() };
    let conflict = match conflict {
        None => condition("Conflict", false, "NoConflicts", "the exports of all clusters agree"),
        Some(conflict) => condition("Conflict", true, conflict.reason, &conflict.message),
    };
    vec![
        condition("Valid", true, "Valid", "the Service can be exported"),
        condition("Ready", true, "Ready", "the Service is exported"),
        conflict,
    ]
}

fn invalid_export(reason: &'static str, message: String) -> Vec<Condition> {
    let pending = Condition {
        kind: "Ready",
        holds: false,
        reason: "Pending",
        message: "the ServiceExport is not valid".to_owned(),
    };
    vec![Condition { kind: "Valid", holds: false, reason, message }, pending]
}
