//! The leaders of a register.

use std::fmt;
use std::time::Duration;

use super::{Labels, Page};
use crate::types::{ClusterView, GroupView, PeerRole, PeerView};

/// What every peer knows of itself.
pub(super) struct Own {
    pub(super) term: u64,
    pub(super) leads: bool,
    pub(super) last: Option<u64>,
    pub(super) committed: Option<u64>,
    pub(super) applied: Option<u64>,
    pub(super) disk_late: Duration,
}

impl Page<'_> {
    /// Of the peer that answers.
    pub(super) fn own(&mut self, own: &Own) -> fmt::Result {
        self.gauge("hatokuse_peer_term", "Term of this peer; 0 where there is one leader only", own.term as f64)?;
        let leads = f64::from(own.leads);
        self.gauge("hatokuse_peer_leads", "Whether the peer that answers leads (1) or not (0)", leads)?;
        for (name, help, index) in [
            ("hatokuse_peer_last_index", "The last entry in the log of the peer that answers", own.last),
            ("hatokuse_peer_committed_index", "The last one that it knows to be committed", own.committed),
            ("hatokuse_peer_applied_index", "The last one that it has applied", own.applied),
        ] {
            self.gauge(name, help, index.unwrap_or(0) as f64)?;
        }
        self.gauge(
            "hatokuse_peer_disk_late_seconds",
            "For how long the disk of its log has not answered, while it does not",
            own.disk_late.as_secs_f64(),
        )
    }

    /// How far peers are behind.
    pub(super) fn lags(&mut self, lags: impl IntoIterator<Item = (Labels, f64)>) -> fmt::Result {
        self.gauges("hatokuse_peer_lag_entries", "Entries of the log that a peer is not known to have", lags)
    }

    /// Of a leader that is the only one as well, as of peer 1 of one: a rate, or an alert, needs them to be there.
    pub(super) fn peers(&mut self, view: &ClusterView) -> fmt::Result {
        let group = view.group.clone().unwrap_or_else(alone);
        let count = |role| group.peers.iter().filter(|peer| peer.role == role).count() as f64;
        self.gauges(
            "hatokuse_peers",
            "Leader processes by role",
            PeerRole::ALL.map(|role| (vec![("role", role.to_string())], count(role))),
        )?;
        let GroupView { term, last, committed, applied, disk_late, .. } = group;
        self.own(&Own { term, leads: group.leader == Some(group.me), last, committed, applied, disk_late })?;
        let each = |value: &dyn Fn(&PeerView) -> Option<f64>| {
            let values =
                group.peers.iter().filter_map(|peer| Some((vec![("peer", peer.id.to_string())], value(peer)?)));
            values.collect::<Vec<_>>()
        };
        self.lags(each(&|peer: &PeerView| Some(group.behind(peer) as f64)))?;
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
    let (address, silent_ms) = (String::new(), Some(0));
    let peer = PeerView { id, address, role, matched: None, silent_ms, refuses: None, applied: None, led: None };
    GroupView { me: id, leader: Some(id), peers: vec![peer], ..GroupView::default() }
}
