//! Taking back transactions that did not come to their end: first the log says that they never become true, then what
//! was true before is written once more, as a newer version.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use super::Upkeep;
use crate::cluster::Located;
use crate::cluster::state::Event;
use crate::leader::coordinator::Coordinator;
use crate::leader::key_locks::Entry;
use crate::types::{Change, MessageId, Version};

/// How often there is a look at what is to be taken back.
const LOOK: Duration = Duration::from_millis(100);

/// Ids taken back at once.
const BATCH: usize = 256;

/// What could not be taken back is tried again after so long.
const RETRY: Duration = Duration::from_secs(1);

impl Coordinator {
    /// Notes in the log that transactions never become true; `false`: it did not take that.
    pub(in crate::leader) async fn abort(&self, names: &[Version]) -> bool {
        let events: Vec<Event> = names.iter().map(|&name| Event::Aborted { name }).collect();
        let logged = self.ledger().append(&events).await.is_ok();
        if logged {
            self.notify();
        }
        logged
    }
}

/// Takes transactions back.
pub(super) struct Rollback {
    core: Arc<Coordinator>,
}

impl Upkeep for Rollback {
    const NAME: &'static str = "rollback";

    async fn step(&mut self) -> Duration {
        if self.rollback_some().await { LOOK } else { RETRY }
    }
}

impl Rollback {
    pub(super) fn new(core: Arc<Coordinator>) -> Self {
        Self { core }
    }

    /// `false`: something could not be taken back now.
    async fn rollback_some(&self) -> bool {
        let names = self.core.cluster().to_abort();
        if !names.is_empty() {
            tracing::warn!("{} transactions that did not come to their end are taken back", names.len());
            if !self.core.abort(&names).await {
                return false;
            }
        }
        let ids = self.core.cluster().to_roll_back(BATCH);
        !join_all(ids.into_iter().map(|id| self.write_again(id))).await.contains(&false)
    }

    /// Writes what is true of an id as a newer version.
    async fn write_again(&self, id: MessageId) -> bool {
        // A write of it that is under way does the same.
        let Entry::Entered(guard) = self.core.key_locks.enter(&id) else { return false };
        let record = {
            let cluster = self.core.cluster();
            if !cluster.rolls_back(&id) {
                return true;
            }
            match cluster.find_here(&id, 0) {
                Located::Here { record, .. } => Some(record),
                Located::NotFound => None,
                Located::Hidden(_) => return false,
            }
        };
        let change = match record {
            None => Change::Delete,
            Some(record) => match self.core.messages(None, &[(id.clone(), record)]).await {
                Ok((mut messages, _)) => match messages.pop().flatten() {
                    Some(message) => Change::Put(message, record.expires),
                    None => return false,
                },
                Err(_) => return false,
            },
        };
        self.core.write_alone(id, change, guard).await.is_ok()
    }
}
