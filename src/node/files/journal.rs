//! What makes a batch safe in one sync: the writer's journal.
//!
//! Files are written at once, and synced all together every few seconds; until then the journal has what
//! they need to be whole again after a power cut. It is read only then: a start does again whatever it holds, in its
//! order, and every step of that finds out by itself whether it was done before.
//!
//! A journal is a record log, `.journal-<number>`, of settles and puts. It is cut by beginning the next one and removing it
//! when all files are synced; one that is left over is never older than a gap: they go in the order of their numbers.
//! (The idea is that of a database's write-ahead log with physical redo and fuzzy checkpoints; Mohan et al., ARIES, 1992.)

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::super::scan::OpenError;
use super::super::store::{Body, Fatal, Put, Settle};
use crate::durable::record_log::{LogError, RecordLog, judge};
use crate::durable::{Folder, takes_nothing};
use crate::seeded::{self, Bug};
use crate::types::{CopyRecord, Deadline, MAX_ID_BYTES, MessageId, Version};

/// How the file starts.
const MAGIC: [u8; 8] = *b"HTKSJRN\n";

/// `.journal-<number>`.
const PREFIX: &str = ".journal-";

/// A larger message is synced by itself: to write it twice would cost more than its sync.
const LARGEST_BODY: usize = 64 << 10;

/// The longest record: a put of the largest body, under the longest id.
const LONGEST: usize = LARGEST_BODY + MAX_ID_BYTES + 512;

const SETTLE: u8 = 1;
const PUT: u8 = 2;
/// A put whose id is longer than a byte can tell: its length, in two, follows the other fields.
const PUT_LONG: u8 = 3;
/// Of a put with a deadline, in eight bytes behind the other fields.
const UNTIL: u8 = 4;

const KEEP: u8 = 1;
const TRASHED: u8 = 2;

/// One step to do again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Settle(Settle),
    Put(Put),
}

/// The journal that the writer appends to.
#[derive(Debug)]
pub(super) struct Journal {
    folder: Arc<dyn Folder>,
    log: RecordLog,
    number: u64,
}

/// What the lives before left: steps to do again, and the files that hold them.
#[derive(Debug, Default)]
pub(super) struct LeftOver {
    pub(super) steps: Vec<Step>,
    /// In the order in which they have to go.
    numbers: Vec<u64>,
}

impl LeftOver {
    /// Reads all journals of a folder.
    pub(super) fn read(folder: &Arc<dyn Folder>) -> Result<Self, OpenError> {
        let path = folder.path().display().to_string();
        let listed = folder.list().map_err(|source| OpenError::Disk { what: "listing", file: path, source })?;
        let mut numbers: Vec<u64> = listed.iter().filter_map(|entry| number(&entry.name)).collect();
        numbers.sort_unstable();
        let mut steps = Vec::new();
        for &number in &numbers {
            let visit = &mut |_, record: &[u8]| {
                steps.push(decode(record).ok_or("not a step that this version knows")?);
                Ok(())
            };
            // The last batches may not have been synced: nobody was told that they are safe.
            let cut = |damage: &_| judge(damage, true);
            let opened = RecordLog::open_with(folder.clone(), &name(number), MAGIC, LONGEST, visit, &cut);
            if let Some(torn) = opened.map_err(unusable)?.torn {
                // Kept beside the log, as of no use to anybody.
                let _ = folder.remove(&format!("{}.torn-{}", name(number), torn.offset));
            }
        }
        Ok(Self { steps, numbers })
    }

    /// Whether there is any.
    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// The ids that are put.
    pub(super) fn ids(&self) -> HashSet<MessageId> {
        let put = |step: &Step| match step {
            Step::Put(put) => Some(put.id.clone()),
            Step::Settle(_) => None,
        };
        self.steps.iter().filter_map(put).collect()
    }

    /// Everything is synced: the journals go, the oldest first and for good.
    pub(super) fn remove(&self, folder: &dyn Folder) -> io::Result<()> {
        self.numbers.iter().try_for_each(|&number| remove(folder, number).and_then(|()| folder.sync()))
    }
}

/// The journals of a running store.
#[derive(Debug)]
pub(super) struct Journals {
    /// None: each file is synced by itself, for now or for good.
    current: Option<Journal>,
    /// The one before, while its files are synced.
    old: Option<Journal>,
    next: u64,
}

impl Journals {
    /// None yet.
    pub(super) fn after(left: &LeftOver) -> Self {
        Self { current: None, old: None, next: left.numbers.last().map_or(1, |last| last + 1) }
    }

    /// Whether there is one to append to.
    pub(super) fn are_kept(&self) -> bool {
        self.current.is_some()
    }

    /// The number that the next one would have, if it is time for it.
    pub(super) fn due(&self) -> Option<u64> {
        let idle = self.current.as_ref().is_some_and(|journal| journal.log.is_empty());
        (!idle && self.old.is_none()).then_some(self.next)
    }

    /// Makes a journal. On a disk that takes nothing now there is none, until the next try.
    pub(super) fn begin(folder: &Arc<dyn Folder>, number: u64) -> Result<Option<Journal>, Fatal> {
        match Journal::create(folder, number) {
            Ok(journal) => Ok(Some(journal)),
            Err(LogError::Io { source, .. }) if takes_nothing(&source) => Ok(None),
            Err(error) => Err(fatal(&error)),
        }
    }

    /// Takes `next` as the one to append to. True if there was one before it, which can be cut once all files are synced.
    pub(super) fn renew(&mut self, next: Journal) -> bool {
        self.next = next.number + 1;
        self.old = self.current.replace(next);
        self.old.is_some()
    }

    /// All files that the old journal stands behind are synced. (That it is gone lasts no later than the next sync of
    /// all files, which comes before its successor goes: so none is ever there without those after it.)
    pub(super) fn cut(&mut self) -> io::Result<()> {
        self.old.take().map_or(Ok(()), |old| remove(&*old.folder, old.number))
    }

    /// Writes down what a batch did. If there is no room for that, all files are synced instead, and there is no journal for now.
    pub(super) fn note<'a>(
        &mut self,
        folder: &dyn Folder,
        settles: &[Settle],
        puts: impl IntoIterator<Item = &'a Put>,
    ) -> Result<(), Fatal> {
        let Some(current) = &mut self.current else { return Ok(()) };
        match current.append(settles, puts) {
            Ok(()) => Ok(()),
            Err(error) if current.log.is_poisoned() => Err(fatal(&error)),
            Err(_) => self.end(folder).map_err(|source| Fatal {
                what: format!("syncing {} without a journal", folder.path().display()),
                source,
            }),
        }
    }

    fn end(&mut self, folder: &dyn Folder) -> io::Result<()> {
        folder.sync_all()?;
        for journal in [self.old.take(), self.current.take()].into_iter().flatten() {
            // For good, before anything is done that it says nothing of.
            remove(folder, journal.number)?;
            folder.sync()?;
        }
        Ok(())
    }
}

impl Journal {
    /// Begins a journal.
    fn create(folder: &Arc<dyn Folder>, number: u64) -> Result<Self, LogError> {
        let (visit, cut) = (&mut |_, _: &[u8]| Ok(()), |damage: &_| judge(damage, true));
        let opened = RecordLog::open_with(folder.clone(), &name(number), MAGIC, LONGEST, visit, &cut)?;
        let mut log = opened.log;
        log.keep_room();
        Ok(Self { folder: folder.clone(), log, number })
    }

    /// Writes down what a batch did, and syncs it. After an error none of it is in the journal, unless
    /// the log is poisoned.
    fn append<'a>(&mut self, settles: &[Settle], puts: impl IntoIterator<Item = &'a Put>) -> Result<(), LogError> {
        let settles = settles.iter().map(|settle| (encode_settle(settle), &[][..]));
        let puts = puts.into_iter().map(|put| match &put.body {
            Body::Bytes(body) => (encode_put(put), &body[..]),
            Body::Adopt | Body::Deleted => (encode_put(put), &[][..]),
        });
        let records: Vec<(Vec<u8>, &[u8])> = settles.chain(puts).collect();
        self.log.append_parts(records.iter().map(|(head, body)| (&head[..], *body)))?;
        if seeded::active(Bug::CopiesNotSynced) {
            return Ok(());
        }
        match self.log.sync() {
            Err(_) if seeded::active(Bug::FailedCopySyncIgnored) => Ok(()),
            synced => synced,
        }
    }
}

fn name(number: u64) -> String {
    format!("{PREFIX}{number}")
}

/// The number of a journal. Another spelling of it is no journal's name, nor is one that we cannot have counted up to:
/// there would be none to come after it.
fn number(file: &str) -> Option<u64> {
    let number = file.strip_prefix(PREFIX)?.parse().ok()?;
    (number <= u64::MAX / 2 && name(number) == file).then_some(number)
}

fn remove(folder: &dyn Folder, number: u64) -> io::Result<()> {
    match folder.remove(&name(number)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn fatal(error: &LogError) -> Fatal {
    Fatal { what: "journalling".to_owned(), source: io::Error::other(error.to_string()) }
}

/// Whether a put is written down as a whole; others are synced by themselves.
pub(super) fn takes(put: &Put) -> bool {
    match &put.body {
        Body::Bytes(body) => body.len() <= LARGEST_BODY,
        Body::Deleted => true,
        Body::Adopt => false,
    }
}

fn unusable(error: LogError) -> OpenError {
    match error {
        LogError::Damaged { file, offset } => OpenError::DamagedJournal { file, offset },
        other => OpenError::Log(other),
    }
}

fn encode_settle(settle: &Settle) -> Vec<u8> {
    let flags = if settle.keep { KEEP } else { 0 } | if settle.trash { TRASHED } else { 0 };
    let mut bytes = Vec::with_capacity(10 + settle.id.as_bytes().len());
    bytes.extend_from_slice(&[SETTLE, flags]);
    bytes.extend_from_slice(&settle.version.0.to_le_bytes());
    bytes.extend_from_slice(settle.id.as_bytes());
    bytes
}

/// All but the body, which follows.
fn encode_put(put: &Put) -> Vec<u8> {
    let id = put.id.as_bytes();
    let mut bytes = Vec::with_capacity(18 + id.len());
    let short = u8::try_from(id.len());
    let until = if put.record.expires.is_some() { UNTIL } else { 0 };
    bytes.extend_from_slice(&short.map_or([PUT_LONG | until, 0], |length| [PUT | until, length]));
    bytes.extend_from_slice(&put.record.version.0.to_le_bytes());
    bytes.extend_from_slice(&put.record.length.to_le_bytes());
    bytes.extend_from_slice(&put.record.crc.to_le_bytes());
    Deadline::push(put.record.expires, &mut bytes);
    if short.is_err() {
        bytes.extend_from_slice(&(id.len() as u16).to_le_bytes());
    }
    bytes.extend_from_slice(id);
    bytes
}

fn decode(record: &[u8]) -> Option<Step> {
    let (&[kind, second], rest) = record.split_first_chunk()?;
    let (version, rest) = rest.split_first_chunk()?;
    let version = Version(u64::from_le_bytes(*version));
    match kind & !UNTIL {
        SETTLE => {
            let id = MessageId::from_bytes(rest).ok()?;
            let (keep, trash) = (second & KEEP != 0, second & TRASHED != 0);
            Some(Step::Settle(Settle { id, version, keep, trash, lasting: false }))
        }
        PUT | PUT_LONG => {
            let (length, rest) = rest.split_first_chunk()?;
            let (crc, mut rest) = rest.split_first_chunk()?;
            let mut expires = None;
            if kind & UNTIL != 0 {
                let (deadline, behind) = Deadline::split(rest)?;
                (expires, rest) = (Some(deadline), behind);
            }
            let (id_bytes, rest) = match kind & !UNTIL {
                PUT => (usize::from(second), rest),
                _ => rest.split_first_chunk().map(|(two, rest)| (usize::from(u16::from_le_bytes(*two)), rest))?,
            };
            let (id, body) = rest.split_at_checked(id_bytes)?;
            let (length, crc) = (u32::from_le_bytes(*length), u32::from_le_bytes(*crc));
            let record = CopyRecord { version, length, crc, expires };
            let body = if record.is_tombstone() { Body::Deleted } else { Body::Bytes(Bytes::copy_from_slice(body)) };
            Some(Step::Put(Put { id: MessageId::from_bytes(id).ok()?, record, body }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::Disk;
    use crate::durable::sim::MemDisk;
    use crate::node::conformance::{delete, put, settle};
    use std::path::Path;

    #[test]
    fn a_journal_gives_back_what_was_done_in_its_order() {
        let disk = MemDisk::new();
        let folder = disk.folder(Path::new("/node")).unwrap();
        let binary = MessageId::from_bytes(b"\xff \n").unwrap();
        let (one, two) = (Put { id: binary, ..put("a", 1, b"one") }, put(&"ü".repeat(100), 2, b""));
        let dropped = Settle { trash: true, ..settle("b", 7, false) };
        let mut first = Journal::create(&folder, 9).unwrap();
        first.append(&[], [&one, &two]).unwrap();
        let mut second = Journal::create(&folder, 10).unwrap();
        let long = put(&"x".repeat(MAX_ID_BYTES), 4, b"long");
        let until = |put: &Put| Put { record: put.record.until(Deadline::at(1 << 40)), ..put.clone() };
        let (short_until, long_until) = (until(&put("t", 5, b"short")), until(&long));
        second
            .append(&[settle("a", 1, true), dropped.clone()], [&delete("a", 3), &long, &short_until, &long_until])
            .unwrap();
        let left = LeftOver::read(&folder).unwrap();
        let wanted = [
            Step::Put(one),
            Step::Put(two),
            Step::Settle(settle("a", 1, true)),
            Step::Settle(dropped),
            Step::Put(delete("a", 3)),
            Step::Put(long),
            Step::Put(short_until),
            Step::Put(long_until),
        ];
        assert_eq!(left.steps, wanted);
        assert_eq!((Journals::after(&left).due(), left.ids().len()), (Some(11), 5));
        left.remove(&*folder).unwrap();
        assert!(LeftOver::read(&folder).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_journal_of_ours_is_left_alone() {
        let disk = MemDisk::new();
        let folder = disk.folder(Path::new("/node")).unwrap();
        let others = ["007", "+7", "18446744073709551615", "9223372036854775808", "", "x"];
        others.iter().for_each(|other| drop(folder.create_new(&format!("{PREFIX}{other}")).unwrap()));
        let left = LeftOver::read(&folder).unwrap();
        assert_eq!((left.is_empty(), Journals::after(&left).due()), (true, Some(1)));
        drop(Journal::create(&folder, 7).unwrap());
        assert_eq!(Journals::after(&LeftOver::read(&folder).unwrap()).due(), Some(8));
        assert_eq!(folder.list().unwrap().len(), others.len() + 1);
    }
}
