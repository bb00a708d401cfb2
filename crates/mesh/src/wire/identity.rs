//! Identities (mesh-protocol 2.4): text, not JSON.

use causeway_model::{CLUSTER_LABEL, ClusterInfo, Identity, Labels};

use super::{Fault, Reason, fault};
use crate::keys;

pub(super) fn encode(identity: &Identity) -> Vec<u8> {
    identity.labels.to_string().into_bytes()
}

pub(super) fn decode(suffix: &str, value: &[u8], from: &ClusterInfo) -> Result<Identity, Fault> {
    let Some(id) = keys::parse_identity(suffix) else {
        return fault(Reason::BadKey, "key", format!("{suffix:?} is not a decimal identity number"));
    };
    let range = from.id.identities(from.max_clusters);
    if !range.contains(&id) {
        return fault(
            Reason::ForeignIdentity,
            "key",
            format!(
                "identity {id} is outside {}..={}, the range of cluster {} (id {})",
                range.start(),
                range.end(),
                from.name,
                from.id
            ),
        );
    }
    let Ok(text) = std::str::from_utf8(value) else {
        return fault(Reason::BadValue, "value", "not UTF-8 text");
    };
    if text.is_empty() {
        return fault(Reason::BadValue, "value", "empty; an identity needs labels");
    }
    let labels = Labels::parse(text);
    match labels.get(CLUSTER_LABEL) {
        Some(label) if label.source == "k8s" && label.value == from.name.as_str() => {
            Ok(Identity { id, labels })
        }
        Some(label) => fault(
            Reason::ForeignIdentity,
            "value",
            format!(
                "label {}:{CLUSTER_LABEL}={:?} does not name cluster {}",
                label.source, label.value, from.name
            ),
        ),
        None => fault(
            Reason::ForeignIdentity,
            "value",
            format!("label k8s:{CLUSTER_LABEL}={} is missing", from.name),
        ),
    }
}
