//! The messages of a transaction as it sees them, and what becomes of them.

use std::collections::BTreeMap;

use crate::types::{Change, CopyRecord, Deadline, MessageId, Payload, Version};

/// What a transaction wants to know of an id before it decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Nothing: it is at most written.
    Nothing,
    /// As `Version`, for one that is deleted: what a failed write may have left of it counts as nothing, as the deletion
    /// stands before it.
    Deletion,
    /// Whether there is a message, its version and its length.
    Version,
    /// The message too.
    Message,
}

/// What a transaction sees, and what it is to do.
#[derive(Debug, Default)]
pub struct Transaction {
    entries: BTreeMap<MessageId, Known>,
    writes: u64,
    /// The register's time, in milliseconds since 1970: one for all of it.
    now: u64,
}

/// What is known of one id.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) need: Need,
    pub(super) record: Option<CopyRecord>,
    pub(super) message: Option<Payload>,
    /// What is to be done to it.
    pub(super) written: Option<Change>,
    /// Written by a step before this one.
    overtaken: bool,
}

impl Known {
    pub(super) fn new(need: Need, record: Option<CopyRecord>) -> Self {
        Self { need, record, message: None, written: None, overtaken: false }
    }
}

impl Transaction {
    pub(super) fn new(entries: BTreeMap<MessageId, Known>, now: u64) -> Self {
        Self { entries, writes: 0, now }
    }

    /// One of these ids, at this time, which have no messages yet.
    #[cfg(test)]
    pub(in crate::leader) fn of(ids: &[MessageId], now: u64) -> Self {
        Self::new(ids.iter().map(|id| (id.clone(), Known::new(Need::Message, None))).collect(), now)
    }

    /// All ids in their order, each with what is to be done to it, if anything is.
    pub(super) fn into_writes(self) -> impl Iterator<Item = (MessageId, Option<Change>)> {
        self.entries.into_iter().map(|(id, known)| (id, known.written))
    }

    fn known(&self, id: &MessageId, need: Need) -> &Known {
        let known = self.entries.get(id).filter(|known| known.need >= need || known.written.is_some());
        known.unwrap_or_else(|| panic!("{id:?} was not asked for as {need:?}"))
    }

    /// The message of an id, with what this transaction has written.
    ///
    /// # Panics
    /// If the id was not named with [`Need::Message`], and not written before.
    pub fn get(&self, id: &MessageId) -> Option<&Payload> {
        let known = self.known(id, Need::Message);
        known.written.as_ref().map_or(known.message.as_ref(), Change::message)
    }

    /// Whether there is a message, with what this transaction has written.
    ///
    /// # Panics
    /// If the id was not named with [`Need::Deletion`] or more, and not written before.
    pub fn exists(&self, id: &MessageId) -> bool {
        self.length(id).is_some()
    }

    /// How many bytes the message has, if there is one, with what this transaction has written.
    ///
    /// # Panics
    /// As [`Transaction::exists`].
    pub fn length(&self, id: &MessageId) -> Option<usize> {
        let known = self.known(id, Need::Deletion);
        let before = || known.record.map(|record| record.bytes() as usize);
        known.written.as_ref().map_or_else(before, |written| written.message().map(Payload::len))
    }

    /// The register's time, in milliseconds since 1970.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// When the message ends by itself, if it does, with what this transaction has written.
    ///
    /// # Panics
    /// As [`Transaction::exists`].
    pub fn expires(&self, id: &MessageId) -> Option<Deadline> {
        let known = self.known(id, Need::Deletion);
        let before = || known.record.and_then(|record| record.expires);
        known.written.as_ref().map_or_else(before, Change::expires)
    }

    /// The version that the message has before this transaction, if there is one. If somebody else's step has written
    /// it meanwhile, it is none that anybody knows.
    ///
    /// # Panics
    /// If the id was not named with [`Need::Version`] or more.
    pub fn version(&self, id: &MessageId) -> Option<Version> {
        let known = self.entries.get(id).filter(|known| known.need >= Need::Version);
        let known = known.unwrap_or_else(|| panic!("{id:?} was not asked for"));
        if known.overtaken { Some(Version(u64::MAX)) } else { known.record.map(|record| record.version) }
    }

    /// Gives an id this message, which ends by itself at the deadline, if there is one.
    ///
    /// # Panics
    /// If the id was not named.
    pub fn set(&mut self, id: &MessageId, message: Payload, expires: Option<Deadline>) {
        self.write(id, Change::Put(message, expires));
    }

    /// Deletes the message of an id, if there is one.
    ///
    /// # Panics
    /// If the id was not named.
    pub fn delete(&mut self, id: &MessageId) {
        self.write(id, Change::Delete);
    }

    pub(in crate::leader) fn write(&mut self, id: &MessageId, change: Change) {
        let known = self.entries.get_mut(id);
        known.unwrap_or_else(|| panic!("{id:?} is not part of the transaction")).written = Some(change);
        self.writes += 1;
    }

    /// Takes the message of an id out, to change it and set it again: a step that makes a message longer and longer copies
    /// it once. Until it is set the id is as if deleted.
    ///
    /// # Panics
    /// As [`Transaction::get`].
    pub fn take(&mut self, id: &MessageId) -> Option<Payload> {
        let message = self.get(id).cloned();
        if let Some(known) = self.entries.get_mut(id) {
            known.written = Some(Change::Delete);
        }
        message
    }

    /// Takes steps that are to be undone if one of them fails.
    pub fn attempt<R, E>(&mut self, steps: impl FnOnce(&mut Self) -> Result<R, E>) -> Result<R, E> {
        let before: Vec<_> = self.entries.values().map(|known| known.written.clone()).collect();
        let writes = self.writes;
        let result = steps(self);
        if result.is_err() {
            self.entries.values_mut().zip(before).for_each(|(known, before)| known.written = before);
            self.writes = writes;
        }
        result
    }

    /// Begins a step for somebody, who sees what the steps before have written; gives how many writes these were.
    pub(in crate::leader) fn begin_step(&mut self) -> u64 {
        self.entries.values_mut().for_each(|known| known.overtaken = known.written.is_some());
        self.writes
    }

    /// How many writes there were.
    pub(in crate::leader) fn writes(&self) -> u64 {
        self.writes
    }
}
