//! Files put by for a disk that has no room left: each becomes a tombstone, or a message that is no longer than the one before.
//!
//! A deletion needs a file for its tombstone before the message's file may go. Where there is not a byte and no inode
//! left, one that is there already is written over and renamed. Nothing depends on them: what is in one, or whether there is any,
//! says nothing.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};

use super::super::reserve;
use super::super::scan::SPARE;
use crate::durable::{self, DiskFile, Folder, Space};

/// How many a node keeps: as many deletions go into one batch on a disk without an inode.
pub const SPARES: usize = 16;

/// What each holds: a message of so many bytes fits into its blocks.
pub(super) const SPARE_BYTES: usize = 4096;
static ZEROS: [u8; SPARE_BYTES] = [0; SPARE_BYTES];

/// Bytes and files that new messages leave free, at most; on small disks a 64th of it.
const KEPT_BYTES: u64 = 1 << 20;
const KEPT_FILES: u64 = 64;

/// Bytes that a small file takes on most file systems.
const BLOCK: u64 = 4096;

/// The spare files of a folder.
#[derive(Debug, Default)]
pub(super) struct Spares {
    there: BTreeSet<u64>,
    wanted: usize,
    /// Whether bytes are put by beside them: XFS wants blocks at hand for every change, even if it takes none.
    reserve: bool,
}

impl Spares {
    /// Those that a folder has, by the names in it.
    pub(super) fn found<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let there = names.filter_map(|name| name.strip_prefix(SPARE)?.parse().ok()).collect();
        Self { there, wanted: 0, reserve: false }
    }

    /// Keeps so many from now on.
    pub(super) fn keep(&mut self, wanted: usize, folder: &dyn Folder) {
        self.wanted = wanted;
        self.fill(folder);
    }

    /// Makes those that are missing, as far as there is room.
    pub(super) fn fill(&mut self, folder: &dyn Folder) {
        while self.there.len() < self.wanted {
            let number = self.there.last().map_or(0, |last| last.saturating_add(1));
            let name = format!("{SPARE}{number}");
            if let Err(error) = make(folder, &name) {
                tracing::debug!("no spare file: {error}");
                let _ = folder.remove(&name);
                return;
            }
            self.there.insert(number);
        }
        if self.wanted > 0 && !self.reserve {
            self.reserve = reserve::make(folder);
        }
    }

    /// Makes one of them a file of this content and name. `finish` gives it its record. Nothing: there is none.
    pub(super) fn become_file(
        &mut self,
        folder: &dyn Folder,
        name: &str,
        content: &[u8],
        finish: impl Fn(&mut dyn DiskFile) -> io::Result<()>,
    ) -> Option<io::Result<Box<dyn DiskFile>>> {
        if content.len() > SPARE_BYTES {
            return None;
        }
        let written = self.rewrite(folder, name, content, &finish)?;
        let is_full = written.as_ref().is_err_and(durable::is_full);
        if is_full && std::mem::take(&mut self.reserve) && reserve::give_up(folder, reserve::RESERVE_FILE) {
            return self.rewrite(folder, name, content, &finish);
        }
        Some(written)
    }

    fn rewrite(
        &mut self,
        folder: &dyn Folder,
        name: &str,
        content: &[u8],
        finish: &dyn Fn(&mut dyn DiskFile) -> io::Result<()>,
    ) -> Option<io::Result<Box<dyn DiskFile>>> {
        let spare = format!("{SPARE}{}", self.there.pop_last()?);
        let write = || {
            let mut file = folder.edit(&spare)?;
            if !content.is_empty() {
                file.write_at(&[IoSlice::new(content)], 0)?;
            }
            file.truncate(content.len() as u64)?;
            finish(&mut *file)?;
            folder.rename(&spare, name)?;
            Ok(file)
        };
        let written = write();
        if written.is_err() {
            let _ = folder.remove(&spare);
        }
        Some(written)
    }
}

fn make(folder: &dyn Folder, name: &str) -> io::Result<()> {
    folder.create_new(name)?.append(&[IoSlice::new(&ZEROS)])
}

/// What a disk has left for new messages, while a batch is written.
#[derive(Debug)]
pub(super) struct Room {
    bytes: u64,
    files: u64,
}

impl Room {
    /// What is kept is for what makes room again. A file system that does not say how full it is has room until it refuses.
    pub(super) fn of(space: io::Result<Space>) -> Self {
        let all = Self { bytes: u64::MAX, files: u64::MAX };
        let Ok(space) = space else { return all };
        if !space.is_known() {
            return all;
        }
        let bytes = space.free.saturating_sub(KEPT_BYTES.min(space.size / 64));
        // Where there is no limit of files, none is told of.
        let files =
            if space.files == 0 { u64::MAX } else { space.free_files.saturating_sub(KEPT_FILES.min(space.files / 64)) };
        Self { bytes, files }
    }

    /// Takes room for a message of so many bytes; false: there is none.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        let bytes = (bytes as u64).next_multiple_of(BLOCK);
        let fits = bytes <= self.bytes && self.files > 0;
        if fits {
            self.bytes -= bytes;
            self.files -= 1;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::Disk;
    use crate::durable::sim::{MemDisk, errno};
    use std::path::Path;

    #[test]
    fn the_last_of_a_disk_is_kept() {
        let space = |free, size, free_files, files| Ok(Space { free, size, free_files, files });
        let table = [
            ("a large disk keeps a MiB", space((1 << 20) + 8191, 1 << 40, 9, 0), [true, false]),
            ("a small one a 64th", space(100_000 + 8192, 6_400_000, 1000, 1000), [true, true]),
            ("files run out as well", space(1 << 30, 1 << 40, 65, 1 << 20), [true, false]),
            ("and are kept by a small one", space(1 << 30, 1 << 40, 10, 640), [false, false]),
            ("zeros say nothing", space(0, 0, 0, 0), [true, true]),
            ("nor does an error", Err(io::ErrorKind::Unsupported.into()), [true, true]),
        ];
        for (name, space, fits) in table {
            let mut room = Room::of(space);
            assert_eq!([room.take(1), room.take(4096)], fits, "{name}");
        }
    }

    #[test]
    fn spare_files_become_others_where_nothing_can_be_made() {
        let disk = MemDisk::new();
        let folder = disk.folder(Path::new("/n")).unwrap();
        let mut spares = Spares::default();
        spares.keep(2, &*folder);
        let names = || folder.list().unwrap().into_iter().map(|entry| entry.name).collect::<Vec<_>>();
        assert_eq!(names(), [".reserve", ".spare-0", ".spare-1"]);
        spares = Spares::found(names().iter().map(String::as_str));
        disk.fault_next(crate::durable::sim::Op::Create, crate::durable::sim::Fault::Fail(errno::ENOSPC));
        spares.keep(3, &*folder);
        let mut put = |name: &str, content: &[u8]| {
            spares.become_file(&*folder, name, content, |file| file.set_record(b"r")).map(Result::unwrap)
        };
        assert!(put("large", &[b'x'; 4097]).is_none());
        assert!(put("small", b"small").is_some() && put("none", b"").is_some() && put("third", b"").is_none());
        let files = disk.peek(Path::new("/n"));
        assert_eq!((files["small"].as_deref(), files["none"].as_deref()), (Some(&b"small"[..]), Some(&b""[..])));
        assert_eq!(folder.open("none").unwrap().record().unwrap().as_deref(), Some(&b"r"[..]));
        spares.fill(&*folder);
        assert_eq!(names().len(), 6);
    }
}
