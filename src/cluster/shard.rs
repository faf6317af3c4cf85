//! A part of the index: entries packed into the slots of an arena, and a table that says where they are.

use hashbrown::HashTable;

use super::arena::{Arena, HEAD, LENGTH_AT};
use crate::types::{CopyRecord, Version};

/// What is kept of an id beside the id.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) record: CopyRecord,
    pub(super) set: u32,
    /// Where its line of the readable view begins, or [`NO_LINE`].
    pub(super) line: u64,
}

/// The longest that 48 bits hold.
pub(super) const NO_LINE: u64 = (1 << 48) - 1;

impl Entry {
    pub(super) fn read(head: &[u8]) -> Self {
        let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let version = Version(u64::from_le_bytes(head[..8].try_into().expect("eight bytes")));
        let record = CopyRecord { version, length: u32_at(8), crc: u32_at(12) };
        let mut line = [0; 8];
        line[..6].copy_from_slice(&head[20..LENGTH_AT]);
        Self { record, set: u32_at(16), line: u64::from_le_bytes(line) }
    }

    pub(super) fn write(&self, head: &mut [u8]) {
        head[..8].copy_from_slice(&self.record.version.0.to_le_bytes());
        head[8..12].copy_from_slice(&self.record.length.to_le_bytes());
        head[12..16].copy_from_slice(&self.record.crc.to_le_bytes());
        head[16..20].copy_from_slice(&self.set.to_le_bytes());
        head[20..LENGTH_AT].copy_from_slice(&self.line.to_le_bytes()[..6]);
    }
}

/// Where an id's slot is, and enough of its hash to tell most others.
#[derive(Debug, Clone, Copy)]
struct Pointer {
    hash: u32,
    at: u32,
}

impl Pointer {
    /// The table takes the low bits for the place and the top bits for the first comparison.
    fn spread(self) -> u64 {
        u64::from(self.hash) << 32 | u64::from(self.hash)
    }
}

/// Part of the index.
#[derive(Debug, Default)]
pub(super) struct Shard {
    table: HashTable<Pointer>,
    pub(super) arena: Arena,
}

impl Shard {
    pub(super) fn find(&self, hash: u32, id: &[u8]) -> Option<u32> {
        let same = |other: &Pointer| other.hash == hash && &self.arena.get(other.at)[HEAD..] == id;
        self.table.find(Pointer { hash, at: 0 }.spread(), same).map(|pointer| pointer.at)
    }

    /// A new slot, with its address. `None`: the part is full.
    pub(super) fn insert(&mut self, hash: u32, id: &[u8], entry: Entry) -> Option<u32> {
        let at = self.arena.add(id)?;
        entry.write(self.arena.head_mut(at));
        let pointer = Pointer { hash, at };
        self.table.insert_unique(pointer.spread(), pointer, |other| other.spread());
        Some(at)
    }

    pub(super) fn remove(&mut self, hash: u32, at: u32) {
        if let Ok(pointer) = self.table.find_entry(Pointer { hash, at }.spread(), |other| other.at == at) {
            pointer.remove();
            self.arena.remove(at);
        }
    }
}
