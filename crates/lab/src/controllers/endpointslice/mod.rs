//! EndpointSlices: for every Service with a selector, where its pods are and which are ready.

mod endpoints;
mod pack;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::ResourceExt;

use super::Shared;
use super::base::Key;
use super::base::queue::{Outcome, Queue};
use super::base::recorder::Recorder;
use super::base::writes::{BEHIND, Own, Writes};
use super::pods;

/// What this controller calls itself.
const NAME: &str = "endpoint-slice-controller";

struct Controller {
    shared: Arc<Shared>,
    writes: Writes,
    events: Recorder,
    own: Own,
}

fn has_selector(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.and_then(|s| s.selector.as_ref()).is_some_and(|s| !s.is_empty())
        && spec.and_then(|s| s.type_.as_deref()) != Some("ExternalName")
}

/// Services that select a pod in this state.
fn services_of(shared: &Shared, pod: &Pod) -> BTreeSet<Key> {
    let services = shared.services.in_namespace(&pod.namespace().unwrap_or_default());
    let selects = |s: &&Arc<Service>| {
        let selector = s.spec.as_ref().and_then(|s| s.selector.as_ref());
        has_selector(s) && selector.is_some_and(|m| m.iter().all(|(k, v)| pod.labels().get(k) == Some(v)))
    };
    services.iter().filter(selects).map(|s| Key::of(&**s)).collect()
}

/// What of a pod is seen in endpoints.
fn shape(pod: &Pod) -> impl PartialEq {
    let ips = pod.status.as_ref().and_then(|s| s.pod_ips.clone());
    let ip = pod.status.as_ref().and_then(|s| s.pod_ip.clone());
    let state = (pods::is_ready(pod), pods::is_terminating(pod), pods::is_finished(pod));
    (pod.labels().clone(), ips, ip, state, pods::node_of(pod).to_string(), pod.uid())
}

/// Starts listening; the future works until shutdown.
pub(crate) fn start(shared: Arc<Shared>) -> impl Future<Output = ()> + Send {
    let queue = Queue::<Key>::new();
    let q = queue.clone();
    shared.services.on_change(move |c| c.states().for_each(|s| q.add(Key::of(&**s))));
    let (q, s) = (queue.clone(), shared.clone());
    shared.pods.on_change(move |c| {
        if let (Some(old), Some(new)) = (&c.old, &c.new)
            && shape(old) == shape(new)
        {
            return;
        }
        let keys: BTreeSet<Key> = c.states().flat_map(|pod| services_of(&s, pod)).collect();
        keys.into_iter().for_each(|k| q.add(k));
    });
    let q = queue.clone();
    shared.slices.on_change(move |c| {
        for slice in c.states() {
            if let Some(name) = pack::service_of(slice) {
                q.add(Key::new(slice.namespace().unwrap_or_default(), name));
            }
        }
    });
    let (q, s) = (queue.clone(), shared.clone());
    shared.nodes.on_change(move |c| {
        let labels = |n: &Option<Arc<Node>>| n.as_ref().map(|n| n.labels().clone());
        if labels(&c.old) != labels(&c.new) {
            s.services.all().iter().for_each(|k| q.add(Key::of(&**k)));
        }
    });
    let controller = Arc::new(Controller {
        writes: shared.writes(NAME),
        events: shared.recorder(NAME),
        own: Own::default(),
        shared: shared.clone(),
    });
    async move {
        shared.synced().await;
        let look = move |key| {
            let controller = controller.clone();
            async move { controller.look(key).await }
        };
        queue.work("endpointslice", 4, shared.shutdown.clone(), look).await;
    }
}

impl Controller {
    async fn look(&self, key: Key) -> Outcome {
        let Some(service) = self.shared.services.get(&key) else {
            // Its slices go with it: they are owned by it.
            self.own.forget(&key);
            return Ok(None);
        };
        if !has_selector(&service) || service.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        if !self.own.is_fresh(&key, &self.shared.slices) {
            return Ok(Some(BEHIND));
        }
        let all = self.shared.pods.in_namespace(&key.namespace);
        let desired = endpoints::desired(&service, &all, |n| self.shared.nodes.get(&Key::new("", n)));
        let existing: Vec<_> = self
            .shared
            .slices
            .in_namespace(&key.namespace)
            .into_iter()
            .filter(|s| pack::service_of(s) == Some(&key.name))
            .collect();
        let changes = pack::pack(&service, desired, &existing);
        if let Err(error) = self.write(&key, changes).await {
            if !error.is_race() {
                let message =
                    format!("Error updating Endpoint Slices for Service {key}: {}", error.message());
                self.events.warning(&*service, "FailedToUpdateEndpointSlices", message);
            }
            return Err(error);
        }
        Ok(None)
    }

    /// New places first, so that an endpoint that moves is never missing.
    async fn write(&self, key: &Key, changes: pack::Changes) -> Result<(), super::base::writes::Error> {
        for slice in &changes.create {
            let made = self.writes.create(slice).await?;
            self.own.wrote(key, &made);
        }
        for slice in &changes.update {
            let made = self.writes.replace(slice).await?;
            self.own.wrote(key, &made);
        }
        for slice in &changes.delete {
            self.writes.delete(&**slice, None).await?;
        }
        Ok(())
    }
}
