//! How far a publisher is, read from its status at each scrape.

use causeway_mesh::keys::Kind;
use causeway_mesh::publish::PublishStatus;
use causeway_model::ClusterName;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use tokio::sync::watch;

use super::kvstore::scope;
use super::{Labels, flag, gauges};

/// The gauges of a publisher.
#[derive(Debug)]
pub(crate) struct Publishing {
    /// What its names begin with.
    pub(crate) prefix: &'static str,
    /// Whose state is published.
    pub(crate) cluster: ClusterName,
    /// How far it is.
    pub(crate) status: watch::Receiver<PublishStatus>,
}

impl Collector for Publishing {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let status = self.status.borrow().clone();
        let name = |tail: &str| format!("{}_{tail}", self.prefix);
        let source = || ("source_cluster", self.cluster.to_string());
        // 0 until it is complete, as Cilium has it.
        let bootstrap = [(vec![source()], status.bootstrap.map_or(0.0, |time| time.as_secs_f64()))];
        let help = "How long it took until everything was published";
        gauges(&mut encoder, &name("bootstrap_seconds"), help, bootstrap)?;
        let of = |kind: Kind| -> Labels { vec![("scope", scope(kind)), source()] };
        let queued = Kind::ALL.map(|kind| (of(kind), status.queued[kind as usize] as f64));
        gauges(
            &mut encoder,
            &name("kvstore_sync_queue_size"),
            "Changes that are not in the store yet",
            queued,
        )?;
        let marked = Kind::ALL.map(|kind| {
            let mut labels = of(kind);
            labels.push(("action", "write".to_owned()));
            (labels, flag(status.marked[kind as usize]))
        });
        let help = "1 once everything of a scope was in the store";
        gauges(&mut encoder, &name("kvstore_initial_sync_completed"), help, marked)
    }
}
