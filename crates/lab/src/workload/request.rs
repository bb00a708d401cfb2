//! Clients that count who answered.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::{TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use super::{Answer, any, resolve};
use crate::error::{Error, Result};
use crate::runtime::Context;

/// Who answered how often.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    requests: u64,
    answered: u64,
    failed: u64,
    /// Answers by cluster.
    clusters: BTreeMap<String, u64>,
    /// Answers by `cluster/pod`.
    pods: BTreeMap<String, u64>,
    /// Failures by what went wrong.
    errors: BTreeMap<String, u64>,
    /// Milliseconds from the start of the first request that failed to the start of the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    failing_ms: Option<u64>,
    /// Client addresses the servers saw.
    clients: BTreeMap<String, u64>,
}

impl Counts {
    fn add(&mut self, result: std::result::Result<Answer, String>) {
        self.requests += 1;
        match result {
            Ok(answer) => {
                self.answered += 1;
                *self.pods.entry(format!("{}/{}", answer.cluster, answer.pod)).or_default() += 1;
                *self.clusters.entry(answer.cluster).or_default() += 1;
                let address = answer.client.parse::<SocketAddr>().map(|a| a.ip().to_string());
                *self.clients.entry(address.unwrap_or(answer.client)).or_default() += 1;
            }
            Err(e) => {
                self.failed += 1;
                *self.errors.entry(e).or_default() += 1;
            }
        }
    }

    fn print(&self, json: bool) -> u8 {
        if json {
            println!("{}", serde_json::to_string(self).unwrap_or_default());
        } else {
            println!("{} requests, {} answered, {} failed", self.requests, self.answered, self.failed);
            for (cluster, n) in &self.clusters {
                println!("{n:>7}  {cluster}");
                let own = format!("{cluster}/");
                for (pod, n) in self.pods.iter().filter(|(p, _)| p.starts_with(&own)) {
                    println!("{n:>7}    {}", &pod[own.len()..]);
                }
            }
            for (error, n) in &self.errors {
                println!("{n:>7}  failed: {error}");
            }
            if let Some(ms) = self.failing_ms {
                println!("{ms:>7}  ms between the first and the last that failed");
            }
        }
        u8::from(self.failed > 0)
    }
}

/// Send HTTP requests, each on a connection of its own, and count who answered
#[derive(Debug, Clone, Args)]
pub(super) struct Request {
    /// http://HOST[:PORT][/PATH]
    url: String,
    /// How many
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// How many at the same time
    #[arg(long, default_value_t = 8)]
    concurrency: u64,
    /// Start so many a second, whatever becomes of those before, until --count or SIGTERM
    #[arg(long, conflicts_with = "concurrency", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Milliseconds one may take
    #[arg(long, default_value_t = 3000)]
    timeout: u64,
    /// `json` or `text`
    #[arg(short, long, default_value = "text")]
    output: String,
}

impl Request {
    pub(super) async fn run(self) -> Result<u8> {
        let wrong = || Error::Refused(format!("{}: give http://HOST[:PORT][/PATH]", self.url));
        let uri: http::Uri = self.url.parse().map_err(|_| wrong())?;
        let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(wrong)?;
        let target = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
        if let Some(rate) = self.rate {
            return Ok(self.paced(rate, target, uri).await?.print(self.output == "json"));
        }
        let left = Arc::new(AtomicU64::new(self.count));
        let mut tasks = Vec::new();
        for _ in 0..self.concurrency.clamp(1, self.count.max(1)) {
            let (left, target, uri) = (left.clone(), target.clone(), uri.clone());
            let limit = Duration::from_millis(self.timeout);
            tasks.push(tokio::spawn(async move {
                let mut results = Vec::new();
                let take = |n: u64| n.checked_sub(1);
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                    results.push(in_time(limit, one(&target, &uri)).await);
                }
                results
            }));
        }
        let mut counts = Counts::default();
        for task in tasks {
            task.await.unwrap_or_default().into_iter().for_each(|r| counts.add(r));
        }
        Ok(counts.print(self.output == "json"))
    }

    /// Requests at a constant rate: one that hangs does not delay the next, as with many users.
    async fn paced(&self, rate: u32, target: String, uri: http::Uri) -> Result<Counts> {
        let mut stop = signal(SignalKind::terminate()).what(|| "listen for signals".into())?;
        let limit = Duration::from_millis(self.timeout);
        let mut due = tokio::time::interval(Duration::from_secs(1) / rate);
        let (mut running, mut counts) = (JoinSet::new(), Counts::default());
        let mut failing: Option<(Instant, Instant)> = None;
        let mut add = |(started, result): (Instant, std::result::Result<Answer, String>)| {
            if result.is_err() {
                let (first, last) = failing.unwrap_or((started, started));
                failing = Some((first.min(started), last.max(started)));
            }
            counts.add(result);
        };
        for _ in 0..self.count {
            tokio::select! {
                _ = due.tick() => {}
                _ = stop.recv() => break,
            }
            let (target, uri) = (target.clone(), uri.clone());
            running.spawn(async move {
                let started = Instant::now();
                (started, in_time(limit, one(&target, &uri)).await)
            });
            while let Some(done) = running.try_join_next() {
                done.into_iter().for_each(&mut add);
            }
        }
        while let Some(done) = running.join_next().await {
            done.into_iter().for_each(&mut add);
        }
        counts.failing_ms = failing.map(|(first, last)| last.duration_since(first).as_millis() as u64);
        Ok(counts)
    }
}

/// Steps in which the time of a request is counted.
const STEPS: u32 = 20;

/// The answer, if there is one within a time. Only time in which this process runs counts: where it gets no processor for
/// seconds, the answer is there already and only has to be read.
async fn in_time(
    limit: Duration,
    answer: impl Future<Output = std::result::Result<Answer, String>>,
) -> std::result::Result<Answer, String> {
    tokio::pin!(answer);
    for _ in 0..STEPS {
        if let Ok(answer) = tokio::time::timeout(limit / STEPS, &mut answer).await {
            return answer;
        }
        // Whatever else is due goes first: what has arrived meanwhile is read by another task.
        tokio::task::yield_now().await;
    }
    Err("timed out".into())
}

async fn one(target: &str, uri: &http::Uri) -> std::result::Result<Answer, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let address = resolve(target).await.map_err(|e| format!("resolve {target}: {e}"))?;
    let stream = TcpStream::connect(address).await.map_err(|e| format!("connect: {e}"))?;
    let (mut client, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| text(&e))?;
    tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let request = http::Request::get(path)
        .header(http::header::HOST, target)
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| text(&e))?;
    let response = client.send_request(request).await.map_err(|e| text(&e))?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|e| text(&e))?.to_bytes();
    if !status.is_success() {
        return Err(format!("status {}", status.as_u16()));
    }
    // Any server may be asked; one that is not ours has no name.
    Ok(serde_json::from_slice(&body).unwrap_or_default())
}

/// Send datagrams and count the answers
#[derive(Debug, Args)]
pub(super) struct UdpRequest {
    /// HOST:PORT of a `udp-echo`
    target: String,
    /// How many
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Milliseconds an answer may take
    #[arg(long, default_value_t = 3000)]
    timeout: u64,
    /// Send so many bytes to be echoed instead of asking who answers
    #[arg(long)]
    size: Option<usize>,
    /// Connect the socket, or send each datagram with its destination
    #[arg(long)]
    connected: bool,
    /// `json` or `text`
    #[arg(short, long, default_value = "text")]
    output: String,
}

impl UdpRequest {
    pub(super) async fn run(self) -> Result<u8> {
        let mut counts = Counts::default();
        let limit = Duration::from_millis(self.timeout);
        for _ in 0..self.count {
            counts.add(in_time(limit, self.one()).await);
        }
        Ok(counts.print(self.output == "json"))
    }

    async fn one(&self) -> std::result::Result<Answer, String> {
        let text = |e: std::io::Error| e.to_string();
        let target = resolve(&self.target).await.map_err(text)?;
        let socket = UdpSocket::bind(any(target)).await.map_err(text)?;
        let sent = match self.size {
            Some(n) => (0..n).map(|i| (i % 251) as u8).collect(),
            None => b"whoami".to_vec(),
        };
        let mut buffer = vec![0; 65536];
        let (n, from) = if self.connected {
            socket.connect(target).await.map_err(text)?;
            socket.send(&sent).await.map_err(text)?;
            (socket.recv(&mut buffer).await.map_err(text)?, socket.peer_addr().map_err(text)?)
        } else {
            socket.send_to(&sent, target).await.map_err(text)?;
            socket.recv_from(&mut buffer).await.map_err(text)?
        };
        if from != target {
            return Err(format!("{target} was asked and {from} answered"));
        }
        match self.size {
            Some(_) if buffer[..n] == sent[..] => Ok(Answer::default()),
            Some(_) => Err("what came back is not what was sent".into()),
            None => serde_json::from_slice(&buffer[..n]).map_err(|e| e.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stalled_client_blames_nobody() {
        let limit = Duration::from_secs(3);
        let answer = async |after: Duration| {
            tokio::time::sleep(after).await;
            Ok(Answer::default())
        };
        assert_eq!(in_time(limit, answer(Duration::from_millis(2900))).await, Ok(Answer::default()));
        let late = in_time(limit, answer(Duration::from_millis(3100))).await;
        assert_eq!(late, Err("timed out".into()));
        // For ten seconds nothing of this process runs, and what arrived then needs another task to be read.
        let (send, receive) = tokio::sync::oneshot::channel();
        let reader = async move { receive.await.map_err(|_| "gone".to_string()) };
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            tokio::task::yield_now().await;
            let _ = send.send(Answer::default());
        });
        let stalled = async {
            tokio::task::yield_now().await;
            tokio::time::advance(Duration::from_secs(10)).await;
        };
        let (answered, ()) = tokio::join!(in_time(limit, reader), stalled);
        assert_eq!(answered, Ok(Answer::default()));
    }
}
