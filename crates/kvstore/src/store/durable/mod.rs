//! A store that survives its process: a log of all changes, and snapshots that replace it.
//!
//! A change is made in memory and queued for the log under one lock, so both have the same order. A
//! thread writes what has queued up as one frame with one `fsync`, however many writers wait for it,
//! and only then lets readers and watchers see it and answers the writers. Nobody ever sees a
//! revision that could be lost, and so none is ever given twice.
//!
//! When the log is long enough it goes on in a new file, and the state of that moment is written as
//! a snapshot beside it, a page of keys at a time while the store goes on; then the older files go.
//!
//! Where the disk is full, the changes that could not be written are refused and undone, by reading
//! the state again from what is durable; until there is space again no change is taken.

mod files;
mod frame;
mod image;
mod log;
mod queue;
mod record;
mod recover;
mod stats;

use std::path::{Path, PathBuf};

pub(super) use log::Log;
pub(super) use queue::Gate;
pub(super) use record::Entry;
pub use stats::LogStats;

/// Why a durable store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error(
        "the store in {} is in use by process {holder}; stop that process, or give this one a data-dir of its own",
        dir.display()
    )]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// The id of the process.
        holder: String,
    },
    /// A file is not as it was written.
    #[error(
        "{} is damaged at offset {offset}: {what}; put back a copy of the directory, or move the directory away to \
         begin with an empty store",
        file.display()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where the damaged record begins, bytes.
        offset: u64,
        /// How it shows.
        what: &'static str,
    },
    /// Logs without the snapshot they belong to.
    #[error(
        "{} has logs but no snapshot; put back the missing files, or move the directory away to begin with an empty store",
        dir.display()
    )]
    NoSnapshot {
        /// The directory.
        dir: PathBuf,
    },
    /// A file of another version.
    #[error("{} has format {format}, and this version reads format 1; open it with the version that wrote it", file.display())]
    Format {
        /// The file.
        file: PathBuf,
        /// Its format.
        format: u32,
    },
    /// The operating system refuses.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl OpenError {
    fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), source }
    }

    fn damaged(file: &Path, offset: u64, what: &'static str) -> Self {
        Self::Damaged { file: file.to_owned(), offset, what }
    }
}

/// The end of a log that a crash has left half written, and that was never answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutTail {
    /// The log.
    pub file: PathBuf,
    /// Where it was cut, bytes.
    pub offset: u64,
    /// How much was cut off, bytes.
    pub bytes: u64,
}
