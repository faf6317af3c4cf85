//! Counters, latency histograms, and the last events.

/// stub
#[derive(Debug, Clone, Default)]
pub struct EventRing;
impl EventRing {
    /// stub
    pub fn new() -> Self {
        Self
    }
}

/// stub
#[derive(Debug, Default)]
pub struct Meter;
impl Meter {
    /// stub
    pub fn record(&self, _elapsed: std::time::Duration, _n: u64) {}
    /// stub
    pub fn error(&self, _n: u64) {}
    /// stub
    pub fn roll(&self, _period: std::time::Duration) -> crate::types::RateView { Default::default() }
    /// stub
    pub fn total(&self) -> u64 { 0 }
}

impl EventRing {
    /// stub
    pub fn last(&self, _n: usize) -> Vec<crate::types::EventLine> { vec![] }
}
/// stub
#[derive(Debug, Default)]
pub struct History;
impl History {
    /// stub
    pub fn push(&mut self, _n: u64) {}
    /// stub
    pub fn values(&self) -> Vec<u64> { vec![] }
}
