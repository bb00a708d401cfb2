//! The orderly end of a process: one token every task listens to, and a bounded time to finish.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Error;

/// The token that ends a process and the tasks to wait for.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
    tasks: TaskTracker,
}

impl Shutdown {
    /// Ends on SIGTERM or SIGINT; a second signal ends the process at once with status 1.
    ///
    /// # Errors
    /// [`Error::Signals`] when the handlers cannot be installed.
    pub fn on_signals() -> Result<Self, Error> {
        let this = Self::default();
        let mut term = signal(SignalKind::terminate()).map_err(Error::Signals)?;
        let mut int = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
        let token = this.token.clone();
        tokio::spawn(async move {
            let name = tokio::select! { _ = term.recv() => "SIGTERM", _ = int.recv() => "SIGINT" };
            tracing::info!(signal = name, "shutting down");
            token.cancel();
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            tracing::error!("second signal: stopping at once");
            std::process::exit(1);
        });
        Ok(this)
    }

    /// The token; cancelled when the process should end.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Asks the process to end.
    pub fn trigger(&self) {
        self.token.cancel();
    }

    /// Runs a task that [`Self::finish`] waits for.
    pub fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(task)
    }

    /// Runs a task the process cannot live without: when it ends before the shutdown, however it
    /// ends, the whole process shuts down. `name` is for the log.
    pub fn spawn_vital<F, E>(&self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: std::fmt::Display + Send + 'static,
    {
        let token = self.token.clone();
        // A panic must not leave a process that looks alive: the guard cancels on unwind too.
        let guard = self.token.clone().drop_guard();
        self.tasks.spawn(async move {
            let result = task.await;
            match result {
                Err(e) => {
                    tracing::error!(task = name, error = %format_args!("{e:#}"), "task failed; stopping")
                }
                Ok(()) if !token.is_cancelled() => tracing::error!(task = name, "task ended early; stopping"),
                Ok(()) => {}
            }
            drop(guard);
        });
    }

    /// Waits until the token is cancelled, then at most `grace` for the spawned tasks; true when
    /// all of them ended in time.
    pub async fn finish(&self, grace: Duration) -> bool {
        self.token.cancelled().await;
        self.tasks.close();
        let in_time = tokio::time::timeout(grace, self.tasks.wait()).await.is_ok();
        if !in_time {
            tracing::warn!(left = self.tasks.len(), "tasks did not end within the grace period");
        }
        in_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_for_tasks_but_not_for_ever() {
        let shutdown = Shutdown::default();
        let token = shutdown.token();
        shutdown.spawn(async move { token.cancelled().await });
        shutdown.trigger();
        assert!(shutdown.finish(Duration::from_secs(5)).await);

        let shutdown = Shutdown::default();
        shutdown.spawn(std::future::pending::<()>());
        shutdown.trigger();
        assert!(!shutdown.finish(Duration::from_millis(20)).await);
    }

    #[tokio::test]
    async fn a_vital_task_ends_the_process() {
        let shutdown = Shutdown::default();
        shutdown.spawn_vital("failing", async { Err::<(), _>("broken") });
        assert!(shutdown.finish(Duration::from_secs(5)).await);
    }
}
