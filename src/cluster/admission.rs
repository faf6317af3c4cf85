//! Writes on their way: the version and the targets that each is given, and what is promised to nodes meanwhile.
//!
//! Every ticket that is admitted ends in [`Cluster::release`].

use smallvec::SmallVec;

use super::Cluster;
use super::knowledge::Trust;
use crate::seeded::{self, Bug};
use crate::types::{CopyRecord, Holders, MessageId, NodeId, Nodes, Version};

/// Ids of failed writes whose copies are remembered. Disks that take nothing would else make the leader remember every
/// id that it is asked to write; what it does not remember, a node lists when it joins the next time.
pub(super) const MOST_IN_DOUBT: usize = 65_536;

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
    pub targets: Nodes,
    /// Every node that was ever a target.
    pub(super) tried: SmallVec<[NodeId; 8]>,
    /// The holders of the version before.
    pub(super) held: Holders,
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

impl Ticket {
    /// Nothing is sent after all: of its targets, only these may have a copy.
    pub fn unsent(&mut self, sources: &[NodeId]) {
        self.tried.retain(|node| sources.contains(node));
    }
}

impl Cluster {
    /// Admits a write: gives it the next version, the least loaded nodes, and promises it to them. The version of `record`
    /// is of no account.
    pub fn admit(&mut self, id: &MessageId, record: CopyRecord) -> Result<Ticket, NotAdmitted> {
        if let Some(reason) = self.doubts_too_much(id) {
            return Err(NotAdmitted::NotYet(reason));
        }
        if record.expires.is_some()
            && let Some(node) = self.registry.nodes().iter().find(|node| node.is_linked() && !node.traits.deadlines)
        {
            let id = node.member.id;
            return Err(NotAdmitted::NotYet(format!(
                "node {id} is of a version that does not keep when a message ends: upgrade it"
            )));
        }
        self.admit_next(id, |version| CopyRecord { version, ..record })
    }

    /// Admits a deletion, which is a write of a tombstone; nothing if there is surely nothing to delete, on any member:
    /// one that this leader has not heard may have what a write left that failed under the leader before.
    pub fn admit_deletion(&mut self, id: &MessageId) -> Result<Option<Ticket>, NotAdmitted> {
        let doubted = !seeded::active(Bug::DoubtIsAbsence)
            && (self.is_in_doubt(id) || self.in_doubt.of(id).next().is_some() || !self.all_heard());
        let whole = self.unsure().is_none() && !doubted;
        let nowhere = self.state.mapping.get(id).is_none() && !self.uncommitted.contains_key(id);
        if whole && nowhere && !self.transactions.names_id(id) && self.undecided.hides(id).is_none() {
            return Ok(None);
        }
        self.admit_next(id, CopyRecord::tombstone).map(Some)
    }

    /// Admits several writes (or, with nothing, deletions) or none of them; nothing in the place of a
    /// deletion of what surely is not there.
    pub fn admit_together(
        &mut self,
        writes: &[(&MessageId, Option<CopyRecord>)],
    ) -> Result<Vec<Option<Ticket>>, NotAdmitted> {
        let mut tickets = Vec::with_capacity(writes.len());
        for &(id, message) in writes {
            let ticket = match message {
                Some(record) => self.admit(id, record).map(Some),
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
        let leadership =
            self.leadership.ok_or_else(|| NotAdmitted::NotYet("the leader has no epoch yet".to_owned()))?;
        if self.paused {
            return Err(NotAdmitted::NotYet("another epoch begins, and nodes have to join it".to_owned()));
        }
        if let Some(reason) = self.not_yet_fewer() {
            return Err(NotAdmitted::NotYet(reason));
        }
        let Some(sequence) = self.sequence.checked_add(1) else {
            return Err(NotAdmitted::NotYet("this epoch's versions are used up: restart the leader".to_owned()));
        };
        let ticket = self.promise(id, record(Version::new(leadership.epoch, sequence)), &[])?;
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
        Some(Version::new(self.leadership?.epoch, self.sequence))
    }

    /// How many versions of this epoch were given out.
    pub fn versions_given(&self) -> u32 {
        self.sequence
    }

    /// Whether writes have to wait from here on.
    pub fn pause(&mut self, on: bool) {
        self.paused = on;
    }

    /// The oldest version that may still become true.
    pub(super) fn oldest_write(&self) -> Option<Version> {
        self.under_way.iter().find(|version| !self.repairing.contains(version)).copied()
    }

    /// Whether any write or repair is under way.
    pub fn is_writing(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Nothing was admitted with the version that was given out last.
    pub fn give_back(&mut self, version: Version) {
        if self.leadership.is_some_and(|leadership| Version::new(leadership.epoch, self.sequence) == version) {
            self.sequence -= 1;
        }
    }

    fn promise(&mut self, id: &MessageId, record: CopyRecord, sources: &[NodeId]) -> Result<Ticket, NotAdmitted> {
        let found = self.state.mapping.get(id);
        let held = found.as_ref().map(|found| found.set.holders.clone()).unwrap_or_default();
        let before = found.map_or(0, |found| found.record.bytes());
        let mut targets: Nodes = sources.iter().copied().take(self.tolerance).collect();
        if targets.len() < self.tolerance {
            targets.extend(self.registry.choose(record, before, self.tolerance - targets.len(), &held, sources));
        }
        if targets.len() < self.tolerance {
            return Err(NotAdmitted::TooFewNodes { need: self.tolerance, live: targets.len() });
        }
        Ok(self.promise_to(id, record, targets, held))
    }

    /// `held`: the holders of the message before, who will give it up.
    pub(super) fn promise_to(&mut self, id: &MessageId, record: CopyRecord, targets: Nodes, held: Holders) -> Ticket {
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
        let next = *self.registry.choose(ticket.record, 0, 1, &[], &ticket.tried).first()?;
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
        self.repairing.remove(&ticket.record.version);
    }

    /// A write ended without becoming true: whoever was asked for a copy, and has not `refused` it, may have one. So may
    /// whoever was asked for another copy of what is true already: that is one too many.
    pub fn note_in_doubt(&mut self, ticket: &Ticket, refused: &[NodeId]) {
        self.note_left(ticket, refused);
        self.note_doubt(ticket, ticket.tried.iter().copied().filter(|node| !refused.contains(node)));
    }

    /// As [`Cluster::note_in_doubt`], of what surely never becomes true.
    pub(super) fn note_left(&mut self, ticket: &Ticket, refused: &[NodeId]) {
        let version = ticket.record.version;
        let kept = ticket.tried.iter().filter(|node| !refused.contains(node));
        match self.state.mapping.newest(&ticket.id) {
            Some(found) if found.record.version == version => {
                let holders = found.set.holders.clone();
                self.note_left_over(ticket, &holders);
            }
            Some(found) if found.record.version > version => self.note_left_over(ticket, &Holders::new()),
            _ if self.in_doubt.len() >= MOST_IN_DOUBT => {}
            _ => kept.for_each(|&node| self.in_doubt.note(&ticket.id, node, version)),
        }
    }

    /// A write became true on these holders: whoever else was asked for a copy may have one.
    pub fn note_left_over(&mut self, ticket: &Ticket, holders: &Holders) {
        for &node in ticket.tried.iter().filter(|node| !holders.contains(node)) {
            self.note_excess(&ticket.id, ticket.record.version, node);
        }
    }
}
