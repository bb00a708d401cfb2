//! Starting processes so that they never outlive the one that started them.

use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{OnceLock, mpsc};
use std::thread;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::{Container, Context, Result};

/// Where a new process reads and writes.
#[derive(Debug)]
pub struct Stdio {
    /// Standard input.
    pub stdin: std::process::Stdio,
    /// Standard output.
    pub stdout: std::process::Stdio,
    /// Standard error.
    pub stderr: std::process::Stdio,
}

impl Stdio {
    /// Nothing in, nothing out.
    pub fn null() -> Stdio {
        let null = std::process::Stdio::null;
        Stdio { stdin: null(), stdout: null(), stderr: null() }
    }

    /// The starter's own.
    pub fn inherit() -> Stdio {
        let inherit = std::process::Stdio::inherit;
        Stdio { stdin: inherit(), stdout: inherit(), stderr: inherit() }
    }

    /// Nothing in, both outputs through pipes ([`Process::child`] has their ends).
    pub fn piped() -> Stdio {
        let piped = std::process::Stdio::piped;
        Stdio { stdin: std::process::Stdio::null(), stdout: piped(), stderr: piped() }
    }

    /// Nothing in, both outputs into one file.
    ///
    /// # Errors
    /// If the descriptor cannot be duplicated.
    pub fn file(file: std::fs::File) -> Result<Stdio> {
        let other = file.try_clone().what(|| "duplicate a log file".into())?;
        Ok(Stdio { stdin: std::process::Stdio::null(), stdout: file.into(), stderr: other.into() })
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Exit code; 128 + signal number if it was killed.
    pub code: i32,
    /// The signal that killed it.
    pub signal: Option<i32>,
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Exit {
        use std::os::unix::process::ExitStatusExt;
        let signal = status.signal();
        Exit { code: status.code().unwrap_or(128 + signal.unwrap_or(0)), signal }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.signal {
            Some(signal) => match Signal::try_from(signal) {
                Ok(name) => write!(f, "killed by {name}"),
                Err(_) => write!(f, "killed by signal {signal}"),
            },
            None => write!(f, "exit code {}", self.code),
        }
    }
}

/// A running process.
#[derive(Debug)]
pub struct Process {
    /// Its process id in the host's (only) process namespace.
    pub pid: u32,
    /// The handle, with the ends of pipes.
    pub child: tokio::process::Child,
}

impl Process {
    /// Waits for the end.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub async fn wait(&mut self) -> Result<Exit> {
        let status = self.child.wait().await.what(|| format!("wait for process {}", self.pid))?;
        Ok(status.into())
    }

    /// Sends a signal; harmless if the process has ended.
    pub fn signal(&self, signal: Signal) {
        // `id` is none once the process was waited for, when its number may be another's.
        if let Some(pid) = self.child.id() {
            let _ = nix::sys::signal::kill(Pid::from_raw(pid as i32), signal);
        }
    }
}

/// The executable whose subcommands the lab starts: `CAUSEWAY_EXECUTABLE` (for programs that use the lab as a library),
/// or the running one.
///
/// # Errors
/// If the system does not say what is running.
pub fn executable() -> Result<PathBuf> {
    match std::env::var_os("CAUSEWAY_EXECUTABLE") {
        Some(path) => Ok(path.into()),
        None => std::env::current_exe().what(|| "find the own executable".into()),
    }
}

/// Starts a container. It is killed when this process ends, however that happens. Must be called inside a tokio runtime.
///
/// Failures inside the container's surroundings show as a message on its standard error and
/// [`super::init::EXIT_SETUP`] or [`super::init::EXIT_COMMAND`].
///
/// # Errors
/// If no process can be made.
pub fn spawn(container: &Container, stdio: Stdio) -> Result<Process> {
    spawn_with(container, stdio, &[])
}

/// The same, with descriptors that stay open in the new process under the same numbers.
///
/// # Errors
/// If no process can be made.
pub fn spawn_with(container: &Container, stdio: Stdio, keep: &[RawFd]) -> Result<Process> {
    let spec = description(container)?;
    let executable = executable()?;
    let mut command = tokio::process::Command::new(&executable);
    command.arg("lab").arg("run-container").arg(spec.as_raw_fd().to_string());
    command.stdin(stdio.stdin).stdout(stdio.stdout).stderr(stdio.stderr);
    let mut inherited = keep.to_vec();
    inherited.push(spec.as_raw_fd());
    let parent = std::process::id();
    // SAFETY: between fork and exec only system calls that are safe there are made: prctl, getppid, fcntl.
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            if nix::unistd::getppid().as_raw() as u32 != parent {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            for fd in &inherited {
                if libc::fcntl(*fd, libc::F_SETFD, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    let runtime = tokio::runtime::Handle::current();
    // The death signal is sent when the *thread* that forked ends, so one that never ends does it.
    let child = on_spawner(move || {
        let _guard = runtime.enter();
        command.spawn()
    })
    .what(|| format!("start {}", executable.display()))?;
    let pid = child.id().unwrap_or_default();
    Ok(Process { pid, child })
}

/// Replaces this process by a container (for `lab exec`): the caller's input, output and terminal are the command's.
/// `executable` is the `causeway` that sets it up.
///
/// # Errors
/// If the executable cannot be executed; otherwise does not return.
pub fn replace(executable: &Path, container: &Container) -> Result<std::convert::Infallible> {
    use std::os::unix::process::CommandExt;
    let (_spec, mut command) = command(executable, container)?;
    let failed = command.exec();
    Err(failed).what(|| format!("execute {}", command.get_program().to_string_lossy()))
}

/// A container as an ordinary command for callers without a runtime, set up by the `causeway` at `executable`. The
/// descriptor must stay open until it is started.
///
/// # Errors
/// If the description cannot be passed on.
pub fn command(executable: &Path, container: &Container) -> Result<(OwnedFd, std::process::Command)> {
    let spec = description(container)?;
    let fd = spec.as_raw_fd();
    let mut command = std::process::Command::new(executable);
    command.arg("lab").arg("run-container").arg(fd.to_string());
    // SAFETY: fcntl is a system call without memory of ours. It is done in the new process, so that no other program
    // started at the same time gets the descriptor.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, move || {
            if libc::fcntl(fd, libc::F_SETFD, 0) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    Ok((spec, command))
}

/// The container as JSON in an anonymous file, positioned at its start.
fn description(container: &Container) -> Result<OwnedFd> {
    let text = serde_json::to_vec(container).what(|| "encode the container".into())?;
    let fd = memfd_create(c"causeway-container", MFdFlags::MFD_CLOEXEC).what(|| "create a memfd".into())?;
    let mut file = std::fs::File::from(fd);
    file.write_all(&text).what(|| "write the container".into())?;
    std::io::Seek::rewind(&mut file).what(|| "rewind the container".into())?;
    Ok(file.into())
}

/// Takes over a descriptor that was passed to this process by number.
///
/// # Errors
/// If it is not open.
pub fn inherited(fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: fcntl on any number is harmless; it fails for one that is not open.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(std::io::Error::last_os_error()).what(|| format!("use inherited descriptor {fd}"));
    }
    // SAFETY: the starter passed this descriptor for the caller alone (spawn_with).
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

type Job = Box<dyn FnOnce() + Send>;

fn on_spawner<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let jobs = SPAWNER.get_or_init(|| {
        let (sender, receiver) = mpsc::channel::<Job>();
        let run = move || receiver.into_iter().for_each(|job| job());
        // Without threads nothing works at all.
        thread::Builder::new().name("spawner".into()).spawn(run).expect("start the spawner thread");
        sender
    });
    let (sender, receiver) = mpsc::sync_channel(1);
    let job: Job = Box::new(move || {
        let _ = sender.send(f());
    });
    jobs.send(job).expect("the spawner thread never ends");
    receiver.recv().expect("the spawner thread answers")
}
