//! What a node's storage can do, whatever the layout of its folder.
//!
//! One writer thread makes all calls of [`Store::write`], so comparing versions
//! and publishing never race; readers call the rest at any time.

use std::io;
use std::time::Duration;

use crate::types::{CopyRecord, Listed, MessageId, Payload, Version};
pub use crate::wire::Settle;

/// How many parts an inventory comes in; see [`Store::inventory`].
pub const INVENTORY_PARTS: usize = 64;

/// How often [`Store::tend`] is called where files are synced behind a journal. More often, and the folder's blocks are written more often than they need be;
/// less often, and a start after a power cut takes longer.
pub const TEND_EVERY: Duration = Duration::from_secs(2);

/// A copy to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// Under which id.
    pub id: MessageId,
    /// Version, length and checksum of the message.
    pub record: CopyRecord,
    /// What to write.
    pub body: Body,
}

/// Where the bytes of a [`Put`] come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// These bytes.
    Bytes(Payload),
    /// The foreign file of this id, if it has the length and checksum of the record: it is given its record.
    Adopt,
    /// None: the record is a tombstone, which is kept beside the copies of the id until it is settled.
    Deleted,
}

/// What became of a [`Put`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// Kept, as safe as the IO mode says.
    Stored,
    /// A newer version is here; nothing was written.
    Stale,
    /// The same version with another checksum is here; nothing was written.
    Conflict,
    /// No room; nothing was kept.
    Full,
    /// A disk error, or no such foreign file to adopt; nothing was kept.
    Failed,
}

/// The outcomes of one batch.
#[derive(Debug, Default)]
pub struct WriteReport {
    /// One for each put, in order.
    pub outcomes: Vec<PutOutcome>,
    /// One for each settle, in order: whether no copy is left that it says should go.
    pub settled: Vec<bool>,
    /// The first failure, for people.
    pub error: Option<String>,
    /// Something found no room.
    pub full: bool,
    /// Time spent writing, and then syncing.
    pub write_time: Duration,
    /// See `write_time`; zero in buffered mode.
    pub sync_time: Duration,
}

impl WriteReport {
    /// Adds what became of the second part of a batch.
    pub(super) fn append(&mut self, second: Self) {
        self.outcomes.extend(second.outcomes);
        self.settled.extend(second.settled);
        self.error = self.error.take().or(second.error);
        self.full |= second.full;
        self.write_time += second.write_time;
        self.sync_time += second.sync_time;
    }
}

/// A sync or a rename failed: nobody knows any more what is on the disk, so the
/// whole batch failed and the node must stop.
#[derive(Debug, thiserror::Error)]
#[error(
    "{what} failed: {source}; this node stops, because what is on its disk is not known any more: check the disk, then start it again"
)]
pub struct Fatal {
    /// Which call, on what.
    pub what: String,
    /// Why.
    pub source: io::Error,
}

/// Why a copy could not be read.
#[derive(Debug, PartialEq, Eq)]
pub enum ReadFault {
    /// This version is surely not here.
    Absent,
    /// It is here, and does not match its record.
    Damaged,
    /// A disk error, which proves nothing.
    Unknown(String),
}

/// What a store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Whole visible copies.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Copies of messages on one node's disk, by id and version.
pub trait Store: std::fmt::Debug + Send + Sync {
    /// Executes `settles`, then `puts`, each in order, as one group commit: when it
    /// returns, every `Stored` copy and every settled name is as safe as the IO mode says.
    fn write(&self, settles: &[Settle], puts: &[Put]) -> Result<WriteReport, Fatal>;

    /// Housekeeping behind the writes, which go on meanwhile; called again and again, and when the node stops. Gives the
    /// pause before the next call.
    fn tend(&self) -> Result<Duration, Fatal> {
        Ok(TEND_EVERY)
    }

    /// Reads one version of one message, and checks it against its record.
    /// `Version::FOREIGN` reads the foreign file of that id.
    fn read(&self, id: &MessageId, version: Version) -> Result<Payload, ReadFault>;

    /// Whether one version of one message is whole on the disk: as [`read`](Self::read), but what is in memory proves nothing.
    fn check(&self, id: &MessageId, version: Version) -> Result<(), ReadFault>;

    /// The newest whole recorded version of a message.
    fn newest(&self, id: &MessageId) -> Option<CopyRecord>;

    /// The whole recorded version that others may be shown: not one that waits to be settled behind it, which may be taken
    /// back, and none that a tombstone waits behind.
    fn published(&self, id: &MessageId) -> Option<CopyRecord>;

    /// Whether this version waits to be settled under a hidden name. Where copies have no names of their own none does.
    fn is_unpublished(&self, _id: &MessageId, _version: Version) -> bool {
        false
    }

    /// The `part`-th of [`INVENTORY_PARTS`] parts of everything held: a copy that was
    /// here before the first part was asked for, and still is after the last, is listed.
    fn inventory(&self, part: usize) -> Vec<Listed>;

    /// What is held now.
    fn totals(&self) -> Totals;
}
