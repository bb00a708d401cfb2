//! Which service answers a call. `KV` and `Watch` are answered here; the others are tonic's.

use std::sync::Arc;

use futures::future::{BoxFuture, Either, FutureExt};
use http::{Request, Response};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tower::ServiceExt;

use super::access::Caller;
use super::kv::{Kv, Method};
use super::metrics::{Counted, Metrics, Watching};
use super::unary::{Answer, Unary, accepted, refused};
use super::watch::Watches;
use super::watch_stream::WatchStream;
use super::{http as plain, methods};
use crate::Store;

/// The call that is a stream of watches.
const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// The calls of one connection.
#[derive(Debug)]
pub(super) struct Session {
    kv: Arc<Kv>,
    metrics: Arc<Metrics>,
    /// The services but `KV` and `Watch`; who calls is in a request's extensions.
    others: axum::Router,
    shutdown: CancellationToken,
}

/// A call in progress.
pub(super) type Call = Either<Unary, BoxFuture<'static, Result<Response<Answer>, std::convert::Infallible>>>;

impl Session {
    pub(super) fn new(
        store: Store,
        caller: Arc<Caller>,
        metrics: Arc<Metrics>,
        others: axum::Router,
        shutdown: CancellationToken,
    ) -> Self {
        let kv = Kv { store, caller, metrics: metrics.clone() };
        Self { kv: Arc::new(kv), metrics, others, shutdown }
    }

    fn watch(&self, caller: Arc<Caller>, requests: Incoming) -> Response<Answer> {
        let watches = Watches::new(self.kv.store.clone(), caller, Watching::new(self.metrics.clone()));
        let stopped = self.shutdown.clone().cancelled_owned();
        accepted(Answer::Watch(Box::new(WatchStream::new(requests, watches, stopped))))
    }
}

impl hyper::service::Service<Request<Incoming>> for Session {
    type Response = Response<Answer>;
    type Error = std::convert::Infallible;
    type Future = Call;

    fn call(&self, request: Request<Incoming>) -> Call {
        let path = request.uri().path();
        let token = self.kv.caller.by_token(request.headers());
        if let Some(method) = Method::of(path) {
            let kv = token.map_or_else(|| self.kv.clone(), |caller| Arc::new(self.kv.of(caller)));
            return Either::Left(Unary::new(kv, method, request));
        }
        if path == WATCH {
            let caller = token.unwrap_or_else(|| self.kv.caller.clone());
            let answer = self.watch(caller, request.into_body());
            return Either::Right(std::future::ready(Ok(answer)).boxed());
        }
        let method = methods::index(path);
        if method.is_none() && !plain::PATHS.contains(&path) {
            let answer = match request.version() {
                http::Version::HTTP_2 => refused(Status::unimplemented(format!(
                    "{path} is not implemented by this embedded store; use an external etcd for it"
                ))),
                _ => plain::not_found().map(Answer::Tonic),
            };
            return Either::Right(std::future::ready(Ok(answer)).boxed());
        }
        let mut request = request.map(tonic::body::Body::new);
        request.extensions_mut().insert(token.unwrap_or_else(|| self.kv.caller.clone()));
        let (answer, metrics) = (self.others.clone().oneshot(request), self.metrics.clone());
        let answer = answer.map(move |response| {
            let response = response?.map(tonic::body::Body::new);
            Ok(match method {
                Some(method) => Counted::answer(response, metrics, method),
                None => response,
            }
            .map(Answer::Tonic))
        });
        Either::Right(answer.boxed())
    }
}
