//! What a standby answers on its HTTP port by itself: health, and metrics of its own. Everything else is relayed to the
//! peer that leads, with what was read of it.
//!
//! Which of both it is says the first request of a connection, in its first bytes: no more than these are read here before
//! it is known, and whoever sends them too slowly is left. A connection has one such answer, and ends with it.

use std::convert::Infallible;
use std::io::{self, Cursor};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, join};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use super::guard::Guard;
use super::reply::{self, Body, dressed, readiness, text};
use super::{HEADER_TIME, http, metrics};
use crate::leader::relay::{DIAL, no_leader};
use crate::leader::relayed::Relayed;
use crate::raft::{PeerId, Standing, Status};
use crate::tls::{Renews, Stream};

/// Paths that every peer answers by itself.
const OWN: [&str; 4] = ["/livez", "/healthz", "/readyz", "/metrics"];

/// With what a request for one of them begins.
const METHODS: [&str; 2] = ["GET ", "HEAD "];

/// Bytes that are read at once while it is not known whose a request is; a few of them say it.
const FIRST_BYTES: usize = 512;

/// A request and its answer may take so long together.
const ANSWER: Duration = Duration::from_secs(30);

/// Whose a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Too little of it is there.
    Unclear,
    /// This peer's own.
    Own,
    /// For the one that leads.
    Leader,
}

/// Looks at the beginning of a request.
fn whose(bytes: &[u8]) -> Whose {
    let mut whose = Whose::Leader;
    for method in METHODS {
        for path in OWN {
            let begins = [method.as_bytes(), path.as_bytes()].concat();
            match bytes.strip_prefix(&*begins) {
                Some([b' ' | b'?', ..]) => return Whose::Own,
                Some([]) => whose = Whose::Unclear,
                Some(_) => {}
                None if begins.starts_with(bytes) => whose = Whose::Unclear,
                None => {}
            }
        }
    }
    whose
}

/// What a standby knows of itself.
pub(in crate::leader) struct Standby {
    /// This peer.
    pub(in crate::leader) me: PeerId,
    /// Who is answered.
    pub(in crate::leader) guard: Guard,
    /// When this process began.
    pub(in crate::leader) began: Instant,
    pub(in crate::leader) standing: watch::Receiver<Standing>,
    /// The group, as this peer sees it.
    pub(in crate::leader) status: Box<dyn Fn() -> Status + Send + Sync>,
    pub(in crate::leader) relayed: Arc<Relayed>,
    /// Where its log is.
    pub(in crate::leader) data_dir: PathBuf,
    /// Certificates whose ends metrics show.
    pub(in crate::leader) certificates: Vec<Arc<dyn Renews>>,
}

impl std::fmt::Debug for Standby {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Standby").field("me", &self.me).finish_non_exhaustive()
    }
}

impl Standby {
    /// Answers a connection whose first request is for this peer. Any other is given back, with what was read of it.
    pub(in crate::leader) async fn answer(self: Arc<Self>, mut connection: TcpStream) -> Option<(TcpStream, Vec<u8>)> {
        let mut read = Vec::with_capacity(FIRST_BYTES);
        let look = async {
            loop {
                match whose(&read) {
                    Whose::Unclear if connection.read_buf(&mut read).await? == 0 => return Ok(Whose::Unclear),
                    Whose::Unclear => {}
                    whose => return io::Result::Ok(whose),
                }
            }
        };
        match timeout(HEADER_TIME, look).await {
            Ok(Ok(Whose::Leader)) => Some((connection, read)),
            Ok(Ok(Whose::Own)) => {
                let _ = timeout(ANSWER, self.serve(connection, read)).await;
                None
            }
            _ => None,
        }
    }

    async fn serve(self: Arc<Self>, connection: TcpStream, read: Vec<u8>) {
        let (rest, out) = connection.into_split();
        let both = join(Cursor::new(read).chain(rest), out);
        let service = service_fn(move |request| {
            let standby = self.clone();
            async move {
                let response = standby.route(&request).await;
                Ok::<_, Infallible>(dressed(&request, response))
            }
        });
        if let Err(error) = http().keep_alive(false).serve_connection(TokioIo::new(both), service).await {
            tracing::debug!("an HTTP connection ended: {error}");
        }
    }

    async fn route<B>(&self, request: &Request<B>) -> Response<Body> {
        if let Some(response) = self.guard.judge(request) {
            return response;
        }
        match request.uri().path() {
            "/livez" | "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" => {
                let is_for_leader = request.uri().query().is_some_and(asks_for_leader);
                let not_ready = if is_for_leader { Some(self.not_leading()) } else { self.not_ready().await };
                readiness(not_ready.as_deref())
            }
            "/metrics" => match self.metrics().await {
                Some(page) => reply::metrics(request, page),
                None => text(StatusCode::SERVICE_UNAVAILABLE, "this peer ends\n"),
            },
            _ => text(StatusCode::NOT_FOUND, "not here\n"),
        }
    }

    /// Why a client that comes here is not served now, if it is not.
    async fn not_ready(&self) -> Option<String> {
        let leader = self.standing.borrow().leader.clone();
        match leader {
            Some((leader, addresses)) if leader != self.me => {
                match timeout(DIAL, TcpStream::connect(&addresses.clients)).await {
                    Ok(Ok(_)) => None,
                    _ => Some(format!("peer {leader} leads and cannot be reached")),
                }
            }
            _ => Some(self.not_leading()),
        }
    }

    /// Why this peer is not the one that leads and serves.
    fn not_leading(&self) -> String {
        let standing = self.standing.borrow();
        match &standing.leader {
            Some((leader, _)) if *leader == self.me => "this peer leads, and does not serve yet".to_owned(),
            Some((leader, _)) => format!("peer {leader} leads"),
            None => no_leader(&standing),
        }
    }

    /// The page of metrics. On a thread that may wait, as a disk is asked that may hang.
    async fn metrics(&self) -> Option<String> {
        let (uptime, status, relayed) = (self.began.elapsed(), (self.status)(), self.relayed.clone());
        let (data_dir, certificates) = (self.data_dir.clone(), self.certificates.clone());
        let page = move || metrics::Standby::look(uptime, status, &relayed, &data_dir, &certificates).page();
        spawn_blocking(page).await.ok()
    }
}

/// Whether a query asks for the peer that leads, and not for one that relays to it.
fn asks_for_leader(query: &str) -> bool {
    query.split('&').any(|pair| pair.split('=').next() == Some("leader"))
}

/// Tells whoever was to be relayed, over HTTP, why that cannot be.
pub(in crate::leader) async fn part(connection: TcpStream, why: &str) {
    let body = format!("{why}\n");
    let head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n";
    let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    Stream::from(connection).part(answer.as_bytes()).await;
}

#[cfg(test)]
#[path = "standby_tests.rs"]
mod tests;
