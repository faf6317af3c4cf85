//! What openraft is instantiated with. Once, whatever the machine: what a machine answers goes through it as a box.

use std::any::Any;
use std::fmt;

use bytes::Bytes;
use openraft::alias;

pub use crate::types::PeerId;
use crate::types::Uuid;

openraft::declare_raft_types!(
    /// The types that the log is made of.
    pub(super) Types:
        D = Payload,
        R = Boxed,
        NodeId = PeerId,
        Node = Member,
        Term = u64,
        AsyncRuntime = super::runtime::Tokio,
);

pub(super) type Entry = alias::EntryOf<Types>;
pub(super) type EntryPayload = alias::EntryPayloadOf<Types>;
pub(super) type LogId = alias::LogIdOf<Types>;
pub(super) type Vote = alias::VoteOf<Types>;
pub(super) type LeaderId = alias::LeaderIdOf<Types>;
pub(super) type StoredMembership = alias::StoredMembershipOf<Types>;
pub(super) type Membership = openraft::Membership<PeerId, Member>;
pub(super) type Metrics = openraft::RaftMetrics<Types>;

/// The bytes of one entry, which mean nothing here.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Payload(pub(super) Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What a machine answered to an entry; nothing to one that was not for it.
pub(crate) struct Boxed(pub(super) Option<Box<dyn Any + Send + Sync>>);

/// A peer as the log knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Member {
    /// Where other peers reach it.
    pub(super) address: String,
    /// Its folder, once it has answered for the first time.
    pub(super) folder: Option<Uuid>,
}
