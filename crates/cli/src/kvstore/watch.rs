//! `causeway kvstore watch`.

use anyhow::{Context, Result, bail};
use causeway_kvstore::client::{Client, WatchMessage};
use causeway_kvstore::{WatchOptions, pb};
use futures::StreamExt;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::{WatchArgs, show};
use crate::clustermesh::Output;
use crate::output;

pub(super) async fn run(args: &WatchArgs) -> Result<()> {
    let mut interrupted = signal(SignalKind::interrupt()).context("listen for Ctrl-C")?;
    let mut terminated = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    tokio::select! {
        result = follow(args) => result,
        // Dropping the stream ends the watch on the server too.
        _ = interrupted.recv() => Ok(()),
        _ = terminated.recv() => Ok(()),
    }
}

async fn follow(args: &WatchArgs) -> Result<()> {
    let range = args.keys.range()?;
    let client = Client::connect(&args.target.client_config()?).await?;
    let mut stream = client.watch(WatchOptions::new(range, args.since)).await?;
    let mut last = 0;
    while let Some(message) = stream.next().await {
        let message = message.with_context(|| resume(last))?;
        match message {
            WatchMessage::Created(header) => {
                last = header.revision;
                eprintln!("watching {} at revision {}", client.endpoint(), header.revision);
            }
            WatchMessage::Events(header, events) => {
                for event in &events {
                    if !output::offer(&render(event, args.output))? {
                        return Ok(());
                    }
                }
                last = header.revision;
            }
            WatchMessage::Compacted { compact_revision } => bail!(
                "revision {} is gone from the server's history; --since {compact_revision} is the oldest it has",
                args.since
            ),
            WatchMessage::Canceled(reason) => bail!("the server ended the watch: {reason}"),
        }
    }
    bail!("the server closed the connection; {}", resume(last))
}

fn resume(last: i64) -> String {
    match last {
        0 => "the watch ended before it began".to_owned(),
        last => format!("the watch ended; --since {} continues it", last + 1),
    }
}

fn render(event: &pb::Event, output: Output) -> String {
    let deleted = event.r#type == pb::event::EventType::Delete as i32;
    let kv = event.kv.clone().unwrap_or_default();
    match (output, deleted) {
        (Output::Json, _) => {
            let mut shown = show::json(&kv, !deleted);
            shown["event"] = json!(if deleted { "delete" } else { "put" });
            shown.to_string()
        }
        (Output::Summary, true) => {
            format!("delete {}  revision {}", output::printable(&kv.key), kv.mod_revision)
        }
        (Output::Summary, false) => format!("put {}", show::text(&kv)),
    }
}
