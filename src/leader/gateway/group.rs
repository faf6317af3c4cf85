//! What clients are told of the group of leaders, and when another one leads.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::timeout;

use super::session::Session;
use crate::leader::sentinel::View;
use crate::protocol::resp::Value;

/// How long who has subscribed waits, when this leader's time is over, for who leads next.
const NEXT: Duration = Duration::from_millis(500);

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

    /// What who has subscribed is told before this leader, whose time is over, closes the connection: who leads next, if
    /// that becomes known in a moment. A connection never outlives two leaders, so that nothing else is told. One that is
    /// stopped hands over when its connections have ended.
    pub(super) async fn next_leader(&self) -> Vec<Value> {
        if self.coordinator.stop.failure().is_none() {
            return Vec::new();
        }
        let (false, Some(group)) = (self.subscribed.is_empty(), self.coordinator.ledger().group()) else {
            return Vec::new();
        };
        let (me, mut standing) = (group.me(), group.leading());
        let next = standing.wait_for(|now| now.leader.as_ref().is_some_and(|(leader, _)| *leader != me));
        if !matches!(timeout(NEXT, next).await, Ok(Ok(_))) {
            return Vec::new();
        }
        self.group().switched_from(me).map_or_else(Vec::new, |said| self.subscribed.switched(&said))
    }
}
