//! Counters, latency histograms, short histories, and the last events.
//!
//! Invariant: nothing here grows with uptime or load, and every call is a few
//! instructions under a plain lock that is never held while doing anything else.
//! It never reads a clock: periods and times of day are handed in.

pub mod repeats;
pub mod served;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::lock::Lock;
use crate::types::{EventLine, RateView};

/// The target of the audit log's lines: they name users and ids, and the page and screens, which show events, ask nobody
/// who he is.
pub const AUDIT: &str = "hatokuse::audit";

/// How many events an [`EventRing`] keeps; an older one makes room for a newer one.
pub const EVENTS_KEPT: usize = 200;

/// The longest event text that is kept, in characters; the rest is cut off.
pub const EVENT_CHARS: usize = 1000;

/// One hour in microseconds: what took longer is counted as this.
const LONGEST_MICROS: u64 = 3_600_000_000;

/// The stretch of time that a report is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// Time since the last full period ended.
    pub elapsed: Duration,
    /// Whether a report period ends now. If not, somebody only looks: counters run on.
    pub full: bool,
}

/// Counts one kind of work, and how long it took.
pub struct Meter {
    latencies: Lock<Histogram<u64>>,
    errors: AtomicU64,
    total: AtomicU64,
}

impl Meter {
    /// One that has seen nothing.
    pub fn new() -> Self {
        // Two digits: a percentile is at most 1 % off, and a meter is some 20 KiB, cheap to reset.
        let latencies = Histogram::new_with_max(LONGEST_MICROS, 2).expect("bounds are constants within the limits");
        Self { latencies: Lock::new(latencies), errors: AtomicU64::new(0), total: AtomicU64::new(0) }
    }

    /// `n` operations were done, and each took `elapsed`.
    pub fn record(&self, elapsed: Duration, n: u64) {
        self.latencies.lock().saturating_record_n(micros(elapsed), n);
        self.total.fetch_add(n, Ordering::Relaxed);
    }

    /// `n` operations failed; they are in no rate and no percentile.
    pub fn error(&self, n: u64) {
        self.errors.fetch_add(n, Ordering::Relaxed);
    }

    /// Operations recorded since the start; errors are not among them.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// What happened since the last `roll`, `period` ago; counting starts anew.
    pub fn roll(&self, period: Duration) -> RateView {
        let mut latencies = self.latencies.lock();
        let view = rates(&latencies, self.errors.swap(0, Ordering::Relaxed), period);
        latencies.reset();
        view
    }

    /// What happened since the last `roll`, `period` ago; counting goes on.
    pub fn peek(&self, period: Duration) -> RateView {
        rates(&self.latencies.lock(), self.errors.load(Ordering::Relaxed), period)
    }

    /// [`roll`](Self::roll) at the end of a full period, [`peek`](Self::peek) within one.
    pub fn report(&self, period: Period) -> RateView {
        if period.full { self.roll(period.elapsed) } else { self.peek(period.elapsed) }
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meter").field("total", &self.total()).finish_non_exhaustive()
    }
}

fn micros(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).min(LONGEST_MICROS)
}

fn rates(latencies: &Histogram<u64>, errors: u64, period: Duration) -> RateView {
    let seconds = period.as_secs_f64();
    let quantile_ms = |q: f64| latencies.value_at_quantile(q) as f64 / 1000.0;
    RateView {
        per_second: if seconds > 0.0 { latencies.len() as f64 / seconds } else { 0.0 },
        p50_ms: quantile_ms(0.50),
        p99_ms: quantile_ms(0.99),
        errors,
    }
}

/// One number a period, for the last so many periods.
#[derive(Debug, Clone)]
pub struct History {
    values: VecDeque<u64>,
    keep: usize,
}

impl History {
    /// Keeps the last `keep` numbers, and at least one.
    pub fn new(keep: usize) -> Self {
        let keep = keep.max(1);
        Self { values: VecDeque::with_capacity(keep), keep }
    }

    /// Adds the number of the period that has ended; the oldest one goes when full.
    pub fn push(&mut self, value: u64) {
        if self.values.len() == self.keep {
            self.values.pop_front();
        }
        self.values.push_back(value);
    }

    /// Adds the rate of `period` if that has ended; a mere look leaves no trace.
    pub fn note(&mut self, period: Period, rate: &RateView) {
        if period.full {
            self.push(rate.per_second.round() as u64);
        }
    }

    /// The numbers, oldest first.
    pub fn values(&self) -> Vec<u64> {
        self.values.iter().copied().collect()
    }
}

/// The last [`EVENTS_KEPT`] events; clones share them.
#[derive(Debug, Clone, Default)]
pub struct EventRing {
    events: Arc<Lock<VecDeque<EventLine>>>,
}

impl EventRing {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an event; the oldest one goes when full. A text longer than [`EVENT_CHARS`] is cut.
    pub fn push(&self, mut event: EventLine) {
        if let Some((end, _)) = event.text.char_indices().nth(EVENT_CHARS) {
            event.text.truncate(end);
        }
        let mut events = self.events.lock();
        if events.len() == EVENTS_KEPT {
            events.pop_front();
        }
        events.push_back(event);
    }

    /// The newest `n` events, newest last.
    pub fn last(&self, n: usize) -> Vec<EventLine> {
        let events = self.events.lock();
        events.iter().skip(events.len().saturating_sub(n)).cloned().collect()
    }
}

/// `9000` as `9,000`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `HH:MM:SS` of a moment that lies `since_epoch` after 1970 began, in UTC.
pub fn time_of_day(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs() % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// `text` on one line, with nothing in it that could steer a terminal or reorder what is read.
///
/// Ids, addresses and peers' error texts come from outside: an escape code among
/// them must neither redraw a screen nor forge a log line.
pub fn escaped(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || steers_layout(c) {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    clean
}

/// Line separators, bidirectional controls, and marks that take no room.
fn steers_layout(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> EventLine {
        EventLine { time: "12:00:00".to_owned(), level: "INFO".to_owned(), text: text.to_owned() }
    }

    #[test]
    fn a_meter_rolls() {
        let meter = Meter::new();
        meter.record(Duration::from_millis(1), 98);
        meter.record(Duration::from_millis(100), 2);
        meter.error(3);
        let second = Duration::from_secs(1);
        assert_eq!(meter.peek(second), meter.roll(second), "a look changes nothing");

        meter.record(Duration::from_millis(1), 98);
        meter.record(Duration::from_millis(100), 2);
        meter.error(3);
        let view = meter.report(Period { elapsed: Duration::from_secs(10), full: true });
        assert_eq!((view.per_second, view.errors), (10.0, 3));
        assert!((view.p50_ms - 1.0).abs() < 0.02, "{view:?}");
        assert!((view.p99_ms - 100.0).abs() < 1.0, "{view:?}");

        assert_eq!(meter.roll(second), RateView::default(), "rolled is gone");
        assert_eq!(meter.total(), 200, "the total stays");
    }

    #[test]
    fn a_meter_bears_extremes() {
        let meter = Meter::new();
        meter.record(Duration::ZERO, 1);
        meter.record(Duration::MAX, 1);
        meter.record(Duration::from_secs(1), 0);
        let view = meter.roll(Duration::ZERO);
        assert_eq!(view.per_second, 0.0, "no time, no rate");
        assert!(view.p99_ms >= 3_500_000.0, "{view:?}");
    }

    #[test]
    fn a_meter_is_shared_between_threads() {
        let meter = Meter::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| meter.record(Duration::from_micros(5), 1)));
            }
        });
        assert_eq!(meter.total(), 4000);
        assert_eq!(meter.roll(Duration::from_secs(1)).per_second, 4000.0);
    }

    #[test]
    fn a_history_keeps_the_last() {
        let mut history = History::new(3);
        assert!(history.values().is_empty());
        (1..=5).for_each(|n| history.push(n));
        assert_eq!(history.values(), [3, 4, 5]);

        let rate = RateView { per_second: 6.6, ..RateView::default() };
        history.note(Period { elapsed: Duration::from_secs(1), full: false }, &rate);
        assert_eq!(history.values(), [3, 4, 5], "a look leaves no trace");
        history.note(Period { elapsed: Duration::from_secs(1), full: true }, &rate);
        assert_eq!(history.values(), [4, 5, 7]);

        let mut one = History::new(0);
        one.push(1);
        one.push(2);
        assert_eq!(one.values(), [2]);
    }

    #[test]
    fn a_ring_keeps_the_last_events() {
        let ring = EventRing::new();
        assert!(ring.last(5).is_empty());
        let other = ring.clone();
        (0..EVENTS_KEPT + 7).for_each(|n| other.push(event(&n.to_string())));
        assert_eq!(ring.last(usize::MAX).len(), EVENTS_KEPT);
        let texts: Vec<_> = ring.last(2).into_iter().map(|e| e.text).collect();
        assert_eq!(texts, ["205", "206"]);
        assert!(ring.last(0).is_empty());

        ring.push(event(&"ü".repeat(5 * EVENT_CHARS)));
        assert_eq!(ring.last(1)[0].text.chars().count(), EVENT_CHARS);
    }

    #[test]
    fn times_of_day() {
        for (seconds, shown) in [(0, "00:00:00"), (86_399, "23:59:59"), (86_400, "00:00:00"), (45_667, "12:41:07")] {
            assert_eq!(time_of_day(Duration::from_secs(seconds)), shown);
        }
    }

    #[test]
    fn nothing_escaped_steers_a_terminal() {
        for (text, clean) in [
            ("plain Dünya 日本", "plain Dünya 日本"),
            ("a\nb\r\tc\0", "a\\nb\\r\\tc\\u{0}"),
            ("\x1b[2J\x07\u{9b}1m\x7f", "\\u{1b}[2J\\u{7}\\u{9b}1m\\u{7f}"),
            ("a\u{202e}b\u{2028}", "a\\u{202e}b\\u{2028}"),
        ] {
            assert_eq!(escaped(text), clean);
            assert_eq!(escaped(clean), clean, "once is enough");
        }
    }
}
