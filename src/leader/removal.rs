//! A member is taken off the list: in the log first, then here, and then every other member remembers it.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use super::coordinator::Coordinator;
use super::journal::NotLogged;
use super::ledger::{Effect, Logged};
use super::orders::no_member;
use super::replication::Links;
use crate::cluster::Cluster;
use crate::cluster::removal::NotRemovable;
use crate::cluster::state::Event;
use crate::error::Refusal;
use crate::types::{NodeId, Removed};

/// Writes that may have chosen the member before are waited for so long.
const UNDER_WAY: Duration = Duration::from_secs(5);

/// How often it is looked whether they are over.
const LOOK: Duration = Duration::from_millis(10);

/// The answer waits so long for the other members: what they know counts only where the leader loses its log.
const TOLD: Duration = Duration::from_secs(2);

/// A member on which nothing is placed any more; it stays after all, unless it is removed before this is dropped.
struct Leaving {
    coordinator: Arc<Coordinator>,
    node: NodeId,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.coordinator.cluster().keep_member(self.node);
    }
}

/// Members that are none any more as soon as the log says so.
struct Leave {
    links: Arc<Links>,
    removed: Vec<Removed>,
}

impl Effect for Leave {
    type Output = ();

    fn apply(self, cluster: &mut Cluster, logged: Logged<'_>) {
        let is_it =
            |removed: &&Removed| cluster.registry.get(removed.id).is_some_and(|node| node.member.uuid == removed.uuid);
        let leaving: Vec<NodeId> = self.removed.iter().filter(is_it).map(|removed| removed.id).collect();
        logged.apply(cluster);
        // Under the lock: the number may belong to another folder a moment later.
        leaving.into_iter().for_each(|node| self.links.cut(node));
    }
}

impl Coordinator {
    /// Takes a member off the list for good. A client that goes away does not stop it half way, where the log says so
    /// and the leader does not know. `given_up`: it is gone for good, and what only it had with it.
    pub(super) async fn remove(self: &Arc<Self>, node: NodeId, given_up: bool) -> Result<(), Refusal> {
        let ended = || Refusal::Unknown("the leader stops".to_owned());
        self.tasks.spawn(self.clone().remove_whole(node, given_up)).await.map_err(|_| ended())?
    }

    async fn remove_whole(self: Arc<Self>, node: NodeId, given_up: bool) -> Result<(), Refusal> {
        let refused = |why| self.not_removable(why);
        if given_up && self.cluster().give_up_stranger(node) {
            tracing::warn!("node {node}, which never joined this leader, is given up by order: nobody waits for it");
            self.heard_enough();
            return Ok(());
        }
        let before = self.cluster().begin_removal(node, given_up);
        let before = before.map_err(refused)?;
        let leaving = Leaving { coordinator: self.clone(), node };
        let until = Instant::now() + UNDER_WAY;
        while self.cluster().any_under_way(&before) {
            if Instant::now() >= until {
                return Err(Refusal::Busy("writes are under way that may have chosen this node"));
            }
            sleep(LOOK).await;
        }
        let removed = self.cluster().end_removal(node, given_up);
        let removed = removed.map_err(refused)?;
        let alone = self.cluster().only_on(node);
        let logged = self.let_go(vec![removed]).await;
        logged.map_err(|error| Refusal::Unknown(error.to_string()))?;
        drop(leaving);
        tracing::info!(
            node.id = node.0,
            "node {node} was removed: its folder (uuid {}) is not let in any more",
            removed.uuid
        );
        if given_up {
            tracing::warn!(
                "node {node} was given up by order: {alone} messages and deletions had no other copy that can be read now, and what only it knew of is lost"
            );
            self.heard_enough();
        }
        self.inform_of_removed(TOLD).await;
        Ok(())
    }

    /// One less is waited for: what was heard may suffice now.
    fn heard_enough(self: &Arc<Self>) {
        let mut cluster = self.cluster();
        cluster.without_given_up();
        if cluster.settle_knowledge() {
            self.tell_all(&cluster);
        }
        drop(cluster);
        self.notify();
    }

    fn not_removable(&self, why: NotRemovable) -> Refusal {
        match why {
            NotRemovable::NoMember(node) => no_member(&self.cluster(), node),
            NotRemovable::InUse(_) => Refusal::BadCommand(why.to_string()),
            NotRemovable::TooFewLeft { need, left } => Refusal::TooFewNodes(format!(
                "need {need} live nodes, and {left} would be left; nothing was changed, start more nodes and try again"
            )),
            NotRemovable::NotYet(_)
            | NotRemovable::Holds { .. }
            | NotRemovable::Found { .. }
            | NotRemovable::Answers(_)
            | NotRemovable::Listing(_) => Refusal::Unavailable(why.to_string()),
        }
    }

    /// Has the log say that they are no members any more.
    async fn let_go(&self, removed: Vec<Removed>) -> Result<(), NotLogged> {
        let events: Vec<Event> = removed.iter().copied().map(Event::Removed).collect();
        let leave = Leave { links: self.links.clone(), removed };
        self.ledger().append_with(&events, leave).await.map_err(|(error, _)| error)?;
        self.notify();
        Ok(())
    }

    /// A node that joins knows of members that were removed: an older log, or none, does not.
    pub(super) async fn learn_removed(self: &Arc<Self>, told: &[Removed]) -> Result<(), NotLogged> {
        let known = self.cluster().removed();
        let news: Vec<Removed> = told.iter().filter(|removed| !known.contains(removed)).copied().collect();
        if news.is_empty() {
            return Ok(());
        }
        let leader = self.clone();
        // To its end, even if the node goes away: the log and the leader say the same.
        let learnt = self.tasks.spawn(async move {
            leader.let_go(news.clone()).await?;
            for removed in news {
                tracing::warn!("node {} was removed by a leader with a later log than this one's", removed.id);
            }
            Ok(())
        });
        learnt.await.map_err(|_| NotLogged("the leader stops".to_owned()))?
    }

    /// Tells who was removed, where a member may not know it, and waits that long for the answers; `true`: some
    /// member that is here does not say that it keeps that.
    pub(super) async fn inform_of_removed(&self, patience: Duration) -> bool {
        let (asked, count) = {
            let cluster = self.cluster();
            let uninformed = cluster.uninformed();
            let here = uninformed.iter().any(|node| cluster.registry.is_linked(*node));
            if !here || !cluster.is_settled() {
                return false;
            }
            (self.tell_members(&cluster), cluster.removed().len())
        };
        let answers = asked.into_iter().map(|(node, answer)| async move {
            let kept = timeout(patience, answer).await.is_ok_and(|answer| answer == Ok(true));
            (node, kept)
        });
        let answers = join_all(answers).await;
        let mut cluster = self.cluster();
        for (node, _) in answers.into_iter().filter(|(_, kept)| *kept) {
            cluster.note_informed(node, count);
        }
        cluster.uninformed().iter().any(|node| cluster.registry.is_linked(*node))
    }
}
