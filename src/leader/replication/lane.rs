//! The task that has a lane: it makes frames of what has queued, and knows which are under way.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::LinkEvents;
use super::traffic::Traffic;
use crate::leader::every;
use crate::stop::Stop;
use crate::types::{Epoch, NodeId};
use crate::wire::family::{FromNode, ToNode, from_node, to_node};
use crate::wire::{BATCH_ITEMS, Fence, Lane};

/// A frame that is not answered for this long makes its node suspect: far above what a slow disk takes for one
/// frame. A process that is paused or gone is noticed sooner, by its heartbeats or its connection.
const STALL: Duration = Duration::from_secs(3);

/// What nobody waits for goes after this time if no other frame takes it along: above the time between two rounds of
/// writes, and well within the second after which a file is to show what was committed.
const LINGER: Duration = Duration::from_millis(5);

/// The one task that has a lane.
pub(super) struct Owner {
    pub node: NodeId,
    pub fence: Fence,
    pub events: Arc<dyn LinkEvents>,
    pub cut: CancellationToken,
    pub stop: Stop,
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
        // Jobs that are off the queue, and by when the first of them has to go: at once, if it is urgent.
        let (mut held, mut due, mut urgent) = (VecDeque::new(), Instant::now(), false);
        loop {
            if urgent && pending.len() < T::WINDOW {
                let Some(job) = held.pop_front() else {
                    urgent = false;
                    continue;
                };
                let (body, waiting) = T::pack(job, || held.pop_front().or_else(|| jobs.try_recv().ok()));
                seq += 1;
                // There is room: fewer frames are under way than the lane's queue has places.
                if lane.frames_out.send(to(self.fence, seq, body)).await.is_err() {
                    break;
                }
                pending.insert(seq, (Instant::now(), waiting));
                continue;
            }
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
                job = jobs.recv(), if !urgent && pending.len() < T::WINDOW => {
                    let Some(job) = job else { break };
                    if held.is_empty() {
                        due = Instant::now() + LINGER;
                    }
                    urgent = !T::lingers(&job) || held.len() >= BATCH_ITEMS;
                    held.push_back(job);
                }
                () = sleep_until(due), if !urgent && !held.is_empty() => urgent = true,
                () = self.stop.requested(), if !urgent && !held.is_empty() => urgent = true,
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

#[cfg(test)]
mod tests {
    use tokio::sync::{Semaphore, oneshot};
    use tokio::time::advance;

    use super::super::traffic::{WriteJob, Writes};
    use super::*;
    use crate::cluster::Reign;
    use crate::types::Uuid;
    use crate::wire::family;

    /// Nobody listens to what a link says.
    #[derive(Debug)]
    struct Deaf;

    impl LinkEvents for Deaf {
        fn parted(&self, _: NodeId, _: u64, _: bool) {}
        fn stalled(&self, _: NodeId, _: u64, _: bool) {}
        fn answered(&self, _: NodeId, _: Instant) {}
        fn fenced(&self, _: NodeId, _: Epoch, _: &str) {}
    }

    /// A lane with its jobs' end, its node's end, and what stops the leader.
    struct Wire {
        jobs: mpsc::UnboundedSender<WriteJob>,
        frames: mpsc::Receiver<ToNode>,
        _answers: mpsc::Sender<FromNode>,
        stop: Stop,
    }

    impl Wire {
        fn open() -> Self {
            let (jobs, queue) = mpsc::unbounded_channel();
            let (frames_out, frames) = mpsc::channel(8);
            let (_answers, frames_in) = mpsc::channel(8);
            let stop = Stop::new();
            let reign = Reign { cluster_id: Uuid([1; 16]), epoch: Epoch(1) };
            let owner = Owner {
                node: NodeId(1),
                fence: Fence { reign, run: 1, session: 1 },
                events: Arc::new(Deaf),
                cut: CancellationToken::new(),
                stop: stop.clone(),
            };
            tokio::spawn(owner.drive::<Writes>(Lane { frames_out, frames_in }, queue, |_| {}));
            Self { jobs, frames, _answers, stop }
        }

        fn settle(&self, lingers: bool) {
            let settles = vec![family::Settle::default()];
            let _room = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
            assert!(self.jobs.send(WriteJob::Settle { settles, lingers, _room, done: oneshot::channel().0 }).is_ok());
        }

        fn store(&self) {
            let puts = vec![family::Put::default()];
            assert!(self.jobs.send(WriteJob::Store { puts, done: oneshot::channel().0 }).is_ok());
        }

        /// The settles and puts of the next frame, and how long it took to come.
        async fn next(&mut self) -> (usize, usize, Duration) {
            let began = Instant::now();
            match self.frames.recv().await.unwrap().body {
                Some(to_node::Body::Write(batch)) => (batch.settles.len(), batch.puts.len(), began.elapsed()),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_waits_for_goes_with_the_next_copies_or_after_a_moment() {
        let mut wire = Wire::open();
        wire.settle(true);
        wire.settle(true);
        assert_eq!(wire.next().await, (2, 0, LINGER));
        wire.settle(true);
        advance(LINGER / 2).await;
        wire.store();
        assert_eq!(wire.next().await, (1, 1, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_waited_for_goes_at_once_and_all_does_when_the_leader_stops() {
        let mut wire = Wire::open();
        wire.settle(false);
        assert_eq!(wire.next().await, (1, 0, Duration::ZERO));
        wire.settle(true);
        wire.stop.request();
        assert_eq!(wire.next().await, (1, 0, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_go_into_a_frame_goes_into_the_next() {
        let mut wire = Wire::open();
        (0..=BATCH_ITEMS).for_each(|_| wire.settle(true));
        assert_eq!(wire.next().await, (BATCH_ITEMS, 0, Duration::ZERO));
        assert_eq!(wire.next().await.0, 1);
    }
}
