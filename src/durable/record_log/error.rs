//! Why a log is not opened, or takes no record.

use std::io;

use super::frame::FORMAT;

/// Why a log cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk refused a call. Reading or appending may be tried again, unless the next call says `Poisoned`.
    #[error("{what} {file} failed: {source}; check the disk")]
    Io {
        /// `reading`, `appending to`, ...
        what: &'static str,
        /// The file's path.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// The file is no such log.
    #[error("{file} is not a log of this kind (it begins with other bytes): move it away, or correct the data folder")]
    Foreign {
        /// The file's path.
        file: String,
    },
    /// Written by a newer program.
    #[error("{file} has format {found}, and this program reads up to {FORMAT}: upgrade hatokuse")]
    Newer {
        /// The file's path.
        file: String,
        /// Its format.
        found: u32,
    },
    /// Bytes that were safe on the disk are not what was written.
    #[error(
        "{file} is damaged at byte {offset}, and this is no torn end of a last write: nothing was changed; restore the file from a backup, or move it away, and the leader rebuilds it from its nodes"
    )]
    Damaged {
        /// The file's path.
        file: String,
        /// Where.
        offset: u64,
    },
    /// A whole record that the reader of the log cannot use.
    #[error(
        "{file} holds a record at byte {offset} that makes no sense here: {reason}; was it written by another version?"
    )]
    BadRecord {
        /// The file's path.
        file: String,
        /// Where.
        offset: u64,
        /// What the reader said.
        reason: String,
    },
    /// A record of no bytes, or of more than the log takes.
    #[error("a record of {length} bytes does not fit into {file}: 1 to {longest} are allowed")]
    Length {
        /// The file's path.
        file: String,
        /// Of the record.
        length: usize,
        /// The longest that is allowed.
        longest: usize,
    },
    /// A sync or a rename failed: nobody knows what is on the disk, and nothing may be tried again.
    #[error("{what} {file} failed: {source}; what is on the disk is not known any more: check it, then start again")]
    Final {
        /// `syncing`, `naming`.
        what: &'static str,
        /// The file's path.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// An earlier sync failed: nobody knows what is on the disk.
    #[error("{file} takes no more records, as an earlier sync or cut of it failed: check the disk, then start again")]
    Poisoned {
        /// The file's path.
        file: String,
    },
}

impl LogError {
    /// Whether the disk is full: nothing was kept, and a later append may succeed.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if crate::durable::is_full(source))
    }

    /// Whether nobody knows any more what is on the disk.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Final { .. } | Self::Poisoned { .. })
    }
}
