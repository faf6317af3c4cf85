//! What of one moment is still to be copied, while a backup is made.
//!
//! A bit for each slot that is taken care of: it was copied, or was not there at that moment. An id keeps its slot, so
//! that a walk over the slots meets everything of the moment; what is overwritten or deleted before the walk has come
//! to it is handed out as [`Overtaken`] in the very step that overwrites it. So every message of the moment is either
//! met or handed out, and never both. The bits take a 32nd of the memory of the index.

use super::super::arena::{Arena, HEAD, UNITS_IN_CHUNK};
use super::super::shard::Entry;
use super::{Mapping, SCANNED_SLICES, SHARDS};
use crate::types::{CopyRecord, Holders, MessageId};

type Bits = [u64; UNITS_IN_CHUNK as usize / 64];

/// Where a message has its place in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    pub(super) part: usize,
    pub(super) at: u32,
}

/// A message of the moment that was overwritten, or deleted, before it was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overtaken {
    /// Its id.
    pub id: MessageId,
    /// What it was.
    pub record: CopyRecord,
    /// Who has intact copies of that, until they hear what is committed now.
    pub holders: Holders,
}

/// A step of the walk.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// Messages that are not copied yet. Each is taken with [`Mapping::take_slot`] once it was read.
    pub messages: Vec<(Slot, MessageId, CopyRecord)>,
    /// Nothing is behind these.
    pub is_last: bool,
}

/// The state of a backup.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// By part and chunk; a chunk without bits has none set.
    taken: Vec<Vec<Option<Box<Bits>>>>,
    overtaken: Vec<Overtaken>,
    /// Where the walk is.
    part: usize,
    from: u32,
}

impl Snapshot {
    fn new() -> Self {
        Self { taken: vec![Vec::new(); SHARDS], overtaken: Vec::new(), part: 0, from: 0 }
    }

    fn is_taken(&self, Slot { part, at }: Slot) -> bool {
        let unit = Arena::unit_of(at);
        let bits = self.taken[part].get(Arena::chunk_of(at)).and_then(Option::as_ref);
        bits.is_some_and(|bits| bits[unit / 64] & 1 << (unit % 64) != 0)
    }

    /// `true`: it was not taken before.
    fn take(&mut self, slot: Slot) -> bool {
        let fresh = !self.is_taken(slot);
        let (chunk, unit) = (Arena::chunk_of(slot.at), Arena::unit_of(slot.at));
        let chunks = &mut self.taken[slot.part];
        if chunks.len() <= chunk {
            chunks.resize(chunk + 1, None);
        }
        let bits = chunks[chunk].get_or_insert_with(|| Box::new([0; UNITS_IN_CHUNK as usize / 64]));
        bits[unit / 64] |= 1 << (unit % 64);
        fresh
    }
}

impl Mapping {
    /// Fixes this moment for a backup. `false`: one is being made.
    pub fn begin_snapshot(&mut self) -> bool {
        let is_first = self.snapshot.is_none();
        if is_first {
            self.snapshot = Some(Snapshot::new());
        }
        is_first
    }

    /// Nothing is to be copied any more.
    pub fn end_snapshot(&mut self) {
        self.snapshot = None;
    }

    /// Whether a backup is being made.
    pub fn has_snapshot(&self) -> bool {
        self.snapshot.is_some()
    }

    /// The next messages of the moment that are not copied yet: about `count`, and of about so many bytes. It looks at
    /// no more than [`SCANNED_SLICES`] slices.
    pub fn walk_snapshot(&mut self, count: usize, bytes: u64) -> Walked {
        let mut walked = Walked::default();
        let Some(snapshot) = &mut self.snapshot else { return Walked { is_last: true, ..walked } };
        let (mut slices, mut read) = (0, 0);
        while snapshot.part < SHARDS && slices < SCANNED_SLICES {
            let (part, shard) = (snapshot.part, &self.shards[snapshot.part]);
            let slice = Arena::chunk_of(snapshot.from);
            if slice >= shard.arena.chunks() {
                (snapshot.part, snapshot.from) = (part + 1, 0);
                continue;
            }
            slices += 1;
            for (at, bytes_of) in shard.arena.slots(slice).filter(|(at, _)| *at >= snapshot.from) {
                let (slot, entry) = (Slot { part, at }, shard.entry(at, bytes_of));
                if entry.record.is_tombstone() || snapshot.is_taken(slot) {
                    continue;
                }
                if walked.messages.len() >= count || read >= bytes {
                    snapshot.from = at;
                    return walked;
                }
                read += u64::from(entry.record.bytes());
                walked.messages.push((slot, super::Key(&bytes_of[HEAD..]).id(), entry.record));
            }
            snapshot.from = Arena::chunk_start(slice + 1);
        }
        walked.is_last = snapshot.part >= SHARDS;
        walked
    }

    /// A message of the moment was copied. `false`: it was taken care of before, by this or by [`Overtaken`].
    pub fn take_slot(&mut self, slot: Slot) -> bool {
        self.snapshot.as_mut().is_some_and(|snapshot| snapshot.take(slot))
    }

    /// What commits have overtaken, in their order.
    pub fn take_overtaken(&mut self) -> Vec<Overtaken> {
        self.snapshot.as_mut().map(|snapshot| std::mem::take(&mut snapshot.overtaken)).unwrap_or_default()
    }

    /// Whether something was overtaken and nobody asked for it: then the moment cannot be copied any more.
    pub fn has_torn_snapshot(&self) -> bool {
        self.snapshot.as_ref().is_some_and(|snapshot| !snapshot.overtaken.is_empty())
    }

    /// This slot is about to hold something newer, or nothing.
    pub(super) fn overtake(&mut self, part: usize, at: u32, id: &MessageId, entry: Entry) {
        let Some(snapshot) = &mut self.snapshot else { return };
        if snapshot.take(Slot { part, at }) && !entry.record.is_tombstone() {
            let holders = self.sets.get(entry.set).intact().collect();
            snapshot.overtaken.push(Overtaken { id: id.clone(), record: entry.record, holders });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::cluster::mapping::Commit;
    use crate::types::{Epoch, NodeId, Version};

    fn commit(n: u16, sequence: u32, deleted: bool) -> Commit {
        let text = format!("{n}{}", "x".repeat(usize::from(n) % 190));
        let version = Version::new(Epoch(1), sequence);
        let record = if deleted {
            CopyRecord::tombstone(version)
        } else {
            CopyRecord { version, length: 10, crc: sequence, expires: None }
        };
        Commit { id: text.parse().unwrap(), record, holders: [NodeId(1), NodeId(2)].into_iter().collect() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn what_was_there_at_the_moment_is_met_or_handed_out_once(
            before in prop::collection::vec((0u16..3000, any::<bool>()), 0..3000),
            meanwhile in prop::collection::vec((0u16..4000, 0u8..4), 0..3000),
            count in 1usize..200,
        ) {
            let (mut mapping, mut sequence) = (Mapping::new(5), 0);
            let mut apply = |mapping: &mut Mapping, n: u16, deleted: bool| {
                sequence += 1;
                mapping.apply(&commit(n, sequence, deleted));
                mapping.take_overtaken()
            };
            for (n, deleted) in before {
                prop_assert_eq!(apply(&mut mapping, n, deleted), []);
            }
            let live = (0..SHARDS).flat_map(|part| mapping.records(part)).filter(|(_, found)| !found.set.deleted);
            let wanted: BTreeMap<MessageId, CopyRecord> = live.map(|(key, found)| (key.id(), found.record)).collect();
            prop_assert!(mapping.begin_snapshot() && !mapping.begin_snapshot());
            let (mut copied, mut meanwhile) = (BTreeMap::new(), meanwhile.into_iter());
            let mut is_last = false;
            while !is_last {
                let walked = mapping.walk_snapshot(count, 500);
                is_last = walked.is_last;
                // Between the look and the copy others write, delete and forget.
                for (n, what) in meanwhile.by_ref().take(count) {
                    for old in apply(&mut mapping, n, what == 0) {
                        prop_assert_eq!(old.holders.len(), 2);
                        prop_assert!(copied.insert(old.id, old.record).is_none());
                    }
                    if what == 1 {
                        apply(&mut mapping, n, true);
                        let id = commit(n, 0, true).id;
                        let version = mapping.newest(&id).unwrap().record.version;
                        mapping.forget(&id, version);
                    }
                }
                for (slot, id, record) in walked.messages {
                    if mapping.take_slot(slot) {
                        prop_assert!(copied.insert(id, record).is_none());
                    }
                }
            }
            prop_assert!(!mapping.has_torn_snapshot());
            prop_assert_eq!(copied, wanted);
            mapping.end_snapshot();
            prop_assert!(mapping.begin_snapshot(), "and the next one begins");
        }
    }

    #[test]
    fn what_nobody_asked_for_is_told() {
        let mut mapping = Mapping::new(1);
        mapping.apply(&commit(1, 1, false));
        mapping.begin_snapshot();
        mapping.apply(&commit(1, 2, false));
        assert!(mapping.has_torn_snapshot());
        // A change of holders only, or another overwriting, overtakes nothing.
        let overtaken: Vec<Version> = mapping.take_overtaken().iter().map(|old| old.record.version).collect();
        assert_eq!(overtaken, [Version::new(Epoch(1), 1)]);
        mapping.apply(&commit(1, 2, false));
        mapping.apply(&commit(1, 3, false));
        assert!(!mapping.has_torn_snapshot());
    }
}
