//! Directories of the cgroup v2 hierarchy: where a lab's processes are, and how all of them are ended at once.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::{Context, Result};

/// A cgroup v2 directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Where cgroup v2 is mounted, by file system type: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on hybrid systems.
    ///
    /// # Errors
    /// If `/proc/mounts` cannot be read; `Ok(None)` if cgroup v2 is not mounted.
    pub fn mount_point() -> Result<Option<PathBuf>> {
        let mounts = fs::read_to_string("/proc/self/mounts").what(|| "read /proc/self/mounts".into())?;
        Ok(mounts.lines().find_map(|line| {
            let mut fields = line.split(' ');
            let (_, target, kind) = (fields.next()?, fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(target))
        }))
    }

    /// The cgroup at a directory, which need not exist yet.
    pub fn at(path: impl Into<PathBuf>) -> Cgroup {
        Cgroup { path: path.into() }
    }

    /// A cgroup beneath this one.
    pub fn child(&self, name: &str) -> Cgroup {
        Cgroup { path: self.path.join(name) }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates the directory and those above it; harmless if it is there.
    ///
    /// # Errors
    /// If cgroup v2 does not allow it.
    pub fn create(&self) -> Result<()> {
        fs::create_dir_all(&self.path).what(|| format!("create cgroup {}", self.path.display()))
    }

    /// Moves the calling process into it.
    ///
    /// # Errors
    /// If it is not there.
    pub fn enter(&self) -> Result<()> {
        let file = self.path.join("cgroup.procs");
        fs::write(&file, "0").what(|| format!("enter cgroup {}", self.path.display()))
    }

    /// Moves a process into it.
    ///
    /// # Errors
    /// If either is not there.
    pub fn add(&self, pid: u32) -> Result<()> {
        let file = self.path.join("cgroup.procs");
        fs::write(&file, pid.to_string())
            .what(|| format!("move process {pid} into cgroup {}", self.path.display()))
    }

    /// Process ids in this cgroup (not beneath).
    pub fn processes(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|l| l.parse().ok()).collect()
    }

    /// Process ids in this cgroup and everything beneath, in ascending order.
    pub fn processes_below(&self) -> Vec<u32> {
        let mut all = Vec::new();
        for group in self.tree() {
            all.extend(Cgroup::at(group).processes());
        }
        all.sort_unstable();
        all
    }

    /// Kills every process in it and beneath, including those that are just being forked. Harmless if it is not there.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn kill(&self) -> Result<()> {
        match fs::write(self.path.join("cgroup.kill"), "1") {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.what(|| format!("kill cgroup {}", self.path.display())),
        }
    }

    /// Kills what is in it and removes it with everything beneath; waits for the processes to be gone. Harmless if it is
    /// not there.
    ///
    /// # Errors
    /// If something is still there after `deadline`.
    pub fn destroy(&self, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        loop {
            self.kill()?;
            // Deepest first: a cgroup can only be removed without children.
            let mut last = Ok(());
            for group in self.tree().iter().rev() {
                match fs::remove_dir(group) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => last = Err(e),
                    Ok(()) => {}
                }
            }
            if !self.path.exists() {
                return Ok(());
            }
            if Instant::now() > end {
                return last.what(|| {
                    format!("remove cgroup {} (processes {:?})", self.path.display(), self.processes_below())
                });
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// This directory and all beneath, parents before children.
    fn tree(&self) -> Vec<PathBuf> {
        let mut found = vec![self.path.clone()];
        let mut next = 0;
        while next < found.len() {
            if let Ok(entries) = fs::read_dir(&found[next]) {
                let dirs = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
                found.extend(dirs.map(|e| e.path()).collect::<Vec<_>>());
            }
            next += 1;
        }
        found
    }
}
