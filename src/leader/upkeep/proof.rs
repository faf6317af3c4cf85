//! Messages that no holder has an intact copy of: a file that has their bytes is proven to be them.
//!
//! The log knows length and checksum of what is committed. A copy without its record (restored without attributes, put there
//! by hand) or with another one's (deduplicated) is that message if its content is; the node that has it looks itself, gives it its
//! record, and says so. Where nobody has the bytes nothing happens, and it is asked again later.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::FixedState;
use futures::future::join_all;
use tokio::time::timeout;

use crate::cluster::mapping::SHARDS;
use crate::leader::coordinator::Coordinator;
use crate::leader::key_locks::{Entry, KeyGuard};
use crate::types::{CopyRecord, Deadline, MessageId, NodeId, Payload};
use crate::wire::family::{self, CopyStatus};
use crate::wire::id_bytes;

/// Messages asked for at once, each time that it is looked.
const BATCH: usize = 256;

/// A node that does not answer by then is asked again.
const ANSWER: Duration = Duration::from_secs(5);

/// How far the looking is.
#[derive(Default)]
pub(super) struct Proofs {
    part: usize,
    /// Asked for in vain in this round.
    asked: HashSet<MessageId, FixedState>,
}

impl Proofs {
    /// Asks every node for some of the lost messages.
    pub(super) async fn ask_for_some(&mut self, core: &Arc<Coordinator>) {
        let mut lost: Vec<(MessageId, CopyRecord, KeyGuard)> = Vec::new();
        for _ in 0..SHARDS {
            let ids = core.cluster().lost(self.part, BATCH - lost.len(), &self.asked);
            for id in ids {
                self.asked.insert(id.clone());
                // Whoever writes it now ends its being lost.
                if let Entry::Entered(guard) = core.key_locks.enter(&id)
                    && let Some(record) = core.cluster().lost_record(&id)
                {
                    lost.push((id, record, guard));
                }
            }
            if lost.len() >= BATCH {
                break;
            }
            self.part = (self.part + 1) % SHARDS;
            if self.part == 0 {
                self.asked.clear();
            }
        }
        if lost.is_empty() {
            return;
        }
        let nodes: Vec<NodeId> = core.cluster().registry.linked().collect();
        let answers = nodes.iter().map(|&node| {
            let puts = lost.iter().map(|(id, record, _)| adopt(id, *record)).collect();
            let answer = timeout(ANSWER, core.links.store(node, puts));
            async move { (node, answer.await.ok().and_then(Result::ok).unwrap_or_default()) }
        });
        let mut proven = 0;
        for (node, answer) in join_all(answers).await {
            let mut cluster = core.cluster();
            for ((id, record, _), status) in lost.iter().zip(answer.statuses) {
                if CopyStatus::try_from(status) == Ok(CopyStatus::CopyStored) {
                    cluster.note_proven(id, record.version, node);
                    proven += 1;
                }
            }
        }
        if proven > 0 {
            tracing::info!(
                "{proven} copies of messages that were lost have the right bytes, and are given their records anew"
            );
        }
    }
}

fn adopt(id: &MessageId, record: CopyRecord) -> family::Put {
    family::Put {
        id: id_bytes(id),
        version: record.version.0,
        crc: record.crc,
        body: Payload::new(),
        adopt: true,
        length: record.length,
        deleted: false,
        expires: Deadline::number(record.expires),
    }
}
