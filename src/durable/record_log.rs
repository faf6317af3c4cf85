//! An append-only file of checksummed records.
//!
//! The invariant: what [`RecordLog::open`] visits is exactly what was appended,
//! in order, up to the first place that is not whole. A torn end is cut off (and
//! kept beside the log); damage that was on stable storage before is refused, by
//! file and offset. Nothing here knows what a record means, and no call is
//! tried again after a failed sync.
//!
//! Format, all numbers little-endian: a header of 8 bytes magic, u32 format
//! version and u32 CRC-32C of these; then frames of u32 payload length, u32
//! CRC-32C and payload. The CRC covers the frame's own offset (u64), the length
//! and the payload: a frame is valid in its place only, so that old or copied
//! bytes never pass for a record. The top bit of the length marks a *marker*: its
//! payload is the u64 offset up to which the log was synced when the marker was written.
//!
//! Zeros to the end of the file are room for frames, not damage: a log that is synced often keeps some ahead
//! ([`RecordLog::keep_room`]), since to sync what was written over a file's own bytes moves no metadata. (PostgreSQL
//! and MySQL recycle their log files for the same reason.)

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::{DiskFile, Folder};
use crate::seeded::{self, Bug};

mod error;
mod frame;
mod read;
mod replacement;

pub use error::LogError;
pub use frame::{FIRST_FRAME, FORMAT, FRAME_BYTES, check};
use frame::{FRAME_HEAD, Frames, HEADER, MARKER, MARKER_PAYLOAD, frame_crc, header, u32_at};
use read::{Frame, Reader};
pub use read::{Met, walk};
pub use replacement::{Place, Replacement};

/// The longest record of a log that does not ask for longer ones; a longer length in a file is damage.
pub const MAX_RECORD: usize = 64 * 1024;

/// How much is read at once while opening, and written at once while compacting.
const CHUNK: usize = 1 << 20;

/// Room kept ahead: as much as there are records, between these. It is written as zeros.
const LEAST_ROOM: u64 = 16 << 10;
const MOST_ROOM: u64 = 256 << 10;
static ZEROS: [u8; LEAST_ROOM as usize] = [0; LEAST_ROOM as usize];

/// What was found where a valid record should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// Where.
    pub offset: u64,
    /// From there to the end of the file.
    pub bytes_after: u64,
    /// A valid record lies behind it (or could not be ruled out with bounded work).
    pub later_records: bool,
    /// A later marker says that this place had been synced.
    pub proven_durable: bool,
}

/// What to do about [`Damage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the torn end of the last writes: cut it off.
    Cut,
    /// Records that were safe are gone: do not start.
    Refuse,
}

/// The usual judgement. `power_cut_possible`: the machine may have lost power since the last record, so
/// that a later block may have reached the disk while an earlier one did not.
pub fn judge(damage: &Damage, power_cut_possible: bool) -> Verdict {
    if damage.proven_durable || (damage.later_records && !power_cut_possible) { Verdict::Refuse } else { Verdict::Cut }
}

/// A tail that was cut off at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Torn {
    /// Where the log ends now.
    pub offset: u64,
    /// How many bytes were cut.
    pub bytes: u64,
}

/// Takes each record with its offset; an error refuses the log.
pub type Visit<'a> = dyn FnMut(u64, &[u8]) -> Result<(), String> + 'a;

/// What [`RecordLog::open`] gives.
#[derive(Debug)]
pub struct Opened {
    /// Ready to append.
    pub log: RecordLog,
    /// The end that was cut off, for the report.
    pub torn: Option<Torn>,
}

/// An open log; one owner appends.
#[derive(Debug)]
pub struct RecordLog {
    folder: Arc<dyn Folder>,
    name: String,
    magic: [u8; 8],
    longest: usize,
    file: Box<dyn DiskFile>,
    length: u64,
    /// How long the file is: room lies between `length` and here.
    file_length: u64,
    keeps_room: bool,
    /// Synced up to here by this process, or so a marker said.
    durable: u64,
    /// What the last marker said.
    marked: u64,
    /// From here on an earlier life wrote what nobody knows to be on the disk, whatever a read says; see [`Self::renew`].
    unproven: Option<u64>,
    poisoned: bool,
    /// A part of a batch lies behind the records and could not be cut off yet, as the disk took nothing.
    uncut: bool,
    buffer: Vec<u8>,
}

impl RecordLog {
    /// Opens the log, or makes an empty one, and shows every record to `visit`, oldest first, with its offset.
    ///
    /// `judge` is asked about the first bad place, after all records before it were visited: what it needs to
    /// know of them it can share with `visit` in a [`Cell`](std::cell::Cell). An error of `visit` refuses the log.
    pub fn open(
        folder: Arc<dyn Folder>,
        name: &str,
        magic: [u8; 8],
        visit: &mut Visit<'_>,
        judge: &dyn Fn(&Damage) -> Verdict,
    ) -> Result<Opened, LogError> {
        Self::open_with(folder, name, magic, MAX_RECORD, visit, judge)
    }

    /// As [`Self::open`], of a log whose records have up to `longest` bytes.
    pub fn open_with(
        folder: Arc<dyn Folder>,
        name: &str,
        magic: [u8; 8],
        longest: usize,
        visit: &mut Visit<'_>,
        judge: &dyn Fn(&Damage) -> Verdict,
    ) -> Result<Opened, LogError> {
        let path = folder.path().join(name).display().to_string();
        let io = |what| {
            let file = path.clone();
            move |source| LogError::Io { what, file, source }
        };
        match folder.remove(&beside(name, "new")) {
            // It harms nobody, and a disk that takes nothing can still be read.
            Err(error) if super::takes_nothing(&error) => {}
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io("clearing a left-over of")(error)),
            _ => {}
        }
        let mut file = match folder.edit(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Renamed into place, so that a log without a whole header is always damage.
                super::replace(&*folder, name, &header(magic)).map_err(io("creating"))?;
                folder.edit(name).map_err(io("opening"))?
            }
            other => other.map_err(io("opening"))?,
        };
        let size = file.len().map_err(io("reading"))?;
        check(&*file, magic, &path)?;

        let mut reader = Reader::new(&*file, size, longest);
        let mut offset = HEADER;
        let mut marked = HEADER;
        while offset < size {
            match reader.frame(offset).map_err(io("reading"))? {
                Some(Frame::Record { payload }) => {
                    visit(offset, payload).map_err(|reason| LogError::BadRecord {
                        file: path.clone(),
                        offset,
                        reason,
                    })?;
                    offset += (FRAME_HEAD + payload.len()) as u64;
                }
                Some(Frame::Marker { durable }) => {
                    marked = durable;
                    offset += (FRAME_HEAD + MARKER_PAYLOAD) as u64;
                }
                None => break,
            }
        }
        let (mut torn, mut file_length, mut uncut) = (None, size, false);
        if offset < reader.content_end().map_err(io("reading"))? {
            let damage = reader.search(offset).map_err(io("reading"))?;
            if judge(&damage) == Verdict::Refuse && !seeded::active(Bug::DamageCutOff) {
                return Err(LogError::Damaged { file: path, offset });
            }
            let _ = save_tail(&*folder, &beside(name, &format!("torn-{offset}")), &*file, offset);
            let cut = if seeded::active(Bug::TornTailKept) { Ok(()) } else { file.truncate(offset) };
            torn = Some(Torn { offset, bytes: size - offset });
            match cut {
                // It can be read, and is cut before anything is appended.
                Err(error) if super::takes_nothing(&error) => uncut = true,
                cut => {
                    cut.map_err(io("cutting the torn end of"))?;
                    file.sync().map_err(io("syncing"))?;
                    file_length = offset;
                }
            }
        }
        // Nobody knows whether the records were synced before: only a marker says so, or the next sync after they were
        // written again.
        let log = Self {
            folder,
            name: name.to_owned(),
            magic,
            longest,
            file,
            length: offset,
            file_length,
            keeps_room: false,
            durable: marked,
            marked,
            unproven: (marked < offset && !seeded::active(Bug::LogReadBack)).then_some(marked),
            poisoned: false,
            uncut,
            buffer: Vec::new(),
        };
        Ok(Opened { log, torn })
    }

    /// Makes an empty log of this name over whatever has it; what is there under the name is whole and on stable storage.
    /// After [`LogError::Final`] nobody knows; after any other error nothing was made, and it may be tried again.
    pub fn create(folder: Arc<dyn Folder>, name: &str, magic: [u8; 8], longest: usize) -> Result<Self, LogError> {
        let path = || folder.path().join(name).display().to_string();
        let io = |source| LogError::Io { what: "creating", file: path(), source };
        let failed = |what| move |source| (what, source);
        let file = super::write_beside(&*folder, name, &header(magic)).map_err(io)?;
        file.sync()
            .map_err(failed("syncing"))
            .and_then(|()| super::put_in_place(&*folder, name).map_err(failed("naming")))
            .and_then(|()| folder.sync().map_err(failed("syncing the folder of")))
            .map_err(|(what, source)| LogError::Final { what, file: path(), source })?;
        Ok(Self {
            name: name.to_owned(),
            magic,
            longest,
            file,
            length: HEADER,
            file_length: HEADER,
            keeps_room: false,
            durable: HEADER,
            marked: HEADER,
            unproven: None,
            poisoned: false,
            uncut: false,
            buffer: Vec::new(),
            folder,
        })
    }

    /// Keeps room ahead from now on: for a log that is synced after (nearly) every batch.
    pub fn keep_room(&mut self) {
        self.keeps_room = true;
    }

    /// Gives back the room, as nothing will be appended any more. That is safe with the next sync, and harmless without.
    pub fn trim(&mut self) {
        self.keeps_room = false;
        if self.file_length > self.length && self.file.truncate(self.length).is_ok() {
            self.file_length = self.length;
        }
    }

    /// Appends a batch in one call and returns the offset of its first record. After an error none of it
    /// is in the log, and a later batch may succeed, unless the log is poisoned.
    pub fn append<'a>(&mut self, records: impl IntoIterator<Item = &'a [u8]>) -> Result<u64, LogError> {
        self.append_parts(records.into_iter().map(|record| (record, &[][..])))
    }

    /// As [`Self::append`], of records that lie in two parts each: their head, and a body that is not copied if it is long.
    /// They follow one another without gaps, so that the offsets of all follow from that of the first.
    pub fn append_parts<'a>(
        &mut self,
        records: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<u64, LogError> {
        self.check()?;
        self.cut()?;
        let mut batch = Frames::at(self.length, std::mem::take(&mut self.buffer));
        batch.buffer.clear();
        if self.durable > self.marked {
            batch.push(MARKER, &self.durable.to_le_bytes(), &[]);
        }
        let first = batch.end();
        for (head, body) in records {
            let length = head.len() + body.len();
            if length == 0 || length > self.longest {
                return Err(LogError::Length { file: self.path(), length, longest: self.longest });
            }
            batch.push(0, head, body);
        }
        let end = batch.end();
        if end == first {
            return Ok(first);
        }
        let has_room = self.file_length > self.length;
        let parts = batch.parts();
        let written = if has_room { self.file.write_at(&parts, self.length) } else { self.file.append(&parts) };
        if let Err(source) = written {
            // A partial batch must not stay: later good records behind it would be unreadable. A disk that took
            // nothing (it may be read-only for a while) leaves nothing to cut.
            if !self.is_untouched() {
                match self.file.truncate(self.length) {
                    Ok(()) => self.file_length = self.length,
                    Err(error) if super::takes_nothing(&error) => self.uncut = true,
                    Err(_) => self.poisoned = true,
                }
            }
            return Err(self.io("appending to", source));
        }
        if first > self.length {
            self.marked = self.durable;
        }
        let bytes = end - self.length;
        (self.length, self.file_length) = (end, self.file_length.max(end));
        batch.buffer.shrink_to(CHUNK);
        self.buffer = batch.buffer;
        // A long batch pays for its own metadata, and zeros before it would double what is written.
        let room = end.clamp(LEAST_ROOM, MOST_ROOM);
        if self.keeps_room && self.file_length == end && bytes < room / 4 {
            self.make_room(room);
        }
        Ok(first)
    }

    /// Cuts off what a failed append has left, if that could not be done then. Until it can, nothing is appended.
    pub fn cut(&mut self) -> Result<(), LogError> {
        if self.uncut {
            self.file.truncate(self.length).map_err(|source| self.io("cutting", source))?;
            (self.file_length, self.uncut) = (self.length, false);
        }
        Ok(())
    }

    /// Whether the disk takes some more, which is tried.
    pub fn has_room(&mut self) -> bool {
        if !self.poisoned && self.file_length < self.length + LEAST_ROOM {
            self.make_room(LEAST_ROOM);
        }
        !self.poisoned && self.file_length >= self.length + LEAST_ROOM
    }

    /// Writes zeros behind the records. Where that fails there is less room, or none.
    fn make_room(&mut self, room: u64) {
        let zeros = vec![IoSlice::new(&ZEROS); (room / LEAST_ROOM) as usize];
        if self.file.append(&zeros).is_ok() {
            self.file_length += room / LEAST_ROOM * LEAST_ROOM;
            return;
        }
        match self.file.len() {
            Ok(length) => self.file_length = length,
            Err(_) => self.poisoned = true, // nobody knows where the next batch belongs
        }
    }

    /// Whether nothing lies behind the records but room.
    fn is_untouched(&self) -> bool {
        let mut reader = Reader::new(&*self.file, self.file_length, self.longest);
        self.file.len().is_ok_and(|length| length == self.file_length)
            && reader.content_end().is_ok_and(|end| end <= self.length)
    }

    /// Writes again, over itself, what was not known to be synced when the log was opened. After a failed sync it may be
    /// readable, whole, and not on the disk, and no sync would write it, as the system takes it for written.
    /// After an error it can be tried again: the first sync does.
    pub fn renew(&mut self) -> Result<(), LogError> {
        let Some(from) = self.unproven else { return Ok(()) };
        self.check()?;
        super::write_again(&mut *self.file, from, self.length).map_err(|source| self.io("writing again", source))?;
        self.unproven = None;
        Ok(())
    }

    /// Puts all records on stable storage. After an error of the sync itself the log takes nothing any more.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.check()?;
        self.renew()?;
        if let Err(source) = self.file.sync_data()
            && !seeded::active(Bug::FailedLogSyncIgnored)
        {
            self.poisoned = true;
            return Err(self.io("syncing", source));
        }
        self.durable = self.length;
        Ok(())
    }

    /// Bytes in the log.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.length == HEADER
    }

    /// Up to which byte the log is known to be on stable storage.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Whether an earlier failure has ended this log: nobody knows what is on the disk.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    fn path(&self) -> String {
        self.folder.path().join(&self.name).display().to_string()
    }

    fn io(&self, what: &'static str, source: io::Error) -> LogError {
        LogError::Io { what, file: self.path(), source }
    }

    fn check(&self) -> Result<(), LogError> {
        if self.poisoned { Err(LogError::Poisoned { file: self.path() }) } else { Ok(()) }
    }
}

/// A file that belongs to `name` and is hidden.
fn beside(name: &str, suffix: &str) -> String {
    format!("{}{name}.{suffix}", if name.starts_with('.') { "" } else { "." })
}

/// Keeps a copy of what is about to be cut off, for whoever wants to look at it.
fn save_tail(folder: &dyn Folder, name: &str, file: &dyn DiskFile, mut offset: u64) -> io::Result<()> {
    let mut copy = folder.create_new(name)?;
    let mut chunk = vec![0; CHUNK];
    loop {
        let some = file.read_at(&mut chunk, offset)?;
        if some == 0 {
            return Ok(());
        }
        copy.append(&[IoSlice::new(&chunk[..some])])?;
        offset += some as u64;
    }
}

#[cfg(test)]
mod tests;
