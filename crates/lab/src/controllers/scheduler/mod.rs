//! The scheduler: binds pods without a node to one. [`place`] chooses; this file remembers what has been promised but
//! not been seen yet, and looks again at pods that fitted nowhere when nodes or pods change.

pub(crate) mod affinity;
mod place;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Binding, Node, ObjectReference, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::ObjectMeta;
use kube::core::Status;

use self::place::Placed;
use super::Shared;
use super::base::Key;
use super::base::queue::{Outcome, Queue};
use super::base::recorder::Recorder;
use super::base::writes::{Error, Writable, Writes};
use super::pods;

/// Scheduler name of the pods this scheduler is for.
const NAME: &str = "default-scheduler";
/// When a pod that fits nowhere is tried again although nothing changed.
const RETRY: Duration = Duration::from_secs(30);

struct Scheduler {
    shared: Arc<Shared>,
    writes: Writes,
    events: Recorder,
    /// Node by uid of pods that were bound and are not shown with their node yet.
    promised: Mutex<HashMap<String, String>>,
    /// Pods that fitted nowhere.
    waiting: Arc<Mutex<HashSet<Key>>>,
}

fn is_ours(pod: &Pod) -> bool {
    let scheduler = pod.spec.as_ref().and_then(|s| s.scheduler_name.as_deref()).unwrap_or(NAME);
    scheduler == NAME && pods::node_of(pod).is_empty() && pods::is_active(pod)
}

/// What decides where pods may go; heartbeats do not.
fn shape(node: &Node) -> (Option<&std::collections::BTreeMap<String, String>>, Vec<affinity::Taint>) {
    (node.metadata.labels.as_ref(), affinity::taints(node))
}

/// Starts listening; the future works until shutdown.
pub(crate) fn start(shared: Arc<Shared>) -> impl Future<Output = ()> + Send {
    let queue = Queue::<Key>::new();
    let waiting: Arc<Mutex<HashSet<Key>>> = Arc::default();
    let (q, w) = (queue.clone(), waiting.clone());
    let wake = move || {
        let mut keys: Vec<Key> = w.lock().unwrap_or_else(|e| e.into_inner()).drain().collect();
        keys.sort();
        keys.into_iter().for_each(|k| q.add(k));
    };
    let (q, woken) = (queue.clone(), wake.clone());
    shared.pods.on_change(move |c| match &c.new {
        Some(pod) if is_ours(pod) => q.add(Key::of(&**pod)),
        Some(pod) if !pods::is_finished(pod) => {}
        // Room on a node.
        _ => woken(),
    });
    shared.nodes.on_change(move |c| {
        if c.old.as_ref().map(|n| shape(n)) != c.new.as_ref().map(|n| shape(n)) {
            wake();
        }
    });
    let scheduler = Arc::new(Scheduler {
        writes: shared.writes("kube-scheduler"),
        events: shared.recorder(NAME),
        promised: Mutex::default(),
        waiting,
        shared: shared.clone(),
    });
    async move {
        shared.synced().await;
        let look = move |key| {
            let scheduler = scheduler.clone();
            async move { scheduler.look(key).await }
        };
        // One at a time: each choice counts the ones before it.
        queue.work("scheduler", 1, shared.shutdown.clone(), look).await;
    }
}

impl Scheduler {
    async fn look(&self, key: Key) -> Outcome {
        let Some(pod) = self.shared.pods.get(&key).filter(|p| is_ours(p)) else { return Ok(None) };
        let uid = pod.uid().unwrap_or_default();
        if self.promises().contains_key(&uid) {
            return Ok(None);
        }
        match self.choose(&pod) {
            Ok(node) => self.bind(&pod, &node).await.map(|()| None),
            Err(why) => {
                // Noted before the status is written: a node that appears meanwhile must find it here.
                self.waiting.lock().unwrap_or_else(|e| e.into_inner()).insert(key);
                self.refuse(&pod, why).await?;
                Ok(Some(RETRY))
            }
        }
    }

    /// The promises that still count: those for pods the store shows without a node.
    fn promises(&self) -> HashMap<String, String> {
        let open: HashSet<String> = self
            .shared
            .pods
            .all()
            .iter()
            .filter(|p| pods::node_of(p).is_empty())
            .filter_map(|p| p.uid())
            .collect();
        let mut promised = self.promised.lock().unwrap_or_else(|e| e.into_inner());
        promised.retain(|uid, _| open.contains(uid));
        promised.clone()
    }

    fn choose(&self, pod: &Pod) -> Result<String, String> {
        let promised = self.promises();
        let all = self.shared.pods.all();
        let placed: Vec<Placed<'_>> = all
            .iter()
            .filter(|p| !pods::is_finished(p))
            .filter_map(|p| {
                let on = pods::node_of(p);
                let promised = || promised.get(p.metadata.uid.as_deref()?).map(String::as_str);
                let node = if on.is_empty() { promised()? } else { on };
                Some(Placed { pod: p, node })
            })
            .collect();
        let nodes: Vec<Arc<Node>> =
            self.shared.nodes.all().into_iter().filter(|n| n.metadata.deletion_timestamp.is_none()).collect();
        place::place(pod, &nodes, &placed)
    }

    async fn bind(&self, pod: &Pod, node: &str) -> Result<(), Error> {
        let key = Key::of(pod);
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(key.name.clone()),
                namespace: Some(key.namespace.clone()),
                uid: pod.uid(),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".into()),
                name: Some(node.into()),
                ..Default::default()
            },
        };
        let api = Pod::api(self.writes.client(), &key.namespace);
        let done =
            api.create_subresource::<_, Status>("binding", &key.name, &self.writes.params(), &binding).await;
        match done {
            Ok(_) => {
                let mut promised = self.promised.lock().unwrap_or_else(|e| e.into_inner());
                promised.insert(pod.uid().unwrap_or_default(), node.to_string());
                drop(promised);
                let message = format!("Successfully assigned {key} to {node}");
                self.events.normal(pod, "Scheduled", message);
                Ok(())
            }
            Err(source) => {
                Err(Error::Api { verb: "bind", kind: "Pod".into(), key, source: Box::new(source) })
            }
        }
    }

    /// Says on the pod and in an event why it fits nowhere; once for each reason.
    async fn refuse(&self, pod: &Pod, why: String) -> Result<(), Error> {
        let present = pods::condition(pod, "PodScheduled");
        if present.is_some_and(|c| c.status == "False" && c.message.as_deref() == Some(&why)) {
            return Ok(());
        }
        self.events.warning(pod, "FailedScheduling", why.clone());
        let mut changed = pod.clone();
        let conditions = changed.status.get_or_insert_default().conditions.get_or_insert_default();
        let since = conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False");
        let since = since.and_then(|c| c.last_transition_time.clone());
        conditions.retain(|c| c.type_ != "PodScheduled");
        conditions.push(PodCondition {
            type_: "PodScheduled".into(),
            status: "False".into(),
            reason: Some("Unschedulable".into()),
            message: Some(why),
            last_transition_time: Some(since.unwrap_or(Time(Timestamp::now()))),
            ..PodCondition::default()
        });
        self.writes.status(&changed).await.map(|_| ())
    }
}
