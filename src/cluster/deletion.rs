//! Tombstones on their way out.
//!
//! A tombstone stays until every member has confirmed that nothing older of its id is left on it: a member that
//! was away comes back with the old message, and only the tombstone says that it is gone. (The rule is that of
//! Cassandra's `gc_grace_seconds` without the clock: what is waited for is an answer, not a time.)
//!
//! What ends by itself has one too, though its own copies say when they end. That says nothing of what it went over: an
//! older version, without an end or with a later one, may lie on a member that is away, and nothing else stands before
//! it. And the time by which it has ended is in the log: a leader that has lost that, and finds clocks behind, would take
//! a copy that comes back for a message. To do without, a leader had to know of each id that whatever may be left of it
//! ends no later, and nodes had to keep the register's time as they keep its epoch. With all members up that would save
//! little: of 20,000 that ended in one second no more than 900 were tombstones at once, for 91 bytes of log each.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use smallvec::SmallVec;

use super::Cluster;
use super::mapping::{Commit, Mapping, SHARDS};
use crate::seeded::{self, Bug};
use crate::types::{CopyRecord, Holders, MessageId, NodeId, Version};

/// A deletion that not all members have confirmed.
#[derive(Debug)]
struct Tombstone {
    version: Version,
    confirmed: SmallVec<[NodeId; 8]>,
}

impl Tombstone {
    fn confirmed_by(&self, node: NodeId) -> bool {
        self.confirmed.contains(&node) || (seeded::active(Bug::TombstoneForgottenEarly) && !self.confirmed.is_empty())
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Deletions {
    tombstones: BTreeMap<MessageId, Tombstone>,
    /// Whom to ask for what.
    asks: BTreeMap<NodeId, Owed>,
    /// Confirmed by all.
    done: VecDeque<MessageId>,
}

/// What a member has to be asked.
#[derive(Debug, Default)]
struct Owed {
    queue: VecDeque<MessageId>,
    /// It came (back): all tombstones behind this id (from the first, if there is none) are still to be looked at. There
    /// may be very many, so that it is done in steps.
    walk: Option<Option<MessageId>>,
}

/// Tombstones that one step looks at, a millisecond or so.
const STEP: usize = 4096;

/// More tombstones than this are said, with the member that they wait for and what can be done about it: each is a file
/// on as many nodes as a message has copies.
pub const MANY_TOMBSTONES: usize = 100_000;

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
            deletions
                .tombstones
                .insert(key.id(), Tombstone { version: found.record.version, confirmed: SmallVec::new() });
        }
        deletions
    }

    /// A commit became true. The `linked` members are asked to confirm a deletion; others will be when they join.
    pub(super) fn hear(&mut self, commit: &Commit, linked: impl Iterator<Item = NodeId>) {
        let version = commit.record.version;
        if !commit.record.is_tombstone() {
            self.tombstones.remove(&commit.id);
        } else if self.tombstones.get(&commit.id).is_none_or(|tombstone| tombstone.version != version) {
            self.tombstones.insert(commit.id.clone(), Tombstone { version, confirmed: SmallVec::new() });
            for node in linked {
                self.asks.entry(node).or_default().queue.push_back(commit.id.clone());
            }
        }
    }

    /// A member is none any more, and `members` are those that are left: what only it had not confirmed is done.
    pub(super) fn depart(&mut self, node: NodeId, members: &[NodeId]) {
        self.asks.remove(&node);
        for (id, tombstone) in &mut self.tombstones {
            // Another folder may come with its number, and has confirmed nothing.
            tombstone.confirmed.retain(|other| *other != node);
            if members.iter().all(|member| tombstone.confirmed_by(*member)) {
                self.done.push_back(id.clone());
            }
        }
    }

    /// Of how many tombstones a node is a holder, so that its inventory should list them.
    pub(super) fn held_by(mapping: &Mapping, node: NodeId) -> u64 {
        let held = mapping.sets().filter(|(set, ..)| set.deleted && set.holders.contains(&node));
        held.map(|(_, tombstones, _)| tombstones).sum()
    }
}

impl Cluster {
    /// A member came (back): it has to confirm every deletion that it has not.
    pub fn ask_for_confirmations(&mut self, node: NodeId) {
        self.deletions.asks.insert(node, Owed { queue: VecDeque::new(), walk: Some(None) });
    }

    /// Takes up to `limit` of what a member has to be asked. What it does not answer goes back by
    /// [`Cluster::unconfirmed`], or comes again when it joins.
    pub fn asks(&mut self, node: NodeId, limit: usize) -> Vec<Ask> {
        let Deletions { tombstones, asks, .. } = &mut self.deletions;
        let Some(owed) = asks.get_mut(&node) else { return Vec::new() };
        if owed.queue.len() < limit
            && let Some(after) = owed.walk.take()
        {
            let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let (mut looked, mut last) = (0, None);
            for (id, tombstone) in tombstones.range::<MessageId, _>((from, Bound::Unbounded)).take(STEP) {
                (looked, last) = (looked + 1, Some(id));
                if !tombstone.confirmed.contains(&node) {
                    owed.queue.push_back(id.clone());
                }
                if owed.queue.len() >= limit {
                    break;
                }
            }
            // Behind the last one there is nothing more: what is deleted from now on is queued by itself.
            if looked == STEP || owed.queue.len() >= limit {
                owed.walk = Some(last.cloned().or(after.clone()));
            }
        }
        let mut asks = Vec::new();
        while asks.len() < limit
            && let Some(id) = owed.queue.pop_front()
        {
            let Some(tombstone) = tombstones.get(&id).filter(|tombstone| !tombstone.confirmed.contains(&node)) else {
                continue;
            };
            let keep = self.state.mapping.newest(&id).is_some_and(|found| found.set.holders.contains(&node));
            asks.push(Ask { id, version: tombstone.version, keep });
        }
        asks
    }

    /// A member could not let go of it all: it is asked again.
    pub fn unconfirmed(&mut self, node: NodeId, ask: Ask) {
        self.deletions.asks.entry(node).or_default().queue.push_back(ask.id);
    }

    /// Nothing older is left on a member.
    pub fn confirmed(&mut self, node: NodeId, ask: &Ask) {
        let Some(tombstone) =
            self.deletions.tombstones.get_mut(&ask.id).filter(|tombstone| tombstone.version == ask.version)
        else {
            return;
        };
        if !tombstone.confirmed.contains(&node) {
            tombstone.confirmed.push(node);
        }
        if self.registry.nodes().iter().all(|node| tombstone.confirmed_by(node.member.id)) {
            self.deletions.done.push_back(ask.id.clone());
        }
    }

    /// Takes up to `limit` deletions that all members have confirmed: they can be forgotten, in the log first. Whatever
    /// is older has come to its end by then, and every member has said what it holds, so that of an id of which the log
    /// says nothing, what is older than the newest that was forgotten never becomes true, in any copy of that log.
    pub fn forgettable(&mut self, limit: usize) -> Vec<(MessageId, Version)> {
        let all_heard = self.is_settled() && self.knowledge.missing(&self.member_ids()).is_empty();
        // Who was removed may come back with what was deleted: whoever may have to refuse it has to know that first.
        if !all_heard || self.any_to_complete() || self.has_undecided() || !self.uninformed().is_empty() {
            return Vec::new();
        }
        // The log may not have heard yet how a write has ended.
        let oldest = self.oldest_write().into_iter().chain(self.state.intents().oldest()).min();
        let mut all = Vec::new();
        for _ in 0..limit.min(self.deletions.done.len()) {
            let Some(id) = self.deletions.done.pop_front() else { break };
            let Some(tombstone) = self.deletions.tombstones.get(&id) else { continue };
            // A member may have joined since: its answer is awaited, and brings the id here again.
            if !self.registry.nodes().iter().all(|node| tombstone.confirmed_by(node.member.id)) {
                continue;
            }
            let behind = oldest.is_some_and(|oldest| oldest < tombstone.version);
            match behind && !seeded::active(Bug::ForgottenBeforeOlder) {
                true => self.deletions.done.push_back(id),
                false => all.push((id, tombstone.version)),
            }
        }
        if let Some(newest) = all.iter().map(|(_, version)| *version).max() {
            // Before the log has it: a node that lists something older meanwhile must not make that true any more.
            self.horizon_ahead = self.horizon_ahead.max(newest);
        }
        all
    }

    /// The log did not take that a deletion is forgotten: it is tried again.
    pub fn still_forgettable(&mut self, id: MessageId) {
        self.deletions.done.push_back(id);
    }

    /// A deletion is forgotten, or a message that only an old log spoke of.
    pub(super) fn forgotten(&mut self, id: &MessageId, version: Version, record: CopyRecord, holders: &Holders) {
        if self.deletions.tombstones.get(id).is_some_and(|tombstone| tombstone.version == version) {
            self.deletions.tombstones.remove(id);
        }
        if !record.is_tombstone() {
            self.registry.lose(holders, record.bytes());
        }
    }

    /// The newest deletion that is forgotten, or is about to be; see [`Mapping::horizon`].
    pub(super) fn horizon(&self) -> Version {
        self.state.mapping.horizon().max(self.horizon_ahead)
    }

    /// Where very many deletions wait for members that are away: how many, and for whom.
    pub fn piled_up(&self) -> Option<(usize, Vec<NodeId>)> {
        let away = self.registry.nodes().iter().filter(|node| !node.is_linked());
        let away: Vec<NodeId> = away.map(|node| node.member.id).collect();
        let count = self.deletions();
        (count > MANY_TOMBSTONES && !away.is_empty()).then_some((count, away))
    }

    /// How many deletions wait for a member's confirmation.
    pub fn deletions(&self) -> usize {
        self.deletions.tombstones.len()
    }
}
