//! What the leader knows and decides, as plain values under one lock.
//!
//! Nothing here waits, opens, sends or looks at a clock: every call takes what happened and returns what follows.
//! `leader/` carries it out.
//!
//! There are two kinds of knowledge. The [`State`] is what is true: it is in the log, and [`State::apply`] is the only
//! way to change it. All the rest of [`Cluster`] is what this leader has seen and promised since its start: who is up and
//! how loaded, which writes are under way, what nodes said that they hold. It is forgotten when the leader ends, and the
//! next one learns it anew from its nodes. [`Cluster::apply`] changes the first, and has the second follow.
//!
//! # The life of a version
//!
//! ```text
//!   admitted ----> staged ----> committed ----> published ----> superseded ----> gone
//!       |             |             |               |                |
//!       |             |             |               |                a newer version of the id is published
//!       |             |             |               its holders show it, and have let go of what was before
//!       |             |             the log has it, with its holders: it is true, and OK is said
//!       |             nodes have it beside the older copy, and show the older one
//!       it has its number and its targets; loads count it as promised
//!
//!   failed: not on enough nodes, and it cannot be any more.      -> in doubt, where it may have been left
//!   found:  on nodes, newer than what the log has.               -> completed, or given up when it is surely nowhere
//!   void:   of a transaction that never becomes true.            -> what was true is written once more, in front of it
//!   excess: a copy that no holder needs.                        -> let go of, once those that stay were read
//! ```
//!
//! A deletion is a version as well, without bytes: a tombstone. It is kept until every member has confirmed that it has
//! nothing older, and forgotten then; the horizon remembers how new the newest forgotten one was.
//!
//! | step | decided here | carried out by |
//! |---|---|---|
//! | admit, with a version and targets | `admission`, `placement`, `registry` | `leader/set.rs` |
//! | stage on nodes; enough of them? | `quorum` | `leader/write.rs` |
//! | commit | `state` | `leader/journal.rs`, then [`Cluster::apply`] |
//! | publish, let go | `notices` | `leader/set.rs` |
//! | complete what was found | `inventory`, `belief`, `knowledge` | `leader/upkeep/complete.rs` |
//! | copy again, move, trim | `repair`, `evening`, `removal` | `leader/upkeep/repair.rs` |
//! | put behind, what failed or is void | `doubt`, `transactions` | `leader/upkeep/rollback.rs`, `leader/upkeep/doubts.rs` |
//! | forget deletions | `deletion` | `leader/upkeep/tombstones.rs` |
//!
//! Whether the leader may speak at all, as another one may have taken over, is `lease` and `past`.

pub mod deletion;
pub mod knowledge;
pub mod lease;
pub mod mapping;
pub mod notices;
pub mod past;
pub mod quorum;
pub mod registry;
pub mod removal;
pub mod repair;
pub mod snapshot;
pub mod state;
pub mod transactions;

mod admission;
mod arena;
mod belief;
mod doubt;
mod evening;
pub mod intents;
mod inventory;
mod newcomers;
mod placement;
mod sets;
mod shard;
mod shortage;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use self::admission::{NotAdmitted, Ticket};
use self::deletion::Deletions;
use self::doubt::Doubts;
use self::evening::Evening;
use self::intents::Undecided;
use self::inventory::{Excess, Taking};
pub use self::inventory::{Reported, Uncommitted};
use self::knowledge::{Knowledge, Trust};
use self::mapping::{Commit, Committed, Mapping};
use self::newcomers::Newcomers;
use self::registry::Registry;
use self::removal::Informed;
use self::repair::Obstacle;
pub use self::shortage::Shortage;
use self::state::{Applied, Event, State};
use self::transactions::Transactions;
use crate::error::name_nodes;
use crate::seeded::{self, Bug};
use crate::types::{CopyRecord, Holders, Leadership, MessageId, NodeId, NodeState, Nodes, Version};

/// Where a message can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Located {
    /// Committed, with these holders.
    Here {
        /// Version, length and checksum.
        record: CopyRecord,
        /// Holders to ask, best first.
        candidates: Nodes,
        /// Holders that cannot be asked now.
        missed: Nodes,
    },
    /// Surely no such message.
    NotFound,
    /// It may exist, and why nothing can be said now.
    Hidden(String),
}

/// The counts of a report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Committed messages.
    pub messages: u64,
    /// Bytes of these, each counted once.
    pub bytes: u64,
    /// Intact copies on nodes that are not down.
    pub copies_live: u64,
    /// Messages with fewer such copies than tolerance, lost ones left out.
    pub under_replicated: u64,
    /// Messages none of whose holders has an intact copy.
    pub lost: u64,
}

/// Everything that the leader knows: what is true, and what it has seen of its nodes since its start.
#[derive(Debug)]
pub struct Cluster {
    /// What is true.
    state: State,
    /// Members, their state and load.
    pub registry: Registry,
    /// The time, as it was last handed in.
    now: Duration,
    knowledge: Knowledge,
    leadership: Option<Leadership>,
    sequence: u32,
    /// Another epoch is about to begin: nothing is admitted.
    paused: bool,
    tolerance: usize,
    /// Versions with a ticket out.
    under_way: BTreeSet<Version>,
    /// Those among them that are true already, and get other holders.
    repairing: BTreeSet<Version>,
    /// Inventories that are coming in.
    taking: BTreeMap<NodeId, Taking>,
    /// Newer than what is committed, found on nodes.
    uncommitted: BTreeMap<MessageId, Uncommitted>,
    /// Copies that are too many or too old.
    excess: Excess,
    /// Copies that writes of unknown outcome may have left. They become excess with the next write of their id.
    in_doubt: Excess,
    /// Those among them of ids that have no message.
    doubts: Doubts,
    /// The newest committed version of the epochs before this one.
    newest_before: Version,
    /// The newest deletion that is about to be forgotten: the log may have it at any moment.
    horizon_ahead: Version,
    deletions: Deletions,
    informed: Informed,
    transactions: Transactions,
    /// Writes of leaders before that the log has not heard the end of.
    undecided: Undecided,
    newcomers: Newcomers,
    /// Nodes that missed a large part of their copies: while there are any, nothing excess is removed.
    alarmed: BTreeSet<NodeId>,
    evening: Evening,
    /// Some of the messages that cannot be repaired now, for reports.
    stuck_ids: Vec<(MessageId, Obstacle)>,
}

impl Cluster {
    /// What a leader knows after reading its log: the state, and how far that can be believed.
    pub fn new(tolerance: usize, state: State, trust: Trust) -> Self {
        let mut cluster = Self {
            deletions: Deletions::restore(&state.mapping),
            transactions: Transactions::of(state.prepared()),
            undecided: Undecided::of(state.intents()),
            state,
            registry: Registry::default(),
            now: Duration::ZERO,
            knowledge: Knowledge::new(trust),
            leadership: None,
            sequence: 0,
            paused: false,
            tolerance,
            under_way: BTreeSet::new(),
            repairing: BTreeSet::new(),
            taking: BTreeMap::new(),
            uncommitted: BTreeMap::new(),
            excess: Excess::default(),
            in_doubt: Excess::default(),
            doubts: Doubts::default(),
            informed: Informed::default(),
            newest_before: Version::default(),
            horizon_ahead: Version::default(),
            newcomers: Newcomers::default(),
            alarmed: BTreeSet::new(),
            evening: Evening::default(),
            stuck_ids: Vec::new(),
        };
        cluster.restore_members();
        cluster.removed().into_iter().for_each(|removed| cluster.depart(removed));
        cluster.note_copies_by_log();
        cluster
    }

    /// Takes up the members and loads that the log speaks of.
    fn restore_members(&mut self) {
        for member in self.state.members() {
            self.knowledge.name(member.id);
            self.registry.remember(member.clone(), Duration::ZERO);
            self.registry.set_draining(member.id, self.state.draining().contains(&member.id));
        }
        for (node, (messages, bytes)) in self.state.mapping.loads() {
            self.registry.restore_load(node, messages, bytes);
        }
    }

    /// What is true.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// It is this time now, since the leader's start.
    pub fn set_clock(&mut self, now: Duration) {
        self.now = now;
    }

    /// Copies a message.
    pub fn tolerance(&self) -> usize {
        self.tolerance
    }

    /// Changes how many copies a new message gets.
    pub fn set_tolerance(&mut self, tolerance: usize) {
        self.tolerance = tolerance;
        self.note_copies_by_log();
    }

    /// How many messages are committed.
    pub fn len(&self) -> u64 {
        self.state.mapping.len()
    }

    /// How many messages there are, or why that cannot be told: of what was not heard yet nobody knows.
    pub fn count(&self) -> Result<u64, String> {
        match self.unsure_of_all() {
            Some(reason) if !seeded::active(Bug::CountedUnheard) => Err(reason),
            _ => Ok(self.len()),
        }
    }

    /// Whether enough was heard to write: no later leader can have committed anything.
    pub fn has_heard_enough(&self) -> bool {
        self.knowledge.trust() != Trust::Nothing && !self.knowledge.may_be_succeeded()
    }

    /// Whether no message is committed.
    pub fn is_empty(&self) -> bool {
        self.state.mapping.is_empty()
    }

    /// The committed messages.
    pub fn mapping(&self) -> &Mapping {
        &self.state.mapping
    }

    /// Notes where the readable view has this id's line; see [`Mapping::place_line`].
    pub fn place_line(
        &mut self,
        id: &MessageId,
        place: impl FnOnce(Option<u64>, Option<&Holders>) -> Option<u64>,
    ) -> bool {
        self.state.mapping.place_line(id, place)
    }

    /// Notes where the readable view has the lines of some messages; see [`Mapping::place_lines`].
    pub fn place_lines(&mut self, part: usize, slice: usize, place: impl FnMut(&MessageId, &Holders) -> u64) {
        self.state.mapping.place_lines(part, slice, place);
    }

    /// Takes the lines of the readable view whose ids were forgotten.
    pub fn take_stale_lines(&mut self) -> Vec<u64> {
        self.state.mapping.take_stale_lines()
    }

    // ---- committing --------------------------------------------------------

    /// Makes true what the log has: in the state, and in everything that follows from it here. Whoever holds a ticket
    /// for a commit releases that first.
    pub fn apply(&mut self, event: &Event) -> Applied {
        if let Event::Concluded(versions) = event {
            return self.conclude(event, versions);
        }
        let applied = self.state.apply(event);
        match (event, &applied) {
            (_, Applied::Ignored) => {}
            (_, Applied::Committed(did)) => {
                event.commits().iter().zip(did).for_each(|(commit, did)| self.hear(commit, did));
            }
            (Event::Began { leadership, hears_all, .. }, _) => {
                if *hears_all {
                    self.undecided.clear();
                }
                self.begin(*leadership);
            }
            (Event::Intent(intent), _) => self.intend(intent),
            (Event::Member(member), _) => self.registry.remember(member.clone(), self.now),
            (Event::Removed(removed), _) => self.depart(*removed),
            (Event::Draining { node, on }, _) => self.registry.set_draining(*node, *on),

            (Event::Aborted { name }, _) => self.transactions.abort(*name),
            (Event::Dropped(versions), _) => versions.iter().for_each(|version| self.undecided.end(*version)),
            (Event::Forgotten { id, version }, Applied::Forgotten(record, holders)) => {
                self.forgotten(id, *version, *record, holders);
            }
            _ => {}
        }
        applied
    }

    /// A commit became true.
    fn hear(&mut self, commit: &Commit, did: &Committed) {
        if self.leadership.is_some_and(|leadership| commit.record.version.epoch() < leadership.epoch) {
            self.newest_before = self.newest_before.max(commit.record.version);
        }
        match did {
            Committed::Superseded => return,
            Committed::New => {}
            Committed::Replaced { record, holders } => {
                if !record.is_tombstone() {
                    self.registry.lose(holders, record.bytes());
                }
                self.inventories_hear(&commit.id, holders, false);
            }
        }
        self.inventories_hear(&commit.id, &commit.holders, true);
        if !commit.record.is_tombstone() {
            self.registry.gain(&commit.holders, commit.record.bytes());
        }
        self.transactions.hear(commit);
        self.undecided.hear(commit);
        self.doubts.hear(commit);
        self.excess.taken_in(&commit.id, commit.record.version, &commit.holders);
        for (node, version) in self.in_doubt.take(&commit.id) {
            if version > commit.record.version {
                self.in_doubt.note(&commit.id, node, version);
            } else if version < commit.record.version || !commit.holders.contains(&node) {
                self.note_excess(&commit.id, version, node);
            }
        }
        self.deletions.hear(commit, self.registry.linked());
        if self.uncommitted.get(&commit.id).is_some_and(|newer| newer.record.version <= commit.record.version)
            && let Some(older) = self.uncommitted.remove(&commit.id)
        {
            // Whoever has it has to publish or to let go; those that the commit knows of are told twice.
            older.copies().for_each(|(node, version)| self.note_excess(&commit.id, version, node));
        }
    }

    // ---- reading -----------------------------------------------------------

    /// Finds a message for a client that a holder is to answer. `turn` spreads reads over its holders.
    pub fn locate(&self, id: &MessageId, turn: usize) -> Located {
        let found = self.find_here(id, turn);
        let unsure = match found {
            Located::Hidden(_) => None,
            Located::NotFound => self.unsure(),
            Located::Here { .. } => self.not_asked(),
        };
        unsure.map_or(found, Located::Hidden)
    }

    /// Looks a message up for an answer that asks no holder.
    pub fn look_up(&self, id: &MessageId) -> Located {
        match self.find_here(id, 0) {
            Located::Hidden(reason) => Located::Hidden(reason),
            found => self.unsure().map_or(found, Located::Hidden),
        }
    }

    /// Finds a message, as far as what is committed and what was found tell. `turn` spreads reads over its holders.
    pub fn locate_known(&self, id: &MessageId, turn: usize) -> Located {
        let found = self.state.mapping.newest(id);
        if let Some(newer) = self.uncommitted.get(id)
            && found.is_none_or(|found| found.record.version < newer.record.version)
            && !seeded::active(Bug::UncommittedNotHidden)
        {
            let found = format!("a version found on {} is being completed", name_nodes(&newer.holders));
            return Located::Hidden(match self.waiting_for() {
                Some(waiting) => format!("{found}; {waiting}"),
                None => found,
            });
        }
        if self.transactions.holds_back(id) {
            return Located::Hidden(self.waiting_to_decide());
        }
        if let Some(reason) = self.undecided.hides(id) {
            return Located::Hidden(reason);
        }
        if let Some(reason) = self.waiting_for().filter(|_| !seeded::active(Bug::NotFoundAtOnce)) {
            return Located::Hidden(reason);
        }
        let Some(found) = found.filter(|found| !found.set.deleted) else { return Located::NotFound };
        if found.set.intact().next().is_none() && self.knowledge.is_old() {
            return Located::Hidden("only an old log speaks of it, and the nodes are just heard".to_owned());
        }
        if found.set.intact().next().is_none() && self.excess.of(id).any(|(_, version)| version == found.record.version)
        {
            return Located::Hidden("a copy on a node that was no holder is being taken in".to_owned());
        }
        let (mut up, mut late, mut missed) = (Nodes::new(), Nodes::new(), Nodes::new());
        for id in found.set.intact() {
            match self.registry.get(id) {
                Some(node) if node.is_linked() && node.state == NodeState::Up => up.push(id),
                // One that only reads is asked when no other answers: what it lacks says nothing.
                Some(node) if node.session.is_some() && node.state != NodeState::Down => late.push(id),
                _ => missed.push(id),
            }
        }
        if up.len() > 1 {
            let by = turn % up.len();
            up.rotate_left(by);
        }
        up.extend(late);
        Located::Here { record: found.record, candidates: up, missed }
    }

    /// The holders of a committed message, ascending.
    pub fn holders(&self, id: &MessageId) -> Option<Holders> {
        self.state.mapping.get(id).map(|found| found.set.holders.clone())
    }

    /// Whether a node is a holder of this very version: else what it has of it is nobody's copy any more.
    pub fn is_holder(&self, id: &MessageId, version: Version, node: NodeId) -> bool {
        let found = self.state.mapping.get(id);
        found.is_some_and(|found| found.record.version == version && found.set.holders.contains(&node))
    }

    /// A copy of this version was read or made: whether it is intact.
    pub fn note_copy(&mut self, id: &MessageId, version: Version, node: NodeId, intact: bool) {
        self.state.mapping.mark(id, version, node, intact);
        let spare = self.state.mapping.newest(id).is_some_and(|found| !found.set.holders.contains(&node));
        if !intact && spare && self.excess.of(id).any(|copy| copy == (node, version)) {
            // A copy too many that is bad saves no message, and goes when something stands before it.
            self.excess.retain(id, |copy| copy != (node, version));
            self.in_doubt.note(id, node, version);
        }
    }

    // ---- reporting ---------------------------------------------------------

    /// Judges all nodes; see [`Registry::sweep`].
    pub fn sweep(&mut self, now: Duration) -> Vec<registry::Transition> {
        self.note_copies_by_log();
        if self.removals_are_known() {
            self.registry.forget_departed();
        }
        self.registry.sweep(now)
    }

    /// What reports show. Its cost is the number of distinct holder sets, not of messages.
    pub fn counts(&self) -> Counts {
        let mut counts =
            Counts { messages: self.state.mapping.len(), bytes: self.state.mapping.bytes(), ..Counts::default() };
        let live = |id: &NodeId| self.registry.get(*id).is_some_and(|node| node.state != NodeState::Down);
        for (set, messages, _) in self.state.mapping.sets().filter(|(set, ..)| !set.deleted) {
            let copies = set.intact().filter(live).count();
            counts.copies_live += messages * copies as u64;
            if set.intact().next().is_none() {
                counts.lost += messages;
            } else if copies < self.tolerance {
                counts.under_replicated += messages;
            }
        }
        counts
    }
}
