//! Work that takes long: on a thread of its own, one piece at a time, which gives way to all others. So it holds up nobody
//! but those who ask for such work.

use tokio::sync::{mpsc, oneshot};

/// How much the thread gives way (nice(2)).
const NICE: i32 = 10;

type Job = Box<dyn FnOnce() + Send>;

/// The way to the thread. Each connection waits for its own work, so that the queue has one piece of each at most.
#[derive(Debug)]
pub(super) struct Heavy(mpsc::UnboundedSender<Job>);

impl Heavy {
    /// Starts a thread of this name.
    pub(super) fn start(name: &str) -> Self {
        let (jobs, mut queue) = mpsc::unbounded_channel::<Job>();
        let work = move || {
            let _ = rustix::process::nice(NICE);
            while let Some(job) = queue.blocking_recv() {
                job();
            }
        };
        if let Err(error) = std::thread::Builder::new().name(name.to_owned()).spawn(work) {
            tracing::warn!("no thread for {name}: what it would do is refused: {error}");
        }
        Self(jobs)
    }

    /// Does a piece of work; nothing: it could not be done.
    pub(super) async fn run<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> Option<R> {
        let (tell, told) = oneshot::channel();
        let job = move || {
            // One that has gone wants no answer.
            if !tell.is_closed() {
                let _ = tell.send(work());
            }
        };
        self.0.send(Box::new(job)).ok()?;
        told.await.ok()
    }
}
