//! Events of the kubelet: written by one task, so that nothing waits for them; repeated ones are counted in one object.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How many distinct events are remembered for counting.
const REMEMBERED: usize = 512;

/// One thing to tell.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Note {
    kind: &'static str,
    namespace: String,
    name: String,
    uid: String,
    field: String,
    warning: bool,
    reason: String,
    message: String,
}

/// Where events are given in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Events {
    notes: mpsc::Sender<Note>,
}

/// What an event is about.
#[derive(Debug, Clone)]
pub struct About {
    /// `Pod`, `Node`, `Service`.
    pub kind: &'static str,
    /// Namespace, empty for none.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
}

impl Events {
    /// The sender, and the task that writes until `shutdown`.
    pub fn new(
        client: kube::Client,
        node: String,
        shutdown: CancellationToken,
    ) -> (Self, impl Future<Output = ()>) {
        let (notes, queue) = mpsc::channel(256);
        (Events { notes }, write(client, node, queue, shutdown))
    }

    /// Tells something. `container` names one of a pod's. Dropped if the writer is far behind.
    pub fn tell(&self, about: &About, container: Option<&str>, warning: bool, reason: &str, message: &str) {
        let note = Note {
            kind: about.kind,
            namespace: about.namespace.clone(),
            name: about.name.clone(),
            uid: about.uid.clone(),
            field: container.map(|c| format!("spec.containers{{{c}}}")).unwrap_or_default(),
            warning,
            reason: reason.into(),
            message: message.chars().take(1024).collect(),
        };
        let (kind, ns, name) = (note.kind, &note.namespace, &note.name);
        tracing::debug!(kind, namespace = ns, name, reason, message, "event");
        let _ = self.notes.try_send(note);
    }
}

async fn write(
    client: kube::Client,
    node: String,
    mut queue: mpsc::Receiver<Note>,
    shutdown: CancellationToken,
) {
    let mut known: BTreeMap<Note, (String, i32)> = BTreeMap::new();
    loop {
        let note = tokio::select! {
            note = queue.recv() => match note { Some(n) => n, None => return },
            () = shutdown.cancelled() => return,
        };
        let namespace = if note.namespace.is_empty() { "default" } else { &note.namespace };
        let api: Api<Event> = Api::namespaced(client.clone(), namespace);
        let now = Timestamp::now();
        if let Some((name, count)) = known.get_mut(&note) {
            *count += 1;
            let patch = json!({"count": *count, "lastTimestamp": Time(now)});
            if api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.is_ok() {
                continue;
            }
        }
        let name = format!("{}.{:x}", note.name, now.as_nanosecond());
        let event = object(&note, namespace, &name, &node, now);
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => {
                if known.len() >= REMEMBERED {
                    known.clear();
                }
                known.insert(note, (name, 1));
            }
            Err(error) => tracing::debug!(%error, reason = note.reason, "event not written"),
        }
    }
}

fn object(note: &Note, namespace: &str, name: &str, node: &str, now: Timestamp) -> Event {
    let some = |s: &str| (!s.is_empty()).then(|| s.to_string());
    Event {
        metadata: ObjectMeta { name: some(name), namespace: some(namespace), ..ObjectMeta::default() },
        involved_object: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some(note.kind.into()),
            namespace: some(&note.namespace),
            name: some(&note.name),
            uid: some(&note.uid),
            field_path: some(&note.field),
            ..ObjectReference::default()
        },
        type_: Some(if note.warning { "Warning" } else { "Normal" }.into()),
        reason: some(&note.reason),
        message: some(&note.message),
        source: Some(EventSource { component: Some("kubelet".into()), host: some(node) }),
        reporting_component: Some("kubelet".into()),
        reporting_instance: some(node),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    }
}
