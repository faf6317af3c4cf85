//! Where a backup goes: files of a folder, or standard output.

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use super::Error;
use crate::archive::manifest::{self, MANIFEST, file_name};
use crate::archive::{Header, Totals};
use crate::durable::os::OsDisk;
use crate::durable::{Disk as _, DiskFile, Folder, replace};

/// The longest file, in bytes; a message that is longer than what is left of it begins the next.
const FILE_BYTES: u64 = 256 << 20;

/// Bytes that are written at once.
const CHUNK: usize = 1 << 20;

/// Takes the bytes of a backup.
#[derive(Debug)]
pub(super) struct Sink {
    buffer: Vec<u8>,
    to: To,
}

#[derive(Debug)]
enum To {
    Out,
    Folder { folder: Arc<dyn Folder>, shown: String, open: Option<Box<dyn DiskFile>>, written: u64, files: Vec<u64> },
}

fn hidden(n: usize) -> String {
    format!(".{}.new", file_name(n))
}

impl Sink {
    /// Standard output.
    pub(super) fn out() -> Self {
        Self { buffer: Vec::with_capacity(CHUNK), to: To::Out }
    }

    /// A folder, which must not be there, or be empty.
    pub(super) fn folder(path: &Path) -> Result<Self, Error> {
        let shown = path.display().to_string();
        let folder = OsDisk::new().folder(path).map_err(Error::disk("make the folder", &shown))?;
        if !folder.list().map_err(Error::disk("read the folder", &shown))?.is_empty() {
            return Err(Error::NotEmpty(shown));
        }
        let to = To::Folder { folder, shown, open: None, written: 0, files: Vec::new() };
        Ok(Self { buffer: Vec::with_capacity(CHUNK), to })
    }

    /// Appends something that stays in one file.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if let To::Folder { written, .. } = &self.to {
            let length = written + self.buffer.len() as u64;
            if length > 0 && length + bytes.len() as u64 > FILE_BYTES {
                self.end_file()?;
            }
        }
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK { self.write_out() } else { Ok(()) }
    }

    fn write_out(&mut self) -> Result<(), Error> {
        match &mut self.to {
            To::Out => {
                io::stdout().lock().write_all(&self.buffer).map_err(Error::disk("write to", "standard output"))?;
            }
            To::Folder { folder, shown, open, written, files } => {
                let name = hidden(files.len() + 1);
                let failed = |error| Error::disk("write", format!("{shown}/{name}"))(error);
                let file = match open {
                    Some(file) => file,
                    None => open.insert(folder.create_new(&name).map_err(failed)?),
                };
                file.append(&[io::IoSlice::new(&self.buffer)]).map_err(failed)?;
                *written += self.buffer.len() as u64;
            }
        }
        self.buffer.clear();
        Ok(())
    }

    /// Syncs the file, and gives it its name.
    fn end_file(&mut self) -> Result<(), Error> {
        self.write_out()?;
        let To::Folder { folder, shown, open, written, files } = &mut self.to else { return Ok(()) };
        let Some(file) = open.take() else { return Ok(()) };
        let n = files.len() + 1;
        let named = file.sync().and_then(|()| folder.rename(&hidden(n), &file_name(n)));
        named.map_err(Error::disk("sync", format!("{shown}/{}", file_name(n))))?;
        files.push(std::mem::take(written));
        Ok(())
    }

    /// Everything was pushed: from here on it is a backup.
    pub(super) fn finish(mut self, header: &Header, totals: &Totals) -> Result<(), Error> {
        self.end_file()?;
        match &self.to {
            To::Out => io::stdout().lock().flush().map_err(Error::disk("write to", "standard output")),
            To::Folder { folder, shown, files, .. } => {
                let list = manifest::write(header, totals, files);
                replace(&**folder, MANIFEST, list.as_bytes())
                    .map_err(Error::disk("write", format!("{shown}/{MANIFEST}")))
            }
        }
    }
}
