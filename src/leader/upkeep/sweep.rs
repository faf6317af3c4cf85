//! Nodes are judged by when they were last heard, and what follows from time alone happens.

use std::sync::Arc;
use std::time::Duration;

use super::Upkeep;
use crate::leader::coordinator::Coordinator;
use crate::types::NodeState;

/// How often nodes are judged.
const LOOK: Duration = Duration::from_millis(250);

/// Who could not note who the members are is told again, while a new one does not count for that.
const TELL_AGAIN: Duration = Duration::from_secs(2);

/// Judges nodes.
pub(super) struct Sweeper {
    core: Arc<Coordinator>,
    /// The log's disk did not answer at the last look.
    late: bool,
    /// When members were last told again.
    told: Duration,
}

impl Sweeper {
    pub(super) fn new(core: Arc<Coordinator>) -> Self {
        Self { core, late: false, told: Duration::ZERO }
    }

    fn tell_of_the_log(&mut self) {
        let was_late = std::mem::replace(&mut self.late, self.core.ledger().late().is_some());
        match (was_late, self.late) {
            (false, true) => tracing::error!(
                "the disk of the leader's log does not answer: writes wait for it and end as UNKNOWN, reads go on"
            ),
            (true, false) => tracing::info!("the disk of the leader's log answers again"),
            _ => {}
        }
    }
}

impl Upkeep for Sweeper {
    const NAME: &'static str = "sweep";

    async fn step(&mut self) -> Duration {
        let now = self.core.now();
        self.tell_of_the_log();
        let transitions = self.core.cluster().sweep(now);
        self.core.settle_by_now(now);
        if now.saturating_sub(self.told) >= TELL_AGAIN {
            self.told = now;
            self.core.tell_of_newcomers();
        }
        for transition in &transitions {
            let (node, state, reason) = (transition.node, transition.state, transition.reason);
            match state {
                NodeState::Up => tracing::info!(node.id = node.0, "node {node} is up: {reason}"),
                _ => tracing::warn!(node.id = node.0, "node {node} is {state}: {reason}"),
            }
            if state == NodeState::Down {
                self.core.links.cut(node);
            }
        }
        if !transitions.is_empty() {
            self.core.notify();
        }
        LOOK
    }
}
