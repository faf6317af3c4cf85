//! What goes on by itself beside clients, for as long as the leader lives: each kind of work has an owner, and all are run alike.
//!
//! - [`sweep`]: who is up, and what follows from time alone;
//! - [`complete`]: versions that nodes hold and the log does not know are completed;
//! - [`intents`]: what becomes of writes that the leader before had under way is found out, and told to the log;
//! - [`doubts`]: nodes that may hold a copy of a failed write are asked;
//! - [`rollback`]: transactions that did not come to their end are taken back;
//! - [`repair`]: copies are made again, moved and trimmed, with [`proof`] of those that only lack their record;
//! - [`tombstones`]: deletions that every member has confirmed are forgotten;
//! - [`expire`]: messages whose deadline has come are deleted;
//! - [`scrub`]: every copy is read and checked once a day, or at once on VERIFY;
//! - [`renewal`]: the next epoch begins before the versions of this one are used up.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use super::coordinator::Coordinator;
use super::membership::Membership;
use crate::stop::Stop;

mod ask;
mod complete;
mod doubts;
mod expire;
mod fetch;
mod intents;
mod proof;
pub(super) mod renewal;
pub(super) mod repair;
mod rollback;
mod scrub;
mod sweep;
mod tombstones;
mod trim;

/// Work that goes on in steps. If it panics, the leader ends.
trait Upkeep: Send + 'static {
    /// For the words that are said then.
    const NAME: &'static str;

    /// Takes a step, and gives the pause before the next.
    fn step(&mut self) -> impl Future<Output = Duration> + Send;
}

/// Starts all of it. The scrub begins at `part` of the index.
pub(super) fn start(
    coordinator: &Arc<Coordinator>,
    membership: &Arc<Membership>,
    versions_an_epoch: u32,
    part: usize,
) -> TaskTracker {
    let all = TaskTracker::new();
    let (core, stop) = (|| coordinator.clone(), &coordinator.stop);
    spawn(&all, stop, complete::Completer::new(core()));
    spawn(&all, stop, scrub::Scrubber::new(core(), part));
    spawn(&all, stop, repair::Repairer::new(core()));
    spawn(&all, stop, rollback::Rollback::new(core()));
    spawn(&all, stop, doubts::Doubts::new(core()));
    spawn(&all, stop, intents::Intents::new(core()));
    spawn(&all, stop, tombstones::Tombstones::new(core()));
    spawn(&all, stop, sweep::Sweeper::new(core()));
    spawn(&all, stop, expire::Expirer::new(core()));
    spawn(&all, stop, renewal::Renewal::new(membership.clone(), versions_an_epoch));
    all
}

fn spawn<U: Upkeep>(all: &TaskTracker, stop: &Stop, mut work: U) {
    let until = stop.clone();
    let steps = async move {
        while !until.is_requested() {
            let pause = work.step().await;
            if until.unless(sleep(pause)).await.is_none() {
                break;
            }
        }
    };
    all.spawn(stop.vital(U::NAME, steps));
}
