//! A lane as the node serves it: whose word counts on it, and answers that nobody reads.
//!
//! A peer that reads no answers costs its own lane and nothing else: neither the writer nor a reader waits for it.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::identity::Fenced;
use super::store::INVENTORY_PARTS;
use super::work::{ReadKey, ReadWork, WriteWork};
use super::{Node, from, id_of, reads_only};
use crate::seeded::{self, Bug};
use crate::types::{Epoch, Fence, Version};
use crate::wire::BATCH_ITEMS;
use crate::wire::family::{self, FromNode, ToNode, from_node, to_node};

/// A lane on which no leader's Hello was let in by then ends: leaders say it at once.
const TO_SAY_HELLO: Duration = Duration::from_secs(5);

/// The way back on a lane.
#[derive(Debug, Clone)]
pub(super) struct Replies {
    queue: mpsc::Sender<FromNode>,
    /// Cancelled when the peer has not read what it asked for: the lane ends.
    broken: CancellationToken,
}

impl Replies {
    /// Puts an answer on its way. A leader has fewer frames under way than there are places: where none is left, the peer
    /// does not read, and its lane ends.
    pub(super) fn give(&self, frame: FromNode) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.queue.try_send(frame) {
            if !self.broken.is_cancelled() {
                tracing::warn!("a lane is ended: its peer does not read the answers");
            }
            self.broken.cancel();
        }
    }

    /// Waits for a place in a queue, as long as anybody would hear of it.
    async fn unless_gone<T>(&self, sent: impl Future<Output = T>) {
        tokio::select! {
            biased;
            _ = sent => {}
            () = self.broken.cancelled() => {}
            () = self.queue.closed() => {}
        }
    }
}

impl Node {
    /// Serves one lane: takes frames until the lane ends or the fence falls. A leader that is succeeded by another one is
    /// told so at once, whether it says anything or not.
    ///
    /// Whoever opens one is a stranger until a leader's Hello was let in: until then it may ask who this is, has
    /// [`TO_SAY_HELLO`], and is one of [`STRANGERS`](super::STRANGERS).
    pub async fn serve_lane<F>(self: Arc<Self>, mut frames: F, reply: mpsc::Sender<FromNode>)
    where
        F: Stream<Item = ToNode> + Unpin,
    {
        let reply = Replies { queue: reply, broken: CancellationToken::new() };
        let mut stranger = match self.strangers.clone().try_acquire_owned() {
            Ok(place) => Some(place),
            Err(_) => return tracing::debug!("a lane was refused: too many are open that no leader uses"),
        };
        let until = Instant::now() + TO_SAY_HELLO;
        let mut of: Option<Fence> = None;
        loop {
            let admitted = self.admitted.notified();
            if let Some(fence) = of.filter(|fence| self.identity.is_succeeded(*fence))
                && let Err(fenced) = self.identity.check(fence)
            {
                return refuse(0, fenced, &reply);
            }
            let frame = tokio::select! {
                biased;
                () = reply.broken.cancelled() => return,
                () = admitted => continue,
                frame = frames.next() => frame,
                () = sleep_until(until), if stranger.is_some() => return,
            };
            let Some(frame) = frame else { return };
            let seq = frame.seq;
            let is_hello = matches!(frame.body, Some(to_node::Body::Hello(_)));
            let fence = frame.fence.as_ref().filter(|_| is_hello).and_then(|fence| Fence::try_from(fence).ok());
            match self.take(frame, &reply, stranger.is_none()).await {
                Ok(is_leader) => {
                    if is_leader {
                        stranger = None;
                    }
                }
                Err(fenced) => return refuse(seq, fenced, &reply),
            }
            of = fence.or(of);
        }
    }

    /// Does what a frame asks, or hands it to those who do. Whether the lane is a leader's from here on.
    async fn take(&self, frame: ToNode, reply: &Replies, is_leaders: bool) -> Result<bool, Fenced> {
        let malformed = |reason: &str| Fenced { epoch: Epoch(0), reason: reason.to_owned() };
        let fence = frame.fence.as_ref().ok_or_else(|| malformed("a frame without a fence"))?;
        let fence = Fence::try_from(fence).map_err(malformed)?;
        let seq = frame.seq;
        match frame.body.ok_or_else(|| malformed("a frame of a kind that this version does not know"))? {
            to_node::Body::Hello(hello) => {
                let welcome = self.hello(fence, &hello).await?;
                reply.give(from(seq, from_node::Body::Welcome(welcome)));
            }
            to_node::Body::Ping(ping) => {
                if ping.lease || ping.release {
                    self.identity.check(fence)?;
                }
                if ping.release {
                    self.promise.release(fence.run);
                }
                let lease_refused = ping.lease && !ping.release && !self.promises(fence);
                let pong = family::Pong { lease_refused, ..self.who() };
                reply.give(from(seq, from_node::Body::Pong(pong)));
                return Ok(is_leaders);
            }
            _ if !is_leaders => return Err(malformed("a frame ahead of the Hello")),
            to_node::Body::Write(batch) => {
                if let Some(not_noted) = self.identity.reads_only_for(fence) {
                    let result = reads_only::keeps_nothing(&batch, &not_noted);
                    reply.give(from(seq, from_node::Body::Written(result)));
                    return Ok(true);
                }
                let work = WriteWork::read(fence, seq, batch, reply.clone()).map_err(|reason| malformed(&reason))?;
                reply.unless_gone(self.writes.send(work)).await;
            }
            to_node::Body::Read(batch) => {
                let key = |key: family::CopyKey| {
                    let (id, version) = (id_of(&key.id)?, Version(key.version));
                    Ok(ReadKey { id, version, check: key.check })
                };
                let keys = batch.keys.into_iter().map(key);
                let keys = keys.collect::<Result<_, String>>().map_err(|reason| malformed(&reason))?;
                reply.unless_gone(self.reads.send(ReadWork { fence, seq, keys, reply: reply.clone() })).await;
            }
            to_node::Body::Inventory(_) => {
                self.identity.check(fence)?;
                let reads_only = self.identity.reads_only_for(fence);
                match reads_only.filter(|_| !seeded::active(Bug::UnnotedInventoryBelieved)) {
                    None => self.list(seq, reply).await,
                    Some(not_noted) => {
                        let page = reads_only::lists_nothing(&not_noted);
                        reply.give(from(seq, from_node::Body::Page(page)));
                    }
                }
            }
        }
        Ok(true)
    }

    /// Streams the inventory: a page a part, and at the end the marker with the count.
    async fn list(&self, seq: u64, reply: &Replies) {
        let mut count = 0;
        for part in 0..INVENTORY_PARTS {
            let entries: Vec<_> = self.store.inventory(part).into_iter().map(family::InventoryEntry::from).collect();
            count += entries.len() as u64;
            let mut rest = entries.into_iter();
            loop {
                let entries: Vec<_> = rest.by_ref().take(BATCH_ITEMS).collect();
                if entries.is_empty() {
                    break;
                }
                let page = family::InventoryPage { entries, ..Default::default() };
                if reply.queue.send(from(seq, from_node::Body::Page(page))).await.is_err() {
                    return;
                }
            }
        }
        let page = family::InventoryPage { last: true, count, ..Default::default() };
        let _ = reply.queue.send(from(seq, from_node::Body::Page(page))).await;
    }
}

fn refuse(seq: u64, fenced: Fenced, reply: &Replies) {
    tracing::warn!("refused a leader's word: {}", fenced.reason);
    let body = family::Fenced { epoch_seen: fenced.epoch.0, reason: fenced.reason };
    reply.give(from(seq, from_node::Body::Fenced(body)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_that_has_no_place_ends_its_lane_and_keeps_nobody() {
        let (queue, mut read) = super::super::lane_queue();
        let replies = Replies { queue, broken: CancellationToken::new() };
        for seq in 0..crate::wire::LANE_FRAMES as u64 {
            replies.give(FromNode { seq, body: None });
        }
        assert!(!replies.broken.is_cancelled());
        replies.give(FromNode::default());
        assert!(replies.broken.is_cancelled());
        // Nor does its lane wait for a place with the writer.
        replies.unless_gone(std::future::pending::<()>()).await;
        assert_eq!(read.recv().await.map(|frame| frame.seq), Some(0));
    }
}
