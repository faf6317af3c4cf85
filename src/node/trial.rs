//! A folder is tried before it is believed: some file systems take what nobody can read again.

use std::io::{self, IoSlice};

use super::scan::STAGED;
use crate::durable::{Folder, takes_nothing};
use crate::file_names::{MAX_STEM_BYTES, Names, SUFFIX};

/// The files that are made for it, and removed again.
const ONE: &str = ".trial-1";
const TWO: &str = ".trial-2";

/// Does once what a store does with its files. The error names what failed, and what would work. On a disk that is full or
/// read-only nothing can be tried.
pub fn try_folder(folder: &dyn Folder) -> io::Result<()> {
    let tried = try_files(folder);
    let removed = [ONE, TWO].map(|name| match folder.remove(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound && !takes_nothing(&error) => Err(error),
        _ => Ok(()),
    });
    match tried {
        Err(error) if takes_nothing(&error) => Ok(()),
        tried => tried.and(removed.into_iter().collect()),
    }
}

fn try_files(folder: &dyn Folder) -> io::Result<()> {
    for name in [ONE, TWO] {
        match folder.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let failed = |what: &'static str| {
        move |error: io::Error| match takes_nothing(&error) {
            true => error,
            false => io::Error::new(error.kind(), refusal(what, &error.to_string())),
        }
    };
    let wrong = |what| io::Error::new(io::ErrorKind::Unsupported, refusal(what, "something else is read"));
    let reads = |name: &str, wanted: &[u8], what| match folder.open(name).and_then(|mut file| file.read_all(64)) {
        Ok(content) if content == wanted => Ok(()),
        Ok(_) => Err(wrong(what)),
        Err(error) => Err(failed(what)(error)),
    };
    let mut file = folder.create_new(ONE).map_err(failed("to make a file"))?;
    file.append(&[IoSlice::new(b"written")]).map_err(failed("to write a file"))?;
    reads(ONE, b"written", "to read what is being written")?;
    file.write_at(&[IoSlice::new(b"TT")], 3).map_err(failed("to write in the middle of a file"))?;
    reads(ONE, b"wriTTen", "to write in the middle of a file")?;
    file.truncate(5).map_err(failed("to cut a file"))?;
    reads(ONE, b"wriTT", "to cut a file")?;
    file.sync().map_err(failed("to sync a file"))?;
    folder.create_new(TWO).map_err(failed("to make a file"))?;
    folder.rename(ONE, TWO).map_err(failed("to give a file the name of another"))?;
    reads(TWO, b"wriTT", "to give a file the name of another")?;
    folder.sync().map_err(failed("to sync a folder"))
}

fn refusal(what: &str, why: &str) -> String {
    format!(
        "this file system does not do what a register needs, {what} ({why}): use another one (ext4, XFS, btrfs), or mount it so that it works like a local disk"
    )
}

/// What stands around a stem in the longest of a folder's names.
const AROUND: usize = STAGED.len() + 17 + SUFFIX.len();

/// The names that this file system has room for, whatever it says of itself; nothing if there are none.
pub fn names(folder: &dyn Folder) -> Option<Names> {
    let needed = AROUND + MAX_STEM_BYTES;
    let fits = |length: &usize| {
        let name = format!(".trial-{}", "n".repeat(length - 7));
        match folder.create_new(&name) {
            Err(error) => error.kind() != io::ErrorKind::InvalidFilename,
            Ok(_) => {
                let _ = folder.remove(&name);
                true
            }
        }
    };
    let longest = (AROUND..=needed).rev().find(fits)?;
    Names::up_to(longest - AROUND)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::Disk;
    use crate::durable::sim::{Fault, MemDisk, Op, errno};
    use std::path::Path;

    #[test]
    fn a_folder_that_does_not_what_it_should_is_refused() {
        let disk = MemDisk::new();
        let folder = disk.folder(Path::new("/n")).unwrap();
        try_folder(&*folder).unwrap();
        assert!(folder.list().unwrap().is_empty());
        for (op, named) in [
            (Op::Create, "make a file"),
            (Op::Append, "write a file"),
            (Op::Open, "read what"),
            (Op::Truncate, "cut a file"),
            (Op::Sync, "sync a file"),
            (Op::Rename, "name of another"),
            (Op::SyncFolder, "sync a folder"),
        ] {
            disk.fault_next(op, Fault::Fail(errno::EPERM));
            let refused = try_folder(&*folder).unwrap_err().to_string();
            assert!(refused.contains(named) && refused.contains("ext4"), "{refused}");
            disk.fault_next(op, Fault::Fail(errno::ENOSPC));
            try_folder(&*folder).unwrap();
            assert!(folder.list().unwrap().is_empty());
        }
    }

    #[test]
    fn names_that_are_too_long_are_found_out() {
        let disk = MemDisk::new();
        let folder = disk.folder(Path::new("/n")).unwrap();
        assert_eq!(names(&*folder), Some(Names::default()));
        disk.set_longest_name(175);
        assert_eq!(names(&*folder).unwrap().longest(), 146);
        disk.set_longest_name(40);
        assert_eq!(names(&*folder), None);
        assert!(folder.list().unwrap().is_empty());
    }
}
