//! The leaders of a register.

use std::fmt;

use super::Page;
use crate::types::{ClusterView, GroupView, PeerRole, PeerView};

impl Page<'_> {
    /// Of a leader that is the only one as well, as of peer 1 of one: a rate, or an alert, needs them to be there.
    pub(super) fn peers(&mut self, view: &ClusterView) -> fmt::Result {
        let group = view.group.clone().unwrap_or_else(alone);
        let count = |role| group.peers.iter().filter(|peer| peer.role == role).count() as f64;
        self.gauges(
            "hatokuse_peers",
            "Leader processes by role",
            PeerRole::ALL.map(|role| (vec![("role", role.to_string())], count(role))),
        )?;
        self.gauge("hatokuse_peer_term", "Term of this leader; 0 where it is the only one", group.term as f64)?;
        let leads = f64::from(group.leader == Some(group.me));
        self.gauge("hatokuse_peer_leads", "Whether the peer that answers leads (1) or not (0)", leads)?;
        let each = |value: &dyn Fn(&PeerView) -> Option<f64>| {
            let values =
                group.peers.iter().filter_map(|peer| Some((vec![("peer", peer.id.to_string())], value(peer)?)));
            values.collect::<Vec<_>>()
        };
        self.gauges(
            "hatokuse_peer_lag_entries",
            "Entries of the log that a peer is not known to have",
            each(&|peer: &PeerView| Some(group.behind(peer) as f64)),
        )?;
        self.gauges(
            "hatokuse_peer_silent_seconds",
            "Time since a peer was heard of; none while it never was",
            each(&|peer: &PeerView| peer.silent_ms.map(|silent| silent as f64 / 1e3)),
        )
    }
}

/// A leader that is the only one.
fn alone() -> GroupView {
    let (id, role) = (1, PeerRole::Leader);
    let peer = PeerView { id, address: String::new(), role, matched: None, silent_ms: Some(0), refuses: None };
    GroupView { me: id, term: 0, leader: Some(id), last: None, committed: None, applied: None, peers: vec![peer] }
}
