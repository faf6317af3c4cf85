//! A backup of one moment, made while clients go on.
//!
//! The moment is fixed under the lock of the index, and what is overwritten or deleted after it is copied before it
//! goes: the commit is true and answered at once, but the nodes hear of it (which is when they let go of what is older)
//! only when the old message was read, and until then nobody else writes that id. So no write waits for a backup, unless
//! it is the second one of an id within the few milliseconds of such a read. Everything else is read in steps, one each
//! time that the receiver asks, in rounds apart from those of clients.
//!
//! A backup gives way: if what it has still to hand out grows beyond its bounds, it fails, and nothing else does.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use foldhash::fast::FixedState;
use futures::future::join_all;
use hashbrown::HashSet;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::coordinator::Coordinator;
use super::key_locks::KeyGuard;
use super::query::COMPLETION;
use super::read::bodies;
use crate::cluster::Cluster;
use crate::cluster::mapping::{Overtaken, Slot};
use crate::cluster::snapshot::{Moment, NoMoment};
use crate::error::{Refusal, name_nodes};
use crate::lock::Lock;
use crate::protocol::Reply;
use crate::types::{CopyRecord, Deadline, MAX_TOLERANCE, MessageId, NodeId, Payload, Version, checksum};
use crate::wire::Settle;

/// Messages and bytes of one step. Small, so that reads of clients that come behind it at a node wait no longer than
/// for a few others of theirs; one message at least.
const STEP: usize = 64;
const STEP_BYTES: u64 = 512 << 10;

/// Overtaken messages that wait to be read or handed out, and their bytes; beyond them the backup fails.
const MOST_SAVED: usize = 65_536;
const MOST_SAVED_BYTES: usize = 64 << 20;

/// A holder that does not give an overtaken message by then is passed over. Long, as the backup fails if no holder does:
/// nobody waits for it but who writes the same id again.
const PATIENCE: Duration = Duration::from_secs(3);

/// While clients ask something, there is a rest of so many times what a step took between two of them, up to this: the
/// backup takes a quarter of the time, on machines that have no more than clients need.
const RESTS: u32 = 3;
const LONGEST_REST: Duration = Duration::from_millis(50);

/// A backup whose receiver has asked for nothing for so long makes way for the next one. Longer than a receiver that lives
/// waits for its disk or its network.
const FORSAKEN: Duration = Duration::from_secs(60);

/// One message of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Copied {
    /// Its id.
    pub(super) id: MessageId,
    /// Its version, and when it ends by itself, if it does.
    pub(super) version: Version,
    pub(super) expires: Option<Deadline>,
    /// What it is; nothing if it is lost: no holder has an intact copy.
    pub(super) message: Option<Payload>,
}

impl Copied {
    fn of(id: MessageId, record: &CopyRecord, message: Option<Payload>) -> Self {
        Self { id, version: record.version, expires: record.expires, message }
    }
}

/// What writes have overtaken, on its way into the backup.
#[derive(Debug, Default)]
pub(super) struct Saved {
    state: Lock<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Which backup this is for: what comes late for another one is dropped.
    number: u64,
    ready: VecDeque<Copied>,
    /// Those that are being read.
    awaited: usize,
    /// Bytes of both.
    bytes: usize,
    failed: Option<String>,
    /// When the receiver got the last step; nothing while one is under way.
    idle_since: Option<Instant>,
}

impl Saved {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn begin(&self) -> u64 {
        let number = self.end();
        self.note_step(number, Some(Instant::now()));
        number
    }

    /// Nothing is kept for any backup from here on; gives the number of the next.
    fn end(&self) -> u64 {
        let mut state = self.state();
        *state = State { number: state.number + 1, ..State::default() };
        state.number
    }

    /// The backup under way, if its receiver has gone silent.
    fn forsaken(&self) -> Option<u64> {
        let state = self.state();
        state.idle_since.is_some_and(|since| since.elapsed() >= FORSAKEN).then_some(state.number)
    }

    /// A step of the backup of this number begins, or has ended.
    fn note_step(&self, number: u64, idle_since: Option<Instant>) {
        let mut state = self.state();
        if state.number == number {
            state.idle_since = idle_since;
        }
    }

    /// What was read, for the backup of this number.
    fn add(&self, number: u64, copied: Vec<Copied>) {
        let mut state = self.state();
        if state.number == number {
            state.awaited = state.awaited.saturating_sub(copied.len());
            state.ready.extend(copied);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    fn fail(&self, number: u64, why: String) {
        let mut state = self.state();
        if state.number == number && state.failed.is_none() {
            *state = State { number, failed: Some(why), ..State::default() };
        }
        drop(state);
        self.changed.notify_waiters();
    }
}

/// Writes whose nodes are told of them when what they overtook was read.
#[derive(Debug, Default)]
pub(super) struct Held {
    number: u64,
    old: Vec<Overtaken>,
    guards: Vec<KeyGuard>,
}

impl Held {
    pub(super) fn push(&mut self, old: Overtaken, guard: KeyGuard) {
        self.old.push(old);
        self.guards.push(guard);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.old.is_empty()
    }
}

impl Coordinator {
    /// Counts what is about to be read, under the lock under which it was overtaken.
    pub(super) fn expect_held(&self, cluster: &mut Cluster, held: &mut Held) {
        let mut state = self.saved.state();
        held.number = state.number;
        state.awaited += held.old.len();
        state.bytes += held.old.iter().map(|old| old.record.bytes() as usize).sum::<usize>();
        if state.awaited + state.ready.len() > MOST_SAVED || state.bytes > MOST_SAVED_BYTES {
            drop(state);
            let why = "writes overwrite messages faster than the receiver takes the backup";
            self.saved.fail(held.number, format!("{why}: write it to a faster place, or at a quieter time"));
            cluster.end_snapshot();
        }
    }

    /// Reads what was overtaken, and then tells the nodes of these writes what is committed.
    pub(super) fn copy_then_settle(
        self: &Arc<Self>,
        held: Held,
        settles: &mut BTreeMap<NodeId, Vec<Settle>>,
        lingers: bool,
    ) {
        let mut later: BTreeMap<NodeId, Vec<Settle>> = BTreeMap::new();
        let ids: HashSet<&MessageId, FixedState> = held.old.iter().map(|old| &old.id).collect();
        for (node, told) in settles.iter_mut() {
            later.insert(*node, told.extract_if(.., |settle| ids.contains(&settle.id)).collect());
        }
        drop(ids);
        later.retain(|_, told| !told.is_empty());
        settles.retain(|_, told| !told.is_empty());
        let leader = self.clone();
        self.tasks.spawn(async move {
            let Held { number, old, guards } = held;
            match leader.read_overtaken(old).await {
                Ok(copied) => leader.saved.add(number, copied),
                Err(why) => leader.give_up_backup(number, why),
            }
            leader.settle(later, lingers);
            drop(guards);
        });
    }

    /// Reads these very versions from those who hold them: all at once from one holder each, then what that one did not
    /// give from the next.
    async fn read_overtaken(&self, old: Vec<Overtaken>) -> Result<Vec<Copied>, String> {
        let (mut left, lost): (Vec<_>, Vec<_>) = old.into_iter().partition(|old| !old.holders.is_empty());
        let nothing = |old: Overtaken| Copied::of(old.id, &old.record, None);
        let mut copied: Vec<Copied> = lost.into_iter().map(nothing).collect();
        let first = self.turn();
        for turn in 0..MAX_TOLERANCE {
            let mut asked: BTreeMap<NodeId, Vec<Overtaken>> = BTreeMap::new();
            for old in left.drain(..) {
                if turn == old.holders.len() {
                    let nodes = name_nodes(&old.holders);
                    return Err(format!("{:?} was overwritten before it could be read from {nodes}", old.id));
                }
                let node = old.holders[(first + turn) % old.holders.len()];
                asked.entry(node).or_default().push(old);
            }
            for (some, others) in join_all(asked.into_iter().map(|(node, old)| self.read_from(node, old))).await {
                copied.extend(some);
                left.extend(others);
            }
            if left.is_empty() {
                return Ok(copied);
            }
        }
        Err("a message was overwritten before it could be read".to_owned())
    }

    /// What one node has of these, and what not.
    async fn read_from(&self, node: NodeId, asked: Vec<Overtaken>) -> (Vec<Copied>, Vec<Overtaken>) {
        let keys: Vec<(MessageId, CopyRecord)> = asked.iter().map(|old| (old.id.clone(), old.record)).collect();
        let answer = timeout(PATIENCE, self.links.fetch(node, &keys)).await.ok().and_then(Result::ok);
        let mut bodies = bodies(answer, keys.len()).into_iter();
        let (mut copied, mut left) = (Vec::with_capacity(asked.len()), Vec::new());
        for old in asked {
            match bodies.next().flatten().filter(|body| old.record.matches(body)) {
                Some(body) => copied.push(Copied::of(old.id, &old.record, Some(body))),
                None => left.push(old),
            }
        }
        (copied, left)
    }

    fn give_up_backup(&self, number: u64, why: String) {
        let mut cluster = self.cluster();
        if self.saved.state().number == number {
            cluster.end_snapshot();
        }
        self.saved.fail(number, why);
    }
}

/// A backup under way; it ends when dropped.
#[derive(Debug)]
pub(super) struct Backup {
    leader: Arc<Coordinator>,
    number: u64,
    /// What it is of.
    pub(super) moment: Moment,
    walked: bool,
    /// Requests of clients by the last step, and how long that took.
    requests: u64,
    took: Duration,
}

impl Drop for Backup {
    fn drop(&mut self) {
        let mut cluster = self.leader.cluster();
        // After a failure the next one may have begun.
        if self.leader.saved.state().number == self.number {
            cluster.end_snapshot();
            self.leader.saved.end();
        }
    }
}

impl Backup {
    /// Fixes the moment; waits a little for what is not known at once.
    pub(super) async fn begin(leader: &Arc<Coordinator>) -> Result<Self, Refusal> {
        let until = leader.joining_until().max(Instant::now() + COMPLETION);
        loop {
            if let Some(number) = leader.saved.forsaken() {
                let why = "its receiver asked for nothing for a minute, and another one was begun";
                leader.give_up_backup(number, why.to_owned());
            }
            let changes = leader.changes();
            let begun = {
                let mut cluster = leader.cluster();
                cluster.begin_snapshot().map(|moment| (moment, leader.saved.begin()))
            };
            match begun {
                Ok((moment, number)) => {
                    leader.served.store(true, Ordering::Relaxed);
                    let leader = leader.clone();
                    return Ok(Self { leader, number, moment, walked: false, requests: 0, took: Duration::ZERO });
                }
                Err(NoMoment::Busy) => {
                    return Err(Refusal::Busy("another backup is under way: wait until it has ended"));
                }
                Err(NoMoment::NotYet(reason)) => leader.wait(changes, until, reason).await?,
            }
        }
    }

    /// The next messages, each once, in no order; none: these were all. What it was given up for is the refusal.
    pub(super) async fn next(&mut self) -> Result<Vec<Copied>, Refusal> {
        self.leader.saved.note_step(self.number, None);
        let step = self.step().await;
        self.leader.saved.note_step(self.number, Some(Instant::now()));
        step
    }

    async fn step(&mut self) -> Result<Vec<Copied>, Refusal> {
        let leader = self.leader.clone();
        loop {
            let changed = leader.saved.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let (saved, awaited) = self.take_saved()?;
            if !saved.is_empty() {
                return Ok(saved);
            }
            if !self.walked {
                self.rest().await;
                let copied = self.walk().await?;
                if !copied.is_empty() {
                    return Ok(copied);
                }
            } else if awaited {
                changed.await;
            } else if leader.cluster().mapping().has_torn_snapshot() {
                return Err(given_up("a message was overwritten before it was read"));
            } else {
                return Ok(Vec::new());
            }
        }
    }

    /// What was overtaken and is read, up to the bounds of a step, and whether more is being read.
    fn take_saved(&self) -> Result<(Vec<Copied>, bool), Refusal> {
        let mut state = self.leader.saved.state();
        if state.number != self.number {
            return Err(given_up("another one has begun"));
        }
        if let Some(why) = &state.failed {
            return Err(given_up(why));
        }
        let (mut some, mut bytes) = (Vec::new(), 0);
        while some.len() < STEP && bytes < STEP_BYTES as usize {
            let Some(copied) = state.ready.pop_front() else { break };
            bytes += copied.message.as_ref().map_or(0, Payload::len);
            some.push(copied);
        }
        state.bytes -= bytes;
        Ok((some, state.awaited > 0))
    }

    /// Leaves time to clients, where there are any.
    async fn rest(&mut self) {
        let requests = self.leader.meters.requests.load(Ordering::Relaxed);
        if requests != self.requests {
            self.requests = requests;
            sleep((self.took * RESTS).min(LONGEST_REST)).await;
        }
    }

    /// Reads the next messages that nobody has overtaken.
    async fn walk(&mut self) -> Result<Vec<Copied>, Refusal> {
        let began = Instant::now();
        let walked = self.leader.cluster().walk_snapshot(STEP, STEP_BYTES);
        self.walked = walked.is_last;
        let bytes: usize = walked.messages.iter().map(|(_, _, record)| record.bytes() as usize).sum();
        let room = loop {
            match self.leader.room(bytes) {
                Some(room) => break room,
                // Clients come first.
                None => sleep(LONGEST_REST).await,
            }
        };
        let gets = walked.messages.iter().enumerate();
        let gets = gets.map(|(at, (_, id, record))| (at, id.clone(), record.bytes() as usize)).collect();
        let replies = self.leader.fetch_apart(gets).await;
        drop(room);
        let sums: Vec<Option<u32>> = replies.iter().map(|(_, reply)| sum(reply)).collect();
        let mut copied = Vec::with_capacity(replies.len());
        let mut cluster = self.leader.cluster();
        for ((at, reply), sum) in replies.into_iter().zip(sums) {
            let (slot, id, record) = &walked.messages[at];
            if let Some(message) = outcome(&mut cluster, *slot, record, reply, sum)? {
                copied.push(Copied::of(id.clone(), record, message));
            }
        }
        drop(cluster);
        self.took = began.elapsed();
        Ok(copied)
    }
}

fn sum(reply: &Reply) -> Option<u32> {
    match reply {
        Reply::Value(payload) => Some(checksum(payload)),
        _ => None,
    }
}

/// What became of a message that was asked for: itself, or that it is lost; nothing if it was overtaken meanwhile.
fn outcome(
    cluster: &mut Cluster,
    slot: Slot,
    record: &CopyRecord,
    reply: Reply,
    sum: Option<u32>,
) -> Result<Option<Option<Payload>>, Refusal> {
    if !cluster.take_slot(slot) {
        return Ok(None);
    }
    match (reply, sum) {
        (Reply::Value(payload), Some(sum)) if record.fits(payload.len() as u64, sum) => Ok(Some(Some(payload))),
        (Reply::Refused(Refusal::Lost(_)), _) => Ok(Some(None)),
        (Reply::Refused(refusal), _) => Err(refusal),
        (other, _) => Err(given_up(&format!("an answer that fits no message: {other:?}"))),
    }
}

fn given_up(why: &str) -> Refusal {
    Refusal::Unavailable(format!("the backup was given up: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_backup_is_forsaken_when_its_receiver_asks_for_nothing() {
        let saved = Saved::default();
        assert_eq!(saved.forsaken(), None, "there is none");
        let number = saved.begin();
        sleep(FORSAKEN - Duration::from_millis(1)).await;
        assert_eq!(saved.forsaken(), None);
        saved.note_step(number, None);
        sleep(FORSAKEN * 2).await;
        assert_eq!(saved.forsaken(), None, "a step takes as long as it takes");
        saved.note_step(number, Some(Instant::now()));
        sleep(FORSAKEN).await;
        assert_eq!(saved.forsaken(), Some(number));
        saved.fail(number, "gone".to_owned());
        assert_eq!(saved.forsaken(), None, "once");
        let next = saved.begin();
        saved.note_step(number, None);
        sleep(FORSAKEN).await;
        assert_eq!(saved.forsaken(), Some(next), "the one before has no say");
    }
}
