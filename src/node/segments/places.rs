//! Where every copy lies: 32 bytes a copy, and one small vector an id.
//!
//! The invariant: of an id's copies, ascending by version, the oldest that is no tombstone is the visible one and
//! all others are staged. So nothing but which copies there are has to be told after a crash.

use std::sync::MutexGuard;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::lock::Lock;
use crate::node::store::{INVENTORY_PARTS, Totals};
use crate::types::{CopyRecord, Deadline, Listed, MessageId, Version};

/// No segment: the copy is damaged, and its bytes are not counted on any more.
pub(super) const NOWHERE: u32 = 0;

/// The segment of a copy that is about to be written.
pub(super) const NOT_YET: u32 = u32::MAX;

/// One copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) version: Version,
    pub(super) length: u32,
    pub(super) crc: u32,
    pub(super) expires: Option<Deadline>,
    pub(super) segment: u32,
    /// Of its content.
    pub(super) offset: u32,
}

impl Place {
    pub(super) fn new(record: CopyRecord, segment: u32, offset: u32) -> Self {
        let CopyRecord { version, length, crc, expires } = record;
        Self { version, length, crc, expires, segment, offset }
    }

    pub(super) fn record(&self) -> CopyRecord {
        CopyRecord { version: self.version, length: self.length, crc: self.crc, expires: self.expires }
    }

    pub(super) fn is_whole(&self) -> bool {
        self.segment != NOWHERE
    }
}

/// All copies of one id, ascending by version.
#[derive(Debug, Clone, Default)]
pub(super) struct Slot(pub(super) SmallVec<[Place; 1]>);

impl Slot {
    pub(super) fn find(&self, version: Version) -> Option<Place> {
        self.0.iter().find(|place| place.version == version).copied()
    }

    /// Whole copies.
    pub(super) fn whole(&self) -> impl DoubleEndedIterator<Item = &Place> {
        self.0.iter().filter(|place| place.is_whole())
    }

    pub(super) fn newest(&self) -> Option<CopyRecord> {
        self.whole().next_back().map(Place::record)
    }

    /// The whole copy that has the id's name, if no tombstone waits behind it.
    pub(super) fn published(&self) -> Option<CopyRecord> {
        let deleted = self.newest().is_some_and(|newest| newest.is_tombstone());
        let visible = self.visible().map(|at| self.0[at]).filter(|place| place.is_whole() && !deleted);
        visible.map(|place| place.record())
    }

    fn visible(&self) -> Option<usize> {
        self.0.iter().position(|place| !place.record().is_tombstone())
    }

    /// Adds a copy in its place; gives the one of the same version that it replaces.
    pub(super) fn add(&mut self, place: Place) -> Option<Place> {
        let at = self.0.partition_point(|other| other.version < place.version);
        match self.0.get_mut(at) {
            Some(same) if same.version == place.version => Some(std::mem::replace(same, place)),
            _ => {
                self.0.insert(at, place);
                None
            }
        }
    }

    /// Takes off all copies older than `below`.
    pub(super) fn drop_below(&mut self, below: Version) -> SmallVec<[Place; 1]> {
        let until = self.0.partition_point(|place| place.version < below);
        let gone = self.0.drain(..until).collect();
        // Back into the table, where one place lies as a rule.
        self.0.shrink_to_fit();
        gone
    }

    /// Takes a copy for damaged; false if it is not at this place any more.
    pub(super) fn mark_damaged(&mut self, damaged: &Place) -> bool {
        let place = self.0.iter_mut().find(|place| *place == damaged);
        place.map(|place| place.segment = NOWHERE).is_some()
    }

    fn counted(&self) -> (u64, u64) {
        let visible = self.visible().map(|at| self.0[at]).filter(Place::is_whole);
        visible.map_or((0, 0), |place| (1, u64::from(place.length)))
    }
}

type Shard = HashMap<MessageId, Slot, foldhash::fast::RandomState>;

fn lock(shard: &Lock<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock()
}

/// All slots, in as many shards as an inventory has parts.
#[derive(Debug)]
pub(super) struct Places {
    shards: Vec<Lock<Shard>>,
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Default for Places {
    fn default() -> Self {
        let shards = (0..INVENTORY_PARTS).map(|_| Lock::default()).collect();
        Self { shards, messages: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }
}

impl Places {
    /// A fixed hash, so that the parts of an inventory are the same in every run of the simulator.
    fn part_of(&self, id: &MessageId) -> usize {
        xxhash_rust::xxh3::xxh3_64(id.as_bytes()) as usize % self.shards.len()
    }

    fn shard(&self, id: &MessageId) -> MutexGuard<'_, Shard> {
        lock(&self.shards[self.part_of(id)])
    }

    /// The slots of all these ids. With a lock taken between two looks the processor would wait for each slot that is
    /// in no cache; under one hold of all locks it fetches several at once (a fifth more overwrites a second of many ids).
    pub(super) fn get_all(&self, ids: &[&MessageId]) -> Vec<Slot> {
        let shards: Vec<_> = self.shards.iter().map(lock).collect();
        let parts: Vec<usize> = ids.iter().map(|id| self.part_of(id)).collect();
        let found: Vec<Option<&Slot>> = ids.iter().zip(parts).map(|(id, part)| shards[part].get(*id)).collect();
        found.into_iter().map(|slot| slot.cloned().unwrap_or_default()).collect()
    }

    pub(super) fn get(&self, id: &MessageId) -> Slot {
        self.shard(id).get(id).cloned().unwrap_or_default()
    }

    pub(super) fn find(&self, id: &MessageId, version: Version) -> Option<Place> {
        self.shard(id).get(id)?.find(version)
    }

    /// Takes all copies in a segment for damaged, and says how many there were.
    pub(super) fn give_up(&self, segment: u32) -> usize {
        let mut ids = Vec::new();
        for shard in &self.shards {
            let shard = lock(shard);
            let in_it = |slot: &Slot| slot.0.iter().any(|place| place.segment == segment);
            ids.extend(shard.iter().filter(|(_, slot)| in_it(slot)).map(|(id, _)| id.clone()));
        }
        for id in &ids {
            self.change(id, |slot| {
                slot.0.iter_mut().filter(|place| place.segment == segment).for_each(|place| place.segment = NOWHERE);
            });
        }
        ids.len()
    }

    /// Changes the slot of an id, and the totals with it.
    pub(super) fn change<T>(&self, id: &MessageId, change: impl FnOnce(&mut Slot) -> T) -> T {
        let mut shard = self.shard(id);
        let mut none = Slot::default();
        let known = shard.get_mut(id);
        let is_known = known.is_some();
        let slot = known.unwrap_or(&mut none);
        let before = slot.counted();
        let result = change(slot);
        let (after, is_empty) = (slot.counted(), slot.0.is_empty());
        match (is_known, is_empty) {
            (true, true) => drop(shard.remove(id)),
            (false, false) => drop(shard.insert(id.clone(), none)),
            _ => {}
        }
        drop(shard);
        // Wrapping: what was counted before is taken off again, in whatever order.
        self.messages.fetch_add(after.0.wrapping_sub(before.0), Ordering::Relaxed);
        self.bytes.fetch_add(after.1.wrapping_sub(before.1), Ordering::Relaxed);
        result
    }

    /// Everything of one part, ascending by id.
    pub(super) fn part(&self, part: usize) -> Vec<Listed> {
        let Some(shard) = self.shards.get(part) else { return Vec::new() };
        let shard = lock(shard);
        let mut entries = Vec::with_capacity(shard.len());
        for (id, slot) in shard.iter() {
            let visible = slot.visible();
            entries.extend(slot.0.iter().enumerate().map(|(at, place)| Listed {
                id: id.clone(),
                record: place.record(),
                staged: visible != Some(at),
                damaged: !place.is_whole(),
            }));
        }
        drop(shard);
        entries.sort_by(|a, b| (&a.id, a.staged, a.record.version).cmp(&(&b.id, b.staged, b.record.version)));
        entries
    }

    pub(super) fn totals(&self) -> Totals {
        Totals { messages: self.messages.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }
}
