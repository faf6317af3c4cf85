//! The calls of [`durable`](crate::durable), each counted, and made or gone wrong.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::state::{Change, Entry, Inode, MemFolder, State};
use super::{Fault, MemDisk, Op};
use crate::durable::{Disk, DiskFile, Folder, Listed, Space};
use crate::lock::Lock;

fn crashed() -> io::Error {
    io::Error::other("crashed: the simulated process has ended")
}

impl MemDisk {
    /// Counts one call and makes it, or lets it go wrong. `half` is what a short write or a sync that wrote nothing leaves.
    fn call<T>(
        &self,
        op: Op,
        make: impl FnOnce(&mut State) -> io::Result<T>,
        half: impl FnOnce(&mut State),
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
            Some(fault @ (Fault::Short(errno) | Fault::Unwritten(errno))) => {
                if matches!(fault, Fault::Short(_)) == (op == Op::Append) {
                    half(&mut state);
                }
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
                if let (Op::Create, Some((_, errno))) = (op, state.full) {
                    return Err(io::Error::from_raw_os_error(errno));
                }
                make(state.folders.get_mut(&self.path).ok_or(io::ErrorKind::NotFound)?, change, inode)
            },
            |_| {},
        )
    }

    fn fits(&self, name: &str) -> io::Result<()> {
        let fits = name.len() <= self.disk.state().longest_name;
        if fits { Ok(()) } else { Err(io::Error::from_raw_os_error(super::errno::ENAMETOOLONG)) }
    }

    fn file(&self, inode: Arc<Lock<Inode>>) -> Box<dyn DiskFile> {
        Box::new(OpenFile { disk: self.disk.clone(), inode })
    }
}

impl Folder for OpenFolder {
    fn path(&self) -> PathBuf {
        self.path.clone()
    }

    fn create_new(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.fits(name)?;
        self.call(Op::Create, |folder, change, number| {
            if folder.live.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let inode = Arc::new(Lock::new(Inode { number, ..Inode::default() }));
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

    fn edit(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.fits(to)?;
        let (old, new) = (self.path.join(from), self.path.join(to));
        let is_folder = self.disk.state().folders.contains_key(&old);
        if is_folder {
            // At once on stable storage: folders here are in no other folder.
            let work = |state: &mut State| {
                let folder = state.folders.remove(&old).ok_or(io::ErrorKind::NotFound)?;
                state.folders.insert(new, folder);
                Ok(())
            };
            return self.disk.call(Op::Rename, work, |_| {});
        }
        self.call(Op::Rename, |folder, change, _| {
            let entry = folder.live.get(from).cloned().ok_or(io::ErrorKind::NotFound)?;
            folder.change(change, vec![(from.to_owned(), None), (to.to_owned(), Some(entry))]);
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let freed = self.call(Op::Remove, |folder, change, _| {
            let freed = match folder.live.get(name).ok_or(io::ErrorKind::NotFound)? {
                Entry::File(inode) => inode.lock().live.bytes.len() as u64,
                Entry::Odd => 0,
            };
            folder.change(change, vec![(name.to_owned(), None)]);
            Ok(freed)
        })?;
        self.disk.state().shrink(freed);
        Ok(())
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
        self.disk.call(
            Op::SyncAll,
            |state| {
                let folder = state.folders.get_mut(&self.path).ok_or(io::ErrorKind::NotFound)?;
                folder.each_file(|inode| inode.sync(|_| true));
                folder.sync();
                Ok(())
            },
            |state| state.folders.values().for_each(|folder| folder.each_file(Inode::give_up)),
        )
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
                let inode = Arc::new(Lock::new(Inode { number, ..Inode::default() }));
                folder.change(change, vec![(name.to_owned(), Some(Entry::File(inode)))]);
            }
            let guard = Arc::new(());
            folder.locks.insert(name.to_owned(), Arc::downgrade(&guard));
            Ok(Box::new(guard) as Box<dyn Debug + Send + Sync>)
        })
    }

    fn space(&self) -> io::Result<Space> {
        self.disk.call(Op::Ask, |state| Ok(state.space), |_| {})
    }

    fn folds_case(&self) -> io::Result<bool> {
        self.disk.call(Op::Ask, |state| Ok(state.folds_case), |_| {})
    }
}

#[derive(Debug)]
struct OpenFile {
    disk: MemDisk,
    inode: Arc<Lock<Inode>>,
}

impl OpenFile {
    fn call<T>(&self, op: Op, make: impl FnOnce(&mut Inode, u64) -> io::Result<T>) -> io::Result<T> {
        self.disk.call(
            op,
            |state| {
                let change = state.next_change();
                make(&mut self.inode.lock(), change)
            },
            |_| {},
        )
    }

    fn sync_what(&self, covers: impl Fn(&Change) -> bool) -> io::Result<()> {
        self.disk.call(
            Op::Sync,
            |_| {
                self.inode.lock().sync(covers);
                Ok(())
            },
            |_| self.inode.lock().give_up(),
        )
    }

    /// Writes at `offset`, or else at the end; a short one writes half.
    fn write(&self, parts: &[IoSlice<'_>], offset: Option<u64>) -> io::Result<()> {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let half = bytes[..bytes.len() / 2].to_vec();
        let write = |state: &mut State, bytes: Vec<u8>| {
            let change = state.next_change();
            let mut inode = self.inode.lock();
            let offset = offset.map_or(inode.live.bytes.len(), |offset| offset as usize);
            inode.change(change, Change::Write { offset, bytes });
        };
        self.disk.call(
            Op::Append,
            |state| {
                let before = self.inode.lock().live.bytes.len();
                let end = offset.map_or(before, |offset| offset as usize) + bytes.len();
                state.grow(end.saturating_sub(before) as u64)?;
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
        let freed = self.call(Op::Truncate, |inode, change| {
            let before = inode.live.bytes.len() as u64;
            inode.change(change, Change::Truncate(usize::try_from(length).map_err(io::Error::other)?));
            Ok(before.saturating_sub(length))
        })?;
        self.disk.state().shrink(freed);
        Ok(())
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
        self.sync_what(|_| true)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync_what(|change| !matches!(change, Change::Record(_)))
    }
}
