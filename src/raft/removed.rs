//! A peer that was removed from its group comes to know it, and ends.
//!
//! One that led has it in its own log. Any other one is not told of it: nobody calls it any more. So whoever hears of no
//! leader asks the others, and what a peer answers is what it has applied, so that it is true. It is written into the
//! folder: a peer that was removed takes no part again, with others beside it or without.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver as _;
use tokio::time::sleep;

use super::group::{Inner, matched};
use super::types::{Metrics, PeerId};

/// What is said of a peer that was removed.
pub(super) const END: &str = "this peer was removed from its group of leaders, by order: what its folder has is the group's without it, and \
                              it takes no part again. For another peer at this place, PEER ADD a number that was never used, and start \
                              it with that number and an empty folder";

/// How long a peer that was removed while it led leads on, if it cannot hand over sooner.
pub(super) const LEADS_ON: Duration = Duration::from_secs(1);

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(500);

/// Returns when this peer has been removed, and its folder says so.
pub(super) async fn watch(inner: Arc<Inner>) {
    loop {
        sleep(LOOK).await;
        let metrics = inner.raft.metrics().borrow_watched().clone();
        if !is_removed(&inner, &metrics).await {
            continue;
        }
        let identity = inner.identity.clone();
        if let Err(error) = inner.machine.executor.run(move || identity.note_removed()).await {
            tracing::warn!("that this peer was removed cannot be written into its folder: {error}");
        }
        inner.removed.cancel();
        return;
    }
}

/// Whether a leader that was removed is needed no more: who is to lead has all of its log, and all of it was answered.
pub(super) fn has_handed_over(metrics: &Metrics, to: PeerId) -> bool {
    let last = metrics.last_log_index;
    let applied = metrics.last_applied.map(|applied| applied.index);
    metrics.state != ServerState::Leader || (matched(metrics, to) >= last && applied >= last)
}

async fn is_removed(inner: &Inner, metrics: &Metrics) -> bool {
    let me = inner.settings.me;
    // While it leads it has yet to hand over.
    if metrics.state == ServerState::Leader {
        return false;
    }
    if inner.machine.applied.lock().removed.contains(&me) || inner.identity.was_told_removed() {
        return true;
    }
    if inner.identity.group().is_none() || inner.standing.borrow().leader.is_some() {
        return false;
    }
    let others = metrics.membership_config.nodes().filter(|(peer, _)| **peer != me);
    let asked = others.map(|(peer, member)| ask(inner, *peer, &member.address));
    join_all(asked).await;
    inner.identity.was_told_removed()
}

/// Has a peer say whether this one was removed. It is asked for nothing else, which any build refuses.
async fn ask(inner: &Inner, peer: PeerId, address: &str) {
    if let Some(response) = inner.ask(peer, address, None).await
        && response.removed
    {
        let _ = inner.identity.answered(peer, &response);
    }
}
