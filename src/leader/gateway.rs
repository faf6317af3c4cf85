//! TCP 6666: accept, frame, limit, reply. The only place that touches client sockets.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout, timeout_at};

use super::coordinator::{Coordinator, Request, Room};
use crate::error::Refusal;
use crate::protocol::text::{CommandDecoder, encode_reply};
use crate::protocol::{Command, Decoded, Reply};
use crate::telemetry::served::Protocol;

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
    /// Bytes of unfinished lines that are held for all clients together.
    pub max_partial_bytes: usize,
}

/// Bytes a second that a line has to grow by, and that replies have to be taken with.
const SLOWEST: u64 = 1024;

/// Connections that are being told why they end, at most; more end untold.
const MOST_PARTINGS: usize = 256;

/// How long a client that was told why it is cut off has to read that and to go.
const PARTING: Duration = Duration::from_secs(1);

/// An emptied buffer above this is given back before a client is waited for.
const KEPT_CAPACITY: usize = 4 << 10;

/// Requests decoded ahead of their execution, on one connection.
const QUEUED_REQUESTS: usize = 4096;

/// Findings of VERIFY that wait for a slow client.
const QUEUED_FINDINGS: usize = 64;

/// Room made for each read.
const READ_SIZE: usize = 32 << 10;

/// Replies are sent once there are this many bytes of them, or no request is left.
const WRITE_SIZE: usize = 256 << 10;

/// A pause after an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Takes clients until the leader stops.
pub async fn run(listener: TcpListener, coordinator: Arc<Coordinator>, max_message: usize, limits: Limits) {
    let places = Arc::new(Semaphore::new(limits.max_clients.min(Semaphore::MAX_PERMITS)));
    let partings = Arc::new(Semaphore::new(MOST_PARTINGS));
    let partial = Arc::new(AtomicUsize::new(0));
    let stop = coordinator.stop.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.requested() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("cannot accept a client: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match places.clone().try_acquire_owned() {
            Ok(place) => {
                let coordinator = coordinator.clone();
                let tasks = coordinator.tasks.clone();
                let (partial, partings) = (partial.clone(), partings.clone());
                tasks.spawn(async move {
                    coordinator.meters.clients.fetch_add(1, Ordering::Relaxed);
                    // An error here is the client's going, which is its right.
                    let held = Held { all: partial, own: 0 };
                    let mut connection = Connection::new(stream, coordinator.clone(), max_message, limits, held);
                    if let Ok(Some(why)) = connection.serve().await {
                        let Connection { stream, .. } = connection;
                        part(stream, why, &partings).await;
                    }
                    coordinator.meters.clients.fetch_sub(1, Ordering::Relaxed);
                    drop(place);
                });
            }
            Err(_) => {
                let partings = partings.clone();
                let why = Refusal::Busy("as many clients as --max-clients allows are connected");
                tokio::spawn(async move { part(stream, why, &partings).await });
            }
        }
    }
}

/// Tells a client why its connection ends. What it still sends is read for a moment: a socket
/// that is closed with unread bytes takes the line back that the client has not read yet.
async fn part(mut stream: TcpStream, why: Refusal, partings: &Semaphore) {
    let Ok(_place) = partings.try_acquire() else { return };
    let mut out = BytesMut::new();
    encode_reply(&Reply::Refused(why), &mut out);
    let _ = timeout(PARTING, async {
        stream.write_all(&out).await?;
        stream.shutdown().await?;
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    })
    .await;
}

/// A connection's share of the bytes of unfinished lines; given back when dropped.
struct Held {
    all: Arc<AtomicUsize>,
    own: usize,
}

impl Held {
    /// Sets the share; gives that of all connections.
    fn set(&mut self, own: usize) -> usize {
        let before = std::mem::replace(&mut self.own, own);
        if own >= before {
            self.all.fetch_add(own - before, Ordering::Relaxed) + (own - before)
        } else {
            self.all.fetch_sub(before - own, Ordering::Relaxed) - (before - own)
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// The bytes that have to move in such a time.
fn least(window: Duration) -> usize {
    (window.as_secs().max(1) * SLOWEST) as usize
}

/// The time by which an unfinished line has to have grown.
struct Window {
    ends: Instant,
    bytes: usize,
}

struct Connection {
    stream: TcpStream,
    coordinator: Arc<Coordinator>,
    decoder: CommandDecoder,
    buffer: BytesMut,
    requests: VecDeque<Request>,
    out: BytesMut,
    /// What the replies in `out` keep reserved until they are sent.
    rooms: Vec<Room>,
    limits: Limits,
    held: Held,
    /// Of the line that is not finished, if there is one.
    window: Option<Window>,
}

impl Connection {
    fn new(stream: TcpStream, coordinator: Arc<Coordinator>, max_message: usize, limits: Limits, held: Held) -> Self {
        Self {
            stream,
            coordinator,
            decoder: CommandDecoder::new(max_message),
            buffer: BytesMut::new(),
            requests: VecDeque::new(),
            out: BytesMut::new(),
            rooms: Vec::new(),
            limits,
            held,
            window: None,
        }
    }

    /// Serves until the client goes, or has to go for the reason that is given.
    async fn serve(&mut self) -> io::Result<Option<Refusal>> {
        self.stream.set_nodelay(true)?;
        let stop = self.coordinator.stop.clone();
        loop {
            self.decode();
            while !self.requests.is_empty() {
                // The time that requests take is not the client's.
                self.window = None;
                if self.requests.pop_front_if(|request| *request == Ok(Command::Verify)).is_some() {
                    self.verify().await?;
                    continue;
                }
                let (replies, room) = self.coordinator.execute(&mut self.requests, Protocol::Text).await;
                self.rooms.extend(room);
                for reply in replies {
                    encode_reply(&reply, &mut self.out);
                    if reply == Reply::Bye {
                        return self.flush().await.map(|()| None);
                    }
                }
                if self.out.len() >= WRITE_SIZE {
                    self.flush().await?;
                }
            }
            self.flush().await?;
            if stop.is_requested() {
                return Ok(None);
            }
            self.decode();
            if !self.requests.is_empty() {
                continue;
            }
            if self.held.set(self.buffer.len()) > self.limits.max_partial_bytes && !self.buffer.is_empty() {
                return Ok(Some(Refusal::Busy("too many bytes of unfinished lines are held; this connection ends")));
            }
            let read = tokio::select! {
                biased;
                read = self.read() => read?,
                () = stop.requested() => return Ok(None),
            };
            match read {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(why) => return Ok(Some(why)),
            }
        }
    }

    /// The one command with many lines: findings are sent as they come, and the sum at the end.
    async fn verify(&mut self) -> io::Result<()> {
        let (tell, mut findings) = mpsc::channel(QUEUED_FINDINGS);
        let coordinator = self.coordinator.clone();
        let verify = coordinator.verify(tell);
        tokio::pin!(verify);
        let verified = loop {
            tokio::select! {
                biased;
                Some(finding) = findings.recv() => encode_reply(&Reply::Finding(finding), &mut self.out),
                verified = &mut verify => break verified,
            }
            if self.out.len() >= WRITE_SIZE || findings.is_empty() {
                self.flush().await?;
            }
        };
        while let Ok(finding) = findings.try_recv() {
            encode_reply(&Reply::Finding(finding), &mut self.out);
        }
        encode_reply(&Reply::Verified(verified), &mut self.out);
        Ok(())
    }

    /// Waits for bytes, with no memory for them before they come, and for as long as the limits allow.
    async fn read(&mut self) -> io::Result<Result<usize, Refusal>> {
        self.give_back();
        let deadline = match &self.window {
            Some(window) => Some(window.ends),
            None if self.limits.idle_timeout.is_zero() => None,
            None => Instant::now().checked_add(self.limits.idle_timeout),
        };
        loop {
            let ready = self.stream.readable();
            match deadline {
                None => ready.await?,
                Some(deadline) => match timeout_at(deadline, ready).await {
                    Ok(ready) => ready?,
                    Err(_) => return Ok(Err(self.too_slow())),
                },
            }
            self.buffer.reserve(READ_SIZE);
            match self.stream.try_read_buf(&mut self.buffer) {
                Ok(read) => {
                    if !self.grow(read) {
                        return Ok(Err(self.too_slow()));
                    }
                    return Ok(Ok(read));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Counts bytes for the unfinished line; `false` if its time is over and they were too few.
    fn grow(&mut self, read: usize) -> bool {
        let whole = self.limits.line_timeout;
        let Some(window) = &mut self.window else { return true };
        window.bytes += read;
        if window.bytes >= least(whole) {
            *window = Window { ends: Instant::now() + whole, bytes: 0 };
        }
        window.ends > Instant::now() || self.buffer.contains(&b'\n')
    }

    fn too_slow(&self) -> Refusal {
        match self.window {
            Some(_) => Refusal::BadCommand(format!(
                "the line was not finished within {}; it was not run: connect again, and send it whole",
                humantime::format_duration(self.limits.line_timeout)
            )),
            None => Refusal::Busy("nothing was asked for as long as --idle-timeout; this connection ends"),
        }
    }

    /// Buffers that many clients have emptied and wait with are memory for nothing.
    fn give_back(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        if self.out.capacity() > KEPT_CAPACITY {
            self.out = BytesMut::new();
        }
        self.requests.shrink_to(4);
        self.rooms.shrink_to(4);
    }

    /// Takes all whole requests out of the buffer, up to a bound.
    fn decode(&mut self) {
        let before = self.requests.len();
        self.decode_all();
        if !self.decoder.is_inside_line(&self.buffer) {
            self.window = None;
        } else if self.window.is_none() || self.requests.len() > before {
            self.window = Some(Window { ends: Instant::now() + self.limits.line_timeout, bytes: 0 });
        }
    }

    fn decode_all(&mut self) {
        while self.requests.len() < QUEUED_REQUESTS {
            self.requests.push_back(match self.decoder.decode(&mut self.buffer) {
                Decoded::Item(command) => Ok(command),
                Decoded::Bad(refusal) => Err(refusal),
                Decoded::Need => return,
            });
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        let whole = self.limits.write_deadline;
        let mut window = Window { ends: Instant::now() + whole, bytes: 0 };
        while !self.out.is_empty() {
            let written = timeout_at(window.ends, self.stream.write_buf(&mut self.out)).await;
            window.bytes += written.map_err(|_| io::ErrorKind::TimedOut)??;
            if window.bytes >= least(whole) {
                window = Window { ends: Instant::now() + whole, bytes: 0 };
            }
        }
        self.rooms.clear();
        Ok(())
    }
}
