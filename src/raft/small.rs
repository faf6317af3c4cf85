//! Small files that are replaced whole: who a folder belongs to, and whom it has voted for.
//!
//! Format: 8 bytes magic, u32 format version, u32 length, u32 CRC-32C of all before it and of the content, and the
//! content. A file of a newer format, or one that is not whole, refuses the start: to go on without a vote would be
//! to forget it.

use std::io;

use crate::durable::{self, Folder};

/// The format that this program writes, and the newest that it reads.
const FORMAT: u32 = 1;

/// Bytes before the content.
const HEAD: usize = 20;

/// Far more than such a file ever has.
const LONGEST: usize = 64 << 10;

/// Reads what [`write`] wrote; nothing: there is no such file.
pub(super) fn read(folder: &dyn Folder, name: &str, magic: [u8; 8]) -> Result<Option<Vec<u8>>, String> {
    let path = folder.path().join(name).display().to_string();
    let mut file = match folder.open(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| format!("opening {path} failed: {error}; check the disk"))?,
    };
    let all = file.read_all(LONGEST).map_err(|error| format!("reading {path} failed: {error}; check the disk"))?;
    let bad = |why: &str| {
        Err(format!("{path} {why}: nothing was changed; restore the file, or let this peer go and add a new one"))
    };
    let number = |at: usize| all.get(at..at + 4).and_then(|four| four.try_into().ok()).map(u32::from_le_bytes);
    if all.get(..8) != Some(&magic[..]) {
        return bad("is not what its name says (it begins with other bytes)");
    }
    let (Some(format), Some(length), Some(crc)) = (number(8), number(12), number(16)) else {
        return bad("is cut short");
    };
    if format > FORMAT {
        return Err(format!("{path} has format {format}, and this program reads up to {FORMAT}: upgrade hatokuse"));
    }
    let content = &all[HEAD..];
    if content.len() != length as usize || crc32c::crc32c_append(crc32c::crc32c(&all[..16]), content) != crc {
        return bad("is damaged");
    }
    Ok(Some(content.to_vec()))
}

/// Replaces the file. It is on stable storage when this returns.
pub(super) fn write(folder: &dyn Folder, name: &str, magic: [u8; 8], content: &[u8]) -> io::Result<()> {
    let mut all = Vec::with_capacity(HEAD + content.len());
    all.extend(magic);
    all.extend(FORMAT.to_le_bytes());
    all.extend((content.len() as u32).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&all), content);
    all.extend(crc.to_le_bytes());
    all.extend(content);
    durable::replace(folder, name, &all)
}
