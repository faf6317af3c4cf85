//! What a leader may claim to know, and of whom it still has to hear.
//!
//! A log that says that it is whole may be a copy that was made a moment before its end. Commits are not in the order
//! of versions, so that only inventories show it. Whatever the log, a leader hears complete inventories first, and until
//! then says of an id that it cannot tell, instead of "no such message".

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::seeded::{self, Bug};
use crate::types::{NodeId, Uuid};

/// How long a leader without its log waits for a node that was once told who the members are, when all that have come
/// were not: they joined in the last moment of the leader before, and whoever knows more is surely on its way.
const TOLD_GRACE: Duration = Duration::from_secs(10);

/// What the log says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// It holds every commit, unless it is a copy that was made before its end.
    Whole,
    /// It was written to the page cache of another boot: its end may be missing.
    MayLackItsEnd,
    /// There was none, or nodes have seen a later epoch than it has.
    Nothing,
}

/// Which inventories have come, and whether they suffice.
#[derive(Debug)]
pub struct Knowledge {
    trust: Trust,
    reported: BTreeSet<NodeId>,
    /// The members that the log names.
    named: BTreeSet<NodeId>,
    /// The index is believed: the inventories that came suffice, or, where a majority of leaders has agreed on the log,
    /// enough nodes have joined.
    settled: bool,
    /// The inventories that came suffice.
    heard: bool,
    /// A majority of leaders has agreed on the log: it lacks nothing that was ever acknowledged.
    agreed: bool,
    /// The log said at the start that it is whole, and nothing has shown that it is an old one.
    from_log: bool,
    /// Enough nodes have joined to have said if there was a later epoch.
    greeted: bool,
    /// The log was found to be an old one, by this leader or the one before it.
    old: bool,
    /// Nodes of this cluster that announced themselves, each with its folder, or that are heard of by number only, and
    /// are no members yet.
    announced: BTreeMap<NodeId, Option<Uuid>>,
    /// Some node has served a leader of this cluster before.
    older: bool,
    /// A node has joined that was once told who the members are.
    told: bool,
    /// Since when nothing but such a node is missing.
    untold_since: Option<Duration>,
}

impl Knowledge {
    /// What a leader knows at its start.
    pub fn new(trust: Trust) -> Self {
        Self {
            trust,
            reported: BTreeSet::new(),
            named: BTreeSet::new(),
            announced: BTreeMap::new(),
            older: false,
            told: false,
            untold_since: None,
            settled: false,
            heard: false,
            agreed: false,
            from_log: trust == Trust::Whole,
            greeted: false,
            old: false,
        }
    }

    /// What the log says of itself; [`Trust::Whole`] too when inventories have said what it lacks.
    pub fn trust(&self) -> Trust {
        self.trust
    }

    /// A majority of leaders has agreed on the log.
    pub fn rely_on_group(&mut self) {
        self.agreed = true;
    }

    /// Whether the log is believed without inventories, as soon as enough nodes have joined.
    pub fn relies_on_group(&self) -> bool {
        self.agreed && self.trust == Trust::Whole
    }

    /// Whether the index is believed.
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// Whether so many inventories came that nothing acknowledged is on none of those nodes: from here on copies are made
    /// and deleted.
    pub fn has_heard(&self) -> bool {
        self.heard
    }

    /// The index turned out to be older than what nodes have seen: start over.
    pub fn distrust(&mut self) {
        self.trust = Trust::Nothing;
        self.reported.clear();
        self.told = false;
        (self.old, self.from_log, self.settled, self.heard, self.agreed) = (true, false, false, false, false);
    }

    /// The log names this member.
    pub fn name(&mut self, node: NodeId) {
        self.named.insert(node);
    }

    /// Whether any of these is a member that the log names, if it names any: a new and empty node says nothing of it.
    pub fn any_named(&self, nodes: &[NodeId]) -> bool {
        self.named.is_empty() || nodes.iter().any(|node| self.named.contains(node))
    }

    /// Whether a commit that the log does not have shows that it is an old copy.
    pub fn can_turn_out_old(&self) -> bool {
        self.from_log
    }

    /// Whether the members may have seen a later epoch than the log has, of which those that have joined know nothing: a
    /// version given now could be older than what was acknowledged then.
    pub fn may_be_succeeded(&self) -> bool {
        !self.greeted
    }

    /// Enough nodes have joined. A log that a majority of leaders has agreed on is believed from here on; `true`: since now.
    pub fn greet(&mut self) -> bool {
        self.greeted = true;
        if self.trust == Trust::Whole && seeded::active(Bug::LogBelievedUnheard) {
            (self.settled, self.heard) = (true, true);
        }
        let believed = self.relies_on_group() && !self.settled;
        self.settled |= believed;
        believed
    }

    /// The log was found to be an old one by the leader before, which did not come to forget what it alone speaks of.
    pub fn inherit_old(&mut self) {
        self.old = true;
    }

    /// Whether the log was found to be an old one, and what it alone speaks of is not forgotten yet.
    pub fn is_old(&self) -> bool {
        self.old
    }

    /// What only an old log speaks of is forgotten.
    pub fn is_new(&mut self) {
        self.old = false;
    }

    /// A node says that it belongs to this cluster. If the log is lost, only such a one knows who else does:
    /// those that are new know nothing, and what they report proves nothing.
    pub fn announce(&mut self, node: NodeId, uuid: Uuid) {
        self.announced.insert(node, Some(uuid));
        self.older = true;
    }

    /// Something but a log speaks of this node: it has to be heard.
    pub fn expect(&mut self, node: NodeId) {
        self.announced.entry(node).or_insert(None);
    }

    /// This folder was removed from the cluster: nobody waits for it. `member`: it was one until now.
    pub fn depart(&mut self, node: NodeId, uuid: Uuid, member: bool) {
        // Another folder may have the number by now.
        if self.announced.get(&node).is_some_and(|of| of.is_none_or(|of| of == uuid)) {
            self.announced.remove(&node);
        }
        if member {
            self.reported.remove(&node);
            self.named.remove(&node);
        }
    }

    /// A node that something but a log speaks of, and that is no member, is given up by order: nobody waits for it. Whether
    /// it was waited for.
    pub fn give_up(&mut self, node: NodeId) -> bool {
        self.announced.remove(&node).is_some()
    }

    /// A node has joined that a leader once told who the members are.
    pub fn note_told(&mut self) {
        self.told = true;
    }

    /// A complete inventory of this node was taken in.
    pub fn report(&mut self, node: NodeId) {
        self.reported.insert(node);
    }

    /// Believes the index if the inventories that came suffice. `members` are all nodes known of. Without a log all of
    /// them have to report, and if some come from an older cluster, at least `tolerance` have to be known, and one of
    /// them must have been told who they are. With a log all but `tolerance - 1`, and one that it names: a commit that
    /// was acknowledged and that it lacks is then on a node that did. True if that is so from here on.
    pub fn settle(&mut self, members: &[NodeId], tolerance: usize) -> bool {
        if self.heard {
            return false;
        }
        let missing = self.missing(members).len();
        let told = self.told || !self.older;
        let enough = match self.trust {
            Trust::Whole | Trust::MayLackItsEnd => missing < tolerance && self.any_named_reported(),
            Trust::Nothing if seeded::active(Bug::OneReportIsEnough) => missing < members.len(),
            Trust::Nothing => told && self.could_be_all(members, tolerance),
        };
        if enough {
            self.believe();
        }
        enough
    }

    fn any_named_reported(&self) -> bool {
        !self.reported.is_empty() && (self.named.is_empty() || !self.named.is_disjoint(&self.reported))
    }

    fn believe(&mut self) {
        (self.trust, self.settled, self.greeted, self.heard) = (Trust::Whole, true, true, true);
    }

    /// Whether all members have reported, and can be all there are. Fewer nodes than hold a message were never all of a
    /// cluster that took one: who has been away since it joined may know of nobody else.
    fn could_be_all(&self, members: &[NodeId], tolerance: usize) -> bool {
        let least = if self.announced.is_empty() { 1 } else { tolerance };
        members.len() >= least && self.missing(members).is_empty()
    }

    /// As [`settle`](Self::settle) where nobody who joined was ever told of the others, which happens to a cluster whose
    /// leader is lost while it is founded: nothing was written to it, but to wait for ever would end it.
    pub fn settle_untold(&mut self, members: &[NodeId], tolerance: usize, now: Duration) -> bool {
        if self.trust != Trust::Nothing || self.told || !self.could_be_all(members, tolerance) {
            self.untold_since = None;
            return false;
        }
        let enough = now.saturating_sub(*self.untold_since.get_or_insert(now)) >= TOLD_GRACE;
        if enough {
            self.believe();
        }
        enough
    }

    /// Whether a complete inventory of this node has come.
    pub fn has_reported(&self, node: NodeId) -> bool {
        self.reported.contains(&node)
    }

    /// What a seeded bug does: believes a log with those that have reported, if any have.
    pub(super) fn settle_with_fewer(&mut self) -> bool {
        let any = self.trust == Trust::Whole && !self.reported.is_empty();
        if any {
            self.believe();
        }
        any
    }

    /// The members whose inventories have not come.
    pub fn missing(&self, members: &[NodeId]) -> Vec<NodeId> {
        let announced = self.announced.keys().filter(|_| self.trust == Trust::Nothing);
        let members: BTreeSet<NodeId> = members.iter().chain(announced).copied().collect();
        members.into_iter().filter(|node| !self.reported.contains(node)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_of_the_cluster_has_to_report_before_a_new_one_proves_anything() {
        let mut knowledge = Knowledge::new(Trust::Nothing);
        knowledge.announce(NodeId(2), Uuid([2; 16]));
        knowledge.note_told();
        knowledge.report(NodeId(1));
        assert!(!knowledge.settle(&nodes(&[1]), 3), "node 2 knows who else there is");
        knowledge.report(NodeId(2));
        assert!(!knowledge.settle(&nodes(&[1, 2, 3]), 2) && knowledge.settle(&nodes(&[1, 2]), 2));
    }

    #[test]
    fn what_a_majority_of_leaders_has_agreed_on_is_believed_before_nodes_are_heard() {
        for (agreed, trust, believed) in [
            (true, Trust::Whole, true),
            (false, Trust::Whole, false),
            (true, Trust::MayLackItsEnd, false),
            (true, Trust::Nothing, false),
        ] {
            let mut knowledge = Knowledge::new(trust);
            if agreed {
                knowledge.rely_on_group();
            }
            assert!(!knowledge.is_settled() && knowledge.may_be_succeeded());
            assert_eq!((knowledge.greet(), knowledge.is_settled()), (believed, believed), "{agreed} {trust:?}");
            assert!(!knowledge.greet() && !knowledge.has_heard());
            knowledge.report(NodeId(1));
            assert!(knowledge.settle(&nodes(&[1]), 1) && knowledge.is_settled() && knowledge.has_heard());
            knowledge.rely_on_group();
            knowledge.distrust();
            assert!(!knowledge.greet() && !knowledge.is_settled() && !knowledge.has_heard(), "nodes know better");
        }
    }

    #[test]
    fn a_node_that_knows_of_too_few_others_proves_nothing() {
        let mut knowledge = Knowledge::new(Trust::Nothing);
        knowledge.announce(NodeId(1), Uuid([1; 16]));
        knowledge.note_told();
        knowledge.report(NodeId(1));
        assert!(!knowledge.settle(&nodes(&[1]), 2), "no message was ever kept on it alone");
        knowledge.report(NodeId(2));
        assert!(knowledge.settle(&nodes(&[1, 2]), 2));
    }

    #[test]
    fn nodes_that_were_told_of_nobody_prove_nothing_until_those_who_were_had_time_to_come() {
        let mut knowledge = Knowledge::new(Trust::Nothing);
        // Node 1 joined in the last moment of the leader before, node 4 is new.
        knowledge.announce(NodeId(1), Uuid([1; 16]));
        for node in [1, 4] {
            assert!(!knowledge.settle_untold(&nodes(&[1, 4]), 2, TOLD_GRACE), "node 4 has not reported");
            knowledge.report(NodeId(node));
        }
        let all = nodes(&[1, 4]);
        assert!(!knowledge.settle(&all, 2) && !knowledge.settle_untold(&all, 2, TOLD_GRACE));
        // Node 2 comes, which has not reported: the wait is over, and begins anew without it.
        assert!(!knowledge.settle_untold(&nodes(&[1, 2, 4]), 2, TOLD_GRACE * 2));
        assert!(!knowledge.settle_untold(&all, 2, TOLD_GRACE * 2) && knowledge.settle_untold(&all, 2, TOLD_GRACE * 3));
        assert!(knowledge.is_settled());
    }

    fn nodes(ids: &[u32]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn who_has_to_report() {
        // (trust, members, reported, tolerance, enough)
        type Row = (Trust, &'static [u32], &'static [u32], usize, bool);
        let table: [Row; 12] = [
            (Trust::Nothing, &[], &[], 2, false),
            (Trust::Nothing, &[1, 2, 3], &[1, 2], 2, false),
            (Trust::Nothing, &[1, 2, 3], &[1, 2, 3], 2, true),
            (Trust::MayLackItsEnd, &[1, 2, 3], &[1], 2, false),
            (Trust::MayLackItsEnd, &[1, 2, 3], &[1, 3], 2, true),
            (Trust::MayLackItsEnd, &[1, 2, 3], &[1, 3], 1, false),
            (Trust::MayLackItsEnd, &[1, 2, 3], &[2], 3, true),
            (Trust::Whole, &[1, 2, 3], &[1], 2, false),
            (Trust::Whole, &[1, 2, 3], &[1, 3], 2, true),
            (Trust::MayLackItsEnd, &[], &[], 2, false),
            (Trust::MayLackItsEnd, &[1], &[], 2, false),
            (Trust::MayLackItsEnd, &[1], &[], 1, false),
        ];
        for (trust, members, reported, tolerance, enough) in table {
            let mut knowledge = Knowledge::new(trust);
            nodes(reported).into_iter().for_each(|node| knowledge.report(node));
            assert_eq!(knowledge.settle(&nodes(members), tolerance), enough, "{trust:?} {members:?} {reported:?}");
        }
    }
}
