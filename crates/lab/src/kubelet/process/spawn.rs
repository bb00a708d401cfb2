//! Starting and reaping processes.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;

use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use super::steps::{self, Step};

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// A step before exec failed.
    #[error("cannot {what}: {source}")]
    Setup {
        /// What was being done.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The program cannot be executed: not found, not executable.
    #[error("exec {program:?}: {source}")]
    Exec {
        /// The program.
        program: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The kubelet is ending.
    #[error("the process starter has ended")]
    Ended,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Exit code; 128 plus the signal for a process ended by one, as shells and container runtimes count.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

/// What to start.
#[derive(Debug)]
pub struct Program {
    /// Program and arguments; the program is looked up in the `PATH` of `env` after all steps.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// What happens before.
    pub steps: Vec<Step>,
    /// Whether standard output and error are pipes to us (else `/dev/null`).
    pub piped: bool,
}

/// A running process.
#[derive(Debug)]
pub struct Process {
    /// Its id, in the host's pid namespace.
    pub pid: u32,
    /// Our end of its standard output.
    pub stdout: Option<OwnedFd>,
    /// Our end of its standard error.
    pub stderr: Option<OwnedFd>,
    child: Child,
    pidfd: OwnedFd,
}

impl Process {
    /// Waits for its end and reaps it.
    ///
    /// # Errors
    /// If the kernel's notification cannot be used.
    pub async fn wait(self) -> io::Result<Exit> {
        let Process { mut child, pidfd, .. } = self;
        // SAFETY: the descriptor is owned by the `AsyncFd` from here on and closed with it only.
        let readiness = unsafe { AsyncFd::register(pidfd) }?;
        loop {
            if let Some(status) = child.try_wait()? {
                let signal = status.signal();
                return Ok(Exit { code: status.code().unwrap_or(128 + signal.unwrap_or(0)), signal });
            }
            readiness.readable().await?.clear_ready();
        }
    }
}

type Request = (Program, oneshot::Sender<Result<Process, SpawnError>>);

/// Starts processes from one thread that lives as long as any clone of this: children die with the *thread* that started
/// them (`PR_SET_PDEATHSIG`), which must therefore be none of a pool.
#[derive(Debug, Clone)]
pub struct Spawner {
    requests: Arc<mpsc::Sender<Request>>,
}

impl Spawner {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system has no more threads.
    pub fn start() -> io::Result<Self> {
        let (requests, queue) = mpsc::channel::<Request>();
        std::thread::Builder::new().name("spawner".into()).spawn(move || {
            while let Ok((program, answer)) = queue.recv() {
                // Whoever asked may have given up; then the process is dropped, and its cgroup killed by its owner.
                let _ = answer.send(fork(program));
            }
        })?;
        Ok(Spawner { requests: Arc::new(requests) })
    }

    /// Starts a program.
    ///
    /// # Errors
    /// See [`SpawnError`].
    pub async fn spawn(&self, program: Program) -> Result<Process, SpawnError> {
        let (answer, result) = oneshot::channel();
        self.requests.send((program, answer)).map_err(|_| SpawnError::Ended)?;
        result.await.map_err(|_| SpawnError::Ended)?
    }
}

fn fork(program: Program) -> Result<Process, SpawnError> {
    let setup = |what: &str| {
        let what = what.to_string();
        move |source| SpawnError::Setup { what, source }
    };
    let Some((name, arguments)) = program.argv.split_first() else {
        return Err(SpawnError::Exec { program: String::new(), source: io::ErrorKind::InvalidInput.into() });
    };
    let (mut report, reporter) = io::pipe().map_err(setup("make a pipe"))?;
    let steps = Arc::new(program.steps);
    let (inner, fd) = (steps.clone(), reporter.as_raw_fd());
    let mut command = Command::new(name);
    let stdio = || if program.piped { Stdio::piped() } else { Stdio::null() };
    command
        .args(arguments)
        .env_clear()
        .envs(program.env)
        .stdin(Stdio::null())
        .stdout(stdio())
        .stderr(stdio());
    // SAFETY: the closure makes prepared system calls only and neither allocates nor takes locks.
    unsafe { command.pre_exec(move || steps::run(&inner, fd)) };
    let spawned = command.spawn();
    drop(reporter);
    let mut child = spawned.map_err(|source| {
        let mut index = [0u8; 4];
        match report.read_exact(&mut index) {
            Ok(()) => {
                let step = steps.get(u32::from_ne_bytes(index) as usize);
                SpawnError::Setup { what: step.map(Step::describe).unwrap_or_default(), source }
            }
            Err(_) => SpawnError::Exec { program: name.clone(), source },
        }
    })?;
    let pid = child.id();
    // SAFETY: no pointers; the descriptor returned is ours alone. The process is not reaped yet, so the id is its own.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, libc::PIDFD_NONBLOCK) };
    if pidfd < 0 {
        let source = io::Error::last_os_error();
        let _ = child.kill();
        let _ = child.wait();
        return Err(SpawnError::Setup { what: format!("watch process {pid}"), source });
    }
    // SAFETY: just opened, owned by nobody else.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd as i32) };
    let (stdout, stderr) = (child.stdout.take().map(Into::into), child.stderr.take().map(Into::into));
    Ok(Process { pid, stdout, stderr, child, pidfd })
}
