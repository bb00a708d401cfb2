//! ServiceImports, the derived Services behind them, and the conditions of ServiceExports (behaviours 2.9).
//!
//! Objects are applied server-side: what others add to them stays. An object of the same name that is not
//! the operator's is never touched: a ServiceImport is known by the name of its derived Service in an
//! annotation, a derived Service by its owner.

use causeway_model::mcs::{Condition as Wanted, DerivedService, Import, Imported, IpFamily, TargetPort};
use causeway_model::names::DERIVED_SERVICE;
use causeway_model::{ExportPort, ExportType, ServiceKey, SessionAffinity, TrafficPolicy};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Map, Value, json};

use super::operator::{FIELD_MANAGER, exactly, not_deleted, refused};
use crate::Error;
use crate::crd::{ClusterStatus, McsVersion, ServiceExport, ServiceImport};

/// Selector of a derived Service that has no pods here: a label no pod has.
const NOT_HERE: &str = "multicluster.causeway.io/not-exported-here";

/// Writes what is wanted of imported names.
#[derive(Clone)]
pub struct ImportWriter {
    client: Client,
    version: McsVersion,
}

impl ImportWriter {
    /// A writer through this client, in the version the cluster has.
    pub fn new(client: Client, version: McsVersion) -> Self {
        Self { client, version }
    }

    /// Makes everything of a name what is wanted. Doing it again changes nothing.
    ///
    /// # Errors
    /// [`Error::Foreign`] when an object of that name is not the operator's, [`Error::Changed`] when one was
    /// changed meanwhile or has to be made anew, [`Error::Api`] otherwise. What comes before is done then:
    /// the conditions of the export, the import, its Service, its status.
    pub async fn write(&self, key: &ServiceKey, wanted: &Imported) -> Result<(), Error> {
        if let Some(conditions) = &wanted.export {
            self.export_status(key, conditions).await?;
        }
        let api: Api<ServiceImport> =
            Api::namespaced_with(self.client.clone(), &key.namespace, &self.version);
        let what = format!("ServiceImport {key}");
        let there = api.get_opt(&key.name).await.map_err(Error::api(format!("read {what}")))?;
        let Some(import) = &wanted.import else {
            return match there.filter(is_ours) {
                Some(there) => {
                    // Its Service has it as owner and goes with it.
                    let params = exactly(there.metadata.uid.as_deref(), None);
                    let result = api.delete(&key.name, &params).await;
                    result.err().and_then(|error| not_deleted(what, error)).map_or(Ok(()), Err)
                }
                None => Ok(()),
            };
        };
        if there.as_ref().is_some_and(|there| !is_ours(there)) {
            return Err(Error::Foreign { what });
        }
        let manifest = import_manifest(import, there.as_ref(), self.version);
        let params = apply_params(there.is_some());
        let written = match api.patch(&key.name, &params, &Patch::Apply(&manifest)).await {
            Ok(written) => written,
            Err(error) => return refused(what, error).map_or(Ok(()), Err),
        };
        self.derived(import, wanted.derived.as_ref(), &written).await?;
        self.import_status(&api, import, &written).await
    }

    /// Whether an import is the operator's.
    pub fn is_ours(import: &ServiceImport) -> bool {
        is_ours(import)
    }

    async fn derived(
        &self,
        import: &Import,
        wanted: Option<&DerivedService>,
        owner: &ServiceImport,
    ) -> Result<(), Error> {
        let Some(name) = import.annotations.get(DERIVED_SERVICE) else { return Ok(()) };
        let namespace = &import.key.namespace;
        let api: Api<Service> = Api::namespaced(self.client.clone(), namespace);
        let what = format!("Service {namespace}/{name}");
        let there = api.get_opt(name).await.map_err(Error::api(format!("read {what}")))?;
        let is_owned = |service: &Service| {
            let owners = service.metadata.owner_references.iter().flatten();
            owners.into_iter().any(|of| of.kind == ServiceImport::KIND && of.name == import.key.name)
        };
        if there.as_ref().is_some_and(|there| !is_owned(there)) {
            // Without `wanted` it is known already, and the import says so.
            return if wanted.is_some() { Err(Error::Foreign { what }) } else { Ok(()) };
        }
        let fits = |there: &Service| wanted.is_some_and(|wanted| fits(there, wanted));
        if let Some(there) = there.as_ref().filter(|there| !fits(there)) {
            let params = exactly(there.metadata.uid.as_deref(), None);
            let result = api.delete(name, &params).await;
            result.err().and_then(|error| not_deleted(what.clone(), error)).map_or(Ok(()), Err)?;
            // It may take a while to go; then it is made anew.
            return if wanted.is_some() { Err(Error::Changed { what }) } else { Ok(()) };
        }
        let Some(wanted) = wanted else { return Ok(()) };
        let manifest = service_manifest(wanted, there.as_ref(), owner, self.version);
        let params = apply_params(there.is_some());
        let result = api.patch(name, &params, &Patch::Apply(&manifest)).await;
        result.err().and_then(|error| refused(what, error)).map_or(Ok(()), Err)
    }

    async fn export_status(&self, key: &ServiceKey, wanted: &[Wanted]) -> Result<(), Error> {
        let api: Api<ServiceExport> =
            Api::namespaced_with(self.client.clone(), &key.namespace, &self.version);
        let what = format!("ServiceExport {key}");
        let Some(there) = api.get_opt(&key.name).await.map_err(Error::api(format!("read {what}")))? else {
            return Ok(());
        };
        let conditions = conditions(&there.status.conditions, wanted, &["Valid", "Ready", "Conflict"]);
        if conditions == there.status.conditions {
            return Ok(());
        }
        let patch = json!({
            "metadata": { "resourceVersion": there.metadata.resource_version },
            "status": { "conditions": conditions },
        });
        let result = api.patch_status(&key.name, &status_params(), &Patch::Merge(&patch)).await;
        result.err().and_then(|error| gone_or_refused(what, error)).map_or(Ok(()), Err)
    }

    async fn import_status(
        &self,
        api: &Api<ServiceImport>,
        import: &Import,
        there: &ServiceImport,
    ) -> Result<(), Error> {
        let clusters: Vec<ClusterStatus> =
            import.clusters.iter().map(|name| ClusterStatus { cluster: name.to_string() }).collect();
        let ready = std::slice::from_ref(&import.ready);
        let conditions = conditions(&there.status.conditions, ready, &["Ready"]);
        if conditions == there.status.conditions && clusters == there.status.clusters {
            return Ok(());
        }
        let patch = json!({
            "metadata": { "resourceVersion": there.metadata.resource_version },
            "status": { "clusters": clusters, "conditions": conditions },
        });
        let result = api.patch_status(&import.key.name, &status_params(), &Patch::Merge(&patch)).await;
        let what = format!("ServiceImport {}", import.key);
        result.err().and_then(|error| gone_or_refused(what, error)).map_or(Ok(()), Err)
    }
}

fn is_ours(import: &ServiceImport) -> bool {
    let annotations = import.metadata.annotations.as_ref();
    annotations.is_some_and(|annotations| annotations.contains_key(DERIVED_SERVICE))
}

/// A new object is not forced: one that somebody makes at the same moment stays theirs.
fn apply_params(there: bool) -> PatchParams {
    let params = PatchParams::apply(FIELD_MANAGER);
    if there { params.force() } else { params }
}

fn status_params() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

/// Without the object there is no status to write.
fn gone_or_refused(what: String, error: kube::Error) -> Option<Error> {
    match &error {
        kube::Error::Api(status) if status.code == 404 => None,
        _ => refused(what, error),
    }
}

/// The conditions of an object with the wanted ones in it. Those of our `kinds` that are not wanted go,
/// others stay; the time is that of the last change of the status.
fn conditions(there: &[Condition], wanted: &[Wanted], kinds: &[&str]) -> Vec<Condition> {
    let find = |kind: &str| wanted.iter().find(|condition| condition.kind == kind);
    let ours = |kind: &str| kinds.contains(&kind);
    let kept = there.iter().filter(|old| !ours(&old.type_) || find(&old.type_).is_some());
    let mut out: Vec<Condition> = kept
        .map(|old| match find(&old.type_).filter(|_| ours(&old.type_)) {
            Some(new) => condition(new, Some(old)),
            None => old.clone(),
        })
        .collect();
    let missing = wanted.iter().filter(|new| there.iter().all(|old| old.type_ != new.kind));
    out.extend(missing.map(|new| condition(new, None)));
    out
}

fn condition(new: &Wanted, old: Option<&Condition>) -> Condition {
    let status = if new.holds { "True" } else { "False" };
    let unchanged = old.filter(|old| old.status == status);
    Condition {
        type_: new.kind.to_owned(),
        status: status.to_owned(),
        reason: new.reason.to_owned(),
        message: new.message.clone(),
        last_transition_time: match unchanged {
            Some(old) => old.last_transition_time.clone(),
            None => Time(now()),
        },
        observed_generation: None,
    }
}

/// Now, in the seconds Kubernetes keeps.
fn now() -> jiff::Timestamp {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now)
}

fn import_manifest(import: &Import, there: Option<&ServiceImport>, version: McsVersion) -> Value {
    let mut spec = json!({
        "type": match import.kind {
            ExportType::ClusterSetIP => "ClusterSetIP",
            ExportType::Headless => "Headless",
        },
        "ports": import.ports.iter().map(|port| Value::Object(port_manifest(port))).collect::<Vec<_>>(),
    });
    if !import.ips.is_empty() {
        spec["ips"] = import.ips.iter().map(|ip| Value::from(ip.to_string())).collect();
    }
    if !import.families.is_empty() {
        spec["ipFamilies"] = families(&import.families);
    }
    policies(&mut spec, import.session_affinity, import.internal_traffic, &import.traffic_distribution);
    json!({
        "apiVersion": version.api_version(),
        "kind": ServiceImport::KIND,
        "metadata": metadata(&import.key, &import.labels, &import.annotations, there.and_then(|t| t.metadata.uid.as_deref())),
        "spec": spec,
    })
}

fn service_manifest(
    wanted: &DerivedService,
    there: Option<&Service>,
    owner: &ServiceImport,
    version: McsVersion,
) -> Value {
    let ports = wanted.ports.iter().map(|(port, target)| {
        let mut port = port_manifest(port);
        match target {
            Some(TargetPort::Number(number)) => drop(port.insert("targetPort".to_owned(), (*number).into())),
            Some(TargetPort::Name(name)) => drop(port.insert("targetPort".to_owned(), name.clone().into())),
            None => {}
        }
        Value::Object(port)
    });
    let mut spec = json!({ "type": "ClusterIP", "ports": ports.collect::<Vec<_>>() });
    if wanted.headless {
        spec["clusterIP"] = "None".into();
    }
    spec["selector"] = match wanted.selector.is_empty() {
        // Without a selector Kubernetes would leave alone the EndpointSlices it made by an earlier one.
        true => json!({ NOT_HERE: wanted.key.name }),
        false => json!(wanted.selector),
    };
    // Families are chosen once: a Service keeps them.
    match (there.and_then(|there| there.spec.as_ref()), wanted.families.as_slice()) {
        (Some(held), _) => {
            if let (Some(families), Some(policy)) = (&held.ip_families, &held.ip_family_policy) {
                spec["ipFamilies"] = json!(families);
                spec["ipFamilyPolicy"] = json!(policy);
            }
        }
        (None, [one]) => {
            spec["ipFamilies"] = families(&[*one]);
            spec["ipFamilyPolicy"] = "SingleStack".into();
        }
        (None, _) => spec["ipFamilyPolicy"] = "PreferDualStack".into(),
    }
    policies(&mut spec, wanted.session_affinity, wanted.internal_traffic, &wanted.traffic_distribution);
    let mut metadata = metadata(
        &wanted.key,
        &wanted.labels,
        &wanted.annotations,
        there.and_then(|t| t.metadata.uid.as_deref()),
    );
    metadata["ownerReferences"] = json!([{
        "apiVersion": version.api_version(),
        "kind": ServiceImport::KIND,
        "name": owner.metadata.name,
        "uid": owner.metadata.uid,
        "controller": true,
    }]);
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec })
}

/// Whether a derived Service can become what is wanted without being made anew.
fn fits(there: &Service, wanted: &DerivedService) -> bool {
    let Some(spec) = &there.spec else { return false };
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let first = spec.ip_families.iter().flatten().next().and_then(|word| IpFamily::parse(word));
    headless == wanted.headless && first.is_none_or(|family| wanted.families.contains(&family))
}

/// `uid`: only this very object may be changed.
fn metadata(
    key: &ServiceKey,
    labels: &std::collections::BTreeMap<String, String>,
    annotations: &std::collections::BTreeMap<String, String>,
    uid: Option<&str>,
) -> Value {
    let mut metadata = json!({
        "namespace": key.namespace, "name": key.name, "labels": labels, "annotations": annotations,
    });
    if let Some(uid) = uid {
        metadata["uid"] = uid.into();
    }
    metadata
}

fn port_manifest(port: &ExportPort) -> Map<String, Value> {
    let mut out = Map::from_iter([
        ("port".to_owned(), port.port.into()),
        ("protocol".to_owned(), port.protocol.clone().into()),
    ]);
    if !port.name.is_empty() {
        out.insert("name".to_owned(), port.name.clone().into());
    }
    if !port.app_protocol.is_empty() {
        out.insert("appProtocol".to_owned(), port.app_protocol.clone().into());
    }
    out
}

fn families(families: &[IpFamily]) -> Value {
    families.iter().map(|family| Value::from(family.as_str())).collect()
}

/// The fields that imports and Services have alike.
fn policies(spec: &mut Value, affinity: SessionAffinity, internal: TrafficPolicy, distribution: &str) {
    match affinity {
        SessionAffinity::None => spec["sessionAffinity"] = "None".into(),
        SessionAffinity::ClientIP { timeout_seconds } => {
            spec["sessionAffinity"] = "ClientIP".into();
            if let Some(seconds) = timeout_seconds {
                spec["sessionAffinityConfig"] = json!({ "clientIP": { "timeoutSeconds": seconds } });
            }
        }
    }
    if internal == TrafficPolicy::Local {
        spec["internalTrafficPolicy"] = "Local".into();
    }
    if !distribution.is_empty() {
        spec["trafficDistribution"] = distribution.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn old(kind: &str, status: &str) -> Condition {
        Condition {
            type_: kind.into(),
            status: status.into(),
            reason: "Old".into(),
            message: String::new(),
            last_transition_time: Time("2026-02-10T09:00:00Z".parse().unwrap()),
            observed_generation: None,
        }
    }

    #[test]
    fn conditions_keep_what_is_others_and_the_time_of_the_last_change() {
        let there =
            [old("Ready", "True"), old("Theirs", "True"), old("Conflict", "True"), old("Valid", "False")];
        let wanted = |kind, holds| Wanted { kind, holds, reason: "New", message: "text".into() };
        let kinds = ["Valid", "Ready", "Conflict"];
        let now = conditions(&there, &[wanted("Valid", true), wanted("Ready", true)], &kinds);
        let seen: Vec<_> =
            now.iter().map(|c| (c.type_.as_str(), c.status.as_str(), c.reason.as_str())).collect();
        assert_eq!(seen, [("Ready", "True", "New"), ("Theirs", "True", "Old"), ("Valid", "True", "New")]);
        assert_eq!(now[0].last_transition_time, there[0].last_transition_time);
        assert_ne!(now[2].last_transition_time, there[3].last_transition_time);
        assert_eq!(conditions(&now, &[wanted("Valid", true), wanted("Ready", true)], &kinds), now);
        let first = conditions(&[], &[wanted("Ready", false)], &["Ready"]);
        assert_eq!((first.len(), first[0].status.as_str()), (1, "False"));
    }
}
