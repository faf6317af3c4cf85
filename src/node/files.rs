//! The text layout: one message, one file, for anyone to read.
//!
//! The invariant: the file of an id's name is never replaced but by a copy that is whole, recorded and
//! committed; what is not ours, or not whole, is put aside and never destroyed. A new id is created in place,
//! its record before its content (creating costs half of what creating and renaming does), so that a torn
//! one is told by its record; a newer version of an id waits as a staged file until it is settled.
//! A failed sync or rename is never tried again.

use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;

use super::index::{Copy, Index, Visible};
use super::records::Records;
use super::scan::{self, ASIDE, Found, OpenError, Scan, measure, staged_name};
use super::store::{Body, Entry, Fatal, Put, PutOutcome, ReadFault, Settle, Store, Totals, WriteReport};
use crate::durable::{Disk, DiskFile, Folder, is_full};
use crate::file_names::{self, SUFFIX};
use crate::types::{CopyRecord, IoMode, MessageId, Payload, Version};

/// Files of one batch that are open at once, waiting for their sync; a larger batch syncs in turns.
const OPEN_FILES: usize = 256;

/// Copies as plain files in one flat folder.
#[derive(Debug)]
pub struct TextStore {
    disk: Arc<dyn Disk>,
    folder: Arc<dyn Folder>,
    io_mode: IoMode,
    records: Records,
    index: Index,
    /// The number of the next file that is put aside. Whoever holds it is the only writer.
    writer: Mutex<u64>,
}

/// One call of `write` under way.
struct Batch<'a> {
    store: &'a TextStore,
    next_aside: &'a mut u64,
    report: WriteReport,
    files: Vec<Box<dyn DiskFile>>,
    fresh: Vec<MessageId>,
    removed: Vec<(MessageId, Version)>,
    names_changed: bool,
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
        let (mut found, next_aside) = scan.run()?;
        if let Some(torn) = logged.torn {
            found.ignored.push(format!("{}: torn at byte {}, cut", super::records::LOG_NAME, torn.offset));
        }
        records.compact(&logged, &scan::live_records(&index))?;
        if io_mode == IoMode::Unbuffered {
            // A process killed between a write and its sync left copies that only look safe.
            folder.sync_all().map_err(failed("syncing"))?;
        }
        Ok((Self { disk, folder, io_mode, records, index, writer: Mutex::new(next_aside) }, found))
    }

    /// Reads and checks one file, whatever the index says.
    fn read_file(&self, name: &str, record: CopyRecord) -> Result<Payload, ReadFault> {
        let content = self.folder.open(name).and_then(|mut file| file.read_all(record.length as usize));
        match content {
            Ok(content) if record.matches(&content) => Ok(Bytes::from(content)),
            Ok(_) => Err(ReadFault::Damaged),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ReadFault::Absent),
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
        let mut next_aside = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let start = Instant::now();
        let mut batch = Batch {
            store: self,
            next_aside: &mut next_aside,
            report: WriteReport::default(),
            files: Vec::new(),
            fresh: Vec::new(),
            removed: Vec::new(),
            names_changed: false,
        };
        for settle in settles {
            batch.settle(settle)?;
        }
        let announced =
            self.records.announce(puts.iter().map(|put| (&put.id, put.record)), self.io_mode == IoMode::Unbuffered);
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
        batch.finish()
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

/// Why a copy was not written.
enum Miss {
    /// Its file is gone again.
    Nothing(io::Error),
    /// A part of it could not be removed.
    Partial(io::Error),
}

impl Batch<'_> {
    fn note(&mut self, error: impl std::fmt::Display) {
        self.report.error.get_or_insert_with(|| error.to_string());
    }

    fn fatal(&self, what: &str, name: &str, source: io::Error) -> Fatal {
        Fatal { what: format!("{what} {}", self.store.folder.path().join(name).display()), source }
    }

    /// False if there is no file `from`: of all errors, only this one leaves no doubt.
    fn rename(&mut self, from: &str, to: &str) -> Result<bool, Fatal> {
        match self.store.folder.rename(from, to) {
            Ok(()) => {
                self.names_changed = true;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.fatal("renaming", from, error)),
        }
    }

    /// Moves whatever bears an id's name out of the way, and says where it is now.
    fn put_aside(&mut self, stem: &str) -> Result<Option<String>, Fatal> {
        let aside = format!("{ASIDE}{}-{stem}", self.next_aside);
        let name = format!("{stem}{SUFFIX}");
        if !self.rename(&name, &aside)? {
            return Ok(None);
        }
        *self.next_aside += 1;
        tracing::warn!(file = name, aside, "a file that is no copy of ours was in the way and is put aside");
        Ok(Some(aside))
    }

    /// Removes a file of ours; false if it is still there.
    fn remove(&mut self, name: &str) -> bool {
        self.names_changed = true;
        match self.store.folder.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                self.note(format!("removing {name}: {error}"));
                false
            }
            _ => true,
        }
    }

    fn settle(&mut self, settle: &Settle) -> Result<(), Fatal> {
        let Settle { id, version, keep } = settle;
        let slot = self.store.index.get(id);
        let stem = file_names::stem(id);
        let visible = slot.recorded().map(|copy| copy.record.version);
        if !keep {
            if visible.is_some_and(|visible| visible <= *version) && self.remove(&format!("{stem}{SUFFIX}")) {
                self.store.index.change(id, |slot| slot.visible = None);
            }
            self.remove_staged(id, &stem, |staged| staged <= *version);
            // A record is struck out only if no file needs it any more: a damaged one without it would look foreign.
            let left = self.store.index.get(id);
            let damaged = matches!(left.visible, Some(Visible::Damaged(record)) if record.version <= *version);
            if slot.copies().next().is_some() && !damaged && left.copies().all(|copy| copy.record.version > *version) {
                self.removed.push((id.clone(), *version));
            }
            return Ok(());
        }
        match (slot.staged(*version), visible) {
            // Publishing never goes backward.
            (Some(copy), visible) if visible.is_none_or(|visible| visible < *version) => {
                let staged = staged_name(*version, &stem);
                let name = format!("{stem}{SUFFIX}");
                if visible.is_none() && self.put_aside(&stem)?.is_some() {
                    // Foreign, damaged, or dropped in: nothing of ours, and never overwritten.
                    self.store.index.change(id, |slot| slot.visible = None);
                }
                if !self.rename(&staged, &name)? {
                    self.note(format!("{staged} is gone: somebody removed it"));
                    self.store.index.change(id, |slot| slot.staged.retain(|other| other.record.version != *version));
                    return Ok(());
                }
                self.store.index.change(id, |slot| {
                    slot.visible = Some(Visible::Recorded(copy));
                    slot.staged.retain(|other| other.record.version != *version);
                });
                self.remove_staged(id, &stem, |staged| staged < *version);
            }
            (staged, visible) if staged.is_some() || visible == Some(*version) => {
                self.remove_staged(id, &stem, |staged| staged < *version);
            }
            _ => {}
        }
        Ok(())
    }

    fn remove_staged(&mut self, id: &MessageId, stem: &str, which: impl Fn(Version) -> bool) {
        for copy in self.store.index.get(id).staged {
            let version = copy.record.version;
            if which(version) && self.remove(&staged_name(version, stem)) {
                self.store.index.change(id, |slot| slot.staged.retain(|other| other.record.version != version));
            }
        }
    }

    fn put(&mut self, put: &Put) -> Result<PutOutcome, Fatal> {
        let Put { id, record, body } = put;
        if record.version == Version::FOREIGN {
            self.note("a copy without a version is not kept");
            return Ok(PutOutcome::Failed);
        }
        let slot = self.store.index.get(id);
        match slot.newest() {
            Some(newest) if newest.version > record.version => return Ok(PutOutcome::Stale),
            Some(newest) if newest == *record => return Ok(PutOutcome::Stored),
            Some(newest) if newest.version == record.version => return Ok(PutOutcome::Conflict),
            _ => {}
        }
        let stem = file_names::stem(id);
        let adoptable =
            matches!(slot.visible, Some(Visible::Foreign(f)) if (f.length, f.crc) == (record.length, record.crc));
        match (body, slot.visible) {
            (_, Some(Visible::Foreign(_))) if adoptable => match self.adopt(put, &stem)? {
                Some(outcome) => Ok(outcome),
                // Somebody has changed it since.
                None => match body {
                    Body::Bytes(content) => self.in_place(put, content, &stem, true),
                    Body::Adopt => Ok(self.nothing_to_adopt()),
                },
            },
            (Body::Adopt, _) => Ok(self.nothing_to_adopt()),
            (Body::Bytes(content), Some(Visible::Recorded(_))) => self.stage(put, content, &stem),
            (Body::Bytes(content), visible) => self.in_place(put, content, &stem, visible.is_some()),
        }
    }

    fn nothing_to_adopt(&mut self) -> PutOutcome {
        self.note("no file of that content to adopt");
        PutOutcome::Failed
    }

    /// Gives the foreign file its record; nothing if it has other content by now.
    fn adopt(&mut self, put: &Put, stem: &str) -> Result<Option<PutOutcome>, Fatal> {
        let adopted = self.store.folder.open(&format!("{stem}{SUFFIX}")).and_then(|mut file| {
            if measure(&*file, &mut Vec::new())? != (u64::from(put.record.length), put.record.crc) {
                return Ok(None);
            }
            self.store.records.attach(&mut *file, &put.id, put.record, stem)?;
            Ok(Some(file))
        });
        match adopted {
            Ok(Some(file)) => {
                self.wrote(put, file, |slot, copy| slot.visible = Some(Visible::Recorded(copy))).map(Some)
            }
            Ok(None) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.store.index.change(&put.id, |slot| slot.visible = None);
                Ok(None)
            }
            Err(error) => Ok(Some(self.missed(error))),
        }
    }

    /// Creates the file of the id's name; first moves away what has no business there.
    fn in_place(&mut self, put: &Put, content: &[u8], stem: &str, in_the_way: bool) -> Result<PutOutcome, Fatal> {
        let name = format!("{stem}{SUFFIX}");
        let before = self.store.index.get(&put.id).visible;
        let mut aside = None;
        if in_the_way && before.is_some() {
            aside = self.put_aside(stem)?;
        }
        let mut written = self.write_file(&name, stem, put, content);
        if aside.is_none() && matches!(&written, Err(Miss::Nothing(e)) if e.kind() == io::ErrorKind::AlreadyExists) {
            // Dropped in while the node ran, or ignored at its start.
            aside = self.put_aside(stem)?;
            written = self.write_file(&name, stem, put, content);
        }
        match written {
            Ok(file) => self.wrote(put, file, |slot, copy| slot.visible = Some(Visible::Recorded(copy))),
            Err(Miss::Nothing(error)) => {
                if let Some(aside) = aside {
                    self.rename(&aside, &name)?; // as it was
                }
                Ok(self.missed(error))
            }
            Err(Miss::Partial(error)) => {
                self.store.index.change(&put.id, |slot| slot.visible = Some(Visible::Damaged(put.record)));
                Ok(self.missed(error))
            }
        }
    }

    /// Writes beside the visible copy, which stays untouched until the commit is known.
    fn stage(&mut self, put: &Put, content: &[u8], stem: &str) -> Result<PutOutcome, Fatal> {
        let name = staged_name(put.record.version, stem);
        let mut written = self.write_file(&name, stem, put, content);
        if matches!(&written, Err(Miss::Nothing(e)) if e.kind() == io::ErrorKind::AlreadyExists) {
            // Left over from a write that failed: the index does not have it.
            if self.remove(&name) {
                written = self.write_file(&name, stem, put, content);
            }
        }
        match written {
            Ok(file) => self.wrote(put, file, |slot, copy| slot.stage(copy)),
            Err(Miss::Nothing(error) | Miss::Partial(error)) => Ok(self.missed(error)),
        }
    }

    fn missed(&mut self, error: io::Error) -> PutOutcome {
        let outcome = if is_full(&error) { PutOutcome::Full } else { PutOutcome::Failed };
        self.note(error);
        outcome
    }

    fn write_file(&mut self, name: &str, stem: &str, put: &Put, content: &[u8]) -> Result<Box<dyn DiskFile>, Miss> {
        let mut file = self.store.folder.create_new(name).map_err(Miss::Nothing)?;
        self.names_changed = true;
        let written = self
            .store
            .records
            .attach(&mut *file, &put.id, put.record, stem)
            .and_then(|()| if content.is_empty() { Ok(()) } else { file.append(&[IoSlice::new(content)]) });
        match written {
            Ok(()) => Ok(file),
            Err(error) => Err(if self.remove(name) { Miss::Nothing(error) } else { Miss::Partial(error) }),
        }
    }

    fn wrote(
        &mut self,
        put: &Put,
        file: Box<dyn DiskFile>,
        change: impl FnOnce(&mut super::index::Slot, Copy),
    ) -> Result<PutOutcome, Fatal> {
        let unbuffered = self.store.io_mode == IoMode::Unbuffered;
        self.store.index.change(&put.id, |slot| change(slot, Copy { record: put.record, fresh: unbuffered }));
        if unbuffered {
            self.fresh.push(put.id.clone());
            self.files.push(file);
            if self.files.len() >= OPEN_FILES {
                self.sync_files()?;
            }
        }
        Ok(PutOutcome::Stored)
    }

    fn sync_files(&mut self) -> Result<(), Fatal> {
        for result in self.store.disk.sync_many(std::mem::take(&mut self.files)) {
            result.map_err(|source| self.fatal("syncing a copy in", "", source))?;
        }
        Ok(())
    }

    /// Makes everything as safe as the IO mode says; only then is the batch's work shown to inventories.
    fn finish(mut self) -> Result<WriteReport, Fatal> {
        if self.store.io_mode == IoMode::Unbuffered {
            let start = Instant::now();
            self.sync_files()?;
            if self.names_changed {
                self.store.folder.sync().map_err(|source| self.fatal("syncing", "", source))?;
            }
            for id in std::mem::take(&mut self.fresh) {
                self.store.index.change(&id, |slot| {
                    if let Some(Visible::Recorded(copy)) = &mut slot.visible {
                        copy.fresh = false;
                    }
                    slot.staged.iter_mut().for_each(|copy| copy.fresh = false);
                });
            }
            self.report.sync_time = start.elapsed();
        }
        if !self.removed.is_empty()
            && let Err(error) = self.store.records.forget(&self.removed)
        {
            self.note(error); // a record without its file says nothing
        }
        Ok(self.report)
    }
}

#[cfg(test)]
mod tests;
