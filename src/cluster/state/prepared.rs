//! Transactions by name, with the writes of each that nothing newer stands before.
//!
//! Used twice: for what the log says of them, which is part of the state, and for what a leader makes of those that
//! others left open ([`transactions`](crate::cluster::transactions)), which ends with it.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use crate::cluster::mapping::Commit;
use crate::types::{MessageId, Version};

/// Where a transaction stands by the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Prepared, and not known to be decided.
    Open,
    /// One of its writes is true, so all of them are or will be.
    Forward,
    /// It never becomes true.
    Aborted,
}

/// A transaction that stands so, and how many of its writes no newer version stands before.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group<S> {
    standing: S,
    left: usize,
}

/// Transactions without an end, by name: the first version of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Groups<S> {
    groups: BTreeMap<Version, Group<S>>,
    /// Which version of an id is part of which transaction.
    writes: BTreeMap<MessageId, SmallVec<[(Version, Version); 1]>>,
}

impl<S> Default for Groups<S> {
    fn default() -> Self {
        Self { groups: BTreeMap::new(), writes: BTreeMap::new() }
    }
}

impl<S: Copy> Groups<S> {
    /// Takes in a transaction. One that is known is not taken in twice.
    pub fn begin(&mut self, name: Version, standing: S, writes: impl IntoIterator<Item = (MessageId, Version)>) {
        if self.groups.contains_key(&name) {
            return;
        }
        let mut left = 0;
        for (id, version) in writes {
            self.writes.entry(id).or_default().push((version, name));
            left += 1;
        }
        if left > 0 {
            self.groups.insert(name, Group { standing, left });
        }
    }

    /// It stands so from now on, if it is known.
    pub fn set(&mut self, name: Version, standing: S) {
        if let Some(group) = self.groups.get_mut(&name) {
            group.standing = standing;
        }
    }

    /// A version became true: it stands before all older writes of its id. `goes_forward` says how a transaction stands
    /// of which it is a write.
    pub fn hear(&mut self, commit: &Commit, goes_forward: impl Fn(S) -> S) {
        if self.writes.is_empty() {
            return;
        }
        let Some(writes) = self.writes.get_mut(&commit.id) else { return };
        let committed = commit.record.version;
        for &(version, name) in writes.iter().filter(|(version, _)| *version <= committed) {
            let Some(group) = self.groups.get_mut(&name) else { continue };
            if version == committed {
                group.standing = goes_forward(group.standing);
            }
            group.left -= 1;
            if group.left == 0 {
                self.groups.remove(&name);
            }
        }
        writes.retain(|(version, _)| *version > committed);
        if writes.is_empty() {
            self.writes.remove(&commit.id);
        }
    }

    /// Forgets those that `go`.
    pub fn forget(&mut self, go: impl Fn(Version, S) -> bool) {
        self.groups.retain(|name, group| !go(*name, group.standing));
        let groups = &self.groups;
        self.writes.retain(|_, writes| {
            writes.retain(|(_, name)| groups.contains_key(name));
            !writes.is_empty()
        });
    }

    /// Those that stand so, each with its writes. One pass for all of them: there may be very many.
    pub fn all(&self, wanted: impl Fn(S) -> bool) -> BTreeMap<Version, Vec<(MessageId, Version)>> {
        let named = self.groups.iter().filter(|(_, group)| wanted(group.standing));
        let mut all: BTreeMap<Version, Vec<_>> = named.map(|(name, _)| (*name, Vec::new())).collect();
        if !all.is_empty() {
            for (id, writes) in &self.writes {
                for (version, name) in writes {
                    if let Some(group) = all.get_mut(name) {
                        group.push((id.clone(), *version));
                    }
                }
            }
        }
        all
    }

    /// The names of those that stand so.
    pub fn names(&self, wanted: impl Fn(S) -> bool) -> impl Iterator<Item = Version> {
        self.groups.iter().filter(move |(_, group)| wanted(group.standing)).map(|(name, _)| *name)
    }

    /// How one stands.
    pub fn standing(&self, name: Version) -> Option<S> {
        self.groups.get(&name).map(|group| group.standing)
    }

    /// Whether any write of an id is so: of its version, and of how its transaction stands.
    pub fn any(&self, id: &MessageId, is: impl Fn(Version, S) -> bool) -> bool {
        if self.writes.is_empty() {
            return false;
        }
        let writes = self.writes.get(id).into_iter().flatten();
        writes.filter_map(|(version, name)| Some((*version, self.standing(*name)?))).any(|(v, s)| is(v, s))
    }

    /// The same transactions, which stand as `stand` says.
    pub fn map<T>(&self, stand: impl Fn(S) -> T) -> Groups<T> {
        let group =
            |(name, group): (&Version, &Group<S>)| (*name, Group { standing: stand(group.standing), left: group.left });
        Groups { groups: self.groups.iter().map(group).collect(), writes: self.writes.clone() }
    }

    /// The ids of all writes.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = &MessageId> {
        self.writes.keys()
    }
}
