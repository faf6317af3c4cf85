//! What leader and node processes have in common: signals, the end of standard
//! input, ready lines, and how long a drain may take.

use std::io::{self, IsTerminal, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::server::HealthReporter;

use crate::stop::Stop;
use crate::wire::family::DESCRIPTORS;
use crate::wire::family::family_service_server::{FamilyService, FamilyServiceServer};
use crate::wire::{MAX_FRAME, WINDOW};
use crate::{logs, terminal};

mod notify;

pub use self::notify::{Doing, keep_notified, while_starting};

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
            anyhow::anyhow!("cannot listen on {address} for {what}: the port is in use; stop the program that has it, or choose another with {flag} (0: any free one)")
        }
        io::ErrorKind::PermissionDenied => {
            anyhow::anyhow!("cannot listen on {address} for {what}: not permitted; choose a port from 1024 up with {flag}")
        }
        _ => anyhow::anyhow!("cannot listen on {address} for {what}: {error}; check --host and {flag}"),
    })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves gRPC until the process ends: the family service, health, and reflection.
///
/// The health of the family service is what `ready` says; that of the whole server (the empty name) is that it answers.
pub async fn serve_grpc<S: FamilyService>(
    listener: tokio::net::TcpListener,
    service: S,
    ready: watch::Receiver<bool>,
    stop: Stop,
) {
    let result = async {
        let (health, health_service) = tonic_health::server::health_reporter();
        // Known before anybody can ask: who watches a service that is not known is told that there is none.
        let serving = *ready.borrow();
        set_health::<S>(&health, serving).await;
        tokio::spawn(keep_health::<S>(health, ready));
        // Many tools still ask in the older form.
        let reflection =
            || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS);
        let older = reflection().build_v1alpha().map_err(|error| error.to_string())?;
        let reflection = reflection().build_v1().map_err(|error| error.to_string())?;
        let family = FamilyServiceServer::new(service);
        let family = family.max_decoding_message_size(MAX_FRAME).max_encoding_message_size(MAX_FRAME);
        let server = Server::builder().initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let server =
            { server }.add_service(family).add_service(health_service).add_service(reflection).add_service(older);
        // The builder's own tcp_nodelay is for listeners that it binds itself.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        server.serve_with_incoming(incoming).await.map_err(|error| error.to_string())
    };
    if let Err(error) = result.await {
        stop.fail(format!("the gRPC server failed: {error}"));
    }
}

/// Tells the health of the family service until its server has ended.
async fn keep_health<S: FamilyService>(health: HealthReporter, mut ready: watch::Receiver<bool>) {
    loop {
        let serving = *ready.borrow_and_update();
        set_health::<S>(&health, serving).await;
        if ready.changed().await.is_err() {
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

/// As many open files as the system lets this process have: every client and every message under way takes one.
pub fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
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
