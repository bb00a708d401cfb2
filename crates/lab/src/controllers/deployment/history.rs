//! Versions of a Deployment: which ReplicaSet stands for which template, revision numbers, hashes and names.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::ResourceExt;
use kube::api::ObjectMeta;

use crate::controllers::pods;
use crate::controllers::replicaset::replicas;

/// Annotation with the number of a version, on Deployment and ReplicaSet.
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Annotation with the numbers a ReplicaSet had before, when it was rolled back to.
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// Annotation with the Deployment's replicas when the set was last scaled.
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// Annotation with replicas plus surge at that time.
pub(super) const MOST: &str = "deployment.kubernetes.io/max-replicas";
/// Label that tells the pods of one version from another's.
pub(crate) const TEMPLATE_HASH: &str = "pod-template-hash";

/// Annotations of the Deployment that its sets do not get.
const OWN_ANNOTATIONS: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MOST,
];

fn without_hash(mut template: PodTemplateSpec) -> PodTemplateSpec {
    if let Some(meta) = &mut template.metadata {
        if let Some(labels) = &mut meta.labels {
            labels.remove(TEMPLATE_HASH);
        }
        meta.labels.take_if(|l| l.is_empty());
        meta.annotations.take_if(|a| a.is_empty());
        meta.creation_timestamp = None;
    }
    template
}

/// Whether a set has the Deployment's present template.
pub(super) fn same_template(set: &ReplicaSet, deployment: &Deployment) -> bool {
    let of_set = set.spec.as_ref().and_then(|s| s.template.clone()).map(without_hash);
    let of_deployment = deployment.spec.as_ref().map(|s| without_hash(s.template.clone()));
    of_set == of_deployment
}

/// The set of the present template: the oldest, if there are several.
pub(super) fn present<'a>(deployment: &Deployment, sets: &'a [ReplicaSet]) -> Option<&'a ReplicaSet> {
    let same = sets.iter().filter(|s| same_template(s, deployment));
    same.min_by_key(|s| (s.creation_timestamp().map(|t| t.0), s.name_any()))
}

/// The revision number of an object, 0 without one.
pub(super) fn revision(annotations: &BTreeMap<String, String>) -> i64 {
    annotations.get(REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
}

/// Annotations that the set of the present template should have: the Deployment's, the revision, and the sizes.
pub(super) fn annotations(
    deployment: &Deployment,
    had: &BTreeMap<String, String>,
    new_revision: i64,
    sizes: Option<(i32, i32)>,
) -> BTreeMap<String, String> {
    let mut wanted = had.clone();
    for (k, v) in deployment.annotations() {
        if !OWN_ANNOTATIONS.contains(&k.as_str()) {
            wanted.insert(k.clone(), v.clone());
        }
    }
    let old = revision(had);
    if old < new_revision {
        wanted.insert(REVISION.into(), new_revision.to_string());
        if old > 0 {
            let mut past: Vec<&str> =
                had.get(REVISION_HISTORY).map_or(Vec::new(), |h| h.split(',').collect());
            let number = old.to_string();
            past.push(&number);
            wanted.insert(REVISION_HISTORY.into(), past.join(","));
        }
    }
    if let Some((desired, most)) = sizes {
        wanted.insert(DESIRED.into(), desired.to_string());
        wanted.insert(MOST.into(), most.to_string());
    }
    wanted
}

/// Number for the present template when `old` are the other sets.
pub(super) fn next_revision(old: &[&ReplicaSet]) -> i64 {
    old.iter().map(|s| revision(s.annotations())).max().unwrap_or(0) + 1
}

/// Name part and label value for a template. FNV-1a over its JSON, in the alphabet Kubernetes uses for it (without
/// vowels and look-alikes); collisions count into it.
pub(crate) fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    let json = serde_json::to_vec(&without_hash(template.clone())).unwrap_or_default();
    let mut h: u32 = 0x811c_9dc5;
    let mut eat = |bytes: &[u8]| {
        for b in bytes {
            h = (h ^ u32::from(*b)).wrapping_mul(0x0100_0193);
        }
    };
    eat(&json);
    if collisions > 0 {
        eat(&collisions.to_le_bytes());
    }
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    h.to_string().bytes().map(|b| char::from(ALPHABET[usize::from(b) % ALPHABET.len()])).collect()
}

/// The set for the present template, with no annotations yet.
pub(super) fn new_set(deployment: &Deployment, size: i32) -> ReplicaSet {
    let Some(spec) = deployment.spec.as_ref() else { return ReplicaSet::default() };
    let collisions = deployment.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
    let hash = hash(&spec.template, collisions);
    let mut template = spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(TEMPLATE_HASH.into(), hash.clone());
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(TEMPLATE_HASH.into(), hash.clone());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name_any())),
            namespace: deployment.namespace(),
            labels: template.metadata.as_ref().and_then(|m| m.labels.clone()),
            owner_references: Some(vec![pods::controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(size),
            min_ready_seconds: spec.min_ready_seconds.filter(|s| *s != 0),
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

/// Old sets beyond the history limit, lowest revision first, that have and had no pods.
pub(super) fn outdated<'a>(limit: i32, old: &[&'a ReplicaSet]) -> Vec<&'a ReplicaSet> {
    let mut alive: Vec<&ReplicaSet> =
        old.iter().copied().filter(|s| s.metadata.deletion_timestamp.is_none()).collect();
    let surplus = alive.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    alive.sort_by_key(|s| (revision(s.annotations()), s.creation_timestamp().map(|t| t.0), s.name_any()));
    alive.truncate(surplus);
    alive.retain(|s| {
        let status = s.status.clone().unwrap_or_default();
        replicas(s) == 0 && status.replicas == 0 && s.metadata.generation <= status.observed_generation
    });
    alive
}
