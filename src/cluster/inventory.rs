//! Taking in what a node says it holds, page by page, and what follows from it.
//!
//! A copy newer than what is committed is never shown as it is: it is noted as
//! uncommitted, and completed first. Absence is concluded only from a whole
//! inventory, and only for versions older than its beginning.

use std::collections::{BTreeMap, HashSet};
use std::hash::BuildHasher;
use std::ops::Bound;

use foldhash::fast::FixedState;
use smallvec::SmallVec;

use super::deletion::Deletions;
use super::mapping::SHARDS;
use super::{Cluster, Trust};
use crate::seeded::{self, Bug};
use crate::types::{CopyRecord, Holders, Listed, MessageId, NodeId, Version};

/// A version that nodes hold and no log record speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uncommitted {
    /// Version (zero: a foreign file), length and checksum.
    pub record: CopyRecord,
    /// Who holds it, ascending.
    pub holders: Holders,
    /// Older versions that nodes hold and no log record speaks of: if nobody turns out to have a whole copy of this
    /// one, or it never becomes true, the newest of them is next.
    older: Vec<(CopyRecord, Holders)>,
}

impl Uncommitted {
    pub(super) fn new(record: CopyRecord) -> Self {
        Self { record, holders: Holders::new(), older: Vec::new() }
    }

    /// A node has this of it.
    pub(super) fn note(&mut self, node: NodeId, record: CopyRecord) {
        if record.version > self.record.version {
            let (before, holders) = (self.record, std::mem::take(&mut self.holders));
            self.record = record;
            // A foreign file stays one.
            if before.version != Version::FOREIGN {
                self.older.push((before, holders));
            }
        }
        let holders = match self.record == record {
            true => &mut self.holders,
            false if record.version == Version::FOREIGN => return,
            false => match self.older.iter().position(|(older, _)| *older == record) {
                Some(at) => &mut self.older[at].1,
                None => {
                    self.older.push((record, Holders::new()));
                    &mut self.older.last_mut().expect("just pushed").1
                }
            },
        };
        if !holders.contains(&node) {
            holders.push(node);
            holders.sort_unstable();
        }
    }

    /// All copies of it, but foreign files.
    pub(super) fn copies(&self) -> impl Iterator<Item = (NodeId, Version)> {
        let all = self.older.iter().map(|(record, holders)| (record, holders)).chain([(&self.record, &self.holders)]);
        let all = all.filter(|(record, _)| record.version != Version::FOREIGN);
        all.flat_map(|(record, holders)| holders.iter().map(|&node| (node, record.version)))
    }
}

/// Copies that inventories listed and nobody needs: of a version that is older than the committed one, or that
/// enough others hold. What is done about them is decided when their turn comes.
#[derive(Debug, Default)]
pub(super) struct Excess(BTreeMap<MessageId, SmallVec<[(NodeId, Version); 2]>>);

impl Excess {
    pub(super) fn note(&mut self, id: &MessageId, node: NodeId, version: Version) {
        let copies = self.0.entry(id.clone()).or_default();
        if !copies.contains(&(node, version)) {
            copies.push((node, version));
        }
    }

    /// These nodes are holders of this version now.
    pub(super) fn taken_in(&mut self, id: &MessageId, version: Version, holders: &Holders) {
        if !self.0.is_empty() {
            let Some(copies) = self.0.get_mut(id) else { return };
            copies.retain(|(node, of)| *of != version || !holders.contains(node));
            if copies.is_empty() {
                self.0.remove(id);
            }
        }
    }

    /// Takes out those of an id.
    pub(super) fn take(&mut self, id: &MessageId) -> SmallVec<[(NodeId, Version); 2]> {
        if self.0.is_empty() { SmallVec::new() } else { self.0.remove(id).unwrap_or_default() }
    }

    /// Forgets other copies than these.
    pub(super) fn retain(&mut self, id: &MessageId, stays: impl Fn((NodeId, Version)) -> bool) {
        let Some(copies) = self.0.get_mut(id) else { return };
        copies.retain(|copy| stays(*copy));
        if copies.is_empty() {
            self.0.remove(id);
        }
    }

    /// Of how many ids there are any.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Forgets all copies on a node.
    pub(super) fn forget_node(&mut self, node: NodeId) {
        self.0.retain(|_, copies| {
            copies.retain(|(on, _)| *on != node);
            !copies.is_empty()
        });
    }

    /// All ids, ascending.
    pub(super) fn ids(&self) -> impl Iterator<Item = &MessageId> {
        self.0.keys()
    }

    /// Those of an id.
    pub(super) fn of(&self, id: &MessageId) -> impl Iterator<Item = (NodeId, Version)> {
        self.0.get(id).into_iter().flatten().copied()
    }
}

/// An inventory that is coming in.
#[derive(Debug)]
pub(super) struct Taking {
    session: u64,
    /// Versions from here on were given after it began: it need not list them.
    watermark: Version,
    /// The oldest version under way when it began: from here on a copy may have come after its part was listed.
    floor: Version,
    /// Hashes of ids whose committed copy is surely there: listed intact, or confirmed since.
    seen: HashSet<u64, FixedState>,
    entries: u64,
    differing: u64,
}

/// What a whole inventory showed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reported {
    /// Entries listed.
    pub entries: u64,
    /// Committed copies that should be there and were not.
    pub missing: u64,
    /// Committed copies that should be there.
    pub expected: u64,
    /// Foreign files unlike another node's of the same id, which becomes the message.
    pub differing: u64,
}

impl Reported {
    /// Whether so much is missing at once that it is no usual loss.
    pub fn is_alarming(&self) -> bool {
        self.missing * ALARM_SHARE > self.expected
    }
}

/// More than one in so many copies of a node missing at once is no usual loss.
const ALARM_SHARE: u64 = 10;

const HASHER: FixedState = FixedState::with_seed(0x68_61_74_6f);

impl Cluster {
    /// An inventory of this node was asked for in this session, which counts unless that of a later one is coming in.
    pub fn inventory_begins(&mut self, node: NodeId, session: u64) {
        if self.taking.get(&node).is_some_and(|taking| taking.session > session) {
            return;
        }
        let watermark = self
            .leadership
            .map_or(Version::FOREIGN, |leadership| Version::new(leadership.epoch, self.sequence.saturating_add(1)));
        let floor = self.under_way.first().copied().unwrap_or(watermark);
        let seen = HashSet::with_hasher(HASHER);
        self.taking.insert(node, Taking { session, watermark, floor, seen, entries: 0, differing: 0 });
    }

    /// A page came.
    pub fn inventory_page(&mut self, node: NodeId, session: u64, entries: &[Listed]) {
        let Some(mut taking) = self.taking.remove(&node) else { return };
        if taking.session == session {
            taking.entries += entries.len() as u64;
            for entry in entries {
                self.take_entry(node, &mut taking, entry);
            }
        }
        self.taking.insert(node, taking);
    }

    fn take_entry(&mut self, node: NodeId, taking: &mut Taking, entry: &Listed) {
        let version = entry.record.version;
        let found = self.state.mapping.newest(&entry.id);
        let committed = found.map(|found| found.record);
        let is_holder = found.is_some_and(|found| found.set.holders.contains(&node));
        if let Some(committed) = committed
            && committed.version == version
        {
            let intact = !entry.damaged && committed == entry.record;
            self.state.mapping.mark(&entry.id, version, node, intact);
            // A copy too many says nothing about those that should be there.
            if intact && is_holder {
                taking.seen.insert(HASHER.hash_one(&entry.id));
            }
            // Told of the commit again, it publishes a copy that has waited. What is older may have gone since, so
            // that nothing else would make anybody tell it.
            let unpublished = entry.staged && !committed.is_tombstone();
            if !is_holder || unpublished {
                self.excess.note(&entry.id, node, version);
            }
            return;
        }
        // What is found beside something newer is judged when that turns out to be nothing.
        let judged = committed.is_some() || !self.uncommitted.contains_key(&entry.id);
        let outdated = judged && version != Version::FOREIGN && self.is_outdated(&entry.id, version);
        if outdated {
            self.excess.note(&entry.id, node, version);
        }
        let newer = committed.is_none_or(|committed| committed.version < version);
        // A write of ours that is under way speaks for itself. One that merely waits for its turn does not: what
        // it will replace has to be known until then, and after it if it fails.
        let ours = version >= taking.watermark || self.under_way.contains(&version);
        if self.under_way.contains(&version) {
            // If it is none of the holders in the end, it has a copy too many.
            self.excess.note(&entry.id, node, version);
        }
        let news = newer && !ours && !outdated;
        let void = self.transactions.is_void(&entry.id, version);
        if void || (news && entry.damaged) {
            // It goes when something newer stands before it.
            self.in_doubt.note(&entry.id, node, version);
        }
        if entry.damaged || void || !news || seeded::active(Bug::UncommittedDropped) {
            return;
        }
        let noted = self.uncommitted.entry(entry.id.clone()).or_insert_with(|| Uncommitted::new(entry.record));
        if noted.record.version == Version::FOREIGN && version == Version::FOREIGN && noted.record != entry.record {
            taking.differing += 1;
        }
        noted.note(node, entry.record);
    }

    /// Whether this version is or stands before a committed one, or was deleted everywhere, or was never read by anybody: the
    /// log would know it otherwise.
    pub(super) fn is_outdated(&self, id: &MessageId, version: Version) -> bool {
        match self.state.mapping.newest(id) {
            Some(found) => found.record.version >= version,
            None => {
                // See `Cluster::forgettable`. A log that says "nothing" forgot what had vanished before all that nodes
                // hold was in it.
                version <= self.horizon()
                    && self.knowledge.trust() != Trust::Nothing
                    && !self.undecided.names(version)
                    && !seeded::active(Bug::HorizonIgnored)
            }
        }
    }

    /// A commit gave these nodes a copy of a message, or took it from them: inventories that are coming in
    /// count with that, so that the end compares what should be there with what is.
    pub(super) fn inventories_hear(&mut self, id: &MessageId, nodes: &Holders, gained: bool) {
        for node in nodes {
            let Some(taking) = self.taking.get_mut(node) else { continue };
            if gained {
                taking.seen.insert(HASHER.hash_one(id));
            } else {
                taking.seen.remove(&HASHER.hash_one(id));
            }
        }
    }

    /// The inventory ended with its marker and a count of entries. `None`: it does not
    /// add up or belongs to another session, and concludes nothing.
    pub fn inventory_ends(&mut self, node: NodeId, session: u64, count: u64) -> Option<Reported> {
        self.taking.get(&node).filter(|taking| taking.session == session)?;
        let taking = self.taking.remove(&node)?;
        if taking.entries != count && !seeded::active(Bug::InventoryNotCounted) {
            return None;
        }
        let mut reported = Reported { entries: count, differing: taking.differing, ..Reported::default() };
        let messages = self.registry.get(node).map_or(0, |node| node.committed);
        reported.expected = messages + Deletions::held_by(&self.state.mapping, node);
        if (taking.seen.len() as u64) < reported.expected {
            reported.missing = self.mark_missing(node, &taking);
        }
        self.knowledge.report(node);
        self.alarmed.remove(&node);
        if reported.is_alarming() {
            self.alarmed.insert(node);
        }
        Some(reported)
    }

    fn mark_missing(&mut self, node: NodeId, taking: &Taking) -> u64 {
        let mut missing = Vec::new();
        for part in 0..SHARDS {
            let judged = |version| version < taking.floor || seeded::active(Bug::AbsenceAboveFloor);
            let held = self.state.mapping.records_on(part, |set| set.holders.contains(&node));
            for (key, found) in held.filter(|(_, found)| judged(found.record.version)) {
                let id = key.id();
                if !taking.seen.contains(&HASHER.hash_one(&id)) {
                    missing.push((id, found.record.version));
                }
            }
        }
        for (id, version) in &missing {
            self.state.mapping.mark(id, *version, node, false);
        }
        missing.len() as u64
    }

    /// Whether an inventory of this node is coming in.
    pub fn is_listing(&self, node: NodeId) -> bool {
        self.taking.contains_key(&node)
    }

    /// The inventory broke off: what it said so far is true, and nothing follows from what it did not say.
    pub fn inventory_breaks(&mut self, node: NodeId, session: u64) {
        if self.taking.get(&node).is_some_and(|taking| taking.session == session) {
            self.taking.remove(&node);
        }
    }

    /// Of the `limit` ids that follow `after`, the uncommitted versions that can be completed now, because all that may be
    /// newer has been heard of; with the last of these ids, if others follow it. Foreign files wait until no inventory
    /// is coming in, so that equal ones on several nodes become one message, and transactions are completed as a whole.
    pub fn uncommitted(
        &self,
        after: Option<&MessageId>,
        limit: usize,
    ) -> (Vec<(MessageId, Uncommitted)>, Option<MessageId>) {
        // Some become true as new versions, which is not for a leader that may have been succeeded.
        let heard = self.has_heard();
        let decides = self.relies_on_group() && self.is_settled() && self.has_undecided();
        if !heard && !decides || self.transactions.any_open() {
            return (Vec::new(), None);
        }
        let ready = |id: &MessageId, newer: &Uncommitted| match newer.record.version {
            // What the log speaks of needs no inventories to be true as it is.
            version if !heard => self.undecided.names(version) && !self.needs_new_version(id, version),
            Version::FOREIGN => self.taking.is_empty(),
            version => !self.transactions.is_found(id, version),
        };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.uncommitted.range((from, Bound::Unbounded));
        let (mut found, mut last) = (Vec::new(), None);
        for (id, newer) in rest.by_ref().take(limit) {
            if ready(id, newer) {
                found.push((id.clone(), newer.clone()));
            }
            last = Some(id);
        }
        let last = last.filter(|_| rest.next().is_some()).cloned();
        (found, last)
    }

    /// Whether a version that was written waits to be completed; a foreign file stands behind all of them.
    pub(super) fn any_to_complete(&self) -> bool {
        self.uncommitted.values().any(|found| found.record.version != Version::FOREIGN)
    }

    /// How many versions wait to be completed.
    pub fn uncommitted_len(&self) -> usize {
        self.uncommitted.len()
    }

    /// A node has this version no more. When none has it, it is forgotten, and the next older one that was found takes
    /// its place; unless something newer is noted.
    pub fn forget_uncommitted(&mut self, id: &MessageId, version: Version, node: NodeId) {
        let Some(noted) = self.uncommitted.get_mut(id).filter(|noted| noted.record.version == version) else { return };
        noted.holders.retain(|holder| *holder != node);
        if noted.holders.is_empty() {
            self.forget_newest(id);
        }
    }

    /// What was found on a node does not count: it is no member any more.
    pub(super) fn forget_found_on(&mut self, node: NodeId) {
        let mut newest = Vec::new();
        for (id, noted) in &mut self.uncommitted {
            noted.older.iter_mut().for_each(|(_, holders)| holders.retain(|holder| *holder != node));
            noted.older.retain(|(_, holders)| !holders.is_empty());
            if noted.holders.contains(&node) {
                newest.push((id.clone(), noted.record.version));
            }
        }
        for (id, version) in newest {
            self.forget_uncommitted(&id, version, node);
        }
    }

    /// How many ids have a version that was found on a node and is not completed.
    pub(super) fn found_on(&self, node: NodeId) -> usize {
        let on = |noted: &&Uncommitted| {
            noted.holders.contains(&node) || noted.older.iter().any(|(_, holders)| holders.contains(&node))
        };
        self.uncommitted.values().filter(on).count()
    }

    /// Forgets the newest version that was found of an id: the next older one, if it can become true, takes its place.
    pub(super) fn forget_newest(&mut self, id: &MessageId) {
        let Some(mut noted) = self.uncommitted.remove(id) else { return };
        noted.older.sort_unstable_by_key(|(record, _)| record.version);
        while let Some((record, holders)) = noted.older.pop() {
            if self.transactions.is_void(id, record.version) {
                holders.iter().for_each(|&node| self.in_doubt.note(id, node, record.version));
            } else if self.is_outdated(id, record.version) {
                holders.iter().for_each(|&node| self.excess.note(id, node, record.version));
            } else {
                (noted.record, noted.holders) = (record, holders);
                self.uncommitted.insert(id.clone(), noted);
                return;
            }
        }
    }
}
