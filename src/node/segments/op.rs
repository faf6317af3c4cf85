//! What one record of a segment says, and the hint that says it of a whole segment again.

use crate::types::{CopyRecord, Deadline, MessageId, Version};

/// Kind, version, length, checksum of the content, length of the id. No id has no bytes: 0 says that the length follows in
/// two bytes. A deadline stands behind the id, in 8 bytes.
const FIXED: usize = 1 + 8 + 4 + 4 + 1;
const CRC: usize = 4;
const DEADLINE: usize = 8;

/// The kind of a copy with a deadline.
const COPY_UNTIL: u8 = 3;

const HINT_MAGIC: [u8; 8] = *b"hatohnt1";
const HINT_HEAD: usize = 8 + 4 + 8;

/// What a record does to the copies of its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// This copy is here; its content follows the head.
    Copy = 1,
    /// All copies recorded before this that are older than the version are gone.
    Drop = 2,
}

/// A record's head, and where what follows it lies in the segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Op {
    pub(super) kind: Kind,
    pub(super) id: MessageId,
    pub(super) record: CopyRecord,
    pub(super) body_at: u32,
}

/// Bytes of the head of a record of this id.
pub(super) fn head_bytes(id: &MessageId, record: &CopyRecord) -> usize {
    let length = id.as_bytes().len();
    let long = if length > usize::from(u8::MAX) { 2 } else { 0 };
    FIXED + long + length + record.expires.map_or(0, |_| DEADLINE) + CRC
}

/// Adds the head of a record.
pub(super) fn push_head(bytes: &mut Vec<u8>, kind: Kind, id: &MessageId, record: CopyRecord) {
    let from = bytes.len();
    bytes.push(if record.expires.is_some() { COPY_UNTIL } else { kind as u8 });
    bytes.extend_from_slice(&record.version.0.to_le_bytes());
    bytes.extend_from_slice(&record.length.to_le_bytes());
    bytes.extend_from_slice(&record.crc.to_le_bytes());
    push_short_id(bytes, id);
    Deadline::push(record.expires, bytes);
    let crc = crc32c::crc32c(&bytes[from..]);
    bytes.extend_from_slice(&crc.to_le_bytes());
}

/// Adds an id behind its length.
fn push_short_id(bytes: &mut Vec<u8>, id: &MessageId) {
    let id = id.as_bytes();
    match u8::try_from(id.len()) {
        Ok(length) => bytes.push(length),
        Err(_) => {
            bytes.push(0);
            bytes.extend_from_slice(&(id.len() as u16).to_le_bytes());
        }
    }
    bytes.extend_from_slice(id);
}

/// Reads a head, which has a checksum of its own, so that the id of a record with damaged content can be told.
/// `at` is its place in the segment.
pub(super) fn read_head(bytes: &[u8], at: u64) -> Option<Op> {
    let (op, length) = read_fields(bytes)?;
    let (body, crc) = bytes[..length].split_last_chunk::<CRC>()?;
    let right = u32::from_le_bytes(*crc) == crc32c::crc32c(body);
    right.then_some(Op { body_at: u32::try_from(at + length as u64).ok()?, ..op })
}

/// The fields of a head, and its length; its checksum is not looked at.
fn read_fields(bytes: &[u8]) -> Option<(Op, usize)> {
    let fixed = bytes.first_chunk::<FIXED>()?;
    let (from, length) = match fixed[FIXED - 1] {
        0 => (FIXED + 2, usize::from(u16::from_le_bytes(*bytes.get(FIXED..)?.first_chunk()?))),
        short => (FIXED, usize::from(short)),
    };
    let mut end = from + length;
    let id = bytes.get(from..end)?;
    let (kind, mut expires) = match fixed[0] {
        1 | COPY_UNTIL => (Kind::Copy, None),
        2 => (Kind::Drop, None),
        _ => return None,
    };
    if fixed[0] == COPY_UNTIL {
        expires = Some(Deadline::split(bytes.get(end..)?)?.0);
        end += DEADLINE;
    }
    bytes.get(end..end + CRC)?;
    let word = |at: usize| u32::from_le_bytes(fixed[at..at + 4].try_into().expect("four bytes"));
    let version = Version(u64::from_le_bytes(fixed[1..9].try_into().expect("eight bytes")));
    let record = CopyRecord { version, length: word(9), crc: word(13), expires };
    Some((Op { kind, id: MessageId::from_bytes(id).ok()?, record, body_at: 0 }, end + CRC))
}

/// A hint while it is made: the heads of a segment's records, and where their contents lie.
#[derive(Debug)]
pub(super) struct HintWriter(Vec<u8>);

impl HintWriter {
    pub(super) fn new() -> Self {
        let mut bytes = Vec::from(HINT_MAGIC);
        bytes.resize(HINT_HEAD, 0);
        Self(bytes)
    }

    pub(super) fn push(&mut self, op: &Op) {
        self.0.extend_from_slice(&op.body_at.to_le_bytes());
        push_head(&mut self.0, op.kind, &op.id, op.record);
    }

    /// The hint, for the segment of this number and this many bytes.
    pub(super) fn finish(mut self, number: u32, length: u64) -> Vec<u8> {
        self.0[8..12].copy_from_slice(&number.to_le_bytes());
        self.0[12..HINT_HEAD].copy_from_slice(&length.to_le_bytes());
        let crc = crc32c::crc32c(&self.0);
        self.0.extend_from_slice(&crc.to_le_bytes());
        self.0
    }
}

/// Shows what a hint says to `visit`, if it is whole and made for this segment; `false`: it is not, and says nothing.
pub(super) fn read_hint(bytes: &[u8], number: u32, length: u64, visit: &mut dyn FnMut(&Op)) -> bool {
    let Some((body, crc)) = bytes.split_last_chunk::<CRC>() else { return false };
    let Some((head, mut rest)) = body.split_at_checked(HINT_HEAD) else { return false };
    let made_for = (&head[..8], &head[8..12], &head[12..]);
    if u32::from_le_bytes(*crc) != crc32c::crc32c(body)
        || made_for != (&HINT_MAGIC[..], &number.to_le_bytes()[..], &length.to_le_bytes()[..])
    {
        return false;
    }
    // Its checksum stands for all of it: what it says is what was written.
    while let Some((body_at, entry)) = rest.split_first_chunk::<4>() {
        let Some((mut op, bytes)) = read_fields(entry) else { return false };
        op.body_at = u32::from_le_bytes(*body_at);
        rest = &entry[bytes..];
        visit(&op);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_whole_or_nothing() {
        let record = CopyRecord::of(Version(1 << 32 | 7), b"hello");
        let op = |id: &str, kind| Op { kind, id: id.parse().unwrap(), record, body_at: 99 };
        let long = "x".repeat(crate::types::MAX_ID_BYTES);
        let until = Op { record: record.until(Deadline::at(1 << 40)), ..op(&long, Kind::Copy) };
        let ops =
            [op("a", Kind::Copy), op(&"ü".repeat(100), Kind::Drop), op(&long, Kind::Copy), until, op("c", Kind::Copy)];
        let mut hint = HintWriter::new();
        ops.iter().for_each(|op| hint.push(op));
        let bytes = hint.finish(3, 4711);
        let read = |bytes: &[u8], number, length| {
            let mut ops = Vec::new();
            read_hint(bytes, number, length, &mut |op| ops.push(op.clone())).then_some(ops)
        };
        assert_eq!(read(&bytes, 3, 4711).unwrap(), ops);
        assert_eq!((read(&bytes, 3, 4712), read(&bytes, 4, 4711)), (None, None));
        for place in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[place] ^= 1;
            assert_eq!(read(&flipped, 3, 4711), None);
            assert_eq!(read(&bytes[..place], 3, 4711), None);
        }
    }

    #[test]
    fn heads_are_whole_or_nothing() {
        let record = CopyRecord::of(Version(1 << 32 | 7), b"hello");
        let ids = ["a".to_owned(), "x".repeat(255), "x".repeat(256), "x".repeat(crate::types::MAX_ID_BYTES)];
        let until = record.until(Deadline::at(1 << 40));
        for (id, record) in ids.into_iter().flat_map(|id| [(id.clone(), record), (id, until)]) {
            let id: MessageId = id.parse().unwrap();
            let mut bytes = Vec::new();
            push_head(&mut bytes, Kind::Copy, &id, record);
            assert_eq!(bytes.len(), head_bytes(&id, &record));
            assert_eq!(
                read_head(&bytes, 100),
                Some(Op { kind: Kind::Copy, id, record, body_at: 100 + bytes.len() as u32 })
            );
            for place in 0..bytes.len() {
                let mut flipped = bytes.clone();
                flipped[place] ^= 1;
                assert_eq!(read_head(&flipped, 0), None);
                assert_eq!(read_head(&bytes[..place], 0), None);
            }
        }
    }
}
