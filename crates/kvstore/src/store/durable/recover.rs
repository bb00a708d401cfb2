//! From the files of a directory to the state they describe.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use super::super::state::State;
use super::files::{self, Files};
use super::frame::{self, Frames};
use super::image::Image;
use super::record::{self, Entry, FORMAT, Meta};
use super::{CutTail, OpenError};
use crate::StoreOptions;
use crate::store::Core;

/// Bytes of a snapshot's frames.
const PART: usize = 256 << 10;

/// A state read from files, and where to go on writing.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) state: State,
    pub(super) meta: Meta,
    /// Of the newest log file.
    pub(super) generation: u64,
    /// The number of the next frame.
    pub(super) number: u64,
    /// Bytes of sound frames in the newest log file.
    pub(super) length: u64,
    /// Bytes of all logs since the snapshot.
    pub(super) log_bytes: u64,
    pub(super) snapshot_bytes: u64,
    /// What follows the sound frames of the newest log.
    pub(super) tail: Option<CutTail>,
}

/// Reads the newest snapshot of a directory and the logs since. `bound` says how many bytes of the
/// log of which generation count.
///
/// # Errors
/// [`OpenError`]; nothing is changed in any case.
pub(super) fn recover(
    dir: &Path,
    found: &Files,
    options: &StoreOptions,
    bound: Option<(u64, u64)>,
) -> Result<Recovered, OpenError> {
    let first = *found.snapshots.last().ok_or_else(|| OpenError::NoSnapshot { dir: dir.to_owned() })?;
    let path = files::snapshot(dir, first);
    let (state, meta, snapshot_bytes) = read_snapshot(&path, options)?;
    let number = meta.number;
    let mut recovered = Recovered {
        state,
        meta,
        generation: first,
        number,
        length: 0,
        log_bytes: 0,
        snapshot_bytes,
        tail: None,
    };
    let last = found.logs.last().copied().unwrap_or(first).max(first);
    for generation in first..=last {
        let end = bound.filter(|(of, _)| *of == generation).map_or(u64::MAX, |(_, length)| length);
        recovered.generation = generation;
        recovered.read_log(&files::log(dir, generation), end, generation == last)?;
    }
    Ok(recovered)
}

impl Recovered {
    fn read_log(&mut self, path: &Path, end: u64, newest: bool) -> Result<(), OpenError> {
        let io = |source| OpenError::io("read", path, source);
        let mut frames = match Frames::open(path, self.number, end) {
            Ok(frames) => frames,
            // A crash between a snapshot, or a rotation, and the creation of its log.
            Err(error) if newest && error.kind() == std::io::ErrorKind::NotFound => {
                self.length = 0;
                return Ok(());
            }
            Err(error) => return Err(io(error)),
        };
        loop {
            let at = frames.offset();
            match frames.next().map_err(io)? {
                Ok(Some(payload)) => {
                    self.replay(payload).map_err(|what| OpenError::damaged(path, at, what))?
                }
                Ok(None) => break,
                Err(damage) if newest && !frame::any_behind(path, damage.offset).map_err(io)? => {
                    let bytes = std::fs::metadata(path).map_err(io)?.len() - damage.offset;
                    self.tail = Some(CutTail { file: path.to_owned(), offset: damage.offset, bytes });
                    break;
                }
                Err(damage) => return Err(OpenError::damaged(path, damage.offset, damage.what)),
            }
        }
        (self.number, self.length) = (frames.number(), frames.offset());
        self.log_bytes += frames.offset();
        Ok(())
    }

    fn replay(&mut self, payload: Vec<u8>) -> Result<(), &'static str> {
        record::entries(payload)?.into_iter().try_for_each(|entry| self.state.replay(entry))
    }
}

fn read_snapshot(path: &Path, options: &StoreOptions) -> Result<(State, Meta, u64), OpenError> {
    let io = |source| OpenError::io("read", path, source);
    let mut frames = Frames::open(path, 0, u64::MAX).map_err(io)?;
    let mut state = State::new(options.clone());
    let (mut meta, mut complete) = (None, false);
    loop {
        let at = frames.offset();
        let damaged = |what| OpenError::damaged(path, at, what);
        let payload = match frames.next().map_err(io)? {
            Ok(Some(payload)) => payload,
            Ok(None) => break,
            Err(damage) => return Err(OpenError::damaged(path, damage.offset, damage.what)),
        };
        for entry in record::entries(payload).map_err(damaged)? {
            match entry {
                Entry::Meta(found) if meta.is_none() => {
                    if found.format != FORMAT {
                        return Err(OpenError::Format { file: path.to_owned(), format: found.format });
                    }
                    state.restore_at(found.compacted);
                    meta = Some(found);
                }
                Entry::End(_) => complete = true,
                _ if meta.is_none() || complete => return Err(damaged("a record that belongs elsewhere")),
                entry => state.replay(entry).map_err(damaged)?,
            }
        }
    }
    match meta {
        Some(meta) if complete => Ok((state, meta, frames.offset())),
        _ => Err(OpenError::damaged(path, frames.offset(), "the snapshot ends before its last record")),
    }
}

/// Writes a snapshot under its name, whole and durable, or not at all.
///
/// # Errors
/// Those of the disk; `stop` becoming true is one of kind `Interrupted`.
pub(super) fn write_snapshot(
    dir: &Path,
    generation: u64,
    meta: Meta,
    image: Image,
    core: &Core,
    stop: &std::sync::atomic::AtomicBool,
) -> std::io::Result<u64> {
    let temporary = files::temporary(dir, generation);
    let written = write_parts(&temporary, meta, image, core, stop).and_then(|bytes| {
        std::fs::rename(&temporary, files::snapshot(dir, generation))?;
        files::sync_dir(dir)?;
        Ok(bytes)
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

fn write_parts(
    path: &Path,
    meta: Meta,
    image: Image,
    core: &Core,
    stop: &std::sync::atomic::AtomicBool,
) -> std::io::Result<u64> {
    let mut parts =
        Parts { file: File::create(path)?, payload: Vec::new(), frame: Vec::new(), number: 0, bytes: 0 };
    parts.add(Entry::Meta(meta))?;
    image.entries(core, |entry| {
        if stop.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(std::io::ErrorKind::Interrupted.into());
        }
        parts.add(entry)
    })?;
    parts.add(Entry::End(true))?;
    parts.flush()?;
    parts.file.sync_all()?;
    Ok(parts.bytes)
}

/// A file written in frames of about the same size.
struct Parts {
    file: File,
    payload: Vec<u8>,
    frame: Vec<u8>,
    number: u64,
    bytes: u64,
}

impl Parts {
    fn add(&mut self, entry: Entry) -> std::io::Result<()> {
        entry.append(&mut self.payload);
        if self.payload.len() >= PART { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.frame.clear();
        frame::write(self.number, &self.payload, &mut self.frame);
        self.file.write_all(&self.frame)?;
        self.payload.clear();
        self.number += 1;
        self.bytes += self.frame.len() as u64;
        Ok(())
    }
}
