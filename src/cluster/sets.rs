//! Holder sets by number, with how much each is used.
//!
//! Messages share their sets, so that one costs a number, and what concerns all messages of a set (what reports
//! count, what repair has to do) is found without looking at any of them.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::types::{Holders, NodeId};

/// Holders of some messages, with the holders known to have lost their copy marked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct HolderSet {
    /// Ascending.
    pub holders: Holders,
    /// Bit i: the copy of `holders[i]` is known to be missing or damaged.
    pub bad: u8,
    /// They hold tombstones.
    pub deleted: bool,
}

impl HolderSet {
    /// The holders that are not known to have lost their copy.
    pub fn intact(&self) -> impl Iterator<Item = NodeId> {
        self.holders.iter().enumerate().filter(|(i, _)| self.bad & (1 << i) == 0).map(|(_, node)| *node)
    }

    /// Whether this node holds a copy that is not known to be missing or damaged.
    pub fn has_intact(&self, node: NodeId) -> bool {
        self.intact().any(|holder| holder == node)
    }

    /// Takes over what was known of the copies that stay.
    pub(super) fn inherit(&mut self, before: &Self) {
        for (i, node) in self.holders.iter().enumerate() {
            if before.holders.contains(node) && !before.has_intact(*node) {
                self.bad |= 1 << i;
            }
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Sets {
    all: Vec<SetUse>,
    /// By the hash of the set.
    numbers: HashTable<u32>,
    free: Vec<u32>,
}

#[derive(Debug, Default)]
struct SetUse {
    key: HolderSet,
    messages: u64,
    bytes: u64,
}

fn hash(key: &HolderSet) -> u64 {
    FixedState::with_seed(0).hash_one(key)
}

impl Sets {
    /// All numbers that are in use are below this one.
    pub(super) fn numbers(&self) -> usize {
        self.all.len()
    }

    pub(super) fn get(&self, number: u32) -> &HolderSet {
        &self.all[number as usize].key
    }

    /// One more message of `length` bytes has this set; gives the set's number.
    pub(super) fn enter(&mut self, key: HolderSet, length: u64) -> u32 {
        self.enter_many(key, 1, length)
    }

    /// So many more messages of so many bytes in all have this set.
    pub(super) fn enter_many(&mut self, key: HolderSet, messages: u64, bytes: u64) -> u32 {
        let hashed = hash(&key);
        let number = match self.numbers.find(hashed, |&number| self.all[number as usize].key == key) {
            Some(&number) => number,
            None => {
                let number = self.free.pop().unwrap_or_else(|| {
                    self.all.push(SetUse::default());
                    (self.all.len() - 1) as u32
                });
                self.all[number as usize].key = key;
                let all = &self.all;
                self.numbers.insert_unique(hashed, number, |&other| hash(&all[other as usize].key));
                number
            }
        };
        let set = &mut self.all[number as usize];
        set.messages += messages;
        set.bytes += bytes;
        number
    }

    /// One message fewer has this set; gives its holders.
    pub(super) fn leave(&mut self, number: u32, length: u64) -> Holders {
        let set = &mut self.all[number as usize];
        set.messages -= 1;
        set.bytes -= length;
        let holders = set.key.holders.clone();
        if set.messages == 0 {
            if let Ok(entry) = self.numbers.find_entry(hash(&set.key), |&other| other == number) {
                entry.remove();
            }
            self.free.push(number);
        }
        holders
    }

    /// Every set in use, with its messages and their bytes.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&HolderSet, u64, u64)> {
        self.all.iter().filter(|set| set.messages > 0).map(|set| (&set.key, set.messages, set.bytes))
    }
}
