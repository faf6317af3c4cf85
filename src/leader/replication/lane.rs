//! The task that has a lane: it makes frames of what has queued, and knows which are under way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::LinkEvents;
use super::traffic::Traffic;
use crate::leader::every;
use crate::types::{Epoch, NodeId};
use crate::wire::family::{FromNode, ToNode, from_node, to_node};
use crate::wire::{Fence, Lane};

/// A frame that is not answered for this long makes its node suspect: far above what a slow disk takes for one
/// frame. A process that is paused or gone is noticed sooner, by its heartbeats or its connection.
const STALL: Duration = Duration::from_secs(3);

/// The one task that has a lane.
pub(super) struct Owner {
    pub node: NodeId,
    pub fence: Fence,
    pub events: Arc<dyn LinkEvents>,
    pub cut: CancellationToken,
}

impl Owner {
    /// `took` hears how long each frame took.
    pub(super) async fn drive<T: Traffic>(
        self,
        mut lane: Lane,
        mut jobs: mpsc::UnboundedReceiver<T::Job>,
        took: impl Fn(Duration) + Send,
    ) {
        let mut pending: BTreeMap<u64, (Instant, T::Pending)> = BTreeMap::new();
        let mut seq = 0;
        let mut stalled = false;
        let mut look = every(STALL / 6);
        loop {
            tokio::select! {
                biased;
                () = self.cut.cancelled() => break,
                frame = lane.frames_in.recv() => {
                    let Some(FromNode { seq, body: Some(body) }) = frame else { break };
                    if let from_node::Body::Fenced(fenced) = body {
                        self.events.fenced(self.node, Epoch(fenced.epoch_seen), &fenced.reason);
                        break;
                    }
                    if let Some((sent, waiting)) = pending.remove(&seq) {
                        took(sent.elapsed());
                        T::unpack(waiting, body);
                    }
                }
                job = jobs.recv(), if pending.len() < T::WINDOW => {
                    let Some(job) = job else { break };
                    let (body, waiting) = T::pack(job, &mut jobs);
                    seq += 1;
                    // There is room: fewer frames are under way than the lane's queue has places.
                    if lane.frames_out.send(to(self.fence, seq, body)).await.is_err() {
                        break;
                    }
                    pending.insert(seq, (Instant::now(), waiting));
                }
                _ = look.tick() => {
                    let overdue = pending.first_key_value().is_some_and(|(_, (sent, _))| sent.elapsed() >= STALL);
                    if overdue != stalled {
                        stalled = overdue;
                        self.events.stalled(self.node, self.fence.session, stalled);
                    }
                }
            }
        }
        // One lane without the other is no link.
        self.cut.cancel();
    }
}

/// A frame to a node.
pub(super) fn to(fence: Fence, seq: u64, body: to_node::Body) -> ToNode {
    ToNode { fence: Some(fence.into()), seq, body: Some(body) }
}
