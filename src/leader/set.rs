//! The order of a SET and of a DEL is read here, and nowhere else.
//!
//! Admit (version, targets, reservation), copies on as many nodes as tolerance says and beside them a log record, its
//! intent, the index, `OK`. Where the intent does not hold (another node had to take a copy), or there is none, as the
//! copies or the log may be lost with a machine, a log record follows the copies instead. Writes of all connections go
//! together in `rounds`: each step is taken once for the whole round, and each write is decided by itself. An admitted
//! write runs to its decision even if its client has gone.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::backup::Held;
use super::coordinator::{Coordinator, OUTCOME, REQUEST_COST, busy};
use super::jobs::{Job, overwritten};
use super::journal::NotLogged;
use super::key_locks::{Joined, KeyGuard};
use super::ledger::{Effect, Logged};
use super::rounds::Item;
use super::write::{Asker, Askers, Outcome, Promise, Replication, Write};
use crate::cluster::mapping::Committed;
use crate::cluster::notices::Notices;
use crate::cluster::state::{Applied, Event};
use crate::cluster::{Cluster, NotAdmitted, Ticket};
use crate::error::Refusal;
use crate::protocol::Reply;
use crate::seeded::{self, Bug};
use crate::types::{Change, CopyRecord, MessageId, NodeId, Nodes, Version};
use crate::wire::Settle;

/// A larger round is told to the log when its copies are made: one wait more is nothing to so many, and each intent and its
/// end are work for every leader of a group.
const MOST_INTENDED: usize = 256;

/// A write that a client asks for: its place among the requests of a connection, its id, and the message, or nothing
/// if the id is to be deleted.
pub(super) type Wanted = (usize, MessageId, Change);

/// A write that has its turn.
#[derive(Debug)]
pub(super) struct Turn {
    /// Who asked for it.
    pub askers: Askers,
    /// Of which id.
    pub id: MessageId,
    /// What it does to the id.
    pub change: Change,
    /// The right to write it.
    pub guard: KeyGuard,
}

impl Item for Turn {
    fn bytes(&self) -> usize {
        self.change.bytes()
    }
}

impl Coordinator {
    /// Carries out the writes of one connection; gives their replies.
    pub(super) async fn write(self: &Arc<Self>, writes: Vec<Wanted>) -> Vec<(usize, Reply)> {
        if writes.is_empty() {
            return Vec::new();
        }
        let bytes = writes.iter().map(|(_, _, change)| change.bytes() + REQUEST_COST).sum();
        let Some(room) = self.room(bytes) else {
            return writes.into_iter().map(|(at, ..)| (at, busy())).collect();
        };
        let began = Instant::now();
        let mut untold: Vec<usize> = writes.iter().map(|(at, ..)| *at).collect();
        let (replies, mut told) = mpsc::unbounded_channel();
        let mut turns = Vec::with_capacity(writes.len());
        for (at, id, change) in writes {
            let asker = Asker { at, replies: replies.clone() };
            match self.key_locks.join(&id, Job::Write { asker, change }) {
                Joined::Entered(guard, job) => turns.push(overwritten(id, guard, [job])),
                Joined::Wait(turn) => self.wait_for(id, turn),
                Joined::With => {}
            }
        }
        drop(replies);
        self.take_turns(turns);
        let mut all = Vec::with_capacity(untold.len());
        let in_time = timeout_at(began + OUTCOME, async { while told.recv_many(&mut all, untold.len()).await > 0 {} });
        let late = in_time.await.is_err();
        if all.len() < untold.len() {
            untold.retain(|at| all.iter().all(|(told, _)| told != at));
            let unknown =
                if late { not_in_time() } else { Refusal::Unknown("the leader failed while it wrote".to_owned()) };
            all.extend(untold.into_iter().map(|at| (at, Reply::Refused(unknown.clone()))));
        }
        let refused = all.iter().filter(|(_, reply)| matches!(reply, Reply::Refused(_))).count();
        self.meters.sets.record(began.elapsed(), (all.len() - refused) as u64);
        self.meters.sets.error(refused as u64);
        if late {
            // What they take is taken until they are decided.
            tokio::spawn(async move {
                while told.recv().await.is_some() {}
                drop(room);
            });
        }
        all
    }

    pub(super) fn take_turns(self: &Arc<Self>, turns: impl IntoIterator<Item = Turn>) {
        let leader = self.clone();
        self.writes.add(turns, &self.tasks, move |turns| leader.clone().write_round(turns));
    }

    /// The order of a SET, and of a DEL, which writes a tombstone.
    async fn write_round(self: Arc<Self>, turns: Vec<Turn>) {
        let writes = self.admit(turns);
        let intents: Vec<Event> = writes.iter().filter_map(Write::intent).map(Event::Intent).collect();
        let mut logging = pin!(self.log_intents(&intents));
        // Its way is the longer one: it goes first.
        let mut logged = match futures::poll!(logging.as_mut()) {
            Poll::Ready(logged) => Some(logged),
            Poll::Pending => None,
        };
        let mut replication = Replication::start(self.clone(), writes);
        let (mut ends, mut waiting, mut void) = (FuturesUnordered::new(), Vec::new(), Vec::new());
        let mut more = true;
        while more || logged.is_none() || !ends.is_empty() {
            tokio::select! {
                biased;
                Some(open) = ends.next() => void.extend(open),
                now = &mut logging, if logged.is_none() => {
                    ends.push(self.end(std::mem::take(&mut waiting), now.clone()));
                    logged = Some(now);
                }
                decided = replication.decided(), if more => match decided {
                    Some(decided) => {
                        let is_kept = |write: &Write| write.outcome == Outcome::Kept;
                        let (kept, failed): (Vec<_>, Vec<_>) = decided.into_iter().partition(is_kept);
                        void.extend(with_intents(&failed));
                        self.fail(failed);
                        match &logged {
                            Some(logged) => ends.push(self.end(kept, logged.clone())),
                            None => waiting.extend(kept),
                        }
                    }
                    None => more = false,
                },
            }
        }
        if logged.is_some_and(|logged| logged.is_ok()) && !void.is_empty() {
            self.ledger().drop_intents(void);
        }
    }

    /// Has the log hear of writes beside their copies.
    async fn log_intents(self: &Arc<Self>, intents: &[Event]) -> Result<(), NotLogged> {
        if seeded::active(Bug::ConcludedUnlogged) {
            let (leader, intents) = (self.clone(), intents.to_vec());
            tokio::spawn(async move { leader.ledger().append(&intents).await });
            return Ok(());
        }
        if intents.is_empty() { Ok(()) } else { self.ledger().append(intents).await.map(drop) }
    }

    /// Gives each message a version and targets. What cannot be admitted is refused, or waits for nodes that are
    /// still joining after a start.
    fn admit(self: &Arc<Self>, turns: Vec<Turn>) -> Vec<Write> {
        let mut writes = Vec::with_capacity(turns.len());
        let (mut done, mut refused) = (Vec::new(), Vec::new());
        let intends = turns.len() <= MOST_INTENDED && self.ledger().takes_intents();
        let log = self.ledger().refuses();
        let mut changes = self.changes();
        // Not under the lock: a round can have megabytes of messages.
        let records: Vec<Option<CopyRecord>> = turns.iter().map(|turn| turn.change.record()).collect();
        {
            let mut cluster = self.cluster();
            for (turn, record) in turns.into_iter().zip(records) {
                let admitted = match record {
                    _ if log.is_some() => Err(NotAdmitted::NotYet(log.unwrap_or_default().to_owned())),
                    Some(record) => cluster.admit(&turn.id, record).map(Some),
                    None => cluster.admit_deletion(&turn.id),
                };
                match admitted {
                    Ok(Some(ticket)) => {
                        let promise = Promise::new(self.clone(), ticket);
                        let payload = turn.change.into_payload();
                        let mut write = Write::new(turn.askers, promise, payload, turn.guard, cluster.tolerance());
                        if intends && cluster.takes_intent(write.promise.ticket()) {
                            write.intend();
                        }
                        writes.push(write);
                    }
                    Ok(None) => done.extend(turn.askers),
                    Err(reason) => refused.push((turn, reason)),
                }
            }
        }
        if !done.is_empty() {
            self.served.store(true, Ordering::Relaxed);
            done.into_iter().for_each(|asker| asker.tell(Reply::Done));
        }
        if !refused.is_empty() {
            let leader = self.clone();
            self.tasks.spawn(async move {
                if leader.changed(&mut changes, leader.joining_until()).await {
                    leader.take_turns(refused.into_iter().map(|(turn, _)| turn));
                } else {
                    for (turn, why) in refused {
                        let reply = Reply::Refused(leader.refusal(why));
                        turn.askers.into_iter().for_each(|asker| asker.tell(reply.clone()));
                    }
                }
            });
        }
        writes
    }

    /// Says why writes failed.
    fn fail(&self, failed: Vec<Write>) {
        self.note_in_doubt(&failed);
        for mut write in failed {
            if !write.askers.is_empty() {
                let reply = Reply::Refused(self.why(&write));
                write.askers.drain(..).for_each(|asker| asker.tell(reply.clone()));
            }
        }
    }

    /// Commits what is kept. `logged`: whether the log has their intents. Gives the versions of those that have no end.
    async fn end(self: &Arc<Self>, kept: Vec<Write>, logged: Result<(), NotLogged>) -> Vec<Version> {
        let (intended, kept): (Vec<_>, Vec<_>) = kept.into_iter().partition(|write| match logged {
            Ok(()) => write.is_as_intended(),
            Err(_) => write.intent.is_some(),
        });
        match logged {
            Ok(()) => self.come_true(intended),
            Err(error) => self.not_logged(intended, error.to_string()),
        }
        let open = with_intents(&kept);
        // An error was told to those who asked.
        self.commit(kept).await.map_or(open, |()| Vec::new())
    }

    /// Makes writes true in the index whose intents the log has, and that are kept as those say.
    fn come_true(self: &Arc<Self>, mut writes: Vec<Write>) {
        if writes.is_empty() {
            return;
        }
        let events: Vec<Event> = writes.iter().map(Write::commit).map(Event::Commit).collect();
        let askers: Vec<Asker> = writes.iter_mut().flat_map(|write| write.askers.drain(..)).collect();
        let publish = Publish { leader: self.clone(), writes };
        let concluded = self.ledger().conclude(&events, publish).map(|published| self.published(published));
        let ended = || "this leader does not lead any more".to_owned();
        // An error was told to those who asked.
        let _ = self.told(askers, concluded.map_err(|publish| (publish.writes, ended())));
    }

    /// Nobody knows what becomes of these, as the log may have their intents or not.
    fn not_logged(&self, mut writes: Vec<Write>, error: String) {
        let askers: Vec<Asker> = writes.iter_mut().flat_map(|write| write.askers.drain(..)).collect();
        // An error was told to those who asked.
        let _ = self.told(askers, Err((writes, error)));
    }

    /// Tells those who asked what became of their writes: they are true, or nobody knows, and these may have left copies.
    fn told(&self, askers: Vec<Asker>, outcome: Result<(), (Vec<Write>, String)>) -> Result<(), Refusal> {
        let result = match outcome {
            Ok(()) => {
                self.served.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err((writes, error)) => {
                self.note_in_doubt(&writes);
                Err(Refusal::Unknown(error))
            }
        };
        let reply = result.clone().map_or_else(Reply::Refused, |()| Reply::Done);
        askers.into_iter().for_each(|asker| asker.tell(reply.clone()));
        result
    }

    /// Makes writes true that are kept on enough nodes: first in the log, then in the index.
    pub(super) async fn commit(self: &Arc<Self>, mut writes: Vec<Write>) -> Result<(), Refusal> {
        if writes.is_empty() {
            return Ok(());
        }
        let events: Vec<Event> = writes.iter().map(Write::commit).map(Event::Commit).collect();
        let askers: Vec<Asker> = writes.iter_mut().flat_map(|write| write.askers.drain(..)).collect();
        let outcome = self.make_writes_true(writes, &events).await;
        self.told(askers, outcome)
    }

    /// Remembers where writes that did not become true may have left copies.
    pub(super) fn note_in_doubt(&self, writes: &[Write]) {
        if !writes.is_empty() {
            let mut cluster = self.cluster();
            writes.iter().for_each(|write| cluster.note_in_doubt(write.promise.ticket(), write.tally.refused()));
        }
    }

    /// Makes writes true by these commits of theirs, and tells those nodes that have something to publish or to let go.
    /// They are given back with the reason where the log may not have them.
    pub(super) async fn make_writes_true(
        self: &Arc<Self>,
        writes: Vec<Write>,
        events: &[Event],
    ) -> Result<(), (Vec<Write>, String)> {
        let publish = Publish { leader: self.clone(), writes };
        let logged = self.ledger().append_with(events, publish).await;
        self.published(logged.map_err(|(error, publish)| (publish.writes, error.to_string()))?);
        Ok(())
    }

    /// Writes have become true: nodes and the view hear of it.
    fn published(self: &Arc<Self>, told: ToTell) {
        let ToTell { mut settles, changes, held, deletes, guards } = told;
        if !held.is_empty() {
            self.copy_then_settle(held, &mut settles, !deletes);
        }
        // What was deleted is to be gone from nodes too, for those who ask them.
        self.settle(settles, !deletes);
        self.view.add(changes);
        drop(guards);
    }

    /// Tells nodes what to publish and what to let go, at once or, if it lingers, with the next copies. Nobody waits for
    /// it; what a node could not do is excess.
    pub(super) fn settle(self: &Arc<Self>, settles: BTreeMap<NodeId, Vec<Settle>>, lingers: bool) {
        for (node, settles) in settles {
            let (leader, answer) = (self.clone(), self.links.settle(node, &settles, lingers));
            tokio::spawn(async move { leader.note_undone(node, &settles, &answer.await.unwrap_or_default()) });
        }
    }

    /// Notes what a node was told and did not do, or did not say that it did; gives the ids.
    pub(super) fn note_undone(&self, node: NodeId, told: &[Settle], done: &[bool]) -> Vec<MessageId> {
        let undone = told.iter().enumerate().filter(|(i, _)| done.get(*i) != Some(&true));
        let undone: Vec<&Settle> = undone.map(|(_, told)| told).collect();
        if !undone.is_empty() {
            let mut cluster = self.cluster();
            undone.iter().for_each(|told| cluster.note_undone(&told.id, told.version, node));
        }
        undone.into_iter().map(|told| told.id.clone()).collect()
    }

    /// How a client hears why its write was not admitted.
    pub(super) fn refusal(&self, reason: NotAdmitted) -> Refusal {
        match reason {
            NotAdmitted::TooFewNodes { need, .. } => {
                Refusal::TooFewNodes(self.cluster().registry.shortage(need).to_string())
            }
            NotAdmitted::NotYet(reason) => {
                Refusal::Unavailable(format!("{reason}; nothing was written, try again later"))
            }
        }
    }

    /// Takes back the promises of a write that did not become true.
    pub(super) fn release(&self, ticket: &Ticket) {
        self.cluster().release(ticket);
    }
}

/// Writes that become true as soon as the log has their commits.
struct Publish {
    leader: Arc<Coordinator>,
    writes: Vec<Write>,
}

/// What nodes, the view and a backup are told of writes that became true.
#[derive(Default)]
struct ToTell {
    settles: BTreeMap<NodeId, Vec<Settle>>,
    /// Ids whose lines in the view change.
    changes: Vec<MessageId>,
    held: Held,
    /// Whether there are deletions among them.
    deletes: bool,
    /// Held until nodes are told, so that the next write of an id tells them later.
    guards: Vec<KeyGuard>,
}

impl Effect for Publish {
    type Output = ToTell;

    /// Messages are copied ahead of the lock, and found as soon as the index names their versions.
    fn ahead(&self, events: &[Event]) {
        for (write, commit) in self.writes.iter().zip(events.iter().flat_map(Event::commits)) {
            let record = commit.record;
            if !record.is_tombstone() && write.payload.len() == record.bytes() as usize {
                self.leader.cache.renew(&commit.id, record.version, &write.payload);
            }
        }
    }

    fn apply(mut self, cluster: &mut Cluster, logged: Logged<'_>) -> ToTell {
        let tickets: Vec<Ticket> = self.writes.iter_mut().map(|write| write.promise.keep()).collect();
        tickets.iter().for_each(|ticket| cluster.release(ticket));
        let events = logged.events();
        let committed: Vec<Committed> = logged.apply(cluster).into_iter().flat_map(Applied::committed).collect();
        let commits = events.iter().flat_map(Event::commits);
        let mut overtaken = cluster.take_overtaken().into_iter().peekable();
        let mut tell = ToTell { guards: Vec::with_capacity(self.writes.len()), ..ToTell::default() };
        for (((write, ticket), commit), did) in self.writes.into_iter().zip(&tickets).zip(commits).zip(committed) {
            let (id, record) = (&commit.id, commit.record);
            let excess: Nodes = write.tally.excess().collect();
            let notices = Notices::of(commit, &did, &write.asked(&excess));
            for (node, keep) in notices.told {
                let (id, version) = (id.clone(), record.version);
                let settle = Settle { id, version, keep, trash: write.purpose.trims(), lasting: false };
                tell.settles.entry(node).or_default().push(settle);
            }
            tell.deletes |= record.is_tombstone();
            if did == Committed::Superseded {
                continue;
            }
            notices.excess.iter().for_each(|&node| cluster.note_excess(id, record.version, node));
            notices.made.iter().for_each(|&node| cluster.note_copy(id, record.version, node, true));
            tell.changes.extend(notices.is_listed_anew.then(|| id.clone()));
            cluster.note_left_over(ticket, &commit.holders);
            match overtaken.next_if(|old| old.id == commit.id) {
                Some(old) => tell.held.push(old, write.guard),
                None => tell.guards.push(write.guard),
            }
        }
        if !tell.held.is_empty() {
            self.leader.expect_held(cluster, &mut tell.held);
        }
        tell
    }
}

/// The versions of those of which the log hears beside their copies.
fn with_intents(writes: &[Write]) -> Vec<Version> {
    let intended = writes.iter().filter(|write| write.intent.is_some());
    intended.map(|write| write.promise.ticket().record.version).collect()
}

/// How a client hears that the outcome of its write did not come in time.
pub(super) fn not_in_time() -> Refusal {
    Refusal::Unknown(format!("no outcome within {} s", OUTCOME.as_secs()))
}
