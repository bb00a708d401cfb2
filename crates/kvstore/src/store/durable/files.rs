//! The files of a durable store: `LOCK`, and by generation (a number that counts snapshots)
//! `<generation>.snapshot` and `<generation>.log`, the changes since that snapshot.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::OpenError;

/// What is in a directory, in order.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) snapshots: Vec<u64>,
    pub(super) logs: Vec<u64>,
}

pub(super) fn snapshot(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("{generation:016}.snapshot"))
}

pub(super) fn log(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("{generation:016}.log"))
}

/// Where a snapshot is written before it gets its name.
pub(super) fn temporary(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("{generation:016}.tmp"))
}

impl Files {
    /// Looks what is there. Other files are left alone.
    pub(super) fn find(dir: &Path) -> io::Result<Self> {
        let mut found = Self::default();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
            match (number, path.extension().and_then(|e| e.to_str())) {
                (Some(number), Some("snapshot")) => found.snapshots.push(number),
                (Some(number), Some("log")) => found.logs.push(number),
                _ => {}
            }
        }
        found.snapshots.sort_unstable();
        found.logs.sort_unstable();
        Ok(found)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.snapshots.is_empty() && self.logs.is_empty()
    }
}

/// Removes what the snapshot of `generation` has made superfluous, and snapshots that were never
/// finished.
pub(super) fn clean(dir: &Path, generation: u64) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        let old = number.is_some_and(|number| number < generation);
        match path.extension().and_then(|e| e.to_str()) {
            Some("snapshot" | "log") if old => fs::remove_file(&path)?,
            Some("tmp") if number.is_some() => fs::remove_file(&path)?,
            _ => {}
        }
    }
    Ok(())
}

/// Makes names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// How long a process that was killed may still take to let go of the lock.
const PATIENCE: Duration = Duration::from_secs(1);

/// A directory is this process's.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    /// Closing the file would not be enough: a child process being made may hold it for a moment.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// Creates the directory if need be, and locks it.
pub(super) fn lock(dir: &Path) -> Result<Lock, OpenError> {
    fs::create_dir_all(dir).map_err(|source| OpenError::io("create", dir, source))?;
    let path = dir.join("LOCK");
    let io = |source| OpenError::io("lock", &path, source);
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(source)) => return Err(io(source)),
            Err(TryLockError::WouldBlock) if began.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                return Err(OpenError::Locked { dir: dir.to_owned(), holder: holder.trim().to_owned() });
            }
        }
    }
    // For people only, so it does not matter if it cannot be written.
    let _ =
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(Lock(file))
}
