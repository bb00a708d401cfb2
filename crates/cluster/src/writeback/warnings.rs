//! Events about Services that say what means nothing. One component of a cluster writes them: the mesh
//! server, which reads all Services anyhow and runs once, where agents run on every node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event as KubeEvent, EventSource, ObjectReference, Service as KubeService};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use causeway_model::{Event, Service, ServiceKey};

/// Warnings that wait to be written; more are not told until they change or are told again.
const QUEUE: usize = 1024;
/// The pause behind each event, so that many broken Services at once are no burden to the API server.
const PACE: Duration = Duration::from_millis(200);
/// Kubernetes forgets events after an hour; what is still wrong is told again.
const AGAIN: Duration = Duration::from_secs(70 * 60);
/// The reason people see, and may filter by.
const REASON: &str = "InvalidServiceSetting";

/// What is wrong with a service now; nothing if all is well or it is gone.
#[derive(Debug)]
struct Told {
    key: ServiceKey,
    warnings: Vec<String>,
}

/// Watches services on their way to somebody else.
#[derive(Debug)]
pub struct WarningTap {
    /// Services that something is wrong with.
    wrong: BTreeSet<ServiceKey>,
    to: mpsc::Sender<Told>,
}

/// Writes the events.
pub struct WarningWriter {
    client: Client,
    component: &'static str,
    from: mpsc::Receiver<Told>,
    warnings: Warnings,
}

/// A tap and the writer behind it, which writes under the name of `component`.
pub fn warnings(client: Client, component: &'static str) -> (WarningTap, WarningWriter) {
    let (to, from) = mpsc::channel(QUEUE);
    let writer = WarningWriter { client, component, from, warnings: Warnings::default() };
    (WarningTap { wrong: BTreeSet::new(), to }, writer)
}

impl WarningTap {
    /// Looks at an event. Never waits: that something is wrong may be lost, the event is not.
    pub fn look(&mut self, event: &Event<Service>) {
        let (key, warnings) = match event {
            Event::Upsert(service) => (&service.key, service.warnings.as_slice()),
            Event::Remove(key) => (key, &[][..]),
            Event::Reset | Event::Synced => return,
        };
        let news = if warnings.is_empty() { self.wrong.remove(key) } else { true };
        if !warnings.is_empty() {
            self.wrong.insert(key.clone());
        }
        if news {
            let _ = self.to.try_send(Told { key: key.clone(), warnings: warnings.to_vec() });
        }
    }
}

impl WarningWriter {
    /// Writes until cancelled. An event that cannot be written is let go: it informs, nothing depends on it.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut again = tokio::time::interval_at(tokio::time::Instant::now() + AGAIN, AGAIN);
        loop {
            let due = tokio::select! {
                told = self.from.recv() => match told {
                    Some(told) => self.warnings.apply(told),
                    None => return,
                },
                _ = again.tick() => self.warnings.all(),
                () = shutdown.cancelled() => return,
            };
            for (key, warning) in due {
                if let Err(error) = self.write(&key, &warning).await {
                    tracing::warn!(service = %key, warning, %error, "an event about this cannot be written");
                }
                tokio::select! {
                    () = tokio::time::sleep(PACE) => {}
                    () = shutdown.cancelled() => return,
                }
            }
        }
    }

    async fn write(&self, key: &ServiceKey, warning: &str) -> Result<(), kube::Error> {
        let services: Api<KubeService> = Api::namespaced(self.client.clone(), &key.namespace);
        let Some(service) = services.get_metadata_opt(&key.name).await? else { return Ok(()) };
        let event = event(key, service.uid(), warning, self.component, Timestamp::now());
        let events: Api<KubeEvent> = Api::namespaced(self.client.clone(), &key.namespace);
        match events.create(&PostParams::default(), &event).await {
            // Another replica has told it, or this one before it was restarted.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            result => result.map(drop),
        }
    }
}

/// The event of one warning. Its name follows from what it says, so that it is there once whoever writes.
fn event(
    key: &ServiceKey,
    uid: Option<String>,
    warning: &str,
    component: &'static str,
    now: Timestamp,
) -> KubeEvent {
    let digest = Sha256::digest(format!("{}\n{warning}", uid.as_deref().unwrap_or_default()));
    let hash: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    // Names of objects have at most 253 characters, those of Services 63.
    let name = format!("{}.{hash}", key.name);
    KubeEvent {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(key.namespace.clone()),
            ..Default::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            namespace: Some(key.namespace.clone()),
            name: Some(key.name.clone()),
            uid,
            ..Default::default()
        },
        type_: Some("Warning".to_owned()),
        reason: Some(REASON.to_owned()),
        message: Some(warning.to_owned()),
        source: Some(EventSource { component: Some(component.to_owned()), host: None }),
        reporting_component: Some(component.to_owned()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Default::default()
    }
}

/// Which warnings there are; says each once.
#[derive(Debug, Default)]
struct Warnings(BTreeMap<ServiceKey, Vec<String>>);

impl Warnings {
    fn apply(&mut self, told: Told) -> Vec<(ServiceKey, String)> {
        let before = self.0.remove(&told.key).unwrap_or_default();
        let new = told.warnings.iter().filter(|warning| !before.contains(warning));
        let new = new.map(|warning| (told.key.clone(), warning.clone())).collect();
        if !told.warnings.is_empty() {
            self.0.insert(told.key, told.warnings);
        }
        new
    }

    fn all(&self) -> Vec<(ServiceKey, String)> {
        let each = |(key, warnings): (&ServiceKey, &Vec<String>)| -> Vec<_> {
            warnings.iter().map(|warning| (key.clone(), warning.clone())).collect()
        };
        self.0.iter().flat_map(each).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(warnings: &[&str]) -> Service {
        let key = ServiceKey { namespace: "shop".into(), name: "web".into() };
        Service { warnings: warnings.iter().map(|text| text.to_string()).collect(), ..Service::new(key) }
    }

    #[test]
    fn each_warning_is_told_once_while_it_holds() {
        let (to, mut from) = mpsc::channel(8);
        let mut tap = WarningTap { wrong: BTreeSet::new(), to };
        let mut warnings = Warnings::default();
        let mut told = |event: Event<Service>| -> Vec<String> {
            tap.look(&event);
            let told = from.try_recv().map(|told| warnings.apply(told)).unwrap_or_default();
            told.into_iter().map(|(_, warning)| warning).collect()
        };
        let key = service(&[]).key;
        assert!(told(Event::Reset).is_empty() && told(Event::Upsert(service(&[]))).is_empty());
        assert_eq!(told(Event::Upsert(service(&["a"]))), ["a"]);
        assert!(told(Event::Upsert(service(&["a"]))).is_empty());
        assert_eq!(told(Event::Upsert(service(&["a", "b"]))), ["b"]);
        // Put right, and wrong once more.
        assert!(told(Event::Upsert(service(&[]))).is_empty());
        assert_eq!(told(Event::Upsert(service(&["a"]))), ["a"]);
        assert!(told(Event::Remove(key.clone())).is_empty() && told(Event::Remove(key.clone())).is_empty());
        assert_eq!(told(Event::Upsert(service(&["a"]))), ["a"]);
        assert_eq!(warnings.all(), [(key, "a".to_owned())]);
    }

    #[test]
    fn an_event_is_the_same_object_whoever_writes_it() {
        let key = service(&[]).key;
        let of = |uid: &str, warning: &str, second: i64| {
            event(&key, Some(uid.to_owned()), warning, "server", Timestamp::from_second(second).unwrap())
        };
        let one = of("u1", "a", 1);
        assert_eq!(one.metadata.name, of("u1", "a", 99).metadata.name);
        assert!(one.metadata.name != of("u1", "b", 1).metadata.name);
        assert!(one.metadata.name != of("u2", "a", 1).metadata.name, "a Service of the same name");
        assert_eq!(one.involved_object.uid.as_deref(), Some("u1"));
        assert_eq!(one.type_.as_deref(), Some("Warning"));
    }
}
