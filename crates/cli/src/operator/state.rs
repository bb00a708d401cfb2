//! The operator's view of all clusters: events in; for what may have changed, what is wanted is compared
//! with what is there, and the difference written.
//!
//! Nothing is taken away for want of knowledge: what comes of a cluster that is configured but has not been
//! read since this process began stays as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, bail};
use causeway_cluster::Error;
use causeway_cluster::convert;
use causeway_cluster::crd::{ServiceExport, ServiceImport};
use causeway_cluster::source::Served;
use causeway_cluster::writeback::{ImportWriter, OwnSlice, SliceWriter, plan};
use causeway_daemon::health::Guard;
use causeway_mesh::mcs::Imports;
use causeway_mesh::remote::{RemoteChange, RemoteEvent, RemoteStatus};
use causeway_mesh::slices::{Pair, Slices};
use causeway_model::mcs::LocalService;
use causeway_model::{ClusterName, Collection, Event, ServiceKey, SliceKey};
use futures::StreamExt;
use kube::Client;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::board::Board;
use super::queue::Queue;
use super::sources::{Features, Sources};

/// Something that is to be made as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    Slices(Pair),
    Import(ServiceKey),
}

impl std::fmt::Display for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Work::Slices((key, cluster)) => write!(f, "EndpointSlices of {key} in {cluster}"),
            Work::Import(key) => write!(f, "ServiceImport {key}"),
        }
    }
}

/// What may be judged. When it grows, everything is looked at again.
#[derive(Debug, Clone, Default, PartialEq)]
struct Known {
    slices: bool,
    imports: bool,
    /// Of how many other clusters the services, and the exports.
    services_of: usize,
    exports_of: usize,
}

/// The state and who writes.
pub(super) struct State {
    features: Features,
    client: Client,
    served: Served,
    concurrency: usize,
    slices: Slices,
    imports: Imports,
    own_slices: Collection<OwnSlice>,
    slices_of: BTreeMap<Pair, BTreeSet<SliceKey>>,
    own_imports: Collection<ServiceImport>,
    exports: Collection<ServiceExport>,
    peers: BTreeSet<ClusterName>,
    known: Known,
    queue: Queue<Work>,
    tasks: JoinSet<(Work, std::result::Result<(), Error>)>,
    board: Board,
}

/// How it works.
pub(super) struct Options {
    pub(super) features: Features,
    pub(super) endpoints_per_slice: usize,
    pub(super) batch: Duration,
    pub(super) concurrency: usize,
}

impl State {
    pub(super) fn new(
        client: Client,
        imports: Imports,
        served: Served,
        options: Options,
        board: Board,
    ) -> Self {
        Self {
            features: options.features,
            client,
            served,
            concurrency: options.concurrency.max(1),
            slices: Slices::new(options.endpoints_per_slice),
            imports,
            own_slices: Collection::new(),
            slices_of: BTreeMap::new(),
            own_imports: Collection::new(),
            exports: Collection::new(),
            peers: BTreeSet::new(),
            known: Known::default(),
            queue: Queue::new(options.batch),
            tasks: JoinSet::new(),
            board,
        }
    }

    /// Follows all sources until cancelled, and ends what it is writing then.
    pub(super) async fn run(
        mut self,
        mut sources: Sources,
        listed: Guard,
        shutdown: CancellationToken,
    ) -> Result<()> {
        self.peers(&sources);
        loop {
            let busy = self.tasks.len() >= self.concurrency;
            if !busy && let Some(work) = self.queue.pop(Instant::now()) {
                self.start(work);
                continue;
            }
            let due = self.queue.next_due().filter(|_| !busy);
            tokio::select! {
                Some(event) = sources.services.next() => self.service(event),
                Some(event) = sources.slices.next() => self.own_slice(event),
                Some(event) = sources.namespaces.next() => {
                    let changed = self.imports.apply_namespace(event);
                    self.add_imports(changed);
                }
                Some(event) = sources.exports.next() => self.export(event),
                Some(event) = sources.imports.next() => self.own_import(event),
                event = sources.remotes.recv() => match event {
                    Some(event) => self.remote(event),
                    None if shutdown.is_cancelled() => break,
                    None => bail!("the readers of the remote clusters have ended"),
                },
                Ok(()) = sources.status.changed() => self.peers(&sources),
                Ok(()) = sources.peers.changed() => self.peers(&sources),
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    let (work, result) = done?;
                    self.finished(work, result);
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                () = shutdown.cancelled() => break,
            }
            if self.look_again() {
                listed.open();
            }
            self.board.lock().waiting = self.queue.len();
        }
        while let Some(done) = self.tasks.join_next().await {
            let (work, result) = done?;
            self.finished(work, result);
        }
        Ok(())
    }

    fn service(&mut self, event: Event<LocalService>) {
        if self.features.slices {
            let changed = self.slices.apply_service(event.clone());
            self.add_pairs(changed);
        }
        if self.features.mcs {
            let changed = self.imports.apply_service(event);
            self.add_imports(changed);
        }
    }

    fn own_slice(&mut self, event: Event<OwnSlice>) {
        for change in self.own_slices.apply(event) {
            let (key, before) = change.into_parts();
            let now = self.own_slices.get(&key).and_then(OwnSlice::pair);
            for pair in
                before.and_then(|before| before.pair()).into_iter().filter(|pair| now.as_ref() != Some(pair))
            {
                if let Some(keys) = self.slices_of.get_mut(&pair) {
                    keys.remove(&key);
                    if keys.is_empty() {
                        self.slices_of.remove(&pair);
                    }
                }
                self.add_pairs([pair]);
            }
            if let Some(pair) = now {
                self.slices_of.entry(pair.clone()).or_default().insert(key);
                self.add_pairs([pair]);
            }
        }
        self.board.lock().slices = self.own_slices.len();
    }

    fn export(&mut self, event: Event<ServiceExport>) {
        for change in self.exports.apply(event.clone()) {
            let (key, _) = change.into_parts();
            let conditions = self.exports.get(&key).map(|export| export.status.conditions.clone());
            let mut board = self.board.lock();
            match conditions {
                Some(conditions) => drop(board.exports.insert(key.clone(), conditions)),
                None => drop(board.exports.remove(&key)),
            }
            drop(board);
            self.add_imports([key]);
        }
        let changed = self.imports.apply_export(event.map(|object| convert::export(&object), |key| key));
        self.add_imports(changed);
    }

    fn own_import(&mut self, event: Event<ServiceImport>) {
        for change in self.own_imports.apply(event) {
            let (key, _) = change.into_parts();
            let shown = self.own_imports.get(&key);
            let shown = shown.map(|of| (of.status.clusters.len(), of.status.conditions.clone()));
            let mut board = self.board.lock();
            match shown {
                Some(shown) => drop(board.imports.insert(key.clone(), shown)),
                None => drop(board.imports.remove(&key)),
            }
            drop(board);
            self.add_imports([key]);
        }
    }

    fn remote(&mut self, event: RemoteEvent) {
        let cluster = &event.cluster;
        match event.change {
            RemoteChange::Service(event) if self.features.slices => {
                let changed = self.slices.apply_remote(cluster, event);
                self.add_pairs(changed);
            }
            RemoteChange::Export(event) if self.features.mcs => {
                let changed = self.imports.apply_remote(cluster, event);
                self.add_imports(changed);
            }
            RemoteChange::Removed => {
                tracing::info!(%cluster, "no longer a peer; what came of it is withdrawn");
                let pairs = self.slices.remove_cluster(cluster);
                self.add_pairs(pairs);
                let names = self.imports.remove_cluster(cluster);
                self.add_imports(names);
            }
            _ => {}
        }
    }

    /// Which clusters there are, and which of those know nothing of exports.
    fn peers(&mut self, sources: &Sources) {
        self.peers = sources.peers.borrow().clusters.keys().cloned().collect();
        let knows_none =
            |status: &RemoteStatus| status.ready && status.config.service_exports_enabled.is_none();
        let status = sources.status.borrow();
        let without = status.iter().filter(|(_, status)| knows_none(status)).map(|(name, _)| name.clone());
        if self.imports.set_peers(self.peers.clone(), without.collect()) {
            drop(status);
            self.add_all();
        }
    }

    fn add_pairs(&mut self, pairs: impl IntoIterator<Item = Pair>) {
        let now = Instant::now();
        pairs.into_iter().for_each(|pair| self.queue.add(Work::Slices(pair), now));
    }

    fn add_imports(&mut self, names: impl IntoIterator<Item = ServiceKey>) {
        let now = Instant::now();
        names.into_iter().for_each(|name| self.queue.add(Work::Import(name), now));
    }

    /// Everything that is wanted or there.
    fn add_all(&mut self) {
        let pairs: BTreeSet<Pair> =
            self.slices.pairs().into_iter().chain(self.slices_of.keys().cloned()).collect();
        self.add_pairs(pairs);
        let there = self.own_imports.iter().map(|(key, _)| key.clone());
        let names: BTreeSet<ServiceKey> = self.imports.names().into_iter().chain(there).collect();
        self.add_imports(names);
    }

    /// Looks at everything when more may be judged than before; whether this cluster has been listed.
    fn look_again(&mut self) -> bool {
        let read = |of: &dyn Fn(&ClusterName) -> bool| self.peers.iter().filter(|name| of(name)).count();
        let known = Known {
            slices: self.slices.is_local_synced() && self.own_slices.is_synced(),
            imports: self.imports.is_local_synced()
                && self.own_imports.is_synced()
                && self.served.get().is_some(),
            services_of: read(&|name| self.slices.is_read(name)),
            exports_of: read(&|name| self.imports.is_known(name)),
        };
        if known != self.known {
            self.known = known;
            self.add_all();
        }
        let listed = self.imports.is_local_synced() && self.own_imports.is_synced();
        (self.known.slices || !self.features.slices) && (listed || !self.features.mcs)
    }

    /// Begins what is to be done about something, if anything is and may be.
    fn start(&mut self, work: Work) {
        match &work {
            Work::Slices(pair) => {
                let may =
                    self.known.slices && (self.slices.is_read(&pair.1) || !self.peers.contains(&pair.1));
                let keys = self.slices_of.get(pair).into_iter().flatten();
                let there = keys.filter_map(|key| self.own_slices.get(key)).map(|own| &own.0);
                let ops = if may { plan(&self.slices.desired(pair), there) } else { vec![] };
                if ops.is_empty() {
                    return self.idle(work);
                }
                let writer = SliceWriter::new(self.client.clone());
                self.tasks.spawn(async move {
                    let result = writer.carry_out(ops).await;
                    (work, result)
                });
            }
            Work::Import(key) => {
                let wanted = self.imports.desired(key);
                let there = self.own_imports.get(key);
                let nothing = wanted.import.is_none() && wanted.export.is_none() && there.is_none();
                let version =
                    self.served.get().filter(|_| self.known.imports && !nothing && !self.is_held(there));
                let Some(version) = version else { return self.idle(work) };
                let (writer, key) = (ImportWriter::new(self.client.clone(), *version), key.clone());
                self.tasks.spawn(async move {
                    let result = writer.write(&key, &wanted).await;
                    (work, result)
                });
            }
        }
    }

    /// Whether an import was made of the exports of a cluster that has not been read yet.
    fn is_held(&self, import: Option<&ServiceImport>) -> bool {
        let clusters = import.into_iter().flat_map(|import| &import.status.clusters);
        clusters
            .filter_map(|status| ClusterName::new(status.cluster.as_str()).ok())
            .any(|cluster| !self.imports.is_known(&cluster))
    }

    /// Nothing is to be done.
    fn idle(&mut self, work: Work) {
        self.board.lock().problems.remove(&work.to_string());
        self.queue.done(work, Instant::now());
    }

    fn finished(&mut self, work: Work, result: std::result::Result<(), Error>) {
        let now = Instant::now();
        let mut board = self.board.lock();
        match result {
            Ok(()) => {
                board.problems.remove(&work.to_string());
                board.written += 1;
                self.queue.done(work, now);
            }
            Err(error) => {
                board.failed += 1;
                let count = self.queue.failed(work.clone(), now);
                let again = matches!(error, Error::Changed { .. });
                if !again {
                    board.problems.insert(work.to_string(), error.to_string());
                }
                // The first of a row is told, then ever fewer.
                match count.is_power_of_two() && !(again && count < 4) {
                    true => tracing::warn!(%work, %error, count, "cannot be written yet"),
                    false => tracing::debug!(%work, %error, count, "is tried again"),
                }
            }
        }
    }
}
