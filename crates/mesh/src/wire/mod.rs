//! The values of the mesh protocol (mesh-protocol 2): Go's JSON exactly, and the way from and to the
//! model with every rule of mesh-protocol 3.9.
//!
//! Decoding never trusts the writer: the key, the value and the announced cluster must agree, sizes
//! and counts are bounded, and an [`Error`] names the key, the field and the rule. Unknown fields
//! and foreign letter case are tolerated, as Go's decoder tolerates them.

mod address;
pub(crate) mod claim;
pub mod config;
mod export;
mod go;
mod identity;
mod node;
mod ports;
mod reason;
mod service;

use causeway_model::{
    ClusterInfo, ClusterName, ClusterService, Identity, IpEntry, Node, NodeKey, NumericIdentity,
    ServiceExport, ServiceKey,
};
use ipnet::IpNet;

use crate::keys::{self, Kind};
pub use reason::Reason;

/// Longest value a reader accepts, in bytes: etcd's default request limit, so no etcd can hold a
/// longer one unless it was reconfigured.
pub const MAX_VALUE: usize = 1_572_864;

/// Deepest nesting of objects and lists in a value that is accepted. Today's values have five levels;
/// unknown fields of later versions are skipped whatever they hold, down to this.
pub const MAX_DEPTH: usize = 32;

/// A key or value of a peer that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {field}: {rule}")]
pub struct Error {
    /// The whole key.
    pub key: String,
    /// The group it is counted in.
    pub reason: Reason,
    /// The field that breaks the rule; `key` and `value` for the entry as a whole.
    pub field: &'static str,
    /// What is wrong and what would be right.
    pub rule: String,
}

/// What is wrong with one entry, without its key.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) reason: Reason,
    pub(crate) field: &'static str,
    pub(crate) rule: String,
}

/// Shorthand for a [`Fault`].
pub(crate) fn fault<T>(reason: Reason, field: &'static str, rule: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { reason, field, rule: rule.into() })
}

impl Fault {
    /// The error of the entry at this key.
    pub(crate) fn at(self, key: &str) -> Error {
        Error { key: shown(key), reason: self.reason, field: self.field, rule: self.rule }
    }
}

/// One decoded entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A node.
    Node(Node),
    /// A global service; `shared` may be false, which withdraws it.
    Service(ClusterService),
    /// A service export.
    Export(ServiceExport),
    /// An identity.
    Identity(Identity),
    /// An address.
    Address(IpEntry),
}

/// The model key behind a kvstore key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKey {
    /// Of a node.
    Node(NodeKey),
    /// Of a global service.
    Service((ClusterName, ServiceKey)),
    /// Of a service export.
    Export((ClusterName, ServiceKey)),
    /// Of an identity.
    Identity(NumericIdentity),
    /// Of an address.
    Address(IpNet),
}

/// Reads one entry of the cluster `from`, given its kind, its whole key (for messages), the part of
/// the key behind the prefix of its kind, and its value.
///
/// # Errors
/// [`Error`] if any rule of mesh-protocol 3.9 or a bound is broken.
pub fn decode(kind: Kind, key: &str, suffix: &str, value: &[u8], from: &ClusterInfo) -> Result<Entry, Error> {
    let bounds = || {
        if key.len() > keys::MAX_KEY {
            let rule = format!("{} bytes long; at most {} are accepted", key.len(), keys::MAX_KEY);
            return fault(Reason::BadKey, "key", rule);
        }
        check_size(value)
    };
    bounds()
        .and_then(|()| match kind {
            Kind::Nodes => node::decode(suffix, value, from).map(Entry::Node),
            Kind::Services => service::decode(suffix, value, from).map(Entry::Service),
            Kind::ServiceExports => export::decode(suffix, value, from).map(Entry::Export),
            Kind::Identities => identity::decode(suffix, value, from).map(Entry::Identity),
            Kind::Ip => address::decode(suffix, value, from).map(Entry::Address),
        })
        .map_err(|fault| fault.at(key))
}

/// The model key of an entry of the cluster `from`; `None` when the suffix is none of its kind.
pub fn decode_key(kind: Kind, suffix: &str, from: &ClusterInfo) -> Option<EntryKey> {
    let service = || keys::parse_service(suffix).map(|key| (from.name.clone(), key));
    match kind {
        Kind::Nodes if suffix.is_empty() || suffix.contains('/') => None,
        Kind::Nodes => Some(EntryKey::Node(NodeKey { cluster: from.name.clone(), name: suffix.to_owned() })),
        Kind::Services => service().map(EntryKey::Service),
        Kind::ServiceExports => service().map(EntryKey::Export),
        Kind::Identities => keys::parse_identity(suffix).map(EntryKey::Identity),
        Kind::Ip => keys::parse_address(suffix).map(EntryKey::Address),
    }
}

impl Entry {
    /// The model key of this entry.
    pub fn key(&self) -> EntryKey {
        use causeway_model::Keyed;
        match self {
            Entry::Node(node) => EntryKey::Node(node.key()),
            Entry::Service(service) => EntryKey::Service(service.key()),
            Entry::Export(export) => EntryKey::Export(export.key()),
            Entry::Identity(identity) => EntryKey::Identity(identity.id),
            Entry::Address(address) => EntryKey::Address(address.prefix),
        }
    }

    /// The suffix of its key and its value, as the owning cluster writes them.
    pub fn encode(&self) -> (String, Vec<u8>) {
        match self {
            Entry::Node(node) => (node.name.clone(), node::encode(node)),
            Entry::Service(service) => (keys::service_suffix(&service.key), service::encode(service)),
            Entry::Export(export) => (keys::service_suffix(&export.key), export::encode(export)),
            Entry::Identity(identity) => (keys::identity_suffix(identity.id), identity::encode(identity)),
            Entry::Address(address) => (keys::address_suffix(&address.prefix), address::encode(address)),
        }
    }
}

impl EntryKey {
    /// The kind it belongs to and the suffix of its key.
    pub fn suffix(&self) -> (Kind, String) {
        match self {
            EntryKey::Node(key) => (Kind::Nodes, key.name.clone()),
            EntryKey::Service((_, key)) => (Kind::Services, keys::service_suffix(key)),
            EntryKey::Export((_, key)) => (Kind::ServiceExports, keys::service_suffix(key)),
            EntryKey::Identity(id) => (Kind::Identities, keys::identity_suffix(*id)),
            EntryKey::Address(prefix) => (Kind::Ip, keys::address_suffix(prefix)),
        }
    }
}

/// A key as messages show it: one that is too long is cut, so that a peer cannot fill our logs.
fn shown(key: &str) -> String {
    const SHOWN: usize = 200;
    match key.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &key[..at]),
        None => key.to_owned(),
    }
}

/// `cluster` and `cluster id` of a value must be those of the peer it came from.
pub(crate) fn check_origin(
    name_field: &'static str,
    name: &str,
    id_field: &'static str,
    id: u32,
    from: &ClusterInfo,
) -> Result<(), Fault> {
    if name != from.name.as_str() {
        return fault(
            Reason::ForeignCluster,
            name_field,
            format!("{name:?} is not the cluster this key belongs to, {:?}", from.name.as_str()),
        );
    }
    if id != from.id.get() {
        return fault(
            Reason::ForeignCluster,
            id_field,
            format!("{id} is not the announced id of cluster {}, {}", from.name, from.id),
        );
    }
    Ok(())
}

/// Now, RFC 3339, seconds: the value of markers and heartbeats, which readers never parse.
pub(crate) fn timestamp() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Bounds a value's size.
pub(crate) fn check_size(value: &[u8]) -> Result<(), Fault> {
    if value.len() > MAX_VALUE {
        let rule = format!("{} bytes long; at most {MAX_VALUE} are accepted", value.len());
        return fault(Reason::ValueTooLarge, "value", rule);
    }
    Ok(())
}

/// Bounds a count.
pub(crate) fn at_most(field: &'static str, count: usize, max: usize) -> Result<(), Fault> {
    if count > max {
        return fault(Reason::TooMany, field, format!("{count} entries; at most {max} are accepted"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
