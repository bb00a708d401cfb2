//! Packets of the datapath, under Cilium's names, read from the kernel's map at each scrape.

use std::path::PathBuf;

use causeway_datapath::{Counter, inspect};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::Labels;

/// `cilium_forward_count_total` and its like.
#[derive(Debug)]
pub(crate) struct Packets {
    /// Where the agent pins its maps.
    pub(crate) bpffs: PathBuf,
}

/// Name without `_total`, what it says, what is counted, and whether that is what was dropped.
type Family = (&'static str, &'static str, fn(&Counter) -> u64, bool);

const FAMILIES: [Family; 4] = [
    ("cilium_forward_count", "Packets that were forwarded", |c| c.packets, false),
    ("cilium_forward_bytes", "Bytes that were forwarded", |c| c.bytes, false),
    ("cilium_drop_count", "Packets that were dropped", |c| c.packets, true),
    ("cilium_drop_bytes", "Bytes that were dropped", |c| c.bytes, true),
];

impl Collector for Packets {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        match inspect::counters(&self.bpffs) {
            Ok(counters) => encode(&mut encoder, &counters),
            Err(error) => {
                tracing::debug!(%error, "the packets cannot be counted");
                Ok(())
            }
        }
    }
}

fn encode(encoder: &mut DescriptorEncoder<'_>, counters: &[Counter]) -> std::fmt::Result {
    for (name, help, value, dropped) in FAMILIES {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for counter in counters.iter().filter(|counter| (counter.reason != FORWARDED) == dropped) {
            let mut labels: Labels = vec![("direction", counter.direction.to_uppercase())];
            if dropped {
                labels.push(("reason", sentence(counter.reason)));
            }
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value(counter), None)?;
        }
    }
    Ok(())
}

/// The reason of packets that were not dropped.
const FORWARDED: &str = "forwarded";

/// Cilium's reasons begin with a capital.
fn sentence(words: &str) -> String {
    let mut letters = words.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
pub(super) use tests::given;

#[cfg(test)]
mod tests {
    use causeway_daemon::metrics::Metrics;

    use super::*;

    /// Counters that are given.
    #[derive(Debug)]
    struct Given(Vec<Counter>);

    impl Collector for Given {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
            encode(&mut encoder, &self.0)
        }
    }

    pub(in crate::metrics) fn given() -> impl Collector {
        let counter =
            |direction, reason, packets| Counter { direction, reason, packets, bytes: packets * 100 };
        Given(vec![counter("egress", FORWARDED, 7), counter("ingress", "invalid source ip", 2)])
    }

    #[test]
    fn forwarded_and_dropped_packets_are_told_apart() {
        let metrics = Metrics::new("agent", "1");
        metrics.collect(given());
        let text = metrics.encode();
        for line in [
            "cilium_forward_count_total{direction=\"EGRESS\"} 7",
            "cilium_forward_bytes_total{direction=\"EGRESS\"} 700",
            "cilium_drop_count_total{direction=\"INGRESS\",reason=\"Invalid source ip\"} 2",
            "cilium_drop_bytes_total{direction=\"INGRESS\",reason=\"Invalid source ip\"} 200",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        assert_eq!(text.matches("\ncilium_").count(), 4, "{text}");
    }

    #[test]
    fn without_maps_there_is_nothing() {
        let metrics = Metrics::new("agent", "1");
        metrics.collect(Packets { bpffs: "/nonexistent".into() });
        assert!(!metrics.encode().contains("cilium_"), "{}", metrics.encode());
    }
}
