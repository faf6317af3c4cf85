//! How long a leader may speak from its own knowledge: members that answered a beat a moment ago let in nobody else yet.
//!
//! A second leader, from a copy of the log, commits nothing before it has so many members: N - R + 1 to settle, and as
//! many as a write has copies, R or more (R: the fewest copies that a message has by its log, N: the members). So
//!
//! - while `min(R, N - R + 1)` members answer this leader, no other one has committed anything: what this log says of a
//!   message is the newest, and a holder may be asked for it;
//! - what a leader says without any node, from its index or its cache, asks for N - R + 1 members: no other leader has
//!   even settled with as many.
//!
//! R may have changed since the log was copied, so the worst of this epoch's counts. Time is handed in, and a lease
//! counts from when its beat was *sent*: the node's promise began later, and ends later.

use std::time::Duration;

use smallvec::SmallVec;

use super::Cluster;
use super::registry::Node;
use crate::error::name_nodes;
use crate::seeded::{self, Bug};
use crate::types::NodeId;

/// For how long the leader counts on that: a tenth less, as no two clocks run alike.
const COUNTED: Duration = Duration::from_millis(900);

/// How often the leader beats: some beats may be lost before a lease is.
pub const RENEW_EVERY: Duration = Duration::from_millis(250);

/// What the members' answers are good for.
#[derive(Debug, Default)]
pub(super) struct Lease {
    /// The fewest and the most copies that the least kept message had by the log in this epoch.
    copies: Option<(usize, usize)>,
    tolerance: usize,
    /// Until when holders may be asked, and until when the leader may speak from its own knowledge.
    asks_until: Duration,
    speaks_until: Duration,
    /// Until when writes may have fewer copies than messages had.
    fewer_until: Duration,
    /// The leader has given it back, as it ends.
    returned: bool,
}

impl Lease {
    /// Another epoch begins: copies of the log from before it are told by their epoch.
    pub(super) fn begin(&mut self) {
        self.copies = None;
    }

    /// By the log the least kept message has so many copies now, and new ones get as many as `tolerance`.
    pub(super) fn note_copies(&mut self, fewest: usize, tolerance: usize) {
        let (least, most) = self.copies.unwrap_or((fewest, fewest));
        self.copies = Some((least.min(fewest), most.max(fewest)));
        self.tolerance = tolerance;
    }

    /// As many members have to answer, of so many, for holders to be asked.
    fn to_ask(&self, members: usize) -> usize {
        let (least, most) = self.copies.unwrap_or((self.tolerance, self.tolerance));
        let others_excluded = |copies: usize| copies.min((members + 1).saturating_sub(copies));
        (least..=most).map(others_excluded).max().unwrap_or(0).max(1)
    }

    /// As many members have to answer, of so many, for the leader to speak from its own knowledge.
    pub(super) fn to_speak(&self, members: usize) -> usize {
        (members + 1).saturating_sub(self.tolerance).max(self.to_ask(members))
    }

    /// As many members have to answer, of so many, for a write to have fewer copies than messages had: too few are left for
    /// another leader to settle, who would not find it.
    fn to_lower(&self, members: usize) -> usize {
        self.most_copies().min(members).max(1)
    }

    /// Counts anew. `sent`: when the last answered beat of each member was sent.
    pub(super) fn count(&mut self, members: usize, sent: impl Iterator<Item = Duration>) {
        let mut sent: SmallVec<[Duration; 16]> = sent.collect();
        sent.sort_unstable_by(|a, b| b.cmp(a));
        let until = |needed: usize| sent.get(needed - 1).map_or(Duration::ZERO, |sent| *sent + COUNTED);
        (self.asks_until, self.speaks_until) = (until(self.to_ask(members)), until(self.to_speak(members)));
        self.fewer_until = until(self.to_lower(members));
    }

    /// Whether holders may be asked.
    fn asks(&self, now: Duration) -> bool {
        now < self.asks_until && !self.returned || seeded::active(Bug::LeaseNotChecked)
    }

    /// Whether the leader may speak from its own knowledge.
    fn speaks(&self, now: Duration) -> bool {
        now < self.speaks_until && !self.returned || seeded::active(Bug::LeaseNotChecked)
    }

    /// Whether writes may have fewer copies than messages had.
    fn lowers(&self, now: Duration) -> bool {
        self.tolerance >= self.most_copies()
            || now < self.fewer_until && !self.returned
            || seeded::active(Bug::LeaseNotChecked)
            || seeded::active(Bug::FewerCopiesAtOnce)
    }

    /// The most copies that the least kept message had in this epoch.
    fn most_copies(&self) -> usize {
        self.copies.map_or(0, |(_, most)| most)
    }
}

impl Cluster {
    /// Whether the leader may speak from its own knowledge: of what is absent, of all ids, from its cache.
    pub fn may_speak(&self) -> bool {
        self.registry.lease.speaks(self.now)
    }

    /// Whether holders may be asked, and whether the leader may speak.
    pub fn leases(&self) -> (bool, bool) {
        (self.registry.lease.asks(self.now), self.may_speak())
    }

    /// Why nothing is said from the leader's own knowledge now: it does not know enough yet, or another leader may know
    /// better.
    pub fn unsure(&self) -> Option<String> {
        let lapsed = || (!self.may_speak()).then(|| self.lapsed());
        self.waiting_for().or_else(lapsed)
    }

    /// Why it is not said now which ids have a message: besides, some may have got theirs from a leader that did not come to
    /// say so. One that has a message has one either way.
    pub fn unsure_of_all(&self) -> Option<String> {
        self.unsure().or_else(|| self.undecided.of_those(|id| self.state.mapping.get(id).is_none()))
    }

    /// Why no holder is asked now.
    pub(super) fn not_asked(&self) -> Option<String> {
        (!self.registry.lease.asks(self.now)).then(|| self.lapsed())
    }

    /// Why a write with fewer copies than every message had before is not admitted now: a leader from a copy of the
    /// log needs the fewer members, the more copies there were.
    pub(super) fn not_yet_fewer(&self) -> Option<String> {
        let (lease, members) = (&self.registry.lease, self.registry.nodes().len());
        (!lease.lowers(self.now)).then(|| {
            format!(
                "with tolerance {} a write has fewer copies than the {} that messages had, and another leader from a copy of the log would not look for it: {} of {members} members have to answer this one, and {} did not within the last second; start them again, or give up who is gone for good with REMOVE <node> FORCE",
                self.tolerance(),
                lease.most_copies(),
                lease.to_lower(members),
                self.silent()
            )
        })
    }

    /// Whether a node is linked, and has answered a beat a moment ago.
    pub fn answers(&self, node: NodeId) -> bool {
        self.registry.get(node).is_some_and(|node| node.is_linked() && self.has_answered(node))
    }

    /// Whether it has answered a beat that counts.
    fn has_answered(&self, node: &Node) -> bool {
        node.answered.is_some_and(|sent| self.now < sent + COUNTED)
    }

    /// Whom the leader has not heard.
    fn silent(&self) -> String {
        let silent = self.registry.nodes().iter().filter(|node| node.only_reads() || !self.has_answered(node));
        let silent: Vec<NodeId> = silent.map(|node| node.member.id).collect();
        if silent.is_empty() { "enough members".to_owned() } else { name_nodes(&silent) }
    }

    /// Why nothing is said now, and what to do.
    fn lapsed(&self) -> String {
        let members = self.registry.nodes();
        if members.is_empty() {
            return "no node has joined".to_owned();
        }
        format!(
            "{} did not answer within the last second{}, and {} of {} members have to: start them again or mend the network between (gone for good: REMOVE <node> FORCE); until then another leader may have taken over, and this one could not know",
            self.silent(),
            self.unnoted(),
            self.registry.lease.to_speak(members.len()),
            members.len()
        )
    }

    /// Looks how many copies the least kept message has by the log: many a time a second, as that decides how many
    /// members have to answer.
    pub fn note_copies_by_log(&mut self) {
        let (fewest, tolerance) = (self.fewest_copies(), self.tolerance());
        self.registry.lease.note_copies(fewest, tolerance);
        self.registry.count_leases();
    }

    /// The leader ends: from here on it speaks from nothing, and its nodes may let in the next one.
    pub fn return_lease(&mut self) {
        self.registry.lease.returned = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn how_many_members_have_to_answer() {
        // (members, fewest copies, most copies, tolerance, to ask holders, to speak)
        let table = [
            (1, 1, 1, 1, 1, 1),
            (2, 2, 2, 2, 1, 1),
            (3, 2, 2, 2, 2, 2),
            (4, 2, 2, 2, 2, 3),
            (4, 3, 3, 3, 2, 2),
            (5, 2, 2, 2, 2, 4),
            (7, 3, 3, 3, 3, 5),
            (1, 2, 2, 2, 1, 1),
            // Raised: a copy of the log from before that needs two of three members.
            (3, 2, 3, 3, 2, 2),
            // Lowered: one from before that needs three of four.
            (4, 1, 2, 1, 2, 4),
            (0, 2, 2, 2, 1, 1),
        ];
        for (members, fewest, most, tolerance, ask, speak) in table {
            let mut lease = Lease::default();
            lease.note_copies(most, tolerance);
            lease.note_copies(fewest, tolerance);
            assert_eq!((lease.to_ask(members), lease.to_speak(members)), (ask, speak), "{members} {fewest} {most}");
        }
    }

    #[test]
    fn no_other_leader_can_commit_beside_one_that_asks_or_speaks() {
        for members in 1..=9_usize {
            for copies in 1..=members {
                let mut lease = Lease::default();
                lease.note_copies(copies, copies);
                let others_need = (members + 1 - copies).max(copies);
                assert!(members - lease.to_ask(members) < others_need, "{members} members, {copies} copies");
                assert!(lease.to_speak(members) >= lease.to_ask(members));
                // Nor can one settle beside a write with fewer copies.
                assert!(members - lease.to_lower(members) < members + 1 - copies);
            }
        }
    }

    #[test]
    fn it_ends_with_the_beat_that_makes_it_enough() {
        let mut lease = Lease::default();
        lease.note_copies(2, 2);
        lease.count(4, [ms(100), ms(300), ms(200)].into_iter());
        assert!(lease.asks(ms(1099)) && !lease.asks(ms(1100)), "two of four");
        assert!(lease.speaks(ms(999)) && !lease.speaks(ms(1000)), "three of four");
        lease.count(4, [ms(300), ms(300)].into_iter());
        assert!(lease.asks(ms(1000)) && !lease.speaks(ms(300)));
        lease.returned = true;
        assert!(!lease.asks(ms(300)));
    }
}
