//! A leader that goes on for long begins its next epoch by itself, before the versions of this one are used up.
//!
//! Writes wait meanwhile, those that are under way end first, and nodes join anew, as they would a leader after this one:
//! none of them takes a version of an epoch that it has not noted.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::every;
use super::membership::Membership;

/// Versions after which the next epoch begins: at 100,000 writes a second the rest lasts for minutes, in which the log has
/// to be whole for a moment.
pub const VERSIONS_AN_EPOCH: u32 = u32::MAX - (1 << 24);

/// How often that is looked at, and whether the last writes have ended.
const LOOK: Duration = Duration::from_millis(250);
const LAST_LOOK: Duration = Duration::from_millis(5);

/// Writes that take longer end as those of a node that goes away.
const LAST_WRITES: Duration = Duration::from_secs(2);

/// Looks after that until the leader stops.
pub(super) async fn renew(membership: Arc<Membership>, versions: u32) {
    let coordinator = membership.coordinator.clone();
    let mut look = every(LOOK);
    while coordinator.stop.unless(look.tick()).await.is_some() {
        let given = coordinator.cluster().versions_given();
        // A log that is not whole yet would say that it is by the beginning of an epoch.
        if given < versions || !coordinator.says_whole() {
            continue;
        }
        coordinator.expect_nodes();
        coordinator.cluster().pause(true);
        let began = Instant::now();
        while coordinator.cluster().is_writing() && began.elapsed() < LAST_WRITES && !coordinator.stop.is_requested() {
            sleep(LAST_LOOK).await;
        }
        if let Err(error) = membership.begin_next().await {
            tracing::warn!("the next epoch cannot begin: {error}; it is tried again");
        }
        coordinator.cluster().pause(false);
        coordinator.notify();
    }
}
