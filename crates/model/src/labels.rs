//! Labels with a source, and the text they travel as (mesh-protocol 2.4).

use std::collections::BTreeMap;
use std::fmt;

/// Label key that names the cluster of an identity; required by every reader.
pub const CLUSTER_LABEL: &str = "io.cilium.k8s.policy.cluster";
/// Label key that names the service account of a pod.
pub const SERVICE_ACCOUNT_LABEL: &str = "io.cilium.k8s.policy.serviceaccount";
/// Label key that names the namespace of a pod.
pub const NAMESPACE_LABEL: &str = "io.kubernetes.pod.namespace";
/// Prefix of the keys under which the labels of a pod's namespace appear.
pub const NAMESPACE_LABELS_PREFIX: &str = "io.cilium.k8s.namespace.labels.";

/// The source and value of one label; its key is the map key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    /// Who says so: `k8s`, `container`, `reserved`, `cidr`, `unspec`, …
    pub source: String,
    /// The value; may be empty and may contain `=` and `:`.
    pub value: String,
}

/// A set of labels, one per key, in byte order of the keys (the source does not sort).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Labels(BTreeMap<String, Label>);

impl Labels {
    /// No labels.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets one label, replacing one of the same key from any source.
    pub fn insert(&mut self, source: impl Into<String>, key: impl Into<String>, value: impl Into<String>) {
        self.0.insert(key.into(), Label { source: source.into(), value: value.into() });
    }

    /// The label of this key.
    pub fn get(&self, key: &str) -> Option<&Label> {
        self.0.get(key)
    }

    /// All labels in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Label)> {
        self.0.iter().map(|(key, label)| (key.as_str(), label))
    }

    /// How many labels.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True without labels.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads the kvstore text `source:key=value;…` (mesh-protocol 2.4). Never fails: what has no
    /// source is `unspec`, a leading `$` means `reserved`; empty parts are skipped.
    pub fn parse(text: &str) -> Self {
        let mut labels = Self::new();
        for part in text.split(';').filter(|part| !part.is_empty()) {
            let (source, rest) = split_source(part);
            let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
            labels.insert(source, key, value);
        }
        labels
    }

    /// Adds one label given as `source:key` (the keys of `CiliumIdentity.security-labels`).
    pub fn insert_prefixed(&mut self, source_and_key: &str, value: impl Into<String>) {
        let (source, key) = split_source(source_and_key);
        self.insert(source, key, value);
    }
}

/// `source:rest`, by the rules of mesh-protocol 2.4. The colon counts only before the first `=`.
fn split_source(text: &str) -> (&str, &str) {
    if let Some(rest) = text.strip_prefix('$') {
        return ("reserved", rest);
    }
    let head = text.split('=').next().unwrap_or(text);
    match head.find(':') {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => match text.strip_prefix("reserved.") {
            Some(rest) => ("reserved", rest),
            None => ("unspec", text),
        },
    }
}

impl fmt::Display for Labels {
    /// The kvstore text: `source:key=value;` for each label, in key order.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, label) in self.iter() {
            write!(f, "{}:{}={};", label.source, key, label.value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_by_key_without_source() {
        let text = "k8s:app=v1.2_x;k8s:empty=;container:image=a=b;unspec:zzz=last;";
        assert_eq!(Labels::parse(text).to_string(), text);
        assert_eq!(
            Labels::parse("unspec:zzz=last;container:image=a=b;k8s:empty=;k8s:app=v1.2_x").to_string(),
            text
        );
    }

    #[test]
    fn sources() {
        let labels = Labels::parse("plain=1;$host;reserved.health=;k8s:u=http://x");
        let of = |key: &str| labels.get(key).map(|l| (l.source.as_str(), l.value.as_str()));
        assert_eq!(of("plain"), Some(("unspec", "1")));
        assert_eq!(of("host"), Some(("reserved", "")));
        assert_eq!(of("health"), Some(("reserved", "")));
        assert_eq!(of("u"), Some(("k8s", "http://x")));
    }
}
