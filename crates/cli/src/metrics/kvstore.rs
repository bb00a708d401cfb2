//! What is asked of a store, measured at the publisher's sink and at the cache.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway_daemon::metrics::Metrics;
use causeway_mesh::keys::{self, Kind};
use causeway_mesh::publish::{Observer, Op, Sink, SinkError};
use causeway_model::ClusterName;
use futures::stream::BoxStream;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::Labels;

/// Bounds of the histograms, seconds: Cilium's.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// The group of the heartbeat's runs.
pub(super) const HEARTBEAT: &str = "kvstore-heartbeat";
/// The one kind of request that could be limited: a batch of writes.
const CALL: &str = "write";

type Histograms = Family<Labels, Histogram, fn() -> Histogram>;
type Float = Gauge<f64, AtomicU64>;

/// The scope of a kind's keys.
pub(super) fn scope(kind: Kind) -> String {
    format!("{}/v1", kind.word())
}

/// The scope of any key: its kind's, else what it is.
fn scope_of(key: &str) -> String {
    keys::kind(key).map_or_else(|| key.split('/').nth(1).unwrap_or(key).to_owned(), scope)
}

/// Mean, least and most of durations.
#[derive(Debug, Default)]
struct Spread {
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn add(&mut self, seconds: f64) {
        self.min = if self.count == 0 { seconds } else { self.min.min(seconds) };
        self.max = self.max.max(seconds);
        self.count += 1;
        self.sum += seconds;
    }

    fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum / self.count as f64 }
    }
}

/// The metrics of one store.
#[derive(Debug)]
pub(crate) struct KvstoreMetrics {
    cluster: ClusterName,
    operations: Histograms,
    queue: Histograms,
    quorum_errors: Family<Labels, Counter>,
    sync_errors: Family<Labels, Counter>,
    runs: Family<Labels, Counter>,
    requests: Family<Labels, Counter>,
    processing: Family<Labels, Float>,
    waiting: Family<Labels, Float>,
    in_flight: Family<Labels, Gauge>,
    waits: Mutex<Spread>,
    calls: Mutex<Spread>,
}

impl KvstoreMetrics {
    /// Registers them under names that begin with `prefix`; `cluster` is whose state a publisher writes, and
    /// `most` how many writes a batch has at most.
    pub(crate) fn register(metrics: &Metrics, prefix: &str, cluster: &ClusterName, most: usize) -> Self {
        let name = |tail: &str| format!("{prefix}_{tail}");
        let histograms = |tail: &str, help: &str| -> Histograms {
            metrics.register_named(
                &name(tail),
                help,
                Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            )
        };
        let counters = |tail: &str, help: &str| {
            metrics.register_named(&name(tail), help, Family::<Labels, Counter>::default())
        };
        let floats = |tail: &str, help: &str| {
            metrics.register_named(&name(tail), help, Family::<Labels, Float>::default())
        };
        let limits = floats("api_limiter_rate_limit", "Requests allowed per second, and at once");
        limits.get_or_create(&value("limit")).set(f64::INFINITY);
        limits.get_or_create(&value("burst")).set(most as f64);
        let in_flight = metrics.register_named(
            &name("api_limiter_requests_in_flight"),
            "Requests under way, and how many may be",
            Family::<Labels, Gauge>::default(),
        );
        in_flight.get_or_create(&value("in-flight")).set(0);
        // Each batch is waited for before the next is written.
        in_flight.get_or_create(&value("limit")).set(1);
        Self {
            cluster: cluster.clone(),
            operations: histograms(
                "kvstore_operations_duration_seconds",
                "How long operations of the store took",
            ),
            queue: histograms(
                "kvstore_events_queue_seconds",
                "How long changes waited until they were written",
            ),
            quorum_errors: counters(
                "kvstore_quorum_errors",
                "Operations that failed since the store was not there",
            ),
            sync_errors: counters(
                "kvstore_sync_errors",
                "Changes that could not be written and were tried again",
            ),
            runs: counters("controllers_group_runs", "Runs of recurring work"),
            requests: counters("api_limiter_processed_requests", "Batches of writes that were carried out"),
            processing: floats("api_limiter_processing_duration_seconds", "How long batches of writes took"),
            waiting: floats("api_limiter_wait_duration_seconds", "How long changes waited for their batch"),
            in_flight,
            waits: Mutex::default(),
            calls: Mutex::default(),
        }
    }

    fn operation(&self, scope: &str, kind: &str, action: &str, took: Duration, error: Option<&SinkError>) {
        let outcome = if error.is_none() { "success" } else { "fail" };
        let labels = [("scope", scope), ("kind", kind), ("action", action), ("outcome", outcome)];
        let labels = labels.map(|(name, value)| (name, value.to_owned())).to_vec();
        self.operations.get_or_create(&labels).observe(took.as_secs_f64());
        let quorum = match error {
            Some(SinkError::Failed(_)) => "unreachable",
            Some(SinkError::Full) => "full",
            _ => return,
        };
        self.quorum_errors.get_or_create(&vec![("error", quorum.to_owned())]).inc();
    }

    /// One run of recurring work.
    pub(super) fn ran(&self, group: &str, failed: bool) {
        let status = if failed { "failure" } else { "success" };
        let labels = vec![("status", status.to_owned()), ("group_name", group.to_owned())];
        self.runs.get_or_create(&labels).inc();
    }

    /// A batch of writes of these scopes was carried out; `cluster` is whose state they are.
    pub(super) fn batch(
        &self,
        cluster: &ClusterName,
        ops: &BTreeSet<(String, &'static str)>,
        took: Duration,
        error: Option<&SinkError>,
    ) {
        for (scope, kind) in ops {
            self.operation(scope, kind, "Txn", took, error);
            if error.is_some() {
                let labels = vec![("scope", scope.clone()), ("source_cluster", cluster.to_string())];
                self.sync_errors.get_or_create(&labels).inc();
            }
        }
        let (outcome, code) = if error.is_none() { ("success", "200") } else { ("fail", "500") };
        let labels = [("api_call", CALL), ("outcome", outcome), ("return_code", code)];
        self.requests.get_or_create(&labels.map(|(name, value)| (name, value.to_owned())).to_vec()).inc();
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.add(took.as_secs_f64());
        self.processing.get_or_create(&value("mean")).set(calls.mean());
    }
}

/// Labels of the limiter's gauges.
fn value(which: &str) -> Labels {
    vec![("api_call", CALL.to_owned()), ("value", which.to_owned())]
}

impl Observer for KvstoreMetrics {
    fn written(&self, kind: Kind, deleted: bool, waited: Duration) {
        let action = if deleted { "delete" } else { "modify" };
        let labels = vec![("action", action.to_owned()), ("scope", scope(kind))];
        self.queue.get_or_create(&labels).observe(waited.as_secs_f64());
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        waits.add(waited.as_secs_f64());
        for (which, seconds) in [("mean", waits.mean()), ("min", waits.min), ("max", waits.max)] {
            self.waiting.get_or_create(&value(which)).set(seconds);
        }
    }
}

/// A sink that measures what is asked of another one.
#[derive(Debug)]
pub(crate) struct Measured<S> {
    pub(crate) sink: S,
    pub(crate) metrics: std::sync::Arc<KvstoreMetrics>,
}

/// Counts a request as under way until it ends, however it ends.
struct InFlight<'a>(&'a KvstoreMetrics);

impl<'a> InFlight<'a> {
    fn begin(metrics: &'a KvstoreMetrics) -> Self {
        metrics.in_flight.get_or_create(&value("in-flight")).inc();
        Self(metrics)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.get_or_create(&value("in-flight")).dec();
    }
}

impl<S: Sink> Sink for Measured<S> {
    async fn write(&self, ops: Vec<Op>, lease: i64) -> Result<(), SinkError> {
        let kinds: BTreeSet<(String, &'static str)> = ops
            .iter()
            .map(|op| (scope_of(op.key()), if matches!(op, Op::Put(_)) { "set" } else { "delete" }))
            .collect();
        let beat = ops.iter().any(|op| op.key() == keys::HEARTBEAT);
        let start = Instant::now();
        let under_way = InFlight::begin(&self.metrics);
        let result = self.sink.write(ops, lease).await;
        drop(under_way);
        let error = result.as_ref().err();
        self.metrics.batch(&self.metrics.cluster, &kinds, start.elapsed(), error);
        if beat {
            self.metrics.ran(HEARTBEAT, error.is_some());
        }
        result
    }

    async fn keys(&self, prefix: &str) -> Result<Vec<String>, SinkError> {
        let start = Instant::now();
        let result = self.sink.keys(prefix).await;
        let error = result.as_ref().err();
        self.metrics.operation(&scope_of(prefix), "read", "ListPrefix", start.elapsed(), error);
        result
    }

    async fn get(&self, key: &str) -> Result<Option<(Bytes, i64)>, SinkError> {
        let start = Instant::now();
        let result = self.sink.get(key).await;
        let error = result.as_ref().err();
        self.metrics.operation(&scope_of(key), "read", "Get", start.elapsed(), error);
        if key.starts_with(keys::CLUSTER_CONFIG) {
            self.metrics.ran("clustermesh-config", error.is_some());
        }
        result
    }

    async fn grant(&self, ttl_seconds: i64) -> Result<i64, SinkError> {
        let start = Instant::now();
        let result = self.sink.grant(ttl_seconds).await;
        self.metrics.operation("lease", "set", "Grant", start.elapsed(), result.as_ref().err());
        result
    }

    fn changes(&self, key: &str) -> BoxStream<'static, ()> {
        self.sink.changes(key)
    }

    async fn keep_alive(&self, lease: i64) -> Result<(), SinkError> {
        let start = Instant::now();
        let result = self.sink.keep_alive(lease).await;
        let error = result.as_ref().err();
        self.metrics.operation("lease", "set", "KeepAlive", start.elapsed(), error);
        self.metrics.ran("kvstore-lease", error.is_some());
        result
    }
}
