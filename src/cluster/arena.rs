//! Byte slots of many sizes in a few large chunks.
//!
//! A slot costs no allocation of its own, is addressed by 32 bits, and never moves: a pass over all slots goes
//! through memory in order, and can stop after every chunk. A removed slot is used again for one of its size.
//! What a slot holds is its owner's affair, except for two bytes: those at [`LENGTH_AT`] tell how long the slot is, and
//! are zero in a slot that is free.

use crate::types::MAX_ID_BYTES;

/// Slots begin at multiples of this.
const UNIT: usize = 4;

/// Bytes of a chunk; the longest slot is far shorter.
const CHUNK: usize = 64 * 1024;

/// Addresses of a chunk.
pub(super) const UNITS_IN_CHUNK: u32 = (CHUNK / UNIT) as u32;

/// Bytes of a slot before the part whose length differs.
pub(super) const HEAD: usize = 28;

/// The place of the two bytes that say how long the part behind the head is.
pub(super) const LENGTH_AT: usize = HEAD - 2;

/// In a free slot: how many units it has.
const FREE_UNITS_AT: usize = 4;

/// The most units of a slot.
const MOST_UNITS: usize = (HEAD + MAX_ID_BYTES).div_ceil(UNIT);

const NOWHERE: u32 = u32::MAX;

/// Slots of [`HEAD`] bytes and 1 to [`MAX_ID_BYTES`] more.
#[derive(Debug)]
pub(super) struct Arena {
    chunks: Vec<Vec<u8>>,
    /// The first free slot of each size; each holds the address of the next.
    free: [u32; MOST_UNITS + 1],
}

impl Default for Arena {
    fn default() -> Self {
        Self { chunks: Vec::new(), free: [NOWHERE; MOST_UNITS + 1] }
    }
}

fn units(length: usize) -> usize {
    (HEAD + length).div_ceil(UNIT)
}

fn u16_at(slot: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([slot[at], slot[at + 1]]))
}

fn place(at: u32) -> (usize, usize) {
    ((at / UNITS_IN_CHUNK) as usize, (at % UNITS_IN_CHUNK) as usize * UNIT)
}

impl Arena {
    /// The bytes of a slot, its head first.
    pub(super) fn get(&self, at: u32) -> &[u8] {
        let (chunk, from) = place(at);
        let chunk = &self.chunks[chunk];
        &chunk[from..from + HEAD + u16_at(chunk, from + LENGTH_AT)]
    }

    /// The head of a slot; its last two bytes are not to be changed.
    pub(super) fn head_mut(&mut self, at: u32) -> &mut [u8] {
        let (chunk, from) = place(at);
        &mut self.chunks[chunk][from..from + HEAD]
    }

    /// A new slot that ends in `tail`, of 1 to [`MAX_ID_BYTES`] bytes, with its address. `None`: all addresses are taken.
    pub(super) fn add(&mut self, tail: &[u8]) -> Option<u32> {
        if !(1..=MAX_ID_BYTES).contains(&tail.len()) {
            return None;
        }
        let units = units(tail.len());
        let at = match self.free[units] {
            NOWHERE => self.extend(units)?,
            at => {
                let (chunk, from) = place(at);
                let next = self.chunks[chunk][from..from + 4].try_into().expect("four bytes");
                self.free[units] = u32::from_le_bytes(next);
                at
            }
        };
        let (chunk, from) = place(at);
        let slot = &mut self.chunks[chunk][from..from + units * UNIT];
        slot[LENGTH_AT..HEAD].copy_from_slice(&(tail.len() as u16).to_le_bytes());
        slot[HEAD..HEAD + tail.len()].copy_from_slice(tail);
        Some(at)
    }

    fn extend(&mut self, units: usize) -> Option<u32> {
        let full = |chunk: &Vec<u8>| chunk.len() + units * UNIT > CHUNK;
        if self.chunks.last().is_none_or(full) {
            // The last address is taken for "nowhere".
            if self.chunks.len() as u32 >= u32::MAX / UNITS_IN_CHUNK {
                return None;
            }
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let number = self.chunks.len() - 1;
        let chunk = &mut self.chunks[number];
        let from = chunk.len();
        chunk.resize(from + units * UNIT, 0);
        Some(number as u32 * UNITS_IN_CHUNK + (from / UNIT) as u32)
    }

    /// Frees a slot.
    pub(super) fn remove(&mut self, at: u32) {
        let (chunk, from) = place(at);
        let chunk = &mut self.chunks[chunk];
        let units = units(u16_at(chunk, from + LENGTH_AT));
        chunk[from + LENGTH_AT..from + HEAD].fill(0);
        chunk[from + FREE_UNITS_AT..from + FREE_UNITS_AT + 2].copy_from_slice(&(units as u16).to_le_bytes());
        chunk[from..from + 4].copy_from_slice(&self.free[units].to_le_bytes());
        self.free[units] = at;
    }

    /// The chunk that an address lies in.
    pub(super) fn chunk_of(at: u32) -> usize {
        (at / UNITS_IN_CHUNK) as usize
    }

    /// The place of an address among the [`UNITS_IN_CHUNK`] of its chunk.
    pub(super) fn unit_of(at: u32) -> usize {
        (at % UNITS_IN_CHUNK) as usize
    }

    /// The address at which a chunk begins.
    pub(super) fn chunk_start(chunk: usize) -> u32 {
        chunk as u32 * UNITS_IN_CHUNK
    }

    /// How many chunks there are.
    pub(super) fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// The slots of one chunk that are in use, with their addresses.
    pub(super) fn slots(&self, chunk: usize) -> impl Iterator<Item = (u32, &[u8])> {
        let mut rest = self.chunks.get(chunk).map_or(&[][..], Vec::as_slice);
        let mut next = chunk as u32 * UNITS_IN_CHUNK;
        std::iter::from_fn(move || {
            while !rest.is_empty() {
                let (at, bytes, length) = (next, rest, u16_at(rest, LENGTH_AT));
                let units = if length == 0 { u16_at(rest, FREE_UNITS_AT) } else { units(length) };
                rest = &rest[units * UNIT..];
                next += units as u32;
                if length > 0 {
                    return Some((at, &bytes[..HEAD + length]));
                }
            }
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn slots_are_as_they_were_left(
            steps in proptest::collection::vec((any::<bool>(), prop_oneof![1usize..=40, 250..=260usize, Just(MAX_ID_BYTES)], any::<u8>(), any::<prop::sample::Index>()), 1..2000)
        ) {
            let mut arena = Arena::default();
            let mut model: BTreeMap<u32, (u8, Vec<u8>)> = BTreeMap::new();
            for (add, length, byte, index) in steps {
                if add || model.is_empty() {
                    let tail = vec![byte; length];
                    let at = arena.add(&tail).unwrap();
                    arena.head_mut(at)[0] = byte;
                    prop_assert!(model.insert(at, (byte, tail)).is_none(), "a slot in use was given out");
                } else {
                    let at = *model.keys().nth(index.index(model.len())).unwrap();
                    arena.remove(at);
                    model.remove(&at);
                }
            }
            for (&at, (head, tail)) in &model {
                prop_assert_eq!((arena.get(at)[0], &arena.get(at)[HEAD..]), (*head, tail.as_slice()));
            }
            let found = (0..arena.chunks()).flat_map(|chunk| arena.slots(chunk));
            let found: Vec<_> = found.map(|(at, slot)| (at, (slot[0], slot[HEAD..].to_vec()))).collect();
            prop_assert_eq!(found, model.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_slot_is_used_again() {
        let mut arena = Arena::default();
        for round in 0..10_000u32 {
            let at = arena.add(&round.to_le_bytes()).unwrap();
            arena.remove(at);
        }
        assert_eq!(arena.chunks(), 1);
        assert_eq!(arena.slots(0).count(), 0);
    }
}
