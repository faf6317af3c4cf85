//! What is true of the register, as the log of its leader says it, and nothing else.
//!
//! [`State::apply`] is the one meaning of an [`Event`]: for a leader that has just logged it, for one that reads its
//! log at a start, for the thread that rewrites a log, and for every replica. It is deterministic: who is alive, what
//! the clock says and what nodes hold are no part of it. What [`State::snapshot`] gives leads to the same state.
//!
//! Two things lie in the index beside what is true, and are no part of it: which copies were found to be bad, and
//! where the lines of the readable view are. They are this leader's own, and lost with it.

mod event;
pub mod intents;
pub mod prepared;

use std::collections::{BTreeMap, BTreeSet};

use smallvec::SmallVec;

pub use self::event::Event;
use self::intents::Intents;
use self::prepared::{Groups, Standing};
use super::mapping::{Commit, Committed, Mapping, SHARDS};
use crate::seeded::{self, Bug};
use crate::types::{CopyRecord, Epoch, Holders, Leadership, Member, NodeId, Removed, Uuid, Version};

/// What applying an [`Event`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// It is so now.
    Done,
    /// What became true before stands in its way: nothing changed.
    Ignored,
    /// What each of its commits did, in their order.
    Committed(SmallVec<[Committed; 1]>),
    /// This was in the index, on these nodes, and is not any more.
    Forgotten(CopyRecord, Holders),
}

impl Applied {
    /// What each commit did; nothing, if the event had none.
    pub fn committed(self) -> SmallVec<[Committed; 1]> {
        match self {
            Self::Committed(all) => all,
            _ => SmallVec::new(),
        }
    }
}

/// Everything that is true.
#[derive(Debug)]
pub struct State {
    /// The committed messages.
    pub(super) mapping: Mapping,
    members: BTreeMap<NodeId, Member>,
    removed: BTreeSet<Removed>,
    draining: BTreeSet<NodeId>,
    prepared: Groups<Standing>,
    intents: Intents,
    tolerance: Option<u8>,
    last: Option<Leadership>,
    runs: BTreeMap<Epoch, u64>,
    time: u64,
    users: BTreeMap<String, Vec<u8>>,
}

impl State {
    /// That of a register which has just been founded. `seed` keeps others from choosing ids that collide in the index.
    pub fn new(seed: u64) -> Self {
        Self {
            mapping: Mapping::new(seed),
            members: BTreeMap::new(),
            removed: BTreeSet::new(),
            draining: BTreeSet::new(),
            prepared: Groups::default(),
            intents: Intents::default(),
            tolerance: None,
            last: None,
            runs: BTreeMap::new(),
            time: 0,
            users: BTreeMap::new(),
        }
    }

    /// The committed messages.
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// The members, each as last told, ascending by id.
    pub fn members(&self) -> impl ExactSizeIterator<Item = &Member> {
        self.members.values()
    }

    /// Those that are members no more.
    pub fn removed(&self) -> &BTreeSet<Removed> {
        &self.removed
    }

    /// Whether the member with this folder is one no more.
    pub fn is_removed(&self, uuid: Uuid) -> bool {
        self.removed.iter().any(|removed| removed.uuid == uuid)
    }

    /// Members that are to be emptied.
    pub fn draining(&self) -> &BTreeSet<NodeId> {
        &self.draining
    }

    /// Transactions without an end.
    pub fn prepared(&self) -> &Groups<Standing> {
        &self.prepared
    }

    /// Writes that the log has not heard the end of.
    pub fn intents(&self) -> &Intents {
        &self.intents
    }

    /// On how many nodes a message is kept, if anything was said of it.
    pub fn tolerance(&self) -> Option<usize> {
        self.tolerance.map(usize::from)
    }

    /// The last leadership, if there ever was one.
    pub fn last(&self) -> Option<Leadership> {
        self.last
    }

    /// The leader process of every epoch, from the last one on that had to hear every member.
    pub fn runs(&self) -> &BTreeMap<Epoch, u64> {
        &self.runs
    }

    /// How far the register's time has come, in milliseconds since 1970, by the log.
    pub fn time(&self) -> u64 {
        self.time
    }

    /// The users, each with the rules that make it.
    pub fn users(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.users
    }

    /// A leader was told that this version was committed, whatever became of it since.
    pub fn note_committed(&mut self, version: Version) {
        self.mapping.note_committed(version);
    }

    /// Counts messages that have no ids; see [`Mapping::count_in`].
    #[doc(hidden)]
    pub fn count_in(&mut self, holders: Holders, messages: u64, bytes: u64) {
        self.mapping.count_in(holders, messages, bytes);
    }

    /// Makes an event true.
    pub fn apply(&mut self, event: &Event) -> Applied {
        match event {
            Event::Began { leadership, run, hears_all } => {
                if *hears_all {
                    self.runs.clear();
                    self.prepared.forget(|_, standing| standing != Standing::Aborted);
                    self.intents.clear();
                }
                self.runs.insert(leadership.epoch, *run);
                self.last = Some(*leadership);
            }
            // One that joined in the moment in which it was removed stays removed.
            Event::Member(member) if self.is_removed(member.uuid) => return Applied::Ignored,
            Event::Member(member) => drop(self.members.insert(member.id, member.clone())),
            Event::Removed(removed) => {
                let known = self.members.values().find(|member| member.uuid == removed.uuid).map(|member| member.id);
                if let Some(id) = known {
                    self.members.remove(&id);
                    self.draining.remove(&id);
                }
                if !self.removed.insert(*removed) {
                    return Applied::Ignored;
                }
            }
            Event::Draining { node, .. } if !self.members.contains_key(node) => return Applied::Ignored,
            Event::Draining { node, on: true } => drop(self.draining.insert(*node)),
            Event::Draining { node, on: false } => drop(self.draining.remove(node)),
            Event::Commit(_) | Event::Commits(_) => return self.commit(event.commits()),
            Event::Intent(intent) => {
                let newest = self.mapping.newest(&intent.id);
                if newest.is_some_and(|found| found.record.version >= intent.record.version) {
                    return Applied::Ignored;
                }
                self.intents.begin(intent);
            }
            Event::Concluded(versions) => {
                let commits: SmallVec<[Commit; 1]> =
                    versions.iter().filter_map(|version| self.intents.end(*version)).collect();
                return self.commit(&commits);
            }
            Event::Dropped(versions) => versions.iter().for_each(|version| drop(self.intents.end(*version))),
            Event::Prepared { name, writes } => {
                if !seeded::active(Bug::TransactionTorn) {
                    self.prepared.begin(*name, Standing::Open, writes.iter().cloned());
                }
            }
            Event::Aborted { name } => self.prepared.set(*name, Standing::Aborted),
            Event::Forgotten { id, version } => {
                let record = self.mapping.newest(id).map(|found| found.record);
                return match (self.mapping.forget(id, *version), record) {
                    (Some(holders), Some(record)) => Applied::Forgotten(record, holders),
                    _ => Applied::Ignored,
                };
            }
            Event::Horizon(version) => self.mapping.raise_horizon(*version),
            Event::Tolerance(tolerance) => self.tolerance = Some(*tolerance),
            Event::Time(unix_ms) => self.time = self.time.max(*unix_ms),
            Event::User { name, rules: Some(rules) } => drop(self.users.insert(name.clone(), rules.clone())),
            Event::User { name, rules: None } => drop(self.users.remove(name)),
        }
        Applied::Done
    }

    fn commit(&mut self, commits: &[Commit]) -> Applied {
        let forward = |standing| if standing == Standing::Open { Standing::Forward } else { standing };
        let one = |commit| {
            let committed = self.mapping.apply(commit);
            self.intents.hear(commit);
            self.prepared.hear(commit, forward);
            committed
        };
        Applied::Committed(commits.iter().map(one).collect())
    }

    /// How many events a [`snapshot`](Self::snapshot) has, or about so many.
    pub fn events(&self) -> u64 {
        let few = self.members.len() + self.removed.len() + self.users.len() + self.intents.len();
        self.mapping.len() + self.mapping.tombstones() + few as u64
    }

    /// Events that lead from nothing to this state. Those of the messages are made one by one.
    pub fn snapshot(&self) -> impl Iterator<Item = Event> {
        let cluster_id = self.last.map(|last| last.cluster_id).unwrap_or_default();
        let began = self.runs.iter().map(move |(&epoch, &run)| {
            let leadership = Leadership { cluster_id, epoch };
            Event::Began { leadership, run, hears_all: false }
        });
        let members = self.members.values().cloned().map(Event::Member);
        let removed = self.removed.iter().copied().map(Event::Removed);
        let draining = self.draining.iter().map(|&node| Event::Draining { node, on: true });
        let tolerance = self.tolerance.map(Event::Tolerance);
        let time = Some(self.time).filter(|time| *time > 0).map(Event::Time);
        let users = self
            .users
            .iter()
            .filter(|_| !seeded::active(Bug::UsersNotKept))
            .map(|(name, rules)| Event::User { name: name.clone(), rules: Some(rules.clone()) });
        let horizon = std::iter::once(Event::Horizon(self.mapping.horizon()));
        let transactions = self.prepared.all(|standing| standing != Standing::Forward);
        let transactions = transactions.into_iter().flat_map(|(name, writes)| {
            let aborted =
                self.prepared.standing(name) == Some(Standing::Aborted) && !seeded::active(Bug::AbortedNotKept);
            [Some(Event::Prepared { name, writes }), aborted.then_some(Event::Aborted { name })].into_iter().flatten()
        });
        let commits = (0..SHARDS).flat_map(|part| self.mapping.records(part)).map(|(key, found)| {
            Event::Commit(Commit { id: key.id(), record: found.record, holders: found.set.holders.clone() })
        });
        // Behind the commits, as they end with those that are as new.
        let intents = self.intents.all().filter(|_| !seeded::active(Bug::IntentNotKept));
        let intents = intents.cloned().map(Event::Intent);
        began
            .chain(members)
            .chain(removed)
            .chain(draining)
            .chain(tolerance)
            .chain(time)
            .chain(users)
            .chain(horizon)
            .chain(transactions)
            .chain(commits)
            .chain(intents)
    }
}
