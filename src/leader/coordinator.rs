//! Where the order of a SET and of a GET is read, and nowhere else.
//!
//! A SET: admit (version, targets, reservation), copies on as many nodes as
//! tolerance says, a log record, the index, `OK`. Requests are worked on in
//! batches, as they came from a connection: each step is taken once for the
//! whole batch, and each message is decided by itself. An admitted write runs to
//! its decision even if its client has gone. The one lock over the [`Cluster`]
//! is never held across an await.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use hashbrown::HashSet;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use super::gate::{Entry, Gate, Pass};
use super::journal::{Event, Ledger};
use super::repair::Progress;
use super::replication::Links;
use super::view::Change;
use super::write::{Outcome, Promise, Write};
use crate::cluster::mapping::{Applied, Commit};
use crate::cluster::{Cluster, NotAdmitted, Ticket};
use crate::error::Refusal;
use crate::protocol::{Command, Reply};
use crate::stop::Stop;
use crate::telemetry::Meter;
use crate::types::{Holders, MessageId, NodeId, Payload, Version, checksum};
use crate::wire::family;

/// Requests that come this soon after the start wait for nodes that are still joining, up to then.
pub const JOINING: Duration = Duration::from_secs(5);

/// Bytes of messages (and a little for each request) that are under way at once, over all
/// connections. Beyond it requests are refused as BUSY: memory stays bounded whatever clients do.
pub const IN_FLIGHT_BYTES: usize = 256 << 20;

/// What a request costs beside its message.
const REQUEST_COST: usize = 256;

/// Messages of GETs that one connection has read at once; more wait their turn.
const READ_AHEAD_BYTES: usize = 4 << 20;

/// The most requests taken as one batch.
const BATCH_REQUESTS: usize = 1024;

/// What [`Coordinator::notify`] tells. Those who wait are woken in the order in which they began to
/// wait; `tokio::sync::watch` wakes them in an order of its own chance, and then no run is like another.
#[derive(Debug, Default)]
struct Changed {
    count: AtomicU64,
    wake: Notify,
}

/// Hears of changes since it was made, or since it last told of one.
#[derive(Debug)]
pub(super) struct Changes {
    seen: u64,
    changed: Arc<Changed>,
}

impl Changes {
    /// Waits for the next change, unless one came already.
    pub(super) async fn next(&mut self) {
        let woken = self.changed.wake.notified();
        tokio::pin!(woken);
        // From here on no change is missed, and only then is the count looked at.
        woken.as_mut().enable();
        if self.changed.count.load(Ordering::Acquire) == self.seen {
            woken.await;
        }
        self.seen = self.changed.count.load(Ordering::Acquire);
    }
}

/// What clients ask for: a command, or the refusal of a line that was none.
pub type Request = Result<Command, Refusal>;

/// The leader's heart.
#[derive(Debug)]
pub struct Coordinator {
    cluster: Mutex<Cluster>,
    /// The way to nodes.
    pub links: Arc<Links>,
    ledger: Ledger,
    /// One write at a time for each id.
    pub gate: Arc<Gate>,
    pub(super) view: mpsc::UnboundedSender<Vec<Change>>,
    changed: Arc<Changed>,
    /// Writes under way, which a stop waits for.
    pub tasks: TaskTracker,
    /// Ends the leader.
    pub stop: Stop,
    started: Instant,
    in_flight: Arc<AtomicUsize>,
    turn: AtomicUsize,
    served: AtomicBool,
    /// What reports show.
    pub meters: Meters,
    /// How far repair is.
    pub(super) repair_progress: Progress,
}

/// What a leader measures.
#[derive(Debug, Default)]
pub struct Meters {
    /// SETs.
    pub sets: Meter,
    /// GETs.
    pub gets: Meter,
    /// GETs of no message.
    pub not_found: AtomicU64,
    /// Open client connections.
    pub clients: AtomicUsize,
    /// Batches of requests since the start.
    pub requests: AtomicU64,
}

/// Room taken from [`IN_FLIGHT_BYTES`]; given back when dropped.
#[derive(Debug)]
pub struct Room {
    in_flight: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A batch that can be worked on at once: no id in it is written twice, or both read and written.
#[derive(Debug, Default)]
struct Batch {
    replies: Vec<Option<Reply>>,
    writes: Vec<Wanted>,
    gets: Vec<(usize, MessageId)>,
    read_bytes: usize,
}

/// A write that a client asks for.
#[derive(Debug)]
struct Wanted {
    /// Its place among the requests.
    at: usize,
    id: MessageId,
    /// The message; nothing: the id is to be deleted.
    payload: Option<Payload>,
}

/// The ids of a batch so far.
#[derive(Debug, Default)]
struct Named {
    written: HashSet<MessageId>,
    read: HashSet<MessageId>,
}

impl Named {
    /// Whether a request can be worked on together with those before it: later requests of a connection see earlier ones.
    fn admits(&mut self, request: &Request) -> bool {
        match request {
            Ok(Command::Set { id, .. } | Command::Delete(id)) => {
                !self.read.contains(id) && self.written.insert(id.clone())
            }
            Ok(Command::Get(id)) => {
                let apart = !self.written.contains(id);
                if apart {
                    self.read.insert(id.clone());
                }
                apart
            }
            Ok(Command::Where(_) | Command::Count | Command::Status) => self.written.is_empty(),
            _ => true,
        }
    }
}

impl Coordinator {
    /// Puts the parts together.
    pub fn new(
        cluster: Cluster,
        links: Arc<Links>,
        ledger: Ledger,
        view: mpsc::UnboundedSender<Vec<Change>>,
        stop: Stop,
    ) -> Self {
        Self {
            cluster: Mutex::new(cluster),
            links,
            ledger,
            gate: Arc::new(Gate::default()),
            view,
            changed: Arc::default(),
            tasks: TaskTracker::new(),
            stop,
            started: Instant::now(),
            in_flight: Arc::new(AtomicUsize::new(0)),
            turn: AtomicUsize::new(0),
            served: AtomicBool::new(false),
            meters: Meters::default(),
            repair_progress: Progress::default(),
        }
    }

    /// The lock over what the leader knows. Never hold it across an await.
    pub fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Time since the start: what the cluster takes for the clock.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Bytes under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether any client was told anything that depends on the index.
    pub fn has_served(&self) -> bool {
        self.served.load(Ordering::Relaxed)
    }

    /// Something changed that requests may be waiting for.
    pub fn notify(&self) {
        self.changed.count.fetch_add(1, Ordering::Release);
        self.changed.wake.notify_waiters();
    }

    /// Hears of changes from now on.
    pub(super) fn changes(&self) -> Changes {
        Changes { seen: self.changed.count.load(Ordering::Acquire), changed: self.changed.clone() }
    }

    /// Until when requests wait for nodes instead of failing.
    pub(super) fn joining_until(&self) -> Instant {
        self.started + JOINING
    }

    pub(super) fn turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn room(&self, bytes: usize) -> Option<Room> {
        let before = self.in_flight.fetch_add(bytes, Ordering::Relaxed);
        let room = Room { in_flight: self.in_flight.clone(), bytes };
        (before + bytes <= IN_FLIGHT_BYTES).then_some(room)
    }

    /// Works on requests from the front of `queue`: as many as can be worked on at once.
    /// Gives their replies in order, with the room that they take until they are sent.
    pub async fn execute(self: &Arc<Self>, queue: &mut VecDeque<Request>) -> (Vec<Reply>, Option<Room>) {
        self.meters.requests.fetch_add(1, Ordering::Relaxed);
        if let Some(Ok(order)) = queue.pop_front_if(is_order) {
            return (vec![self.order(order).await], None);
        }
        let mut batch = self.next_batch(queue);
        let room = self.room(batch.read_bytes + batch.gets.len() * REQUEST_COST);
        let busy = || Reply::Refused(Refusal::Busy("too many bytes are under way in the leader"));
        if room.is_none() {
            for (at, _) in batch.gets.drain(..) {
                batch.replies[at] = Some(busy());
            }
        }
        let (writes, gets) = (std::mem::take(&mut batch.writes), std::mem::take(&mut batch.gets));
        let (written, read) = futures::future::join(self.write(writes), self.get_all(gets)).await;
        for (at, reply) in written.into_iter().chain(read) {
            batch.replies[at] = Some(reply);
        }
        (batch.replies.into_iter().map(|reply| reply.unwrap_or_else(busy)).collect(), room)
    }

    fn next_batch(&self, queue: &mut VecDeque<Request>) -> Batch {
        let mut batch = Batch::default();
        let mut named = Named::default();
        let alone = queue.len() == 1;
        while batch.replies.len() < BATCH_REQUESTS && batch.read_bytes < READ_AHEAD_BYTES {
            let Some(request) = queue.pop_front_if(|request| alone || named.admits(request)) else { break };
            let at = batch.replies.len();
            // The connection closes with its reply: nothing after it is run.
            let last = request == Ok(Command::Exit);
            let reply = match request {
                Err(refusal) => Some(Reply::Refused(refusal)),
                Ok(Command::Set { id, payload }) => {
                    batch.writes.push(Wanted { at, id, payload: Some(payload) });
                    None
                }
                Ok(Command::Delete(id)) => {
                    batch.writes.push(Wanted { at, id, payload: None });
                    None
                }
                Ok(Command::Get(id)) => {
                    let length = self.cluster().mapping().get(&id).map_or(0, |found| found.record.bytes());
                    batch.read_bytes += length as usize;
                    batch.gets.push((at, id));
                    None
                }
                Ok(Command::Where(id)) => Some(self.holders(&id)),
                Ok(Command::Count) => Some(Reply::Count(self.cluster().len())),
                Ok(Command::Status) => Some(Reply::Status(self.status())),
                order @ Ok(Command::Verify | Command::Drain(_) | Command::Undrain(_) | Command::Rebalance(_)) => {
                    queue.push_front(order);
                    break;
                }
                Ok(Command::Ping) => Some(Reply::Pong),
                Ok(Command::Help) => Some(Reply::Help),
                Ok(Command::Exit) => Some(Reply::Bye),
            };
            batch.replies.push(reply);
            if last {
                break;
            }
        }
        batch
    }

    fn holders(&self, id: &MessageId) -> Reply {
        let cluster = self.cluster();
        match (cluster.holders(id), cluster.waiting_for()) {
            (Some(holders), _) => Reply::Nodes(holders.to_vec()),
            (None, None) => Reply::Refused(Refusal::NotFound),
            (None, Some(reason)) => Reply::Refused(Refusal::Unavailable(reason)),
        }
    }

    // ---- SET and DEL -------------------------------------------------------

    async fn write(self: &Arc<Self>, writes: Vec<Wanted>) -> Vec<(usize, Reply)> {
        if writes.is_empty() {
            return Vec::new();
        }
        let all: Vec<usize> = writes.iter().map(|wanted| wanted.at).collect();
        let cost = |wanted: &Wanted| wanted.payload.as_ref().map_or(0, Payload::len) + REQUEST_COST;
        let bytes = writes.iter().map(cost).sum();
        let Some(room) = self.room(bytes) else {
            let busy = Refusal::Busy("too many bytes are under way in the leader");
            return all.into_iter().map(|at| (at, Reply::Refused(busy.clone()))).collect();
        };
        // A task of its own: the client may go, the write goes on.
        let leader = self.clone();
        let write = self.tasks.spawn(async move {
            let _room = room;
            leader.write_all(writes).await
        });
        write.await.unwrap_or_else(|error| {
            let unknown = Refusal::Unknown(format!("the leader failed while it wrote: {error}"));
            all.into_iter().map(|at| (at, Reply::Refused(unknown.clone()))).collect()
        })
    }

    /// Writes each message as soon as no other write of its id is under way.
    async fn write_all(self: &Arc<Self>, writes: Vec<Wanted>) -> Vec<(usize, Reply)> {
        let began = Instant::now();
        let mut replies = Vec::with_capacity(writes.len());
        let mut ready = Vec::with_capacity(writes.len());
        let mut waiting = FuturesUnordered::new();
        for wanted in writes {
            match self.gate.enter(&wanted.id) {
                Entry::Entered(pass) => ready.push((wanted, pass)),
                Entry::Wait(turn) => waiting.push(async move { (wanted, turn.await) }),
            }
        }
        loop {
            if !ready.is_empty() {
                let round = self.write_round(std::mem::take(&mut ready)).await;
                let refused = round.iter().filter(|(_, reply)| matches!(reply, Reply::Refused(_))).count();
                self.meters.sets.record(began.elapsed(), (round.len() - refused) as u64);
                self.meters.sets.error(refused as u64);
                replies.extend(round);
            }
            match waiting.next().await {
                Some((wanted, Ok(pass))) => ready.push((wanted, pass)),
                Some((wanted, Err(_))) => {
                    replies.push((wanted.at, Reply::Refused(Refusal::Busy("the writer before was lost"))));
                }
                None => return replies,
            }
        }
    }

    /// The order of a SET, and of a DEL, which writes a tombstone.
    async fn write_round(self: &Arc<Self>, round: Vec<(Wanted, Pass)>) -> Vec<(usize, Reply)> {
        let (mut writes, mut replies) = self.admit(round).await;
        self.replicate(&mut writes).await;
        let (kept, failed): (Vec<_>, Vec<_>) = writes.into_iter().partition(|write| write.outcome == Outcome::Kept);
        self.note_in_doubt(&failed);
        replies.extend(failed.into_iter().map(|write| (write.at, Reply::Refused(self.why(&write)))));
        let at: Vec<usize> = kept.iter().map(|write| write.at).collect();
        let reply = match self.commit(kept).await {
            Ok(()) => Reply::Done,
            Err(refusal) => Reply::Refused(refusal),
        };
        replies.extend(at.into_iter().map(|at| (at, reply.clone())));
        replies
    }

    /// Gives each message a version and targets, waiting for nodes that are still joining after a start.
    async fn admit(self: &Arc<Self>, mut round: Vec<(Wanted, Pass)>) -> (Vec<Write>, Vec<(usize, Reply)>) {
        let mut writes = Vec::with_capacity(round.len());
        let mut replies = Vec::new();
        let mut changes = self.changes();
        loop {
            let mut refused = Vec::new();
            {
                let mut cluster = self.cluster();
                for (wanted, pass) in round {
                    let admitted = match &wanted.payload {
                        Some(payload) => cluster.admit(&wanted.id, payload.len() as u32, checksum(payload)).map(Some),
                        None => cluster.admit_deletion(&wanted.id),
                    };
                    match admitted {
                        Ok(Some(ticket)) => {
                            let promise = Promise::new(self.clone(), ticket);
                            let payload = wanted.payload.unwrap_or_default();
                            writes.push(Write::new(wanted.at, promise, payload, pass, cluster.tolerance()));
                        }
                        Ok(None) => replies.push((wanted.at, Reply::Done)),
                        Err(reason) => refused.push((wanted, pass, reason)),
                    }
                }
            }
            if !replies.is_empty() {
                self.served.store(true, Ordering::Relaxed);
            }
            if refused.is_empty() || timeout_at(self.joining_until(), changes.next()).await.is_err() {
                let refuse = |(wanted, _, reason): (Wanted, _, _)| (wanted.at, Reply::Refused(refusal(reason)));
                replies.extend(refused.into_iter().map(refuse));
                return (writes, replies);
            }
            round = refused.into_iter().map(|(wanted, pass, _)| (wanted, pass)).collect();
        }
    }

    /// Makes writes true that are kept on enough nodes: first in the log, then in the index.
    pub(super) async fn commit(self: &Arc<Self>, writes: Vec<Write>) -> Result<(), Refusal> {
        if writes.is_empty() {
            return Ok(());
        }
        let commits = writes.iter().map(|write| {
            let ticket = write.promise.ticket();
            Event::Commit(Commit { id: ticket.id.clone(), record: ticket.record, holders: write.holders() })
        });
        let events: Vec<Event> = commits.collect();
        if let Err(error) = self.ledger.append(&events).await {
            self.note_in_doubt(&writes);
            return Err(Refusal::Unknown(error.to_string()));
        }
        self.apply(writes, &events);
        self.served.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Remembers where writes that did not become true may have left copies.
    fn note_in_doubt(&self, writes: &[Write]) {
        if !writes.is_empty() {
            let mut cluster = self.cluster();
            writes.iter().for_each(|write| cluster.note_in_doubt(write.promise.ticket()));
        }
    }

    /// Changes the index, and tells those nodes that have something to publish or to let go.
    fn apply(self: &Arc<Self>, writes: Vec<Write>, events: &[Event]) {
        let mut settles: BTreeMap<NodeId, Vec<family::Settle>> = BTreeMap::new();
        let mut changes: Vec<Change> = Vec::new();
        let mut passes = Vec::with_capacity(writes.len());
        {
            let mut cluster = self.cluster();
            for (write, event) in writes.into_iter().zip(events) {
                let Event::Commit(commit) = event else { continue };
                let mut settle = |node: NodeId, keep: bool| {
                    let version = commit.record.version.0;
                    let settle = family::Settle { id: commit.id.to_string(), version, keep, trash: write.trims };
                    settles.entry(node).or_default().push(settle);
                };
                write.tally.surplus().for_each(|node| settle(node, false));
                write.sources.iter().for_each(|&node| settle(node, commit.holders.contains(&node)));
                let ticket = write.promise.keep();
                cluster.release(&ticket);
                let deleted = commit.record.is_tombstone();
                let shown = if deleted { Holders::new() } else { commit.holders.clone() };
                match cluster.apply(commit) {
                    Applied::Superseded => continue,
                    Applied::New if deleted => {}
                    Applied::New => changes.push((commit.id.clone(), shown)),
                    Applied::Replaced { holders, record } => {
                        // Whoever stays a holder of the same version has nothing to publish.
                        let same = record.version == commit.record.version;
                        let stays = |node: &NodeId| commit.holders.contains(node);
                        let told = |node: &&NodeId| !same || write.trims && !stays(node);
                        holders.iter().filter(told).for_each(|node| settle(*node, stays(node)));
                        if same && !write.trims {
                            // Nobody has read the copies that stay: what goes is looked at once more.
                            let goes = holders.iter().filter(|node| !stays(node));
                            goes.for_each(|&node| cluster.note_surplus(&commit.id, record.version, node));
                        }
                        if same {
                            let stayed = |node: &NodeId| write.sources.contains(node) || write.also.contains(node);
                            let made = commit.holders.iter().filter(|node| !stayed(node));
                            made.for_each(|&node| cluster.note_copy(&commit.id, record.version, node, true));
                        }
                        if holders != shown || record.is_tombstone() != deleted {
                            changes.push((commit.id.clone(), shown));
                        }
                    }
                }
                if deleted {
                    // The tombstone has its place beside what it deletes, which goes only now.
                    commit.holders.iter().for_each(|&node| settle(node, true));
                }
                cluster.note_left_over(&ticket, &commit.holders);
                passes.push(write.pass);
            }
        }
        self.settle(settles);
        if !changes.is_empty() {
            let _ = self.view.send(changes);
        }
    }

    /// Tells nodes what to publish and what to let go. Nobody waits for it; what a node could not do is surplus.
    pub(super) fn settle(self: &Arc<Self>, settles: BTreeMap<NodeId, Vec<family::Settle>>) {
        for (node, settles) in settles {
            let (leader, told) = (self.clone(), told(&settles));
            let answer = self.links.settle(node, settles);
            tokio::spawn(async move { leader.note_undone(node, &told, &answer.await.unwrap_or_default()) });
        }
    }

    /// Notes what a node was told and did not do, or did not say that it did; gives the ids.
    pub(super) fn note_undone(&self, node: NodeId, told: &[(MessageId, Version)], done: &[bool]) -> Vec<MessageId> {
        let undone = told.iter().enumerate().filter(|(i, _)| done.get(*i) != Some(&true));
        let undone: Vec<&(MessageId, Version)> = undone.map(|(_, told)| told).collect();
        if !undone.is_empty() {
            let mut cluster = self.cluster();
            undone.iter().for_each(|(id, version)| cluster.note_surplus(id, *version, node));
        }
        undone.into_iter().map(|(id, _)| id.clone()).collect()
    }

    /// Takes back the promises of a write that did not become true.
    pub(super) fn release(&self, ticket: &Ticket) {
        self.cluster().release(ticket);
    }

    // ---- GET ---------------------------------------------------------------

    async fn get_all(self: &Arc<Self>, gets: Vec<(usize, MessageId)>) -> Vec<(usize, Reply)> {
        if gets.is_empty() {
            return Vec::new();
        }
        let began = Instant::now();
        let replies = self.read_all(gets).await;
        let (mut good, mut missing, mut failed) = (0, 0, 0);
        for (_, reply) in &replies {
            match reply {
                Reply::Refused(Refusal::NotFound) => missing += 1,
                Reply::Refused(_) => failed += 1,
                _ => good += 1,
            }
        }
        self.meters.gets.record(began.elapsed(), good + missing);
        self.meters.gets.error(failed);
        self.meters.not_found.fetch_add(missing, Ordering::Relaxed);
        if good + missing > 0 {
            self.served.store(true, Ordering::Relaxed);
        }
        replies
    }
}

/// Of which ids and versions settles speak.
pub(super) fn told(settles: &[family::Settle]) -> Vec<(MessageId, Version)> {
    settles.iter().filter_map(|settle| Some((settle.id.parse().ok()?, Version(settle.version)))).collect()
}

/// Whether a request is worked on by itself, by [`Coordinator::order`].
fn is_order(request: &mut Request) -> bool {
    matches!(request, Ok(Command::Verify | Command::Drain(_) | Command::Undrain(_) | Command::Rebalance(_)))
}

/// How a client hears why its write was not admitted.
pub(super) fn refusal(reason: NotAdmitted) -> Refusal {
    match reason {
        NotAdmitted::TooFewNodes { need, live } => Refusal::TooFewNodes { need, live },
        NotAdmitted::NotYet(reason) => Refusal::Unavailable(format!("{reason}; nothing was written, try again later")),
    }
}
