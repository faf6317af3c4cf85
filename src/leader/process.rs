//! The leader as a process: listeners, threads, signals, screen.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::Handle;
use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::coordinator::Coordinator;
use super::every;
use super::gateway::Entrance;
use super::http::{self, Guard, Site};
use super::report::Reporter;
use super::service::LeaderService;
use super::users::Users;
use super::{Leader, Seams, Source, gateway, peer, tolerance};
use crate::clock::SystemClock;
use crate::config::MAX_CLIENTS;
use crate::durable::executor::Executor;
use crate::durable::os::OsDisk;
use crate::local_nodes::{IsRemoved, LocalLogs, LocalNodes};
use crate::process::door::Holdings;
use crate::process::{
    Doing, Serving, Signals, allow_open, bind, keep_notified, limit_drain, open_port, raise_file_limit, say_ready,
    serve_grpc, watch_stdin, while_starting,
};
use crate::stop::Stop;
use crate::telemetry::EventRing;
use crate::tls::{self, Acceptor, Cluster, Renews};
use crate::types::{Addresses, IoMode, Layout, NodeId};
use crate::wire::Grpc;
use crate::{dashboard, terminal};

/// How often health looks whether the leader is ready.
const READY_EVERY: Duration = Duration::from_millis(250);

/// What `hatokuse leader` was asked for.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address to listen on, for clients and nodes.
    pub host: IpAddr,
    /// Port for clients; 0 for any; nothing: they come by TLS only.
    pub port: Option<u16>,
    /// Port for clients that speak TLS; 0 for any.
    pub tls_port: Option<u16>,
    /// Port for clients that look for Redis Sentinel itself; 0 for any.
    pub sentinel_port: Option<u16>,
    /// What encrypts connections of clients.
    pub tls: Option<Encrypted>,
    /// What HTTP asks for.
    pub http_token: Option<String>,
    /// Whether HTTP is encrypted too.
    pub http_tls: bool,
    /// Whether ports may be open to others than this machine without TLS and without users.
    pub insecure: bool,
    /// How leader and nodes speak to one another; nothing: as it comes.
    pub cluster_tls: Option<Arc<Cluster>>,
    /// Port for nodes; 0 for any.
    pub grpc_port: u16,
    /// Address to listen on, for HTTP.
    pub http_host: IpAddr,
    /// Port for HTTP; nothing: the usual one, unless another program has it.
    pub http_port: Option<http::Port>,
    /// Holds `leader_metadata`.
    pub data_dir: PathBuf,
    /// Says the tolerance.
    pub tolerance: tolerance::Source,
    /// Of the log, and of local nodes.
    pub io_mode: IoMode,
    /// How clients are served.
    pub clients: gateway::Settings,
    /// Time between two reports.
    pub report_every: Duration,
    /// Grace before a missing node's copies are made again.
    pub repair_after: Duration,
    /// Whether copies are evened out by themselves.
    pub auto_rebalance: bool,
    /// Bytes of recent messages that are kept in memory; 0: none.
    pub cache_bytes: u64,
    /// Bytes from which on the log is rewritten while the leader runs.
    pub rewrite_log_from: u64,
    /// The leader processes of which this is one; nothing: it is the only one.
    pub peers: Option<peer::Peers>,
    /// The leader was of a group of which only it is left, and goes on as the only one.
    pub leaves_group: bool,
    /// Child leaders to start, instead of being one; 0: none.
    pub local_peers: u32,
    /// Child nodes to start.
    pub local_nodes: u32,
    /// Their layout.
    pub layout: Layout,
    /// End when standard input does.
    pub stop_with_stdin: bool,
    /// Draw a screen on standard output, instead of printing lines.
    pub screen: bool,
    /// Print a line a report period, where there is no screen.
    pub reports: bool,
    /// Where lines of child nodes go.
    pub local_logs: LocalLogs,
}

/// What encrypts the connections of clients, and what keeps its certificates in view.
#[derive(Debug, Clone)]
pub struct Encrypted {
    /// Takes their connections.
    pub acceptor: Acceptor,
    /// Whether they may show certificates.
    pub asks_for_certificates: bool,
    /// Follows the files.
    pub renews: Arc<dyn Renews>,
}

/// What a gRPC request has beside its message: its id in all forms, and the message once more where it is small.
const BESIDE_MESSAGE: usize = 1 << 20;

/// After the last write has ended, answers to gRPC calls have this long to leave; streams that are open end with it.
const LAST_ANSWERS: Duration = Duration::from_millis(300);

/// Threads that serve clients and lanes. The log, the view and local nodes have threads of their own, and on few cores
/// a second one mostly wakes the first.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}

/// Open files that clients leave to nodes, HTTP and the log; half of all, where there are few.
const FILES_KEPT: u64 = 256;

/// How many clients there may be, as each takes an open file. As in Redis, fewer than wished for are said, not refused.
pub(super) fn clients_for(wanted: usize, files: Option<u64>) -> usize {
    let Some(files) = files else { return wanted };
    let fit = usize::try_from(files - FILES_KEPT.min(files / 2)).unwrap_or(usize::MAX).max(1);
    if wanted > fit {
        let text = format!(
            "--max-clients is {fit} instead of {wanted}, as this process may have only {files} files open: raise that \
             limit (ulimit -n, LimitNOFILE in a unit) for more"
        );
        // Who asked for no number is hardly short of them: many systems stop at 20,000 files and fewer.
        if wanted == MAX_CLIENTS as usize { tracing::info!("{text}") } else { tracing::warn!("{text}") }
    }
    wanted.min(fit)
}

impl Settings {
    /// Whether clients may show certificates.
    fn asks_for_certificates(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.asks_for_certificates) || self.cluster_tls.is_some()
    }

    /// What has certificates that are renewed.
    pub(super) fn certificates(&self) -> Vec<Arc<dyn Renews>> {
        let clients = self.tls.as_ref().map(|tls| tls.renews.clone());
        clients.into_iter().chain(self.cluster_tls.as_ref().map(|tls| tls.renews())).collect()
    }
}

/// Runs a leader until it is told to stop.
pub fn run(mut settings: Settings, events: EventRing) -> anyhow::Result<()> {
    if settings.local_peers > 0 {
        return peer::run_local(&settings);
    }
    if let Some(peers) = settings.peers.take() {
        return peer::run(settings, peers, events);
    }
    let runtime = runtime()?;
    let signals = {
        let _inside = runtime.enter();
        Signals::take()?
    };
    settings.clients.limits.max_clients = clients_for(settings.clients.limits.max_clients, raise_file_limit());
    let tolerance = settings.tolerance.read()?;
    let listeners = Listeners::bind(&settings)?;
    if settings.leaves_group {
        peer::leave(&settings.data_dir)?;
    }
    let stop = Stop::new();
    if settings.stop_with_stdin {
        watch_stdin(stop.clone());
    }
    let serving = async {
        let hang_up = signals.attend(&stop);
        limit_drain(stop.clone(), &Handle::current());
        let told = Told { tolerance, hang_up, is_first: true };
        serve(&settings, told, listeners, stop.clone(), events, Source::File).await
    };
    let served = runtime.block_on(serving);
    // Not waiting for a disk that hangs.
    runtime.shutdown_background();
    served?;
    stop.ended()
}

/// Where a leader serves.
pub(super) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(workers()).enable_all().build()
}

/// For clients, with TLS and without, nodes, and HTTP if it is wanted.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) clients: Option<TcpListener>,
    pub(super) encrypted: Option<TcpListener>,
    pub(super) sentinel: Option<TcpListener>,
    pub(super) nodes: TcpListener,
    pub(super) http: Option<TcpListener>,
}

impl Listeners {
    pub(super) fn bind(settings: &Settings) -> anyhow::Result<Self> {
        let bind_for =
            |port: Option<u16>, flag| port.map(|port| bind(settings.host, port, "clients", flag)).transpose();
        Ok(Self {
            clients: bind_for(settings.port, "--port")?,
            encrypted: bind_for(settings.tls_port, "--tls-port")?,
            sentinel: bind_for(settings.sentinel_port, "--sentinel-port")?,
            nodes: bind(settings.host, settings.grpc_port, "nodes", "--grpc-port")?,
            http: bind_http(settings.http_host, settings.http_port)?,
        })
    }

    /// The same ports once more.
    pub(super) fn again(&self) -> std::io::Result<Self> {
        let again = |listener: &Option<TcpListener>| listener.as_ref().map(TcpListener::try_clone).transpose();
        Ok(Self {
            clients: again(&self.clients)?,
            encrypted: again(&self.encrypted)?,
            sentinel: again(&self.sentinel)?,
            nodes: self.nodes.try_clone()?,
            http: again(&self.http)?,
        })
    }
}

/// What a leader is told beside its settings.
pub(super) struct Told {
    /// The tolerance that is in force.
    pub(super) tolerance: tolerance::Said,
    /// Asks to look at files again.
    pub(super) hang_up: Signal,
    /// Nobody was told yet that it is ready.
    pub(super) is_first: bool,
}

/// Whether ports may be open as they are. Who may come in is known when the log was read.
///
/// # Errors
/// Others than this machine reach one, there is neither TLS nor a user with a password, and nobody has said that this is
/// meant.
fn allow_open_ports(settings: &Settings, listeners: &Listeners, users: &Users) -> anyhow::Result<()> {
    let Listeners { clients, nodes, http, .. } = listeners;
    let clients = clients.as_ref().filter(|_| users.are_open()).and_then(|clients| {
        open_port(clients, "may read and write everything", "give --tls-port and --port off, or --password-file")
    });
    let http = http
        .as_ref()
        .filter(|_| settings.http_token.is_none() && !settings.http_tls)
        .and_then(|http| open_port(http, "sees ids, addresses and figures", "give --http-tls or --http-token-file"));
    let plain = settings.cluster_tls.is_none();
    let nodes =
        plain.then(|| open_port(nodes, "can pass for a node and be given messages", "give --cluster-cert")).flatten();
    allow_open(&clients.into_iter().chain(nodes).chain(http).collect::<Vec<_>>(), settings.insecure)
}

/// Leads until the stop is requested.
pub(super) async fn serve(
    settings: &Settings,
    Told { tolerance: said, hang_up, is_first }: Told,
    listeners: Listeners,
    stop: Stop,
    events: EventRing,
    source: Source,
) -> anyhow::Result<()> {
    let seams = Seams {
        disk: Arc::new(OsDisk::new()),
        network: Arc::new(Grpc { tls: settings.cluster_tls.clone() }),
        executor: Executor::Threads(Handle::current()),
        chance: fastrand::Rng::new(),
        clock: Arc::new(SystemClock),
    };
    let told = super::Settings {
        tolerance: said.tolerance,
        io_mode: settings.io_mode,
        repair_after: settings.repair_after,
        auto_rebalance: settings.auto_rebalance,
        cache_bytes: settings.cache_bytes,
        largest_message: settings.clients.max_message,
        rewrite_log_from: settings.rewrite_log_from,
        versions_an_epoch: super::VERSIONS_AN_EPOCH,
    };
    let doing = Doing::new(format!("opening {}", settings.data_dir.join("leader_metadata").display()));
    let start = Leader::start(&settings.data_dir, told, seams, stop.clone(), source);
    let Some(leader) = while_starting(&stop, &doing, false, start).await else { return Ok(()) };
    let leader = leader?;
    let source = settings.tolerance.clone();
    let watch = tolerance::watch(source, said, leader.last_tolerance, hang_up, leader.coordinator.clone());
    tokio::spawn(stop.vital("tolerance", watch));
    let end = CancellationToken::new();
    let users = Arc::new(Users::new(settings.clients.password.as_deref(), settings.asks_for_certificates()));
    users.load(leader.coordinator.cluster().state().users());
    let allowed = allow_open_ports(settings, &listeners, &users);
    let attended = match allowed {
        Err(error) => Err(error),
        Ok(()) => attend((&leader, users), settings, listeners, (&stop, &end, is_first), events).await,
    };
    // However it ended, what was admitted is finished, and the readable view with it.
    stop.request();
    if stop.failure().is_some() {
        end.cancel();
        leader.abandon().await;
        return attended.map(drop);
    }
    leader.drain().await;
    // Nodes beat until then, and the last answers are on their way out.
    end.cancel();
    let (local, grpc) = match attended {
        Ok((local, grpc)) => (Ok(local), Some(grpc)),
        Err(error) => (Err(error), None),
    };
    if let Some(grpc) = grpc {
        let _ = timeout(LAST_ANSWERS, grpc).await;
    }
    leader.close().await;
    local.map(drop)
}

/// Serves until the stop is requested. Gives the local nodes, which end when they are dropped: they are to outlive the
/// leader, which would report them as down.
async fn attend(
    (leader, users): (&Leader, Arc<Users>),
    settings: &Settings,
    Listeners { clients, encrypted, sentinel, nodes, http }: Listeners,
    (stop, end, is_first): (&Stop, &CancellationToken, bool),
    events: EventRing,
) -> anyhow::Result<(LocalNodes, JoinHandle<()>)> {
    let nodes_address = nodes.local_addr()?;
    let address_of = |listener: &Option<TcpListener>| listener.as_ref().map(TcpListener::local_addr).transpose();
    let encrypted_address = address_of(&encrypted)?;
    // Those who may come by TLS only are told where that is.
    let clients_address = address_of(&clients)?.or(encrypted_address).context("there is no port for clients")?;
    let coordinator = leader.coordinator.clone();
    let acceptor = settings.tls.as_ref().map(|tls| tls.acceptor.clone());
    let sentinel_address = address_of(&sentinel)?;
    let plain = |listener| (listener, None, false);
    // Where all that clients say is encrypted, this is too.
    let of_sentinel = acceptor.clone().filter(|_| clients.is_none());
    let entrances = [
        clients.map(plain),
        encrypted.map(|listener| (listener, acceptor.clone(), false)),
        sentinel.map(|listener| (listener, of_sentinel, true)),
    ];
    let entrances = entrances.into_iter().flatten().map(|(listener, tls, is_sentinel)| {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        Ok(Entrance { listener, tls, is_sentinel })
    });
    let entrances = entrances.collect::<std::io::Result<Vec<_>>>()?;
    let gateway = gateway::run(entrances, coordinator.clone(), users.clone(), settings.clients.clone());
    let gateway = tokio::spawn(stop.vital("gateway", gateway));
    if let Some(tls) = &settings.cluster_tls {
        tracing::info!("{}", tls.said());
    }
    // A peer follows them whether it leads or not.
    if is_first {
        watch_certificates(settings, stop);
    }
    let how = Serving {
        max_message: settings.clients.max_message + BESIDE_MESSAGE,
        halves: Some(Holdings::new(settings.clients.limits.max_partial_bytes)),
        // What waits for one door must leave room for the other.
        max_unsent: coordinator.pot().size().limit / 2,
        tls: settings.cluster_tls.clone(),
        ready: keep_ready(coordinator.clone()),
        stop: stop.clone(),
        end: end.clone(),
    };
    let service = LeaderService::new(coordinator.clone(), leader.membership.clone(), users.clone(), &settings.clients);
    let grpc = tokio::spawn(serve_grpc(tokio::net::TcpListener::from_std(nodes)?, service, how));
    // The screen is not up yet: these lines stay above it.
    if is_first {
        say_ready(&format!("leader ready clients={clients_address} nodes={nodes_address}"), false);
    }
    if let Some(address) = encrypted_address.filter(|_| is_first) {
        say_ready(&format!("leader tls={address}"), false);
    }
    if let Some(address) = sentinel_address.filter(|_| is_first) {
        say_ready(&format!("leader sentinel={address}"), false);
    }
    let looked = coordinator.clone();
    let status = format!("clients on {clients_address}, nodes on {nodes_address}");
    tokio::spawn(keep_notified(stop.clone(), status, move || drop(looked.cluster())));
    let http_address = http.as_ref().and_then(|listener| listener.local_addr().ok());
    let addresses = Addresses {
        clients: clients_address.to_string(),
        nodes: nodes_address.to_string(),
        http: http_address.map(|address| address.to_string()),
    };
    let reporter = || Reporter::new(coordinator.clone(), events.clone(), addresses.clone(), settings.report_every);
    if let Some(listener) = http {
        let address = listener.local_addr()?;
        let tls = acceptor.filter(|_| settings.http_tls).map(|tls| tls.for_http());
        let guard = Guard::new(address.ip(), settings.http_token.clone());
        let site = Site::new(coordinator.clone(), reporter(), settings.data_dir.clone(), users, guard);
        http::start(listener, tls, site.with_certificates(settings.certificates()))?;
        if is_first {
            say_ready(&format!("leader http={address}"), false);
        }
    }
    let local = start_local(settings, nodes_address, coordinator.clone())?;
    let mut reporter = reporter();
    let view = move |period| reporter.view(period);
    if settings.screen {
        terminal::run_screen(settings.report_every, stop.token(), view, dashboard::LEADER).await;
    } else if settings.reports {
        terminal::run_lines(settings.report_every, stop.token(), view, dashboard::LEADER).await;
    }
    stop.requested().await;
    let _ = gateway.await;
    Ok((local, grpc))
}

/// Follows the files of certificates from now on, if there are some.
pub(super) fn watch_certificates(settings: &Settings, stop: &Stop) {
    let certificates = settings.certificates();
    if !certificates.is_empty() {
        tokio::spawn(stop.vital("certificates", tls::watch(certificates, stop.clone())));
    }
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

fn start_local(
    settings: &Settings,
    nodes_address: SocketAddr,
    coordinator: Arc<Coordinator>,
) -> anyhow::Result<LocalNodes> {
    let Settings { local_nodes, io_mode, layout, data_dir, .. } = settings;
    let (any_port, how) = (settings.port == Some(0), (*io_mode, *layout));
    let is_removed: IsRemoved = Arc::new(move |number| {
        let cluster = coordinator.cluster();
        let number = NodeId(number);
        cluster.registry.get(number).is_none() && cluster.state().removed().iter().any(|removed| removed.id == number)
    });
    LocalNodes::start(*local_nodes, any_port, how, data_dir, vec![nodes_address], settings.local_logs, &is_removed)
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
