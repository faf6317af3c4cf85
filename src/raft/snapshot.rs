//! Snapshots on disk: the machine's state up to a place in the log, in one file.
//!
//! Format, numbers little-endian: 8 bytes magic, u32 format version, u32 CRC-32C of both; then frames of u32 length,
//! u32 CRC-32C of the frame's own offset (u64) and the content. The first byte of a content is its kind:
//! the head (what the snapshot covers), records of the machine, and the end with their count. Nothing is taken from a
//! file whose end is not there. A snapshot is written beside the last one, synced, and then named over it.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::sync::Arc;

use prost::Message as _;

use super::types::{LogId, PeerId, StoredMembership};
use super::{convert, proto};
use crate::durable::{DiskFile, Folder};
use crate::lock::Lock;

/// The file's name, and how it begins.
pub(super) const FILE: &str = "snapshot";
const MAGIC: [u8; 8] = *b"HTKSSNAP";
const FORMAT: u32 = 1;
const HEADER: u64 = 16;

const HEAD: u8 = b'H';
const RECORD: u8 = b'R';
const END: u8 = b'E';

/// The longest record of a machine; a longer length in a file is damage.
pub(super) const LONGEST_RECORD: usize = 64 << 20;

/// How much is written and read at once.
const CHUNK: usize = 1 << 20;

/// A snapshot that is whole; its file stays readable whatever is named over it.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) last: LogId,
    pub(super) members: StoredMembership,
    /// Peers that were removed before it was made.
    pub(super) removed: BTreeSet<PeerId>,
    pub(super) file: Box<dyn DiskFile>,
    pub(super) length: u64,
    /// The name that it was written under.
    name: String,
    records_at: u64,
}

/// The newest snapshot of a folder, and the way for others to follow it.
#[derive(Debug)]
pub(super) struct Snapshots {
    pub(super) folder: Arc<dyn Folder>,
    current: Lock<Option<Arc<Snapshot>>>,
    naming: Lock<()>,
}

impl Snapshots {
    /// Looks at what is there. A file that is bad is an error; what could only be begun is cleared away.
    pub(super) fn open(folder: Arc<dyn Folder>) -> io::Result<(Self, io::Result<()>)> {
        for listed in folder.list()? {
            if listed.name.starts_with("snapshot.") && listed.name != BAD {
                folder.remove(&listed.name)?;
            }
        }
        let (current, bad) = match Snapshot::open(&*folder, FILE).and_then(|found| found.check().map(|()| found)) {
            Ok(found) => (Some(Arc::new(found)), Ok(())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (None, Ok(())),
            Err(error) => (None, Err(error)),
        };
        Ok((Self { folder, current: Lock::new(current), naming: Lock::new(()) }, bad))
    }

    /// Puts a bad file out of the way.
    pub(super) fn set_aside(&self) -> io::Result<()> {
        self.folder.rename(FILE, BAD)?;
        self.folder.sync()
    }

    pub(super) fn current(&self) -> Option<Arc<Snapshot>> {
        self.current.lock().clone()
    }

    /// Makes this the newest, if it is; on stable storage under its name when this returns.
    pub(super) fn put(&self, snapshot: Arc<Snapshot>) -> io::Result<()> {
        let _turn = self.naming.lock();
        if self.current().is_some_and(|current| current.last >= snapshot.last) {
            if snapshot.name != FILE {
                self.folder.remove(&snapshot.name)?;
            }
            return Ok(());
        }
        self.folder.rename(&snapshot.name, FILE)?;
        self.folder.sync()?;
        *self.current.lock() = Some(snapshot);
        Ok(())
    }
}

/// What a bad snapshot is renamed to.
const BAD: &str = "snapshot.bad";

impl Snapshot {
    /// Opens what is under a name and reads what it covers; [`Self::check`] reads the rest.
    pub(super) fn open(folder: &dyn Folder, name: &str) -> io::Result<Self> {
        let file = folder.open(name)?;
        let length = file.len()?;
        let path = || folder.path().join(name).display().to_string();
        let mut header = [0; HEADER as usize];
        read_exact(&*file, &mut header, 0).map_err(|_| damaged(&path(), 0))?;
        if header[..8] != MAGIC || header[12..] != crc32c::crc32c(&header[..12]).to_le_bytes() {
            return Err(damaged(&path(), 0));
        }
        if header[8..12] != FORMAT.to_le_bytes() {
            return Err(io::Error::other(format!(
                "{} has a format that this program does not read: upgrade hatokuse",
                path()
            )));
        }
        let (content, records_at) = frame(&*file, HEADER, length)?.ok_or_else(|| damaged(&path(), HEADER))?;
        let head = match content.split_first() {
            Some((&HEAD, head)) => proto::SnapshotHead::decode(head).map_err(io::Error::other)?,
            _ => return Err(damaged(&path(), HEADER)),
        };
        let last = head.last.as_ref().map(convert::read_log_id).ok_or_else(|| damaged(&path(), HEADER))?;
        let members = convert::read_membership(&head.members.unwrap_or_default()).map_err(io::Error::other)?;
        let members = StoredMembership::new(head.members_at.as_ref().map(convert::read_log_id), members);
        let removed = head.removed.into_iter().collect();
        Ok(Self { last, members, removed, file, length, name: name.to_owned(), records_at })
    }

    /// The machine's records, in order; the last item is an error if the file is not whole.
    pub(super) fn records(&self) -> Records<'_> {
        Records { snapshot: self, at: self.records_at, count: 0, done: false }
    }

    /// Reads all of it.
    pub(super) fn check(&self) -> io::Result<()> {
        self.records().try_for_each(|record| record.map(drop))
    }

    /// Up to `most` bytes of the file from `offset` on.
    pub(super) fn part(&self, offset: u64, most: usize) -> io::Result<Vec<u8>> {
        let mut part = vec![0; most.min(self.length.saturating_sub(offset) as usize)];
        read_exact(&*self.file, &mut part, offset)?;
        Ok(part)
    }
}

/// See [`Snapshot::records`].
#[derive(Debug)]
pub(super) struct Records<'a> {
    snapshot: &'a Snapshot,
    at: u64,
    count: u64,
    done: bool,
}

impl Iterator for Records<'_> {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let bad = |at| Some(Err(damaged(&self.snapshot.name, at)));
        let (mut content, next) = match frame(&*self.snapshot.file, self.at, self.snapshot.length) {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                self.done = true;
                return bad(self.at);
            }
            Err(error) => {
                self.done = true;
                return Some(Err(error));
            }
        };
        match content.first() {
            Some(&RECORD) => {
                (self.at, self.count) = (next, self.count + 1);
                content.remove(0);
                Some(Ok(content))
            }
            Some(&END) if content[1..] == self.count.to_le_bytes() && next == self.snapshot.length => {
                self.done = true;
                None
            }
            _ => {
                self.done = true;
                bad(self.at)
            }
        }
    }
}

/// What a snapshot covers: up to where, who the peers are there, and who were removed before.
pub(super) type Covers<'a> = (LogId, &'a StoredMembership, &'a BTreeSet<PeerId>);

/// Writes a snapshot that is to become the newest by [`Snapshots::put`]; synced when this returns.
pub(super) fn write(
    folder: &dyn Folder,
    name: &str,
    covers: Covers<'_>,
    records: &mut dyn Iterator<Item = Vec<u8>>,
) -> io::Result<Snapshot> {
    clear(folder, name)?;
    let mut writer = Writer { file: folder.create_new(name)?, buffer: Vec::with_capacity(CHUNK), written: 0 };
    let written = writer.all(covers, records);
    if let Err(error) = written {
        drop(writer);
        let _ = folder.remove(name);
        return Err(error);
    }
    Snapshot::open(folder, name)
}

/// Removes a file, if it is there.
pub(super) fn clear(folder: &dyn Folder, name: &str) -> io::Result<()> {
    match folder.remove(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

struct Writer {
    file: Box<dyn DiskFile>,
    buffer: Vec<u8>,
    written: u64,
}

impl Writer {
    fn all(
        &mut self,
        (last, members, removed): Covers<'_>,
        records: &mut dyn Iterator<Item = Vec<u8>>,
    ) -> io::Result<()> {
        self.buffer.extend(MAGIC);
        self.buffer.extend(FORMAT.to_le_bytes());
        self.buffer.extend(crc32c::crc32c(&self.buffer).to_le_bytes());
        let head = proto::SnapshotHead {
            last: Some(convert::log_id(&last)),
            members: Some(convert::membership(members.membership())),
            members_at: members.log_id().as_ref().map(convert::log_id),
            removed: removed.iter().copied().collect(),
        };
        self.push(HEAD, &head.encode_to_vec())?;
        let mut count = 0_u64;
        for record in records {
            if record.len() > LONGEST_RECORD {
                return Err(io::Error::other(format!(
                    "a record of {} bytes does not fit into a snapshot",
                    record.len()
                )));
            }
            self.push(RECORD, &record)?;
            count += 1;
        }
        self.push(END, &count.to_le_bytes())?;
        self.flush()?;
        self.file.sync()
    }

    fn push(&mut self, kind: u8, content: &[u8]) -> io::Result<()> {
        let offset = self.written + self.buffer.len() as u64;
        let length = (content.len() + 1) as u32;
        self.buffer.extend(length.to_le_bytes());
        self.buffer.extend(crc32c::crc32c_append(frame_crc(offset, &[kind]), content).to_le_bytes());
        self.buffer.push(kind);
        self.buffer.extend(content);
        if self.buffer.len() >= CHUNK { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.append(&[IoSlice::new(&self.buffer)])?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// A wrong length finds another content.
fn frame_crc(offset: u64, content: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&offset.to_le_bytes()), content)
}

/// The content of the frame at this place, and where the next one is; nothing: there is no valid one.
fn frame(file: &dyn DiskFile, at: u64, length: u64) -> io::Result<Option<(Vec<u8>, u64)>> {
    let mut head = [0; 8];
    if at + 8 > length {
        return Ok(None);
    }
    read_exact(file, &mut head, at)?;
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let (size, crc) = (word(0) as usize, word(4));
    let next = at + 8 + size as u64;
    if size == 0 || size > LONGEST_RECORD + 1 || next > length {
        return Ok(None);
    }
    let mut content = vec![0; size];
    read_exact(file, &mut content, at + 8)?;
    Ok((frame_crc(at, &content) == crc).then_some((content, next)))
}

fn read_exact(file: &dyn DiskFile, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match file.read_at(buffer, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            some => {
                offset += some as u64;
                buffer = &mut buffer[some..];
            }
        }
    }
    Ok(())
}

fn damaged(name: &str, at: u64) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{name} is damaged at byte {at}"))
}
