//! Transactions that were begun and not ended: whether the versions that they gave out can ever become true.
//!
//! A transaction of several ids is prepared in the log before any copy is sent, and committed there in one record. A
//! copy says nothing of the others, so what is found of one that has no such record must not be completed by itself:
//! it is taken back. That is a new version of what was true before (or a deletion, if there was nothing), which puts
//! every copy of the transaction behind it, wherever it lies.

use super::mapping::Commit;
use super::state::prepared::{self, Groups};
use super::{Cluster, Ticket, Uncommitted};
use crate::error::name_nodes;
use crate::seeded::{self, Bug};
use crate::types::{Epoch, MessageId, Version};

/// Writes that wait to be taken back, above which no transaction is begun: what is to be remembered stays bounded.
pub const MOST_ROLLED_BACK: usize = 65_536;

/// Where a transaction of another leader stands, or one of this leader's that failed. What this leader has under way is
/// not among them: it hides nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Prepared, and not known to be decided.
    Open,
    /// One of its writes is true, so all of them are or will be.
    Forward,
    /// Its writes were found, or can be on members that were not heard: they become true together.
    Found,
    /// It never becomes true, and the log does not say so yet.
    Void,
    /// It never becomes true.
    Aborted,
}

impl From<prepared::Standing> for Standing {
    fn from(logged: prepared::Standing) -> Self {
        match logged {
            prepared::Standing::Open => Self::Open,
            prepared::Standing::Forward => Self::Forward,
            prepared::Standing::Aborted => Self::Aborted,
        }
    }
}

/// What a leader makes of transactions without an end.
#[derive(Debug, Clone, Default)]
pub(super) struct Transactions(Groups<Standing>);

impl Transactions {
    /// Those that the log speaks of.
    pub(super) fn of(prepared: &Groups<prepared::Standing>) -> Self {
        Self(prepared.map(Standing::from))
    }

    /// The log says that it never becomes true.
    pub(super) fn abort(&mut self, name: Version) {
        self.0.set(name, Standing::Aborted);
    }

    /// A version became true.
    pub(super) fn hear(&mut self, commit: &Commit) {
        self.0.hear(commit, |standing| match standing {
            Standing::Open | Standing::Found => Standing::Forward,
            decided => decided,
        });
    }

    /// A later leader may have decided what is open: nothing is known of it here. What is void of this leader's own
    /// epoch stays so.
    pub(super) fn forget_undecided(&mut self, own: Option<Epoch>) {
        self.0.forget(|name, standing| standing != Standing::Aborted && Some(name.epoch()) != own);
    }

    /// Whether this version never becomes true.
    pub(super) fn is_void(&self, id: &MessageId, version: Version) -> bool {
        self.0.any(id, |of, standing| of == version && matches!(standing, Standing::Void | Standing::Aborted))
    }

    /// Whether a version later than this one was given out and never becomes true.
    pub(super) fn is_behind_void(&self, id: &MessageId, version: Version) -> bool {
        self.0.any(id, |of, standing| of > version && matches!(standing, Standing::Void | Standing::Aborted))
    }

    /// Whether a version of this id is to be taken back.
    pub(super) fn names_id(&self, id: &MessageId) -> bool {
        self.0.any(id, |_, standing| standing != Standing::Forward)
    }

    /// Whether an answer about this id has to wait until the log says what became of a transaction.
    pub(super) fn holds_back(&self, id: &MessageId) -> bool {
        self.0.any(id, |_, standing| matches!(standing, Standing::Void | Standing::Open | Standing::Found))
    }

    /// Whether this version becomes true with the others of its transaction, and not by itself.
    pub(super) fn is_found(&self, id: &MessageId, version: Version) -> bool {
        self.0.any(id, |of, standing| of == version && standing == Standing::Found)
    }

    /// Whether any is not decided.
    pub(super) fn any_open(&self) -> bool {
        self.0.names(|standing| standing == Standing::Open).next().is_some()
    }
}

impl Cluster {
    /// Whether so much waits to be taken back that no transaction is to be begun.
    pub fn is_rolling_back_much(&self) -> bool {
        self.transactions.0.ids().len() >= MOST_ROLLED_BACK
    }

    /// Decides what a leader before has left open, as soon as the index is believed. The log may lack its commits, as an
    /// old copy of it would; but then all of its writes are on nodes, and are completed together. If any is on none of
    /// those that were heard, and these are enough, nobody was told that it is true, and it never becomes so.
    pub(super) fn decide_transactions(&mut self) {
        for (name, writes) in self.transactions.0.all(|standing| standing == Standing::Open) {
            if writes.iter().all(|(id, version)| self.is_known(id, *version)) || !self.all_but_few_heard() {
                self.transactions.0.set(name, Standing::Found);
            } else {
                self.give_up(name, &writes);
            }
        }
    }

    /// Whether this version, or one after it, is true or was found.
    fn is_known(&self, id: &MessageId, version: Version) -> bool {
        self.state.mapping.newest(id).is_some_and(|found| found.record.version >= version)
            || self.uncommitted.get(id).is_some_and(|newer| newer.record.version >= version)
    }

    /// Why no transaction is to write this id now: another leader's may have become true, or may have to be completed.
    pub fn undecided(&self, id: &MessageId) -> Option<String> {
        let held = self.transactions.holds_back(id) && !seeded::active(Bug::UndecidedOverwritten);
        held.then(|| self.waiting_to_decide()).or_else(|| self.undecided.hides(id))
    }

    /// Why an id that belongs to a transaction is held back.
    pub(super) fn waiting_to_decide(&self) -> String {
        let mut reason = "a transaction that did not come to its end is being completed or taken back".to_owned();
        if !self.all_but_few_heard() {
            reason += "; that waits to hear from ";
            reason += &name_nodes(&self.knowledge.missing(&self.member_ids()));
        }
        reason
    }

    fn give_up(&mut self, name: Version, writes: &[(MessageId, Version)]) {
        self.transactions.0.set(name, Standing::Void);
        for (id, version) in writes {
            self.set_void(id, *version);
        }
    }

    /// The transactions that wait to become true as a whole, each with its writes as they were found. One of which a
    /// write is nowhere, though enough members were heard, never becomes true.
    pub fn found_transactions(&mut self) -> Vec<Vec<(MessageId, Uncommitted)>> {
        let mut ready = Vec::new();
        for (name, writes) in self.transactions.0.all(|standing| standing == Standing::Found) {
            let gone = |(id, version): &(MessageId, Version)| {
                !self.is_known(id, *version) && !self.under_way.contains(version)
            };
            if writes.iter().any(gone) {
                if self.all_but_few_heard() && self.taking.is_empty() {
                    self.give_up(name, &writes);
                }
                continue;
            }
            let found = |(id, version): &(MessageId, Version)| {
                let newer = self.uncommitted.get(id).filter(|newer| newer.record.version == *version)?;
                Some((id.clone(), newer.clone()))
            };
            ready.extend(writes.iter().map(found).collect::<Option<Vec<_>>>());
        }
        ready
    }

    /// A version that was noted as newer than what is committed never becomes true.
    fn set_void(&mut self, id: &MessageId, version: Version) {
        if let Some(found) = self.uncommitted.get(id).filter(|newer| newer.record.version == version) {
            found.holders.iter().for_each(|&node| self.in_doubt.note(id, node, version));
            self.forget_newest(id);
        }
    }

    /// A transaction of this leader failed: it never becomes true, and whoever was asked for a copy may have one.
    pub fn void<'a>(&mut self, name: Version, tickets: impl Iterator<Item = &'a Ticket> + Clone) {
        let writes = tickets.clone().map(|ticket| (ticket.id.clone(), ticket.record.version));
        self.transactions.0.begin(name, Standing::Void, writes);
        for ticket in tickets {
            self.note_left(ticket, &[]);
            self.set_void(&ticket.id, ticket.record.version);
        }
    }

    /// Transactions that never become true, which the log does not say yet.
    pub fn to_abort(&self) -> Vec<Version> {
        self.transactions.0.names(|standing| standing == Standing::Void).collect()
    }

    /// Up to `limit` ids with versions that never become true, and have to be put behind something newer.
    pub fn to_roll_back(&self, limit: usize) -> Vec<MessageId> {
        let ids = self.transactions.0.ids();
        ids.filter(|id| self.rolls_back(id)).take(limit).cloned().collect()
    }

    /// Whether something of this id is still to be taken back.
    pub fn rolls_back(&self, id: &MessageId) -> bool {
        self.transactions.0.any(id, |_, standing| standing == Standing::Aborted)
    }
}
