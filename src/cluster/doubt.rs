//! What failed writes may have left of ids that have no message: nobody may be told that there is none, until the nodes
//! in question have said what they have.
//!
//! Of an id that has a message, that one stays true and readable meanwhile, and no more is remembered than in
//! `admission`.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::inventory::Uncommitted;
use super::mapping::Commit;
use super::{Cluster, Located, Ticket};
use crate::error::name_nodes;
use crate::seeded::{self, Bug};
use crate::types::{CopyRecord, MessageId, NodeId, Nodes, Version};

/// Copies of this kind that are remembered. Beyond it, ids without a message cannot be written until some of the nodes in
/// question are heard: what is not remembered could not be told from what is not there.
pub(super) const MOST_DOUBTS: usize = 65_536;

/// Which copies may be where.
#[derive(Debug, Default)]
pub(super) struct Doubts(BTreeMap<NodeId, BTreeMap<MessageId, SmallVec<[CopyRecord; 1]>>>);

impl Doubts {
    fn note(&mut self, node: NodeId, id: &MessageId, record: CopyRecord) {
        let records = self.0.entry(node).or_default().entry(id.clone()).or_default();
        if !records.contains(&record) {
            records.push(record);
        }
    }

    /// Forgets copies of an id up to this version, on this node or on all of them.
    fn forget(&mut self, id: &MessageId, upto: Version, on: Option<NodeId>) {
        for (_, ids) in self.0.iter_mut().filter(|(node, _)| on.is_none_or(|on| on == **node)) {
            let Some(records) = ids.get_mut(id) else { continue };
            records.retain(|record| record.version > upto);
            if records.is_empty() {
                ids.remove(id);
            }
        }
        self.0.retain(|_, ids| !ids.is_empty());
    }

    /// A version became true: what is older never does.
    pub(super) fn hear(&mut self, commit: &Commit) {
        if !self.0.is_empty() {
            self.forget(&commit.id, commit.record.version, None);
        }
    }

    /// A node is no member any more.
    pub(super) fn forget_node(&mut self, node: NodeId) {
        self.0.remove(&node);
    }

    fn len(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    /// The nodes that may have a copy of this id.
    fn nodes(&self, id: &MessageId) -> Nodes {
        self.0.iter().filter(|(_, ids)| ids.contains_key(id)).map(|(node, _)| *node).collect()
    }
}

impl Cluster {
    /// A write failed, and these of its nodes may have a copy.
    pub(super) fn note_doubt(&mut self, ticket: &Ticket, nodes: impl Iterator<Item = NodeId>) {
        let (id, record) = (&ticket.id, ticket.record);
        // What was found already is completed as it was found. A tombstone that is there or not leaves no message.
        let found = self
            .uncommitted
            .get(id)
            .is_some_and(|found| found.record.version == Version::FOREIGN || found.record.version >= record.version);
        if self.state.mapping.get(id).is_none() && !found && !record.is_tombstone() {
            nodes.for_each(|node| self.doubts.note(node, id, record));
        }
    }

    /// Whether a failed write may have left a copy of an id that has no message.
    pub(super) fn is_in_doubt(&self, id: &MessageId) -> bool {
        !seeded::active(Bug::DoubtIsAbsence) && !self.doubts.nodes(id).is_empty()
    }

    /// Whether so much is in doubt that an id without a message must not be written.
    pub(super) fn doubts_too_much(&self, id: &MessageId) -> Option<String> {
        if self.doubts.len() < MOST_DOUBTS || self.state.mapping.get(id).is_some() {
            return None;
        }
        let nodes: Nodes = self.doubts.0.keys().copied().collect();
        Some(format!(
            "{MOST_DOUBTS} failed writes may have left copies on {}: start what is down, or REMOVE it",
            name_nodes(&nodes)
        ))
    }

    /// Finds a message for the leader itself (another one may know better, unless a commit follows): as
    /// [`Cluster::locate_known`], but what a failed write may have left is not taken for absent.
    pub fn find_here(&self, id: &MessageId, turn: usize) -> Located {
        match self.locate_known(id, turn) {
            Located::NotFound if self.is_in_doubt(id) => Located::Hidden(format!(
                "a write of it failed and may have left a copy on {}, which is asked as soon as it answers",
                name_nodes(&self.doubts.nodes(id))
            )),
            located => located,
        }
    }

    /// The linked nodes that have to say what they have, each with up to `limit` ids.
    pub fn doubts(&self, limit: usize) -> Vec<(NodeId, Vec<(MessageId, CopyRecord)>)> {
        let linked = self.doubts.0.iter().filter(|(node, _)| self.registry.is_linked(**node));
        let some = |ids: &BTreeMap<MessageId, SmallVec<[CopyRecord; 1]>>| {
            let all = ids.iter().flat_map(|(id, records)| records.iter().map(|record| (id.clone(), *record)));
            all.take(limit).collect()
        };
        linked.map(|(node, ids)| (*node, some(ids))).collect()
    }

    /// A node that has done all that it was told before has this copy, or surely has not.
    pub fn settle_doubt(&mut self, node: NodeId, id: &MessageId, record: CopyRecord, here: bool) {
        let Some(records) = self.doubts.0.get_mut(&node).and_then(|ids| ids.get_mut(id)) else { return };
        let Some(at) = records.iter().position(|other| *other == record) else { return };
        records.remove(at);
        if records.is_empty() {
            self.doubts.forget(id, Version::FOREIGN, Some(node));
        }
        if !here || self.transactions.is_void(id, record.version) {
            return;
        }
        if self.is_outdated(id, record.version) {
            self.note_excess(id, record.version, node);
        } else {
            // It goes forward, as what an inventory shows does.
            self.uncommitted.entry(id.clone()).or_insert_with(|| Uncommitted::new(record)).note(node, record);
        }
    }
}
