//! What is written down: every change of a store's state, and, in snapshots, states.

use bytes::Bytes;
use prost::Message;

use super::super::changes::Revision;
use super::super::pair::Pair;
use super::super::state::State;
use crate::pb::{self, event::EventType};

/// The version of everything in this module.
pub(super) const FORMAT: u32 = 1;

/// One entry of a file, in a form that later versions can add to.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Record {
    #[prost(oneof = "Entry", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10")]
    pub(super) entry: Option<Entry>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(in super::super) enum Entry {
    /// The first of a snapshot.
    #[prost(message, tag = "1")]
    Meta(Meta),
    /// A key as it was at the revision that the snapshot's history begins with.
    #[prost(message, tag = "2")]
    Key(pb::KeyValue),
    /// The next revision.
    #[prost(message, tag = "3")]
    Write(Written),
    #[prost(message, tag = "4")]
    Grant(Granted),
    /// The lease of this id ended, and its keys with it.
    #[prost(int64, tag = "5")]
    Revoke(i64),
    /// The history below this revision was dropped.
    #[prost(int64, tag = "6")]
    Compact(i64),
    /// The alarm of the quota was raised, or disarmed.
    #[prost(bool, tag = "7")]
    Alarm(bool),
    /// Users and roles, in the server's form.
    #[prost(bytes = "bytes", tag = "8")]
    Auth(Bytes),
    /// The events of the revision that a snapshot's history begins with.
    #[prost(message, tag = "9")]
    First(Events),
    /// The last of a snapshot.
    #[prost(bool, tag = "10")]
    End(bool),
}

/// What a snapshot is of.
#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct Meta {
    #[prost(uint32, tag = "1")]
    pub(super) format: u32,
    #[prost(fixed64, tag = "2")]
    pub(in super::super) cluster_id: u64,
    #[prost(fixed64, tag = "3")]
    pub(in super::super) member_id: u64,
    /// The number of the log's first frame behind this snapshot.
    #[prost(uint64, tag = "4")]
    pub(super) number: u64,
    /// The revision its history begins with: that compacted to, 0 for none.
    #[prost(int64, tag = "5")]
    pub(super) compacted: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct Written {
    #[prost(int64, tag = "1")]
    pub(super) revision: i64,
    #[prost(message, repeated, tag = "2")]
    pub(super) changes: Vec<Change>,
}

/// A put, or without a value a delete.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Change {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(super) value: Option<Bytes>,
    #[prost(int64, tag = "3")]
    pub(super) lease: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct Granted {
    #[prost(int64, tag = "1")]
    pub(super) id: i64,
    #[prost(int64, tag = "2")]
    pub(super) ttl: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct Events {
    #[prost(message, repeated, tag = "1")]
    pub(super) events: Vec<pb::Event>,
}

impl Entry {
    /// What a logged revision of this state has written.
    pub(in super::super) fn write(state: &State, revision: &Revision) -> Self {
        let change = |pair: &Pair| Change {
            key: Bytes::copy_from_slice(pair.key()),
            value: pair.is_put().then(|| Bytes::copy_from_slice(pair.value())),
            lease: state.change(pair, revision.revision).lease,
        };
        let changes = revision.iter().map(change).collect();
        Self::Write(Written { revision: revision.revision, changes })
    }

    /// The events of a logged revision of this state, without what was before.
    pub(super) fn first(state: &State, revision: &Revision) -> Self {
        let event = |pair: &Pair| pb::Event {
            r#type: if pair.is_put() { EventType::Put } else { EventType::Delete } as i32,
            kv: Some(state.change(pair, revision.revision).key_value()),
            prev_kv: None,
        };
        Self::First(Events { events: revision.iter().map(event).collect() })
    }

    pub(in super::super) fn grant(id: i64, ttl: i64) -> Self {
        Self::Grant(Granted { id, ttl })
    }

    /// Appends the entry to the payload of a frame.
    pub(super) fn append(self, payload: &mut Vec<u8>) {
        let record = Record { entry: Some(self) };
        record.encode_length_delimited(payload).expect("a vector grows as needed");
    }
}

/// The entries of a frame's payload.
///
/// # Errors
/// What a checksum cannot show: entries of a later version.
pub(super) fn entries(payload: Vec<u8>) -> Result<Vec<Entry>, &'static str> {
    let mut payload = Bytes::from(payload);
    let mut entries = Vec::new();
    while !payload.is_empty() {
        let record = Record::decode_length_delimited(&mut payload)
            .map_err(|_| "a record cannot be decoded; it was written by another version")?;
        let unknown = "a record of a kind this version does not know; open it with the version that wrote it";
        entries.push(record.entry.ok_or(unknown)?);
    }
    Ok(entries)
}
