//! The identity's two files, written in place one after the other, so that one of them is always whole (the double write of
//! databases). In place because that needs no room: a leader that begins while the disk is full could not read what the node
//! holds otherwise. On a full btrfs not even a file's name can be changed.

use std::io;

use super::{IDENTITY_FILE, Identity};
use crate::durable::{self, DiskFile, Folder};

/// Written first: whole when the identity is not.
pub(super) const SPARE_FILE: &str = ".hatokuse.spare";

/// The length of both: room for some hundred members. A longer identity has one file, which is replaced.
const BYTES: usize = 16 << 10;

/// No identity is longer, in bytes.
const MOST_BYTES: usize = 16 << 20;

/// Whoever may write the two.
#[derive(Debug)]
pub(super) struct Pair {
    /// Whether it is not known that the identity is on the disk as it is read: so it is at the start, as its last sync may
    /// have failed in an earlier life, and after a failure. The spare is, then.
    doubted: bool,
}

/// The identity's text, from the spare file where the identity is damaged or gone; nothing: there is no identity.
pub(super) fn read(folder: &dyn Folder) -> io::Result<Option<String>> {
    let text = text_of(folder, IDENTITY_FILE)?;
    let spare = || text_of(folder, SPARE_FILE).ok().flatten().filter(|text| is_whole(text));
    Ok(text.clone().filter(|text| is_whole(text)).or_else(spare).or(text))
}

/// Replaces the identity's file by one of any length, in a folder that nobody writes to.
pub(super) fn replace(folder: &dyn Folder, text: &str) -> io::Result<()> {
    // A spare that is older than the identity must not be taken for it.
    match folder.remove(SPARE_FILE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => folder.sync()?,
    }
    durable::replace(folder, IDENTITY_FILE, text.as_bytes())
}

fn text_of(folder: &dyn Folder, name: &str) -> io::Result<Option<String>> {
    match folder.open(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => Ok(Some(String::from_utf8_lossy(&opened?.read_all(MOST_BYTES)?).into_owned())),
    }
}

fn is_whole(text: &str) -> bool {
    Identity::decode(text).is_ok()
}

impl Pair {
    /// The two files of a folder whose identity has this text.
    pub(super) fn of(folder: &dyn Folder, text: &str) -> io::Result<Self> {
        keep(folder, text)?;
        Ok(Self { doubted: true })
    }

    /// Makes this the identity's text. Blocks.
    pub(super) fn write(&mut self, folder: &dyn Folder, text: &str) -> io::Result<()> {
        self.settle(folder)?;
        match edit(folder, IDENTITY_FILE).and_then(|_| write_in_place(folder, SPARE_FILE, text)) {
            Some(Ok(())) => {
                self.doubted = true;
                write_in_place(folder, IDENTITY_FILE, text).unwrap_or(Err(io::ErrorKind::NotFound.into()))?;
                self.doubted = false;
            }
            Some(Err(error)) if is_final(&error) => return Err(error),
            // Too long, or there was no room for the two, or not even what is there can be written over (a btrfs with
            // snapshots).
            _ => replace(folder, text)?,
        }
        keep(folder, text)
    }

    /// Sees to it that the identity is on the disk before the spare is written.
    fn settle(&mut self, folder: &dyn Folder) -> io::Result<()> {
        let found = |name| text_of(folder, name).ok().flatten().filter(|text| is_whole(text));
        if self.doubted
            && let Some(spare) = found(SPARE_FILE)
            // One that differs is of a write that was given up before the identity's turn.
            && found(IDENTITY_FILE).is_none_or(|identity| identity == spare)
        {
            match write_in_place(folder, IDENTITY_FILE, spare.trim_end_matches('\n')) {
                Some(Ok(())) => {}
                Some(Err(error)) if is_final(&error) => return Err(error),
                _ => durable::replace(folder, IDENTITY_FILE, spare.as_bytes())?,
            }
        }
        self.doubted = false;
        Ok(())
    }
}

/// Whether the disk may have lost something, or is gone.
fn is_final(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    error.raw_os_error() == Some(EIO) || durable::is_gone(error)
}

/// One of the two, if it has the length.
fn edit(folder: &dyn Folder, name: &str) -> Option<Box<dyn DiskFile>> {
    folder.edit(name).ok().filter(|file| file.len().is_ok_and(|len| len == BYTES as u64))
}

fn padded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.extend(std::iter::repeat_n(b'\n', BYTES.checked_sub(text.len())?));
    Some(bytes)
}

/// Nothing: it is not there, or has not the length, or the text has not.
fn write_in_place(folder: &dyn Folder, name: &str, text: &str) -> Option<io::Result<()>> {
    const EBADF: i32 = 9;
    let (bytes, mut file) = (padded(text)?, edit(folder, name)?);
    let written = file.write_at(&[io::IoSlice::new(&bytes)], 0).map_err(|error| match error.raw_os_error() {
        // It could be opened for reading only.
        Some(EBADF) => io::ErrorKind::PermissionDenied.into(),
        _ => error,
    });
    Some(written.and_then(|()| file.sync()))
}

/// Sees to it that there are two files of that length and that text, if there is room for them. The identity is on the disk as
/// `text`.
fn keep(folder: &dyn Folder, text: &str) -> io::Result<()> {
    let make = |name| {
        let Some(bytes) = padded(text) else { return Ok(()) };
        let mut file = durable::create_beside(folder, name)?;
        file.keep_in_place();
        file.append(&[io::IoSlice::new(&bytes)])?;
        // On many file systems only this gives it its blocks.
        file.sync()?;
        durable::put_in_place(folder, name)?;
        folder.sync()
    };
    let keep = || {
        if edit(folder, IDENTITY_FILE).is_none() {
            make(IDENTITY_FILE)?;
        }
        let same = |spare: String| spare.trim_end_matches('\n') == text.trim_end_matches('\n');
        match edit(folder, SPARE_FILE) {
            Some(_) if text_of(folder, SPARE_FILE)?.is_some_and(same) => Ok(()),
            // Older than the identity: of a write that was given up, or of an earlier version of this program.
            Some(_) => write_in_place(folder, SPARE_FILE, text).unwrap_or(Ok(())),
            None => make(SPARE_FILE),
        }
    };
    match keep() {
        Err(error) if is_final(&error) => Err(error),
        Err(error) => {
            tracing::debug!("a later epoch has no room on a full disk: {error}");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}
