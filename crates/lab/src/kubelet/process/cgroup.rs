//! cgroup v2 directories of pods and containers: where a container's processes are, and how all of them are ended.

use std::io;
use std::path::Path;
use std::time::Duration;

/// Creates a cgroup and those above it.
///
/// # Errors
/// If the hierarchy refuses.
pub fn create(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)
}

/// Kills every process in a cgroup and beneath it; harmless if it is not there.
pub fn kill(dir: &Path) {
    let _ = std::fs::write(dir.join("cgroup.kill"), "1");
}

/// Sends a signal to every process in a cgroup.
pub fn signal(dir: &Path, signal: i32) {
    for pid in processes(dir) {
        // SAFETY: no pointers.
        unsafe { libc::kill(pid, signal) };
    }
}

/// Process ids in a cgroup.
pub fn processes(dir: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|l| l.parse().ok()).filter(|p| *p > 0).collect()
}

/// Kills what is in a cgroup and removes it with all beneath, waiting for the processes to be gone.
///
/// # Errors
/// If something is still there after `patience`.
pub async fn remove(dir: &Path, patience: Duration) -> io::Result<()> {
    let end = tokio::time::Instant::now() + patience;
    loop {
        kill(dir);
        match remove_tree(dir) {
            Ok(()) => return Ok(()),
            Err(e) if tokio::time::Instant::now() > end => return Err(e),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match std::fs::remove_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
