//! The register's time: what deadlines are measured by.
//!
//! It is the leader's. It runs with the boot-time clock and is drawn towards the median of the wall clocks of leader and
//! nodes by at most a hundredth, so that the jump of one machine's clock changes nothing; it never goes back, and how far
//! it came is in the log (`Event::Time`). One that has just started waits for the clocks of those whom it has to hear
//! anyway, and goes on from the later of the log's mark and the median. In the same boot of the machine it goes on from what
//! it would be by now, wherever the median is, as one does that never ended: what it has said, and what its deadlines
//! mean, survives it. So does another leader that has seen the mark come. NTP's slewing is the idea; it draws far more slowly, as it has to keep intervals right to the microsecond.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::lock::Lock;
use crate::seeded::{self, Bug};
use crate::types::{Deadline, NodeId};

/// It is drawn by one part in so many.
const SLEW: u64 = 100;

/// It is drawn once in so many microseconds.
const STEP_US: u64 = 10_000;

/// A median that is further off is not followed.
pub(super) const FAR: Duration = Duration::from_secs(60);

/// The log is told at least once in so many milliseconds, while any message has a deadline.
const NOTE_MS: u64 = 5000;

/// A node's clock counts for so long after it was last heard.
const SILENT: Duration = Duration::from_secs(60);

/// What it was at a moment of this boot of this machine, in milliseconds since 1970, and what the boot-time clock showed then,
/// in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Then {
    /// The register's time.
    pub unix_ms: u64,
    /// The boot-time clock.
    pub since_boot_ms: u64,
    /// That was measured at one moment. Else the mark of another leader was seen then, which may be an old one.
    pub is_exact: bool,
}

/// See the module.
#[derive(Debug)]
pub struct RegisterTime {
    clock: Arc<dyn Clock>,
    state: Lock<State>,
}

#[derive(Debug)]
struct State {
    /// How far it had come by the log, when this began.
    mark_us: u64,
    /// Before it was settled it was known what it is now, not only what it was: this is how.
    ran_on: Option<Then>,
    /// Microseconds since 1970, at `at`.
    now_us: u64,
    at: Duration,
    /// The last one that was given, in milliseconds.
    told: u64,
    settled: bool,
    /// The last one that the log was told, in milliseconds.
    noted: u64,
    /// What each node said of its wall clock, in milliseconds, and when, since the boot.
    clocks: BTreeMap<NodeId, (u64, Duration)>,
    /// Somebody was told something that depends on it since it was last noted.
    asked: bool,
}

impl RegisterTime {
    /// Goes on from what the log says, in milliseconds since 1970, as soon as it is [settled](Self::settle). `then`: what it
    /// was in this boot of the machine: it has run on since.
    pub fn new(clock: Arc<dyn Clock>, mark: u64, then: Option<Then>) -> Self {
        let at = clock.since_boot();
        let since_us = |then: &Then| (at.as_micros() as u64).checked_sub(then.since_boot_ms.saturating_mul(1000));
        let run_on = |then: &Then| Some(then.unix_ms.saturating_mul(1000).saturating_add(since_us(then)?));
        let ran_on = then.as_ref().and_then(run_on);
        let mark_us = mark.saturating_mul(1000);
        Self {
            clock,
            state: Lock::new(State {
                mark_us,
                now_us: ran_on.map_or(mark_us, |ran_on| ran_on.max(mark_us)),
                ran_on: then.filter(|_| ran_on.is_some()),
                at,
                told: 0,
                settled: false,
                noted: mark,
                clocks: BTreeMap::new(),
                asked: false,
            }),
        }
    }

    /// A node said what its wall clock shows.
    pub fn hear(&self, node: NodeId, unix_ms: u64) {
        self.state.lock().clocks.insert(node, (unix_ms, self.clock.since_boot()));
    }

    /// Whether the clock of this node is known.
    pub fn has_heard(&self, node: NodeId) -> bool {
        self.state.lock().clocks.contains_key(&node)
    }

    /// Whether the clock of any node is known.
    pub fn has_heard_any(&self) -> bool {
        !self.state.lock().clocks.is_empty()
    }

    /// Enough was heard: it runs from here on. How far it has gone ahead then; nothing: it ran already.
    pub fn settle(&self) -> Option<Duration> {
        let mut state = self.state.lock();
        if state.settled {
            return None;
        }
        let (now, median) = (self.clock.since_boot(), self.median_us(&state));
        let passed = state.ran_on.map_or(0, |_| now.saturating_sub(state.at).as_micros() as u64);
        let mark = if seeded::active(Bug::TimeGoesBack) { 0 } else { state.now_us + passed };
        let follows = match state.ran_on {
            None => true,
            Some(Then { is_exact: true, .. }) => seeded::active(Bug::TimeLeapsAtStart),
            // There is one every few seconds while it matters: this one was old when it came.
            Some(Then { is_exact: false, .. }) => median > mark + NOTE_MS * 1000,
        };
        (state.now_us, state.at, state.settled) = (if follows { median.max(mark) } else { mark }, now, true);
        Some(Duration::from_micros(state.now_us.saturating_sub(state.mark_us)))
    }

    /// Whether it runs. Before that nothing ends by itself but what had ended by the log.
    pub fn is_settled(&self) -> bool {
        self.state.lock().settled
    }

    /// What it is, in milliseconds since 1970: for an answer that depends on it.
    pub fn now(&self) -> u64 {
        let mut state = self.state.lock();
        state.asked = true;
        self.advance(&mut state)
    }

    /// What it is, or, as long as that is not known, what the leader's wall clock shows.
    pub fn now_or_wall(&self) -> u64 {
        if self.is_settled() { self.now() } else { self.clock.unix_ms() }
    }

    /// What it is, for what nobody is told.
    pub fn peek(&self) -> u64 {
        self.advance(&mut self.state.lock())
    }

    /// Whether this deadline has come.
    pub fn has_come(&self, deadline: Option<Deadline>) -> bool {
        deadline.is_some_and(|deadline| deadline.unix_ms() <= self.now())
    }

    /// What the log is to be told, if anybody was told something that depends on it since then, and now and then.
    pub fn to_note(&self) -> Option<u64> {
        let mut state = self.state.lock();
        if !state.settled {
            return None;
        }
        let now = self.advance(&mut state);
        let is_time = std::mem::take(&mut state.asked) || now.saturating_sub(state.noted) >= NOTE_MS;
        is_time.then(|| {
            state.noted = now;
            now
        })
    }

    /// What it is, and what the boot-time clock shows now, in milliseconds.
    pub fn beside_boot(&self) -> (u64, u64) {
        let mut state = self.state.lock();
        let now = self.advance(&mut state);
        (now, self.clock.since_boot().as_millis() as u64)
    }

    /// How far the median of the wall clocks is from it, in milliseconds; positive: ahead.
    pub fn off_by_ms(&self) -> i64 {
        let mut state = self.state.lock();
        let now = self.advance(&mut state);
        (self.median_us(&state) / 1000) as i64 - now as i64
    }

    /// The same, where it is so far that it is not followed.
    pub fn is_far_off(&self) -> Option<i64> {
        let off = Some(self.off_by_ms()).filter(|_| self.is_settled());
        off.filter(|off| off.unsigned_abs() > FAR.as_millis() as u64)
    }

    /// Goes to the median of the wall clocks at once, if that is further ahead than is followed by itself: gives the new
    /// time, in milliseconds since 1970, and how far it went. The error is how far the median is ahead: too little, or,
    /// below nothing, behind, and it never goes back.
    pub fn accept(&self) -> Result<(u64, u64), i64> {
        let mut state = self.state.lock();
        let now = self.advance(&mut state);
        let median = self.median_us(&state);
        let ahead = (median / 1000) as i64 - now as i64;
        if !state.settled || ahead <= FAR.as_millis() as i64 {
            return Err(ahead);
        }
        (state.now_us, state.at, state.asked) = (median, self.clock.since_boot(), true);
        Ok((self.advance(&mut state), ahead as u64))
    }

    fn advance(&self, state: &mut State) -> u64 {
        if seeded::active(Bug::WallClockRaw) {
            return self.clock.unix_ms();
        }
        if !state.settled {
            return state.now_us / 1000;
        }
        let now = self.clock.since_boot();
        let passed = now.saturating_sub(state.at).as_micros() as u64;
        let then = state.now_us + passed;
        // Not every answer looks at all clocks.
        if passed < STEP_US {
            state.told = state.told.max(then / 1000);
            return state.told;
        }
        let median = self.median_us(state);
        let most = if then.abs_diff(median) > FAR.as_micros() as u64 { 0 } else { passed / SLEW };
        state.now_us = if median > then { then + most.min(median - then) } else { then - most.min(then - median) };
        state.at = now;
        // What was told within the last step counts as well.
        state.told = state.told.max(state.now_us / 1000);
        state.told
    }

    /// The lower one of two in the middle: nothing ends early because of the other.
    fn median_us(&self, state: &State) -> u64 {
        let now = self.clock.since_boot();
        let ago = |at: &Duration| now.saturating_sub(*at);
        let heard = state.clocks.values().filter(|(_, at)| ago(at) < SILENT);
        let heard = heard.map(|(unix_ms, at)| unix_ms.saturating_mul(1000) + ago(at).as_micros() as u64);
        let mut all: Vec<u64> = heard.chain([self.clock.unix_ms().saturating_mul(1000)]).collect();
        all.sort_unstable();
        all[(all.len() - 1) / 2]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Clocks that are set by hand: wall, and since the boot, in milliseconds.
    #[derive(Debug, Default)]
    struct Hand(AtomicU64, AtomicU64);

    impl Hand {
        fn advance(&self, ms: u64) {
            self.1.fetch_add(ms, Ordering::Relaxed);
        }
    }

    impl Clock for Hand {
        fn unix_ms(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }

        fn since_boot(&self) -> Duration {
            Duration::from_millis(self.1.load(Ordering::Relaxed))
        }
    }

    fn time(wall: u64, mark: u64) -> (Arc<Hand>, RegisterTime) {
        let hand = Arc::new(Hand(AtomicU64::new(wall), AtomicU64::new(7)));
        (hand.clone(), RegisterTime::new(hand, mark, None))
    }

    #[test]
    fn it_runs_with_the_monotonic_clock_whatever_one_wall_clock_does() {
        let (hand, time) = time(1_000_000, 0);
        time.hear(NodeId(1), 1_000_000);
        time.hear(NodeId(2), 1_000_020);
        assert!(!time.is_settled() && time.now() == 0);
        assert!(time.settle().is_some() && time.settle().is_none());
        assert_eq!(time.now(), 1_000_000);
        for wall in [0, 1 << 50, 1_000_000] {
            let before = time.now();
            hand.0.store(wall, Ordering::Relaxed);
            hand.advance(10000);
            let passed = time.now() - before;
            assert!((9_900..=10_100).contains(&passed), "{passed}");
        }
    }

    #[test]
    fn it_is_drawn_to_the_median_by_a_hundredth_and_never_back() {
        let (hand, time) = time(1_000_000, 0);
        time.settle();
        // The wall clock stands still: all others are behind more and more.
        let mut before = time.now();
        for _ in 0..20 {
            hand.advance(1000);
            let passed = time.now() - before;
            assert!((989..=991).contains(&passed), "{passed}");
            before = time.now();
        }
        // A median that is a minute off is not followed.
        hand.advance(100000);
        before = time.now();
        hand.advance(10000);
        assert_eq!(time.now() - before, 10_000);
        assert!(time.off_by_ms() < -60_000);
    }

    #[test]
    fn it_has_run_on_while_nobody_led_in_the_same_boot_whatever_clocks_show() {
        let hand = Arc::new(Hand(AtomicU64::new(1), AtomicU64::new(60_000)));
        let then = |since_boot_ms| Then { unix_ms: 5_000_000, since_boot_ms, is_exact: true };
        // It was 5,000,000 when the machine had run for 50 s, and runs for a minute now.
        let time = RegisterTime::new(hand.clone(), 4_990_000, Some(then(50_000)));
        hand.advance(2_000);
        assert!(time.settle().is_some());
        assert_eq!(time.now(), 5_012_000);
        // What was noted after it counts.
        assert_eq!(RegisterTime::new(hand.clone(), 9_000_000, Some(then(50_000))).now(), 9_000_000);
        // A median that is ahead does not: what ends by the time of one boot would end early. It is drawn there, or an order
        // takes it.
        for ahead in [7_000_000, 5_015_000] {
            hand.0.store(ahead, Ordering::Relaxed);
            let time = RegisterTime::new(hand.clone(), 0, Some(then(50_000)));
            assert!(time.settle().is_some());
            assert_eq!((time.now(), time.is_far_off().is_some()), (5_012_000, ahead == 7_000_000));
        }
        // A clock that is behind is of another boot.
        assert_eq!(RegisterTime::new(hand, 4_000_000, Some(then(70_000))).now(), 4_000_000);
    }

    #[test]
    fn what_another_leader_noted_is_gone_on_from_unless_it_was_old_when_it_was_seen() {
        let seen = Then { unix_ms: 5_000_000, since_boot_ms: 50_000, is_exact: false };
        for (wall, begins) in [(1, 5_012_000), (5_013_000, 5_012_000), (5_017_000, 5_012_000), (5_018_000, 5_018_000)] {
            let hand = Arc::new(Hand(AtomicU64::new(wall), AtomicU64::new(60_000)));
            let time = RegisterTime::new(hand.clone(), 5_000_000, Some(seen));
            hand.advance(2_000);
            assert!(time.settle().is_some());
            assert_eq!(time.now(), begins, "{wall}");
        }
    }

    #[test]
    fn it_goes_on_from_the_later_of_mark_and_median() {
        for (wall, mark, begins, ahead) in [(5_000, 9_000, 9_000, 0), (9_000, 5_000, 9_000, 4_000)] {
            let (_, time) = time(wall, mark);
            assert_eq!((time.now(), time.to_note()), (mark, None));
            assert_eq!(time.settle(), Some(Duration::from_millis(ahead)));
            assert_eq!(time.now(), begins);
            assert_eq!(
                (time.to_note(), time.to_note()),
                (Some(begins), None),
                "only once, and only if it was asked for"
            );
        }
    }

    #[test]
    fn a_far_median_is_taken_by_order_and_never_backwards() {
        let (hand, time) = time(1_000_000, 0);
        assert_eq!(time.accept(), Err(1_000_000), "it does not run yet");
        time.settle();
        assert_eq!(time.accept(), Err(0));
        hand.0.store(1_060_000, Ordering::Relaxed);
        assert_eq!(time.accept(), Err(60_000), "that far is followed by itself");
        hand.0.store(9_000_000, Ordering::Relaxed);
        assert_eq!(time.accept(), Ok((9_000_000, 8_000_000)));
        assert_eq!((time.now(), time.is_far_off()), (9_000_000, None));
        hand.0.store(1_000_000, Ordering::Relaxed);
        assert_eq!(time.accept(), Err(-8_000_000));
        assert_eq!(time.now(), 9_000_000);
    }

    #[test]
    fn two_clocks_that_differ_let_nothing_end_early() {
        let (_, time) = time(2_000_000, 0);
        time.hear(NodeId(1), 1_000_000);
        time.settle();
        assert_eq!(time.now(), 1_000_000);
    }
}
