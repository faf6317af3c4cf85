//! Evening out: copies move to nodes that hold fewer, by an operator's order (REBALANCE), or by itself where that is wanted
//! (`--auto-rebalance`). What fails there needs nothing: new messages go to the least loaded nodes anyway.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::time::Duration;

use super::Cluster;
use super::registry::Node;
use super::repair::{Need, Repair};
use crate::types::{MessageId, NodeId, Nodes};

/// Copies on each node from which on it is worth saying that one has far fewer.
const WORTH_EVENING: u64 = 100;

/// Whether copies are evened out, and when that begins by itself.
#[derive(Debug, Default)]
pub(super) struct Evening {
    on: bool,
    /// The operator has ended it, and has it stay so.
    stopped: bool,
    /// Begin after one node was poor for so long; nothing: only by an order.
    by_itself_after: Option<Duration>,
    /// The poor node, and since when it is, on the clock of the registry.
    poor: Option<(NodeId, Duration)>,
}

impl Cluster {
    /// Begins or ends evening out. An operator who ends it has it stay so until the next order.
    pub fn set_rebalancing(&mut self, on: bool) {
        self.evening = Evening { on, stopped: !on, poor: None, by_itself_after: self.evening.by_itself_after };
    }

    /// Has it begin by itself when one node has held less than half of its share for longer than `after`.
    pub fn rebalance_by_itself(&mut self, after: Duration) {
        self.evening.by_itself_after = Some(after);
    }

    /// Whether copies are being evened out.
    pub fn is_rebalancing(&self) -> bool {
        self.evening.on
    }

    /// Ends evening out if nothing more would make the nodes more even; `true`: it did.
    pub fn rebalancing_ends(&mut self) -> bool {
        let ends = self.evening.on && self.uneven().is_none();
        self.evening.on &= !ends;
        ends
    }

    /// Begins to even out by itself if that is due; gives the node that has too little.
    pub fn rebalancing_begins(&mut self, now: Duration) -> Option<NodeId> {
        let after = self.evening.by_itself_after.filter(|_| !self.evening.stopped)?;
        let Some(poor) = self.poor() else {
            self.evening.poor = None;
            return None;
        };
        let since = self.evening.poor.filter(|(node, _)| *node == poor).map_or(now, |(_, since)| since);
        self.evening.poor = Some((poor, since));
        if now.saturating_sub(since) < after {
            return None;
        }
        (self.evening.on, self.evening.poor) = (true, None);
        Some(poor)
    }

    /// How many copies have to move until nodes that take copies are even.
    pub(super) fn moves_left(&self) -> u64 {
        let loads: Vec<u64> = self.registry.nodes().iter().filter(|node| node.placeable()).map(Node::load).collect();
        let Some(even) = loads.iter().sum::<u64>().checked_div(loads.len() as u64) else { return 0 };
        // One more than the even share is as even as it gets.
        loads.iter().map(|load| load.saturating_sub(even + 1)).sum()
    }

    /// Nodes that hold fewer copies than the others would even out to, as they have no room.
    pub fn full_nodes(&self) -> Vec<NodeId> {
        self.registry.nodes().iter().filter(|node| node.is_full()).map(|node| node.member.id).collect()
    }

    /// The node that holds less than half of its share, for which nobody has asked to even out.
    pub fn poor(&self) -> Option<NodeId> {
        let taking: Vec<&Node> = self.registry.nodes().iter().filter(|node| node.placeable()).collect();
        let share = taking.iter().map(|node| node.load()).sum::<u64>().checked_div(taking.len() as u64)?;
        let least = taking.iter().min_by_key(|node| (node.load(), node.member.id))?;
        (!self.evening.on && share >= WORTH_EVENING && least.load() < share / 2).then_some(least.member.id)
    }

    /// The most and the least loaded of the nodes that take copies, if it pays to move one from the one to the other.
    pub fn uneven(&self) -> Option<(NodeId, NodeId)> {
        let taking = || self.registry.nodes().iter().filter(|node| node.placeable());
        let most = taking().max_by_key(|node| (node.load(), node.member.id))?;
        let least = taking().min_by_key(|node| (node.load(), node.member.id))?;
        (most.load() > least.load() + 1).then_some((most.member.id, least.member.id))
    }

    /// Up to `limit` messages of one part of the index with a copy to move from one node to another.
    pub fn movable<S: BuildHasher>(
        &self,
        part: usize,
        (from, to): (NodeId, NodeId),
        limit: usize,
        skip: &HashSet<MessageId, S>,
    ) -> Vec<MessageId> {
        self.find(part, limit, skip, |set| !set.deleted && set.has_intact(from) && !set.holders.contains(&to))
    }

    /// Decides to move a copy, and promises it; nothing if that would even nothing out any more.
    pub fn admit_move(&mut self, id: &MessageId, (from, to): (NodeId, NodeId)) -> Option<Repair> {
        let found = self.state.mapping.get(id)?;
        let (record, set) = (found.record, found.set.clone());
        let load = |id: NodeId| self.node(id).map(Node::load);
        let pays = load(from)? > load(to)? + 1 && self.node(to)?.placeable();
        if !pays || self.need(&set) != Need::Nothing || !set.has_intact(from) || set.holders.contains(&to) {
            return None;
        }
        let keep: Nodes = set.intact().filter(|node| *node != from).collect();
        let targets = keep.iter().copied().chain([to]).collect();
        let sources = self.readable(&set);
        (!sources.is_empty()).then(|| self.step(id, record, &set, keep, targets, sources))
    }
}
