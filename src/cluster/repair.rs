//! Which messages have too few, too many or misplaced copies, and what is to be done about each.
//!
//! A copy counts if it is not known to be bad and its node is neither missing nor draining. What a message needs
//! follows from its holder set alone, so a look at the few distinct sets tells how much there is to do; the ids
//! are then found by passes over the index, most endangered first. Nothing is remembered between two looks: a
//! node that returns, or an order that is taken back, cancels what was not done yet.

use std::collections::{BTreeMap, HashSet};
use std::hash::BuildHasher;

use smallvec::SmallVec;

use super::mapping::HolderSet;
use super::registry::Node;
use super::{Cluster, Ticket};
use crate::error::name_nodes;
use crate::types::{BlockedView, CopyRecord, Holders, MessageId, NodeId, NodeState, Nodes, RepairView, Version};

/// Ids of a stuck kind that reports name.
const NAMED: usize = 5;

/// How pressing it is: intact copies that can be read now; fewer are more pressing.
pub type Urgency = usize;

/// One step for one message. The version stays; its copies move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// Its targets: holders that stay, and nodes that get a copy.
    pub ticket: Ticket,
    /// Those of the targets that have a copy which counts.
    pub keep: Nodes,
    /// Holders that stay on record beside the targets, because these are fewer than tolerance asks for: their
    /// copies are intact, if on nodes that are away or being drained.
    pub also: Nodes,
    /// Who can be asked for the content, best first.
    pub sources: Nodes,
    /// Copies that can be read will go: those that stay have to be read and checked first.
    pub trims: bool,
}

/// What to do about the excess copies of one id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trim {
    /// The committed record; nothing where the id was deleted and forgotten.
    pub committed: Option<CopyRecord>,
    /// Holders that have to prove first that they have it.
    pub check: Nodes,
    /// Which nodes let go of what: everything up to this version, or (where they are holders) before it.
    pub settles: SmallVec<[(NodeId, Version, bool); 2]>,
    /// The copies that were looked at.
    pub copies: SmallVec<[(NodeId, Version); 2]>,
}

/// What stands in a message's way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Obstacle {
    TooFewNodes,
    Unreadable(Vec<NodeId>),
    Lost,
}

/// What a holder set needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Need {
    Nothing,
    Step(Urgency),
    Stuck(Obstacle),
}

impl Cluster {
    pub(super) fn node(&self, id: NodeId) -> Option<&Node> {
        self.registry.get(id)
    }

    fn is_missing(&self, id: NodeId) -> bool {
        self.node(id).is_none_or(|node| node.missing)
    }

    /// Holders whose copies count.
    fn counting(&self, set: &HolderSet) -> Nodes {
        set.intact().filter(|&id| self.node(id).is_some_and(|node| !node.missing && !node.draining)).collect()
    }

    /// Holders whose copies can be read now, steady ones first.
    pub(super) fn readable(&self, set: &HolderSet) -> Nodes {
        let mut all: Nodes = set.intact().filter(|id| self.registry.is_readable(*id)).collect();
        let steady = |node: &Node| node.state == NodeState::Up && node.is_linked();
        all.sort_by_key(|id| !self.node(*id).is_some_and(steady));
        all
    }

    pub(super) fn need(&self, set: &HolderSet) -> Need {
        let counting = self.counting(set).len();
        if counting == self.tolerance && set.holders.len() == self.tolerance {
            return Need::Nothing;
        }
        let readable = self.readable(set);
        if counting >= self.tolerance {
            // Too many copies wait until some of them can be asked.
            return if readable.is_empty() { Need::Nothing } else { Need::Step(readable.len()) };
        }
        if set.intact().next().is_none() {
            return Need::Stuck(Obstacle::Lost);
        }
        if readable.is_empty() {
            return Need::Stuck(Obstacle::Unreadable(set.intact().collect()));
        }
        let takes = |node: &&Node| node.placeable() && !(set.has_intact(node.member.id));
        match self.registry.nodes().iter().any(|node| takes(&node)) {
            true => Need::Step(readable.len()),
            false => Need::Stuck(Obstacle::TooFewNodes),
        }
    }

    /// Of the messages that need a step, how pressing are the most pressing.
    pub fn most_urgent(&self) -> Option<Urgency> {
        if !self.has_heard() {
            return None;
        }
        let urgency = |set: &HolderSet| match self.need(set) {
            Need::Step(urgency) => Some(urgency),
            _ => None,
        };
        self.state.mapping.sets().filter_map(|(set, ..)| urgency(set)).min()
    }

    /// Up to `limit` messages of one part of the index that need a step of this urgency.
    pub fn urgent<S: BuildHasher>(
        &self,
        part: usize,
        urgency: Urgency,
        limit: usize,
        skip: &HashSet<MessageId, S>,
    ) -> Vec<MessageId> {
        self.find(part, limit, skip, |set| self.need(set) == Need::Step(urgency))
    }

    /// Up to `limit` messages that no holder has an intact copy of, while a node that is no holder lists one.
    pub fn rescuable<S: BuildHasher>(&self, limit: usize, skip: &HashSet<MessageId, S>) -> Vec<MessageId> {
        if !self.has_heard() || self.state.mapping.sets().all(|(set, ..)| set.intact().next().is_some()) {
            return Vec::new();
        }
        let spare = |id: &MessageId, version| {
            self.excess.of(id).any(|(node, of)| of == version && self.registry.is_linked(node))
        };
        let rescuable = |id: &&MessageId| {
            let found = self.state.mapping.newest(id);
            found.is_some_and(|found| found.set.intact().next().is_none() && spare(id, found.record.version))
        };
        let all = self.excess.ids().filter(|id| !skip.contains(*id)).filter(rescuable);
        all.take(limit).cloned().collect()
    }

    /// Up to `limit` messages of one part of the index that no holder has an intact copy of.
    pub fn lost<S: BuildHasher>(&self, part: usize, limit: usize, skip: &HashSet<MessageId, S>) -> Vec<MessageId> {
        let is_lost = |set: &HolderSet| !set.deleted && set.intact().next().is_none();
        if !self.has_heard() || !self.state.mapping.sets().any(|(set, ..)| is_lost(set)) {
            return Vec::new();
        }
        self.find(part, limit, skip, is_lost)
    }

    /// What a message that no holder has an intact copy of was.
    pub fn lost_record(&self, id: &MessageId) -> Option<CopyRecord> {
        let found = self.state.mapping.newest(id)?;
        (!found.set.deleted && found.set.intact().next().is_none()).then_some(found.record)
    }

    /// A node has proved that it has a copy of this version.
    pub fn note_proven(&mut self, id: &MessageId, version: Version, node: NodeId) {
        match self.is_holder(id, version, node) {
            true => self.note_copy(id, version, node, true),
            false => self.note_excess(id, version, node),
        }
    }

    pub(super) fn find<S: BuildHasher>(
        &self,
        part: usize,
        limit: usize,
        skip: &HashSet<MessageId, S>,
        wanted: impl FnMut(&HolderSet) -> bool,
    ) -> Vec<MessageId> {
        let all = self.state.mapping.records_on(part, wanted).map(|(key, _)| key.id());
        all.filter(|id| !skip.contains(id)).take(limit).collect()
    }

    /// Decides a message's step, and promises it. Nothing if it needs none any more, or none can be taken now.
    pub fn admit_repair(&mut self, id: &MessageId) -> Option<Repair> {
        let found = self.state.mapping.newest(id)?;
        let (record, set) = (found.record, found.set.clone());
        let mut keep = self.counting(&set);
        let mut sources = self.readable(&set);
        let had = keep.len();
        if keep.len() > self.tolerance {
            // The most loaded give theirs up.
            keep.sort_by_key(|id| self.node(*id).map_or(u64::MAX, Node::load));
            keep.truncate(self.tolerance);
        }
        let mut targets = keep.clone();
        let spare = self.excess.of(id).filter(|(_, version)| *version == record.version).map(|(node, _)| node);
        let spare: SmallVec<[NodeId; 2]> = spare.filter(|id| self.node(*id).is_some_and(Node::placeable)).collect();
        sources.extend(spare.iter().copied());
        // A bad copy is made again where it is, and one that is there already is taken for what it is.
        let bad = set.holders.iter().filter(|id| !set.has_intact(**id) && self.node(**id).is_some_and(Node::placeable));
        for &node in spare.iter().chain(bad) {
            if targets.len() < self.tolerance && !targets.contains(&node) {
                targets.push(node);
            }
        }
        let barred: SmallVec<[NodeId; 16]> = set.holders.iter().chain(&targets).copied().collect();
        if targets.len() < self.tolerance {
            let more = self.registry.choose(record, 0, self.tolerance - targets.len(), &[], &barred);
            let gladly = |node: &Node| node.is_ranked() && !node.full_for(record);
            targets.extend(more.into_iter().filter(|id| self.node(*id).is_some_and(gladly)));
        }
        let gains = targets.len() > had;
        let sheds = had >= self.tolerance && set.holders.len() > targets.len();
        if sources.is_empty() || !(gains || sheds) {
            return None;
        }
        Some(self.step(id, record, &set, keep, targets, sources))
    }

    pub(super) fn step(
        &mut self,
        id: &MessageId,
        record: CopyRecord,
        set: &HolderSet,
        keep: Nodes,
        targets: Nodes,
        sources: Nodes,
    ) -> Repair {
        let room = self.tolerance.saturating_sub(targets.len());
        let also: Nodes = set.intact().filter(|node| !targets.contains(node)).take(room).collect();
        let goes = |node: NodeId| !targets.contains(&node) && !also.contains(&node) && !self.is_missing(node);
        let trims = set.intact().any(goes);
        // A tombstone is no load.
        let held = if set.deleted { Holders::new() } else { set.holders.clone() };
        let mut ticket = self.promise_to(id, record, targets, held);
        self.repairing.insert(record.version);
        // A holder that is to give its copy up must not stand in for a target.
        ticket.tried.extend(set.holders.iter().copied());
        Repair { ticket, keep, also, sources, trims }
    }

    // ---- draining ----------------------------------------------------------

    /// Whether a node could be emptied: how many nodes would be left to take copies.
    pub fn left_without(&self, node: NodeId) -> usize {
        let reached = |other: &Node| other.state != NodeState::Down && !other.only_reads();
        let takes = |other: &&Node| !other.draining && !other.full() && reached(other);
        let stays = |other: &&Node| other.member.id != node && takes(other);
        self.registry.nodes().iter().filter(stays).count()
    }

    /// Whether no message and no tombstone is held by a node.
    pub fn is_empty_node(&self, node: NodeId) -> bool {
        self.state.mapping.sets().all(|(set, ..)| !set.holders.contains(&node))
    }

    // ---- excess -----------------------------------------------------------

    /// Up to `limit` ids with copies that nobody needs. None while a node misses a large part of its copies: then
    /// nothing at all is removed.
    pub fn excess<S: BuildHasher>(&self, limit: usize, skip: &HashSet<MessageId, S>) -> Vec<MessageId> {
        if !self.has_heard() || !self.alarmed.is_empty() {
            return Vec::new();
        }
        self.excess.ids().filter(|id| !skip.contains(*id)).take(limit).cloned().collect()
    }

    /// Decides about the excess copies of an id. Nothing: they wait, as its own copies are not as they should be.
    pub fn trim(&mut self, id: &MessageId) -> Option<Trim> {
        // A node that went away lists what it has when it comes back.
        self.excess.retain(id, |(node, _)| self.registry.is_linked(node));
        let found = self.state.mapping.newest(id);
        let committed = found.map(|found| found.record);
        let copies: SmallVec<[(NodeId, Version); 2]> = self.excess.of(id).collect();
        let mut settles: SmallVec<[(NodeId, Version, bool); 2]> = SmallVec::new();
        for &(node, version) in &copies {
            match found {
                Some(found) if found.record.version < version => {}
                Some(_) if settles.iter().any(|(told, ..)| *told == node) => {}
                Some(found) => settles.push((node, found.record.version, found.set.holders.contains(&node))),
                None if version <= self.horizon() && !self.undecided.names(version) => {
                    settles.push((node, version, false))
                }
                None => {}
            }
        }
        // What is too many now can be what a step needs in a moment, and what is too old is so only in the end.
        if self.uncommitted.contains_key(id) || found.is_some_and(|found| self.need(found.set) != Need::Nothing) {
            return None;
        }
        let check = found.map(|found| found.set.intact().collect()).unwrap_or_default();
        Some(Trim { committed, check, settles, copies })
    }

    /// A node may have a copy of this version, or an older one, that should go. One that is away lists it when it
    /// comes back.
    pub fn note_excess(&mut self, id: &MessageId, version: Version, node: NodeId) {
        if self.registry.is_linked(node) {
            self.excess.note(id, node, version);
        }
    }

    /// A node was told that this version is true, and did not do what follows from that: it may have a copy of it too
    /// many, and one of an older version that stands before it even if the node becomes a holder meanwhile.
    pub fn note_undone(&mut self, id: &MessageId, version: Version, node: NodeId) {
        self.note_excess(id, version, node);
        self.note_excess(id, Version(version.0.saturating_sub(1)), node);
    }

    /// These excess copies of an id are dealt with. Others may have been noted meanwhile.
    pub fn trimmed(&mut self, id: &MessageId, copies: &[(NodeId, Version)]) {
        self.excess.retain(id, |copy| !copies.contains(&copy));
    }

    /// Ends the alarm over nodes whose missing copies are there again.
    pub fn quiet_alarms(&mut self) {
        let bad = |node: &NodeId| {
            let lost = |set: &HolderSet| set.holders.contains(node) && !set.has_intact(*node);
            self.state.mapping.sets().any(|(set, ..)| lost(set))
        };
        let still: Vec<NodeId> = self.alarmed.iter().filter(|node| bad(node)).copied().collect();
        self.alarmed.retain(|node| still.contains(node));
    }

    // ---- reporting ---------------------------------------------------------

    /// What is to be done and what cannot be; rates are left to whoever measures them.
    pub fn repair_view(&self) -> RepairView {
        let mut view = RepairView { rebalancing: self.is_rebalancing(), ..RepairView::default() };
        if !self.has_heard() {
            return view;
        }
        let steps =
            self.state.mapping.sets().filter(|(set, ..)| !set.deleted && matches!(self.need(set), Need::Step(_)));
        view.pending = steps.map(|(_, messages, _)| messages).sum();
        view.uneven = self.poor().filter(|_| view.pending == 0);
        if self.is_rebalancing() {
            view.pending += self.moves_left();
        }
        view.blocked = self.stuck().into_iter().map(|(obstacle, messages)| self.tell(&obstacle, messages)).collect();
        if let Some((count, away)) = self.piled_up() {
            let (nodes, are) = (name_nodes(&away), if away.len() == 1 { "is" } else { "are" });
            view.blocked.push(BlockedView {
                messages: count as u64,
                why: format!("deleted, and their tombstones are kept for {nodes}, which {are} away"),
                help: format!("start {nodes}, or REMOVE what never comes back"),
                ids: Vec::new(),
            });
        }
        view
    }

    /// What stands in the way of how many messages.
    fn stuck(&self) -> BTreeMap<Obstacle, u64> {
        let mut stuck = BTreeMap::new();
        for (set, messages, _) in self.state.mapping.sets().filter(|(set, ..)| !set.deleted) {
            if let Need::Stuck(obstacle) = self.need(set) {
                *stuck.entry(obstacle).or_default() += messages;
            }
        }
        stuck
    }

    fn tell(&self, obstacle: &Obstacle, messages: u64) -> BlockedView {
        let (why, help) = match obstacle {
            Obstacle::TooFewNodes => {
                let have = self.registry.nodes().iter().filter(|node| node.placeable()).count();
                (
                    format!("{} copies are wanted and {have} nodes take any", self.tolerance),
                    "start a node that is down, add one, or make room on a full one".to_owned(),
                )
            }
            Obstacle::Unreadable(nodes) => (
                format!("the only intact copies are on {}, which cannot be asked", name_nodes(nodes)),
                format!("start {}", name_nodes(nodes)),
            ),
            Obstacle::Lost => (
                "no holder has an intact copy".to_owned(),
                "write them again, or put a good copy into a node's folder and restart it".to_owned(),
            ),
        };
        let named = self.stuck_ids.iter().filter(|(_, other)| other == obstacle).map(|(id, _)| id.clone());
        BlockedView { messages, why, help, ids: named.collect() }
    }

    /// Looks through one part of the index for ids to name in reports; the first part starts anew. `true`: there are
    /// enough, and no other part has to be looked through.
    pub fn name_stuck(&mut self, part: usize) -> bool {
        if part == 0 {
            self.stuck_ids.clear();
        }
        let named = |obstacle: &Obstacle| self.stuck_ids.iter().filter(|(_, other)| other == obstacle).count();
        let some = |(obstacle, messages): (Obstacle, u64)| {
            let left = NAMED.min(messages as usize).saturating_sub(named(&obstacle));
            (obstacle, left)
        };
        let mut left: Vec<(Obstacle, usize)> = self.stuck().into_iter().map(some).collect();
        let mut found: Vec<(MessageId, Obstacle)> = Vec::new();
        let is_stuck = |set: &HolderSet| !set.deleted && matches!(self.need(set), Need::Stuck(_));
        for (key, message) in self.state.mapping.records_on(part, is_stuck) {
            left.retain(|(_, count)| *count > 0);
            if left.is_empty() {
                break;
            }
            if let Need::Stuck(obstacle) = self.need(message.set)
                && let Some((_, count)) = left.iter_mut().find(|(other, _)| *other == obstacle)
            {
                *count -= 1;
                found.push((key.id(), obstacle));
            }
        }
        self.stuck_ids.extend(found);
        left.iter().all(|(_, count)| *count == 0)
    }
}
