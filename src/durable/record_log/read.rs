//! Reading a log: frame by frame, or past damage, and the search for what lies behind it.

use std::io;

use super::{CHUNK, Damage, DiskFile, FRAME_HEAD, MARKER, MARKER_PAYLOAD, frame_crc, u32_at};

/// Bytes of checksums that the search for records behind a damaged place may cost, for each byte
/// that it looks at, and at least: hostile bytes can make every place look like the start of a long frame.
const SEARCH_FACTOR: u64 = 16;
const SEARCH_LEAST: u64 = 64 << 20;

/// What [`walk`] meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Met<'a> {
    /// A whole record.
    Record(&'a [u8]),
    /// A place that is none, up to the next that is. If its length can be believed, these are the bytes of the record.
    Damaged(Option<&'a [u8]>),
}

/// Shows `visit` what lies in a log from the frame at `from` on, for at least `most` bytes, and gives the place of the next
/// frame, or nothing at the end. Changes nothing and stops at no damage: this is for logs of which one damaged
/// record costs no other.
pub fn walk(
    file: &dyn DiskFile,
    longest: usize,
    from: u64,
    most: u64,
    visit: &mut dyn FnMut(u64, Met<'_>),
) -> io::Result<Option<u64>> {
    let size = file.len()?;
    let mut reader = Reader::new(file, size, longest);
    let mut offset = from;
    while offset < size {
        if offset - from >= most {
            return Ok(Some(offset));
        }
        let claimed = reader.plausible(offset)?.map(|(length, _)| length);
        match reader.frame(offset)? {
            Some(Frame::Record { payload }) => {
                visit(offset, Met::Record(payload));
                offset += (FRAME_HEAD + payload.len()) as u64;
                continue;
            }
            Some(Frame::Marker { .. }) => {
                offset += (FRAME_HEAD + MARKER_PAYLOAD) as u64;
                continue;
            }
            None => {}
        }
        // A length that leads to a good frame, or to the end, is believed.
        if let Some(length) = claimed {
            let next = offset + (FRAME_HEAD + length) as u64;
            if next == reader.content_end()? || (next < size && reader.frame(next)?.is_some()) {
                let frame = reader.bytes(offset, FRAME_HEAD + length)?;
                visit(offset, Met::Damaged(Some(&frame[FRAME_HEAD..])));
                offset = next;
                continue;
            }
        }
        if offset >= reader.content_end()? {
            return Ok(None);
        }
        visit(offset, Met::Damaged(None));
        match reader.next_good(offset + 1)? {
            Some(next) => offset = next,
            None => return Ok(None),
        }
    }
    Ok(None)
}

pub(super) enum Frame<'a> {
    Record { payload: &'a [u8] },
    Marker { durable: u64 },
}

/// Reads frames through a window that moves forward over the file.
pub(super) struct Reader<'a> {
    file: &'a dyn DiskFile,
    size: u64,
    longest: usize,
    start: u64,
    window: Vec<u8>,
    content_end: Option<u64>,
}

impl<'f> Reader<'f> {
    pub(super) fn new(file: &'f dyn DiskFile, size: u64, longest: usize) -> Self {
        Self { file, size, longest, start: 0, window: Vec::new(), content_end: None }
    }

    /// From where on there are only zeros.
    pub(super) fn content_end(&mut self) -> io::Result<u64> {
        if let Some(known) = self.content_end {
            return Ok(known);
        }
        let mut end = self.size;
        while end > 0 {
            let start = end.saturating_sub(CHUNK as u64);
            let some = self.bytes(start, (end - start) as usize)?;
            let last = some.iter().rposition(|&byte| byte != 0);
            end = last.map_or(start, |last| start + last as u64 + 1);
            if last.is_some() {
                break;
            }
        }
        self.content_end = Some(end);
        Ok(end)
    }

    /// `length` bytes at `offset`, or fewer at the end of the file.
    fn bytes(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        let end = offset.saturating_add(length as u64).min(self.size);
        if offset < self.start || end > self.start + self.window.len() as u64 {
            let wanted = (self.size - offset).min(CHUNK.max(length) as u64) as usize;
            self.window.resize(wanted, 0);
            self.start = offset;
            let mut filled = 0;
            while filled < wanted {
                match self.file.read_at(&mut self.window[filled..], offset + filled as u64)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    some => filled += some,
                }
            }
        }
        Ok(&self.window[(offset - self.start) as usize..(end - self.start) as usize])
    }

    /// The payload's length and whether it is a marker, if a frame could begin at `offset`.
    fn plausible(&mut self, offset: u64) -> io::Result<Option<(usize, bool)>> {
        let size = self.size;
        let head = self.bytes(offset, FRAME_HEAD)?;
        if head.len() < FRAME_HEAD {
            return Ok(None);
        }
        let word = u32_at(head, 0);
        let (length, marker) = ((word & !MARKER) as usize, word & MARKER != 0);
        let fits = offset + (FRAME_HEAD + length) as u64 <= size;
        let right = if marker { length == MARKER_PAYLOAD } else { (1..=self.longest).contains(&length) };
        Ok((fits && right).then_some((length, marker)))
    }

    /// The valid frame at `offset`, if there is one.
    pub(super) fn frame(&mut self, offset: u64) -> io::Result<Option<Frame<'_>>> {
        let Some((length, marker)) = self.plausible(offset)? else { return Ok(None) };
        let frame = self.bytes(offset, FRAME_HEAD + length)?;
        let (head, payload) = frame.split_at(FRAME_HEAD);
        if u32_at(head, 4) != frame_crc(offset, head[..4].try_into().expect("four bytes"), payload, &[]) {
            return Ok(None);
        }
        Ok(Some(if marker {
            Frame::Marker { durable: u64::from_le_bytes(payload.try_into().expect("eight bytes")) }
        } else {
            Frame::Record { payload }
        }))
    }

    /// The next valid frame from `offset` on, if bounded work finds one.
    fn next_good(&mut self, mut offset: u64) -> io::Result<Option<u64>> {
        let mut budget = SEARCH_LEAST.max((self.size - offset.min(self.size)).saturating_mul(SEARCH_FACTOR));
        while offset < self.size {
            if let Some((length, _)) = self.plausible(offset)? {
                let Some(left) = budget.checked_sub(length as u64) else { return Ok(None) };
                budget = left;
                if self.frame(offset)?.is_some() {
                    return Ok(Some(offset));
                }
            }
            offset += 1;
        }
        Ok(None)
    }

    /// Looks at everything behind the bad place `bad` for valid frames.
    pub(super) fn search(&mut self, bad: u64) -> io::Result<Damage> {
        let bytes_after = self.size - bad;
        let mut budget = SEARCH_LEAST.max(bytes_after.saturating_mul(SEARCH_FACTOR));
        let mut damage = Damage { offset: bad, bytes_after, later_records: false, proven_durable: false };
        let mut offset = bad + 1;
        while offset < self.size && !damage.proven_durable {
            let Some((length, _)) = self.plausible(offset)? else {
                offset += 1;
                continue;
            };
            let Some(left) = budget.checked_sub(length as u64) else {
                // What cannot be ruled out is taken for true: a refusal loses nothing.
                damage.later_records = true;
                break;
            };
            budget = left;
            match self.frame(offset)? {
                None => offset += 1,
                Some(found) => {
                    damage.later_records = true;
                    if let Frame::Marker { durable } = found {
                        damage.proven_durable |= durable > bad;
                    }
                    offset += (FRAME_HEAD + length) as u64;
                }
            }
        }
        Ok(damage)
    }
}
