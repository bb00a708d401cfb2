//! Deployments: a ReplicaSet for each version of the template, and the way from one to the next.
//!
//! [`plan::next`] says the next step towards what is asked for; this file carries it out and asks again until only the
//! status is left.

mod history;
mod plan;
mod rolling;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde_json::json;

use self::plan::{Step, View};
use super::Shared;
use super::base::Key;
use super::base::queue::{Outcome, Queue};
use super::base::recorder::Recorder;
use super::base::writes::{BEHIND, Error, Own, Writes};
use super::pods;
use super::replicaset::{replicas, settle};

pub(crate) use self::rolling::resolve;

/// Hash of a pod template, as labels carry it.
pub(crate) fn template_hash(template: &PodTemplateSpec) -> String {
    history::hash(template, 0)
}

/// More steps than any rollout takes in one look; what is left is done in the next.
const MOST_STEPS: usize = 64;

struct Controller {
    shared: Arc<Shared>,
    writes: Writes,
    events: Recorder,
    own: Own,
}

/// Starts listening; the future works until shutdown.
pub(crate) fn start(shared: Arc<Shared>) -> impl Future<Output = ()> + Send {
    let queue = Queue::<Key>::new();
    let q = queue.clone();
    shared.deployments.on_change(move |c| c.states().for_each(|d| q.add(Key::of(&**d))));
    let (q, s) = (queue.clone(), shared.clone());
    shared.replica_sets.on_change(move |c| {
        for set in c.states() {
            if let Some(key) = pods::controller_key::<Deployment>(&set.metadata) {
                q.add(key);
            } else if pods::controller_of(&set.metadata).is_none() {
                for deployment in s.deployments.in_namespace(&set.namespace().unwrap_or_default()) {
                    let fits =
                        deployment.spec.as_ref().is_some_and(|d| pods::selector(&d.selector)(set.labels()));
                    if fits {
                        q.add(Key::of(&*deployment));
                    }
                }
            }
        }
    });
    // Recreate waits for the old version's pods to be really gone.
    let (q, s) = (queue.clone(), shared.clone());
    shared.pods.on_change(move |c| {
        if c.new.as_ref().is_none_or(|p| pods::is_finished(p))
            && let Some(old) = &c.old
            && let Some(set) =
                pods::controller_key::<ReplicaSet>(&old.metadata).and_then(|k| s.replica_sets.get(&k))
            && let Some(key) = pods::controller_key::<Deployment>(&set.metadata)
        {
            q.add(key);
        }
    });
    let controller = Arc::new(Controller {
        writes: shared.writes("deployment-controller"),
        events: shared.recorder("deployment-controller"),
        own: Own::default(),
        shared: shared.clone(),
    });
    async move {
        shared.synced().await;
        let look = move |key| {
            let controller = controller.clone();
            async move { controller.look(key).await }
        };
        queue.work("deployment", 4, shared.shutdown.clone(), look).await;
    }
}

impl Controller {
    async fn look(&self, key: Key) -> Outcome {
        let Some(deployment) = self.shared.deployments.get(&key) else {
            self.own.forget(&key);
            return Ok(None);
        };
        let Some(spec) = &deployment.spec else { return Ok(None) };
        if !self.own.is_fresh(&key, &self.shared.replica_sets) {
            return Ok(Some(BEHIND));
        }
        let sets = self.shared.replica_sets.in_namespace(&key.namespace);
        let claims = pods::claim(&*deployment, &spec.selector, sets);
        let sets = settle(&self.writes, &self.own, &key, &*deployment, claims).await?;
        let mut view = View {
            deployment: (*deployment).clone(),
            sets: sets.iter().map(|s| (**s).clone()).collect(),
            pods: self.shared.pods.in_namespace(&key.namespace),
            created: None,
            now: Timestamp::now(),
        };
        for _ in 0..MOST_STEPS {
            match plan::next(&view) {
                Step::Create(set) => self.create(&key, &mut view, *set).await?,
                Step::Update(set) => self.update(&key, &mut view, *set).await?,
                Step::Revision(revision) => {
                    let patch = json!({"metadata": {"annotations": {history::REVISION: revision}}});
                    view.deployment = self.writes.patch(&view.deployment, patch).await?;
                }
                Step::Delete(uid) => {
                    if let Some(i) = view.sets.iter().position(|s| s.metadata.uid.as_ref() == Some(&uid)) {
                        self.writes.delete(&view.sets.remove(i), None).await?;
                    }
                }
                Step::Status(status, again) => {
                    if view.deployment.status.as_ref() != Some(&status) {
                        let changed = Deployment { status: Some(*status), ..view.deployment };
                        self.writes.status(&changed).await?;
                    }
                    return Ok(again);
                }
            }
        }
        Ok(Some(BEHIND))
    }

    async fn create(&self, key: &Key, view: &mut View, set: ReplicaSet) -> Result<(), Error> {
        let deployment = &view.deployment;
        match self.writes.create(&set).await {
            Ok(made) => {
                self.own.wrote(key, &made);
                self.scaled(deployment, &made, 0);
                view.created = Some(made.name_any());
                view.sets.push(made);
                Ok(())
            }
            Err(error) if error.is_taken() => {
                let there = self.shared.replica_sets.get(&Key::of(&set));
                let mine = |s: &ReplicaSet| {
                    pods::controller_of(&s.metadata).map(|r| &r.uid) == deployment.metadata.uid.as_ref()
                };
                if there.as_ref().is_none_or(|s| mine(s) && history::same_template(s, deployment)) {
                    // Ours, from before a restart: the store will show it.
                    return Err(error);
                }
                // Another template with the same hash: count the collision, which changes the hash.
                let mut changed = deployment.clone();
                let status = changed.status.get_or_insert_default();
                status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
                view.deployment = self.writes.status(&changed).await?;
                Ok(())
            }
            Err(error) => {
                let message =
                    format!("Failed to create new replica set {:?}: {}", set.name_any(), error.message());
                self.events.warning(deployment, "ReplicaSetCreateError", message);
                Err(error)
            }
        }
    }

    async fn update(&self, key: &Key, view: &mut View, set: ReplicaSet) -> Result<(), Error> {
        let made = self.writes.replace(&set).await?;
        self.own.wrote(key, &made);
        if let Some(held) = view.sets.iter_mut().find(|s| s.metadata.uid == made.metadata.uid) {
            let from = replicas(held);
            *held = made.clone();
            self.scaled(&view.deployment, &made, from);
        }
        Ok(())
    }

    fn scaled(&self, deployment: &Deployment, set: &ReplicaSet, from: i32) {
        let to = replicas(set);
        if from != to {
            let way = if to > from { "up" } else { "down" };
            let message = format!("Scaled {way} replica set {} from {from} to {to}", set.name_any());
            self.events.normal(deployment, "ScalingReplicaSet", message);
        }
    }
}
