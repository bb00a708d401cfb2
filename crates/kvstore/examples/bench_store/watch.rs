//! B3: one prefix, many watchers, each on a stream of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway_kvstore::WatchOptions;
use causeway_kvstore::client::{WatchMessage, WatchStream};
use futures::StreamExt;
use serde_json::{Value, json};

use super::process::{cpu_time, resident};
use super::{Failure, Flags, VALUE};

/// Puts in flight when there is no `--rate`.
const WRITERS: u64 = 16;
/// How long the server may need to deliver everything.
const PATIENCE: Duration = Duration::from_secs(120);

/// Counts of all watchers.
#[derive(Default)]
struct Seen {
    messages: AtomicU64,
    events: AtomicU64,
}

/// `--events` puts, flat out or `--rate` a second, until every watcher has every one of them.
pub(crate) async fn run(flags: &Flags) -> Result<Value, Failure> {
    let pid = flags.text("pid")?;
    let (watchers, events) = (flags.number("watchers", 100)?, flags.number("events", 2000)?);
    let rate = flags.number("rate", 0)?;
    let writer = flags.client().await?;
    // So that the first stream's costs, paid once, are not taken for a watch's.
    writer.put("bench/watch/first", "", 0).await?;
    let clients = flags.clients(10).await?;
    let before = resident(&pid)?;
    let epoch = Instant::now();
    let seen = Arc::new(Seen::default());
    let mut tasks = Vec::new();
    let mut streams = Vec::new();
    for n in 0..watchers {
        let client = &clients[(n % clients.len() as u64) as usize];
        let mut stream = client.watch(WatchOptions::prefix("bench/watch/", 0)).await?;
        match stream.next().await.ok_or("the stream ended")?? {
            WatchMessage::Created(_) => streams.push(stream),
            other => return Err(format!("no watch: {other:?}").into()),
        }
    }
    let rss = resident(&pid)?.saturating_sub(before);
    for stream in streams {
        tasks.push(tokio::spawn(follow(stream, events, epoch, seen.clone())));
    }
    let (server, own, start) = (cpu_time(&pid)?, cpu_time("self")?, Instant::now());
    let next = Arc::new(AtomicU64::new(0));
    let mut writers = Vec::new();
    for _ in 0..if rate == 0 { WRITERS } else { 1 } {
        let (writer, next) = (writer.clone(), next.clone());
        writers.push(tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_nanos(1_000_000_000 / rate.max(1)));
            loop {
                if rate > 0 {
                    tick.tick().await;
                }
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= events {
                    return Ok::<_, Failure>(());
                }
                // The value begins with the time of the put's call.
                let mut value = vec![b'v'; VALUE];
                value[..8].copy_from_slice(&(epoch.elapsed().as_nanos() as u64).to_be_bytes());
                writer.put(format!("bench/watch/{:08}", n % 1000), Bytes::from(value), 0).await?;
            }
        }));
    }
    for task in writers {
        task.await??;
    }
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(tokio::time::timeout(PATIENCE, task).await???);
    }
    let elapsed = start.elapsed().as_secs_f64();
    let (server, own) = (cpu_time(&pid)? - server, cpu_time("self")? - own);
    latencies.sort_unstable();
    let deliveries = seen.events.load(Ordering::Relaxed);
    let at = |q: f64| f64::from(latencies[((latencies.len() - 1) as f64 * q) as usize]);
    let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / deliveries as f64;
    Ok(json!({
        "bench": "watch", "watchers": watchers, "connections": clients.len(), "events": events,
        "put_rate": events as f64 / elapsed, "seconds": elapsed, "rate": deliveries as f64 / elapsed,
        "events_per_message": deliveries as f64 / seen.messages.load(Ordering::Relaxed) as f64,
        "p50_us": at(0.5), "p99_us": at(0.99),
        "server_cpu_us": each(server), "client_cpu_us": each(own),
        "rss_bytes_per_watch": rss as f64 / watchers as f64,
    }))
}

/// Takes `count` events; microseconds from the call of each put to here.
async fn follow(
    mut stream: WatchStream,
    count: u64,
    epoch: Instant,
    seen: Arc<Seen>,
) -> Result<Vec<u32>, Failure> {
    let mut latencies = Vec::with_capacity(usize::try_from(count)?);
    while (latencies.len() as u64) < count {
        let WatchMessage::Events(_, events) = stream.next().await.ok_or("a stream ended")?? else {
            return Err("a watch was cancelled".into());
        };
        let now = epoch.elapsed().as_nanos() as u64;
        seen.messages.fetch_add(1, Ordering::Relaxed);
        seen.events.fetch_add(events.len() as u64, Ordering::Relaxed);
        for kv in events.iter().filter_map(|event| event.kv.as_ref()) {
            let sent = kv.value.first_chunk().ok_or("a value is too short")?;
            latencies.push(u32::try_from(now.saturating_sub(u64::from_be_bytes(*sent)) / 1000)?);
        }
    }
    Ok(latencies)
}
