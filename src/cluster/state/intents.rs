//! Writes that the log spoke of while their copies were on their way, and has not heard the end of.
//!
//! An intent says of a version what its commit will say. It is true as soon as the log has it and all nodes that it names
//! have stored their copies, whether the log says that as well or not ("parallel commit": Taft et al., "CockroachDB: The
//! Resilient Geo-Distributed SQL Database", 2020). What a later leader makes of those without an end is in
//! [`intents`](crate::cluster::intents).

use std::collections::BTreeMap;

use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::cluster::mapping::Commit;
use crate::types::{MessageId, Version};

/// Intents without an end.
#[derive(Debug, Default)]
pub struct Intents {
    ids: BTreeMap<Version, MessageId>,
    /// Those of an id: hardly ever more than one.
    commits: HashMap<MessageId, SmallVec<[Commit; 1]>>,
}

impl Intents {
    /// Takes one in. What is known is not taken in twice.
    pub(super) fn begin(&mut self, intent: &Commit) {
        if self.ids.insert(intent.record.version, intent.id.clone()).is_none() {
            self.commits.entry(intent.id.clone()).or_default().push(intent.clone());
        }
    }

    /// Takes out the one of this version.
    pub(super) fn end(&mut self, version: Version) -> Option<Commit> {
        let id = self.ids.remove(&version)?;
        let of = self.commits.get_mut(&id)?;
        let at = of.iter().position(|intent| intent.record.version == version)?;
        let intent = of.swap_remove(at);
        if of.is_empty() {
            self.commits.remove(&id);
        }
        Some(intent)
    }

    /// A version became true: intents of its id up to it are over.
    pub(super) fn hear(&mut self, commit: &Commit) {
        if self.ids.is_empty() {
            return;
        }
        let Some(of) = self.commits.get_mut(&commit.id) else { return };
        of.retain(|intent| {
            let stays = intent.record.version > commit.record.version;
            if !stays {
                self.ids.remove(&intent.record.version);
            }
            stays
        });
        if of.is_empty() {
            self.commits.remove(&commit.id);
        }
    }

    /// Every member is heard: what it has says all that is to be known.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The one of this version.
    pub fn get(&self, version: Version) -> Option<&Commit> {
        let of = self.commits.get(self.ids.get(&version)?)?;
        of.iter().find(|intent| intent.record.version == version)
    }

    /// All of them, by version.
    pub fn all(&self) -> impl Iterator<Item = &Commit> {
        self.ids.keys().filter_map(|version| self.get(*version))
    }

    /// The oldest of their versions.
    pub fn oldest(&self) -> Option<Version> {
        self.ids.first_key_value().map(|(version, _)| *version)
    }

    /// The newest of their versions.
    pub fn newest(&self) -> Option<Version> {
        self.ids.last_key_value().map(|(version, _)| *version)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}
