//! The register heals itself: copies are made again, moved and trimmed, within a budget.
//!
//! What has to be done is decided by the cluster, anew for each message under the lock of its id, so that no
//! write comes between the decision and the log record that makes it true. A message keeps its version; only
//! its holders change. Nothing that can be read is let go of before those copies that stay were read and checked.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foldhash::fast::FixedState;
use futures::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use super::Upkeep;
use super::fetch::Fetch;
use super::proof::Proofs;
use crate::cluster::Cluster;
use crate::cluster::mapping::SHARDS;
use crate::cluster::repair::Repair;
use crate::error::name_nodes;
use crate::leader::coordinator::Coordinator;
use crate::leader::key_locks::{Entry, KeyGuard};
use crate::leader::write::{Askers, Outcome, Promise, Purpose, Write};
use crate::lock::Lock;
use crate::telemetry::repeats::Repeats;
use crate::types::{CopyRecord, MessageId, NodeId, Payload, RepairView};
use crate::wire::BATCH_ITEMS;
use crate::wire::family::CopyStatus;

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
pub(super) const ANSWER: Duration = Duration::from_secs(5);

type Ids = HashSet<MessageId, FixedState>;

/// How far the present wave of repairs is.
#[derive(Debug, Default)]
pub(in crate::leader) struct Progress {
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
    pub(in crate::leader) fn add_to(&self, mut view: RepairView) -> RepairView {
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

/// Makes copies again, moves and trims them.
pub(super) struct Repairer {
    pub(super) core: Arc<Coordinator>,
    /// Where the last look at the index ended.
    part: usize,
    /// What could not be done, and is left alone for a while.
    pub(super) skip: Ids,
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
    pub(super) told: BTreeMap<NodeId, u64>,
    said: Repeats,
}

impl Upkeep for Repairer {
    const NAME: &'static str = "repair";

    async fn step(&mut self) -> Duration {
        if self.retry.is_some_and(|at| Instant::now() >= at) {
            (self.skip, self.retry) = (Ids::default(), None);
        }
        self.rebalance_by_itself();
        while !self.core.stop.is_requested() {
            let began = Instant::now();
            let Some(bytes) = self.repair_some().await else { break };
            self.pause(began, bytes).await;
        }
        self.core.cluster().quiet_alarms();
        self.tell_told();
        self.tell_empty();
        if self.skip.is_empty() {
            self.wave_ends();
        } else {
            self.retry.get_or_insert_with(|| Instant::now() + RETRY);
        }
        if self.named.is_none_or(|at| at.elapsed() >= RETRY) {
            self.proofs.ask_for_some(&self.core).await;
            self.name_stuck();
            self.named = Some(Instant::now());
        }
        LOOK
    }
}

impl Repairer {
    pub(super) fn new(core: Arc<Coordinator>) -> Self {
        Self {
            core,
            part: 0,
            skip: Ids::default(),
            retry: None,
            requests: 0,
            named: None,
            empty: BTreeSet::new(),
            proofs: Proofs::default(),
            told: BTreeMap::new(),
            said: Repeats::default(),
        }
    }

    /// Says of how many ids nodes were told, once that is over: a line a node, and no more than one a minute.
    fn tell_told(&mut self) {
        let Self { core, told, said, .. } = self;
        told.retain(|node, count| {
            if said.note(&node.to_string(), core.now()).is_none() {
                return true;
            }
            tracing::info!(
                "node {node} had copies of {count} ids that are outdated, or more than the tolerance asks for: the messages have theirs, and these are in its trash, or gone"
            );
            false
        });
    }

    /// Leaves nodes to clients for as long as the batch took, if there are any, and keeps to the bytes a second.
    async fn pause(&mut self, began: Instant, bytes: u64) {
        let requests = self.core.meters.requests.load(Ordering::Relaxed);
        let took = began.elapsed();
        let share = if std::mem::replace(&mut self.requests, requests) == requests { Duration::ZERO } else { took };
        let least = Duration::from_secs_f64(bytes as f64 / BYTES_PER_S as f64);
        self.core.stop.unless(sleep(share.max(least.saturating_sub(took)))).await;
    }

    fn wave_ends(&self) {
        if let Some((done, took)) = self.core.repair_progress.end() {
            tracing::info!(
                "repair is done: the copies of {done} messages were put right in {:.1} s",
                took.as_secs_f64()
            );
        }
        let mut cluster = self.core.cluster();
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
        let poor = self.core.cluster().rebalancing_begins(self.core.now());
        if let Some(node) = poor {
            tracing::info!(
                "node {node} has held less than half of its share for long: copies are evened out (--auto-rebalance; REBALANCE STOP ends it)"
            );
        }
    }

    /// Says of each node that is being drained when nothing is left on it.
    fn tell_empty(&mut self) {
        let cluster = self.core.cluster();
        let draining = cluster.registry.nodes().iter().filter(|node| node.draining).map(|node| node.member.id);
        let empty: BTreeSet<NodeId> = draining.filter(|node| cluster.is_empty_node(*node)).collect();
        drop(cluster);
        for node in empty.difference(&self.empty) {
            tracing::info!("node {node} is drained: it holds nothing any more, and can be stopped");
        }
        self.empty = empty;
    }

    /// Finds some ids of each kind of stuck messages, for reports.
    fn name_stuck(&self) {
        // The lock is let go between two parts, so that no request waits for all of them.
        (0..SHARDS).any(|part| self.core.cluster().name_stuck(part));
    }

    /// One batch of the most pressing work; gives its bytes, or nothing if there was nothing to do.
    async fn repair_some(&mut self) -> Option<u64> {
        let ids = self.core.cluster().rescuable(BATCH, &self.skip);
        if !ids.is_empty() {
            return Some(self.take_steps(ids, |cluster, id| cluster.admit_repair(id)).await);
        }
        let urgency = self.core.cluster().most_urgent();
        if let Some(urgency) = urgency {
            let ids = self.search(|cluster, part, skip| cluster.urgent(part, urgency, BATCH, skip));
            if !ids.is_empty() {
                return Some(self.take_steps(ids, |cluster, id| cluster.admit_repair(id)).await);
            }
        }
        let ids = self.core.cluster().excess(BATCH_ITEMS, &self.skip);
        if !ids.is_empty() {
            self.trim(ids).await;
            return Some(0);
        }
        let uneven = { Some(self.core.cluster()).filter(|cluster| cluster.is_rebalancing()).and_then(|c| c.uneven()) };
        let way = uneven?;
        let ids = self.search(|cluster, part, skip| cluster.movable(part, way, BATCH, skip));
        if ids.is_empty() {
            return None;
        }
        Some(self.take_steps(ids, |cluster, id| cluster.admit_move(id, way)).await)
    }

    /// Goes on through the index until some part has something.
    fn search(&mut self, look: impl Fn(&Cluster, usize, &Ids) -> Vec<MessageId>) -> Vec<MessageId> {
        for _ in 0..SHARDS {
            let ids = look(&self.core.cluster(), self.part, &self.skip);
            if !ids.is_empty() {
                return ids;
            }
            self.part = (self.part + 1) % SHARDS;
        }
        Vec::new()
    }

    /// Takes a step for each of these messages; gives the bytes that were under way.
    async fn take_steps(
        &mut self,
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
            let Entry::Entered(guard) = self.core.key_locks.enter(&id) else {
                self.skip.insert(id);
                continue;
            };
            let Some(repair) = admit(&mut self.core.cluster(), &id) else {
                self.skip.insert(id);
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
        self.core.fetch_bodies(wanted, &mut writes, none_here).await;
        // Of those that failed already nothing was sent to anybody.
        writes.retain(|write| write.outcome != Outcome::Failed);
        let decided = self.core.replicate(writes).await;
        let (kept, failed): (Vec<_>, Vec<_>) = decided.into_iter().partition(|write| write.outcome == Outcome::Kept);
        self.core.note_in_doubt(&failed);
        let done: HashSet<MessageId> = kept.iter().map(|write| write.promise.ticket().id.clone()).collect();
        let committed = self.core.commit(kept).await.is_ok();
        if committed {
            self.core.repair_progress.note(done.len() as u64);
        }
        self.skip.extend(tried.into_iter().filter(|id| !committed || !done.contains(id)));
        bytes
    }

    fn plan_repair(&self, repair: Repair, guard: KeyGuard) -> Write {
        let Repair { ticket, keep, also, trims, .. } = repair;
        let need = ticket.targets.len();
        let mut write = Write::new(Askers::new(), Promise::new(self.core.clone(), ticket), Payload::new(), guard, need);
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

    /// Reads copies without their content, and notes bad ones; for each, whether it surely is intact, and stays so: nothing
    /// is let go of for the sake of a copy on a node that only reads.
    pub(super) async fn check(&self, checks: Vec<(usize, NodeId, MessageId, CopyRecord)>) -> Vec<(usize, bool)> {
        let mut by_node: BTreeMap<NodeId, Vec<(usize, MessageId, CopyRecord)>> = BTreeMap::new();
        for (i, node, id, record) in checks {
            by_node.entry(node).or_default().push((i, id, record));
        }
        let each = by_node.into_iter().map(|(node, members)| async move {
            let keys: Vec<_> = members.iter().map(|(_, id, record)| (id.clone(), *record)).collect();
            let statuses = self.core.check_copies(node, &keys).await;
            let counts = self.core.cluster().registry.is_linked(node);
            let intact = |status| counts && status == CopyStatus::CopyStored;
            members.iter().zip(statuses).map(|((i, ..), status)| (*i, intact(status))).collect()
        });
        let all: Vec<Vec<(usize, bool)>> = join_all(each).await;
        all.concat()
    }
}

impl Coordinator {
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
}
