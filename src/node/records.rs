//! Where the self-describing part of a copy is kept, and its format.
//!
//! Normally an extended attribute of the copy's own file; where the file system keeps none, an index log
//! with checksums beside the files. The invariant: a record is written before the content that it
//! describes, so that a torn copy can be told. Nothing here reads or judges content.

use std::io;
use std::sync::Arc;

use hashbrown::HashMap;

use super::identity::Identity;
use super::scan::STAGED;
use crate::durable::record_log::{self, LogError, MAX_RECORD, RecordLog};
use crate::durable::{DiskFile, Folder, takes_nothing};
use crate::file_names::{self, Names, SUFFIX};
use crate::lock::Lock;
use crate::types::{CopyRecord, Deadline, MessageId, Version};

/// The newest record format that is read; only the record of a message with a deadline is written in it.
pub const RECORD_FORMAT: u8 = 2;

/// The format of a record without a deadline.
const WITHOUT_DEADLINE: u8 = 1;

/// The index log's file.
pub const LOG_NAME: &str = ".records.log";
const LOG_MAGIC: [u8; 8] = *b"hatorec1";
const PROBE: &str = ".record-probe";

/// How an identity says where records are.
const ATTRIBUTES: &str = "attributes";
const LOG: &str = "log";

/// Format, version, length and checksum of the content; a deadline follows in 8 bytes, if there is one.
const FIXED: usize = 1 + 8 + 4 + 4;

const KEPT: u8 = 1;
const FORGOTTEN: u8 = 2;
const KEPT_UNTIL: u8 = 3;

/// Log records without use that a start may leave in the log, besides as many as there are useful ones.
const GARBAGE: usize = 1024;

/// Why an attribute is no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadRecord {
    /// Whole, and of a newer format.
    Newer(u8),
    /// Not whole, or made for another id.
    Damaged,
}

/// The attribute of a copy. It fits into a 256-byte ext4 inode unless the id is spelt out, as it is
/// where the name holds only its hash.
pub fn encode(id: &MessageId, record: CopyRecord, hashed: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FIXED + 4);
    bytes.push(if record.expires.is_some() { RECORD_FORMAT } else { WITHOUT_DEADLINE });
    push_fields(&mut bytes, record);
    if hashed {
        bytes.extend_from_slice(id.as_bytes());
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes), id.as_bytes());
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// Reads an attribute; `named` is the id that the file's name spells out. Whatever its format, a record begins
/// with its format and ends in the checksum.
pub fn decode(bytes: &[u8], named: Option<&MessageId>) -> Result<(MessageId, CopyRecord), BadRecord> {
    let Some((body, crc)) = bytes.split_last_chunk::<4>() else { return Err(BadRecord::Damaged) };
    let Some((&format, rest)) = body.split_first() else { return Err(BadRecord::Damaged) };
    let (record, rest) = fields(rest, format == RECORD_FORMAT).ok_or(BadRecord::Damaged)?;
    let id = match named {
        Some(id) => id.clone(),
        None => MessageId::from_bytes(rest).map_err(|_| BadRecord::Damaged)?,
    };
    if u32::from_le_bytes(*crc) != crc32c::crc32c_append(crc32c::crc32c(body), id.as_bytes()) {
        return Err(BadRecord::Damaged);
    }
    match format {
        WITHOUT_DEADLINE | RECORD_FORMAT => Ok((id, record)),
        0 => Err(BadRecord::Damaged),
        newer => Err(BadRecord::Newer(newer)),
    }
}

fn push_fields(bytes: &mut Vec<u8>, record: CopyRecord) {
    bytes.extend_from_slice(&record.version.0.to_le_bytes());
    bytes.extend_from_slice(&record.length.to_le_bytes());
    bytes.extend_from_slice(&record.crc.to_le_bytes());
    Deadline::push(record.expires, bytes);
}

/// A record, with its deadline if it has one, and what is behind it.
fn fields(bytes: &[u8], until: bool) -> Option<(CopyRecord, &[u8])> {
    let (version, rest) = bytes.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (crc, mut rest) = rest.split_first_chunk()?;
    let mut expires = None;
    if until {
        let (deadline, behind) = Deadline::split(rest)?;
        (expires, rest) = (Some(deadline), behind);
    }
    let record = CopyRecord {
        version: Version(u64::from_le_bytes(*version)),
        length: u32::from_le_bytes(*length),
        crc: u32::from_le_bytes(*crc),
        expires,
    };
    Some((record, rest))
}

/// Where the records of one folder are.
#[derive(Debug)]
pub enum Records {
    /// With each file.
    Attributes,
    /// In the index log.
    Log(Lock<IndexLog>),
}

/// The index log, which is made with the first record.
#[derive(Debug)]
pub struct IndexLog {
    folder: Arc<dyn Folder>,
    log: Option<RecordLog>,
    /// Making it ended in a failed sync.
    failed: bool,
}

impl IndexLog {
    fn get(&mut self) -> Result<&mut RecordLog, LogError> {
        if self.failed {
            return Err(LogError::Poisoned { file: self.folder.path().join(LOG_NAME).display().to_string() });
        }
        match &mut self.log {
            Some(log) => Ok(log),
            none => {
                let made = RecordLog::create(self.folder.clone(), LOG_NAME, LOG_MAGIC, MAX_RECORD);
                self.failed = made.as_ref().is_err_and(LogError::is_final);
                let log = none.insert(made?);
                log.keep_room(); // for the records of deletions on a full disk
                Ok(log)
            }
        }
    }
}

/// What the index log says, for the scan at the start; empty where attributes are kept.
#[derive(Debug, Default)]
pub struct Logged {
    /// All records that were not forgotten, by id.
    pub by_id: HashMap<MessageId, Vec<CopyRecord>>,
    /// The ids whose names hold a hash.
    pub hashed: HashMap<String, MessageId>,
    records: usize,
    /// The torn end that was cut off.
    pub torn: Option<record_log::Torn>,
}

impl Records {
    /// Finds out where this folder's records are: where its identity says, or else where they can be. Nothing is made, and
    /// records are not looked for anywhere else, as what is seen through another layer would make all copies strangers.
    pub fn open(
        folder: &Arc<dyn Folder>,
        identity: Option<&Identity>,
        names: Names,
    ) -> Result<(Self, Logged), LogError> {
        let io = |what| {
            let file = folder.path().display().to_string();
            move |source| LogError::Io { what, file, source }
        };
        let has_log = match folder.open(LOG_NAME) {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(io("opening the records in")(error)),
        };
        let said = identity.and_then(|identity| identity.records.as_deref());
        let attributes = || keeps_attributes(&**folder).map_err(io("trying extended attributes in"));
        let mut logged = Logged::default();
        let log = if has_log && said != Some(ATTRIBUTES) { Some(logged.read(folder)?) } else { None };
        if log.is_none() || (logged.records == 0 && said != Some(LOG)) {
            if attributes()? && said != Some(LOG) {
                return Ok((Self::Attributes, Logged::default()));
            }
            let elsewhere = said == Some(ATTRIBUTES) || (said.is_none() && identity.is_some() && !has_log);
            if elsewhere && has_copies(&**folder).map_err(io("listing"))? {
                let text = "they are extended attributes of its files, and none are seen here: is this the folder through another layer (sshfs, unionfs, bindfs), or a copy that was made without them? Start the node on the folder itself, or copy it with its attributes";
                return Err(io("finding the records of")(io::Error::new(io::ErrorKind::Unsupported, text)));
            }
        }
        for id in logged.by_id.keys() {
            let stem = names.stem(id);
            if file_names::is_hashed(&stem) {
                logged.hashed.insert(stem, id.clone());
            }
        }
        Ok((Self::Log(Lock::new(IndexLog { folder: folder.clone(), log, failed: false })), logged))
    }

    /// As the identity says it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Attributes => ATTRIBUTES,
            Self::Log(_) => LOG,
        }
    }

    /// Writes down, before their content, the copies that a batch is about to make. In the log they are synced
    /// here, if at all: content must not reach the disk before its record.
    pub fn announce<'a>(
        &self,
        copies: impl Iterator<Item = (&'a MessageId, CopyRecord)>,
        sync: bool,
    ) -> Result<(), LogError> {
        let Self::Log(log) = self else { return Ok(()) };
        let payloads: Vec<Vec<u8>> = copies.map(|(id, record)| payload(KEPT, id, record)).collect();
        if payloads.is_empty() {
            return Ok(());
        }
        let mut log = log.lock();
        let log = log.get()?;
        log.append(payloads.iter().map(Vec::as_slice))?;
        if sync { log.sync() } else { Ok(()) }
    }

    /// Writes again what an earlier life may not have synced, for the sync of everything that follows. A disk that takes
    /// nothing now is asked again by the first batch.
    pub fn renew(&self) -> Result<(), LogError> {
        let Self::Log(log) = self else { return Ok(()) };
        let mut log = log.lock();
        match log.log.as_mut().map_or(Ok(()), RecordLog::renew) {
            Err(LogError::Io { source, .. }) if takes_nothing(&source) => Ok(()),
            renewed => renewed,
        }
    }

    /// Whether an earlier failure has ended the index log: nobody knows what is on the disk.
    pub fn is_poisoned(&self) -> bool {
        match self {
            Self::Attributes => false,
            Self::Log(log) => {
                let log = log.lock();
                log.failed || log.log.as_ref().is_some_and(RecordLog::is_poisoned)
            }
        }
    }

    /// Gives a new file its record, where files have them.
    pub fn attach(&self, file: &mut dyn DiskFile, id: &MessageId, record: CopyRecord, stem: &str) -> io::Result<()> {
        match self {
            Self::Attributes => file.set_record(&encode(id, record, spelt(id, stem))),
            Self::Log(_) => Ok(()),
        }
    }

    /// Strikes out copies that were removed, up to a version. Only once the removal is safe: a file that came
    /// back without its record would look like a foreign one.
    pub fn forget(&self, removed: &[(MessageId, Version)]) -> Result<(), LogError> {
        let Self::Log(log) = self else { return Ok(()) };
        let payload = |(id, version): &(MessageId, Version)| {
            payload(FORGOTTEN, id, CopyRecord { version: *version, length: 0, crc: 0, expires: None })
        };
        let payloads: Vec<Vec<u8>> = removed.iter().map(payload).collect();
        log.lock().get()?.append(payloads.iter().map(Vec::as_slice)).map(|_| ())
    }

    /// Rewrites the log at the start, if much of it has no use any more. `live` are the records of all copies.
    pub fn compact(&self, logged: &Logged, live: &[(MessageId, CopyRecord)]) -> Result<(), LogError> {
        let Self::Log(log) = self else { return Ok(()) };
        if logged.records <= live.len() * 2 + GARBAGE {
            return Ok(());
        }
        let payloads: Vec<Vec<u8>> = live.iter().map(|(id, record)| payload(KEPT, id, *record)).collect();
        log.lock().get()?.replace_with(payloads.iter().map(Vec::as_slice))
    }
}

/// Whether the record must hold the id, as the name does not.
fn spelt(id: &MessageId, stem: &str) -> bool {
    // An id whose stem is itself needs no look; nearly all are.
    stem.as_bytes() != id.as_bytes() && file_names::is_hashed(stem)
}

fn payload(kind: u8, id: &MessageId, record: CopyRecord) -> Vec<u8> {
    let mut bytes = vec![if record.expires.is_some() { KEPT_UNTIL } else { kind }];
    push_fields(&mut bytes, record);
    bytes.extend_from_slice(id.as_bytes());
    bytes
}

impl Logged {
    /// Reads the log. A lost record makes its copy foreign or damaged, and that is healed: a torn end never stops a node.
    fn read(&mut self, folder: &Arc<dyn Folder>) -> Result<RecordLog, LogError> {
        let opened = RecordLog::open(
            folder.clone(),
            LOG_NAME,
            LOG_MAGIC,
            &mut |_, payload| self.visit(payload).ok_or_else(|| "unknown record".to_owned()),
            &|damage| record_log::judge(damage, true),
        )?;
        self.torn = opened.torn;
        let mut log = opened.log;
        log.keep_room();
        Ok(log)
    }

    fn visit(&mut self, payload: &[u8]) -> Option<()> {
        let (&kind, rest) = payload.split_first()?;
        let (record, id) = fields(rest, kind == KEPT_UNTIL)?;
        let id = MessageId::from_bytes(id).ok()?;
        self.records += 1;
        match kind {
            KEPT | KEPT_UNTIL => {
                let records = self.by_id.entry(id).or_default();
                if !records.contains(&record) {
                    records.push(record);
                }
            }
            FORGOTTEN => {
                if let Some(records) = self.by_id.get_mut(&id) {
                    records.retain(|kept| kept.version > record.version);
                }
            }
            _ => return None,
        }
        Some(())
    }
}

/// Whether there is any text copy, or what looks like one.
fn has_copies(folder: &dyn Folder) -> io::Result<bool> {
    let is_copy = |name: &str| (name.ends_with(SUFFIX) && !name.starts_with('.')) || name.starts_with(STAGED);
    Ok(folder.list()?.iter().any(|entry| entry.regular && is_copy(&entry.name)))
}

/// Tries it out. A disk that is full or read-only cannot be asked; one that had no attributes would have its log.
fn keeps_attributes(folder: &dyn Folder) -> io::Result<bool> {
    let mut file = match folder.create_new(PROBE) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => folder.edit(PROBE)?,
        Err(error) if takes_nothing(&error) => return Ok(true),
        other => other?,
    };
    let kept = match file.set_record(&[0; FIXED + 4]) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::Unsupported => false,
        Err(error) if takes_nothing(&error) => true,
        Err(error) => {
            let _ = folder.remove(PROBE);
            let text =
                format!("this file system refuses extended attributes ({error}): start the node with --layout log");
            return Err(io::Error::new(error.kind(), text));
        }
    };
    // A left-over probe harms nobody, and is tried again at the next start.
    let _ = folder.remove(PROBE);
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_bound_to_their_id() {
        let record = CopyRecord { version: Version(1 << 32 | 7), length: 5, crc: 99, expires: None };
        let until = record.until(Deadline::at(1 << 40));
        let ids = [("a", false), (&"ü".repeat(100)[..], true)];
        for ((text, hashed), record) in ids.into_iter().flat_map(|id| [(id, record), (id, until)]) {
            let id: MessageId = text.parse().unwrap();
            let named = (!hashed).then_some(&id);
            let bytes = encode(&id, record, hashed);
            let deadline = if record.expires.is_some() { 8 } else { 0 };
            assert_eq!(bytes.len(), FIXED + deadline + 4 + if hashed { 200 } else { 0 });
            assert_eq!(decode(&bytes, named), Ok((id.clone(), record)));
            let other: MessageId = "b".parse().unwrap();
            assert_eq!(decode(&bytes, Some(&other)), Err(BadRecord::Damaged));
            for place in 0..bytes.len() {
                let mut flipped = bytes.clone();
                flipped[place] ^= 1;
                assert_eq!(decode(&flipped, named), Err(BadRecord::Damaged));
                assert_eq!(decode(&bytes[..place], named), Err(BadRecord::Damaged));
            }
        }
        for bytes in [&[0xff; 200][..], b"\0\n\xff"] {
            let id = MessageId::from_bytes(bytes).unwrap();
            assert_eq!(decode(&encode(&id, record, true), None), Ok((id, record)));
        }
        let id: MessageId = "a".parse().unwrap();
        let mut newer = encode(&id, record, false);
        newer.truncate(FIXED);
        newer[0] = 9;
        newer.extend_from_slice(&crc32c::crc32c_append(crc32c::crc32c(&newer), b"a").to_le_bytes());
        assert_eq!(decode(&newer, Some(&id)), Err(BadRecord::Newer(9)));
    }
}
