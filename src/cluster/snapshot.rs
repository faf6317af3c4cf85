//! The moment that a backup is of, and when one can be fixed.

use super::Cluster;
use super::mapping::{Overtaken, Slot, Walked};
use crate::types::{Uuid, Version};

/// What a backup is of: everything that was committed at one instant, and nothing that was committed after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The register.
    pub cluster_id: Uuid,
    /// The newest version that was committed by then.
    pub version: Version,
    /// Copies that each message had.
    pub tolerance: usize,
    /// How many messages there were.
    pub messages: u64,
    /// Their bytes, each message counted once.
    pub bytes: u64,
    /// How many of them end by themselves.
    pub expiring: u64,
}

/// Why no moment was fixed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoMoment {
    /// A backup is being made.
    Busy,
    /// What is committed is not known of all ids now, and why.
    NotYet(String),
}

impl Cluster {
    /// Fixes this moment for a backup, until [`Cluster::end_snapshot`].
    pub fn begin_snapshot(&mut self) -> Result<Moment, NoMoment> {
        if let Some(reason) = self.unsure().or_else(|| self.undecided.of_those(|_| true)) {
            return Err(NoMoment::NotYet(reason));
        }
        if self.transactions.any_open() {
            return Err(NoMoment::NotYet(self.waiting_to_decide()));
        }
        if let Some(id) = self.uncommitted.keys().next() {
            return Err(NoMoment::NotYet(format!("a version of {id:?} that was found on nodes is being completed")));
        }
        let Some(leadership) = self.leadership else {
            return Err(NoMoment::NotYet("the leader has no epoch yet".to_owned()));
        };
        if !self.state.mapping.begin_snapshot() {
            return Err(NoMoment::Busy);
        }
        Ok(Moment {
            cluster_id: leadership.cluster_id,
            version: self.state.mapping.newest_committed(),
            tolerance: self.tolerance,
            messages: self.state.mapping.len(),
            bytes: self.state.mapping.bytes(),
            expiring: self.state.mapping.deadlines(),
        })
    }

    /// The next messages of the moment; see [`Mapping::walk_snapshot`](super::mapping::Mapping::walk_snapshot).
    pub fn walk_snapshot(&mut self, count: usize, bytes: u64) -> Walked {
        self.state.mapping.walk_snapshot(count, bytes)
    }

    /// A message of the moment was copied; `false`: it was taken care of before.
    pub fn take_slot(&mut self, slot: Slot) -> bool {
        self.state.mapping.take_slot(slot)
    }

    /// What commits have overtaken, in their order.
    pub fn take_overtaken(&mut self) -> Vec<Overtaken> {
        self.state.mapping.take_overtaken()
    }

    /// Nothing is to be copied any more.
    pub fn end_snapshot(&mut self) {
        self.state.mapping.end_snapshot();
    }
}
