//! What becomes of writes that a leader before had under way, and of which the log has not heard the end.
//!
//! Such a write may have been acknowledged: it was as soon as the log had its intent and all nodes that it names had
//! stored their copies. So its id is answered by nobody until those nodes have said what they have. One that has joined this
//! epoch takes nothing of an earlier one any more (the fence of rule 2), so that what it says is final: if all have it, it is
//! true; if one surely has not, nobody was told that it is, and nothing follows from the intent. What a node has is found
//! either way, and goes forward like whatever an inventory shows.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::inventory::Uncommitted;
use super::mapping::Commit;
use super::state::intents::Intents;
use super::state::{Applied, Event};
use super::{Cluster, Ticket};
use crate::error::name_nodes;
use crate::seeded::{self, Bug};
use crate::types::{CopyRecord, MessageId, NodeId, Nodes, Version};

/// What a node has of an intent's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// A whole copy.
    Here,
    /// Surely none.
    Absent,
    /// Something that is no copy any more.
    Damaged,
}

/// An intent, and who has said what of it.
#[derive(Debug)]
struct Asked {
    intent: Commit,
    /// A node that it names is no member any more.
    is_short: bool,
    said: SmallVec<[(NodeId, Kept); 4]>,
}

impl Asked {
    fn of(&self, kept: Kept) -> usize {
        self.said.iter().filter(|(_, said)| *said == kept).count()
    }

    fn unsaid(&self) -> impl Iterator<Item = NodeId> {
        let holders = self.intent.holders.iter().copied();
        holders.filter(|node| self.said.iter().all(|(said, _)| said != node))
    }

    /// All nodes that it names have it.
    fn is_true(&self) -> bool {
        !self.is_short && self.of(Kept::Here) == self.intent.holders.len()
    }

    /// Nobody can have been told that it is true, or nobody is left who could have it.
    fn is_void(&self) -> bool {
        let nobody = self.unsaid().next().is_none() && self.of(Kept::Here) == 0;
        self.of(Kept::Absent) > 0 || nobody
    }
}

/// What is to be logged of intents that are decided.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Decided {
    /// They are true.
    pub commits: Vec<Commit>,
    /// Nothing follows from them.
    pub dropped: Vec<Version>,
}

/// Intents that are not decided.
#[derive(Debug, Default)]
pub(super) struct Undecided {
    asked: BTreeMap<Version, Asked>,
    ids: BTreeMap<MessageId, SmallVec<[Version; 1]>>,
}

impl Undecided {
    /// Those that the log speaks of.
    pub(super) fn of(intents: &Intents) -> Self {
        let mut undecided = Self::default();
        intents.all().for_each(|intent| undecided.begin(intent));
        undecided
    }

    /// One more.
    pub(super) fn begin(&mut self, intent: &Commit) {
        if seeded::active(Bug::IntentsForgotten) {
            return;
        }
        let version = intent.record.version;
        let asked = Asked { intent: intent.clone(), is_short: false, said: SmallVec::new() };
        if self.asked.insert(version, asked).is_none() {
            self.ids.entry(intent.id.clone()).or_default().push(version);
        }
    }

    /// Nothing is to be asked of this version any more.
    pub(super) fn end(&mut self, version: Version) {
        let Some(asked) = self.asked.remove(&version) else { return };
        if let Some(versions) = self.ids.get_mut(&asked.intent.id) {
            versions.retain(|of| *of != version);
            if versions.is_empty() {
                self.ids.remove(&asked.intent.id);
            }
        }
    }

    /// A version became true: what is older never does.
    pub(super) fn hear(&mut self, commit: &Commit) {
        if self.asked.is_empty() {
            return;
        }
        let over = self.ids.get(&commit.id).into_iter().flatten().copied();
        let over: SmallVec<[Version; 2]> = over.filter(|version| *version <= commit.record.version).collect();
        over.into_iter().for_each(|version| self.end(version));
    }

    /// Every member is heard instead.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// A node is no member any more.
    pub(super) fn depart(&mut self, node: NodeId) {
        for asked in self.asked.values_mut().filter(|asked| asked.intent.holders.contains(&node)) {
            asked.is_short = true;
            asked.said.retain(|(said, _)| *said != node);
            asked.intent.holders.retain(|holder| *holder != node);
        }
    }

    /// Why nothing is said of this id, if it is the id of one of them.
    pub(super) fn hides(&self, id: &MessageId) -> Option<String> {
        if self.asked.is_empty() {
            return None;
        }
        let asked: Vec<&Asked> = self.ids.get(id)?.iter().filter_map(|version| self.asked.get(version)).collect();
        let mut nodes: Nodes = asked.iter().flat_map(|asked| asked.unsaid()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        Some(match nodes.is_empty() {
            true => "a write of it that the leader before had under way is being completed".to_owned(),
            false => format!(
                "the leader before had a write of it under way, and {} may have it: asked as soon as they answer",
                name_nodes(&nodes)
            ),
        })
    }

    /// Whether this version is that of one of them.
    pub(super) fn names(&self, version: Version) -> bool {
        !self.asked.is_empty() && self.asked.contains_key(&version)
    }

    /// Why nothing is said of such ids, if there are any of them.
    pub(super) fn of_those(&self, such: impl Fn(&MessageId) -> bool) -> Option<String> {
        let count = self.ids.keys().filter(|id| such(id)).count();
        (count > 0).then(|| format!("it is not known yet what became of {count} writes of the leader before"))
    }
}

impl Cluster {
    /// Makes true what these intents say, of which the log says that it is so.
    pub(super) fn conclude(&mut self, event: &Event, versions: &[Version]) -> Applied {
        let intents = self.state.intents();
        let commits: Vec<Commit> = versions.iter().filter_map(|version| intents.get(*version)).cloned().collect();
        let applied = self.state.apply(event);
        if let Applied::Committed(did) = &applied {
            commits.iter().zip(did).for_each(|(commit, did)| self.hear(commit, did));
        }
        applied
    }

    /// Whether what becomes of a write can be told from its targets: a copy that a node has not synced may be lost with the
    /// node's machine, and then its absence says nothing. A deletion leaves no message to look for.
    pub fn takes_intent(&self, ticket: &Ticket) -> bool {
        let syncs = |node: &NodeId| self.registry.get(*node).is_some_and(|node| node.traits.syncs());
        !ticket.record.is_tombstone() && ticket.targets.iter().all(syncs)
    }

    /// A write is under way: of a leader before, if its epoch is another one.
    pub(super) fn intend(&mut self, intent: &Commit) {
        if self.leadership.is_none_or(|leadership| leadership.epoch != intent.record.version.epoch()) {
            self.undecided.begin(intent);
        }
    }

    /// The linked nodes that have to say what they have of intents that are not decided, each with up to `limit`.
    pub fn intents_to_ask(&self, limit: usize) -> Vec<(NodeId, Vec<(MessageId, CopyRecord)>)> {
        let mut all: BTreeMap<NodeId, Vec<(MessageId, CopyRecord)>> = BTreeMap::new();
        for asked in self.undecided.asked.values() {
            for node in asked.unsaid().filter(|node| self.registry.is_linked(*node)) {
                let of = all.entry(node).or_default();
                if of.len() < limit {
                    of.push((asked.intent.id.clone(), asked.intent.record));
                }
            }
        }
        all.into_iter().collect()
    }

    /// A node of this epoch says what it has of an intent's version.
    pub fn hear_of_intent(&mut self, node: NodeId, id: &MessageId, record: CopyRecord, kept: Kept) {
        let Some(asked) = self.undecided.asked.get_mut(&record.version) else { return };
        if asked.unsaid().any(|unsaid| unsaid == node) {
            asked.said.push((node, kept));
        }
        if kept == Kept::Here && !self.is_outdated(id, record.version) {
            self.uncommitted.entry(id.clone()).or_insert_with(|| Uncommitted::new(record)).note(node, record);
        }
    }

    /// Whether any is not decided.
    pub fn has_undecided(&self) -> bool {
        !self.undecided.asked.is_empty()
    }

    /// What is decided of intents and not logged: of each it comes again until it is.
    pub fn decided_intents(&self) -> Decided {
        let mut decided = Decided::default();
        for (version, asked) in &self.undecided.asked {
            if asked.is_true() || seeded::active(Bug::IntentsBelieved) {
                decided.commits.push(asked.intent.clone());
            } else if asked.is_void() {
                decided.dropped.push(*version);
            }
        }
        decided
    }

    /// Of how many intents it is not known what a node has of them.
    pub(super) fn intents_on(&self, node: NodeId) -> usize {
        let waits = |asked: &&Asked| asked.unsaid().any(|unsaid| unsaid == node);
        self.undecided.asked.values().filter(waits).count()
    }
}
