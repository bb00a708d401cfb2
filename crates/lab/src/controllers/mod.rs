//! Controller-manager and scheduler of a lab cluster: what makes Deployments into running, scheduled, addressed pods,
//! as clients of the cluster's API server. The control-plane process starts them with [`run`].
//!
//! Each controller is a file or directory with a pure core (state in, actions out, tested without a server) and a thin
//! edge that reads the informers, carries the actions out and records events. ClusterIPs, node ports, namespace
//! content, `default` ServiceAccounts and garbage collection by owner are the API server's own business.

mod base;
mod config;
mod daemonset;
mod deployment;
mod endpointslice;
mod loadbalancer;
mod nodes;
mod pods;
mod replicaset;
mod scheduler;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::base::informer::{Informer, Object};
use self::base::recorder::{self, Recorder};
use self::base::writes::Writes;
pub use self::config::{ControllersConfig, Error};

/// What the controllers share: one informer for each kind, the client, the configuration.
struct Shared {
    client: Client,
    config: ControllersConfig,
    shutdown: CancellationToken,
    recorders: Box<dyn Fn(&'static str) -> Recorder + Send + Sync>,
    pods: Arc<Informer<Pod>>,
    nodes: Arc<Informer<Node>>,
    leases: Arc<Informer<Lease>>,
    services: Arc<Informer<Service>>,
    slices: Arc<Informer<EndpointSlice>>,
    deployments: Arc<Informer<Deployment>>,
    replica_sets: Arc<Informer<ReplicaSet>>,
    daemon_sets: Arc<Informer<DaemonSet>>,
}

impl Shared {
    fn writes(&self, manager: &'static str) -> Writes {
        Writes::new(self.client.clone(), manager)
    }

    fn recorder(&self, component: &'static str) -> Recorder {
        (self.recorders)(component)
    }

    /// Waits until every informer has its first listing: no controller may act on a part of the cluster.
    async fn synced(&self) {
        tokio::join!(
            self.pods.synced(),
            self.nodes.synced(),
            self.leases.synced(),
            self.services.synced(),
            self.slices.synced(),
            self.deployments.synced(),
            self.replica_sets.synced(),
            self.daemon_sets.synced(),
        );
    }
}

fn watch<K: Object>(tasks: &mut JoinSet<()>, shared: &Shared, informer: &Arc<Informer<K>>) {
    tasks.spawn(informer.clone().run(Api::all(shared.client.clone()), shared.shutdown.clone()));
}

/// Runs all controllers and the scheduler until `shutdown`. An API server that is not there yet, or goes away for a
/// while, is waited for.
///
/// # Errors
/// For a configuration that cannot work, before anything is started.
pub async fn run(
    client: Client,
    config: ControllersConfig,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    config.check()?;
    let (writer, recorders) = recorder::channel(client.clone());
    let shared = Arc::new(Shared {
        client,
        config,
        shutdown,
        recorders: Box::new(recorders),
        pods: Informer::new(),
        nodes: Informer::new(),
        leases: Informer::new(),
        services: Informer::new(),
        slices: Informer::new(),
        deployments: Informer::new(),
        replica_sets: Informer::new(),
        daemon_sets: Informer::new(),
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(writer.run(shared.shutdown.clone()));
    // Controllers register their handlers before the first event can arrive.
    tasks.spawn(deployment::start(shared.clone()));
    tasks.spawn(replicaset::start(shared.clone()));
    tasks.spawn(daemonset::start(shared.clone()));
    tasks.spawn(scheduler::start(shared.clone()));
    tasks.spawn(endpointslice::start(shared.clone()));
    tasks.spawn(loadbalancer::start(shared.clone()));
    tasks.spawn(nodes::ipam::start(shared.clone()));
    tasks.spawn(nodes::lifecycle::start(shared.clone()));
    tasks.spawn(nodes::podgc::start(shared.clone()));
    watch(&mut tasks, &shared, &shared.pods);
    watch(&mut tasks, &shared, &shared.nodes);
    watch(&mut tasks, &shared, &shared.leases);
    watch(&mut tasks, &shared, &shared.services);
    watch(&mut tasks, &shared, &shared.slices);
    watch(&mut tasks, &shared, &shared.deployments);
    watch(&mut tasks, &shared, &shared.replica_sets);
    watch(&mut tasks, &shared, &shared.daemon_sets);
    tracing::info!(cluster = %shared.config.cluster, "controllers started");
    while let Some(done) = tasks.join_next().await {
        if let Err(error) = done
            && error.is_panic()
        {
            // One controller less would be a cluster that silently stops converging.
            shared.shutdown.cancel();
            return Err(Error::Panicked(error.to_string()));
        }
    }
    Ok(())
}
