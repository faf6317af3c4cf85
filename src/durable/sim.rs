//! Disks in memory that fail, crash and lose power on demand.
//!
//! The invariant: what a call changed is *unsynced* until the sync that covers it, and after a power cut
//! any subset of the unsynced changes may be there: of a file's content, of its record, of its names, each
//! apart from the others. The order of everything is fixed, so one seed is one run. No real disk is touched.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile, Folder, Listed};

/// Kinds of disk calls, for counting them and for failing the next of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// `Disk::folder`.
    Folder,
    /// `Folder::create_new`.
    Create,
    /// `Folder::open`.
    Open,
    /// `Folder::rename`.
    Rename,
    /// `Folder::remove`.
    Remove,
    /// `Folder::list`.
    List,
    /// `Folder::sync`.
    SyncFolder,
    /// `Folder::sync_all`.
    SyncAll,
    /// `Folder::lock`.
    Lock,
    /// `Folder::space` and `Folder::folds_case`.
    Ask,
    /// `DiskFile::append` and `write_at`.
    Append,
    /// `DiskFile::read_all`, `read_at` and `len`.
    Read,
    /// `DiskFile::truncate`.
    Truncate,
    /// `DiskFile::set_record`.
    SetRecord,
    /// `DiskFile::record`.
    Record,
    /// `DiskFile::sync` and `sync_data`.
    Sync,
}

impl Op {
    /// Whether the call changes anything.
    pub fn changes(self) -> bool {
        matches!(self, Self::Create | Self::Rename | Self::Remove | Self::Append | Self::Truncate | Self::SetRecord)
    }
}

/// What goes wrong at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call does nothing and gives this system error number (5 is EIO, 28 ENOSPC).
    Fail(i32),
    /// An append writes half of its bytes and then gives this error; any other call is as with `Fail`.
    Short(i32),
    /// The process ends before the call: this and all later calls give an error.
    CrashBefore,
    /// The process ends when the call was done, but before it could say so.
    CrashAfter,
}

/// System error numbers for [`Fault`].
pub mod errno {
    /// Input/output error.
    pub const EIO: i32 = 5;
    /// Permission denied.
    pub const EACCES: i32 = 13;
    /// Too many open files.
    pub const EMFILE: i32 = 24;
    /// No space left on device.
    pub const ENOSPC: i32 = 28;
    /// Read-only file system.
    pub const EROFS: i32 = 30;
}

/// Disks in memory; clones of the handle are the same disks.
#[derive(Debug, Clone, Default)]
pub struct MemDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    folders: BTreeMap<PathBuf, MemFolder>,
    boot: u64,
    calls: u64,
    counts: BTreeMap<Op, u64>,
    faults: BTreeMap<u64, Fault>,
    next_of: BTreeMap<Op, Fault>,
    failing: Option<i32>,
    crashed: bool,
    keeps_records: bool,
    folds_case: bool,
    syncs_as_a_whole: bool,
    /// Free and total bytes.
    space: (u64, u64),
    /// Orders unsynced changes over all files and folders.
    changes: u64,
    inodes: u64,
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
            crashed: false,
            keeps_records: true,
            folds_case: false,
            syncs_as_a_whole: true,
            space: (1 << 40, 1 << 41),
            changes: 0,
            inodes: 0,
        }
    }
}

type Names = BTreeMap<String, Entry>;

/// Names that change at once, and to what.
type Renaming = Vec<(String, Option<Entry>)>;

#[derive(Debug, Default)]
struct MemFolder {
    live: Names,
    synced: Names,
    /// Each changes some names at once: a rename is one change of two names.
    unsynced: Vec<(u64, Renaming)>,
    locks: BTreeMap<String, std::sync::Weak<()>>,
}

#[derive(Debug, Clone)]
enum Entry {
    File(Arc<Mutex<Inode>>),
    /// A link, FIFO or folder.
    Odd,
}

#[derive(Debug, Clone, Default)]
struct Inode {
    number: u64,
    live: Content,
    synced: Content,
    unsynced: Vec<(u64, Change)>,
}

#[derive(Debug, Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    record: Option<Vec<u8>>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate(usize),
    Record(Vec<u8>),
}

impl Content {
    /// Makes a change, whether or not those before it were made: a hole reads as zeros.
    fn change(&mut self, change: &Change) {
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
    fn change(&mut self, number: u64, change: Change) {
        self.live.change(&change);
        self.unsynced.push((number, change));
    }

    /// Makes the unsynced changes that `covers` says part of what survives a power cut.
    fn sync(&mut self, covers: impl Fn(&Change) -> bool) {
        let (synced, kept) = std::mem::take(&mut self.unsynced).into_iter().partition(|(_, change)| covers(change));
        self.unsynced = kept;
        for (_, change) in &synced as &Vec<_> {
            self.synced.change(change);
        }
    }
}

impl MemFolder {
    fn change(&mut self, number: u64, names: Renaming) {
        apply(&mut self.live, &names);
        self.unsynced.push((number, names));
    }

    fn sync(&mut self) {
        for (_, names) in self.unsynced.drain(..) {
            apply(&mut self.synced, &names);
        }
    }
}

fn apply(to: &mut Names, names: &[(String, Option<Entry>)]) {
    for (name, entry) in names {
        match entry {
            Some(entry) => to.insert(name.clone(), entry.clone()),
            None => to.remove(name),
        };
    }
}

/// How much of one unsynced change survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survives {
    /// All of it.
    Whole,
    /// Of a write, only so many 256ths of its bytes, from the front; of anything else, nothing.
    Part(u8),
    /// Of a write, the length but zeros for its bytes; of anything else, nothing.
    Zeros,
    /// Nothing.
    Nothing,
}

impl MemDisk {
    /// Empty disks that keep records, tell case apart, and do not fail.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Disk calls so far.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Disk calls of one kind so far.
    pub fn calls_of(&self, op: Op) -> u64 {
        self.state().counts.get(&op).copied().unwrap_or(0)
    }

    /// Lets the `call`-th call from the beginning (the first is 0) go wrong.
    pub fn fault_at(&self, call: u64, fault: Fault) {
        self.state().faults.insert(call, fault);
    }

    /// Lets the next call of one kind go wrong.
    pub fn fault_next(&self, op: Op, fault: Fault) {
        self.state().next_of.insert(op, fault);
    }

    /// Lets every call that changes something fail from now on (a full or read-only disk), or none any more.
    pub fn set_failing(&self, errno: Option<i32>) {
        self.state().failing = errno;
    }

    /// The disk works again: no call fails any more.
    pub fn heal(&self) {
        let mut state = self.state();
        (state.failing, state.faults) = (None, BTreeMap::new());
        state.next_of.clear();
    }

    /// Whether files keep records; where they do not, `set_record` and `record` are `Unsupported`.
    pub fn set_keeps_records(&self, keeps: bool) {
        self.state().keeps_records = keeps;
    }

    /// What `Folder::folds_case` answers.
    pub fn set_folds_case(&self, folds: bool) {
        self.state().folds_case = folds;
    }

    /// What `Folder::syncs_as_a_whole` answers.
    pub fn set_syncs_as_a_whole(&self, does: bool) {
        self.state().syncs_as_a_whole = does;
    }

    /// What `Folder::space` answers: free and total bytes.
    pub fn set_space(&self, free: u64, total: u64) {
        self.state().space = (free, total);
    }

    /// Whether a [`Fault`] ended the process.
    pub fn crashed(&self) -> bool {
        self.state().crashed
    }

    /// Puts a file without a record into a folder, as an operator would: synced, and not counted as a call.
    pub fn plant(&self, folder: &Path, name: &str, content: &[u8]) {
        let mut state = self.state();
        state.inodes += 1;
        let content = Content { bytes: content.to_vec(), record: None };
        let inode = Inode { number: state.inodes, live: content.clone(), synced: content, unsynced: Vec::new() };
        state.plant(folder, name, Entry::File(Arc::new(Mutex::new(inode))));
    }

    /// Puts something into a folder that is no regular file.
    pub fn plant_odd(&self, folder: &Path, name: &str) {
        self.state().plant(folder, name, Entry::Odd);
    }

    /// Gives a folder another path, as an operator would who moves a disk to another machine.
    pub fn rename_folder(&self, from: &Path, to: &Path) {
        let mut state = self.state();
        if let Some(folder) = state.folders.remove(from) {
            state.folders.insert(to.to_owned(), folder);
        }
    }

    /// Changes the bytes of a file behind everybody's back, on the disk too: bit rot, or an editor.
    pub fn rot(&self, folder: &Path, name: &str, change: impl Fn(&mut Vec<u8>)) {
        let state = self.state();
        if let Some(Entry::File(inode)) = state.folders.get(folder).and_then(|folder| folder.live.get(name)) {
            let mut inode = lock(inode);
            change(&mut inode.live.bytes);
            inode.synced.bytes = inode.live.bytes.clone();
            inode.unsynced.retain(|(_, change)| matches!(change, Change::Record(_)));
        }
    }

    /// Everything in a folder by name, with the content of files.
    pub fn peek(&self, folder: &Path) -> BTreeMap<String, Option<Vec<u8>>> {
        let state = self.state();
        let names = state.folders.get(folder).map(|folder| &folder.live);
        let content = |entry: &Entry| match entry {
            Entry::File(inode) => Some(lock(inode).live.bytes.clone()),
            Entry::Odd => None,
        };
        names.into_iter().flatten().map(|(name, entry)| (name.clone(), content(entry))).collect()
    }

    /// How many changes are not synced: those that [`Self::after_power_cut_with`] asks about.
    pub fn unsynced(&self) -> usize {
        self.state().unsynced().len()
    }

    /// The disks as the end of the process leaves them: all calls that were made are there. No faults, and no
    /// locks; the handle that this was called on goes its own way.
    pub fn after_kill(&self) -> Self {
        let state = self.state();
        let mut copy = State { boot: state.boot, ..state.bare() };
        let mut inodes = BTreeMap::new();
        for (path, folder) in &state.folders {
            let mut copied = MemFolder { live: copy_names(&folder.live, &mut inodes), ..MemFolder::default() };
            copied.synced = copy_names(&folder.synced, &mut inodes);
            for (number, names) in &folder.unsynced {
                let names = names
                    .iter()
                    .map(|(name, entry)| (name.clone(), entry.as_ref().map(|entry| copy_entry(entry, &mut inodes))));
                copied.unsynced.push((*number, names.collect()));
            }
            copy.folders.insert(path.clone(), copied);
        }
        Self(Arc::new(Mutex::new(copy)))
    }

    /// The disks after a power cut that each unsynced change survives whole, in part or not at all, by chance.
    ///
    /// A file's content survives only with the record that it was given before: both are part of one inode, whose
    /// changes a journal keeps in order. (What no journal kept in order, [`Self::after_power_cut_with`] tries out.)
    pub fn after_power_cut(&self, chance: &mut fastrand::Rng) -> Self {
        let survives = |_| match chance.u8(..) {
            0..=99 => Survives::Whole,
            part @ 100..=129 => Survives::Part((part - 100) * 8),
            130..=159 => Survives::Zeros,
            _ => Survives::Nothing,
        };
        self.power_cut(true, survives)
    }

    /// The disks after a power cut; `survives` says it for each unsynced change, oldest first.
    pub fn after_power_cut_with(&self, survives: impl FnMut(usize) -> Survives) -> Self {
        self.power_cut(false, survives)
    }

    fn power_cut(&self, records_first: bool, mut survives: impl FnMut(usize) -> Survives) -> Self {
        // The copy has inodes of its own, so that this one stays as it is.
        let copy = self.after_kill();
        let mut state = copy.state();
        let fates: BTreeMap<u64, Survives> =
            state.unsynced().into_iter().enumerate().map(|(place, number)| (number, survives(place))).collect();
        for folder in state.folders.values_mut() {
            for entry in folder.entries() {
                let Entry::File(inode) = entry else { continue };
                let mut inode = lock(&inode);
                for (number, change) in std::mem::take(&mut inode.unsynced) {
                    match (fates[&number], &change) {
                        (Survives::Whole, _) => inode.synced.change(&change),
                        (Survives::Part(part), Change::Write { offset, bytes }) => {
                            let bytes = bytes[..bytes.len() * usize::from(part) / 256].to_vec();
                            inode.synced.change(&Change::Write { offset: *offset, bytes });
                        }
                        (Survives::Zeros, Change::Write { offset, bytes }) => {
                            let bytes = vec![0; bytes.len()];
                            inode.synced.change(&Change::Write { offset: *offset, bytes });
                        }
                        (_, Change::Record(_)) if records_first => break,
                        _ => {}
                    }
                }
                inode.live = inode.synced.clone();
            }
        }
        for folder in state.folders.values_mut() {
            for (number, names) in std::mem::take(&mut folder.unsynced) {
                if fates[&number] == Survives::Whole {
                    apply(&mut folder.synced, &names);
                }
            }
            folder.live = folder.synced.clone();
        }
        state.boot += 1;
        drop(state);
        copy
    }
}

fn lock(inode: &Mutex<Inode>) -> MutexGuard<'_, Inode> {
    inode.lock().unwrap_or_else(PoisonError::into_inner)
}

type Copied = BTreeMap<u64, Arc<Mutex<Inode>>>;

fn copy_names(names: &Names, inodes: &mut Copied) -> Names {
    names.iter().map(|(name, entry)| (name.clone(), copy_entry(entry, inodes))).collect()
}

fn copy_entry(entry: &Entry, inodes: &mut Copied) -> Entry {
    match entry {
        Entry::File(inode) => {
            let inode = lock(inode);
            Entry::File(inodes.entry(inode.number).or_insert_with(|| Arc::new(Mutex::new(inode.clone()))).clone())
        }
        Entry::Odd => Entry::Odd,
    }
}

impl MemFolder {
    /// Every file that has, had or may have a name here.
    fn entries(&self) -> Vec<Entry> {
        let unsynced = self.unsynced.iter().flat_map(|(_, names)| names).filter_map(|(_, entry)| entry.as_ref());
        self.live.values().chain(self.synced.values()).chain(unsynced).cloned().collect()
    }
}

impl State {
    /// The settings that outlive a crash, and nothing else.
    fn bare(&self) -> Self {
        Self {
            keeps_records: self.keeps_records,
            folds_case: self.folds_case,
            syncs_as_a_whole: self.syncs_as_a_whole,
            space: self.space,
            changes: self.changes,
            inodes: self.inodes,
            ..Self::default()
        }
    }

    fn plant(&mut self, folder: &Path, name: &str, entry: Entry) {
        let folder = self.folders.entry(folder.to_owned()).or_default();
        folder.live.insert(name.to_owned(), entry.clone());
        folder.synced.insert(name.to_owned(), entry);
    }

    fn unsynced(&self) -> Vec<u64> {
        let mut numbers = Vec::new();
        for folder in self.folders.values() {
            numbers.extend(folder.unsynced.iter().map(|(number, _)| *number));
            for entry in folder.entries() {
                if let Entry::File(inode) = entry {
                    numbers.extend(lock(&inode).unsynced.iter().map(|(number, _)| *number));
                }
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    fn next_change(&mut self) -> u64 {
        self.changes += 1;
        self.changes
    }
}

fn crashed() -> io::Error {
    io::Error::other("crashed: the simulated process has ended")
}

impl MemDisk {
    /// Counts one call and makes it, or lets it go wrong. `short` is what a short write leaves.
    fn call<T>(
        &self,
        op: Op,
        make: impl FnOnce(&mut State) -> io::Result<T>,
        short: impl FnOnce(&mut State),
    ) -> io::Result<T> {
        let mut state = self.state();
        if state.crashed {
            return Err(crashed());
        }
        let number = state.calls;
        state.calls += 1;
        *state.counts.entry(op).or_default() += 1;
        let planned = state.faults.remove(&number).or_else(|| state.next_of.remove(&op));
        match planned.or(state.failing.filter(|_| op.changes()).map(Fault::Fail)) {
            None => make(&mut state),
            Some(Fault::Fail(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(Fault::Short(errno)) => {
                short(&mut state);
                Err(io::Error::from_raw_os_error(errno))
            }
            Some(Fault::CrashBefore) => {
                state.crashed = true;
                Err(crashed())
            }
            Some(Fault::CrashAfter) => {
                let _ = make(&mut state);
                state.crashed = true;
                Err(crashed())
            }
        }
    }
}

impl Disk for MemDisk {
    fn folder(&self, path: &Path) -> io::Result<Arc<dyn Folder>> {
        self.call(
            Op::Folder,
            |state| {
                state.folders.entry(path.to_owned()).or_default();
                Ok(Arc::new(OpenFolder { disk: self.clone(), path: path.to_owned() }) as Arc<dyn Folder>)
            },
            |_| {},
        )
    }

    fn boot_id(&self) -> String {
        format!("simulated-{}", self.state().boot)
    }

    fn sync_many(&self, files: Vec<Box<dyn DiskFile>>) -> Vec<io::Result<()>> {
        files.iter().map(|file| file.sync()).collect()
    }
}

#[derive(Debug)]
struct OpenFolder {
    disk: MemDisk,
    path: PathBuf,
}

impl OpenFolder {
    fn call<T>(&self, op: Op, make: impl FnOnce(&mut MemFolder, u64, u64) -> io::Result<T>) -> io::Result<T> {
        self.disk.call(
            op,
            |state| {
                let change = state.next_change();
                state.inodes += 1;
                let inode = state.inodes;
                make(state.folders.get_mut(&self.path).ok_or(io::ErrorKind::NotFound)?, change, inode)
            },
            |_| {},
        )
    }

    fn file(&self, inode: Arc<Mutex<Inode>>) -> Box<dyn DiskFile> {
        Box::new(OpenFile { disk: self.disk.clone(), inode })
    }
}

impl Folder for OpenFolder {
    fn path(&self) -> PathBuf {
        self.path.clone()
    }

    fn create_new(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.call(Op::Create, |folder, change, number| {
            if folder.live.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let inode = Arc::new(Mutex::new(Inode { number, ..Inode::default() }));
            folder.change(change, vec![(name.to_owned(), Some(Entry::File(inode.clone())))]);
            Ok(self.file(inode))
        })
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.call(Op::Open, |folder, _, _| match folder.live.get(name) {
            Some(Entry::File(inode)) => Ok(self.file(inode.clone())),
            Some(Entry::Odd) => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
            None => Err(io::ErrorKind::NotFound.into()),
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.call(Op::Rename, |folder, change, _| {
            let entry = folder.live.get(from).cloned().ok_or(io::ErrorKind::NotFound)?;
            folder.change(change, vec![(from.to_owned(), None), (to.to_owned(), Some(entry))]);
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.call(Op::Remove, |folder, change, _| {
            if !folder.live.contains_key(name) {
                return Err(io::ErrorKind::NotFound.into());
            }
            folder.change(change, vec![(name.to_owned(), None)]);
            Ok(())
        })
    }

    fn list(&self) -> io::Result<Vec<Listed>> {
        self.call(Op::List, |folder, _, _| {
            let listed = |(name, entry): (&String, &Entry)| Listed {
                name: name.clone(),
                regular: matches!(entry, Entry::File(_)),
            };
            Ok(folder.live.iter().map(listed).collect())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.call(Op::SyncFolder, |folder, _, _| {
            folder.sync();
            Ok(())
        })
    }

    fn sync_all(&self) -> io::Result<()> {
        self.call(Op::SyncAll, |folder, _, _| {
            for entry in folder.entries() {
                if let Entry::File(inode) = entry {
                    lock(&inode).sync(|_| true);
                }
            }
            folder.sync();
            Ok(())
        })
    }

    fn syncs_as_a_whole(&self) -> io::Result<bool> {
        self.disk.call(Op::Ask, |state| Ok(state.syncs_as_a_whole), |_| {})
    }

    fn lock(&self, name: &str) -> io::Result<Box<dyn Debug + Send + Sync>> {
        self.call(Op::Lock, |folder, change, number| {
            if folder.locks.get(name).is_some_and(|held| held.strong_count() > 0) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            if !folder.live.contains_key(name) {
                let inode = Arc::new(Mutex::new(Inode { number, ..Inode::default() }));
                folder.change(change, vec![(name.to_owned(), Some(Entry::File(inode)))]);
            }
            let guard = Arc::new(());
            folder.locks.insert(name.to_owned(), Arc::downgrade(&guard));
            Ok(Box::new(guard) as Box<dyn Debug + Send + Sync>)
        })
    }

    fn space(&self) -> io::Result<(u64, u64)> {
        self.disk.call(Op::Ask, |state| Ok(state.space), |_| {})
    }

    fn folds_case(&self) -> io::Result<bool> {
        self.disk.call(Op::Ask, |state| Ok(state.folds_case), |_| {})
    }
}

#[derive(Debug)]
struct OpenFile {
    disk: MemDisk,
    inode: Arc<Mutex<Inode>>,
}

impl OpenFile {
    fn call<T>(&self, op: Op, make: impl FnOnce(&mut Inode, u64) -> io::Result<T>) -> io::Result<T> {
        self.disk.call(
            op,
            |state| {
                let change = state.next_change();
                make(&mut lock(&self.inode), change)
            },
            |_| {},
        )
    }

    /// Writes at `offset`, or else at the end; a short one writes half.
    fn write(&self, parts: &[IoSlice<'_>], offset: Option<u64>) -> io::Result<()> {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let half = bytes[..bytes.len() / 2].to_vec();
        let write = |state: &mut State, bytes: Vec<u8>| {
            let change = state.next_change();
            let mut inode = lock(&self.inode);
            let offset = offset.map_or(inode.live.bytes.len(), |offset| offset as usize);
            inode.change(change, Change::Write { offset, bytes });
        };
        self.disk.call(
            Op::Append,
            |state| {
                write(state, bytes);
                Ok(())
            },
            |state| write(state, half),
        )
    }

    fn keeps_records(&self) -> io::Result<()> {
        if self.disk.state().keeps_records { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
    }
}

impl DiskFile for OpenFile {
    fn append(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        self.write(parts, None)
    }

    fn write_at(&mut self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.write(parts, Some(offset))
    }

    fn read_all(&mut self, limit: usize) -> io::Result<Vec<u8>> {
        self.call(Op::Read, |inode, _| {
            let bytes = &inode.live.bytes;
            Ok(bytes[..bytes.len().min(limit.saturating_add(1))].to_vec())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.call(Op::Read, |inode, _| Ok(inode.live.bytes.len() as u64))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.call(Op::Read, |inode, _| {
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(inode.live.bytes.len());
            let some = buffer.len().min(inode.live.bytes.len() - from);
            buffer[..some].copy_from_slice(&inode.live.bytes[from..from + some]);
            Ok(some)
        })
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.call(Op::Truncate, |inode, change| {
            inode.change(change, Change::Truncate(usize::try_from(length).map_err(io::Error::other)?));
            Ok(())
        })
    }

    fn set_record(&mut self, record: &[u8]) -> io::Result<()> {
        self.keeps_records()?;
        self.call(Op::SetRecord, |inode, change| {
            inode.change(change, Change::Record(record.to_vec()));
            Ok(())
        })
    }

    fn record(&self) -> io::Result<Option<Vec<u8>>> {
        self.keeps_records()?;
        self.call(Op::Record, |inode, _| Ok(inode.live.record.clone()))
    }

    fn sync(&self) -> io::Result<()> {
        self.call(Op::Sync, |inode, _| {
            inode.sync(|_| true);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.call(Op::Sync, |inode, _| {
            inode.sync(|change| !matches!(change, Change::Record(_)));
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> &'static Path {
        Path::new("/disk")
    }

    fn write(folder: &dyn Folder, name: &str, content: &[u8]) -> Box<dyn DiskFile> {
        let mut file = folder.create_new(name).unwrap();
        file.set_record(b"r").unwrap();
        file.append(&[IoSlice::new(content)]).unwrap();
        file
    }

    #[test]
    fn what_is_not_synced_is_lost_with_the_power_only() {
        let disk = MemDisk::new();
        let folder = disk.folder(path()).unwrap();
        let synced = write(&*folder, "synced", b"12345");
        synced.sync().unwrap();
        folder.sync().unwrap();
        write(&*folder, "named", b"12345");
        folder.sync().unwrap();
        write(&*folder, "lost", b"12345").sync().unwrap();
        assert_eq!(disk.after_kill().peek(path()), disk.peek(path()));
        let after = disk.after_power_cut_with(|_| Survives::Nothing);
        let expected = [("named".to_owned(), Some(Vec::new())), ("synced".to_owned(), Some(b"12345".to_vec()))];
        assert_eq!(after.peek(path()), BTreeMap::from(expected));
        assert_ne!(after.boot_id(), disk.boot_id());
        assert_eq!(disk.unsynced(), 3, "record and content of one file, name of another");
        let file = after.folder(path()).unwrap().open("named").unwrap();
        assert_eq!(file.record().unwrap(), None);
        assert_eq!(disk.after_power_cut_with(|_| Survives::Whole).peek(path()), disk.peek(path()));
        let torn = disk.after_power_cut_with(|_| Survives::Part(128)).peek(path());
        assert_eq!(torn["named"].as_deref(), Some(&b"12"[..]));
        let zeros = disk.after_power_cut_with(|_| Survives::Zeros).peek(path());
        assert_eq!(zeros["named"].as_deref(), Some(&[0; 5][..]));
    }

    #[test]
    fn a_later_write_may_survive_an_earlier_one() {
        let disk = MemDisk::new();
        let folder = disk.folder(path()).unwrap();
        let mut file = folder.create_new("f").unwrap();
        folder.sync().unwrap();
        file.append(&[IoSlice::new(b"aa")]).unwrap();
        file.append(&[IoSlice::new(b"bb")]).unwrap();
        let after = disk.after_power_cut_with(|n| if n == 1 { Survives::Whole } else { Survives::Nothing });
        assert_eq!(after.peek(path())["f"].as_deref(), Some(&b"\0\0bb"[..]));
    }

    #[test]
    fn one_seed_is_one_run() {
        let run = |seed| {
            let disk = MemDisk::new();
            let folder = disk.folder(path()).unwrap();
            for n in 0..50 {
                write(&*folder, &format!("{n}"), &[n; 100]);
            }
            disk.after_power_cut(&mut fastrand::Rng::with_seed(seed)).peek(path())
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn calls_fail_and_crash_on_demand() {
        let disk = MemDisk::new();
        let folder = disk.folder(path()).unwrap();
        let mut file = folder.create_new("f").unwrap();
        disk.fault_at(disk.calls(), Fault::Short(errno::ENOSPC));
        let error = file.append(&[IoSlice::new(b"1234")]).unwrap_err();
        assert!(crate::durable::is_full(&error) && file.len().unwrap() == 2);
        disk.fault_next(Op::SyncFolder, Fault::Fail(errno::EIO));
        file.sync().unwrap();
        assert_eq!(folder.sync().unwrap_err().raw_os_error(), Some(errno::EIO));
        folder.sync().unwrap();
        disk.set_failing(Some(errno::EROFS));
        assert_eq!(folder.remove("f").unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
        assert_eq!(file.read_all(9).unwrap(), b"12");
        disk.set_failing(None);
        let lock = folder.lock(".lock").unwrap();
        assert_eq!(folder.lock(".lock").unwrap_err().kind(), io::ErrorKind::WouldBlock);
        disk.fault_next(Op::Remove, Fault::CrashAfter);
        assert!(folder.remove("f").is_err() && folder.list().is_err() && disk.crashed());
        let after = disk.after_kill();
        assert!(!after.peek(path()).contains_key("f"), "the call was made before the end");
        after.folder(path()).unwrap().lock(".lock").unwrap();
        drop(lock);
    }
}
