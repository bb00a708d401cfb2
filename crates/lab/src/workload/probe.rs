//! A steady stream of small packets that notices every loss.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};

use super::{any, resolve, udp_socket};
use crate::error::Result;
use crate::runtime::Context;

/// How long the last answers are waited for; a machine under load delays them, it does not lose them.
const LINGER: Duration = Duration::from_secs(10);
/// A delay that is made up for by sending faster. What is later than this is left out instead: a burst of it
/// would overflow queues on the way and look like a loss.
const CATCH_UP: Duration = Duration::from_millis(200);

/// Send small packets at a rate to an echo server and count the losses
#[derive(Debug, Args)]
pub(super) struct Probe {
    /// HOST:PORT of an echo server
    target: String,
    /// Packets per second
    #[arg(long, default_value_t = 1000)]
    rate: u64,
    /// For so long, or until SIGINT or SIGTERM
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// One TCP connection with a small message per tick, instead of datagrams
    #[arg(long)]
    tcp: bool,
}

type Answered = Arc<Mutex<BTreeSet<u64>>>;

impl Probe {
    pub(super) async fn run(self) -> Result<u8> {
        let target = resolve(&self.target).await.what(|| format!("resolve {}", self.target))?;
        let answered = Answered::default();
        let tries = if self.tcp {
            let stream = TcpStream::connect(target).await.what(|| format!("connect with {target}"))?;
            stream.set_nodelay(true).what(|| "set TCP_NODELAY".into())?;
            let (mut read, mut write) = stream.into_split();
            let seen = answered.clone();
            tokio::spawn(async move {
                while let Ok(n) = read.read_u64().await {
                    note(&seen, n);
                }
            });
            self.send(async |n| drop(write.write_u64(n).await)).await?
        } else {
            let socket = Arc::new(udp_socket(any(target)).await.what(|| "open a UDP socket".into())?);
            socket.connect(target).await.what(|| format!("connect with {target}"))?;
            let (seen, receiver) = (answered.clone(), socket.clone());
            tokio::spawn(async move {
                let mut buffer = [0u8; 8];
                loop {
                    // A refusal (ICMP) is a loss like any other, and the next may be answered.
                    if receiver.recv(&mut buffer).await.is_ok() {
                        note(&seen, u64::from_be_bytes(buffer));
                    }
                }
            });
            // What cannot be sent is a loss too: it is counted as tried and never answered.
            self.send(async |n| drop(socket.send(&n.to_be_bytes()).await)).await?
        };
        let end = Instant::now() + LINGER;
        while count(&answered) < tries && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let received = count(&answered);
        let lost = tries - received.min(tries);
        let gap = answered.lock().map(|seen| longest_gap(&seen, tries)).unwrap_or(tries);
        println!(
            "{}",
            serde_json::json!({"sent": tries, "received": received, "lost": lost, "longestGap": gap, "rate": self.rate})
        );
        Ok(u8::from(lost > 0))
    }

    /// Sends one packet per tick until the time is over or a signal comes; how many it tried to send.
    async fn send(&self, mut one: impl AsyncFnMut(u64)) -> Result<u64> {
        let listen = |kind| signal(kind).what(|| "listen for signals".into());
        let (mut interrupt, mut terminate) =
            (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
        let mut ticks = tokio::time::interval(Duration::from_nanos(1_000_000_000 / self.rate.max(1)));
        let end = tokio::time::Instant::now() + Duration::from_secs(self.seconds);
        let mut tries = 0;
        loop {
            let due = tokio::select! {
                due = ticks.tick() => due,
                _ = interrupt.recv() => return Ok(tries),
                _ = terminate.recv() => return Ok(tries),
            };
            if tokio::time::Instant::now() >= end {
                return Ok(tries);
            }
            one(tries).await;
            tries += 1;
            if due.elapsed() > CATCH_UP {
                ticks.reset();
            }
        }
    }
}

fn note(answered: &Answered, n: u64) {
    if let Ok(mut seen) = answered.lock() {
        seen.insert(n);
    }
}

fn count(answered: &Answered) -> u64 {
    answered.lock().map(|seen| seen.len() as u64).unwrap_or_default()
}

/// The most packets in a row without an answer.
fn longest_gap(seen: &BTreeSet<u64>, total: u64) -> u64 {
    let mut next = 0;
    let mut longest = 0;
    for n in seen.iter().copied().chain([total]) {
        longest = longest.max(n.saturating_sub(next));
        next = n + 1;
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_found_at_the_start_in_the_middle_and_at_the_end() {
        assert_eq!(longest_gap(&BTreeSet::from([0, 1, 2, 3]), 4), 0);
        assert_eq!(longest_gap(&BTreeSet::from([2, 3]), 4), 2);
        assert_eq!(longest_gap(&BTreeSet::from([0, 4, 5]), 6), 3);
        assert_eq!(longest_gap(&BTreeSet::from([0]), 6), 5);
        assert_eq!(longest_gap(&BTreeSet::new(), 6), 6);
    }
}
