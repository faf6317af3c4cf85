//! What the leader knows and decides, as plain values under one lock.
//!
//! Nothing here waits, opens, sends or looks at a clock: every call takes what
//! happened and returns what follows. `leader/` carries it out.

pub mod deletion;
pub mod knowledge;
pub mod mapping;
pub mod placement;
pub mod quorum;
pub mod registry;
pub mod repair;
pub mod transactions;

mod arena;
mod inventory;
mod sets;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use smallvec::SmallVec;

use self::deletion::Deletions;
pub use self::inventory::{Entry, Reported, Unsettled};
use self::inventory::{Surplus, Taking};
use self::knowledge::{Knowledge, Trust};
use self::mapping::{Applied, Commit, Mapping};
use self::registry::Registry;
use self::repair::Obstacle;
use self::transactions::Transactions;
use crate::error::name_nodes;
use crate::seeded::{self, Bug};
use crate::types::{CopyRecord, Epoch, Holders, MessageId, NodeId, NodeState, Uuid, Version};

/// Whose word counts: the cluster's name, and the epoch of its leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reign {
    /// Made once, with the cluster.
    pub cluster_id: Uuid,
    /// This life of the leader.
    pub epoch: Epoch,
}

/// A write under way: its version, where it goes, and what was promised for it.
///
/// Every ticket ends in [`Cluster::release`], whether the write became true or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Of which id.
    pub id: MessageId,
    /// Version, length and checksum.
    pub record: CopyRecord,
    /// The nodes that are meant to hold it.
    pub targets: SmallVec<[NodeId; 7]>,
    /// Every node that was ever a target.
    tried: SmallVec<[NodeId; 8]>,
    /// The holders of the version before.
    held: Holders,
}

/// Why a write was not admitted. Nothing happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotAdmitted {
    /// Fewer nodes can take a copy than tolerance asks for.
    TooFewNodes {
        /// The tolerance.
        need: usize,
        /// Nodes that can.
        live: usize,
    },
    /// The leader does not know enough yet.
    NotYet(String),
}

/// Where a message can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Located {
    /// Committed, with these holders.
    Here {
        /// Version, length and checksum.
        record: CopyRecord,
        /// Holders to ask, best first.
        candidates: SmallVec<[NodeId; 7]>,
        /// Holders that cannot be asked now.
        missed: SmallVec<[NodeId; 7]>,
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

/// Everything that the leader knows.
#[derive(Debug)]
pub struct Cluster {
    /// Members, their state and load.
    pub registry: Registry,
    mapping: Mapping,
    knowledge: Knowledge,
    reign: Option<Reign>,
    sequence: u32,
    tolerance: usize,
    /// Versions with a ticket out.
    under_way: BTreeSet<Version>,
    /// Inventories that are coming in.
    taking: BTreeMap<NodeId, Taking>,
    /// Newer than what is committed, found on nodes.
    unsettled: BTreeMap<MessageId, Unsettled>,
    /// Copies that are too many or too old.
    surplus: Surplus,
    /// Copies that writes of unknown outcome may have left. They become surplus with the next write of their id.
    in_doubt: Surplus,
    /// The newest committed version of the epochs before this one.
    newest_before: Version,
    deletions: Deletions,
    transactions: Transactions,
    /// Nodes that missed a large part of their copies: while there are any, nothing surplus is removed.
    alarmed: BTreeSet<NodeId>,
    /// The operator wants the copies evened out.
    rebalancing: bool,
    /// Some of the messages that cannot be repaired now, for reports.
    stuck_ids: Vec<(MessageId, Obstacle)>,
}

impl Cluster {
    /// What a leader knows after reading its log: `mapping` with `trust`, and the members.
    pub fn new(tolerance: usize, mapping: Mapping, trust: Trust) -> Self {
        Self {
            deletions: Deletions::restore(&mapping),
            registry: Registry::default(),
            mapping,
            knowledge: Knowledge::new(trust),
            reign: None,
            sequence: 0,
            tolerance,
            under_way: BTreeSet::new(),
            taking: BTreeMap::new(),
            unsettled: BTreeMap::new(),
            surplus: Surplus::default(),
            in_doubt: Surplus::default(),
            newest_before: Version::default(),
            transactions: Transactions::default(),
            alarmed: BTreeSet::new(),
            rebalancing: false,
            stuck_ids: Vec::new(),
        }
    }

    /// Takes up the members and loads that the log speaks of.
    pub fn restore_members(&mut self, mut members: Vec<registry::Member>) {
        members.sort_unstable_by_key(|member| member.id);
        for member in members {
            self.registry.remember(member, Duration::ZERO);
        }
        let mut counts: BTreeMap<NodeId, (u64, u64)> = BTreeMap::new();
        for (set, messages, bytes) in self.mapping.sets().filter(|(set, ..)| !set.deleted) {
            for node in &set.holders {
                let count = counts.entry(*node).or_default();
                *count = (count.0 + messages, count.1 + bytes);
            }
        }
        for (node, (messages, bytes)) in counts {
            self.registry.restore_load(node, messages, bytes);
        }
    }

    /// Copies a message.
    pub fn tolerance(&self) -> usize {
        self.tolerance
    }

    /// Changes how many copies a new message gets.
    pub fn set_tolerance(&mut self, tolerance: usize) {
        self.tolerance = tolerance;
    }

    /// The cluster's name and epoch, once there are any.
    pub fn reign(&self) -> Option<Reign> {
        self.reign
    }

    /// Starts an epoch, which the log has on stable storage. Versions start anew in it.
    pub fn begin(&mut self, reign: Reign) {
        self.reign = Some(reign);
        self.newest_before = self.mapping.newest_committed();
        self.sequence = 0;
        self.taking.clear();
    }

    /// How far the index can be believed.
    pub fn trust(&self) -> Trust {
        self.knowledge.trust()
    }

    /// Nodes have seen a later epoch than the log: hear all of them before anything is claimed.
    pub fn distrust(&mut self) {
        self.knowledge.distrust();
        self.transactions.forget_undecided(self.reign.map(|reign| reign.epoch));
    }

    /// A node that belongs to this cluster wants to join: a leader without its log has to hear it.
    pub fn announce(&mut self, node: NodeId) {
        self.knowledge.announce(node);
    }

    /// A leader without its log still has something that speaks of this node, and has to hear it.
    pub fn expect(&mut self, node: NodeId) {
        self.knowledge.expect(node);
    }

    /// Looks whether the inventories that came suffice to believe the index; `true` when they just did.
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
        let members = self.member_ids();
        let settled = self.knowledge.settle_untold(&members, self.least_holders(), now);
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
    fn least_holders(&self) -> usize {
        self.mapping.sets().map(|(set, ..)| set.holders.len()).min().unwrap_or(self.tolerance).min(self.tolerance)
    }

    /// Why answers are held back, as long as they are.
    pub fn waiting_for(&self) -> Option<String> {
        let missing = || self.knowledge.missing(&self.member_ids());
        match self.knowledge.trust() {
            Trust::Whole if self.knowledge.is_greeting() && !self.registry.nodes().is_empty() => {
                Some(self.waiting_to_greet())
            }
            Trust::Whole => None,
            Trust::Nothing if self.registry.nodes().is_empty() => {
                Some("no node has reported to this leader yet".to_owned())
            }
            Trust::Nothing if missing().is_empty() => Some(
                "the leader lost its log, and none of the nodes that have joined knows them all: more have to"
                    .to_owned(),
            ),
            Trust::Nothing => {
                Some(format!("the leader lost its log and waits to hear from {}", name_nodes(&missing())))
            }
            Trust::MayLackItsEnd => Some(format!(
                "the leader's log may lack its end since the leader or its machine went down; it waits to hear from {}",
                name_nodes(&missing())
            )),
        }
    }

    fn waiting_to_greet(&self) -> String {
        match self.away() {
            away if away.is_empty() => "the leader has just started, and no node has joined yet".to_owned(),
            away => format!("the leader has just started, and {} have not joined yet", name_nodes(&away)),
        }
    }

    fn away(&self) -> Vec<NodeId> {
        let away = self.registry.nodes().iter().filter(|node| node.session.is_none());
        away.map(|node| node.member.id).collect()
    }

    /// Looks whether so many members have joined since the start that a commit which the log lacks, as an old copy
    /// of it would, has a holder among them: each of them could have said so.
    pub fn greet(&mut self) {
        if self.away().len() < self.least_holders() {
            self.believe();
        }
    }

    /// Members had time enough to join: the log is believed as it is, if any of them has looked at it, and if all
    /// that did have reported where it is doubted. Whether either is so from now on; without a member nothing could be
    /// read or written anyway.
    pub fn stop_greeting(&mut self) -> bool {
        let here: Vec<NodeId> = self.registry.linked().collect();
        if here.is_empty() {
            return false;
        }
        let (greets, doubted) = (self.knowledge.may_be_succeeded(), self.knowledge.stop_doubting(&here));
        if doubted {
            self.decide_transactions();
        }
        if greets {
            self.believe();
        }
        greets || doubted
    }

    fn believe(&mut self) {
        self.knowledge.greet();
        if self.knowledge.is_from_log() {
            self.decide_transactions();
        }
    }

    /// A node was told that this version is committed; `false`: the log that is believed has nothing so new.
    pub fn hear_committed(&mut self, version: Version) -> bool {
        let old = self.knowledge.can_turn_out_old() && self.lacks(version);
        if !old {
            self.mapping.note_committed(version);
        }
        !old
    }

    /// A node that joins holds a copy of this version, and nothing newer. That it is newer than all the log says is no
    /// news where a write was under way when the leader died, and proves nothing; but a log that was copied a moment
    /// before its end looks the same.
    pub fn hear_newest(&mut self, version: Version) {
        if self.lacks(version) {
            self.knowledge.doubt();
        }
    }

    /// Whether this version is later than all that the log said of its epoch. What this leader has committed since says
    /// nothing of the epochs before.
    fn lacks(&self, version: Version) -> bool {
        let before = self.reign.is_some_and(|reign| version.epoch() < reign.epoch);
        version > if before { self.newest_before } else { self.mapping.newest_committed() }
    }

    /// The newest version that was ever committed.
    pub fn newest_committed(&self) -> Version {
        self.mapping.newest_committed()
    }

    /// Whether all nodes were heard since the log was found to be an old one, so that what it alone speaks of can be
    /// forgotten.
    pub fn has_vanished(&self) -> bool {
        self.knowledge.trust() == Trust::Whole && self.knowledge.is_old()
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
        let records = (0..mapping::SHARDS).flat_map(|part| self.mapping.records(part));
        for (key, found) in records.filter(|(_, found)| found.set.intact().next().is_none()) {
            let id = key.id();
            let here = |(_, version)| version == found.record.version;
            if !self.surplus.of(&id).any(here) && !self.unsettled.contains_key(&id) {
                all.push((id, found.record.version));
            }
        }
        all
    }

    fn member_ids(&self) -> Vec<NodeId> {
        self.registry.nodes().iter().map(|node| node.member.id).collect()
    }

    /// How many messages are committed.
    pub fn len(&self) -> u64 {
        self.mapping.len()
    }

    /// Whether no message is committed.
    pub fn is_empty(&self) -> bool {
        self.mapping.is_empty()
    }

    /// The committed messages.
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Notes where the readable view has this id's line; see [`Mapping::place_line`].
    pub fn place_line(
        &mut self,
        id: &MessageId,
        place: impl FnOnce(Option<u64>, Option<&Holders>) -> Option<u64>,
    ) -> bool {
        self.mapping.place_line(id, place)
    }

    /// Notes where the readable view has the lines of some messages; see [`Mapping::place_lines`].
    pub fn place_lines(&mut self, part: usize, slice: usize, place: impl FnMut(&MessageId, &Holders) -> u64) {
        self.mapping.place_lines(part, slice, place);
    }

    /// Takes the lines of the readable view whose ids were forgotten.
    pub fn take_stale_lines(&mut self) -> Vec<u64> {
        self.mapping.take_stale_lines()
    }

    // ---- writing -----------------------------------------------------------

    /// Admits a write: gives it the next version, the least loaded nodes, and promises it to them.
    pub fn admit(&mut self, id: &MessageId, length: u32, crc: u32) -> Result<Ticket, NotAdmitted> {
        self.admit_next(id, |version| CopyRecord { version, length, crc })
    }

    /// Admits a deletion, which is a write of a tombstone; nothing if there is surely nothing to delete.
    pub fn admit_deletion(&mut self, id: &MessageId) -> Result<Option<Ticket>, NotAdmitted> {
        let whole = self.waiting_for().is_none();
        let nowhere = self.mapping.get(id).is_none() && !self.unsettled.contains_key(id);
        if whole && nowhere && !self.transactions.names_id(id) {
            return Ok(None);
        }
        self.admit_next(id, CopyRecord::tombstone).map(Some)
    }

    /// Admits several writes (of length and checksum, or deletions) or none of them; nothing in the place of a
    /// deletion of what surely is not there.
    pub fn admit_together(
        &mut self,
        writes: &[(&MessageId, Option<(u32, u32)>)],
    ) -> Result<Vec<Option<Ticket>>, NotAdmitted> {
        let mut tickets = Vec::with_capacity(writes.len());
        for &(id, message) in writes {
            let ticket = match message {
                Some((length, crc)) => self.admit(id, length, crc).map(Some),
                None => self.admit_deletion(id),
            };
            match ticket {
                Ok(ticket) => tickets.push(ticket),
                Err(refused) => {
                    tickets.iter().flatten().for_each(|ticket| self.release(ticket));
                    return Err(refused);
                }
            }
        }
        Ok(tickets)
    }

    fn admit_next(
        &mut self,
        id: &MessageId,
        record: impl FnOnce(Version) -> CopyRecord,
    ) -> Result<Ticket, NotAdmitted> {
        if self.knowledge.trust() == Trust::Nothing {
            // Too few nodes is what an operator can act on, so it is said first.
            return Err(match self.registry.usable() {
                live if live < self.tolerance => NotAdmitted::TooFewNodes { need: self.tolerance, live },
                _ => NotAdmitted::NotYet(self.waiting_for().unwrap_or_default()),
            });
        }
        if self.knowledge.may_be_succeeded() && !seeded::active(Bug::WriteBeforeGreeting) {
            return Err(NotAdmitted::NotYet(self.waiting_to_greet()));
        }
        let reign = self.reign.ok_or_else(|| NotAdmitted::NotYet("the leader has no epoch yet".to_owned()))?;
        let Some(sequence) = self.sequence.checked_add(1) else {
            return Err(NotAdmitted::NotYet("this epoch's versions are used up: restart the leader".to_owned()));
        };
        let ticket = self.promise(id, record(Version::new(reign.epoch, sequence)), &[])?;
        self.sequence = sequence - u32::from(seeded::active(Bug::VersionGivenTwice) && sequence.is_multiple_of(16));
        Ok(ticket)
    }

    /// Admits the completion of a version that `sources` hold: they keep it, and others
    /// are found until there are as many as tolerance asks for (or, with `fewer`, as there are).
    pub fn admit_completion(
        &mut self,
        id: &MessageId,
        record: CopyRecord,
        sources: &[NodeId],
        fewer: bool,
    ) -> Result<Ticket, NotAdmitted> {
        match self.promise(id, record, sources) {
            Err(NotAdmitted::TooFewNodes { live, .. }) if fewer && live > 0 => {
                let tolerance = std::mem::replace(&mut self.tolerance, live);
                let ticket = self.promise(id, record, sources);
                self.tolerance = tolerance;
                ticket
            }
            ticket => ticket,
        }
    }

    /// Whether a found version can only become true as a new one: a foreign file has none of its own, and copies of a
    /// transaction that never becomes true may stand before another.
    pub fn needs_new_version(&self, id: &MessageId, version: Version) -> bool {
        version == Version::FOREIGN || self.transactions.is_behind_void(id, version)
    }

    /// The next version of this epoch; none if they are used up.
    pub fn next_version(&mut self) -> Option<Version> {
        self.sequence = self.sequence.checked_add(1)?;
        Some(Version::new(self.reign?.epoch, self.sequence))
    }

    fn promise(&mut self, id: &MessageId, record: CopyRecord, sources: &[NodeId]) -> Result<Ticket, NotAdmitted> {
        let held = self.mapping.get(id).map(|found| found.set.holders.clone()).unwrap_or_default();
        let mut targets: SmallVec<[NodeId; 7]> = sources.iter().copied().take(self.tolerance).collect();
        if targets.len() < self.tolerance {
            targets.extend(self.registry.choose(self.tolerance - targets.len(), &held, sources));
        }
        if targets.len() < self.tolerance {
            return Err(NotAdmitted::TooFewNodes { need: self.tolerance, live: targets.len() });
        }
        Ok(self.promise_to(id, record, targets))
    }

    fn promise_to(&mut self, id: &MessageId, record: CopyRecord, targets: SmallVec<[NodeId; 7]>) -> Ticket {
        let held = self.mapping.get(id).map(|found| found.set.holders.clone()).unwrap_or_default();
        self.under_way.insert(record.version);
        let ticket = Ticket { id: id.clone(), record, tried: targets.iter().copied().collect(), targets, held };
        self.weigh(&ticket, 1);
        ticket
    }

    /// Promises what a ticket will bring to nodes and take from them (or, with -1, takes the promise back).
    fn weigh(&mut self, ticket: &Ticket, sign: i64) {
        if !ticket.record.is_tombstone() {
            ticket.targets.iter().for_each(|&node| self.registry.promise(node, sign));
        }
        ticket.held.iter().for_each(|&node| self.registry.promise(node, -sign));
    }

    /// Finds another node in place of a target that failed (or, with `beside`, is late and stays a target).
    pub fn replace(&mut self, ticket: &mut Ticket, failed: NodeId, beside: bool) -> Option<NodeId> {
        // The copies that will be given up are off the loads since the admission: none ranks lower once more.
        let next = *self.registry.choose(1, &[], &ticket.tried).first()?;
        ticket.tried.push(next);
        ticket.targets.push(next);
        if !ticket.record.is_tombstone() {
            self.registry.promise(next, 1);
        }
        if !beside {
            self.forsake(ticket, failed);
        }
        Some(next)
    }

    fn forsake(&mut self, ticket: &mut Ticket, node: NodeId) {
        if let Some(at) = ticket.targets.iter().position(|&target| target == node) {
            ticket.targets.remove(at);
            if !ticket.record.is_tombstone() {
                self.registry.promise(node, -1);
            }
        }
    }

    /// Takes back what was promised for a write that did not become true.
    pub fn release(&mut self, ticket: &Ticket) {
        self.weigh(ticket, -1);
        self.under_way.remove(&ticket.record.version);
    }

    /// A write ended without becoming true: whoever was asked for a copy may have one. So may whoever was asked for
    /// another copy of what is true already: that is one too many.
    pub fn note_in_doubt(&mut self, ticket: &Ticket) {
        let version = ticket.record.version;
        match self.mapping.newest(&ticket.id) {
            Some(found) if found.record.version == version => {
                let holders = found.set.holders.clone();
                self.note_left_over(ticket, &holders);
            }
            Some(found) if found.record.version > version => self.note_left_over(ticket, &Holders::new()),
            _ => ticket.tried.iter().for_each(|&node| self.in_doubt.note(&ticket.id, node, version)),
        }
    }

    /// A write became true on these holders: whoever else was asked for a copy may have one.
    pub fn note_left_over(&mut self, ticket: &Ticket, holders: &Holders) {
        for &node in ticket.tried.iter().filter(|node| !holders.contains(node)) {
            self.note_surplus(&ticket.id, ticket.record.version, node);
        }
    }

    /// Makes a durable commit true. Whoever holds a ticket for it releases that first.
    pub fn apply(&mut self, commit: &Commit) -> Applied {
        let applied = self.mapping.apply(commit);
        if self.reign.is_some_and(|reign| commit.record.version.epoch() < reign.epoch) {
            self.newest_before = self.newest_before.max(commit.record.version);
        }
        match &applied {
            Applied::Superseded => return applied,
            Applied::New => {}
            Applied::Replaced { record, holders } => {
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
        self.surplus.taken_in(&commit.id, commit.record.version, &commit.holders);
        for (node, version) in self.in_doubt.take(&commit.id) {
            if version > commit.record.version {
                self.in_doubt.note(&commit.id, node, version);
            } else if version < commit.record.version || !commit.holders.contains(&node) {
                self.note_surplus(&commit.id, version, node);
            }
        }
        self.deletions.hear(commit, self.registry.linked());
        if self.unsettled.get(&commit.id).is_some_and(|newer| newer.record.version <= commit.record.version)
            && let Some(older) = self.unsettled.remove(&commit.id)
        {
            // Whoever has it has to publish or to let go; those that the commit knows of are told twice.
            older.copies().for_each(|(node, version)| self.note_surplus(&commit.id, version, node));
        }
        applied
    }

    // ---- reading -----------------------------------------------------------

    /// Finds a message. `turn` spreads reads over its holders.
    pub fn locate(&self, id: &MessageId, turn: usize) -> Located {
        let found = self.mapping.newest(id);
        if let Some(newer) = self.unsettled.get(id)
            && found.is_none_or(|found| found.record.version < newer.record.version)
            && !seeded::active(Bug::UnsettledNotHidden)
        {
            return Located::Hidden(format!("a version found on {} is being completed", name_nodes(&newer.holders)));
        }
        if self.transactions.holds_back(id) {
            return Located::Hidden("a transaction that did not come to its end is being taken back".to_owned());
        }
        if let Some(reason) = self.waiting_for().filter(|_| !seeded::active(Bug::NotFoundAtOnce)) {
            return Located::Hidden(reason);
        }
        let Some(found) = found.filter(|found| !found.set.deleted) else { return Located::NotFound };
        if found.set.intact().next().is_none() && self.knowledge.is_old() {
            return Located::Hidden("only an old log speaks of it, and the nodes are just heard".to_owned());
        }
        if found.set.intact().next().is_none()
            && self.surplus.of(id).any(|(_, version)| version == found.record.version)
        {
            return Located::Hidden("a copy on a node that was no holder is being taken in".to_owned());
        }
        let (mut up, mut late, mut missed) =
            (SmallVec::<[NodeId; 7]>::new(), SmallVec::<[NodeId; 7]>::new(), SmallVec::new());
        for id in found.set.intact() {
            match self.registry.get(id) {
                Some(node) if node.session.is_some() && node.state == NodeState::Up => up.push(id),
                Some(node) if node.session.is_some() && node.state == NodeState::Suspect => late.push(id),
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
        self.mapping.get(id).map(|found| found.set.holders.clone())
    }

    /// Whether a node is a holder of this very version: else what it has of it is nobody's copy any more.
    pub fn is_holder(&self, id: &MessageId, version: Version, node: NodeId) -> bool {
        let found = self.mapping.get(id);
        found.is_some_and(|found| found.record.version == version && found.set.holders.contains(&node))
    }

    /// A holder's copy of this version was read or made: whether it is intact.
    pub fn note_copy(&mut self, id: &MessageId, version: Version, node: NodeId, intact: bool) {
        self.mapping.mark(id, version, node, intact);
    }

    // ---- reporting ---------------------------------------------------------

    /// Judges all nodes; see [`Registry::sweep`].
    pub fn sweep(&mut self, now: Duration) -> Vec<registry::Transition> {
        self.registry.sweep(now)
    }

    /// What reports show. Its cost is the number of distinct holder sets, not of messages.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts { messages: self.mapping.len(), bytes: self.mapping.bytes(), ..Counts::default() };
        let live = |id: &NodeId| self.registry.get(*id).is_some_and(|node| node.state != NodeState::Down);
        for (set, messages, _) in self.mapping.sets().filter(|(set, ..)| !set.deleted) {
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
