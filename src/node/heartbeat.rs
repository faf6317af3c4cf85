//! A node's word to its leader: register, then beat, for ever.
//!
//! A leader that cannot be reached is tried again with a growing pause, and
//! that is said once, not once a try.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::Node;
use crate::durable::executor::Executor;
use crate::durable::{Folder, Space};
use crate::stop::Stop;
use crate::types::{BEAT_EVERY, Uuid, Version};
use crate::wire::family::{HeartbeatRequest, NodeInfo, RegisterNodeRequest, RegisterNodeResponse};
use crate::wire::{FORMAT, LeaderPort, Network};

/// The pause after a first failed try; it doubles up to [`RETRY_MOST`].
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// Short enough that a restarted leader is found before its clients give up.
const RETRY_MOST: Duration = Duration::from_millis(400);
/// Registration includes the leader's dial back.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);
/// A beat that takes longer counts as lost.
const BEAT_TIMEOUT: Duration = Duration::from_secs(2);
/// A beat waits no longer for the disk: one that hangs makes the node late with its writes, and takes no reads from it.
const DISK_PATIENCE: Duration = BEAT_EVERY;

/// How it stands between the node and its leader.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Standing {
    /// The leader has accepted this node.
    pub registered: bool,
    /// Tries that failed since it last was, or since the start.
    pub failed_tries: u32,
    /// Round trip of the last beat.
    pub rtt: Option<Duration>,
}

/// What a node announces itself with.
#[derive(Debug, Clone)]
pub struct Announcement {
    /// The leader's address, or those of all that may lead.
    pub leaders: Vec<String>,
    /// Where the leader reaches this node.
    pub address: String,
    /// For the free space.
    pub folder: Arc<dyn Folder>,
}

/// Registers and beats until the node stops.
pub async fn run(
    node: Arc<Node>,
    announcement: Announcement,
    network: Arc<dyn Network>,
    mut chance: fastrand::Rng,
    standing: watch::Sender<Standing>,
    stop: Stop,
) {
    let mut pause = RETRY_FIRST;
    let mut said = BTreeSet::new();
    let aside = Aside::default();
    let (mut at, mut failed) = (0, 0);
    loop {
        let began = Instant::now();
        let leader = &announcement.leaders[at];
        let ended = session(&node, &announcement, leader, network.as_ref(), &aside, &standing, &stop).await;
        let (error, was_registered) = match ended {
            Ended::Stopped => return,
            Ended::Refused(reason) => {
                return stop.fail(format!("the leader at {leader} refuses this node: {reason}"));
            }
            Ended::Noted => {
                tracing::info!("the leader at {leader} is noted: this node registers anew, and counts from then on");
                standing.send_modify(|standing| standing.registered = false);
                continue;
            }
            Ended::Lost { error, was_registered } => (error, was_registered),
        };
        if was_registered || began.elapsed() > RETRY_MOST * 4 {
            pause = RETRY_FIRST;
        }
        if was_registered {
            tracing::warn!("lost the leader at {leader}: {error}; trying again");
            // Trying again fails for the same reason at first, which is no news.
            said = BTreeSet::from([error]);
            failed = 0;
        } else if !said.contains(&error) {
            tracing::warn!("cannot register with the leader at {leader}: {error}; trying again until it works");
            said.insert(error);
        }
        // Another one may lead: all are asked before there is a pause.
        at = (at + 1) % announcement.leaders.len();
        failed += 1;
        if failed % announcement.leaders.len() != 0 {
            standing.send_modify(|standing| standing.registered = false);
            continue;
        }
        standing.send_modify(|standing| {
            standing.registered = false;
            standing.failed_tries += 1;
        });
        // Spread by chance, so that nodes which lost their leader together do not return in step.
        let wait = pause.mul_f64(0.75 + chance.f64() / 2.0);
        pause = (pause * 2).min(RETRY_MOST);
        tokio::select! {
            biased;
            () = tokio::time::sleep(wait) => {}
            () = stop.requested() => return,
        }
    }
}

/// The disk work that goes with beats, one piece at a time: what a hung disk does not answer is left to itself.
#[derive(Default)]
struct Aside {
    busy: Arc<AtomicBool>,
}

impl Aside {
    /// Does a piece of work; nothing if it takes too long, or the piece before still does.
    async fn run<T: Send + 'static>(
        &self,
        executor: &Executor,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        if self.busy.swap(true, Ordering::AcqRel) {
            return None;
        }
        let busy = self.busy.clone();
        let work = move || {
            let done = work();
            busy.store(false, Ordering::Release);
            done
        };
        timeout(DISK_PATIENCE, executor.run(work)).await.ok()
    }
}

enum Ended {
    Stopped,
    Refused(String),
    /// The disk has taken the leader, which was let in to read.
    Noted,
    Lost {
        error: String,
        was_registered: bool,
    },
}

async fn session(
    node: &Arc<Node>,
    announcement: &Announcement,
    leader: &str,
    network: &dyn Network,
    aside: &Aside,
    standing: &watch::Sender<Standing>,
    stop: &Stop,
) -> Ended {
    let lost = |error: String, was_registered| Ended::Lost { error, was_registered };
    let mut port = match network.leader(leader.to_owned()).await {
        Ok(port) => port,
        Err(error) => return lost(error.to_string(), false),
    };
    match timeout(REGISTER_TIMEOUT, register(node, announcement, port.as_mut())).await {
        Ok(Ok(response)) if response.success => {}
        Ok(Ok(response)) if response.retry => return lost(response.error, false),
        Ok(Ok(response)) => return Ended::Refused(response.error),
        Ok(Err(error)) => return lost(error.to_string(), false),
        Err(_) => return lost("no answer to the registration".to_owned(), false),
    }
    tracing::info!("registered with the leader at {leader}");
    let serves = serves(node);
    standing.send_modify(|standing| *standing = Standing { registered: true, ..Standing::default() });
    let mut disk = Space::default();
    loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep(BEAT_EVERY) => {}
            () = stop.requested() => return Ended::Stopped,
        }
        if self::serves(node) != serves {
            return lost("another leader process has taken over".to_owned(), true);
        }
        if node.identity.reads_only().is_some() {
            let noting = node.clone();
            if aside.run(&node.executor, move || noting.notes_after_all()).await == Some(true) {
                return Ended::Noted;
            }
        }
        let totals = node.store.totals();
        let folder = announcement.folder.clone();
        if let Some(space) = aside.run(&node.executor, move || folder.space()).await {
            disk = space.unwrap_or_default();
        }
        *node.space.lock() = disk;
        let refusal = node.refusal();
        let full_from = refusal.as_ref().and_then(super::Refusal::full_from);
        let refusing = node.identity.reads_only().or(refusal.map(|refusal| refusal.refusing));
        let request = HeartbeatRequest {
            node_id: node.id.0,
            uuid: uuid_bytes(node.identity.get().uuid),
            incarnation: node.incarnation,
            bytes_stored: totals.bytes,
            bytes_free: disk.free,
            full: full_from.is_some(),
            disk_bytes: disk.size,
            files_free: disk.free_files,
            disk_files: disk.files,
            full_from: full_from.unwrap_or_default(),
            no_room: refusing.as_ref().is_some_and(|refusing| refusing.full),
            refuses: refusing.map_or_else(String::new, |refusing| refusing.why),
        };
        let sent = Instant::now();
        match timeout(BEAT_TIMEOUT, port.beat(request)).await {
            Ok(Ok(response)) if response.known => {
                standing.send_modify(|standing| standing.rtt = Some(sent.elapsed()));
                let (noting, committed) = (node.clone(), Version(response.committed));
                if !node.identity.is_noted() {
                    continue;
                }
                let noted = aside.run(&node.executor, move || noting.identity.note_committed(committed)).await;
                if let Some(Err(error)) = noted {
                    tracing::debug!("what is committed could not be noted: {error}");
                }
            }
            Ok(Ok(_)) => return lost("it does not know this node any more".to_owned(), true),
            Ok(Err(error)) => return lost(error.to_string(), true),
            Err(_) => return lost("no answer to a heartbeat".to_owned(), true),
        }
    }
}

/// The leader process that this node has let in last.
fn serves(node: &Node) -> Option<u64> {
    node.identity.get().seen.map(|(_, run)| run)
}

async fn register(
    node: &Node,
    announcement: &Announcement,
    port: &mut dyn LeaderPort,
) -> io::Result<RegisterNodeResponse> {
    let identity = node.identity.get();
    let info = NodeInfo { node_id: node.id.0 as i32, address: announcement.address.clone(), ..Default::default() };
    let request = RegisterNodeRequest {
        node_info: Some(info),
        format: FORMAT,
        uuid: uuid_bytes(identity.uuid),
        cluster_id: identity.seen.map_or_else(bytes::Bytes::new, |(leadership, _)| uuid_bytes(leadership.cluster_id)),
        incarnation: node.incarnation,
        epoch_seen: identity.seen.map_or(0, |(leadership, _)| leadership.epoch.0),
        run_seen: identity.seen.map_or(0, |(_, run)| run),
        committed: node.identity.committed().0,
    };
    port.register(request).await
}

fn uuid_bytes(uuid: Uuid) -> bytes::Bytes {
    uuid.0.to_vec().into()
}
