//! The replicated log as the engine sees it: all entries since the last snapshot are in memory, so that no read touches
//! the disk, and what changes goes through one thread (`disk`) in order.
//!
//! An append is said to be flushed only after its sync has returned.

mod disk;
mod record;
mod rewrite;

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::{mpsc, oneshot};

use self::disk::Job;
pub(super) use self::disk::{LOG_FILE, Opened, Pulse, VOTE_FILE, open, write_vote};
use self::rewrite::Rewrite;
use super::identity::Identity;
use super::types::{Entry, EntryPayload, LogId, Types, Vote};
use crate::lock::Lock;

/// The longest payload of an entry.
pub const LONGEST_PAYLOAD: usize = 24 << 20;

/// Bytes of payloads that one message to another peer is filled up to; it holds at least one entry, however long.
const MESSAGE_BYTES: usize = 1 << 20;

/// What is in memory of the log.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The last entry that was let go of: a snapshot has it.
    pub(super) purged: Option<LogId>,
    pub(super) entries: VecDeque<Entry>,
    /// The vote that is on the disk.
    pub(super) vote: Option<Vote>,
}

impl Memory {
    /// The index of the first entry that is here, or will be.
    pub(super) fn first(&self) -> u64 {
        self.purged.map_or(0, |purged| purged.index + 1)
    }

    pub(super) fn last(&self) -> Option<LogId> {
        self.entries.back().map(|entry| entry.log_id).or(self.purged)
    }

    pub(super) fn get(&self, index: u64) -> Option<&Entry> {
        index.checked_sub(self.first()).and_then(|place| self.entries.get(place as usize))
    }

    /// Drops what comes after this index; nothing: all of it.
    pub(super) fn cut(&mut self, after: Option<u64>) {
        let keep = after.map_or(0, |after| (after + 1).saturating_sub(self.first()));
        self.entries.truncate(keep as usize);
    }

    /// Drops what comes before and at this place.
    pub(super) fn purge(&mut self, upto: LogId) {
        let gone = (upto.index + 1).saturating_sub(self.first()).min(self.entries.len() as u64);
        self.entries.drain(..gone as usize);
        self.purged = self.purged.max(Some(upto));
    }

    fn range(&self, range: impl RangeBounds<u64>) -> impl DoubleEndedIterator<Item = &Entry> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let until = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(until) => *until,
            Bound::Unbounded => u64::MAX,
        };
        let first = self.first();
        let place = |index: u64| (index.saturating_sub(first) as usize).min(self.entries.len());
        self.entries.range(place(from)..place(until).max(place(from)))
    }
}

/// The engine's way to the log; clones are the same log.
#[derive(Debug, Clone)]
pub(super) struct Log {
    memory: Arc<Lock<Memory>>,
    jobs: mpsc::UnboundedSender<Job>,
    identity: Arc<Identity>,
}

impl Log {
    /// Entries from `from` to `last`, both included; nothing: not all of them are here.
    pub(super) fn span(&self, from: u64, last: u64) -> Option<Vec<Entry>> {
        let memory = self.memory.lock();
        let entries: Vec<Entry> = memory.range(from..=last).cloned().collect();
        (entries.len() as u64 == (last + 1).saturating_sub(from)).then_some(entries)
    }

    /// Up to where entries may be let go of, if a snapshot has all up to `covered`: those before it that `keep` bytes
    /// hold stay, for peers that are a little behind.
    pub(super) fn purgeable(&self, covered: u64, keep: usize) -> Option<u64> {
        let memory = self.memory.lock();
        let mut bytes = 0;
        let kept = memory.range(..=covered).rev().take_while(|entry| {
            bytes += weight(entry);
            bytes <= keep
        });
        let kept = kept.count() as u64;
        (covered + 1).checked_sub(kept + 1).filter(|upto| *upto >= memory.first())
    }

    /// Whether this peer has neither entries nor a vote: it never took part in anything.
    pub(super) fn is_blank(&self) -> bool {
        let memory = self.memory.lock();
        memory.last().is_none() && memory.vote.is_none()
    }

    fn send(&self, job: Job) -> io::Result<()> {
        self.jobs.send(job).map_err(|_| ended())
    }
}

/// About how many bytes an entry is.
fn weight(entry: &Entry) -> usize {
    64 + match &entry.payload {
        EntryPayload::Normal(payload) => payload.0.len(),
        _ => 0,
    }
}

fn ended() -> io::Error {
    io::Error::other("the thread of the log has ended")
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        Ok(self.memory.lock().range(range).cloned().collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.memory.lock().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let memory = self.memory.lock();
        let mut bytes = 0;
        let fits = memory.range(start..end).take_while(|entry| {
            let first = bytes == 0;
            bytes += weight(entry);
            first || bytes <= MESSAGE_BYTES
        });
        Ok(fits.cloned().collect())
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let memory = self.memory.lock();
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: memory.last() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    /// On the disk when it returns, and after all that was appended before it.
    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        self.send(Job::Vote(*vote, done))?;
        answer.await.map_err(|_| ended())??;
        self.memory.lock().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut memory = self.memory.lock();
        let mut records = Vec::new();
        for entry in entries {
            if let EntryPayload::Membership(members) = &entry.payload {
                self.identity.note(members);
            }
            records.push(record::entry(&entry));
            memory.entries.push_back(entry);
        }
        // Under the lock, so that the thread gets everything in the order of the memory.
        self.send(Job::Append(records, callback))
    }

    /// What was cut comes back if the power fails before the next append is safe, and nobody relies on it then.
    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let mut memory = self.memory.lock();
        memory.cut(last.map(|last| last.index));
        self.send(Job::Cut(record::cut(last)))
    }

    /// The file is written anew in its turn. The engine does not wait for that.
    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let mut memory = self.memory.lock();
        let gap = memory.last() < Some(upto);
        memory.purge(upto);
        let entries = memory.entries.iter().cloned().collect();
        self.send(Job::Rewrite(Rewrite { purged: memory.purged, entries, gap }))
    }
}
