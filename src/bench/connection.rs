//! One connection of a bench: requests out, replies in, both at once, every reply checked.
//!
//! A latency runs from the moment its request was handed to the socket to the
//! read that brought its reply. For the sake of the servers on the same machine
//! a request costs no allocation, and a read takes all the replies there are.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Instant;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::report::Samples;
use super::workload::{Kind, Lane, Operation, Plan, Values};
use crate::error::printable;

/// Requests are not made ahead of the socket beyond this many bytes.
const OUT_BYTES: usize = 256 << 10;

/// Room for one read, at least and at most: ten thousand connections must fit in memory too.
const READ_BYTES: std::ops::RangeInclusive<usize> = 4 << 10..=64 << 10;

/// A reply line is never longer than its message and this.
const LINE_BYTES: usize = 64 << 10;

/// What all connections share; only ever borrowed between two awaits.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) plan: Plan,
    pub(super) sets: Samples,
    pub(super) gets: Samples,
    /// In flight on any connection.
    pub(super) open_sets: u64,
    pub(super) open_gets: u64,
    pub(super) connection_errors: u64,
    pub(super) first_error: Option<String>,
}

impl Shared {
    pub(super) fn new(plan: Plan) -> Self {
        Self {
            plan,
            sets: Samples::new(),
            gets: Samples::new(),
            open_sets: 0,
            open_gets: 0,
            connection_errors: 0,
            first_error: None,
        }
    }

    pub(super) fn ended(&self) -> u64 {
        self.sets.ended() + self.gets.ended()
    }

    pub(super) fn open(&mut self, kind: Kind) -> &mut u64 {
        match kind {
            Kind::Set => &mut self.open_sets,
            Kind::Get => &mut self.open_gets,
        }
    }

    pub(super) fn samples(&mut self, kind: Kind) -> &mut Samples {
        match kind {
            Kind::Set => &mut self.sets,
            Kind::Get => &mut self.gets,
        }
    }

    pub(super) fn note(&mut self, error: impl FnOnce() -> String) {
        if self.first_error.is_none() {
            self.first_error = Some(error());
        }
    }

    /// Counts a connection that failed, and with it the requests it left unanswered.
    pub(super) fn lost(&mut self, in_flight: impl Iterator<Item = Kind>, error: &io::Error) {
        self.note(|| format!("connection: {error}"));
        let mut alone = true;
        for kind in in_flight {
            alone = false;
            *self.open(kind) -= 1;
            self.samples(kind).errors += 1;
        }
        self.connection_errors += u64::from(alone);
    }
}

#[derive(Debug)]
struct Flight {
    operation: Operation,
    /// Nothing until it is handed to the socket.
    sent: Option<Instant>,
}

/// One connection, its buffers and what it waits for.
pub(super) struct Connection {
    shared: Rc<RefCell<Shared>>,
    values: Values,
    lane: Lane,
    pipeline: usize,
    /// Room for one read: what a full pipeline can bring, within bounds.
    read_bytes: usize,
    in_flight: VecDeque<Flight>,
    out: BytesMut,
    input: BytesMut,
    /// Bytes at the front of `input` that are known to hold no line end.
    scanned: usize,
    /// The reply line that the oldest request should get; kept only for its memory.
    expected: BytesMut,
}

impl Connection {
    pub(super) fn new(shared: Rc<RefCell<Shared>>, values: Values, lane: Lane, pipeline: usize) -> Self {
        let read_bytes = pipeline.saturating_mul(values.size() + 16).clamp(*READ_BYTES.start(), *READ_BYTES.end());
        Self {
            shared,
            values,
            read_bytes,
            lane,
            pipeline,
            in_flight: VecDeque::new(),
            out: BytesMut::new(),
            input: BytesMut::new(),
            scanned: 0,
            expected: BytesMut::new(),
        }
    }

    /// Sends until the plan has no more for this connection.
    pub(super) async fn run(mut self, mut stream: TcpStream) {
        if let Err(error) = self.exchange(&mut stream).await {
            let kinds = self.in_flight.iter().map(|flight| flight.operation.kind);
            self.shared.borrow_mut().lost(kinds, &error);
        }
    }

    async fn exchange(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        let (mut reader, mut writer) = stream.split();
        // Why nothing can be sent any more; replies that came before it still count.
        let mut broken = None;
        loop {
            if broken.is_none() {
                self.fill();
            }
            if self.in_flight.is_empty() {
                return match broken {
                    Some(error) => Err(error),
                    None if self.input.is_empty() => Ok(()),
                    None => Err(invalid("more replies than requests")),
                };
            }
            self.input.reserve(self.read_bytes);
            tokio::select! {
                // What is ready to go out goes first; reading goes on whenever the socket is full.
                biased;
                written = writer.write(&self.out), if !self.out.is_empty() => match written {
                    Ok(bytes) => self.out.advance(bytes),
                    Err(error) => {
                        broken = Some(error);
                        self.out.clear();
                    }
                },
                read = reader.read_buf(&mut self.input) => {
                    if read? == 0 {
                        return Err(broken.unwrap_or_else(closed));
                    }
                    self.take_replies();
                    if self.input.len() > self.values.size() + LINE_BYTES {
                        return Err(invalid("a reply line without an end"));
                    }
                }
            }
        }
    }

    /// Makes requests until the pipeline is full; they go out in one write.
    fn fill(&mut self) {
        let first = self.in_flight.len();
        let mut shared = self.shared.borrow_mut();
        while self.in_flight.len() < self.pipeline && self.out.len() < OUT_BYTES {
            let Some(operation) = shared.plan.next(&mut self.lane) else { break };
            *shared.open(operation.kind) += 1;
            self.out.extend_from_slice(match operation.kind {
                Kind::Set => b"SET ",
                Kind::Get => b"GET ",
            });
            self.values.put_id(operation.index, &mut self.out);
            if operation.kind == Kind::Set {
                self.out.extend_from_slice(b" ");
                self.values.put_message(operation.index, &mut self.out);
            }
            self.out.extend_from_slice(b"\n");
            self.in_flight.push_back(Flight { operation, sent: None });
        }
        if self.in_flight.len() > first {
            // One look at the clock for all, once they are ready to be sent.
            let now = Some(Instant::now());
            self.in_flight.range_mut(first..).for_each(|flight| flight.sent = now);
        }
    }

    /// Checks every reply that is there whole.
    fn take_replies(&mut self) {
        let now = Instant::now();
        while let Some(flight) = self.in_flight.front() {
            let (operation, sent) = (flight.operation, flight.sent.unwrap_or(now));
            let Some(right) = self.take_reply(operation) else { break };
            self.in_flight.pop_front();
            let mut shared = self.shared.borrow_mut();
            *shared.open(operation.kind) -= 1;
            let samples = shared.samples(operation.kind);
            if right {
                samples.record(now.duration_since(sent));
            } else {
                samples.errors += 1;
            }
        }
    }

    /// Takes the reply to this request, if it is there whole: whether it is the right one.
    fn take_reply(&mut self, operation: Operation) -> Option<bool> {
        let length = match operation.kind {
            Kind::Set => "OK\n".len(),
            Kind::Get => "VALUE \n".len() + self.values.size(),
        };
        // The usual case costs one comparison; lines are only looked for where it fails.
        if self.input.len() >= length {
            self.expected.clear();
            match operation.kind {
                Kind::Set => self.expected.extend_from_slice(b"OK"),
                Kind::Get => {
                    self.expected.extend_from_slice(b"VALUE ");
                    self.values.put_message(operation.index, &mut self.expected);
                }
            }
            self.expected.extend_from_slice(b"\n");
            if self.input.starts_with(&self.expected) {
                self.input.advance(length);
                self.scanned = 0;
                return Some(true);
            }
        }
        let Some(at) = self.input[self.scanned..].iter().position(|&byte| byte == b'\n') else {
            self.scanned = self.input.len();
            return None;
        };
        let line = self.input.split_to(self.scanned + at);
        self.input.advance(1);
        self.scanned = 0;
        self.shared.borrow_mut().note(|| self.describe(operation, &line));
        Some(false)
    }

    /// What to say of a wrong reply.
    fn describe(&self, operation: Operation, line: &[u8]) -> String {
        let mut request = BytesMut::from(match operation.kind {
            Kind::Set => &b"SET "[..],
            Kind::Get => &b"GET "[..],
        });
        self.values.put_id(operation.index, &mut request);
        let request = printable(&request, 220);
        if operation.kind == Kind::Get && line.starts_with(b"VALUE ") {
            let shown = printable(&line[6..], 60);
            format!("{request}: not the message that this seed and size give, but {} bytes: {shown}", line.len() - 6)
        } else {
            format!("{request}: {}", printable(line, 200))
        }
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

pub(super) fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed it")
}
