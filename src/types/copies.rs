//! One write of one message, and its copies.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use smallvec::SmallVec;

use super::{Epoch, MAX_TOLERANCE, MessageId, NodeId};

/// What a write does to an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It has this message from then on, until the deadline, if there is one.
    Put(Payload, Option<Deadline>),
    /// It has none.
    Delete,
}

impl Change {
    /// The message that the id has then.
    pub fn message(&self) -> Option<&Payload> {
        match self {
            Self::Put(message, _) => Some(message),
            Self::Delete => None,
        }
    }

    /// When the message ends by itself, if ever.
    pub fn expires(&self) -> Option<Deadline> {
        match self {
            Self::Put(_, expires) => *expires,
            Self::Delete => None,
        }
    }

    /// The record of its copies, without a version; nothing for a deletion. Computes the checksum.
    pub fn record(&self) -> Option<CopyRecord> {
        self.message().map(|message| CopyRecord::of(Version::default(), message).until(self.expires()))
    }

    /// What is kept on nodes: the message, or no byte for a deletion.
    pub fn into_payload(self) -> Payload {
        match self {
            Self::Put(message, _) => message,
            Self::Delete => Payload::new(),
        }
    }

    /// Bytes of the message.
    pub fn bytes(&self) -> usize {
        self.message().map_or(0, Payload::len)
    }
}

/// When a message ends by itself: milliseconds since 1970, by the register's time. The idea of a deadline that is data of
/// a version, rather than a timer, is that of Redis' `EXPIREAT`: it needs no clock to be kept, copied or restored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Deadline(NonZeroU64);

impl Deadline {
    /// That many milliseconds after the beginning of 1970; none at 0.
    pub fn at(unix_ms: u64) -> Option<Self> {
        NonZeroU64::new(unix_ms).map(Self)
    }

    /// So long after `now`, in milliseconds since 1970.
    pub fn after(now: u64, time: Duration) -> Option<Self> {
        Self::at(now.saturating_add(time.as_millis() as u64))
    }

    /// Milliseconds since 1970.
    pub fn unix_ms(self) -> u64 {
        self.0.get()
    }

    /// Appends it, for formats in which one that is there has 8 bytes, and none has no byte.
    pub fn push(expires: Option<Self>, out: &mut Vec<u8>) {
        out.extend(expires.into_iter().flat_map(|deadline| deadline.unix_ms().to_le_bytes()));
    }

    /// Reads one that is there off the front; gives what is behind it.
    pub fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (unix_ms, behind) = bytes.split_first_chunk()?;
        Some((Self::at(u64::from_le_bytes(*unix_ms))?, behind))
    }

    /// As a number of which 0 is "never", for formats.
    pub fn number(expires: Option<Self>) -> u64 {
        expires.map_or(0, Self::unix_ms)
    }
}

/// The last millisecond that RFC 3339 can write.
const LAST_WRITTEN: u64 = 253_402_300_799_999;

/// As RFC 3339 writes it, in UTC and with milliseconds; what is after the year 9999 as the end of that.
impl fmt::Display for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = Duration::from_millis(self.unix_ms().min(LAST_WRITTEN));
        humantime::format_rfc3339_millis(UNIX_EPOCH + since).fmt(f)
    }
}

/// Reads what `Display` writes.
impl FromStr for Deadline {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let time = humantime::parse_rfc3339(text).map_err(drop)?;
        let since = time.duration_since(UNIX_EPOCH).map_err(drop)?;
        Self::at(since.as_millis() as u64).ok_or(())
    }
}

impl fmt::Debug for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "until {}", self.0)
    }
}

/// The order of all writes of all ids: epoch (32 bit) << 32 | sequence (32 bit).
///
/// Zero is no write's version: it marks a foreign file, which has no record.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Version(pub u64);

impl Version {
    /// The version of a copy that no leader wrote.
    pub const FOREIGN: Self = Self(0);

    /// The `sequence`-th write of `epoch`.
    pub fn new(epoch: Epoch, sequence: u32) -> Self {
        Self(u64::from(epoch.0) << 32 | u64::from(sequence))
    }

    /// The epoch that this version was given in.
    pub fn epoch(self) -> Epoch {
        Epoch((self.0 >> 32) as u32)
    }

    /// The number of the write within its epoch.
    pub fn sequence(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch(), self.sequence())
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{self}")
    }
}

/// A message's bytes; cheap to clone.
pub type Payload = Bytes;

/// CRC-32C of a message's bytes: what a copy is checked against at every read.
pub fn checksum(payload: &[u8]) -> u32 {
    crc32c::crc32c(payload)
}

/// What a copy says of itself: which write it is, and how to tell that it is whole.
///
/// A deletion is a write as well. Its copies are tombstones: they have no content, and a length that no message has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyRecord {
    /// The write this is a copy of.
    pub version: Version,
    /// Bytes of the message, or `u32::MAX` in a tombstone; for sums use [`CopyRecord::bytes`].
    pub length: u32,
    /// [`checksum`] of the message.
    pub crc: u32,
    /// When the message ends by itself, if ever.
    pub expires: Option<Deadline>,
}

impl CopyRecord {
    /// The record of `payload` as written by `version`.
    pub fn of(version: Version, payload: &[u8]) -> Self {
        Self { version, length: payload.len() as u32, crc: checksum(payload), expires: None }
    }

    /// The record of a deletion.
    pub fn tombstone(version: Version) -> Self {
        Self { version, length: u32::MAX, crc: 0, expires: None }
    }

    /// The same, of a message that ends by itself then.
    pub fn until(self, expires: Option<Deadline>) -> Self {
        Self { expires, ..self }
    }

    /// Whether this is the record of a deletion.
    pub fn is_tombstone(&self) -> bool {
        (self.length, self.crc) == (u32::MAX, 0) && self.version != Version::FOREIGN
    }

    /// Bytes of content: none in a tombstone.
    pub fn bytes(&self) -> u32 {
        if self.is_tombstone() { 0 } else { self.length }
    }

    /// Whether `payload` is the content that this record was made for.
    pub fn matches(&self, payload: &[u8]) -> bool {
        self.fits(payload.len() as u64, checksum(payload))
    }

    /// Whether content of this length and checksum is what this record was made for.
    pub fn fits(&self, length: u64, crc: u32) -> bool {
        match self.is_tombstone() {
            true => length == 0,
            false => (u64::from(self.length), self.crc) == (length, crc),
        }
    }
}

/// One copy, as an inventory lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Under which id.
    pub id: MessageId,
    /// Version zero for a foreign file, whose length and checksum were computed.
    pub record: CopyRecord,
    /// Not yet published: an older version is the visible one.
    pub staged: bool,
    /// The content does not match the record.
    pub damaged: bool,
}

/// Nodes that keep copies of one message: ascending, distinct, at most [`MAX_TOLERANCE`].
pub type Holders = SmallVec<[NodeId; MAX_TOLERANCE]>;

/// Nodes that something is to be done with about one message, in an order of their own.
pub type Nodes = SmallVec<[NodeId; MAX_TOLERANCE]>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_order_by_epoch_then_sequence() {
        let old = Version::new(Epoch(1), u32::MAX);
        let new = Version::new(Epoch(2), 0);
        assert!(old < new && Version::FOREIGN < old);
        assert_eq!((new.epoch(), new.sequence()), (Epoch(2), 0));
    }
}
