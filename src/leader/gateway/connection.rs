//! One client's connection: read, decode, carry out, reply, within the limits.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::Door;
use super::clients::Taken;
use super::session::Session;
use super::text::TextTalk;
use crate::error::Refusal;
use crate::leader::coordinator::{Coordinator, Room};
use crate::protocol::Reply;
use crate::protocol::resp::Value;
use crate::protocol::text::encode_reply;

/// Bytes a second that a line has to grow by, and that replies have to be taken with.
const SLOWEST: u64 = 1024;

/// An emptied buffer above this is given back before a client is waited for.
const KEPT_CAPACITY: usize = 4 << 10;

/// Requests decoded ahead of their execution, on one connection.
pub(super) const QUEUED_REQUESTS: usize = 4096;

/// Findings of VERIFY that wait for a slow client.
const QUEUED_FINDINGS: usize = 64;

/// Room made for each read.
const READ_SIZE: usize = 32 << 10;

/// Replies are sent once there are this many bytes of them, or no request is left.
const WRITE_SIZE: usize = 256 << 10;

/// A connection's share of the bytes of unfinished lines; given back when dropped.
pub(super) struct Held {
    all: Arc<AtomicUsize>,
    own: usize,
}

impl Held {
    pub(super) fn new(all: &Arc<AtomicUsize>) -> Self {
        Self { all: all.clone(), own: 0 }
    }

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

/// Replies on their way out.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) out: BytesMut,
    /// What the replies in `out` keep reserved until they are sent.
    pub(super) rooms: Vec<Room>,
}

/// What a connection does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// The next request.
    On,
    /// They are sent, and the connection closes.
    Close,
    /// They are sent, and what the client still sends is read for a moment, so that it reads them.
    Part,
}

/// What a connection speaks.
#[derive(Debug)]
enum Talk {
    Text(TextTalk),
    Resp(Box<Session>),
}

pub(super) struct Connection {
    stream: TcpStream,
    coordinator: Arc<Coordinator>,
    door: Arc<Door>,
    taken: Arc<Taken>,
    talk: Talk,
    buffer: BytesMut,
    to: Outbox,
    held: Held,
    /// Of the request that is not finished, if there is one.
    window: Option<Window>,
}

impl Connection {
    pub(super) fn new(
        stream: TcpStream,
        coordinator: Arc<Coordinator>,
        door: Arc<Door>,
        held: Held,
    ) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            taken: Arc::new(door.clients.enter(stream.peer_addr()?, stream.local_addr()?)),
            talk: Talk::Text(TextTalk::new(&door)),
            stream,
            coordinator,
            door,
            buffer: BytesMut::new(),
            to: Outbox::default(),
            held,
            window: None,
        })
    }

    /// Serves until the client goes. True: it has to go, and what is left in the outbox tells it why.
    pub(super) async fn serve(&mut self) -> io::Result<bool> {
        let stop = self.coordinator.stop.clone();
        let killed = self.taken.seat.kill.clone();
        loop {
            match self.work().await? {
                Flow::Part => return Ok(true),
                Flow::Close => return self.flush().await.map(|()| false),
                Flow::On => self.flush().await?,
            }
            if stop.is_requested() || killed.is_cancelled() {
                return Ok(false);
            }
            if self.decode().is_err() {
                return Ok(false);
            }
            if self.talk.is_asked() {
                continue;
            }
            let held = self.buffer.len() + self.talk.held();
            if self.held.set(held) > self.door.settings.limits.max_partial_bytes && held > 0 {
                return Ok(
                    self.tell(Refusal::Busy("too many bytes of unfinished lines are held; this connection ends"))
                );
            }
            let read = tokio::select! {
                biased;
                read = self.read() => read?,
                () = stop.requested() => return Ok(false),
                () = killed.cancelled() => return Ok(false),
            };
            match read {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(why) => return Ok(self.tell(why)),
            }
        }
    }

    /// What is left to do for a client that has to go: the socket, and what tells it why.
    pub(super) fn into_parting(self) -> (TcpStream, BytesMut) {
        (self.stream, self.to.out)
    }

    /// Writes down why the connection ends.
    fn tell(&mut self, why: Refusal) -> bool {
        match &self.talk {
            Talk::Text(_) => encode_reply(&Reply::Refused(why), &mut self.to.out),
            Talk::Resp(session) => Value::Error(session.told(why)).encode(session.version, &mut self.to.out),
        }
        true
    }

    /// Works on all requests that have come.
    async fn work(&mut self) -> io::Result<Flow> {
        if self.decode().is_err() {
            return Ok(Flow::Close);
        }
        while self.talk.is_asked() {
            // The time that requests take is not the client's.
            self.window = None;
            if let Talk::Text(text) = &mut self.talk
                && text.takes_verify()
            {
                self.verify().await?;
                continue;
            }
            let flow = match &mut self.talk {
                Talk::Text(text) => text.work(&self.coordinator, &self.taken, &mut self.to).await,
                Talk::Resp(session) => session.work(&mut self.to).await,
            };
            match flow {
                Flow::Close | Flow::Part => return Ok(flow),
                Flow::On if self.to.out.len() >= WRITE_SIZE => self.flush().await?,
                Flow::On => {}
            }
        }
        Ok(Flow::On)
    }

    /// The one command with many lines: findings are sent as they come, and the sum at the end.
    async fn verify(&mut self) -> io::Result<()> {
        // The replies before it are ready, and it may take long.
        self.flush().await?;
        let (tell, mut findings) = mpsc::channel(QUEUED_FINDINGS);
        let coordinator = self.coordinator.clone();
        let stop = coordinator.stop.clone();
        let verify = coordinator.verify(tell);
        tokio::pin!(verify);
        let verified = loop {
            tokio::select! {
                biased;
                Some(finding) = findings.recv() => encode_reply(&Reply::Finding(finding), &mut self.to.out),
                verified = &mut verify => break verified,
                // What is left of it may take longer than a drain.
                () = stop.requested() => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
            if self.to.out.len() >= WRITE_SIZE || findings.is_empty() {
                self.flush().await?;
            }
        };
        while let Ok(finding) = findings.try_recv() {
            encode_reply(&Reply::Finding(finding), &mut self.to.out);
        }
        encode_reply(&Reply::Verified(verified), &mut self.to.out);
        Ok(())
    }

    /// Waits for bytes, with no memory for them before they come, and for as long as the limits allow.
    async fn read(&mut self) -> io::Result<Result<usize, Refusal>> {
        self.give_back();
        let deadline = match &self.window {
            Some(window) => Some(window.ends),
            None if self.door.settings.limits.idle_timeout.is_zero() => None,
            None => Instant::now().checked_add(self.door.settings.limits.idle_timeout),
        };
        let ends_by_silence = self.door.settings.unterminated.filter(|_| self.talk.is_inside_text_line(&self.buffer));
        let silence = ends_by_silence.map(|silence| Instant::now() + silence);
        let read = async {
            self.stream.readable().await?;
            self.buffer.reserve(READ_SIZE);
            // Not `try_read_buf`: that does not note that all was read, and the next wait asks the system in vain.
            self.stream.read_buf(&mut self.buffer).await
        };
        let read = match deadline {
            None => read.await?,
            Some(deadline) => match timeout_at(deadline.min(silence.unwrap_or(deadline)), read).await {
                Ok(read) => read?,
                Err(_) if silence.is_some_and(|silence| silence <= Instant::now()) => {
                    self.buffer.extend_from_slice(b"\n");
                    return Ok(Ok(1));
                }
                Err(_) => return Ok(Err(self.too_slow())),
            },
        };
        Ok(if self.grow(read) { Ok(read) } else { Err(self.too_slow()) })
    }

    /// Counts bytes for the unfinished line; `false` if its time is over and they were too few.
    fn grow(&mut self, read: usize) -> bool {
        let whole = self.door.settings.limits.line_timeout;
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
                humantime::format_duration(self.door.settings.limits.line_timeout)
            )),
            None => Refusal::Busy("nothing was asked for as long as --idle-timeout; this connection ends"),
        }
    }

    /// Buffers that many clients have emptied and wait with are memory for nothing.
    fn give_back(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        if self.to.out.capacity() > KEPT_CAPACITY {
            self.to.out = BytesMut::new();
        }
        self.talk.give_back();
        self.to.rooms.shrink_to(4);
    }

    /// Takes all whole requests out of the buffer, up to a bound. An error: the connection closes at once.
    fn decode(&mut self) -> Result<(), ()> {
        let before = self.talk.len();
        let unfinished = match &mut self.talk {
            Talk::Text(text) => text.decode(&self.door, &mut self.buffer)?,
            Talk::Resp(session) => session.decode(&mut self.buffer),
        };
        if let Talk::Text(text) = &self.talk
            && text.turns_to_resp
            && !text.is_asked()
        {
            let (door, leader) = (self.door.clone(), self.coordinator.clone());
            self.talk = Talk::Resp(Box::new(Session::new(door, leader, self.taken.clone(), text.allowed)));
            self.window = None;
            return self.decode();
        }
        if !unfinished {
            self.window = None;
        } else if self.window.is_none() || self.talk.len() > before {
            let ends = Instant::now() + self.door.settings.limits.line_timeout;
            self.window = Some(Window { ends, bytes: 0 });
        }
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        let whole = self.door.settings.limits.write_deadline;
        let mut window = Window { ends: Instant::now() + whole, bytes: 0 };
        while !self.to.out.is_empty() {
            let written = timeout_at(window.ends, self.stream.write_buf(&mut self.to.out)).await;
            window.bytes += written.map_err(|_| io::ErrorKind::TimedOut)??;
            if window.bytes >= least(whole) {
                window = Window { ends: Instant::now() + whole, bytes: 0 };
            }
        }
        self.to.rooms.clear();
        Ok(())
    }
}

impl Talk {
    fn is_asked(&self) -> bool {
        match self {
            Self::Text(text) => text.is_asked(),
            Self::Resp(session) => session.is_asked(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Resp(session) => session.len(),
        }
    }

    /// Bytes of an unfinished request that are not in the buffer any more.
    fn held(&self) -> usize {
        match self {
            Self::Text(_) => 0,
            Self::Resp(session) => session.held(),
        }
    }

    fn is_inside_text_line(&self, buffer: &BytesMut) -> bool {
        matches!(self, Self::Text(_)) && !buffer.is_empty()
    }

    fn give_back(&mut self) {
        match self {
            Self::Text(text) => text.give_back(),
            Self::Resp(session) => session.give_back(),
        }
    }
}
