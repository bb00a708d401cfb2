//! The messages that are written most, straight from the tree to the wire: the same bytes as prost's.

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::history::Version;

// Fields of a message; what is empty or 0 is left out, as in proto3.

pub(super) fn put_length(out: &mut BytesMut, field: u32, length: usize) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
}

pub(super) fn put_bytes(out: &mut BytesMut, field: u32, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_length(out, field, bytes.len());
        out.put_slice(bytes);
    }
}

pub(super) fn put_number(out: &mut BytesMut, field: u32, number: i64) {
    if number != 0 {
        encode_key(field, WireType::Varint, out);
        encode_varint(number as u64, out);
    }
}

/// Bytes of a field of this length with a number below 16.
pub(super) fn field_len(length: usize) -> usize {
    1 + encoded_len_varint(length as u64) + length
}

/// One version of a key, as a `KeyValue`.
#[derive(Clone, Copy)]
pub(super) struct KeyValue<'a> {
    version: Version<'a>,
    value: &'a [u8],
    len: usize,
}

impl<'a> KeyValue<'a> {
    pub(super) fn new(version: Version<'a>, keys_only: bool) -> Self {
        let value = if keys_only { &[] } else { version.pair.value() };
        let bytes = |bytes: &[u8]| if bytes.is_empty() { 0 } else { field_len(bytes.len()) };
        let number = |number: i64| if number == 0 { 0 } else { 1 + encoded_len_varint(number as u64) };
        let numbers = [version.create_revision, version.mod_revision, version.version, version.lease];
        let len = bytes(version.pair.key()) + bytes(value) + numbers.into_iter().map(number).sum::<usize>();
        Self { version, value, len }
    }

    /// Bytes it takes as a field.
    pub(super) fn field_len(&self) -> usize {
        field_len(self.len)
    }

    /// Writes it as field `field`.
    pub(super) fn put(&self, field: u32, out: &mut BytesMut) {
        put_length(out, field, self.len);
        put_bytes(out, 1, self.version.pair.key());
        put_number(out, 2, self.version.create_revision);
        put_number(out, 3, self.version.mod_revision);
        put_number(out, 4, self.version.version);
        put_bytes(out, 5, self.value);
        put_number(out, 6, self.version.lease);
    }
}

/// The field `events` of a `WatchResponse`.
const EVENTS: u32 = 11;

/// The events of one revision, each a field of a `WatchResponse`, one after the other.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    bytes: Bytes,
    /// Where each event begins in its field, and where it ends.
    spans: Vec<(usize, usize)>,
}

impl Encoded {
    /// All events.
    pub(super) fn whole(&self) -> &[u8] {
        &self.bytes
    }

    /// Event number `n` with its field's head.
    pub(super) fn event(&self, n: usize) -> &[u8] {
        let start = n.checked_sub(1).map_or(0, |before| self.spans[before].1);
        &self.bytes[start..self.spans[n].1]
    }

    /// Event number `n` as an encoded `Event`; it shares this memory.
    pub(super) fn message(&self, n: usize) -> Bytes {
        let (start, end) = self.spans[n];
        self.bytes.slice(start..end)
    }
}

/// Writes events one after the other.
#[derive(Default)]
pub(super) struct Encoder {
    out: BytesMut,
    spans: Vec<(usize, usize)>,
}

impl Encoder {
    pub(super) fn with_events(events: usize) -> Self {
        Self { out: BytesMut::new(), spans: Vec::with_capacity(events) }
    }

    /// Adds an event: what a key was changed to, and what it was before if that is wanted and known.
    pub(super) fn add(&mut self, now: Version<'_>, before: Option<Version<'_>>) {
        let deleted = !now.pair.is_put();
        let now = KeyValue::new(now, false);
        let before = before.map(|version| KeyValue::new(version, false));
        let kind = if deleted { 2 } else { 0 };
        let len = kind + now.field_len() + before.map_or(0, |kv| kv.field_len());
        self.out.reserve(field_len(len));
        put_length(&mut self.out, EVENTS, len);
        let start = self.out.len();
        put_number(&mut self.out, 1, i64::from(deleted));
        now.put(2, &mut self.out);
        if let Some(before) = before {
            before.put(3, &mut self.out);
        }
        debug_assert_eq!(self.out.len() - start, len);
        self.spans.push((start, self.out.len()));
    }

    pub(super) fn finish(self) -> Encoded {
        Encoded { bytes: self.out.freeze(), spans: self.spans }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::super::history::Kept;
    use super::super::pair::Pair;
    use super::*;
    use crate::pb::{self, event::EventType};

    fn version() -> impl Strategy<Value = Kept> {
        let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..300));
        (".{1,40}", 0..300i64, 0..300i64, 0..200i64, any::<i64>(), value).prop_map(
            |(key, create_revision, mod_revision, version, lease, value)| match value {
                Some(value) => {
                    Kept { pair: Pair::new(key, value), create_revision, mod_revision, version, lease }
                }
                None => Kept::tombstone(key.as_bytes(), mod_revision),
            },
        )
    }

    proptest! {
        #[test]
        fn events_are_the_bytes_of_the_message(
            events in prop::collection::vec((version(), prop::option::of(version())), 0..5),
        ) {
            let mut encoder = Encoder::with_events(events.len());
            let mut message = pb::WatchResponse::default();
            for (now, before) in &events {
                encoder.add(now.shown(), before.as_ref().map(Kept::shown));
                let kind = if now.pair.is_put() { EventType::Put } else { EventType::Delete };
                message.events.push(pb::Event {
                    r#type: kind as i32,
                    kv: Some(now.shown().key_value()),
                    prev_kv: before.as_ref().map(|before| before.shown().key_value()),
                });
            }
            let encoded = encoder.finish();
            prop_assert_eq!(encoded.whole(), &message.encode_to_vec()[..]);
            let mut joined = Vec::new();
            for (n, event) in message.events.iter().enumerate() {
                prop_assert_eq!(&pb::Event::decode(encoded.message(n)).unwrap(), event);
                joined.extend_from_slice(encoded.event(n));
            }
            prop_assert_eq!(encoded.whole(), joined);
        }
    }
}
