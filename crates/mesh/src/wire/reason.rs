//! Why something a peer sent is refused, in groups that are counted.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The group of a refusal; its text is a label value of the metrics and a key of the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// A key that is not of its kind, not below the prefix asked for, or longer than
    /// [`MAX_KEY`](crate::keys::MAX_KEY).
    BadKey,
    /// A value that is not of its kind, or breaks a rule of it.
    BadValue,
    /// A value longer than [`MAX_VALUE`](super::MAX_VALUE), or one that fits into no message.
    ValueTooLarge,
    /// JSON nested deeper than [`MAX_DEPTH`](super::MAX_DEPTH).
    TooDeep,
    /// More addresses, CIDRs, backends or ports in one value than are accepted.
    TooMany,
    /// A value that names another cluster, by name or by id.
    ForeignCluster,
    /// An identity outside the peer's range, or labelled as another cluster's.
    ForeignIdentity,
    /// An address or CIDR that no remote cluster may claim: everything or nearly, special-purpose, or
    /// this node's own.
    ForeignAddress,
    /// A key beyond the number accepted of its kind.
    OverKeyLimit,
    /// A value beyond the bytes accepted of one cluster.
    OverBudget,
    /// A cluster configuration that cannot be accepted.
    BadConfig,
    /// A cluster id that another cluster holds.
    IdConflict,
    /// An answer without header, as only something other than an etcd gives.
    NoHeader,
    /// Answers of two stores on one connection.
    OtherStore,
    /// A revision below one that was seen before.
    RevisionBackwards,
    /// A page of a list that is out of order, out of range or endless.
    BadPage,
}

impl Reason {
    /// The word in metrics and in the status.
    pub const fn word(self) -> &'static str {
        match self {
            Reason::BadKey => "bad-key",
            Reason::BadValue => "bad-value",
            Reason::ValueTooLarge => "value-too-large",
            Reason::TooDeep => "too-deep",
            Reason::TooMany => "too-many",
            Reason::ForeignCluster => "foreign-cluster",
            Reason::ForeignIdentity => "foreign-identity",
            Reason::ForeignAddress => "foreign-address",
            Reason::OverKeyLimit => "over-key-limit",
            Reason::OverBudget => "over-budget",
            Reason::BadConfig => "bad-config",
            Reason::IdConflict => "id-conflict",
            Reason::NoHeader => "no-header",
            Reason::OtherStore => "other-store",
            Reason::RevisionBackwards => "revision-backwards",
            Reason::BadPage => "bad-page",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
