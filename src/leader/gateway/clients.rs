//! Who is connected: for CLIENT LIST, and so that one connection can end another.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::lock::Lock;

/// All connections, by the number that each was given.
#[derive(Debug, Default)]
pub(super) struct Clients {
    last: AtomicU64,
    /// Connections for which there was no place.
    pub(super) refused: AtomicU64,
    pub(super) pace: Pace,
    all: Lock<BTreeMap<u64, Arc<Seat>>>,
}

/// How many requests were worked on, and how fast.
#[derive(Debug, Default)]
pub(super) struct Pace {
    requests: AtomicU64,
    per_second: AtomicU64,
    before: Lock<Option<(Instant, u64)>>,
}

impl Pace {
    /// So many more were.
    pub(super) fn add(&self, requests: usize) {
        self.requests.fetch_add(requests as u64, Ordering::Relaxed);
    }

    /// Of all connections since the start.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Between the last two ticks.
    pub(super) fn per_second(&self) -> u64 {
        self.per_second.load(Ordering::Relaxed)
    }

    /// Looks how many there were since the last time.
    pub(super) fn tick(&self, now: Instant) {
        let mut before = self.before.lock();
        let requests = self.requests();
        if let Some((then, had)) = before.replace((now, requests)) {
            let seconds = now.duration_since(then).as_secs_f64().max(f64::MIN_POSITIVE);
            self.per_second.store(((requests - had) as f64 / seconds).round() as u64, Ordering::Relaxed);
        }
    }
}

/// One connection, as others see it.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) number: u64,
    pub(super) peer: SocketAddr,
    pub(super) own: SocketAddr,
    /// It comes with TLS.
    pub(super) is_tls: bool,
    /// It takes this for a Redis Sentinel.
    pub(super) is_sentinel: bool,
    began: Instant,
    /// Ends the connection.
    pub(super) kill: CancellationToken,
    pub(super) said: Lock<Said>,
}

/// What a connection said of itself, and did last.
#[derive(Debug, Clone)]
pub(super) struct Said {
    pub(super) name: String,
    pub(super) library: String,
    pub(super) library_version: String,
    pub(super) version: u8,
    pub(super) command: &'static str,
    /// The name of its user.
    pub(super) user: String,
    pub(super) at: Instant,
}

/// A [`Seat`] that is taken; given back when dropped.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) seat: Arc<Seat>,
    clients: Arc<Clients>,
}

impl Taken {
    /// It worked on so many requests, this one among them.
    pub(super) fn note(&self, command: &'static str, requests: usize) {
        self.clients.pace.add(requests);
        self.seat.note(command);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.clients.all().remove(&self.seat.number);
    }
}

impl Clients {
    fn all(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Seat>>> {
        self.all.lock()
    }

    /// Takes a seat for a connection.
    pub(super) fn enter(
        self: &Arc<Self>,
        peer: SocketAddr,
        own: SocketAddr,
        (is_tls, is_sentinel): (bool, bool),
    ) -> Taken {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let now = Instant::now();
        let said = Said {
            name: String::new(),
            library: String::new(),
            library_version: String::new(),
            version: 2,
            command: "",
            user: crate::acl::DEFAULT.to_owned(),
            at: now,
        };
        let kill = CancellationToken::new();
        let seat = Arc::new(Seat { number, peer, own, is_tls, is_sentinel, began: now, kill, said: Lock::new(said) });
        self.all().insert(number, seat.clone());
        Taken { seat, clients: self.clone() }
    }

    /// Connections since the start, those that were refused left out.
    pub(super) fn accepted(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    /// The seats for which this holds, in the order of their numbers.
    pub(super) fn which(&self, is: impl Fn(&Seat) -> bool) -> Vec<Arc<Seat>> {
        self.all().values().filter(|seat| is(seat)).cloned().collect()
    }
}

/// What a line of CLIENT LIST begins with, as Redis 7.0 has it: libraries ask for every one of these fields (redis-py's
/// and valkey-py's `acl_log`). Buffers are counted otherwise here, and are zeros.
pub(in crate::leader) fn line_of(
    number: u64,
    peer: &dyn std::fmt::Display,
    command: &str,
    user: &str,
    (age, idle): (u64, u64),
    name: &str,
) -> String {
    format!(
        "id={number} addr={peer} fd=0 name={name} age={age} idle={idle} flags=N db=0 sub=0 psub=0 ssub=0 multi=-1 qbuf=0 \
         qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r cmd={command} user={user} \
         redir=-1"
    )
}

impl Seat {
    pub(super) fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock()
    }

    fn note(&self, command: &'static str) {
        let mut said = self.said();
        (said.command, said.at) = (command, Instant::now());
    }

    /// The line of CLIENT LIST.
    pub(super) fn line(&self) -> String {
        let said = self.said().clone();
        let (age, idle) = (self.began.elapsed().as_secs(), said.at.elapsed().as_secs());
        let mut line =
            line_of(self.number, &self.peer, &said.command.to_lowercase(), &said.user, (age, idle), &said.name);
        // A string takes everything.
        let _ = write!(
            line,
            " laddr={} resp={} lib-name={} lib-ver={}",
            self.own, said.version, said.library, said.library_version
        );
        line
    }
}
