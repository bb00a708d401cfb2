//! What a name server did, under the names of CoreDNS, whose dashboards people have.

use std::net::SocketAddr;
use std::sync::Arc;

use causeway_daemon::metrics::Metrics;
use causeway_dns::forward::Forwarder;
use causeway_dns::server::{Exchange, Observer, Source};
use causeway_dns::wire::Rcode;
use causeway_dns::zone::{SharedZone, Zone};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use super::{Labels, gauges};

/// Seconds; CoreDNS' own buckets.
const DURATIONS: [f64; 16] = [
    0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048,
    4.096, 8.192,
];
/// Octets; CoreDNS' own buckets.
const SIZES: [f64; 13] =
    [0.0, 100.0, 200.0, 300.0, 400.0, 511.0, 1023.0, 2047.0, 4095.0, 8291.0, 16000.0, 32000.0, 64000.0];

type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// What servers did; each counts under its own address.
#[derive(Debug, Clone)]
pub(crate) struct DnsMetrics {
    server: String,
    requests: Family<Labels, Counter>,
    responses: Family<Labels, Counter>,
    durations: Histograms,
    request_sizes: Histograms,
    response_sizes: Histograms,
    hits: Family<Labels, Counter>,
    misses: Family<Labels, Counter>,
    rejects: Counter,
}

impl DnsMetrics {
    /// Registers them.
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let durations: fn() -> Histogram = || Histogram::new(DURATIONS);
        let sizes: fn() -> Histogram = || Histogram::new(SIZES);
        let counters = |name: &str, help: &str| metrics.register_named(name, help, Family::default());
        let histograms = |name: &str, help: &str, of: fn() -> Histogram| {
            metrics.register_named(name, help, Family::new_with_constructor(of))
        };
        Self {
            server: String::new(),
            requests: counters("coredns_dns_requests", "Questions"),
            responses: counters("coredns_dns_responses", "Answers, by what became of the question"),
            durations: histograms("coredns_dns_request_duration_seconds", "How long answers took", durations),
            request_sizes: histograms("coredns_dns_request_size_bytes", "Octets of questions", sizes),
            response_sizes: histograms("coredns_dns_response_size_bytes", "Octets of answers", sizes),
            hits: counters("coredns_cache_hits", "Answers of others that were kept"),
            misses: counters("coredns_cache_misses", "Questions others were asked"),
            rejects: metrics.register_named(
                "coredns_forward_max_concurrent_rejects",
                "Questions that were not passed on because too many were under way",
                Counter::default(),
            ),
        }
    }

    /// Those of the server at an address.
    pub(crate) fn of(&self, address: SocketAddr) -> Self {
        Self { server: format!("dns://{address}"), ..self.clone() }
    }
}

impl Observer for DnsMetrics {
    fn answered(&self, exchange: &Exchange<'_>) {
        let zone = exchange.domain.map_or_else(|| ".".to_owned(), ToString::to_string);
        let labels = |more: Labels| -> Labels {
            [vec![("server", self.server.clone()), ("zone", zone.clone())], more].concat()
        };
        let proto = || ("proto", exchange.transport.to_string());
        let family = if exchange.client.ip().to_canonical().is_ipv4() { "1" } else { "2" };
        // Types without a word share one label: their number is the client's to choose.
        let kind = exchange.question.and_then(|(_, kind)| kind.word()).unwrap_or("other");
        let request = labels(vec![proto(), ("family", family.to_owned()), ("type", kind.to_owned())]);
        self.requests.get_or_create(&request).inc();
        let plugin = match exchange.source {
            Source::Zone => "kubernetes",
            Source::Forward => "forward",
            Source::Cache => "cache",
            Source::Refused => "",
        };
        let response =
            labels(vec![("rcode", exchange.rcode.word().to_owned()), ("plugin", plugin.to_owned())]);
        self.responses.get_or_create(&response).inc();
        self.durations.get_or_create(&labels(vec![])).observe(exchange.took.as_secs_f64());
        let sized = labels(vec![proto()]);
        self.request_sizes.get_or_create(&sized).observe(exchange.sizes.0 as f64);
        self.response_sizes.get_or_create(&sized).observe(exchange.sizes.1 as f64);
        let server = ("server", self.server.clone());
        match exchange.source {
            Source::Cache => {
                let kind = if exchange.rcode == Rcode::NX_DOMAIN { "denial" } else { "success" };
                self.hits.get_or_create(&vec![server, ("type", kind.to_owned())]).inc();
            }
            Source::Forward => {
                self.misses.get_or_create(&vec![server]).inc();
            }
            Source::Zone | Source::Refused => {}
        }
    }

    fn rejected(&self, _: SocketAddr) {
        self.rejects.inc();
    }
}

/// How much is known, read at each scrape.
#[derive(Debug)]
pub(crate) struct DnsSizes {
    /// The names.
    pub(crate) zone: SharedZone,
    /// Whose cache is counted.
    pub(crate) forwarder: Option<Arc<Forwarder>>,
}

impl Collector for DnsSizes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let [services, imports, slices] = self.zone.look(Zone::sizes);
        let sizes = [("services", services), ("imports", imports), ("endpoint_slices", slices)];
        let sizes = sizes.map(|(kind, count)| (vec![("kind", kind.to_owned())], count as f64));
        gauges(&mut encoder, "causeway_dns_objects", "Objects that names are made of", sizes)?;
        let cached = self.forwarder.iter().map(|forwarder| (vec![], forwarder.cached() as f64));
        gauges(&mut encoder, "coredns_cache_entries", "Answers of others that are kept", cached)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use causeway_dns::Name;
    use causeway_dns::server::Transport;
    use causeway_dns::wire::RecordType;

    use super::*;

    #[test]
    fn questions_are_counted_as_coredns_counts_them() {
        let metrics = Metrics::new("dns", "0");
        let observer = DnsMetrics::register(&metrics).of("[::]:53".parse().unwrap());
        let (name, domain): (Name, Name) =
            ("web.shop.svc.cluster.local".parse().unwrap(), "cluster.local".parse().unwrap());
        let exchange = Exchange {
            client: "[::ffff:10.1.0.5]:999".parse().unwrap(),
            transport: Transport::Udp,
            domain: Some(&domain),
            question: Some((&name, RecordType::A)),
            rcode: Rcode::NO_ERROR,
            source: Source::Zone,
            sizes: (60, 100),
            took: Duration::from_micros(300),
        };
        observer.answered(&exchange);
        let outside = Exchange { domain: None, question: Some((&name, RecordType(4711))), ..exchange };
        observer.answered(&Exchange { source: Source::Forward, ..outside });
        observer.answered(&Exchange { source: Source::Cache, rcode: Rcode::NX_DOMAIN, ..outside });
        observer.rejected(exchange.client);
        let text = metrics.encode();
        let server = "server=\"dns://[::]:53\"";
        for line in [
            format!(
                "coredns_dns_requests_total{{{server},zone=\"cluster.local.\",proto=\"udp\",family=\"1\",type=\"A\"}} 1"
            ),
            format!(
                "coredns_dns_requests_total{{{server},zone=\".\",proto=\"udp\",family=\"1\",type=\"other\"}} 2"
            ),
            format!(
                "coredns_dns_responses_total{{{server},zone=\"cluster.local.\",rcode=\"NOERROR\",plugin=\"kubernetes\"}} 1"
            ),
            format!(
                "coredns_dns_responses_total{{{server},zone=\".\",rcode=\"NXDOMAIN\",plugin=\"cache\"}} 1"
            ),
            format!(
                "coredns_dns_request_duration_seconds_bucket{{le=\"0.0005\",{server},zone=\"cluster.local.\"}} 1"
            ),
            format!("coredns_cache_hits_total{{{server},type=\"denial\"}} 1"),
            format!("coredns_cache_misses_total{{{server}}} 1"),
            "coredns_forward_max_concurrent_rejects_total 1".to_owned(),
        ] {
            assert!(text.contains(&line), "{line}\nnot in\n{text}");
        }
    }
}
