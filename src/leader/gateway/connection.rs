//! One client's connection: read, decode, carry out, reply, within the limits.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, Interest};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::Door;
use super::clients::Taken;
use super::cuts::Why;
use super::outbox::Outbox;
use super::rights::Rights;
use super::session::Session;
use super::text::TextTalk;
use crate::error::Refusal;
use crate::leader::coordinator::Coordinator;
use crate::leader::shares::{Room, Share};
use crate::protocol::resp::Value;
use crate::protocol::text::encode_reply;
use crate::protocol::{Finding, Reply};
use crate::tls::{self, Stream};

/// Bytes a second that a line has to grow by, and that replies have to be taken with.
const SLOWEST: u64 = 1024;

/// Requests decoded ahead of their execution, on one connection.
pub(super) const QUEUED_REQUESTS: usize = 4096;

/// Findings of VERIFY that wait for a slow client.
const QUEUED_FINDINGS: usize = 64;

/// Room made for each read.
const READ_SIZE: usize = 32 << 10;

/// Replies are sent once there are this many bytes of them, or no request is left.
pub(super) const WRITE_SIZE: usize = 256 << 10;

/// Bytes of requests that are taken from a client which does not take its replies: many send all that they have to
/// ask before they read the first answer. One that sends more waits until it reads, or is cut off.
const READ_AHEAD: usize = 16 << 20;

/// A connection works for so long before others have their turn.
const SLICE: Duration = Duration::from_micros(250);

/// How long the first lines of a connection wait for what tells their protocol.
const UNCLEAR: Duration = Duration::from_millis(20);

/// Replies that are on their way when the leader is to stop have this long.
const LAST_REPLIES: Duration = Duration::from_secs(1);

/// The bytes that have to move in such a time.
fn least(window: Duration) -> usize {
    (window.as_secs().max(1) * SLOWEST) as usize
}

/// The time by which an unfinished line has to have grown.
struct Window {
    ends: Instant,
    bytes: usize,
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
    stream: Stream,
    coordinator: Arc<Coordinator>,
    door: Arc<Door>,
    taken: Arc<Taken>,
    talk: Talk,
    buffer: BytesMut,
    to: Outbox,
    /// Of what is under way for this connection.
    share: Arc<Share>,
    /// Of unfinished requests, and what is held of them.
    _partial: Share,
    input: Room,
    /// It held the most when there was no room for others.
    cut: CancellationToken,
    /// Of the request that is not finished, if there is one.
    window: Option<Window>,
    /// The client sends nothing more.
    ended: bool,
    /// When others last had their turn.
    turn: Instant,
}

impl Connection {
    pub(super) fn new(
        stream: Stream,
        is_sentinel: bool,
        coordinator: Arc<Coordinator>,
        door: Arc<Door>,
    ) -> io::Result<Self> {
        stream.tcp().set_nodelay(true)?;
        let cut = CancellationToken::new();
        let (share, partial) = (Arc::new(coordinator.pot().share(cut.clone())), door.partial.share(cut.clone()));
        let is_tls = matches!(stream, Stream::Tls(_));
        let taken = Arc::new(door.clients.enter(stream.peer_addr()?, stream.local_addr()?, (is_tls, is_sentinel)));
        let rights = Rights::new(&door, taken.clone(), stream.certificate().and_then(tls::user_of).as_deref());
        Ok(Self {
            taken,
            talk: Talk::Text(TextTalk::new(&door, rights)),
            stream,
            coordinator,
            door,
            buffer: BytesMut::new(),
            to: Outbox::new(&share),
            share,
            input: partial.empty(),
            _partial: partial,
            cut,
            window: None,
            ended: false,
            turn: Instant::now(),
        })
    }

    /// Serves until the client goes. True: it has to go, and what is left in the outbox tells it why.
    pub(super) async fn serve(&mut self) -> io::Result<bool> {
        let stop = self.coordinator.stop.clone();
        let (killed, cut) = (self.taken.seat.kill.clone(), self.cut.clone());
        loop {
            match self.work().await? {
                Flow::Part => {
                    if self.to.len() >= WRITE_SIZE {
                        self.flush().await?;
                    }
                    return Ok(true);
                }
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
            if !self.hold_input() || cut.is_cancelled() {
                return Ok(self.tell_cut());
            }
            let read = tokio::select! {
                biased;
                read = self.read() => read?,
                () = stop.requested() => return Ok(false),
                () = killed.cancelled() => return Ok(false),
                () = cut.cancelled() => return Ok(self.tell_cut()),
            };
            match read {
                Ok(0) => return Ok(false),
                Ok(_) => self.wait_for_clear_lines().await,
                Err(None) => return Ok(false),
                Err(Some(why)) => return Ok(self.tell(why)),
            }
        }
    }

    /// Waits a moment for more, if it is not clear which protocol the first lines are of.
    async fn wait_for_clear_lines(&mut self) {
        if matches!(&self.talk, Talk::Text(text) if text.is_unclear(&self.buffer))
            && timeout(UNCLEAR, self.stream.readable()).await.is_ok()
        {
            // What went wrong the next read says too.
            let _ = self.stream.try_read_buf(&mut self.buffer);
        }
    }

    /// Accounts for what is held of requests that are not run; `false`: there is no room for it.
    fn hold_input(&mut self) -> bool {
        self.input.set(self.buffer.len() + self.talk.held())
    }

    /// It held the most: says so, unless nothing was asked that this could be the answer to.
    fn tell_cut(&mut self) -> bool {
        self.door.cuts.note(&self.coordinator.meters.cuts, Why::Most, self.taken.seat.peer);
        let is_asked = self.window.is_some() || !self.buffer.is_empty() || self.talk.held() > 0;
        is_asked
            && self.tell(Refusal::Busy(
                "too many bytes of unfinished lines are held, most of them of this connection, which ends",
            ))
    }

    /// What is left to do for a client that has to go: the socket, and what tells it why.
    pub(super) fn into_parting(mut self) -> (Stream, BytesMut) {
        (self.stream, self.to.last_words())
    }

    /// Ends a connection that nobody has to be told about.
    pub(super) fn say_end(mut self) {
        self.stream.say_end();
    }

    /// Writes down why the connection ends.
    fn tell(&mut self, why: Refusal) -> bool {
        match &self.talk {
            Talk::Text(_) => self.to.append(|out| encode_reply(&Reply::Refused(why), out)),
            Talk::Resp(session) => {
                self.to.append(|out| Value::Error(session.told(why)).encode(session.version, out));
            }
        }
        true
    }

    /// Works on all requests that have come.
    async fn work(&mut self) -> io::Result<Flow> {
        if self.decode().is_err() {
            return Ok(Flow::Close);
        }
        self.turn = Instant::now();
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
                Talk::Text(text) => text.work(&self.coordinator, &self.share, &self.taken, &mut self.to).await,
                Talk::Resp(session) => session.work(&mut self.to).await,
            };
            if !self.to.settle() || self.cut.is_cancelled() {
                return Err(self.cut_off(Why::Most));
            }
            match flow {
                Flow::Close | Flow::Part => return Ok(flow),
                Flow::On if self.to.len() >= WRITE_SIZE => self.flush().await?,
                Flow::On => {}
            }
            self.let_others().await;
        }
        Ok(Flow::On)
    }

    /// Lets others have their turn, if this connection had its own for long enough.
    async fn let_others(&mut self) {
        if self.turn.elapsed() >= SLICE {
            tokio::task::yield_now().await;
            self.turn = Instant::now();
        }
    }

    /// Notes that the client is cut off, without a word: it is in the middle of a reply, or asked nothing.
    fn cut_off(&self, why: Why) -> io::Error {
        self.door.cuts.note(&self.coordinator.meters.cuts, why, self.taken.seat.peer);
        io::ErrorKind::ConnectionAborted.into()
    }

    /// The one command with many lines: findings are sent as they come, and the sum at the end.
    async fn verify(&mut self) -> io::Result<()> {
        if let Talk::Text(text) = &self.talk {
            text.rights.audit_order("VERIFY", None);
        }
        // The replies before it are ready, and it may take long.
        self.flush().await?;
        let Ok(_only) = self.door.verify.clone().try_acquire_owned() else {
            let busy = Refusal::Busy("another VERIFY is under way");
            self.to.append(|out| encode_reply(&Reply::Refused(busy), out));
            return Ok(());
        };
        // Nobody is told that all is well while not all is known.
        let unsure = self.coordinator.cluster().unsure_of_all();
        if let Some(reason) = unsure {
            let refusal = Refusal::Unavailable(format!("{reason}; nothing was checked, try again in a moment"));
            self.to.append(|out| encode_reply(&Reply::Refused(refusal), out));
            return Ok(());
        }
        let (tell, mut findings) = mpsc::channel(QUEUED_FINDINGS);
        let coordinator = self.coordinator.clone();
        let stop = coordinator.stop.clone();
        let verify = coordinator.verify(tell);
        tokio::pin!(verify);
        let verified = loop {
            tokio::select! {
                biased;
                Some(finding) = findings.recv() => self.tell_finding(finding),
                verified = &mut verify => break verified,
                // What is left of it may take longer than a drain.
                () = stop.requested() => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
            if self.to.len() >= WRITE_SIZE || findings.is_empty() {
                self.flush().await?;
            }
        };
        while let Ok(finding) = findings.try_recv() {
            self.tell_finding(finding);
        }
        self.to.append(|out| encode_reply(&Reply::Verified(verified), out));
        Ok(())
    }

    fn tell_finding(&mut self, finding: Finding) {
        self.to.append(|out| encode_reply(&Reply::Finding(finding), out));
    }

    /// Waits for bytes, with no memory for them before they come, and for as long as the limits allow. Who took too
    /// long is told why, if it had begun to ask something.
    async fn read(&mut self) -> io::Result<Result<usize, Option<Refusal>>> {
        self.give_back();
        let deadline = match &self.window {
            Some(window) => Some(window.ends),
            None if self.door.settings.limits.idle_timeout.is_zero() || self.talk.is_subscribed() => None,
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

    /// What is told to who took too long. Who asked nothing is told nothing: he would take it for the next reply.
    fn too_slow(&self) -> Option<Refusal> {
        let why = if self.window.is_some() { Why::Slow } else { Why::Idle };
        self.door.cuts.note(&self.coordinator.meters.cuts, why, self.taken.seat.peer);
        self.window.as_ref().map(|_| {
            Refusal::BadCommand(format!(
                "the line was not finished within {}; it was not run: connect again, and send it whole",
                humantime::format_duration(self.door.settings.limits.line_timeout)
            ))
        })
    }

    /// Buffers that many clients have emptied and wait with are memory for nothing.
    fn give_back(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        self.to.give_back();
        self.talk.give_back();
    }

    /// Takes all whole requests out of the buffer, up to a bound. An error: the connection closes at once.
    fn decode(&mut self) -> Result<(), ()> {
        let before = self.talk.len();
        let unfinished = match &mut self.talk {
            Talk::Text(text) => text.decode(&mut self.buffer)?,
            Talk::Resp(session) => session.decode(&mut self.buffer),
        };
        if let Talk::Text(text) = &self.talk
            && text.turns_to_resp
            && !text.is_asked()
        {
            let (door, leader, share) = (self.door.clone(), self.coordinator.clone(), self.share.clone());
            self.talk =
                Talk::Resp(Box::new(Session::new(door, leader, share, self.taken.clone(), text.rights.clone())));
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
        let mut last = None;
        loop {
            if self.coordinator.stop.is_requested()
                && *last.get_or_insert_with(|| Instant::now() + LAST_REPLIES) <= Instant::now()
            {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            self.to.fill();
            if self.to.is_empty() {
                match self.stream.try_flush() {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.wait_to_write(window.ends, last).await?;
                        continue;
                    }
                    flushed => flushed?,
                }
                self.to.clear();
                return Ok(());
            }
            match self.stream.try_write_vectored(&self.to.slices()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.to.advance(written);
                    window.bytes += written;
                    if window.bytes >= least(whole) {
                        window = Window { ends: Instant::now() + whole, bytes: 0 };
                    }
                    self.let_others().await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_to_write(window.ends, last).await?
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until more can be sent. Meanwhile requests are taken, up to a bound: a client may send all of them before
    /// it reads the first reply. `last`: until when, as the leader is to stop.
    async fn wait_to_write(&mut self, ends: Instant, last: Option<Instant>) -> io::Result<()> {
        let is_ahead = !self.ended && self.buffer.len() < READ_AHEAD;
        let interest = if is_ahead { Interest::READABLE | Interest::WRITABLE } else { Interest::WRITABLE };
        let stop = self.coordinator.stop.clone();
        let ready = tokio::select! {
            biased;
            () = self.cut.cancelled() => return Err(self.cut_off(Why::Most)),
            () = self.taken.seat.kill.cancelled() => return Err(io::ErrorKind::ConnectionAborted.into()),
            () = stop.requested(), if last.is_none() => return Ok(()),
            () = sleep_until(last.unwrap_or(ends)), if last.is_some() => return Ok(()),
            ready = timeout_at(ends, self.stream.ready(interest)) => ready.map_err(|_| self.cut_off(Why::Slow))??,
        };
        if !is_ahead || !ready.is_readable() {
            return Ok(());
        }
        self.buffer.reserve(READ_SIZE);
        match self.stream.try_read_buf(&mut self.buffer) {
            Ok(0) => self.ended = true,
            Ok(_) if !self.hold_input() => return Err(self.cut_off(Why::Most)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
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

    /// It waits to be told something, and may be silent for as long.
    fn is_subscribed(&self) -> bool {
        matches!(self, Self::Resp(session) if !session.subscribed.is_empty())
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
