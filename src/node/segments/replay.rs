//! The start of a log store: every record of every segment, oldest first.
//!
//! The invariant: what cannot be listed or read fails the start, as unknown is not empty; damage does not, as it
//! costs the records that it hit and no others. Nothing is removed but hints without a segment.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::known::{Known, Segment};
use super::op::{HintWriter, Kind, Op, head_bytes, read_head, read_hint};
use super::places::NOWHERE;
use super::upkeep::write_hint;
use super::{LONGEST, MAGIC, hint_name, log_name};
use crate::durable::record_log::{Damage, FIRST_FRAME, FRAME_BYTES, LogError, Met, RecordLog, Verdict, check, walk};
use crate::durable::{Folder, Listed, takes_nothing, write_again};
use crate::file_names::SUFFIX;
use crate::node::scan::{Found, OpenError};
use crate::seeded::{self, Bug};

/// The newest number that is believed: there is room for the next ones.
const LAST_NUMBER: u32 = 1 << 31;

/// A hint longer than any that was written is none.
const LONGEST_HINT: usize = 1 << 30;

/// A start under way.
pub(super) struct Replay<'a> {
    folder: &'a Arc<dyn Folder>,
    known: Known,
    hint: HintWriter,
    found: Found,
}

/// What a start gives.
pub(super) struct Replayed {
    pub(super) known: Known,
    pub(super) log: RecordLog,
    pub(super) number: u32,
    /// What the hint of that segment will say.
    pub(super) hint: HintWriter,
    pub(super) found: Found,
}

impl<'a> Replay<'a> {
    pub(super) fn run(folder: &'a Arc<dyn Folder>) -> Result<Replayed, OpenError> {
        let mut replay = Self { folder, known: Known::default(), hint: HintWriter::new(), found: Found::default() };
        let mut numbers = replay.numbers()?;
        let newest = numbers.pop();
        for number in numbers {
            replay.sealed(number)?;
        }
        let (log, number) = replay.newest(newest)?;
        let Self { known, mut found, hint, .. } = replay;
        found.messages = known.places.totals().messages;
        Ok(Replayed { known, log, number, hint, found })
    }

    fn failed(&self, what: &'static str, name: &str) -> impl FnOnce(io::Error) -> OpenError {
        let file = self.folder.path().join(name).display().to_string();
        move |source| OpenError::Disk { what, file, source }
    }

    fn note(&mut self, what: impl std::fmt::Display) {
        self.found.ignored.push(what.to_string());
    }

    /// The numbers of the segments, ascending; everything else in the folder is left alone.
    fn numbers(&mut self) -> Result<Vec<u32>, OpenError> {
        let listed = match self.folder.list() {
            Err(_) if seeded::active(Bug::ListErrorIsEmpty) => Ok(Vec::new()),
            listed => listed,
        };
        let listed = listed.map_err(self.failed("listing", ""))?;
        let numbers = numbers_in(&listed);
        let (mut hints, mut texts) = (Vec::new(), 0);
        for entry in listed {
            if number(&entry, ".log", log_name).is_some() {
                // One of the numbers.
            } else if let Some(number) = number(&entry, ".hint", hint_name) {
                hints.push(number);
            } else if entry.name.ends_with(SUFFIX) && !entry.name.starts_with('.') {
                texts += 1;
            } else if !entry.name.starts_with('.') {
                self.note(format!("{}: no segment", entry.name));
            }
        }
        if texts > 0 {
            self.note(format!("{texts} .txt files: they are no messages in this layout, and nothing is done to them"));
        }
        for number in hints.into_iter().filter(|number| numbers.binary_search(number).is_err()) {
            // Its segment was reclaimed; if it stays, it is found again at the next start.
            let _ = self.folder.remove(&hint_name(number));
        }
        Ok(numbers)
    }

    /// The segment of this number, open for reading.
    fn open(&self, number: u32) -> Result<Arc<Segment>, OpenError> {
        if let Some(known) = self.known.segment(number) {
            return Ok(known);
        }
        let name = log_name(number);
        let file = self.folder.open(&name).map_err(self.failed("opening", &name))?;
        let length = file.len().map_err(self.failed("reading", &name))?;
        let segment = Segment::new(number, file, length);
        self.known.add(segment.clone());
        Ok(segment)
    }

    /// All records of a segment that is not written any more: from its hint, or else one by one.
    fn sealed(&mut self, number: u32) -> Result<(), OpenError> {
        let segment = self.open(number)?;
        let length = segment.bytes.load(Ordering::Relaxed);
        let hint = self.folder.open(&hint_name(number)).and_then(|mut hint| hint.read_all(LONGEST_HINT));
        if hint.is_ok_and(|hint| read_hint(&hint, number, length, &mut |op| self.known.apply(op, number))) {
            return Ok(());
        }
        let name = log_name(number);
        let path = self.folder.path().join(&name).display().to_string();
        match check(&*segment.file, MAGIC, &path) {
            Err(error @ LogError::Newer { .. }) => return Err(error.into()),
            Err(LogError::Io { source, .. }) => return Err(self.failed("reading", &name)(source)),
            Err(_) => self.note_damage(format!("{path}: its first bytes are damaged")),
            Ok(()) => {}
        }
        let (mut bad, mut hint) = (Vec::new(), HintWriter::new());
        let walked = walk(&*segment.file, LONGEST, FIRST_FRAME, u64::MAX, &mut |offset, met| {
            match read_record(offset, met) {
                Seen::Whole(op) => {
                    hint.push(&op);
                    self.known.apply(&op, number);
                }
                // It is listed, so that it is made again. An older record of the same copy may be whole.
                Seen::Damaged(op) => {
                    bad.push(format!("{path}: the copy of {} at byte {offset} is damaged", op.id));
                    if self.known.places.find(&op.id, op.record.version).is_none() {
                        self.known.apply(&op, NOWHERE);
                    }
                }
                Seen::Nothing(what) => bad.push(format!("{path}: {what} at byte {offset}")),
            }
        });
        walked.map_err(self.failed("reading", &name))?;
        if self.renew(&name, length)? && bad.is_empty() {
            write_hint(&**self.folder, number, length, hint);
        }
        bad.into_iter().for_each(|what| self.note_damage(what));
        Ok(())
    }

    /// A segment without its hint was not known to be synced: it is written over itself, and then is. (After a failed sync it
    /// may be readable and not on the disk, and none of what moved into it may be left where it came from.) `false`: the disk
    /// takes nothing now.
    fn renew(&self, name: &str, length: u64) -> Result<bool, OpenError> {
        if seeded::active(Bug::LogReadBack) {
            return Ok(true);
        }
        let renewed = self.folder.edit(name).and_then(|mut file| {
            write_again(&mut *file, 0, length)?;
            file.sync_data()
        });
        match renewed {
            Err(error) if takes_nothing(&error) => Ok(false),
            renewed => renewed.map(|()| true).map_err(self.failed("writing again", name)),
        }
    }

    fn note_damage(&mut self, what: String) {
        self.found.damaged += 1;
        self.note(what);
    }

    /// The segment that is written on. If something behind a damaged place is whole, it is kept as it is and a new one
    /// begins: a damaged record costs no other.
    fn newest(&mut self, newest: Option<u32>) -> Result<(RecordLog, u32), OpenError> {
        if let Some(number) = newest {
            match self.open_newest(number) {
                Err(OpenError::Log(LogError::Damaged { .. } | LogError::Foreign { .. })) => self.sealed(number)?,
                opened => return Ok((opened?, number)),
            }
        }
        let number = newest.unwrap_or(0) + 1;
        self.hint = HintWriter::new();
        let log = RecordLog::create(self.folder.clone(), &log_name(number), MAGIC, LONGEST)?;
        self.open(number)?;
        Ok((log, number))
    }

    fn open_newest(&mut self, number: u32) -> Result<RecordLog, OpenError> {
        let segment = self.open(number)?;
        let mut visit = |offset, payload: &[u8]| {
            let op = read_head(payload, offset + FRAME_BYTES).ok_or("an unknown record")?;
            self.hint.push(&op);
            self.known.apply(&op, number);
            Ok(())
        };
        let judge = |damage: &Damage| if damage.later_records { Verdict::Refuse } else { Verdict::Cut };
        let opened = RecordLog::open_with(self.folder.clone(), &log_name(number), MAGIC, LONGEST, &mut visit, &judge)?;
        if let Some(torn) = opened.torn {
            self.note(format!("{}: torn at byte {}, cut", log_name(number), torn.offset));
        }
        segment.bytes.store(opened.log.len(), Ordering::Relaxed);
        Ok(opened.log)
    }
}

fn number(Listed { name, regular }: &Listed, ending: &str, named: fn(u32) -> String) -> Option<u32> {
    let number = name.strip_prefix("segment-")?.strip_suffix(ending)?.parse().ok()?;
    (*regular && (NOWHERE + 1..=LAST_NUMBER).contains(&number) && named(number) == *name).then_some(number)
}

/// The numbers of a folder's segments, ascending.
pub(super) fn numbers_in(listed: &[Listed]) -> Vec<u32> {
    let mut numbers: Vec<u32> = listed.iter().filter_map(|entry| number(entry, ".log", log_name)).collect();
    numbers.sort_unstable();
    numbers
}

/// What a place of a segment says.
pub(super) enum Seen {
    /// A drop, or a copy that is whole.
    Whole(Op),
    /// A copy whose head is whole, and no more.
    Damaged(Op),
    /// Nothing that can be told.
    Nothing(&'static str),
}

/// Reads what `walk` met at `offset`.
pub(super) fn read_record(offset: u64, met: Met<'_>) -> Seen {
    let (payload, whole) = match met {
        Met::Record(payload) => (payload, true),
        Met::Damaged(Some(payload)) => (payload, false),
        Met::Damaged(None) => return Seen::Nothing("damage"),
    };
    match read_head(payload, offset + FRAME_BYTES) {
        Some(op) if whole || op.kind == Kind::Drop => Seen::Whole(op),
        Some(op) if op.record.matches(&payload[head_bytes(&op.id, &op.record)..]) => Seen::Whole(op),
        Some(op) => Seen::Damaged(op),
        None if whole => Seen::Nothing("an unknown record"),
        None => Seen::Nothing("damage"),
    }
}
