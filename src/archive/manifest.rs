//! MANIFEST, which a folder with a backup gets last: without it the folder is none. Lines of text, of which a reader
//! needs the files and the checksum; the rest is for people.

use std::time::{Duration, UNIX_EPOCH};

use super::{FORMAT, Header, Totals};
use crate::types::checksum;

/// Its name.
pub const MANIFEST: &str = "MANIFEST";

const FIRST: &str = "hatokuse backup, format ";

/// The name of the `n`-th file of a backup, counted from 1.
pub fn file_name(n: usize) -> String {
    format!("messages-{n:04}.hkb")
}

/// Why a text is no such list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadManifest {
    /// It begins with something else.
    #[error("it is not the MANIFEST of a backup of hatokuse")]
    Foreign,
    /// It was written by a later version of this program.
    #[error("it has the format {0}, and this program reads up to {FORMAT}: use a newer one")]
    Newer(u32),
    /// A line is not what was written.
    #[error("line {0} is damaged, or the lines before it are")]
    Damaged(usize),
}

/// Writes one: what the backup is of, what it holds, and how long its files are.
pub fn write(header: &Header, totals: &Totals, files: &[u64]) -> String {
    let time = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(header.unix_ms));
    let mut text = format!(
        "{FIRST}{}\nregister {}\nmoment {}\ntime {time}\ntolerance {}\nmessages {}\nlost {}\nbytes {}\n",
        header.format(),
        header.cluster_id,
        header.version,
        header.tolerance,
        totals.messages,
        totals.lost,
        totals.bytes
    );
    for (n, bytes) in (1..).zip(files) {
        text.push_str(&format!("file {} {bytes}\n", file_name(n)));
    }
    let sum = checksum(text.as_bytes());
    text.push_str(&format!("end {sum:08x}\n"));
    text
}

/// Reads one: how long the files are.
pub fn read(text: &[u8]) -> Result<Vec<u64>, BadManifest> {
    let Some(rest) = text.strip_prefix(FIRST.as_bytes()) else { return Err(BadManifest::Foreign) };
    let mut end = 0;
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let format = lines.first().and_then(|line| line.get(FIRST.len()..line.len() - 1)).filter(|_| !rest.is_empty());
    let format = format.and_then(|format| std::str::from_utf8(format).ok()?.parse::<u32>().ok());
    match format {
        Some(1..=FORMAT) => {}
        Some(newer) if newer > FORMAT => return Err(BadManifest::Newer(newer)),
        _ => return Err(BadManifest::Damaged(1)),
    }
    let mut files = Vec::new();
    for (number, line) in (1..).zip(&lines) {
        let damaged = Err(BadManifest::Damaged(number));
        let Some(line_text) = std::str::from_utf8(line).ok().and_then(|line| line.strip_suffix('\n')) else {
            return damaged;
        };
        match line_text.split_once(' ') {
            Some(("file", file)) => {
                let of = file.split_once(' ').filter(|(name, _)| *name == file_name(files.len() + 1));
                let Some(bytes) = of.and_then(|(_, bytes)| bytes.parse().ok()) else { return damaged };
                files.push(bytes);
            }
            Some(("end", sum)) => {
                let is_right = sum == format!("{:08x}", checksum(&text[..end])) && number == lines.len();
                return if is_right { Ok(files) } else { damaged };
            }
            _ => {}
        }
        end += line.len();
    }
    Err(BadManifest::Damaged(lines.len() + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Uuid, Version};

    fn written(files: &[u64]) -> String {
        let header = Header {
            cluster_id: Uuid([1; 16]),
            version: Version(7),
            unix_ms: 0,
            tolerance: 2,
            messages: 5,
            bytes: 6,
            expires: false,
        };
        write(&header, &Totals { messages: 5, lost: 0, bytes: 6 }, files)
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let text = written(&[10, 20]);
        assert!(
            text.contains("\ntime 1970-01-01T00:00:00Z\n") && text.contains("file messages-0002.hkb 20\n"),
            "{text}"
        );
        assert_eq!(read(text.as_bytes()), Ok(vec![10, 20]));
        assert_eq!(read(written(&[]).as_bytes()), Ok(vec![]));
    }

    #[test]
    fn no_change_goes_unseen() {
        let text = written(&[10, 20]);
        for at in 0..text.len() {
            assert!(read(&text.as_bytes()[..at]).is_err(), "cut at {at}");
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            assert!(read(&bytes).is_err(), "changed at {at}");
        }
        assert!(read(format!("{text}\n").as_bytes()).is_err());
        assert_eq!(read(b"hatokuse backup, format 9\n"), Err(BadManifest::Newer(9)));
    }
}
