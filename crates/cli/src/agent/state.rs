//! The node's view of all clusters: events in, merged, into the datapath.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use causeway_cluster::source;
use causeway_daemon::config::Config;
use causeway_daemon::health::Guard;
use causeway_mesh::health::Reachability;
use causeway_mesh::merge::{AddressMerger, Location, ServiceMerger, UnreachableAddresses};
use causeway_mesh::remote::{RemoteChange, RemoteEvent, RemoteStatus};
use causeway_model::{ClusterInfo, ClusterName, EndpointSlice, Event, IpEntry, Keyed, Node, Service, lb};
use futures::StreamExt;
use futures::stream::BoxStream;
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::cidrs::PodCidrs;
use super::health::Feed;
use super::health_checks::HealthChecks;
use super::looks::{Look, Services};
use super::node_addresses::NodeAddresses;
use super::owner::Owner;
use crate::metrics::services::{Action, ServiceMetrics};
use crate::settings;

/// How soon a failed write into the kernel is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// How long changes of pod CIDRs are gathered: a listing brings thousands of them, and the rules that
/// exempt them from masquerading are written as a whole.
const SETTLE: Duration = Duration::from_millis(50);

/// Events of the remote clusters that are taken together: a listing brings hundreds of thousands.
const MANY: usize = 1024;

/// How often routes by other nodes are compared with the kernel's, which drops them with a link that
/// goes down, and those are tried again that were not possible.
const RECHECK: Duration = Duration::from_secs(60);

/// Where Kubernetes says in which zone a node is.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// What `/readyz` waits for.
pub(super) struct Guards {
    pub(super) local: Guard,
}

/// Everything that is watched.
pub(super) struct Sources {
    nodes: BoxStream<'static, Event<Node>>,
    addresses: BoxStream<'static, Event<IpEntry>>,
    services: BoxStream<'static, Event<Service>>,
    slices: BoxStream<'static, Event<EndpointSlice>>,
    host_ports: BoxStream<'static, Event<lb::HostPorts>>,
    remotes: mpsc::Receiver<RemoteEvent>,
    status: watch::Receiver<BTreeMap<ClusterName, RemoteStatus>>,
    health: Feed,
}

impl Sources {
    pub(super) fn new(
        client: &Client,
        info: &ClusterInfo,
        config: &Config,
        node: &str,
        (remotes, status): (
            mpsc::Receiver<RemoteEvent>,
            watch::Receiver<BTreeMap<ClusterName, RemoteStatus>>,
        ),
        health: Feed,
    ) -> Result<Self> {
        let slices = config.require("enable-cilium-endpoint-slice")?;
        let proxy = config.get("k8s-service-proxy-name")?;
        Ok(Self {
            nodes: source::nodes(client.clone(), info.clone()).boxed(),
            addresses: source::addresses(client.clone(), slices),
            services: source::services(client.clone(), proxy, settings::is_native(config)).boxed(),
            slices: source::endpoint_slices(client.clone()).boxed(),
            host_ports: source::host_ports(client.clone(), node).boxed(),
            remotes,
            status,
            health,
        })
    }
}

/// The merged state and where it goes.
pub(super) struct State {
    addresses: AddressMerger,
    services: ServiceMerger,
    /// What is behind nodes that do not answer.
    unreachable: UnreachableAddresses,
    cidrs: PodCidrs,
    /// The kernel does not have them as they are now.
    cidrs_due: bool,
    node_addresses: NodeAddresses,
    /// There are routes of ours that may go with a link.
    makes_routes: bool,
    owner: Owner,
    /// Who may look at the services, and what they ask.
    looks: (Services, mpsc::Receiver<Look>),
    metrics: ServiceMetrics,
    /// What load balancers are told; not where nobody may ask.
    health_checks: Option<HealthChecks>,
    /// How many services of this cluster are global, for whoever shows it.
    global_services: Arc<AtomicUsize>,
    /// The node forwards by what an earlier agent left. Its frontends stay untouched until all
    /// clusters have been read: a part of the backends, or none, would replace those in use.
    adopted: bool,
    /// This cluster and every other one has been read, or was waited for long enough.
    complete: bool,
}

/// What one event changed.
#[derive(Default)]
struct Changes {
    addresses: Vec<Event<IpEntry>>,
    frontends: Vec<Event<lb::Frontend>>,
}

impl State {
    /// `adopted`: pods or services of an earlier agent are in use. `topology`: zone hints are honoured.
    pub(super) fn new(
        own: &Node,
        owner: Owner,
        adopted: bool,
        topology: bool,
        metrics: ServiceMetrics,
    ) -> Self {
        let location = Location {
            cluster: Some(own.cluster.clone()),
            node: Some(own.name.clone()),
            zone: own.labels.get(ZONE_LABEL).cloned(),
            topology,
            labels: own.labels.clone(),
        };
        Self {
            addresses: AddressMerger::new(own.key()),
            services: ServiceMerger::at(location),
            unreachable: UnreachableAddresses::new(),
            looks: Services::channel(),
            metrics,
            health_checks: None,
            cidrs: PodCidrs::new(own.key()),
            cidrs_due: true,
            node_addresses: NodeAddresses::new(own.key()),
            makes_routes: false,
            owner,
            global_services: Arc::default(),
            adopted,
            complete: false,
        }
    }

    /// Through which others look at the services.
    pub(super) fn services(&self) -> Services {
        self.looks.0.clone()
    }

    /// Routes by other nodes are looked at now and then.
    pub(super) fn recheck_routes(&mut self) {
        self.makes_routes = true;
    }

    /// Tells load balancers about the backends of this node.
    pub(super) fn answer_health_checks(&mut self, checks: HealthChecks) {
        self.health_checks = Some(checks);
    }

    /// How many services of this cluster are global; kept up to date.
    pub(super) fn global_services(&self) -> Arc<AtomicUsize> {
        self.global_services.clone()
    }

    /// Follows all sources until cancelled. What an earlier agent left in the kernel stays in force
    /// until this cluster has been listed and every configured remote cluster too, or `patience`
    /// has run out: a restart must not forget a cluster that cannot be asked at the moment.
    pub(super) async fn run(
        mut self,
        mut sources: Sources,
        guards: Guards,
        patience: Duration,
        shutdown: CancellationToken,
    ) -> Result<()> {
        let give_up = tokio::time::sleep(patience);
        tokio::pin!(give_up);
        let mut impatient = false;
        let mut repair = tokio::time::interval(RETRY);
        let mut settled = tokio::time::interval(SETTLE);
        settled.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut recheck = tokio::time::interval(RECHECK);
        let mut failed = false;
        let mut events = Vec::new();
        loop {
            let changes = tokio::select! {
                Some(event) = sources.nodes.next() => {
                    sources.health.node(None, &event);
                    self.local_node(event)
                }
                Some(event) = sources.addresses.next() => self.local_address(event),
                Some(event) = sources.services.next() => self.local_service(event),
                Some(event) = sources.slices.next() => frontends(self.services.apply_slice(event)),
                Some(event) = sources.host_ports.next() => frontends(self.services.apply_host_ports(event)),
                count = sources.remotes.recv_many(&mut events, MANY) => match count {
                    0 if shutdown.is_cancelled() => return Ok(()),
                    0 => bail!("the readers of the remote clusters have ended"),
                    _ => self.remotes(events.drain(..), &sources.health),
                },
                Some(look) = self.looks.1.recv() => {
                    look(&self.services);
                    Changes::default()
                }
                Some(changes) = sources.health.changes() => self.reachability(&changes),
                Ok(()) = sources.status.changed() => Changes::default(),
                () = &mut give_up, if !impatient => {
                    impatient = true;
                    Changes::default()
                }
                _ = repair.tick(), if failed => {
                    failed = !self.repair().await?;
                    Changes::default()
                }
                _ = settled.tick(), if self.cidrs_due => {
                    failed |= !self.route().await?;
                    Changes::default()
                }
                _ = recheck.tick(), if self.makes_routes => {
                    self.owner.run(|datapath| datapath.recheck_routes()).await?;
                    self.cidrs_due = true;
                    Changes::default()
                }
                () = shutdown.cancelled() => return Ok(()),
            };
            failed |= !self.program(changes).await?;
            if !self.complete && self.is_local_synced() {
                guards.local.open();
                let waiting = waiting_for(&sources.status.borrow());
                if waiting.is_empty() || impatient {
                    if !waiting.is_empty() {
                        tracing::warn!(
                            clusters = waiting.join(", "),
                            "not read yet; continuing without them"
                        );
                    }
                    // A cluster is shown as read when all of it has been sent, not when all was taken.
                    let sent = sources.remotes.len();
                    let sent = std::iter::from_fn(|| sources.remotes.try_recv().ok()).take(sent);
                    let changes = self.remotes(sent, &sources.health);
                    failed |= !self.program(changes).await?;
                    failed |= !self.complete().await?;
                }
            }
        }
    }

    fn is_local_synced(&self) -> bool {
        self.addresses.is_local_synced() && self.services.is_local_synced()
    }

    fn local_node(&mut self, event: Event<Node>) -> Changes {
        self.cidrs_due |= self.cidrs.apply(None, event.clone());
        // Both are written as a whole, once it is calm.
        self.cidrs_due |= self.node_addresses.apply(event.clone());
        Changes { addresses: self.addresses.apply_local_node(event), frontends: vec![] }
    }

    fn local_service(&mut self, event: Event<Service>) -> Changes {
        let action = match &event {
            Event::Upsert(service) => match self.services.service(&service.key) {
                None => Some(Action::Add),
                Some(before) => (before != service).then_some(Action::Update),
            },
            Event::Remove(key) => self.services.service(key).map(|_| Action::Delete),
            Event::Reset | Event::Synced => None,
        };
        action.into_iter().for_each(|action| self.metrics.event(action));
        let changed = self.services.apply_service(event);
        self.global_services.store(self.services.global_services(), Ordering::Relaxed);
        frontends(changed)
    }

    fn local_address(&mut self, event: Event<IpEntry>) -> Changes {
        Changes { addresses: self.addresses.apply_local(event), frontends: vec![] }
    }

    fn remotes(&mut self, events: impl Iterator<Item = RemoteEvent>, health: &Feed) -> Changes {
        let mut changes = Changes::default();
        for event in events {
            let more = self.remote(event, health);
            changes.addresses.extend(more.addresses);
            changes.frontends.extend(more.frontends);
        }
        changes
    }

    fn remote(&mut self, event: RemoteEvent, health: &Feed) -> Changes {
        let cluster = &event.cluster;
        let mut changes = Changes::default();
        match event.change {
            RemoteChange::Node(event) => {
                health.node(Some(cluster), &event);
                self.cidrs_due |= self.cidrs.apply(Some(cluster), event.clone());
                changes.addresses = self.addresses.apply_remote_node(cluster, event);
            }
            RemoteChange::Address(event) => changes.addresses = self.addresses.apply_remote(cluster, event),
            RemoteChange::Service(event) => changes.frontends = self.services.apply_remote(cluster, event),
            // Identities matter to policy, exports to the operator.
            RemoteChange::Identity(_) | RemoteChange::Export(_) => {}
            RemoteChange::Removed => {
                tracing::info!(%cluster, "no longer a peer; its state is withdrawn");
                health.removed(cluster);
                self.cidrs_due |= self.cidrs.remove_cluster(cluster);
                changes.addresses = self.addresses.remove_cluster(cluster);
                changes.frontends = self.services.remove_cluster(cluster);
            }
        }
        changes
    }

    /// Nodes have stopped to answer, or answer again.
    fn reachability(&mut self, nodes: &[Reachability]) -> Changes {
        let addresses = self.unreachable.apply(nodes, &self.addresses);
        frontends(self.services.apply_unreachable(addresses))
    }

    /// Brings changes into the kernel; false when some of it has to be repaired later.
    async fn program(&mut self, mut changes: Changes) -> Result<bool> {
        let moved = self.unreachable.follow(&changes.addresses, &self.addresses);
        changes.frontends.extend(self.services.apply_unreachable(moved));
        for key in self.services.take_touched() {
            let counts = self.services.backend_counts(&key);
            if let Some(checks) = &mut self.health_checks {
                checks.set(&key, self.services.health_check(&key));
            }
            self.metrics.set(key, counts);
        }
        if self.adopted {
            changes.frontends.clear();
        }
        if changes.addresses.is_empty() && changes.frontends.is_empty() {
            return Ok(true);
        }
        let result = self.owner.run(move |datapath| {
            // Every change is tried, so that one the kernel refuses keeps none of the others back.
            let services = !changes.frontends.is_empty();
            let mut result = datapath.apply_addresses(changes.addresses);
            for event in changes.frontends {
                result = result.and(datapath.apply_frontend(event));
            }
            if services {
                datapath.end_stale_sockets();
            }
            result
        });
        Ok(programmed(result.await?))
    }

    /// Brings the pod CIDRs and the addresses of nodes into the kernel; false when that has to be tried
    /// again. What an earlier agent has written stays until every cluster is known.
    async fn route(&mut self) -> Result<bool> {
        self.cidrs_due = false;
        let (cidrs, complete) = (self.cidrs.all(), self.complete);
        let addresses = self.node_addresses.all();
        let result = self.owner.run(move |datapath| {
            let set = datapath.set_node_addresses(&addresses, complete);
            datapath.set_remote_nodes(cidrs, complete).and(set)
        });
        Ok(programmed(result.await?))
    }

    /// Ends the first listing: what an earlier agent left beyond it goes.
    async fn complete(&mut self) -> Result<bool> {
        tracing::info!("the state of all clusters is complete; leftovers are removed");
        self.addresses.shrink_to_fit();
        causeway_daemon::memory::release();
        (self.complete, self.cidrs_due) = (true, true);
        let frontends = match std::mem::take(&mut self.adopted) {
            true => self.services.snapshot(),
            false => BTreeMap::new(),
        };
        let result = self.owner.run(move |datapath| {
            for frontend in frontends.into_values() {
                datapath.apply_frontend(Event::Upsert(frontend))?;
            }
            datapath.apply_addresses([Event::Synced])?;
            datapath.apply_frontend(Event::Synced)?;
            datapath.end_stale_sockets();
            Ok::<_, causeway_datapath::Error>(())
        });
        Ok(result.await?.inspect_err(|error| tracing::warn!(%error, "cannot remove leftovers yet")).is_ok())
    }

    async fn repair(&mut self) -> Result<bool> {
        self.cidrs_due = true;
        let done = self.owner.run(|datapath| datapath.resync()).await.context("repair the maps")?;
        Ok(done.inspect_err(|error| tracing::warn!(%error, "the maps cannot be repaired yet")).is_ok())
    }
}

/// Whether the kernel took everything.
fn programmed<E: std::error::Error + Send + Sync + 'static>(result: Result<(), E>) -> bool {
    let refused = |error| {
        tracing::warn!(error = %anyhow::Error::from(error), "the kernel refused a change; it is tried again");
    };
    result.map_err(refused).is_ok()
}

fn frontends(frontends: Vec<Event<lb::Frontend>>) -> Changes {
    Changes { addresses: vec![], frontends }
}

/// The configured remote clusters that have not been read completely.
fn waiting_for(status: &BTreeMap<ClusterName, RemoteStatus>) -> Vec<String> {
    status.values().filter(|remote| !remote.ready).map(|remote| remote.name.clone()).collect()
}
