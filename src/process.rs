//! What leader and node processes have in common: signals, the end of standard
//! input, ready lines, and how long a drain may take.

pub mod door;

use std::convert::Infallible;
use std::io::{self, IsTerminal, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::{Stream, StreamExt};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::server::HealthReporter;

use self::door::{Accounted, Caller, Counted, Holdings};
use crate::stop::Stop;
use crate::tls::Cluster;
use crate::wire::family::DESCRIPTORS;
use crate::wire::family::family_service_server::{FamilyService, FamilyServiceServer};
use crate::wire::{MAX_FRAME, WINDOW};
use crate::{logs, terminal};

mod notify;

pub use self::notify::{Doing, keep_notified, while_starting};

/// A gRPC peer that a quiet connection does not show is asked for a sign of life after this long, and given up after as
/// long again: a connection whose other end lost power, or its network, is not held for ever. Peers that are paused for
/// less stay.
const QUIET: Duration = Duration::from_secs(10);

/// Bytes of answers that other leader processes have not taken, at most.
const PEERS_UNSENT: usize = 64 << 20;

/// gRPC connections of a process at once. Nodes have one each, and programs few.
const MOST_CONNECTIONS: usize = 4096;

/// After a first signal everything admitted is finished; whatever takes longer is abandoned.
pub const DRAIN: Duration = Duration::from_secs(5);

/// The signals that a server takes. It takes them before it does anything else: the system's own way with them is to end
/// the process, or, if that is process 1 of a container, to drop them.
#[derive(Debug)]
pub struct Signals {
    term: Signal,
    int: Signal,
    reopen: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Takes them; a runtime must have been entered.
    pub fn take() -> anyhow::Result<Self> {
        let take = |kind| signal(kind).context("signals cannot be watched");
        Ok(Self {
            term: take(SignalKind::terminate())?,
            int: take(SignalKind::interrupt())?,
            reopen: take(SignalKind::user_defined1())?,
            hang_up: take(SignalKind::hangup())?,
        })
    }

    /// Looks after them from now on, except for SIGHUP, which is the caller's.
    pub fn attend(self, stop: &Stop) -> Signal {
        tokio::spawn(watch_ends(self.term, self.int, stop.clone()));
        tokio::spawn(reopen_logs(self.reopen));
        self.hang_up
    }
}

/// Opens the log file anew at each SIGUSR1, as those who rotate logs ask for it.
async fn reopen_logs(mut asked: Signal) {
    while asked.recv().await.is_some() {
        logs::reopen();
    }
}

/// Outlives the terminal that it was started from, and whoever tells all servers to read their settings again.
pub async fn outlive_hangups(mut hang_up: Signal) {
    while hang_up.recv().await.is_some() {
        tracing::debug!("SIGHUP: there is nothing to read again");
    }
}

/// Binds a port, before any thread or child process is started.
pub fn bind(host: IpAddr, port: u16, what: &str, flag: &str) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::new(host, port);
    let listener = TcpListener::bind(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            anyhow::anyhow!("cannot listen on {address} for {what}: the port is in use; stop the program that has it (a leader with --local-nodes runs nodes on 5555 and up), or choose another with {flag} (0: any free one)")
        }
        io::ErrorKind::PermissionDenied => {
            anyhow::anyhow!("cannot listen on {address} for {what}: not permitted; choose a port from 1024 up with {flag}")
        }
        _ => anyhow::anyhow!("cannot listen on {address} for {what}: {error}; check --host and {flag}"),
    })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A port that others than this machine reach, where what is said is not encrypted: what that means, and what helps.
/// Nothing, if it is not one.
pub fn open_port(listener: &TcpListener, what: &str, remedy: &str) -> Option<String> {
    let address = listener.local_addr().ok().filter(|address| !address.ip().is_loopback())?;
    Some(format!(
        "whoever reaches {address} {what}, and whoever is on the way can read and change what is said: {remedy}"
    ))
}

/// Says which ports are open to others than this machine.
///
/// # Errors
/// There are some, and nobody has said that this is meant.
pub fn allow_open(ports: &[String], insecure: bool) -> anyhow::Result<()> {
    if let (Some(first), false) = (ports.first(), insecure) {
        anyhow::bail!("{first}, or --insecure where only those whom you trust reach that network");
    }
    ports.iter().for_each(|port| tracing::warn!("{port}, or open it to networks that you trust alone"));
    Ok(())
}

/// How a gRPC port is served.
#[derive(Debug)]
pub struct Serving {
    /// The largest message that is taken, bytes.
    pub max_message: usize,
    /// What messages that have come in part take; none where calls are lanes.
    pub halves: Option<Arc<Holdings>>,
    /// Bytes of answers that callers have not taken, of all of them together: whoever holds most has to go.
    pub max_unsent: usize,
    /// How it is encrypted, and who may call; nothing: anybody, as it comes.
    pub tls: Option<Arc<Cluster>>,
    /// What the family service's health says.
    pub ready: watch::Receiver<bool>,
    /// From here on it is not serving, whatever `ready` says; and what the process ends with if the server fails.
    pub stop: Stop,
    /// The server ends: no call comes in any more, and those that are under way end first.
    pub end: CancellationToken,
}

/// Serves gRPC until its end: the family service, health, and reflection.
///
/// The health of the family service is what `ready` says; that of the whole server (the empty name) is that it answers.
pub async fn serve_grpc<S: FamilyService>(listener: tokio::net::TcpListener, service: S, how: Serving) {
    let Serving { max_message, halves, max_unsent, tls, ready, stop, end } = how;
    let result = async {
        let (health, health_service) = tonic_health::server::health_reporter();
        // Known before anybody can ask: who watches a service that is not known is told that there is none.
        let serving = *ready.borrow();
        set_health::<S>(&health, serving).await;
        tokio::spawn(keep_health::<S>(health, ready, stop.clone()));
        // Many tools still ask in the older form.
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let older = reflection().build_v1alpha().map_err(|error| error.to_string())?;
        let reflection = reflection().build_v1().map_err(|error| error.to_string())?;
        let family = FamilyServiceServer::new(service);
        let family = family.max_decoding_message_size(max_message).max_encoding_message_size(MAX_FRAME);
        let answers = Holdings::new(max_unsent);
        let family = Accounted::new(family, halves, answers.clone());
        let server = Server::builder().initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let server = server.http2_keepalive_interval(Some(QUIET)).http2_keepalive_timeout(Some(QUIET));
        let server =
            { server }.add_service(family).add_service(health_service).add_service(reflection).add_service(older);
        // The builder's own tcp_nodelay is for listeners that it binds itself.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true)).with_keepalive(Some(QUIET));
        let incoming = counted(incoming, answers, tls);
        server.serve_with_incoming_shutdown(incoming, end.cancelled_owned()).await.map_err(|error| error.to_string())
    };
    if let Err(error) = result.await {
        stop.fail(format!("the gRPC server failed: {error}"));
    }
}

/// Serves the port between leader processes until the stop, for them alone where there are certificates.
pub async fn serve_peers<S>(listener: tokio::net::TcpListener, service: S, tls: Option<Arc<Cluster>>, stop: Stop)
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S: NamedService + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let only_peers = |request: tonic::Request<()>| Caller::of(&request)?.must_be_peer().map(|()| request);
    let server = Server::builder().initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
    let server = server.http2_keepalive_interval(Some(QUIET)).http2_keepalive_timeout(Some(QUIET));
    let server = { server }.add_service(InterceptedService::new(service, only_peers));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true)).with_keepalive(Some(QUIET));
    let incoming = counted(incoming, Holdings::new(PEERS_UNSENT), tls);
    if let Err(error) = server.serve_with_incoming_shutdown(incoming, stop.token().cancelled_owned()).await {
        stop.fail(format!("the server for peers failed: {error}"));
    }
}

/// Connections up to [`MOST_CONNECTIONS`] at once; one more is closed. Handshakes take their time beside one another.
fn counted(
    incoming: TcpIncoming,
    answers: Arc<Holdings>,
    tls: Option<Arc<Cluster>>,
) -> impl Stream<Item = io::Result<Counted>> {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let acceptor = tls.as_ref().map(|tls| tls.acceptor());
    let taken = incoming.map(move |stream| {
        let (place, answers) = (places.clone().try_acquire_owned(), answers.clone());
        let (tls, acceptor) = (tls.clone(), acceptor.clone());
        async move {
            let Ok(place) = place else {
                tracing::debug!("a gRPC connection was closed: {MOST_CONNECTIONS} are open");
                return None;
            };
            let stream = match stream {
                Ok(stream) => stream,
                Err(error) => return Some(Err(error)),
            };
            let (Some(tls), Some(acceptor)) = (tls, acceptor) else {
                return Some(Ok(Counted::new(stream.into(), None, place, &answers)));
            };
            // Whatever is wrong is of one caller, who was told; an error here would end the server.
            let stream = acceptor.accept(stream).await.ok()?;
            let caller = tls.caller(&stream).inspect_err(|error| tracing::info!("a gRPC caller was refused: {error}"));
            Some(Ok(Counted::new(stream, caller.ok()?, place, &answers)))
        }
    });
    taken.buffer_unordered(MOST_CONNECTIONS).filter_map(std::future::ready)
}

/// Tells the health of the family service until its server has ended; from the stop on, that it does not serve.
async fn keep_health<S: FamilyService>(health: HealthReporter, mut ready: watch::Receiver<bool>, stop: Stop) {
    loop {
        let serving = *ready.borrow_and_update() && !stop.is_requested();
        set_health::<S>(&health, serving).await;
        if stop.is_requested() {
            return;
        }
        if stop.unless(ready.changed()).await.is_some_and(|changed| changed.is_err()) {
            return;
        }
    }
}

async fn set_health<S: FamilyService>(health: &HealthReporter, serving: bool) {
    match serving {
        true => health.set_serving::<FamilyServiceServer<S>>().await,
        false => health.set_not_serving::<FamilyServiceServer<S>>().await,
    }
}

/// Says on stderr that the server is ready, whatever the log shows; where that would tear a `screen`, as an event on it.
pub fn say_ready(line: &str, screen: bool) {
    if screen && io::stderr().is_terminal() {
        return tracing::info!("{line}");
    }
    let _ = writeln!(io::stderr().lock(), "{}", logs::told(line));
}

/// Asks for the end at the first SIGTERM or SIGINT, and ends the process at the second.
async fn watch_ends(mut term: Signal, mut int: Signal, stop: Stop) {
    let mut asked = false;
    loop {
        either(&mut term, &mut int).await;
        if asked {
            terminal::restore();
            std::process::exit(1);
        }
        asked = true;
        tracing::info!("stopping: what was admitted is finished first; a second signal stops at once");
        stop.request();
    }
}

async fn either(term: &mut Signal, int: &mut Signal) {
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// Asks for the end when standard input ends: whoever started this process is gone.
pub fn watch_stdin(stop: Stop) {
    std::thread::spawn(move || {
        let mut buffer = [0; 256];
        while matches!(io::stdin().lock().read(&mut buffer), Ok(n) if n > 0) {}
        stop.request();
    });
}

/// As many open files as the system lets this process have: every client and every message under way takes one. Gives
/// how many that are; nothing: there is no limit.
pub fn raise_file_limit() -> Option<u64> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
    getrlimit(Resource::Nofile).current
}

/// Bytes of memory that this process may have: that of the machine, or what its control groups allow; nothing: not known.
pub fn memory() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? << 10)
    });
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    limits_of(&groups).chain(machine).min()
}

/// What the control groups that `/proc/self/cgroup` names allow, and those above them: of version 2, and of version 1.
fn limits_of(groups: &str) -> impl Iterator<Item = u64> {
    let files = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        match controllers {
            "" => Some((path, "/sys/fs/cgroup", "memory.max")),
            _ if controllers.split(',').any(|name| name == "memory") => {
                Some((path, "/sys/fs/cgroup/memory", "memory.limit_in_bytes"))
            }
            _ => None,
        }
    });
    let above = |(path, root, file): (&str, &'static str, &'static str)| {
        let path = Path::new(path.trim_start_matches('/')).to_owned();
        let all: Vec<_> = path.ancestors().map(|group| Path::new(root).join(group).join(file)).collect();
        all
    };
    let files: Vec<_> = files.flat_map(above).collect();
    // "max" is no number, and no limit.
    files.into_iter().filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok())
}

/// Ends the process if the drain takes too long.
pub fn limit_drain(stop: Stop, handle: &tokio::runtime::Handle) {
    handle.spawn(async move {
        stop.requested().await;
        tokio::time::sleep(DRAIN).await;
        terminal::restore();
        let _ = writeln!(
            io::stderr().lock(),
            "hatokuse: the drain took longer than {DRAIN:?}; what was not acknowledged may be lost"
        );
        std::process::exit(1);
    });
}
