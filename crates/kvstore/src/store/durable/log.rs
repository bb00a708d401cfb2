//! The thread that writes the log, and its end inside the store.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::super::Core;
use super::super::staged::Receipt;
use super::super::state::State;
use super::files::{self, Files, Lock};
use super::image::Image;
use super::queue::{Batch, Gate, Health, Queue};
use super::record::{Entry, FORMAT, Meta};
use super::recover::{Recovered, recover, write_snapshot};
use super::stats::{Counting, LogStats};
use super::{CutTail, OpenError, frame};
use crate::{Error, StoreOptions};

/// How often a full disk is tried again.
const PROBE: Duration = Duration::from_secs(1);
/// Bytes there must be room for before changes are taken again.
const ROOM: usize = 64 << 10;

/// A log being written. Dropping it writes what is queued and frees the directory.
#[derive(Debug)]
pub(in super::super) struct Log {
    queue: Arc<Queue>,
    counting: Arc<Counting>,
    tail: Option<CutTail>,
    thread: Option<JoinHandle<()>>,
}

impl Log {
    /// Opens a directory, or begins one.
    pub(in super::super) fn open(
        dir: &Path,
        options: &StoreOptions,
    ) -> Result<(Arc<Core>, Self, Meta), OpenError> {
        let lock = files::lock(dir)?;
        let list = || Files::find(dir).map_err(|source| OpenError::io("list", dir, source));
        let mut found = list()?;
        if found.is_empty() {
            begin(dir, options).map_err(|source| OpenError::io("write", dir, source))?;
            found = list()?;
        }
        let Recovered { state, meta, generation, number, length, log_bytes, snapshot_bytes, tail } =
            recover(dir, &found, options, None)?;
        let path = files::log(dir, generation);
        let file = open_log(dir, &path, tail.as_ref()).map_err(|s| OpenError::io("write", &path, s))?;
        let snapshot = found.snapshots.last().copied().unwrap_or_default();
        files::clean(dir, snapshot).map_err(|source| OpenError::io("clean", dir, source))?;
        let core = Core::new(state);
        let (queue, counting) = (Arc::new(Queue::new()), Arc::new(Counting::default()));
        let writer = Writer {
            core: core.clone(),
            queue: queue.clone(),
            counting: counting.clone(),
            dir: dir.to_owned(),
            options: options.clone(),
            meta: meta.clone(),
            _lock: lock,
            file,
            generation,
            number,
            length,
            log_bytes,
            snapshot_from: snapshot_bytes,
            running: None,
            frame: Vec::new(),
        };
        let thread = std::thread::Builder::new().name("store-log".into()).spawn(move || writer.run());
        let thread = thread.map_err(|source| OpenError::io("start a thread for", dir, source))?;
        Ok((core, Self { queue, counting, tail, thread: Some(thread) }, meta))
    }

    /// Whether the log allows it; to be asked under the store's lock.
    pub(in super::super) fn pass(&self, gate: Gate) -> Result<(), Error> {
        self.queue.pass(gate)
    }

    /// Queues a change that leads to `revision`; to be called under the store's lock.
    pub(in super::super) fn push(&self, entry: Entry, revision: i64) {
        self.queue.push(entry, revision);
    }

    /// What to wait for until all that the state holds now is durable.
    pub(in super::super) fn receipt(&self) -> Option<Receipt> {
        self.queue.receipt()
    }

    pub(in super::super) fn cut_tail(&self) -> Option<&CutTail> {
        self.tail.as_ref()
    }

    pub(in super::super) fn stats(&self) -> LogStats {
        self.counting.get()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.take() {
            // It has said itself why it ended.
            let _ = thread.join();
        }
    }
}

/// Writes the first snapshot, of nothing: it gives the store its ids.
fn begin(dir: &Path, options: &StoreOptions) -> io::Result<()> {
    let mut state = State::new(options.clone());
    let image = Image::take(&mut state);
    let meta = Meta {
        format: FORMAT,
        cluster_id: rand::random::<u64>().max(1),
        member_id: rand::random::<u64>().max(1),
        number: 0,
        compacted: image.compacted,
    };
    write_snapshot(dir, 1, meta, image, &Core::new(state), &AtomicBool::new(false)).map(drop)
}

/// The newest log, ready to be written behind its sound frames.
fn open_log(dir: &Path, path: &Path, tail: Option<&CutTail>) -> io::Result<File> {
    let file = File::options().write(true).create(true).truncate(false).open(path)?;
    if let Some(CutTail { file: name, offset, bytes }) = tail {
        tracing::warn!(file = %name.display(), offset, bytes, "cut off what a crash has left half written");
        file.set_len(*offset)?;
        file.sync_all()?;
    }
    files::sync_dir(dir)?;
    Ok(file)
}

/// A snapshot being written by a thread of its own.
#[derive(Debug)]
struct Running {
    thread: JoinHandle<()>,
    outcome: mpsc::Receiver<io::Result<u64>>,
    stop: Arc<AtomicBool>,
    /// Bytes of the logs it replaces.
    replaces: u64,
}

struct Writer {
    core: Arc<Core>,
    queue: Arc<Queue>,
    counting: Arc<Counting>,
    dir: PathBuf,
    options: StoreOptions,
    meta: Meta,
    /// Held for as long as the directory may be written.
    _lock: Lock,
    /// The newest log.
    file: File,
    generation: u64,
    /// The number of the next frame.
    number: u64,
    /// Durable bytes of the newest log.
    length: u64,
    /// Bytes of all logs since the last snapshot.
    log_bytes: u64,
    /// Bytes of log from which on a snapshot is worth it, beyond the configured bound.
    snapshot_from: u64,
    running: Option<Running>,
    frame: Vec<u8>,
}

impl Writer {
    fn run(mut self) {
        loop {
            let good = self.queue.health() == Health::Good;
            let Some(batch) = self.queue.take((!good).then_some(PROBE)) else { break };
            self.commit(batch);
            self.heal();
            self.look_after_snapshot();
            let enough = self.options.snapshot_log_bytes.max(self.snapshot_from);
            let good = self.queue.health() == Health::Good;
            if good && self.running.is_none() && self.log_bytes > enough {
                self.rotate();
            }
        }
        self.stop_snapshot();
    }

    /// Makes a batch durable, then visible, and only then answers it.
    fn commit(&mut self, batch: Batch) {
        if batch.payload.is_empty() {
            return batch.answer(Ok(()));
        }
        match self.write(&batch.payload) {
            Ok(()) => {
                self.core.publish(self.core.lock(), batch.revision);
                batch.answer(Ok(()));
            }
            Err(error) => self.fail(&error, batch),
        }
    }

    fn write(&mut self, payload: &[u8]) -> io::Result<()> {
        self.frame.clear();
        frame::write(self.number, payload, &mut self.frame);
        let start = Instant::now();
        self.file.write_all_at(&self.frame, self.length)?;
        self.file.sync_data()?;
        let bytes = self.frame.len() as u64;
        self.counting.synced(bytes, start.elapsed());
        self.number += 1;
        self.length += bytes;
        self.log_bytes += bytes;
        // One large batch must not be remembered by its buffer for ever.
        self.frame.shrink_to(1 << 20);
        Ok(())
    }

    /// Refuses what could not be written, and all that was built on it meanwhile.
    fn fail(&mut self, error: &io::Error, mut batch: Batch) {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let full = matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge);
        let refusal = if full { Error::NoSpace } else { Error::LogFailed };
        let dir = self.dir.display();
        match full {
            true => {
                tracing::error!(%dir, %error, "the disk is full: reads go on, changes are refused until there is space")
            }
            false => {
                tracing::error!(%dir, %error, "the log cannot be written: reads go on, changes are refused until a restart")
            }
        }
        let rest = {
            let _state = self.core.lock();
            self.queue.set_health(Health::Undoing(refusal));
            self.queue.take_now()
        };
        self.counting.change(|stats| stats.failures += 1);
        batch.answer_behind();
        batch.answer(Err(refusal));
        rest.answer(Err(refusal));
        self.stop_snapshot();
    }

    /// One step back to taking changes, if one is needed and possible.
    fn heal(&mut self) {
        if let Health::Undoing(refusal) = self.queue.health() {
            match self.undo() {
                Ok(()) => self.queue.set_health(Health::Refusing(refusal)),
                Err(error) => tracing::error!(%error, "cannot undo the changes that were not written"),
            }
        }
        if self.queue.health() == Health::Refusing(Error::NoSpace) && self.probe().is_ok() {
            tracing::info!(dir = %self.dir.display(), "there is space again; changes are taken");
            self.queue.set_health(Health::Good);
        }
    }

    /// Puts the state back to what is durable.
    fn undo(&mut self) -> Result<(), OpenError> {
        let found = Files::find(&self.dir).map_err(|source| OpenError::io("list", &self.dir, source))?;
        let bound = Some((self.generation, self.length));
        let mut recovered = recover(&self.dir, &found, &self.options, bound)?;
        let mut state = self.core.lock();
        if recovered.state.published != state.published {
            let path = files::log(&self.dir, self.generation);
            return Err(OpenError::damaged(&path, recovered.length, "it does not hold what was written"));
        }
        // Who watches has seen nothing of what is undone, and goes on.
        recovered.state.hub = std::mem::take(&mut state.hub);
        *state = recovered.state;
        Ok(())
    }

    /// Removes what a failed write has left, and tries whether there is room for more.
    fn probe(&self) -> io::Result<()> {
        self.file.set_len(self.length)?;
        let tried = self.file.write_all_at(&vec![0; ROOM], self.length).and_then(|()| self.file.sync_data());
        self.file.set_len(self.length)?;
        self.file.sync_data()?;
        tried
    }

    /// Goes on in a new log, and has the state of this moment written as a snapshot.
    fn rotate(&mut self) {
        let (batch, image) = {
            let mut state = self.core.lock();
            (self.queue.take_now(), Image::take(&mut state))
        };
        // What the image includes belongs to the old log.
        self.commit(batch);
        if self.queue.health() != Health::Good {
            return;
        }
        let generation = self.generation + 1;
        let path = files::log(&self.dir, generation);
        let file = match open_log(&self.dir, &path, None) {
            Ok(file) => file,
            Err(error) => return self.no_snapshot(&error),
        };
        (self.file, self.generation, self.length) = (file, generation, 0);
        let meta = Meta { number: self.number, compacted: image.compacted, ..self.meta.clone() };
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, outcome) = mpsc::channel();
        let work = {
            let (dir, core, queue, stop) =
                (self.dir.clone(), self.core.clone(), self.queue.clone(), stop.clone());
            move || {
                // The other end goes only when this thread has been waited for.
                let _ = sender.send(write_snapshot(&dir, generation, meta, image, &core, &stop));
                queue.nudge();
            }
        };
        match std::thread::Builder::new().name("store-snapshot".into()).spawn(work) {
            Ok(thread) => {
                self.running = Some(Running { thread, outcome, stop, replaces: self.log_bytes });
            }
            Err(error) => self.no_snapshot(&error),
        }
    }

    fn look_after_snapshot(&mut self) {
        let Some(outcome) = self.running.as_ref().and_then(|running| running.outcome.try_recv().ok()) else {
            return;
        };
        let Some(running) = self.running.take() else { return };
        // It has sent its outcome, and so cannot fail any more.
        let _ = running.thread.join();
        let cleaned = outcome.and_then(|bytes| files::clean(&self.dir, self.generation).map(|()| bytes));
        match cleaned {
            Ok(bytes) => {
                self.core.lock().unpin();
                self.snapshot_from = bytes;
                self.log_bytes -= running.replaces;
                self.counting.change(|stats| stats.snapshots += 1);
                tracing::debug!(bytes, generation = self.generation, "a snapshot replaces the older log");
            }
            Err(error) => self.no_snapshot(&error),
        }
    }

    /// The log goes on growing; the next attempt is when it is twice as long.
    fn no_snapshot(&mut self, error: &io::Error) {
        self.core.lock().unpin();
        self.snapshot_from = 2 * self.log_bytes;
        tracing::warn!(%error, log_bytes = self.log_bytes, "no snapshot was written; the log goes on");
    }

    fn stop_snapshot(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.store(true, Ordering::Relaxed);
            let _ = running.thread.join();
            self.core.lock().unpin();
        }
    }
}

impl Drop for Writer {
    /// However it ends, nobody is left waiting.
    fn drop(&mut self) {
        self.queue.set_health(Health::Refusing(Error::LogFailed));
        self.queue.take_now().answer(Err(Error::LogFailed));
    }
}
