//! What the server counts, under the names etcd's dashboards look for.
//!
//! Counting costs a relaxed addition; all else is read from the store when somebody asks.

mod body;
mod process;
mod text;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tonic::Code;

use super::methods;
use crate::{LogStats, Store};
pub(super) use body::{Counted, Metered};
use text::{Kind, Text};

/// gRPC's codes as Go spells them, which is what etcd's metrics show.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// The counters of a server, shared by its connections.
#[derive(Debug)]
pub(super) struct Metrics {
    handled: [[AtomicU64; CODES.len()]; methods::ALL.len()],
    pub(super) received: AtomicU64,
    pub(super) sent: AtomicU64,
    events: AtomicU64,
    streams: AtomicI64,
    watches: AtomicI64,
    slow: AtomicI64,
}

impl Metrics {
    pub(super) fn new() -> Arc<Self> {
        let zeros = || std::array::from_fn(|_| AtomicU64::new(0));
        Arc::new(Self {
            handled: std::array::from_fn(|_| zeros()),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            events: AtomicU64::new(0),
            streams: AtomicI64::new(0),
            watches: AtomicI64::new(0),
            slow: AtomicI64::new(0),
        })
    }

    /// A call has ended; `method` is its place in [`methods::ALL`].
    pub(super) fn handled(&self, method: usize, code: Code) {
        self.handled[method][code as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// All of it in Prometheus' text format.
    pub(super) fn render(&self, store: &Store) -> String {
        let mut text = Text::default();
        self.server(&mut text, store);
        self.mvcc(&mut text, store);
        if let Some(log) = store.log_stats() {
            text.histogram(
                "etcd_disk_wal_fsync_duration_seconds",
                "The latency distributions of fsync called by WAL.",
                LogStats::bounds(),
                &log.sync_buckets,
                log.sync_seconds,
                log.syncs,
            );
            text.counter("etcd_disk_wal_write_bytes_total", "Bytes written to the log.", log.bytes);
            text.counter("causeway_store_snapshots_total", "Snapshots that replaced a log.", log.snapshots);
            text.counter(
                "causeway_store_log_failures_total",
                "Times the log could not be written.",
                log.failures,
            );
        }
        self.grpc(&mut text);
        process::render(&mut text);
        text.finish()
    }

    /// A store of one member always leads itself and never has anything outstanding.
    fn server(&self, text: &mut Text, store: &Store) {
        use Kind::{Counter, Gauge};
        let stats = store.stats();
        let version = [("server_version", super::ETCD_VERSION)];
        text.labelled("etcd_server_version", Gauge, "Which version is running.", &[(&version, 1)]);
        text.gauge("etcd_server_has_leader", "Whether or not a leader exists.", 1);
        text.gauge("etcd_server_is_leader", "Whether or not this member is a leader.", 1);
        text.counter("etcd_server_leader_changes_seen_total", "The number of leader changes seen.", 1);
        let writes = stats.revision as u64;
        for (name, kind, help, value) in [
            ("etcd_server_proposals_committed_total", Gauge, "Writes committed.", writes),
            ("etcd_server_proposals_applied_total", Gauge, "Writes applied.", writes),
            ("etcd_server_proposals_pending", Gauge, "Writes waiting to be committed.", 0),
            ("etcd_server_proposals_failed_total", Counter, "Writes that could not be committed.", 0),
        ] {
            text.labelled(name, kind, help, &[(&[], value)]);
        }
        let quota = stats.quota_bytes.unwrap_or(0);
        text.gauge("etcd_server_quota_backend_bytes", "Current backend storage quota size in bytes.", quota);
    }

    fn mvcc(&self, text: &mut Text, store: &Store) {
        let stats = store.stats();
        let load = |gauge: &AtomicI64| gauge.load(Ordering::Relaxed);
        for (name, help, value) in [
            ("db_total_size_in_bytes", "Bytes of keys, values and history.", stats.total_bytes),
            ("db_total_size_in_use_in_bytes", "Bytes of live keys and values.", stats.live_bytes),
        ] {
            text.gauge(&format!("etcd_mvcc_{name}"), help, value);
        }
        for (name, help, value) in [
            ("db_total_size_in_bytes", "Bytes of keys, values and history.", stats.total_bytes),
            ("keys_total", "Total number of keys.", stats.keys as i64),
            ("current_revision", "The current revision of the store.", stats.revision),
            ("compact_revision", "The revision of the last compaction.", stats.compacted),
            ("watch_stream_total", "Total number of watch streams.", load(&self.streams)),
            ("watcher_total", "Total number of watchers.", load(&self.watches)),
            ("slow_watcher_total", "Watchers with more to send than was taken.", load(&self.slow)),
        ] {
            text.gauge(&format!("etcd_debugging_mvcc_{name}"), help, value);
        }
        for (name, help, value) in [
            ("put_total", "Total number of puts seen by this member.", stats.puts),
            ("delete_total", "Total number of deletes seen by this member.", stats.deletes),
            ("txn_total", "Total number of txns seen by this member.", stats.txns),
            ("range_total", "Total number of ranges seen by this member.", stats.ranges),
        ] {
            text.counter(&format!("etcd_mvcc_{name}"), help, value);
            text.counter(&format!("etcd_debugging_mvcc_{name}"), help, value);
        }
        let events = self.events.load(Ordering::Relaxed);
        text.counter("etcd_debugging_mvcc_events_total", "Total number of events sent to watchers.", events);
        for (name, help, value) in [
            ("granted_total", "The number of granted leases.", stats.leases_granted),
            ("renewed_total", "The number of renewals of leases.", stats.leases_renewed),
            ("revoked_total", "The number of revoked leases.", stats.leases_revoked),
            ("expired_total", "The number of expired leases.", stats.leases_expired),
        ] {
            text.counter(&format!("etcd_debugging_lease_{name}"), help, value);
        }
    }

    fn grpc(&self, text: &mut Text) {
        for (name, value) in [("received", &self.received), ("sent", &self.sent)] {
            let name = format!("etcd_network_client_grpc_{name}_bytes_total");
            text.counter(&name, "Bytes of client connections, TLS included.", value.load(Ordering::Relaxed));
        }
        let mut samples = Vec::new();
        for (method, counts) in methods::ALL.iter().zip(&self.handled) {
            for (code, count) in CODES.iter().zip(counts) {
                let count = count.load(Ordering::Relaxed);
                // The good end is always there, so that a rate has something to start from.
                if count > 0 || *code == "OK" {
                    let labels = [
                        ("grpc_code", *code),
                        ("grpc_method", method.name),
                        ("grpc_service", method.service),
                        ("grpc_type", method.kind),
                    ];
                    samples.push((labels, count));
                }
            }
        }
        let samples: Vec<_> = samples.iter().map(|(labels, count)| (&labels[..], *count)).collect();
        let help = "Total number of RPCs completed on the server, regardless of success or failure.";
        text.labelled("grpc_server_handled_total", Kind::Counter, help, &samples);
    }
}

/// The watches of one stream, counted as long as it is there.
#[derive(Debug)]
pub(super) struct Watching {
    metrics: Arc<Metrics>,
    watches: i64,
    slow: i64,
    code: Code,
}

impl Watching {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        metrics.streams.fetch_add(1, Ordering::Relaxed);
        Self { metrics, watches: 0, slow: 0, code: Code::Cancelled }
    }

    /// How many watches the stream has now, and how many of them have more to send than the client
    /// has taken.
    pub(super) fn set(&mut self, watches: usize, slow: usize) {
        for (gauge, counted, now) in [
            (&self.metrics.watches, &mut self.watches, watches as i64),
            (&self.metrics.slow, &mut self.slow, slow as i64),
        ] {
            if *counted != now {
                gauge.fetch_add(now - *counted, Ordering::Relaxed);
                *counted = now;
            }
        }
    }

    /// Events were sent.
    pub(super) fn sent(&self, events: usize) {
        self.metrics.events.fetch_add(events as u64, Ordering::Relaxed);
    }

    /// The stream ends with this code; without one, its client has gone away.
    pub(super) fn ended(&mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.set(0, 0);
        self.metrics.streams.fetch_sub(1, Ordering::Relaxed);
        self.metrics.handled(methods::WATCH, self.code);
    }
}
