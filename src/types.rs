//! The words everyone shares: names of things, writes and their copies, who leads, and (in `views`) what a report shows.
//!
//! Nothing here does any work or knows a socket, a file or a clock.

mod copies;
mod credentials;
mod endpoints;
mod ids;
mod leadership;
mod views;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::copies::{Change, CopyRecord, Deadline, Holders, Listed, Nodes, Payload, Version, checksum};
pub use self::credentials::Credentials;
pub use self::endpoints::{Endpoints, says_nobody_leads};
pub use self::ids::{BadId, MAX_ID_BYTES, MessageId, NodeId, PeerId, Uuid};
pub use self::leadership::{
    BEAT_EVERY, Epoch, Fence, LEASE, Leadership, MOST_EPOCHS_AHEAD, Member, Removed, is_beyond_reason,
};
pub use self::views::{
    Addresses, BlockedView, CacheView, ClusterView, DiskView, EventLine, GroupView, LedView, NodeReport, NodeView,
    PeerRole, PeerView, RateView, Refusing, RepairView,
};

/// The largest number of nodes that one message may be kept on.
pub const MAX_TOLERANCE: usize = 7;

/// The longest message that `--max-message` may allow, in bytes: frames to nodes, and records of the log layout, are
/// made for it.
pub const MAX_MESSAGE_BYTES: u64 = 64 << 20;

/// When a write counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum IoMode {
    /// In the page cache: survives the kill of the process, not a power cut of its machine.
    #[default]
    Buffered,
    /// On stable storage: survives a power cut.
    Unbuffered,
}

impl IoMode {
    /// As flags and reports say it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Buffered => "buffered",
            Self::Unbuffered => "unbuffered",
        }
    }
}

impl fmt::Display for IoMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How copies lie on a node's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// One file a message, for anyone to read.
    #[default]
    Text,
    /// Append-only segments, for many messages and many writes.
    Log,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Log => "log",
        })
    }
}

/// What the leader thinks of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Its heartbeats come and its lanes are open: takes writes and reads.
    Up,
    /// Something is late: read only if no other holder is up, and written only if too few are.
    Suspect,
    /// Gone for longer than the heartbeat limit.
    Down,
    /// Up, and what it holds moves to other nodes. Shown only: it is an order beside the state.
    Draining,
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Down => "down",
            Self::Draining => "draining",
        })
    }
}
