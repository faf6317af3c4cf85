//! What follows from inventories: versions that nodes hold and the log does not
//! know are completed first, and shown then. Foreign files become messages.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::batches::batches;
use super::coordinator::Coordinator;
use super::every;
use super::journal::Record;
use super::key_locks::Entry as GateEntry;
use super::replication::DialError;
use super::write::{Askers, Outcome, Promise, Purpose, Write};
use crate::cluster::knowledge::Trust;
use crate::cluster::state::Event;
use crate::cluster::{Cluster, NotAdmitted, Uncommitted};
use crate::types::{CopyRecord, Fence, Listed, MessageId, NodeId, Nodes, Payload, Version};
use crate::wire::MemberList;
use crate::wire::family::{CopyStatus, InventoryPage, from_node};

/// An inventory without a page for this long has broken off.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Tries for an inventory that breaks off while the node's link holds.
const INVENTORY_TRIES: usize = 3;

/// How often uncommitted versions are looked for.
const LOOK: Duration = Duration::from_millis(100);

/// Versions completed at once, and bytes of their messages; one message at least.
const BATCH: usize = 1024;
const BATCH_BYTES: u64 = 4 << 20;

/// Batches without any that could be completed, after which the others wait for the next look.
const MOST_BARREN: usize = 16;

/// A copy for a completion that does not come by then is asked for again later.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of messages that are asked for together, but for one that is larger: a slow link brings them in that time.
const FETCH_BYTES: u64 = 1 << 20;

/// A message that a write needs.
pub(super) struct Fetch {
    /// The place of the write among those that are told.
    pub write: usize,
    /// The version that the sources have it by.
    pub version: Version,
    /// Whom to ask, best first.
    pub sources: Nodes,
}

impl Coordinator {
    /// Tells all nodes who the members are. Only a leader may whose log says that it is whole: it unites its list with
    /// that of each node that joins, so that none learns less than it knew.
    pub(super) fn tell_members(&self, cluster: &Cluster) -> Vec<(NodeId, oneshot::Receiver<bool>)> {
        let members = cluster.registry.nodes().iter().map(|node| node.member.clone()).collect();
        self.links.tell_members(&MemberList { members, removed: cluster.removed() })
    }

    /// Tells all nodes who the members are. New ones count as soon as enough others have noted it.
    pub(super) fn tell_all(self: &Arc<Self>, cluster: &Cluster) {
        let answers = self.tell_members(cluster);
        if cluster.newcomers().is_empty() {
            return;
        }
        let listed: Vec<NodeId> = cluster.registry.nodes().iter().map(|node| node.member.id).collect();
        let leader = self.clone();
        tokio::spawn(async move {
            let answer = |(node, answer): (NodeId, oneshot::Receiver<bool>)| async move { (node, answer.await) };
            let mut answers: FuturesUnordered<_> = answers.into_iter().map(answer).collect();
            while let Some((node, kept)) = answers.next().await {
                if kept == Ok(true) && leader.cluster().note_listed(node, &listed) {
                    leader.notify();
                }
            }
        });
    }

    /// Tells once more who the members are, as long as new ones do not count because too few have noted it.
    pub(super) fn tell_of_newcomers(self: &Arc<Self>) {
        let cluster = self.cluster();
        if cluster.is_settled() && !cluster.newcomers().is_empty() {
            self.tell_all(&cluster);
        }
    }

    /// Hears what a node that has just joined holds. One whose inventory does not come has to join anew.
    pub(super) async fn take_inventory(self: &Arc<Self>, node: NodeId, address: &str, fence: Fence) {
        for _ in 0..INVENTORY_TRIES {
            if !self.begin_inventory(node, fence) {
                return;
            }
            let result = self.read_inventory(node, address, fence).await;
            match result {
                Ok(count) if self.conclude(node, fence.session, count) => {
                    self.note_whole().await;
                    return;
                }
                Ok(_) => tracing::warn!("the inventory of node {node} does not add up: nothing follows from it"),
                Err(error) => {
                    self.cluster().inventory_breaks(node, fence.session);
                    tracing::warn!("the inventory of node {node} broke off: {error}");
                }
            }
        }
        self.links.cut(node);
    }

    /// `false`: the node has gone, or was removed, or has joined anew.
    fn begin_inventory(&self, node: NodeId, fence: Fence) -> bool {
        let mut cluster = self.cluster();
        let here = cluster.registry.get(node).is_some_and(|node| node.session == Some(fence.session));
        match here {
            true => cluster.inventory_begins(node, fence.session),
            false => cluster.inventory_breaks(node, fence.session),
        }
        here
    }

    async fn read_inventory(&self, node: NodeId, address: &str, fence: Fence) -> Result<u64, DialError> {
        let mut lane = self.links.inventory(node, address, fence).await?;
        loop {
            let frame = timeout(PAGE_TIMEOUT, lane.frames_in.recv()).await;
            let page = match frame.ok().flatten().and_then(|frame| frame.body) {
                Some(from_node::Body::Page(page)) => page,
                Some(from_node::Body::Fenced(fenced)) => {
                    return Err(DialError::Fenced {
                        epoch: crate::types::Epoch(fenced.epoch_seen),
                        reason: fenced.reason,
                    });
                }
                Some(_) => return Err(DialError::Strange("a frame that is no page")),
                None => return Err(DialError::Strange("no page came")),
            };
            let (last, count) = (page.last, page.count);
            self.cluster().inventory_page(node, fence.session, &entries_of(page)?);
            if last {
                return Ok(count);
            }
        }
    }

    /// What follows from an inventory; `false`: nothing, as it is not whole.
    fn conclude(self: &Arc<Self>, node: NodeId, session: u64, count: u64) -> bool {
        let mut cluster = self.cluster();
        let Some(reported) = cluster.inventory_ends(node, session, count) else {
            return false;
        };
        let settled = cluster.settle_knowledge();
        if settled {
            // Ahead of every copy that is admitted from here on, and so under the lock: whoever holds a
            // copy knows of whom else a leader without its log has to hear.
            self.tell_all(&cluster);
        }
        drop(cluster);
        tracing::info!("node {node} holds {} copies", reported.entries);
        if reported.is_alarming() {
            let (missing, expected) = (reported.missing, reported.expected);
            tracing::error!(
                "ALARM: {missing} of {expected} copies are missing on node {node}: is its disk mounted, its folder the right one?"
            );
        } else if reported.missing > 0 {
            tracing::warn!("{} copies are missing on node {node}", reported.missing);
        }
        if reported.differing > 0 {
            tracing::warn!(
                "{} foreign files of node {node} differ from other nodes' of the same ids, which become the messages; these stay as they are",
                reported.differing
            );
        }
        if settled {
            tracing::info!("all that nodes hold is known: answers are whole from here on");
        }
        self.notify();
        true
    }

    /// Looks whether those who know who the members are had time enough to come, where nobody did who was ever told.
    pub(super) fn settle_by_now(self: &Arc<Self>, now: Duration) {
        let mut cluster = self.cluster();
        if !cluster.settle_untold(now) {
            return;
        }
        self.tell_all(&cluster);
        drop(cluster);
        tracing::warn!(
            "no node that came was ever told who the members are: those that came are taken for all of them"
        );
        self.notify();
    }

    /// Completes uncommitted versions for as long as the leader lives.
    pub async fn recover(self: Arc<Self>) {
        let mut look = every(LOOK);
        let mut after = None;
        while self.stop.unless(look.tick()).await.is_some() {
            self.complete_all(&mut after).await;
            let found = self.cluster().found_transactions();
            for transaction in found {
                self.complete_together(transaction).await;
            }
            self.forget_vanished().await;
            self.note_whole().await;
        }
    }

    /// Goes on through the uncommitted versions from `after`, up to their end or to so many that cannot be completed now
    /// (their nodes may be away) that the rest has to wait for the next look: they stand before nobody else for ever.
    async fn complete_all(self: &Arc<Self>, after: &mut Option<MessageId>) {
        let mut barren = 0;
        while barren < MOST_BARREN && !self.stop.is_requested() {
            let (uncommitted, last) = self.cluster().uncommitted(after.as_ref(), BATCH);
            *after = last;
            match self.complete(uncommitted).await {
                0 => barren += 1,
                _ => self.notify(),
            }
            if after.is_none() {
                return;
            }
        }
    }

    /// Notes in the log that it is whole, as soon as it is and does not say so.
    async fn note_whole(self: &Arc<Self>) {
        let newest = {
            let cluster = self.cluster();
            if cluster.trust() != Trust::Whole {
                self.log_is_whole.store(false, Ordering::Relaxed);
            }
            let told = self.log_is_whole.load(Ordering::Relaxed);
            if told || !cluster.is_settled() || cluster.uncommitted_len() > 0 || cluster.leadership().is_none() {
                return;
            }
            cluster.newest_committed()
        };
        if self.ledger().append_records(&[Record::Whole(newest)]).await.is_ok() {
            self.log_is_whole.store(true, Ordering::Relaxed);
            self.tell_all(&self.cluster());
        }
    }

    /// Forgets what only an old log speaks of.
    async fn forget_vanished(self: &Arc<Self>) {
        if !self.cluster().has_vanished() {
            return;
        }
        let vanished = self.cluster().vanished();
        if vanished.is_empty() {
            self.cluster().forgot_vanished();
            return;
        }
        tracing::warn!("{} messages of the old log are on no node: they were deleted since", vanished.len());
        let event = |(id, version): &(MessageId, Version)| Event::Forgotten { id: id.clone(), version: *version };
        // If the log does not take it, it is tried again.
        if self.make_true(&vanished.iter().map(event).collect::<Vec<_>>()).await.is_ok() {
            self.cluster().forgot_vanished();
            self.view.add(vanished.into_iter().map(|(id, _)| id).collect());
            self.notify();
        }
    }

    /// Completes what is found of a transaction as a whole, or not at all this time.
    async fn complete_together(self: &Arc<Self>, found: Vec<(MessageId, Uncommitted)>) {
        let count = found.len();
        let decided = self.bring(found, true).await;
        let whole = decided.len() == count && decided.iter().all(|write| write.outcome == Outcome::Kept);
        let failed = match whole {
            true => self.commit_together(decided).await.err().map(|(writes, _)| writes),
            false => Some(decided),
        };
        self.note_in_doubt(&failed.unwrap_or_default());
        self.notify();
    }

    /// Brings versions onto as many nodes as tolerance asks for, and into the log. Gives how many were completed.
    async fn complete(self: &Arc<Self>, uncommitted: Vec<(MessageId, Uncommitted)>) -> usize {
        let (mut count, mut waiting, mut trouble) = (0, 0, None);
        for some in batches(uncommitted, BATCH, BATCH_BYTES, |(_, newer)| newer.record.bytes().into()) {
            let decided = self.bring(some, false).await;
            let (kept, failed): (Vec<_>, Vec<_>) =
                decided.into_iter().partition(|write| write.outcome == Outcome::Kept);
            self.note_in_doubt(&failed);
            waiting += failed.len();
            if let Some(write) = failed.first() {
                trouble.get_or_insert_with(|| (write.promise.ticket().id.clone(), self.why(write)));
            }
            let some = kept.len();
            if self.commit(kept).await.is_ok() {
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
    async fn bring(self: &Arc<Self>, uncommitted: Vec<(MessageId, Uncommitted)>, together: bool) -> Vec<Write> {
        let mut writes = Vec::new();
        let mut wanted = Vec::new();
        let found: Vec<Version> = uncommitted.iter().map(|(_, newer)| newer.record.version).collect();
        for (id, newer) in uncommitted {
            // A write of this id is under way: it brings a newer version still.
            let GateEntry::Entered(guard) = self.key_locks.enter(&id) else { continue };
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
        self.fetch_bodies(wanted, &mut writes, none_here).await;
        self.replicate(writes).await
    }

    /// Has the log say that these versions belong together, where one of them is not as it was `found`; `false`: it did
    /// not take that.
    async fn prepare_anew(&self, writes: &[Write], found: &[Version]) -> bool {
        let all = writes.iter().map(|write| (write.promise.ticket().id.clone(), write.promise.ticket().record.version));
        let all: Vec<(MessageId, Version)> = all.collect();
        let anew = all.iter().zip(found).filter(|((_, version), found)| version != *found);
        match anew.map(|((_, version), _)| *version).min() {
            None => true,
            Some(name) => self.make_true(&[Event::Prepared { name, writes: all }]).await.is_ok(),
        }
    }

    /// Admits a completion; with sources to fetch the message from, where it has to go to other nodes too.
    fn plan(
        self: &Arc<Self>,
        id: &MessageId,
        newer: &Uncommitted,
        guard: super::key_locks::KeyGuard,
    ) -> Option<(Write, Nodes)> {
        let found = newer.record.version;
        let foreign = found == Version::FOREIGN;
        let fewer = foreign && self.joining_until().elapsed() > Duration::ZERO;
        let mut cluster = self.cluster();
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
        let mut write = Write::new(Askers::new(), Promise::new(self.clone(), ticket), Payload::new(), guard, need);
        write.purpose = Purpose::Completion { sources: stays, adopt: foreign };
        Some((write, if elsewhere { sources } else { Nodes::new() }))
    }

    /// Gets messages for writes that bring them to other nodes. A source that cannot tell is passed over for the next. A
    /// write whose message does not come fails; `none_here` hears of those that a node surely has no whole copy of.
    pub(super) async fn fetch_bodies(
        &self,
        mut wanted: Vec<Fetch>,
        writes: &mut [Write],
        none_here: impl Fn(&mut Cluster, &MessageId, Version, NodeId),
    ) {
        for turn in 0.. {
            let mut by_source: BTreeMap<NodeId, Vec<Fetch>> = BTreeMap::new();
            for fetch in wanted.drain(..) {
                match fetch.sources.get(turn) {
                    Some(&source) => by_source.entry(source).or_default().push(fetch),
                    // Without the message there is nothing to send: leave it for another look.
                    None => writes[fetch.write].outcome = Outcome::Failed,
                }
            }
            if by_source.is_empty() {
                return;
            }
            for (source, fetches) in by_source {
                let keys = fetches.iter().map(|fetch| {
                    let ticket = writes[fetch.write].promise.ticket();
                    (ticket.id.clone(), CopyRecord { version: fetch.version, ..ticket.record })
                });
                let keys: Vec<_> = keys.collect();
                for ((fetch, (id, _)), body) in fetches.into_iter().zip(&keys).zip(self.fetch(source, &keys).await) {
                    match body {
                        Ok(body) => writes[fetch.write].payload = body,
                        Err(false) => wanted.push(fetch),
                        Err(true) => {
                            // It may have been counted on: another look does without it.
                            writes[fetch.write].outcome = Outcome::Failed;
                            none_here(&mut self.cluster(), id, fetch.version, source);
                        }
                    }
                }
            }
        }
    }

    /// Reads copies from one node; for each its content, or whether the node surely has no such copy that is whole. Of as
    /// many bytes at a time as come in time; a node that did not answer is not asked for the rest.
    async fn fetch(&self, source: NodeId, keys: &[(MessageId, CopyRecord)]) -> Vec<Result<Payload, bool>> {
        let mut all = Vec::with_capacity(keys.len());
        for some in batches(keys.iter().cloned(), BATCH, FETCH_BYTES, |(_, record)| record.bytes().into()) {
            match self.fetch_some(source, &some).await {
                Some(bodies) => all.extend(bodies),
                None => break,
            }
        }
        all.resize(keys.len(), Err(false));
        all
    }

    /// As [`fetch`](Self::fetch), in one frame; nothing: no answer came.
    async fn fetch_some(&self, source: NodeId, keys: &[(MessageId, CopyRecord)]) -> Option<Vec<Result<Payload, bool>>> {
        let answer = timeout(FETCH_TIMEOUT, self.links.fetch(source, keys)).await.ok()?.ok()?;
        let mut bodies = answer.bodies.into_iter();
        let each = keys.iter().enumerate().map(|(k, (_, record))| {
            match answer.statuses.get(k).and_then(|&status| CopyStatus::try_from(status).ok()) {
                Some(CopyStatus::CopyStored) => match bodies.next() {
                    Some(body) if record.matches(&body) => Ok(body),
                    _ => Err(false),
                },
                status => Err(matches!(status, Some(CopyStatus::CopyAbsent | CopyStatus::CopyDamaged))),
            }
        });
        Some(each.collect())
    }
}

/// What a page lists; an error where the node could not list what it has: then nothing follows from the inventory.
fn entries_of(page: InventoryPage) -> Result<Vec<Listed>, DialError> {
    if !page.error.is_empty() {
        return Err(DialError::Failed(page.error));
    }
    let entries: Result<Vec<Listed>, _> = page.entries.into_iter().map(Listed::try_from).collect();
    entries.map_err(|_| DialError::Strange("an entry with a bad id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inventory_that_a_node_could_not_list_says_nothing() {
        let page = InventoryPage { last: true, error: "reading: EIO".to_owned(), ..Default::default() };
        assert!(matches!(entries_of(page), Err(DialError::Failed(why)) if why == "reading: EIO"));
        assert_eq!(entries_of(InventoryPage::default()).unwrap(), []);
    }
}
