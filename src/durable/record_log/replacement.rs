//! What a log is to be replaced by, while it is written beside it.

use std::io;
use std::sync::Arc;

use super::{CHUNK, DiskFile, Folder, Frames, HEADER, LogError, Met, RecordLog, beside, header, walk};
use crate::seeded::{self, Bug};

/// Where a log lies and what it takes: enough to read it, and to write what is to replace it, on another thread than
/// the one that appends.
#[derive(Debug, Clone)]
pub struct Place {
    folder: Arc<dyn Folder>,
    name: String,
    magic: [u8; 8],
    longest: usize,
}

/// The records of a log to be, in a file beside it. [`RecordLog::adopt`] puts it in place.
#[derive(Debug)]
pub struct Replacement {
    place: Place,
    file: Box<dyn DiskFile>,
    frames: Frames<'static>,
    records: u64,
}

impl Place {
    fn path(&self) -> String {
        self.folder.path().join(&self.name).display().to_string()
    }

    fn io(&self, what: &'static str, source: io::Error) -> LogError {
        LogError::Io { what, file: self.path(), source }
    }

    /// Opens the log's file once more, for [`Self::read`].
    pub fn open(&self) -> Result<Box<dyn DiskFile>, LogError> {
        self.folder.open(&self.name).map_err(|error| self.io("reading", error))
    }

    /// Shows `visit` the records from the frame at `from` on, for at least `most` bytes but not beyond `until`, which is
    /// where a record ends; gives the place of the next. Others may append behind `until` meanwhile.
    pub fn read(
        &self,
        file: &dyn DiskFile,
        (from, until): (u64, u64),
        most: u64,
        visit: &mut dyn FnMut(&[u8]) -> Result<(), LogError>,
    ) -> Result<u64, LogError> {
        let mut result = Ok(());
        let mut see = |offset: u64, met: Met<'_>| {
            if result.is_ok() {
                result = match met {
                    Met::Record(payload) => visit(payload),
                    Met::Damaged(_) => Err(LogError::Damaged { file: self.path(), offset }),
                };
            }
        };
        let next = walk(file, self.longest, from, most.min(until - from), &mut see);
        result?;
        Ok(next.map_err(|error| self.io("reading", error))?.unwrap_or(until))
    }

    /// Begins what is to replace the log, over whatever is left of an earlier one.
    pub fn replacement(&self) -> Result<Replacement, LogError> {
        let beside = beside(&self.name, "new");
        match self.folder.remove(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(self.io("replacing", error)),
            _ => {}
        }
        let file = self.folder.create_new(&beside).map_err(|error| self.io("replacing", error))?;
        let frames = Frames::at(0, header(self.magic).to_vec());
        Ok(Replacement { place: self.clone(), file, frames, records: 0 })
    }
}

impl Replacement {
    /// Adds a record.
    pub fn push(&mut self, record: &[u8]) -> Result<(), LogError> {
        let (length, longest) = (record.len(), self.place.longest);
        if record.is_empty() || length > longest {
            return Err(LogError::Length { file: self.place.path(), length, longest });
        }
        self.frames.push(0, record, &[]);
        self.records += 1;
        if self.frames.buffer.len() >= CHUNK { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), LogError> {
        self.file.append(&self.frames.parts()).map_err(|error| self.place.io("replacing", error))?;
        let base = self.frames.end();
        let mut buffer = std::mem::take(&mut self.frames.buffer);
        buffer.clear();
        self.frames = Frames::at(base, buffer);
        Ok(())
    }

    /// Puts what was added so far on stable storage. After an error only [`Self::discard`] is left to do.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.write()?;
        self.file.sync().map_err(|error| self.place.io("replacing", error))
    }

    /// Takes the file away again. Where that fails, the next opening of the log does it.
    pub fn discard(self) {
        let _ = self.place.folder.remove(&beside(&self.place.name, "new"));
    }

    /// Bytes of the log to be.
    pub fn len(&self) -> u64 {
        self.frames.end()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }
}

impl RecordLog {
    /// Where this log lies.
    pub fn place(&self) -> Place {
        let Self { folder, name, magic, longest, .. } = self;
        Place { folder: folder.clone(), name: name.clone(), magic: *magic, longest: *longest }
    }

    /// Replaces all records by `records`, at once or not at all, and goes on appending to the new file.
    ///
    /// After an error before the new file was synced the old log goes on; a failed sync or rename poisons it.
    pub fn replace_with<R: AsRef<[u8]>>(&mut self, records: impl IntoIterator<Item = R>) -> Result<(), LogError> {
        self.check()?;
        let mut next = self.place().replacement()?;
        for record in records {
            if let Err(error) = next.push(record.as_ref()) {
                next.discard();
                return Err(error);
            }
        }
        self.adopt(next, self.length)
    }

    /// Goes on in `next`, to which the records from the frame at `from` on are added first. As for errors, see
    /// [`Self::replace_with`].
    pub fn adopt(&mut self, mut next: Replacement, from: u64) -> Result<(), LogError> {
        let added = self.check().and_then(|()| {
            let until = self.length;
            let place = self.place();
            if from < until && !seeded::active(Bug::RewriteLosesEnd) {
                place.read(&*self.file, (from, until), u64::MAX, &mut |record| next.push(record))?;
            }
            next.write()
        });
        if let Err(error) = added {
            next.discard();
            return Err(error);
        }
        let beside = beside(&self.name, "new");
        let swapped =
            next.file.sync().and_then(|()| self.folder.rename(&beside, &self.name)).and_then(|()| self.folder.sync());
        if let Err(source) = swapped {
            self.poisoned = true;
            return Err(self.io("replacing", source));
        }
        let length = next.len();
        (self.file, self.length, self.file_length) = (next.file, length, length);
        (self.durable, self.marked, self.unproven) = (length, HEADER, None);
        Ok(())
    }
}
