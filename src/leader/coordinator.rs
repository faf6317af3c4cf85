//! What clients ask, in batches as they come from a connection: what the index can answer is answered here, and the
//! rest goes its way through `set` and `read`, together with that of other connections.
//!
//! The one lock over the [`Cluster`] is never held across an await.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use foldhash::fast::FixedState;
use hashbrown::HashSet;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use super::backup::Saved;
use super::cache::MessageCache;
use super::key_locks::KeyLocks;
use super::known::Known;
use super::ledger::Ledger;
use super::query::COMPLETION;
use super::read::{Get, Sought};
use super::register_time::RegisterTime;
use super::replication::Links;
use super::rounds::Rounds;
use super::set::{Turn, Wanted};
use super::shares::{Pot, Room, Share, Size};
use super::upkeep::repair::Progress;
use super::view;
use crate::cluster::knowledge::Trust;

use crate::cluster::{Cluster, Located};
use crate::error::Refusal;
use crate::lock::Lock;
use crate::process::memory;
use crate::protocol::{Command, Reply};
use crate::seeded::{self, Bug};
use crate::stop::Stop;
use crate::telemetry::Meter;
use crate::telemetry::repeats::Repeats;
use crate::telemetry::served::{NOT_FOUND, Operation, Outcome, Protocol, Served};
use crate::types::{Change, Deadline, MessageId};

/// Requests that come this soon after the start, or that of another epoch, wait for nodes that are still joining, up to then.
pub const JOINING: Duration = Duration::from_secs(5);

/// A write whose outcome is not known by then is answered UNKNOWN: its log hangs, or those before it took all the time
/// there was. It goes on, and may appear later.
pub(super) const OUTCOME: Duration = Duration::from_secs(40);

/// What needs the word of members that are silent waits no longer for them: as long as it takes a leader that was itself
/// paused to hear them again.
pub(super) const LAPSE: Duration = Duration::from_millis(500);

/// Bytes of messages (and a little for each request) that are under way at once, over all connections, until their
/// replies are sent; less where there is less memory. With what [`super::gateway::Limits::max_partial_bytes`] allows,
/// clients cost the leader less than 256 MiB, whatever they do.
const UNDER_WAY_BYTES: usize = 144 << 20;

/// What a request costs beside its message.
pub(super) const REQUEST_COST: usize = 256;

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
    known: Arc<Known>,
    /// The way to nodes.
    pub links: Arc<Links>,
    ledger: Ledger,
    /// Messages that were written or read of late.
    pub(super) cache: MessageCache,
    pub(super) writes: Arc<Rounds<Turn>>,
    pub(super) reads: Arc<Rounds<Get>>,
    /// What deadlines are measured by.
    pub time: RegisterTime,
    /// One write at a time for each id.
    pub key_locks: Arc<KeyLocks>,
    pub(super) view: Arc<view::Changes>,
    changed: Arc<Changed>,
    /// Writes under way, which a stop waits for.
    pub tasks: TaskTracker,
    /// Ends the leader.
    pub stop: Stop,
    /// Until when nodes are expected to join, since the start.
    joining_ms: AtomicU64,
    pot: Arc<Pot>,
    turn: AtomicUsize,
    /// Inventories that nobody waits for come one after the other.
    pub(super) unhurried: Semaphore,
    pub(super) served: AtomicBool,
    /// The log says that it holds everything.
    pub(super) log_is_whole: AtomicBool,
    /// What reports show.
    pub meters: Meters,
    /// How far repair is.
    pub(super) repair_progress: Progress,
    /// What a backup was given of what writes have overtaken.
    pub(super) saved: Saved,
    /// What was said of nodes that refuse copies.
    pub(super) said: Lock<Repeats>,
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
    /// Messages that ended by themselves.
    pub expired: AtomicU64,
    /// Open client connections.
    pub clients: AtomicUsize,
    /// Batches of requests since the start.
    pub requests: AtomicU64,
    /// Clients that were cut off.
    pub cuts: Cuts,
    /// Scripts.
    pub scripts: Arc<ScriptMeters>,
    /// All of them, for metrics.
    pub served: Served,
}

/// What is counted of scripts.
#[derive(Debug, Default)]
pub struct ScriptMeters {
    /// Those that came to their end.
    pub done: AtomicU64,
    /// Those that ended in an error of their own.
    pub failed: AtomicU64,
    /// Those that a limit or SCRIPT KILL ended.
    pub ended: AtomicU64,
    /// Those that were not begun, as no thread was free.
    pub refused: AtomicU64,
    /// Threads that are at work on one now.
    pub running: AtomicUsize,
    /// Threads that were given up and have not come to an end.
    pub stuck: AtomicUsize,
    /// Scripts that are kept.
    pub cached: AtomicUsize,
}

/// Scripts of clients at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct ScriptsNow {
    /// Threads that are at work on one.
    pub running: usize,
    /// Threads that were given up and have not come to an end.
    pub stuck: usize,
    /// Scripts that EVALSHA knows.
    pub known: usize,
}

impl ScriptMeters {
    /// How it is now.
    pub fn now(&self) -> ScriptsNow {
        let [running, stuck, known] = [&self.running, &self.stuck, &self.cached].map(|of| of.load(Ordering::Relaxed));
        ScriptsNow { running, stuck, known }
    }

    /// How many there were, by how that went, as metrics name it.
    pub fn counts(&self) -> [(&'static str, u64); 4] {
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        let [done, failed] = [count(&self.done), count(&self.failed)];
        [("ok", done), ("failed", failed), ("ended", count(&self.ended)), ("busy", count(&self.refused))]
    }
}

/// Clients that were cut off since the start, by the reason.
#[derive(Debug, Default)]
pub struct Cuts {
    /// They held the most bytes when there was no room for others.
    pub most: AtomicU64,
    /// They took their replies, or finished their request, too slowly.
    pub slow: AtomicU64,
    /// They asked nothing for as long as `--idle-timeout`.
    pub idle: AtomicU64,
}

impl Cuts {
    /// All of them, named as metrics name them.
    pub fn counts(&self) -> [(&'static str, u64); 3] {
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        [("memory", count(&self.most)), ("slow", count(&self.slow)), ("idle", count(&self.idle))]
    }
}

/// A batch that can be worked on at once: no id in it is both read and written.
#[derive(Debug, Default)]
struct Batch {
    replies: Vec<Option<Reply>>,
    writes: Vec<Wanted>,
    gets: Vec<Sought>,
    /// WHERE and COUNT, of what cannot be told at once.
    later: Vec<(usize, Command)>,
    /// Bytes of the messages that are read.
    read_bytes: usize,
    /// GETs that are answered already, and how many of these with NOT_FOUND.
    recalled: u64,
    missing: u64,
}

/// The ids of a batch so far, by hash: two that share one are worked on apart, which only costs time.
#[derive(Debug, Default)]
struct Named {
    written: HashSet<u64, FixedState>,
    read: HashSet<u64, FixedState>,
}

impl Named {
    /// Whether a request can be worked on together with those before it: later requests of a connection see earlier
    /// ones. Two writes of one id can, as they come one by one in their order.
    fn admits(&mut self, request: &Request) -> bool {
        let hash = |id: &MessageId| FixedState::default().hash_one(id);
        match request {
            Ok(Command::Set { id, .. } | Command::SetFor { id, .. } | Command::Delete(id)) => {
                let hash = hash(id);
                self.written.insert(hash);
                !self.read.contains(&hash)
            }
            Ok(Command::Get(id)) => {
                let hash = hash(id);
                self.read.insert(hash);
                !self.written.contains(&hash)
            }
            _ => true,
        }
    }
}

/// The refusal of a request for which there is no room.
pub(super) fn busy() -> Reply {
    Reply::Refused(Refusal::Busy("too many bytes are under way in the leader"))
}

impl Coordinator {
    /// Puts the parts together.
    pub fn new(
        known: Arc<Known>,
        links: Arc<Links>,
        ledger: Ledger,
        cache: MessageCache,
        view: Arc<view::Changes>,
        time: RegisterTime,
        stop: Stop,
    ) -> Self {
        let log_is_whole = AtomicBool::new(known.lock().trust() == Trust::Whole);
        Self {
            time,
            log_is_whole,
            known,
            links,
            ledger,
            cache,
            writes: Arc::default(),
            reads: Arc::default(),
            key_locks: Arc::new(KeyLocks::default()),
            view,
            changed: Arc::default(),
            tasks: TaskTracker::new(),
            stop,
            joining_ms: AtomicU64::new(JOINING.as_millis() as u64),
            pot: Pot::new(Size::of(UNDER_WAY_BYTES, memory())),
            turn: AtomicUsize::new(0),
            unhurried: Semaphore::new(1),
            said: Lock::default(),
            served: AtomicBool::new(false),
            meters: Meters::default(),
            repair_progress: Progress::default(),
            saved: Saved::default(),
        }
    }

    /// The lock over what the leader knows, and the time that it is. Never hold it across an await.
    pub fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.known.lock()
    }

    /// The log.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Time since the start: what the cluster takes for the clock.
    pub fn now(&self) -> Duration {
        self.known.now()
    }

    /// A moment on that clock.
    pub(super) fn at(&self, moment: Instant) -> Duration {
        self.known.at(moment)
    }

    /// Bytes under way.
    pub fn in_flight(&self) -> usize {
        self.pot.used()
    }

    /// What holds the bytes under way.
    pub fn pot(&self) -> &Arc<Pot> {
        &self.pot
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

    /// Waits for a change, no longer than this; tells whether one came. Who only waits was not admitted: a leader that
    /// is to stop gives up waiting at once.
    pub(super) async fn changed(&self, changes: &mut Changes, until: Instant) -> bool {
        self.stop.unless(timeout_at(until, changes.next())).await.is_some_and(|change| change.is_ok())
    }

    /// Until when requests wait for nodes instead of failing.
    pub(super) fn joining_until(&self) -> Instant {
        self.known.started() + Duration::from_millis(self.joining_ms.load(Ordering::Relaxed))
    }

    /// Until when a request that `began` then waits for what is held back now: as long as nodes are joining, or a version
    /// is being completed; but not for members that were silent for as long as a lease.
    pub(super) fn patient_until(&self, began: Instant) -> Instant {
        let patience = if self.cluster().leases() == (true, true) { COMPLETION } else { LAPSE };
        self.joining_until().max(began + patience)
    }

    /// Nodes join anew from now on, and requests wait for them as they do after the start.
    pub(super) fn expect_nodes(&self) {
        self.joining_ms.store((self.now() + JOINING).as_millis() as u64, Ordering::Relaxed);
    }

    /// Whether the log says that it holds everything.
    pub(super) fn says_whole(&self) -> bool {
        self.log_is_whole.load(Ordering::Relaxed) && self.cluster().is_settled()
    }

    pub(super) fn turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// Room for what is nobody's in particular, or cannot be cut.
    pub(super) fn room(&self, bytes: usize) -> Option<Room> {
        self.pot.room(bytes)
    }

    /// Works on requests from the front of `queue`, which came by `via`: as many as can be worked on at once.
    /// Gives their replies in order, with the room that they take until they are sent.
    pub async fn execute(self: &Arc<Self>, queue: &mut VecDeque<Request>, via: Protocol) -> (Vec<Reply>, Option<Room>) {
        self.execute_for(None, queue, via).await
    }

    /// The same for a connection, whose share the room is of.
    pub(super) async fn execute_for(
        self: &Arc<Self>,
        share: Option<&Share>,
        queue: &mut VecDeque<Request>,
        via: Protocol,
    ) -> (Vec<Reply>, Option<Room>) {
        self.meters.requests.fetch_add(1, Ordering::Relaxed);
        if let Some(Ok(order)) =
            queue.pop_front_if(|request| request.as_ref().is_ok_and(|command| self.is_order(command)))
        {
            return (vec![self.order(order, via).await], None);
        }
        let began = Instant::now();
        let mut batch = self.next_batch(queue);
        self.note_gets(began, batch.recalled, batch.missing, 0);
        self.note_at_once(via, began, &batch);
        let bytes = batch.read_bytes + batch.gets.len() * REQUEST_COST;
        let room = share.map_or_else(|| self.room(bytes), |share| share.room(bytes));
        if room.is_none() {
            // Their replies stay open, which is BUSY below.
            let busy = batch.gets.drain(..).map(|_| outcome(&busy()));
            self.meters.served.note(via, Operation::Read, Duration::ZERO, busy);
        }
        if !batch.writes.is_empty() || !batch.gets.is_empty() || !batch.later.is_empty() {
            let (writes, gets) = (std::mem::take(&mut batch.writes), std::mem::take(&mut batch.gets));
            let later = self.tell_later(std::mem::take(&mut batch.later));
            let write = self.noted(via, Operation::Write, began, self.write(writes));
            let read = self.noted(via, Operation::Read, began, self.read(gets));
            let (written, read, found) = futures::future::join3(write, read, later).await;
            for (at, reply) in written.into_iter().chain(read).chain(found) {
                batch.replies[at] = Some(reply);
            }
        }
        (batch.replies.into_iter().map(|reply| reply.unwrap_or_else(busy)).collect(), room)
    }

    /// Counts what was answered without a node: GETs, and refusals of what was no request.
    fn note_at_once(&self, via: Protocol, began: Instant, batch: &Batch) {
        let refused = |reply: &Reply| outcome(reply).filter(|code| *code != NOT_FOUND).map(Some);
        let refusals = batch.replies.iter().flatten().filter_map(refused);
        self.meters.served.note(via, Operation::Other, Duration::ZERO, refusals);
        let found = batch.recalled - batch.missing;
        let gets = (0..batch.recalled).map(|n| (n >= found).then_some(NOT_FOUND));
        self.meters.served.note(via, Operation::Read, began.elapsed(), gets);
    }

    /// Counts the replies of this work.
    async fn noted(
        &self,
        via: Protocol,
        op: Operation,
        began: Instant,
        work: impl Future<Output = Vec<(usize, Reply)>>,
    ) -> Vec<(usize, Reply)> {
        let replies = work.await;
        self.meters.served.note(via, op, began.elapsed(), replies.iter().map(|(_, reply)| outcome(reply)));
        replies
    }

    fn next_batch(&self, queue: &mut VecDeque<Request>) -> Batch {
        let mut batch = Batch::default();
        let mut named = Named::default();
        let mut status = None;
        let writes = |request: &Request| {
            matches!(request, Ok(Command::Set { .. } | Command::SetFor { .. } | Command::Delete(_)))
        };
        let first = queue.iter().take(BATCH_REQUESTS);
        let mixed = first.clone().any(writes) && !first.clone().all(writes);
        let cluster = self.cluster();
        while batch.replies.len() < BATCH_REQUESTS && batch.read_bytes < READ_AHEAD_BYTES {
            let Some(request) = queue.pop_front_if(|request| !mixed || named.admits(request)) else { break };
            let at = batch.replies.len();
            let reply = match request {
                Err(refusal) => Some(Reply::Refused(refusal)),
                Ok(Command::Set { id, payload }) => {
                    batch.writes.push((at, id, Change::Put(payload, None)));
                    None
                }
                Ok(Command::SetFor { id, time, payload }) if self.time.is_settled() => {
                    batch.writes.push((at, id, Change::Put(payload, Deadline::after(self.time.now(), time))));
                    None
                }
                Ok(Command::Delete(id)) => {
                    batch.writes.push((at, id, Change::Delete));
                    None
                }
                Ok(Command::Get(id)) => self.begin_get(&cluster, &mut batch, at, id),
                // Who somebody is is between the connection and its gateway.
                Ok(Command::Auth(_)) => Some(Reply::Refused(Refusal::NoAuth)),
                Ok(Command::Ping { crlf }) => Some(Reply::Pong { crlf }),
                Ok(Command::Help) => Some(Reply::Help),
                Ok(Command::Exit) => Some(Reply::Bye),
                // What looks at everything sees the writes before it; an order is worked on by itself.
                other if !batch.writes.is_empty() || matches!(&other, Ok(command) if self.is_order(command)) => {
                    queue.push_front(other);
                    break;
                }
                Ok(asked @ (Command::Where(_) | Command::Count)) => {
                    tell(&cluster, &asked).map_err(|_| batch.later.push((at, asked))).ok()
                }
                Ok(Command::Peers) => {
                    let reply = self.tell_peers();
                    batch.read_bytes += if let Reply::Status(json) = &reply { json.len() } else { 0 };
                    Some(reply)
                }
                // Many of them at once tell the same.
                Ok(_) => {
                    let json = status.get_or_insert_with(|| self.status(&cluster)).clone();
                    batch.read_bytes += json.len();
                    Some(Reply::Status(json))
                }
            };
            // The connection closes with this reply: nothing after it is run.
            let last = reply == Some(Reply::Bye);
            batch.replies.push(reply);
            if last {
                break;
            }
        }
        batch
    }

    /// Who holds messages, and how many there are, as soon as all that is asked can be told, and as long as nodes are
    /// expected to join.
    async fn tell_later(&self, asked: Vec<(usize, Command)>) -> Vec<(usize, Reply)> {
        let until = self.joining_until();
        loop {
            let mut changes = self.changes();
            let found: Vec<_> = {
                let cluster = self.cluster();
                asked.iter().map(|(at, asked)| (*at, tell(&cluster, asked))).collect()
            };
            let wait = found.iter().any(|(_, found)| found.is_err()) && Instant::now() < until;
            if !wait || !self.changed(&mut changes, until).await {
                let refused = |reason| Reply::Refused(Refusal::Unavailable(reason));
                return found.into_iter().map(|(at, found)| (at, found.unwrap_or_else(refused))).collect();
            }
        }
    }

    /// Whether a request is worked on by itself, by [`Coordinator::order`]. A SET for a while is one as long as it is not known
    /// what time it is.
    fn is_order(&self, command: &Command) -> bool {
        use Command::{
            AcceptClock, AddPeer, Drain, Expire, HandOver, Rebalance, Remove, RemovePeer, SetFor, Ttl, Undrain, Verify,
        };
        let of_time = match command {
            SetFor { .. } => !self.time.is_settled(),
            command => matches!(command, Expire { .. } | Ttl(_)),
        };
        let of_peers = matches!(command, HandOver(_) | AddPeer { .. } | RemovePeer(_));
        of_time
            || of_peers
            || matches!(command, AcceptClock | Verify | Drain(_) | Undrain(_) | Remove { .. } | Rebalance(_))
    }

    /// Answers a GET if that takes no node, or else puts it with those that do.
    fn begin_get(&self, cluster: &Cluster, batch: &mut Batch, at: usize, id: MessageId) -> Option<Reply> {
        match cluster.locate(&id, 0) {
            Located::NotFound => {
                batch.recalled += 1;
                batch.missing += 1;
                return Some(Reply::Refused(Refusal::NotFound));
            }
            Located::Here { record, .. }
                if seeded::active(Bug::GoneBeforeLog) && self.time.has_come(record.expires) =>
            {
                return Some(Reply::Refused(Refusal::NotFound));
            }
            Located::Here { record, .. } if self.may_have_ended(&record) => batch.gets.push((at, id, 0)),
            Located::Here { record, .. } => {
                batch.read_bytes += record.bytes() as usize;
                if cluster.may_speak()
                    && let Some(payload) = self.cache.get(&id, record.version)
                {
                    batch.recalled += 1;
                    return Some(Reply::Value(payload));
                }
                batch.gets.push((at, id, record.bytes() as usize));
            }
            Located::Hidden(_) => batch.gets.push((at, id, 0)),
        }
        None
    }

    /// Counts GETs that took this long: all that were answered, how many of them with NOT_FOUND, and those that failed.
    pub(super) fn note_gets(&self, began: Instant, answered: u64, missing: u64, failed: u64) {
        if answered > 0 {
            self.meters.gets.record(began.elapsed(), answered);
            self.served.store(true, Ordering::Relaxed);
        }
        self.meters.gets.error(failed);
        self.meters.not_found.fetch_add(missing, Ordering::Relaxed);
    }
}

/// How a request ended, as metrics count it.
fn outcome(reply: &Reply) -> Outcome {
    match reply {
        Reply::Refused(refusal) => Some(refusal.code()),
        _ => None,
    }
}

/// Who holds a message, or how many there are; or why that cannot be told now.
fn tell(cluster: &Cluster, asked: &Command) -> Result<Reply, String> {
    let Command::Where(id) = asked else {
        return cluster.count().map(Reply::Count);
    };
    match cluster.look_up(id) {
        Located::Hidden(reason) => Err(reason),
        Located::NotFound => Ok(Reply::Refused(Refusal::NotFound)),
        Located::Here { record, .. } => {
            let holders = cluster.holders(id).unwrap_or_default().to_vec();
            Ok(Reply::Nodes { holders, expires: record.expires })
        }
    }
}
