//! The leader as a process: listeners, threads, signals, screen.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustix::fs::{Mode, OFlags};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::coordinator::Coordinator;
use super::every;
use super::http::{self, Site};
use super::report::Reporter;
use super::service::LeaderService;
use super::{Leader, Seams, gateway};
use crate::config::{BadTolerance, DEFAULT_TOLERANCE, parse_tolerance};
use crate::durable::hands::Hands;
use crate::durable::os::OsDisk;
use crate::local_nodes::LocalNodes;
use crate::process::{
    bind, keep_notified, limit_drain, raise_file_limit, reopen_logs, say_ready, serve_grpc, watch_signals, watch_stdin,
};
use crate::stop::Stop;
use crate::telemetry::EventRing;
use crate::types::{Addresses, IoMode, Layout};
use crate::wire::Grpc;
use crate::{dashboard, terminal};

/// tolerance.conf is looked at this often: well within a report period.
const TOLERANCE_EVERY: Duration = Duration::from_secs(1);

/// What is read of it at most: comments and a line.
const CONF_BYTES: u64 = 64 << 10;

/// How often health looks whether the leader is ready.
const READY_EVERY: Duration = Duration::from_millis(250);

/// What `hatokuse leader` was asked for.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address to listen on, for clients and nodes.
    pub host: IpAddr,
    /// Port for clients; 0 for any.
    pub port: u16,
    /// Port for nodes; 0 for any.
    pub grpc_port: u16,
    /// Address to listen on, for HTTP.
    pub http_host: IpAddr,
    /// Port for HTTP; nothing: the usual one, unless another program has it.
    pub http_port: Option<http::Port>,
    /// Holds `leader_metadata`.
    pub data_dir: PathBuf,
    /// Says the tolerance.
    pub tolerance_conf: PathBuf,
    /// Of the log, and of local nodes.
    pub io_mode: IoMode,
    /// How clients are served.
    pub clients: gateway::Settings,
    /// Time between two reports.
    pub report_every: Duration,
    /// Grace before a missing node's copies are made again.
    pub repair_after: Duration,
    /// Bytes of recent messages that are kept in memory; 0: none.
    pub cache_bytes: u64,
    /// Bytes from which on the log is rewritten while the leader runs.
    pub rewrite_log_from: u64,
    /// Child nodes to start.
    pub local_nodes: u32,
    /// Their layout.
    pub layout: Layout,
    /// End when standard input does.
    pub stop_with_stdin: bool,
    /// Draw a screen on standard output, instead of printing lines.
    pub screen: bool,
    /// Whether log lines are JSON, for the child nodes.
    pub json_logs: bool,
}

/// Threads that serve clients and lanes. The log, the view and local nodes have threads of their own, and on few cores
/// a second one mostly wakes the first.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}

/// Open files that clients leave to nodes, HTTP and the log; half of all, where there are few.
const FILES_KEPT: u64 = 256;

/// How many clients there may be, as each takes an open file. As in Redis, fewer than wished for are said, not refused.
fn clients_for(wanted: usize, files: Option<u64>) -> usize {
    let Some(files) = files else { return wanted };
    let fit = usize::try_from(files - FILES_KEPT.min(files / 2)).unwrap_or(usize::MAX).max(1);
    if wanted > fit {
        tracing::warn!(
            "--max-clients is {fit} instead of {wanted}, as this process may have only {files} files open: raise that \
             limit (ulimit -n, LimitNOFILE in a unit) for more"
        );
    }
    wanted.min(fit)
}

/// Runs a leader until it is told to stop.
pub fn run(mut settings: Settings, events: EventRing) -> anyhow::Result<()> {
    settings.clients.limits.max_clients = clients_for(settings.clients.limits.max_clients, raise_file_limit());
    let tolerance = read_tolerance(&settings.tolerance_conf)?;
    let clients = bind(settings.host, settings.port, "clients", "--port")?;
    let nodes = bind(settings.host, settings.grpc_port, "nodes", "--grpc-port")?;
    let http = bind_http(settings.http_host, settings.http_port)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers()).enable_all().build()?;
    let stop = Stop::new();
    if settings.stop_with_stdin {
        watch_stdin(stop.clone());
    }
    runtime.block_on(serve(settings, tolerance, (clients, nodes, http), stop.clone(), events))?;
    match stop.failure() {
        None => Ok(()),
        Some(reason) => Err(anyhow::anyhow!("{reason}")),
    }
}

/// For clients, nodes, and HTTP if it is wanted.
type Listeners = (TcpListener, TcpListener, Option<TcpListener>);

async fn serve(
    settings: Settings,
    tolerance: usize,
    listeners: Listeners,
    stop: Stop,
    events: EventRing,
) -> anyhow::Result<()> {
    tokio::spawn(watch_signals(stop.clone()));
    tokio::spawn(reopen_logs());
    limit_drain(stop.clone(), &Handle::current());
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
        rewrite_log_from: settings.rewrite_log_from,
        versions_an_epoch: super::VERSIONS_AN_EPOCH,
    };
    let leader = Leader::start(&settings.data_dir, told, seams, stop.clone()).await?;
    let attended = attend(&leader, &settings, listeners, &stop, events).await;
    // However it ended, what was admitted is finished, and the readable view with it.
    stop.request();
    leader.close().await;
    attended.map(drop)
}

/// Serves until the stop is requested. Gives the local nodes, which end when they are dropped: they are to outlive the
/// leader, which would report them as down.
async fn attend(
    leader: &Leader,
    settings: &Settings,
    (clients, nodes, http): Listeners,
    stop: &Stop,
    events: EventRing,
) -> anyhow::Result<LocalNodes> {
    let (clients_address, nodes_address) = (clients.local_addr()?, nodes.local_addr()?);
    let coordinator = leader.coordinator.clone();
    let clients = tokio::net::TcpListener::from_std(clients)?;
    let gateway =
        tokio::spawn(stop.vital("gateway", gateway::run(clients, coordinator.clone(), settings.clients.clone())));
    let service = LeaderService::new(coordinator.clone(), leader.membership.clone(), settings.clients.max_message);
    tokio::spawn(serve_grpc(
        tokio::net::TcpListener::from_std(nodes)?,
        service,
        keep_ready(coordinator.clone()),
        stop.clone(),
    ));
    let watch = watch_tolerance(settings.tolerance_conf.clone(), coordinator.clone());
    tokio::spawn(stop.vital("tolerance", watch));
    // The screen is not up yet: these lines stay above it.
    say_ready(&format!("leader ready clients={clients_address} nodes={nodes_address}"), false);
    let looked = coordinator.clone();
    tokio::spawn(keep_notified(stop.clone(), move || drop(looked.cluster())));
    let http_address = http.as_ref().and_then(|listener| listener.local_addr().ok());
    let addresses = Addresses {
        clients: clients_address.to_string(),
        nodes: nodes_address.to_string(),
        http: http_address.map(|address| address.to_string()),
    };
    let reporter = || Reporter::new(coordinator.clone(), events.clone(), addresses.clone(), settings.report_every);
    if let Some(listener) = http {
        let address = listener.local_addr()?;
        http::start(listener, Site::new(coordinator.clone(), reporter(), settings.data_dir.clone(), address))?;
        say_ready(&format!("leader http={address}"), false);
    }
    let local = start_local(settings, nodes_address)?;
    let mut reporter = reporter();
    let view = move |period| reporter.view(period);
    if settings.screen {
        terminal::run_screen(settings.report_every, stop.token(), view, dashboard::LEADER).await;
    } else {
        terminal::run_lines(settings.report_every, stop.token(), view, dashboard::LEADER).await;
    }
    stop.requested().await;
    let _ = gateway.await;
    Ok(local)
}

/// The listener for HTTP, if there is to be one. That another program has the usual port, which nobody asked for,
/// stops no leader.
fn bind_http(host: IpAddr, port: Option<http::Port>) -> anyhow::Result<Option<TcpListener>> {
    match port {
        Some(http::Port::Off) => Ok(None),
        Some(http::Port::At(port)) => bind(host, port, "HTTP", "--http-port").map(Some),
        None => match bind(host, http::DEFAULT_PORT, "HTTP", "--http-port") {
            Ok(listener) => Ok(Some(listener)),
            Err(error) => {
                tracing::warn!("no metrics and no page: {error:#}, or off");
                Ok(None)
            }
        },
    }
}

/// Tells, from now on, whether the leader is ready.
fn keep_ready(coordinator: Arc<Coordinator>) -> watch::Receiver<bool> {
    let (tell, ready) = watch::channel(coordinator.not_ready().is_none());
    tokio::spawn(async move {
        let mut look = every(READY_EVERY);
        while !tell.is_closed() {
            look.tick().await;
            let now = coordinator.not_ready().is_none();
            tell.send_if_modified(|before| std::mem::replace(before, now) != now);
        }
    });
    ready
}

fn start_local(settings: &Settings, nodes_address: SocketAddr) -> anyhow::Result<LocalNodes> {
    let Settings { local_nodes, io_mode, layout, data_dir, .. } = settings;
    let (any_port, how) = (settings.port == 0, (*io_mode, *layout));
    LocalNodes::start(*local_nodes, any_port, how, data_dir, nodes_address, settings.screen, settings.json_logs)
}

/// Reads tolerance.conf, which has to be a regular file: a FIFO would be waited for, and a device read without an end.
pub fn read_conf(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut content = Vec::new();
    file.take(CONF_BYTES).read_to_end(&mut content)?;
    Ok(content)
}

/// The tolerance at the start: what is illegal stops it, what is missing is said.
fn read_tolerance(path: &Path) -> anyhow::Result<usize> {
    match read_conf(path) {
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
    // Away from the threads that serve: a disk that hangs holds up nobody else.
    let read = || async {
        let path = path.clone();
        tokio::task::spawn_blocking(move || read_conf(&path)).await.ok()?.ok()
    };
    let mut seen = read().await;
    loop {
        let asked = tokio::select! {
            _ = look.tick() => false,
            Some(()) = async { hang_up.as_mut()?.recv().await } => true,
        };
        // A file that is gone or cannot be read says nothing: the old value stays.
        let Some(bytes) = read().await else { continue };
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
            // What was heard may suffice now.
            if cluster.settle_knowledge() {
                coordinator.tell_members(&cluster);
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_files_to_nodes() {
        for (wanted, files, clients) in [
            (20_000, None, 20_000),
            (20_000, Some(1 << 20), 20_000),
            (20_000, Some(1024), 768),
            (10, Some(1024), 10),
            (100, Some(100), 50),
            (5, Some(0), 1),
        ] {
            assert_eq!(clients_for(wanted, files), clients, "{wanted} {files:?}");
        }
    }
}
