//! How a backup is written: a header, a record for each message, and an end that says how many there were.
//!
//! Numbers are little endian. Every byte is under a checksum that also covers its place, so that what was cut off,
//! changed, moved or left out is found, and where. `docs/formats.md` has the tables. Knows no file and no socket.

pub mod manifest;

use bytes::{Buf, Bytes, BytesMut};

use crate::types::{Deadline, MAX_ID_BYTES, MAX_MESSAGE_BYTES, MessageId, Payload, Uuid, Version, checksum};

/// How a backup begins.
const MAGIC: [u8; 8] = *b"HTKSBKP\n";

/// The newest format that is read. One in which no message ends by itself is written as the first.
pub const FORMAT: u32 = 2;

const HEADER: usize = 8 + 4 + 16 + 8 + 8 + 1 + 8 + 8 + 4;
const RECORD_HEAD: usize = 1 + 2 + 4 + 8 + 4;
const END: usize = 1 + 8 + 8 + 8 + 4 + 4;

const KIND_MESSAGE: u8 = 1;
const KIND_LOST: u8 = 2;
/// A message with a deadline, in 8 bytes between the head and the id.
const KIND_UNTIL: u8 = 3;
const KIND_END: u8 = 255;

/// What a backup is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The register.
    pub cluster_id: Uuid,
    /// The newest version that was committed at its moment.
    pub version: Version,
    /// When that was, in milliseconds since 1970, by the clock of who wrote it.
    pub unix_ms: u64,
    /// Copies that each message had.
    pub tolerance: u8,
    /// Messages that there were, and their bytes.
    pub messages: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Some of them end by themselves.
    pub expires: bool,
}

impl Header {
    /// The format of the backup.
    pub fn format(&self) -> u32 {
        if self.expires { FORMAT } else { 1 }
    }
}

/// A message as a backup has it: its id, version and deadline, and what it is, or nothing if it was lost before.
pub type Kept<T> = (MessageId, Version, Option<Deadline>, Option<T>);

/// What a backup holds in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages.
    pub messages: u64,
    /// Ids whose message was lost before.
    pub lost: u64,
    /// Bytes of the messages.
    pub bytes: u64,
}

/// One thing that a backup says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// What it is of: the first.
    Header(Header),
    /// A message, or nothing for one that was lost before.
    Message(Kept<Payload>),
    /// Everything was there: the last.
    End(Totals),
}

/// Why bytes are no backup, or not a whole one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It begins with something else.
    #[error("it is no backup of hatokuse: it begins with something else")]
    Foreign,
    /// It was written by a later version of this program.
    #[error("it has the format {0}, and this program reads up to {FORMAT}: use a newer one")]
    Newer(u32),
    /// Bytes are not what was written.
    #[error("it is damaged at byte {0}")]
    Damaged(u64),
    /// It ends too early.
    #[error("it was cut off at byte {0}: its end is missing")]
    Cut(u64),
    /// Something stands behind its end.
    #[error("something follows its end at byte {0}")]
    Behind(u64),
    /// Its end counts something else.
    #[error("it holds {found:?}, and its end says {told:?}")]
    Count {
        /// What was read.
        found: Totals,
        /// What its end says.
        told: Totals,
    },
}

impl Damage {
    /// The byte from which on it is not what was written.
    pub fn offset(&self) -> u64 {
        match self {
            Self::Foreign | Self::Newer(_) => 0,
            Self::Damaged(at) | Self::Cut(at) | Self::Behind(at) => *at,
            Self::Count { .. } => u64::MAX,
        }
    }

    /// The same, counted from a byte before it.
    pub fn within(self, from: u64) -> Self {
        match self {
            Self::Damaged(at) => Self::Damaged(at - from),
            Self::Cut(at) => Self::Cut(at - from),
            Self::Behind(at) => Self::Behind(at - from),
            other => other,
        }
    }
}

/// Writes a backup, piece by piece.
#[derive(Debug)]
pub struct Writer {
    offset: u64,
    all: u32,
    totals: Totals,
}

/// Checks a piece of the head of something, which begins at this byte.
fn placed(offset: u64, head: &[u8]) -> u32 {
    crc32c::crc32c_append(checksum(&offset.to_le_bytes()), head)
}

impl Writer {
    /// Begins one: appends its header.
    pub fn begin(header: &Header, out: &mut Vec<u8>) -> Self {
        let from = out.len();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&header.format().to_le_bytes());
        out.extend_from_slice(&header.cluster_id.0);
        out.extend_from_slice(&header.version.0.to_le_bytes());
        out.extend_from_slice(&header.unix_ms.to_le_bytes());
        out.push(header.tolerance);
        out.extend_from_slice(&header.messages.to_le_bytes());
        out.extend_from_slice(&header.bytes.to_le_bytes());
        let mut writer = Self { offset: 0, all: 0, totals: Totals::default() };
        out.extend_from_slice(&placed(0, &out[from..]).to_le_bytes());
        writer.pass(&out[from..]);
        writer
    }

    fn pass(&mut self, bytes: &[u8]) {
        self.all = crc32c::crc32c_append(self.all, bytes);
        self.offset += bytes.len() as u64;
    }

    /// Appends a message, or (with nothing) an id whose message was lost.
    pub fn message(&mut self, (id, version, expires, message): &Kept<&[u8]>, out: &mut Vec<u8>) {
        let (from, body) = (out.len(), message.unwrap_or_default());
        out.push(match (message, expires) {
            (Some(_), None) => KIND_MESSAGE,
            (Some(_), Some(_)) => KIND_UNTIL,
            (None, _) => KIND_LOST,
        });
        out.extend_from_slice(&(id.as_bytes().len() as u16).to_le_bytes());
        out.extend_from_slice(&(body.len() as u32).to_le_bytes());
        out.extend_from_slice(&version.0.to_le_bytes());
        out.extend_from_slice(&checksum(body).to_le_bytes());
        Deadline::push(expires.filter(|_| message.is_some()), out);
        out.extend_from_slice(id.as_bytes());
        out.extend_from_slice(&placed(self.offset, &out[from..]).to_le_bytes());
        out.extend_from_slice(body);
        self.pass(&out[from..]);
        match message {
            Some(_) => self.totals.messages += 1,
            None => self.totals.lost += 1,
        }
        self.totals.bytes += body.len() as u64;
    }

    /// Appends the end; gives what the backup holds.
    pub fn end(mut self, out: &mut Vec<u8>) -> Totals {
        let from = out.len();
        out.push(KIND_END);
        for number in [self.totals.messages, self.totals.lost, self.totals.bytes] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.all.to_le_bytes());
        out.extend_from_slice(&placed(self.offset, &out[from..]).to_le_bytes());
        self.pass(&out[from..]);
        self.totals
    }
}

/// Reads a backup from bytes that may come in any pieces, and checks all of them.
#[derive(Debug, Default)]
pub struct Reader {
    offset: u64,
    all: u32,
    totals: Totals,
    begun: bool,
    ended: bool,
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

impl Reader {
    /// Takes what comes next off the front of `buffer`; nothing: more bytes are needed, or it has ended.
    pub fn read(&mut self, buffer: &mut BytesMut) -> Result<Option<Item>, Damage> {
        match (self.begun, self.ended, buffer.first()) {
            (_, _, None) => Ok(None),
            (_, true, Some(_)) => Err(Damage::Behind(self.offset)),
            (false, ..) => self.header(buffer),
            (true, false, Some(&KIND_END)) => self.end(buffer),
            (true, false, Some(_)) => self.message(buffer),
        }
    }

    /// Nothing more comes: says whether that was all.
    pub fn finish(&self, buffer: &BytesMut) -> Result<(), Damage> {
        if self.ended { Ok(()) } else { Err(Damage::Cut(self.offset + buffer.len() as u64)) }
    }

    /// Takes bytes that were found good.
    fn pass(&mut self, length: usize, buffer: &mut BytesMut) -> Bytes {
        let bytes = buffer.split_to(length).freeze();
        self.all = crc32c::crc32c_append(self.all, &bytes);
        self.offset += length as u64;
        bytes
    }

    /// The checksum behind `length` bytes is right for them and their place.
    fn check(&self, buffer: &BytesMut, length: usize) -> Result<(), Damage> {
        let is_right = u32_at(buffer, length) == placed(self.offset, &buffer[..length]);
        if is_right { Ok(()) } else { Err(Damage::Damaged(self.offset)) }
    }

    fn header(&mut self, buffer: &mut BytesMut) -> Result<Option<Item>, Damage> {
        let known = buffer.len().min(MAGIC.len());
        if buffer[..known] != MAGIC[..known] {
            return Err(Damage::Foreign);
        }
        if buffer.len() >= 12 && u32_at(buffer, 8) > FORMAT {
            return Err(Damage::Newer(u32_at(buffer, 8)));
        }
        if buffer.len() < HEADER {
            return Ok(None);
        }
        self.check(buffer, HEADER - 4)?;
        let cluster_id = Uuid::from_bytes(&buffer[12..28]).unwrap_or_default();
        let header = Header {
            cluster_id,
            version: Version(u64_at(buffer, 28)),
            unix_ms: u64_at(buffer, 36),
            tolerance: buffer[44],
            messages: u64_at(buffer, 45),
            bytes: u64_at(buffer, 53),
            expires: u32_at(buffer, 8) >= 2,
        };
        self.begun = true;
        self.pass(HEADER, buffer);
        Ok(Some(Item::Header(header)))
    }

    fn message(&mut self, buffer: &mut BytesMut) -> Result<Option<Item>, Damage> {
        let damaged = Err(Damage::Damaged(self.offset));
        if buffer.len() < RECORD_HEAD {
            return Ok(None);
        }
        let id_bytes = usize::from(u16::from_le_bytes([buffer[1], buffer[2]]));
        let length = u32_at(buffer, 3);
        if id_bytes == 0 || id_bytes > MAX_ID_BYTES || u64::from(length) > MAX_MESSAGE_BYTES {
            return damaged;
        }
        let until = if buffer[0] == KIND_UNTIL { 8 } else { 0 };
        let id_at = RECORD_HEAD + until;
        let head = id_at + id_bytes;
        if buffer.len() < head + 4 {
            return Ok(None);
        }
        self.check(buffer, head)?;
        let whole = head + 4 + length as usize;
        if buffer.len() < whole {
            buffer.reserve(whole - buffer.len());
            return Ok(None);
        }
        let (kind, version, crc) = (buffer[0], Version(u64_at(buffer, 7)), u32_at(buffer, 15));
        if checksum(&buffer[head + 4..whole]) != crc {
            return damaged;
        }
        let Ok(id) = MessageId::from_bytes(&buffer[id_at..head]) else { return damaged };
        let message = match kind {
            KIND_MESSAGE | KIND_UNTIL => true,
            KIND_LOST if length == 0 => false,
            _ => return damaged,
        };
        let expires = if until > 0 { Deadline::at(u64_at(buffer, RECORD_HEAD)) } else { None };
        let body = self.pass(whole, buffer).slice(head + 4..);
        match message {
            true => self.totals.messages += 1,
            false => self.totals.lost += 1,
        }
        self.totals.bytes += body.len() as u64;
        Ok(Some(Item::Message((id, version, expires, message.then_some(body)))))
    }

    fn end(&mut self, buffer: &mut BytesMut) -> Result<Option<Item>, Damage> {
        if buffer.len() < END {
            return Ok(None);
        }
        self.check(buffer, END - 4)?;
        let told = Totals { messages: u64_at(buffer, 1), lost: u64_at(buffer, 9), bytes: u64_at(buffer, 17) };
        if told != self.totals {
            return Err(Damage::Count { found: self.totals, told });
        }
        if u32_at(buffer, 25) != self.all {
            return Err(Damage::Damaged(self.offset));
        }
        self.ended = true;
        self.offset += END as u64;
        buffer.advance(END);
        Ok(Some(Item::End(told)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::Epoch;

    fn header() -> Header {
        let version = Version::new(Epoch(3), 41);
        Header { cluster_id: Uuid([7; 16]), version, unix_ms: 1, tolerance: 2, messages: 3, bytes: 4, expires: true }
    }

    fn written(messages: &[Kept<Payload>]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = Writer::begin(&header(), &mut out);
        for (id, version, expires, message) in messages {
            writer.message(&(id.clone(), *version, *expires, message.as_deref()), &mut out);
        }
        writer.end(&mut out);
        out
    }

    fn read(bytes: &[u8], step: usize) -> Result<Vec<Item>, Damage> {
        let (mut reader, mut buffer, mut all) = (Reader::default(), BytesMut::new(), Vec::new());
        for piece in bytes.chunks(step.max(1)) {
            buffer.extend_from_slice(piece);
            while let Some(item) = reader.read(&mut buffer)? {
                all.push(item);
            }
        }
        reader.finish(&buffer).map(|()| all)
    }

    fn some_message() -> impl Strategy<Value = Kept<Payload>> {
        let bytes = |range| prop::collection::vec(any::<u8>(), range);
        let parts = (bytes(1..40), any::<u64>(), any::<bool>(), prop::option::of(bytes(0..100)));
        parts.prop_map(|(id, version, ends, message)| {
            let expires = Deadline::at(version).filter(|_| ends && message.is_some());
            (MessageId::from_bytes(&id).unwrap(), Version(version), expires, message.map(Payload::from))
        })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_in_any_pieces(messages in prop::collection::vec(some_message(), 0..20), step in 1usize..200) {
            let bytes = written(&messages);
            let items = read(&bytes, step).unwrap();
            prop_assert_eq!(&items[0], &Item::Header(header()));
            let lost = messages.iter().filter(|(.., message)| message.is_none()).count() as u64;
            let sum = messages.iter().map(|(.., message)| message.as_ref().map_or(0, Payload::len) as u64).sum();
            let totals = Totals { messages: messages.len() as u64 - lost, lost, bytes: sum };
            prop_assert_eq!(items.last(), Some(&Item::End(totals)));
            let found: Vec<Kept<Payload>> = items.into_iter().filter_map(|item| match item {
                Item::Message(kept) => Some(kept),
                _ => None,
            }).collect();
            prop_assert_eq!(found, messages);
        }

        #[test]
        fn no_change_goes_unseen(
            messages in prop::collection::vec(some_message(), 1..8),
            place in any::<prop::sample::Index>(),
            bit in 0u8..8,
        ) {
            let bytes = written(&messages);
            let place = place.index(bytes.len());
            let mut flipped = bytes.clone();
            flipped[place] ^= 1 << bit;
            let why = read(&flipped, 50).unwrap_err();
            if let Damage::Damaged(at) = why {
                prop_assert!(at <= place as u64);
            }
            prop_assert!(read(&bytes[..place], 50).is_err(), "cut at {}", place);
            let mut longer = bytes.clone();
            longer.push(bytes[place]);
            prop_assert_eq!(read(&longer, 50), Err(Damage::Behind(bytes.len() as u64)));
        }
    }

    #[test]
    fn what_it_is_not_is_said() {
        let bytes = written(&[]);
        assert_eq!(read(b"PK\x03\x04 something", 5), Err(Damage::Foreign));
        assert_eq!(read(b"", 5), Err(Damage::Cut(0)));
        assert_eq!(read(&bytes[..bytes.len() - 1], 7), Err(Damage::Cut(bytes.len() as u64 - 1)));
        let mut newer = bytes.clone();
        newer[8] = 9;
        assert_eq!(read(&newer, 1), Err(Damage::Newer(9)));
        let mut flipped = bytes;
        flipped[30] ^= 1;
        assert_eq!(read(&flipped, 9), Err(Damage::Damaged(0)));
    }
}
