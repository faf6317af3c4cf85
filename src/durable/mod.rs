//! The only door to disks: folders, files, and when what was written is safe.
//!
//! Everything that stores goes through [`Disk`], so that a test can stand in
//! for the operating system: fail the n-th call, or forget what was not synced.
//! All calls block; roles make them on threads of their own. Names are single
//! components relative to their folder, never paths.

pub mod executor;
pub mod os;
pub mod record_log;
pub mod sim;

use std::fmt;
use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes that [`write_again`] holds.
const AT_ONCE: u64 = 1 << 20;

/// A machine's disks.
pub trait Disk: Debug + Send + Sync {
    /// Opens a folder, making it (and its parents) if it is not there. A folder
    /// that was made is itself on stable storage when this returns.
    fn folder(&self, path: &Path) -> io::Result<Arc<dyn Folder>>;

    /// Names this boot of the machine. Two writes under one boot id had no power cut between them.
    fn boot_id(&self) -> String;

    /// Syncs many files at once, each as [`DiskFile::sync`] does; one result a file, in order.
    fn sync_many(&self, files: Vec<Box<dyn DiskFile>>) -> Vec<io::Result<()>>;
}

/// A folder that stays open.
pub trait Folder: Debug + Send + Sync {
    /// For messages to people.
    fn path(&self) -> PathBuf;
    /// Makes a file that must not be there yet, for writing and reading.
    fn create_new(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a regular file for reading. Never follows a symbolic link, and refuses what is no regular file.
    /// (To open for writing what is only read makes file systems in layers copy it.)
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// As [`open`](Self::open), for reading and writing (for reading only where writing is not allowed).
    fn edit(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Names one file anew, over any older file of the new name; at once or not at all.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Everything in the folder but `.` and `..`, in no order.
    fn list(&self) -> io::Result<Vec<Listed>>;
    /// Puts the folder's names on stable storage (fsync of the folder).
    fn sync(&self) -> io::Result<()>;
    /// Puts everything in the folder, contents and names, on stable storage: by
    /// `syncfs` where the file system is known to do it, else file by file.
    fn sync_all(&self) -> io::Result<()>;
    /// Whether [`Folder::sync_all`] is one call to a file system that is known to do it all.
    fn syncs_as_a_whole(&self) -> io::Result<bool>;
    /// Why a sync here proves little, if it is known to: the file system is memory, or hands syncs on as it likes.
    fn doubt(&self) -> Option<&'static str> {
        None
    }
    /// Takes the folder's lock, held until the guard is dropped or the process ends.
    /// `WouldBlock`: another process has it.
    fn lock(&self, name: &str) -> io::Result<Box<dyn Debug + Send + Sync>>;
    /// How full the disk is.
    fn space(&self) -> io::Result<Space>;
    /// Whether two names that differ only in case are one file here.
    fn folds_case(&self) -> io::Result<bool>;
}

/// How full a disk is, for this user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes that can still be written.
    pub free: u64,
    /// Bytes of all of it.
    pub size: u64,
    /// Files that can still be made.
    pub free_files: u64,
    /// Files that it can hold; 0: there is no such limit.
    pub files: u64,
}

impl Space {
    /// Whether the file system says how full it is. Some (ramfs, some in user space) say zeros.
    pub fn is_known(&self) -> bool {
        self.size > 0
    }
}

/// What is free, in words.
impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.is_known(), self.files > 0) {
            (false, _) => f.write_str("how much is free is not known"),
            (true, false) => write!(f, "{} bytes are free", self.free),
            (true, true) => write!(f, "{} bytes and {} files are free", self.free, self.free_files),
        }
    }
}

/// What [`Folder::list`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The name; not all names are UTF-8, and one that is not is given in lossy form with `regular` unset.
    pub name: String,
    /// A regular file: not a folder, link, socket or FIFO.
    pub regular: bool,
}

/// An open file.
pub trait DiskFile: Debug + Send + Sync {
    /// Appends all of `parts` at the end, in as few calls as the system allows.
    fn append(&mut self, parts: &[io::IoSlice<'_>]) -> io::Result<()>;
    /// Writes all of `parts` from `offset` on, over what is there.
    fn write_at(&mut self, parts: &[io::IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Reads the whole file from its start; `limit` bytes and one more at most, so
    /// that a longer file can be told.
    fn read_all(&mut self, limit: usize) -> io::Result<Vec<u8>>;
    /// Bytes in the file.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file is empty.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Reads up to `buffer.len()` bytes at `offset`; 0 at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Lets go of what is in memory of these bytes, as far as it is written, so that the next read is of the disk.
    fn uncache(&self, _offset: u64, _length: u64) {}
    /// Asks for room that is written over in place, also on a file system that writes everything anew (btrfs, where this is
    /// `FS_NOCOW_FL`), so that it can be used on a full disk. For a file that is empty yet; where there is no such thing
    /// nothing changes.
    fn keep_in_place(&self) {}
    /// Cuts the file to `length`.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
    /// Gives the file its record: the extended attribute `user.hatokuse`.
    /// `Unsupported`: the file system keeps none.
    fn set_record(&mut self, record: &[u8]) -> io::Result<()>;
    /// The file's record, if it has one.
    fn record(&self) -> io::Result<Option<Vec<u8>>>;
    /// Content and metadata on stable storage (fsync).
    fn sync(&self) -> io::Result<()>;
    /// Content on stable storage, with as much metadata as reading it needs (fdatasync).
    fn sync_data(&self) -> io::Result<()>;
}

/// Replaces `name` by `content` as a whole: write beside it, sync, rename, sync the folder.
///
/// After an error the old file stands, or the new one; never a mixture.
pub fn replace(folder: &dyn Folder, name: &str, content: &[u8]) -> io::Result<()> {
    write_beside(folder, name, content)?.sync()?;
    put_in_place(folder, name)?;
    folder.sync()
}

/// Writes what is to become a file beside it, for [`put_in_place`]. What could only be begun takes no room.
pub fn write_beside(folder: &dyn Folder, name: &str, content: &[u8]) -> io::Result<Box<dyn DiskFile>> {
    let mut file = create_beside(folder, name)?;
    if let Err(error) = file.append(&[io::IoSlice::new(content)]) {
        let _ = folder.remove(&beside(name));
        return Err(error);
    }
    Ok(file)
}

/// Makes the empty file that is to become another, for [`put_in_place`].
pub fn create_beside(folder: &dyn Folder, name: &str) -> io::Result<Box<dyn DiskFile>> {
    let beside = beside(name);
    match folder.remove(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => folder.create_new(&beside),
    }
}

/// Gives what [`write_beside`] or [`create_beside`] made its name.
pub fn put_in_place(folder: &dyn Folder, name: &str) -> io::Result<()> {
    folder.rename(&beside(name), name)
}

/// Writes the bytes of a file from `from` to `until` again, over themselves: what a failed sync has left is readable, and not
/// written by any later sync but in this way. A crash meanwhile leaves the same bytes.
pub fn write_again(file: &mut dyn DiskFile, from: u64, until: u64) -> io::Result<()> {
    let mut chunk = vec![0; AT_ONCE.min(until.saturating_sub(from)) as usize];
    let mut offset = from;
    while offset < until {
        let most = chunk.len().min((until - offset) as usize);
        match file.read_at(&mut chunk[..most], offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            some => {
                file.write_at(&[io::IoSlice::new(&chunk[..some])], offset)?;
                offset += some as u64;
            }
        }
    }
    Ok(())
}

fn beside(name: &str) -> String {
    format!("{}{name}.new", if name.starts_with('.') { "" } else { "." })
}

/// Whether a disk refused before it did anything, being full or read-only: what was there before stands.
pub fn takes_nothing(error: &io::Error) -> bool {
    is_full(error) || error.kind() == io::ErrorKind::ReadOnlyFilesystem
}

/// Whether a call on one file was refused before it did anything, so that what was there before stands: its disk takes
/// nothing, or this file may not be changed (EPERM, EACCES), or its name is too long.
pub fn is_refused(error: &io::Error) -> bool {
    takes_nothing(error) || matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidFilename)
}

/// Whether the file system itself is gone: nothing on it will work again until it is mounted anew, and the folder opened.
pub fn is_gone(error: &io::Error) -> bool {
    const ENODEV: i32 = 19;
    const ESHUTDOWN: i32 = 108;
    const ENOTCONN: i32 = 107;
    const ESTALE: i32 = 116;
    matches!(error.raw_os_error(), Some(ENODEV | ESHUTDOWN | ENOTCONN | ESTALE))
}

/// Whether an error means that the disk (or the quota) has no room left.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
