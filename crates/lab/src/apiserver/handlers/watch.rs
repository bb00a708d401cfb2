//! watch: a stream of JSON events, one a line.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_kvstore::{WatchError, Watcher, pb};
use futures::StreamExt;
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::read::{Selectors, selected};
use super::{Body, Call};
use crate::apiserver::error::{ApiError, ApiResult};
use crate::apiserver::negotiate::Form;
use crate::apiserver::ops::view;
use crate::apiserver::resources::Resource;
use crate::apiserver::{Api, storage};

/// How often a watch that asked for bookmarks gets one. Kubernetes: about a minute.
const BOOKMARK_EVERY: Duration = Duration::from_secs(30);
/// A watch without a timeout lives this long at most. Kubernetes: 30 to 60 minutes.
const LONGEST: i64 = 45 * 60;

/// GET with `watch`.
///
/// # Errors
/// 400 for bad parameters. A revision that is gone is told in the stream, as an ERROR event with code 410.
pub fn answer(api: Arc<Api>, call: Call) -> ApiResult<Response<Body>> {
    let selectors = Selectors::of(&call)?;
    let asked = call.query.number("resourceVersion")?.unwrap_or(0);
    let initial = match call.query.get("sendInitialEvents") {
        "" => asked == 0,
        text => text == "true",
    };
    let seconds = call.query.number("timeoutSeconds")?.filter(|n| *n > 0).unwrap_or(LONGEST);
    let (out, events) = mpsc::channel::<Result<Frame<Bytes>, std::io::Error>>(64);
    let mut session = Session {
        form: call.form(),
        bookmarks: call.query.flag("allowWatchBookmarks"),
        watchlist: call.query.get("sendInitialEvents") == "true",
        prefix: storage::prefix(&call.res.storage, call.namespace()),
        namespace: call.namespace().to_string(),
        res: call.res,
        api,
        selectors,
        out,
        first: true,
        sent: asked,
    };
    tokio::spawn(async move {
        let run = session.run(asked, initial);
        // Closing the stream is how a watch's time runs out; nothing is lost, the client resumes.
        let _ = tokio::time::timeout(Duration::from_secs(seconds.unsigned_abs()), run).await;
    });
    let body = StreamBody::new(ReceiverStream::new(events));
    let mut response = Response::new(body.boxed_unsync());
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    Ok(response)
}

struct Session {
    api: Arc<Api>,
    res: Arc<Resource>,
    namespace: String,
    prefix: String,
    selectors: Selectors,
    form: Form,
    bookmarks: bool,
    watchlist: bool,
    out: mpsc::Sender<Result<Frame<Bytes>, std::io::Error>>,
    /// No object has been sent yet.
    first: bool,
    /// All changes up to this revision have been sent.
    sent: i64,
}

/// The client is gone, or the stream has ended with an error event.
struct Over;

impl Session {
    async fn run(&mut self, asked: i64, initial: bool) {
        if let Err(e) = self.stream(asked, initial).await
            && let Err(error) = e
        {
            let status = error.to_status();
            let _ = self.send("ERROR", status).await;
        }
    }

    async fn stream(&mut self, asked: i64, initial: bool) -> Result<(), Result<Over, ApiError>> {
        let over = Ok::<Over, ApiError>;
        if initial {
            let (items, revision) =
                selected(&self.api, &self.res, &self.namespace, &self.selectors).map_err(Err)?;
            for item in items {
                self.object("ADDED", item).await.map_err(over)?;
            }
            self.sent = revision;
            if self.watchlist {
                let mark = self.form.bookmark(&self.res, revision, true);
                self.send("BOOKMARK", mark).await.map_err(over)?;
            }
        } else if asked == 0 {
            self.sent = self.api.storage.revision();
        }
        let mut changes = self.api.storage.watch(&self.prefix, self.sent + 1);
        let mut tick = tokio::time::interval(BOOKMARK_EVERY);
        tick.tick().await;
        let out = self.out.clone();
        loop {
            tokio::select! {
                () = out.closed() => return Err(Ok(Over)),
                batch = changes.next() => match batch {
                    Some(batch) => self.batch(batch).await?,
                    None => return Err(Ok(Over)),
                },
                _ = tick.tick(), if self.bookmarks => self.bookmark(&mut changes).await?,
            }
        }
    }

    /// The revision of a bookmark is one up to which the watcher has looked at everything.
    async fn bookmark(&mut self, changes: &mut Watcher) -> Result<(), Result<Over, ApiError>> {
        while let Some(batch) = changes.poll_now().transpose() {
            self.batch(batch).await?;
        }
        self.sent = self.sent.max(changes.next_revision() - 1);
        let mark = self.form.bookmark(&self.res, self.sent, false);
        self.send("BOOKMARK", mark).await.map_err(Ok)
    }

    async fn batch(
        &mut self,
        batch: Result<causeway_kvstore::WatchBatch, WatchError>,
    ) -> Result<(), Result<Over, ApiError>> {
        let batch = match batch {
            Ok(batch) => batch,
            Err(WatchError::Compacted { .. }) => return Err(Err(storage::too_old(self.sent + 1))),
        };
        for event in &batch.events {
            if let Some((kind, object)) = self.judge(event).map_err(Err)? {
                self.object(kind, object).await.map_err(Ok)?;
            }
        }
        self.sent = self.sent.max(batch.revision);
        Ok(())
    }

    /// What a change of the store is to this watch: an object may enter or leave the selection by being modified.
    fn judge(&self, event: &pb::Event) -> ApiResult<Option<(&'static str, Value)>> {
        let Some(kv) = &event.kv else { return Ok(None) };
        let read = |kv: &pb::KeyValue, revision: i64| -> ApiResult<Value> {
            Ok(view(&self.res, storage::decode(&kv.key, &kv.value, revision)?.value))
        };
        let before = event.prev_kv.as_ref().map(|p| read(p, kv.mod_revision)).transpose()?;
        let before = before.filter(|v| self.selectors.matches(v));
        let after = match event.r#type == pb::event::EventType::Delete as i32 {
            true => None,
            false => Some(read(kv, kv.mod_revision)?).filter(|v| self.selectors.matches(v)),
        };
        Ok(match (before, after) {
            (None, Some(new)) => Some(("ADDED", new)),
            (Some(_), Some(new)) => Some(("MODIFIED", new)),
            (Some(old), None) => Some(("DELETED", old)),
            (None, None) => None,
        })
    }

    async fn object(&mut self, kind: &str, object: Value) -> Result<(), Over> {
        let shown = self.form.event(&self.res, object, self.first);
        self.first = false;
        self.send(kind, shown).await
    }

    async fn send(&mut self, kind: &str, object: Value) -> Result<(), Over> {
        let mut line = json!({"type": kind, "object": object}).to_string();
        line.push('\n');
        self.out.send(Ok(Frame::data(Bytes::from(line)))).await.map_err(|_| Over)
    }
}
