//! Which version of each message is committed, and which nodes hold it.
//!
//! [`Mapping::apply`] is deterministic, and the highest version of an id wins in
//! any order of events, so a log can be replayed and events may overtake each other.
//!
//! An id costs a slot of 27 bytes and its own in an arena, and 9 bytes in a hash table that holds no keys but
//! their hashes and where the slots are: a table that doubles moves little, and looks at no id. `docs/scale.md`
//! has the sums.
//!
//! A deletion is a commit too, of a tombstone. It stands in the way of every older
//! copy until it is forgotten, and counts as no message.

mod snapshot;

use std::collections::BTreeMap;
use std::hash::BuildHasher;

use foldhash::fast::FixedState;

use self::snapshot::Snapshot;
pub use self::snapshot::{Overtaken, Slot, Walked};
use super::arena::{Arena, HEAD};
pub use super::sets::HolderSet;
use super::sets::Sets;
use super::shard::{Entry, NO_LINE, Shard};
use crate::seeded::{self, Bug};
use crate::types::{CopyRecord, Deadline, Holders, MessageId, NodeId, Version};

/// Parts of the index. Each grows by itself, so that no growth stalls a request for
/// long, and a pass over all ids can let others have the lock between two parts.
pub const SHARDS: usize = 64;

/// Slices that one step of a walk looks at.
const SCANNED_SLICES: usize = 4;

fn cursor_at(part: usize, at: u32) -> u64 {
    (part as u64) << 32 | u64::from(at)
}

/// A version of a message became true on these nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Of which id.
    pub id: MessageId,
    /// Its version, length, checksum and deadline.
    pub record: CopyRecord,
    /// Who holds it.
    pub holders: Holders,
}

/// What a [`Commit`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
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

/// An id's place: its shard, its hash there, and its slot if it has one.
#[derive(Debug, Clone, Copy)]
struct Place {
    shard: usize,
    hash: u32,
    at: Option<u32>,
}

/// An id as it lies in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key<'a>(&'a [u8]);

impl Key<'_> {
    /// The id itself.
    pub fn id(&self) -> MessageId {
        MessageId::known(self.0)
    }
}

/// All committed messages.
#[derive(Debug)]
pub struct Mapping {
    shards: Vec<Shard>,
    hasher: FixedState,
    sets: Sets,
    len: u64,
    bytes: u64,
    tombstones: u64,
    horizon: Version,
    newest_committed: Version,
    /// Lines of the readable view whose ids are forgotten.
    stale_lines: Vec<u64>,
    /// Behind every line that was ever noted.
    lines_end: u64,
    /// What a backup has still to copy, while one is made.
    snapshot: Option<Snapshot>,
}

impl Mapping {
    /// An empty one. `seed` keeps others from choosing ids that collide.
    pub fn new(seed: u64) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            hasher: FixedState::with_seed(seed),
            sets: Sets::default(),
            len: 0,
            bytes: 0,
            tombstones: 0,
            horizon: Version::default(),
            newest_committed: Version::default(),
            stale_lines: Vec::new(),
            lines_end: 0,
            snapshot: None,
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

    fn place(&self, id: &MessageId) -> Place {
        let hash = self.hasher.hash_one(id.as_bytes());
        let (shard, hash) = (hash as usize % SHARDS, (hash >> 32) as u32);
        Place { shard, hash, at: self.shards[shard].find(hash, id.as_bytes()) }
    }

    fn entry(&self, id: &MessageId) -> Option<(Entry, usize, u32)> {
        let place = self.place(id);
        let at = place.at?;
        Some((self.shards[place.shard].at(at), place.shard, at))
    }

    fn put(&mut self, shard: usize, at: u32, entry: Entry) {
        self.shards[shard].put(at, entry);
    }

    fn found(&self, entry: &Entry) -> Found<'_> {
        Found { record: entry.record, set: self.sets.get(entry.set) }
    }

    /// The committed version of a message.
    pub fn get(&self, id: &MessageId) -> Option<Found<'_>> {
        self.newest(id).filter(|found| !found.set.deleted)
    }

    /// The committed version of an id, which may be a tombstone.
    pub fn newest(&self, id: &MessageId) -> Option<Found<'_>> {
        self.entry(id).map(|(entry, ..)| self.found(&entry))
    }

    /// Makes a commit true, unless a newer version is. Where the version is the same and only holders change, those
    /// that stay keep their marks.
    pub fn apply(&mut self, commit: &Commit) -> Committed {
        self.note_committed(commit.record.version);
        let place = self.place(&commit.id);
        let length = u64::from(commit.record.bytes());
        let deleted = commit.record.is_tombstone();
        let mut key = HolderSet { holders: commit.holders.clone(), bad: 0, deleted };
        let before = place.at.map(|at| (at, self.shards[place.shard].at(at)));
        if let Some((_, entry)) = before {
            if commit.record.version < entry.record.version && !seeded::active(Bug::ReplayIgnoresVersions) {
                return Committed::Superseded;
            }
            if commit.record.version == entry.record.version {
                key.inherit(self.sets.get(entry.set));
            }
        }
        if let Some((at, entry)) = before
            && entry.record.version != commit.record.version
        {
            self.overtake(place.shard, at, &commit.id, entry);
        }
        let holders = before.map(|(_, entry)| self.discount(entry));
        let set = self.sets.enter(key, length);
        let entry = Entry { record: commit.record, set, line: before.map_or(NO_LINE, |(_, entry)| entry.line) };
        match deleted {
            true => self.tombstones += 1,
            false => self.len += 1,
        }
        self.bytes += length;
        if let (Some((at, before)), Some(holders)) = (before, holders) {
            self.put(place.shard, at, entry);
            return Committed::Replaced { record: before.record, holders };
        }
        // 16 GiB of ids in one of the parts: no machine comes there before its memory is used up.
        let at = self.shards[place.shard].insert(place.hash, commit.id.as_bytes(), entry);
        self.take_slot(Slot { part: place.shard, at: at.expect("the index is full") });
        Committed::New
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
        let place = self.place(id);
        let at = place.at?;
        let entry = self.shards[place.shard].at(at);
        if entry.record.version != version {
            return None;
        }
        if entry.line != NO_LINE {
            self.stale_lines.push(entry.line);
        }
        self.overtake(place.shard, at, id, entry);
        self.shards[place.shard].remove(place.hash, at);
        Some(self.discount(entry))
    }

    /// A deletion of this version was forgotten.
    pub fn raise_horizon(&mut self, version: Version) {
        self.horizon = self.horizon.max(version);
        self.note_committed(version);
    }

    /// Notes that `node` has, or has lost, its copy of this very version.
    pub fn mark(&mut self, id: &MessageId, version: Version, node: NodeId, intact: bool) {
        let Some((entry, shard, at)) = self.entry(id).filter(|(entry, ..)| entry.record.version == version) else {
            return;
        };
        let set = self.sets.get(entry.set);
        let Some(bit) = set.holders.iter().position(|&holder| holder == node) else { return };
        let bad = if intact { set.bad & !(1 << bit) } else { set.bad | 1 << bit };
        if bad == set.bad {
            return;
        }
        let marked = HolderSet { bad, ..set.clone() };
        let length = u64::from(entry.record.bytes());
        self.sets.leave(entry.set, length);
        let set = self.sets.enter(marked, length);
        self.put(shard, at, Entry { set, ..entry });
    }

    /// Every holder set in use, with its messages (or tombstones) and their bytes.
    pub fn sets(&self) -> impl Iterator<Item = (&HolderSet, u64, u64)> {
        self.sets.iter()
    }

    /// How many messages each holder has, and their bytes.
    pub fn loads(&self) -> BTreeMap<NodeId, (u64, u64)> {
        let mut loads: BTreeMap<NodeId, (u64, u64)> = BTreeMap::new();
        for (set, messages, bytes) in self.sets().filter(|(set, ..)| !set.deleted) {
            for node in &set.holders {
                let load = loads.entry(*node).or_default();
                *load = (load.0 + messages, load.1 + bytes);
            }
        }
        loads
    }

    /// Counts messages on these holders that have no ids: for models of registers that are larger than this machine.
    #[doc(hidden)]
    pub fn count_in(&mut self, holders: Holders, messages: u64, bytes: u64) {
        self.sets.enter_many(HolderSet { holders, ..HolderSet::default() }, messages, bytes);
        (self.len, self.bytes) = (self.len + messages, self.bytes + bytes);
    }

    /// Everything committed of one of [`SHARDS`] parts, tombstones too.
    pub fn records(&self, part: usize) -> impl Iterator<Item = (Key<'_>, Found<'_>)> {
        (0..self.slices(part)).flat_map(move |slice| self.slice(part, slice))
    }

    /// Everything committed of a part that lies on a holder set which is `wanted`: that is asked once for each set.
    pub(super) fn records_on<'a>(
        &'a self,
        part: usize,
        mut wanted: impl FnMut(&HolderSet) -> bool + 'a,
    ) -> impl Iterator<Item = (Key<'a>, Found<'a>)> {
        let mut known = vec![None; self.sets.numbers()];
        let slots = (0..self.slices(part)).flat_map(move |slice| self.shards[part].arena.slots(slice));
        slots.filter_map(move |(at, slot)| {
            let entry = self.shards[part].entry(at, slot);
            let known = &mut known[entry.set as usize];
            let is_wanted = *known.get_or_insert_with(|| wanted(self.sets.get(entry.set)));
            is_wanted.then(|| (Key(&slot[HEAD..]), self.found(&entry)))
        })
    }

    /// Into how many slices of some thousand ids a part is divided.
    pub fn slices(&self, part: usize) -> usize {
        self.shards[part].arena.chunks()
    }

    /// Everything committed of a slice of a part, tombstones too. An id stays in its slice until it is forgotten.
    pub fn slice(&self, part: usize, slice: usize) -> impl Iterator<Item = (Key<'_>, Found<'_>)> {
        let shard = &self.shards[part];
        shard.arena.slots(slice).map(|(at, slot)| (Key(&slot[HEAD..]), self.found(&shard.entry(at, slot))))
    }

    /// A step of a walk over the ids of all messages, which begins and ends with the cursor 0: up to `count` ids, and
    /// where the next step goes on. A message that is there all the time keeps its slot, so it is passed once; a step
    /// looks at no more than [`SCANNED_SLICES`] slices.
    pub fn scan(&self, cursor: u64, count: usize) -> (u64, Vec<MessageId>) {
        let (mut part, mut from) = ((cursor >> 32) as usize, cursor as u32);
        let (mut ids, mut slices) = (Vec::new(), 0);
        while part < SHARDS {
            let (shard, slice) = (&self.shards[part], Arena::chunk_of(from));
            if slice >= shard.arena.chunks() {
                (part, from) = (part + 1, 0);
                continue;
            }
            if slices == SCANNED_SLICES {
                return (cursor_at(part, from), ids);
            }
            slices += 1;
            for (at, slot) in shard.arena.slots(slice).filter(|(at, _)| *at >= from) {
                if self.found(&shard.entry(at, slot)).set.deleted {
                    continue;
                }
                if ids.len() >= count {
                    return (cursor_at(part, at), ids);
                }
                ids.push(Key(&slot[HEAD..]).id());
            }
            from = Arena::chunk_start(slice + 1);
        }
        (0, ids)
    }

    /// How many messages end by themselves.
    pub fn deadlines(&self) -> u64 {
        self.shards.iter().map(|shard| shard.deadlines() as u64).sum()
    }

    /// How many messages end by themselves, and how many milliseconds they have left, on an average over some of them.
    pub fn time_left(&self, now: u64) -> (u64, u64) {
        const FROM_EACH: usize = 16;
        let some = self.shards.iter().flat_map(|shard| shard.deadlines_from(0, FROM_EACH));
        let some: Vec<u64> = some.map(|(_, deadline)| deadline.unix_ms().saturating_sub(now)).collect();
        let sum: u128 = some.iter().map(|left| u128::from(*left)).sum();
        (self.deadlines(), (sum / some.len().max(1) as u128) as u64)
    }

    /// A step of a walk over the deadlines, which begins and ends with the cursor 0: looks at up to `count` of them in one
    /// part, and gives the ids whose deadline is not after `now`, and where the next step goes on.
    pub fn due(&self, cursor: u64, count: usize, now: Deadline) -> (u64, Vec<MessageId>) {
        let (part, from) = ((cursor >> 32) as usize, cursor as u32);
        let Some(shard) = self.shards.get(part) else { return (0, Vec::new()) };
        let (mut ids, mut looked, mut last) = (Vec::new(), 0, from);
        for (at, deadline) in shard.deadlines_from(from, count) {
            (looked, last) = (looked + 1, at);
            if deadline <= now {
                ids.push(Key(&shard.arena.get(at)[HEAD..]).id());
            }
        }
        let next = if looked == count { cursor_at(part, last + 1) } else { cursor_at(part + 1, 0) };
        (if next >> 32 < SHARDS as u64 { next } else { 0 }, ids)
    }

    /// Somewhere in the index.
    pub fn cursor_by_chance(&self, chance: u64) -> u64 {
        let part = chance as usize % SHARDS;
        let slots = Arena::chunk_start(self.slices(part)).max(1);
        cursor_at(part, (chance >> 32) as u32 % slots)
    }

    // ---- where the lines of the readable view are --------------------------

    /// Shows where the readable view has this id's line, and who is to stand there (nobody, if the id is deleted),
    /// and notes where it is from now on. `false`: the id is not known any more.
    pub fn place_line(
        &mut self,
        id: &MessageId,
        place: impl FnOnce(Option<u64>, Option<&Holders>) -> Option<u64>,
    ) -> bool {
        let Some((entry, shard, at)) = self.entry(id) else { return false };
        let set = self.sets.get(entry.set);
        let line = place(Some(entry.line).filter(|line| *line != NO_LINE), Some(&set.holders).filter(|_| !set.deleted));
        self.lines_end = self.lines_end.max(line.map_or(0, |line| line + 1));
        self.put(shard, at, Entry { line: line.unwrap_or(NO_LINE), ..entry });
        true
    }

    /// Notes where the readable view has the lines of a slice's messages.
    pub fn place_lines(&mut self, part: usize, slice: usize, mut place: impl FnMut(&MessageId, &Holders) -> u64) {
        let mut lines = Vec::new();
        let shard = &self.shards[part];
        for (at, slot) in shard.arena.slots(slice) {
            let entry = shard.entry(at, slot);
            let set = self.sets.get(entry.set);
            let line = if set.deleted { NO_LINE } else { place(&Key(&slot[HEAD..]).id(), &set.holders) };
            if line != NO_LINE {
                self.lines_end = self.lines_end.max(line + 1);
            }
            lines.push((at, Entry { line, ..entry }));
        }
        lines.into_iter().for_each(|(at, entry)| self.put(part, at, entry));
    }

    /// A number that no line had yet, nor one behind it: the view of a leader that was one before begins with it.
    pub fn lines_end(&self) -> u64 {
        self.lines_end
    }

    /// Takes the lines whose ids were forgotten.
    pub fn take_stale_lines(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.stale_lines)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::Epoch;

    fn commit(id: &str, sequence: u32, holders: &[u32]) -> Commit {
        let record = CopyRecord {
            version: Version::new(Epoch(1), sequence),
            length: 10 + sequence,
            crc: sequence,
            expires: None,
        };
        Commit { id: id.parse().unwrap(), record, holders: holders.iter().copied().map(NodeId).collect() }
    }

    type State = (Vec<(String, Version, HolderSet)>, Vec<(HolderSet, u64, u64)>);

    /// Ids with version and holders, and what the sets count.
    fn state(mapping: &Mapping) -> State {
        let mut ids = Vec::new();
        for part in 0..SHARDS {
            let messages = mapping.records(part).filter(|(_, found)| !found.set.deleted);
            ids.extend(messages.map(|(key, found)| (key.id().to_string(), found.record.version, found.set.clone())));
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
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_walk_passes_what_stays_once(count in 1usize..300, seed in any::<u64>(), cursors in proptest::collection::vec(any::<u64>(), 8)) {
            let mut mapping = Mapping::new(seed);
            let text = |kind: &str, n: usize| format!("{kind}{n}{}", "x".repeat(n % 150));
            (0..6000).for_each(|n| drop(mapping.apply(&commit(&text("stays", n), n as u32, &[1]))));
            let (mut cursor, mut passed, mut step) = (0, Vec::new(), 0u32);
            loop {
                let (next, ids) = mapping.scan(cursor, count);
                prop_assert!(ids.len() <= count);
                passed.extend(ids.into_iter().map(|id| id.to_string()).filter(|id| id.starts_with("stays")));
                // Others come and go meanwhile, and those that stay are overwritten.
                let other = text("comes", step as usize);
                mapping.apply(&commit(&other, 10_000 + step, &[2]));
                if step % 3 == 0 {
                    mapping.forget(&other.parse().unwrap(), Version::new(Epoch(1), 10_000 + step));
                }
                mapping.apply(&commit(&text("stays", step as usize % 6000), 100_000 + step, &[3]));
                step += 1;
                if next == 0 {
                    break;
                }
                cursor = next;
            }
            passed.sort();
            let mut wanted: Vec<String> = (0..6000).map(|n| text("stays", n)).collect();
            wanted.sort();
            prop_assert_eq!(passed, wanted);
            // Whatever a client makes up is a place in the index, or behind it.
            for cursor in cursors {
                prop_assert!(mapping.scan(cursor, 1).1.len() <= 1);
                prop_assert!(mapping.scan(cursor >> 20, 1).1.len() <= 1);
                let (_, ids) = mapping.scan(mapping.cursor_by_chance(cursor), 1);
                prop_assert!(ids.len() <= 1);
            }
        }

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

    /// What a plain map of ids would hold.
    #[derive(Debug, Default)]
    struct Model {
        ids: std::collections::BTreeMap<String, (CopyRecord, Vec<u32>, Option<u64>)>,
        stale: Vec<u64>,
    }

    impl Model {
        fn apply(&mut self, commit: &Commit) {
            let line = self.ids.get(&commit.id.to_string()).and_then(|(.., line)| *line);
            if self.ids.get(&commit.id.to_string()).is_none_or(|(record, ..)| record.version <= commit.record.version) {
                let holders = commit.holders.iter().map(|node| node.0).collect();
                self.ids.insert(commit.id.to_string(), (commit.record, holders, line));
            }
        }

        fn forget(&mut self, id: &MessageId, version: Version) {
            if self.ids.get(&id.to_string()).is_some_and(|(record, ..)| record.version == version) {
                self.stale.extend(self.ids.remove(&id.to_string()).and_then(|(.., line)| line));
            }
        }
    }

    /// Short ids, ids of every length, and enough of them that slots and tables grow and are used again.
    fn some_id(n: u16) -> MessageId {
        let text = n.to_string();
        format!("{text}{}", "x".repeat(usize::from(n) * 7 % (201 - text.len()))).parse().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_index_is_a_map(
            steps in proptest::collection::vec((0u8..10, 0u16..600, proptest::sample::subsequence(vec![1u32, 2, 3, 4], 1..=3)), 1..1500),
        ) {
            let (mut mapping, mut model) = (Mapping::new(3), Model::default());
            for (sequence, (what, n, nodes)) in (1u32..).zip(steps) {
                let id = some_id(n);
                let holders: Holders = nodes.iter().copied().map(NodeId).collect();
                let version = Version::new(Epoch(1), sequence);
                match what {
                    0..=4 => {
                        let expires = Deadline::at(sequence.into()).filter(|_| n % 2 == 1 && what < 3);
                        let commit = Commit { record: CopyRecord { version, length: sequence, crc: sequence, expires }, id, holders };
                        mapping.apply(&commit);
                        model.apply(&commit);
                    }
                    5 => {
                        let commit = Commit { record: CopyRecord::tombstone(version), id, holders };
                        mapping.apply(&commit);
                        model.apply(&commit);
                    }
                    6 => {
                        let line = u64::from(sequence) << 14;
                        let known = mapping.place_line(&id, |_, _| Some(line));
                        prop_assert_eq!(known, model.ids.contains_key(&id.to_string()));
                        if let Some((.., place)) = model.ids.get_mut(&id.to_string()) {
                            *place = Some(line);
                        }
                    }
                    _ => {
                        let version = model.ids.get(&id.to_string()).map_or(version, |(record, ..)| record.version);
                        mapping.forget(&id, version);
                        model.forget(&id, version);
                    }
                }
            }
            prop_assert_eq!(mapping.take_stale_lines(), std::mem::take(&mut model.stale));
            let mut all = Vec::new();
            for (key, found) in (0..SHARDS).flat_map(|part| mapping.records(part)) {
                all.push((key.id().to_string(), found.record, found.set.holders.iter().map(|node| node.0).collect::<Vec<_>>()));
            }
            all.sort_by(|a, b| a.0.cmp(&b.0));
            let wanted: Vec<_> = model.ids.iter().map(|(id, (record, holders, _))| (id.clone(), *record, holders.clone())).collect();
            prop_assert_eq!(all, wanted);
            let of = |deleted: bool| model.ids.values().filter(|(record, ..)| record.is_tombstone() == deleted).count() as u64;
            prop_assert_eq!((mapping.len(), mapping.tombstones()), (of(false), of(true)));
            prop_assert_eq!(mapping.bytes(), model.ids.values().map(|(record, ..)| u64::from(record.bytes())).sum::<u64>());
            prop_assert_eq!(mapping.sets().map(|set| set.1).sum::<u64>(), model.ids.len() as u64);
            let ended = |record: &CopyRecord| record.expires.is_some_and(|deadline| deadline.unix_ms() <= 700);
            prop_assert_eq!(mapping.deadlines(), model.ids.values().filter(|(record, ..)| record.expires.is_some()).count() as u64);
            let (mut cursor, mut due) = (0, Vec::new());
            loop {
                let (next, ids) = mapping.due(cursor, 2, Deadline::at(700).unwrap());
                due.extend(ids.iter().map(MessageId::to_string));
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
            due.sort();
            let wanted: Vec<_> = model.ids.iter().filter(|(_, (record, ..))| ended(record)).map(|(id, _)| id.clone()).collect();
            prop_assert_eq!(due, wanted);
            for n in 0..600 {
                let id = some_id(n);
                let known = model.ids.get(&id.to_string());
                prop_assert_eq!(mapping.newest(&id).map(|found| found.record), known.map(|(record, ..)| *record));
                let mut line = None;
                mapping.place_line(&id, |number, _| { line = number; number });
                prop_assert_eq!(line, known.and_then(|(.., line)| *line));
            }
        }
    }
}
