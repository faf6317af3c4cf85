//! What leader and node processes have in common: signals, the end of standard
//! input, ready lines, and how long a drain may take.

use std::io::{self, IsTerminal, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use sd_notify::NotifyState;
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

/// After a first signal everything admitted is finished; whatever takes longer is abandoned.
pub const DRAIN: Duration = Duration::from_secs(5);

/// Opens the log file anew at each SIGUSR1, as those who rotate logs ask for it.
pub async fn reopen_logs() {
    let Ok(mut asked) = signal(SignalKind::user_defined1()) else {
        return tracing::warn!("SIGUSR1 cannot be watched: the log file is not opened anew");
    };
    while asked.recv().await.is_some() {
        logs::reopen();
    }
}

/// Outlives the terminal that it was started from, and whoever tells all servers to read their settings again.
pub async fn outlive_hangups() {
    let Ok(mut hang_up) = signal(SignalKind::hangup()) else {
        return tracing::warn!("SIGHUP cannot be watched: it ends this process");
    };
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
        match serving {
            true => health.set_serving::<FamilyServiceServer<S>>().await,
            false => health.set_not_serving::<FamilyServiceServer<S>>().await,
        }
        if ready.changed().await.is_err() {
            return;
        }
    }
}

/// Says on stderr that the server is ready, whatever the log shows; where that would tear a `screen`, as an event on it.
pub fn say_ready(line: &str, screen: bool) {
    if screen && io::stderr().is_terminal() {
        return tracing::info!("{line}");
    }
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Tells the service manager that started this process, if any did (sd_notify(3)), that it serves, later that it stops,
/// and as often as it wants to hear it that it is alive. `look` touches what everything else needs: while that is
/// stuck, nothing is told, and the service manager starts the process anew.
pub async fn keep_notified(stop: Stop, look: impl Fn()) {
    let tell = |state: NotifyState<'_>| {
        if let Err(error) = sd_notify::notify(&[state]) {
            tracing::debug!("the service manager could not be told: {error}");
        }
    };
    tell(NotifyState::Ready);
    match sd_notify::watchdog_enabled() {
        None => stop.requested().await,
        Some(every) => {
            let mut tick = tokio::time::interval(every / 2);
            while stop.unless(tick.tick()).await.is_some() {
                look();
                tell(NotifyState::Watchdog);
            }
        }
    }
    tell(NotifyState::Stopping);
}

/// Asks for the end at the first SIGTERM or SIGINT, and ends the process at the second.
pub async fn watch_signals(stop: Stop) {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return tracing::warn!("signals cannot be watched");
    };
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
