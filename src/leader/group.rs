//! What operators see of the group of leaders, and what they have it do.
//!
//! An order is looked at before anything is done: what the group could not do, or would not survive, is refused, and
//! nothing was changed. What was begun goes on without its client, and until this peer's time as the leader ends.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::coordinator::{Coordinator, OUTCOME};
use super::ledger::Replica;
use crate::error::Refusal;
use crate::protocol::Reply;
use crate::raft::{Group, NotDone, PeerStatus, Role, Status};
use crate::types::{GroupView, LedView, PeerId, PeerRole, PeerView};

/// Who is to lead next may be so many entries behind; it gets them before it is elected.
const MOST_BEHIND: u64 = 1000;

/// The answer to HANDOVER has so long to leave: with this peer's time as the leader its connections end.
const ANSWER: Duration = Duration::from_millis(100);

impl From<Role> for PeerRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Leader => Self::Leader,
            Role::Standby => Self::Standby,
            Role::Learner => Self::Learner,
            Role::Unreachable => Self::Unreachable,
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The group, as it is shown.
fn view(status: Status) -> GroupView {
    let Status { me, term, last, committed, applied, disk_late, led, peers, removed, .. } = status;
    let led = led.map(|led| LedView { leads_since_ms: millis(led.since.elapsed()), why: led.why });
    let peer = |PeerStatus { id, address, role, matched, silent_for, refuses, .. }: PeerStatus| PeerView {
        id,
        address,
        role: role.into(),
        matched,
        silent_ms: silent_for.map(millis),
        refuses,
        applied: applied.filter(|_| id == me),
        led: led.clone().filter(|_| id == me),
    };
    let mut peers: Vec<PeerView> = peers.into_iter().map(peer).collect();
    peers.sort_by_key(|peer| peer.id);
    let leader = peers.iter().find(|peer| peer.role == PeerRole::Leader).map(|peer| peer.id);
    GroupView { me, term, leader, last, committed, applied, disk_late, peers, removed }
}

fn alone() -> Refusal {
    Refusal::BadCommand("this register has one leader, and no group of them (leader --peers)".to_owned())
}

fn unchanged(why: impl std::fmt::Display) -> Refusal {
    Refusal::Unavailable(format!("{why}; nothing was changed"))
}

fn no_peer(group: &GroupView, peer: PeerId) -> Refusal {
    let all: Vec<String> = group.peers.iter().map(|peer| peer.id.to_string()).collect();
    Refusal::BadCommand(format!("there is no peer {peer}; peers: {}", all.join(", ")))
}

/// Why a peer cannot lead next.
fn unready(group: &GroupView, peer: &PeerView) -> Option<String> {
    let id = peer.id;
    let behind = group.behind(peer);
    match (&peer.refuses, peer.role) {
        (_, PeerRole::Unreachable) => Some(format!("peer {id} cannot be reached")),
        (Some(why), _) => Some(format!("peer {id} takes no part: {why}")),
        (None, PeerRole::Learner) => Some(format!("peer {id} has no vote yet")),
        (None, PeerRole::Standby) if behind > MOST_BEHIND => Some(format!("peer {id} is {behind} entries behind")),
        (None, PeerRole::Standby | PeerRole::Leader) => None,
    }
}

/// Who is to lead next: this one, or, of those that could, the one that has most of the log.
fn successor(group: &GroupView, to: Option<PeerId>) -> Result<PeerId, Refusal> {
    if group.leader != Some(group.me) {
        return Err(unchanged("this peer does not lead any more"));
    }
    if to == Some(group.me) {
        return Err(Refusal::BadCommand(format!("peer {} leads already", group.me)));
    }
    if let Some(to) = to {
        let peer = group.peers.iter().find(|peer| peer.id == to).ok_or_else(|| no_peer(group, to))?;
        return unready(group, peer).map_or(Ok(to), |why| Err(unchanged(why)));
    }
    let others = || group.peers.iter().filter(|peer| peer.id != group.me);
    let ready = others().filter(|peer| unready(group, peer).is_none());
    // The first of those that have as much.
    let best = ready.max_by_key(|peer| (peer.matched, std::cmp::Reverse(peer.id)));
    best.map(|peer| peer.id).ok_or_else(|| {
        let why: Vec<String> = others().filter_map(|peer| unready(group, peer)).collect();
        unchanged(if why.is_empty() { "there is no other peer".to_owned() } else { why.join(", ") })
    })
}

/// Whether a peer may be added that is reached there.
fn may_add(group: &GroupView, voters: &BTreeSet<PeerId>, peer: PeerId, address: &str) -> Result<(), Refusal> {
    let bad = |why: String| Err(Refusal::BadCommand(why));
    if voters.contains(&peer) {
        return bad(format!("there is a peer {peer} already"));
    }
    if group.removed.contains(&peer) {
        let used: BTreeSet<PeerId> = group.peers.iter().map(|known| known.id).chain(group.removed.clone()).collect();
        let free = used.last().map_or(1, |last| last.saturating_add(1));
        return bad(format!(
            "peer {peer} was removed, and its number is not used again: take another one, as {free}, with an empty folder"
        ));
    }
    if let Some(known) = group.peers.iter().find(|known| known.id == peer && known.address != address) {
        return bad(format!("peer {peer} was added as {}: PEER REMOVE {peer}, and add another number", known.address));
    }
    match group.peers.iter().find(|known| known.id != peer && known.address == address) {
        Some(known) => bad(format!("{address} is where peer {} is", known.id)),
        None => Ok(()),
    }
}

/// Whether a peer may be removed: most of those that stay have to be there, or nothing could be agreed on any more. Of the
/// one that leads: who is to lead then.
fn may_remove(group: &GroupView, voters: &BTreeSet<PeerId>, peer: PeerId) -> Result<Option<PeerId>, Refusal> {
    if group.removed.contains(&peer) {
        return Err(Refusal::BadCommand(format!("peer {peer} was removed already")));
    }
    if !group.peers.iter().any(|known| known.id == peer) {
        return Err(no_peer(group, peer));
    }
    if voters.iter().all(|voter| *voter == peer) {
        return Err(Refusal::BadCommand(format!(
            "peer {peer} is the only one that has a vote, and a group has at least one: PEER ADD another one first"
        )));
    }
    let is_here = |peer: &&PeerView| peer.role != PeerRole::Unreachable && peer.refuses.is_none();
    let stays = |id: PeerId| id != peer && voters.contains(&id);
    let stay = voters.iter().filter(|id| stays(**id)).count();
    let here = group.peers.iter().filter(|peer| stays(peer.id)).filter(is_here).count();
    if voters.contains(&peer) && here < stay / 2 + 1 {
        let why = format!("of the {stay} peers that would stay {here} can be reached, which is no majority");
        return Err(unchanged(why));
    }
    (peer == group.me).then(|| successor(group, None)).transpose()
}

/// What so many leaders do not bear, where that is less than one might think.
pub(super) fn frail(leaders: usize) -> Option<String> {
    match leaders {
        1 => Some("with one leader nobody takes over while it is down".to_owned()),
        _ if leaders.is_multiple_of(2) => Some(format!(
            "with {leaders} leaders as few may fail as with {}: {} of them have to be up for any to lead",
            leaders - 1,
            leaders / 2 + 1
        )),
        _ => None,
    }
}

impl Coordinator {
    fn group(&self) -> Result<&Group<Replica>, Refusal> {
        self.ledger().group().ok_or_else(alone)
    }

    /// The group of leaders, if there are several.
    pub fn peers(&self) -> Option<GroupView> {
        self.ledger().group().map(|group| view(group.status()))
    }

    /// The answer to PEERS.
    pub(super) fn tell_peers(&self) -> Reply {
        let json = |peers| Reply::Status(serde_json::to_string(&peers).unwrap_or_default());
        self.peers().map_or_else(|| Reply::Refused(alone()), json)
    }

    /// Lets another peer lead. That it can is found out before the answer, and it is begun after it: when it is done, there
    /// is nobody any more who could answer.
    pub(super) fn hand_over(self: &Arc<Self>, to: Option<PeerId>) -> Result<(), Refusal> {
        let group = self.group()?.clone();
        let to = successor(&view(group.status()), to)?;
        self.have_lead(group, to);
        Ok(())
    }

    /// Lets this peer lead, when an answer that is due now has left.
    fn have_lead(self: &Arc<Self>, group: Group<Replica>, to: PeerId) {
        let leader = self.clone();
        tracing::info!("peer {to} is to lead, by order");
        self.tasks.spawn(async move {
            if leader.stop.unless(sleep(ANSWER)).await.is_none() {
                return;
            }
            // So that the next one goes on from there. Where it cannot be noted, it cannot be handed over either.
            let _ = leader.note_time(true).await;
            match group.hand_over(Some(to)).await {
                Ok(leader) => tracing::info!("peer {leader} leads"),
                Err(why) => tracing::warn!("peer {to} was to lead, by order, and does not: {why}"),
            }
        });
    }

    /// Takes a peer into the group. It votes as soon as it has nearly all of the log, which may take longer than the answer.
    pub(super) async fn add_peer(self: &Arc<Self>, peer: PeerId, address: String) -> Result<(), Refusal> {
        let group = self.group()?.clone();
        let voters = group.leading().borrow().voters.clone();
        may_add(&view(group.status()), &voters, peer, &address)?;
        let late = format!(
            "peer {peer} does not have the log within {} s; it goes on, PEERS says how far it is, and the same order may be given again",
            OUTCOME.as_secs()
        );
        self.change(late, format!("peer {peer} was added, by order"), async move { group.add(peer, address).await })
            .await
    }

    /// Takes a peer off the group. The one that leads does it with itself as well: it leads until the answer has left, and
    /// lets another one lead then, so that clients wait no longer than for any hand-over.
    pub(super) async fn remove_peer(self: &Arc<Self>, peer: PeerId) -> Result<(), Refusal> {
        let group = self.group()?.clone();
        let voters = group.leading().borrow().voters.clone();
        let next = may_remove(&view(group.status()), &voters, peer)?;
        let late = format!("the group has not agreed on it within {} s; PEERS says what it is", OUTCOME.as_secs());
        let frail = voters.contains(&peer).then(|| frail(voters.len() - 1)).flatten();
        let leader = self.clone();
        let remove = async move {
            group.remove(peer).await?;
            frail.into_iter().for_each(|what| tracing::warn!("{what}"));
            next.into_iter().for_each(|next| leader.have_lead(group.clone(), next));
            Ok(())
        };
        self.change(late, format!("peer {peer} was removed, by order"), remove).await
    }

    /// Carries out a change of the group, to its end even if its client has gone; not beyond this peer's time as the leader.
    async fn change(
        self: &Arc<Self>,
        late: String,
        done: String,
        work: impl Future<Output = Result<(), NotDone>> + Send + 'static,
    ) -> Result<(), Refusal> {
        let stop = self.stop.clone();
        let order = self.tasks.spawn(async move {
            let ended = || Refusal::Unknown("the leader ends; PEERS says what the group is".to_owned());
            let worked = stop.unless(work).await.ok_or_else(ended)?;
            worked.map_err(|why| Refusal::Unknown(format!("{why}; PEERS says what the group is")))?;
            tracing::info!("{done}");
            Ok(())
        });
        match timeout(OUTCOME, order).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err(Refusal::Unknown("the leader failed while it changed the group".to_owned())),
            Err(_) => Err(Refusal::Unknown(late)),
        }
    }
}

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;
