//! Where a copy's record is kept: beside the file's content, or in an index log.
//!
//! The record is an extended attribute of the file. Its checksum covers the id,
//! so that a file which was given another id's name is told. Where the file system keeps no
//! extended attributes, `.records.log` holds the same records by file name.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::HashMap;

use crate::durable::record_log::{LogError, RecordLog, judge};
use crate::durable::{DiskFile, Folder};
use crate::types::{CopyRecord, MessageId, Version};

/// The version of the record's bytes.
const FORMAT: u8 = 1;

/// Format, version, length, checksum of the message, checksum of the record and the id.
const FIXED: usize = 1 + 8 + 4 + 4 + 4;

/// The index log's name.
pub const INDEX_FILE: &str = ".records.log";

/// How it starts.
const MAGIC: [u8; 8] = *b"HTKSREC\n";

/// What stands in a file's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// A sound record, of this id.
    Sound(MessageId, CopyRecord),
    /// No record.
    None,
    /// A record that is damaged or belongs to another id.
    Damaged,
    /// A record of a later format.
    Newer,
}

/// A record's bytes. The id itself is in them only if the file's name does not tell it.
pub fn encode(id: &MessageId, record: &CopyRecord, with_id: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FIXED + if with_id { id.as_bytes().len() } else { 0 });
    bytes.push(FORMAT);
    bytes.extend_from_slice(&record.version.0.to_le_bytes());
    bytes.extend_from_slice(&record.length.to_le_bytes());
    bytes.extend_from_slice(&record.crc.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes), id.as_bytes());
    bytes.extend_from_slice(&crc.to_le_bytes());
    if with_id {
        bytes.extend_from_slice(id.as_bytes());
    }
    bytes
}

/// Reads a record's bytes. `named` is the id that the file's name tells, if it tells one.
pub fn decode(bytes: Option<&[u8]>, named: Option<&MessageId>) -> Recorded {
    let Some(bytes) = bytes else { return Recorded::None };
    if bytes.first().is_some_and(|&format| format > FORMAT) {
        return Recorded::Newer;
    }
    let Some((fixed, tail)) = bytes.split_first_chunk::<FIXED>() else { return Recorded::Damaged };
    let id = match (named, tail) {
        (Some(id), []) => id.clone(),
        (None, [_, ..]) => match MessageId::parse(tail) {
            Ok(id) => id,
            Err(_) => return Recorded::Damaged,
        },
        _ => return Recorded::Damaged,
    };
    let word = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let version = Version(u64::from(word(5)) << 32 | u64::from(word(1)));
    let record = CopyRecord { version, length: word(9), crc: word(13) };
    let crc = crc32c::crc32c_append(crc32c::crc32c(&fixed[..17]), id.as_bytes());
    if fixed[0] != FORMAT || crc != word(17) { Recorded::Damaged } else { Recorded::Sound(id, record) }
}

/// Where records are kept in one folder.
#[derive(Debug)]
pub enum Records {
    /// With each file.
    Attributes,
    /// In the index log.
    Index(Mutex<Index>),
}

/// The index log, with what it says in memory.
#[derive(Debug)]
pub struct Index {
    log: RecordLog,
    by_name: HashMap<String, Vec<u8>>,
}

impl Records {
    /// Finds out what the folder's file system can do, and reads the index log if it is needed. Blocks.
    pub fn open(folder: &Arc<dyn Folder>) -> Result<Self, LogError> {
        let failed = |source| LogError::Io { what: "probing", file: folder.path().display().to_string(), source };
        let probe = ".record-probe";
        let _ = folder.remove(probe);
        let result = folder.create_new(probe).and_then(|mut file| file.set_record(&[0; FIXED]));
        let _ = folder.remove(probe);
        match result {
            Ok(()) => return Ok(Self::Attributes),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            Err(error) => return Err(failed(error)),
        }
        let mut by_name = HashMap::new();
        let mut visit = |_: u64, bytes: &[u8]| {
            let (name, record) = split(bytes).ok_or("a record without a name")?;
            by_name.insert(name, record);
            Ok(())
        };
        // A buffered index may lose its end in a power cut: files without a record are foreign then, which is safe.
        let log = RecordLog::open(folder.clone(), INDEX_FILE, MAGIC, &mut visit, &|damage| judge(damage, true))?.log;
        Ok(Self::Index(Mutex::new(Index { log, by_name })))
    }

    /// Keeps a file's record, before its content is written.
    pub fn set(&self, name: &str, file: &mut dyn DiskFile, record: &[u8]) -> io::Result<()> {
        match self {
            Self::Attributes => file.set_record(record),
            Self::Index(index) => {
                let mut index = index.lock().unwrap_or_else(PoisonError::into_inner);
                let bytes = join(name, record);
                index.log.append(std::iter::once(bytes.as_slice())).map_err(io::Error::other)?;
                index.by_name.insert(name.to_owned(), record.to_vec());
                Ok(())
            }
        }
    }

    /// A file's record.
    pub fn get(&self, name: &str, file: &dyn DiskFile) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::Attributes => file.record(),
            Self::Index(index) => Ok(index.lock().unwrap_or_else(PoisonError::into_inner).by_name.get(name).cloned()),
        }
    }

    /// A file is about to get another name: its record goes with it.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let Self::Index(index) = self else { return Ok(()) };
        let mut index = index.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(record) = index.by_name.get(from).cloned() else { return Ok(()) };
        let bytes = join(to, &record);
        index.log.append(std::iter::once(bytes.as_slice())).map_err(io::Error::other)?;
        index.by_name.insert(to.to_owned(), record);
        index.by_name.remove(from);
        Ok(())
    }

    /// Puts the records on stable storage, where that is not done with their files.
    pub fn sync(&self) -> io::Result<()> {
        match self {
            Self::Attributes => Ok(()),
            Self::Index(index) => {
                index.lock().unwrap_or_else(PoisonError::into_inner).log.sync().map_err(io::Error::other)
            }
        }
    }
}

fn join(name: &str, record: &[u8]) -> Vec<u8> {
    let mut bytes = vec![1, name.len() as u8];
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(record);
    bytes
}

fn split(bytes: &[u8]) -> Option<(String, Vec<u8>)> {
    let [1, length, rest @ ..] = bytes else { return None };
    let (name, record) = rest.split_at_checked(usize::from(*length))?;
    Some((String::from_utf8(name.to_vec()).ok()?, record.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip_and_tell_damage() {
        let id: MessageId = "a/b".parse().unwrap();
        let other: MessageId = "a/c".parse().unwrap();
        let record = CopyRecord::of(Version(7 << 32 | 9), b"hello");
        for with_id in [false, true] {
            let bytes = encode(&id, &record, with_id);
            let named = (!with_id).then_some(&id);
            assert_eq!(decode(Some(&bytes), named), Recorded::Sound(id.clone(), record));
            for at in 1..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[at] ^= 4;
                assert_eq!(decode(Some(&damaged), named), Recorded::Damaged, "byte {at}");
                assert_ne!(decode(Some(&bytes[..at]), named), Recorded::Sound(id.clone(), record), "cut at {at}");
            }
        }
        let bytes = encode(&id, &record, false);
        assert_eq!(decode(Some(&bytes), Some(&other)), Recorded::Damaged, "a file under another id's name");
        assert_eq!(decode(Some(&[FORMAT + 1]), Some(&id)), Recorded::Newer);
        assert_eq!(decode(None, Some(&id)), Recorded::None);
    }
}
