//! Clients that are cut off: counted, and said in the log, though not a line for each.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::leader::coordinator;
use crate::lock::Lock;

/// There is at most one line in such a time.
const QUIET: Duration = Duration::from_secs(1);

/// Why a client is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// It holds the most bytes, and there is no room for others.
    Most,
    /// It takes its replies, or sends its request, too slowly.
    Slow,
    /// It asked nothing for as long as `--idle-timeout`; the usual end, of which there is no line.
    Idle,
}

/// What was said, and how much was not.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    said: Lock<Option<Instant>>,
    unsaid: AtomicU64,
}

impl Cuts {
    /// Counts one, and says it unless something was said just now.
    pub(super) fn note(&self, counts: &coordinator::Cuts, why: Why, peer: SocketAddr) {
        let (count, text) = match why {
            Why::Most => (&counts.most, "it held the most bytes, and there was no room for others"),
            Why::Slow => (
                &counts.slow,
                "it took its replies, or sent its request, too slowly (--write-deadline, --line-timeout)",
            ),
            Why::Idle => (&counts.idle, ""),
        };
        count.fetch_add(1, Ordering::Relaxed);
        if why == Why::Idle {
            return;
        }
        let now = Instant::now();
        let mut said = self.said.lock();
        if said.is_some_and(|said| now.duration_since(said) < QUIET) {
            self.unsaid.fetch_add(1, Ordering::Relaxed);
            return;
        }
        *said = Some(now);
        let more = match self.unsaid.swap(0, Ordering::Relaxed) {
            0 => String::new(),
            more => format!("; {more} more were cut off since the last line"),
        };
        tracing::warn!("client {peer} is cut off: {text}{more}");
    }
}
