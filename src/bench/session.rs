//! One connection of a bench without its socket: requests out, replies in, every reply checked.
//!
//! It is handed bytes and the time, and says what to send: a test can live through a
//! stalled second in no time. Two ways to choose the moment of a request:
//!
//! - closed loop: up to `pipeline` requests are in flight all the time, made in
//!   batches of at least half a pipeline, each batch one write; a latency runs from the
//!   moment its request was made;
//! - open loop: request n of the run is due n/rate after the start, on connection n modulo
//!   connections, whatever the server does; a latency runs from that intended moment, so that a
//!   server that stalls is charged for all the requests that it kept from being sent.
//!
//! Never retries: what went wrong is what is to be seen, though the next request may go out over another connection.

use std::collections::VecDeque;
use std::time::Duration;

use super::dialect::{Dialect, Taken};
use super::report::Samples;
use super::workload::{Kind, Lane, Operation, Plan, Values};
use crate::error::printable;

/// Requests are not made ahead of the socket beyond this many bytes.
const OUT_BYTES: usize = 256 << 10;

/// Requests that were due before the end are sent this long after it; the rest count as unsent.
pub(super) const DRAIN: Duration = Duration::from_secs(2);

/// In flight at least on each connection where nothing is measured.
const UNMEASURED_PIPELINE: usize = 16;

/// When requests are due: so many a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace(pub(super) u64);

impl Pace {
    /// When request `number` is due, in nanoseconds from the start.
    pub(super) fn due(self, number: u64) -> u64 {
        (u128::from(number) * 1_000_000_000 / u128::from(self.0)) as u64
    }

    /// How many are due before this moment.
    pub(super) fn before(self, at: u64) -> u64 {
        (u128::from(at) * u128::from(self.0)).div_ceil(1_000_000_000) as u64
    }
}

/// The settings of a phase.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) dialect: Dialect,
    pub(super) connections: usize,
    pub(super) pipeline: usize,
    /// Open loop, if there is one.
    pub(super) pace: Option<Pace>,
    /// A SET ends only when Redis says that so many replicas have it; 0: at its own reply.
    pub(super) wait: u32,
    /// Results count from here, nanoseconds from the start.
    pub(super) warm: u64,
    /// Nothing is due from here on.
    pub(super) end: Option<u64>,
}

impl Rules {
    /// For what is not measured: a closed loop without anything special, and not a slow one.
    pub(super) fn unmeasured(&self) -> Self {
        let pipeline = self.pipeline.max(UNMEASURED_PIPELINE);
        Self { pace: None, warm: 0, end: None, wait: 0, pipeline, ..self.clone() }
    }
}

/// What all connections of a phase share.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) rules: Rules,
    pub(super) values: Values,
    pub(super) plan: Plan,
    pub(super) sets: Samples,
    pub(super) gets: Samples,
    /// Requests without a reply, on all connections.
    pub(super) in_flight: u64,
    /// Requests that were made since the warm-up ended.
    pub(super) measured: u64,
    pub(super) connection_errors: u64,
    pub(super) first_error: Option<String>,
    /// Replies so far, right or wrong, measured or not.
    pub(super) replies: u64,
    /// Kept only for its memory.
    expected: Vec<u8>,
}

impl Load {
    pub(super) fn new(rules: Rules, values: Values, plan: Plan) -> Self {
        Self {
            rules,
            values,
            plan,
            sets: Samples::new(),
            gets: Samples::new(),
            in_flight: 0,
            measured: 0,
            connection_errors: 0,
            first_error: None,
            replies: 0,
            expected: Vec::new(),
        }
    }

    fn samples(&mut self, kind: Kind) -> &mut Samples {
        match kind {
            Kind::Set => &mut self.sets,
            Kind::Get => &mut self.gets,
        }
    }

    /// Keeps what went wrong first.
    pub(super) fn note(&mut self, error: impl FnOnce() -> String) {
        if self.first_error.is_none() {
            self.first_error = Some(error());
        }
    }

    /// Requests that were due and never made; 0 in a closed loop, where nothing is due.
    pub(super) fn unsent(&self) -> u64 {
        let Some(pace) = self.rules.pace else { return 0 };
        match self.rules.end {
            Some(end) => (pace.before(end) - pace.before(self.rules.warm)).saturating_sub(self.measured),
            None => self.plan.left().unwrap_or(0),
        }
    }

    /// A SET or GET has ended, rightly or not. A warm-up counts its errors and nothing else.
    fn ended(&mut self, kind: Kind, start: u64, now: u64, right: bool) {
        let warm = self.rules.warm;
        if !right {
            self.samples(kind).errors += 1;
        } else if start >= warm {
            self.samples(kind)
                .record(Duration::from_nanos(now - start), Duration::from_nanos(now.saturating_sub(warm)));
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Ask {
    Operation(Operation),
    Wait,
}

#[derive(Debug)]
struct Flight {
    ask: Ask,
    start: u64,
}

/// One connection: its part of the plan, its buffers and what it waits for.
#[derive(Debug)]
pub(super) struct Session {
    number: usize,
    lane: Lane,
    /// Requests made so far.
    made: u64,
    in_flight: VecDeque<Flight>,
    /// SETs that were answered and wait for the replicas: when they started.
    unsettled: Vec<u64>,
    /// Nothing more will be made.
    done: bool,
    out: Vec<u8>,
    /// Bytes at the front of `out` that the socket has taken.
    sent: usize,
    /// What came of the next reply so far, and how much of it is known to hold no line end.
    partial: Vec<u8>,
    scanned: usize,
}

impl Session {
    /// The `number`-th connection.
    pub(super) fn new(number: usize, plan: &Plan) -> Self {
        Self {
            number,
            lane: plan.lane(number),
            made: 0,
            in_flight: VecDeque::new(),
            unsettled: Vec::new(),
            done: false,
            out: Vec::new(),
            sent: 0,
            partial: Vec::new(),
            scanned: 0,
        }
    }

    /// Makes the requests that may start now; they go out in one write.
    pub(super) fn fill(&mut self, load: &mut Load, now: u64) {
        let pipeline = load.rules.pipeline;
        let mut open = self.in_flight.len() + self.unsettled.len();
        // One large write costs the server and us less than many small ones.
        if self.done || open >= pipeline || (load.rules.pace.is_none() && open > pipeline / 2) {
            return;
        }
        let mut sets = false;
        while open < pipeline && self.out.len() < OUT_BYTES {
            let Some(start) = self.next_start(&load.rules, now) else { break };
            let measured = start >= load.rules.warm;
            let Some(operation) = load.plan.next(&mut self.lane, measured) else {
                self.done = true;
                break;
            };
            self.made += 1;
            load.measured += u64::from(measured);
            load.rules.dialect.put_request(operation, &load.values, &mut self.out);
            self.in_flight.push_back(Flight { ask: Ask::Operation(operation), start });
            sets |= operation.kind == Kind::Set;
            load.in_flight += 1;
            open += 1;
        }
        if sets && load.rules.wait > 0 {
            Dialect::put_wait(load.rules.wait, &mut self.out);
            self.in_flight.push_back(Flight { ask: Ask::Wait, start: now });
            load.in_flight += 1;
        }
    }

    /// When the next request starts, if that is not later than now.
    fn next_start(&mut self, rules: &Rules, now: u64) -> Option<u64> {
        let start = match rules.pace {
            None => now,
            Some(pace) => {
                let due = pace.due(self.number as u64 + self.made * rules.connections as u64);
                if due > now && rules.end.is_none_or(|end| due < end) {
                    return None;
                }
                due
            }
        };
        let late = |end: u64| start >= end || now >= end.saturating_add(DRAIN.as_nanos() as u64);
        self.done = rules.end.is_some_and(late);
        (!self.done).then_some(start)
    }

    /// What is to be sent.
    pub(super) fn outgoing(&self) -> &[u8] {
        &self.out[self.sent..]
    }

    /// The socket took so many bytes of it.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
    }

    /// The socket takes nothing any more; what was made still waits for its replies.
    pub(super) fn stop_sending(&mut self) {
        self.advance(self.outgoing().len());
        self.done = true;
    }

    /// Whether it will never send again and waits for nothing.
    pub(super) fn is_finished(&self) -> bool {
        self.done && self.in_flight.is_empty() && self.out.is_empty()
    }

    /// Checks every reply that is there whole; the rest is kept. Fails if there are bytes that are no reply.
    pub(super) fn receive(&mut self, load: &mut Load, bytes: &[u8], now: u64) -> Result<(), &'static str> {
        if self.partial.is_empty() {
            let used = self.take_replies(load, bytes, now)?;
            self.partial.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        let mut partial = std::mem::take(&mut self.partial);
        partial.extend_from_slice(bytes);
        let used = self.take_replies(load, &partial, now)?;
        partial.drain(..used);
        self.partial = partial;
        Ok(())
    }

    fn take_replies(&mut self, load: &mut Load, input: &[u8], now: u64) -> Result<usize, &'static str> {
        let mut used = 0;
        while used < input.len() {
            let Some(flight) = self.in_flight.front() else { return Err("more replies than requests") };
            let (ask, start, rest) = (flight.ask, flight.start, &input[used..]);
            let taken = match ask {
                Ask::Operation(operation) => {
                    let dialect = load.rules.dialect;
                    dialect.take(operation, &load.values, rest, &mut self.scanned, &mut load.expected)
                }
                Ask::Wait => Dialect::take_wait(load.rules.wait, rest, &mut self.scanned),
            };
            let right = match taken {
                Taken::Need => break,
                Taken::Broken(what) => return Err(what),
                Taken::Right(bytes) => {
                    used += bytes;
                    true
                }
                Taken::Wrong(bytes, reply) => {
                    used += bytes;
                    if load.first_error.is_none() {
                        load.first_error = Some(describe(load, ask, reply));
                    }
                    false
                }
            };
            self.in_flight.pop_front();
            load.in_flight -= 1;
            load.replies += 1;
            match ask {
                Ask::Operation(Operation { kind: Kind::Set, .. }) if right && load.rules.wait > 0 => {
                    self.unsettled.push(start);
                }
                Ask::Operation(operation) => load.ended(operation.kind, start, now, right),
                Ask::Wait => self.unsettled.drain(..).for_each(|start| load.ended(Kind::Set, start, now, right)),
            }
        }
        Ok(used)
    }

    /// Another connection is there in the place of one that was lost.
    pub(super) fn go_on(&mut self) {
        self.done = false;
        self.out.clear();
        self.partial.clear();
        (self.sent, self.scanned) = (0, 0);
    }

    /// The connection is lost, or given up: what it left open are errors.
    pub(super) fn lose(&mut self, load: &mut Load, error: Option<&dyn std::fmt::Display>) {
        if let Some(error) = error {
            load.note(|| format!("connection: {error}"));
        }
        let mut alone = error.is_some();
        for flight in self.in_flight.drain(..) {
            load.in_flight -= 1;
            if let Ask::Operation(operation) = flight.ask {
                alone = false;
                load.samples(operation.kind).errors += 1;
            }
        }
        for _ in self.unsettled.drain(..) {
            alone = false;
            load.sets.errors += 1;
        }
        load.connection_errors += u64::from(alone);
        self.done = true;
    }
}

/// What to say of a wrong reply.
fn describe(load: &Load, ask: Ask, reply: &[u8]) -> String {
    let Ask::Operation(operation) = ask else {
        return format!("WAIT {}: {}", load.rules.wait, printable(reply, 200));
    };
    let mut request = if operation.kind == Kind::Set { b"SET ".to_vec() } else { b"GET ".to_vec() };
    load.values.put_id(operation.index, &mut request);
    let request = printable(&request, 220);
    let dialect = load.rules.dialect;
    match dialect.message(reply).filter(|_| operation.kind == Kind::Get) {
        Some(message) => {
            let shown = printable(message, 60);
            format!("{request}: not the message that this seed and size give, but {} bytes: {shown}", message.len())
        }
        None if dialect == Dialect::Resp && reply == b"$-1" => format!("{request}: no such key"),
        None => format!("{request}: {}", printable(reply, 200)),
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
