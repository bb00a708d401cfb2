//! `etcdserverpb.Watch`: the watches of one stream, from decoded requests to encoded answers. No I/O.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use bytes::{BufMut, BytesMut};
use prost::Message;

use super::access::Caller;
use super::metrics::Watching;
use super::unary::PREFIX;
use crate::pb::{self, watch_create_request::FilterType, watch_request::RequestUnion};
use crate::store::{Events, Inbox};
use crate::{Error, KeyRange, Store, WatchError, WatchOptions, Watcher};

/// Bytes of answers after which a turn ends: what a slow client makes us hold is about this, or
/// one revision if that is larger.
const TURN: usize = 64 << 10;
/// What etcd allows on top of its request limit in a response before it splits it, if asked to
/// (`grpcOverheadBytes`).
const OVERHEAD: usize = 512 << 10;
/// `fragment = true` in a `WatchResponse`: field 7, a varint.
const FRAGMENT: [u8; 2] = [7 << 3, 1];

#[derive(Debug)]
struct Watch {
    watcher: Watcher,
    /// Large responses may be split.
    fragment: bool,
    /// It wants to hear the revision when idle.
    notify: bool,
}

/// The watches of one stream. A client that reads slowly makes only this stream wait; its watches
/// fall behind in the shared history and are told if they fall out of it.
#[derive(Debug)]
pub(super) struct Watches {
    store: Store,
    caller: Arc<Caller>,
    counted: Watching,
    inbox: Arc<Inbox>,
    watches: HashMap<i64, Box<Watch>>,
    /// Watches that may have something to send, the longest waiting first.
    ready: VecDeque<i64>,
    next_id: i64,
    /// A progress request that is answered when nothing is outstanding.
    progress_asked: bool,
    /// Encoded answers to requests.
    answers: BytesMut,
}

impl Watches {
    pub(super) fn new(store: Store, caller: Arc<Caller>, counted: Watching) -> Self {
        Self {
            store,
            caller,
            counted,
            inbox: Arc::default(),
            watches: HashMap::new(),
            ready: VecDeque::new(),
            next_id: 0,
            progress_asked: false,
            answers: BytesMut::new(),
        }
    }

    /// Whether any watch wants [`Watches::progress`] from time to time.
    pub(super) fn wants_progress(&self) -> bool {
        self.watches.values().any(|watch| watch.notify)
    }

    /// Whether a request must wait until the answers to those before it have left.
    pub(super) fn is_full(&self) -> bool {
        self.answers.len() >= TURN
    }

    /// Carries out a request; its answer is in the next turn.
    pub(super) fn request(&mut self, request: pb::WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(create),
            Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.progress_asked = true,
            None => {}
        }
    }

    fn create(&mut self, request: pb::WatchCreateRequest) {
        let range = KeyRange::new(request.key.clone(), request.range_end.clone());
        let header = Some(self.store.header());
        if let Err(cancel_reason) = self.refuse(&request, &range) {
            let answer = pb::WatchResponse {
                header,
                watch_id: -1,
                created: true,
                canceled: true,
                cancel_reason,
                ..Default::default()
            };
            return write(&mut self.answers, &answer);
        }
        let id = match request.watch_id {
            0 => self.free_id(),
            id => id,
        };
        let filtered = |kind: FilterType| request.filters.contains(&(kind as i32));
        let options = WatchOptions {
            range,
            start_revision: request.start_revision,
            prev_kv: request.prev_kv,
            no_put: filtered(FilterType::Noput),
            no_delete: filtered(FilterType::Nodelete),
        };
        let watcher = self.store.watch_in(options, self.inbox.clone(), id);
        let watch = Watch { watcher, fragment: request.fragment, notify: request.progress_notify };
        self.watches.insert(id, Box::new(watch));
        let answer = pb::WatchResponse { header, watch_id: id, created: true, ..Default::default() };
        write(&mut self.answers, &answer);
    }

    fn free_id(&mut self) -> i64 {
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    fn refuse(&self, request: &pb::WatchCreateRequest, range: &KeyRange) -> Result<(), String> {
        if request.watch_id != 0 && self.watches.contains_key(&request.watch_id) {
            return Err("mvcc: duplicate watch ID provided on the WatchStream".into());
        }
        self.caller.watch(range).map_err(reason)
    }

    fn cancel(&mut self, id: i64) {
        if self.watches.remove(&id).is_some() {
            let header = Some(self.store.header());
            let answer = pb::WatchResponse { header, watch_id: id, canceled: true, ..Default::default() };
            write(&mut self.answers, &answer);
        }
    }

    /// Tells the revision to the watches that asked for it, if nothing is outstanding.
    pub(super) fn progress(&mut self) {
        let Some(revision) = self.caught_up() else { return };
        for (id, _) in self.watches.iter().filter(|(_, watch)| watch.notify) {
            let header = Some(self.store.header_at(revision));
            write(&mut self.answers, &pb::WatchResponse { header, watch_id: *id, ..Default::default() });
        }
    }

    /// What there is to send now, framed, up to a bound; empty when there is nothing, and then
    /// `waker` is woken when there is.
    pub(super) fn turn(&mut self, waker: &Waker) -> BytesMut {
        let mut out = std::mem::take(&mut self.answers);
        self.inbox.take(waker, &mut self.ready);
        while out.len() < TURN
            && let Some(id) = self.ready.pop_front()
        {
            let Some(watch) = self.watches.get_mut(&id) else { continue };
            match watch.watcher.take() {
                Ok(Some(events)) => match self.caller.watch(watch.watcher.range()) {
                    Ok(()) => {
                        // There may be more: after the others' turn.
                        self.ready.push_back(id);
                        let sent = deliver(&self.store, id, watch, &events, &mut out);
                        self.counted.sent(sent);
                    }
                    // What it could read when it began, it may not any more.
                    Err(error) => {
                        self.watches.remove(&id);
                        let header = Some(self.store.header());
                        let ended = pb::WatchResponse {
                            header,
                            watch_id: id,
                            canceled: true,
                            cancel_reason: reason(error),
                            ..Default::default()
                        };
                        write(&mut out, &ended);
                    }
                },
                Ok(None) => {}
                Err(WatchError::Compacted { compact_revision }) => {
                    self.watches.remove(&id);
                    let header = Some(self.store.header());
                    let ended = pb::WatchResponse {
                        header,
                        watch_id: id,
                        canceled: true,
                        compact_revision,
                        ..Default::default()
                    };
                    write(&mut out, &ended);
                }
            }
        }
        // Progress for the whole stream is true only when no watch has anything outstanding.
        if self.progress_asked
            && let Some(revision) = self.caught_up()
        {
            self.progress_asked = false;
            let header = Some(self.store.header_at(revision));
            write(&mut out, &pb::WatchResponse { header, watch_id: -1, ..Default::default() });
        }
        self.counted.set(self.watches.len(), self.ready.len());
        out
    }

    /// The stream has ended, with this code.
    pub(super) fn ended(&mut self, code: tonic::Code) {
        self.counted.ended(code);
    }

    fn caught_up(&self) -> Option<i64> {
        self.store.caught_up(self.watches.values().map(|watch| &watch.watcher))
    }
}

/// The text form of a gRPC error, which is what etcd gives as a reason (mesh-protocol 7.3).
fn reason(error: Error) -> String {
    format!("rpc error: code = {:?} desc = {error}", error.code())
}

/// Writes the events of whole revisions as one response, or as several if the watch allows it; how
/// many events they are.
fn deliver(store: &Store, id: i64, watch: &Watch, events: &Events, out: &mut BytesMut) -> usize {
    let head = pb::WatchResponse {
        header: Some(store.header_at(events.revision)),
        watch_id: id,
        ..Default::default()
    };
    if !watch.fragment {
        let start = open(out, &head);
        let sent = events.encoded(true, |bytes| out.extend_from_slice(bytes));
        close(out, start);
        return sent;
    }
    let limit = store.max_request_bytes() + OVERHEAD;
    let mut start = open(out, &head);
    let mut first = out.len();
    let sent = events.encoded(false, |event| {
        // Never without an event, however large it is.
        if out.len() > first && out.len() - start - PREFIX + event.len() >= limit {
            out.extend_from_slice(&FRAGMENT);
            close(out, start);
            start = open(out, &head);
            first = out.len();
        }
        out.extend_from_slice(event);
    });
    close(out, start);
    sent
}

fn write(out: &mut BytesMut, message: &pb::WatchResponse) {
    let start = open(out, message);
    close(out, start);
}

/// Begins a framed message with what `head` has; fields may follow. Where it begins.
fn open(out: &mut BytesMut, head: &pb::WatchResponse) -> usize {
    let start = out.len();
    out.put_bytes(0, PREFIX);
    head.encode(out).expect("a buffer that grows has room");
    start
}

/// Ends the message begun at `start`: its length is known now.
fn close(out: &mut BytesMut, start: usize) {
    let length = u32::try_from(out.len() - start - PREFIX).expect("one revision is far below 4 GiB");
    out[start + 1..start + PREFIX].copy_from_slice(&length.to_be_bytes());
}
