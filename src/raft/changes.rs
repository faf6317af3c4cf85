//! Peers come and go, one change at a time, by joint consensus; and another one leads, by order.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, ServerState};
use tokio::sync::MutexGuard;
use tokio::time::{Instant, sleep, timeout};

use super::group::{Group, NotDone, matched};
use super::removed;
use super::types::{Member, PeerId};

/// How often it is looked whether a peer that is added has been reached.
const LOOK: Duration = Duration::from_millis(20);

/// How long handing over may take.
const HAND_OVER: Duration = Duration::from_secs(3);

/// How often it is looked whether a change has got around in this process.
const TOLD: Duration = Duration::from_millis(1);

/// A peer that is added and refuses for so long will not think better of it.
const REFUSED: Duration = Duration::from_secs(2);

impl<M> Group<M> {
    /// Adds a peer of a number that was never used: without a vote until it has nearly all of the log, then with one.
    /// Only who leads can. To give up waiting leaves it where it is.
    pub async fn add(&self, peer: PeerId, address: String) -> Result<(), NotDone> {
        tokio::select! {
            biased;
            added = self.add_unless_refused(peer, address) => added,
            why = self.refused(peer) => Err(NotDone(format!(
                "peer {peer} takes no part: {why}; it stays without a vote until it does, or PEER REMOVE {peer}"
            ))),
        }
    }

    /// Why a peer refuses to take part, once it has gone on to for a while.
    async fn refused(&self, peer: PeerId) -> String {
        let mut since = None;
        loop {
            sleep(LOOK).await;
            match self.inner.identity.contact(peer).1 {
                Some(why) if since.get_or_insert_with(Instant::now).elapsed() > REFUSED => return why,
                Some(_) => {}
                None => since = None,
            }
        }
    }

    async fn add_unless_refused(&self, peer: PeerId, address: String) -> Result<(), NotDone> {
        let metrics = self.metrics();
        if metrics.membership_config.voter_ids().any(|voter| voter == peer) {
            return Err(NotDone(format!("there is a peer {peer} already")));
        }
        if self.inner.machine.applied.lock().removed.contains(&peer) {
            return Err(NotDone(format!("peer {peer} was removed, and its number is not used again")));
        }
        let failed = |error: RaftError<_, ClientWriteError<_>>| NotDone(error.to_string());
        let turn = self.turn().await?;
        let member = match metrics.membership_config.get_node(&peer) {
            Some(known) if known.address == address => known.clone(),
            Some(_) => return Err(NotDone(format!("there is a peer {peer} already, with another address"))),
            None => Member { address, folder: None },
        };
        let added = self.inner.raft.add_learner(peer, member, true).await.map_err(failed)?;
        drop(turn);
        // While the log is short the engine takes one for up to date that it has never reached: its vote would be missing.
        loop {
            let now = self.metrics();
            if now.state != ServerState::Leader || now.membership_config.get_node(&peer).is_none() {
                return Err(NotDone(format!("peer {peer} was not reached while this peer led; it has no vote")));
            }
            if matched(&now, peer) >= Some(added.log_id.index) {
                break;
            }
            sleep(LOOK).await;
        }
        let _turn = self.turn().await?;
        let voters = ChangeMembers::AddVoterIds(BTreeSet::from([peer]));
        self.inner.raft.change_membership(voters, true).await.map(drop).map_err(failed)
    }

    /// Removes a peer for good. Only who leads can, and itself too: it leads on for a moment when the others have agreed
    /// on it, in which it is to hand over ([`Group::hand_over`]), and takes no part after that.
    pub async fn remove(&self, peer: PeerId) -> Result<(), NotDone> {
        let failed = |error: RaftError<_, ClientWriteError<_>>| NotDone(error.to_string());
        let _turn = self.turn().await?;
        let metrics = self.metrics();
        if metrics.membership_config.get_node(&peer).is_none() {
            return Err(NotDone(format!("there is no peer {peer}")));
        }
        if metrics.membership_config.voter_ids().all(|voter| voter == peer) {
            return Err(NotDone(format!("peer {peer} is the only one that has a vote")));
        }
        let one = BTreeSet::from([peer]);
        let change = match metrics.membership_config.voter_ids().any(|voter| voter == peer) {
            true => ChangeMembers::RemoveVoters(one),
            false => ChangeMembers::RemoveNodes(one),
        };
        self.inner.raft.change_membership(change, false).await.map_err(failed)?;
        // Whose turn comes next has to see it.
        while self.metrics().membership_config.get_node(&peer).is_some() {
            sleep(TOLD).await;
        }
        Ok(())
    }

    /// Lets another peer lead: this one, or the one that has most of the log. Who leads then; of a peer that was removed: who
    /// was told to, and has all that it needs for it.
    pub async fn hand_over(&self, to: Option<PeerId>) -> Result<PeerId, NotDone> {
        let metrics = self.metrics();
        let me = self.inner.settings.me;
        if metrics.state != ServerState::Leader {
            return Err(NotDone("this peer does not lead".to_owned()));
        }
        let matched = |peer: &PeerId| matched(&metrics, *peer);
        let reachable = self.leading().borrow().reachable.clone();
        let voters: Vec<PeerId> = metrics.membership_config.voter_ids().filter(|voter| *voter != me).collect();
        let best = || voters.iter().copied().filter(|voter| reachable.contains(voter)).max_by_key(matched);
        let to = to.or_else(best).ok_or_else(|| NotDone("no other peer can be reached".to_owned()))?;
        if !voters.contains(&to) {
            return Err(NotDone(format!("peer {to} has no vote, or leads already")));
        }
        let failed = |error: openraft::errors::Fatal<_>| NotDone(error.to_string());
        let is_removed = metrics.membership_config.get_node(&me).is_none();
        let trigger = self.inner.raft.trigger();
        let handed = async {
            trigger.transfer_leader(to).await.map_err(failed)?;
            loop {
                let now = self.metrics();
                match now.current_leader {
                    Some(leader) if leader != me => return Ok(leader),
                    // It is asked for no vote, and would not see that another one leads.
                    _ if is_removed && removed::has_handed_over(&now, to) => {
                        let seen = (Some(now.vote), *now.membership_config.log_id());
                        trigger.refresh_server_state(seen.0, seen.1).await.map_err(failed)?;
                        return Ok(to);
                    }
                    _ => sleep(Duration::from_millis(5)).await,
                }
            }
        };
        timeout(HAND_OVER, handed)
            .await
            .unwrap_or_else(|_| Err(NotDone(format!("peer {to} has not taken over in time"))))
    }

    /// The right to change who the peers are, which a leader that was removed has no more.
    async fn turn(&self) -> Result<MutexGuard<'_, ()>, NotDone> {
        let turn = self.inner.changing.lock().await;
        match self.metrics().membership_config.get_node(&self.inner.settings.me) {
            Some(_) => Ok(turn),
            None => Err(NotDone("this peer was removed, and another one is about to lead".to_owned())),
        }
    }
}
