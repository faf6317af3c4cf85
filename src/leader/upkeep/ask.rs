//! Asks a node what it has of copies that it was, or may have been, told to store.

use std::time::Duration;

use tokio::time::timeout;

use crate::cluster::intents::Kept;
use crate::leader::coordinator::Coordinator;
use crate::types::{CopyRecord, MessageId, NodeId};
use crate::wire::family::CopyStatus;

/// A node that does not answer by then is asked again.
const ANSWER: Duration = Duration::from_secs(2);

impl Coordinator {
    /// What a node has of each of these, of those that it says something of; nothing, if it does not answer.
    pub(super) async fn ask_kept(
        &self,
        node: NodeId,
        copies: Vec<(MessageId, CopyRecord)>,
    ) -> impl Iterator<Item = (MessageId, CopyRecord, Kept)> + use<> {
        // Nothing to do, behind all that the node was told before: what it has not written by then it never will, and what
        // it has is synced.
        let written = timeout(ANSWER, self.links.settle(node, &[], false)).await;
        let statuses = match written {
            Ok(Ok(_)) => {
                let answer = timeout(ANSWER, self.links.check(node, &copies)).await.ok().and_then(Result::ok);
                answer.unwrap_or_default().statuses
            }
            _ => Vec::new(),
        };
        let known = |((id, record), status)| {
            let kept = match CopyStatus::try_from(status) {
                Ok(CopyStatus::CopyStored) => Kept::Here,
                Ok(CopyStatus::CopyAbsent) => Kept::Absent,
                Ok(CopyStatus::CopyDamaged) => Kept::Damaged,
                _ => return None,
            };
            Some((id, record, kept))
        };
        copies.into_iter().zip(statuses).filter_map(known)
    }
}
