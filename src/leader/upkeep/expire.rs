//! Messages whose deadline has come are deleted, and the log is told how far the register's time is.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Upkeep;
use crate::error::Refusal;
use crate::leader::coordinator::Coordinator;
use crate::types::{Deadline, MessageId};

/// How often: readers see what has ended as gone anyway, and disks have it for at most some seconds.
const LOOK: Duration = Duration::from_millis(500);

/// Deadlines that are looked at under one lock.
const STEP: usize = 4096;

/// Deletions at once, and the part of the time that they may take (one in so many), so that very many that end in one
/// second hold up nobody for long. Of 20,000 on two cores the last went after 4 s (segments) and 10 s (files), with a p99
/// of SETs of 3 and 5 times the quiet one; 256 at once without a pause made it 22 times.
const AT_ONCE: usize = 32;
const SHARE: u32 = 4;

/// Looks at all deadlines, part by part.
pub(super) struct Expirer {
    core: Arc<Coordinator>,
    /// Where the walk over the deadlines is.
    cursor: u64,
    /// It was said that clocks are far off.
    said: bool,
}

impl Upkeep for Expirer {
    const NAME: &'static str = "expiry";

    async fn step(&mut self) -> Duration {
        self.core.settle_time();
        self.core.watch_clocks(&mut self.said);
        if !self.core.time.is_settled() || self.core.cluster().mapping().deadlines() == 0 {
            return LOOK;
        }
        // A log that takes nothing now is told with the next step that has anything to tell.
        let _ = self.core.note_time(false).await;
        loop {
            let due = self.due();
            // What fails is met again: its id is still there.
            let failed = self.end(&due).await.is_err();
            if failed || self.cursor == 0 || self.core.stop.is_requested() {
                return LOOK;
            }
            tokio::task::yield_now().await;
        }
    }
}

impl Expirer {
    pub(super) fn new(core: Arc<Coordinator>) -> Self {
        Self { core, cursor: 0, said: false }
    }

    fn due(&mut self) -> Vec<MessageId> {
        let Some(now) = Deadline::at(self.core.time.peek()) else { return Vec::new() };
        let (next, due) = self.core.cluster().mapping().due(self.cursor, STEP, now);
        self.cursor = next;
        due
    }

    /// Deletes them, and leaves others the most of the time.
    async fn end(&self, due: &[MessageId]) -> Result<(), Refusal> {
        for some in due.chunks(AT_ONCE) {
            let began = Instant::now();
            self.core.end_due(some).await?;
            if some.len() == AT_ONCE {
                sleep(began.elapsed() * (SHARE - 1)).await;
            }
        }
        Ok(())
    }
}
