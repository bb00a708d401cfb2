//! The task that moves bytes for one session.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use causeway_model::ClusterName;
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use super::keep::Keep;
use super::session::{Output, SessionOf};
use super::transport::{Client, Transport, TransportError, WatchReply};
use super::{Action, Body, Ids, Input, LostReason, Options, RemoteStatus, StreamId};
use crate::config_dir::RemoteConfig;
use crate::wire::timestamp;

/// Orders of the manager.
#[derive(Debug)]
pub(super) enum Command {
    /// The file changed; `error` if it cannot be used, and then `config` is the last good one.
    Configure { config: Option<Box<RemoteConfig>>, error: Option<String> },
    /// The file is gone: withdraw everything and end.
    Close,
}

/// Status of all remotes, by name.
pub(super) type Board = watch::Sender<std::collections::BTreeMap<ClusterName, RemoteStatus>>;

/// Longest wait for one answer to a unary request.
const REQUEST: Duration = Duration::from_secs(30);
/// Answers that wait for the session, and their bytes in KiB; more of them slow the network down, not
/// memory up.
const QUEUE: usize = 16;
const QUEUE_KIB: u32 = 16 << 10;

/// What a running request is for.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Slot {
    Connect,
    Config,
    Stream(StreamId),
}

/// An answer that waits, with its share of the room.
struct Waiting {
    input: Input,
    _room: OwnedSemaphorePermit,
}

/// Where the requests leave their answers.
#[derive(Clone)]
struct Inbox {
    sender: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
}

impl Inbox {
    /// Waits for room; false when nobody listens any more.
    async fn send(&self, conn: u64, body: Body) -> bool {
        let kib = u32::try_from(body.weight() / 1024 + 1).unwrap_or(QUEUE_KIB).min(QUEUE_KIB);
        let Ok(room) = self.room.clone().acquire_many_owned(kib).await else { return false };
        self.sender.send(Waiting { input: Input { conn, body }, _room: room }).await.is_ok()
    }
}

type Held<T> = Arc<Mutex<Option<(u64, <T as Transport>::Client)>>>;

pub(super) struct Driver<T: Transport, K: Keep> {
    name: ClusterName,
    transport: Arc<T>,
    session: SessionOf<K>,
    config: Option<RemoteConfig>,
    config_error: Option<String>,
    ids: Arc<Mutex<Ids>>,
    events: mpsc::Sender<K::Message>,
    board: Arc<Board>,
    /// The client with the number of its connection: one that arrives late is not used for a later one.
    client: Held<T>,
    running: HashMap<Slot, AbortHandle>,
    inputs: Inbox,
    received: mpsc::Receiver<Waiting>,
    started: Instant,
    /// How long the consumer of the events has kept us waiting: for the session that time has not
    /// passed, so that a slow consumer is not taken for a dead peer.
    paused: Duration,
    /// Time of the last failure, as the session counts and for people.
    failed_at: Option<(Duration, String)>,
}

impl<T: Transport, K: Keep> Driver<T, K> {
    pub(super) fn new(
        name: ClusterName,
        options: Options,
        transport: Arc<T>,
        ids: Arc<Mutex<Ids>>,
        events: mpsc::Sender<K::Message>,
        board: Arc<Board>,
    ) -> Self {
        let (sender, received) = mpsc::channel(QUEUE);
        let inputs = Inbox { sender, room: Arc::new(Semaphore::new(QUEUE_KIB as usize)) };
        Self {
            session: SessionOf::new(name.clone(), options, rand::random()),
            name,
            transport,
            config: None,
            config_error: None,
            ids,
            events,
            board,
            client: Arc::default(),
            running: HashMap::new(),
            inputs,
            received,
            started: Instant::now(),
            paused: Duration::ZERO,
            failed_at: None,
        }
    }

    /// Runs until told to close, or until the manager is gone (then nothing is withdrawn).
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            let deadline = self.session.deadline().saturating_add(self.paused);
            let wake = self.started.checked_add(deadline).unwrap_or_else(|| Instant::now() + REQUEST);
            let configured = self.config.is_some();
            let out = tokio::select! {
                // What has arrived counts before what is late: a slow consumer is not a dead peer.
                biased;
                command = commands.recv() => match command {
                    Some(Command::Configure { config, error }) => self.configure(config, error),
                    Some(Command::Close) => {
                        let out = self.session.close(&mut self.ids.lock().unwrap_or_else(PoisonError::into_inner));
                        self.perform(out).await;
                        self.board.send_modify(|board| drop(board.remove(&self.name)));
                        return;
                    }
                    None => {
                        self.disconnect();
                        return;
                    }
                },
                Some(waiting) = self.received.recv() => {
                    let now = self.now();
                    let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
                    self.session.handle(now, waiting.input, &mut ids)
                }
                () = sleep_until(wake), if configured => {
                    let now = self.now();
                    self.session.tick(now)
                }
            };
            if !self.perform(out).await {
                return;
            }
            self.report();
        }
    }

    fn configure(&mut self, config: Option<Box<RemoteConfig>>, error: Option<String>) -> Output<K> {
        self.config_error = error;
        let config = config.map(|config| *config);
        if config == self.config || config.is_none() {
            return Output::<K>::default();
        }
        self.config = config;
        let now = self.now();
        self.session.reconfigured(now)
    }

    fn now(&self) -> Duration {
        self.started.elapsed().saturating_sub(self.paused)
    }

    /// False when nobody listens any more.
    async fn perform(&mut self, out: Output<K>) -> bool {
        let began = Instant::now();
        let name = self.name.clone();
        for message in K::messages(&name, out.events) {
            if self.events.send(message).await.is_err() {
                self.disconnect();
                return false;
            }
        }
        self.paused += began.elapsed();
        for action in out.actions {
            self.act(action);
        }
        true
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Disconnect => self.disconnect(),
            Action::Connect { conn } => {
                self.disconnect();
                let Some(config) = self.config.clone() else { return };
                let (transport, slot, inputs) =
                    (self.transport.clone(), self.client.clone(), self.inputs.clone());
                self.spawn(Slot::Connect, async move {
                    let body = match transport.connect(&config).await {
                        Ok(client) => {
                            let mut held = slot.lock().unwrap_or_else(PoisonError::into_inner);
                            if held.as_ref().is_none_or(|(held, _)| *held < conn) {
                                *held = Some((conn, client));
                            }
                            Body::Connected
                        }
                        Err(error) => failed(error),
                    };
                    inputs.send(conn, body).await;
                });
            }
            Action::ReadConfig { conn, key } => self.request(Slot::Config, conn, move |client| async move {
                let key = key.into_bytes();
                match answer(client.range(key.clone(), vec![], 0, 1, false)).await {
                    Ok(reply) => {
                        let found = reply.entries.into_iter().find(|(found, _)| *found == key);
                        Body::Config { store: reply.store, value: found.map(|(_, value)| value.into()) }
                    }
                    Err(error) => failed(error),
                }
            }),
            Action::List { conn, stream, op, start, end, revision, limit, keys_only } => {
                self.request(Slot::Stream(stream), conn, move |client| async move {
                    match answer(client.range(start, end, revision, limit, keys_only)).await {
                        Ok(reply) => Body::Page {
                            stream,
                            op,
                            store: reply.store,
                            revision: reply.revision,
                            entries: reply.entries,
                            more: reply.more,
                        },
                        Err(error) => lost(stream, op, error),
                    }
                });
            }
            Action::Watch { conn, stream, op, start, end, start_revision } => {
                self.watch(conn, stream, op, start, end, start_revision);
            }
        }
    }

    fn request<F>(&mut self, slot: Slot, conn: u64, ask: impl FnOnce(T::Client) -> F)
    where
        F: Future<Output = Body> + Send + 'static,
    {
        let (Some(client), inputs) = (self.client_of(conn), self.inputs.clone()) else { return };
        let asked = ask(client);
        self.spawn(slot, async move {
            let body = asked.await;
            inputs.send(conn, body).await;
        });
    }

    fn watch(&mut self, conn: u64, stream: StreamId, op: u64, start: Vec<u8>, end: Vec<u8>, revision: i64) {
        let (Some(client), inputs) = (self.client_of(conn), self.inputs.clone()) else { return };
        self.spawn(Slot::Stream(stream), async move {
            // Boxed, so that the task is small once the watch is open.
            let mut replies = match Box::pin(answer(client.watch(start, end, revision))).await {
                Ok(replies) => replies,
                Err(error) => {
                    inputs.send(conn, lost(stream, op, error)).await;
                    return;
                }
            };
            loop {
                let body = match replies.next().await {
                    Some(Ok(WatchReply { store, revision, changes })) => {
                        Body::Batch { stream, op, store, revision, changes }
                    }
                    Some(Err(error)) => lost(stream, op, error),
                    None => Body::Failed("the peer closed a watch".to_owned()),
                };
                let ended = !matches!(body, Body::Batch { .. });
                if !inputs.send(conn, body).await || ended {
                    return;
                }
            }
        });
    }

    fn client_of(&self, conn: u64) -> Option<T::Client> {
        let held = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().filter(|(of, _)| *of == conn).map(|(_, client)| client.clone())
    }

    /// Starts a request in place of the one that ran for the same purpose.
    fn spawn(&mut self, slot: Slot, work: impl Future<Output = ()> + Send + 'static) {
        let handle = tokio::spawn(work).abort_handle();
        if let Some(before) = self.running.insert(slot, handle) {
            before.abort();
        }
    }

    fn disconnect(&mut self) {
        for (_, handle) in self.running.drain() {
            handle.abort();
        }
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
        debug!(cluster = %self.name, "disconnected");
    }

    fn report(&mut self) {
        let wall = |at: Duration| match &self.failed_at {
            Some((known, text)) if *known == at => text.clone(),
            _ => timestamp(),
        };
        let mut status = self.session.status(wall);
        if let (Some((at, _)), Some(text)) = (&self.session.last_failure, &status.last_failure) {
            self.failed_at = Some((*at, text.clone()));
        }
        status.config_error.clone_from(&self.config_error);
        if let (Some(error), None) = (&self.config_error, &self.config) {
            status.status = format!("not configured: {error}");
        }
        self.board.send_if_modified(|board| {
            let differs = board.get(&self.name) != Some(&status);
            if differs {
                board.insert(self.name.clone(), status);
            }
            differs
        });
    }
}

impl<T: Transport, K: Keep> Drop for Driver<T, K> {
    fn drop(&mut self) {
        self.disconnect();
    }
}

async fn answer<R>(request: impl Future<Output = Result<R, TransportError>>) -> Result<R, TransportError> {
    match timeout(REQUEST, request).await {
        Ok(answer) => answer,
        Err(_) => Err(TransportError::Broken(format!("no answer within {} s", REQUEST.as_secs()))),
    }
}

fn lost(stream: StreamId, op: u64, error: TransportError) -> Body {
    match error {
        TransportError::Compacted => Body::Lost { stream, op, reason: LostReason::Compacted },
        TransportError::TooLarge => Body::TooLarge { stream, op },
        TransportError::Refused(text) => Body::Lost { stream, op, reason: LostReason::Refused(text) },
        error => failed(error),
    }
}

/// The end of a connection.
fn failed(error: TransportError) -> Body {
    match error {
        TransportError::Broken(text) | TransportError::Refused(text) => Body::Failed(text),
        TransportError::Wrong(reason, text) => Body::Wrong(reason, text),
        TransportError::Compacted => Body::Failed("the peer's history was compacted".to_owned()),
        TransportError::TooLarge => Body::Failed("an answer was too large".to_owned()),
    }
}
