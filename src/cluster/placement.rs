//! Which nodes a message goes to: the least loaded, ties by node id.
//!
//! The [`Ladder`] keeps the nodes that take copies sorted by load, so that the
//! cost of placing a message does not depend on how many nodes there are.

use std::collections::BTreeMap;

use smallvec::SmallVec;

/// A node's place in the registry's list, which ascends by node id.
pub(super) type Slot = usize;

/// The slots of one load, as a bit set: the lowest slot is found by scanning
/// words, and a slot moves between loads by clearing one bit and setting another.
#[derive(Debug, Clone, Default)]
struct Rung {
    words: Vec<u64>,
    members: usize,
}

impl Rung {
    fn insert(&mut self, slot: Slot) {
        let word = slot / 64;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (slot % 64);
        self.members += 1;
    }

    fn remove(&mut self, slot: Slot) {
        self.words[slot / 64] &= !(1 << (slot % 64));
        self.members -= 1;
    }

    fn slots(&self) -> impl Iterator<Item = Slot> {
        self.words.iter().enumerate().flat_map(|(i, &word)| {
            std::iter::successors(Some(word), |rest| Some(rest & rest.wrapping_sub(1)))
                .take_while(|rest| *rest != 0)
                .map(move |rest| i * 64 + rest.trailing_zeros() as usize)
        })
    }
}

/// Slots sorted by load, then by slot.
#[derive(Debug, Clone, Default)]
pub(super) struct LoadIndex {
    rungs: BTreeMap<u64, Rung>,
}

impl LoadIndex {
    /// Puts a slot that is not there on the rung of its load.
    pub(super) fn insert(&mut self, slot: Slot, load: u64) {
        self.rungs.entry(load).or_default().insert(slot);
    }

    /// Takes a slot off the rung of its load.
    pub(super) fn remove(&mut self, slot: Slot, load: u64) {
        if let Some(rung) = self.rungs.get_mut(&load) {
            rung.remove(slot);
            if rung.members == 0 {
                self.rungs.remove(&load);
            }
        }
    }

    /// Moves a slot from one load to another.
    pub(super) fn shift(&mut self, slot: Slot, from: u64, to: u64) {
        if from != to {
            self.remove(slot, from);
            self.insert(slot, to);
        }
    }

    /// All slots with their loads, least loaded first, ties by slot.
    pub(super) fn ascending(&self) -> impl Iterator<Item = (u64, Slot)> {
        self.rungs.iter().flat_map(|(&load, rung)| rung.slots().map(move |slot| (load, slot)))
    }

    /// The `count` least loaded slots, ties by slot, fewer if there are not as many.
    ///
    /// `staying` are slots that hold an older version of the message, with their
    /// loads: they give that copy up whatever is chosen, so each ranks one lower.
    pub(super) fn choose(&self, count: usize, staying: &[(u64, Slot)]) -> SmallVec<[Slot; 8]> {
        let mut ranked: SmallVec<[(u64, Slot); 16]> =
            staying.iter().map(|&(load, slot)| (load.saturating_sub(1), slot)).collect();
        let others = self.ascending().filter(|(_, slot)| !staying.iter().any(|(_, held)| held == slot));
        ranked.extend(others.take(count));
        ranked.sort_unstable();
        ranked.into_iter().take(count).map(|(_, slot)| slot).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn load_index(loads: &[u64]) -> LoadIndex {
        let mut load_index = LoadIndex::default();
        for (slot, &load) in loads.iter().enumerate() {
            load_index.insert(slot, load);
        }
        load_index
    }

    #[test]
    fn least_loaded_first_ties_by_slot() {
        // (loads, count, slots that hold an older version, chosen)
        type Row = (&'static [u64], usize, &'static [Slot], &'static [Slot]);
        let table: [Row; 6] = [
            (&[0, 0, 0, 0], 2, &[], &[0, 1]),
            (&[1, 1, 0, 0], 2, &[], &[2, 3]),
            (&[5, 4, 5, 4], 3, &[], &[1, 3, 0]),
            (&[5, 5, 5, 5], 2, &[2, 3], &[2, 3]),
            (&[3, 0, 3], 1, &[0], &[1]),
            (&[1], 2, &[], &[0]),
        ];
        for (loads, count, held, chosen) in table {
            let staying: Vec<_> = held.iter().map(|&slot| (loads[slot], slot)).collect();
            assert_eq!(load_index(loads).choose(count, &staying).to_vec(), chosen, "{loads:?}");
        }
    }

    proptest! {
        #[test]
        fn a_ladder_is_a_sorted_list(
            mut loads in proptest::collection::vec(0u64..5, 1..200),
            moves in proptest::collection::vec((any::<proptest::sample::Index>(), 0u64..5), 0..50),
        ) {
            let mut load_index = load_index(&loads);
            for (slot, to) in moves {
                let slot = slot.index(loads.len());
                load_index.shift(slot, loads[slot], to);
                loads[slot] = to;
            }
            let mut expected: Vec<_> = loads.iter().copied().zip(0..).collect();
            expected.sort_unstable();
            prop_assert_eq!(load_index.ascending().collect::<Vec<_>>(), expected);
        }
    }
}
