//! Looks at the merged services from outside the task that owns them: a question goes in as a function,
//! its answer comes back. The owner never waits for who asks.

use anyhow::{Result, anyhow};
use causeway_mesh::merge::ServiceMerger;
use tokio::sync::{mpsc, oneshot};

/// A question, with its way back in it.
pub(super) type Look = Box<dyn FnOnce(&ServiceMerger) + Send>;

/// Questions that may wait; whoever asks more waits too.
const QUEUE: usize = 16;

/// Who may ask. Cheap to clone.
#[derive(Clone)]
pub(super) struct Services(mpsc::Sender<Look>);

impl Services {
    /// The askers' end and the owner's.
    pub(super) fn channel() -> (Self, mpsc::Receiver<Look>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(sender), receiver)
    }

    /// Asks, and waits for the answer.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&ServiceMerger) -> T + Send + 'static,
    ) -> Result<T> {
        let (done, answer) = oneshot::channel();
        let ended = || anyhow!("the agent is shutting down");
        self.0.send(Box::new(move |services| drop(done.send(look(services))))).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())
    }
}
