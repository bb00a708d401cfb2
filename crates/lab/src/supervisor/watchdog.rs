//! A process that outlives the supervisor by moments: when the supervisor ends, however that happens, it kills what is left
//! of the lab and removes its cgroups and state.
//!
//! It waits on a pipe whose other end only the supervisor holds. It is outside the lab's cgroup, which it kills.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::sys::signal::{SigHandler, Signal, signal};

use crate::error::Result;
use crate::runtime::spawn::Exit;
use crate::runtime::{Context, spawn};
use crate::state::LabDir;

/// A running watchdog, as the supervisor holds it.
pub(super) struct Watchdog {
    child: tokio::process::Child,
    /// Closed by the kernel when the supervisor ends.
    _alive: OwnedFd,
}

impl Watchdog {
    pub(super) async fn wait(&mut self) -> Option<Exit> {
        self.child.wait().await.ok().map(Exit::from)
    }
}

/// Starts a watchdog over the calling process.
pub(super) fn start(dir: &LabDir) -> Result<Watchdog> {
    let (read, alive) = nix::unistd::pipe2(OFlag::O_CLOEXEC).what(|| "create a pipe".into())?;
    let log = dir.log("watchdog");
    let file = File::options().create(true).append(true).open(&log);
    let file = file.what(|| format!("open {}", log.display()))?;
    let mut command = tokio::process::Command::new(spawn::executable()?);
    command.args(["lab", "watchdog", "--name", dir.name()]);
    command.stdin(read).stdout(std::process::Stdio::null()).stderr(file);
    // A session of its own: what is typed at a terminal, or sent to the supervisor's group, is not for it.
    // SAFETY: setsid is a system call without memory of ours.
    unsafe {
        command.pre_exec(|| nix::unistd::setsid().map(|_| ()).map_err(Into::into));
    }
    let child = command.spawn().what(|| "start the watchdog".into())?;
    if let (Some(pid), Some(mount)) = (child.id(), crate::runtime::Cgroup::mount_point()?) {
        // A second watchdog is started by a supervisor that is in the lab's cgroup by now.
        crate::runtime::Cgroup::at(mount).add(pid)?;
    }
    Ok(Watchdog { child, _alive: alive })
}

/// The watchdog itself: waits for the end of its standard input, then cleans up.
///
/// # Errors
/// If something cannot be removed; `lab down` tries again.
pub fn run(name: &str) -> Result<()> {
    for ignored in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGPIPE] {
        // SAFETY: ignoring a signal installs no handler.
        unsafe { signal(ignored, SigHandler::SigIgn) }.what(|| format!("ignore {ignored}"))?;
    }
    let dir = LabDir::new(name)?;
    let mut end = [0u8; 1];
    while !matches!(std::io::stdin().read(&mut end), Ok(0)) {}
    dir.clean()
}
