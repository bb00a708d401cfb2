//! What a [`Session`](super::Session) is told and what it asks for.

use bytes::Bytes;

use crate::keys::Kind;
use crate::wire::Reason;

/// A list-and-watch of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamId {
    /// The heartbeat key.
    Heartbeat,
    /// The cluster configuration, from when it was accepted.
    Config,
    /// The sync markers.
    Markers,
    /// The entries of a kind.
    Data(Kind),
}

/// Something that happened, on connection number `conn`.
#[derive(Debug)]
pub struct Input {
    /// The connection; what an earlier one says is ignored.
    pub conn: u64,
    /// What happened.
    pub body: Body,
}

/// What happened. `store` is the `cluster_id` of the response's header, 0 if it had none.
#[derive(Debug)]
pub enum Body {
    /// A client exists; it may still be connecting.
    Connected,
    /// No client could be made, or the transport broke.
    Failed(String),
    /// The peer answered as no etcd can, or as not the one it was.
    Wrong(Reason, String),
    /// The answer to [`Action::ReadConfig`].
    Config {
        /// Store id.
        store: u64,
        /// The value, if the key exists.
        value: Option<Vec<u8>>,
    },
    /// The answer to [`Action::List`].
    Page {
        /// Which list.
        stream: StreamId,
        /// The number of the request.
        op: u64,
        /// Store id.
        store: u64,
        /// The store's revision.
        revision: i64,
        /// Keys and values in key order.
        entries: Vec<(Bytes, Bytes)>,
        /// More keys follow.
        more: bool,
    },
    /// The answer to [`Action::List`] or a change of [`Action::Watch`] was longer than a message may be.
    TooLarge {
        /// Which list or watch.
        stream: StreamId,
        /// The number of the request.
        op: u64,
    },
    /// Changes of [`Action::Watch`]; none for the answer that the watch was created.
    Batch {
        /// Which watch.
        stream: StreamId,
        /// The number of the request.
        op: u64,
        /// Store id.
        store: u64,
        /// The store's revision.
        revision: i64,
        /// The changes in order.
        changes: Vec<Change>,
    },
    /// A list or watch ended without the transport breaking.
    Lost {
        /// Which one.
        stream: StreamId,
        /// The number of the request.
        op: u64,
        /// Why.
        reason: LostReason,
    },
}

impl Body {
    /// About how many bytes it holds.
    pub(super) fn weight(&self) -> usize {
        match self {
            Body::Page { entries, .. } => entries.iter().map(|(key, value)| key.len() + value.len()).sum(),
            Body::Batch { changes, .. } => changes.iter().map(Change::weight).sum(),
            Body::Config { value, .. } => value.as_ref().map_or(0, Vec::len),
            Body::Failed(text)
            | Body::Wrong(_, text)
            | Body::Lost { reason: LostReason::Refused(text), .. } => text.len(),
            Body::Connected | Body::TooLarge { .. } | Body::Lost { .. } => 0,
        }
    }
}

/// One change of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Key and value.
    Put(Bytes, Bytes),
    /// Key.
    Delete(Bytes),
}

impl Change {
    fn weight(&self) -> usize {
        match self {
            Change::Put(key, value) => key.len() + value.len(),
            Change::Delete(key) => key.len(),
        }
    }
}

/// Why a list or watch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LostReason {
    /// The history it needs is no longer there.
    Compacted,
    /// The peer refused or cancelled it.
    Refused(String),
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Drop the client of the connection before and make a new one.
    Connect {
        /// Number of the new connection.
        conn: u64,
    },
    /// Drop the client and everything that runs on it.
    Disconnect,
    /// Read one key.
    ReadConfig {
        /// Connection.
        conn: u64,
        /// The key.
        key: String,
    },
    /// Read a page of keys.
    List {
        /// Connection.
        conn: u64,
        /// For which stream; a running request of it is to be dropped.
        stream: StreamId,
        /// Number of the request.
        op: u64,
        /// First key.
        start: Vec<u8>,
        /// First key beyond.
        end: Vec<u8>,
        /// At this revision; 0 = now.
        revision: i64,
        /// Most keys.
        limit: i64,
        /// Leave the values out.
        keys_only: bool,
    },
    /// Follow changes.
    Watch {
        /// Connection.
        conn: u64,
        /// For which stream; a running request of it is to be dropped.
        stream: StreamId,
        /// Number of the request.
        op: u64,
        /// First key.
        start: Vec<u8>,
        /// First key beyond.
        end: Vec<u8>,
        /// First revision.
        start_revision: i64,
    },
}

/// What to do and what changed.
#[derive(Debug)]
pub struct Output<C> {
    /// In this order.
    pub actions: Vec<Action>,
    /// In this order.
    pub events: Vec<C>,
}

impl<C> Default for Output<C> {
    fn default() -> Self {
        Self { actions: vec![], events: vec![] }
    }
}
