//! What operators ask for: in the log before it is answered.

use std::sync::Arc;

use tokio::time::timeout;

use super::coordinator::{Coordinator, OUTCOME};
use super::set::not_in_time;
use crate::cluster::Cluster;
use crate::cluster::state::Event;
use crate::error::{Refusal, name_nodes};
use crate::protocol::{Command, Reply};
use crate::telemetry::served::Protocol;
use crate::types::NodeId;

impl Coordinator {
    /// Carries out what an operator asks for. It is in the log before it is answered, except for evening out,
    /// which ends with the leader.
    pub(super) async fn order(self: &Arc<Self>, command: Command, via: Protocol) -> Reply {
        if matches!(command, Command::SetFor { .. } | Command::Expire { .. } | Command::Ttl(_)) {
            return self.timed(command, via).await.unwrap_or_else(Reply::Refused);
        }
        let done = match command {
            Command::Drain(node) => self.drain(node, true).await,
            Command::Undrain(node) => self.drain(node, false).await,
            Command::Remove { node, force } => self.remove(node, force).await,
            Command::AcceptClock => self.accept_clock().await,
            Command::HandOver(to) => self.hand_over(to),
            Command::AddPeer { peer, address } => self.add_peer(peer, address).await,
            Command::RemovePeer(peer) => self.remove_peer(peer).await,
            Command::Rebalance(on) => {
                self.cluster().set_rebalancing(on);
                Ok(())
            }
            Command::Verify => {
                let text =
                    "VERIFY is answered with many lines, which are not to be had this way: use the text protocol";
                Err(Refusal::BadCommand(text.to_owned()))
            }
            other => Err(Refusal::BadCommand(format!("{other:?} is no order"))),
        };
        done.map_or_else(Reply::Refused, |()| Reply::Done)
    }

    async fn drain(self: &Arc<Self>, node: NodeId, on: bool) -> Result<(), Refusal> {
        {
            let cluster = self.cluster();
            let Some(member) = cluster.registry.get(node) else {
                return Err(no_member(&cluster, node));
            };
            let (need, live) = (cluster.tolerance(), cluster.left_without(node));
            if on && !member.draining && live < need {
                return Err(Refusal::TooFewNodes(format!(
                    "need {need} live nodes, and {live} would be left; nothing was changed, start more nodes and try again"
                )));
            }
            if member.draining == on {
                return Ok(());
            }
        }
        let leader = self.clone();
        // It is carried out even if its client has gone, or its answer comes too late.
        let order = self.tasks.spawn(async move {
            let logged = leader.ledger().append(&[Event::Draining { node, on }]).await;
            logged.map_err(|error| Refusal::Unknown(error.to_string()))?;
            match on {
                true => tracing::info!("node {node} is being drained: its copies move to others"),
                false => tracing::info!("node {node} takes copies again"),
            }
            Ok(())
        });
        match timeout(OUTCOME, order).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err(Refusal::Unknown("the leader failed while it wrote".to_owned())),
            Err(_) => Err(not_in_time()),
        }
    }
}

/// An order named a node that is none.
pub(super) fn no_member(cluster: &Cluster, node: NodeId) -> Refusal {
    let members: Vec<NodeId> = cluster.registry.nodes().iter().map(|node| node.member.id).collect();
    let known = if members.is_empty() { "none has joined".to_owned() } else { name_nodes(&members) };
    Refusal::BadCommand(format!("there is no node {node}; members: {known}"))
}
