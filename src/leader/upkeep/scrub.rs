//! Every copy of every message is read and checked: at once on VERIFY, and once a day in the background.
//!
//! The background pass is what finds bit rot in messages that nobody reads (Bairavasundaram et al., "An Analysis
//! of Data Corruption in the Storage Stack", FAST 2008). What either finds is noted, and repair makes it again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::mpsc;

use super::Upkeep;
use crate::cluster::mapping::SHARDS;
use crate::leader::batches::batches;
use crate::leader::coordinator::Coordinator;
use crate::protocol::{CopyFault, Finding, Verified};
use crate::types::{CopyRecord, Holders, MessageId, NodeId};
use crate::wire::family::CopyStatus;

/// The background pass over all copies takes so long.
const SCRUB_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// Messages checked at once.
const BATCH: usize = 256;

/// Messages that the background pass checks at once.
const SCRUB_BATCH: usize = 32;

/// Bytes of messages checked at once; one message at least.
const BATCH_BYTES: u64 = 4 << 20;

type Checked = (MessageId, CopyRecord, Holders);

impl Coordinator {
    /// Checks all copies now. Findings go to `findings` as they come; a client that goes ends it.
    pub async fn verify(&self, findings: mpsc::Sender<Finding>) -> Verified {
        let (mut verified, mut away) = (Verified::default(), BTreeMap::<NodeId, u64>::new());
        for part in 0..SHARDS {
            for some in batches(self.copies_of(part), BATCH, BATCH_BYTES, bytes_of) {
                for finding in self.check_messages(&some, &mut verified).await {
                    // One line tells of all the copies of such a node.
                    if let Finding::Away { node, copies } = finding {
                        *away.entry(node).or_default() += copies;
                    } else if findings.send(finding).await.is_err() {
                        return verified;
                    }
                }
            }
        }
        for (node, copies) in away {
            if findings.send(Finding::Away { node, copies }).await.is_err() {
                break;
            }
        }
        verified
    }

    /// The messages of one part of the index, with their holders.
    fn copies_of(&self, part: usize) -> Vec<Checked> {
        let (mut all, mut slice) = (Vec::new(), 0);
        // The lock is let go between two slices, so that no request waits for a whole part.
        while let Some(cluster) = Some(self.cluster()).filter(|cluster| slice < cluster.mapping().slices(part)) {
            let messages = cluster.mapping().slice(part, slice).filter(|(_, found)| !found.set.deleted);
            all.extend(messages.map(|(key, found)| (key.id(), found.record, found.set.holders.clone())));
            slice += 1;
        }
        all
    }

    async fn check_messages(&self, messages: &[Checked], verified: &mut Verified) -> Vec<Finding> {
        let mut by_node: BTreeMap<NodeId, Vec<(MessageId, CopyRecord)>> = BTreeMap::new();
        for (id, record, holders) in messages {
            for node in holders {
                by_node.entry(*node).or_default().push((id.clone(), *record));
            }
        }
        verified.messages += messages.len() as u64;
        let checked =
            by_node.iter().map(|(node, keys)| async move { (*node, keys, self.check_copies(*node, keys).await) });
        let mut findings = Vec::new();
        for (node, keys, statuses) in join_all(checked).await {
            let cluster = self.cluster();
            for ((id, record), status) in keys.iter().zip(statuses) {
                let fault = match status {
                    CopyStatus::CopyStored => {
                        verified.intact += 1;
                        continue;
                    }
                    CopyStatus::CopyAbsent => CopyFault::Missing,
                    CopyStatus::CopyDamaged => CopyFault::Damaged,
                    _ => CopyFault::Unknown,
                };
                // Overwritten, deleted or moved meanwhile: that copy is nobody's any more.
                if !cluster.is_holder(id, record.version, node) {
                    continue;
                }
                match fault {
                    CopyFault::Unknown => verified.unknown += 1,
                    _ => verified.bad += 1,
                }
                findings.push(match fault {
                    CopyFault::Unknown if !cluster.registry.is_linked(node) => Finding::Away { node, copies: 1 },
                    _ => Finding::Copy { id: id.clone(), node, fault, expires: record.expires },
                });
            }
        }
        findings
    }
}

/// Checks all copies again and again, each once in [`SCRUB_EVERY`].
pub(super) struct Scrubber {
    core: Arc<Coordinator>,
    /// The part of the index that comes next.
    part: usize,
    /// What is left of the part before.
    batches: std::vec::IntoIter<Vec<Checked>>,
    pause: Duration,
    verified: Verified,
}

impl Scrubber {
    /// It begins at `part`, so that a leader that is restarted often does not check the same ones each time.
    pub(super) fn new(core: Arc<Coordinator>, part: usize) -> Self {
        let (batches, verified) = (Vec::new().into_iter(), Verified::default());
        Self { core, part: part % SHARDS, batches, pause: Duration::ZERO, verified }
    }
}

impl Upkeep for Scrubber {
    const NAME: &'static str = "scrub";

    async fn step(&mut self) -> Duration {
        let Some(some) = self.batches.next() else {
            let batches = batches(self.core.copies_of(self.part), SCRUB_BATCH, BATCH_BYTES, bytes_of);
            self.pause = SCRUB_EVERY / SHARDS as u32 / (batches.len() as u32 + 1);
            self.part = (self.part + 1) % SHARDS;
            self.batches = batches.into_iter();
            return self.pause;
        };
        for finding in self.core.check_messages(&some, &mut self.verified).await {
            let Finding::Copy { id, node, fault, .. } = finding else { continue };
            if fault != CopyFault::Unknown {
                tracing::warn!("the daily check found the copy of {id:?} on node {node} {fault:?}");
            }
        }
        self.pause
    }
}

fn bytes_of((_, record, _): &Checked) -> u64 {
    u64::from(record.bytes())
}
