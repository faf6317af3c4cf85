//! What clients are told of the group of leaders.
//!
//! Who has subscribed to `+switch-master` is told nothing by a leader: its connections end with its time as the leader, which
//! says as much. A word before that reaches ioredis while it connects anew, which it then gives up for good.

use std::net::SocketAddr;

use super::session::Session;
use crate::leader::sentinel::View;

impl Session {
    /// The group as this connection is told of it.
    pub(super) fn group(&self) -> View {
        let (settings, seat) = (&self.door.settings.sentinel, &self.taken.seat);
        match self.coordinator.ledger().group() {
            Some(group) => {
                let voters = group.leading().borrow().voters.len();
                let ports = (self.door.tls_port.filter(|_| seat.is_tls), seat.is_sentinel.then(|| seat.own.port()));
                View::of_group(settings, group.group(), group.status(), voters, ports)
            }
            None => {
                let epoch = self.coordinator.cluster().leadership().map_or(0, |leadership| leadership.epoch.0);
                let tls_port = self.door.tls_port.filter(|_| seat.is_tls);
                let own =
                    SocketAddr::new(seat.own.ip(), if seat.is_sentinel { self.door.port } else { seat.own.port() });
                View::of_one(settings, own, (epoch, self.door.run), tls_port)
            }
        }
    }
}
