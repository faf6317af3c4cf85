//! The real system's disks, behind the traits of [`durable`](super).
//!
//! Every call is made relative to an open folder, never follows a symbolic
//! link, is tried again when a signal interrupts it, and goes on after a short
//! write. Nothing here decides anything: an error is handed up as it came, and
//! no call that may have failed is made a second time.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, OnceLock, PoisonError, mpsc};

use rustix::fs::{self, Advice, AtFlags, FileType, FlockOperation, IFlags, Mode, OFlags, XattrFlags};
use rustix::io::{Errno, ReadWriteFlags, pwritev, pwritev2, retry_on_intr};

use super::{Disk, DiskFile, Folder, Listed, Space};
use crate::lock::Lock;

/// Threads that sync the files of one batch at once. Measured on ext4: 4,300 created and
/// synced files a second one at a time, 19,700 with 32 at once, little less with 16.
const SYNC_THREADS: usize = 16;

/// The attribute that holds a file's record.
const RECORD: &str = "user.hatokuse";

/// The longest record that is read; records are far smaller than this.
const MAX_RECORD_BYTES: usize = 2048;

/// A multiple of every machine's page.
const PAGE: u64 = 64 << 10;

/// Parts given to one call of `writev`: the system's own limit.
const MAX_PARTS: usize = 1024;

/// File systems whose `syncfs` is known to write everything, by their `statfs` magic: ext4, XFS,
/// btrfs and tmpfs. On FUSE, for one, it does nothing.
const SYNCFS_WORKS: [u64; 4] = [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994];

/// Since then `syncfs` says when something could not be written; before, it says OK whatever happened (see its manual page).
const SYNCFS_TELLS_SINCE: (u32, u32) = (5, 8);

/// Whether the `syncfs` of a kernel of this release tells of errors. What cannot be read is not believed.
fn syncfs_tells(release: &str) -> bool {
    let mut numbers = release.split(|byte: char| !byte.is_ascii_digit()).map(|number| number.parse().ok());
    let version = numbers.next().flatten().zip(numbers.next().flatten());
    version.is_some_and(|version| version >= SYNCFS_TELLS_SINCE)
}

/// The disks of this machine.
#[derive(Debug, Default)]
pub struct OsDisk {
    syncers: Syncers,
}

impl OsDisk {
    /// No thread is started and nothing is opened until it is needed.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Disk for OsDisk {
    fn folder(&self, path: &Path) -> io::Result<Arc<dyn Folder>> {
        make_folder(path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = retry_on_intr(|| fs::open(path, flags, Mode::empty()))?;
        Ok(Arc::new(OsFolder { fd, path: path.to_owned() }))
    }

    fn boot_id(&self) -> String {
        match std::fs::read_to_string("/proc/sys/kernel/random/boot_id") {
            Ok(text) => text.trim().to_owned(),
            // Unknown is never the same boot as anything else.
            Err(_) => format!("unknown-{:032x}", fastrand::u128(..)),
        }
    }

    fn sync_many(&self, mut files: Vec<Box<dyn DiskFile>>) -> Vec<io::Result<()>> {
        match files.len() {
            0 => Vec::new(),
            1 => vec![files.remove(0).sync()],
            _ => self.syncers.sync(files),
        }
    }
}

/// Makes `path` and its parents. The parent of every folder that was made is synced, and the direct
/// parent in any case: a process killed between the two calls may have left a folder whose name is not safe.
fn make_folder(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    let mode = Mode::from_raw_mode(0o755);
    let made = match retry_on_intr(|| fs::mkdir(path, mode)) {
        Err(Errno::NOENT) if path.file_name().is_some() => {
            make_folder(parent)?;
            retry_on_intr(|| fs::mkdir(path, mode)).map(|()| true)
        }
        other => other.map(|()| true),
    };
    let made = match made {
        Err(Errno::EXIST) => false,
        other => other?,
    };
    match File::open(parent).and_then(|folder| folder.sync_all()) {
        // Whoever may not open the parent did not make the folder either.
        // On some file systems that are never written (squashfs, erofs) a folder cannot be synced.
        Err(error) if !made && error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        Err(error) if made || error.kind() != io::ErrorKind::PermissionDenied => Err(error),
        _ => Ok(()),
    }
}

#[derive(Debug)]
struct OsFolder {
    fd: OwnedFd,
    path: PathBuf,
}

/// Whether the overlay on this device (`major:minor`) drops all syncs, by the text of `/proc/self/mountinfo`.
fn is_volatile(mounts: &str, device: &str) -> bool {
    let of_device = |line: &&str| line.split(' ').nth(2) == Some(device);
    let options = |line: &str| line.rsplit(' ').next().is_some_and(|all| all.split(',').any(|one| one == "volatile"));
    mounts.lines().filter(of_device).any(options)
}

impl OsFolder {
    /// Which kind of file system it is.
    fn magic(&self) -> io::Result<u64> {
        // The type of this field differs between machines; all magic numbers have 32 bits.
        Ok(retry_on_intr(|| fs::fstatfs(&self.fd))?.f_type as u64 & 0xFFFF_FFFF)
    }

    /// Refuses what is no regular file. (It is opened with NONBLOCK, without which a FIFO waits for its other end.)
    fn regular(&self, name: &str, fd: OwnedFd) -> io::Result<Box<dyn DiskFile>> {
        if FileType::from_raw_mode(fs::fstat(&fd)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name} is not a regular file")));
        }
        Ok(Box::new(OsFile(File::from(fd))))
    }

    fn open_at(&self, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        retry_on_intr(|| fs::openat(&self.fd, name, flags, Mode::from_raw_mode(0o644)))
    }
}

impl Folder for OsFolder {
    fn path(&self) -> PathBuf {
        self.path.clone()
    }

    fn create_new(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let fd = self.open_at(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)?;
        Ok(Box::new(OsFile(File::from(fd))))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.regular(name, self.open_at(name, OFlags::NONBLOCK | OFlags::RDONLY)?)
    }

    fn edit(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        match self.open_at(name, OFlags::NONBLOCK | OFlags::RDWR) {
            Err(Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::TXTBSY) => self.open(name),
            fd => self.regular(name, fd?),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(retry_on_intr(|| fs::renameat(&self.fd, from, &self.fd, to))?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        Ok(retry_on_intr(|| fs::unlinkat(&self.fd, name, AtFlags::empty()))?)
    }

    fn list(&self) -> io::Result<Vec<Listed>> {
        let mut listed = Vec::new();
        for entry in fs::Dir::read_from(&self.fd)? {
            let entry = entry?;
            let raw = entry.file_name();
            if matches!(raw.to_bytes(), b"." | b"..") {
                continue;
            }
            let kind = match entry.file_type() {
                // Some file systems do not say in the listing.
                FileType::Unknown => match fs::statat(&self.fd, raw, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(Errno::NOENT) => continue,
                    Err(error) => return Err(error.into()),
                },
                kind => kind,
            };
            listed.push(match raw.to_str() {
                Ok(name) => Listed { name: name.to_owned(), regular: kind == FileType::RegularFile },
                Err(_) => Listed { name: raw.to_string_lossy().into_owned(), regular: false },
            });
        }
        Ok(listed)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(retry_on_intr(|| fs::fsync(&self.fd))?)
    }

    fn sync_all(&self) -> io::Result<()> {
        if self.syncs_as_a_whole()? {
            retry_on_intr(|| fs::syncfs(&self.fd))?;
            // Before 5.17 an error of the file system's own journal was dropped there, and is told here.
            return self.sync();
        }
        for listed in self.list()? {
            if listed.regular {
                match self.open(&listed.name) {
                    Ok(file) => file.sync()?,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        self.sync()
    }

    fn syncs_as_a_whole(&self) -> io::Result<bool> {
        let magic = self.magic()?;
        static TELLS: OnceLock<bool> = OnceLock::new();
        let tells = || syncfs_tells(&rustix::system::uname().release().to_string_lossy());
        Ok(SYNCFS_WORKS.contains(&magic) && *TELLS.get_or_init(tells))
    }

    fn doubt(&self) -> Option<&'static str> {
        match self.magic().ok()? {
            0x0102_1994 | 0x8584_58F6 => Some("it is memory (tmpfs, ramfs)"),
            0x6573_5546 => Some("it is a program (FUSE), and not all of these hand a sync on to the disk"),
            0x794C_7630 => {
                let device = fs::fstat(&self.fd).ok()?.st_dev;
                let device = format!("{}:{}", fs::major(device), fs::minor(device));
                let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
                is_volatile(&mounts, &device).then_some("it is an overlay that was mounted as volatile")
            }
            _ => None,
        }
    }

    fn lock(&self, name: &str) -> io::Result<Box<dyn Debug + Send + Sync>> {
        let mut file = File::from(self.open_at(name, OFlags::RDWR | OFlags::CREATE)?);
        file.try_lock()?;
        // Somebody may remove that file, and then another process would lock another one. The folder itself stays, and is
        // locked by a descriptor of the guard's own. Some file systems cannot lock a folder.
        let folder = self.open_at(".", OFlags::RDONLY | OFlags::DIRECTORY)?;
        if let Err(Errno::WOULDBLOCK) = fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        // The pid is for people only: a full disk must not keep a node from serving reads.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Box::new((file, folder)))
    }

    fn space(&self) -> io::Result<Space> {
        Ok(retry_on_intr(|| fs::fstatvfs(&self.fd))?.into())
    }

    fn folds_case(&self) -> io::Result<bool> {
        const PROBE: &str = ".case-probe";
        drop(self.open_at(PROBE, OFlags::RDWR | OFlags::CREATE)?);
        let folded = retry_on_intr(|| fs::statat(&self.fd, ".CASE-PROBE", AtFlags::SYMLINK_NOFOLLOW));
        self.remove(PROBE)?;
        match folded {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

#[derive(Debug)]
struct OsFile(File);

/// Gives all of `parts` to `write`, which takes some from the front (after so many bytes) and says how many.
fn write_all(
    parts: &[IoSlice<'_>],
    mut write: impl FnMut(&[IoSlice<'_>], u64) -> rustix::io::Result<usize>,
) -> io::Result<()> {
    let mut slices: smallvec::SmallVec<[IoSlice<'_>; 4]> = parts.iter().copied().collect();
    let mut left = slices.as_mut_slice();
    let mut done = 0;
    IoSlice::advance_slices(&mut left, 0); // drops empty parts in front
    while !left.is_empty() {
        let some = left.len().min(MAX_PARTS);
        match retry_on_intr(|| write(&left[..some], done))? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => {
                IoSlice::advance_slices(&mut left, written);
                done += written as u64;
            }
        }
    }
    Ok(())
}

/// Appends by `append`, or where the system has no such call (gVisor, kernels before 4.16) at the length that the file has:
/// it has one writer.
fn append_by(
    file: &File,
    parts: &[IoSlice<'_>],
    append: impl Fn(&[IoSlice<'_>]) -> rustix::io::Result<usize>,
) -> io::Result<()> {
    write_all(parts, |left, _| match append(left) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => pwritev(file, left, fs::fstat(file)?.st_size as u64),
        appended => appended,
    })
}

impl DiskFile for OsFile {
    fn append(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        // Not O_APPEND, under which Linux writes at the end whatever offset it is given.
        append_by(&self.0, parts, |left| pwritev2(&self.0, left, 0, ReadWriteFlags::APPEND))
    }

    fn write_at(&mut self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        write_all(parts, |left, done| pwritev(&self.0, left, offset + done))
    }

    fn keep_in_place(&self) {
        if let Ok(flags) = fs::ioctl_getflags(&self.0) {
            // ext4 and XFS refuse the flag, and need none.
            let _ = fs::ioctl_setflags(&self.0, flags | IFlags::NOCOW);
        }
    }

    fn read_all(&mut self, limit: usize) -> io::Result<Vec<u8>> {
        let most = limit.saturating_add(1);
        let size = usize::try_from(self.len()?).unwrap_or(usize::MAX).min(most);
        let mut content = vec![0; size];
        let mut filled = 0;
        while filled < size {
            match self.read_at(&mut content[filled..], filled as u64)? {
                0 => break, // cut shorter meanwhile
                some => filled += some,
            }
        }
        content.truncate(filled);
        Ok(content)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match self.0.read_at(buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn uncache(&self, offset: u64, length: u64) {
        // Whole pages only, so more is asked for. What is not written yet stays.
        let from = offset - offset % PAGE;
        let length = NonZeroU64::new((offset + length - from).next_multiple_of(PAGE));
        let _ = fs::fadvise(&self.0, from, length, Advice::DontNeed);
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        Ok(retry_on_intr(|| fs::ftruncate(&self.0, length))?)
    }

    fn set_record(&mut self, record: &[u8]) -> io::Result<()> {
        retry_on_intr(|| fs::fsetxattr(&self.0, RECORD, record, XattrFlags::empty())).map_err(record_error)
    }

    fn record(&self) -> io::Result<Option<Vec<u8>>> {
        let mut record = vec![0; MAX_RECORD_BYTES];
        match retry_on_intr(|| fs::fgetxattr(self.0.as_fd(), RECORD, &mut record)) {
            Ok(length) => {
                record.truncate(length);
                Ok(Some(record))
            }
            Err(Errno::NODATA) => Ok(None),
            Err(error) => Err(record_error(error)),
        }
    }

    fn sync(&self) -> io::Result<()> {
        Ok(retry_on_intr(|| fs::fsync(&self.0))?)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(retry_on_intr(|| fs::fdatasync(&self.0))?)
    }
}

fn record_error(error: Errno) -> io::Error {
    if error == Errno::NOTSUP { io::Error::new(io::ErrorKind::Unsupported, error) } else { error.into() }
}

/// A file to sync, its place among the results, and where to say how it went.
type SyncJob = (usize, Box<dyn DiskFile>, mpsc::Sender<(usize, io::Result<()>)>);

/// A few threads that sync files side by side; started at the first need, ended with the disk.
#[derive(Debug, Default)]
struct Syncers {
    queue: Arc<SyncQueue>,
    started: Lock<usize>,
}

#[derive(Debug, Default)]
struct SyncQueue {
    jobs: Lock<(VecDeque<SyncJob>, bool)>,
    more: Condvar,
}

impl Syncers {
    fn sync(&self, files: Vec<Box<dyn DiskFile>>) -> Vec<io::Result<()>> {
        if self.start() == 0 {
            return files.iter().map(|file| file.sync()).collect();
        }
        // A thread that ends without an answer must never look like a sync that went well.
        let mut results: Vec<_> = files.iter().map(|_| Err(io::Error::other("a sync thread ended"))).collect();
        let (answer, answers) = mpsc::channel();
        let jobs = files.into_iter().enumerate().map(|(place, file)| (place, file, answer.clone()));
        self.queue.jobs.lock().0.extend(jobs);
        self.queue.more.notify_all();
        drop(answer);
        for (place, result) in answers {
            results[place] = result;
        }
        results
    }

    /// How many threads there are; starts them at the first call.
    fn start(&self) -> usize {
        let mut started = self.started.lock();
        while *started < SYNC_THREADS {
            let queue = self.queue.clone();
            match std::thread::Builder::new().name("disk-sync".into()).spawn(move || queue.work()) {
                Ok(_) => *started += 1,
                Err(_) => break,
            }
        }
        *started
    }
}

impl SyncQueue {
    fn work(&self) {
        loop {
            let mut jobs = self.jobs.lock();
            let (place, file, answer) = loop {
                if let Some(job) = jobs.0.pop_front() {
                    break job;
                }
                if jobs.1 {
                    return;
                }
                jobs = self.more.wait(jobs).unwrap_or_else(PoisonError::into_inner);
            };
            drop(jobs);
            let result = file.sync();
            drop(file); // closed before the answer, so that a batch's descriptors are free when it is over
            let _ = answer.send((place, result));
        }
    }
}

impl Drop for Syncers {
    fn drop(&mut self) {
        self.queue.jobs.lock().1 = true;
        self.queue.more.notify_all();
    }
}

impl From<fs::StatVfs> for Space {
    fn from(stat: fs::StatVfs) -> Self {
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Self { free: bytes(stat.f_bavail), size: bytes(stat.f_blocks), free_files: stat.f_favail, files: stat.f_files }
    }
}

#[cfg(test)]
mod tests;
