//! Writes that the leader before had under way are decided: the nodes that may have stored them are asked, and the log hears
//! what follows. It hears as well how this leader's own have ended, where nothing else was appended since.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::timeout;

use super::Upkeep;
use crate::cluster::intents::{Decided, Kept};
use crate::cluster::state::Event;
use crate::leader::coordinator::Coordinator;
use crate::leader::key_locks::{Entry, KeyGuard};
use crate::types::{CopyRecord, MessageId, NodeId};
use crate::wire::BATCH_ITEMS;
use crate::wire::family::CopyStatus;

/// How often there is a look: whoever wants one of these ids waits for it.
const LOOK: Duration = Duration::from_millis(10);

/// How often there is one when nothing waits, which is how long an end may stay untold.
const IDLE: Duration = Duration::from_millis(100);

/// A node that does not answer by then is asked again.
const ANSWER: Duration = Duration::from_secs(2);

/// Asks nodes what they have of intents.
pub(super) struct Intents {
    core: Arc<Coordinator>,
}

impl Upkeep for Intents {
    const NAME: &'static str = "intents";

    async fn step(&mut self) -> Duration {
        let asked = self.core.cluster().intents_to_ask(BATCH_ITEMS);
        join_all(asked.into_iter().map(|(node, copies)| self.ask(node, copies))).await;
        self.decide().await;
        // What cannot be told is told with the next record.
        let _ = self.core.ledger().tell_ends().await;
        if self.core.cluster().has_undecided() { LOOK } else { IDLE }
    }
}

impl Intents {
    pub(super) fn new(core: Arc<Coordinator>) -> Self {
        Self { core }
    }

    async fn ask(&self, node: NodeId, copies: Vec<(MessageId, CopyRecord)>) {
        let answer = timeout(ANSWER, self.core.links.check(node, &copies)).await.ok().and_then(Result::ok);
        let statuses = answer.unwrap_or_default().statuses;
        let mut cluster = self.core.cluster();
        for ((id, record), status) in copies.into_iter().zip(statuses) {
            let kept = match CopyStatus::try_from(status) {
                Ok(CopyStatus::CopyStored) => Kept::Here,
                Ok(CopyStatus::CopyAbsent) => Kept::Absent,
                Ok(CopyStatus::CopyDamaged) => Kept::Damaged,
                _ => continue,
            };
            cluster.hear_of_intent(node, &id, record, kept);
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
        let changes: Vec<MessageId> = commits.iter().map(|commit| commit.id.clone()).collect();
        let dropped = Some(dropped).filter(|versions| !versions.is_empty()).map(Event::Dropped);
        let events: Vec<Event> = commits.into_iter().map(Event::Commit).chain(dropped).collect();
        if self.core.ledger().append(&events).await.is_ok() {
            self.core.view.add(changes);
            self.core.notify();
        }
        drop(guards);
    }
}
