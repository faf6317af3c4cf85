//! Taking back transactions that did not come to their end: first the log says that they never become true, then what
//! was true before is written once more, as a newer version.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::sleep;

use super::coordinator::Coordinator;
use super::every;
use super::key_locks::Entry;
use crate::cluster::Located;
use crate::cluster::state::Event;
use crate::types::{MessageId, Version};

/// How often there is a look at what is to be taken back.
const LOOK: Duration = Duration::from_millis(100);

/// Ids taken back at once.
const BATCH: usize = 256;

/// What could not be taken back is tried again after so long.
const RETRY: Duration = Duration::from_secs(1);

impl Coordinator {
    /// Notes in the log that transactions never become true; `false`: it did not take that.
    pub(super) async fn abort(&self, names: &[Version]) -> bool {
        let events: Vec<Event> = names.iter().map(|&name| Event::Aborted { name }).collect();
        let logged = self.make_true(&events).await.is_ok();
        if logged {
            self.notify();
        }
        logged
    }

    /// Takes back what is to be taken back, for as long as the leader lives.
    pub(super) async fn rollback(self: Arc<Self>) {
        let mut look = every(LOOK);
        while self.stop.unless(look.tick()).await.is_some() {
            if !self.rollback_some().await && self.stop.unless(sleep(RETRY)).await.is_none() {
                return;
            }
        }
    }

    /// `false`: something could not be taken back now.
    async fn rollback_some(self: &Arc<Self>) -> bool {
        let names = self.cluster().to_abort();
        if !names.is_empty() {
            tracing::warn!("{} transactions that did not come to their end are taken back", names.len());
            if !self.abort(&names).await {
                return false;
            }
        }
        let ids = self.cluster().to_roll_back(BATCH);
        !join_all(ids.into_iter().map(|id| self.write_again(id))).await.contains(&false)
    }

    /// Writes what is true of an id as a newer version.
    async fn write_again(self: &Arc<Self>, id: MessageId) -> bool {
        // A write of it that is under way does the same.
        let Entry::Entered(guard) = self.key_locks.enter(&id) else { return false };
        let record = {
            let cluster = self.cluster();
            if !cluster.rolls_back(&id) {
                return true;
            }
            match cluster.find_here(&id, 0) {
                Located::Here { record, .. } => Some(record),
                Located::NotFound => None,
                Located::Hidden(_) => return false,
            }
        };
        let message = match record {
            None => None,
            Some(record) => match self.messages(None, &[(id.clone(), record)]).await {
                Ok((mut messages, _)) => match messages.pop().flatten() {
                    Some(message) => Some(message),
                    None => return false,
                },
                Err(_) => return false,
            },
        };
        self.write_alone(id, message.into(), guard).await.is_ok()
    }
}
