//! What nodes that join hold, and what follows from it: what is known, and who the members are.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{SemaphorePermit, oneshot};
use tokio::time::{Instant, timeout};

use super::coordinator::Coordinator;
use super::replication::DialError;
use crate::cluster::Cluster;
use crate::cluster::knowledge::Trust;
use crate::types::{Fence, Listed, NodeId};
use crate::wire::MemberList;
use crate::wire::family::{InventoryPage, from_node};

/// An inventory without a page for this long has broken off.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a majority of leaders has agreed on the log, clients are served before inventories are asked for; no longer than
/// this.
const CLIENTS_FIRST: Duration = Duration::from_secs(2);

/// Tries for an inventory that breaks off while the node's link holds.
const INVENTORY_TRIES: usize = 3;

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
        let _turn = self.wait_for_turn().await;
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

    /// Waits until clients are served, where that does not take inventories, and then for those of other nodes: what they
    /// cost would be clients' time.
    async fn wait_for_turn(&self) -> Option<SemaphorePermit<'_>> {
        let until = Instant::now() + CLIENTS_FIRST;
        while self.cluster().relies_on_group() {
            let mut changes = self.changes();
            if self.cluster().unsure().is_none() {
                return self.unhurried.acquire().await.ok();
            }
            if !self.changed(&mut changes, until).await {
                break;
            }
        }
        None
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

    /// Notes in the log that it is whole, as soon as it is and does not say so.
    pub(super) async fn note_whole(self: &Arc<Self>) {
        let newest = {
            let cluster = self.cluster();
            if cluster.trust() != Trust::Whole {
                self.log_is_whole.store(false, Ordering::Relaxed);
            }
            let told = self.log_is_whole.load(Ordering::Relaxed);
            if told || !cluster.has_heard() || cluster.uncommitted_len() > 0 || cluster.leadership().is_none() {
                return;
            }
            cluster.newest_committed()
        };
        if self.ledger().note_whole(newest).await.is_ok() {
            self.log_is_whole.store(true, Ordering::Relaxed);
            self.tell_all(&self.cluster());
        }
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
