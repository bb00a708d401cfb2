//! Changes of endpoints at the source, followed at both ends.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway_kvstore::KeyRange;
use causeway_kvstore::client::{Client, WatchMessage, WatchStream};
use causeway_model::ClusterInfo;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use super::process::cpu_time;
use super::shape::{Shape, endpoints, version, watch_endpoints};
use super::{Failure, Flags};

/// How long the last change may take to arrive.
const PATIENCE: Duration = Duration::from_secs(120);

/// What one end has seen.
#[derive(Default)]
struct Seen {
    latencies: Vec<Duration>,
    last: HashMap<Bytes, u64>,
    events: u64,
    finished: Option<Instant>,
}

/// When each change was sent, by its number; 0 = not yet. Nanoseconds since `start`.
struct Sent {
    start: Instant,
    at: Vec<AtomicU64>,
}

pub(crate) async fn run(flags: &Flags) -> Result<(), Failure> {
    let shape = Shape::of(flags)?;
    let (rate, secs) = (flags.number("rate", 325)?, flags.number("secs", 5)?);
    let count = if rate > 0 { rate * secs } else { flags.number("changes", secs * 20_000)? };
    let pids: Vec<String> = flags.text("pids")?.split(',').map(str::to_owned).collect();
    let (source, dest) = (flags.client("source").await?, flags.client("dest").await?);
    let first = last_version(&source).await? + 1;
    let sent = Arc::new(Sent { start: Instant::now(), at: (0..count).map(|_| AtomicU64::new(0)).collect() });
    let near = tokio::spawn(follow(watch_endpoints(&source).await?, sent.clone(), first, count));
    let far = tokio::spawn(follow(watch_endpoints(&dest).await?, sent.clone(), first, count));

    let before = total(&pids)?;
    let (begun, own) = (Instant::now(), cpu_time("self")?);
    let model = send(flags, &source, shape, &sent, first, count).await?;
    let near = tokio::time::timeout(PATIENCE, near).await.map_err(|_| "the source lost changes")???;
    let far = tokio::time::timeout(PATIENCE, far).await.map_err(|_| "the destination lost changes")???;
    let (cpu, own) = (total(&pids)? - before, cpu_time("self")? - own);
    check(&dest, &model).await?;

    let at = |seen: &Seen, q: f64| {
        let mut sorted = seen.latencies.clone();
        sorted.sort_unstable();
        sorted[((sorted.len() - 1) as f64 * q) as usize].as_secs_f64() * 1e6
    };
    let lasted = far.finished.map_or(0.0, |end| (end - begun).as_secs_f64());
    println!(
        "{}",
        json!({
            "changes": count, "delivered": far.events, "seconds": lasted, "rate": count as f64 / lasted,
            "cpu_us_per_change": cpu.as_secs_f64() * 1e6 / count as f64,
            "client_cpu_us_per_change": own.as_secs_f64() * 1e6 / count as f64,
            "near_p50_us": at(&near, 0.5), "near_p99_us": at(&near, 0.99),
            "far_p50_us": at(&far, 0.5), "far_p99_us": at(&far, 0.99),
        })
    );
    Ok(())
}

fn total(pids: &[String]) -> Result<Duration, Failure> {
    pids.iter().map(|pid| cpu_time(pid)).sum()
}

/// The greatest version in the source, so that several runs may follow each other.
async fn last_version(source: &Client) -> Result<u64, Failure> {
    let mut pages = source.list(KeyRange::prefix(endpoints()), 10_000);
    let mut last = 0;
    while let Some(page) = pages.next().await? {
        last = page.kvs.iter().filter_map(|kv| version(&kv.value)).fold(last, u64::max);
    }
    Ok(last)
}

/// Sends `count` changes, numbered from `first`, at the wanted pace; what each key has in the end.
async fn send(
    flags: &Flags,
    source: &Client,
    shape: Shape,
    sent: &Arc<Sent>,
    first: u64,
    count: u64,
) -> Result<BTreeMap<String, Bytes>, Failure> {
    let clusters: Vec<ClusterInfo> = shape.all().collect();
    let mut model = BTreeMap::new();
    let changes: Vec<(String, Bytes)> = (0..count)
        .map(|n| {
            // A walk over all endpoints; neighbours in time are of different clusters.
            let of = &clusters[n as usize % clusters.len()];
            let endpoint = (n / clusters.len() as u64) as u32 % shape.endpoints;
            let (key, value) = shape.endpoint(of, endpoint, first + n);
            model.insert(key.clone(), value.clone());
            (key, value)
        })
        .collect();
    let put = |(n, (key, value)): (usize, (String, Bytes))| {
        let (source, sent) = (source.clone(), sent.clone());
        async move {
            let now = sent.start.elapsed().as_nanos() as u64;
            sent.at[n].store(now.max(1), Ordering::Relaxed);
            source.put(key, value, 0).await.map(drop)
        }
    };
    let rate = flags.number("rate", 325)?;
    if rate == 0 {
        let in_flight = flags.number("in-flight", 256)? as usize;
        // A key comes again only after as many changes as there are endpoints: far more than are in flight.
        let puts = stream::iter(changes.into_iter().enumerate().map(|change| Ok(put(change))));
        puts.try_buffer_unordered(in_flight).try_for_each(|()| std::future::ready(Ok(()))).await?;
        return Ok(model);
    }
    let mut pace = interval(Duration::from_secs(1).div_f64(rate as f64));
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut running = tokio::task::JoinSet::new();
    for change in changes.into_iter().enumerate() {
        pace.tick().await;
        running.spawn(put(change));
        while let Some(done) = running.try_join_next() {
            done??;
        }
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(model)
}

/// Takes events until every change has been seen or been passed by a later one of its key.
async fn follow(mut stream: WatchStream, sent: Arc<Sent>, first: u64, count: u64) -> Result<Seen, Failure> {
    let mut seen = Seen::default();
    while seen.events < count {
        let message = stream.next().await.ok_or("a watch ended")??;
        let now = sent.start.elapsed();
        let WatchMessage::Events(_, events) = message else {
            return Err(format!("a watch was ended: {message:?}").into());
        };
        for kv in events.into_iter().filter_map(|event| event.kv) {
            let number = version(&kv.value).ok_or("a value without version")?;
            let Some(n) = number.checked_sub(first) else { continue };
            let at = Duration::from_nanos(sent.at[n as usize].load(Ordering::Relaxed));
            seen.latencies.push(now.saturating_sub(at));
            if seen.last.insert(kv.key.clone(), number).is_some_and(|before| before >= number) {
                return Err(format!("{} went back in time", String::from_utf8_lossy(&kv.key)).into());
            }
            seen.events += 1;
        }
    }
    seen.finished = Some(Instant::now());
    Ok(seen)
}

/// What the destination holds in the end is what was sent last.
async fn check(dest: &Client, model: &BTreeMap<String, Bytes>) -> Result<(), Failure> {
    let mut pages = dest.list(KeyRange::prefix(endpoints()), 10_000);
    let mut left = model.len();
    while let Some(page) = pages.next().await? {
        for kv in page.kvs {
            let key = std::str::from_utf8(&kv.key)?;
            let Some(want) = model.get(key) else { continue };
            if kv.value != *want {
                return Err(format!("{key} has another value than was sent last").into());
            }
            left -= 1;
        }
    }
    if left > 0 { Err(format!("{left} keys are not at the destination").into()) } else { Ok(()) }
}
