//! How far the leader believes its log: what it hears of other leaders and of later commits, why answers are held back
//! meanwhile, and when that is over. The rules themselves are in `knowledge`.

use std::time::Duration;

use super::knowledge::Trust;
use super::registry::Node;
use super::state::State;
use super::{Cluster, mapping};
use crate::error::name_nodes;
use crate::seeded::{self, Bug};
use crate::types::{Leadership, MessageId, NodeId, Uuid, Version};

/// What ends a wait for a member that never comes back.
const GONE: &str = " (a node that is gone for good is given up by REMOVE <node> FORCE)";

/// How long a seeded bug waits for members.
const PATIENCE: Duration = Duration::from_secs(3);

/// Whether a member could have told of a later leader, and lets in no earlier one any more.
fn has_joined(node: &Node) -> bool {
    node.is_linked() || node.only_reads() && seeded::active(Bug::UnnotedGreets)
}

impl Cluster {
    /// The cluster's name and epoch, once there are any.
    pub fn leadership(&self) -> Option<Leadership> {
        self.leadership
    }

    /// Starts an epoch, which the log has on stable storage. Versions start anew in it.
    pub(super) fn begin(&mut self, leadership: Leadership) {
        self.leadership = Some(leadership);
        // Nodes may have been told of those that the log has not heard the end of.
        let newest = self.state.mapping.newest_committed();
        self.newest_before = newest.max(self.state.intents().newest().unwrap_or_default());
        self.sequence = 0;
        self.taking.clear();
        self.registry.lease.begin();
        self.note_copies_by_log();
    }

    /// The log says that it is whole, and that nodes were told of commits up to this version.
    pub fn hear_whole(&mut self, newest: Version) {
        self.state.note_committed(newest);
    }

    /// Gives away what is true, to who leads next: this leader has ended, and speaks from nothing any more.
    pub fn give_state(&mut self, nothing: State) -> State {
        self.retire();
        std::mem::replace(&mut self.state, nothing)
    }

    /// This leader has ended: it speaks from nothing any more, and no backup of a moment is under way.
    pub fn retire(&mut self) {
        self.return_lease();
        self.end_snapshot();
    }

    /// What the log says of itself.
    pub fn trust(&self) -> Trust {
        self.knowledge.trust()
    }

    /// A majority of leaders has agreed on the log, which lacks nothing that was ever acknowledged: it is believed as soon
    /// as enough nodes have joined. What they hold is heard after that, and nothing is deleted before.
    pub fn rely_on_group(&mut self) {
        self.knowledge.rely_on_group();
    }

    /// Whether the log is believed without inventories.
    pub fn relies_on_group(&self) -> bool {
        self.knowledge.relies_on_group()
    }

    /// Whether the index is believed: what it does not say, and no inventory that came, is nowhere.
    pub fn is_settled(&self) -> bool {
        self.knowledge.is_settled()
    }

    /// Whether enough inventories came for copies to be made and deleted.
    pub fn has_heard(&self) -> bool {
        self.knowledge.has_heard()
    }

    /// Nodes have seen a later epoch than the log: hear all of them before anything is claimed.
    pub fn distrust(&mut self) {
        self.knowledge.distrust();
        self.transactions.forget_undecided(self.leadership.map(|leadership| leadership.epoch));
        self.undecided.clear();
    }

    /// A node that belongs to this cluster wants to join: a leader without its log has to hear it.
    pub fn announce(&mut self, node: NodeId, uuid: Uuid) {
        self.knowledge.announce(node, uuid);
    }

    /// A leader without its log still has something that speaks of this node, and has to hear it.
    pub fn expect(&mut self, node: NodeId) {
        self.knowledge.expect(node);
    }

    /// Looks whether the inventories that came suffice; `true` when they just did.
    pub fn settle_knowledge(&mut self) -> bool {
        let members = self.member_ids();
        let settled = self.knowledge.settle(&members, self.least_holders());
        if settled {
            self.decide_transactions();
        }
        settled
    }

    /// As [`settle_knowledge`](Self::settle_knowledge) where nobody who joined was ever told of the others.
    pub fn settle_untold(&mut self, now: Duration) -> bool {
        if self.is_settled() {
            return false;
        }
        let members = self.member_ids();
        let settled = self.knowledge.settle_untold(&members, self.least_holders(), now)
            || seeded::active(Bug::TimeReplacesMembers) && now >= PATIENCE && self.knowledge.settle_with_fewer();
        if settled {
            self.decide_transactions();
        }
        settled
    }

    /// A node has joined that a leader once told who the members are.
    pub fn note_told(&mut self) {
        self.knowledge.note_told();
    }

    /// On how many nodes the least kept message is: the tolerance may have been raised since.
    pub(super) fn least_holders(&self) -> usize {
        self.fewest_copies().min(self.tolerance)
    }

    /// On how many nodes the least kept message is, by the log.
    pub(super) fn fewest_copies(&self) -> usize {
        self.state.mapping.sets().map(|(set, ..)| set.holders.len()).min().unwrap_or(self.tolerance)
    }

    /// Whether so few members have not reported that a commit has a holder among those that have.
    pub(super) fn all_but_few_heard(&self) -> bool {
        self.knowledge.missing(&self.member_ids()).len() < self.least_holders()
    }

    /// Whether every member has said in this leader's life what it holds.
    pub(super) fn all_heard(&self) -> bool {
        self.registry.nodes().iter().all(|node| self.knowledge.has_reported(node.member.id))
    }

    /// Why answers are held back, as long as they are: whom they wait for, and the order that gives a member up.
    pub fn waiting_for(&self) -> Option<String> {
        if self.is_settled() {
            return None;
        }
        let missing = || {
            let missing = self.knowledge.missing(&self.member_ids());
            let away = missing.iter().any(|node| !self.registry.is_linked(*node));
            format!("{}{}{}", name_nodes(&missing), self.unnoted(), if away { GONE } else { "" })
        };
        Some(match self.knowledge.trust() {
            Trust::Whole if self.registry.linked().next().is_none() => self.waiting_to_greet(),
            Trust::Whole => format!("the leader has just started, and waits to hear from {}", missing()),
            Trust::Nothing if self.registry.nodes().is_empty() => "no node has reported to this leader yet".to_owned(),
            Trust::Nothing if self.knowledge.missing(&self.member_ids()).is_empty() => {
                "the leader lost its log, and none of the nodes that have joined knows them all: more have to"
                    .to_owned()
            }
            Trust::Nothing => format!("the leader lost its log and waits to hear from {}", missing()),
            Trust::MayLackItsEnd => format!(
                "the leader's log may lack its end since the leader or its machine went down; it waits to hear from {}",
                missing()
            ),
        })
    }

    pub(super) fn waiting_to_greet(&self) -> String {
        match self.away() {
            away if away.is_empty() => "the leader has just started, and no node has joined yet".to_owned(),
            away => format!(
                "the leader has just started, and {} have not joined yet{}{GONE}",
                name_nodes(&away),
                self.unnoted()
            ),
        }
    }

    fn away(&self) -> Vec<NodeId> {
        let away = self.registry.nodes().iter().filter(|node| !has_joined(node));
        away.map(|node| node.member.id).collect()
    }

    /// Who is here for reads only, and why, for the end of a line about those who have not joined; empty if nobody is.
    pub(super) fn unnoted(&self) -> String {
        let nodes: Vec<&Node> = self.registry.only_reading().collect();
        let ids: Vec<NodeId> = nodes.iter().map(|node| node.member.id).collect();
        match nodes.first().and_then(|node| node.refusing.as_ref()) {
            Some(refusing) => {
                let answer = if ids.len() == 1 { "answers" } else { "answer" };
                format!(" ({} only {answer} reads: {})", name_nodes(&ids), refusing.why)
            }
            None => String::new(),
        }
    }

    /// Looks whether so many members have joined since the start that a later leader than the log knows of has left its
    /// epoch with one of them: each of them could have said so.
    pub fn greet(&mut self) {
        let here = self.registry.nodes().iter().filter(|node| has_joined(node));
        let here: Vec<NodeId> = here.map(|node| node.member.id).collect();
        let enough = self.away().len() < self.least_holders() && self.knowledge.any_named(&here);
        if enough && self.knowledge.greet() {
            self.decide_transactions();
        }
    }

    /// A member was given up by order: from here on nobody counts with it, and those that are here may suffice.
    pub fn without_given_up(&mut self) {
        self.registry.forget_departed();
        if self.registry.linked().next().is_some() {
            self.greet();
        }
    }

    /// A node was told that this version is committed; `false`: the log that is believed has nothing so new.
    pub fn hear_committed(&mut self, version: Version) -> bool {
        let old = self.knowledge.can_turn_out_old() && self.lacks(version);
        if !old {
            self.state.mapping.note_committed(version);
        }
        !old
    }

    /// Whether this version is later than all that the log said of its epoch. What this leader has committed since says
    /// nothing of the epochs before.
    fn lacks(&self, version: Version) -> bool {
        let before = self.leadership.is_some_and(|leadership| version.epoch() < leadership.epoch);
        version > if before { self.newest_before } else { self.state.mapping.newest_committed() }
    }

    /// The newest version that was ever committed.
    pub fn newest_committed(&self) -> Version {
        self.state.mapping.newest_committed()
    }

    /// Whether all nodes were heard since the log was found to be an old one, so that what it alone speaks of can be
    /// forgotten.
    pub fn has_vanished(&self) -> bool {
        self.is_settled() && self.knowledge.is_old()
    }

    /// The leader before found the log to be an old one, and did not come to forget what it alone speaks of.
    pub fn inherit_old_log(&mut self) {
        self.knowledge.inherit_old();
    }

    /// What only an old log spoke of is forgotten.
    pub fn forgot_vanished(&mut self) {
        self.knowledge.is_new();
    }

    /// What an old log speaks of and no node has any more: it was deleted after the log was copied.
    pub fn vanished(&self) -> Vec<(MessageId, Version)> {
        let mut all = Vec::new();
        let records = (0..mapping::SHARDS).flat_map(|part| self.state.mapping.records(part));
        for (key, found) in records.filter(|(_, found)| found.set.intact().next().is_none()) {
            let id = key.id();
            let here = |(_, version)| version == found.record.version;
            if !self.excess.of(&id).any(here) && !self.uncommitted.contains_key(&id) {
                all.push((id, found.record.version));
            }
        }
        all
    }

    pub(super) fn member_ids(&self) -> Vec<NodeId> {
        self.registry.nodes().iter().map(|node| node.member.id).collect()
    }
}
