//! What a caller of RegisterNode has to prove before it is a node, and what follows from whom that node has served.

use std::net::IpAddr;

use super::announced::{Announced, Known, Refused, not_now, refuse};
use super::{FOUNDING_GRACE, Membership, not_reached};
use crate::cluster::past::{Finding, Hearing};
use crate::seeded::{self, Bug};
use crate::types::{Leadership, Member, Uuid, Version};
use crate::wire::family::Pong;

impl Membership {
    /// Dials the announced address back, and hears from the node itself who it is and whom it has served. Until it has
    /// answered, the caller is nobody: nothing is believed, and nothing of a real node waits for it.
    pub(super) async fn ask_back(&self, announced: &Announced, caller: IpAddr) -> Result<Known, Refused> {
        if seeded::active(Bug::ClaimsBelieved) {
            return announced.check(&Pong::default());
        }
        let leadership = self.coordinator.cluster().leadership();
        leadership.map_or(Ok(()), |leadership| self.match_cluster(leadership, announced.claimed_cluster()))?;
        let member = &announced.member;
        let is_known = self.coordinator.cluster().registry.get(member.id).is_some_and(|node| node.member == *member);
        let Some(_dial) = self.dials.begin(caller, is_known.then_some(member.id)) else {
            return not_now("too many registrations are under way");
        };
        match self.coordinator.links.ask_who(member.id, &member.address).await {
            Ok(pong) => announced.check(&pong),
            Err(error) => not_now(not_reached(member, &error)),
        }
    }

    /// Founds a cluster, or takes up the node's, where this leader has none yet; the node has to be of the same one.
    pub(super) async fn found_or_match(&self, known: &Known) -> Result<(), Refused> {
        if known.cluster_id.is_none() && self.coordinator.cluster().leadership().is_none() {
            // A node of an older cluster may yet come, and then this new one joins that.
            tokio::time::sleep(FOUNDING_GRACE.saturating_sub(self.coordinator.now())).await;
        }
        let _one_at_a_time = self.founding.lock().await;
        let leadership = self.coordinator.cluster().leadership();
        let Some(leadership) = leadership else {
            if !known.past.can_found() {
                return refuse(format!(
                    "it says that it has seen epoch {} and a commit of epoch {}, which is beyond reason",
                    known.past.epoch,
                    known.past.committed.epoch()
                ));
            }
            let cluster_id = match known.cluster_id {
                Some(cluster_id) => cluster_id,
                None => Uuid::random(&mut self.chance.lock()),
            };
            return self.begin(cluster_id, known.past.epoch).await.or_else(not_now);
        };
        self.match_cluster(leadership, known.cluster_id)
    }

    /// A node of another cluster is refused, whoever says that it is one.
    fn match_cluster(&self, leadership: Leadership, theirs: Option<Uuid>) -> Result<(), Refused> {
        let ours = leadership.cluster_id;
        let Some(theirs) = theirs.filter(|theirs| *theirs != ours) else { return Ok(()) };
        let mut reason = format!(
            "its folder belongs to cluster {theirs}, and this leader leads cluster {ours}: start it with the leader of its cluster, or with an empty folder"
        );
        if self.coordinator.cluster().newest_committed() == Version::default() {
            // A leader that lost its folder, and met a new node before those that know.
            reason.push_str("; nothing was ever written to this leader's cluster: if it is the leader of the node's cluster and lost its folder, stop it, move its leader_metadata away, and start it with the nodes of that cluster first");
        }
        refuse(reason)
    }

    /// The reign that a node may join by what it says of whom it has served. A leader that nobody has believed yet, and
    /// whose log is an old one by that, begins a later epoch, and hears everyone first. One that has served goes on: if it
    /// was succeeded, the nodes that it leads say so.
    pub(super) async fn weigh(&self, member: &Member, known: &Known) -> Result<Leadership, Refused> {
        let _one_at_a_time = self.founding.lock().await;
        let past = known.past;
        let hearing = {
            let cluster = self.coordinator.cluster();
            let Some(leadership) = cluster.leadership() else { return not_now("the epoch is over already") };
            let run = cluster.state().runs().get(&past.epoch).copied();
            let is_member = cluster.registry.get(member.id).is_some_and(|node| node.member.uuid == member.uuid);
            let (trust, served) = (cluster.trust(), self.coordinator.has_served());
            Hearing { leadership, run, member: is_member, trust, served }
        };
        let (leadership, seen) = (hearing.leadership, past.epoch);
        let ours = leadership.epoch;
        match past.weigh(hearing) {
            Finding::Joins { heard: true } if !self.coordinator.cluster().hear_committed(past.committed) => {
                tracing::error!(
                    "node {} was told of version {}, later than anything in this leader's log: the log is an old copy; all nodes are heard before answers are given",
                    member.id,
                    past.committed
                );
                self.start_over(leadership, seen.max(ours)).await;
                not_now("the leader begins a later epoch")
            }
            Finding::Joins { .. } => Ok(leadership),
            Finding::Nonsense => refuse(format!(
                "it says that it has seen epoch {seen} and a commit of epoch {}, which is beyond reason for this leader's epoch {ours}: its folder is damaged, or it lies",
                past.committed.epoch()
            )),
            Finding::Stranger => not_now(format!(
                "it has served another leader up to epoch {seen}, this leader's epoch is {ours}, and its log does not name this node's folder: nothing of that is believed until a member says so too"
            )),
            // Among several leaders another one has most likely been elected, and this one hears that in a moment.
            Finding::Elsewhere if self.coordinator.ledger().is_of_group() => not_now(format!(
                "it has served another leader up to epoch {seen}, and this leader's epoch is {ours}: another leader has taken over, or its folder is a copy that was started elsewhere"
            )),
            Finding::Elsewhere => refuse(format!(
                "its folder has served another leader up to epoch {seen}, and this leader's epoch is {ours}: it is a copy that was started elsewhere, or another leader has taken over; start the node's own folder, or only that leader. If this leader was started from an old copy of its log, start it again: it then hears all nodes before it answers. If it is to go on without what this folder holds, REMOVE {} and start the node with an empty one",
                member.id
            )),
            Finding::OldLog => {
                tracing::warn!(
                    "node {} has seen epoch {seen}, later than this leader's log: it hears all nodes before it answers",
                    member.id
                );
                self.start_over(leadership, seen.max(ours)).await;
                not_now("the leader begins a later epoch")
            }
        }
    }
}
