//! Writes that the leader before had under way are decided: the nodes that may have stored them are asked, and the log hears
//! what follows. It hears as well how this leader's own have ended, where nothing else was appended since.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use super::Upkeep;
use crate::cluster::intents::Decided;
use crate::cluster::mapping::Committed;
use crate::cluster::state::{Applied, Event};
use crate::leader::coordinator::Coordinator;
use crate::leader::key_locks::{Entry, KeyGuard};
use crate::types::{CopyRecord, MessageId, NodeId};
use crate::wire::BATCH_ITEMS;

/// How often there is a look: whoever wants one of these ids waits for it.
const LOOK: Duration = Duration::from_millis(10);

/// How often there is one when nothing waits, which is how long an end may stay untold.
const IDLE: Duration = Duration::from_millis(100);

/// Asks nodes what they have of intents.
pub(super) struct Intents {
    core: Arc<Coordinator>,
}

impl Upkeep for Intents {
    const NAME: &'static str = "intents";

    async fn step(&mut self) -> Duration {
        // What cannot be told is told with the next record.
        let _ = self.core.ledger().tell_ends().await;
        let asked = self.core.cluster().intents_to_ask(BATCH_ITEMS);
        join_all(asked.into_iter().map(|(node, copies)| self.ask(node, copies))).await;
        self.decide().await;
        if self.core.cluster().has_undecided() { LOOK } else { IDLE }
    }
}

impl Intents {
    pub(super) fn new(core: Arc<Coordinator>) -> Self {
        Self { core }
    }

    async fn ask(&self, node: NodeId, copies: Vec<(MessageId, CopyRecord)>) {
        let said = self.core.ask_kept(node, copies).await;
        let mut cluster = self.core.cluster();
        said.for_each(|(id, record, kept)| cluster.hear_of_intent(node, &id, record, kept));
    }

    /// Whoever had the message before is no holder any more.
    fn note_overwritten(&self, events: &[Event], did: Vec<Applied>) {
        let mut cluster = self.core.cluster();
        let commits = events.iter().flat_map(Event::commits);
        for (commit, did) in commits.zip(did.into_iter().flat_map(Applied::committed)) {
            if let Committed::Replaced { holders, .. } = did {
                let gone = holders.iter().filter(|node| !commit.holders.contains(node));
                gone.for_each(|&node| cluster.note_excess(&commit.id, commit.record.version, node));
            }
        }
    }

    async fn decide(&self) {
        let decided = self.core.cluster().decided_intents();
        if decided == Decided::default() {
            return;
        }
        // Whoever writes one of these ids, or completes what was found of it, ends the intent as well.
        let free = decided.commits.into_iter().filter_map(|commit| match self.core.key_locks.enter(&commit.id) {
            Entry::Entered(guard) => Some((commit.id, guard)),
            Entry::Wait(_) => None,
        });
        let guards: BTreeMap<MessageId, KeyGuard> = free.collect();
        // It may have done so until now.
        let Decided { mut commits, dropped } = self.core.cluster().decided_intents();
        commits.retain(|commit| guards.contains_key(&commit.id));
        if commits.is_empty() && dropped.is_empty() {
            return;
        }
        let changes: Vec<MessageId> = commits.iter().map(|commit| commit.id.clone()).collect();
        let dropped = Some(dropped).filter(|versions| !versions.is_empty()).map(Event::Dropped);
        let events: Vec<Event> = commits.into_iter().map(Event::Commit).chain(dropped).collect();
        if let Ok(did) = self.core.ledger().append(&events).await {
            self.note_overwritten(&events, did);
            self.core.view.add(changes);
            self.core.notify();
        }
        drop(guards);
    }
}
