//! What the service manager that started this process is told, if any did: sd_notify(3) over a datagram socket.
//!
//! It never decides anything: what cannot be told is left out.

use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::stop::Stop;

/// A service manager that takes nothing for this long is not waited for.
const TELL_WITHIN: Duration = Duration::from_secs(1);

/// A start that is over sooner says nothing but that it is.
const SHORT_START: Duration = Duration::from_millis(100);

/// A longer one is told of this often.
const STARTING_TOLD_EVERY: Duration = Duration::from_secs(1);

/// Time that a start asks for each time: enough for a machine that is too busy to tell again in a second.
const EXTENSION: Duration = Duration::from_secs(60);

/// What a start is doing now, in words.
#[derive(Debug, Clone)]
pub struct Doing(watch::Sender<String>);

impl Doing {
    /// The first thing.
    pub fn new(what: impl Into<String>) -> Self {
        Self(watch::channel(what.into()).0)
    }

    /// Another one, or how far it is.
    pub fn now(&self, what: impl Into<String>) {
        self.0.send_replace(what.into());
    }
}

/// Does what comes before a server serves, while the service manager hears that it goes on: at once if that is `long`.
/// Nothing comes of it if the end is asked for first.
pub async fn while_starting<T>(stop: &Stop, doing: &Doing, long: bool, work: impl Future<Output = T>) -> Option<T> {
    let began = Instant::now();
    let go_on = async {
        if !long {
            tokio::time::sleep(SHORT_START).await;
        }
        let mut tick = tokio::time::interval(STARTING_TOLD_EVERY);
        loop {
            tick.tick().await;
            let (usec, seconds) = (EXTENSION.as_micros(), began.elapsed().as_secs());
            let status = format!("{} ({seconds} s)", *doing.0.borrow());
            tell(&format!("EXTEND_TIMEOUT_USEC={usec}\nSTATUS={status}\n"));
        }
    };
    let done = tokio::select! {
        done = stop.unless(work) => done,
        () = go_on => None,
    };
    if done.is_none() {
        tell("STOPPING=1\n");
    }
    done
}

/// Tells that the server serves, later that it stops, and as often as the service manager wants to hear it that it is
/// alive. `look` touches what everything else needs: while that is stuck, nothing is told, and the service manager
/// starts the process anew.
pub async fn keep_notified(stop: Stop, status: String, look: impl Fn()) {
    tell(&format!("READY=1\nSTATUS={status}\n"));
    match watchdog(std::env::var("WATCHDOG_USEC").ok(), std::env::var("WATCHDOG_PID").ok()) {
        None => stop.requested().await,
        Some(every) => {
            let mut tick = tokio::time::interval(every / 2);
            while stop.unless(tick.tick()).await.is_some() {
                look();
                tell("WATCHDOG=1\n");
            }
        }
    }
    tell("STOPPING=1\n");
}

/// How long the service manager waits for a sign of life, if it waits for one of this process.
fn watchdog(usec: Option<String>, pid: Option<String>) -> Option<Duration> {
    let usec: u64 = usec?.parse().ok().filter(|usec| *usec > 0)?;
    pid.is_none_or(|pid| pid == std::process::id().to_string()).then(|| Duration::from_micros(usec))
}

fn tell(lines: &str) {
    let Some(to) = std::env::var_os("NOTIFY_SOCKET").filter(|to| !to.is_empty()) else { return };
    if let Err(error) = send(&to, lines.as_bytes()) {
        tracing::debug!("the service manager could not be told: {error}");
    }
}

fn send(to: &OsString, lines: &[u8]) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(TELL_WITHIN))?;
    socket.connect_addr(&address(to)?)?;
    socket.send(lines).map(drop)
}

/// A path, or behind an `@` a name in the abstract name space.
fn address(to: &OsStr) -> io::Result<SocketAddr> {
    match to.as_bytes() {
        [b'@', name @ ..] if !name.is_empty() => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(to),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, format!("NOTIFY_SOCKET={to:?} is no path and no @name"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_a_path_or_an_abstract_name() {
        assert_eq!(address(OsStr::new("@a/b")).unwrap().as_abstract_name(), Some(b"a/b".as_slice()));
        assert!(address(OsStr::new("/run/n")).unwrap().as_pathname().is_some());
        for bad in ["@", "run/n", "vsock:2:1"] {
            assert!(address(OsStr::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_watchdog_is_for_the_process_that_it_names() {
        let (own, text) = (std::process::id().to_string(), |text: &str| Some(text.to_owned()));
        let second = Some(Duration::from_secs(1));
        assert_eq!(watchdog(text("1000000"), None), second);
        assert_eq!(watchdog(text("1000000"), Some(own)), second);
        for (usec, pid) in [(None, None), (text("0"), None), (text("x"), None), (text("1000000"), text("1"))] {
            assert_eq!(watchdog(usec, pid), None);
        }
    }
}
