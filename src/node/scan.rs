//! The start of a text store: every file of its folder, read and checked.
//!
//! The invariant: what cannot be listed or read fails the start, as unknown is not empty. Nothing is
//! removed but our own staged copies that are torn; what bears a message's name is kept, whatever it is.

use std::collections::{BTreeMap, HashSet};
use std::io;

use super::index::{Copy, Index, Visible};
use super::records::{self, BadRecord, Logged, Records};
use crate::durable::record_log::LogError;
use crate::durable::{DiskFile, Folder};
use crate::file_names::{Decoded, Names, SUFFIX};
use crate::seeded::{self, Bug};
use crate::types::{CopyRecord, MessageId, Version};

/// Copies that wait for their commit: `.staged-<version, 16 hex digits>-<stem>`.
pub const STAGED: &str = ".staged-";

/// Files that were in the way of a copy: `.aside-<number>-<stem>`.
pub const ASIDE: &str = ".aside-";

/// Copies that had become too many or too old while this node was away: `.trash-<number>-<stem>`.
pub const TRASH: &str = ".trash-";

/// Files put by for a full disk: `.spare-<number>`.
pub const SPARE: &str = ".spare-";

/// Below this, a second thread costs more than it brings, and simulated disks see one order of calls.
const TWO_THREADS_FROM: usize = 4096;

/// How much of a file is checked at once.
const CHUNK: usize = 64 * 1024;

/// What a start found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Found {
    /// Whole visible copies.
    pub messages: u64,
    /// Files without a record.
    pub foreign: u64,
    /// Copies that do not match their record.
    pub damaged: u64,
    /// Whole copies that wait for their commit.
    pub staged: u64,
    /// Names that were skipped or put aside, with the reason.
    pub ignored: Vec<String>,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Two ids that differ in case would be one file.
    #[error(
        "{folder} is on a file system that does not tell upper and lower case apart, so ids would share files: choose another --data-dir, or start this node with --layout log"
    )]
    FoldsCase {
        /// The folder.
        folder: String,
    },
    /// The disk refused a call, which proves nothing about what is there.
    #[error(
        "{what} {file} failed: {source}; the node does not start with what it cannot read: check the disk and the permissions, then start it again"
    )]
    Disk {
        /// `reading`, `listing`, ...
        what: &'static str,
        /// Which file or folder.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// Written by a newer program.
    #[error(
        "{file} has a record of format {format}, and this program reads up to {}: upgrade hatokuse",
        records::RECORD_FORMAT
    )]
    Newer {
        /// The file.
        file: String,
        /// Its format.
        format: u8,
    },
    /// A journal that was safe on the disk is not what was written.
    #[error(
        "{file} is damaged at byte {offset}, and this is no torn end of a last write: nothing was changed; move it away, and start again: copies that only it had are made again from other nodes"
    )]
    DamagedJournal {
        /// The file.
        file: String,
        /// Where.
        offset: u64,
    },
    /// A copy of the journal cannot be written: what was confirmed would be missing.
    #[error(
        "{file} holds confirmed copies that cannot be written to their files: {reason}; make room, or check the disk, then start it again"
    )]
    NotRedone {
        /// The folder.
        file: String,
        /// Why.
        reason: String,
    },
    /// The index log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// The name of a staged copy.
pub fn staged_name(version: Version, stem: &str) -> String {
    format!("{STAGED}{:016x}-{stem}", version.0)
}

/// Length and checksum of a file's content, read piece by piece.
pub fn measure(file: &dyn DiskFile, buffer: &mut Vec<u8>) -> io::Result<(u64, u32)> {
    buffer.resize(CHUNK, 0);
    let (mut length, mut crc) = (0, 0);
    loop {
        let some = file.read_at(buffer, length)?;
        crc = crc32c::crc32c_append(crc, &buffer[..some]);
        length += some as u64;
        if some == 0 {
            return Ok((length, crc));
        }
    }
}

/// The number of a file that was put aside or into the trash. One that we cannot have counted up to is nobody's:
/// counting on from it would come round to names that are taken.
fn number(name: &str, prefix: &str) -> Option<u64> {
    name.strip_prefix(prefix)?.split_once('-')?.0.parse().ok().filter(|&number| number <= u64::MAX / 2)
}

/// Files of the folder that are copies no more.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// The number of the next one.
    pub(super) next: u64,
    /// Those in the trash, oldest first.
    pub(super) trash: BTreeMap<u64, String>,
    /// Files put by for a full disk.
    pub(super) spares: Vec<String>,
}

enum Item {
    Visible { stem: String, id: Decoded },
    Staged { version: Version, stem: String, id: Decoded },
}

pub(super) struct Scan<'a> {
    pub(super) folder: &'a dyn Folder,
    pub(super) records: &'a Records,
    pub(super) names: Names,
    pub(super) logged: &'a Logged,
    pub(super) index: &'a Index,
    /// Ids whose copies are written anew after the scan, so that torn ones need not be kept.
    pub(super) journaled: &'a HashSet<MessageId>,
}

/// What a file turned out to be.
enum Seen {
    Visible(MessageId, Visible),
    Staged(MessageId, CopyRecord),
    /// Of no id that could be told, with the reason.
    Nobodys(String),
    /// A visible file without record and content, as a process killed while creating it leaves it.
    Empty(String),
    TornStage(String),
    Gone,
}

impl Scan<'_> {
    /// Fills the index; gives what was found, and what was moved away before.
    pub(super) fn run(&self) -> Result<(Found, Moved), OpenError> {
        let folder = self.folder.path().display().to_string();
        let listed = match self.folder.list() {
            Err(_) if seeded::active(Bug::ListErrorIsEmpty) => Ok(Vec::new()),
            listed => listed,
        };
        let mut listed = listed.map_err(|source| OpenError::Disk { what: "listing", file: folder, source })?;
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        let mut found = Found::default();
        let mut moved = Moved::default();
        let mut items = Vec::with_capacity(listed.len());
        let mut stages = HashSet::new();
        for entry in listed {
            if let Some(number) = number(&entry.name, ASIDE).or_else(|| number(&entry.name, TRASH)) {
                moved.next = moved.next.max(number.saturating_add(1));
            }
            if entry.regular && entry.name.starts_with(SPARE) {
                moved.spares.push(entry.name.clone());
            }
            if let Some(number) = number(&entry.name, TRASH) {
                moved.trash.insert(number, entry.name.clone());
            }
            match classify(&entry.name, entry.regular, self.names) {
                Ok(Some(item)) => {
                    if let Item::Staged { .. } = item {
                        stages.insert(entry.name);
                    }
                    items.push(item);
                }
                Ok(None) => {}
                Err(reason) => found.ignored.push(format!("{}: {reason}", entry.name)),
            }
        }
        let seen = if items.len() < TWO_THREADS_FROM {
            self.look_at(&items, &stages)?
        } else {
            let (one, two) = items.split_at(items.len() / 2);
            std::thread::scope(|scope| {
                let other = scope.spawn(|| self.look_at(two, &stages));
                let mut seen = self.look_at(one, &stages)?;
                match other.join() {
                    Ok(more) => seen.extend(more?),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
                Ok::<_, OpenError>(seen)
            })?
        };
        for seen in seen {
            self.note(seen, &mut found, &mut moved.next)?;
        }
        Ok((found, moved))
    }

    fn note(&self, seen: Seen, found: &mut Found, next_aside: &mut u64) -> Result<(), OpenError> {
        match seen {
            Seen::Visible(id, visible) => {
                *match visible {
                    Visible::Recorded(_) => &mut found.messages,
                    Visible::Foreign(_) => &mut found.foreign,
                    Visible::Damaged(_) => &mut found.damaged,
                } += 1;
                self.index.change(&id, |slot| slot.visible = Some(visible));
            }
            Seen::Staged(id, record) => {
                found.staged += 1;
                self.index.change(&id, |slot| slot.stage(Copy { record, fresh: false }));
            }
            Seen::Nobodys(reason) => found.ignored.push(reason),
            Seen::Empty(stem) if self.is_journaled(&stem) => {
                let name = format!("{stem}{SUFFIX}");
                self.folder.remove(&name).map_err(|source| OpenError::Disk {
                    what: "removing",
                    file: self.folder.path().join(&name).display().to_string(),
                    source,
                })?;
            }
            Seen::Empty(stem) => {
                // Adopted, it would be an empty message that nobody ever wrote.
                let (from, to) = (format!("{stem}{SUFFIX}"), format!("{ASIDE}{next_aside}-{stem}"));
                *next_aside += 1;
                match self.folder.rename(&from, &to) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    other => {
                        other.map_err(|source| OpenError::Disk {
                            what: "putting aside",
                            file: self.folder.path().join(&from).display().to_string(),
                            source,
                        })?;
                        found.ignored.push(format!("{from}: empty and without a record, put aside as {to}"));
                    }
                }
            }
            Seen::TornStage(name) => {
                // If it stays, it is found again at the next start.
                let _ = self.folder.remove(&name);
                found.ignored.push(format!("{name}: torn, removed"));
            }
            Seen::Gone => {}
        }
        Ok(())
    }

    fn is_journaled(&self, stem: &str) -> bool {
        match self.names.id_of(stem) {
            Some(Decoded::Id(id)) => self.journaled.contains(&id),
            Some(Decoded::AskTheRecord) => self.journaled.iter().any(|id| self.names.stem(id) == stem),
            None => false,
        }
    }

    fn look_at(&self, items: &[Item], stages: &HashSet<String>) -> Result<Vec<Seen>, OpenError> {
        let mut buffer = Vec::new();
        items.iter().map(|item| self.look(item, stages, &mut buffer)).collect()
    }

    fn look(&self, item: &Item, stages: &HashSet<String>, buffer: &mut Vec<u8>) -> Result<Seen, OpenError> {
        let (name, stem, decoded) = match item {
            Item::Visible { stem, id } => (format!("{stem}{SUFFIX}"), stem, id),
            Item::Staged { version, stem, id } => (staged_name(*version, stem), stem, id),
        };
        let path = || self.folder.path().join(&name).display().to_string();
        let disk = |source| OpenError::Disk { what: "reading", file: path(), source };
        let file = match self.folder.open(&name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Seen::Gone),
            other => other.map_err(disk)?,
        };
        let (length, crc) = measure(&*file, buffer).map_err(disk)?;
        let content = u32::try_from(length).ok().map(|length| CopyRecord {
            version: Version::FOREIGN,
            length,
            crc,
            expires: None,
        });
        let named = match decoded {
            Decoded::Id(id) => Some(id),
            Decoded::AskTheRecord => None,
        };
        let staged = match item {
            Item::Visible { .. } => None,
            Item::Staged { version, .. } => Some(*version),
        };
        let record = match self.records {
            Records::Attributes => match file.record().map_err(disk)? {
                None => None,
                Some(bytes) => match records::decode(&bytes, named) {
                    Ok(record) => Some(Ok(record)),
                    Err(BadRecord::Newer(format)) => return Err(OpenError::Newer { file: path(), format }),
                    Err(BadRecord::Damaged) => Some(Err(())),
                },
            },
            Records::Log(_) => {
                let id = named.or_else(|| self.logged.hashed.get(stem.as_str()));
                let logged = id.and_then(|id| self.logged(id, staged, content, stages)).map(Ok);
                // What was written where attributes were kept still has its record there.
                let attached = || records::decode(&file.record().ok()??, named).ok().map(Ok);
                logged.or_else(attached)
            }
        };
        let right = |id: &MessageId, record: &CopyRecord| {
            let whole = content.is_some_and(|c| record.fits(u64::from(c.length), c.crc));
            (whole || seeded::active(Bug::TornCopyAccepted)) && self.names.stem(id) == *stem
        };
        if let Some(version) = staged {
            return Ok(match record {
                Some(Ok((id, record))) if record.version == version && right(&id, &record) => Seen::Staged(id, record),
                _ => Seen::TornStage(name),
            });
        }
        Ok(match (record, named, content) {
            (Some(Ok((id, record))), _, _) if right(&id, &record) => {
                Seen::Visible(id, Visible::Recorded(Copy { record, fresh: false }))
            }
            (Some(Ok((id, record))), _, _) if self.names.stem(&id) == *stem => {
                Seen::Visible(id, Visible::Damaged(record))
            }
            (Some(_), Some(id), content) => {
                let unknown = CopyRecord { version: Version::FOREIGN, length: u32::MAX, crc: u32::MAX, expires: None };
                Seen::Visible(id.clone(), Visible::Damaged(content.unwrap_or(unknown)))
            }
            (None, _, Some(content)) if content.length == 0 => Seen::Empty(stem.clone()),
            (None, Some(id), Some(content)) => Seen::Visible(id.clone(), Visible::Foreign(content)),
            (_, None, _) => Seen::Nobodys(format!("{name}: its id cannot be told without a whole record")),
            (None, Some(_), None) => Seen::Nobodys(format!("{name}: larger than any message")),
        })
    }

    /// The record in the index log of a file of `id`: for a staged one that of its version, for a visible one
    /// the newest that fits its content, or else the newest at all.
    fn logged(
        &self,
        id: &MessageId,
        staged: Option<Version>,
        content: Option<CopyRecord>,
        stages: &HashSet<String>,
    ) -> Option<(MessageId, CopyRecord)> {
        let records = self.logged.by_id.get(id)?;
        let fits = |r: &&CopyRecord| content.is_some_and(|c| r.fits(u64::from(c.length), c.crc));
        let best = match staged {
            Some(version) => {
                let of_version = || records.iter().filter(|record| record.version == version);
                of_version().find(fits).or_else(|| of_version().next())
            }
            None => {
                // A version that still has its staged file cannot be the visible one.
                let stem = self.names.stem(id);
                let visible: Vec<_> =
                    records.iter().filter(|record| !stages.contains(&staged_name(record.version, &stem))).collect();
                let newest =
                    |records: &mut dyn Iterator<Item = &CopyRecord>| records.max_by_key(|r| r.version).copied();
                let best =
                    newest(&mut visible.iter().copied().filter(fits)).or_else(|| newest(&mut visible.into_iter()));
                return best.map(|record| (id.clone(), record));
            }
        };
        best.map(|record| (id.clone(), *record))
    }
}

/// What to look at, and why not.
fn classify(name: &str, regular: bool, names: Names) -> Result<Option<Item>, &'static str> {
    const NOBODYS: &str = "no message's name";
    if let Some(rest) = name.strip_prefix(STAGED) {
        let parsed = rest.split_once('-').and_then(|(version, stem)| {
            let version = Version(u64::from_str_radix(version, 16).ok()?);
            let id = names.id_of(stem)?;
            (staged_name(version, stem) == name).then(|| Item::Staged { version, stem: stem.to_owned(), id })
        });
        return match parsed {
            Some(item) if regular => Ok(Some(item)),
            _ => Err("no staged copy's name, or no regular file"),
        };
    }
    if name.starts_with('.') {
        return Ok(None);
    }
    let stem = name.strip_suffix(SUFFIX).ok_or("does not end in .txt")?;
    if !regular {
        return Err("not a regular file");
    }
    let id = names.id_of(stem).ok_or(NOBODYS)?;
    Ok(Some(Item::Visible { stem: stem.to_owned(), id }))
}

/// Every record in the index, for compacting the log.
pub(super) fn live_records(index: &Index) -> Vec<(MessageId, CopyRecord)> {
    (0..super::store::INVENTORY_PARTS)
        .flat_map(|part| index.part(part))
        .filter(|entry| entry.record.version != Version::FOREIGN)
        .map(|entry| (entry.id, entry.record))
        .collect()
}
