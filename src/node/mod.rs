//! A node: keeps copies on its disk, and does what its leader says.
//!
//! Frames from the leader arrive on lanes. Writes of all lanes go through one
//! writer, so that comparing versions and publishing never race, and whatever
//! queued while a batch was written becomes the next batch. Every frame is
//! checked against the fence when it is executed, not when it arrives. Nothing
//! here decides where a message belongs.

#[cfg(test)]
pub(crate) mod conformance;
pub mod convert;
pub mod files;
pub mod heartbeat;
pub mod identity;
pub mod index;
pub mod process;
pub mod records;
pub mod scan;
pub mod segments;
pub mod service;
pub mod store;
pub mod trial;
pub mod write_back;

mod lane;
mod promise;
mod reads_only;
mod reserve;
mod work;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::identity::{Fenced, IdentityFile};
use self::promise::Promise;
use self::store::Store;
use self::work::{ReadWork, WriteWork, read_loop, tend_loop, write_loop};
use crate::clock::Clock;
use crate::durable::{self, Space, executor::Executor};
use crate::lock::Lock;
use crate::stop::Stop;
use crate::telemetry::Meter;
use crate::telemetry::repeats::Repeats;
use crate::types::{BadId, Deadline, Epoch, Fence, IoMode, Listed, MessageId, NodeId, Refusing};
use crate::wire::family::{self, FromNode, from_node};
use crate::wire::{FORMAT, LANE_FRAMES, id_bytes};

/// Threads that read copies: enough that one slow read does not hold up all others.
const READERS: usize = 2;

/// Frames that wait for the writer or a reader; a lane with more is not read on.
const WORK_QUEUE: usize = 64;

/// Lanes of whoever has not proved to be a leader, at once: far more than leaders open, and bounded for all others.
const STRANGERS: usize = 256;

/// After a refusal a node says why for this long; then it may be tried again.
const FULL_FOR: Duration = Duration::from_secs(5);

/// What a node is made of.
#[derive(Debug)]
pub struct Parts {
    /// Its number.
    pub id: NodeId,
    /// Its folder's identity.
    pub identity: IdentityFile,
    /// Its copies.
    pub store: Arc<dyn Store>,
    /// When a copy counts as written.
    pub io_mode: IoMode,
    /// Random, one a process.
    pub incarnation: u64,
    /// The machine's wall clock.
    pub clock: Arc<dyn Clock>,
}

/// Why this node did not take a copy a moment ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What the disk said.
    pub refusing: Refusing,
    until: Instant,
    /// The smallest message that there was no room for, in bytes, and until when that counts.
    full_from: Option<(u32, Instant)>,
}

impl Refusal {
    /// The smallest message that there was no room for a moment ago, in bytes.
    pub fn full_from(&self) -> Option<u32> {
        self.full_from.filter(|(_, until)| Instant::now() < *until).map(|(bytes, _)| bytes)
    }

    /// Another one, after `before`.
    fn after(before: Option<Self>, refusing: Refusing, full_from: Option<u32>) -> Self {
        let until = Instant::now() + FULL_FOR;
        let now = full_from.map(|bytes| (bytes, until));
        let before = before.and_then(|before| Some((before.full_from()?, before.full_from?.1)));
        let full_from = match (now, before) {
            (Some(now), Some(before)) if before.0 < now.0 => Some(before),
            (now, before) => now.or(before),
        };
        Self { refusing, until, full_from }
    }
}

/// A running node. Its lanes are fed by `service`, or by a simulated network.
#[derive(Debug)]
pub struct Node {
    id: NodeId,
    identity: Arc<IdentityFile>,
    store: Arc<dyn Store>,
    io_mode: IoMode,
    incarnation: u64,
    clock: Arc<dyn Clock>,
    promise: Arc<Promise>,
    /// A leader was let in: lanes of the one before see that they are over.
    admitted: Notify,
    executor: Executor,
    stop: Stop,
    writes: mpsc::Sender<WriteWork>,
    reads: mpsc::Sender<ReadWork>,
    /// What reports show.
    pub meters: Meters,
    /// Of [`STRANGERS`].
    strangers: Arc<Semaphore>,
    refusal: Lock<Option<Refusal>>,
    /// Its disk, as last looked at.
    space: Lock<Space>,
    /// What was said of refused copies.
    said: Lock<Repeats>,
    started: Instant,
    written: CancellationToken,
    tended: CancellationToken,
}

/// What a node measures.
#[derive(Debug, Default)]
pub struct Meters {
    /// Copies written, each with its batch's time.
    pub stores: Meter,
    /// Copies read.
    pub reads: Meter,
    /// Waiting for the writer.
    pub queue: Meter,
    /// Writing a batch.
    pub write: Meter,
    /// Syncing a batch.
    pub sync: Meter,
    /// Failed writes.
    pub write_errors: AtomicU64,
    /// Reads that met a copy unlike its record.
    pub bad_checksums: AtomicU64,
    /// Bytes and id of the largest copy written.
    pub largest: Lock<Option<(u64, String)>>,
}

impl Node {
    /// Starts the writer and the readers.
    pub fn start(parts: Parts, executor: Executor, stop: Stop) -> std::io::Result<Arc<Self>> {
        let (writes, write_queue) = mpsc::channel(WORK_QUEUE);
        let (reads, read_queue) = mpsc::channel(WORK_QUEUE);
        let served = parts.identity.get().seen.map(|(_, run)| run);
        let node = Arc::new(Self {
            id: parts.id,
            promise: Arc::new(Promise::of_before(served)),
            admitted: Notify::new(),
            identity: Arc::new(parts.identity),
            store: parts.store,
            io_mode: parts.io_mode,
            incarnation: parts.incarnation,
            clock: parts.clock,
            executor: executor.clone(),
            stop: stop.clone(),
            writes,
            reads,
            meters: Meters::default(),
            strangers: Arc::new(Semaphore::new(STRANGERS)),
            refusal: Lock::new(None),
            space: Lock::default(),
            said: Lock::default(),
            started: Instant::now(),
            written: CancellationToken::new(),
            tended: CancellationToken::new(),
        });
        let written = node.written.clone().drop_guard();
        let writer = write_loop(node.clone(), write_queue, stop.clone());
        let writer = stop.vital("writer", async move {
            let _written = written;
            writer.await;
        });
        executor.spawn("writer", writer)?;
        let tended = node.tended.clone().drop_guard();
        let keeper = tend_loop(node.clone(), stop.clone());
        let keeper = stop.vital("keeper", async move {
            let _tended = tended;
            keeper.await;
        });
        executor.spawn("keeper", keeper)?;
        let read_queue = Arc::new(tokio::sync::Mutex::new(read_queue));
        for _ in 0..READERS {
            executor
                .spawn("reader", stop.vital("reader", read_loop(node.clone(), read_queue.clone(), stop.clone())))?;
        }
        Ok(node)
    }

    /// Waits until the writer has finished what had queued when the stop was requested, and all is tended.
    pub async fn finished(&self) {
        self.tended.cancelled().await;
    }

    /// Its number.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Its identity.
    pub fn identity(&self) -> &IdentityFile {
        &self.identity
    }

    /// Its copies.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Random, one a process.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// What it refused a moment ago.
    pub fn refusal(&self) -> Option<Refusal> {
        let refusal = self.refusal.lock();
        refusal.clone().filter(|refusal| Instant::now() < refusal.until)
    }

    /// Who this is, and whom it has served.
    fn who(&self) -> family::Pong {
        let identity = self.identity.get();
        let (leadership, run) = identity.seen.unzip();
        family::Pong {
            incarnation: self.incarnation,
            node_id: self.id.0,
            uuid: identity.uuid.0.to_vec().into(),
            cluster_id: leadership.map_or_else(Vec::new, |leadership| leadership.cluster_id.0.to_vec()).into(),
            epoch_seen: leadership.map_or(0, |leadership| leadership.epoch.0),
            run_seen: run.unwrap_or_default(),
            committed: self.identity.committed().0,
            lease_refused: false,
            unix_ms: self.clock.unix_ms(),
        }
    }

    async fn hello(&self, fence: Fence, hello: &family::Hello) -> Result<family::Welcome, Fenced> {
        let before = self.identity.get();
        let refuse =
            |reason: String| Fenced { epoch: before.seen.map_or(Epoch(0), |(leadership, _)| leadership.epoch), reason };
        if hello.format > FORMAT {
            return Err(refuse(format!(
                "the leader speaks format {}, this node only {FORMAT}: upgrade the node",
                hello.format
            )));
        }
        if hello.node_id != self.id.0 {
            return Err(refuse(format!(
                "this is node {}, not node {}; check --advertise: each node has an address of its own",
                self.id, hello.node_id
            )));
        }
        // Who is refused anyway waits for nothing, and keeps the leader that is there from nothing.
        self.identity.admits(fence)?;
        let turn = self.promise.turn_of(fence.run).await;
        let not_noted = match self.admit(fence, turn, hello.reads_only).await {
            Ok(Ok(not_noted)) => not_noted,
            Ok(Err(fenced)) => return Err(fenced),
            Err(error) => {
                let reason = identity_failed(&error);
                if !durable::is_refused(&error) {
                    self.stop.fail(reason.clone());
                }
                return Err(refuse(reason));
            }
        };
        self.admitted.notify_waiters();
        Ok(family::Welcome {
            format: FORMAT,
            node_id: self.id.0,
            uuid: before.uuid.0.to_vec().into(),
            cluster_id: before.seen.map_or_else(Vec::new, |(leadership, _)| leadership.cluster_id.0.to_vec()).into(),
            incarnation: self.incarnation,
            epoch_seen: before.seen.map_or(0, |(leadership, _)| leadership.epoch.0),
            members: before.members.iter().map(family::Member::from).collect(),
            removed: before.removed.iter().map(family::Member::from).collect(),
            io_mode: self.io_mode.to_string(),
            layout: before.layout,
            copies: self.store.totals().messages,
            deadlines: true,
            unix_ms: self.clock.unix_ms(),
            no_room: not_noted.as_ref().is_some_and(|not_noted| not_noted.full),
            not_noted: not_noted.map_or_else(String::new, |not_noted| not_noted.why),
        })
    }
}

fn identity_failed(error: &std::io::Error) -> String {
    let help = match durable::is_refused(error) {
        true => "make room, or make the disk writable: the node goes on by itself",
        false => "check the disk, then start this node again",
    };
    format!("cannot write the identity file: {error}; {help}")
}

fn from(seq: u64, body: from_node::Body) -> FromNode {
    FromNode { seq, body: Some(body) }
}

fn id_of(bytes: &[u8]) -> Result<MessageId, String> {
    MessageId::from_bytes(bytes).map_err(bad_id)
}

fn bad_id(reason: BadId) -> String {
    format!("a frame with a bad id: {reason}")
}

/// Replies that wait on a lane.
pub fn lane_queue() -> (mpsc::Sender<FromNode>, mpsc::Receiver<FromNode>) {
    mpsc::channel(LANE_FRAMES)
}

impl From<Listed> for family::InventoryEntry {
    fn from(entry: Listed) -> Self {
        Self {
            id: id_bytes(&entry.id),
            version: entry.record.version.0,
            length: entry.record.length,
            crc: entry.record.crc,
            expires: Deadline::number(entry.record.expires),
            staged: entry.staged,
            damaged: entry.damaged,
        }
    }
}
