//! The leader as a process: listeners, threads, signals, screen.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

use super::coordinator::Coordinator;
use super::every;
use super::report::Reporter;
use super::service::LeaderService;
use super::{Leader, Seams, gateway};
use crate::config::{BadTolerance, DEFAULT_TOLERANCE, parse_tolerance};
use crate::durable::hands::Hands;
use crate::durable::os::OsDisk;
use crate::local_nodes::LocalNodes;
use crate::process::{bind, limit_drain, raise_file_limit, say_ready, serve_grpc, watch_signals, watch_stdin};
use crate::stop::Stop;
use crate::telemetry::EventRing;
use crate::types::{IoMode, Layout};
use crate::wire::Grpc;
use crate::{dashboard, terminal};

/// tolerance.conf is looked at this often: well within a report period.
const TOLERANCE_EVERY: Duration = Duration::from_secs(1);

/// What `hatokuse leader` was asked for.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address to listen on, for clients and nodes.
    pub host: IpAddr,
    /// Port for clients; 0 for any.
    pub port: u16,
    /// Port for nodes; 0 for any.
    pub grpc_port: u16,
    /// Holds `leader_metadata`.
    pub data_dir: PathBuf,
    /// Says the tolerance.
    pub tolerance_conf: PathBuf,
    /// Of the log, and of local nodes.
    pub io_mode: IoMode,
    /// Largest message, bytes.
    pub max_message: usize,
    /// What clients may take.
    pub limits: gateway::Limits,
    /// Time between two reports.
    pub report_every: Duration,
    /// Grace before a missing node's copies are made again.
    pub repair_after: Duration,
    /// Bytes of recent messages that are kept in memory; 0: none.
    pub cache_bytes: u64,
    /// Child nodes to start.
    pub local_nodes: u32,
    /// Their layout.
    pub layout: Layout,
    /// End when standard input does.
    pub stop_with_stdin: bool,
    /// Draw a screen on standard output, instead of printing lines.
    pub screen: bool,
}

/// Threads that serve clients and lanes. The log, the view and local nodes have threads of their own, and on few cores
/// a second one mostly wakes the first.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}

/// Runs a leader until it is told to stop.
pub fn run(settings: Settings, events: EventRing) -> anyhow::Result<()> {
    raise_file_limit();
    let tolerance = read_tolerance(&settings.tolerance_conf)?;
    let clients = bind(settings.host, settings.port, "clients", "--port")?;
    let nodes = bind(settings.host, settings.grpc_port, "nodes", "--grpc-port")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers()).enable_all().build()?;
    let stop = Stop::new();
    if settings.stop_with_stdin {
        watch_stdin(stop.clone());
    }
    runtime.block_on(serve(settings, tolerance, clients, nodes, stop.clone(), events))?;
    match stop.failure() {
        None => Ok(()),
        Some(reason) => Err(anyhow::anyhow!("{reason}")),
    }
}

async fn serve(
    settings: Settings,
    tolerance: usize,
    clients: TcpListener,
    nodes: TcpListener,
    stop: Stop,
    events: EventRing,
) -> anyhow::Result<()> {
    tokio::spawn(watch_signals(stop.clone()));
    limit_drain(stop.clone(), &Handle::current());
    let (clients_address, nodes_address) = (clients.local_addr()?, nodes.local_addr()?);
    let seams = Seams {
        disk: Arc::new(OsDisk::new()),
        network: Arc::new(Grpc),
        hands: Hands::Threads(Handle::current()),
        chance: fastrand::Rng::new(),
    };
    let told = super::Settings {
        tolerance,
        io_mode: settings.io_mode,
        repair_after: settings.repair_after,
        cache_bytes: settings.cache_bytes,
    };
    let leader = Leader::start(&settings.data_dir, told, seams, stop.clone()).await?;
    let coordinator = leader.coordinator.clone();
    let clients = tokio::net::TcpListener::from_std(clients)?;
    let gateway = tokio::spawn(
        stop.vital("gateway", gateway::run(clients, coordinator.clone(), settings.max_message, settings.limits)),
    );
    let service = LeaderService::new(coordinator.clone(), leader.membership.clone(), settings.max_message);
    let service = tokio::spawn(serve_grpc(tokio::net::TcpListener::from_std(nodes)?, service, stop.clone()));
    tokio::spawn(watch_tolerance(settings.tolerance_conf.clone(), coordinator.clone()));
    say_ready(&format!("leader ready clients={clients_address} nodes={nodes_address}"));
    let local = start_local(&settings, nodes_address)?;
    let addresses = (clients_address.to_string(), nodes_address.to_string());
    let mut reporter = Reporter::new(coordinator.clone(), events, addresses, settings.report_every);
    let view = move |period| reporter.view(period);
    if settings.screen {
        terminal::run_screen(settings.report_every, stop.token(), view, dashboard::LEADER).await;
    } else {
        terminal::run_lines(settings.report_every, stop.token(), view, dashboard::LEADER).await;
    }
    stop.requested().await;
    let _ = gateway.await;
    leader.close().await;
    drop(local);
    service.abort();
    Ok(())
}

fn start_local(settings: &Settings, nodes_address: SocketAddr) -> io::Result<LocalNodes> {
    let Settings { local_nodes, io_mode, layout, data_dir, .. } = settings;
    LocalNodes::start(*local_nodes, settings.port == 0, (*io_mode, *layout), data_dir, nodes_address)
}

/// Reads tolerance.conf at the start: what is illegal stops it, what is missing is said.
fn read_tolerance(path: &Path) -> anyhow::Result<usize> {
    match std::fs::read(path) {
        Ok(bytes) => parse_tolerance(&String::from_utf8_lossy(&bytes))
            .with_context(|| format!("{} cannot be used", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            tracing::warn!("{} is not there: every message is kept on {DEFAULT_TOLERANCE} nodes", path.display());
            Ok(DEFAULT_TOLERANCE)
        }
        Err(error) => Err(error).with_context(|| format!("{} cannot be read", path.display())),
    }
}

/// Takes up a changed tolerance.conf, at SIGHUP and by itself; illegal content keeps the old value, and that is said once.
async fn watch_tolerance(path: PathBuf, coordinator: Arc<Coordinator>) {
    let mut look = every(TOLERANCE_EVERY);
    let mut hang_up = signal(SignalKind::hangup()).ok();
    let mut seen = std::fs::read(&path).ok();
    loop {
        let asked = tokio::select! {
            _ = look.tick() => false,
            Some(()) = async { hang_up.as_mut()?.recv().await } => true,
        };
        // A file that is gone or cannot be read says nothing: the old value stays.
        let Ok(bytes) = std::fs::read(&path) else { continue };
        if !asked && seen.as_ref() == Some(&bytes) {
            continue;
        }
        take_tolerance(&path, parse_tolerance(&String::from_utf8_lossy(&bytes)), &coordinator);
        seen = Some(bytes);
    }
}

fn take_tolerance(path: &Path, parsed: Result<usize, BadTolerance>, coordinator: &Coordinator) {
    let mut cluster = coordinator.cluster();
    let before = cluster.tolerance();
    match parsed {
        Ok(tolerance) if tolerance != before => {
            cluster.set_tolerance(tolerance);
            drop(cluster);
            coordinator.notify();
            tracing::info!(
                "tolerance is {tolerance} from here on (it was {before}); messages stored before follow through repair"
            );
        }
        Ok(_) => {}
        Err(error) => tracing::warn!("{} cannot be used: {error}; tolerance stays {before}", path.display()),
    }
}
