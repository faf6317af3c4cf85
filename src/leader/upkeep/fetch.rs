//! Messages that are to go to other nodes are read from those that hold them.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::timeout;

use crate::cluster::Cluster;
use crate::leader::batches::batches;
use crate::leader::coordinator::Coordinator;
use crate::leader::write::{Outcome, Write};
use crate::types::{CopyRecord, MessageId, NodeId, Nodes, Payload, Version};
use crate::wire::family::CopyStatus;

/// Messages asked for at once.
const BATCH: usize = 1024;

/// A copy that does not come by then is asked for again later.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of messages that are asked for together, but for one that is larger: a slow link brings them in that time.
const FETCH_BYTES: u64 = 1 << 20;

/// A message that a write needs.
pub(super) struct Fetch {
    /// The place of the write among those that are told.
    pub write: usize,
    /// The version that the sources have it by.
    pub version: Version,
    /// Whom to ask, best first.
    pub sources: Nodes,
}

impl Coordinator {
    /// Gets messages for writes that bring them to other nodes. A source that cannot tell is passed over for the next. A
    /// write whose message does not come fails; `none_here` hears of those that a node surely has no whole copy of.
    pub(super) async fn fetch_bodies(
        &self,
        mut wanted: Vec<Fetch>,
        writes: &mut [Write],
        none_here: impl Fn(&mut Cluster, &MessageId, Version, NodeId),
    ) {
        for turn in 0.. {
            let mut by_source: BTreeMap<NodeId, Vec<Fetch>> = BTreeMap::new();
            for fetch in wanted.drain(..) {
                match fetch.sources.get(turn) {
                    Some(&source) => by_source.entry(source).or_default().push(fetch),
                    // Without the message there is nothing to send: leave it for another look.
                    None => writes[fetch.write].outcome = Outcome::Failed,
                }
            }
            if by_source.is_empty() {
                return;
            }
            for (source, fetches) in by_source {
                let keys = fetches.iter().map(|fetch| {
                    let ticket = writes[fetch.write].promise.ticket();
                    (ticket.id.clone(), CopyRecord { version: fetch.version, ..ticket.record })
                });
                let keys: Vec<_> = keys.collect();
                for ((fetch, (id, _)), body) in fetches.into_iter().zip(&keys).zip(self.fetch(source, &keys).await) {
                    match body {
                        Ok(body) => writes[fetch.write].payload = body,
                        Err(false) => wanted.push(fetch),
                        Err(true) => {
                            // It may have been counted on: another look does without it.
                            writes[fetch.write].outcome = Outcome::Failed;
                            none_here(&mut self.cluster(), id, fetch.version, source);
                        }
                    }
                }
            }
        }
    }

    /// Reads copies from one node; for each its content, or whether the node surely has no such copy that is whole. Of as
    /// many bytes at a time as come in time; a node that did not answer is not asked for the rest.
    async fn fetch(&self, source: NodeId, keys: &[(MessageId, CopyRecord)]) -> Vec<Result<Payload, bool>> {
        let mut all = Vec::with_capacity(keys.len());
        for some in batches(keys.iter().cloned(), BATCH, FETCH_BYTES, |(_, record)| record.bytes().into()) {
            match self.fetch_some(source, &some).await {
                Some(bodies) => all.extend(bodies),
                None => break,
            }
        }
        all.resize(keys.len(), Err(false));
        all
    }

    /// As [`fetch`](Self::fetch), in one frame; nothing: no answer came.
    async fn fetch_some(&self, source: NodeId, keys: &[(MessageId, CopyRecord)]) -> Option<Vec<Result<Payload, bool>>> {
        let answer = timeout(FETCH_TIMEOUT, self.links.fetch(source, keys)).await.ok()?.ok()?;
        let mut bodies = answer.bodies.into_iter();
        let each = keys.iter().enumerate().map(|(k, (_, record))| {
            match answer.statuses.get(k).and_then(|&status| CopyStatus::try_from(status).ok()) {
                Some(CopyStatus::CopyStored) => match bodies.next() {
                    Some(body) if record.matches(&body) => Ok(body),
                    _ => Err(false),
                },
                status => Err(matches!(status, Some(CopyStatus::CopyAbsent | CopyStatus::CopyDamaged))),
            }
        });
        Some(each.collect())
    }
}
