//! One HTTP connection.
//!
//! hyper starts each request as a task of its own. Most of ours are over at their first step, so
//! that a task costs more than the work: here the requests that came with one read are first all
//! accepted, then all answered, and their answers leave with one write. What is not over at its
//! first step (a watch, a request still on its way) goes on as part of the connection's own task:
//! a write that concerns many of its watches wakes it once, and their events leave with one write.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use futures::stream::{FuturesUnordered, StreamExt};
use futures::task::AtomicWaker;
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
    let again = Arc::new(Again::default());
    let waker = Waker::from(again.clone());
    poll_fn(|context| {
        again.task.register(context.waker());
        if !stopping && stop.as_mut().poll(context).is_ready() {
            stopping = true;
            connection.as_mut().graceful_shutdown();
        }
        loop {
            again.exhaust(&mut running, &waker);
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

/// Wakes the connection's task for its running calls, but not while that is looking at them.
///
/// A call that sends wakes itself: it learns so that there is room for more. After two such calls
/// [`FuturesUnordered`] wants to be polled again later, and what ten watches have to say would leave with five writes.
#[derive(Default)]
struct Again {
    looking: AtomicBool,
    woken: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Again {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, SeqCst);
        if !self.looking.load(SeqCst) {
            self.task.wake();
        }
    }
}

impl Again {
    /// Polls all calls that have something to do; each about once, so that one that always has does not keep the others
    /// of the connection waiting.
    fn exhaust(&self, running: &mut FuturesUnordered<Step>, waker: &Waker) {
        self.looking.store(true, SeqCst);
        for _ in 0..running.len() / 2 + 2 {
            self.woken.swap(false, SeqCst);
            // Those that end here have said so in what they wrote.
            while let Poll::Ready(Some(())) = running.poll_next_unpin(&mut Context::from_waker(waker)) {}
            if !self.woken.load(SeqCst) {
                break;
            }
        }
        self.looking.store(false, SeqCst);
        // Who came meanwhile has relied on being seen.
        if self.woken.load(SeqCst) {
            self.task.wake();
        }
    }
}

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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::SeqCst;

    use super::*;

    /// Counts how often it wakes a task.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    /// A call that wakes itself at each of its first `more` polls, and notes every poll.
    fn call(polls: &Arc<AtomicUsize>, mut more: usize) -> Step {
        let polls = polls.clone();
        Box::pin(poll_fn(move |context| {
            polls.fetch_add(1, SeqCst);
            if let Some(left) = more.checked_sub(1) {
                more = left;
                context.waker().wake_by_ref();
            }
            Poll::Pending
        }))
    }

    #[test]
    fn calls_that_wake_themselves_are_all_polled_in_one_turn() {
        let (again, task) = (Arc::new(Again::default()), Arc::new(Count::default()));
        again.task.register(&Waker::from(task.clone()));
        let (waker, polls) = (Waker::from(again.clone()), Arc::new(AtomicUsize::new(0)));
        let mut running = FuturesUnordered::new();
        (0..10).for_each(|_| running.push(call(&polls, 1)));
        again.exhaust(&mut running, &waker);
        assert_eq!(
            (polls.load(SeqCst), task.0.load(SeqCst)),
            (20, 0),
            "each until it has nothing more to do"
        );
        // One that never ends is left for the next turn, which is asked for.
        running.push(call(&polls, usize::MAX));
        again.exhaust(&mut running, &waker);
        assert!(polls.load(SeqCst) < 60 && task.0.load(SeqCst) == 1);
        // Outside of a turn every wake-up counts.
        again.task.register(&Waker::from(task.clone()));
        waker.wake_by_ref();
        assert_eq!(task.0.load(SeqCst), 2);
    }
}
