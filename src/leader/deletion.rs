//! Every member confirms a deletion, and then its tombstone is forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, timeout};

use super::coordinator::Coordinator;
use super::every;
use crate::cluster::deletion::Ask;
use crate::cluster::state::{Applied, Event};
use crate::error::name_nodes;
use crate::types::NodeId;
use crate::wire::{BATCH_ITEMS, Settle};

/// How often members are asked for what they have not confirmed.
const LOOK: Duration = Duration::from_millis(250);

/// A member that does not answer by then is asked again.
const ANSWER: Duration = Duration::from_secs(5);

impl Coordinator {
    /// Asks members for confirmations, and forgets deletions, for as long as the leader lives.
    pub(super) async fn forget_deletions(self: Arc<Self>) {
        let mut look = every(LOOK);
        let mut inform = Instant::now();
        let mut said = false;
        while self.stop.unless(look.tick()).await.is_some() {
            self.tell_piled_up(&mut said);
            // A backup may have still to copy what was deleted.
            if self.cluster().mapping().has_snapshot() {
                continue;
            }
            if Instant::now() >= inform && self.inform_of_removed(ANSWER).await {
                // One that cannot keep it has no room, or is of a version that knows nothing of it.
                inform = Instant::now() + ANSWER;
            }
            // What a member could not do waits for the next look.
            loop {
                let any = self.ask_members().await;
                self.forget_confirmed().await;
                if !any || self.stop.is_requested() {
                    break;
                }
            }
        }
    }

    /// Says once when very many deletions wait for members that are away.
    fn tell_piled_up(&self, said: &mut bool) {
        let piled = self.cluster().piled_up();
        if let Some((count, away)) = piled.as_ref().filter(|_| !*said) {
            tracing::warn!(
                "{count} deletions are kept as tombstones for {}, which did not confirm them: start it, or REMOVE it",
                name_nodes(away)
            );
        }
        *said = piled.is_some();
    }

    /// One batch for each linked member; true if any confirmed something.
    async fn ask_members(&self) -> bool {
        let asks: Vec<(NodeId, Vec<Ask>)> = {
            let mut cluster = self.cluster();
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
        let answer = timeout(ANSWER, self.links.settle(node, &settles, false)).await;
        let answer = answer.ok().and_then(Result::ok).unwrap_or_default();
        let mut cluster = self.cluster();
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

    async fn forget_confirmed(self: &Arc<Self>) {
        let forgotten = self.cluster().forgettable(BATCH_ITEMS);
        if forgotten.is_empty() {
            return;
        }
        let event = |(id, version): &(_, _)| Event::Forgotten { id: Clone::clone(id), version: *version };
        let events: Vec<Event> = forgotten.iter().map(event).collect();
        let Ok(applied) = self.make_true(&events).await else {
            let mut cluster = self.cluster();
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
        self.settle(settles, false);
    }
}
