//! The leader: takes SET and GET, places messages on nodes, and keeps the log of what is true.
//!
//! `process` puts the parts together; `coordinator` takes what clients ask; `set` and `transaction` are the story of a
//! write; the rest carry them out. Disk, network, time and chance come in through `durable::Disk`, `wire::Network`,
//! tokio's clock and a seeded generator, so that all but `process`, `gateway`, `http` and `service` can run in a
//! simulation as they are.

pub mod coordinator;
pub mod gateway;
pub mod http;
pub mod journal;
pub mod key_locks;
pub mod known;
pub mod ledger;
pub mod membership;
pub mod peer;
pub mod process;
pub mod replication;
pub mod report;
pub mod service;
pub mod shares;
pub mod tolerance;
pub mod transaction;
pub mod users;
pub mod view;

mod backup;
mod batches;
mod cache;
mod expiry;
mod group;
mod heavy;
mod inventories;
mod jobs;
mod orders;
mod query;
mod read;
mod redirect;
mod refusing;
mod register_time;
mod relay;
mod relayed;
mod removal;
mod rounds;
mod sentinel;
mod set;
mod upkeep;
mod write;

pub use self::sentinel::{Settings as SentinelSettings, Standby};
pub use upkeep::renewal::VERSIONS_AN_EPOCH;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::cache::MessageCache;
use self::coordinator::Coordinator;
use self::journal::{Journal, Recovered, Rewriting};
use self::known::Known;
use self::ledger::{Agreed, Begins, Ledger, Log, Replica};
use self::membership::Membership;
use self::register_time::{RegisterTime, Then};
use self::replication::Links;
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::cluster::knowledge::Trust;
use crate::cluster::state::Event;
use crate::config::DEFAULT_TOLERANCE;
use crate::durable::executor::Executor;
use crate::durable::{Disk, Folder, Listed};
use crate::raft::Group;
use crate::stop::Stop;
use crate::types::{IoMode, NodeId};
use crate::wire::Network;

/// The folder of the log and its view.
pub const METADATA_FOLDER: &str = "leader_metadata";

/// In it, what a peer keeps of the log that several leaders agree on.
pub const GROUP_FOLDER: &str = "group";

/// The lock that keeps a second leader out of it.
const LOCK_FILE: &str = ".lock";

/// At a stop, steps of repair and the like that are under way have this long to end: most of a drain is left to clients.
const LAST_STEPS: Duration = Duration::from_secs(2);

/// Where a leader meets the world.
#[derive(Debug)]
pub struct Seams {
    /// The machine's disks.
    pub disk: Arc<dyn Disk>,
    /// The way to nodes.
    pub network: Arc<dyn Network>,
    /// Where disk work is done.
    pub executor: Executor,
    /// All chance comes from here.
    pub chance: fastrand::Rng,
    /// The machine's wall clock.
    pub clock: Arc<dyn Clock>,
}

/// Where a leader has its log.
#[derive(Debug)]
pub enum Source {
    /// In a file of its own.
    File,
    /// Several leaders agree on it, and this one was elected.
    Group(Group<Replica>, Arc<Replica>),
}

/// What a leader is told by its operator.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Copies a message; nothing: as many as the log says that there were last.
    pub tolerance: Option<usize>,
    /// How safe the log is when a write is answered.
    pub io_mode: IoMode,
    /// A node that is down for this long is missing: its copies are made again.
    pub repair_after: Duration,
    /// Copies are evened out by themselves when one node has held far less than its share for as long.
    pub auto_rebalance: bool,
    /// Bytes of recent messages that are kept in memory; 0: none.
    pub cache_bytes: u64,
    /// Of the messages that are taken, in bytes: a cache has room for it.
    pub largest_message: usize,
    /// Bytes from which on the log is rewritten while the leader runs.
    pub rewrite_log_from: u64,
    /// Versions after which the next epoch begins: [`VERSIONS_AN_EPOCH`], but in tests.
    pub versions_an_epoch: u32,
}

/// A leader that has read its log and serves.
#[derive(Debug)]
pub struct Leader {
    /// For clients.
    pub coordinator: Arc<Coordinator>,
    /// For nodes.
    pub membership: Arc<Membership>,
    /// The tolerance that the log noted last, if it did.
    pub last_tolerance: Option<usize>,
    /// What goes on by itself, beside clients.
    upkeep: TaskTracker,
    finish_view: CancellationToken,
    view_done: tokio::sync::oneshot::Receiver<()>,
    _lock: Option<FolderLock>,
}

/// Why a leader could not start.
#[derive(Debug, thiserror::Error)]
pub enum CannotStart {
    /// Another leader uses the folder.
    #[error("{0} is in use by another leader: stop that one, or give this one another --data-dir")]
    Locked(String),
    /// The folder cannot be used.
    #[error("cannot use {0}: {1}; check that the folder can be written and the disk is not full")]
    Folder(String, #[source] io::Error),
    /// It is one of several.
    #[error(
        "{0} is that of one of several leaders: start it with --peer and --peers, or, if it is the last one of them and is to be the only leader, with --leave-group"
    )]
    OfPeer(String),
    /// The log cannot be used.
    #[error("{0}")]
    Log(#[from] crate::durable::record_log::LogError),
    /// The first record could not be written.
    #[error("{0}")]
    Begin(String),
}

impl Leader {
    /// Opens the folder, reads the log, begins an epoch, and starts everything but listeners.
    pub async fn start(
        data_dir: &Path,
        settings: Settings,
        mut seams: Seams,
        stop: Stop,
        source: Source,
    ) -> Result<Self, CannotStart> {
        let path = data_dir.join(METADATA_FOLDER);
        let shown = path.display().to_string();
        let read = match source {
            Source::File => read_file(path, &settings, &mut seams, &stop).await?,
            Source::Group(group, replica) => {
                let folder = seams.disk.folder(&path).map_err(|error| CannotStart::Folder(shown.clone(), error))?;
                let start = (seams.disk.boot_id(), seams.chance.u64(..));
                let agreed = Agreed::new(group, replica.clone(), stop.clone());
                let imported = ledger::import(&agreed, &replica, &folder, start, &seams.executor);
                imported.await.map_err(CannotStart::Begin)?;
                let known = replica.lead(|begins| {
                    let mut cluster = settings.cluster(begins);
                    cluster.rely_on_group();
                    Arc::new(Known::new(cluster))
                });
                let (log, clock) = (Log::Group(agreed), replica.time());
                Read { folder, lock: None, known, log, clock, hold_view: false }
            }
        };
        let is_elected = matches!(read.log, Log::Group(_));
        let Read { folder, lock, known, log, clock, hold_view } = read;
        let (mark, last_tolerance, last) = {
            let cluster = known.lock();
            (cluster.state().time(), cluster.state().tolerance(), cluster.state().last())
        };
        let time = RegisterTime::new(seams.clock, mark, clock);
        let ledger = Ledger::new(known.clone(), log);
        let links = Arc::new(Links::new(seams.network, stop.clone()));
        let cache = MessageCache::new(settings.cache_bytes, settings.largest_message);
        let changes = Arc::new(view::Changes::default());
        let coordinator = Arc::new(Coordinator::new(known, links, ledger, cache, changes.clone(), time, stop.clone()));
        let membership = Membership::new(coordinator.clone(), seams.chance.fork());
        let membership = Arc::new(membership);
        membership.resume(last).await.map_err(CannotStart::Begin)?;
        if is_elected {
            membership.summon();
        }
        let last_tolerance = note_tolerance(&coordinator, last_tolerance).await;
        let finish_view = CancellationToken::new();
        let (done, view_done) = tokio::sync::oneshot::channel();
        let view = view::keep(folder, coordinator.clone(), changes, finish_view.clone(), hold_view);
        let view = async move {
            view.await;
            let _ = done.send(());
        };
        seams.executor.spawn("view", stop.needed("view", view)).map_err(|error| CannotStart::Folder(shown, error))?;
        let part = seams.chance.usize(..);
        let upkeep = upkeep::start(&coordinator, &membership, settings.versions_an_epoch, part);
        Ok(Self { coordinator, membership, last_tolerance, upkeep, finish_view, view_done, _lock: lock })
    }

    /// Finishes what clients asked for. The stop must have been requested.
    pub async fn drain(&self) {
        self.coordinator.tasks.close();
        self.coordinator.tasks.wait().await;
    }

    /// Finishes what was admitted, and closes the log. The stop must have been requested.
    pub async fn close(self) {
        self.drain().await;
        // What they commit has to be in the log before its end, and in the view.
        self.upkeep.close();
        if timeout(LAST_STEPS, self.upkeep.wait()).await.is_err() {
            tracing::debug!("repair waits for nodes that do not answer, and is not waited for");
        }
        let failed = self.coordinator.stop.failure().is_some();
        if !failed && self.coordinator.cluster().leadership().is_some() {
            let _ = self.coordinator.note_time(true).await;
            let _ = self.coordinator.ledger().close().await;
            self.coordinator.cluster().return_lease();
            self.coordinator.links.release().await;
        }
        self.finish_view.cancel();
        let _ = self.view_done.await;
    }

    /// Ends what has failed already: nothing more becomes true by this leader. A disk that hangs is not waited for.
    pub async fn abandon(self) {
        let left = async {
            // It says nothing more from what it knows, so that nobody has to wait for that.
            self.coordinator.cluster().retire();
            self.coordinator.links.release().await;
            self.drain().await;
            self.finish_view.cancel();
            let _ = self.view_done.await;
        };
        let _ = timeout(LAST_STEPS, left).await;
    }
}

/// What a leader has when it has read its log.
struct Read {
    folder: Arc<dyn Folder>,
    lock: Option<FolderLock>,
    known: Arc<Known>,
    log: Log,
    clock: Option<Then>,
    /// The readable view stays as it is until nodes were heard.
    hold_view: bool,
}

/// Opens the folder and reads the log in it.
async fn read_file(path: PathBuf, settings: &Settings, seams: &mut Seams, stop: &Stop) -> Result<Read, CannotStart> {
    let shown = path.display().to_string();
    let (disk, seed) = (seams.disk.clone(), seams.chance.u64(..));
    let opened = seams.executor.run(move || open(disk.as_ref(), &path, seed)).await;
    let Opened { folder, lock, boot_id, recovered, named } = opened.map_err(|error| error.of(shown.clone()))?;
    say_recovered(&recovered);
    let Recovered { log, state, old, trust, clock, .. } = recovered;
    let mut cluster = settings.cluster(Begins { state, trust, old });
    // A view that names nodes is all that is left to say whom a leader without its log has to hear.
    let hold_view = !named.is_empty();
    named.into_iter().for_each(|node| cluster.expect(node));
    let (io_mode, rewriting) = (settings.io_mode, Rewriting { from: settings.rewrite_log_from, seed });
    let clock = clock.map(|(unix_ms, since_boot_ms)| Then { unix_ms, since_boot_ms, is_exact: true });
    let journal = Journal::start(log, io_mode, rewriting, &seams.executor, stop);
    let journal = journal.map_err(|error| CannotStart::Folder(shown, error))?;
    let log = Log::File { journal, boot_id, io_mode };
    Ok(Read { folder, lock: Some(lock), known: Arc::new(Known::new(cluster)), log, clock, hold_view })
}

impl Settings {
    /// What a leader knows that begins with this.
    fn cluster(&self, Begins { state, trust, old }: Begins) -> Cluster {
        let tolerance = tolerance::at_start(self.tolerance, state.tolerance());
        let mut cluster = Cluster::new(tolerance, state, trust);
        if old {
            cluster.inherit_old_log();
        }
        cluster.registry.set_repair_after(self.repair_after);
        if self.auto_rebalance {
            cluster.rebalance_by_itself(self.repair_after);
        }
        cluster
    }
}

/// Has the log say on how many nodes a message is kept from here on, if it says something else; gives what it says.
async fn note_tolerance(coordinator: &Coordinator, noted: Option<usize>) -> Option<usize> {
    let now = coordinator.cluster().tolerance();
    let same = now == noted.unwrap_or(DEFAULT_TOLERANCE);
    // A log that takes nothing now is told later, by `tolerance::watch`.
    let told = !same && coordinator.ledger().append(&[Event::Tolerance(now as u8)]).await.is_ok();
    if told { Some(now) } else { noted }
}

/// Whether a folder with these names is that of one of several leaders.
fn is_of_peer(names: &[Listed]) -> bool {
    names.iter().any(|listed| listed.name == GROUP_FOLDER)
}

enum OpenError {
    Locked,
    OfPeer,
    Folder(io::Error),
    Log(crate::durable::record_log::LogError),
}

impl OpenError {
    /// What is said of this folder.
    fn of(self, shown: String) -> CannotStart {
        match self {
            Self::Locked => CannotStart::Locked(shown),
            Self::OfPeer => CannotStart::OfPeer(shown),
            Self::Folder(error) => CannotStart::Folder(shown, error),
            Self::Log(error) => CannotStart::Log(error),
        }
    }
}

/// What keeps other processes out of a folder.
type FolderLock = Box<dyn std::fmt::Debug + Send + Sync>;

/// The folder of the log, which no other process may have.
fn lock(disk: &dyn Disk, path: &Path) -> Result<(Arc<dyn Folder>, FolderLock), OpenError> {
    let folder = disk.folder(path).map_err(OpenError::Folder)?;
    let lock = folder.lock(LOCK_FILE).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked,
        _ => OpenError::Folder(error),
    })?;
    Ok((folder, lock))
}

struct Opened {
    folder: Arc<dyn Folder>,
    lock: FolderLock,
    boot_id: String,
    recovered: Recovered,
    /// The nodes that the readable view names, where the log says nothing.
    named: BTreeSet<NodeId>,
}

fn open(disk: &dyn Disk, path: &Path, seed: u64) -> Result<Opened, OpenError> {
    let (folder, lock) = lock(disk, path)?;
    if is_of_peer(&folder.list().map_err(OpenError::Folder)?) {
        return Err(OpenError::OfPeer);
    }
    let boot_id = disk.boot_id();
    let recovered = journal::open(&folder, &boot_id, seed).map_err(OpenError::Log)?;
    let named = match recovered.trust {
        Trust::Nothing => view::named_nodes(&*folder).map_err(OpenError::Folder)?,
        Trust::Whole | Trust::MayLackItsEnd => BTreeSet::new(),
    };
    Ok(Opened { folder, lock, boot_id, recovered, named })
}

fn say_recovered(recovered: &Recovered) {
    if let Some(torn) = &recovered.torn {
        tracing::warn!(
            "the log had a torn end: {} bytes at offset {} were cut off (and kept beside it)",
            torn.bytes,
            torn.offset
        );
    }
    let state = &recovered.state;
    if state.last().is_some() {
        tracing::info!("the log holds {} messages and {} members", state.mapping().len(), state.members().len());
    }
    match recovered.trust {
        Trust::Whole => {}
        Trust::MayLackItsEnd => tracing::warn!(
            "the machine went down and the log may lack its end: nodes are heard before answers are given"
        ),
        Trust::Nothing => tracing::info!("there is no log yet: nodes are heard before answers are given"),
    }
}

/// Ticks of this period; late ones are put off, not made up for.
fn every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
