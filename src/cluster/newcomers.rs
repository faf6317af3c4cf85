//! New members, until they count.
//!
//! A leader from an older copy of the log knows fewer members, and would settle with fewer. So a new member keeps nothing,
//! and its word counts for nothing, until as many of the members that count as a message has copies have noted a list
//! that names it: whichever members that leader settles with, one of them tells it of the new one.

use std::collections::{BTreeMap, BTreeSet};

use super::Cluster;
use crate::seeded::{self, Bug};
use crate::types::NodeId;

/// Members that do not count yet, and who has noted a list that names them.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    noted: BTreeMap<NodeId, BTreeSet<NodeId>>,
}

impl Cluster {
    /// A node has become a member.
    pub fn introduce(&mut self, id: NodeId) {
        if seeded::active(Bug::NewcomerCountsAtOnce) {
            return;
        }
        self.newcomers.noted.insert(id, BTreeSet::new());
        self.registry.set_fresh(id, true);
        self.count_newcomers();
    }

    /// A member has noted a list of these members. Whether any counts from now on.
    pub fn note_listed(&mut self, by: NodeId, listed: &[NodeId]) -> bool {
        for id in listed {
            if let Some(noted) = self.newcomers.noted.get_mut(id) {
                noted.insert(by);
            }
        }
        self.count_newcomers()
    }

    /// A member is none any more.
    pub(super) fn forget_newcomer(&mut self, id: NodeId) {
        self.newcomers.noted.remove(&id);
        self.newcomers.noted.values_mut().for_each(|noted| {
            noted.remove(&id);
        });
        self.count_newcomers();
    }

    /// Whether this member counts.
    pub fn counts_in(&self, id: NodeId) -> bool {
        !self.newcomers.noted.contains_key(&id)
    }

    /// The members that do not count yet.
    pub fn newcomers(&self) -> Vec<NodeId> {
        self.newcomers.noted.keys().copied().collect()
    }

    fn count_newcomers(&mut self) -> bool {
        let mut any = false;
        loop {
            let counted: BTreeSet<NodeId> = self.registry.counted().collect();
            let needed = self.tolerance.max(self.fewest_copies()).min(counted.len());
            let enough = |noted: &BTreeSet<NodeId>| noted.intersection(&counted).count() >= needed;
            let Some(id) = self.newcomers.noted.iter().find(|(_, noted)| enough(noted)).map(|(id, _)| *id) else {
                return any;
            };
            self.newcomers.noted.remove(&id);
            self.registry.set_fresh(id, false);
            any = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cluster::knowledge::Trust;
    use crate::cluster::registry::Traits;
    use crate::cluster::state::State;
    use crate::types::{Member, Uuid};

    fn join(cluster: &mut Cluster, node: u32) {
        let (id, uuid) = (NodeId(node), Uuid([node as u8; 16]));
        cluster.registry.remember(Member { id, uuid, address: String::new() }, Duration::ZERO);
        cluster.introduce(id);
        cluster.registry.join(id, 1, Traits::default(), Duration::ZERO);
    }

    fn nodes(ids: &[u32]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn a_new_member_counts_when_enough_others_know_of_it() {
        let mut cluster = Cluster::new(2, State::new(1), Trust::Whole);
        join(&mut cluster, 1);
        assert_eq!(cluster.newcomers(), [], "nobody else could know of the first one");
        join(&mut cluster, 2);
        join(&mut cluster, 3);
        assert_eq!((cluster.newcomers(), cluster.registry.usable()), (nodes(&[2, 3]), 1));
        assert!(!cluster.note_listed(NodeId(2), &nodes(&[1, 2, 3])), "the new ones themselves do not count");
        assert!(cluster.note_listed(NodeId(1), &nodes(&[1, 2])));
        assert_eq!(cluster.newcomers(), nodes(&[3]), "two have to know of node 3 now, and node 2 does");
        assert!(cluster.note_listed(NodeId(1), &nodes(&[1, 2, 3])));
        assert_eq!((cluster.newcomers(), cluster.registry.usable()), (vec![], 3));
        join(&mut cluster, 4);
        assert!(!cluster.note_listed(NodeId(3), &nodes(&[1, 2, 3, 4])));
        cluster.registry.note_answered(NodeId(4), Duration::ZERO);
        cluster.registry.note_answered(NodeId(1), Duration::ZERO);
        let small = crate::types::CopyRecord { version: crate::types::Version(1), length: 1, crc: 1, expires: None };
        assert!(!cluster.registry.choose(small, 0, 3, &[], &[]).contains(&NodeId(4)));
        cluster.forget_newcomer(NodeId(4));
        assert_eq!(cluster.newcomers(), []);
    }
}
