//! Members that cannot note this leader, as their disks take nothing: they are read from, and count for nothing.
//!
//! After a restart such a one would have forgotten this leader, and could let the one before in. So it is none of those who
//! have joined, its beats are no answers, it is told nothing, and what it holds is not asked for: only the very version that
//! the index names is read there, and held against its checksum.

use std::sync::Arc;

use super::announced::{Refused, not_now, refuse};
use super::{Membership, REASON_CHARS, removed};
use crate::cluster::knowledge::Trust;
use crate::cluster::registry::{Stalled, Traits, Way};
use crate::cluster::state::Event;
use crate::error::printable;
use crate::leader::replication::{Dialled, Welcome};
use crate::seeded::{self, Bug};
use crate::types::{Fence, Member, Refusing};

impl Membership {
    /// A member that was dialled back and is who it says, and whose disk does not take that this leader leads.
    pub(super) async fn accept_to_read(
        self: &Arc<Self>,
        member: Member,
        dialled: Dialled,
        fence: Fence,
    ) -> Result<(), Refused> {
        let (coordinator, id) = (&self.coordinator, member.id);
        let Welcome { io_mode, layout, deadlines, incarnation, not_noted, .. } = dialled.welcome.clone();
        let not_noted = not_noted.unwrap_or_else(|| Refusing { full: false, why: String::new() });
        let why = Refusing { why: printable(not_noted.why.as_bytes(), REASON_CHARS), ..not_noted };
        let known = {
            let cluster = coordinator.cluster();
            // Without a log, or a place in it, there is nothing to read.
            let known = cluster.registry.get(id).filter(|_| cluster.trust() != Trust::Nothing);
            known.map(|node| node.member.clone()).filter(|known| known.uuid == member.uuid)
        };
        let Some(known) = known else {
            return not_now(format!(
                "the node cannot note this leader: {}; make room there, or make its disk writable",
                why.why
            ));
        };
        if known != member {
            let moved = coordinator.ledger().append(&[Event::Member(member.clone())]).await;
            moved.or_else(|error| not_now(error.to_string()))?;
        }
        let traits = Traits { io_mode, layout, deadlines };
        let before = self.incarnations.lock().insert(id, incarnation);
        {
            let now = coordinator.now();
            let mut cluster = coordinator.cluster();
            if cluster.is_removed(member.uuid) {
                return refuse(removed(&member));
            }
            if cluster.leadership() != Some(fence.leadership) {
                return not_now("the leader began a later epoch meanwhile");
            }
            if seeded::active(Bug::UnnotedCountsForLease) {
                cluster.registry.note_answered(id, coordinator.at(dialled.sent));
            }
            let same = before == Some(incarnation);
            let late = if same { cluster.registry.was_late(id) } else { Stalled::default() };
            coordinator.links.attach(id, dialled, true, late, self.clone());
            cluster.registry.join_to_read(id, fence.session, traits, why.clone(), now);
            if late.on(Way::Reads) {
                cluster.registry.note_stalled(id, fence.session, Way::Reads, true);
            }
            if seeded::active(Bug::UnnotedGreets) {
                cluster.greet();
            }
        }
        self.warn(format!(
            "node {id} only answers reads: its disk does not take that this leader leads ({}); it keeps no copies and does not count until it does",
            why.why
        ));
        coordinator.notify();
        Ok(())
    }
}
