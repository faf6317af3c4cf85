//! Says of nodes that they have no room for copies or refuse them, and that they take them again.

use super::coordinator::Coordinator;
use crate::types::{NodeId, Refusing};

impl Coordinator {
    /// Why a node refuses copies, or that it takes them, as it says or as its answers show.
    pub(super) fn note_refusing(&self, node: NodeId, refusing: Option<Refusing>) {
        if !self.cluster().registry.note_refusing(node, refusing.clone()) {
            return;
        }
        let line = match &refusing {
            Some(Refusing { full: true, why }) => {
                format!("node {node} is full: {why}; copies that it has no room for go to other nodes")
            }
            Some(Refusing { full: false, why }) => format!("node {node} refuses copies: {why}; they go to other nodes"),
            None => format!("node {node} takes copies again"),
        };
        // A node that takes only what is small changes every few seconds.
        let unsaid = self.said.lock().note(&line, self.now());
        match (unsaid, refusing) {
            (Some(unsaid), Some(_)) => tracing::warn!("{line}{unsaid}"),
            (Some(unsaid), None) => tracing::info!("{line}{unsaid}"),
            (None, _) => {}
        }
    }
}
