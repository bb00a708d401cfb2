//! Benchmark SCALE: many clusters, each with a store of its own, a real `causeway kvstoremesh` that caches them,
//! and an agent that reads the cache; then changes at several rates.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::agent::{Known, Ready};
use super::changes::{Model, change, now};
use super::clusters::Clusters;
use super::process::{cpu_time, resident};
use super::shape::{Shape, local};
use super::{Failure, Flags};
use causeway_mesh::keys::Layout;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// A period of changes.
#[derive(Debug, Serialize)]
struct Churn {
    /// Changes a second, as they were made.
    rate: f64,
    /// CPU time of a change, microseconds.
    cache_cpu_us: f64,
    agent_cpu_us: f64,
    /// From the change until the agent's entry.
    known: Known,
    cache_rss: u64,
    agent_rss: u64,
}

pub(crate) async fn run(flags: &Flags) -> Result<(), Failure> {
    let shape = Shape { layout: Layout::Native, ..Shape::of(flags)? };
    let rates: Result<Vec<u64>, _> = flags.text("rates")?.split(',').map(str::parse).collect();
    let (rates, secs) = (rates?, flags.number("secs", 60)?);
    let dir = tempfile::tempdir()?;
    let clusters = Clusters::start(shape, dir.path()).await?;

    let start = Instant::now();
    let (cache, port) = cache(flags, &clusters).await?;
    let ready = start.elapsed().as_secs_f64();
    let pid = cache.id().ok_or("the cache has ended")?.to_string();
    let cpu = cpu_time(&pid)?.as_secs_f64();
    let mut agent = Agent::start(&clusters, port, shape).await?;
    let agent_cpu = cpu_time(&agent.pid)?.as_secs_f64();
    // What was only needed for the way goes back to the system before memory is read.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let rss = resident(&pid)?;

    let (mut done, mut model, mut periods) = (0, Model::default(), vec![]);
    for rate in rates {
        let before = (cpu_time(&pid)?, cpu_time(&agent.pid)?);
        let (begun, count) = (Instant::now(), rate * secs);
        make(&clusters, shape, (done, count), rate, &mut model).await?;
        let last = Instant::now();
        let known = agent.settled(model.digest()).await?;
        let after = (cpu_time(&pid)?, cpu_time(&agent.pid)?);
        done += count;
        periods.push(Churn {
            rate: count as f64 / (last - begun).as_secs_f64(),
            cache_cpu_us: (after.0 - before.0).as_secs_f64() * 1e6 / count as f64,
            agent_cpu_us: (after.1 - before.1).as_secs_f64() * 1e6 / count as f64,
            known,
            cache_rss: resident(&pid)?,
            agent_rss: resident(&agent.pid)?,
        });
    }
    println!(
        "{}",
        json!({
            "clusters": shape.clusters, "keys": shape.keys(), "cache_ready_s": ready, "cache_ready_cpu_s": cpu,
            "cache_rss": rss, "cache_bytes_per_key": rss as f64 / shape.keys() as f64,
            "agent_ready_s": agent.ready.seconds, "agent_ready_cpu_s": agent_cpu, "agent_rss": agent.ready.rss,
            "agent_bytes_per_object": agent.ready.bytes_per_object, "changed": model.len(), "churn": periods,
        })
    );
    Ok(())
}

/// Changes `count` times, the first being the `done`th, at an even rate; neighbours in time are of different
/// clusters.
async fn make(
    clusters: &Clusters,
    shape: Shape,
    (done, count): (u64, u64),
    rate: u64,
    model: &mut Model,
) -> Result<(), Failure> {
    let mut pace = interval(Duration::from_secs(1).div_f64(rate as f64));
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let of = clusters.all.len() as u64;
    for n in done..done + count {
        pace.tick().await;
        let cluster = &clusters.all[(n % of) as usize];
        let (thing, version, write) = change(shape, &cluster.info, n / of, now());
        model.set(thing, version);
        cluster.store.apply(vec![write])?;
    }
    Ok(())
}

/// Ends when we do, even if we are killed.
fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).kill_on_drop(true).stderr(Stdio::null());
    command
}

/// Starts the cache; the port of its store, once it says that it has everything.
async fn cache(flags: &Flags, clusters: &Clusters) -> Result<(Child, u16), Failure> {
    let (port, health) = (free_port()?, free_port()?);
    let own = local();
    let config = tempfile::tempdir()?;
    let mut command = command(flags.text("causeway")?);
    command.arg("kvstoremesh").env_clear().stdin(Stdio::null()).stdout(Stdio::null());
    command.args(["--cluster-name", own.name.as_str(), "--cluster-id", &own.id.to_string()]);
    command.args(["--listen", &format!("127.0.0.1:{port}")]);
    command.args(["--health-listen", &format!("127.0.0.1:{health}")]);
    // Ready is when all are there, not when those that are not there have had their chance.
    command
        .args(["--per-cluster-ready-timeout", "10m"])
        .args(["--api-serve-addr", "127.0.0.1:0"])
        .arg("--config-dir")
        .arg(config.path());
    command.arg("--clustermesh-config").arg(clusters.peers(None, "remote")?);
    command.arg("--tls-dir").arg(clusters.tls()?);
    command.env("CAUSEWAY_MAX_CONNECTED_CLUSTERS", own.max_clusters.max_id().to_string());
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let mut cache = command.spawn()?;
    let start = Instant::now();
    while !tokio::task::spawn_blocking(move || is_ready(health)).await? {
        if let Some(status) = cache.try_wait()? {
            return Err(format!("the cache ended: {status}").into());
        }
        if start.elapsed() > PATIENCE {
            return Err("the cache did not become ready".into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok((cache, port))
}

fn free_port() -> Result<u16, Failure> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn is_ready(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let mut answer = String::new();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.starts_with("HTTP/1.1 200")
}

/// The agent's process.
struct Agent {
    pid: String,
    ready: Ready,
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Agent {
    async fn start(clusters: &Clusters, cache: u16, shape: Shape) -> Result<Self, Failure> {
        let peers = clusters.peers(Some(cache), &format!("local-{}", local().name))?;
        let mut command = command(std::env::current_exe()?);
        command.arg("agent").arg("--peers").arg(peers).stdin(Stdio::piped()).stdout(Stdio::piped());
        for (name, number) in [
            ("--clusters", shape.clusters),
            ("--nodes", shape.nodes),
            ("--identities", shape.identities),
            ("--endpoints", shape.endpoints),
        ] {
            command.arg(name).arg(number.to_string());
        }
        let mut child = command.spawn()?;
        let pid = child.id().ok_or("the agent has ended")?.to_string();
        let questions = child.stdin.take().ok_or("the input was asked for")?;
        let output = child.stdout.take().ok_or("the output was asked for")?;
        let mut answers = BufReader::new(output).lines();
        let ready = line(&mut answers).await?;
        Ok(Self { pid, ready, questions, answers, _child: child })
    }

    /// Waits until it knows what the model knows.
    async fn settled(&mut self, digest: u64) -> Result<Known, Failure> {
        let start = Instant::now();
        while self.ask("what").await?.digest != digest {
            if start.elapsed() > PATIENCE {
                return Err("the agent has lost changes".into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.ask("last").await
    }

    async fn ask(&mut self, question: &str) -> Result<Known, Failure> {
        self.questions.write_all(format!("{question}\n").as_bytes()).await?;
        line(&mut self.answers).await
    }
}

async fn line<T: DeserializeOwned>(answers: &mut Lines<BufReader<ChildStdout>>) -> Result<T, Failure> {
    let line = timeout(PATIENCE, answers.next_line()).await.map_err(|_| "the agent says nothing")??;
    Ok(serde_json::from_str(&line.ok_or("the agent ended")?)?)
}
