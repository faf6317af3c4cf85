//! What simulated disks hold: files and names, as they are and as a power cut would leave them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Fault, Op};
use crate::durable::Space;
use crate::lock::Lock;

#[derive(Debug)]
pub(super) struct State {
    pub(super) folders: BTreeMap<PathBuf, MemFolder>,
    pub(super) boot: u64,
    pub(super) calls: u64,
    pub(super) counts: BTreeMap<Op, u64>,
    pub(super) faults: BTreeMap<u64, Fault>,
    pub(super) next_of: BTreeMap<Op, Fault>,
    pub(super) failing: Option<i32>,
    /// Bytes that files can still grow by, and the error of what does not fit, on a disk that was filled up.
    pub(super) full: Option<(u64, i32)>,
    pub(super) crashed: bool,
    pub(super) keeps_records: bool,
    pub(super) folds_case: bool,
    pub(super) longest_name: usize,
    pub(super) syncs_as_a_whole: bool,
    /// Free and total bytes.
    pub(super) space: Space,
    /// Orders unsynced changes over all files and folders.
    pub(super) changes: u64,
    pub(super) inodes: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            folders: BTreeMap::new(),
            boot: 1,
            calls: 0,
            counts: BTreeMap::new(),
            faults: BTreeMap::new(),
            next_of: BTreeMap::new(),
            failing: None,
            full: None,
            crashed: false,
            keeps_records: true,
            folds_case: false,
            longest_name: 255,
            syncs_as_a_whole: true,
            space: Space { free: 1 << 40, size: 1 << 41, ..Space::default() },
            changes: 0,
            inodes: 0,
        }
    }
}

pub(super) type Names = BTreeMap<String, Entry>;

/// Names that change at once, and to what.
pub(super) type Renaming = Vec<(String, Option<Entry>)>;

#[derive(Debug, Default)]
pub(super) struct MemFolder {
    pub(super) live: Names,
    pub(super) synced: Names,
    /// Each changes some names at once: a rename is one change of two names.
    pub(super) unsynced: Vec<(u64, Renaming)>,
    pub(super) locks: BTreeMap<String, std::sync::Weak<()>>,
}

#[derive(Debug, Clone)]
pub(super) enum Entry {
    File(Arc<Lock<Inode>>),
    /// A link, FIFO or folder.
    Odd,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Inode {
    pub(super) number: u64,
    pub(super) live: Content,
    pub(super) synced: Content,
    pub(super) unsynced: Vec<(u64, Change)>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pub(super) bytes: Vec<u8>,
    pub(super) record: Option<Vec<u8>>,
}

#[derive(Debug, Clone)]
pub(super) enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate(usize),
    Record(Vec<u8>),
}

impl Content {
    /// Makes a change, whether or not those before it were made: a hole reads as zeros.
    pub(super) fn change(&mut self, change: &Change) {
        match change {
            Change::Write { offset, bytes } => {
                let end = offset + bytes.len();
                if self.bytes.len() < end {
                    self.bytes.resize(end, 0);
                }
                self.bytes[*offset..end].copy_from_slice(bytes);
            }
            Change::Truncate(length) => self.bytes.resize(*length, 0),
            Change::Record(record) => self.record = Some(record.clone()),
        }
    }
}

impl Inode {
    pub(super) fn change(&mut self, number: u64, change: Change) {
        self.live.change(&change);
        self.unsynced.push((number, change));
    }

    /// Makes the unsynced changes that `covers` says part of what survives a power cut.
    pub(super) fn sync(&mut self, covers: impl Fn(&Change) -> bool) {
        let (synced, kept) = std::mem::take(&mut self.unsynced).into_iter().partition(|(_, change)| covers(change));
        self.unsynced = kept;
        for (_, change) in &synced as &Vec<_> {
            self.synced.change(change);
        }
    }
}

impl Inode {
    /// A sync failed: nothing will ever write the content that it was to write, which stays readable until the power goes.
    /// (What belongs to the file system itself goes through its journal, which ends it when it fails.)
    pub(super) fn give_up(&mut self) {
        self.unsynced.retain(|(_, change)| !matches!(change, Change::Write { .. }));
    }
}

impl MemFolder {
    pub(super) fn change(&mut self, number: u64, names: Renaming) {
        apply(&mut self.live, &names);
        self.unsynced.push((number, names));
    }

    pub(super) fn each_file(&self, act: impl Fn(&mut Inode)) {
        for entry in self.entries() {
            if let Entry::File(inode) = entry {
                act(&mut inode.lock());
            }
        }
    }

    pub(super) fn sync(&mut self) {
        for (_, names) in self.unsynced.drain(..) {
            apply(&mut self.synced, &names);
        }
    }
}

pub(super) fn apply(to: &mut Names, names: &[(String, Option<Entry>)]) {
    for (name, entry) in names {
        match entry {
            Some(entry) => to.insert(name.clone(), entry.clone()),
            None => to.remove(name),
        };
    }
}

pub(super) type Copied = BTreeMap<u64, Arc<Lock<Inode>>>;

pub(super) fn copy_names(names: &Names, inodes: &mut Copied) -> Names {
    names.iter().map(|(name, entry)| (name.clone(), copy_entry(entry, inodes))).collect()
}

pub(super) fn copy_entry(entry: &Entry, inodes: &mut Copied) -> Entry {
    match entry {
        Entry::File(inode) => {
            let inode = inode.lock();
            Entry::File(inodes.entry(inode.number).or_insert_with(|| Arc::new(Lock::new(inode.clone()))).clone())
        }
        Entry::Odd => Entry::Odd,
    }
}

impl MemFolder {
    /// Every file that has, had or may have a name here.
    pub(super) fn entries(&self) -> Vec<Entry> {
        let unsynced = self.unsynced.iter().flat_map(|(_, names)| names).filter_map(|(_, entry)| entry.as_ref());
        self.live.values().chain(self.synced.values()).chain(unsynced).cloned().collect()
    }
}

impl State {
    /// The settings that outlive a crash, and nothing else.
    pub(super) fn bare(&self) -> Self {
        Self {
            keeps_records: self.keeps_records,
            folds_case: self.folds_case,
            longest_name: self.longest_name,
            syncs_as_a_whole: self.syncs_as_a_whole,
            space: self.space,
            changes: self.changes,
            inodes: self.inodes,
            ..Self::default()
        }
    }

    /// Lets a file grow by so many bytes, or says why not.
    pub(super) fn grow(&mut self, by: u64) -> std::io::Result<()> {
        match &mut self.full {
            Some((left, errno)) if *left < by => Err(std::io::Error::from_raw_os_error(*errno)),
            Some((left, _)) => {
                *left -= by;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// A file has become shorter, or has lost its name.
    pub(super) fn shrink(&mut self, by: u64) {
        if let Some((left, _)) = &mut self.full {
            *left += by;
        }
    }

    pub(super) fn plant(&mut self, folder: &Path, name: &str, entry: Entry) {
        let folder = self.folders.entry(folder.to_owned()).or_default();
        folder.live.insert(name.to_owned(), entry.clone());
        folder.synced.insert(name.to_owned(), entry);
    }

    pub(super) fn unsynced(&self) -> Vec<u64> {
        let mut numbers = Vec::new();
        for folder in self.folders.values() {
            numbers.extend(folder.unsynced.iter().map(|(number, _)| *number));
            for entry in folder.entries() {
                if let Entry::File(inode) = entry {
                    numbers.extend(inode.lock().unsynced.iter().map(|(number, _)| *number));
                }
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    pub(super) fn next_change(&mut self) -> u64 {
        self.changes += 1;
        self.changes
    }
}
