//! Which version of each message is committed, and which nodes hold it.
//!
//! [`Mapping::apply`] is deterministic, and the highest version of an id wins in
//! any order of events, so a log can be replayed and events may overtake each other.
//!
//! An id costs a key, a record and the number of its holder set: the sets
//! themselves are few, are shared, and carry the counts that reports are made of.
//!
//! A deletion is a commit too, of a tombstone. It stands in the way of every older
//! copy until it is forgotten, and counts as no message.

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use std::hash::BuildHasher;

use crate::seeded::{self, Bug};
use crate::types::{CopyRecord, Holders, MessageId, NodeId, Version};

/// Parts of the index. Each grows by itself, so that no growth stalls a request for
/// long, and a pass over all ids can let others have the lock between two parts.
pub const SHARDS: usize = 64;

/// A version of a message became true on these nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Of which id.
    pub id: MessageId,
    /// Its version, length and checksum.
    pub record: CopyRecord,
    /// Who holds it.
    pub holders: Holders,
}

/// What applying a [`Commit`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// The id is new.
    New,
    /// It took the place of this one (which may be the same version on other nodes).
    Replaced {
        /// What stood there before.
        record: CopyRecord,
        /// Who held it.
        holders: Holders,
    },
    /// A newer version is committed already: nothing changed.
    Superseded,
}

/// A committed message, as [`Mapping::get`] finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found<'a> {
    /// Version, length, checksum.
    pub record: CopyRecord,
    /// Who holds it.
    pub set: &'a HolderSet,
}

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
    fn inherit(&mut self, before: &Self) {
        for (i, node) in self.holders.iter().enumerate() {
            if before.holders.contains(node) && !before.has_intact(*node) {
                self.bad |= 1 << i;
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    record: CopyRecord,
    set: u32,
    /// A line of the readable view stands for this id.
    in_view: bool,
}

/// All committed messages.
#[derive(Debug)]
pub struct Mapping {
    shards: Vec<HashMap<MessageId, Entry, FixedState>>,
    hasher: FixedState,
    sets: Sets,
    len: u64,
    bytes: u64,
    tombstones: u64,
    horizon: Version,
    newest_committed: Version,
}

impl Mapping {
    /// An empty one. `seed` keeps others from choosing ids that collide.
    pub fn new(seed: u64) -> Self {
        let hasher = FixedState::with_seed(seed);
        let shards = (0..SHARDS).map(|_| HashMap::with_hasher(FixedState::with_seed(seed))).collect();
        Self {
            shards,
            hasher,
            sets: Sets::default(),
            len: 0,
            bytes: 0,
            tombstones: 0,
            horizon: Version::default(),
            newest_committed: Version::default(),
        }
    }

    /// How many messages are committed.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of all messages, each counted once.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn shard(&self, id: &MessageId) -> usize {
        // The low and the top bits steer the map inside the shard, so take some between.
        (self.hasher.hash_one(id) >> 40) as usize % SHARDS
    }

    /// How many tombstones there are.
    pub fn tombstones(&self) -> u64 {
        self.tombstones
    }

    /// The newest deletion that was forgotten, because all members had confirmed it. An older version
    /// of an id that is not committed is one that nobody has ever read, or that was deleted.
    pub fn horizon(&self) -> Version {
        self.horizon
    }

    /// A version was committed, whatever became of it since.
    pub fn note_committed(&mut self, version: Version) {
        self.newest_committed = self.newest_committed.max(version);
    }

    /// The newest version that was ever committed.
    pub fn newest_committed(&self) -> Version {
        self.newest_committed
    }

    /// The committed version of a message.
    pub fn get(&self, id: &MessageId) -> Option<Found<'_>> {
        self.newest(id).filter(|found| !found.set.deleted)
    }

    /// The committed version of an id, which may be a tombstone.
    pub fn newest(&self, id: &MessageId) -> Option<Found<'_>> {
        let entry = self.shards[self.shard(id)].get(id)?;
        Some(Found { record: entry.record, set: self.sets.get(entry.set) })
    }

    /// Makes a commit true, unless a newer version is. Where the version is the same and only holders change, those
    /// that stay keep their marks.
    pub fn apply(&mut self, commit: &Commit) -> Applied {
        self.note_committed(commit.record.version);
        let shard = self.shard(&commit.id);
        let length = u64::from(commit.record.bytes());
        let deleted = commit.record.is_tombstone();
        let mut key = HolderSet { holders: commit.holders.clone(), bad: 0, deleted };
        let before = self.shards[shard].get(&commit.id).copied();
        if let Some(entry) = before {
            if commit.record.version < entry.record.version && !seeded::active(Bug::ReplayIgnoresVersions) {
                return Applied::Superseded;
            }
            if commit.record.version == entry.record.version {
                key.inherit(self.sets.get(entry.set));
            }
        }
        let holders = before.map(|entry| self.discount(entry));
        let set = self.sets.enter(key, length);
        let in_view = before.is_some_and(|entry| entry.in_view) && !deleted;
        let entry = Entry { record: commit.record, set, in_view };
        match deleted {
            true => self.tombstones += 1,
            false => self.len += 1,
        }
        self.bytes += length;
        if let (Some(before), Some(holders)) = (before, holders) {
            if let Some(place) = self.shards[shard].get_mut(&commit.id) {
                *place = entry;
            }
            return Applied::Replaced { record: before.record, holders };
        }
        self.shards[shard].insert(commit.id.clone(), entry);
        Applied::New
    }

    /// Takes an entry out of all counts; gives its holders.
    fn discount(&mut self, entry: Entry) -> Holders {
        let length = u64::from(entry.record.bytes());
        match entry.record.is_tombstone() {
            true => self.tombstones -= 1,
            false => self.len -= 1,
        }
        self.bytes -= length;
        self.sets.leave(entry.set, length)
    }

    /// Nothing of an id is left anywhere up to this version, and it goes: a tombstone that every member has confirmed,
    /// or a message that only an old log speaks of. Gives its holders.
    pub fn forget(&mut self, id: &MessageId, version: Version) -> Option<Holders> {
        self.raise_horizon(version);
        let shard = self.shard(id);
        let entry = self.shards[shard].get(id).copied()?;
        if entry.record.version != version {
            return None;
        }
        self.shards[shard].remove(id);
        Some(self.discount(entry))
    }

    /// A deletion of this version was forgotten.
    pub fn raise_horizon(&mut self, version: Version) {
        self.horizon = self.horizon.max(version);
        self.note_committed(version);
    }

    /// Notes that `node` has, or has lost, its copy of this very version.
    pub fn mark(&mut self, id: &MessageId, version: Version, node: NodeId, intact: bool) {
        let shard = self.shard(id);
        let Some(entry) = self.shards[shard].get_mut(id) else { return };
        if entry.record.version != version {
            return;
        }
        let set = self.sets.get(entry.set);
        let Some(at) = set.holders.iter().position(|&holder| holder == node) else { return };
        let bad = if intact { set.bad & !(1 << at) } else { set.bad | 1 << at };
        if bad == set.bad {
            return;
        }
        let marked = HolderSet { bad, ..set.clone() };
        let length = u64::from(entry.record.bytes());
        self.sets.leave(entry.set, length);
        entry.set = self.sets.enter(marked, length);
    }

    /// Every holder set in use, with its messages (or tombstones) and their bytes.
    pub fn sets(&self) -> impl Iterator<Item = (&HolderSet, u64, u64)> {
        self.sets.all.iter().filter(|set| set.messages > 0).map(|set| (&set.key, set.messages, set.bytes))
    }

    /// Calls `each` for every committed message of one of [`SHARDS`] parts.
    pub fn for_each(&self, part: usize, mut each: impl FnMut(&MessageId, Found<'_>)) {
        for (id, found) in self.records(part).filter(|(_, found)| !found.set.deleted) {
            each(id, found);
        }
    }

    /// Everything committed of one of [`SHARDS`] parts, tombstones too.
    pub fn records(&self, part: usize) -> impl Iterator<Item = (&MessageId, Found<'_>)> {
        let found = |entry: &Entry| Found { record: entry.record, set: self.sets.get(entry.set) };
        self.shards[part].iter().map(move |(id, entry)| (id, found(entry)))
    }

    /// Notes that the readable view has a line for this id; tells whether it had one before.
    pub fn note_viewed(&mut self, id: &MessageId) -> bool {
        let shard = self.shard(id);
        self.shards[shard].get_mut(id).is_some_and(|entry| std::mem::replace(&mut entry.in_view, true))
    }
}

/// Holder sets by number, with how much each is used.
#[derive(Debug, Default)]
struct Sets {
    all: Vec<SetUse>,
    numbers: HashMap<HolderSet, u32, FixedState>,
    free: Vec<u32>,
}

#[derive(Debug, Default)]
struct SetUse {
    key: HolderSet,
    messages: u64,
    bytes: u64,
}

impl Sets {
    fn get(&self, number: u32) -> &HolderSet {
        &self.all[number as usize].key
    }

    /// One more message of `length` bytes has this set; gives the set's number.
    fn enter(&mut self, key: HolderSet, length: u64) -> u32 {
        let number = match self.numbers.get(&key) {
            Some(&number) => number,
            None => {
                let number = self.free.pop().unwrap_or_else(|| {
                    self.all.push(SetUse::default());
                    (self.all.len() - 1) as u32
                });
                self.all[number as usize].key = key.clone();
                self.numbers.insert(key, number);
                number
            }
        };
        let set = &mut self.all[number as usize];
        set.messages += 1;
        set.bytes += length;
        number
    }

    /// One message fewer has this set; gives its holders.
    fn leave(&mut self, number: u32, length: u64) -> Holders {
        let set = &mut self.all[number as usize];
        set.messages -= 1;
        set.bytes -= length;
        let holders = set.key.holders.clone();
        if set.messages == 0 {
            self.numbers.remove(&set.key);
            self.free.push(number);
        }
        holders
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::Epoch;

    fn commit(id: &str, sequence: u32, holders: &[u32]) -> Commit {
        let record = CopyRecord { version: Version::new(Epoch(1), sequence), length: 10 + sequence, crc: sequence };
        Commit { id: id.parse().unwrap(), record, holders: holders.iter().copied().map(NodeId).collect() }
    }

    type State = (Vec<(String, Version, HolderSet)>, Vec<(HolderSet, u64, u64)>);

    /// Ids with version and holders, and what the sets count.
    fn state(mapping: &Mapping) -> State {
        let mut ids = Vec::new();
        for part in 0..SHARDS {
            mapping.for_each(part, |id, found| ids.push((id.to_string(), found.record.version, found.set.clone())));
        }
        ids.sort_by(|a, b| a.0.cmp(&b.0));
        let mut sets: Vec<_> = mapping.sets().map(|(set, n, bytes)| (set.clone(), n, bytes)).collect();
        sets.sort_by(|a, b| a.0.holders.cmp(&b.0.holders).then(a.0.bad.cmp(&b.0.bad)));
        (ids, sets)
    }

    #[test]
    fn a_copy_can_be_marked_bad_and_good_again() {
        let mut mapping = Mapping::new(1);
        mapping.apply(&commit("x", 1, &[1, 2]));
        let id: MessageId = "x".parse().unwrap();
        let version = Version::new(Epoch(1), 1);
        mapping.mark(&id, version, NodeId(2), false);
        assert_eq!(mapping.get(&id).unwrap().set.intact().collect::<Vec<_>>(), [NodeId(1)]);
        mapping.mark(&id, Version::new(Epoch(1), 9), NodeId(1), false);
        mapping.mark(&id, version, NodeId(7), false);
        assert_eq!(mapping.get(&id).unwrap().set.intact().count(), 1, "another version or node changes nothing");
        mapping.mark(&id, version, NodeId(2), true);
        assert_eq!(mapping.get(&id).unwrap().set.intact().count(), 2);
        assert_eq!(mapping.sets().count(), 1);
    }

    proptest! {
        #[test]
        fn the_highest_version_wins_in_any_order(
            events in proptest::collection::vec((0u32..6, proptest::sample::subsequence(vec![1u32, 2, 3, 4], 1..=3)), 1..40),
            seed in any::<u64>(),
        ) {
            let mut commits: Vec<Commit> =
                events.iter().enumerate().map(|(i, (id, holders))| commit(&id.to_string(), i as u32, holders)).collect();
            let mut in_order = Mapping::new(1);
            for commit in &commits {
                in_order.apply(commit);
            }
            fastrand::Rng::with_seed(seed).shuffle(&mut commits);
            let mut shuffled = Mapping::new(2);
            for commit in &commits {
                shuffled.apply(commit);
            }
            prop_assert_eq!(state(&in_order), state(&shuffled));
            let (_, sets) = state(&in_order);
            prop_assert_eq!(sets.iter().map(|set| set.1).sum::<u64>(), in_order.len());
            prop_assert_eq!(sets.iter().map(|set| set.2).sum::<u64>(), in_order.bytes());
        }
    }
}
