//! One call of `Store::write` under way: settles, then puts, then what makes them safe.
//!
//! A failed sync or rename is never tried again.

use std::io::{self, IoSlice};

use super::super::index::{Copy, Slot, Visible};
use super::super::scan::{ASIDE, Moved, measure, staged_name};
use super::super::store::{Body, Fatal, Put, PutOutcome, WriteReport};
use super::spares::{Room, Spares};
use super::{TextStore, journal};
use crate::durable::{DiskFile, is_full, is_gone, is_refused};
use crate::file_names::SUFFIX;
use crate::seeded::{self, Bug};
use crate::types::{MessageId, Version};

/// Files of one batch that are open at once, waiting for their sync; a larger batch syncs in turns.
pub(super) const OPEN_FILES: usize = 256;

/// What makes the work of a batch safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Safety {
    /// Nothing in this batch.
    Later,
    /// The sync of each file, and of the folder.
    Each,
    /// The journal, but for files that it does not take.
    Journal,
}

pub(super) struct Batch<'a> {
    pub(super) store: &'a TextStore,
    pub(super) moved: &'a mut Moved,
    spares: &'a mut Spares,
    /// Asked for with the first put that needs it.
    room: Option<Room>,
    safety: Safety,
    pub(super) report: WriteReport,
    files: Vec<Box<dyn DiskFile>>,
    /// The files that this batch has made and nobody was told of.
    made: Vec<String>,
    fresh: Vec<MessageId>,
    pub(super) removed: Vec<(MessageId, Version)>,
    pub(super) names_changed: bool,
    /// The journal does not have all of the batch.
    beyond_journal: bool,
    /// The file system is gone, and what it said.
    gone: Option<String>,
}

/// What became of a rename.
pub(super) enum Renamed {
    Done,
    /// There is no such file: of all errors, only this one leaves no doubt.
    Absent,
    /// This file cannot be renamed, or its disk takes nothing: all is as it was.
    Refused(io::Error),
}

/// Why a copy was not written.
enum Miss {
    /// Its file is gone again.
    Nothing(io::Error),
    /// A part of it could not be removed.
    Partial(io::Error),
}

impl<'a> Batch<'a> {
    pub(super) fn new(store: &'a TextStore, moved: &'a mut Moved, spares: &'a mut Spares, safety: Safety) -> Self {
        Self {
            store,
            moved,
            spares,
            room: None,
            safety,
            report: WriteReport::default(),
            files: Vec::new(),
            made: Vec::new(),
            fresh: Vec::new(),
            removed: Vec::new(),
            names_changed: false,
            beyond_journal: false,
            gone: None,
        }
    }

    /// Whether files were made, renamed or removed.
    pub(super) fn has_changed(&self) -> bool {
        self.names_changed
    }

    pub(super) fn note(&mut self, error: impl std::fmt::Display) {
        self.report.error.get_or_insert_with(|| error.to_string());
    }

    fn fatal(&self, what: &str, name: &str, source: io::Error) -> Fatal {
        Fatal { what: format!("{what} {}", self.store.folder.path().join(name).display()), source }
    }

    /// After any error but these nobody knows what the folder holds.
    pub(super) fn rename(&mut self, from: &str, to: &str) -> Result<Renamed, Fatal> {
        match self.store.folder.rename(from, to) {
            Ok(()) => {
                self.names_changed = true;
                Ok(Renamed::Done)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Renamed::Absent),
            Err(error) if is_refused(&error) => {
                self.note(format!("renaming {from}: {error}"));
                Ok(Renamed::Refused(error))
            }
            Err(error) => Err(self.fatal("renaming", from, error)),
        }
    }

    /// Moves whatever bears an id's name out of the way, and says where it is now; the inner error: it stays there.
    pub(super) fn put_aside(&mut self, stem: &str) -> Result<io::Result<Option<String>>, Fatal> {
        let aside = format!("{ASIDE}{}-{stem}", self.moved.next);
        let name = format!("{stem}{SUFFIX}");
        match self.rename(&name, &aside)? {
            Renamed::Absent => return Ok(Ok(None)),
            Renamed::Refused(error) => return Ok(Err(error)),
            Renamed::Done => {}
        }
        self.moved.next += 1;
        tracing::warn!(file = name, aside, "a file that is no copy of ours was in the way and is put aside");
        Ok(Ok(Some(aside)))
    }

    /// Removes a file of ours; false if it is still there.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        match self.store.folder.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                self.note(format!("removing {name}: {error}"));
                false
            }
            _ => {
                self.names_changed = true;
                true
            }
        }
    }

    pub(super) fn put(&mut self, put: &Put) -> Result<PutOutcome, Fatal> {
        let Put { id, record, body } = put;
        if record.version == Version::FOREIGN || record.is_tombstone() != (*body == Body::Deleted) {
            self.note("a copy without a version, or with the record of another kind, is not kept");
            return Ok(PutOutcome::Failed);
        }
        let slot = self.store.index.get(id);
        match slot.newest() {
            Some(newest) if newest.version > record.version => {
                return Ok(if seeded::active(Bug::StaleAnsweredStored) {
                    PutOutcome::Stored
                } else {
                    PutOutcome::Stale
                });
            }
            Some(newest) if newest == *record => return Ok(PutOutcome::Stored),
            Some(newest) if newest.version == record.version => {
                return Ok(if seeded::active(Bug::ConflictAnsweredStored) {
                    PutOutcome::Stored
                } else {
                    PutOutcome::Conflict
                });
            }
            _ => {}
        }
        if let Body::Bytes(content) = body
            && slot.newest().is_none_or(|newest| content.len() > newest.bytes() as usize)
            && !self.room.get_or_insert_with(|| Room::of(self.store.folder.space())).take(content.len())
        {
            let why = "the disk is nearly full: what is left is kept for deletions";
            return Ok(self.missed(io::Error::new(io::ErrorKind::StorageFull, why)));
        }
        self.keep(put, &slot)
    }

    /// Writes a copy that is to be kept, in the place that is right beside what else is there of its id.
    pub(super) fn keep(&mut self, put: &Put, slot: &Slot) -> Result<PutOutcome, Fatal> {
        let Put { id, record, body } = put;
        let stem = self.store.names.stem(id);
        // The leader knows what was committed: a file of that content is that message, whatever record it has or has not.
        let adoptable = match slot.visible {
            Some(Visible::Foreign(found)) => (found.length, found.crc) == (record.length, record.crc),
            None => *body == Body::Adopt,
            Some(Visible::Recorded(_) | Visible::Damaged(_)) => false,
        };
        match (body, slot.visible) {
            (Body::Deleted, _) => self.stage(put, &[], &stem),
            (Body::Adopt, Some(Visible::Damaged(_))) => self.adopt_content(put, &stem),
            _ if adoptable => match self.adopt(put, &stem)? {
                Some(outcome) => Ok(outcome),
                // Somebody has changed it since.
                None => match body {
                    Body::Bytes(content) => self.in_place(put, content, &stem, true),
                    Body::Adopt | Body::Deleted => Ok(self.nothing_to_adopt()),
                },
            },
            (Body::Adopt, _) => Ok(self.nothing_to_adopt()),
            (Body::Bytes(content), Some(Visible::Recorded(_))) => self.stage(put, content, &stem),
            // What was visible is gone, and the next in turn may be committed and only wait to be published.
            (Body::Bytes(content), None) if slot.unpublished().any(|copy| copy.record.version < record.version) => {
                self.stage(put, content, &stem)
            }
            (Body::Bytes(content), visible) => self.in_place(put, content, &stem, visible.is_some()),
        }
    }

    fn nothing_to_adopt(&mut self) -> PutOutcome {
        self.note("no file of that content to adopt");
        PutOutcome::Failed
    }

    /// Gives the foreign file its record; nothing if it has other content by now.
    fn adopt(&mut self, put: &Put, stem: &str) -> Result<Option<PutOutcome>, Fatal> {
        let adopted = self.store.folder.edit(&format!("{stem}{SUFFIX}")).and_then(|mut file| {
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
            // A link or a folder is nobody's copy.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
            Err(error) => Ok(Some(self.missed(error))),
        }
    }

    /// A file whose record is not its own, but whose content is that of the put, is written anew: it may be one file under
    /// several names, and the record belongs to another of them.
    fn adopt_content(&mut self, put: &Put, stem: &str) -> Result<PutOutcome, Fatal> {
        let name = format!("{stem}{SUFFIX}");
        let content = self.store.folder.open(&name).and_then(|mut file| file.read_all(put.record.bytes() as usize));
        match content {
            Ok(content) if put.record.matches(&content) => self.in_place(put, &content, stem, true),
            Ok(_) => Ok(self.nothing_to_adopt()),
            Err(error) => Ok(self.missed(error)),
        }
    }

    /// Creates the file of the id's name; first moves away what has no business there.
    fn in_place(&mut self, put: &Put, content: &[u8], stem: &str, in_the_way: bool) -> Result<PutOutcome, Fatal> {
        let name = format!("{stem}{SUFFIX}");
        let before = self.store.index.get(&put.id).visible;
        let mut aside = None;
        if in_the_way && before.is_some() {
            match self.put_aside(stem)? {
                Ok(moved) => aside = moved,
                Err(error) => return Ok(self.missed(error)),
            }
        }
        let mut written = self.write_file(&name, stem, put, content);
        if aside.is_none() && matches!(&written, Err(Miss::Nothing(e)) if e.kind() == io::ErrorKind::AlreadyExists) {
            // Dropped in while the node ran, or ignored at its start.
            match self.put_aside(stem)? {
                Ok(moved) => aside = moved,
                Err(error) => return Ok(self.missed(error)),
            }
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
        if matches!(&written, Err(Miss::Nothing(error)) if is_full(error))
            && let Some(file) = self.use_spare(&name, stem, put, content)
        {
            written = Ok(file);
        }
        match written {
            Ok(file) => self.wrote(put, file, |slot, copy| slot.stage(copy)),
            Err(Miss::Nothing(error) | Miss::Partial(error)) => Ok(self.missed(error)),
        }
    }

    /// On a full disk a file that was put by becomes a tombstone, or what takes the place of something longer.
    fn use_spare(&mut self, name: &str, stem: &str, put: &Put, content: &[u8]) -> Option<Box<dyn DiskFile>> {
        let newest = self.store.index.get(&put.id).newest();
        if !put.record.is_tombstone() && newest.is_none_or(|newest| newest.bytes() < put.record.bytes()) {
            return None;
        }
        let records = &self.store.records;
        let record = |file: &mut dyn DiskFile| records.attach(file, &put.id, put.record, stem);
        let file = self.spares.become_file(&*self.store.folder, name, content, record)?.ok()?;
        self.names_changed = true;
        if self.safety != Safety::Later {
            self.made.push(name.to_owned());
        }
        Some(file)
    }

    fn missed(&mut self, error: io::Error) -> PutOutcome {
        let full = is_full(&error);
        if is_gone(&error) {
            self.gone.get_or_insert_with(|| error.to_string());
        }
        self.note(error);
        self.report.full |= full;
        if !full {
            return PutOutcome::Failed;
        }
        while !self.moved.trash.is_empty() {
            self.empty_trash_by_one();
        }
        PutOutcome::Full
    }

    fn write_file(&mut self, name: &str, stem: &str, put: &Put, content: &[u8]) -> Result<Box<dyn DiskFile>, Miss> {
        let mut file = self.store.folder.create_new(name).map_err(Miss::Nothing)?;
        self.names_changed = true;
        let early = seeded::active(Bug::ContentBeforeRecord);
        let write = |file: &mut dyn DiskFile| match content {
            [] => Ok(()),
            content => file.append(&[IoSlice::new(content)]),
        };
        let written = if early { write(&mut *file) } else { Ok(()) }
            .and_then(|()| self.store.records.attach(&mut *file, &put.id, put.record, stem))
            .and_then(|()| if early { Ok(()) } else { write(&mut *file) });
        match written {
            Ok(()) => {
                if self.safety != Safety::Later {
                    self.made.push(name.to_owned());
                }
                Ok(file)
            }
            Err(error) => Err(if self.remove(name) { Miss::Nothing(error) } else { Miss::Partial(error) }),
        }
    }

    fn wrote(
        &mut self,
        put: &Put,
        file: Box<dyn DiskFile>,
        change: impl FnOnce(&mut Slot, Copy),
    ) -> Result<PutOutcome, Fatal> {
        let fresh = self.safety != Safety::Later;
        self.store.index.change(&put.id, |slot| change(slot, Copy { record: put.record, fresh }));
        if fresh {
            self.fresh.push(put.id.clone());
        }
        if self.safety == Safety::Each || self.safety == Safety::Journal && !journal::takes(put) {
            self.beyond_journal = true;
            self.files.push(file);
            if self.files.len() >= OPEN_FILES {
                self.sync_files()?;
            }
        }
        Ok(PutOutcome::Stored)
    }

    fn sync_files(&mut self) -> Result<(), Fatal> {
        let files = std::mem::take(&mut self.files);
        if seeded::active(Bug::CopiesNotSynced) {
            return Ok(());
        }
        for result in self.store.disk.sync_many(files) {
            if seeded::active(Bug::FailedCopySyncIgnored) {
                continue;
            }
            result.map_err(|source| self.fatal("syncing a copy in", "", source))?;
        }
        Ok(())
    }

    /// A sync has failed. What it should have written can be read as if it were whole, and no later sync writes it: the next
    /// start would take it for safe. So it goes. Nobody was told of it, and the journal has what it was asked to keep.
    pub(super) fn withdraw(&mut self) {
        if seeded::active(Bug::UnsyncedCopyLeft) {
            return;
        }
        for name in std::mem::take(&mut self.made) {
            self.remove(&name);
        }
    }

    /// Makes everything safe that the journal is not asked to. `lasting`: what is gone stays gone, whatever the
    /// mode. Earlier batches may have removed it, so the folder is synced anyway.
    pub(super) fn sync(&mut self, lasting: bool) -> Result<(), Fatal> {
        if let Some(gone) = self.gone.take() {
            return Err(self.fatal("writing to", "", io::Error::other(gone)));
        }
        self.sync_files()?;
        let names = match self.safety {
            Safety::Later => lasting,
            Safety::Each => self.names_changed && !seeded::active(Bug::NamesNotSynced),
            Safety::Journal => self.beyond_journal,
        };
        if names {
            self.store.folder.sync().map_err(|source| self.fatal("syncing", "", source))?;
        }
        Ok(())
    }

    /// All is as safe as the IO mode says: now the batch's work is shown to inventories.
    pub(super) fn finish(mut self) -> WriteReport {
        for id in std::mem::take(&mut self.fresh) {
            self.store.index.change(&id, |slot| {
                if let Some(Visible::Recorded(copy)) = &mut slot.visible {
                    copy.fresh = false;
                }
                slot.staged.iter_mut().for_each(|copy| copy.fresh = false);
            });
        }
        // One that this batch has written again needs its record.
        let has = |id: &MessageId, upto: Version| self.store.index.get(id).copies().any(|c| c.record.version <= upto);
        self.removed.retain(|(id, upto)| !has(id, *upto));
        if self.names_changed {
            self.spares.fill(&*self.store.folder);
        }
        if !self.removed.is_empty()
            && let Err(error) = self.store.records.forget(&self.removed)
        {
            self.note(error); // a record without its file says nothing
        }
        self.report
    }
}
