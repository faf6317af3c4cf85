//! A leader that goes on for long begins its next epoch by itself, before the versions of this one are used up.
//!
//! Writes wait meanwhile, those that are under way end first, and nodes join anew, as they would a leader after this one:
//! none of them takes a version of an epoch that it has not noted.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Upkeep;
use crate::leader::membership::Membership;

/// Versions after which the next epoch begins: at 100,000 writes a second the rest lasts for minutes, in which the log has
/// to be whole for a moment.
pub const VERSIONS_AN_EPOCH: u32 = u32::MAX - (1 << 24);

/// How often that is looked at, and whether the last writes have ended.
const LOOK: Duration = Duration::from_millis(250);
const LAST_LOOK: Duration = Duration::from_millis(5);

/// Writes that take longer end as those of a node that goes away.
const LAST_WRITES: Duration = Duration::from_secs(2);

/// Begins the next epoch.
pub(super) struct Renewal {
    membership: Arc<Membership>,
    /// Versions after which it begins.
    versions: u32,
}

impl Renewal {
    pub(super) fn new(membership: Arc<Membership>, versions: u32) -> Self {
        Self { membership, versions }
    }
}

impl Upkeep for Renewal {
    const NAME: &'static str = "renewal";

    async fn step(&mut self) -> Duration {
        let core = self.membership.coordinator.clone();
        let given = core.cluster().versions_given();
        // A log that is not whole yet would say that it is by the beginning of an epoch.
        if given < self.versions || !core.says_whole() {
            return LOOK;
        }
        core.expect_nodes();
        core.cluster().pause(true);
        let began = Instant::now();
        while core.cluster().is_writing() && began.elapsed() < LAST_WRITES && !core.stop.is_requested() {
            sleep(LAST_LOOK).await;
        }
        if let Err(error) = self.membership.begin_next().await {
            tracing::warn!("the next epoch cannot begin: {error}; it is tried again");
        }
        core.cluster().pause(false);
        core.notify();
        LOOK
    }
}
