//! Services and their backends, kept by whoever merges them and read at each scrape.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use causeway_daemon::metrics::Metrics;
use causeway_mesh::merge::BackendState;
use causeway_model::{ClusterName, ServiceKey};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;

use super::{Labels, gauges};

/// Backends of one service, by cluster (`None` = this one) and state.
pub(crate) type Counts = BTreeMap<(Option<ClusterName>, BackendState), u32>;

/// What happened to a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Add,
    Update,
    Delete,
}

/// The metrics of services. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ServiceMetrics {
    events: Family<Labels, Counter>,
    counts: Arc<Mutex<BTreeMap<ServiceKey, Counts>>>,
}

impl ServiceMetrics {
    /// Registers them. Backends are told of at most `limit` services, the first by name: each is a time
    /// series per cluster and state.
    pub(crate) fn register(metrics: &Metrics, own: ClusterName, limit: usize) -> Self {
        let help = "Changes of Services of this cluster";
        let events = metrics.register_named("cilium_services_events", help, Family::default());
        let counts = Arc::default();
        metrics.collect(Backends { own, limit, counts: Arc::clone(&counts) });
        Self { events, counts }
    }

    /// Counts an event.
    pub(crate) fn event(&self, action: Action) {
        let word = match action {
            Action::Add => "add",
            Action::Update => "update",
            Action::Delete => "delete",
        };
        self.events.get_or_create(&vec![("action", word.to_owned())]).inc();
    }

    /// What a service has now; `None` when it is gone.
    pub(crate) fn set(&self, key: ServiceKey, counts: Option<Counts>) {
        let mut all = lock(&self.counts);
        match counts {
            Some(counts) => drop(all.insert(key, counts)),
            None => drop(all.remove(&key)),
        }
    }
}

fn lock(counts: &Mutex<BTreeMap<ServiceKey, Counts>>) -> MutexGuard<'_, BTreeMap<ServiceKey, Counts>> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Backends {
    own: ClusterName,
    limit: usize,
    counts: Arc<Mutex<BTreeMap<ServiceKey, Counts>>>,
}

impl Collector for Backends {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let all = lock(&self.counts);
        let left_out = all.len().saturating_sub(self.limit);
        let shown: Vec<(Labels, f64)> = all
            .iter()
            .take(self.limit)
            .flat_map(|(key, counts)| counts.iter().map(move |(of, count)| (key, of, count)))
            .map(|(key, (cluster, state), count)| {
                let labels = vec![
                    ("namespace", key.namespace.clone()),
                    ("service", key.name.clone()),
                    ("cluster", cluster.as_ref().unwrap_or(&self.own).to_string()),
                    ("state", state.as_str().to_owned()),
                ];
                (labels, f64::from(*count))
            })
            .collect();
        drop(all);
        let help = "Backends of a service by cluster and state";
        gauges(&mut encoder, "causeway_service_backends", help, shown)?;
        let help = "Services beyond service-metrics-limit, whose backends are not told of";
        let name = "causeway_service_metrics_left_out";
        ConstGauge::new(left_out as f64).encode(encoder.encode_descriptor(
            name,
            help,
            None,
            MetricType::Gauge,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_are_counted_up_to_the_limit() {
        let metrics = Metrics::new("agent", "test");
        let (own, other) = (ClusterName::new("cls-a").unwrap(), ClusterName::new("cls-b").unwrap());
        let services = ServiceMetrics::register(&metrics, own, 2);
        let key = |name: &str| ServiceKey { namespace: "shop".into(), name: name.into() };
        let counts: Counts =
            [((None, BackendState::Active), 2), ((Some(other), BackendState::Unreachable), 1)].into();
        for name in ["a", "b", "c"] {
            services.event(Action::Add);
            services.set(key(name), Some(counts.clone()));
        }
        let text = metrics.encode();
        let line = |name: &str, cluster: &str, state: &str, value: &str| {
            format!(
                "causeway_service_backends{{namespace=\"shop\",service=\"{name}\",cluster=\"{cluster}\",state=\"{state}\"}} {value}\n"
            )
        };
        assert!(text.contains(&line("a", "cls-a", "active", "2.0")), "{text}");
        assert!(text.contains(&line("b", "cls-b", "unreachable", "1.0")), "{text}");
        assert!(!text.contains("service=\"c\""), "{text}");
        assert!(text.contains("causeway_service_metrics_left_out 1.0\n"), "{text}");
        assert!(text.contains("cilium_services_events_total{action=\"add\"} 3\n"), "{text}");
        // One that goes makes room for the next.
        services.set(key("a"), None);
        let text = metrics.encode();
        assert!(!text.contains("service=\"a\"") && text.contains("service=\"c\""), "{text}");
        assert!(text.contains("causeway_service_metrics_left_out 0.0\n"), "{text}");
    }
}
