//! Who leads, who is led, and whose word counts.

use std::fmt;
use std::time::Duration;

use super::{NodeId, Uuid};

/// A node beats this often.
pub const BEAT_EVERY: Duration = Duration::from_millis(500);

/// For how long a node that answered a beat holds back other leaders, on its own clock.
pub const LEASE: Duration = Duration::from_secs(1);

/// One life of a leader; a larger one fences off all smaller ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Epoch(pub u32);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// No epoch is believed that is later by more than this: it is an error or a lie. A leader takes one at every start, and one
/// in four billion writes; a member that was away while a leader started a million times is none any more.
pub const MOST_EPOCHS_AHEAD: u32 = 1 << 20;

/// Whose word counts: the cluster's name, and the epoch of its leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leadership {
    /// Made once, with the cluster.
    pub cluster_id: Uuid,
    /// This life of the leader.
    pub epoch: Epoch,
}

/// A frame to a node, in the name of this reign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    /// Cluster and epoch.
    pub leadership: Leadership,
    /// Random, one a leader process.
    pub run: u64,
    /// Grows with every dial of this leader.
    pub session: u64,
}

/// A member as the log and every node remember it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub id: NodeId,
    /// The name of its folder.
    pub uuid: Uuid,
    /// Where it was last reached.
    pub address: String,
}

/// A member that was removed: its number, which others may have since, and its folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Removed {
    /// The number that it had.
    pub id: NodeId,
    /// The name of its folder.
    pub uuid: Uuid,
}

/// Whether an epoch is so much later than one that was seen that it is no leader's.
pub fn is_beyond_reason(epoch: Epoch, seen: Epoch) -> bool {
    epoch.0.saturating_sub(seen.0) > MOST_EPOCHS_AHEAD
}
