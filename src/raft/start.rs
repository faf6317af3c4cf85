//! How a peer comes up: its folder is read, made of one piece, and given to the engine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy, StepDownPolicy};
use tokio::runtime::{Builder, Handle};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::group::{Inner, Standing};
use super::identity::Identity;
use super::log::{self, Opened};
use super::machine::{AnyMachine, Applied, StateMachine};
use super::network::{Factory, PeerNetwork};
use super::port::Port;
use super::snapshot::Snapshots;
use super::{Raft, Runtime, Settings, removed, upkeep};
use crate::durable::Folder;
use crate::durable::executor::Executor;
use crate::lock::Lock;
use crate::seeded::{self, Bug};
use crate::stop::Stop;

/// Why a peer does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotOpened(pub String);

/// A folder, read and checked: log and snapshot are of one piece.
pub(super) struct Read {
    pub(super) opened: Opened,
    pub(super) identity: Arc<Identity>,
    pub(super) snapshots: Arc<Snapshots>,
}

/// Reads the folder. Blocks.
pub(super) fn read(settings: &Settings, folder: &Arc<dyn Folder>) -> Result<Read, String> {
    let names: Vec<String> =
        folder.list().map_err(|error| error.to_string())?.into_iter().map(|listed| listed.name).collect();
    let has = |name: &str| names.iter().any(|listed| listed == name);
    let has_state = has(log::LOG_FILE) || has(log::VOTE_FILE) || has(super::snapshot::FILE);
    let addresses = settings.addresses.clone();
    let identity = Arc::new(Identity::open(folder.clone(), settings.me, addresses, has_state)?);
    let mut opened = log::open(folder, &settings.boot)?;
    let (snapshots, bad) = Snapshots::open(folder.clone()).map_err(|error| error.to_string())?;
    if let Err(error) = bad {
        if opened.memory.purged.is_some() {
            return Err(format!(
                "{error}, and the log begins behind it: nothing was changed; restore the file, or let this peer go and add a new one"
            ));
        }
        tracing::warn!("{error}; the log has all that was in it, and it is not needed");
        snapshots.set_aside().map_err(|error| error.to_string())?;
    }
    match snapshots.current() {
        Some(snapshot) => {
            identity.note(snapshot.members.membership());
            let last = snapshot.last;
            let memory = &opened.memory;
            let fits = memory.purged == Some(last)
                || (memory.purged <= Some(last) && memory.get(last.index).is_some_and(|entry| entry.log_id == last));
            if memory.purged > Some(last) {
                return Err("the log begins behind the snapshot: entries between them are missing; let this peer go and add a new one".to_owned());
            }
            if !fits {
                opened.begin_behind(last)?;
            }
        }
        None if opened.memory.purged.is_some() => {
            return Err("the log begins behind a snapshot, which is missing: restore the file, or let this peer go and add a new one".to_owned());
        }
        None => {}
    }
    for members in opened.memberships() {
        identity.note(members);
    }
    Ok(Read { opened, identity, snapshots: Arc::new(snapshots) })
}

/// Gives the machine what the snapshot says. Blocks.
fn restore(snapshots: &Snapshots, machine: &dyn AnyMachine) -> Result<Applied, String> {
    let Some(snapshot) = snapshots.current() else { return Ok(Applied::default()) };
    let taken = machine.restore(&mut snapshot.records());
    taken.map_err(|error| format!("reading the snapshot failed: {error}"))?;
    Ok(Applied::of(&snapshot))
}

/// Opens a peer's folder and starts its tasks.
pub(super) async fn start(
    settings: Settings,
    folder: Arc<dyn Folder>,
    machine: Arc<dyn AnyMachine>,
    network: Arc<dyn PeerNetwork>,
    stop: Stop,
) -> Result<Arc<Inner>, NotOpened> {
    match settings.runtime.clone() {
        Runtime::Current(executor) => run(settings, folder, machine, network, stop, executor).await,
        Runtime::Own => {
            let (done, answer) = oneshot::channel();
            let work = move || {
                let runtime = match Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(done.send(Err(NotOpened(format!("no runtime: {error}"))))),
                };
                runtime.block_on(async move {
                    let executor = Executor::Threads(Handle::current());
                    let inner = run(settings, folder, machine, network, stop, executor).await;
                    let closed = inner.as_ref().ok().map(|inner| inner.ended.clone());
                    let _ = done.send(inner);
                    if let Some(closed) = closed {
                        closed.cancelled().await;
                    }
                });
                // A call to a disk that hangs must not keep the process.
                runtime.shutdown_background();
            };
            let thread = std::thread::Builder::new().name("raft".to_owned()).spawn(work);
            thread.map_err(|error| NotOpened(format!("no thread: {error}")))?;
            answer.await.unwrap_or_else(|_| Err(NotOpened("its thread has ended".to_owned())))
        }
    }
}

async fn run(
    settings: Settings,
    folder: Arc<dyn Folder>,
    machine: Arc<dyn AnyMachine>,
    network: Arc<dyn PeerNetwork>,
    stop: Stop,
    executor: Executor,
) -> Result<Arc<Inner>, NotOpened> {
    let reading = {
        let settings = settings.clone();
        move || {
            let read = read(&settings, &folder)?;
            if read.identity.is_removed() {
                return Err(removed::END.to_owned());
            }
            if !settings.recovers {
                let forgotten = read.identity.forget_alone();
                forgotten.map_err(|error| format!("writing whose the folder is failed: {error}"))?;
            }
            let applied = restore(&read.snapshots, &*machine)?;
            Ok((read, machine, applied))
        }
    };
    let read = executor.run(reading).await.map_err(NotOpened)?;
    let (Read { opened, identity, snapshots }, machine, applied) = read;
    let started = opened.start(identity.clone(), &executor, &stop);
    let (log, pulse) = started.map_err(|error| NotOpened(format!("no thread: {error}")))?;
    let machine = StateMachine {
        machine,
        applied: Arc::new(Lock::new(applied)),
        snapshots,
        executor: executor.clone(),
        stop: stop.clone(),
    };
    let factory = Factory { network: network.clone(), identity: identity.clone(), executor };
    let config = config(&settings).map_err(NotOpened)?;
    let raft = Raft::new(settings.me, Arc::new(config), factory, log.clone(), machine.clone()).await;
    let raft = raft.map_err(|error| NotOpened(error.to_string()))?;
    let (standing, seen) = watch::channel(Standing::default());
    let port = Port {
        raft: raft.clone(),
        identity: identity.clone(),
        log: log.clone(),
        machine: machine.clone(),
        incoming: Arc::default(),
        closed: CancellationToken::new(),
    };
    let (closed, ended, removed) = (port.closed.clone(), CancellationToken::new(), CancellationToken::new());
    let inner = Arc::new(Inner {
        settings,
        raft,
        identity,
        log,
        machine,
        network,
        pulse,
        standing: seen,
        reign: Lock::default(),
        led: Lock::default(),
        port,
        runtime: Handle::current(),
        changing: tokio::sync::Mutex::default(),
        removed,
        closed,
        ended,
    });
    upkeep::start(&inner, standing, &stop);
    Ok(inner)
}

fn config(settings: &Settings) -> Result<Config, String> {
    let millis = |duration: Duration| duration.as_millis() as u64;
    let config = Config {
        cluster_name: "leaders".to_owned(),
        heartbeat_interval: millis(settings.heartbeat),
        election_timeout_min: millis(settings.election.0),
        election_timeout_max: millis(settings.election.1),
        install_snapshot_timeout: millis(settings.snapshot_timeout),
        max_payload_entries: 512,
        snapshot_policy: SnapshotPolicy::Never,
        // What is let go of goes by bytes: see `upkeep`.
        max_in_snapshot_log_to_keep: u64::MAX,
        enable_pre_vote: Some(true),
        // At a founding, and after a start, the others are there in a moment.
        backoff: "20ms,40ms,80ms..500ms".to_owned(),
        // One that was removed hands over by itself: see `Group::remove`. This is for where it cannot.
        removed_leader_step_down: StepDownPolicy::After(millis(removed::LEADS_ON)),
        // A leader sends entries before its own disk has them. One that comes back having lost them must not go on in
        // its old term, where it would give their places to others.
        enable_leader_restore: Some(seeded::active(Bug::PeerGoesOnInItsTerm)),
        ..Config::default()
    };
    config.validate().map_err(|error| format!("the timers of the leaders do not go together: {error}"))
}

/// Where each peer is reached, as members of the log.
pub(super) fn members(identity: &Identity, peers: BTreeMap<u64, String>) -> BTreeMap<u64, super::types::Member> {
    let member = |(peer, address)| {
        let folder = (peer == identity.me).then_some(identity.folder);
        (peer, super::types::Member { address, folder })
    };
    peers.into_iter().map(member).collect()
}
