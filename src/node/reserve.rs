//! Bytes that a disk with room puts by, for what makes room again when others leave it none.

use std::io;

use crate::durable::Folder;

/// The file that takes those for records of what is gone; what is in it says nothing.
pub(super) const RESERVE_FILE: &str = ".reserve";

/// The file that takes those for moving copies out of a segment that is to be reclaimed.
pub(super) const MOVING_FILE: &str = ".reserve-moving";

/// A 64th of the disk, between these.
const LEAST: u64 = 16 << 10;
const MOST: u64 = 256 << 10;

/// Makes the reserve for records of what is gone, unless it is there; whether it is. Blocks.
pub(super) fn make(folder: &dyn Folder) -> bool {
    folder.space().is_ok_and(|space| put_by(folder, RESERVE_FILE, (space.size / 64).clamp(LEAST, MOST)))
}

/// Makes a reserve of so many bytes, unless it is there; whether it is. Blocks.
pub(super) fn put_by(folder: &dyn Folder, name: &str, bytes: u64) -> bool {
    let make = || folder.create_new(name)?.append(&[io::IoSlice::new(&vec![0; bytes as usize])]);
    match make() {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            let _ = folder.remove(name);
            false
        }
        _ => true,
    }
}

/// Gives a reserve up; whether there was one. Blocks.
pub(super) fn give_up(folder: &dyn Folder, name: &str) -> bool {
    folder.remove(name).is_ok()
}
