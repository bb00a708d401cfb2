//! The datapath's owner: one thread, since every call into the kernel blocks, and one writer.

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, anyhow};
use causeway_datapath::Datapath;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

type Job = Box<dyn FnOnce(&mut Datapath) + Send>;

/// Jobs that may wait; whoever produces more waits too.
const QUEUE: usize = 1024;

/// A handle to the datapath. Cheap to clone.
#[derive(Clone)]
pub(super) struct Owner {
    jobs: mpsc::Sender<Job>,
    stats: Arc<Mutex<Value>>,
}

impl Owner {
    /// Opens the datapath on a thread of its own and keeps it there.
    pub(super) async fn start(
        open: impl FnOnce() -> Result<Datapath, causeway_datapath::Error> + Send + 'static,
    ) -> Result<Self> {
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        let stats = Arc::new(Mutex::new(Value::Null));
        let (opened, result) = oneshot::channel();
        let shown = stats.clone();
        std::thread::Builder::new().name("datapath".into()).spawn(move || {
            let mut datapath = match open() {
                Ok(datapath) => datapath,
                Err(error) => return drop(opened.send(Err(error))),
            };
            let _ = opened.send(Ok(()));
            while let Some(job) = queue.blocking_recv() {
                job(&mut datapath);
                let now =
                    serde_json::json!({ "attach": datapath.attach_mode(), "programmed": datapath.stats() });
                *shown.lock().expect("nothing panics while it is held") = now;
            }
        })?;
        result.await.context("the datapath thread ended")??;
        Ok(Self { jobs, stats })
    }

    /// Does something with the datapath and waits for the result.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Datapath) -> T + Send + 'static,
    ) -> Result<T> {
        let (done, result) = oneshot::channel();
        let job: Job = Box::new(move |datapath| drop(done.send(work(datapath))));
        self.jobs.send(job).await.map_err(|_| anyhow!("the datapath thread has ended"))?;
        result.await.map_err(|_| anyhow!("the datapath thread has ended"))
    }

    /// How much is programmed, as of the last job.
    pub(super) fn last_stats(&self) -> Value {
        self.stats.lock().expect("nothing panics while it is held").clone()
    }
}
