//! Unary loads: closed loops of a number of requests in flight on each connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway_kvstore::client::Client;
use causeway_kvstore::{KeyRange, pb};
use serde_json::{Value, json};

use super::process::{cpu_time, resident};
use super::{Failure, Flags, VALUE};

/// Keys one transaction of `fill` puts (etcd takes 128).
const BATCH: u64 = 100;

/// What runs: new keys are put, keys of `fill` read.
#[derive(Clone, Copy)]
enum Request {
    Put(&'static str, u64),
    Fill(u64),
    Get(u64, u64),
}

impl Request {
    async fn send(self, client: &Client, n: u64, value: &Bytes) -> Result<(), Failure> {
        match self {
            Self::Put(prefix, first) => {
                client.put(format!("{prefix}/{:08}", first + n), value.clone(), 0).await?;
            }
            Self::Fill(keys) => {
                let per_prefix = keys.div_ceil(BATCH);
                let (prefix, from) = (n / per_prefix, n % per_prefix * BATCH);
                let put = |k| pb::PutRequest {
                    key: key(prefix, k).into(),
                    value: value.clone(),
                    ..Default::default()
                };
                let op = |put| pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) };
                let success = (from..keys.min(from + BATCH)).map(|k| op(put(k))).collect();
                client.txn(pb::TxnRequest { success, ..Default::default() }).await?;
            }
            Self::Get(prefixes, keys) => {
                // A fixed permutation's walk: each key about equally often, in no order.
                let n = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
                let found = client.get(key(n % prefixes, n / prefixes % keys)).await?;
                if found.kvs.len() != 1 {
                    return Err("a key of `fill` is not there: give its --prefixes and --keys".into());
                }
            }
        }
        Ok(())
    }
}

fn prefix(n: u64) -> String {
    format!("cilium/cache/ip/v1/cls-{n:03}/")
}

fn key(in_prefix: u64, n: u64) -> String {
    format!("{}{n:08}", prefix(in_prefix))
}

/// B1.
pub(crate) async fn put(flags: &Flags) -> Result<Value, Failure> {
    let first = flags.number("first", 0)?;
    let clients = flags.clients(8).await?;
    let warmup = Request::Put("cilium/state/ip/v1/warmups", first);
    measured(flags, &clients, "put", warmup, Request::Put("cilium/state/ip/v1/default", first), 150_000).await
}

/// B2 (a).
pub(crate) async fn get(flags: &Flags) -> Result<Value, Failure> {
    let request = Request::Get(flags.number("prefixes", 250)?, flags.number("keys", 1200)?);
    measured(flags, &flags.clients(8).await?, "get", request, request, 100_000).await
}

/// The keys for `get` and `list`, and what they weigh (B6).
pub(crate) async fn fill(flags: &Flags) -> Result<Value, Failure> {
    let (prefixes, keys) = (flags.number("prefixes", 250)?, flags.number("keys", 1200)?);
    let clients = [flags.client().await?];
    load(&clients, 8, Request::Fill(keys), prefixes * keys.div_ceil(BATCH), None).await?;
    let rss = resident(&flags.text("pid")?)?;
    Ok(json!({ "bench": "fill", "keys": prefixes * keys, "rss_mb": rss as f64 / 1e6,
        "rss_bytes_per_key": rss as f64 / (prefixes * keys) as f64 }))
}

async fn measured(
    flags: &Flags,
    clients: &[Client],
    name: &str,
    warmup: Request,
    request: Request,
    count: u64,
) -> Result<Value, Failure> {
    let pid = flags.text("pid")?;
    let (count, in_flight) = (flags.number("count", count)?, flags.number("in-flight", 32)?);
    let until = Instant::now() + Duration::from_secs(flags.number("warmup-secs", 1)?);
    load(clients, in_flight, warmup, u64::MAX, Some(until)).await?;
    let (server, own, start) = (cpu_time(&pid)?, cpu_time("self")?, Instant::now());
    let mut latencies = load(clients, in_flight, request, count, None).await?;
    let elapsed = start.elapsed().as_secs_f64();
    let (server, own) = (cpu_time(&pid)? - server, cpu_time("self")? - own);
    latencies.sort_unstable();
    let done = latencies.len();
    if done == 0 {
        return Err("--count must be at least 1".into());
    }
    let at = |q: f64| latencies[((done - 1) as f64 * q) as usize].as_secs_f64() * 1e6;
    let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / done as f64;
    Ok(json!({
        "bench": name, "done": done, "connections": clients.len(), "in_flight": in_flight,
        "tls": flags.tls().is_some(), "seconds": elapsed, "rate": done as f64 / elapsed,
        "p50_us": at(0.5), "p99_us": at(0.99),
        "server_cpu_us": each(server), "client_cpu_us": each(own),
    }))
}

/// Sends requests 0..`count` until all are done or `until` has come; how long each took.
async fn load(
    clients: &[Client],
    in_flight: u64,
    request: Request,
    count: u64,
    until: Option<Instant>,
) -> Result<Vec<Duration>, Failure> {
    let next = Arc::new(AtomicU64::new(0));
    let value = Bytes::from(vec![b'v'; VALUE]);
    let mut tasks = Vec::new();
    for client in clients {
        for _ in 0..in_flight {
            let (client, next, value) = (client.clone(), next.clone(), value.clone());
            tasks.push(tokio::spawn(async move {
                let mut latencies = Vec::new();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let start = Instant::now();
                    if n >= count || until.is_some_and(|end| start >= end) {
                        return Ok::<_, Failure>(latencies);
                    }
                    request.send(&client, n, &value).await?;
                    latencies.push(start.elapsed());
                }
            }));
        }
    }
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await??);
    }
    Ok(all)
}

/// B2 (b) and (c): all prefixes one after the other in pages, over and over for `--secs`, whole rounds only.
pub(crate) async fn list(flags: &Flags) -> Result<Value, Failure> {
    let pid = flags.text("pid")?;
    let (prefixes, page) = (flags.number("prefixes", 250)?, flags.number("page", 256)?);
    let client = flags.client().await?;
    let limit = Duration::from_secs(flags.number("secs", 2)?);
    let (server, own, start) = (cpu_time(&pid)?, cpu_time("self")?, Instant::now());
    let mut keys = 0u64;
    while keys == 0 || start.elapsed() < limit {
        for n in 0..prefixes {
            let mut pages = client.list(KeyRange::prefix(prefix(n)), i64::try_from(page)?);
            while let Some(page) = pages.next().await? {
                keys += page.kvs.len() as u64;
            }
        }
        if keys == 0 {
            return Err("there are no keys: run `fill` first".into());
        }
    }
    let elapsed = start.elapsed().as_secs_f64();
    let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / keys as f64;
    Ok(json!({
        "bench": "list", "keys": keys, "page": page, "seconds": elapsed, "rate": keys as f64 / elapsed,
        "server_cpu_us": each(cpu_time(&pid)? - server), "client_cpu_us": each(cpu_time("self")? - own),
    }))
}
