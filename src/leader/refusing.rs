//! Says of nodes that they have no room for copies, or refuse them.

use super::coordinator::Coordinator;
use crate::types::{NodeId, Refusing};

impl Coordinator {
    /// Why a node refuses copies, or that it takes them, as it says or as its answers show.
    pub(super) fn note_refusing(&self, node: NodeId, refusing: Option<Refusing>) {
        if !self.cluster().registry.note_refusing(node, refusing.clone()) {
            return;
        }
        // That a node has refused nothing for a while says little: STATUS and the metrics have what is now.
        let Some(Refusing { full, why }) = refusing else { return };
        let line = match full {
            true => format!("node {node} is full: {why}; copies that it has no room for go to other nodes"),
            false => format!("node {node} refuses copies: {why}; they go to other nodes"),
        };
        // A node that takes only what is small changes every few seconds.
        if let Some(unsaid) = self.said.lock().note(&line, self.now()) {
            tracing::warn!("{line}{unsaid}");
        }
    }
}
