//! TCP 6666, and its twin with TLS: who is let in, and under which limits. With `connection` the only place that touches client sockets.
//!
//! A connection speaks the text protocol until a line begins with `*`: from then on it speaks the Redis
//! protocol, which `session`, `data` and `server` carry out. Limits are the same for both.

mod acl;
mod backup;
mod bits;
mod clients;
mod connection;
mod cuts;
mod data;
mod deadlines;
mod entrance;
mod eval;
mod floats;
mod group;
mod help;
mod keyspace;
mod lcs;
mod multi;
mod outbox;
mod pipeline;
mod refused;
mod rights;
mod run;
mod script;
mod server;
mod session;
mod text;
mod tools;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use self::clients::Clients;
pub(super) use self::clients::line_of;
use self::connection::Connection;
use self::cuts::Cuts;
pub use self::entrance::Entrance;
pub(super) use self::help::sentinel as sentinel_help;
pub(super) use self::refused::SYNTAX;
pub(super) use self::rights::{check_command, noted, refusal};
use self::script::Scripts;
pub(super) use self::server::{REDIS_VERSION, command, hello};
use super::coordinator::Coordinator;
use super::every;
use super::heavy::Heavy;
use super::sentinel;
use super::shares::{Pot, Size};
use super::users::Users;
use crate::error::Refusal;
use crate::process::memory;
use crate::protocol::Reply;
use crate::protocol::resp::Value;
use crate::protocol::text::{Dialect, encode_reply};
use crate::telemetry::repeats::Repeats;
use crate::tls::Stream;

/// The reply to what was done and has nothing to give.
const OK: Value = Value::Simple("OK");

/// The words of a request, for tests.
#[cfg(test)]
fn words(line: &str) -> crate::protocol::resp::Words {
    line.split(' ').map(|word| bytes::Bytes::copy_from_slice(word.as_bytes())).collect()
}

/// How clients are served.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Largest message, bytes.
    pub max_message: usize,
    /// What clients may take.
    pub limits: Limits,
    /// The password of user `default`, from a file.
    pub password: Option<String>,
    /// FLUSHALL and FLUSHDB delete everything, instead of being refused.
    pub allow_flush: bool,
    /// A line of text that has not ended is run when nothing more of it has come for so long. The danger: a
    /// connection that stalls in the middle of a line has the first half of it run.
    pub unterminated: Option<Duration>,
    /// How a GET is answered on a line of text.
    pub dialect: Dialect,
    /// How clients find who leads.
    pub sentinel: sentinel::Settings,
}

/// What all connections share.
#[derive(Debug)]
struct Door {
    settings: Settings,
    users: Arc<Users>,
    clients: Arc<Clients>,
    /// Bytes of unfinished requests, of all connections.
    partial: Arc<Pot>,
    cuts: Cuts,
    heavy: Heavy,
    scripts: Arc<Scripts>,
    /// One VERIFY at a time: each reads everything that there is.
    verify: Arc<Semaphore>,
    /// One step of a walk over all ids at a time.
    walk: Semaphore,
    /// What cursors of SCAN have of this run of the leader.
    run: u64,
    /// The port for clients.
    port: u16,
    /// That for TLS, where there is one without it too.
    tls_port: Option<u16>,
}

/// Whether this is the password, in the same time wherever they differ.
pub(super) fn is_password(right: &str, given: &[u8]) -> bool {
    let right = right.as_bytes();
    right.iter().zip(given).fold(right.len() ^ given.len(), |all, (a, b)| all | usize::from(a ^ b)) == 0
}

/// What clients may take of the leader.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Clients connected at once; one more is told so, and cut off.
    pub max_clients: usize,
    /// A client that asks nothing for this long is cut off; zero: never.
    pub idle_timeout: Duration,
    /// In each such time an unfinished line has to end or to grow by 1 KiB a second, or is cut off.
    pub line_timeout: Duration,
    /// In each such time a client has to take 1 KiB a second of its replies, or all, or is cut off.
    pub write_deadline: Duration,
    /// Bytes of unfinished requests that are held for all clients together; less where there is less memory.
    pub max_partial_bytes: usize,
}

/// Connections that are being told why they end, at most; more end untold. Each has an open file of those that clients
/// leave to others.
const MOST_PARTINGS: usize = 64;

/// How long a client for which there is no place has to show what it speaks.
const FIRST_BYTE: Duration = Duration::from_millis(250);

/// A pause after an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Takes clients until the leader stops.
pub async fn run(entrances: Vec<Entrance>, coordinator: Arc<Coordinator>, users: Arc<Users>, settings: Settings) {
    let places = Arc::new(Semaphore::new(settings.limits.max_clients.min(Semaphore::MAX_PERMITS)));
    let partings = Arc::new(Semaphore::new(MOST_PARTINGS));
    let door = Arc::new(Door {
        partial: Pot::new(Size::of(settings.limits.max_partial_bytes, memory())),
        settings,
        users,
        clients: Arc::default(),
        cuts: Cuts::default(),
        heavy: Heavy::start("heavy"),
        scripts: Arc::new(Scripts::new(coordinator.meters.scripts.clone())),
        verify: Arc::new(Semaphore::new(1)),
        walk: Semaphore::new(1),
        run: keyspace::mark_of_run(),
        port: entrance::first_port(&entrances),
        tls_port: entrance::second_port(&entrances),
    });
    let stop = coordinator.stop.clone();
    let mut second = every(Duration::from_secs(1));
    let mut said = Repeats::default();
    loop {
        let accepted = tokio::select! {
            accepted = entrance::accept(&entrances) => accepted,
            _ = second.tick() => {
                door.clients.pace.tick(Instant::now());
                continue;
            }
            () = stop.requested() => {
                door.scripts.kill();
                return;
            }
        };
        let (stream, entrance) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(unsaid) = said.note(&error.to_string(), coordinator.now()) {
                    tracing::warn!("cannot accept a client: {error}{unsaid}");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let partings = partings.clone();
        let Ok(place) = places.clone().try_acquire_owned() else {
            door.clients.refused.fetch_add(1, Ordering::Relaxed);
            // Who speaks TLS could not read it.
            if let (None, Ok(parting)) = (&entrance.tls, partings.try_acquire_owned()) {
                tokio::spawn(turn_away(stream, parting));
            }
            continue;
        };
        let (coordinator, door) = (coordinator.clone(), door.clone());
        let (acceptor, is_sentinel) = (entrance.tls.clone(), entrance.is_sentinel);
        let tasks = coordinator.tasks.clone();
        let counted = Counted::new(&coordinator);
        tasks.spawn(async move {
            // An error here is the client's going, which is its right.
            if let Ok(stream) = entrance::enter(stream, acceptor).await
                && let Ok(mut connection) = Connection::new(stream, is_sentinel, coordinator.clone(), door)
            {
                match connection.serve().await {
                    Ok(true) => {
                        if let Ok(_parting) = partings.try_acquire_owned() {
                            let (stream, why) = connection.into_parting();
                            stream.part(&why).await;
                        }
                    }
                    Ok(false) => connection.say_end(),
                    Err(_) => {}
                }
            }
            drop((counted, place));
        });
    }
}

/// Tells a client that there is no place for it, in the protocol that its first byte is of; who says nothing is told so
/// as text.
async fn turn_away(stream: TcpStream, _parting: OwnedSemaphorePermit) {
    let refusal = Refusal::Busy("as many clients as --max-clients allows are connected");
    part(stream, refusal, "ERR max number of clients reached".to_owned()).await;
}

/// Ends a connection with this refusal, or, where its first byte is of the Redis protocol, with that error.
pub(super) async fn part(stream: TcpStream, refusal: Refusal, redis: String) {
    let mut first = [0];
    let speaks_resp =
        timeout(FIRST_BYTE, stream.peek(&mut first)).await.is_ok_and(|read| read.is_ok()) && first == *b"*";
    let mut why = BytesMut::new();
    if speaks_resp {
        Value::Error(redis).encode(2, &mut why);
    } else {
        encode_reply(&Reply::Refused(refusal), &mut why);
    }
    Stream::from(stream).part(&why).await;
}

/// A client that the meters count as connected, until this is dropped.
struct Counted(Arc<Coordinator>);

impl Counted {
    fn new(coordinator: &Arc<Coordinator>) -> Self {
        coordinator.meters.clients.fetch_add(1, Ordering::Relaxed);
        Self(coordinator.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.meters.clients.fetch_sub(1, Ordering::Relaxed);
    }
}
