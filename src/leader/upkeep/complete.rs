//! Versions that nodes hold and the log does not know are completed first, and shown then. Foreign files become messages.

use std::sync::Arc;
use std::time::Duration;

use super::Upkeep;
use super::fetch::Fetch;
use crate::cluster::state::Event;
use crate::cluster::{Cluster, NotAdmitted, Uncommitted};
use crate::leader::batches::batches;
use crate::leader::coordinator::Coordinator;
use crate::leader::key_locks::{Entry, KeyGuard};
use crate::leader::write::{Askers, Outcome, Promise, Purpose, Write};
use crate::types::{CopyRecord, MessageId, Nodes, Payload, Version};

/// How often uncommitted versions are looked for.
const LOOK: Duration = Duration::from_millis(100);

/// Versions completed at once, and bytes of their messages; one message at least.
const BATCH: usize = 1024;
const BATCH_BYTES: u64 = 4 << 20;

/// Batches without any that could be completed, after which the others wait for the next look.
const MOST_BARREN: usize = 16;

/// Completes uncommitted versions.
pub(super) struct Completer {
    core: Arc<Coordinator>,
    /// The last id that was looked at; nothing: it begins anew.
    after: Option<MessageId>,
}

impl Upkeep for Completer {
    const NAME: &'static str = "completion";

    async fn step(&mut self) -> Duration {
        self.complete_all().await;
        let found = self.core.cluster().found_transactions();
        for transaction in found {
            self.complete_together(transaction).await;
        }
        self.forget_vanished().await;
        self.core.note_whole().await;
        LOOK
    }
}

impl Completer {
    pub(super) fn new(core: Arc<Coordinator>) -> Self {
        Self { core, after: None }
    }

    /// Goes on through the uncommitted versions, up to their end or to so many that cannot be completed now
    /// (their nodes may be away) that the rest has to wait for the next look: they stand before nobody else for ever.
    async fn complete_all(&mut self) {
        let mut barren = 0;
        while barren < MOST_BARREN && !self.core.stop.is_requested() {
            let (uncommitted, last) = self.core.cluster().uncommitted(self.after.as_ref(), BATCH);
            self.after = last;
            match self.complete(uncommitted).await {
                0 => barren += 1,
                _ => self.core.notify(),
            }
            if self.after.is_none() {
                return;
            }
        }
    }

    /// Forgets what only an old log speaks of.
    async fn forget_vanished(&self) {
        if !self.core.cluster().has_vanished() {
            return;
        }
        let vanished = self.core.cluster().vanished();
        if vanished.is_empty() {
            self.core.cluster().forgot_vanished();
            return;
        }
        tracing::warn!("{} messages of the old log are on no node: they were deleted since", vanished.len());
        let event = |(id, version): &(MessageId, Version)| Event::Forgotten { id: id.clone(), version: *version };
        // If the log does not take it, it is tried again.
        if self.core.ledger().append(&vanished.iter().map(event).collect::<Vec<_>>()).await.is_ok() {
            self.core.cluster().forgot_vanished();
            self.core.view.add(vanished.into_iter().map(|(id, _)| id).collect());
            self.core.notify();
        }
    }

    /// Completes what is found of a transaction as a whole, or not at all this time.
    async fn complete_together(&self, found: Vec<(MessageId, Uncommitted)>) {
        let count = found.len();
        let decided = self.bring(found, true).await;
        let whole = decided.len() == count && decided.iter().all(|write| write.outcome == Outcome::Kept);
        let failed = match whole {
            true => self.core.commit_together(decided).await.err().map(|(writes, _)| writes),
            false => Some(decided),
        };
        self.core.note_in_doubt(&failed.unwrap_or_default());
        self.core.notify();
    }

    /// Brings versions onto as many nodes as tolerance asks for, and into the log. Gives how many were completed.
    async fn complete(&self, uncommitted: Vec<(MessageId, Uncommitted)>) -> usize {
        let (mut count, mut waiting, mut trouble) = (0, 0, None);
        for some in batches(uncommitted, BATCH, BATCH_BYTES, |(_, newer)| newer.record.bytes().into()) {
            let decided = self.bring(some, false).await;
            let (kept, failed): (Vec<_>, Vec<_>) =
                decided.into_iter().partition(|write| write.outcome == Outcome::Kept);
            self.core.note_in_doubt(&failed);
            waiting += failed.len();
            if let Some(write) = failed.first() {
                trouble.get_or_insert_with(|| (write.promise.ticket().id.clone(), self.core.why(write)));
            }
            let some = kept.len();
            if self.core.commit(kept).await.is_ok() {
                count += some;
            }
        }
        if let Some((id, why)) = trouble {
            tracing::warn!("{waiting} found versions wait to be completed, {id:?} among them: {why}");
        }
        count
    }

    /// Brings versions onto as many nodes as tolerance asks for: those that can be brought now, as they ended; or all of
    /// them `together`, or none. A transaction of which a version has to be a new one is prepared once more: copies of new
    /// versions say nothing of the others either.
    async fn bring(&self, uncommitted: Vec<(MessageId, Uncommitted)>, together: bool) -> Vec<Write> {
        let mut writes = Vec::new();
        let mut wanted = Vec::new();
        let found: Vec<Version> = uncommitted.iter().map(|(_, newer)| newer.record.version).collect();
        for (id, newer) in uncommitted {
            // A write of this id is under way: it brings a newer version still.
            let Entry::Entered(guard) = self.core.key_locks.enter(&id) else { continue };
            let Some((write, sources)) = self.plan(&id, &newer, guard) else { continue };
            if !sources.is_empty() {
                wanted.push(Fetch { write: writes.len(), version: newer.record.version, sources });
            }
            writes.push(write);
        }
        if together && (writes.len() < found.len() || !self.prepare_anew(&writes, &found).await) {
            writes.iter_mut().for_each(|write| write.outcome = Outcome::Failed);
            wanted.clear();
        }
        let none_here = |cluster: &mut Cluster, id: &_, version, node| cluster.forget_uncommitted(id, version, node);
        self.core.fetch_bodies(wanted, &mut writes, none_here).await;
        self.core.replicate(writes).await
    }

    /// Has the log say that these versions belong together, where one of them is not as it was `found`; `false`: it did
    /// not take that.
    async fn prepare_anew(&self, writes: &[Write], found: &[Version]) -> bool {
        let all = writes.iter().map(|write| (write.promise.ticket().id.clone(), write.promise.ticket().record.version));
        let all: Vec<(MessageId, Version)> = all.collect();
        let anew = all.iter().zip(found).filter(|((_, version), found)| version != *found);
        match anew.map(|((_, version), _)| *version).min() {
            None => true,
            Some(name) => self.core.ledger().append(&[Event::Prepared { name, writes: all }]).await.is_ok(),
        }
    }

    /// Admits a completion; with sources to fetch the message from, where it has to go to other nodes too.
    fn plan(&self, id: &MessageId, newer: &Uncommitted, guard: KeyGuard) -> Option<(Write, Nodes)> {
        let found = newer.record.version;
        let foreign = found == Version::FOREIGN;
        let fewer = foreign && self.core.joining_until().elapsed() > Duration::ZERO;
        let mut cluster = self.core.cluster();
        // A new member's word does not count yet.
        let linked =
            newer.holders.iter().filter(|node| cluster.registry.is_linked(**node) && cluster.counts_in(**node));
        let sources: Nodes = linked.copied().collect();
        if sources.is_empty() {
            return None;
        }
        let anew = cluster.needs_new_version(id, found);
        let version = if anew { cluster.next_version()? } else { found };
        let record = CopyRecord { version, ..newer.record };
        let ticket = match cluster.admit_completion(id, record, &sources, fewer) {
            Ok(ticket) => ticket,
            Err(NotAdmitted::TooFewNodes { .. } | NotAdmitted::NotYet(_)) => {
                // It is tried again many times while nodes are away, and an epoch has only so many versions.
                if anew {
                    cluster.give_back(version);
                }
                return None;
            }
        };
        drop(cluster);
        let need = ticket.targets.len();
        // What the sources hold is of use as it is, or as soon as they have adopted it, unless its version changes.
        let stays = if foreign || version == found { sources.clone() } else { Nodes::new() };
        let elsewhere = !record.is_tombstone() && ticket.targets.iter().any(|node| !stays.contains(node));
        let mut write = Write::new(Askers::new(), Promise::new(self.core.clone(), ticket), Payload::new(), guard, need);
        write.purpose = Purpose::Completion { sources: stays, adopt: foreign };
        Some((write, if elsewhere { sources } else { Nodes::new() }))
    }
}
