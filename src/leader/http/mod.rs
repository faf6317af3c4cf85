//! The leader's HTTP port: metrics, health, and a page to look at; and what a standby says on its own. It reads, and
//! changes nothing.
//!
//! It has a thread of its own, so that no scraper and no browser takes a turn from clients. Everything about a
//! connection is bounded: how many there are, what a request may be, how long it may take, and how long replies wait
//! for a reader. Messages themselves are never shown, only where they are.

mod api;
mod charts;
mod exposition;
mod guard;
mod metrics;
mod pace;
mod page;
mod reply;
mod site;
mod standby;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub(super) use self::guard::Guard;
use self::pace::Paced;
pub(super) use self::site::Site;
pub(super) use self::standby::{Standby, part};
use crate::telemetry::repeats::Repeats;
use crate::tls::{Acceptor, Stream};

/// The port, unless another one is asked for.
pub const DEFAULT_PORT: u16 = 7666;

/// A port that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// None at all.
    Off,
    /// This one; 0: any free one.
    At(u16),
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            port => port.parse().map(Self::At).map_err(|_| format!("{text:?} is no port; write a number, or off")),
        }
    }
}

/// Connections at once; one more is told so, and closed.
pub(super) const CONNECTIONS: usize = 64;

/// Of these, readers of `/events`, which stay: the rest is for those who come and go.
const WATCHERS: usize = 32;

/// A request line with its headers.
const HEADER_BYTES: usize = 8 << 10;

/// Headers of a request.
const HEADERS: usize = 64;

/// By then a request has to be there, or the next one on its connection.
const HEADER_TIME: Duration = Duration::from_secs(10);

/// What the system keeps of replies for a reader that does not read.
const SEND_BUFFER: usize = 64 << 10;

/// A pause after an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 43\r\n\
    Connection: close\r\n\r\nas many connections as are served are open\n";

/// Starts the thread that serves `site`. It ends with the leader; if it fails, the leader goes on without it.
pub(super) fn start(listener: TcpListener, tls: Option<Acceptor>, site: Site) -> io::Result<()> {
    rustix::net::sockopt::set_socket_send_buffer_size(&listener, SEND_BUFFER)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let serve = move || {
        let ended =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(serve(listener, tls, site))));
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!("the HTTP port is not served any more: {error}"),
            Err(_) => tracing::error!("the HTTP port is not served any more: its thread failed"),
        }
    };
    std::thread::Builder::new().name("http".to_owned()).spawn(serve).map(drop)
}

async fn serve(listener: TcpListener, tls: Option<Acceptor>, site: Site) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let (site, places) = (Arc::new(site), Arc::new(Semaphore::new(CONNECTIONS)));
    let stop = site.coordinator.stop.clone();
    let mut said = Repeats::default();
    let mut tasks = JoinSet::new();
    tasks.spawn(site.clone().sample());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
            // What is under way ends with the set of tasks.
            () = stop.requested() => return Ok(()),
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                if let Some(unsaid) = said.note(&error.to_string(), site.coordinator.now()) {
                    tracing::warn!("cannot accept an HTTP connection: {error}{unsaid}");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match places.clone().try_acquire_owned() {
            Ok(place) => {
                let (site, tls) = (site.clone(), tls.clone());
                tasks.spawn(async move {
                    match tls {
                        None => connection(stream.into(), site).await,
                        Some(tls) => {
                            // Whatever went wrong was told.
                            if let Ok(stream) = tls.accept(stream).await {
                                connection(stream, site).await;
                            }
                        }
                    }
                    drop(place);
                });
            }
            // Who is not told finds a closed connection.
            Err(_) if tls.is_none() => drop(stream.try_write(FULL)),
            Err(_) => {}
        }
    }
}

async fn connection(stream: Stream, site: Arc<Site>) {
    let from = stream.peer_addr().map_or(IpAddr::from([0, 0, 0, 0]), |addr| addr.ip());
    let service = service_fn(move |request| {
        let site = site.clone();
        async move { Ok::<_, Infallible>(site.answer(&request, from).await) }
    });
    // An error here is the other side's: it went, was too slow, or sent what is no request and was told so.
    if let Err(error) = http().serve_connection(TokioIo::new(Paced::new(stream)), service).await {
        tracing::debug!("an HTTP connection ended: {error}");
    }
}

/// How requests are read, within their limits.
fn http() -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIME).max_header_size(HEADER_BYTES).max_headers(HEADERS);
    http
}
