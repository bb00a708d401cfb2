//! What the operator watches.

use std::collections::BTreeMap;

use causeway_cluster::crd::{ServiceExport, ServiceImport};
use causeway_cluster::source::{self, Served};
use causeway_cluster::writeback::OwnSlice;
use causeway_mesh::config_dir::Peers;
use causeway_mesh::remote::{RemoteEvent, RemoteStatus};
use causeway_model::mcs::{LocalService, Namespace};
use causeway_model::{ClusterName, Event};
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use kube::Client;
use tokio::sync::{mpsc, watch};

/// Everything that is watched. What is not needed never says anything.
pub(super) struct Sources {
    pub(super) services: BoxStream<'static, Event<LocalService>>,
    pub(super) slices: BoxStream<'static, Event<OwnSlice>>,
    pub(super) namespaces: BoxStream<'static, Event<Namespace>>,
    pub(super) exports: BoxStream<'static, Event<ServiceExport>>,
    pub(super) imports: BoxStream<'static, Event<ServiceImport>>,
    pub(super) remotes: mpsc::Receiver<RemoteEvent>,
    pub(super) status: watch::Receiver<BTreeMap<ClusterName, RemoteStatus>>,
    pub(super) peers: watch::Receiver<Peers>,
}

/// What is turned on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Features {
    pub(super) slices: bool,
    pub(super) mcs: bool,
}

impl Sources {
    pub(super) fn new(
        client: &Client,
        features: Features,
        proxy: Option<String>,
        served: &Served,
        remotes: mpsc::Receiver<RemoteEvent>,
        status: watch::Receiver<BTreeMap<ClusterName, RemoteStatus>>,
        peers: watch::Receiver<Peers>,
    ) -> Self {
        fn only<T: Send + 'static>(
            wanted: bool,
            of: impl FnOnce() -> BoxStream<'static, T>,
        ) -> BoxStream<'static, T> {
            if wanted { of() } else { stream::pending().boxed() }
        }
        let client = || client.clone();
        Self {
            services: source::local_services(client(), proxy).boxed(),
            slices: only(features.slices, || source::mesh_slices(client()).boxed()),
            namespaces: only(features.mcs, || source::namespaces(client()).boxed()),
            exports: only(features.mcs, || source::service_exports(client()).boxed()),
            imports: only(features.mcs, || source::service_imports(client(), served.clone()).boxed()),
            remotes,
            status,
            peers,
        }
    }
}
