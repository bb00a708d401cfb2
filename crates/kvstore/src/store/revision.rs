//! What one revision changed, in memory and as the wire has it.

use std::sync::{Arc, Mutex};

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::pb;

/// The field `events` of a `WatchResponse`: number 11, length-delimited.
const EVENTS: u8 = 11 << 3 | 2;

/// All events of one revision, in the order they happened; shared by all watchers. Each event
/// carries the previous value; who did not ask for it does not get it.
#[derive(Debug)]
pub(super) struct Revision {
    pub(super) revision: i64,
    pub(super) events: Vec<pb::Event>,
    /// Encoded at the first watcher that sends it: without, and with previous values.
    encoded: Mutex<[Option<Arc<Encoded>>; 2]>,
}

/// The events of one revision, each a field of a `WatchResponse`, one after the other.
#[derive(Debug)]
pub(super) struct Encoded {
    bytes: Bytes,
    /// Where each event ends.
    ends: Vec<usize>,
}

impl Revision {
    pub(super) fn new(revision: i64, events: Vec<pb::Event>) -> Self {
        Self { revision, events, encoded: Mutex::default() }
    }

    /// Bytes of keys and values, about what a response needs for it.
    pub(super) fn size(&self) -> usize {
        let size = |kv: &Option<pb::KeyValue>| kv.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len());
        self.events.iter().map(|event| size(&event.kv)).sum()
    }

    /// The encoded events, made once for all watchers.
    pub(super) fn encoded(&self, prev_kv: bool) -> Arc<Encoded> {
        let mut encoded = self.encoded.lock().expect("nothing panics while it is held");
        let form = &mut encoded[usize::from(prev_kv)];
        form.get_or_insert_with(|| Arc::new(Encoded::of(&self.events, prev_kv))).clone()
    }

    /// Forgets the encoded forms: watchers this far behind are few.
    pub(super) fn forget_encoded(&self) {
        *self.encoded.lock().expect("nothing panics while it is held") = Default::default();
    }
}

impl Encoded {
    fn of(events: &[pb::Event], prev_kv: bool) -> Self {
        let mut bytes = BytesMut::new();
        let mut ends = Vec::with_capacity(events.len());
        for event in events {
            let previous = event.prev_kv.clone().filter(|_| prev_kv);
            let event = pb::Event { r#type: event.r#type, kv: event.kv.clone(), prev_kv: previous };
            bytes.reserve(event.encoded_len() + 8);
            bytes.put_u8(EVENTS);
            event.encode_length_delimited(&mut bytes).expect("a buffer that grows has room");
            ends.push(bytes.len());
        }
        Self { bytes: bytes.freeze(), ends }
    }

    /// All events.
    pub(super) fn whole(&self) -> &[u8] {
        &self.bytes
    }

    /// Event number `n`.
    pub(super) fn event(&self, n: usize) -> &[u8] {
        let start = n.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[n]]
    }
}
