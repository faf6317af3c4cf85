//! What a start does with the journals that it finds: every step again, and every file anew.
//!
//! The invariant: a journal goes only when each put in it is on the disk in a file that was written by this life. That a
//! file can be read proves nothing: after a failed sync its content is in memory, taken for written, and not on
//! the disk, and no later sync writes it. (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020.)

use std::collections::HashSet;
use std::io::{self, IoSlice};

use super::super::index::Visible;
use super::super::scan::{Found, OpenError, staged_name};
use super::super::store::{Body, Fatal, Put, PutOutcome};
use super::batch::{Batch, OPEN_FILES, Safety};
use super::journal::{LeftOver, Step};
use super::{TextStore, Writer};
use crate::durable::{DiskFile, is_full, is_refused};
use crate::file_names::SUFFIX;
use crate::seeded::{self, Bug};
use crate::types::{MessageId, Version};

/// A file that is written anew, until it takes the place of the one that it is written for: `.redo-<n>`.
const PREFIX: &str = ".redo-";

impl TextStore {
    /// Does again what the journal of the life before says.
    pub(super) fn redo(&self, left: &LeftOver, found: &mut Found) -> Result<(), OpenError> {
        let puts = || {
            left.steps.iter().filter_map(|step| match step {
                Step::Put(put) => Some(put),
                Step::Settle(_) => None,
            })
        };
        let announced = self.records.announce(puts().map(|put| (&put.id, put.record)), true);
        announced.map_err(|error| self.not_redone(error))?;
        let made = self.replay(left)?;
        found.messages = self.index.totals().messages;
        let is_made = |put: &Put| made.contains(&(&put.id, put.record.version));
        let read_only: Vec<&Put> = puts().filter(|put| !is_made(put)).collect();
        let anew = if seeded::active(Bug::JournalReadBack) { 0 } else { self.write_anew(&read_only)? };
        tracing::info!(
            "did {} steps of the journal again: {} copies were missing, and the files of {anew} are written anew",
            left.steps.len(),
            made.len()
        );
        Ok(())
    }

    fn not_redone(&self, reason: impl std::fmt::Display) -> OpenError {
        OpenError::NotRedone { file: self.folder.path().display().to_string(), reason: reason.to_string() }
    }

    /// Does every step again that was not done, and gives the copies that were missing.
    fn replay<'a>(&self, left: &'a LeftOver) -> Result<HashSet<(&'a MessageId, Version)>, OpenError> {
        let mut made = HashSet::new();
        let Writer { moved, spares, .. } = &mut *self.writer();
        let mut batch = Batch::new(self, moved, spares, Safety::Later);
        for step in &left.steps {
            let outcome = match step {
                Step::Settle(settle) => batch.settle(settle).map(|_| PutOutcome::Stale),
                Step::Put(put) => batch.put_again(put),
            };
            match (step, outcome.map_err(|fatal| self.not_redone(fatal))?) {
                (Step::Put(put), PutOutcome::Stored) => drop(made.insert((&put.id, put.record.version))),
                (_, PutOutcome::Stored | PutOutcome::Stale) => {}
                (_, PutOutcome::Conflict | PutOutcome::Full | PutOutcome::Failed) => {
                    return Err(self.not_redone(batch.report.error.unwrap_or_default()));
                }
            }
        }
        Ok(made)
    }

    /// Writes the file of every put whose copy is here anew, and puts it in the place of the one that is there.
    fn write_anew(&self, puts: &[&Put]) -> Result<usize, OpenError> {
        let file = self.folder.path().display().to_string();
        let failed = |what| {
            let file = file.clone();
            move |source| OpenError::Disk { what, file, source }
        };
        for left in self.folder.list().map_err(failed("listing"))? {
            if left.name.starts_with(PREFIX) {
                self.folder.remove(&left.name).map_err(failed("clearing"))?;
            }
        }
        let here: Vec<(&Put, String)> = puts.iter().filter_map(|put| Some((*put, self.name_of(put)?))).collect();
        for some in here.chunks(OPEN_FILES) {
            let (mut files, mut renames) = (Vec::with_capacity(some.len()), Vec::new());
            for (n, (put, name)) in some.iter().enumerate() {
                let anew = format!("{PREFIX}{n}");
                files.push(match self.write_beside(put, &anew) {
                    Ok(file) => {
                        renames.push((anew, name));
                        file
                    }
                    // Without room for another file, its own is written over with what is in it.
                    Err(error) if is_full(&error) => {
                        let _ = self.folder.remove(&anew);
                        self.write_over(put, name).map_err(|error| self.not_redone(error))?
                    }
                    Err(error) => return Err(self.not_redone(error)),
                });
            }
            self.disk.sync_many(files).into_iter().collect::<io::Result<()>>().map_err(failed("syncing"))?;
            for (anew, name) in renames {
                match self.folder.rename(&anew, name) {
                    Err(error) if is_refused(&error) => {
                        // Somebody has put a stop to changes of this file, after it was written.
                        tracing::warn!("{name} stays as it is, as it cannot be replaced: {error}");
                        let _ = self.folder.remove(&anew);
                    }
                    renamed => renamed.map_err(failed("renaming"))?,
                }
            }
        }
        self.folder.sync().map_err(failed("syncing"))?;
        Ok(here.len())
    }

    /// The name of the file that has this copy, if it is here.
    fn name_of(&self, put: &Put) -> Option<String> {
        let (slot, stem) = (self.index.get(&put.id), self.names.stem(&put.id));
        if slot.recorded().is_some_and(|copy| copy.record == put.record) {
            return Some(format!("{stem}{SUFFIX}"));
        }
        slot.staged(put.record.version).filter(|copy| copy.record == put.record)?;
        Some(staged_name(put.record.version, &stem))
    }

    fn write_beside(&self, put: &Put, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut file = self.folder.create_new(name)?;
        self.write_into(put, &mut *file)?;
        Ok(file)
    }

    fn write_over(&self, put: &Put, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut file = self.folder.edit(name)?;
        self.write_into(put, &mut *file)?;
        Ok(file)
    }

    fn write_into(&self, put: &Put, file: &mut dyn DiskFile) -> io::Result<()> {
        self.records.attach(file, &put.id, put.record, &self.names.stem(&put.id))?;
        match &put.body {
            Body::Bytes(content) if !content.is_empty() => file.write_at(&[IoSlice::new(content)], 0),
            _ => Ok(()),
        }
    }
}

impl Batch<'_> {
    /// Does a put of the journal again, unless its copy is there (that is `Stale`). Newer ones may be there too: they came
    /// later, as what let go of this one did. What a power cut left of its file makes room, as the journal has it whole.
    fn put_again(&mut self, put: &Put) -> Result<PutOutcome, Fatal> {
        let slot = self.store.index.get(&put.id);
        if slot.copies().any(|copy| copy.record == put.record) {
            return Ok(PutOutcome::Stale);
        }
        let torn = slot.visible == Some(Visible::Damaged(put.record));
        if torn && self.remove(&format!("{}{SUFFIX}", self.store.names.stem(&put.id))) {
            self.store.index.change(&put.id, |slot| slot.visible = None);
        }
        self.keep(put, &self.store.index.get(&put.id))
    }
}
