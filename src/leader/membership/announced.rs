//! What a node says of itself when it wants to join, and how it is refused.

use std::net::SocketAddr;

use crate::cluster::past::Past;
use crate::seeded::{self, Bug};
use crate::types::{Epoch, Member, NodeId, Uuid, Version};
use crate::wire::FORMAT;
use crate::wire::family::{Pong, RegisterNodeRequest};

/// How a registration is refused.
pub(super) struct Refused {
    pub reason: String,
    /// Trying again may help.
    pub retry: bool,
}

pub(super) fn refuse<T>(reason: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { reason: reason.into(), retry: false })
}

pub(super) fn not_now<T>(reason: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { reason: reason.into(), retry: true })
}

/// A checked announcement. Whom to ask, and nothing else: what a caller says proves nothing.
pub(super) struct Announced {
    pub member: Member,
    pub incarnation: u64,
    /// What it says of its cluster: the word of whoever called.
    claim: Known,
}

/// What a node said of itself when it was asked at the address that was announced.
#[derive(Clone, Copy)]
pub(super) struct Known {
    pub cluster_id: Option<Uuid>,
    pub past: Past,
}

impl Announced {
    pub(super) fn read(request: RegisterNodeRequest) -> Result<Self, Refused> {
        if request.format > FORMAT {
            return refuse(format!(
                "it speaks format {}, this leader only {FORMAT}: upgrade the leader",
                request.format
            ));
        }
        let Some(info) = request.node_info else { return refuse("the announcement has no node_info") };
        if request.format == 0 {
            return refuse(
                "it is a node of the original register: run hatokuse node instead; it adopts the old folder's messages",
            );
        }
        let Some(uuid) = Uuid::from_bytes(&request.uuid) else {
            return refuse("the announcement has no uuid of 16 bytes");
        };
        let id = info.node_id as u32;
        if id == 0 {
            return refuse("a node's number is 1 to 4294967295");
        }
        if !is_address(&info.address) {
            return refuse(format!("{:?} is no HOST:PORT: check --advertise", info.address));
        }
        let cluster_id = match request.cluster_id.len() {
            0 => None,
            _ => match Uuid::from_bytes(&request.cluster_id) {
                None => return refuse("its cluster id has not 16 bytes"),
                some => some,
            },
        };
        let epoch = Epoch(request.epoch_seen);
        let past = Past { epoch, run: request.run_seen, committed: Version(request.committed) };
        Ok(Self {
            member: Member { id: NodeId(id), uuid, address: info.address },
            incarnation: request.incarnation,
            claim: Known { cluster_id, past },
        })
    }

    /// A member that the leader called by itself, and what it said.
    pub(super) fn called(member: Member, pong: &Pong) -> Self {
        let claim = Known { cluster_id: None, past: Past::default() };
        Self { member, incarnation: pong.incarnation, claim }
    }

    /// The cluster that it says it is of: enough to be refused, and for nothing else.
    pub(super) fn claimed_cluster(&self) -> Option<Uuid> {
        self.claim.cluster_id
    }

    /// Whether it is who it says, by what answered there.
    pub(super) fn check(&self, pong: &Pong) -> Result<Known, Refused> {
        let Member { id, uuid, address } = &self.member;
        if seeded::active(Bug::ClaimsBelieved) {
            return Ok(self.claim);
        }
        if pong.uuid.is_empty() && pong.incarnation == self.incarnation {
            // Of a version before this one. Its Welcome will name its folder, and it can wait for what the others know.
            return Ok(Known { cluster_id: self.claim.cluster_id, past: Past::default() });
        }
        if pong.node_id != id.0 {
            return not_now(format!(
                "the leader dialled {address} back: this is node {}, not node {id}; check --advertise: each node has an address of its own",
                pong.node_id
            ));
        }
        let is_it = (Uuid::from_bytes(&pong.uuid), pong.incarnation) == (Some(*uuid), self.incarnation);
        if !is_it && !seeded::active(Bug::DialBackNotCompared) {
            return refuse(format!(
                "another node answers at {address}; check --advertise: each node has an address of its own"
            ));
        }
        let past = Past { epoch: Epoch(pong.epoch_seen), run: pong.run_seen, committed: Version(pong.committed) };
        Ok(Known { cluster_id: Uuid::from_bytes(&pong.cluster_id), past })
    }
}

/// Whether this is `HOST:PORT`, of characters that can stand in a log line and in a URL.
fn is_address(text: &str) -> bool {
    let plain = |host: &str| host.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    let named =
        |(host, port): (&str, &str)| !host.is_empty() && plain(host) && port.parse::<u16>().is_ok_and(|port| port > 0);
    text.len() <= 255
        && (text.parse::<SocketAddr>().is_ok_and(|a| a.port() > 0) || text.rsplit_once(':').is_some_and(named))
}
