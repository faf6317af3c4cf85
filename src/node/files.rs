//! The text layout: one message, one file, for anyone to read.
//!
//! The invariant: the file of an id's name is never replaced but by a copy that is whole, recorded and
//! committed; what is not ours, or not whole, is put aside and never destroyed. A new id is created in place,
//! its record before its content (creating costs half of what creating and renaming does), so that a torn
//! one is told by its record; a newer version of an id waits as a staged file until it is settled.
//! `batch` is the one that writes.

mod batch;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;

use self::batch::Batch;
use super::index::{Copy, Index, Visible};
use super::records::Records;
use super::scan::{self, Found, Moved, OpenError, Scan, staged_name};
use super::store::{Entry, Fatal, Put, PutOutcome, ReadFault, Settle, Store, Totals, WriteReport};
use crate::durable::{Disk, Folder, is_full};
use crate::file_names::{self, SUFFIX};
use crate::seeded::{self, Bug};
use crate::types::{CopyRecord, IoMode, MessageId, Payload, Version};

/// Copies as plain files in one flat folder.
#[derive(Debug)]
pub struct TextStore {
    disk: Arc<dyn Disk>,
    folder: Arc<dyn Folder>,
    io_mode: IoMode,
    records: Records,
    index: Index,
    /// Whoever holds it is the only writer.
    writer: Mutex<Moved>,
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
            Err(error) if is_full(&error) || error.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
            Err(error) => return Err(failed("probing")(error)),
        }
        let (records, logged) = Records::open(&folder)?;
        let index = Index::default();
        let scan = Scan { folder: &*folder, records: &records, logged: &logged, index: &index };
        let (mut found, moved) = scan.run()?;
        if let Some(torn) = logged.torn {
            found.ignored.push(format!("{}: torn at byte {}, cut", super::records::LOG_NAME, torn.offset));
        }
        records.compact(&logged, &scan::live_records(&index))?;
        if io_mode == IoMode::Unbuffered {
            // A process killed between a write and its sync left copies that only look safe.
            folder.sync_all().map_err(failed("syncing"))?;
        }
        Ok((Self { disk, folder, io_mode, records, index, writer: Mutex::new(moved) }, found))
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
        let stem = file_names::stem(id);
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
}

impl Store for TextStore {
    fn write(&self, settles: &[Settle], puts: &[Put]) -> Result<WriteReport, Fatal> {
        let mut moved = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let start = Instant::now();
        let mut batch = Batch::new(self, &mut moved);
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
                Ok(()) => batch.put(put)?,
                Err(error) => {
                    batch.note(error);
                    if error.is_full() { PutOutcome::Full } else { PutOutcome::Failed }
                }
            };
            batch.report.outcomes.push(outcome);
        }
        batch.report.write_time += start.elapsed();
        batch.finish(settles.iter().any(|settle| settle.lasting))
    }

    fn read(&self, id: &MessageId, version: Version) -> Result<Payload, ReadFault> {
        let (name, record) = self.locate(id, version)?;
        match self.read_file(&name, record) {
            Err(ReadFault::Absent | ReadFault::Damaged) => {}
            other => return other,
        }
        // A batch may just have renamed or removed the file. If so the index will say it; in doubt,
        // the second look is taken while no batch is under way.
        let _no_batch = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let (name, record) = self.locate(id, version)?;
        let result = self.read_file(&name, record);
        if let Err(fault @ (ReadFault::Absent | ReadFault::Damaged)) = &result {
            self.note_fault(id, record, &name, fault);
        }
        result
    }

    fn newest(&self, id: &MessageId) -> Option<CopyRecord> {
        let slot = self.index.get(id);
        slot.copies().filter(|copy| !copy.fresh).map(|copy| copy.record).max_by_key(|record| record.version)
    }

    fn inventory(&self, part: usize) -> Vec<Entry> {
        self.index.part(part)
    }

    fn totals(&self) -> Totals {
        self.index.totals()
    }
}

#[cfg(test)]
mod tests;
