//! Nodes on which a failed write may have left a copy say whether they have it, as soon as they can be asked. What is
//! there is completed like what an inventory shows, by `complete`.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use super::Upkeep;
use crate::cluster::intents::Kept;
use crate::leader::coordinator::Coordinator;
use crate::types::{CopyRecord, MessageId, NodeId};
use crate::wire::BATCH_ITEMS;

/// How often there is a look at whom to ask.
const LOOK: Duration = Duration::from_millis(100);

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
        let mut said = self.core.ask_kept(node, copies).await.peekable();
        if said.peek().is_none() {
            return;
        }
        {
            let mut cluster = self.core.cluster();
            said.for_each(|(id, record, kept)| cluster.settle_doubt(node, &id, record, kept == Kept::Here));
        }
        self.core.notify();
    }
}
