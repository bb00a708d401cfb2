//! What all controllers share: informers (a store fed by a watch), keyed work queues, the event recorder and the
//! freshness check that keeps a controller from acting twice on a store that has not yet seen its own writes.

pub(crate) mod informer;
pub(crate) mod queue;
pub(crate) mod recorder;
pub(crate) mod writes;

use std::fmt;

use kube::{Resource, ResourceExt};

/// Namespace and name; the namespace of cluster-scoped objects is empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// Namespace or "".
    pub(crate) namespace: String,
    /// Name.
    pub(crate) name: String,
}

impl Key {
    /// Key of these names.
    pub(crate) fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Key { namespace: namespace.into(), name: name.into() }
    }

    /// Key of an object.
    pub(crate) fn of<K: Resource>(object: &K) -> Self {
        Key::new(object.namespace().unwrap_or_default(), object.name_any())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}
