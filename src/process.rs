//! What leader and node processes have in common: signals, the end of standard
//! input, ready lines, and how long a drain may take.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::stop::Stop;
use crate::terminal;

/// After a first signal everything admitted is finished; whatever takes longer is abandoned.
pub const DRAIN: Duration = Duration::from_secs(5);

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

/// Says on stderr that the server is ready, whatever the log shows.
pub fn say_ready(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
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
