//! The stand-in for the cloud's load balancers: gives Services of type LoadBalancer an address from the subnet their
//! annotation names, records it in their status, and writes what the fabric has to answer into the cluster's file of frontends.
//!
//! All Services are looked at together, in the order of their creation: addresses must not be given twice, the table
//! is one file, and there are few load balancers in a lab.

mod address;
mod targets;

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;

use self::address::Assigned;
use super::Shared;
use super::base::Key;
use super::base::queue::{Outcome, Queue};
use super::base::recorder::Recorder;
use super::base::writes::{Error, Writes};
use crate::fabric::lb::{Frontend, Frontends};

struct Controller {
    shared: Arc<Shared>,
    writes: Writes,
    events: Recorder,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What was last written.
    table: Option<Vec<Frontend>>,
    /// Last refusal by Service, so that each is told once.
    refused: HashMap<String, String>,
    /// Addresses given, by uid of the Service: the store may not show them yet.
    given: HashMap<String, Ipv4Addr>,
}

/// Starts listening; the future works until shutdown.
pub(crate) fn start(shared: Arc<Shared>) -> impl Future<Output = ()> + Send {
    // One key: there is one table.
    let queue = Queue::<&'static str>::new();
    let q = queue.clone();
    shared.services.on_change(move |c| {
        if c.states().any(|s| address::is_ours(s) || address::recorded(s).is_some()) {
            q.add("table");
        }
    });
    let q = queue.clone();
    shared.nodes.on_change(move |c| {
        if c.old.as_ref().and_then(|n| targets::address(n))
            != c.new.as_ref().and_then(|n| targets::address(n))
        {
            q.add("table");
        }
    });
    let (q, s) = (queue.clone(), shared.clone());
    shared.slices.on_change(move |c| {
        let is_local = |slice: &Arc<EndpointSlice>| {
            let service = service_of(slice).and_then(|key| s.services.get(&key));
            let policy = service.and_then(|s| s.spec.as_ref()?.external_traffic_policy.clone());
            policy.as_deref() == Some("Local")
        };
        if c.states().any(is_local) {
            q.add("table");
        }
    });
    let controller = Arc::new(Controller {
        writes: shared.writes("cloud-controller-manager"),
        events: shared.recorder("service-controller"),
        state: Mutex::default(),
        shared: shared.clone(),
    });
    async move {
        shared.synced().await;
        // Without any Service the table still has to lose what an earlier run wrote.
        queue.add("table");
        let look = move |_| {
            let controller = controller.clone();
            async move { controller.look().await }
        };
        queue.work("loadbalancer", 1, shared.shutdown.clone(), look).await;
    }
}

fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let name = slice.labels().get("kubernetes.io/service-name")?;
    Some(Key::new(slice.namespace().unwrap_or_default(), name))
}

impl Controller {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    async fn look(&self) -> Outcome {
        let mut services = self.shared.services.all();
        // Those that have an address come first: nobody else may get it. Then the oldest.
        services.sort_by_key(|s| {
            (address::recorded(s).is_none(), s.creation_timestamp().map(|t| t.0), Key::of(&**s))
        });
        let nodes = self.shared.nodes.all();
        let mut frontends: Vec<Frontend> = Vec::new();
        let mut failure: Option<Error> = None;
        let mut used = self.held(&services);
        for service in &services {
            if !address::is_ours(service) {
                if let Err(error) = self.release(service).await {
                    failure = Some(error);
                }
                continue;
            }
            let key = Key::of(&**service);
            used.retain(|_, owner| *owner != key.to_string());
            match address::assign(service, &self.shared.config, &used) {
                Ok(assigned) => {
                    used.insert(assigned.ip, key.to_string());
                    let slices = self.shared.slices.in_namespace(&key.namespace);
                    let of_service = |s: &Arc<EndpointSlice>| service_of(s).as_ref() == Some(&key);
                    let slices: Vec<_> = slices.into_iter().filter(of_service).collect();
                    frontends.extend(targets::frontends(
                        service,
                        &assigned,
                        &nodes,
                        &targets::local_nodes(&slices),
                    ));
                    if let Err(error) = self.record(service, &assigned).await {
                        failure = Some(error);
                    }
                }
                Err(why) => {
                    if let Err(error) = self.refuse(service, why).await {
                        failure = Some(error);
                    }
                }
            }
        }
        let present: std::collections::HashSet<String> = services.iter().filter_map(|s| s.uid()).collect();
        self.state().given.retain(|uid, _| present.contains(uid));
        self.state().refused.retain(|uid, _| present.contains(uid));
        frontends.sort();
        self.write(frontends)?;
        failure.map_or(Ok(None), Err)
    }

    /// Addresses in use, by Service: recorded ones and those given since.
    fn held(&self, services: &[Arc<Service>]) -> BTreeMap<Ipv4Addr, String> {
        let state = self.state();
        let mut used = BTreeMap::new();
        for service in services.iter().filter(|s| address::is_ours(s)) {
            let given = service.uid().and_then(|uid| state.given.get(&uid).copied());
            for ip in given.into_iter().chain(address::recorded(service)) {
                used.entry(ip).or_insert_with(|| Key::of(&**service).to_string());
            }
        }
        used
    }

    async fn record(&self, service: &Service, assigned: &Assigned) -> Result<(), Error> {
        let uid = service.uid().unwrap_or_default();
        self.state().refused.remove(&uid);
        self.state().given.insert(uid, assigned.ip);
        if address::recorded(service) == Some(assigned.ip) {
            return Ok(());
        }
        self.events.normal(service, "EnsuringLoadBalancer", "Ensuring load balancer".into());
        let ingress = LoadBalancerIngress {
            ip: Some(assigned.ip.to_string()),
            ip_mode: Some("VIP".into()),
            ..LoadBalancerIngress::default()
        };
        self.set_ingress(service, Some(vec![ingress])).await?;
        self.events.normal(service, "EnsuredLoadBalancer", "Ensured load balancer".into());
        Ok(())
    }

    async fn refuse(&self, service: &Service, why: String) -> Result<(), Error> {
        let uid = service.uid().unwrap_or_default();
        self.state().given.remove(&uid);
        if self.state().refused.insert(uid, why.clone()).as_ref() != Some(&why) {
            let message = format!("Error syncing load balancer: failed to ensure load balancer: {why}");
            self.events.warning(service, "SyncLoadBalancerFailed", message);
        }
        match address::recorded(service) {
            Some(_) => self.set_ingress(service, None).await,
            None => Ok(()),
        }
    }

    /// Takes the address from a Service that is not a load balancer any more.
    async fn release(&self, service: &Service) -> Result<(), Error> {
        self.state().given.remove(&service.uid().unwrap_or_default());
        let other_class = service.spec.as_ref().is_some_and(|s| s.load_balancer_class.is_some());
        if address::recorded(service).is_none()
            || other_class
            || service.metadata.deletion_timestamp.is_some()
        {
            return Ok(());
        }
        self.events.normal(service, "DeletingLoadBalancer", "Deleting load balancer".into());
        self.set_ingress(service, None).await?;
        self.events.normal(service, "DeletedLoadBalancer", "Deleted load balancer".into());
        Ok(())
    }

    async fn set_ingress(
        &self,
        service: &Service,
        ingress: Option<Vec<LoadBalancerIngress>>,
    ) -> Result<(), Error> {
        let mut changed = service.clone();
        changed.status.get_or_insert_default().load_balancer = Some(LoadBalancerStatus { ingress });
        self.writes.status(&changed).await.map(|_| ())
    }

    fn write(&self, frontends: Vec<Frontend>) -> Result<(), Error> {
        let mut state = self.state();
        if state.table.as_ref() == Some(&frontends) {
            return Ok(());
        }
        let (dir, cluster) = (&self.shared.config.load_balancers, &self.shared.config.cluster);
        let table = Frontends { frontends };
        table.write(dir, cluster)?;
        state.table = Some(table.frontends);
        Ok(())
    }
}
