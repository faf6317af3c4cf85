//! A part of the index: entries packed into the slots of an arena, and a table that says where they are.
//!
//! Deadlines lie beside, by slot: an id without one costs nothing, and of one that has one its entry says so.

use std::collections::BTreeMap;

use hashbrown::HashTable;

use super::arena::{Arena, HEAD, LENGTH_AT};
use crate::types::{CopyRecord, Deadline, Version};

/// What is kept of an id beside the id.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) record: CopyRecord,
    pub(super) set: u32,
    /// Where its line of the readable view begins, or [`NO_LINE`].
    pub(super) line: u64,
}

/// The longest that 47 bits hold.
pub(super) const NO_LINE: u64 = (1 << 47) - 1;

/// Beside the line, in its 48th bit: there is a deadline.
const ENDS: u64 = 1 << 47;

impl Entry {
    /// All but the deadline, and whether there is one.
    fn read(head: &[u8]) -> (Self, bool) {
        let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let version = Version(u64::from_le_bytes(head[..8].try_into().expect("eight bytes")));
        let record = CopyRecord { version, length: u32_at(8), crc: u32_at(12), expires: None };
        let mut line = [0; 8];
        line[..6].copy_from_slice(&head[20..LENGTH_AT]);
        let line = u64::from_le_bytes(line);
        (Self { record, set: u32_at(16), line: line & NO_LINE }, line & ENDS != 0)
    }

    fn write(&self, head: &mut [u8]) {
        let line = self.line | if self.record.expires.is_some() { ENDS } else { 0 };
        head[..8].copy_from_slice(&self.record.version.0.to_le_bytes());
        head[8..12].copy_from_slice(&self.record.length.to_le_bytes());
        head[12..16].copy_from_slice(&self.record.crc.to_le_bytes());
        head[16..20].copy_from_slice(&self.set.to_le_bytes());
        head[20..LENGTH_AT].copy_from_slice(&line.to_le_bytes()[..6]);
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
    /// By slot. At most some 20 bytes for each.
    deadlines: BTreeMap<u32, Deadline>,
}

impl Shard {
    pub(super) fn find(&self, hash: u32, id: &[u8]) -> Option<u32> {
        let same = |other: &Pointer| other.hash == hash && &self.arena.get(other.at)[HEAD..] == id;
        self.table.find(Pointer { hash, at: 0 }.spread(), same).map(|pointer| pointer.at)
    }

    /// What a slot holds, whose bytes these are.
    pub(super) fn entry(&self, at: u32, slot: &[u8]) -> Entry {
        let (mut entry, ends) = Entry::read(slot);
        if ends {
            entry.record.expires = self.deadlines.get(&at).copied();
        }
        entry
    }

    /// What a slot holds.
    pub(super) fn at(&self, at: u32) -> Entry {
        self.entry(at, self.arena.get(at))
    }

    /// Changes what a slot holds.
    pub(super) fn put(&mut self, at: u32, entry: Entry) {
        let (_, ended) = Entry::read(self.arena.get(at));
        match entry.record.expires {
            Some(deadline) => drop(self.deadlines.insert(at, deadline)),
            None if ended => drop(self.deadlines.remove(&at)),
            None => {}
        }
        entry.write(self.arena.head_mut(at));
    }

    /// How many have a deadline.
    pub(super) fn deadlines(&self) -> usize {
        self.deadlines.len()
    }

    /// Up to `count` slots with deadlines, from this one on.
    pub(super) fn deadlines_from(&self, at: u32, count: usize) -> impl Iterator<Item = (u32, Deadline)> {
        self.deadlines.range(at..).take(count).map(|(at, deadline)| (*at, *deadline))
    }

    /// A new slot, with its address. `None`: the part is full.
    pub(super) fn insert(&mut self, hash: u32, id: &[u8], entry: Entry) -> Option<u32> {
        let at = self.arena.add(id)?;
        self.put(at, entry);
        let pointer = Pointer { hash, at };
        self.table.insert_unique(pointer.spread(), pointer, |other| other.spread());
        Some(at)
    }

    pub(super) fn remove(&mut self, hash: u32, at: u32) {
        if let Ok(pointer) = self.table.find_entry(Pointer { hash, at }.spread(), |other| other.at == at) {
            pointer.remove();
            self.deadlines.remove(&at);
            self.arena.remove(at);
        }
    }
}
