//! The metrics of one process, served as `/metrics` in OpenMetrics text.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

/// Two shared registries: our own names with the prefix `causeway_`, and names that are contracts
/// with the dashboards of others, given whole.
#[derive(Clone)]
pub struct Metrics(Arc<Mutex<Registries>>);

struct Registries {
    own: Registry,
    named: Registry,
    texts: Vec<Box<dyn Fn() -> String + Send>>,
}

impl Metrics {
    /// A registry that tells the version and the role of the process.
    pub fn new(role: &'static str, version: &'static str) -> Self {
        let mut registry = Registry::with_prefix("causeway");
        let info = Info::new(vec![("role", role), ("version", version)]);
        registry.register("build", "Role and version of this process", info);
        Self(Arc::new(Mutex::new(Registries { own: registry, named: Registry::default(), texts: vec![] })))
    }

    /// Adds a metric and returns it, so that a caller keeps a handle: metrics are cheap clones.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.lock().own.register(name, help, metric.clone());
        metric
    }

    /// The same under exactly this name (a counter's name without its `_total`).
    pub fn register_named<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.lock().named.register(name, help, metric.clone());
        metric
    }

    /// Adds metrics that are made at each scrape, under exactly the names they are given there.
    pub fn collect(&self, collector: impl Collector) {
        self.lock().named.register_collector(Box::new(collector));
    }

    /// Adds metrics that somebody else has as text in Prometheus' own format, made at each scrape.
    pub fn collect_text(&self, text: impl Fn() -> String + Send + 'static) {
        self.lock().texts.push(Box::new(text));
    }

    /// All metrics as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let registries = self.lock();
        // Writing to a String cannot fail; an encoder error would leave the text short.
        let _ = encode_registry(&mut text, &registries.own)
            .and_then(|()| encode_registry(&mut text, &registries.named))
            .and_then(|()| registries.texts.iter().try_for_each(|more| open_metrics(&mut text, &more())))
            .and_then(|()| encode_eof(&mut text));
        text
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Registries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Writes text of Prometheus' own format as OpenMetrics, whose families of counters have names without
/// `_total`.
fn open_metrics(to: &mut String, text: &str) -> std::fmt::Result {
    let family = |line: &str| line.split(' ').nth(2).unwrap_or_default().to_owned();
    let counters: BTreeSet<String> = text
        .lines()
        .filter(|line| line.starts_with("# TYPE ") && line.ends_with(" counter"))
        .map(family)
        .collect();
    for line in text.lines() {
        let name = family(line);
        match name.strip_suffix("_total") {
            Some(short) if line.starts_with("# ") && counters.contains(&name) => {
                writeln!(to, "{}", line.replacen(&name, short, 1))?;
            }
            _ => writeln!(to, "{line}")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn text() {
        let metrics = Metrics::new("agent", "1.2.3");
        let adds: Counter = metrics.register("endpoint_adds", "Endpoints added", Counter::default());
        adds.inc();
        let text = metrics.encode();
        assert!(text.contains("causeway_build_info{role=\"agent\",version=\"1.2.3\"} 1"), "{text}");
        assert!(text.contains("causeway_endpoint_adds_total 1"), "{text}");
        let seen: Counter = metrics.register_named("cilium_things", "Things", Counter::default());
        seen.inc();
        let text = metrics.encode();
        assert!(text.contains("\ncilium_things_total 1\n") && text.ends_with("# EOF\n"), "{text}");
        assert_eq!(text.matches("# EOF").count(), 1);
    }

    #[test]
    fn text_of_others() {
        let metrics = Metrics::new("agent", "1.2.3");
        let other = "# HELP puts_total All puts_total.\n# TYPE puts_total counter\nputs_total{of=\"a\"} 1\n\
                     # HELP keys_total Keys.\n# TYPE keys_total gauge\nkeys_total 2\n";
        metrics.collect_text(|| other.to_owned());
        let wanted = "# HELP puts All puts_total.\n# TYPE puts counter\nputs_total{of=\"a\"} 1\n\
                      # HELP keys_total Keys.\n# TYPE keys_total gauge\nkeys_total 2\n# EOF\n";
        assert!(metrics.encode().ends_with(wanted), "{}", metrics.encode());
    }
}
