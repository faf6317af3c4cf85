//! The log layout: copies in append-only segments, for those who outgrow one file a message.
//!
//! The invariant: what the store knows is the fold of its segments' records in order, and every prefix of them is a
//! state that it had. A record is a copy (head and content) or a drop, "all copies of this id recorded before and
//! older than this version are gone"; settling is a drop of what is older than the committed version, so which copy
//! is visible follows from which copies there are, and no record says it. Segments are record logs
//! (`segment-<8 digits>.log`); only the newest is written, by one append and (unbuffered) one sync a batch. A full
//! one is sealed: synced, and given a hint that says its heads again, so that a start reads no content and a drop
//! is kept twice: only both damaged at once could bring back an older version, which the leader's log then overrules.
//! Damage in a sealed segment costs the records that it hit; a torn end of the newest is cut off.
//!
//! Only the oldest segment is ever taken back, by moving its live copies to the end, syncing (in both modes), and
//! removing it. A drop acts only on what was recorded before it, so those of the oldest segment act only inside it
//! and go with it; a live copy has outlived all drops, and none moves past it. Removals are synced one by one,
//! or an older segment could come back without the drops of a later one. It happens in slices beside writes, once
//! more than half is garbage, so that on average one byte is moved for each that is taken back. An idle store makes
//! no garbage. (Sealing and taking back are designed here and not built yet: there is one segment, and it grows.)
//! There is no trash: what is let go of stays in its segment until that is taken back.

mod op;
mod places;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use bytes::Bytes;
use hashbrown::HashMap;

use self::op::{Kind, Op, head_bytes, push_head, read_head};
use self::places::{NOWHERE, Place, Places, Slot};
use super::scan::{Found, OpenError};
use super::store::{Body, Entry, Fatal, Put, PutOutcome, ReadFault, Settle, Store, Totals, WriteReport};
use crate::durable::record_log::{FIRST_FRAME, FRAME_BYTES, LogError, Met, RecordLog, check, judge, walk};
use crate::durable::{DiskFile, Folder};
use crate::types::{CopyRecord, IoMode, MessageId, Payload, Version};

/// The longest record.
const LONGEST: usize = (64 << 20) + 1024;
const MAGIC: [u8; 8] = *b"hatoseg1";

/// Copies in segments.
#[derive(Debug)]
pub struct SegmentStore {
    io_mode: IoMode,
    places: Places,
    segments: RwLock<BTreeMap<u32, Arc<Segment>>>,
    writer: Mutex<Writer>,
}

#[derive(Debug)]
struct Segment {
    file: Box<dyn DiskFile>,
    live: AtomicU64,
}

#[derive(Debug)]
struct Writer {
    log: RecordLog,
    number: u32,
}

/// A record that is to be written.
struct Planned<'a> {
    kind: Kind,
    id: &'a MessageId,
    record: CopyRecord,
    head: std::ops::Range<usize>,
    body: &'a [u8],
}

fn log_name(number: u32) -> String {
    format!("segment-{number:08}.log")
}

fn hint_name(number: u32) -> String {
    format!("segment-{number:08}.hint")
}

fn frame_bytes(id: &MessageId, place: &Place) -> u64 {
    FRAME_BYTES + head_bytes(id) as u64 + u64::from(place.record().bytes())
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

impl SegmentStore {
    /// Reads what the folder holds, which nobody else may use.
    pub fn open(folder: Arc<dyn Folder>, io_mode: IoMode) -> Result<(Self, Found), OpenError> {
        let path = folder.path().display().to_string();
        let failed = |what| {
            let file = path.clone();
            move |source| OpenError::Disk { what, file, source }
        };
        let mut found = Found::default();
        let mut numbers = Vec::new();
        for entry in folder.list().map_err(failed("listing"))? {
            let number = entry.name.strip_prefix("segment-").and_then(|rest| rest.strip_suffix(".log"));
            match number.and_then(|number| number.parse().ok()).filter(|&number| log_name(number) == entry.name) {
                Some(number) if number > NOWHERE && entry.regular => numbers.push(number),
                _ if entry.name.starts_with('.') || entry.name.ends_with(".hint") => {}
                _ => found.ignored.push(format!("{}: no segment", entry.name)),
            }
        }
        numbers.sort_unstable();
        let mut number = numbers.pop().unwrap_or(1);
        let mut sealed = Vec::new();
        for number in numbers {
            sealed.push((number, read_sealed(&*folder, number, &mut found)?));
        }
        let unbuffered = io_mode == IoMode::Unbuffered;
        let mut newest = Vec::new();
        let mut opened = open_log(&folder, number, unbuffered, &mut newest);
        if let Err(LogError::Damaged { .. }) = opened {
            // What lies behind the damage was safe: it is kept as a sealed segment.
            sealed.push((number, read_sealed(&*folder, number, &mut found)?));
            number += 1;
            newest.clear();
            opened = open_log(&folder, number, unbuffered, &mut newest);
        }
        let opened = opened?;
        if let Some(torn) = opened.torn {
            found.ignored.push(format!("{}: torn at byte {}, cut", log_name(number), torn.offset));
        }
        if unbuffered {
            // A process killed between a write and its sync left copies that only look safe.
            folder.sync_all().map_err(failed("syncing"))?;
        }
        let mut segments = BTreeMap::new();
        for number in sealed.iter().map(|(number, _)| *number).chain([number]) {
            let file = folder.open(&log_name(number)).map_err(failed("opening"))?;
            segments.insert(number, Arc::new(Segment { file, live: AtomicU64::new(0) }));
        }
        let writer = Writer { log: opened.log, number };
        let (segments, writer) = (RwLock::new(segments), Mutex::new(writer));
        let store = Self { io_mode, places: Places::default(), segments, writer };
        sealed.push((number, newest));
        for (number, ops) in sealed {
            ops.iter().for_each(|op| store.apply(op, number));
        }
        found.messages = store.totals().messages;
        Ok((store, found))
    }

    fn segment(&self, number: u32) -> Option<Arc<Segment>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    fn count(&self, id: &MessageId, place: &Place, alive: bool) {
        if let Some(segment) = self.segment(place.segment) {
            let bytes = frame_bytes(id, place);
            let _ = if alive {
                segment.live.fetch_add(bytes, Ordering::Relaxed)
            } else {
                segment.live.fetch_sub(bytes, Ordering::Relaxed)
            };
        }
    }

    /// Does what a record says.
    fn apply(&self, op: &Op, segment: u32) {
        let place = Place::new(op.record, segment, op.body_at);
        let gone: smallvec::SmallVec<[Place; 1]> = self.places.change(&op.id, |slot| match op.kind {
            Kind::Copy => slot.add(place).into_iter().collect(),
            Kind::Drop => slot.drop_below(op.record.version),
        });
        if op.kind == Kind::Copy {
            self.count(&op.id, &place, true);
        }
        gone.iter().for_each(|place| self.count(&op.id, place, false));
    }
}

fn open_log(
    folder: &Arc<dyn Folder>,
    number: u32,
    believe: bool,
    ops: &mut Vec<Op>,
) -> Result<crate::durable::record_log::Opened, LogError> {
    let mut visit = |offset, payload: &[u8]| {
        ops.push(read_head(payload, offset + FRAME_BYTES).ok_or("an unknown record")?);
        Ok(())
    };
    // Unbuffered, records behind a hole may have been answered; buffered, the hole ends what is known in order.
    RecordLog::open_with(folder.clone(), &log_name(number), MAGIC, LONGEST, &mut visit, &|damage| {
        judge(damage, !believe)
    })
}

/// All records of a sealed segment: from its hint, or else one by one.
fn read_sealed(folder: &dyn Folder, number: u32, found: &mut Found) -> Result<Vec<Op>, OpenError> {
    let path = folder.path().join(log_name(number)).display().to_string();
    let failed = |source| OpenError::Disk { what: "reading", file: path.clone(), source };
    let file = folder.open(&log_name(number)).map_err(failed)?;
    let length = file.len().map_err(failed)?;
    let hint = folder.open(&hint_name(number)).and_then(|mut hint| hint.read_all(1 << 30));
    if let Some(ops) = hint.ok().and_then(|hint| op::read_hint(&hint, length)) {
        return Ok(ops);
    }
    match check(&*file, MAGIC, &path) {
        Err(error @ LogError::Newer { .. }) => return Err(error.into()),
        Err(error) => found.ignored.push(error.to_string()),
        Ok(()) => {}
    }
    let mut ops = Vec::new();
    let walked = walk(&*file, LONGEST, FIRST_FRAME, u64::MAX, &mut |offset, met| {
        let (payload, whole) = match met {
            Met::Record(payload) => (Some(payload), true),
            Met::Damaged(payload) => (payload, false),
        };
        match payload.and_then(|payload| read_head(payload, offset + FRAME_BYTES)) {
            Some(op) => ops.push(op), // damaged content is told by the first read
            None if !whole => {}
            None => found.ignored.push(format!("{path}: an unknown record at byte {offset}")),
        }
        if !whole {
            found.damaged += 1;
            found.ignored.push(format!("{path}: damaged at byte {offset}"));
        }
    });
    walked.map_err(failed)?;
    Ok(ops)
}

fn decide(slot: &Slot, put: &Put) -> Option<PutOutcome> {
    if put.record.version == Version::FOREIGN || put.record.is_tombstone() != (put.body == Body::Deleted) {
        return Some(PutOutcome::Failed);
    }
    match slot.newest() {
        Some(newest) if newest.version > put.record.version => Some(PutOutcome::Stale),
        Some(newest) if newest == put.record => Some(PutOutcome::Stored),
        Some(newest) if newest.version == put.record.version => Some(PutOutcome::Conflict),
        _ if put.body == Body::Adopt => Some(PutOutcome::Failed),
        _ => None,
    }
}

impl Store for SegmentStore {
    fn write(&self, settles: &[Settle], puts: &[Put]) -> Result<WriteReport, Fatal> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let start = Instant::now();
        let fatal = |what: &str, error: LogError| Fatal { what: what.to_owned(), source: io::Error::other(error) };
        let mut report = WriteReport::default();
        let mut slots: HashMap<&MessageId, Slot> = HashMap::new();
        let (mut heads, mut planned) = (Vec::new(), Vec::new());
        let mut plan = |kind, id, record, body| {
            let from = heads.len();
            push_head(&mut heads, kind, id, record);
            planned.push(Planned { kind, id, record, head: from..heads.len(), body });
        };
        for Settle { id, version, keep, .. } in settles {
            let slot = slots.entry(id).or_insert_with(|| self.places.get(id));
            let below = if *keep { *version } else { Version(version.0.saturating_add(1)) };
            if *keep && !slot.whole().any(|place| place.version == *version) {
                report.settled.push(slot.whole().all(|place| place.version >= *version));
                continue;
            }
            if !slot.drop_below(below).is_empty() {
                plan(Kind::Drop, id, CopyRecord { version: below, length: 0, crc: 0 }, &[][..]);
            }
            report.settled.push(true);
        }
        for put in puts {
            let slot = slots.entry(&put.id).or_insert_with(|| self.places.get(&put.id));
            let outcome = decide(slot, put).unwrap_or_else(|| {
                let body = if let Body::Bytes(body) = &put.body { &body[..] } else { &[] };
                plan(Kind::Copy, &put.id, put.record, body);
                slot.add(Place::new(put.record, u32::MAX, 0));
                PutOutcome::Stored
            });
            report.outcomes.push(outcome);
        }
        let records = planned.iter().map(|record| (&heads[record.head.clone()], record.body));
        let mut offset = match writer.log.append_parts(records) {
            Ok(first) => first,
            Err(error) if writer.log.is_poisoned() => return Err(fatal("writing copies", error)),
            Err(error) => {
                let missed = if error.is_full() { PutOutcome::Full } else { PutOutcome::Failed };
                let again = puts.iter().map(|put| decide(&self.places.get(&put.id), put).unwrap_or(missed));
                report.outcomes = again.collect();
                report.settled = vec![false; settles.len()];
                report.error = Some(error.to_string());
                return Ok(report);
            }
        };
        report.write_time = start.elapsed();
        if self.io_mode == IoMode::Unbuffered && !planned.is_empty() {
            writer.log.sync().map_err(|error| fatal("syncing copies", error))?;
            report.sync_time = start.elapsed() - report.write_time;
        }
        for Planned { kind, id, record, head, body } in planned {
            let body_at = (offset + FRAME_BYTES) as u32 + head.len() as u32;
            offset += FRAME_BYTES + (head.len() + body.len()) as u64;
            self.apply(&Op { kind, id: id.clone(), record, body_at }, writer.number);
        }
        Ok(report)
    }

    fn read(&self, id: &MessageId, version: Version) -> Result<Payload, ReadFault> {
        let place = self.places.get(id).find(version).ok_or(ReadFault::Absent)?;
        if !place.is_whole() {
            return Err(ReadFault::Damaged);
        }
        let segment =
            self.segment(place.segment).ok_or_else(|| ReadFault::Unknown("a segment was moved".to_owned()))?;
        let length = place.record().bytes() as usize;
        match read_exactly(&*segment.file, u64::from(place.offset), length) {
            Ok(content) if place.record().matches(&content) => Ok(Bytes::from(content)),
            Ok(_) => {
                let damaged = Place { segment: NOWHERE, ..place };
                self.places.change(id, |slot| slot.0.iter_mut().filter(|p| **p == place).for_each(|p| *p = damaged));
                self.count(id, &place, false);
                Err(ReadFault::Damaged)
            }
            Err(error) => Err(ReadFault::Unknown(format!("reading {}: {error}", log_name(place.segment)))),
        }
    }

    fn newest(&self, id: &MessageId) -> Option<CopyRecord> {
        self.places.get(id).newest()
    }

    fn inventory(&self, part: usize) -> Vec<Entry> {
        self.places.part(part)
    }

    fn totals(&self) -> Totals {
        self.places.totals()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::durable::Disk;
    use crate::durable::sim::MemDisk;
    use crate::node::conformance::{conformance, inventory, put, settle};

    fn open(disk: &MemDisk, io_mode: IoMode) -> SegmentStore {
        SegmentStore::open(disk.folder(Path::new("/n")).unwrap(), io_mode).unwrap().0
    }

    #[test]
    fn the_suite_passes() {
        for io_mode in [IoMode::Buffered, IoMode::Unbuffered] {
            conformance(|| open(&MemDisk::new(), io_mode));
        }
    }

    #[test]
    fn a_reopened_store_has_everything() {
        let disk = MemDisk::new();
        let store = open(&disk, IoMode::Buffered);
        store.write(&[], &[put("a", 1, b"one"), put("b", 2, b"two")]).unwrap();
        store.write(&[], &[put("a", 3, b"three"), put("b", 4, b"four")]).unwrap();
        store.write(&[settle("a", 3, true), settle("b", 9, false)], &[put("b", 1, b"again")]).unwrap();
        let again = open(&disk.after_kill(), IoMode::Buffered);
        assert_eq!((inventory(&again), again.totals()), (inventory(&store), store.totals()));
    }
}
