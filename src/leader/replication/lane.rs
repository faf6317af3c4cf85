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
use crate::types::{Epoch, Fence, NodeId};
use crate::wire::family::{FromNode, ToNode, from_node, to_node};
use crate::wire::{BATCH_ITEMS, Lane};

/// A frame that is not answered for this long makes its node suspect: far above what a slow disk takes for one
/// frame. A process that is paused or gone is noticed sooner, by its heartbeats or its connection.
const STALL: Duration = Duration::from_secs(3);

/// A lane on which a frame is not answered for this long is cut: as long as a write waits for its copies at most.
const CUT: Duration = Duration::from_secs(30);

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
    /// The node was late on this lane when the session before ended, and counts as late until it has answered.
    pub late: bool,
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
        let (mut stalled, mut unproven) = (self.late, self.late);
        let mut look = every(STALL / 6);
        // Jobs that are off the queue, and by when the first of them has to go: at once, if it is urgent.
        let (mut held, mut due, mut urgent) = (VecDeque::new(), Instant::now(), false);
        if self.late {
            // The disk may answer again, and it is not to wait for work to show that.
            seq += 1;
            let (body, waiting) = T::nothing();
            pending.insert(seq, (Instant::now(), waiting));
            let _ = lane.frames_out.send(to(self.fence, seq, body)).await;
        }
        loop {
            if urgent && pending.len() < T::WINDOW {
                let mut next = || loop {
                    let job = held.pop_front().or_else(|| jobs.try_recv().ok())?;
                    // Nobody waits for it any more: it gave up, or others answered.
                    if !T::is_abandoned(&job) {
                        return Some(job);
                    }
                };
                let Some(job) = next() else {
                    urgent = false;
                    continue;
                };
                let (body, waiting) = T::pack(job, next);
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
                        unproven = false;
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
                    let oldest = pending.first_key_value().map_or(Duration::ZERO, |(_, (sent, _))| sent.elapsed());
                    if oldest >= CUT {
                        tracing::warn!("node {} has not answered for {CUT:?}: its lane is cut", self.node);
                        break;
                    }
                    let overdue = unproven || oldest >= STALL;
                    if overdue != stalled {
                        stalled = overdue;
                        self.events.stalled(self.node, self.fence.session, T::WAY, stalled);
                    }
                    if stalled {
                        // Nothing is sent meanwhile: what nobody waits for any more must not pile up.
                        held.extend(std::iter::from_fn(|| jobs.try_recv().ok()));
                        held.retain(|job| !T::is_abandoned(job));
                        urgent |= !held.is_empty();
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
    use std::sync::Mutex;

    use tokio::sync::{Semaphore, oneshot};
    use tokio::time::{advance, sleep};

    use super::super::traffic::{WriteJob, Writes};
    use super::*;
    use crate::cluster::registry::Way;
    use crate::types::{Leadership, Payload, Uuid};
    use crate::wire::family;

    /// Notes what a link says of being late.
    #[derive(Debug, Default)]
    struct Late(Mutex<Vec<(Way, bool)>>);

    impl LinkEvents for Late {
        fn parted(&self, _: NodeId, _: u64, _: bool) {}
        fn stalled(&self, _: NodeId, _: u64, way: Way, stalled: bool) {
            self.0.lock().unwrap().push((way, stalled));
        }
        fn answered(&self, _: NodeId, _: Instant, _: u64) {}
        fn fenced(&self, _: NodeId, _: Epoch, _: &str) {}
    }

    /// A lane with its jobs' end, its node's end, and what stops the leader.
    struct Wire {
        jobs: mpsc::UnboundedSender<WriteJob>,
        frames: mpsc::Receiver<ToNode>,
        answers: mpsc::Sender<FromNode>,
        stop: Stop,
        late: Arc<Late>,
    }

    impl Wire {
        fn open() -> Self {
            Self::open_to(false)
        }

        /// To a node that was late before, or was not.
        fn open_to(late: bool) -> Self {
            let heard = Arc::new(Late::default());
            let (jobs, queue) = mpsc::unbounded_channel();
            let (frames_out, frames) = mpsc::channel(8);
            let (answers, frames_in) = mpsc::channel(8);
            let stop = Stop::new();
            let leadership = Leadership { cluster_id: Uuid([1; 16]), epoch: Epoch(1) };
            let owner = Owner {
                node: NodeId(1),
                fence: Fence { leadership, run: 1, session: 1 },
                events: heard.clone(),
                cut: CancellationToken::new(),
                stop: stop.clone(),
                late,
            };
            tokio::spawn(owner.drive::<Writes>(Lane { frames_out, frames_in }, queue, |_| {}));
            Self { jobs, frames, answers, stop, late: heard }
        }

        fn settle(&self, lingers: bool) {
            let settles = vec![family::Settle::default()];
            let _room = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
            assert!(self.jobs.send(WriteJob::Settle { settles, lingers, _room, done: oneshot::channel().0 }).is_ok());
        }

        fn store(&self) -> oneshot::Receiver<family::WriteResult> {
            self.store_this(&Payload::new())
        }

        fn store_this(&self, body: &Payload) -> oneshot::Receiver<family::WriteResult> {
            let (done, answer) = oneshot::channel();
            let puts = vec![family::Put { body: body.clone(), ..Default::default() }];
            assert!(self.jobs.send(WriteJob::Store { puts, done }).is_ok());
            answer
        }

        async fn answer(&self, seq: u64) {
            let body = Some(from_node::Body::Written(family::WriteResult::default()));
            self.answers.send(FromNode { seq, body }).await.unwrap();
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
        let _waits = wire.store();
        assert_eq!(wire.next().await, (1, 1, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn copies_that_nobody_waits_for_any_more_are_not_sent_and_do_not_pile_up() {
        let mut wire = Wire::open();
        let (first, second) = (wire.store(), wire.store());
        assert_eq!(wire.next().await.1, 2);
        let third = wire.store();
        assert_eq!(wire.next().await.1, 1);
        // Two frames are under way, and the node answers neither.
        let body = Payload::from(vec![7; 1000]);
        drop((0..100).map(|_| wire.store_this(&body)).collect::<Vec<_>>());
        let last = wire.store();
        sleep(STALL * 2).await;
        assert_eq!(*wire.late.0.lock().unwrap(), [(Way::Writes, true)]);
        assert!(body.is_unique(), "they are off the queue");
        wire.answer(1).await;
        assert_eq!(wire.next().await.1, 1, "only the one that is waited for");
        drop((first, second, third, last));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_that_is_not_answered_for_long_is_cut() {
        let mut wire = Wire::open();
        let waits = wire.store();
        wire.next().await;
        sleep(CUT + STALL).await;
        assert!(wire.jobs.is_closed() && waits.await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_was_late_before_its_lane_was_cut_is_late_until_it_answers() {
        let mut wire = Wire::open_to(true);
        // It is asked at once.
        assert_eq!(wire.next().await, (0, 0, Duration::ZERO));
        wire.answer(1).await;
        sleep(STALL).await;
        assert_eq!(*wire.late.0.lock().unwrap(), [(Way::Writes, false)]);
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
