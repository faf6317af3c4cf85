//! A node as a process: its listener, threads, signals, screen.

use std::io;
use std::net::{IpAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::convert;
use super::files::{SPARES, TextStore};
use super::heartbeat::{self, Announcement, Standing};
use super::identity::IdentityFile;
use super::scan::Found;
use super::segments::SegmentStore;
use super::service::NodeService;
use super::store::Store;
use super::{Node, Parts, trial, write_back};
use crate::clock::SystemClock;
use crate::durable::executor::Executor;
use crate::durable::os::OsDisk;
use crate::durable::{Disk, Folder, Space};
use crate::process::{
    Doing, Serving, Signals, allow_open, bind, keep_notified, limit_drain, open_port, outlive_hangups,
    raise_file_limit, say_ready, serve_grpc, watch_stdin, while_starting,
};
use crate::stop::Stop;
use crate::telemetry::{EventRing, History, Period};
use crate::tls::{self, Cluster};
use crate::types::{DiskView, IoMode, Layout, NodeId, NodeReport, RateView, Uuid};
use crate::wire::{Grpc, MAX_FRAME};
use crate::{VERSION, dashboard, terminal};

/// Bytes of answers that readers of its port have not taken, at most.
const MAX_UNSENT: usize = 64 << 20;

/// The lock that keeps a second process out of the folder.
const LOCK_FILE: &str = ".lock";

/// Time for the writer's last answers to leave, once nothing more is written.
const LAST_ANSWERS: Duration = Duration::from_millis(20);

/// Time between two lines about a conversion.
const CONVERSION_TOLD_EVERY: Duration = Duration::from_secs(1);

/// Of a folder with as many entries the service manager is told at once that opening it takes a while.
const LARGE_FOLDER: usize = 1000;

/// How often the disk is asked for its space.
const SPACE_EVERY: Duration = Duration::from_secs(1);

/// Events that a report carries.
const EVENTS: usize = 50;

/// Report periods that a sparkline shows.
const PERIODS: usize = 60;

/// What `hatokuse node` was asked for.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its number.
    pub id: NodeId,
    /// Address to listen on.
    pub host: IpAddr,
    /// Port to listen on; 0 for any.
    pub port: u16,
    /// When a copy counts as written.
    pub io_mode: IoMode,
    /// How copies lie on its disk.
    pub layout: Layout,
    /// Change the folder to that layout first, if it has the other one.
    pub convert: bool,
    /// The leader's address for nodes, or those of all that may lead.
    pub leaders: Vec<String>,
    /// Where the leader reaches this node; as bound if not said.
    pub advertise: Option<String>,
    /// Holds `storage_node_<id>`.
    pub data_dir: PathBuf,
    /// How it speaks to its leader; nothing: as it comes.
    pub tls: Option<Arc<Cluster>>,
    /// Whether it may be open to others than this machine without TLS.
    pub insecure: bool,
    /// Time between two reports.
    pub report_every: Duration,
    /// End when standard input does.
    pub stop_with_stdin: bool,
    /// Draw a screen on standard output, instead of printing lines.
    pub screen: bool,
    /// Print a line a report period, where there is no screen.
    pub reports: bool,
}

/// Runs a node until it is told to stop.
pub fn run(settings: Settings, events: EventRing) -> anyhow::Result<()> {
    // One thread for the network: the work is on the disk threads.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let signals = {
        let _inside = runtime.enter();
        Signals::take()?
    };
    raise_file_limit();
    let listener = bind(settings.host, settings.port, "the leader", "--port")?;
    let open = open_port(&listener, "can pass for the leader", "give --cluster-cert");
    let open: Vec<String> = open.into_iter().filter(|_| settings.tls.is_none()).collect();
    allow_open(&open, settings.insecure)?;
    let stop = Stop::new();
    if settings.stop_with_stdin {
        watch_stdin(stop.clone());
    }
    let served = runtime.block_on(serve(settings, listener, signals, stop.clone(), events));
    // Not waiting for a disk that hangs.
    runtime.shutdown_background();
    served?;
    stop.ended()
}

/// What the folder gave at the start.
struct Opened {
    folder: Arc<dyn Folder>,
    lock: Box<dyn std::fmt::Debug + Send + Sync>,
    identity: IdentityFile,
    store: Arc<dyn Store>,
    found: Found,
    took: Duration,
}

/// Opens the folder on a thread of its own: it may take long, and the network's thread answers signals meanwhile. Nothing
/// comes of it if the end is asked for first, as of a `kill -9`, from which a folder recovers.
async fn open_aside(settings: &Settings, uuid: Uuid, stop: &Stop) -> anyhow::Result<Option<Opened>> {
    let path = folder_of(settings);
    let doing = Doing::new(format!("opening {}", path.display()));
    let (tell, opened) = oneshot::channel();
    let (settings, told) = (settings.clone(), doing.clone());
    let open = move || drop(tell.send(open(&settings, uuid, &told)));
    std::thread::Builder::new().name("open".to_owned()).spawn(open)?;
    let large = std::fs::read_dir(path).is_ok_and(|files| files.take(LARGE_FOLDER).count() == LARGE_FOLDER);
    match while_starting(stop, &doing, large, opened).await {
        None => Ok(None),
        Some(Ok(opened)) => opened.map(Some),
        Some(Err(_)) => {
            anyhow::bail!("opening the folder ended unasked; this is a bug: please report it with the lines above")
        }
    }
}

fn folder_of(settings: &Settings) -> PathBuf {
    settings.data_dir.join(format!("storage_node_{}", settings.id))
}

fn open(settings: &Settings, uuid: Uuid, doing: &Doing) -> anyhow::Result<Opened> {
    let began = Instant::now();
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new());
    let path = folder_of(settings);
    let shown = path.display().to_string();
    let folder = disk.folder(&path).with_context(|| format!("cannot use {shown}; check that it can be written"))?;
    let lock = folder.lock(LOCK_FILE).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => {
            anyhow::anyhow!(
                "{shown} is in use by another process; stop that one, or give this node another --id or --data-dir"
            )
        }
        _ => anyhow::Error::new(error).context(format!("cannot lock {shown}; check that it can be written")),
    })?;
    trial::try_folder(&*folder).with_context(|| format!("cannot use {shown}"))?;
    if let (IoMode::Unbuffered, Some(why)) = (settings.io_mode, folder.doubt()) {
        tracing::warn!(
            "{shown} may lose what is called safe when the power goes, in spite of --io-mode unbuffered: {why}"
        );
    }
    if settings.convert {
        convert_folder(settings, &disk, &folder, doing)?;
    } else {
        convert::finish(&disk, &folder, settings.id)?;
    }
    let identity = IdentityFile::open(folder.clone(), settings.id, uuid, settings.layout)
        .with_context(|| format!("cannot use {shown}; check that it can be written and the disk is not full"))?;
    let fitting = trial::names(&*folder);
    let names = identity.settle_names(fitting).with_context(|| format!("cannot use {shown}"))?;
    if settings.layout == Layout::Text && fitting.is_none_or(|fitting| fitting.longest() < names.longest()) {
        tracing::warn!(
            "the names of long ids do not fit into {shown}: such messages cannot be written there, or not be replaced; --layout log has no such names"
        );
    }
    let (store, found): (Arc<dyn Store>, _) = match settings.layout {
        Layout::Text => {
            let (store, found) = TextStore::open(disk, folder.clone(), settings.io_mode)?;
            identity.note_records(store.records_kind()).with_context(|| format!("cannot use {shown}"))?;
            store.keep_spares(SPARES);
            (Arc::new(store), found)
        }
        Layout::Log => {
            let (store, found) = SegmentStore::open(folder.clone(), settings.io_mode)?;
            (Arc::new(store), found)
        }
    };
    Ok(Opened { folder, lock, identity, store, found, took: began.elapsed() })
}

fn convert_folder(
    settings: &Settings,
    disk: &Arc<dyn Disk>,
    folder: &Arc<dyn Folder>,
    doing: &Doing,
) -> anyhow::Result<()> {
    let (began, mut said) = (Instant::now(), Instant::now());
    let mut carried = 0;
    let mut progress = |done, total| {
        carried = done;
        if said.elapsed() >= CONVERSION_TOLD_EVERY {
            said = Instant::now();
            let far = format!("converting to layout {}: {done} of {total} copies", settings.layout);
            tracing::info!("{far}");
            doing.now(far);
        }
    };
    convert::convert(disk, folder, settings.id, settings.layout, &mut progress)?;
    if carried > 0 {
        tracing::info!("converted {carried} copies to layout {} in {:.2?}", settings.layout, began.elapsed());
    }
    Ok(())
}

async fn serve(
    settings: Settings,
    listener: TcpListener,
    signals: Signals,
    stop: Stop,
    events: EventRing,
) -> anyhow::Result<()> {
    tokio::spawn(outlive_hangups(signals.attend(&stop)));
    limit_drain(stop.clone(), &Handle::current());
    let mut chance = fastrand::Rng::new();
    let bound = listener.local_addr()?;
    let Some(opened) = open_aside(&settings, Uuid::random(&mut chance), &stop).await? else { return Ok(()) };
    say_found(&opened.found, opened.took);
    let executor = Executor::Threads(Handle::current());
    let parts = Parts {
        id: settings.id,
        identity: opened.identity,
        store: opened.store,
        io_mode: settings.io_mode,
        incarnation: chance.u64(1..),
        clock: Arc::new(SystemClock),
    };
    let node = Node::start(parts, executor, stop.clone())?;
    let how = Serving {
        max_message: MAX_FRAME,
        halves: None,
        max_unsent: MAX_UNSENT,
        tls: settings.tls.clone(),
        // It reads for anyone as long as it lives, with a leader or without.
        ready: tokio::sync::watch::channel(true).1,
        stop: stop.clone(),
        // Its lanes are open until the very end.
        end: CancellationToken::new(),
    };
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let service = tokio::spawn(serve_grpc(listener, NodeService::new(node.clone()), how));
    let address = settings.advertise.clone().unwrap_or_else(|| bound.to_string());
    if let Some(tls) = &settings.tls {
        tracing::info!("{}", tls.said());
        tokio::spawn(stop.vital("certificates", tls::watch(vec![tls.renews()], stop.clone())));
    }
    let announcement = Announcement { leaders: settings.leaders.clone(), address, folder: opened.folder.clone() };
    let (standing, seen) = watch::channel(Standing::default());
    let beats = heartbeat::run(
        node.clone(),
        announcement,
        Arc::new(Grpc { tls: settings.tls.clone() }),
        chance,
        standing,
        stop.clone(),
    );
    tokio::spawn(stop.vital("heartbeat", beats));
    let ready = format!("node {} ready grpc={bound}", settings.id);
    tokio::spawn(say_ready_once(seen.clone(), ready, settings.screen));
    if settings.io_mode == IoMode::Buffered {
        let listens = write_back::listen(node.clone(), opened.folder.clone(), stop.clone());
        tokio::spawn(stop.vital("write-back", listens));
    }
    let looked = node.clone();
    let status = format!("node {} on {bound}", settings.id);
    tokio::spawn(keep_notified(stop.clone(), status, move || drop(looked.identity().get())));
    let finishing = node.clone();
    let space = watch_space(opened.folder.clone());
    let mut reporter = Reporter {
        node,
        settings: settings.clone(),
        folder: opened.folder,
        space,
        listening: bound.to_string(),
        standing: seen,
        events,
        found: (opened.found.messages, opened.took.as_secs_f64(), opened.found.foreign, opened.found.damaged),
        started: Instant::now(),
        stores: History::new(PERIODS),
        reads: History::new(PERIODS),
        last: None,
    };
    let view = move |period| reporter.view(period);
    if settings.screen {
        terminal::run_screen(settings.report_every, stop.token(), view, dashboard::NODE).await;
    } else if settings.reports {
        terminal::run_lines(settings.report_every, stop.token(), view, dashboard::NODE).await;
    }
    stop.requested().await;
    finishing.finished().await;
    // Its last answers are on their way out.
    tokio::time::sleep(LAST_ANSWERS).await;
    service.abort();
    drop(opened.lock);
    Ok(())
}

/// What there is of the disk's space, for reports. It is asked beside everything else: a disk that hangs holds nobody up.
fn watch_space(folder: Arc<dyn Folder>) -> watch::Receiver<Option<Space>> {
    let (tell, space) = watch::channel(None);
    tokio::spawn(async move {
        let mut look = tokio::time::interval(SPACE_EVERY);
        while !tell.is_closed() {
            look.tick().await;
            let folder = folder.clone();
            let Ok(space) = tokio::task::spawn_blocking(move || folder.space().ok()).await else { return };
            tell.send_replace(space);
        }
    });
    space
}

/// Ready is who has joined, or who has tried once: a node starts without a leader, too.
async fn say_ready_once(mut standing: watch::Receiver<Standing>, line: String, screen: bool) {
    let tried = |standing: &Standing| standing.registered || standing.failed_tries > 0;
    if standing.wait_for(tried).await.is_ok() {
        say_ready(&line, screen);
    }
}

fn disk_view(space: Space) -> DiskView {
    DiskView { free: space.free, size: space.size, free_files: space.free_files, files: space.files }
}

fn say_found(found: &Found, took: Duration) {
    let (messages, foreign, damaged) = (found.messages, found.foreign, found.damaged);
    tracing::info!("found {messages} messages in {took:.2?}; {foreign} foreign files, {damaged} damaged copies");
    if damaged > 0 {
        tracing::warn!("{damaged} copies do not match their records and are not served");
    }
    for ignored in &found.ignored {
        tracing::warn!("left alone in the folder: {ignored}");
    }
}

struct Reporter {
    node: Arc<Node>,
    settings: Settings,
    folder: Arc<dyn Folder>,
    space: watch::Receiver<Option<Space>>,
    listening: String,
    standing: watch::Receiver<Standing>,
    events: EventRing,
    found: (u64, f64, u64, u64),
    started: Instant,
    stores: History,
    reads: History,
    /// What the last whole period came to: shown until the next one is over.
    last: Option<Measured>,
}

/// What is measured over a period.
#[derive(Clone, Copy)]
struct Measured {
    stores: RateView,
    reads: RateView,
    queue: RateView,
    write: RateView,
    sync: RateView,
}

impl Reporter {
    /// What was measured in the last whole period; in the first one, what has been so far.
    fn measured(&mut self, period: Period) -> Measured {
        if let Some(last) = self.last.filter(|_| !period.full) {
            return last;
        }
        let meters = &self.node.meters;
        let measured = Measured {
            stores: meters.stores.report(period),
            reads: meters.reads.report(period),
            queue: meters.queue.report(period),
            write: meters.write.report(period),
            sync: meters.sync.report(period),
        };
        self.stores.note(period, &measured.stores);
        self.reads.note(period, &measured.reads);
        if period.full {
            self.last = Some(measured);
        }
        measured
    }

    /// The node as it is now, with what was measured over the last `period`.
    fn view(&mut self, period: Period) -> NodeReport {
        let Measured { stores, reads, queue, write, sync } = self.measured(period);
        let meters = &self.node.meters;
        let standing = *self.standing.borrow();
        let totals = self.node.store().totals();
        NodeReport {
            version: VERSION.to_owned(),
            id: self.settings.id,
            uptime_s: self.started.elapsed().as_secs_f64(),
            every_s: self.settings.report_every.as_secs_f64(),
            leader: self.settings.leaders.join(","),
            registered: standing.registered,
            rtt_ms: standing.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
            listening: self.listening.clone(),
            io_mode: self.settings.io_mode,
            layout: self.settings.layout.to_string(),
            folder: self.folder.path().display().to_string(),
            messages: totals.messages,
            bytes: totals.bytes,
            largest: meters.largest.lock().clone(),
            disk: self.space.borrow().map(disk_view),
            stores,
            reads,
            store_history: self.stores.values(),
            read_history: self.reads.values(),
            queue_p99_ms: queue.p99_ms,
            write_p99_ms: write.p99_ms,
            sync_p99_ms: (self.settings.io_mode == IoMode::Unbuffered).then_some(sync.p99_ms),
            write_errors: meters.write_errors.load(Ordering::Relaxed),
            bad_checksums: meters.bad_checksums.load(Ordering::Relaxed),
            recovered: self.found,
            events: self.events.last(EVENTS),
        }
    }
}
