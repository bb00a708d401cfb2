//! Range reads: which keys a request selects, and its answer, as a message or straight on the wire.

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use super::encode::{KeyValue, field_len, put_length, put_number};
use super::history::Version;
use super::range::KeyRange;
use super::state::State;
use crate::Error;
use crate::pb::{self, range_request::SortOrder, range_request::SortTarget};

/// What a request selects, in the order of its answer.
pub(super) struct Selection<'a> {
    keys: Vec<Version<'a>>,
    /// All keys of the range, or those a filter of `limit` alone would have left.
    count: usize,
    more: bool,
    keys_only: bool,
    /// The revision read.
    at: i64,
    /// Neither sorted nor filtered: the next page begins behind the last key.
    in_order: bool,
}

impl State {
    /// Selects keys for somebody for whom `current` is the newest revision. `known` is how many keys
    /// the range has, if that was counted before.
    pub(super) fn select(
        &self,
        request: &pb::RangeRequest,
        current: i64,
        known: Option<usize>,
    ) -> Result<Selection<'_>, Error> {
        if request.key.is_empty() {
            return Err(Error::EmptyKey);
        }
        let order = Order::of(request)?;
        let at = self.read_at(request, current)?;
        let range = KeyRange::new(request.key.clone(), request.range_end.clone());
        let limit = usize::try_from(request.limit).ok().filter(|l| *l > 0).unwrap_or(usize::MAX);
        let filter = Filter::of(request);
        let mut visible = self.visible(&range, at);
        let (mut keys, count) = if filter.is_none() && order.is_none() {
            // The first `limit` keys are the answer; the rest is only counted.
            let fetch = if request.count_only { 0 } else { limit };
            let keys: Vec<_> = visible.by_ref().take(fetch).collect();
            let count = known.unwrap_or_else(|| keys.len() + visible.count());
            (keys, count)
        } else {
            let mut total = 0;
            let counted = visible.inspect(|_| total += 1);
            let keys: Vec<_> = match &filter {
                Some(filter) => counted.filter(|version| filter.holds(version)).collect(),
                None => counted.collect(),
            };
            (keys, total)
        };
        if let Some(order) = order {
            order.sort(&mut keys);
        }
        let in_order = filter.is_none() && order.is_none();
        let found = if in_order { count } else { keys.len() };
        keys.truncate(if request.count_only { 0 } else { limit });
        let more = !request.count_only && found > keys.len();
        Ok(Selection { keys, count, more, keys_only: request.keys_only, at, in_order })
    }

    /// The revision a request reads.
    fn read_at(&self, request: &pb::RangeRequest, current: i64) -> Result<i64, Error> {
        match request.revision {
            revision if revision <= 0 => Ok(current),
            revision if revision > current => Err(Error::FutureRevision),
            revision if revision < self.compacted => Err(Error::Compacted),
            revision => Ok(revision),
        }
    }
}

impl Selection<'_> {
    /// As a message, without a header.
    pub(super) fn response(&self) -> pb::RangeResponse {
        let kv = |version: &Version<'_>| match self.keys_only {
            true => pb::KeyValue { value: Bytes::new(), ..version.key_value() },
            false => version.key_value(),
        };
        let kvs = self.keys.iter().map(kv).collect();
        pb::RangeResponse { header: None, kvs, more: self.more, count: self.count as i64 }
    }

    /// The encoded `RangeResponse` after `prefix` bytes of zero; the same bytes as of the message.
    pub(super) fn encode(&self, header: &pb::ResponseHeader, prefix: usize) -> BytesMut {
        let kvs = self.keys.iter().map(|version| KeyValue::new(*version, self.keys_only));
        let kvs: Vec<_> = kvs.collect();
        let head = header.encoded_len();
        let body: usize = kvs.iter().map(KeyValue::field_len).sum();
        let mut out = BytesMut::with_capacity(prefix + field_len(head) + body + 2 + 11);
        out.put_bytes(0, prefix);
        put_length(&mut out, 1, head);
        header.encode_raw(&mut out);
        for kv in kvs {
            kv.put(2, &mut out);
        }
        put_number(&mut out, 3, i64::from(self.more));
        put_number(&mut out, 4, self.count as i64);
        out
    }

    /// What the next page of the same listing will be asked for, and how many keys that has.
    pub(super) fn rest(&self, request: &pb::RangeRequest) -> Option<(Page, usize)> {
        let last = self.keys.last().filter(|_| self.more && self.in_order)?;
        let start = [last.pair.key(), &[0]].concat().into();
        let left = self.count.checked_sub(self.keys.len())?;
        Some((Page { start, end: request.range_end.clone(), at: self.at }, left))
    }
}

/// A range at a revision.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Page {
    start: Bytes,
    end: Bytes,
    at: i64,
}

/// How many keys the rest of each listing has that is under way.
///
/// Every page says how many keys follow it, and a tree knows that only by walking them all, so that
/// a listing would cost the square of its pages. What a revision holds never changes, though: the
/// rest after a page has what there was less the page.
#[derive(Debug, Default)]
pub(super) struct Counts(HashMap<Page, usize>);

impl Counts {
    /// Listings remembered; one forgotten only costs a count.
    const MOST: usize = 1024;

    /// What is known of the range of a request.
    pub(super) fn take(&mut self, request: &pb::RangeRequest) -> Option<usize> {
        if self.0.is_empty() || request.revision <= 0 {
            return None;
        }
        let (start, end) = (request.key.clone(), request.range_end.clone());
        self.0.remove(&Page { start, end, at: request.revision })
    }

    pub(super) fn put(&mut self, (page, count): (Page, usize)) {
        if self.0.len() >= Self::MOST {
            self.0.clear();
        }
        self.0.insert(page, count);
    }
}

/// Bounds of revisions; 0 is no bound.
struct Filter {
    modified: [i64; 2],
    created: [i64; 2],
}

impl Filter {
    fn of(request: &pb::RangeRequest) -> Option<Self> {
        let modified = [request.min_mod_revision, request.max_mod_revision];
        let created = [request.min_create_revision, request.max_create_revision];
        modified.iter().chain(&created).any(|bound| *bound > 0).then_some(Self { modified, created })
    }

    fn holds(&self, version: &Version<'_>) -> bool {
        let within = |x, [min, max]: [i64; 2]| (min == 0 || x >= min) && (max == 0 || x <= max);
        within(version.mod_revision, self.modified) && within(version.create_revision, self.created)
    }
}

/// The order a request asks for beyond ascending keys, which the store has by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Order {
    target: SortTarget,
    descending: bool,
}

impl Order {
    pub(super) fn of(request: &pb::RangeRequest) -> Result<Option<Self>, Error> {
        let order = SortOrder::try_from(request.sort_order).map_err(|_| Error::InvalidSort)?;
        let target = SortTarget::try_from(request.sort_target).map_err(|_| Error::InvalidSort)?;
        Ok(match (order, target) {
            (SortOrder::None | SortOrder::Ascend, SortTarget::Key) => None,
            // etcd sorts ascending by any other target even when no order is named.
            (order, target) => Some(Self { target, descending: order == SortOrder::Descend }),
        })
    }

    fn sort(self, keys: &mut [Version<'_>]) {
        let compare = |a: &Version<'_>, b: &Version<'_>| match self.target {
            SortTarget::Key => a.pair.key().cmp(b.pair.key()),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.pair.value().cmp(b.pair.value()),
        };
        keys.sort_by(|a, b| if self.descending { compare(b, a) } else { compare(a, b) });
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::Write;
    use super::*;
    use crate::StoreOptions;

    fn filled(n: usize) -> State {
        let mut state = State::new(StoreOptions::default());
        for i in 0..n {
            let mut write = Write::default();
            let key = format!("k/{i:04}").into();
            let value = if i % 3 == 0 { Bytes::new() } else { "v".repeat(i % 200).into() };
            let put = pb::PutRequest { key, value, ..Default::default() };
            state.put((&put).into(), &mut write);
            state.commit(write);
        }
        state
    }

    #[test]
    fn what_is_written_to_the_wire_is_the_message() {
        let state = filled(300);
        let header = pb::ResponseHeader { cluster_id: 7, member_id: 9, revision: 301, raft_term: 1 };
        let all = pb::RangeRequest { key: "k/".into(), range_end: "k0".into(), ..Default::default() };
        for request in [
            all.clone(),
            pb::RangeRequest { limit: 10, ..all.clone() },
            pb::RangeRequest { keys_only: true, ..all.clone() },
            pb::RangeRequest { count_only: true, ..all.clone() },
            pb::RangeRequest { min_mod_revision: 50, limit: 3, ..all.clone() },
            pb::RangeRequest { sort_order: 2, sort_target: 4, ..all.clone() },
            pb::RangeRequest { key: "k/0001".into(), range_end: Bytes::new(), ..all.clone() },
            pb::RangeRequest { key: "x".into(), range_end: Bytes::new(), ..all.clone() },
        ] {
            let selection = state.select(&request, 301, None).unwrap();
            let message = pb::RangeResponse { header: Some(header), ..selection.response() };
            let wire = selection.encode(&header, 5);
            assert_eq!(wire[..5], [0; 5]);
            assert_eq!(wire[5..], message.encode_to_vec(), "{request:?}");
        }
    }

    #[test]
    fn the_rest_of_a_listing_is_counted_once() {
        let state = filled(300);
        let mut counts = Counts::default();
        let mut request = pb::RangeRequest {
            key: "k/".into(),
            range_end: "k0".into(),
            limit: 70,
            revision: 301,
            ..Default::default()
        };
        let mut pages = Vec::new();
        loop {
            let known = counts.take(&request);
            assert_eq!(known.is_some(), !pages.is_empty(), "all but the first");
            let selection = state.select(&request, 301, known).unwrap();
            assert_eq!(selection.count, state.select(&request, 301, None).unwrap().count);
            pages.push(selection.keys.len());
            let Some((page, left)) = selection.rest(&request) else { break };
            request.key = page.start.clone();
            counts.put((page, left));
        }
        assert_eq!((pages, counts.0.len()), (vec![70, 70, 70, 70, 20], 0));
    }
}
