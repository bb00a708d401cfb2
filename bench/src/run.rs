//! What every benchmark needs: processes that end with us, CPU time of a process, versions.

use std::cell::OnceCell;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::de::DeserializeOwned;

use crate::pairs::Pairs;
use crate::report::Target;

/// What the command line decided, and what the rows of one pass share.
#[derive(Debug)]
pub(crate) struct Context {
    /// Pairs of samples a case.
    pub(crate) pairs: usize,
    /// How many times less than the full work.
    pub(crate) divisor: u64,
    /// Where the built binaries are; examples are in `examples/` below it.
    pub(crate) bin_dir: PathBuf,
    /// The same, in the profile of the demo and the tests.
    pub(crate) debug_dir: PathBuf,
    /// The same, in the release profile without whole-program optimisation.
    pub(crate) optimised_dir: PathBuf,
    /// The certificates of a pass over mutual TLS; `None` = plaintext.
    pub(crate) tls: Option<PathBuf>,
    /// The samples of B5, B6 and B7, taken once a pass.
    pub(crate) bootstrap: OnceCell<Pairs<crate::b5_bootstrap::Sample>>,
}

impl Context {
    /// An amount of work of the full form, or what the shorter forms have of it.
    pub(crate) fn scaled(&self, full: u64) -> u64 {
        full.div_ceil(self.divisor)
    }

    /// Seconds of a sample that has so many in the full form.
    pub(crate) fn secs(&self, full: u64) -> u64 {
        (full * 4 / (self.divisor + 3)).max(1)
    }

    /// Seconds a store is kept busy before a sample.
    pub(crate) fn warmup(&self) -> u64 {
        u64::from(self.divisor <= 10)
    }

    /// A target that is meant for the full form, and says nothing about the shorter ones.
    pub(crate) fn in_full(&self, target: Target) -> Target {
        if self.divisor == 1 { target } else { Target::None }
    }

    /// The path of a built example.
    ///
    /// # Errors
    /// When it is not built.
    pub(crate) fn example(&self, name: &str) -> anyhow::Result<PathBuf> {
        self.built(self.bin_dir.join("examples").join(name))
    }

    /// The path of something built in the profile of the demo and the tests.
    ///
    /// # Errors
    /// When it is not built.
    pub(crate) fn debug(&self, name: &str) -> anyhow::Result<PathBuf> {
        self.built(self.debug_dir.join(name))
    }

    /// The path of something built in the release profile without whole-program optimisation.
    ///
    /// # Errors
    /// When it is not built.
    pub(crate) fn optimised(&self, name: &str) -> anyhow::Result<PathBuf> {
        self.built(self.optimised_dir.join(name))
    }

    fn built(&self, path: PathBuf) -> anyhow::Result<PathBuf> {
        if !path.exists() {
            bail!("{} is not built; run `make bench`", path.display());
        }
        Ok(path.canonicalize()?)
    }
}

/// A child process that is killed when this goes out of scope.
pub(crate) struct Server {
    child: Child,
}

impl Server {
    /// Starts `command` with its output thrown away; it dies with us even if we are killed.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(command: &mut Command) -> anyhow::Result<Self> {
        Self::spawn(command, Stdio::null())
    }

    /// The same for a process that prints one JSON line once it is ready, and then goes on.
    ///
    /// # Errors
    /// When it cannot be started, ends, or prints nothing within `limit`.
    pub(crate) fn reporting<T: DeserializeOwned>(
        command: &mut Command,
        limit: Duration,
    ) -> anyhow::Result<(Self, T)> {
        let shown = format!("{command:?}");
        let mut server = Self::spawn(command, Stdio::piped())?;
        let output = server.child.stdout.take().context("the output was asked for")?;
        let (sender, line) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut text = String::new();
            let read = BufReader::new(output).read_line(&mut text).map(|_| text);
            // Nobody listens any more after the limit.
            let _ = sender.send(read);
        });
        let line = line.recv_timeout(limit).with_context(|| format!("{shown} did not become ready"))??;
        let report = serde_json::from_str(&line).with_context(|| format!("{shown} printed {line:?}"))?;
        Ok((server, report))
    }

    fn spawn(command: &mut Command, output: Stdio) -> anyhow::Result<Self> {
        use std::os::unix::process::CommandExt;
        // SAFETY: prctl is async-signal-safe and touches no memory of ours.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdout(output)
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child })
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a load generator and reads the one JSON line it prints.
///
/// # Errors
/// When it fails or prints something else; its stderr is in the text.
pub(crate) fn sample<T: DeserializeOwned>(command: &mut Command) -> anyhow::Result<T> {
    let shown = format!("{command:?}");
    let output = command.output().with_context(|| format!("cannot run {shown}"))?;
    if !output.status.success() {
        bail!("{shown} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().rev().find(|line| line.starts_with('{')).unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("{shown} printed no result but {line:?}"))
}

/// Waits until `ready` says so.
///
/// # Errors
/// When it does not within `limit`.
pub(crate) fn wait(what: &str, limit: Duration, mut ready: impl FnMut() -> bool) -> anyhow::Result<()> {
    let start = Instant::now();
    while !ready() {
        if start.elapsed() > limit {
            bail!("{what} did not happen within {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Resident memory of a process, bytes.
///
/// # Errors
/// When there is no such process.
pub(crate) fn resident(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in status")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

/// User and system time a process has used, seconds.
///
/// # Errors
/// When there is no such process.
pub(crate) fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: `clock` lives through the call.
    let error = unsafe { libc::clock_getcpuclockid(pid.cast_signed(), &mut clock) };
    if error != 0 {
        bail!("process {pid}: {}", std::io::Error::from_raw_os_error(error));
    }
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` lives through the call.
    if unsafe { libc::clock_gettime(clock, &mut now) } != 0 {
        bail!("CPU time of process {pid}: {}", std::io::Error::last_os_error());
    }
    Ok(now.tv_sec as f64 + now.tv_nsec as f64 / 1e9)
}

/// A loopback port nobody listens on now.
///
/// # Errors
/// When none can be bound.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// One-minute, five-minute and fifteen-minute load averages.
pub(crate) fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// What the numbers depend on, in one block.
pub(crate) fn versions() -> String {
    format!(
        "kernel {}\n{} (releases 3.5 and 3.6 are faster)\n{}\ncommit {}\nload average at the start: {}",
        kernel(),
        first_line("etcd", &["--version"]),
        first_line("nft", &["--version"]),
        commit(),
        load_average()
    )
}

/// The kernel's release.
pub(crate) fn kernel() -> String {
    first_line("uname", &["-r"])
}

/// The commit this is, or is made from.
pub(crate) fn commit() -> String {
    first_line("git", &["describe", "--always", "--dirty"])
}

/// Processors we may use.
pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn first_line(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().ok();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("not installed").to_owned()
}
