//! ReplicaSets: as many pods of a template as asked for.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::Shared;
use super::base::Key;
use super::base::queue::{Outcome, Queue};
use super::base::recorder::Recorder;
use super::base::writes::{BEHIND, Error, Own, Writable, Writes};
use super::pods::{self, Claims};

/// Most pods made or deleted in one look.
const BURST: usize = 500;

/// What has to happen to the pods of a set.
#[derive(Debug, PartialEq)]
enum Scale {
    Nothing,
    Create(usize),
    Delete(Vec<Arc<Pod>>),
}

fn scale(set: &ReplicaSet, mut active: Vec<Arc<Pod>>) -> Scale {
    let wanted = usize::try_from(replicas(set)).unwrap_or(0);
    if active.len() < wanted {
        return Scale::Create((wanted - active.len()).min(BURST));
    }
    let surplus = (active.len() - wanted).min(BURST);
    if surplus == 0 {
        return Scale::Nothing;
    }
    pods::by_deletion_preference(&mut active);
    active.truncate(surplus);
    Scale::Delete(active)
}

/// Replicas asked for; one if the set does not say.
pub(crate) fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

fn template(set: &ReplicaSet) -> PodTemplateSpec {
    set.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default()
}

/// The status that active pods give a set, and when it changes with time alone.
fn status(
    set: &ReplicaSet,
    active: &[Arc<Pod>],
    failure: Option<(&'static str, String)>,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<Duration>) {
    let labels = template(set).metadata.and_then(|m| m.labels).unwrap_or_default();
    let min_ready = set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0);
    let count =
        |f: &dyn Fn(&Pod) -> bool| Some(active.iter().filter(|p| f(p)).count() as i32).filter(|n| *n > 0);
    let until = active.iter().filter_map(|p| pods::available(p, min_ready, now).err().flatten()).min();
    let mut conditions = set.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    match failure {
        None => conditions.retain(|c| c.type_ != "ReplicaFailure"),
        Some((reason, message)) if !conditions.iter().any(|c| c.type_ == "ReplicaFailure") => {
            conditions.push(ReplicaSetCondition {
                type_: "ReplicaFailure".into(),
                status: "True".into(),
                reason: Some(reason.into()),
                message: Some(message),
                last_transition_time: Some(Time(now)),
            });
        }
        Some(_) => {}
    }
    let status = ReplicaSetStatus {
        replicas: active.len() as i32,
        fully_labeled_replicas: count(&|p| labels.iter().all(|(k, v)| p.labels().get(k) == Some(v))),
        ready_replicas: count(&pods::is_ready),
        available_replicas: count(&|p| pods::available(p, min_ready, now).is_ok()),
        observed_generation: set.metadata.generation,
        conditions: Some(conditions).filter(|c| !c.is_empty()),
        terminating_replicas: None,
    };
    (status, until)
}

/// The controller.
pub(crate) struct Controller {
    shared: Arc<Shared>,
    writes: Writes,
    events: Recorder,
    own: Own,
}

/// Starts listening; the future works until shutdown.
pub(crate) fn start(shared: Arc<Shared>) -> impl Future<Output = ()> + Send {
    let queue = Queue::<Key>::new();
    let q = queue.clone();
    shared.replica_sets.on_change(move |c| c.states().for_each(|s| q.add(Key::of(&**s))));
    let (q, s) = (queue.clone(), shared.clone());
    shared.pods.on_change(move |c| {
        for pod in c.states() {
            match pods::controller_of(&pod.metadata) {
                Some(_) => {
                    if let Some(key) = pods::controller_key::<ReplicaSet>(&pod.metadata) {
                        q.add(key);
                    }
                }
                None => {
                    for set in s.replica_sets.in_namespace(&pod.namespace().unwrap_or_default()) {
                        let fits =
                            set.spec.as_ref().is_some_and(|s| pods::selector(&s.selector)(pod.labels()));
                        if fits {
                            q.add(Key::of(&*set));
                        }
                    }
                }
            }
        }
    });
    let controller = Arc::new(Controller {
        writes: shared.writes("replicaset-controller"),
        events: shared.recorder("replicaset-controller"),
        own: Own::default(),
        shared: shared.clone(),
    });
    async move {
        shared.synced().await;
        let look = move |key| {
            let controller = controller.clone();
            async move { controller.look(key).await }
        };
        queue.work("replicaset", 4, shared.shutdown.clone(), look).await;
    }
}

impl Controller {
    async fn look(&self, key: Key) -> Outcome {
        let Some(set) = self.shared.replica_sets.get(&key) else {
            self.own.forget(&key);
            return Ok(None);
        };
        let Some(spec) = &set.spec else { return Ok(None) };
        if !self.own.is_fresh(&key, &self.shared.pods) {
            return Ok(Some(BEHIND));
        }
        let claims = pods::claim(&*set, &spec.selector, self.shared.pods.in_namespace(&key.namespace));
        let owned = settle(&self.writes, &self.own, &key, &*set, claims).await?;
        let alive: HashSet<String> = owned.iter().filter_map(|p| p.uid()).collect();
        let deleted = self.own.deleted_of(&key, &alive);
        let mut active = owned;
        active.retain(|p| pods::is_active(p) && !p.uid().is_some_and(|uid| deleted.contains(&uid)));
        let mut failure = None;
        if set.metadata.deletion_timestamp.is_none()
            && let Err((reason, error)) = self.scale(&key, &set, active.clone()).await
        {
            failure = Some((reason, error));
        }
        let told = failure.as_ref().map(|(reason, e)| (*reason, e.message()));
        let (status, until) = status(&set, &active, told, Timestamp::now());
        if set.status.as_ref() != Some(&status) {
            self.writes.status(&ReplicaSet { status: Some(status), ..(*set).clone() }).await?;
        }
        match failure {
            Some((_, error)) => Err(error),
            None => Ok(until),
        }
    }

    async fn scale(
        &self,
        key: &Key,
        set: &ReplicaSet,
        active: Vec<Arc<Pod>>,
    ) -> Result<(), (&'static str, Error)> {
        match scale(set, active) {
            Scale::Nothing => Ok(()),
            Scale::Create(count) => {
                let pod = pods::from_template(set, &template(set));
                create_pods(&self.writes, &self.events, &self.own, key, set, vec![pod; count])
                    .await
                    .map_err(|e| ("FailedCreate", e))
            }
            Scale::Delete(victims) => delete_pods(&self.writes, &self.events, &self.own, key, set, victims)
                .await
                .map_err(|e| ("FailedDelete", e)),
        }
    }
}

/// Adopts and releases, and returns what is owned afterwards.
pub(crate) async fn settle<K: Writable, O: Resource<DynamicType = ()>>(
    writes: &Writes,
    own: &Own,
    key: &Key,
    owner: &O,
    claims: Claims<K>,
) -> Result<Vec<Arc<K>>, Error> {
    let mut owned = claims.owned;
    for object in claims.adopt {
        let references = pods::adopted(&*object, owner);
        let done = writes.patch(&*object, json!({"metadata": {"ownerReferences": references}})).await?;
        own.wrote(key, &done);
        owned.push(Arc::new(done));
    }
    for object in claims.release {
        let references = pods::released(&*object, owner);
        match writes.patch(&*object, json!({"metadata": {"ownerReferences": references}})).await {
            Ok(done) => own.wrote(key, &done),
            Err(e) if e.is_gone() => {}
            Err(e) => return Err(e),
        }
    }
    owned.sort_by_key(|o| Key::of(&**o));
    Ok(owned)
}

/// Creates pods in batches that double in size, so that a template that is refused costs one request and not hundreds.
pub(crate) async fn create_pods<O: Resource<DynamicType = ()>>(
    writes: &Writes,
    events: &Recorder,
    own: &Own,
    key: &Key,
    owner: &O,
    mut wanted: Vec<Pod>,
) -> Result<(), Error> {
    let mut batch = 1;
    while !wanted.is_empty() {
        let rest = wanted.split_off(batch.min(wanted.len()));
        let results = join_all(wanted.iter().map(|pod| writes.create(pod))).await;
        let mut failure = None;
        for result in results {
            match result {
                Ok(pod) => {
                    own.wrote(key, &pod);
                    events.normal(owner, "SuccessfulCreate", format!("Created pod: {}", pod.name_any()));
                }
                Err(error) => failure = Some(error),
            }
        }
        if let Some(error) = failure {
            events.warning(owner, "FailedCreate", format!("Error creating: {}", error.message()));
            return Err(error);
        }
        wanted = rest;
        batch *= 2;
    }
    Ok(())
}

/// Deletes pods.
pub(crate) async fn delete_pods<O: Resource<DynamicType = ()>>(
    writes: &Writes,
    events: &Recorder,
    own: &Own,
    key: &Key,
    owner: &O,
    victims: Vec<Arc<Pod>>,
) -> Result<(), Error> {
    let results = join_all(victims.iter().map(|pod| writes.delete(&**pod, None))).await;
    let mut failure = None;
    for (pod, result) in victims.iter().zip(results) {
        match result {
            Ok(()) => {
                own.deleted(key, &**pod);
                events.normal(owner, "SuccessfulDelete", format!("Deleted pod: {}", pod.name_any()));
            }
            Err(error) => {
                events.warning(owner, "FailedDelete", format!("Error deleting: {}", error.message()));
                failure = Some(error);
            }
        }
    }
    failure.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::pods::make::pod;

    fn set(replicas: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web-1", "namespace": "ns", "uid": "u", "generation": 3},
            "spec": {"replicas": replicas, "minReadySeconds": 10, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}},
        }))
        .unwrap()
    }

    fn three() -> Vec<Arc<Pod>> {
        vec![
            Arc::new(pod("a", "n1", Some(5))),
            Arc::new(pod("b", "n2", Some(8))),
            Arc::new(pod("c", "", None)),
        ]
    }

    #[test]
    fn scales_both_ways() {
        assert_eq!(scale(&set(3), three()), Scale::Nothing);
        assert_eq!(scale(&set(5), three()), Scale::Create(2));
        let Scale::Delete(victims) = scale(&set(1), three()) else { panic!("no deletion") };
        let names: Vec<String> = victims.iter().map(|p| p.name_any()).collect();
        assert_eq!(names, ["c", "b"]);
    }

    #[test]
    fn status_counts_available_pods_by_time() {
        let now = Timestamp::from_second(16).unwrap();
        let (s, until) = status(&set(3), &three(), Some(("FailedCreate", "no".into())), now);
        assert_eq!((s.replicas, s.ready_replicas, s.available_replicas), (3, Some(2), Some(1)));
        assert_eq!((s.fully_labeled_replicas, s.observed_generation), (Some(3), Some(3)));
        assert_eq!(until, Some(Duration::from_secs(2)));
        assert_eq!(s.conditions.as_ref().unwrap()[0].reason.as_deref(), Some("FailedCreate"));
    }

    #[test]
    fn adoption_and_release_follow_the_selector() {
        let s = set(1);
        let mut mine = pod("mine", "n", None);
        mine.metadata.owner_references = Some(vec![pods::controller_reference(&s)]);
        let mut strayed = mine.clone();
        strayed.metadata.name = Some("strayed".into());
        strayed.metadata.labels = None;
        let mut other = mine.clone();
        other.metadata.owner_references.as_mut().unwrap()[0].uid = "else".into();
        let all = [mine, strayed, other, pod("orphan", "n", None)].into_iter().map(Arc::new).collect();
        let claims = pods::claim(&s, &s.spec.as_ref().unwrap().selector, all);
        let names = |v: &[Arc<Pod>]| v.iter().map(|p| p.name_any()).collect::<Vec<_>>();
        assert_eq!(
            (names(&claims.owned), names(&claims.adopt), names(&claims.release)),
            (vec!["mine".into()], vec!["orphan".into()], vec!["strayed".into()])
        );
        assert!(pods::released(&*claims.release[0], &s).is_empty());
        assert_eq!(pods::adopted(&*claims.adopt[0], &s)[0].uid, "u");
    }
}
