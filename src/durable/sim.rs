//! Disks in memory that fail, crash and lose power on demand.
//!
//! The invariant: what a call changed is *unsynced* until the sync that covers it, and after a power cut
//! any subset of the unsynced changes may be there: of a file's content, of its record, of its names, each
//! apart from the others. The order of everything is fixed, so one seed is one run. No real disk is touched.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, MutexGuard};

use self::state::{Change, Content, Entry, Inode, MemFolder, State, apply, copy_entry, copy_names};
use super::Space;
use crate::lock::Lock;

mod calls;
mod state;

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
    /// A sync fails as it does on Linux: the content that it did not write stays readable until the power goes, is clean, so
    /// that no later sync writes it either, and is not on the disk. Any other call is as with `Fail`.
    Unwritten(i32),
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
    /// Operation not permitted.
    pub const EPERM: i32 = 1;
    /// File name too long.
    pub const ENAMETOOLONG: i32 = 36;
    /// Disk quota exceeded.
    pub const EDQUOT: i32 = 122;
}

/// Disks in memory; clones of the handle are the same disks.
#[derive(Debug, Clone, Default)]
pub struct MemDisk(Arc<Lock<State>>);

/// How much of one unsynced change survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survives {
    /// All of it.
    Whole,
    /// Of a write, only so many 256ths of its bytes, from the front; of anything else, nothing.
    Part(u8),
    /// Of a write, the length but zeros for its bytes, as far as they do not lie over what is on the disk already; of anything
    /// else, nothing.
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
        self.0.lock()
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

    /// Fills the disk up: there is no file to be had, and no byte but those that are given back. (28 is ENOSPC, 122 EDQUOT.)
    pub fn fill(&self, errno: i32) {
        self.leave(0, errno);
    }

    /// As [`Self::fill`], but for so many bytes.
    pub fn leave(&self, bytes: u64, errno: i32) {
        self.state().full = Some((bytes, errno));
    }

    /// The disk works again, and has room: no call fails any more.
    pub fn heal(&self) {
        let mut state = self.state();
        (state.failing, state.full, state.faults) = (None, None, BTreeMap::new());
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

    /// Names of more bytes are refused (36, ENAMETOOLONG).
    pub fn set_longest_name(&self, bytes: usize) {
        self.state().longest_name = bytes;
    }

    /// What `Folder::syncs_as_a_whole` answers.
    pub fn set_syncs_as_a_whole(&self, does: bool) {
        self.state().syncs_as_a_whole = does;
    }

    /// What `Folder::space` answers: free and total bytes.
    pub fn set_space(&self, free: u64, total: u64) {
        self.state().space = Space { free, size: total, ..Space::default() };
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
        state.plant(folder, name, Entry::File(Arc::new(Lock::new(inode))));
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
            let mut inode = inode.lock();
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
            Entry::File(inode) => Some(inode.lock().live.bytes.clone()),
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
        Self(Arc::new(Lock::new(copy)))
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
                let mut inode = inode.lock();
                let on_disk = inode.synced.bytes.len();
                for (number, change) in std::mem::take(&mut inode.unsynced) {
                    match (fates[&number], &change) {
                        (Survives::Whole, _) => inode.synced.change(&change),
                        (Survives::Part(part), Change::Write { offset, bytes }) => {
                            let bytes = bytes[..bytes.len() * usize::from(part) / 256].to_vec();
                            inode.synced.change(&Change::Write { offset: *offset, bytes });
                        }
                        (Survives::Zeros, Change::Write { offset, bytes }) => {
                            // What lies over bytes of the disk leaves those as they are.
                            let from = (*offset).max(on_disk);
                            let bytes = vec![0; (offset + bytes.len()).saturating_sub(from)];
                            inode.synced.change(&Change::Write { offset: from, bytes });
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

#[cfg(test)]
mod tests {
    use std::io::{self, IoSlice};

    use super::*;
    use crate::durable::{Disk, DiskFile, Folder};

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
    fn what_a_failed_sync_did_not_write_is_readable_and_no_later_sync_writes_it() {
        let disk = MemDisk::new();
        let folder = disk.folder(path()).unwrap();
        let file = write(&*folder, "one", b"12345");
        folder.sync().unwrap();
        disk.fault_next(Op::Sync, Fault::Unwritten(errno::EIO));
        assert!(file.sync().is_err());
        write(&*folder, "all", b"12345");
        folder.sync().unwrap();
        disk.fault_next(Op::SyncAll, Fault::Unwritten(errno::ENOSPC));
        assert!(folder.sync_all().is_err());
        file.sync().unwrap();
        folder.sync_all().unwrap();
        let disk = disk.after_kill();
        for (name, content) in disk.peek(path()) {
            assert_eq!(content.as_deref(), Some(&b"12345"[..]), "{name}");
        }
        for (name, content) in disk.after_power_cut_with(|_| Survives::Whole).peek(path()) {
            assert_eq!(content.as_deref(), Some(&b""[..]), "{name}");
        }
        // Written over itself, it is like new.
        let mut file = disk.folder(path()).unwrap().edit("one").unwrap();
        crate::durable::write_again(&mut *file, 0, 5).unwrap();
        file.sync().unwrap();
        assert_eq!(
            disk.after_power_cut_with(|_| Survives::Nothing).peek(path())["one"].as_deref(),
            Some(&b"12345"[..])
        );
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
