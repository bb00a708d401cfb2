//! Metrics under the names of Cilium (behaviours 8.2), so that its dashboards and alerts keep working.
//!
//! [`remotes`] tells what a reader knows of its remote clusters, [`publish`] how far a publisher is,
//! [`kvstore`] what is asked of a store, [`cache`] both for the cache, [`services`] what an agent balances,
//! [`pressure`] how full the kernel's maps are, [`packets`] what became of packets, [`conntrack`] what removing entries
//! from maps costs, [`mcs`] what the operator imports, [`health`] which nodes answer. [`dns`] has CoreDNS' names.

pub(crate) mod cache;
pub(crate) mod conntrack;
pub(crate) mod dns;
pub(crate) mod health;
pub(crate) mod kvstore;
pub(crate) mod mcs;
pub(crate) mod packets;
pub(crate) mod pressure;
pub(crate) mod publish;
pub(crate) mod remotes;
pub(crate) mod services;
#[cfg(test)]
mod tests;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

/// Labels of one value, in order.
pub(crate) type Labels = Vec<(&'static str, String)>;

/// Prefix of the agent's names.
pub(crate) const AGENT: &str = "cilium_clustermesh";
/// Prefix of the cache's names.
pub(crate) const KVSTOREMESH: &str = "cilium_kvstoremesh";
/// Prefix of the operator's names.
pub(crate) const OPERATOR: &str = "cilium_operator_clustermesh";
/// Prefix of the mesh server's names.
pub(crate) const APISERVER: &str = "cilium_clustermesh_apiserver";

/// Writes one gauge with a value per set of labels.
fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (Labels, f64)>,
) -> std::fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// 1 for yes, as Prometheus has no truth values.
fn flag(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}
