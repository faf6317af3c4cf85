//! What a peer says of the others: who leads, who is out of reach, and what its own list does not know.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::Peers;
use crate::leader::ledger::Replica;
use crate::raft::Group;
use crate::stop::Stop;

/// Who is not heard of for so long after all is said is said to be out of reach.
const OUT_OF_REACH: Duration = Duration::from_millis(500);

/// Says who leads, who cannot be reached, and who can be again; and where the group knows its peers otherwise than
/// `--peers` says.
pub(super) async fn watch_others(group: Group<Replica>, peers: Peers, stop: Stop) {
    let mut standing = group.leading();
    let (mut silent, mut missed) = (BTreeSet::new(), BTreeMap::new());
    let (mut leads, mut compared) = (None, false);
    let say = async {
        loop {
            {
                // Not held: what is asked of the group meanwhile looks at it too, and its writer would stand between.
                let now = standing.borrow_and_update().clone();
                let leader = now.leader.as_ref().map(|(leader, _)| *leader);
                if leader.is_some_and(|leader| leads != Some(leader) && leader != peers.me) {
                    tracing::info!("peer {} leads", leader.unwrap_or_default());
                }
                leads = leader.or(leads);
                if !compared && !now.voters.is_empty() {
                    compared = true;
                    compare(&group, &peers);
                }
                missed.retain(|peer, _| now.voters.contains(peer) && !now.reachable.contains(peer));
                for peer in now.voters.difference(&now.reachable) {
                    let since = missed.entry(*peer).or_insert_with(Instant::now);
                    if since.elapsed() >= OUT_OF_REACH && silent.insert(*peer) {
                        let at = peers.all.get(peer).map_or("", String::as_str);
                        tracing::warn!("peer {peer} cannot be reached ({at})");
                    }
                }
                for peer in silent.extract_if(.., |peer| !missed.contains_key(peer)) {
                    tracing::info!("peer {peer} can be reached again");
                }
            }
            tokio::select! {
                changed = standing.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(OUT_OF_REACH) => {}
            }
        }
    };
    stop.unless(say).await;
}

/// Says where the list differs from what the group knows.
fn compare(group: &Group<Replica>, peers: &Peers) {
    for known in group.status().peers {
        match peers.all.get(&known.id) {
            Some(address) if *address != known.address => tracing::warn!(
                "--peers says that peer {} is reached at {address}, and the group knows it at {}, where it is called",
                known.id,
                known.address
            ),
            Some(_) => {}
            None => {
                tracing::warn!("--peers does not name peer {}, which the group knows at {}", known.id, known.address)
            }
        }
    }
}
