//! List and watch of one prefix (mesh-protocol 3.7): where it stands and what to ask next.

use std::time::Duration;

use bytes::Bytes;

use super::{Action, StreamId};
use crate::keys;
use crate::wire::Reason;

/// Where a stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Its sync marker has not been seen.
    Blocked,
    /// Pages are being read at this revision; 0 before the first page. `skip`: only the next key is
    /// asked for, because its value does not fit into a message.
    Listing { revision: i64, skip: bool },
    /// Changes are followed; `confirmed` once the peer has said so.
    Watching { since: Duration, confirmed: bool },
    /// The list is tried again at this time.
    Waiting { until: Duration },
}

/// One stream of the present connection. Requests are numbered: answers to earlier ones are ignored.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    pub(super) prefix: String,
    /// First key beyond.
    end: Vec<u8>,
    pub(super) state: State,
    pub(super) op: u64,
    /// First key of the page asked for.
    from: Vec<u8>,
    /// Keys of a page: fewer while pages are too large for a message.
    page: i64,
    /// Highest revision of the store that an answer was of, since the list began.
    seen: i64,
    /// The revision that the list is of.
    listed_at: i64,
    /// Keys that the list has named.
    listed: usize,
    failures: u32,
}

/// First and longest wait after a failed list (mesh-protocol 3.7).
const FIRST_WAIT: Duration = Duration::from_millis(50);
const MAX_WAIT: Duration = Duration::from_secs(60);
/// A watch that lived this long was a good one: its end is answered at once.
const GOOD_WATCH: Duration = Duration::from_secs(10);

impl Stream {
    /// A stream of a prefix, with at most `page` keys per page.
    pub(super) fn new(id: StreamId, prefix: String, page: i64) -> Self {
        let end = match id {
            // One key: the names of other clusters may begin like this one's.
            StreamId::Config => [prefix.as_bytes(), &[0]].concat(),
            _ => keys::range_end(prefix.as_bytes()),
        };
        Self {
            id,
            prefix,
            end,
            state: State::Blocked,
            op: 0,
            from: vec![],
            page,
            seen: 0,
            listed_at: 0,
            listed: 0,
            failures: 0,
        }
    }

    /// Starts the list from its beginning.
    pub(super) fn list(&mut self, conn: u64) -> Action {
        (self.seen, self.listed_at) = (0, 0);
        self.listed = 0;
        self.from = self.prefix.clone().into_bytes();
        self.ask_page(conn, 0, false)
    }

    /// The page after `last`, at the revision of the first page. `max` keys at most.
    pub(super) fn next_page(&mut self, conn: u64, last: &[u8], revision: i64, max: i64) -> Action {
        self.from = [last, &[0]].concat();
        self.page = (self.page + self.page / 4 + 1).min(max);
        self.ask_page(conn, revision, false)
    }

    /// The same page with fewer keys, since it was too large for a message; when it was one key
    /// only, that key without its value.
    pub(super) fn smaller_page(&mut self, conn: u64, revision: i64) -> Action {
        let skip = self.page <= 1;
        self.page = (self.page / 2).max(1);
        self.ask_page(conn, revision, skip)
    }

    /// The same key once more with its value, at a revision that is now known: which value was too large
    /// was not, and the one there now may be another, which no change is going to tell.
    pub(super) fn same_key_at(&mut self, conn: u64, revision: i64) -> Action {
        self.ask_page(conn, revision, false)
    }

    fn ask_page(&mut self, conn: u64, revision: i64, skip: bool) -> Action {
        self.op += 1;
        self.state = State::Listing { revision, skip };
        let (start, end) = (self.from.clone(), self.end.clone());
        let (stream, op, limit) = (self.id, self.op, self.page);
        Action::List { conn, stream, op, start, end, revision, limit, keys_only: skip }
    }

    /// Whether an answer can be one to the page asked for: in order, within the range asked for, and
    /// leading on if more is to follow. A list has no more than `most` keys.
    pub(super) fn check_page(
        &mut self,
        entries: &[(Bytes, Bytes)],
        more: bool,
        most: usize,
    ) -> Result<(), String> {
        self.listed += entries.len();
        let inside = |key: &[u8]| self.from.as_slice() <= key && key < self.end.as_slice();
        let wrong = if entries.len() as i64 > self.page {
            "more keys than asked for"
        } else if self.listed > most {
            "more keys in all than any cluster has"
        } else if more && entries.is_empty() {
            "no keys, but more to follow"
        } else if entries.iter().any(|(key, _)| !inside(key)) {
            "keys outside the range asked for"
        } else if entries.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            "keys out of order"
        } else {
            return Ok(());
        };
        Err(format!("a page of {} with {wrong}", self.prefix))
    }

    /// An answer is of this revision of the store. On one connection revisions never go down: if they
    /// do, changes are missing, or the list was of another history. Only the changes of a watch that
    /// catches up are of any revision since the list.
    pub(super) fn check_revision(&mut self, revision: i64) -> Result<(), (Reason, String)> {
        let catching_up = matches!(self.state, State::Watching { confirmed: true, .. });
        let least = if catching_up { self.listed_at } else { self.seen };
        if revision < least {
            let text = format!(
                "the revision of the store went back from {least} to {revision}: it was replaced or restored"
            );
            return Err((Reason::RevisionBackwards, text));
        }
        self.seen = self.seen.max(revision);
        Ok(())
    }

    /// Follows changes from the revision after the list.
    pub(super) fn watch(&mut self, conn: u64, now: Duration, list_revision: i64) -> Action {
        self.op += 1;
        self.listed_at = list_revision;
        self.state = State::Watching { since: now, confirmed: false };
        let (start, end) = (self.prefix.clone().into_bytes(), self.end.clone());
        Action::Watch { conn, stream: self.id, op: self.op, start, end, start_revision: list_revision + 1 }
    }

    /// The peer has the watch.
    pub(super) fn confirm(&mut self) {
        if let State::Watching { confirmed, .. } = &mut self.state {
            *confirmed = true;
        }
    }

    /// The list or the watch ended; when to list again.
    pub(super) fn lost(&mut self, now: Duration) {
        if let State::Watching { since, .. } = self.state
            && now.saturating_sub(since) >= GOOD_WATCH
        {
            self.failures = 0;
        }
        // An end that comes out of the blue is answered at once, repeated ones ever later.
        let wait = match self.failures {
            0 => Duration::ZERO,
            n => (FIRST_WAIT * 2u32.saturating_pow(n - 1)).min(MAX_WAIT),
        };
        self.failures = (self.failures + 1).min(20);
        self.op += 1;
        self.state = State::Waiting { until: now + wait };
    }
}
