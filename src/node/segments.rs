//! The log layout: copies in append-only segments, for those who outgrow one file a message.
//!
//! The invariant: what the store knows is the fold of its segments' records in order, and every prefix of them is a
//! state that it had. A record is a copy (head and content) or a drop, "all copies of this id recorded before and
//! older than this version are gone"; settling is a drop of what is older than the committed version, so which copy
//! is visible follows from which copies there are, and no record says it. Segments are record logs
//! (`segment-<8 digits>.log`); only the newest is written, by one append and (unbuffered) one sync a batch. A full
//! one is sealed, and gets a hint that says its heads again, so that a start reads no content and a drop is kept
//! twice: only both damaged at once could bring back an older version, which the leader's log then overrules.
//! Damage costs the records that it hit and no others; a torn end of the newest is cut off.
//!
//! Only the oldest segment is ever reclaimed, by moving its live copies to the end, syncing (in both modes), and
//! removing it. A drop acts only on what was recorded before it, so those of the oldest segment act only inside it
//! and go with it; a live copy has outlived all drops, and none moves past it. Removals are synced one by one,
//! or an older segment could come back without the drops of a later one. It happens in slices beside writes, once
//! more than half is garbage, so that on average one byte is moved for each that is reclaimed.
//! There is no trash: what is let go of stays in its segment until that is reclaimed.

mod known;
mod op;
mod places;
mod plan;
mod replay;
mod room;
mod upkeep;

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;

use self::known::{Known, Segment};
use self::op::HintWriter;
use self::places::{NOT_YET, Place};
use self::plan::Plan;
use self::replay::{Replay, Replayed, Seen, read_record};
use self::room::Room;
use self::upkeep::Upkeep;
use super::reserve;
use super::scan::{Found, OpenError};
use super::store::{Fatal, Put, PutOutcome, ReadFault, Settle, Store, Totals, WriteReport};
use crate::durable::record_log::{FIRST_FRAME, LogError, Met, RecordLog, walk};
use crate::durable::{DiskFile, Folder, is_gone, takes_nothing};
use crate::lock::Lock;
use crate::seeded::{self, Bug};
use crate::types::{CopyRecord, IoMode, Listed, MessageId, Payload, Version};

/// The longest record: a copy of the largest message that a leader takes, 64 MiB, under the longest id.
const LONGEST: usize = (64 << 20) + 2048;
const MAGIC: [u8; 8] = *b"hatoseg1";

/// A segment of more bytes is sealed, and a new one begun; while little is held, one of fewer.
pub const SEGMENT_BYTES: u64 = 64 << 20;

/// The end of a segment that a full disk lets nobody seal: places have 32 bits.
const SEGMENT_LIMIT: u64 = 2 << 30;

/// The segments of a folder, with the name of the hint of each, and whether something in it cannot be told.
pub(super) fn segments_in(folder: &dyn Folder) -> io::Result<Vec<(String, String, bool)>> {
    let mut all = Vec::new();
    for number in replay::numbers_in(&folder.list()?) {
        let (name, mut damaged) = (log_name(number), false);
        let file = folder.open(&name)?;
        let visit = &mut |offset, met: Met<'_>| damaged |= !matches!(read_record(offset, met), Seen::Whole(_));
        walk(&*file, LONGEST, FIRST_FRAME, u64::MAX, visit)?;
        all.push((name, hint_name(number), damaged));
    }
    Ok(all)
}

/// Copies in segments.
#[derive(Debug)]
pub struct SegmentStore {
    folder: Arc<dyn Folder>,
    io_mode: IoMode,
    /// Segments are sealed at between so many bytes, by how much is held.
    seal_between: (u64, u64),
    known: Known,
    writer: Lock<Writer>,
    upkeep: Lock<Upkeep>,
}

#[derive(Debug)]
struct Writer {
    log: RecordLog,
    /// Of the segment that is written.
    number: u32,
    /// Of the next one. A number is used once, so that nothing is tried again after a failed sync.
    next: u32,
    /// From this length on it is sealed.
    seal_at: u64,
    /// What its hint will say.
    hint: HintWriter,
    /// Sealed segments with records that are not synced.
    unsynced: Vec<Arc<Segment>>,
    /// Sealed segments whose hints are not written.
    unhinted: Vec<(Arc<Segment>, HintWriter)>,
    /// What the disk has room for, and from which length on to ask again.
    room: Room,
    look_at: u64,
    /// Whether there are reserves to give up: for records of what is gone, and for moving copies.
    reserve: bool,
    moving_reserve: bool,
    /// A sync has failed: nobody knows what is on the disk.
    failed: bool,
}

fn log_name(number: u32) -> String {
    format!("segment-{number:08}.log")
}

fn hint_name(number: u32) -> String {
    format!("segment-{number:08}.hint")
}

fn read_exactly(file: &dyn DiskFile, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let (mut content, mut filled) = (vec![0; length], 0);
    while filled < length {
        match file.read_at(&mut content[filled..], offset + filled as u64)? {
            0 => break,
            some => filled += some,
        }
    }
    content.truncate(filled);
    Ok(content)
}

impl Writer {
    /// The failure that ends the store, if this error is one; else the error, after which it goes on.
    fn fatal(&mut self, what: &str, error: LogError) -> Result<Fatal, LogError> {
        if !error.is_final() && !self.log.is_poisoned() {
            return Err(error);
        }
        self.failed = true;
        Ok(Fatal { what: what.to_owned(), source: io::Error::other(error) })
    }

    /// Takes the result of a sync that was made outside of the log.
    fn check_sync(&mut self, result: io::Result<()>) -> Result<(), Fatal> {
        result.map_err(|source| {
            self.failed = true;
            Fatal { what: "syncing segments".to_owned(), source }
        })
    }

    /// A sealed segment was synced.
    fn synced(&mut self, segment: &Arc<Segment>, result: io::Result<()>) -> Result<(), Fatal> {
        self.check_sync(result)?;
        self.unsynced.retain(|other| other.number != segment.number);
        Ok(())
    }

    /// Puts all records on stable storage.
    fn sync(&mut self) -> Result<(), Fatal> {
        if seeded::active(Bug::CopiesNotSynced) {
            return Ok(());
        }
        for segment in std::mem::take(&mut self.unsynced) {
            self.check_sync(segment.file.sync_data())?;
        }
        match self.log.sync() {
            Err(_) if seeded::active(Bug::FailedCopySyncIgnored) => Ok(()),
            Err(error) => {
                self.failed = true;
                Err(Fatal { what: "syncing copies".to_owned(), source: io::Error::other(error) })
            }
            Ok(()) => Ok(()),
        }
    }
}

impl SegmentStore {
    /// Reads what the folder holds, which nobody else may use.
    pub fn open(folder: Arc<dyn Folder>, io_mode: IoMode) -> Result<(Self, Found), OpenError> {
        Self::open_sized(folder, io_mode, SEGMENT_BYTES)
    }

    /// As [`Self::open`], with segments that are sealed at so many bytes at the latest.
    pub fn open_sized(
        folder: Arc<dyn Folder>,
        io_mode: IoMode,
        segment_bytes: u64,
    ) -> Result<(Self, Found), OpenError> {
        let Replayed { known, mut log, number, hint, found } = Replay::run(&folder)?;
        match log.renew() {
            // Its first sync will try again, and until then nothing is called safe.
            Err(LogError::Io { source, .. }) if takes_nothing(&source) => {}
            renewed => renewed?,
        }
        if io_mode == IoMode::Unbuffered {
            log.keep_room();
            // A process killed between a write and its sync left copies that only look safe.
            folder.sync_all().map_err(|source| {
                let file = folder.path().display().to_string();
                OpenError::Disk { what: "syncing", file, source }
            })?;
        }
        let mut unsynced = known.segments();
        unsynced.pop();
        let unsynced = if io_mode == IoMode::Unbuffered { Vec::new() } else { unsynced };
        let writer = Writer {
            log,
            number,
            next: number + 1,
            seal_at: 0,
            hint,
            unsynced,
            unhinted: Vec::new(),
            room: Room::ANY,
            look_at: 0,
            reserve: folder.open(reserve::RESERVE_FILE).is_ok(),
            moving_reserve: folder.open(reserve::MOVING_FILE).is_ok(),
            failed: false,
        };
        let seal_between = room::seal_between(&*folder, segment_bytes);
        let store = Self { folder, io_mode, seal_between, known, writer: Lock::new(writer), upkeep: Lock::default() };
        store.writer().seal_at = store.segment_bytes();
        Ok((store, found))
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock()
    }

    /// Appends records to the newest segment, a new one if that is full, and gives the offset of the first.
    fn append<'a>(
        &self,
        writer: &mut Writer,
        records: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<u64, LogError> {
        if writer.log.len() >= writer.seal_at {
            self.seal(writer)?;
        }
        let first = writer.log.append_parts(records)?;
        if let Some(segment) = self.known.segment(writer.number) {
            segment.bytes.store(writer.log.len(), Ordering::Relaxed);
        }
        Ok(first)
    }

    /// Begins a new segment. Where that cannot be done now the old one goes on, as long as its places can be told.
    fn seal(&self, writer: &mut Writer) -> Result<(), LogError> {
        // From here on its sync is that of its file.
        writer.log.cut()?;
        writer.log.renew()?;
        let number = writer.next;
        let name = log_name(number);
        writer.next += 1;
        let log = RecordLog::create(self.folder.clone(), &name, MAGIC, LONGEST);
        let begun = log.and_then(|log| {
            let io = |source| LogError::Io { what: "opening", file: name.clone(), source };
            Ok((log, self.folder.open(&name).map_err(io)?))
        });
        let (mut log, file) = match begun {
            Ok(begun) => begun,
            Err(error) if error.is_final() || writer.log.len() >= SEGMENT_LIMIT => return Err(error),
            Err(error) => {
                tracing::debug!("no new segment: {error}");
                writer.seal_at = writer.log.len() + self.segment_bytes() / 8;
                return Ok(());
            }
        };
        if self.io_mode == IoMode::Unbuffered {
            log.keep_room();
        }
        self.known.add(Segment::new(number, file, log.len()));
        let mut sealed = std::mem::replace(&mut writer.log, log);
        sealed.trim();
        let hint = std::mem::replace(&mut writer.hint, HintWriter::new());
        if let Some(old) = self.known.segment(writer.number) {
            if sealed.durable() < sealed.len() {
                writer.unsynced.push(old.clone());
            }
            writer.unhinted.push((old, hint));
        }
        (writer.number, writer.seal_at, writer.look_at) = (number, self.segment_bytes(), 0);
        Ok(())
    }

    /// Writes a batch; nothing of it, and the error, if the disk takes none of it now.
    fn attempt(&self, settles: &[Settle], puts: &[Put]) -> Result<Result<WriteReport, LogError>, Fatal> {
        let mut writer = self.writer();
        if writer.failed {
            return Err(Fatal { what: "an earlier sync".to_owned(), source: io::Error::other("see above") });
        }
        let start = Instant::now();
        let mut room = if puts.is_empty() { Room::ANY } else { self.room(&mut writer) };
        let (plan, mut report, first) = loop {
            let mut plan = Plan::new(&self.known.places, settles, puts);
            let settled = settles.iter().map(|settle| plan.settle(settle)).collect();
            let (mut outcomes, mut left, mut error) = (Vec::with_capacity(puts.len()), room, None);
            for put in puts {
                let has_room = self.takes(put, &mut left);
                outcomes.push(if has_room { plan.put(put) } else { plan.missed(put, PutOutcome::Full) });
                if !has_room {
                    error.get_or_insert_with(|| left.refusal());
                }
            }
            let report = WriteReport { settled, outcomes, full: error.is_some(), error, ..WriteReport::default() };
            let error = match self.append(&mut writer, plan.records()) {
                Ok(first) => break (plan, report, first),
                Err(error) => match writer.fatal("writing copies", error) {
                    Ok(fatal) => return Err(fatal),
                    Err(error) => error,
                },
            };
            if let LogError::Io { source, .. } = &error
                && is_gone(source)
            {
                let source = io::Error::other(error.to_string());
                return Err(Fatal { what: "writing copies".to_owned(), source });
            }
            if !error.is_full() {
                return Ok(Err(error));
            }
            // Without what is new there may be room for what makes room.
            writer.room = Room::NONE;
            if room.is_none() && !self.give_up_reserve(&mut writer) {
                return Ok(Err(error));
            }
            room = Room::NONE;
        };
        report.write_time = start.elapsed();
        let unbuffered = self.io_mode == IoMode::Unbuffered && !plan.is_empty();
        if unbuffered || settles.iter().any(|settle| settle.lasting) {
            writer.sync()?;
            report.sync_time = start.elapsed() - report.write_time;
        }
        // Only now may a reader or an inventory see it: it is as safe as it will be.
        for op in plan.written(first) {
            writer.hint.push(&op);
            self.known.apply(&op, writer.number);
        }
        Ok(Ok(report))
    }

    /// The content of a copy, whatever it is.
    fn read_at(&self, place: &Place) -> Option<Result<Vec<u8>, ReadFault>> {
        let segment = self.known.segment(place.segment)?;
        let content = read_exactly(&*segment.file, u64::from(place.offset), place.record().bytes() as usize);
        Some(content.map_err(|error| {
            if seeded::active(Bug::ReadErrorIsAbsent) {
                return ReadFault::Absent;
            }
            ReadFault::Unknown(format!("reading {}: {error}", log_name(place.segment)))
        }))
    }

    /// Reads and checks a copy; nothing if it was moved meanwhile.
    fn try_read(&self, id: &MessageId, version: Version) -> Result<Option<Payload>, ReadFault> {
        let place = self.known.places.find(id, version).ok_or(ReadFault::Absent)?;
        if !place.is_whole() {
            return Err(ReadFault::Damaged);
        }
        match self.read_at(&place).transpose()? {
            Some(content) if place.record().matches(&content) || seeded::active(Bug::ReadsNotChecked) => {
                Ok(Some(Bytes::from(content)))
            }
            _ => Ok(None),
        }
    }
}

impl Store for SegmentStore {
    fn write(&self, settles: &[Settle], puts: &[Put]) -> Result<WriteReport, Fatal> {
        let is_one = settles.len() + puts.len() <= 1;
        // As many halves as it takes: settles come before puts.
        let in_halves = || {
            let (first, second) = settles.split_at(settles.len().div_ceil(2));
            let (one, other) = puts.split_at(if settles.is_empty() { puts.len() / 2 } else { 0 });
            let mut report = self.write(first, one)?;
            report.append(self.write(second, other)?);
            Ok(report)
        };
        if !is_one && !self.fits_a_segment(puts) {
            return in_halves();
        }
        let mut error = match self.attempt(settles, puts)? {
            Ok(report) => return Ok(report),
            Err(error) => error,
        };
        if error.is_full() && !seeded::active(Bug::NothingReclaimedAtOnce) && self.make_room()? {
            match self.attempt(settles, puts)? {
                Ok(report) => return Ok(report),
                Err(again) => error = again,
            }
        }
        // A part of the batch may fit, and what is let go of there makes room for the next part.
        if error.is_full() && !is_one && !seeded::active(Bug::BatchAllOrNothing) {
            return in_halves();
        }
        let missed = if error.is_full() { PutOutcome::Full } else { PutOutcome::Failed };
        let plan = Plan::new(&self.known.places, settles, puts);
        Ok(WriteReport {
            outcomes: puts.iter().map(|put| plan.missed(put, missed)).collect(),
            settled: vec![false; settles.len()],
            full: error.is_full(),
            error: Some(error.to_string()),
            ..WriteReport::default()
        })
    }

    fn read(&self, id: &MessageId, version: Version) -> Result<Payload, ReadFault> {
        if let Some(content) = self.try_read(id, version)? {
            return Ok(content);
        }
        // It may just have been moved. In doubt, the second look is taken while nothing moves.
        let _no_batch = self.writer();
        if let Some(content) = self.try_read(id, version)? {
            return Ok(content);
        }
        let place = self.known.places.find(id, version).ok_or(ReadFault::Absent)?;
        if self.known.mark_damaged(id, &place) {
            let segment = log_name(place.segment);
            tracing::warn!(%id, %version, segment, "a copy is damaged: its content does not match its record");
        }
        Err(ReadFault::Damaged)
    }

    fn check(&self, id: &MessageId, version: Version) -> Result<(), ReadFault> {
        if let Some(place) = self.known.places.find(id, version)
            && let Some(segment) = self.known.segment(place.segment)
        {
            segment.file.uncache(u64::from(place.offset), u64::from(place.record().bytes()));
        }
        self.read(id, version).map(drop)
    }

    fn newest(&self, id: &MessageId) -> Option<CopyRecord> {
        self.known.places.get(id).newest()
    }

    fn published(&self, id: &MessageId) -> Option<CopyRecord> {
        self.known.places.get(id).published()
    }

    fn inventory(&self, part: usize) -> Vec<Listed> {
        self.known.places.part(part)
    }

    fn totals(&self) -> Totals {
        self.known.places.totals()
    }

    fn tend(&self) -> Result<Duration, Fatal> {
        self.keep_up()
    }
}

#[cfg(test)]
mod tests;
