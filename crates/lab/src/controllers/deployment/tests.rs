//! Rollouts played through against a ReplicaSet controller and pods that are just numbers.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetStatus};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::plan::{Step, View, next};
use super::rolling::{Limits, resolve};
use super::{history, status};
use crate::controllers::replicaset::replicas;

fn deployment(size: i32, image: &str, strategy: Value) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 1},
        "spec": {"replicas": size, "selector": {"matchLabels": {"app": "web"}}, "strategy": strategy,
            "progressDeadlineSeconds": 60, "revisionHistoryLimit": 2,
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}}},
    }))
    .unwrap()
}

fn rolling(surge: i32, unavailable: i32) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

struct Cluster {
    view: View,
    serial: i64,
}

impl Cluster {
    fn new(deployment: Deployment) -> Self {
        let now = Timestamp::from_second(1000).unwrap();
        let view = View { deployment, sets: Vec::new(), pods: Vec::new(), created: None, now };
        Cluster { view, serial: 0 }
    }

    /// Carries out steps until only the status is left, as the controller does.
    fn look(&mut self) {
        self.view.created = None;
        for _ in 0..50 {
            match next(&self.view) {
                Step::Create(mut set) => {
                    self.serial += 1;
                    set.metadata.uid = Some(format!("s{}", self.serial));
                    set.metadata.creation_timestamp = serde_json::from_value(json!(
                        Timestamp::from_second(self.serial).unwrap().to_string()
                    ))
                    .unwrap();
                    self.view.created = Some(set.name_any());
                    self.view.sets.push(*set);
                }
                Step::Update(set) => {
                    let held =
                        self.view.sets.iter_mut().find(|s| s.metadata.uid == set.metadata.uid).unwrap();
                    assert_ne!(*held, *set, "an update that changes nothing");
                    *held = *set;
                }
                Step::Revision(r) => {
                    self.view.deployment.annotations_mut().insert(history::REVISION.into(), r);
                }
                Step::Delete(uid) => self.view.sets.retain(|s| s.metadata.uid.as_ref() != Some(&uid)),
                Step::Status(status, _) => {
                    self.view.deployment.status = Some(*status);
                    return;
                }
            }
        }
        panic!("never comes to an end");
    }

    /// Lets every set have its pods, of which `ready` of the image say they are available.
    fn settle(&mut self, ready: impl Fn(&str, i32) -> i32) {
        for set in &mut self.view.sets {
            let n = replicas(set);
            let available = ready(&image(set), n);
            set.status = Some(ReplicaSetStatus {
                replicas: n,
                ready_replicas: Some(available),
                available_replicas: Some(available),
                observed_generation: set.metadata.generation,
                ..ReplicaSetStatus::default()
            });
        }
    }

    fn sizes(&self) -> Vec<(String, i32)> {
        self.view.sets.iter().map(|s| (image(s), replicas(s))).collect()
    }

    fn change(&mut self, image: &str) {
        let d = &mut self.view.deployment;
        d.spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers[0].image = Some(image.into());
        d.metadata.generation = d.metadata.generation.map(|g| g + 1);
    }

    fn scale(&mut self, size: i32) {
        self.view.deployment.spec.as_mut().unwrap().replicas = Some(size);
    }

    fn condition(&self, kind: &str) -> (String, String) {
        let all = self.view.deployment.status.as_ref().unwrap().conditions.clone().unwrap();
        let c = all.into_iter().find(|c| c.type_ == kind).unwrap();
        (c.status, c.reason.unwrap())
    }

    fn complete(&self) -> bool {
        status::is_complete(&self.view.deployment, self.view.deployment.status.as_ref().unwrap())
    }

    fn roll_out(&mut self) {
        for _ in 0..100 {
            self.look();
            if self.complete() {
                return;
            }
            self.settle(|_, n| n);
        }
        panic!("never completes: {:?}", self.sizes());
    }
}

fn image(set: &ReplicaSet) -> String {
    let template = set.spec.as_ref().unwrap().template.as_ref().unwrap();
    template.spec.as_ref().unwrap().containers[0].image.clone().unwrap()
}

#[test]
fn numbers_and_percentages() {
    let s = |s: &str| serde_json::from_value(json!(s)).unwrap();
    assert_eq!(resolve(Some(&s("25%")), 10, true), 3);
    assert_eq!(resolve(Some(&s("25%")), 10, false), 2);
    assert_eq!(resolve(Some(&serde_json::from_value(json!(4)).unwrap()), 10, false), 4);
    let of = |n, strategy| Limits::of(&deployment(n, "a", strategy));
    let plain = of(4, json!({"type": "RollingUpdate"}));
    assert_eq!((plain.surge, plain.unavailable, plain.most()), (1, 1, 5));
    assert_eq!(of(1, rolling(0, 0)).unavailable, 1);
    assert_eq!(of(2, rolling(0, 5)).unavailable, 2);
}

#[test]
fn a_rollout_goes_step_by_step_and_ends() {
    let mut c = Cluster::new(deployment(4, "a", rolling(1, 1)));
    c.look();
    assert_eq!(c.sizes(), [("a".into(), 4)]);
    assert_eq!(c.condition("Progressing").1, "NewReplicaSetCreated");
    assert_eq!(c.condition("Available").0, "False");
    c.settle(|_, n| n);
    c.look();
    assert_eq!(c.condition("Progressing").1, "NewReplicaSetAvailable");
    c.change("b");
    c.look();
    assert_eq!(c.sizes(), [("a".into(), 3), ("b".into(), 2)]);
    // Seen again before anything happened: nothing more is given up.
    c.look();
    assert_eq!(c.sizes(), [("a".into(), 3), ("b".into(), 2)]);
    c.roll_out();
    assert_eq!(c.sizes(), [("a".into(), 0), ("b".into(), 4)]);
    assert_eq!(c.view.deployment.annotations()[history::REVISION], "2");
    assert_eq!(c.condition("Available").0, "True");
}

#[test]
fn a_version_that_never_gets_ready_stalls_and_times_out() {
    let mut c = Cluster::new(deployment(4, "a", rolling(1, 1)));
    c.roll_out();
    c.change("broken");
    let ready = |image: &str, n| if image == "broken" { 0 } else { n };
    for _ in 0..20 {
        c.look();
        c.settle(ready);
    }
    assert_eq!(c.sizes(), [("a".into(), 3), ("broken".into(), 2)]);
    assert_eq!(c.condition("Available").0, "True");
    c.view.now = Timestamp::from_second(1000 + 62).unwrap();
    c.look();
    assert_eq!(c.condition("Progressing"), ("False".into(), "ProgressDeadlineExceeded".into()));
    // Rolled back: the old set is the new one again, under a new revision.
    c.change("a");
    c.roll_out();
    assert_eq!(c.sizes(), [("a".into(), 4), ("broken".into(), 0)]);
    assert_eq!(c.view.deployment.annotations()[history::REVISION], "3");
    assert_eq!(c.view.sets[0].annotations()["deployment.kubernetes.io/revision-history"], "1");
}

#[test]
fn recreate_waits_for_the_old_pods_to_be_gone() {
    let mut c = Cluster::new(deployment(2, "a", json!({"type": "Recreate"})));
    c.roll_out();
    c.change("b");
    let mut pod = crate::controllers::pods::make::pod("p", "n", Some(1));
    pod.metadata.owner_references =
        Some(vec![crate::controllers::pods::controller_reference(&c.view.sets[0])]);
    c.view.pods = vec![std::sync::Arc::new(pod)];
    c.look();
    assert_eq!(c.sizes(), [("a".into(), 0)]);
    c.view.pods.clear();
    c.look();
    assert_eq!(c.sizes(), [("a".into(), 0), ("b".into(), 2)]);
}

#[test]
fn history_is_bounded_and_paused_deployments_only_scale() {
    let mut c = Cluster::new(deployment(1, "v0", rolling(1, 0)));
    for i in 0..5 {
        c.change(&format!("v{i}"));
        c.roll_out();
    }
    c.settle(|_, n| n);
    c.look();
    let images: Vec<String> = c.sizes().into_iter().map(|(i, _)| i).collect();
    assert_eq!(images, ["v2", "v3", "v4"]);
    c.view.deployment.spec.as_mut().unwrap().paused = Some(true);
    c.change("v9");
    c.scale(3);
    c.look();
    assert_eq!(c.sizes()[2], ("v4".into(), 3));
    assert_eq!(c.view.sets.len(), 3);
    assert_eq!(c.condition("Progressing").1, "DeploymentPaused");
    c.view.deployment.spec.as_mut().unwrap().paused = None;
    c.roll_out();
    assert_eq!(c.sizes().last().unwrap(), &("v9".to_string(), 3));
}

#[test]
fn scaling_during_a_rollout_is_shared_in_proportion() {
    let mut c = Cluster::new(deployment(10, "a", rolling(3, 2)));
    c.roll_out();
    c.change("b");
    c.look();
    assert_eq!(c.sizes(), [("a".into(), 8), ("b".into(), 5)]);
    c.settle(|i, n| if i == "b" { 0 } else { n });
    c.scale(15);
    c.look();
    // 18 allowed instead of 13: three fifths of the growth go to the larger set.
    assert_eq!(c.sizes(), [("a".into(), 11), ("b".into(), 7)]);
}

#[test]
fn hashes_tell_templates_apart() {
    let template = |image| deployment(1, image, json!({})).spec.unwrap().template;
    assert_eq!(history::hash(&template("a"), 0), history::hash(&template("a"), 0));
    assert_ne!(history::hash(&template("a"), 0), history::hash(&template("b"), 0));
    assert_ne!(history::hash(&template("a"), 0), history::hash(&template("a"), 1));
}

proptest! {
    /// Whatever the limits, and however slowly pods become available: never too many pods, never too few available.
    #[test]
    fn limits_hold_throughout(size in 1i32..12, surge in 0i32..5, unavailable in 0i32..5, lags in prop::collection::vec(0i32..6, 60)) {
        let mut c = Cluster::new(deployment(size, "a", rolling(surge, unavailable)));
        c.roll_out();
        let limits = Limits::of(&c.view.deployment);
        c.change("b");
        for lag in lags {
            c.look();
            let total: i32 = c.view.sets.iter().map(replicas).sum();
            prop_assert!(total <= limits.most(), "{:?}", c.sizes());
            c.settle(|i, n| if i == "b" { (n - lag).max(0) } else { n });
            let available: i32 = c.view.sets.iter().map(|s| s.status.as_ref().unwrap().available_replicas.unwrap()).sum();
            // Pods of the new version that turn unready on their own are not the rollout's doing.
            let fallen = lag.min(c.view.sets.iter().filter(|s| image(s) == "b").map(replicas).sum());
            prop_assert!(available + fallen >= limits.replicas - limits.unavailable, "{:?}", c.sizes());
        }
        c.roll_out();
        prop_assert_eq!(c.sizes(), [("a".to_string(), 0), ("b".to_string(), size)]);
    }
}
