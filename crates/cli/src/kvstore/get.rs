//! `causeway kvstore get`.

use anyhow::{Result, bail};
use bytes::Bytes;
use causeway_kvstore::KeyRange;
use causeway_kvstore::client::{Client, ClientError, PAGE};
use causeway_kvstore::pb;
use serde_json::json;

use super::{GetArgs, show};
use crate::clustermesh::Output;
use crate::output;

pub(super) async fn run(args: &GetArgs) -> Result<()> {
    let range = args.keys.range()?;
    let client = Client::connect(&args.target.client_config()?).await?;
    if args.count_only {
        return count(&client, &range, args).await;
    }
    let mut pages = Pages::new(client, range, args);
    let mut shown = vec![];
    let mut found = 0;
    while let Some(page) = pages.next().await? {
        found += page.len();
        for kv in &page {
            let open = match (args.output, args.keys_only) {
                (Output::Json, keys_only) => {
                    shown.push(show::json(kv, !keys_only));
                    true
                }
                (Output::Summary, true) => output::offer(&output::printable(&kv.key))?,
                (Output::Summary, false) => output::offer(&show::text(kv))?,
            };
            if !open {
                return Ok(());
            }
        }
    }
    if args.output == Output::Json {
        let all = json!({ "revision": pages.revision, "count": pages.count, "kvs": shown });
        output::line(&serde_json::to_string_pretty(&all)?)?;
    }
    match (found, args.keys.prefix) {
        (0, false) => bail!("there is no key {:?}", args.keys.start),
        (0, true) => eprintln!("no key begins with {:?}", args.keys.start),
        _ => {}
    }
    Ok(())
}

async fn count(client: &Client, range: &KeyRange, args: &GetArgs) -> Result<()> {
    let request = pb::RangeRequest { revision: args.rev, count_only: true, ..range.into() };
    let response = client.range(request).await?;
    let revision = response.header.map_or(0, |header| header.revision);
    match args.output {
        Output::Summary => output::line(&response.count.to_string())?,
        Output::Json => {
            output::line(&json!({ "revision": revision, "count": response.count }).to_string())?;
        }
    }
    Ok(())
}

/// The keys of a range, page by page, all as of one revision.
struct Pages {
    client: Client,
    next: Option<Bytes>,
    end: Bytes,
    keys_only: bool,
    left: Option<u64>,
    /// The revision all pages are of; 0 before the first one.
    revision: i64,
    /// How many keys the range holds.
    count: i64,
}

impl Pages {
    fn new(client: Client, range: KeyRange, args: &GetArgs) -> Self {
        Self {
            client,
            next: Some(range.start().clone()),
            end: range.range_end(),
            keys_only: args.keys_only,
            left: (args.limit > 0).then_some(args.limit),
            revision: args.rev,
            count: 0,
        }
    }

    async fn next(&mut self) -> Result<Option<Vec<pb::KeyValue>>, ClientError> {
        let Some(key) = self.next.take().filter(|_| self.left != Some(0)) else { return Ok(None) };
        let limit = self.left.map_or(PAGE, |left| PAGE.min(i64::try_from(left).unwrap_or(PAGE)));
        let request = pb::RangeRequest {
            key,
            range_end: self.end.clone(),
            limit,
            revision: self.revision,
            keys_only: self.keys_only,
            ..Default::default()
        };
        let response = self.client.range(request).await?;
        if self.revision == 0 {
            self.revision = response.header.map_or(0, |header| header.revision);
        }
        // Only the first page begins where the range does.
        self.count = self.count.max(response.count);
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(response.kvs.len() as u64);
        }
        self.next =
            response.kvs.last().filter(|_| response.more).map(|kv| [kv.key.as_ref(), &[0]].concat().into());
        Ok(Some(response.kvs))
    }
}
