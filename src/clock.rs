//! The wall clock as a seam: the one place that asks it for what the register decides by.

use std::fmt::Debug;
use std::time::{SystemTime, UNIX_EPOCH};

/// A machine's wall clock. It may step, run fast or slow, and be years off.
pub trait WallClock: Debug + Send + Sync {
    /// Milliseconds since 1970; 0 before.
    fn unix_ms(&self) -> u64;
}

/// That of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl WallClock for SystemClock {
    fn unix_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }
}
