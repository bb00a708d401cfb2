//! The one parent of a lab: builds the VPC and the machines, starts their processes and writes down what runs.
//!
//! It restarts nothing: an ended process is recorded and shown. Whatever ends the supervisor, its children die with it
//! (they asked the kernel to) and the [`watchdog`] removes the rest; taking a lab down is nothing else.

pub mod machines;
pub mod watchdog;

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Instant;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::error::{Error, Result};
use crate::fabric::Fabric;
use crate::runtime::spawn::{self, Exit};
use crate::runtime::{Cgroup, Container, Context, Process, Stdio};
use crate::state::{LabDir, LabStatus, Phase, ProcessStatus, Step};
use crate::topology::Plan;

/// Environment of the lab's own processes.
fn environment() -> Vec<(String, String)> {
    let mut env = vec![("PATH".to_string(), crate::runtime::init::DEFAULT_PATH.to_string())];
    for name in ["RUST_LOG", "RUST_BACKTRACE"] {
        if let Ok(value) = std::env::var(name) {
            env.push((name.into(), value));
        }
    }
    env
}

/// A lab while it is supervised.
pub(crate) struct Supervisor {
    dir: LabDir,
    plan: Plan,
    cgroup: Cgroup,
    start: Instant,
    status: LabStatus,
    children: FuturesUnordered<tokio::task::JoinHandle<(String, u32, Exit)>>,
}

/// Runs until SIGTERM or SIGINT, or the end of standard input if nothing was read from it: then whoever wanted the lab is
/// gone. The state directory with `topology.yaml` and `bin/causeway` must be there; `lock` is the
/// descriptor of its lock.
///
/// # Errors
/// If the lab cannot come up; it is recorded in `lab.json` too, and the process stays until it is told to end, so that
/// logs can be read.
pub async fn run(name: &str, lock: RawFd) -> Result<()> {
    let dir = LabDir::new(name)?;
    let mut terminate = signal(SignalKind::terminate()).what(|| "listen for signals".into())?;
    let mut interrupt = signal(SignalKind::interrupt()).what(|| "listen for signals".into())?;
    let _lock = spawn::inherited(lock)?;
    let abandoned = abandoned()?;
    tokio::pin!(abandoned);
    let mut watchdog = watchdog::start(&dir)?;
    let cgroup = dir.cgroup()?;
    cgroup.child("supervisor").create()?;
    cgroup.child("supervisor").enter()?;
    let status = LabStatus {
        name: name.into(),
        phase: Phase::Starting,
        supervisor: std::process::id(),
        started: jiff::Timestamp::now().to_string(),
        cgroup: cgroup.path().into(),
        steps: Vec::new(),
        fabric: 0,
        clusters: Vec::new(),
        processes: Vec::new(),
    };
    let plan = dir.plan()?;
    let mut lab =
        Supervisor { dir, plan, cgroup, start: Instant::now(), status, children: FuturesUnordered::new() };
    lab.publish();
    let mut fabric: Option<Fabric> = None;
    tokio::select! {
        result = lab.bring_up(&mut fabric) => match result {
            Ok(()) => lab.status.phase = Phase::Running,
            Err(e) => {
                error!(error = %e, "the lab cannot come up");
                lab.status.phase = Phase::Failed(e.to_string());
            }
        },
        _ = terminate.recv() => return lab.stop(),
        _ = interrupt.recv() => return lab.stop(),
        () = &mut abandoned => return lab.stop(),
    }
    lab.publish();
    loop {
        tokio::select! {
            _ = terminate.recv() => return lab.stop(),
            _ = interrupt.recv() => return lab.stop(),
            () = &mut abandoned => return lab.stop(),
            Some(ended) = lab.children.next() => lab.record(ended),
            exit = watchdog.wait() => {
                warn!(exit = ?exit.map(|e| e.to_string()), "the watchdog ended; starting another");
                watchdog = watchdog::start(&lab.dir)?;
            }
        }
    }
}

/// Comes to its end when standard input does, unless something is read from it before.
fn abandoned() -> Result<impl Future<Output = ()>> {
    let input = std::io::stdin().as_fd().try_clone_to_owned().what(|| "duplicate standard input".into())?;
    let input = pipe::Receiver::from_owned_fd(input).what(|| "read standard input as a pipe".into())?;
    Ok(async move {
        let mut input = input;
        match input.read_u8().await {
            Ok(_) => std::future::pending().await,
            Err(_) => warn!("the process that brought the lab up has ended"),
        }
    })
}

impl Supervisor {
    fn publish(&self) {
        if let Err(e) = self.dir.write_status(&self.status) {
            warn!(error = %e, "status not written");
        }
    }

    /// Notes something that is done.
    fn step(&mut self, text: impl Into<String>) {
        let (at_ms, text) = (self.start.elapsed().as_millis() as u64, text.into());
        info!(at_ms, "{text}");
        self.status.steps.push(Step { at_ms, text });
        self.publish();
    }

    /// Ends. The watchdog does the rest, as after a crash: there is one way down, and it is always used.
    fn stop(&mut self) -> Result<()> {
        info!("stopping");
        self.status.phase = Phase::Stopping;
        self.publish();
        Ok(())
    }

    fn record(&mut self, ended: std::result::Result<(String, u32, Exit), tokio::task::JoinError>) {
        let Ok((name, pid, exit)) = ended else { return };
        warn!(process = name, pid, %exit, "a process of the lab ended");
        let text = format!("{exit} at {}", jiff::Timestamp::now());
        if let Some(process) = self.status.processes.iter_mut().find(|p| p.name == name && p.pid == pid) {
            process.ended = Some(text);
        }
        self.publish();
    }

    /// Starts a process of the lab with its log; it is watched from now on.
    fn start(&mut self, name: &str, container: &Container, keep: &[&dyn AsRawFd]) -> Result<u32> {
        let log = self.dir.log(name);
        let file = File::options().create(true).append(true).open(&log);
        let file = file.what(|| format!("open {}", log.display()))?;
        let keep: Vec<_> = keep.iter().map(|fd| fd.as_raw_fd()).collect();
        let mut process: Process = spawn::spawn_with(container, Stdio::file(file)?, &keep)?;
        let pid = process.pid;
        self.status.processes.push(ProcessStatus { name: name.into(), pid, ended: None });
        self.publish();
        let name = name.to_string();
        self.children.push(tokio::spawn(async move {
            let exit = process.wait().await.unwrap_or(Exit { code: -1, signal: None });
            (name, pid, exit)
        }));
        Ok(pid)
    }

    /// The end of a process's log, for an error that says what happened.
    fn tail(&self, name: &str) -> String {
        let text = fs::read_to_string(self.dir.log(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    /// Waits until something is so, unless the process it is expected of ends first.
    async fn until(&mut self, name: &str, what: &str, mut ready: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + std::time::Duration::from_secs(60);
        while !ready() {
            while let Some(Some(ended)) = futures::FutureExt::now_or_never(self.children.next()) {
                self.record(ended);
            }
            let ended = self.status.processes.iter().rev().find(|p| p.name == name);
            if let Some(how) = ended.and_then(|p| p.ended.clone()) {
                let log = self.tail(name);
                return Err(Error::refused(format!(
                    "{name} ended ({how}) before {what}; its log ends:\n{log}"
                )));
            }
            if Instant::now() > deadline {
                return Err(Error::refused(format!("{name}: still waiting for {what} after 60 s")));
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        Ok(())
    }
}
