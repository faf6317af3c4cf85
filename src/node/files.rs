//! The text layout: one message, one file, `<stem>.txt`, byte for byte.
//!
//! A copy of an id that is new here is created in place, its record set before its
//! content, so that a torn one can always be told and no rename is paid for. A
//! copy beside an older one is staged as `.staged-<version>-<stem>` until a settle
//! publishes it: an uncommitted write never touches the copy of a committed one.
//! What is foreign or damaged and in the way is put aside, never destroyed.

use std::hash::BuildHasher;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use smallvec::SmallVec;

use super::records::{self, Recorded, Records};
use super::store::{
    Body, Entry, Fatal, INVENTORY_PARTS, Put, PutOutcome, ReadFault, Settle, Store, Totals, WriteReport,
};
use crate::durable::record_log::LogError;
use crate::durable::{Disk, DiskFile, Folder, is_full};
use crate::file_names::{self, Named};
use crate::types::{CopyRecord, IoMode, MessageId, Payload, Version, checksum};

const ENDING: &str = ".txt";
const STAGED: &str = ".staged-";
const ASIDE: &str = ".aside-";

/// The largest file that is taken for a message when a folder is opened.
const MAX_FOUND: usize = 128 << 20;

/// Steers ids to shards; equal in every process, which inventories do not rely on.
const HASHER: FixedState = FixedState::with_seed(0x6b75_7365);

/// What stands under an id's own name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Visible {
    Nothing,
    /// A copy with a record.
    Copy(CopyRecord),
    /// A copy whose content or record is damaged; the record if that is sound.
    Damaged(Option<CopyRecord>),
    /// A file without a record; its length and checksum.
    Foreign(CopyRecord),
}

#[derive(Debug, Clone)]
struct Slot {
    visible: Visible,
    /// Copies that are not published, oldest first.
    staged: SmallVec<[CopyRecord; 1]>,
}

impl Slot {
    const EMPTY: Self = Self { visible: Visible::Nothing, staged: SmallVec::new_const() };

    fn recorded(&self) -> impl Iterator<Item = CopyRecord> {
        let visible = match self.visible {
            Visible::Copy(record) => Some(record),
            _ => None,
        };
        self.staged.iter().copied().chain(visible)
    }
}

type Shard = HashMap<MessageId, Slot, FixedState>;

/// What opening a folder found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Whole visible copies.
    pub messages: u64,
    /// Files without a record.
    pub foreign: u64,
    /// Copies unlike their records.
    pub damaged: u64,
    /// Copies that are not published.
    pub staged: u64,
    /// Names left alone, each with the reason.
    pub ignored: Vec<String>,
}

/// Why a folder cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Different ids would share a file.
    #[error(
        "{0} is on a file system that takes upper and lower case for the same, so that different ids would share a file: use another one"
    )]
    FoldsCase(String),
    /// Written by a later version.
    #[error("{0} has a record of a later format: use the version of hatokuse that wrote it, or a later one")]
    Newer(String),
    /// What is there cannot be told.
    #[error("cannot read {what}: {source}; what this node holds is not known, so it does not start: check the disk")]
    Unknown {
        /// Which file or folder.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// The index log of records cannot be used.
    #[error(transparent)]
    Index(#[from] LogError),
}

/// Copies as files of one folder.
#[derive(Debug)]
pub struct TextStore {
    disk: Arc<dyn Disk>,
    folder: Arc<dyn Folder>,
    io_mode: IoMode,
    records: Records,
    shards: Vec<Mutex<Shard>>,
    messages: AtomicU64,
    bytes: AtomicU64,
}

/// What one batch leaves to be synced.
#[derive(Debug, Default)]
struct Unsynced {
    files: Vec<Box<dyn DiskFile>>,
    names: bool,
}

impl TextStore {
    /// Opens a folder: reads and checks every copy in it. Blocks.
    pub fn open(disk: Arc<dyn Disk>, folder: Arc<dyn Folder>, io_mode: IoMode) -> Result<(Self, Found), OpenError> {
        let shown = folder.path().display().to_string();
        let unknown = |source| OpenError::Unknown { what: shown.clone(), source };
        if folder.folds_case().map_err(unknown)? {
            return Err(OpenError::FoldsCase(shown));
        }
        let records = Records::open(&folder)?;
        let shards = (0..INVENTORY_PARTS).map(|_| Mutex::new(HashMap::with_hasher(HASHER))).collect();
        let (messages, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        let store = Self { disk, folder, io_mode, records, shards, messages, bytes };
        let mut found = Found::default();
        for listed in store.folder.list().map_err(unknown)? {
            store.take(&listed.name, listed.regular, &mut found)?;
        }
        found.messages = store.messages.load(Ordering::Relaxed);
        if io_mode == IoMode::Unbuffered {
            // A kill between a rename and its sync left names that are not safe yet: make all safe before any is reported.
            store.folder.sync_all().map_err(unknown)?;
        }
        Ok((store, found))
    }

    /// Takes in one name of the folder.
    fn take(&self, name: &str, regular: bool, found: &mut Found) -> Result<(), OpenError> {
        if let Some(rest) = name.strip_prefix(STAGED) {
            return self.take_staged(name, rest, found);
        }
        if name.starts_with('.') {
            return Ok(());
        }
        let named = name.strip_suffix(ENDING).and_then(file_names::parse_stem);
        let (Some(named), true) = (named, regular) else {
            found.ignored.push(format!("{:?} (no message's file)", crate::error::printable(name.as_bytes(), 80)));
            return Ok(());
        };
        let named = match named {
            Named::Id(id) => Some(id),
            Named::Hashed => None,
        };
        let Some((content, record)) = self.read_file(name)? else { return Ok(()) };
        let bare = CopyRecord { version: Version::FOREIGN, length: content.len() as u32, crc: checksum(&content) };
        let (id, visible) = match (records::decode(record.as_deref(), named.as_ref()), named) {
            (Recorded::Newer, _) => return Err(OpenError::Newer(self.folder.path().join(name).display().to_string())),
            (Recorded::Sound(id, record), _) if record.matches(&content) => (id, Visible::Copy(record)),
            (Recorded::Sound(id, record), _) => (id, Visible::Damaged(Some(record))),
            (Recorded::None, Some(id)) => (id, Visible::Foreign(bare)),
            (Recorded::Damaged, Some(id)) => (id, Visible::Damaged(None)),
            (_, None) => {
                found.ignored.push(format!("{name:?} (its record, which alone knows the id, is missing or damaged)"));
                return Ok(());
            }
        };
        if file_names::stem(&id) != name[..name.len() - ENDING.len()] {
            found.ignored.push(format!("{name:?} (its record is of another id)"));
            return Ok(());
        }
        match visible {
            Visible::Foreign(_) => found.foreign += 1,
            Visible::Damaged(_) => found.damaged += 1,
            _ => {}
        }
        let mut shard = self.shard(&id);
        self.set_visible(shard.entry(id).or_insert(Slot::EMPTY), visible);
        Ok(())
    }

    /// Takes in a staged copy; a torn one is a write that was never acknowledged, and is removed.
    fn take_staged(&self, name: &str, rest: &str, found: &mut Found) -> Result<(), OpenError> {
        let named = match rest.split_once('-').and_then(|(_, stem)| file_names::parse_stem(stem)) {
            Some(Named::Id(id)) => Some(id),
            _ => None,
        };
        let Some((content, record)) = self.read_file(name)? else { return Ok(()) };
        match records::decode(record.as_deref(), named.as_ref()) {
            Recorded::Sound(id, record) if record.matches(&content) && staged_name(&id, record.version) == name => {
                let mut shard = self.shard(&id);
                let staged = &mut shard.entry(id).or_insert(Slot::EMPTY).staged;
                staged.push(record);
                staged.sort_unstable_by_key(|record| record.version);
                found.staged += 1;
            }
            Recorded::Newer => return Err(OpenError::Newer(self.folder.path().join(name).display().to_string())),
            _ => {
                let _ = self.folder.remove(name);
            }
        }
        Ok(())
    }

    /// A file's content and record; nothing if it has vanished since it was listed.
    #[allow(clippy::type_complexity)]
    fn read_file(&self, name: &str) -> Result<Option<(Vec<u8>, Option<Vec<u8>>)>, OpenError> {
        let read = || {
            let mut file = self.folder.open(name)?;
            Ok((file.read_all(MAX_FOUND)?, self.records.get(name, file.as_ref())?))
        };
        match read() {
            Ok(read) => Ok(Some(read)),
            Err(error) if io::Error::kind(&error) == io::ErrorKind::NotFound => Ok(None),
            Err(source) => {
                Err(OpenError::Unknown { what: self.folder.path().join(name).display().to_string(), source })
            }
        }
    }

    fn part(id: &MessageId) -> usize {
        (HASHER.hash_one(id) >> 40) as usize % INVENTORY_PARTS
    }

    fn shard(&self, id: &MessageId) -> MutexGuard<'_, Shard> {
        self.shards[Self::part(id)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, id: &MessageId) -> Slot {
        self.shard(id).get(id).cloned().unwrap_or(Slot::EMPTY)
    }

    /// Changes what stands under an id's name, and the totals with it.
    fn set_visible(&self, slot: &mut Slot, visible: Visible) {
        let size = |visible| match visible {
            Visible::Copy(record) => Some(u64::from(record.length)),
            _ => None,
        };
        if let Some(bytes) = size(slot.visible) {
            self.messages.fetch_sub(1, Ordering::Relaxed);
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        if let Some(bytes) = size(visible) {
            self.messages.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        slot.visible = visible;
    }

    fn change(&self, id: &MessageId, change: impl FnOnce(&Self, &mut Slot)) {
        let mut shard = self.shard(id);
        let slot = shard.entry(id.clone()).or_insert(Slot::EMPTY);
        change(self, slot);
        if slot.visible == Visible::Nothing && slot.staged.is_empty() {
            shard.remove(id);
        }
    }

    // ---- settling ----------------------------------------------------------

    fn settle(&self, settle: &Settle, unsynced: &mut Unsynced) -> Result<(), Fatal> {
        let slot = self.slot(&settle.id);
        let (id, version) = (&settle.id, settle.version);
        if !settle.keep {
            self.drop_staged(id, &slot, |staged| staged <= version, unsynced);
            if let Visible::Copy(record) = slot.visible
                && record.version <= version
                && self.remove(&visible_name(id), unsynced)
            {
                self.change(id, |store, slot| store.set_visible(slot, Visible::Nothing));
            }
            return Ok(());
        }
        let staged = slot.staged.iter().copied().find(|record| record.version == version);
        let shown = match slot.visible {
            Visible::Copy(record) => record.version >= version,
            _ => false,
        };
        if let (Some(record), false) = (staged, shown) {
            if matches!(slot.visible, Visible::Foreign(_) | Visible::Damaged(_)) {
                self.put_aside(id, unsynced)?;
            }
            self.rename(&staged_name(id, version), &visible_name(id), unsynced)?;
            self.change(id, |store, slot| {
                slot.staged.retain(|staged| staged.version != version);
                store.set_visible(slot, Visible::Copy(record));
            });
        }
        if staged.is_some() || shown {
            self.drop_staged(id, &slot, |staged| staged < version, unsynced);
        }
        Ok(())
    }

    fn drop_staged(&self, id: &MessageId, slot: &Slot, which: impl Fn(Version) -> bool, unsynced: &mut Unsynced) {
        for record in slot.staged.iter().filter(|record| which(record.version)) {
            if self.remove(&staged_name(id, record.version), unsynced) {
                self.change(id, |_, slot| slot.staged.retain(|staged| staged.version != record.version));
            }
        }
    }

    /// Removes a file that nothing needs any more. One that cannot be removed stays, and stays known.
    fn remove(&self, name: &str, unsynced: &mut Unsynced) -> bool {
        match self.folder.remove(name) {
            Ok(()) => unsynced.names = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!("cannot remove {name}: {error}");
                return false;
            }
        }
        true
    }

    fn rename(&self, from: &str, to: &str, unsynced: &mut Unsynced) -> Result<(), Fatal> {
        unsynced.names = true;
        let renamed = self.records.rename(from, to).and_then(|()| self.folder.rename(from, to));
        renamed.map_err(|source| Fatal { what: format!("renaming {from} to {to}"), source })
    }

    /// Gives what stands under an id's name another, hidden name.
    fn put_aside(&self, id: &MessageId, unsynced: &mut Unsynced) -> Result<(), Fatal> {
        let name = visible_name(id);
        let stem = file_names::stem(id);
        for n in 0.. {
            let aside = format!("{ASIDE}{n}-{stem}");
            match self.folder.open(&aside) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    tracing::warn!("{name} was in the way of a message; it is {aside} from here on");
                    self.rename(&name, &aside, unsynced)?;
                    break;
                }
                _ => {}
            }
        }
        self.change(id, |store, slot| store.set_visible(slot, Visible::Nothing));
        Ok(())
    }

    // ---- putting -----------------------------------------------------------

    fn put(&self, put: &Put, unsynced: &mut Unsynced) -> Result<Result<PutOutcome, io::Error>, Fatal> {
        let slot = self.slot(&put.id);
        if let Some(newest) = slot.recorded().max_by_key(|record| record.version) {
            if let Some(same) = slot.recorded().find(|record| record.version == put.record.version) {
                let outcome = if same == put.record { PutOutcome::Stored } else { PutOutcome::Conflict };
                return Ok(Ok(outcome));
            }
            if newest.version > put.record.version {
                return Ok(Ok(PutOutcome::Stale));
            }
        }
        let same = |found: CopyRecord| (found.length, found.crc) == (put.record.length, put.record.crc);
        let staged = match slot.visible {
            Visible::Copy(_) => true,
            Visible::Foreign(found) if same(found) => return Ok(self.adopt(put, unsynced)),
            Visible::Foreign(_) | Visible::Damaged(_) => {
                self.put_aside(&put.id, unsynced)?;
                false
            }
            Visible::Nothing => false,
        };
        let Body::Bytes(payload) = &put.body else {
            return Ok(Err(io::Error::new(io::ErrorKind::NotFound, "there is no such foreign file to adopt")));
        };
        let name = if staged { staged_name(&put.id, put.record.version) } else { visible_name(&put.id) };
        let created = match self.folder.create_new(&name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Not of our making: dropped in while we ran, or left by a write that failed.
                if staged {
                    let _ = self.folder.remove(&name);
                } else {
                    self.put_aside(&put.id, unsynced)?;
                }
                self.folder.create_new(&name)
            }
            created => created,
        };
        let file = match created {
            Ok(file) => file,
            Err(error) => return Ok(Err(error)),
        };
        if let Err(error) = self.fill(&name, file, put, payload, unsynced) {
            let _ = self.folder.remove(&name);
            return Ok(Err(error));
        }
        self.change(&put.id, |store, slot| {
            if staged {
                slot.staged.push(put.record);
            } else {
                store.set_visible(slot, Visible::Copy(put.record));
            }
        });
        Ok(Ok(PutOutcome::Stored))
    }

    fn fill(
        &self,
        name: &str,
        mut file: Box<dyn DiskFile>,
        put: &Put,
        payload: &Payload,
        unsynced: &mut Unsynced,
    ) -> io::Result<()> {
        let record = records::encode(&put.id, &put.record, file_names::is_hashed(&file_names::stem(&put.id)));
        self.records.set(name, file.as_mut(), &record)?;
        if !payload.is_empty() {
            file.append(&[IoSlice::new(payload)])?;
        }
        self.keep_for_sync(file, unsynced);
        Ok(())
    }

    fn keep_for_sync(&self, file: Box<dyn DiskFile>, unsynced: &mut Unsynced) {
        unsynced.names = true;
        if self.io_mode == IoMode::Unbuffered {
            unsynced.files.push(file);
        }
    }

    /// Gives the foreign file of an id its record; its content is checked once more.
    fn adopt(&self, put: &Put, unsynced: &mut Unsynced) -> Result<PutOutcome, io::Error> {
        let name = visible_name(&put.id);
        let mut file = self.folder.open(&name)?;
        if !put.record.matches(&file.read_all(put.record.length as usize)?) {
            return Err(io::Error::other("the foreign file has changed"));
        }
        let record = records::encode(&put.id, &put.record, file_names::is_hashed(&file_names::stem(&put.id)));
        self.records.set(&name, file.as_mut(), &record)?;
        self.keep_for_sync(file, unsynced);
        self.change(&put.id, |store, slot| store.set_visible(slot, Visible::Copy(put.record)));
        Ok(PutOutcome::Stored)
    }

    /// The group commit: contents, records, names.
    fn sync(&self, unsynced: Unsynced) -> Result<(), Fatal> {
        for result in self.disk.sync_many(unsynced.files) {
            result.map_err(|source| Fatal { what: "syncing a copy".to_owned(), source })?;
        }
        if unsynced.names {
            self.records.sync().map_err(|source| Fatal { what: "syncing the records".to_owned(), source })?;
            let path = self.folder.path();
            self.folder.sync().map_err(|source| Fatal { what: format!("syncing {}", path.display()), source })?;
        }
        Ok(())
    }

    /// The name under which a version can be read now, with its record.
    fn name_of(&self, id: &MessageId, version: Version) -> Option<(String, CopyRecord)> {
        let slot = self.slot(id);
        match slot.visible {
            Visible::Copy(record) | Visible::Foreign(record) if record.version == version => {
                return Some((visible_name(id), record));
            }
            _ => {}
        }
        let staged = slot.staged.iter().find(|record| record.version == version)?;
        Some((staged_name(id, version), *staged))
    }

    fn read_named(&self, name: &str, record: CopyRecord) -> io::Result<Option<Vec<u8>>> {
        let content = self.folder.open(name)?.read_all(record.length as usize)?;
        Ok(record.matches(&content).then_some(content))
    }
}

impl Store for TextStore {
    fn write(&self, settles: &[Settle], puts: &[Put]) -> Result<WriteReport, Fatal> {
        let began = Instant::now();
        let mut unsynced = Unsynced::default();
        let mut report = WriteReport { outcomes: Vec::with_capacity(puts.len()), ..WriteReport::default() };
        for settle in settles {
            self.settle(settle, &mut unsynced)?;
        }
        for put in puts {
            let outcome = match self.put(put, &mut unsynced)? {
                Ok(outcome) => outcome,
                Err(error) => {
                    report.error.get_or_insert_with(|| format!("{:?}: {error}", put.id));
                    if is_full(&error) { PutOutcome::Full } else { PutOutcome::Failed }
                }
            };
            report.outcomes.push(outcome);
        }
        report.write_time = began.elapsed();
        if self.io_mode == IoMode::Unbuffered {
            self.sync(unsynced)?;
            report.sync_time = began.elapsed() - report.write_time;
        }
        Ok(report)
    }

    fn read(&self, id: &MessageId, version: Version) -> Result<Payload, ReadFault> {
        let mut before = None;
        loop {
            let Some((name, record)) = self.name_of(id, version) else { return Err(ReadFault::Absent) };
            match self.read_named(&name, record) {
                Ok(Some(content)) => return Ok(content.into()),
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(ReadFault::Unknown(error.to_string()));
                }
                // Perhaps the writer has renamed or replaced it since it was looked up: look once more.
                _ if before.as_ref() != Some(&name) => before = Some(name),
                Err(_) => {
                    tracing::warn!("{name} has vanished");
                    return Err(ReadFault::Absent);
                }
                Ok(None) => {
                    tracing::warn!("{name} does not match its record");
                    self.change(id, |store, slot| {
                        if slot.visible == Visible::Copy(record) {
                            store.set_visible(slot, Visible::Damaged(Some(record)));
                        }
                    });
                    return Err(ReadFault::Damaged);
                }
            }
        }
    }

    fn newest(&self, id: &MessageId) -> Option<CopyRecord> {
        self.slot(id).recorded().max_by_key(|record| record.version)
    }

    fn inventory(&self, part: usize) -> Vec<Entry> {
        let shard = self.shards[part].lock().unwrap_or_else(PoisonError::into_inner);
        let mut entries = Vec::with_capacity(shard.len());
        for (id, slot) in shard.iter() {
            let mut push = |record, staged, damaged| entries.push(Entry { id: id.clone(), record, staged, damaged });
            match slot.visible {
                Visible::Copy(record) | Visible::Foreign(record) => push(record, false, false),
                Visible::Damaged(Some(record)) => push(record, false, true),
                // Nobody can tell which version it was: it is not listed, and so counts as missing.
                Visible::Damaged(None) | Visible::Nothing => {}
            }
            slot.staged.iter().for_each(|&record| push(record, true, false));
        }
        entries
    }

    fn totals(&self) -> Totals {
        Totals { messages: self.messages.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }
}

fn visible_name(id: &MessageId) -> String {
    file_names::stem(id) + ENDING
}

fn staged_name(id: &MessageId, version: Version) -> String {
    format!("{STAGED}{:016x}-{}", version.0, file_names::stem(id))
}
