//! What the leader knows, behind its one lock.

use std::sync::MutexGuard;
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::lock::Lock;

/// The [`Cluster`] and the clock by which it is told the time. It is shared by what asks it and by the ledger, which
/// makes true in it what the log has.
#[derive(Debug)]
pub struct Known {
    cluster: Lock<Cluster>,
    started: Instant,
}

impl Known {
    /// Its clock begins now.
    pub fn new(cluster: Cluster) -> Self {
        Self { cluster: Lock::new(cluster), started: Instant::now() }
    }

    /// The lock, and the time that it is. Never hold it across an await.
    pub fn lock(&self) -> MutexGuard<'_, Cluster> {
        let mut cluster = self.cluster.lock();
        // Not before it is held: what is said then is as new as that.
        cluster.set_clock(self.now());
        cluster
    }

    /// Time since the start: what the cluster takes for the clock.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// When that was.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// A moment on that clock.
    pub fn at(&self, moment: Instant) -> Duration {
        moment.saturating_duration_since(self.started)
    }
}
