//! One TCP connection as two buffered halves: requests out, reply lines in.
//!
//! Invariant: replies come out in the order of the requests, and both halves
//! can be dropped out of at any await without losing or repeating a byte.
//! Never pairs a reply with its request, waits for a limited time, or tries
//! again: [`Client`](super::Client) and the bench do that.

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::Error;
use super::advice::stranger;
use crate::error::printable;
use crate::protocol::Command;
use crate::protocol::text::{ReplyLine, decode_reply, encode_command};
use crate::tls::Dialer;

/// Room made for one read: a few hundred short replies.
const READ_CHUNK: usize = 16 * 1024;

/// The longest reply line that is waited for. Far above any sensible message limit: it
/// only keeps a server that never ends its line from filling the memory.
pub const MAX_REPLY_BYTES: usize = 256 * 1024 * 1024;

/// Where replies come from: a socket, or what decrypts one.
trait Incoming: AsyncRead + Debug + Send + Unpin {}
impl<T: AsyncRead + Debug + Send + Unpin> Incoming for T {}

/// Where requests go.
trait Outgoing: AsyncWrite + Debug + Send + Unpin {}
impl<T: AsyncWrite + Debug + Send + Unpin> Outgoing for T {}

/// A connection that leaves pipelining to its user: requests are put together with
/// [`send`](Self::send), leave with [`flush`](Self::flush), and are answered in order by
/// [`next_reply`](Self::next_reply).
///
/// Nothing here has a time limit of its own. Dropping a call half way (as
/// `tokio::time::timeout` does) loses nothing: the next call goes on where it stopped.
///
/// ```no_run
/// use std::time::Duration;
/// use hatokuse::client::{Command, Connection};
///
/// # async fn example() -> Result<(), hatokuse::client::Error> {
/// let mut connection = Connection::open("127.0.0.1:6666", Duration::from_secs(10)).await?;
/// for _ in 0..100 {
///     connection.send(&Command::Ping { crlf: false })?;
/// }
/// connection.flush().await?;
/// for _ in 0..100 {
///     println!("{:?}", connection.next_reply().await?);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Connection {
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
}

impl Connection {
    /// Connects to `addr`, a `HOST:PORT`, within `timeout`.
    pub async fn open(addr: &str, timeout: Duration) -> Result<Self, Error> {
        let (read, write) = connect(addr, timeout).await?.into_split();
        Ok(Self::of(Box::new(read), Box::new(write)))
    }

    /// Connects by TLS. The timeout holds for the connection, and for the handshake after it.
    pub async fn open_tls(addr: &str, timeout: Duration, tls: &Dialer) -> Result<Self, Error> {
        let stream = connect(addr, timeout).await?;
        let stream = tokio::time::timeout(timeout, tls.encrypt(addr, stream)).await;
        let stream = stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let (read, write) = tokio::io::split(stream.map_err(|source| Error::connect(addr, source))?);
        Ok(Self::of(Box::new(read), Box::new(write)))
    }

    fn of(read: Box<dyn Incoming>, write: Box<dyn Outgoing>) -> Self {
        Self {
            sender: Sender { half: write, bytes: BytesMut::new() },
            receiver: Receiver { half: read, replies: Replies::default() },
        }
    }

    /// The two halves, for two tasks.
    pub fn split(self) -> (Sender, Receiver) {
        (self.sender, self.receiver)
    }

    /// Puts a request into the buffer; see [`Sender::send`].
    pub fn send(&mut self, command: &Command) -> Result<(), Error> {
        self.sender.send(command)
    }

    /// Writes what is buffered; see [`Sender::flush`].
    ///
    /// Replies are not read meanwhile: before more requests than fit into the sockets'
    /// buffers, use the halves.
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.sender.flush().await
    }

    /// Waits for the next reply line; see [`Receiver::next_reply`].
    pub async fn next_reply(&mut self) -> Result<ReplyLine, Error> {
        self.receiver.next_reply().await
    }

    /// Reads with `read` while the buffered requests leave, so that neither side can wait
    /// for the other to empty its buffers.
    ///
    /// A failure to write shows in `read`, after the replies that came before it.
    pub(super) async fn flush_while<'a, T, F>(&'a mut self, read: impl FnOnce(&'a mut Receiver) -> F) -> T
    where
        F: Future<Output = T>,
    {
        let Self { sender, receiver } = self;
        while_writing(sender.flush(), read(receiver)).await
    }
}

/// Connects to `addr`, a `HOST:PORT`, within `timeout`.
async fn connect(addr: &str, timeout: Duration) -> Result<TcpStream, Error> {
    let stream = match tokio::time::timeout(timeout, TcpStream::connect(addr)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(source)) => return Err(Error::connect(addr, source)),
        Err(_) => return Err(Error::connect(addr, io::ErrorKind::TimedOut.into())),
    };
    // A request waits for its reply, so holding it back for a fuller packet only costs time.
    stream.set_nodelay(true).map_err(|source| Error::connect(addr, source))?;
    Ok(stream)
}

/// Runs `write` beside `read` until `read` is done, whatever becomes of `write`.
pub(super) async fn while_writing<T>(write: impl Future, read: impl Future<Output = T>) -> T {
    let write = async {
        write.await;
        std::future::pending().await
    };
    tokio::select! {
        biased;
        done = read => done,
        never = write => never,
    }
}

/// The half that requests leave by.
#[derive(Debug)]
pub struct Sender {
    half: Box<dyn Outgoing>,
    bytes: BytesMut,
}

impl Sender {
    /// Puts a request into the buffer; nothing leaves before [`flush`](Self::flush).
    ///
    /// Refuses a message with a line feed, and then leaves the buffer as it was.
    pub fn send(&mut self, command: &Command) -> Result<(), Error> {
        encode(command, &mut self.bytes)
    }

    /// Puts bytes into the buffer as they are: whole lines, or parts of one.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// How many bytes are buffered. The buffer grows with every `send`: the caller bounds it.
    pub fn buffered(&self) -> usize {
        self.bytes.len()
    }

    /// Writes all that is buffered.
    pub async fn flush(&mut self) -> Result<(), Error> {
        while self.bytes.has_remaining() {
            match self.half.write_buf(&mut self.bytes).await {
                Ok(0) => return Err(Error::Closed),
                Ok(_) => {}
                Err(source) => return Err(Error::lost(source)),
            }
        }
        self.half.flush().await.map_err(Error::lost)
    }
}

/// Appends a request, unless its message (or the address in it) would end the line early.
pub(super) fn encode(command: &Command, out: &mut BytesMut) -> Result<(), Error> {
    let text = match command {
        Command::Set { payload, .. } | Command::SetFor { payload, .. } => payload,
        Command::AddPeer { address, .. } => address.as_bytes(),
        _ => b"",
    };
    if text.contains(&b'\n') {
        return Err(Error::MessageHasLineBreak);
    }
    encode_command(command, out);
    Ok(())
}

/// The half that replies come by.
#[derive(Debug)]
pub struct Receiver {
    half: Box<dyn Incoming>,
    replies: Replies,
}

impl Receiver {
    /// Waits for the next reply line.
    pub async fn next_reply(&mut self) -> Result<ReplyLine, Error> {
        loop {
            if let Some(reply) = self.replies.next() {
                return match &reply {
                    ReplyLine::Other(line) if let Some(what) = stranger(line) => Err(Error::NotALeader { what }),
                    _ => Ok(reply),
                };
            }
            if self.replies.bytes.len() > MAX_REPLY_BYTES {
                let got = printable(&self.replies.bytes[..64], 64);
                return Err(Error::Protocol { wanted: "a reply line that ends", got });
            }
            self.replies.make_room();
            match self.half.read_buf(&mut self.replies.bytes).await {
                Ok(0) => return Err(self.ended(Error::Closed)),
                Ok(_) => {}
                Err(source) => return Err(self.ended(Error::lost(source))),
            }
        }
    }

    /// Why a connection ended: what came before may say more than its end.
    fn ended(&self, error: Error) -> Error {
        self.stranger().map_or(error, |what| Error::NotALeader { what })
    }

    /// Who the other side is, if what came is nothing that a leader says.
    pub(super) fn stranger(&self) -> Option<&'static str> {
        stranger(&self.replies.bytes)
    }

    /// A reply line that has arrived already, without waiting for one.
    pub fn buffered_reply(&mut self) -> Option<ReplyLine> {
        self.replies.next()
    }

    /// Whether nothing has come that no request can have asked for: bytes, or the end.
    ///
    /// Sees only what the runtime knows by now, so `true` is no promise.
    pub(super) fn is_quiet(&mut self) -> bool {
        if !self.replies.bytes.is_empty() {
            return false;
        }
        self.replies.make_room();
        // Enough to tell who has said it.
        let mut first = [0; 256];
        let mut first = ReadBuf::new(&mut first);
        let read = Pin::new(&mut self.half).poll_read(&mut Context::from_waker(Waker::noop()), &mut first);
        self.replies.bytes.extend_from_slice(first.filled());
        matches!(read, Poll::Pending)
    }

    /// Waits until the other side has ended it.
    #[cfg(test)]
    pub(super) async fn wait_end(&mut self) {
        while self.half.read_buf(&mut self.replies.bytes).await.unwrap_or(0) > 0 {}
    }

    /// Waits until something has come, or the end.
    #[cfg(test)]
    pub(super) async fn wait_readable(&mut self) {
        self.half.read_buf(&mut self.replies.bytes).await.unwrap();
    }
}

/// Bytes that arrived, and the reply lines among them; knows no socket.
#[derive(Debug, Default)]
pub(super) struct Replies {
    pub(super) bytes: BytesMut,
    /// Bytes at the front that are known to hold no line end, so that a long line is searched once.
    scanned: usize,
}

impl Replies {
    pub(super) fn next(&mut self) -> Option<ReplyLine> {
        if !self.bytes[self.scanned..].contains(&b'\n') {
            self.scanned = self.bytes.len();
            return None;
        }
        self.scanned = 0;
        decode_reply(&mut self.bytes)
    }

    /// Room for a read; doubles for a long line, so that it is not copied once a chunk.
    fn make_room(&mut self) {
        if self.bytes.capacity() - self.bytes.len() < READ_CHUNK / 4 {
            self.bytes.reserve(READ_CHUNK.max(self.bytes.len()));
        }
    }
}
