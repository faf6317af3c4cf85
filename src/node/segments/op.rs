//! What one record of a segment says, and the hint that says it of a whole segment again.

use crate::types::{CopyRecord, MessageId, Version};

/// Kind, version, length, checksum of the content, length of the id.
const FIXED: usize = 1 + 8 + 4 + 4 + 1;
const CRC: usize = 4;

const HINT_MAGIC: [u8; 8] = *b"hatohnt1";
const HINT_HEAD: usize = 8 + 8;

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
pub(super) fn head_bytes(id: &MessageId) -> usize {
    FIXED + id.as_bytes().len() + CRC
}

/// Adds the head of a record.
pub(super) fn push_head(bytes: &mut Vec<u8>, kind: Kind, id: &MessageId, record: CopyRecord) {
    let from = bytes.len();
    bytes.push(kind as u8);
    bytes.extend_from_slice(&record.version.0.to_le_bytes());
    bytes.extend_from_slice(&record.length.to_le_bytes());
    bytes.extend_from_slice(&record.crc.to_le_bytes());
    bytes.push(id.as_bytes().len() as u8);
    bytes.extend_from_slice(id.as_bytes());
    let crc = crc32c::crc32c(&bytes[from..]);
    bytes.extend_from_slice(&crc.to_le_bytes());
}

/// Reads a head, which has a checksum of its own, so that the id of a record with damaged content can be told.
/// `at` is its place in the segment.
pub(super) fn read_head(bytes: &[u8], at: u64) -> Option<Op> {
    let fixed = bytes.get(..FIXED)?;
    let end = FIXED + usize::from(fixed[FIXED - 1]);
    let (body, rest) = bytes.split_at_checked(end)?;
    let (crc, _) = rest.split_first_chunk::<CRC>()?;
    if u32::from_le_bytes(*crc) != crc32c::crc32c(body) {
        return None;
    }
    let kind = match fixed[0] {
        1 => Kind::Copy,
        2 => Kind::Drop,
        _ => return None,
    };
    let (version, rest) = fixed[1..].split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (crc, _) = rest.split_first_chunk()?;
    let record = CopyRecord {
        version: Version(u64::from_le_bytes(*version)),
        length: u32::from_le_bytes(*length),
        crc: u32::from_le_bytes(*crc),
    };
    let id = MessageId::parse(&body[FIXED..]).ok()?;
    Some(Op { kind, id, record, body_at: u32::try_from(at + (end + CRC) as u64).ok()? })
}

/// Adds what a hint says of one record.
#[cfg(test)]
pub(super) fn push_hint(entries: &mut Vec<u8>, op: &Op) {
    entries.extend_from_slice(&op.body_at.to_le_bytes());
    push_head(entries, op.kind, &op.id, op.record);
}

/// The hint of a segment of `length` bytes.
#[cfg(test)]
pub(super) fn hint(length: u64, entries: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HINT_HEAD + entries.len() + CRC);
    bytes.extend_from_slice(&HINT_MAGIC);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(entries);
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// Reads a hint, if it is whole and made for a segment of this length.
pub(super) fn read_hint(bytes: &[u8], length: u64) -> Option<Vec<Op>> {
    let (body, crc) = bytes.split_last_chunk::<CRC>()?;
    let (head, mut rest) = body.split_at_checked(HINT_HEAD)?;
    if u32::from_le_bytes(*crc) != crc32c::crc32c(body) || head[..8] != HINT_MAGIC || head[8..] != length.to_le_bytes()
    {
        return None;
    }
    let mut ops = Vec::new();
    while let Some((body_at, entry)) = rest.split_first_chunk::<4>() {
        let mut op = read_head(entry, 0)?;
        op.body_at = u32::from_le_bytes(*body_at);
        rest = entry.get(head_bytes(&op.id)..)?;
        ops.push(op);
    }
    rest.is_empty().then_some(ops)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_whole_or_nothing() {
        let record = CopyRecord::of(Version(1 << 32 | 7), b"hello");
        let op = |id: &str, kind| Op { kind, id: id.parse().unwrap(), record, body_at: 99 };
        let ops = [op("a", Kind::Copy), op(&"ü".repeat(100), Kind::Drop), op("c", Kind::Copy)];
        let mut entries = Vec::new();
        ops.iter().for_each(|op| push_hint(&mut entries, op));
        let bytes = hint(4711, &entries);
        assert_eq!(read_hint(&bytes, 4711).unwrap(), ops);
        assert_eq!(read_hint(&bytes, 4712), None);
        for place in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[place] ^= 1;
            assert_eq!(read_hint(&flipped, 4711), None);
            assert_eq!(read_hint(&bytes[..place], 4711), None);
        }
    }
}
