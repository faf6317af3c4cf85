//! Nodes on which a failed write may have left a copy say whether they have it, as soon as they can be asked. What is
//! there is completed like what an inventory shows, by `complete`.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::timeout;

use super::Upkeep;
use crate::leader::coordinator::Coordinator;
use crate::types::{CopyRecord, MessageId, NodeId};
use crate::wire::BATCH_ITEMS;
use crate::wire::family::CopyStatus;

/// How often there is a look at whom to ask.
const LOOK: Duration = Duration::from_millis(100);

/// A node that does not answer by then is asked again.
const ANSWER: Duration = Duration::from_secs(2);

/// Asks nodes what they have of failed writes.
pub(super) struct Doubts {
    core: Arc<Coordinator>,
}

impl Upkeep for Doubts {
    const NAME: &'static str = "doubt";

    async fn step(&mut self) -> Duration {
        let doubts = self.core.cluster().doubts(BATCH_ITEMS);
        join_all(doubts.into_iter().map(|(node, copies)| self.ask_in_doubt(node, copies))).await;
        LOOK
    }
}

impl Doubts {
    pub(super) fn new(core: Arc<Coordinator>) -> Self {
        Self { core }
    }

    async fn ask_in_doubt(&self, node: NodeId, copies: Vec<(MessageId, CopyRecord)>) {
        // Nothing to do, behind all that the node was told before: what it has not written by then it never will.
        if !matches!(timeout(ANSWER, self.core.links.settle(node, &[], false)).await, Ok(Ok(_))) {
            return;
        }
        let answer = timeout(ANSWER, self.core.links.check(node, &copies)).await.ok().and_then(Result::ok);
        let statuses = answer.unwrap_or_default().statuses;
        {
            let mut cluster = self.core.cluster();
            for ((id, record), status) in copies.into_iter().zip(statuses) {
                match CopyStatus::try_from(status) {
                    Ok(CopyStatus::CopyStored) => cluster.settle_doubt(node, &id, record, true),
                    Ok(CopyStatus::CopyAbsent | CopyStatus::CopyDamaged) => {
                        cluster.settle_doubt(node, &id, record, false);
                    }
                    _ => {}
                }
            }
        }
        self.core.notify();
    }
}
