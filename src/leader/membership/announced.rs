//! What a node says of itself when it wants to join, and how it is refused.

use std::net::SocketAddr;

use crate::cluster::registry::Member;
use crate::types::{Epoch, NodeId, Uuid, Version};
use crate::wire::FORMAT;
use crate::wire::family::RegisterNodeRequest;

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

/// A checked announcement.
pub(super) struct Announced {
    pub member: Member,
    pub cluster_id: Option<Uuid>,
    pub incarnation: u64,
    pub epoch_seen: Epoch,
    pub run_seen: u64,
    pub committed: Version,
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
        Ok(Self {
            member: Member { id: NodeId(id), uuid, address: info.address },
            cluster_id,
            incarnation: request.incarnation,
            epoch_seen: Epoch(request.epoch_seen),
            run_seen: request.run_seen,
            committed: Version(request.committed),
        })
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
