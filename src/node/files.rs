//! The text layout: one message, one file, for anyone to read.
//!
//! The invariant: the file of an id's name is never replaced but by a copy that is whole, recorded and
//! committed; what is not ours, or not whole, is put aside and never destroyed. A new id is created in place,
//! its record before its content (creating costs half of what creating and renaming does), so that a torn
//! one is told by its record; a newer version of an id waits as a staged file until it is settled.
//! `batch` is the one that writes. In unbuffered mode `journal` makes a batch safe in one sync, and the files
//! are synced behind it; where a file system cannot sync all of them in one call, each file is synced by itself.

mod batch;
mod journal;
mod redo;
mod settle;
mod spares;

use std::io;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;

use self::batch::{Batch, Safety};
use self::journal::{Journals, LeftOver};
pub use self::spares::SPARES;
use self::spares::Spares;
use super::identity;
use super::index::{Copy, Index, Visible};
use super::records::Records;
use super::scan::{self, Found, Moved, OpenError, Scan, staged_name};
use super::store::{Fatal, Put, PutOutcome, ReadFault, Settle, Store, TEND_EVERY, Totals, WriteReport};
use crate::durable::{Disk, Folder, takes_nothing};
use crate::file_names::{Names, SUFFIX};
use crate::lock::Lock;
use crate::seeded::{self, Bug};
use crate::types::{CopyRecord, IoMode, Listed, MessageId, Payload, Version};

/// Copies as plain files in one flat folder.
#[derive(Debug)]
pub struct TextStore {
    disk: Arc<dyn Disk>,
    folder: Arc<dyn Folder>,
    io_mode: IoMode,
    records: Records,
    names: Names,
    index: Index,
    /// Whoever holds it is the only writer.
    writer: Lock<Writer>,
    /// Whoever holds it may sync the files behind the journal. Taken before the writer's.
    keeper: Lock<()>,
}

/// What only the writer changes.
#[derive(Debug)]
struct Writer {
    moved: Moved,
    spares: Spares,
    journals: Journals,
}

impl TextStore {
    /// Reads and checks every file of the folder, which nobody else may use.
    pub fn open(disk: Arc<dyn Disk>, folder: Arc<dyn Folder>, io_mode: IoMode) -> Result<(Self, Found), OpenError> {
        let path = folder.path().display().to_string();
        let failed = |what| {
            let file = path.clone();
            move |source| OpenError::Disk { what, file, source }
        };
        match folder.folds_case() {
            Ok(false) => {}
            Ok(true) => return Err(OpenError::FoldsCase { folder: path }),
            // Such a disk cannot be asked; reads go on, and the answer has not changed since the first start.
            Err(error) if takes_nothing(&error) => {}
            Err(error) => return Err(failed("probing")(error)),
        }
        let identity = identity::found(&*folder);
        let names = identity.as_ref().map(|identity| identity.names).unwrap_or_default();
        let (records, logged) = Records::open(&folder, identity.as_ref(), names)?;
        let left = LeftOver::read(&folder)?;
        let index = Index::default();
        let journaled = &left.ids();
        let scan = Scan { folder: &*folder, records: &records, names, logged: &logged, index: &index, journaled };
        let (mut found, moved) = scan.run()?;
        if let Some(torn) = logged.torn {
            found.ignored.push(format!("{}: torn at byte {}, cut", super::records::LOG_NAME, torn.offset));
        }
        let spares = Spares::found(moved.spares.iter().map(String::as_str));
        let writer = Lock::new(Writer { moved, spares, journals: Journals::after(&left) });
        let store = Self { disk, folder, io_mode, records, names, index, writer, keeper: Lock::default() };
        if !left.is_empty() {
            store.redo(&left, &mut found)?;
        }
        store.records.compact(&logged, &scan::live_records(&store.index))?;
        if io_mode == IoMode::Unbuffered {
            store.records.renew()?;
        }
        if io_mode == IoMode::Unbuffered || !left.is_empty() {
            // A process killed between a write and its sync left copies that only look safe.
            store.folder.sync_all().map_err(failed("syncing"))?;
            left.remove(&*store.folder).map_err(failed("cutting the journal in"))?;
        }
        store.cut_journal().map_err(|fatal| failed("beginning a journal in")(fatal.source))?;
        Ok((store, found))
    }

    /// Where its records are, as the identity says it.
    pub fn records_kind(&self) -> &'static str {
        self.records.kind()
    }

    /// Keeps so many files by from now on for deletions on a full disk.
    pub fn keep_spares(&self, wanted: usize) {
        self.writer().spares.keep(wanted, &*self.folder);
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock()
    }

    /// Reads and checks one file, whatever the index says.
    fn read_file(&self, name: &str, record: CopyRecord) -> Result<Payload, ReadFault> {
        let content = self.folder.open(name).and_then(|mut file| file.read_all(record.bytes() as usize));
        match content {
            Ok(content) if record.matches(&content) || seeded::active(Bug::ReadsNotChecked) => Ok(Bytes::from(content)),
            Ok(_) => Err(ReadFault::Damaged),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ReadFault::Absent),
            Err(_) if seeded::active(Bug::ReadErrorIsAbsent) => Err(ReadFault::Absent),
            Err(error) => Err(ReadFault::Unknown(format!("reading {name}: {error}"))),
        }
    }

    /// The file and record of one version, as the index has them.
    fn locate(&self, id: &MessageId, version: Version) -> Result<(String, CopyRecord), ReadFault> {
        let slot = self.index.get(id);
        let stem = self.names.stem(id);
        match slot.visible {
            Some(Visible::Recorded(Copy { record, .. }) | Visible::Foreign(record)) if record.version == version => {
                return Ok((format!("{stem}{SUFFIX}"), record));
            }
            _ => {}
        }
        match (slot.staged(version), slot.visible) {
            (Some(copy), _) => Ok((staged_name(version, &stem), copy.record)),
            (None, Some(Visible::Damaged(record))) if record.version == version => Err(ReadFault::Damaged),
            _ => Err(ReadFault::Absent),
        }
    }

    /// Remembers what a read found out while no batch was under way.
    fn note_fault(&self, id: &MessageId, record: CopyRecord, name: &str, fault: &ReadFault) {
        tracing::warn!(%id, version = %record.version, file = name, "a copy is {}", match fault {
            ReadFault::Damaged => "damaged: its content does not match its record",
            _ => "gone: somebody removed its file",
        });
        self.index.change(id, |slot| {
            let visible = matches!(slot.visible,
                Some(Visible::Recorded(Copy { record: r, .. }) | Visible::Foreign(r)) if r == record);
            match fault {
                ReadFault::Damaged if visible => slot.visible = Some(Visible::Damaged(record)),
                _ if visible => slot.visible = None,
                _ => slot.staged.retain(|copy| copy.record != record),
            }
        });
    }

    /// Syncs the files behind the journal, and begins the next one.
    fn cut_journal(&self) -> Result<(), Fatal> {
        // Records in a log of their own are struck out there, which no journal takes back.
        if self.io_mode != IoMode::Unbuffered || !matches!(self.records, Records::Attributes) {
            return Ok(());
        }
        let _keeper = self.keeper.lock();
        let failed = |what: &str, source| Fatal { what: format!("{what} {}", self.folder.path().display()), source };
        if !self.folder.syncs_as_a_whole().map_err(|error| failed("asking for the file system of", error))? {
            return Ok(());
        }
        let Some(number) = self.writer().journals.due() else { return Ok(()) };
        let Some(next) = Journals::begin(&self.folder, number)? else { return Ok(()) };
        if !self.writer().journals.renew(next) {
            return Ok(());
        }
        self.folder.sync_all().map_err(|error| failed("syncing", error))?;
        self.writer().journals.cut().map_err(|error| failed("cutting the journal in", error))
    }
}

impl Store for TextStore {
    fn write(&self, settles: &[Settle], puts: &[Put]) -> Result<WriteReport, Fatal> {
        let Writer { moved, spares, journals } = &mut *self.writer();
        let safety = match self.io_mode {
            IoMode::Buffered => Safety::Later,
            IoMode::Unbuffered if journals.are_kept() => Safety::Journal,
            IoMode::Unbuffered => Safety::Each,
        };
        let start = Instant::now();
        let mut batch = Batch::new(self, moved, spares, safety);
        for settle in settles {
            let done = batch.settle(settle)?;
            batch.report.settled.push(done);
        }
        let announced =
            self.records.announce(puts.iter().map(|put| (&put.id, put.record)), self.io_mode == IoMode::Unbuffered);
        if let Err(error) = &announced
            && self.records.is_poisoned()
        {
            return Err(Fatal { what: "announcing copies".to_owned(), source: io::Error::other(error.to_string()) });
        }
        for put in puts {
            let outcome = match &announced {
                Ok(()) => match batch.put(put) {
                    Ok(outcome) => outcome,
                    Err(fatal) => {
                        batch.withdraw();
                        return Err(fatal);
                    }
                },
                Err(error) => {
                    batch.note(error);
                    batch.report.full |= error.is_full();
                    if error.is_full() { PutOutcome::Full } else { PutOutcome::Failed }
                }
            };
            batch.report.outcomes.push(outcome);
        }
        batch.report.write_time += start.elapsed();
        let start = Instant::now();
        let mut safe = batch.sync(settles.iter().any(|settle| settle.lasting));
        if safe.is_ok() && safety == Safety::Journal && batch.has_changed() {
            let outcomes = puts.iter().zip(&batch.report.outcomes);
            let stored = outcomes.filter(|(_, outcome)| **outcome == PutOutcome::Stored).map(|(put, _)| put);
            safe = journals.note(&*self.folder, settles, stored.filter(|put| journal::takes(put)));
        }
        if let Err(fatal) = safe {
            batch.withdraw();
            return Err(fatal);
        }
        if safety != Safety::Later {
            batch.report.sync_time = start.elapsed();
        }
        Ok(batch.finish())
    }

    /// Syncs all files, and cuts the journal that they were behind. Writes go on meanwhile, in the next journal.
    fn tend(&self) -> Result<Duration, Fatal> {
        self.writer().spares.fill(&*self.folder);
        self.cut_journal().map(|()| TEND_EVERY)
    }

    fn read(&self, id: &MessageId, version: Version) -> Result<Payload, ReadFault> {
        let (name, record) = self.locate(id, version)?;
        match self.read_file(&name, record) {
            Err(ReadFault::Absent | ReadFault::Damaged) => {}
            other => return other,
        }
        // A batch may just have renamed or removed the file. If so the index will say it; in doubt,
        // the second look is taken while no batch is under way.
        let _no_batch = self.writer();
        let (name, record) = self.locate(id, version)?;
        let result = self.read_file(&name, record);
        if let Err(fault @ (ReadFault::Absent | ReadFault::Damaged)) = &result {
            self.note_fault(id, record, &name, fault);
        }
        result
    }

    fn check(&self, id: &MessageId, version: Version) -> Result<(), ReadFault> {
        if let Ok((name, record)) = self.locate(id, version)
            && let Ok(file) = self.folder.open(&name)
        {
            file.uncache(0, u64::from(record.bytes()));
        }
        self.read(id, version).map(drop)
    }

    fn newest(&self, id: &MessageId) -> Option<CopyRecord> {
        let slot = self.index.get(id);
        slot.copies().filter(|copy| !copy.fresh).map(|copy| copy.record).max_by_key(|record| record.version)
    }

    fn published(&self, id: &MessageId) -> Option<CopyRecord> {
        let slot = self.index.get(id);
        let deleted = slot.staged.last().is_some_and(|copy| !copy.fresh && copy.record.is_tombstone());
        slot.recorded().filter(|copy| !copy.fresh && !deleted).map(|copy| copy.record)
    }

    fn is_unpublished(&self, id: &MessageId, version: Version) -> bool {
        self.index.get(id).unpublished().any(|copy| copy.record.version == version)
    }

    fn inventory(&self, part: usize) -> Vec<Listed> {
        self.index.part(part)
    }

    fn totals(&self) -> Totals {
        self.index.totals()
    }
}

#[cfg(test)]
mod tests;
