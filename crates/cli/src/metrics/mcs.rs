//! What the operator knows of exports and imports, and how its writing goes, read at each scrape.

use causeway_model::ServiceKey;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::{Labels, gauges};
use crate::operator::board::Board;

/// The gauges of the multi-cluster services API, and two counters of our own.
#[derive(Debug)]
pub(crate) struct Mcs(pub(crate) Board);

impl Collector for Mcs {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let content = self.0.lock();
        let encoder = &mut encoder;
        let name = |tail: &str| format!("cilium_operator_mcsapi_{tail}");
        let exports = || content.exports.iter();
        let imports = || content.imports.iter();
        let info = exports().map(|(key, _)| (of("serviceexport", key), 1.0));
        gauges(encoder, &name("serviceexport_info"), "ServiceExports of this cluster", info)?;
        let conditions = exports().flat_map(|(key, all)| conditions("serviceexport", key, all));
        let help = "Conditions of the ServiceExports of this cluster";
        gauges(encoder, &name("serviceexport_status_condition"), help, conditions)?;
        let info = imports().map(|(key, _)| (of("serviceimport", key), 1.0));
        gauges(encoder, &name("serviceimport_info"), "ServiceImports of this cluster", info)?;
        let states = imports().flat_map(|(key, (_, all))| self::conditions("serviceimport", key, all));
        let help = "Conditions of the ServiceImports of this cluster";
        gauges(encoder, &name("serviceimport_status_condition"), help, states)?;
        let clusters = imports().map(|(key, (count, _))| (of("serviceimport", key), *count as f64));
        gauges(
            encoder,
            &name("serviceimport_status_clusters"),
            "Clusters that export a ServiceImport",
            clusters,
        )?;

        let problems = [(vec![], content.problems.len() as f64)];
        let help = "What the operator cannot write; /debug/state says why";
        gauges(encoder, "causeway_operator_problems", help, problems)?;
        let (name, help) = ("causeway_operator_writes", "Objects looked at and made as they should be");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (outcome, count) in [("success", content.written), ("failure", content.failed)] {
            let labels = [("outcome", outcome)];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        Ok(())
    }
}

fn of(kind: &'static str, key: &ServiceKey) -> Labels {
    vec![(kind, key.name.clone()), ("namespace", key.namespace.clone())]
}

fn conditions<'a>(
    kind: &'static str,
    key: &'a ServiceKey,
    all: &'a [Condition],
) -> impl Iterator<Item = (Labels, f64)> + 'a {
    all.iter().map(move |condition| {
        let more = [
            ("condition", condition.type_.clone()),
            ("status", condition.status.clone()),
            ("reason", condition.reason.clone()),
        ];
        (of(kind, key).into_iter().chain(more).collect(), 1.0)
    })
}

#[cfg(test)]
mod tests {
    use causeway_daemon::metrics::Metrics;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    #[test]
    fn exports_and_imports_under_cilium_s_names() {
        let board = Board::default();
        let key = ServiceKey { namespace: "shop".into(), name: "cart".into() };
        let condition = |kind: &str, status: &str, reason: &str| Condition {
            type_: kind.into(),
            status: status.into(),
            reason: reason.into(),
            message: String::new(),
            last_transition_time: Time("2026-02-10T09:00:00Z".parse().unwrap()),
            observed_generation: None,
        };
        let conflict = vec![condition("Conflict", "True", "PortConflict")];
        board.lock().exports.insert(key.clone(), conflict);
        board.lock().imports.insert(key, (2, vec![condition("Ready", "True", "Ready")]));
        let metrics = Metrics::new("operator", "1");
        metrics.collect(Mcs(board));
        let text = metrics.encode();
        crate::metrics::tests::scrape::compare("operator", &text, true);
        for line in [
            r#"cilium_operator_mcsapi_serviceexport_info{serviceexport="cart",namespace="shop"} 1.0"#,
            r#"cilium_operator_mcsapi_serviceexport_status_condition{serviceexport="cart",namespace="shop",condition="Conflict",status="True",reason="PortConflict"} 1.0"#,
            r#"cilium_operator_mcsapi_serviceimport_info{serviceimport="cart",namespace="shop"} 1.0"#,
            r#"cilium_operator_mcsapi_serviceimport_status_condition{serviceimport="cart",namespace="shop",condition="Ready",status="True",reason="Ready"} 1.0"#,
            r#"cilium_operator_mcsapi_serviceimport_status_clusters{serviceimport="cart",namespace="shop"} 2.0"#,
            r#"causeway_operator_writes_total{outcome="failure"} 0"#,
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
