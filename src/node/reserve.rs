//! Bytes that a disk with room puts by, for what makes room again when others leave it none.

use std::io;

use crate::durable::Folder;

/// The file that takes them; what is in it says nothing.
pub(super) const RESERVE_FILE: &str = ".reserve";

/// A 64th of the disk, between these.
const LEAST: u64 = 16 << 10;
const MOST: u64 = 256 << 10;

/// Makes the reserve, unless it is there; whether it is. Blocks.
pub(super) fn make(folder: &dyn Folder) -> bool {
    let make = || {
        let bytes = (folder.space()?.size / 64).clamp(LEAST, MOST);
        folder.create_new(RESERVE_FILE)?.append(&[io::IoSlice::new(&vec![0; bytes as usize])])
    };
    match make() {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            let _ = folder.remove(RESERVE_FILE);
            false
        }
        _ => true,
    }
}

/// Gives the reserve up; whether there was one. Blocks.
pub(super) fn give_up(folder: &dyn Folder) -> bool {
    folder.remove(RESERVE_FILE).is_ok()
}
