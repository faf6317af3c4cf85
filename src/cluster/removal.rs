//! Members that are taken off the list for good.
//!
//! A member can go when nothing depends on it: no committed message, no tombstone, no version that was found on it and
//! is not settled, and no write that is under way. From then on its folder (its uuid) is refused for ever, so that
//! what is deleted needs no tombstone for its sake; its number is free for another folder. Every member keeps the
//! list of those that were removed, since a leader without its log knows it from nobody else: until all members have
//! said that they do, no tombstone is forgotten.

use std::collections::{BTreeMap, BTreeSet};

use super::Cluster;
use super::mapping::{HolderSet, SHARDS};
use crate::seeded::{self, Bug};
use crate::types::{NodeId, NodeState, Removed, Uuid, Version};

/// How long the list of those that were removed was that a member keeps for sure. It only grows.
pub(super) type Informed = BTreeMap<NodeId, usize>;

/// Why a member cannot be removed now. Nothing happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRemovable {
    /// Nobody has this number.
    #[error("there is no node {0}")]
    NoMember(NodeId),
    /// The leader does not know enough.
    #[error("{0}; nothing was removed, try again when STATUS says that answers are given")]
    NotYet(String),
    /// It serves.
    #[error("node {0} is not down: DRAIN it first, and remove it when it holds nothing")]
    InUse(NodeId),
    /// It is to be given up, and it answers.
    #[error("node {0} is not down, so it is not gone for good: DRAIN it, and REMOVE it when it holds nothing")]
    Answers(NodeId),
    /// It is a holder of committed messages, or tombstones.
    #[error("node {node} still holds {}{}", Self::counted(*.messages, *.deletions), Self::remedy(*.alone, *.draining))]
    Holds {
        /// Which.
        node: NodeId,
        /// How many.
        messages: u64,
        /// Tombstones.
        deletions: u64,
        /// Of both, those that can be read on no other node.
        alone: u64,
        /// It is being drained.
        draining: bool,
    },
    /// Versions were found on it, and it is not known yet what becomes of them.
    #[error(
        "{count} messages were found on node {node} that are not completed: start it once more, or write or delete these ids (WAITING in GET names the node)"
    )]
    Found {
        /// Which.
        node: NodeId,
        /// Of how many ids.
        count: usize,
    },
    /// It has just joined, and what it holds is not known yet.
    #[error("node {0} has just joined, and is being heard: try again in a moment")]
    Listing(NodeId),
    /// Fewer members than copies would be left.
    #[error("need {need} members, and {left} would be left")]
    TooFewLeft {
        /// The tolerance.
        need: usize,
        /// Members that would be left.
        left: usize,
    },
}

impl NotRemovable {
    fn counted(messages: u64, deletions: u64) -> String {
        let count = |n: u64, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        match (messages, deletions) {
            (messages, 0) => count(messages, "message"),
            (0, deletions) => format!("the traces of {}", count(deletions, "deletion")),
            (messages, deletions) => {
                format!("{} and the traces of {}", count(messages, "message"), count(deletions, "deletion"))
            }
        }
    }

    fn remedy(alone: u64, draining: bool) -> String {
        match (alone, draining) {
            (0, true) => ": wait until they are on others, STATUS says how far that is".to_owned(),
            (0, false) => {
                ": wait until they are copied again (--repair-after; STATUS says how far that is), or DRAIN it to begin now"
                    .to_owned()
            }
            (alone, _) => format!(
                ", {alone} of them on no other node that can be asked: start it, or its other holders, once more; or write or delete these ids"
            ),
        }
    }
}

impl Cluster {
    /// Those that were removed, each once.
    pub fn removed(&self) -> Vec<Removed> {
        self.state.removed().iter().copied().collect()
    }

    /// Whether this folder was removed.
    pub fn is_removed(&self, uuid: Uuid) -> bool {
        self.state.is_removed(uuid) && !seeded::active(Bug::RemovedFolderAdmitted)
    }

    /// Whether a member can be removed as things stand.
    fn removable(&self, id: NodeId) -> Result<Removed, NotRemovable> {
        let Some(node) = self.registry.get(id) else { return Err(NotRemovable::NoMember(id)) };
        if let Some(reason) = self.waiting_for() {
            return Err(NotRemovable::NotYet(reason));
        }
        if node.state != NodeState::Down && !node.draining {
            return Err(NotRemovable::InUse(id));
        }
        let (mut messages, mut deletions, mut alone) = (0, 0, 0);
        for (set, count, _) in self.state.mapping.sets().filter(|(set, ..)| set.holders.contains(&id)) {
            *(if set.deleted { &mut deletions } else { &mut messages }) += count;
            alone += if self.is_readable_without(set, id) { 0 } else { count };
        }
        if messages + deletions > 0 {
            return Err(NotRemovable::Holds { node: id, messages, deletions, alone, draining: node.draining });
        }
        if self.is_listing(id) {
            return Err(NotRemovable::Listing(id));
        }
        match self.found_on(id) + self.intents_on(id) {
            0 => {}
            count => return Err(NotRemovable::Found { node: id, count }),
        }
        let left = self.registry.nodes().len() - 1;
        if left < self.tolerance {
            return Err(NotRemovable::TooFewLeft { need: self.tolerance, left });
        }
        Ok(Removed { id, uuid: node.member.uuid })
    }

    fn is_readable_without(&self, set: &HolderSet, id: NodeId) -> bool {
        self.readable(set).iter().any(|node| *node != id)
    }

    /// A member is to be removed: from now on nothing is placed on it. `given_up`: whatever it held, and whatever else
    /// is not known yet. Gives the writes under way, which may have chosen it before. Ends in [`Event::Removed`](super::state::Event::Removed)
    /// or [`Cluster::keep_member`].
    pub fn begin_removal(&mut self, id: NodeId, given_up: bool) -> Result<BTreeSet<Version>, NotRemovable> {
        self.end_removal(id, given_up)?;
        self.registry.set_leaving(id, true);
        Ok(self.under_way.clone())
    }

    /// How many messages and tombstones are held by this member, and can be read on no other node now.
    pub fn only_on(&self, id: NodeId) -> u64 {
        let held = self.state.mapping.sets().filter(|(set, ..)| set.holders.contains(&id));
        held.filter(|(set, ..)| !self.is_readable_without(set, id)).map(|(_, count, _)| count).sum()
    }

    /// A node that something but a log speaks of, and that never joined, is given up by order; `false`: it is none.
    pub fn give_up_stranger(&mut self, id: NodeId) -> bool {
        self.registry.get(id).is_none() && self.knowledge.give_up(id)
    }

    /// Whether any of these writes is under way.
    pub fn any_under_way(&self, versions: &BTreeSet<Version>) -> bool {
        !self.under_way.is_disjoint(versions)
    }

    /// Those writes are over: what the log has to say for the member to be removed, if that can still be.
    pub fn end_removal(&self, id: NodeId, given_up: bool) -> Result<Removed, NotRemovable> {
        if !given_up {
            return self.removable(id);
        }
        match self.registry.get(id) {
            None => Err(NotRemovable::NoMember(id)),
            // Whose disk takes nothing may be given up as if it were gone.
            Some(node) if node.state != NodeState::Down && !node.only_reads() => Err(NotRemovable::Answers(id)),
            Some(node) => Ok(Removed { id, uuid: node.member.uuid }),
        }
    }

    /// It is not removed.
    pub fn keep_member(&mut self, id: NodeId) {
        self.registry.set_leaving(id, false);
    }

    /// A member was removed, or another leader had told so.
    pub(super) fn depart(&mut self, removed: Removed) {
        let Removed { id, uuid } = removed;
        let (member, other) = match self.registry.get(id) {
            Some(node) => (node.member.uuid == uuid, node.member.uuid != uuid),
            None => (false, false),
        };
        self.knowledge.depart(id, uuid, member);
        if other {
            // The number belongs to the folder that came after it, and so does everything that names it.
            return;
        }
        self.registry.remove(id);
        self.informed.remove(&id);
        self.taking.remove(&id);
        self.alarmed.remove(&id);
        self.forget_found_on(id);
        self.excess.forget_node(id);
        self.in_doubt.forget_node(id);
        self.doubts.forget_node(id);
        self.undecided.depart(id);
        self.forget_copies_on(id);
        let members = self.member_ids();
        self.deletions.depart(id, &members);
        self.forget_newcomer(id);
    }

    /// A member that an order removed holds nothing. One of which an old log does not know that it was may be a
    /// holder in it: others have these copies since, and are asked for them.
    fn forget_copies_on(&mut self, node: NodeId) {
        if self.is_empty_node(node) {
            return;
        }
        for part in 0..SHARDS {
            let held = self.state.mapping.records(part).filter(|(_, found)| found.set.holders.contains(&node));
            let held: Vec<_> = held.map(|(key, found)| (key.id(), found.record.version)).collect();
            held.iter().for_each(|(id, version)| self.state.mapping.mark(id, *version, node, false));
        }
    }

    /// The members that may not know of all that were removed.
    pub fn uninformed(&self) -> Vec<NodeId> {
        let all = self.state.removed().len();
        let knows = |node: &NodeId| all == 0 || self.informed.get(node) == Some(&all);
        self.member_ids().into_iter().filter(|node| !knows(node)).collect()
    }

    /// Whether so many members know of all that were removed that a leader from an older copy of the log would be told.
    pub(super) fn removals_are_known(&self) -> bool {
        let members = self.registry.nodes().len();
        members - self.uninformed().len() >= self.tolerance().max(self.fewest_copies()).min(members)
    }

    /// A member keeps the list of those that were removed, of which there were so many when it was told.
    pub fn note_informed(&mut self, node: NodeId, count: usize) {
        if self.registry.get(node).is_some() {
            self.informed.insert(node, count);
        }
    }
}
