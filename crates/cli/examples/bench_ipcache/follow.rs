//! Changes at the source until a watch of the destination shows them, and until the node's map holds them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use causeway_kvstore::client::{Client, WatchMessage, WatchStream};
use futures::StreamExt;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use super::agent::Agent;
use super::node::Node;
use super::shape::{Shape, version, watch_endpoints};
use super::{Failure, Flags};

/// How long everything may take to arrive once it has been sent.
const PATIENCE: Duration = Duration::from_secs(60);

/// When each change was sent, nanoseconds since `start`; 0 = not yet.
struct Sent {
    start: Instant,
    /// The version of the first change: one that no earlier run has used, whose values would be no change.
    first: u64,
    at: Vec<AtomicU64>,
}

impl Sent {
    /// How long before `now` the change of this version was sent; none of ours has another.
    fn ago(&self, version: u64, now: Instant) -> Option<Duration> {
        let n = usize::try_from(version.checked_sub(self.first)?).ok()?;
        let at = self.at.get(n)?.load(Ordering::Relaxed);
        Some((now - self.start).saturating_sub(Duration::from_nanos(at)))
    }
}

pub(crate) async fn run(flags: &Flags, node: Node) -> Result<(), Failure> {
    let shape = Shape::of(flags)?;
    let (rate, secs) = (flags.number("rate", 325)?.max(1), flags.number("secs", 5)?);
    let count = rate * secs;
    let (source, dest) = (flags.client("source").await?, flags.client("dest").await?);
    let mut agent = Agent::start(shape, flags, node).await?;
    agent.read_all().await?;
    let watch = watch_endpoints(&dest).await?;
    let first = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?;
    let at = (0..count).map(|_| AtomicU64::new(0)).collect();
    let sent = Arc::new(Sent { start: Instant::now(), first, at });
    let shown = tokio::spawn(shown(watch, sent.clone(), count));
    let sender = tokio::spawn(send(source, shape, sent.clone(), rate));
    let limit = Duration::from_secs(secs) + PATIENCE;
    let mut held = tokio::time::timeout(limit, held(&mut agent, &sent, count as usize))
        .await
        .map_err(|_| "changes are missing in the node's map")??;
    sender.await??;
    let mut shown = tokio::time::timeout(limit, shown).await.map_err(|_| "the watch lost changes")???;
    let us = |latencies: &mut Vec<Duration>, q: f64| {
        latencies.sort_unstable();
        latencies[((latencies.len() - 1) as f64 * q) as usize].as_secs_f64() * 1e6
    };
    println!(
        "{}",
        json!({
            "changes": count,
            "far_p50_us": us(&mut shown, 0.5), "far_p99_us": us(&mut shown, 0.99),
            "map_p50_us": us(&mut held, 0.5), "map_p99_us": us(&mut held, 0.99),
        })
    );
    Ok(())
}

/// How long each change took until the map held it.
async fn held(agent: &mut Agent, sent: &Sent, count: usize) -> Result<Vec<Duration>, Failure> {
    let mut held = Vec::new();
    while held.len() < count {
        let (entries, now) = agent.next().await?;
        for entry in entries {
            let version = entry.pod.and_then(|pod| version(pod.name.as_bytes()));
            held.extend(version.and_then(|version| sent.ago(version, now)));
        }
    }
    Ok(held)
}

/// Puts one change after the other at an even pace; no endpoint twice.
async fn send(source: Client, shape: Shape, sent: Arc<Sent>, rate: u64) -> Result<(), Failure> {
    let clusters: Vec<_> = shape.all().collect();
    let count = sent.at.len() as u64;
    if count > u64::from(shape.clusters) * u64::from(shape.endpoints) {
        return Err("there are fewer endpoints than changes".into());
    }
    let mut pace = interval(Duration::from_secs(1).div_f64(rate as f64));
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for n in 0..count {
        let of = &clusters[n as usize % clusters.len()];
        let (key, value) = shape.endpoint(of, (n / clusters.len() as u64) as u32, sent.first + n);
        pace.tick().await;
        let now = sent.start.elapsed().as_nanos() as u64;
        sent.at[n as usize].store(now.max(1), Ordering::Relaxed);
        source.put(key, value, 0).await?;
    }
    Ok(())
}

async fn shown(mut watch: WatchStream, sent: Arc<Sent>, count: u64) -> Result<Vec<Duration>, Failure> {
    let mut latencies = Vec::new();
    while (latencies.len() as u64) < count {
        let message = watch.next().await.ok_or("a watch ended")??;
        let now = Instant::now();
        let WatchMessage::Events(_, events) = message else {
            return Err(format!("a watch was ended: {message:?}").into());
        };
        for kv in events.into_iter().filter_map(|event| event.kv) {
            latencies.extend(version(&kv.value).and_then(|version| sent.ago(version, now)));
        }
    }
    Ok(latencies)
}
