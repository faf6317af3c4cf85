//! What a peer does beside the engine: it watches its own disk, says who leads, makes snapshots, and has the log know
//! which folder each peer has.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::{ChangeMembers, Instant as _, ServerState};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::group::{Inner, Reign, Standing};
use super::led::{Before, Look};
use super::silence::Silence;
use super::types::{Metrics, PeerId};
use super::{machine, removed};
use crate::seeded::{self, Bug};
use crate::stop::Stop;

/// How often the disk, and who was heard of, are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How often it is looked whether a snapshot is due.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(1);

/// How long after a snapshot that could not be made.
const SNAPSHOT_AGAIN: Duration = Duration::from_secs(30);

/// Bytes of entries that a snapshot has too and that stay, for peers that are a little behind.
const KEPT_BYTES: u64 = 8 << 20;

/// Starts the tasks. They end when the group is closed.
pub(super) fn start(inner: &Arc<Inner>, standing: watch::Sender<Standing>, stop: &Stop) {
    let until_closed = |work: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
        let closed = inner.closed.clone();
        async move {
            tokio::select! {
                biased;
                () = closed.cancelled() => {}
                () = work => {}
            }
        }
    };
    let watching = watch_it(inner.clone(), standing, stop.clone());
    tokio::spawn(stop.needed("raft-watch", until_closed(Box::pin(watching))));
    tokio::spawn(stop.needed("raft-snapshot", until_closed(Box::pin(make_snapshots(inner.clone())))));
    tokio::spawn(stop.needed("raft-removed", until_closed(Box::pin(removed::watch(inner.clone())))));
    tokio::spawn(stop.needed("raft-folders", until_closed(Box::pin(learn_folders(inner.clone())))));
}

/// Says who leads, and steps down over a disk that hangs. Nothing here waits for the disk or for the engine.
async fn watch_it(inner: Arc<Inner>, standing: watch::Sender<Standing>, stop: Stop) {
    let mut changes = inner.raft.metrics();
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut hung, mut before, mut seen) = (false, Before::default(), None);
    let mut told = false;
    let mut silence = Silence::new(inner.settings.election.1, inner.settings.step_down_after);
    loop {
        let (gone, is_due) = tokio::select! {
            biased;
            changed = changes.changed() => (changed.is_err(), false),
            _ = look.tick() => (false, true),
        };
        let metrics = {
            let metrics = changes.borrow_watched();
            let now = Some(decides(&metrics));
            if now == seen && !gone && !is_due {
                continue;
            }
            seen = now;
            metrics.clone()
        };
        let fatal = metrics.running_state.as_ref().err();
        // Nobody has closed it, or this task would have ended.
        if let Some(error) = fatal {
            stop.fail(format!("the log of the leaders has ended on this peer: {error}"));
        }
        let late = inner.pulse.late();
        let hangs = late >= inner.settings.step_down_after && !seeded::active(Bug::PeerHangsAndLeads);
        let is_silent = silence.look(metrics.state == ServerState::Leader, answered(&inner, &metrics));
        inner.raft.runtime_config().heartbeat(!hangs && !is_silent);
        if is_silent && !told {
            tracing::warn!(
                "most of the other leaders do not answer this one: it is silent, so that another one can be elected"
            );
        }
        told = is_silent || told && metrics.state == ServerState::Leader;
        if hangs != hung {
            hung = hangs;
            inner.raft.runtime_config().elect(!hangs);
            match hangs {
                true => tracing::error!(
                    "the disk of the log of the leaders has not answered for {:?}: this peer neither leads nor is elected until it does",
                    inner.settings.step_down_after
                ),
                false => tracing::info!("the disk of the log of the leaders answers again"),
            }
        }
        let now = stand(&inner, &metrics, hangs, gone || stop.failure().is_some());
        let look = Look { me: inner.settings.me, leader: metrics.current_leader, leads: now.leads, hangs };
        let is_silent = |peer: PeerId| {
            let (heard, _) = inner.identity.contact(peer);
            heard.is_none_or(|heard| heard.elapsed() >= inner.settings.election.0)
        };
        // Known before anybody can see that it leads.
        if let Some(led) = before.look(&look, || inner.identity.take_hand_over(), is_silent) {
            *inner.led.lock() = Some(led);
        }
        follow_reign(&inner, now.leads);
        standing.send_if_modified(|standing| {
            let is_new = *standing != now;
            *standing = now;
            is_new
        });
        if gone {
            return;
        }
    }
}

/// Ends what belongs to an earlier time as the leader, and begins the next.
fn follow_reign(inner: &Inner, leads: Option<u64>) {
    let mut reign = inner.reign.lock();
    if reign.as_ref().map(|reign| reign.term) == leads {
        return;
    }
    let next = leads.map(|term| Reign { term, over: CancellationToken::new() });
    if let Some(ended) = std::mem::replace(&mut *reign, next) {
        ended.over.cancel();
    }
}

/// The figures of which a change is looked at at once; they change several times an entry, and most by counting on.
fn decides(metrics: &Metrics) -> impl PartialEq + use<> {
    let applied = metrics.last_applied.map(|applied| applied.leader_id);
    let members = *metrics.membership_config.log_id();
    (metrics.state, metrics.vote, metrics.current_leader, applied, members, metrics.running_state.is_err())
}

/// When a majority has answered this peer last, while it leads.
fn answered(inner: &Inner, metrics: &Metrics) -> Option<Instant> {
    let is_alone = metrics.membership_config.voter_ids().all(|voter| voter == inner.settings.me);
    let ago = metrics.last_quorum_acked.map(|acked| acked.elapsed());
    if is_alone { Some(Instant::now()) } else { ago.and_then(|ago| Instant::now().checked_sub(ago)) }
}

fn stand(inner: &Inner, metrics: &Metrics, hangs: bool, gone: bool) -> Standing {
    let me = inner.settings.me;
    let lately = inner.settings.step_down_after;
    let heard =
        |peer: PeerId| peer == me || inner.identity.contact(peer).0.is_some_and(|heard| heard.elapsed() < lately);
    let members = metrics.membership_config.nodes().map(|(peer, _)| *peer);
    let reachable: BTreeSet<PeerId> = members.chain([me]).filter(|peer| heard(*peer)).collect();
    let voters: BTreeSet<PeerId> = metrics.membership_config.voter_ids().collect();
    let has_majority = answered(inner, metrics).is_some_and(|answered| answered.elapsed() < lately);
    let own_term = metrics.vote.leader_id;
    let is_ready = metrics.state == ServerState::Leader
        && metrics.vote.committed
        && own_term.node_id == me
        && metrics.last_applied.is_some_and(|applied| applied.leader_id == own_term);
    let leads = (is_ready && has_majority && !hangs && !gone).then_some(own_term.term);
    let known = match metrics.current_leader {
        // The engine waits for the disk, and knows nothing newer.
        _ if hangs => inner.identity.claimant().filter(|leader| *leader != me && reachable.contains(leader)),
        Some(leader) if leader == me => leads.map(|_| me),
        leader => leader.filter(|leader| reachable.contains(leader)),
    };
    let leader = known.map(|leader| (leader, inner.identity.addresses_of(leader)));
    Standing { leads, leader, reachable, voters, hangs }
}

/// Makes a snapshot whenever the log has grown enough, and then lets go of what it covers.
async fn make_snapshots(inner: Arc<Inner>) {
    let due = inner.settings.snapshot_log_bytes;
    loop {
        sleep(SNAPSHOT_EVERY).await;
        if inner.pulse.grown() < due {
            continue;
        }
        let (machine, log) = (inner.machine.clone(), inner.log.clone());
        match inner.machine.executor.run(move || machine::build(&machine, &log)).await {
            Ok(true) => shorten(&inner).await,
            Ok(false) => {}
            Err(error) => {
                tracing::error!("{error}; the log of the leaders stays as long as it is");
                sleep(SNAPSHOT_AGAIN).await;
            }
        }
    }
}

async fn shorten(inner: &Inner) {
    let Some(covered) = inner.machine.snapshots.current().map(|snapshot| snapshot.last) else { return };
    if inner.raft.trigger().snapshot().await.is_err() {
        return;
    }
    let mut changes = inner.raft.metrics();
    while changes.borrow_watched().snapshot < Some(covered) {
        if changes.changed().await.is_err() {
            return;
        }
    }
    let keep = KEPT_BYTES.min(inner.settings.snapshot_log_bytes / 8);
    if let Some(upto) = inner.log.purgeable(covered.index, keep as usize) {
        let _ = inner.raft.trigger().purge_log(upto).await;
    }
}

/// Writes into the log which folder each peer has, once it has said so to this one while it leads.
async fn learn_folders(inner: Arc<Inner>) {
    loop {
        sleep(LOOK_EVERY * 4).await;
        if inner.standing.borrow().leads.is_none() {
            continue;
        }
        let _turn = inner.changing.lock().await;
        let metrics = inner.raft.metrics().borrow_watched().clone();
        let members = metrics.membership_config.membership();
        let unlogged = inner.identity.unlogged(members);
        let is_member = members.get_node(&inner.settings.me).is_some();
        if unlogged.is_empty() || members.get_joint_config().len() != 1 || !is_member {
            continue;
        }
        let known: Vec<PeerId> = unlogged.keys().copied().collect();
        let change = inner.raft.change_membership(ChangeMembers::SetNodes(unlogged), true);
        match timeout(Duration::from_secs(5), change).await {
            Ok(Ok(_)) => known.iter().for_each(|peer| tracing::info!("peer {peer} is known by its folder")),
            Ok(Err(error)) => tracing::debug!("which folders the peers have is not in the log yet: {error}"),
            Err(_) => {}
        }
    }
}
