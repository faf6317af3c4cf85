//! A node whose disk does not take that there is a new leader: it serves that leader's reads, and nothing else.
//!
//! What it remembers of the leader goes with the process, and the one before may come back then. So nothing may depend on
//! it: it promises nothing, keeps and lets go of nothing, and what it holds is nobody's knowledge. As soon as the disk takes
//! the epoch, it registers anew.

use std::io;

use super::identity::Fenced;
use super::promise::Turn;
use super::{Node, identity_failed};
use crate::durable;
use crate::seeded::{self, Bug};
use crate::types::{Fence, Refusing};
use crate::wire::family::{InventoryPage, WriteBatch, WriteResult};
use crate::wire::family::CopyStatus::{CopyFailed, CopyFull};

impl Node {
    /// Lets a leader in whose turn it is. Why it may only read, if so: `reads_only` says that it knows what to make of that.
    /// An error: the disk did not take it, and it was not let in.
    pub(super) async fn admit(
        &self,
        fence: Fence,
        turn: Turn,
        reads_only: bool,
    ) -> io::Result<Result<Option<Refusing>, Fenced>> {
        let identity = self.identity.clone();
        let admit = move || {
            let failed = match identity.admit(fence) {
                Ok(Err(fenced)) => return Ok((Err(fenced), None)),
                Ok(Ok(())) => None,
                Err(error) if reads_only && durable::is_refused(&error) => {
                    let why = Refusing::of(durable::is_full(&error), &error.to_string());
                    if let Err(fenced) = identity.admit_to_read(fence, why) {
                        return Ok((Err(fenced), None));
                    }
                    Some(error)
                }
                Err(error) => return Err(error),
            };
            let reads_only = identity.reads_only_for(fence);
            if reads_only.is_none() {
                turn.promise();
            }
            Ok((Ok(reads_only), failed))
        };
        let (admitted, failed) = self.executor.run(admit).await?;
        if let Some(error) = failed {
            self.tell_not_noted(&error);
        }
        Ok(admitted)
    }

    /// A beat of a leader: whether no other one is let in for a while.
    pub(super) fn promises(&self, fence: Fence) -> bool {
        let reads_only = self.identity.reads_only_for(fence).is_some() && !seeded::active(Bug::UnnotedCountsForLease);
        !reads_only && self.promise.renew(fence.run)
    }

    /// Tries once more to note the leader, if it is one that only reads; `true`: it is noted, and the node has to
    /// register anew. Blocks.
    pub(super) fn notes_after_all(&self) -> bool {
        if self.identity.reads_only().is_none() {
            return false;
        }
        match self.identity.note_seen() {
            Ok(()) => true,
            Err(error) => {
                if durable::is_refused(&error) {
                    self.tell_not_noted(&error);
                } else {
                    self.stop.fail(identity_failed(&error));
                }
                false
            }
        }
    }

    /// Said once, and then counted.
    fn tell_not_noted(&self, error: &io::Error) {
        let line = format!(
            "the new leader could not be noted: {}; until it is, this node answers reads, and neither keeps copies nor counts",
            identity_failed(error)
        );
        if let Some(unsaid) = self.said.lock().note(&line, self.started.elapsed()) {
            tracing::warn!("{line}{unsaid}");
        }
    }
}

/// The answer to a batch that nothing is done of.
pub(super) fn keeps_nothing(batch: &WriteBatch, not_noted: &Refusing) -> WriteResult {
    let status = if not_noted.full { CopyFull } else { CopyFailed };
    WriteResult {
        statuses: vec![status as i32; batch.puts.len()],
        settled: vec![CopyFailed as i32; batch.settles.len()],
        error: format!("this node could not note its leader: {}", not_noted.why),
        ..WriteResult::default()
    }
}

/// The answer to who asks for an inventory: nothing follows from it.
pub(super) fn lists_nothing(not_noted: &Refusing) -> InventoryPage {
    let error = format!("this node could not note its leader, and what it holds may change: {}", not_noted.why);
    InventoryPage { last: true, error, ..InventoryPage::default() }
}
