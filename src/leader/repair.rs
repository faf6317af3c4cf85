//! The register heals itself: copies are made again, moved and trimmed, within a budget.
//!
//! What has to be done is decided by the cluster, anew for each message under the pass of its id, so that no
//! write comes between the decision and the log record that makes it true. A message keeps its version; only
//! its holders change. Nothing that can be read is let go of before those copies that stay were read and checked.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foldhash::fast::FixedState;
use futures::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use super::coordinator::{Coordinator, OUTCOME};
use super::every;
use super::key_locks::{Entry, KeyGuard};
use super::proof::Proofs;
use super::recovery::Fetch;
use super::set::not_in_time;
use super::write::{Askers, Outcome, Promise, Purpose, Write};
use crate::cluster::Cluster;
use crate::cluster::mapping::SHARDS;
use crate::cluster::repair::{Repair, Trim};
use crate::cluster::state::Event;
use crate::error::{Refusal, name_nodes};
use crate::lock::Lock;
use crate::protocol::{Command, Reply};
use crate::seeded::{self, Bug};
use crate::telemetry::repeats::Repeats;
use crate::types::{CopyRecord, MessageId, NodeId, Payload, RepairView};
use crate::wire::family::CopyStatus;
use crate::wire::{BATCH_ITEMS, Settle};

/// How often it is looked whether anything is to be done.
const LOOK: Duration = Duration::from_millis(200);

/// Messages under way at once: so few that a client's request never waits for many of them.
const BATCH: usize = 64;

/// Bytes of messages under way at once; one message at least.
const BATCH_BYTES: u64 = 1 << 20;

/// The most that repair moves in a second, in bytes: half of what a gigabit link carries.
const BYTES_PER_S: u64 = 64 << 20;

/// What could not be done is tried again after this.
const RETRY: Duration = Duration::from_secs(2);

/// A copy that is not read or checked by then is not counted on.
const ANSWER: Duration = Duration::from_secs(5);

type Ids = HashSet<MessageId, FixedState>;

/// How far the present wave of repairs is.
#[derive(Debug, Default)]
pub(super) struct Progress {
    done: AtomicU64,
    /// When the wave began, if there is one.
    since: Lock<Option<Instant>>,
}

impl Progress {
    fn note(&self, done: u64) {
        self.since.lock().get_or_insert_with(Instant::now);
        self.done.fetch_add(done, Ordering::Relaxed);
    }

    /// Nothing is left to do; gives how much was done, and in what time.
    fn end(&self) -> Option<(u64, Duration)> {
        let since = self.since.lock().take()?;
        Some((self.done.swap(0, Ordering::Relaxed), since.elapsed()))
    }

    /// Adds what was done, the rate and the time that the rest will take.
    pub(super) fn add_to(&self, mut view: RepairView) -> RepairView {
        let Some(since) = *self.since.lock() else { return view };
        view.done = self.done.load(Ordering::Relaxed);
        let tenths = |x: f64| (x * 10.0).round() / 10.0;
        let seconds = since.elapsed().as_secs_f64();
        if seconds > 0.0 && view.done > 0 {
            let rate = view.done as f64 / seconds;
            (view.per_s, view.eta_s) = (tenths(rate), Some(tenths(view.pending as f64 / rate)));
        }
        view
    }
}

/// What the repair remembers between its batches.
#[derive(Default)]
struct Round {
    /// Where the last look at the index ended.
    part: usize,
    /// What could not be done, and is left alone for a while.
    skip: Ids,
    /// When to forget that.
    retry: Option<Instant>,
    /// Requests of clients when the last batch ended.
    requests: u64,
    /// When stuck messages were last looked for.
    named: Option<Instant>,
    /// Draining nodes that hold nothing.
    empty: BTreeSet<NodeId>,
    proofs: Proofs,
    /// Of how many ids nodes were told again, since that was last said.
    told: BTreeMap<NodeId, u64>,
    said: Repeats,
}

impl Coordinator {
    /// Repairs for as long as the leader lives.
    pub(super) async fn repair(self: Arc<Self>) {
        let mut look = every(LOOK);
        let mut round = Round::default();
        while self.stop.unless(look.tick()).await.is_some() {
            if round.retry.is_some_and(|at| Instant::now() >= at) {
                (round.skip, round.retry) = (Ids::default(), None);
            }
            self.rebalance_by_itself();
            while !self.stop.is_requested() {
                let began = Instant::now();
                let Some(bytes) = self.repair_some(&mut round).await else { break };
                self.pause(&mut round, began, bytes).await;
            }
            self.cluster().quiet_alarms();
            self.tell_told(&mut round);
            self.tell_empty(&mut round);
            if round.skip.is_empty() {
                self.wave_ends();
            } else {
                round.retry.get_or_insert_with(|| Instant::now() + RETRY);
            }
            if round.named.is_none_or(|at| at.elapsed() >= RETRY) {
                self.prove_some(&mut round.proofs).await;
                self.name_stuck();
                round.named = Some(Instant::now());
            }
        }
    }

    /// Says of how many ids nodes were told, once that is over: a line a node, and no more than one a minute.
    fn tell_told(&self, round: &mut Round) {
        let Round { told, said, .. } = round;
        told.retain(|node, count| {
            if said.note(&node.to_string(), self.now()).is_none() {
                return true;
            }
            tracing::info!(
                "node {node} had copies of {count} ids that are outdated, or more than the tolerance asks for: the messages have theirs, and these are in its trash, or gone"
            );
            false
        });
    }

    /// Leaves nodes to clients for as long as the batch took, if there are any, and keeps to the bytes a second.
    async fn pause(&self, round: &mut Round, began: Instant, bytes: u64) {
        let requests = self.meters.requests.load(Ordering::Relaxed);
        let took = began.elapsed();
        let share = if std::mem::replace(&mut round.requests, requests) == requests { Duration::ZERO } else { took };
        let least = Duration::from_secs_f64(bytes as f64 / BYTES_PER_S as f64);
        self.stop.unless(sleep(share.max(least.saturating_sub(took)))).await;
    }

    fn wave_ends(&self) {
        if let Some((done, took)) = self.repair_progress.end() {
            tracing::info!(
                "repair is done: the copies of {done} messages were put right in {:.1} s",
                took.as_secs_f64()
            );
        }
        let mut cluster = self.cluster();
        if cluster.rebalancing_ends() {
            let full = cluster.full_nodes();
            drop(cluster);
            match full.is_empty() {
                true => tracing::info!("the copies are even"),
                false => tracing::info!(
                    "the copies are as even as they can be: {} {}",
                    name_nodes(&full),
                    if full.len() == 1 { "is full" } else { "are full" }
                ),
            }
        }
    }

    fn rebalance_by_itself(&self) {
        let poor = self.cluster().rebalancing_begins(self.now());
        if let Some(node) = poor {
            tracing::info!(
                "node {node} has held less than half of its share for long: copies are evened out (--auto-rebalance; REBALANCE STOP ends it)"
            );
        }
    }

    /// Says of each node that is being drained when nothing is left on it.
    fn tell_empty(&self, round: &mut Round) {
        let cluster = self.cluster();
        let draining = cluster.registry.nodes().iter().filter(|node| node.draining).map(|node| node.member.id);
        let empty: BTreeSet<NodeId> = draining.filter(|node| cluster.is_empty_node(*node)).collect();
        drop(cluster);
        for node in empty.difference(&round.empty) {
            tracing::info!("node {node} is drained: it holds nothing any more, and can be stopped");
        }
        round.empty = empty;
    }

    /// Finds some ids of each kind of stuck messages, for reports.
    fn name_stuck(&self) {
        // The lock is let go between two parts, so that no request waits for all of them.
        (0..SHARDS).any(|part| self.cluster().name_stuck(part));
    }

    /// One batch of the most pressing work; gives its bytes, or nothing if there was nothing to do.
    async fn repair_some(self: &Arc<Self>, round: &mut Round) -> Option<u64> {
        let ids = self.cluster().rescuable(BATCH, &round.skip);
        if !ids.is_empty() {
            return Some(self.step(round, ids, |cluster, id| cluster.admit_repair(id)).await);
        }
        let urgency = self.cluster().most_urgent();
        if let Some(urgency) = urgency {
            let ids = self.search(round, |cluster, part, skip| cluster.urgent(part, urgency, BATCH, skip));
            if !ids.is_empty() {
                return Some(self.step(round, ids, |cluster, id| cluster.admit_repair(id)).await);
            }
        }
        let ids = self.cluster().excess(BATCH_ITEMS, &round.skip);
        if !ids.is_empty() {
            self.trim(round, ids).await;
            return Some(0);
        }
        let uneven = { Some(self.cluster()).filter(|cluster| cluster.is_rebalancing()).and_then(|c| c.uneven()) };
        let way = uneven?;
        let ids = self.search(round, |cluster, part, skip| cluster.movable(part, way, BATCH, skip));
        if ids.is_empty() {
            return None;
        }
        Some(self.step(round, ids, |cluster, id| cluster.admit_move(id, way)).await)
    }

    /// Goes on through the index until some part has something.
    fn search(&self, round: &mut Round, look: impl Fn(&Cluster, usize, &Ids) -> Vec<MessageId>) -> Vec<MessageId> {
        for _ in 0..SHARDS {
            let ids = look(&self.cluster(), round.part, &round.skip);
            if !ids.is_empty() {
                return ids;
            }
            round.part = (round.part + 1) % SHARDS;
        }
        Vec::new()
    }

    /// Takes a step for each of these messages; gives the bytes that were under way.
    async fn step(
        self: &Arc<Self>,
        round: &mut Round,
        ids: Vec<MessageId>,
        admit: impl Fn(&mut Cluster, &MessageId) -> Option<Repair>,
    ) -> u64 {
        let mut writes = Vec::new();
        let mut wanted = Vec::new();
        let mut bytes = 0;
        for id in ids {
            if bytes >= BATCH_BYTES {
                break;
            }
            // Whoever writes it now gives it a new version and new holders. If not, it is here again later.
            let Entry::Entered(guard) = self.key_locks.enter(&id) else {
                round.skip.insert(id);
                continue;
            };
            let Some(repair) = admit(&mut self.cluster(), &id) else {
                round.skip.insert(id);
                continue;
            };
            let record = repair.ticket.record;
            let copies = repair.ticket.targets.len() - repair.keep.len();
            if copies > 0 && !record.is_tombstone() {
                bytes += u64::from(record.bytes()) * copies as u64;
                let sources = repair.sources.clone();
                wanted.push(Fetch { write: writes.len(), version: record.version, sources });
            }
            writes.push(self.plan_repair(repair, guard));
        }
        let tried: Vec<MessageId> = writes.iter().map(|write| write.promise.ticket().id.clone()).collect();
        self.check_stays(&mut writes).await;
        let none_here = |cluster: &mut Cluster, id: &_, version, node| cluster.note_copy(id, version, node, false);
        self.fetch_bodies(wanted, &mut writes, none_here).await;
        // Of those that failed already nothing was sent to anybody.
        writes.retain(|write| write.outcome != Outcome::Failed);
        let decided = self.replicate(writes).await;
        let (kept, failed): (Vec<_>, Vec<_>) = decided.into_iter().partition(|write| write.outcome == Outcome::Kept);
        self.note_in_doubt(&failed);
        let done: HashSet<MessageId> = kept.iter().map(|write| write.promise.ticket().id.clone()).collect();
        let committed = self.commit(kept).await.is_ok();
        if committed {
            self.repair_progress.note(done.len() as u64);
        }
        round.skip.extend(tried.into_iter().filter(|id| !committed || !done.contains(id)));
        bytes
    }

    fn plan_repair(self: &Arc<Self>, repair: Repair, guard: KeyGuard) -> Write {
        let Repair { ticket, keep, also, trims, .. } = repair;
        let need = ticket.targets.len();
        let mut write = Write::new(Askers::new(), Promise::new(self.clone(), ticket), Payload::new(), guard, need);
        write.purpose = Purpose::Repair { sources: keep, also, trims };
        write
    }

    /// Where copies are to go, reads those that stay; a write whose copies cannot all be read fails.
    async fn check_stays(&self, writes: &mut [Write]) {
        let checks = writes.iter().enumerate().filter(|(_, write)| write.purpose.trims());
        let checks = checks.flat_map(|(i, write)| {
            let ticket = write.promise.ticket();
            write.purpose.sources().iter().map(move |&node| (i, node, ticket.id.clone(), ticket.record))
        });
        let checks: Vec<_> = checks.collect();
        for (i, intact) in self.check(checks).await {
            if !intact {
                writes[i].outcome = Outcome::Failed;
            }
        }
    }

    /// Reads copies without their content, and notes bad ones; for each, whether it surely is intact.
    async fn check(&self, checks: Vec<(usize, NodeId, MessageId, CopyRecord)>) -> Vec<(usize, bool)> {
        let mut by_node: BTreeMap<NodeId, Vec<(usize, MessageId, CopyRecord)>> = BTreeMap::new();
        for (i, node, id, record) in checks {
            by_node.entry(node).or_default().push((i, id, record));
        }
        let each = by_node.into_iter().map(|(node, members)| async move {
            let keys: Vec<_> = members.iter().map(|(_, id, record)| (id.clone(), *record)).collect();
            let statuses = self.check_copies(node, &keys).await;
            members.iter().zip(statuses).map(|((i, ..), status)| (*i, status == CopyStatus::CopyStored)).collect()
        });
        let all: Vec<Vec<(usize, bool)>> = join_all(each).await;
        all.concat()
    }

    /// Has one node check copies, and notes what it says; one status for each, `CopyUnknown` where it said nothing.
    pub(super) async fn check_copies(&self, node: NodeId, keys: &[(MessageId, CopyRecord)]) -> Vec<CopyStatus> {
        let answer = timeout(ANSWER, self.links.check(node, keys)).await.ok().and_then(Result::ok).unwrap_or_default();
        let status = |k: usize| answer.statuses.get(k).and_then(|&status| CopyStatus::try_from(status).ok());
        let statuses: Vec<_> = (0..keys.len()).map(|k| status(k).unwrap_or(CopyStatus::CopyUnknown)).collect();
        let mut cluster = self.cluster();
        for ((id, record), status) in keys.iter().zip(&statuses) {
            match status {
                CopyStatus::CopyStored => cluster.note_copy(id, record.version, node, true),
                CopyStatus::CopyAbsent | CopyStatus::CopyDamaged => {
                    cluster.note_copy(id, record.version, node, false);
                }
                _ => {}
            }
        }
        statuses
    }

    // ---- orders ------------------------------------------------------------

    /// Carries out what an operator asks for. It is in the log before it is answered, except for evening out,
    /// which ends with the leader.
    pub(super) async fn order(self: &Arc<Self>, command: Command) -> Reply {
        let done = match command {
            Command::Drain(node) => self.drain(node, true).await,
            Command::Undrain(node) => self.drain(node, false).await,
            Command::Remove { node, force } => self.remove(node, force).await,
            Command::Rebalance(on) => {
                self.cluster().set_rebalancing(on);
                Ok(())
            }
            Command::Verify => {
                let text =
                    "VERIFY is answered with many lines, which are not to be had this way: use the text protocol";
                Err(Refusal::BadCommand(text.to_owned()))
            }
            other => Err(Refusal::BadCommand(format!("{other:?} is no order"))),
        };
        done.map_or_else(Reply::Refused, |()| Reply::Done)
    }

    async fn drain(self: &Arc<Self>, node: NodeId, on: bool) -> Result<(), Refusal> {
        {
            let cluster = self.cluster();
            let Some(member) = cluster.registry.get(node) else {
                return Err(no_member(&cluster, node));
            };
            let (need, live) = (cluster.tolerance(), cluster.left_without(node));
            if on && !member.draining && live < need {
                return Err(Refusal::TooFewNodes(format!(
                    "need {need} live nodes, and {live} would be left; nothing was changed, start more nodes and try again"
                )));
            }
            if member.draining == on {
                return Ok(());
            }
        }
        let leader = self.clone();
        // It is carried out even if its client has gone, or its answer comes too late.
        let order = self.tasks.spawn(async move {
            let logged = leader.make_true(&[Event::Draining { node, on }]).await;
            logged.map_err(|error| Refusal::Unknown(error.to_string()))?;
            match on {
                true => tracing::info!("node {node} is being drained: its copies move to others"),
                false => tracing::info!("node {node} takes copies again"),
            }
            Ok(())
        });
        match timeout(OUTCOME, order).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err(Refusal::Unknown("the leader failed while it wrote".to_owned())),
            Err(_) => Err(not_in_time()),
        }
    }

    // ---- excess -----------------------------------------------------------

    /// Has nodes put away copies that are too old or too many, where enough others have proved that they have theirs.
    async fn trim(&self, round: &mut Round, ids: Vec<MessageId>) {
        let mut trims: Vec<(MessageId, Trim, KeyGuard)> = Vec::new();
        for id in ids {
            let Entry::Entered(guard) = self.key_locks.enter(&id) else {
                round.skip.insert(id);
                continue;
            };
            let trim = self.cluster().trim(&id);
            match trim {
                Some(trim) => trims.push((id, trim, guard)),
                None => drop(round.skip.insert(id)),
            }
        }
        let checks = trims.iter().enumerate().flat_map(|(i, (id, trim, _))| {
            trim.committed
                .into_iter()
                .flat_map(move |record| trim.check.iter().map(move |&node| (i, node, id.clone(), record)))
        });
        let checks: Vec<_> = checks.collect();
        let failed: HashSet<usize> =
            self.check(checks).await.into_iter().filter(|(_, intact)| !intact).map(|(i, _)| i).collect();
        let mut settles: BTreeMap<NodeId, Vec<Settle>> = BTreeMap::new();
        let mut guards = Vec::with_capacity(trims.len());
        for (i, (id, trim, guard)) in trims.into_iter().enumerate() {
            guards.push(guard);
            if failed.contains(&i) && !seeded::active(Bug::TrimmedUnchecked) {
                round.skip.insert(id);
                continue;
            }
            for (node, version, keep) in trim.settles {
                let settle = Settle { id: id.clone(), version, keep, trash: true, lasting: false };
                settles.entry(node).or_default().push(settle);
            }
            self.cluster().trimmed(&id, &trim.copies);
        }
        let told = settles.into_iter().map(|(node, settles)| {
            *round.told.entry(node).or_default() += settles.len() as u64;
            (node, self.links.settle(node, &settles, false), settles)
        });
        let told: Vec<_> = told.collect();
        // On their way before the next write of these ids: its copy would be staged beside what then goes, and nobody
        // would tell the node to publish it.
        drop(guards);
        for (node, answer, settles) in told {
            let done = timeout(ANSWER, answer).await.ok().and_then(Result::ok);
            round.skip.extend(self.note_undone(node, &settles, &done.unwrap_or_default()));
        }
    }
}

/// An order named a node that is none.
pub(super) fn no_member(cluster: &Cluster, node: NodeId) -> Refusal {
    let members: Vec<NodeId> = cluster.registry.nodes().iter().map(|node| node.member.id).collect();
    let known = if members.is_empty() { "none has joined".to_owned() } else { name_nodes(&members) };
    Refusal::BadCommand(format!("there is no node {node}; members: {known}"))
}
