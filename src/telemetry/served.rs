//! What clients were answered: counts and latencies by operation and protocol since the start, and by the second.
//!
//! One call notes a whole batch of requests, so that its cost is not per request. All sets are of a fixed size.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::{LONGEST_MICROS, micros, rates};
use crate::lock::Lock;
use crate::types::RateView;

/// How a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// Lines of text.
    Text,
    /// The Redis protocol.
    Resp,
    /// gRPC.
    Grpc,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Text, Self::Resp, Self::Grpc];

    /// As metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Resp => "resp",
            Self::Grpc => "grpc",
        }
    }
}

/// What a request did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Read a message.
    Read,
    /// Wrote or deleted one.
    Write,
    /// Neither; only its refusals are counted.
    Other,
}

impl Operation {
    /// Those whose latencies are counted.
    pub const TIMED: [Self; 2] = [Self::Read, Self::Write];

    /// All of them.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Other];

    /// As metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Other => "other",
        }
    }
}

/// How a request ended: well, or with the code of its refusal.
pub type Outcome = Option<&'static str>;

/// A refusal that is a good answer: it took its time, and nothing is wrong.
pub const NOT_FOUND: &str = "NOT_FOUND";

/// The call of a client that gave up before it was answered. What became of the request is counted as well.
pub const CANCELLED: &str = "CANCELLED";

/// Upper ends of the latency buckets, microseconds; one more bucket takes what is longer.
pub const BUCKET_MICROS: [u64; 18] = [
    25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// Times since the start, counted in buckets.
#[derive(Debug, Default)]
pub struct Times {
    buckets: [AtomicU64; BUCKET_MICROS.len() + 1],
    sum_micros: AtomicU64,
}

/// What [`Times`] came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TimesView {
    /// How many there were in each bucket, not summed up.
    pub buckets: Vec<u64>,
    /// Seconds of all together.
    pub sum_s: f64,
}

impl Times {
    /// Something took `elapsed`, `n` times.
    pub fn record(&self, elapsed: Duration, n: u64) {
        let micros = micros(elapsed);
        self.buckets[BUCKET_MICROS.partition_point(|&end| end < micros)].fetch_add(n, Ordering::Relaxed);
        self.sum_micros.fetch_add(micros.saturating_mul(n), Ordering::Relaxed);
    }

    /// What they came to.
    pub fn view(&self) -> TimesView {
        TimesView {
            buckets: self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect(),
            sum_s: self.sum_micros.load(Ordering::Relaxed) as f64 / 1e6,
        }
    }
}

/// Counts of one operation through one protocol.
#[derive(Debug, Default)]
struct Cell {
    times: Times,
    good: AtomicU64,
    refused: Lock<BTreeMap<&'static str, u64>>,
}

/// What one operation through one protocol came to since the start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServedView {
    /// How long answers took.
    pub times: TimesView,
    /// Requests that ended well.
    pub good: u64,
    /// Refusals by code.
    pub refused: BTreeMap<&'static str, u64>,
}

/// One second of the register's life.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Second {
    /// SETs and other writes.
    pub writes: RateView,
    /// GETs, those of no message among them.
    pub reads: RateView,
    /// GETs of no message.
    pub not_found: u64,
}

/// What has happened since the last second ended, of one operation.
struct Running {
    latencies: Histogram<u64>,
    errors: u64,
    missing: u64,
}

impl Running {
    fn new() -> Self {
        let latencies = Histogram::new_with_max(LONGEST_MICROS, 2).expect("bounds are constants within the limits");
        Self { latencies, errors: 0, missing: 0 }
    }

    fn roll(&mut self, elapsed: Duration) -> (RateView, u64) {
        let missing = std::mem::take(&mut self.missing);
        let view = rates(&self.latencies, std::mem::take(&mut self.errors), elapsed);
        if !self.latencies.is_empty() {
            self.latencies.reset();
        }
        (view, missing)
    }
}

/// Counts every request of a leader.
pub struct Served {
    cells: [[Cell; Operation::ALL.len()]; Protocol::ALL.len()],
    running: [Lock<Running>; Operation::TIMED.len()],
}

impl Served {
    /// Requests through `via` that each took `elapsed`, by how they ended.
    pub fn note(&self, via: Protocol, op: Operation, elapsed: Duration, outcomes: impl IntoIterator<Item = Outcome>) {
        let (mut good, mut refused) = (0, BTreeMap::new());
        for outcome in outcomes {
            match outcome {
                None => good += 1,
                Some(code) => *refused.entry(code).or_insert(0) += 1,
            }
        }
        self.note_counted(via, op, elapsed, good, refused);
    }

    fn note_counted(
        &self,
        via: Protocol,
        op: Operation,
        elapsed: Duration,
        good: u64,
        refused: BTreeMap<&'static str, u64>,
    ) {
        if good == 0 && refused.is_empty() {
            return;
        }
        let missing = refused.get(NOT_FOUND).copied().unwrap_or_default();
        let errors = refused.values().sum::<u64>() - missing;
        let answered = good + missing;
        let cell = &self.cells[via as usize][op as usize];
        cell.good.fetch_add(good, Ordering::Relaxed);
        if !refused.is_empty() {
            let mut all = cell.refused.lock();
            refused.into_iter().for_each(|(code, n)| *all.entry(code).or_default() += n);
        }
        let Some(running) = self.running.get(op as usize) else { return };
        cell.times.record(elapsed, answered);
        let mut running = running.lock();
        running.latencies.saturating_record_n(micros(elapsed), answered);
        running.errors += errors;
        running.missing += missing;
    }

    /// What one operation through one protocol came to since the start.
    pub fn view(&self, via: Protocol, op: Operation) -> ServedView {
        let cell = &self.cells[via as usize][op as usize];
        ServedView {
            times: cell.times.view(),
            good: cell.good.load(Ordering::Relaxed),
            refused: cell.refused.lock().clone(),
        }
    }

    /// Ends a second, which took `elapsed`.
    pub fn roll(&self, elapsed: Duration) -> Second {
        let roll = |op: Operation| self.running[op as usize].lock().roll(elapsed);
        let ((reads, not_found), (writes, _)) = (roll(Operation::Read), roll(Operation::Write));
        Second { writes, reads, not_found }
    }
}

impl Default for Served {
    fn default() -> Self {
        Self { cells: Default::default(), running: std::array::from_fn(|_| Lock::new(Running::new())) }
    }
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served").field("cells", &self.cells).finish_non_exhaustive()
    }
}

/// The last so many seconds.
#[derive(Debug, Clone)]
pub struct Seconds {
    seconds: VecDeque<Second>,
    keep: usize,
    ended: u64,
}

impl Seconds {
    /// Keeps the last `keep` seconds, and at least one.
    pub fn new(keep: usize) -> Self {
        Self { seconds: VecDeque::new(), keep: keep.max(1), ended: 0 }
    }

    /// Adds the second that has ended; the oldest one goes when full.
    pub fn push(&mut self, second: Second) {
        if self.seconds.len() == self.keep {
            self.seconds.pop_front();
        }
        self.seconds.push_back(second);
        self.ended += 1;
    }

    /// Oldest first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Second> + DoubleEndedIterator + Clone {
        self.seconds.iter()
    }

    /// All that ever ended, those that went among them.
    pub fn ended(&self) -> u64 {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn requests_are_counted_by_operation_protocol_and_outcome() {
        let served = Served::default();
        let ms = Duration::from_millis;
        served.note(Protocol::Text, Operation::Read, ms(1), [None, None, Some(NOT_FOUND), Some("UNAVAILABLE")]);
        served.note(Protocol::Text, Operation::Write, ms(30), [None, Some("BUSY"), Some("BUSY")]);
        served.note(Protocol::Grpc, Operation::Write, ms(30), [None]);
        served.note(Protocol::Resp, Operation::Other, ms(9), [Some("BAD_COMMAND")]);

        let read = served.view(Protocol::Text, Operation::Read);
        assert_eq!((read.good, read.refused), (2, BTreeMap::from([(NOT_FOUND, 1), ("UNAVAILABLE", 1)])));
        // 1 ms is in the bucket that ends there; what was refused is in none, but NOT_FOUND is an answer.
        assert_eq!((read.times.buckets[5], read.times.buckets.iter().sum::<u64>()), (3, 3));
        assert!((read.times.sum_s - 0.003).abs() < 1e-9);
        assert_eq!(served.view(Protocol::Text, Operation::Write).refused, BTreeMap::from([("BUSY", 2)]));
        let other = served.view(Protocol::Resp, Operation::Other);
        assert_eq!((other.refused, other.times.buckets.iter().sum::<u64>()), (BTreeMap::from([("BAD_COMMAND", 1)]), 0));
        assert_eq!(
            served.view(Protocol::Resp, Operation::Read),
            ServedView { times: Times::default().view(), ..Default::default() }
        );

        let second = served.roll(SECOND);
        assert_eq!((second.reads.per_second, second.reads.errors, second.not_found), (3.0, 1, 1));
        assert_eq!((second.writes.per_second, second.writes.errors), (2.0, 2), "all protocols together");
        assert!((second.writes.p50_ms - 30.0).abs() < 0.5, "{second:?}");
        assert_eq!(served.roll(SECOND), Second::default(), "a second is over when it is rolled");
        assert_eq!(served.view(Protocol::Text, Operation::Read).good, 2, "the total stays");
    }

    #[test]
    fn extremes_have_a_bucket() {
        let served = Served::default();
        served.note(Protocol::Text, Operation::Read, Duration::ZERO, [None]);
        served.note(Protocol::Text, Operation::Read, Duration::MAX, [None]);
        served.note(Protocol::Text, Operation::Read, Duration::from_secs(1), []);
        let view = served.view(Protocol::Text, Operation::Read);
        assert_eq!((view.times.buckets[0], view.times.buckets[18], view.good), (1, 1, 2));
    }

    #[test]
    fn the_last_seconds_are_kept() {
        let mut seconds = Seconds::new(3);
        assert_eq!((seconds.iter().len(), seconds.ended()), (0, 0));
        (1..=5).for_each(|n| seconds.push(Second { not_found: n, ..Second::default() }));
        let kept: Vec<u64> = seconds.iter().map(|second| second.not_found).collect();
        assert_eq!((kept, seconds.ended()), (vec![3, 4, 5], 5));
    }
}
