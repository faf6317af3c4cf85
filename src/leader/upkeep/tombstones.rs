//! Every member confirms a deletion, and then its tombstone is forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, timeout};

use super::Upkeep;
use crate::cluster::deletion::Ask;
use crate::cluster::state::{Applied, Event};
use crate::error::name_nodes;
use crate::leader::coordinator::Coordinator;
use crate::types::NodeId;
use crate::wire::{BATCH_ITEMS, Settle};

/// How often members are asked for what they have not confirmed.
const LOOK: Duration = Duration::from_millis(250);

/// A member that does not answer by then is asked again.
const ANSWER: Duration = Duration::from_secs(5);

/// Forgets deletions.
pub(super) struct Tombstones {
    core: Arc<Coordinator>,
    /// When members are next told who was removed.
    inform: Instant,
    /// That very many wait was said.
    said: bool,
}

impl Upkeep for Tombstones {
    const NAME: &'static str = "deletion";

    async fn step(&mut self) -> Duration {
        self.tell_piled_up();
        // A backup may have still to copy what was deleted.
        if self.core.cluster().mapping().has_snapshot() {
            return LOOK;
        }
        if Instant::now() >= self.inform && self.core.inform_of_removed(ANSWER).await {
            // One that cannot keep it has no room, or is of a version that knows nothing of it.
            self.inform = Instant::now() + ANSWER;
        }
        // What a member could not do waits for the next look.
        loop {
            let any = self.ask_members().await;
            self.forget_confirmed().await;
            if !any || self.core.stop.is_requested() {
                return LOOK;
            }
        }
    }
}

impl Tombstones {
    pub(super) fn new(core: Arc<Coordinator>) -> Self {
        Self { core, inform: Instant::now(), said: false }
    }

    /// Says once when very many deletions wait for members that are away.
    fn tell_piled_up(&mut self) {
        let piled = self.core.cluster().piled_up();
        if let Some((count, away)) = piled.as_ref().filter(|_| !self.said) {
            tracing::warn!(
                "{count} deletions are kept as tombstones for {}, which did not confirm them: start it, or REMOVE it",
                name_nodes(away)
            );
        }
        self.said = piled.is_some();
    }

    /// One batch for each linked member; true if any confirmed something.
    async fn ask_members(&self) -> bool {
        let asks: Vec<(NodeId, Vec<Ask>)> = {
            let mut cluster = self.core.cluster();
            let linked: Vec<NodeId> = cluster.registry.linked().collect();
            linked.into_iter().map(|node| (node, cluster.asks(node, BATCH_ITEMS))).collect()
        };
        let each =
            asks.into_iter().filter(|(_, asks)| !asks.is_empty()).map(|(node, asks)| self.ask_member(node, asks));
        join_all(each).await.contains(&true)
    }

    async fn ask_member(&self, node: NodeId, asks: Vec<Ask>) -> bool {
        let settle = |ask: &Ask| Settle {
            id: ask.id.clone(),
            version: ask.version,
            keep: ask.keep,
            trash: false,
            lasting: true,
        };
        let settles: Vec<Settle> = asks.iter().map(settle).collect();
        let answer = timeout(ANSWER, self.core.links.settle(node, &settles, false)).await;
        let answer = answer.ok().and_then(Result::ok).unwrap_or_default();
        let mut cluster = self.core.cluster();
        let mut any = false;
        for (i, ask) in asks.into_iter().enumerate() {
            if answer.get(i) == Some(&true) {
                any = true;
                cluster.confirmed(node, &ask);
            } else {
                cluster.unconfirmed(node, ask);
            }
        }
        any
    }

    async fn forget_confirmed(&self) {
        let forgotten = self.core.cluster().forgettable(BATCH_ITEMS);
        if forgotten.is_empty() {
            return;
        }
        let event = |(id, version): &(_, _)| Event::Forgotten { id: Clone::clone(id), version: *version };
        let events: Vec<Event> = forgotten.iter().map(event).collect();
        let Ok(applied) = self.core.ledger().append(&events).await else {
            let mut cluster = self.core.cluster();
            forgotten.into_iter().for_each(|(id, _)| cluster.still_forgettable(id));
            return;
        };
        let mut settles: BTreeMap<NodeId, Vec<Settle>> = BTreeMap::new();
        for ((id, version), applied) in forgotten.into_iter().zip(applied) {
            let Applied::Forgotten(_, holders) = applied else { continue };
            for node in holders {
                let settle = Settle { id: id.clone(), version, keep: false, trash: false, lasting: false };
                settles.entry(node).or_default().push(settle);
            }
        }
        self.core.settle(settles, false);
    }
}
