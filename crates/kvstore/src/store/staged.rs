//! Changes in two steps: made now, in order, and answered when they are durable.
//!
//! In a store that is only in memory the second step is no step at all. In a durable one nothing
//! that a caller learns from an answer can be lost afterwards, also not what a *refusal* tells: a
//! key that "exists already" does so because of somebody's write.

use std::pin::pin;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::durable::{Entry, Gate, Log};
use super::state::{State, Write};
use super::{Applied, Store, WriteOp, apply, quota, txn};
use crate::{Error, pb};

/// Resolves when everything up to some change is durable, or could not be made so.
pub(super) type Receipt = oneshot::Receiver<Result<(), Error>>;

/// The answer to a change, which counts once the change is durable.
#[derive(Debug)]
#[must_use = "nothing is known of a change before it is durable"]
pub struct Pending<T> {
    result: Result<T, Error>,
    receipt: Option<Receipt>,
}

impl<T> Pending<T> {
    fn now(result: Result<T, Error>) -> Self {
        Self { result, receipt: None }
    }

    /// The answer, if there is nothing to wait for.
    ///
    /// # Errors
    /// Itself, if there is.
    pub(crate) fn ready(self) -> Result<Result<T, Error>, Self> {
        if self.receipt.is_none() { Ok(self.result) } else { Err(self) }
    }

    /// Waits until the change is durable.
    ///
    /// # Errors
    /// Those of the change; [`Error::NoSpace`] and [`Error::LogFailed`] where the log could not be
    /// written, in which case the change was not made.
    pub async fn done(self) -> Result<T, Error> {
        if let Some(receipt) = self.receipt {
            receipt.await.unwrap_or(Err(Error::LogFailed))?;
        }
        self.result
    }

    /// Blocks this thread until the change is durable; not for async tasks.
    ///
    /// # Errors
    /// As [`Pending::done`].
    pub fn wait(self) -> Result<T, Error> {
        match self.ready() {
            Ok(result) => result,
            Err(pending) => block_on(pending.done()),
        }
    }
}

/// Unparks the thread that waits.
struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        std::thread::park();
    }
}

/// The changes of a [`Store`], each with its answer to come.
#[derive(Debug)]
pub struct Staged<'a>(pub(super) &'a Store);

impl Staged<'_> {
    /// See [`Store::put`].
    pub fn put(&self, request: pb::PutRequest) -> Pending<pb::PutResponse> {
        if let Err(error) = self.0.check_size(request.key.len() + request.value.len()) {
            return Pending::now(Err(error));
        }
        self.0.0.counters.puts.add(1);
        let cost = quota::put_cost(&request);
        let header = |response: &mut pb::PutResponse, header| response.header = Some(header);
        self.write(Gate::Write, cost, header, |state, write| {
            state.check_put(&request)?;
            Ok(state.put((&request).into(), write))
        })
    }

    /// See [`Store::delete_range`].
    pub fn delete_range(&self, request: &pb::DeleteRangeRequest) -> Pending<pb::DeleteRangeResponse> {
        if request.key.is_empty() {
            return Pending::now(Err(Error::EmptyKey));
        }
        self.0.0.counters.deletes.add(1);
        let header = |response: &mut pb::DeleteRangeResponse, header| response.header = Some(header);
        self.write(Gate::Write, 0, header, |state, write| Ok(state.delete_range(request, write)))
    }

    /// See [`Store::txn`].
    pub fn txn(&self, request: pb::TxnRequest) -> Pending<pb::TxnResponse> {
        if let Err(error) = self.0.check_size(prost::Message::encoded_len(&request)) {
            return Pending::now(Err(error));
        }
        self.0.0.counters.txns.add(1);
        let gate = if txn::only_reads(&request) { Gate::Read } else { Gate::Write };
        let header = |response: &mut pb::TxnResponse, header| response.header = Some(header);
        self.write(gate, quota::txn_cost(&request), header, |state, write| txn::run(state, request, write))
    }

    /// See [`Store::apply`].
    pub fn apply(&self, ops: Vec<WriteOp>) -> Pending<Applied> {
        self.apply_leased(ops, 0)
    }

    /// See [`Store::apply_leased`].
    pub fn apply_leased(&self, ops: Vec<WriteOp>, lease: i64) -> Pending<Applied> {
        let cost = match apply::check(self.0, &ops) {
            Ok(cost) => cost,
            Err(error) => return Pending::now(Err(error)),
        };
        self.change(|state, log| {
            log.admit(state, cost)?;
            state.check_lease(lease)?;
            Ok(apply::run(state, ops, lease, |state, write| {
                if state.commit(write) {
                    log.push_write(state);
                }
            }))
        })
    }

    /// See [`Store::compact`].
    pub fn compact(&self, revision: i64) -> Pending<()> {
        self.change(|state, log| {
            state.compact(revision)?;
            log.push(state, Entry::Compact(revision));
            Ok(())
        })
    }

    /// See [`Store::lease_grant`].
    pub fn lease_grant(&self, id: i64, ttl: i64, now: Instant) -> Pending<(i64, i64)> {
        self.change(|state, log| {
            log.admit(state, quota::lease_cost())?;
            let (id, ttl) = state.leases.grant(id, ttl, now)?;
            log.push(state, Entry::grant(id, ttl));
            self.0.0.counters.leases_granted.add(1);
            Ok((id, ttl))
        })
    }

    /// See [`Store::lease_revoke`].
    pub fn lease_revoke(&self, id: i64) -> Pending<()> {
        self.change(|state, log| {
            state.revoke(id)?;
            log.push(state, Entry::Revoke(id));
            self.0.0.counters.leases_revoked.add(1);
            Ok(())
        })
    }

    /// Ends leases that have run out, if the log can take it; see [`Store::expire_leases`].
    pub(super) fn expire(&self, now: Instant) {
        let nothing = self.0.lock().leases.expired(now).is_none();
        if nothing {
            return;
        }
        let counters = &self.0.0.counters;
        let ended = self.change(|state, log| {
            while let Some(id) = state.leases.expired(now) {
                state.revoke(id)?;
                log.push(state, Entry::Revoke(id));
                counters.leases_expired.add(1);
            }
            Ok(())
        });
        // Nobody asked for it, so nobody waits; what cannot be logged now is tried again.
        drop(ended);
    }

    /// See [`Store::set_space_alarm`].
    pub fn set_space_alarm(&self, raised: bool) -> Pending<bool> {
        self.change(|state, log| {
            let changed = state.space.set_alarm(raised);
            if changed {
                log.push(state, Entry::Alarm(raised));
            }
            Ok(changed)
        })
    }

    /// Keeps what the server knows of users and roles, in its own form.
    pub(crate) fn keep_auth(&self, auth: Bytes) -> Pending<()> {
        self.change(|state, log| {
            state.auth = Some(auth.clone());
            log.push(state, Entry::Auth(auth));
            Ok(())
        })
    }

    /// A change of keys: the next revision, if it changes any.
    fn write<T>(
        &self,
        gate: Gate,
        cost: usize,
        header: impl FnOnce(&mut T, pb::ResponseHeader),
        work: impl FnOnce(&mut State, &mut Write) -> Result<T, Error>,
    ) -> Pending<T> {
        self.change_through(gate, |state, log| {
            log.admit(state, cost)?;
            let mut write = Write::default();
            let mut done = work(state, &mut write)?;
            if state.commit(write) {
                log.push_write(state);
            }
            header(&mut done, self.0.header_at(state.revision));
            Ok(done)
        })
    }

    fn change<T>(&self, work: impl FnOnce(&mut State, &Logging<'_>) -> Result<T, Error>) -> Pending<T> {
        self.change_through(Gate::Write, work)
    }

    fn change_through<T>(
        &self,
        gate: Gate,
        work: impl FnOnce(&mut State, &Logging<'_>) -> Result<T, Error>,
    ) -> Pending<T> {
        let mut state = self.0.lock();
        let log = self.0.0.log.as_ref();
        if let Err(error) = log.map_or(Ok(()), |log| log.pass(gate)) {
            return Pending::now(Err(error));
        }
        let result = work(&mut state, &Logging(log));
        self.finish(state, result)
    }

    fn finish<T>(&self, state: MutexGuard<'_, State>, result: Result<T, Error>) -> Pending<T> {
        let core = &self.0.0.core;
        match &self.0.0.log {
            Some(log) => Pending { result, receipt: log.receipt() },
            None if state.revision == state.published => Pending::now(result),
            None => {
                let revision = state.revision;
                core.publish(state, revision);
                Pending::now(result)
            }
        }
    }
}

/// The log during a change, if there is one.
struct Logging<'a>(Option<&'a Log>);

impl Logging<'_> {
    /// Queues a change that has led to this state.
    fn push(&self, state: &State, entry: Entry) {
        if let Some(log) = self.0 {
            log.push(entry, state.revision);
        }
    }

    /// Queues what was just committed.
    fn push_write(&self, state: &State) {
        if let (Some(log), Some(newest)) = (self.0, state.newest()) {
            log.push(Entry::write(state, newest), state.revision);
        }
    }

    /// Refuses what would add `cost` bytes where there is no space; that raises the alarm.
    fn admit(&self, state: &mut State, cost: usize) -> Result<(), Error> {
        let before = state.space.alarm();
        let admitted = state.admit(cost);
        if state.space.alarm() != before {
            self.push(state, Entry::Alarm(true));
        }
        admitted
    }
}
