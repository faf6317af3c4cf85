//! What can go wrong while a backup is made or restored, in words that say what was written and what to do.

use std::io;

use crate::archive::Damage;
use crate::archive::manifest::BadManifest;
use crate::types::MessageId;

/// Why a backup was not made, or not restored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection, or none any more.
    #[error("cannot talk to the leader at {addr}: {source}; check --addr, and that the leader runs")]
    Connection {
        /// Where to.
        addr: String,
        /// What the system said.
        source: io::Error,
    },
    /// It answered an error.
    #[error("the leader at {addr} said: {said}")]
    Refused {
        /// Who.
        addr: String,
        /// What.
        said: String,
    },
    /// It answered something else.
    #[error("what answers at {addr} is no leader of hatokuse that knows backups: it said {said}")]
    Strange {
        /// Who.
        addr: String,
        /// The beginning of it.
        said: String,
    },
    /// The folder is no place for a new backup.
    #[error("{0} is not empty: name a new folder for the backup")]
    NotEmpty(String),
    /// Something could not be written or read.
    #[error("cannot {what} {path}: {source}")]
    Disk {
        /// What was to be done.
        what: &'static str,
        /// With which file or folder.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A folder without a whole backup.
    #[error("{0} has no MANIFEST: it is no backup, or one that was cut off; nothing was written")]
    NoManifest(String),
    /// Its list of files cannot be used.
    #[error("{path}: {why}; nothing was written")]
    Manifest {
        /// The file.
        path: String,
        /// Why.
        why: BadManifest,
    },
    /// A file of it has another length.
    #[error("{path} has {found} bytes, and the backup was written with {told}; nothing was written")]
    Length {
        /// The file.
        path: String,
        /// Its length.
        found: u64,
        /// As MANIFEST has it.
        told: u64,
    },
    /// It is not what was written.
    #[error("{place}: {why}; {written}")]
    Damaged {
        /// Which file, and from which byte on.
        place: String,
        /// Why.
        why: Damage,
        /// What was restored by then.
        written: Written,
    },
    /// The register has messages.
    #[error(
        "the register at {addr} holds {messages} messages: nothing was written; add --merge to leave those alone, or --overwrite to put those of the backup in their place"
    )]
    Taken {
        /// Which.
        addr: String,
        /// How many.
        messages: i64,
    },
    /// A message was not taken.
    #[error("{id:?} was not taken: {said}; {written}; mend that, and repeat the restore with {flag}")]
    NotTaken {
        /// Whose.
        id: MessageId,
        /// What the leader said.
        said: String,
        /// What was restored by then.
        written: Written,
        /// What a repeated restore needs, as there are messages now.
        flag: &'static str,
    },
    /// A message is not what was written.
    #[error("{id:?} was written and reads differently: {found}; is another client writing it?")]
    Differs {
        /// Which.
        id: MessageId,
        /// What is there.
        found: String,
    },
}

/// How many messages were restored before something went wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written(pub u64);

impl std::fmt::Display for Written {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0 => f.write_str("nothing was written"),
            1 => f.write_str("1 message was written before"),
            many => write!(f, "{many} messages were written before"),
        }
    }
}

impl Error {
    /// Whether there was no connection, or no answer in time.
    pub fn is_no_answer(&self) -> bool {
        matches!(self, Self::Connection { .. })
    }

    pub(super) fn disk(what: &'static str, path: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_string();
        move |source| Self::Disk { what, path, source }
    }
}
