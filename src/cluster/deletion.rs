//! Tombstones on their way out.
//!
//! A tombstone stays until every member has confirmed that nothing older of its id is left on it: a member that
//! was away comes back with the old message, and only the tombstone says that it is gone. (The rule is that of
//! Cassandra's `gc_grace_seconds` without the clock: what is waited for is an answer, not a time.)

use std::collections::{BTreeMap, VecDeque};

use smallvec::SmallVec;

use super::mapping::{Commit, Mapping, SHARDS};
use super::{Cluster, Trust};
use crate::seeded::{self, Bug};
use crate::types::{Holders, MessageId, NodeId, Version};

/// A deletion that not all members have confirmed.
#[derive(Debug)]
struct Grave {
    version: Version,
    confirmed: SmallVec<[NodeId; 8]>,
}

impl Grave {
    fn confirmed_by(&self, node: NodeId) -> bool {
        self.confirmed.contains(&node) || (seeded::active(Bug::TombstoneForgottenEarly) && !self.confirmed.is_empty())
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Deletions {
    graves: BTreeMap<MessageId, Grave>,
    /// Whom to ask for what.
    asks: BTreeMap<NodeId, VecDeque<MessageId>>,
    /// Confirmed by all.
    done: VecDeque<MessageId>,
}

/// What to ask a member: to let go of everything of `id` that is older than `version`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The deleted id.
    pub id: MessageId,
    /// The deletion's version.
    pub version: Version,
    /// Whether the member is a holder of the tombstone, and keeps that.
    pub keep: bool,
}

impl Deletions {
    /// The tombstones of a log.
    pub(super) fn restore(mapping: &Mapping) -> Self {
        let mut deletions = Self::default();
        if mapping.tombstones() == 0 {
            return deletions;
        }
        let records = (0..SHARDS).flat_map(|part| mapping.records(part));
        for (key, found) in records.filter(|(_, found)| found.set.deleted) {
            deletions.graves.insert(key.id(), Grave { version: found.record.version, confirmed: SmallVec::new() });
        }
        deletions
    }

    /// A commit became true. The `linked` members are asked to confirm a deletion; others will be when they join.
    pub(super) fn hear(&mut self, commit: &Commit, linked: impl Iterator<Item = NodeId>) {
        let version = commit.record.version;
        if !commit.record.is_tombstone() {
            self.graves.remove(&commit.id);
        } else if self.graves.get(&commit.id).is_none_or(|grave| grave.version != version) {
            self.graves.insert(commit.id.clone(), Grave { version, confirmed: SmallVec::new() });
            for node in linked {
                self.asks.entry(node).or_default().push_back(commit.id.clone());
            }
        }
    }

    /// A member is none any more, and `members` are those that are left: what only it had not confirmed is done.
    pub(super) fn depart(&mut self, node: NodeId, members: &[NodeId]) {
        self.asks.remove(&node);
        for (id, grave) in &mut self.graves {
            // Another folder may come with its number, and has confirmed nothing.
            grave.confirmed.retain(|other| *other != node);
            if members.iter().all(|member| grave.confirmed_by(*member)) {
                self.done.push_back(id.clone());
            }
        }
    }

    /// Of how many tombstones a node is a holder, so that its inventory should list them.
    pub(super) fn held_by(&self, mapping: &Mapping, node: NodeId) -> u64 {
        let holds = |id: &&MessageId| mapping.newest(id).is_some_and(|found| found.set.holders.contains(&node));
        self.graves.keys().filter(holds).count() as u64
    }
}

impl Cluster {
    /// A member came (back): it has to confirm every deletion that it has not.
    pub fn ask_for_confirmations(&mut self, node: NodeId) {
        let owed = self.deletions.graves.iter().filter(|(_, grave)| !grave.confirmed.contains(&node));
        let owed = owed.map(|(id, _)| id.clone()).collect();
        self.deletions.asks.insert(node, owed);
    }

    /// Takes up to `limit` of what a member has to be asked. What it does not answer goes back by
    /// [`Cluster::unconfirmed`], or comes again when it joins.
    pub fn asks(&mut self, node: NodeId, limit: usize) -> Vec<Ask> {
        let Some(queue) = self.deletions.asks.get_mut(&node) else { return Vec::new() };
        let mut asks = Vec::new();
        while asks.len() < limit
            && let Some(id) = queue.pop_front()
        {
            let Some(grave) = self.deletions.graves.get(&id).filter(|grave| !grave.confirmed.contains(&node)) else {
                continue;
            };
            let keep = self.mapping.newest(&id).is_some_and(|found| found.set.holders.contains(&node));
            asks.push(Ask { id, version: grave.version, keep });
        }
        asks
    }

    /// A member could not let go of it all: it is asked again.
    pub fn unconfirmed(&mut self, node: NodeId, ask: Ask) {
        self.deletions.asks.entry(node).or_default().push_back(ask.id);
    }

    /// Nothing older is left on a member.
    pub fn confirmed(&mut self, node: NodeId, ask: &Ask) {
        let Some(grave) = self.deletions.graves.get_mut(&ask.id).filter(|grave| grave.version == ask.version) else {
            return;
        };
        if !grave.confirmed.contains(&node) {
            grave.confirmed.push(node);
        }
        if self.registry.nodes().iter().all(|node| grave.confirmed_by(node.member.id)) {
            self.deletions.done.push_back(ask.id.clone());
        }
    }

    /// Takes up to `limit` deletions that all members have confirmed: they can be forgotten, in the log first.
    pub fn forgettable(&mut self, limit: usize) -> Vec<(MessageId, Version)> {
        // Who was removed may come back with what was deleted: whoever may have to refuse it has to know that first.
        if self.trust() != Trust::Whole || !self.uninformed().is_empty() {
            return Vec::new();
        }
        let mut all = Vec::new();
        while all.len() < limit
            && let Some(id) = self.deletions.done.pop_front()
        {
            let Some(grave) = self.deletions.graves.get(&id) else { continue };
            // A member may have joined since: its answer is awaited, and brings the id here again.
            if self.registry.nodes().iter().all(|node| grave.confirmed_by(node.member.id)) {
                all.push((id, grave.version));
            }
        }
        all
    }

    /// The log did not take that a deletion is forgotten: it is tried again.
    pub fn still_forgettable(&mut self, id: MessageId) {
        self.deletions.done.push_back(id);
    }

    /// A deletion is forgotten. Gives who holds its tombstone, which can go.
    pub fn forget(&mut self, id: &MessageId, version: Version) -> Holders {
        if self.deletions.graves.get(id).is_some_and(|grave| grave.version == version) {
            self.deletions.graves.remove(id);
        }
        let before = self.mapping.newest(id).filter(|found| found.record.version == version).map(|found| found.record);
        let holders = self.mapping.forget(id, version).unwrap_or_default();
        if let Some(message) = before.filter(|record| !record.is_tombstone()) {
            self.registry.lose(&holders, message.bytes());
        }
        holders
    }

    /// How many deletions wait for a member's confirmation.
    pub fn deletions(&self) -> usize {
        self.deletions.graves.len()
    }
}
