//! A machine's clocks as a seam: the one place that asks them for what the register decides by.

use std::fmt::Debug;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// The clocks of a machine.
pub trait Clock: Debug + Send + Sync {
    /// Its wall clock, in milliseconds since 1970 (0 before): it may step, run fast or slow, and be years off.
    fn unix_ms(&self) -> u64;

    /// How long the machine has run, also while it slept: this neither steps nor goes back.
    fn since_boot(&self) -> Duration;
}

/// Those of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn unix_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }

    fn since_boot(&self) -> Duration {
        let now = clock_gettime(ClockId::Boottime);
        Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
    }
}
