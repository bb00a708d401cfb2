//! One HTTP connection.
//!
//! hyper starts each request as a task of its own. Most of ours are over at their first step, so
//! that a task costs more than the work: here the requests that came with one read are first all
//! accepted, then all answered, and their answers leave with one write. What is not over at its
//! first step (a watch, a request still on its way) goes on as part of the connection's own task:
//! a write that concerns many of its watches wakes it once, and their events leave with one write.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use futures::stream::{FuturesUnordered, StreamExt};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::cork::Cork;
use super::session::Session;

/// What a connection ends with; hyper's own choice of type.
pub(super) type Error = Box<dyn std::error::Error + Send + Sync>;

/// HTTP/2 flow-control window of a stream and of a connection, bytes.
const WINDOW: u32 = 1 << 20;

/// Serves a connection until it ends, or until its calls have after `shutdown`.
pub(super) async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    session: Session,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let (turn, stream) = (Turn::default(), Cork::new(stream));
    let mut builder = auto::Builder::new(turn.clone());
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW * 4)
        .max_concurrent_streams(None)
        .auto_date_header(false);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream.clone()), session));
    let mut stop = pin!(shutdown.cancelled());
    let mut stopping = false;
    let mut running = FuturesUnordered::new();
    poll_fn(|context| {
        if !stopping && stop.as_mut().poll(context).is_ready() {
            stopping = true;
            connection.as_mut().graceful_shutdown();
        }
        loop {
            // Those that end here have said so in what they wrote.
            while let Poll::Ready(Some(())) = running.poll_next_unpin(context) {}
            if let Poll::Ready(result) = connection.as_mut().poll(context) {
                return Poll::Ready(result);
            }
            // What it had to say leaves now. While the peer does not take it, this task is woken when it does.
            if let Poll::Ready(Err(error)) = stream.pull(context) {
                return Poll::Ready(Err(error.into()));
            }
            if !turn.run(&running) {
                return Poll::Pending;
            }
        }
    })
    .await
}

type Step = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The requests accepted since the connection was last polled.
#[derive(Clone, Default)]
struct Turn(Arc<Mutex<Vec<Step>>>);

impl Turn {
    /// Takes the first step of each and leaves those that go on to `running`; true if there was any.
    fn run(&self, running: &FuturesUnordered<Step>) -> bool {
        let accepted = std::mem::take(&mut *self.0.lock().expect("nothing panics while it is held"));
        let any = !accepted.is_empty();
        for mut step in accepted {
            // Nobody needs to be woken: a step that is not the last is taken again.
            if step.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                running.push(step);
            }
        }
        any
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Turn {
    fn execute(&self, future: F) {
        self.0.lock().expect("nothing panics while it is held").push(Box::pin(future));
    }
}
