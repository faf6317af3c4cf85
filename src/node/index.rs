//! What a node's store knows of its copies without asking the disk.
//!
//! The invariant: the totals are those of the slots, and no lock is held while a disk works. Only the
//! store's writer adds and removes; readers may only mark a copy as damaged or gone. Nothing here is a
//! proof: every read checks the file against its record all the same.

use std::sync::MutexGuard;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashMap;

use super::store::{INVENTORY_PARTS, Totals};
use crate::lock::Lock;
use crate::types::{CopyRecord, Listed, MessageId, Version};

/// One whole copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy {
    /// What it is.
    pub record: CopyRecord,
    /// Written by a batch that is not over: not yet as safe as the IO mode says, so no inventory lists it.
    pub fresh: bool,
}

/// The file that bears an id's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visible {
    /// A copy with its record.
    Recorded(Copy),
    /// A file that no leader wrote; its version is [`Version::FOREIGN`].
    Foreign(CopyRecord),
    /// Not what its record says.
    Damaged(CopyRecord),
}

/// Everything of one id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slot {
    /// The file of that name.
    pub visible: Option<Visible>,
    /// Copies that wait for their commit behind the visible one; ascending by version.
    pub staged: Vec<Copy>,
}

impl Slot {
    /// The visible recorded copy.
    pub fn recorded(&self) -> Option<Copy> {
        match self.visible {
            Some(Visible::Recorded(copy)) => Some(copy),
            _ => None,
        }
    }

    /// All whole recorded copies.
    pub fn copies(&self) -> impl Iterator<Item = Copy> {
        self.recorded().into_iter().chain(self.staged.iter().copied())
    }

    /// The newest whole recorded copy, fresh ones too.
    pub fn newest(&self) -> Option<CopyRecord> {
        self.copies().map(|copy| copy.record).max_by_key(|record| record.version)
    }

    /// The staged copy of one version.
    pub fn staged(&self, version: Version) -> Option<Copy> {
        self.staged.iter().find(|copy| copy.record.version == version).copied()
    }

    /// Staged copies that are to get the id's name, ascending: all but tombstones.
    pub fn unpublished(&self) -> impl Iterator<Item = &Copy> {
        self.staged.iter().filter(|copy| !copy.record.is_tombstone())
    }

    /// Adds a staged copy in its place.
    pub fn stage(&mut self, copy: Copy) {
        let place = self.staged.partition_point(|other| other.record.version < copy.record.version);
        self.staged.insert(place, copy);
    }

    fn counted(&self) -> (u64, u64) {
        self.recorded().map_or((0, 0), |copy| (1, u64::from(copy.record.bytes())))
    }
}

/// All slots, in as many shards as an inventory has parts.
#[derive(Debug)]
pub struct Index {
    shards: Vec<Lock<Shard>>,
    messages: AtomicU64,
    bytes: AtomicU64,
}

type Shard = HashMap<MessageId, Slot, foldhash::fast::RandomState>;

impl Default for Index {
    fn default() -> Self {
        let shards = (0..INVENTORY_PARTS).map(|_| Lock::default()).collect();
        Self { shards, messages: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }
}

impl Index {
    fn shard(&self, id: &MessageId) -> MutexGuard<'_, Shard> {
        // A fixed hash, so that the parts of an inventory are the same in every run of the simulator.
        let part = xxhash_rust::xxh3::xxh3_64(id.as_bytes()) as usize % self.shards.len();
        self.shards[part].lock()
    }

    /// What is known of an id now.
    pub fn get(&self, id: &MessageId) -> Slot {
        self.shard(id).get(id).cloned().unwrap_or_default()
    }

    /// Changes the slot of an id, and the totals with it.
    pub fn change<T>(&self, id: &MessageId, change: impl FnOnce(&mut Slot) -> T) -> T {
        let mut shard = self.shard(id);
        let mut slot = shard.remove(id).unwrap_or_default();
        let before = slot.counted();
        let result = change(&mut slot);
        let after = slot.counted();
        if slot != Slot::default() {
            shard.insert(id.clone(), slot);
        }
        drop(shard);
        // Wrapping: what was counted before is taken off again, in whatever order.
        self.messages.fetch_add(after.0.wrapping_sub(before.0), Ordering::Relaxed);
        self.bytes.fetch_add(after.1.wrapping_sub(before.1), Ordering::Relaxed);
        result
    }

    /// Everything of one part but what is fresh, ascending by id.
    pub fn part(&self, part: usize) -> Vec<Listed> {
        let Some(shard) = self.shards.get(part) else { return Vec::new() };
        let shard = shard.lock();
        let mut entries = Vec::with_capacity(shard.len());
        for (id, slot) in shard.iter() {
            let mut add = |record, staged, damaged| entries.push(Listed { id: id.clone(), record, staged, damaged });
            match slot.visible {
                Some(Visible::Recorded(copy)) if !copy.fresh => add(copy.record, false, false),
                Some(Visible::Foreign(record)) => add(record, false, false),
                Some(Visible::Damaged(record)) => add(record, false, true),
                _ => {}
            }
            for copy in slot.staged.iter().filter(|copy| !copy.fresh) {
                add(copy.record, true, false);
            }
        }
        drop(shard);
        entries.sort_by(|a, b| (&a.id, a.staged, a.record.version).cmp(&(&b.id, b.staged, b.record.version)));
        entries
    }

    /// Whole visible recorded copies and their bytes.
    pub fn totals(&self) -> Totals {
        Totals { messages: self.messages.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }
}
