//! Writes events about objects. What repeats is counted on the event that is already there. Recording never holds up
//! or fails a controller: events go through a queue and are dropped, with a log line, when the server refuses them.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Counted events that are remembered; all are forgotten when there are more.
const REMEMBERED: usize = 4096;

#[derive(Debug)]
struct Note {
    about: ObjectReference,
    component: &'static str,
    kind: &'static str,
    reason: &'static str,
    message: String,
}

/// Sends events under one component's name. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    component: &'static str,
    notes: mpsc::Sender<Note>,
}

/// What writes the events of all recorders.
pub(crate) struct Writer {
    client: Client,
    notes: mpsc::Receiver<Note>,
    known: HashMap<String, (String, String, i32)>,
}

/// A writer and what its recorders are made from.
pub(crate) fn channel(client: Client) -> (Writer, impl Fn(&'static str) -> Recorder) {
    let (tx, rx) = mpsc::channel(1024);
    let writer = Writer { client, notes: rx, known: HashMap::new() };
    (writer, move |component| Recorder { component, notes: tx.clone() })
}

impl Recorder {
    /// Something went as it should.
    pub(crate) fn normal<K: Resource<DynamicType = ()>>(
        &self,
        about: &K,
        reason: &'static str,
        message: String,
    ) {
        self.send(about, "Normal", reason, message);
    }

    /// Something did not.
    pub(crate) fn warning<K: Resource<DynamicType = ()>>(
        &self,
        about: &K,
        reason: &'static str,
        message: String,
    ) {
        self.send(about, "Warning", reason, message);
    }

    fn send<K: Resource<DynamicType = ()>>(
        &self,
        about: &K,
        kind: &'static str,
        reason: &'static str,
        message: String,
    ) {
        let mut about = about.object_ref(&());
        // Events about an object, not about one of its revisions: those would never count up.
        about.resource_version = None;
        let note = Note { about, component: self.component, kind, reason, message };
        if self.notes.try_send(note).is_err() {
            tracing::debug!(reason, "too many events at once, one dropped");
        }
    }
}

impl Writer {
    /// Writes until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let note = tokio::select! {
                () = shutdown.cancelled() => return,
                note = self.notes.recv() => note,
            };
            let Some(note) = note else { return };
            if let Err(error) = self.write(&note).await {
                tracing::debug!(%error, reason = note.reason, object = ?note.about.name, "event not recorded");
            }
        }
    }

    async fn write(&mut self, note: &Note) -> Result<(), kube::Error> {
        let about = &note.about;
        let namespace = about.namespace.clone().unwrap_or_else(|| "default".into());
        let events: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let uid = about.uid.as_deref().unwrap_or("");
        let same = format!("{uid}/{}/{}/{}/{}", note.component, note.kind, note.reason, note.message);
        let now = Time(Timestamp::now());
        if let Some((_, name, count)) = self.known.get_mut(&same) {
            let patch = json!({"count": *count + 1, "lastTimestamp": now});
            match events.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(_) => {
                    *count += 1;
                    return Ok(());
                }
                // The event has expired or was deleted: start over.
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let name = format!("{}.{:x}", about.name.as_deref().unwrap_or("object"), now.0.as_nanosecond());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.clone()),
                ..Default::default()
            },
            involved_object: about.clone(),
            type_: Some(note.kind.into()),
            reason: Some(note.reason.into()),
            message: Some(note.message.clone()),
            count: Some(1),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            source: Some(EventSource { component: Some(note.component.into()), host: None }),
            reporting_component: Some(note.component.into()),
            reporting_instance: Some(String::new()),
            ..Event::default()
        };
        events.create(&PostParams::default(), &event).await?;
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(same, (namespace, name, 1));
        Ok(())
    }
}
