//! How a log's header and frames look; the format is that of [`super`].

use std::io::IoSlice;

use super::{DiskFile, LogError};

/// The format that is written, and the newest that is read.
pub const FORMAT: u32 = 1;

pub(super) const HEADER: u64 = 16;
pub(super) const FRAME_HEAD: usize = 8;
pub(super) const MARKER: u32 = 1 << 31;
pub(super) const MARKER_PAYLOAD: usize = 8;

/// A body from here on is written from where it lies; a shorter one costs less to copy than a part of its own.
pub(super) const OWN_PART: usize = 2048;

/// Bytes of a frame besides its payload.
pub const FRAME_BYTES: u64 = FRAME_HEAD as u64;

/// Where the first frame of a log begins.
pub const FIRST_FRAME: u64 = HEADER;

pub(super) fn header(magic: [u8; 8]) -> [u8; HEADER as usize] {
    let mut header = [0; HEADER as usize];
    header[..8].copy_from_slice(&magic);
    header[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    let crc = crc32c::crc32c(&header[..12]);
    header[12..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Whether the file begins as a log of this kind does.
pub fn check(file: &dyn DiskFile, magic: [u8; 8], path: &str) -> Result<(), LogError> {
    let mut found = [0; HEADER as usize];
    let mut filled = 0;
    while filled < found.len() {
        match file.read_at(&mut found[filled..], filled as u64) {
            Ok(0) => break,
            Ok(some) => filled += some,
            Err(source) => return Err(LogError::Io { what: "reading", file: path.to_owned(), source }),
        }
    }
    if filled >= 8 && found[..8] != magic {
        return Err(LogError::Foreign { file: path.to_owned() });
    }
    let format = u32_at(&found, 8);
    if filled < found.len() || u32_at(&found, 12) != crc32c::crc32c(&found[..12]) || format == 0 {
        return Err(LogError::Damaged { file: path.to_owned(), offset: 0 });
    }
    if format > FORMAT {
        return Err(LogError::Newer { file: path.to_owned(), found: format });
    }
    Ok(())
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Frames on their way to the end of a file.
#[derive(Debug, Default)]
pub(super) struct Frames<'a> {
    pub(super) buffer: Vec<u8>,
    /// Where the first byte will lie in the file.
    base: u64,
    /// Bodies that are written from where they lie, and before which byte of the buffer.
    apart: Vec<(usize, &'a [u8])>,
    apart_bytes: usize,
}

impl<'a> Frames<'a> {
    /// In this buffer, whose first byte will lie at `base`.
    pub(super) fn at(base: u64, buffer: Vec<u8>) -> Self {
        Self { buffer, base, ..Self::default() }
    }

    pub(super) fn end(&self) -> u64 {
        self.base + (self.buffer.len() + self.apart_bytes) as u64
    }

    pub(super) fn push(&mut self, flag: u32, head: &[u8], body: &'a [u8]) {
        let offset = self.end();
        let length = ((head.len() + body.len()) as u32 | flag).to_le_bytes();
        self.buffer.extend_from_slice(&length);
        self.buffer.extend_from_slice(&frame_crc(offset, length, head, body).to_le_bytes());
        self.buffer.extend_from_slice(head);
        if body.len() < OWN_PART {
            self.buffer.extend_from_slice(body);
        } else {
            self.apart.push((self.buffer.len(), body));
            self.apart_bytes += body.len();
        }
    }

    pub(super) fn parts(&self) -> Vec<IoSlice<'_>> {
        let mut parts = Vec::with_capacity(1 + 2 * self.apart.len());
        let mut from = 0;
        for (until, body) in &self.apart {
            parts.extend([IoSlice::new(&self.buffer[from..*until]), IoSlice::new(body)]);
            from = *until;
        }
        parts.push(IoSlice::new(&self.buffer[from..]));
        parts
    }
}

pub(super) fn frame_crc(offset: u64, length: [u8; 4], head: &[u8], body: &[u8]) -> u32 {
    let mut place = [0; 12];
    place[..8].copy_from_slice(&offset.to_le_bytes());
    place[8..].copy_from_slice(&length);
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(&place), head), body)
}
