//! Prometheus' text format.

use std::fmt::{Display, Write};

/// What a metric is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

/// Names and values of labels.
type Labels<'a> = &'a [(&'a str, &'a str)];

/// Families of metrics, written one after the other. Label values are ours and need no escaping.
#[derive(Debug, Default)]
pub(super) struct Text(String);

impl Text {
    pub(super) fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.labelled(name, Kind::Counter, help, &[(&[], value)]);
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.labelled(name, Kind::Gauge, help, &[(&[], value)]);
    }

    /// A family with any number of samples.
    pub(super) fn labelled(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        samples: &[(Labels<'_>, impl Display)],
    ) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let pairs: Vec<_> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
            let _ = match pairs.is_empty() {
                true => writeln!(self.0, "{name} {value}"),
                false => writeln!(self.0, "{name}{{{}}} {value}", pairs.join(",")),
            };
        }
    }

    /// A histogram: `counts` are those of the buckets up to each of `bounds`, each observation once.
    pub(super) fn histogram(
        &mut self,
        name: &str,
        help: &str,
        bounds: &[f64],
        counts: &[u64],
        sum: f64,
        all: u64,
    ) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut below = 0;
        for (bound, count) in bounds.iter().zip(counts) {
            below += count;
            let _ = writeln!(self.0, "{name}_bucket{{le=\"{bound}\"}} {below}");
        }
        let _ = writeln!(self.0, "{name}_bucket{{le=\"+Inf\"}} {all}\n{name}_sum {sum}\n{name}_count {all}");
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_of_a_histogram_add_up() {
        let mut text = Text::default();
        text.histogram("h", "Times.", &[0.5, 1.0], &[2, 3], 7.25, 6);
        let wanted = "# HELP h Times.\n# TYPE h histogram\nh_bucket{le=\"0.5\"} 2\nh_bucket{le=\"1\"} 5\n\
                      h_bucket{le=\"+Inf\"} 6\nh_sum 7.25\nh_count 6\n";
        assert_eq!(text.finish(), wanted);
    }
}
