//! Lists and watches of a session: pages, changes, and what to do when they end.

use std::time::Duration;

use bytes::Bytes;
use tracing::{debug, warn};

use super::keep::Keep;
use super::messages::{Action, Change, LostReason, StreamId};
use super::session::{Output, Phase, SessionOf};
use super::stream::{State, Stream};
use crate::keys::{self, Kind, Layout};
use crate::wire::Reason;

/// A list with this many times the keys accepted of its kind counts as endless: refusing them one by one
/// would keep us busy for ever.
const ENDLESS: usize = 4;
/// Most keys below the prefixes of the markers and of the heartbeat: there are five, and one.
const MOST_MARKERS: usize = 10_000;

impl<K: Keep> SessionOf<K> {
    /// Starts a new stream.
    pub(super) fn start_named(&mut self, id: StreamId, prefix: String, out: &mut Output<K>) {
        self.start(Stream::new(id, prefix, self.options.timing.page), out);
    }

    fn start(&mut self, mut stream: Stream, out: &mut Output<K>) {
        if let StreamId::Data(kind) = stream.id
            && let Some(known) = self.known.get_mut(&kind)
        {
            out.events.extend(known.list_begins());
        }
        out.actions.push(stream.list(self.conn));
        self.streams.insert(stream.id, stream);
    }

    pub(super) fn retry_streams(&mut self, now: Duration, out: &mut Output<K>) {
        let due = |stream: &&Stream| matches!(stream.state, State::Waiting { until } if now >= until);
        let due: Vec<StreamId> = self.streams.values().filter(due).map(|stream| stream.id).collect();
        for id in due {
            if let Some(stream) = self.streams.remove(&id) {
                self.start(stream, out);
            }
        }
    }

    pub(super) fn page(
        &mut self,
        now: Duration,
        id: StreamId,
        revision: i64,
        entries: &[(Bytes, Bytes)],
        more: bool,
        out: &mut Output<K>,
    ) {
        let most = match id {
            StreamId::Data(kind) => self.options.limits.keys(kind).saturating_mul(ENDLESS),
            StreamId::Heartbeat | StreamId::Config | StreamId::Markers => MOST_MARKERS,
        };
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let State::Listing { revision: pinned, skip } = stream.state else { return };
        let checked = stream
            .check_revision(revision)
            .and_then(|()| stream.check_page(entries, more, most).map_err(|text| (Reason::BadPage, text)));
        if let Err((reason, text)) = checked {
            return self.violation(now, reason, text, out);
        }
        if skip && pinned == 0 && !entries.is_empty() {
            out.actions.push(stream.same_key_at(self.conn, revision));
            return;
        }
        for (key, value) in entries {
            match id {
                StreamId::Data(kind) if skip => self.unreadable(kind, key, out),
                _ => self.put(now, id, key, value, out),
            }
        }
        let revision = if pinned == 0 { revision } else { pinned };
        let (conn, max) = (self.conn, self.options.timing.page);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if let Some((last, _)) = entries.last().filter(|_| more) {
            out.actions.push(stream.next_page(conn, last, revision, max));
            return;
        }
        out.actions.push(stream.watch(conn, now, revision));
        self.listed(now, id, out);
    }

    /// A list is complete.
    fn listed(&mut self, now: Duration, id: StreamId, out: &mut Output<K>) {
        match id {
            StreamId::Heartbeat => {
                self.heartbeat_at = now;
                if matches!(self.phase, Phase::Connecting { .. }) {
                    self.phase = Phase::Config { since: now, attempts: 0, ask_at: None };
                    let key = keys::cluster_config(&self.name);
                    out.actions.push(Action::ReadConfig { conn: self.conn, key });
                }
            }
            StreamId::Config | StreamId::Markers => {}
            StreamId::Data(kind) => {
                if let Some((known, _, mut intake)) = self.intake(kind) {
                    out.events.extend(known.list_done(&mut intake));
                    debug!(cluster = %intake.from.name, kind = kind.word(), entries = known.count(), "listed");
                }
                self.use_room(now, out);
            }
        }
    }

    /// An answer was too large for a message. A page is asked for with fewer keys, down to one key
    /// without its value: one huge value keeps nothing else back.
    pub(super) fn too_large(&mut self, now: Duration, id: StreamId, out: &mut Output<K>) {
        let conn = self.conn;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        match stream.state {
            State::Listing { skip: true, .. } => {
                let text = format!("a page of {} with one key and no value is too large", stream.prefix);
                self.violation(now, Reason::BadPage, text, out);
            }
            State::Listing { revision, .. } => out.actions.push(stream.smaller_page(conn, revision)),
            // The list that follows steps over what was too large.
            _ => self.lost(now, id, LostReason::Refused("a change is too large".to_owned()), out),
        }
    }

    pub(super) fn batch(
        &mut self,
        now: Duration,
        id: StreamId,
        revision: i64,
        changes: Vec<Change>,
        out: &mut Output<K>,
    ) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if let Err((reason, text)) = stream.check_revision(revision) {
            return self.violation(now, reason, text, out);
        }
        stream.confirm();
        for change in changes {
            match change {
                Change::Put(key, value) => {
                    if id == StreamId::Heartbeat {
                        self.heartbeat_at = now;
                    }
                    self.put(now, id, &key, &value, out);
                }
                Change::Delete(key) => {
                    // Anything else that goes means nothing (mesh-protocol 3.4).
                    if let StreamId::Data(kind) = id
                        && let Some((known, prefix, mut intake)) = self.intake(kind)
                    {
                        out.events.extend(known.delete(prefix, &key, &mut intake));
                    }
                }
            }
        }
        self.use_room(now, out);
    }

    fn put(&mut self, now: Duration, id: StreamId, key: &[u8], value: &[u8], out: &mut Output<K>) {
        match id {
            StreamId::Heartbeat => {}
            StreamId::Config => self.config_seen(now, value, out),
            StreamId::Markers => self.marker(key, out),
            StreamId::Data(kind) => {
                if let Some((known, prefix, mut intake)) = self.intake(kind) {
                    out.events.extend(known.put(prefix, key, value, &mut intake));
                }
            }
        }
    }

    fn unreadable(&mut self, kind: Kind, key: &[u8], out: &mut Output<K>) {
        if let Some((known, prefix, mut intake)) = self.intake(kind) {
            out.events.extend(known.unreadable(prefix, key, &mut intake));
        }
    }

    /// Lists again what was refused for lack of room, where there is room now.
    fn use_room(&mut self, now: Duration, out: &mut Output<K>) {
        for (kind, known) in &self.known {
            if known.has_room_again(&self.options.limits, self.used)
                && let Some(stream) = self.streams.get_mut(&StreamId::Data(*kind))
                && matches!(stream.state, State::Watching { .. })
            {
                stream.lost(now);
            }
        }
        self.retry_streams(now, out);
    }

    /// A marker releases its kind; unknown ones, and those of the other layout, are ignored.
    fn marker(&mut self, key: &[u8], out: &mut Output<K>) {
        let Some((_, config)) = &self.peer else { return };
        let layout = Layout::of(config);
        let marked = std::str::from_utf8(key).ok().and_then(|key| keys::parse_marker(&self.name, key));
        let Some((_, kind)) = marked.filter(|(of, _)| *of == layout) else { return };
        let blocked = |stream: &Stream| stream.state == State::Blocked;
        if self.streams.get(&StreamId::Data(kind)).is_some_and(blocked)
            && let Some(stream) = self.streams.remove(&StreamId::Data(kind))
        {
            self.start(stream, out);
        }
    }

    pub(super) fn lost(&mut self, now: Duration, id: StreamId, reason: LostReason, out: &mut Output<K>) {
        match &reason {
            LostReason::Compacted => {
                debug!(cluster = %self.name, stream = ?id, "history is gone; listing again")
            }
            // Nothing works without the first list: the reason belongs to the connection.
            LostReason::Refused(text) if matches!(self.phase, Phase::Connecting { .. }) => {
                return self.fail(now, text.clone(), out);
            }
            LostReason::Refused(text) => {
                warn!(cluster = %self.name, stream = ?id, error = text, "a remote cluster refused a request");
                self.last_failure = Some((now, text.clone()));
            }
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.lost(now);
        }
        self.retry_streams(now, out);
    }
}
