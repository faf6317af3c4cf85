//! Where a backup comes from: files of a folder, or standard input. All of it is checked as it is read.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::BytesMut;

use super::Error;
use super::error::Written;
use crate::archive::manifest::{self, MANIFEST, file_name};
use crate::archive::{Damage, Item, Reader, Totals};

/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;

/// The longest MANIFEST: some 100,000 files.
const LONGEST_MANIFEST: u64 = 4 << 20;

/// A place that a backup is read from.
#[derive(Debug)]
pub(super) enum Source {
    /// Standard input, which can be read once.
    In,
    /// These files, with their lengths.
    Files(Vec<(PathBuf, u64)>),
}

impl Source {
    /// A folder, whose files are all there in full length.
    pub(super) fn folder(path: &Path) -> Result<Self, Error> {
        let list = path.join(MANIFEST);
        let shown = list.display().to_string();
        let mut text = Vec::new();
        match File::open(&list).and_then(|file| file.take(LONGEST_MANIFEST).read_to_end(&mut text)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_dir() => {
                return Err(Error::NoManifest(path.display().to_string()));
            }
            Err(error) => return Err(Error::disk("read", shown)(error)),
        }
        let lengths = manifest::read(&text).map_err(|why| Error::Manifest { path: shown, why })?;
        let mut files = Vec::new();
        for (n, told) in (1..).zip(lengths) {
            let path = path.join(file_name(n));
            let shown = path.display().to_string();
            let found = std::fs::metadata(&path).map_err(Error::disk("read", &shown))?.len();
            if found != told {
                return Err(Error::Length { path: shown, found, told });
            }
            files.push((path, told));
        }
        Ok(Self::Files(files))
    }

    /// Reads all of it; `each` gets every item that was found good, and says how many messages were restored so far.
    pub(super) fn read(&self, mut each: impl FnMut(Item) -> Result<u64, Error>) -> Result<Totals, Error> {
        let mut reading = Reading { reader: Reader::default(), buffer: BytesMut::new(), totals: None, written: 0 };
        match self {
            Self::In => {
                let stdin = io::stdin().lock();
                reading.take(stdin, "standard input", &mut each).map_err(|why| self.place(why, reading.written))?;
            }
            Self::Files(files) => {
                for (path, _) in files {
                    let shown = path.display().to_string();
                    let file = File::open(path).map_err(Error::disk("read", &shown))?;
                    reading.take(file, &shown, &mut each).map_err(|why| self.place(why, reading.written))?;
                }
            }
        }
        let ended = reading.reader.finish(&reading.buffer);
        ended.map_err(|why| self.place(Failed::Damage(why), reading.written))?;
        Ok(reading.totals.unwrap_or_default())
    }

    /// Says in which file the damage is, and where in it.
    fn place(&self, why: Failed, written: u64) -> Error {
        let why = match why {
            Failed::Other(error) => return error,
            Failed::Damage(why) => why,
        };
        let written = Written(written);
        let Self::Files(files) = self else {
            return Error::Damaged { place: "the backup on standard input".to_owned(), why, written };
        };
        let (mut from, mut place) = (0, String::new());
        for (path, length) in files {
            place = path.display().to_string();
            if why.offset() < from + length {
                break;
            }
            from += length;
        }
        Error::Damaged { place, why: why.within(from), written }
    }
}

enum Failed {
    Damage(Damage),
    Other(Error),
}

struct Reading {
    reader: Reader,
    buffer: BytesMut,
    totals: Option<Totals>,
    written: u64,
}

impl Reading {
    fn take(
        &mut self,
        mut from: impl Read,
        shown: &str,
        each: &mut impl FnMut(Item) -> Result<u64, Error>,
    ) -> Result<(), Failed> {
        loop {
            let filled = self.buffer.len();
            self.buffer.resize(filled + CHUNK, 0);
            let read = loop {
                match from.read(&mut self.buffer[filled..]) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    other => break other,
                }
            };
            let read = read.map_err(|error| Failed::Other(Error::disk("read", shown)(error)))?;
            self.buffer.truncate(filled + read);
            if read == 0 {
                return Ok(());
            }
            while let Some(item) = self.reader.read(&mut self.buffer).map_err(Failed::Damage)? {
                if let Item::End(totals) = item {
                    self.totals = Some(totals);
                }
                self.written = each(item).map_err(Failed::Other)?;
            }
        }
    }
}
