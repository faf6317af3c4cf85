//! The client library: what a program uses to talk to a register.
//!
//! A [`Client`] is one connection to the leader, or, of several leader processes,
//! to whichever of them answers. Its calls say in their type
//! what is known: a `set` that returned `Ok` is on as many disks as the
//! register's tolerance says, a `get` that returned `None` asked for a message
//! that surely does not exist, and every [`Error`] knows whether the write may
//! have happened all the same ([`Error::certainty`]).
//!
//! ```no_run
//! use hatokuse::client::{Certainty, Client};
//!
//! # async fn example() -> Result<(), hatokuse::client::Error> {
//! let mut client = Client::connect("127.0.0.1:6666").await?;
//! match client.set("greeting", "Merhaba Dünya").await {
//!     Ok(()) => {}
//!     Err(error) if error.certainty() == Certainty::SurelyNot => eprintln!("not written: {error}"),
//!     Err(error) => eprintln!("read it before you write it again: {error}"),
//! }
//! assert_eq!(client.get("greeting").await?.as_deref(), Some("Merhaba Dünya".as_bytes()));
//! # Ok(()) }
//! ```
//!
//! Many requests at once are a [`Batch`]; a program that wants to pipeline by
//! itself uses a [`Connection`].
//!
//! Invariant: an answer is only ever given to the request it belongs to. Where
//! that is no longer sure (after a timeout, a call dropped half way, an answer
//! that does not fit), the connection says [`Error::Unusable`] from then on.
//! Never sends a write twice unless the first was surely not done, and never
//! connects again by itself unless it knows several addresses.

mod advice;
mod batch;
mod connection;
mod dial;
mod error;
mod group;
mod peers;
mod pipe;
mod render;
mod repl;
pub mod shell;
mod status;
#[cfg(test)]
mod tests;
mod watch;

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

pub use self::batch::{Answer, Batch};
pub use self::connection::{Connection, MAX_REPLY_BYTES, Receiver, Sender};
pub use self::error::Error;
pub use crate::error::Certainty;
pub use crate::protocol::text::ReplyLine;
pub use crate::protocol::{Command, CopyFault, Finding, Verified};
pub use crate::tls::{ClientFiles as TlsFiles, Dialer as Tls};

use crate::error::printable;
use crate::protocol::text::{decode_finding, decode_nodes, decode_verified};
use crate::types::{Credentials, Endpoints, MessageId, NodeId};

/// How long a call waits unless told otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longer than this is as good as for ever, and still fits any clock.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);

/// How often a refused `set` is sent again, and the first pause before that; each next one is
/// twice as long, so that the last try comes about 0.6 s after the first.
const BUSY_RETRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(10);

const DROPPED: &str = "an earlier call was dropped before its answer came";
const TIMED_OUT: &str = "an earlier call was not answered in time";
const NOT_UNDERSTOOD: &str = "an earlier answer did not fit its request";
const ANSWER_FOR_NOBODY: &str = "the leader sent something that nobody asked for, or closed it";
const CLOSED: &str = "the leader closed it";
const BROKEN: &str = "it broke";

/// How a [`Client`] behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The longest that connecting, a call, or one answer of a batch may take.
    pub timeout: Duration,
    /// What encrypts the connection; nothing: it goes as it is.
    pub tls: Option<Tls>,
}

impl Default for Options {
    fn default() -> Self {
        Self { timeout: DEFAULT_TIMEOUT, tls: None }
    }
}

/// Sets [`Options`] by name; made by [`Client::builder`].
#[derive(Debug, Clone, Default)]
#[must_use = "a builder connects nothing before `connect`"]
pub struct Builder {
    options: Options,
}

impl Builder {
    /// The longest that connecting, a call, or one answer of a batch may take; 10 s otherwise.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = timeout;
        self
    }

    /// Speaks TLS.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.options.tls = Some(tls);
        self
    }

    /// Connects to `addr`, a `HOST:PORT`, or several with commas between; see [`Client::connect`].
    pub async fn connect(self, addr: &str) -> Result<Client, Error> {
        Client::connect_with(addr, self.options).await
    }
}

/// One connection to a register's leader, or, of several leader processes, to one after the other.
///
/// Calls take `&mut self`, one at a time; a program with many tasks opens a
/// client for each, or puts the requests of all into a [`Batch`].
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    endpoints: Endpoints,
    options: Options,
    /// Who has logged in, and does so again on another connection.
    credentials: Option<Credentials>,
    /// Why no answer can be trusted any more; set while a call is under way, so that a call
    /// that is dropped half way leaves it behind.
    unusable: Option<&'static str>,
}

impl Client {
    /// Connects with options by name.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), hatokuse::client::Error> {
    /// use std::time::Duration;
    /// use hatokuse::client::Client;
    ///
    /// let client = Client::builder().timeout(Duration::from_secs(2)).connect("127.0.0.1:6666").await?;
    /// # Ok(()) }
    /// ```
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Keeps `message` under `id`, in place of what was there.
    ///
    /// `Ok` means that it is on as many nodes as the tolerance says. A refusal with `BUSY`, which
    /// says that surely nothing was written, is tried again a few times within the timeout.
    /// **Nothing else is**: after any other error the caller decides, by [`Error::certainty`].
    /// A message may hold any byte but a line feed.
    pub async fn set(&mut self, id: &str, message: impl Into<Bytes>) -> Result<(), Error> {
        let command = Command::Set { id: parse_id(id)?, payload: message.into() };
        match self.request(&command).await? {
            ReplyLine::Ok => Ok(()),
            reply => Err(self.refused("OK or ERROR", reply)),
        }
    }

    /// The message under `id`, and `None` when there is surely none.
    pub async fn get(&mut self, id: &str) -> Result<Option<Bytes>, Error> {
        match self.request(&Command::Get(parse_id(id)?)).await? {
            ReplyLine::Value(message) => Ok(Some(message)),
            ReplyLine::Error { code, .. } if code == "NOT_FOUND" => Ok(None),
            reply => Err(self.refused("VALUE or ERROR", reply)),
        }
    }

    /// Removes the message under `id`. `Ok` means that it is gone, or never was. As with [`set`](Self::set), only a
    /// refusal with `BUSY` is tried again.
    pub async fn delete(&mut self, id: &str) -> Result<(), Error> {
        match self.request(&Command::Delete(parse_id(id)?)).await? {
            ReplyLine::Ok => Ok(()),
            reply => Err(self.refused("OK or ERROR", reply)),
        }
    }

    /// Has every copy of every message read and checked, however long that takes; `each` gets what is wrong as it
    /// is found.
    pub async fn verify(&mut self, mut each: impl FnMut(Finding)) -> Result<Verified, Error> {
        let mut reply = self.request(&Command::Verify).await?;
        while let Some(finding) = after_word(&reply, "").and_then(decode_finding) {
            each(finding);
            reply = self.next_part().await?;
        }
        match after_word(&reply, "").and_then(decode_verified) {
            Some(verified) => Ok(verified),
            None => Err(self.refused("COPY, NODE, VERIFIED or ERROR", reply)),
        }
    }

    /// Keeps a message under `id` for a while, in whole milliseconds of the register's time; then it is gone.
    ///
    /// # Errors
    /// As [`Client::set`].
    pub async fn set_for(&mut self, id: &str, message: impl Into<Bytes>, time: Duration) -> Result<(), Error> {
        match self.request(&Command::SetFor { id: parse_id(id)?, time, payload: message.into() }).await? {
            ReplyLine::Ok => Ok(()),
            reply => Err(self.refused("OK or ERROR", reply)),
        }
    }

    /// Has the message under `id` end after a while (or, with nothing, stay). `false`: there is no such message.
    pub async fn expire(&mut self, id: &str, time: Option<Duration>) -> Result<bool, Error> {
        match self.request(&Command::Expire { id: parse_id(id)?, time }).await? {
            ReplyLine::Ok => Ok(true),
            ReplyLine::Error { code, .. } if code == "NOT_FOUND" => Ok(false),
            reply => Err(self.refused("OK or ERROR", reply)),
        }
    }

    /// How long the message under `id` stays: nothing if there is none, and [`Duration::MAX`] if it does not end.
    pub async fn ttl(&mut self, id: &str) -> Result<Option<Duration>, Error> {
        let reply = self.request(&Command::Ttl(parse_id(id)?)).await?;
        if matches!(&reply, ReplyLine::Error { code, .. } if code == "NOT_FOUND") {
            return Ok(None);
        }
        let left = after_word(&reply, "TTL ").and_then(|left| match left {
            "never" => Some(Duration::MAX),
            left => left.strip_suffix("ms")?.parse().ok().map(Duration::from_millis),
        });
        left.map(Some).ok_or_else(|| self.refused("TTL or ERROR", reply))
    }

    /// Has everything moved off a node (or, with `false`, lets the node take copies again). `Ok` means that it has
    /// begun: STATUS tells how far it is.
    pub async fn drain(&mut self, node: NodeId, on: bool) -> Result<(), Error> {
        let command = if on { Command::Drain(node) } else { Command::Undrain(node) };
        match self.request(&command).await? {
            ReplyLine::Ok => Ok(()),
            reply => Err(self.refused("OK or ERROR", reply)),
        }
    }

    /// Takes a node off the list of members for good. It has to be down, or drained, and hold nothing.
    pub async fn remove(&mut self, node: NodeId) -> Result<(), Error> {
        self.take_off(node, false).await
    }

    /// Gives a node up that is down and gone for good, with whatever it held: what had no other copy is lost.
    pub async fn give_up(&mut self, node: NodeId) -> Result<(), Error> {
        self.take_off(node, true).await
    }

    async fn take_off(&mut self, node: NodeId, force: bool) -> Result<(), Error> {
        match self.request(&Command::Remove { node, force }).await? {
            ReplyLine::Ok => Ok(()),
            reply => Err(self.refused("OK or ERROR", reply)),
        }
    }

    /// Has the copies evened out (or, with `false`, ends that). `Ok` means that it has begun.
    pub async fn rebalance(&mut self, on: bool) -> Result<(), Error> {
        match self.request(&Command::Rebalance(on)).await? {
            ReplyLine::Ok => Ok(()),
            reply => Err(self.refused("OK or ERROR", reply)),
        }
    }

    /// The nodes that hold the message under `id`, ascending; empty when there is surely none.
    pub async fn where_is(&mut self, id: &str) -> Result<Vec<NodeId>, Error> {
        match self.request(&Command::Where(parse_id(id)?)).await? {
            ReplyLine::Error { code, .. } if code == "NOT_FOUND" => Ok(Vec::new()),
            reply => match after_word(&reply, "").and_then(decode_nodes) {
                Some((nodes, _)) => Ok(nodes),
                None => Err(self.refused("NODES or ERROR", reply)),
            },
        }
    }

    /// How many messages there are.
    pub async fn count(&mut self) -> Result<u64, Error> {
        let reply = self.request(&Command::Count).await?;
        match after_word(&reply, "COUNT ").and_then(|number| number.parse().ok()) {
            Some(count) => Ok(count),
            None => Err(self.refused("COUNT or ERROR", reply)),
        }
    }

    /// The register's state: tolerance, messages, nodes and how they are.
    ///
    /// ```no_run
    /// # async fn example(mut client: hatokuse::client::Client) -> Result<(), hatokuse::client::Error> {
    /// let status = client.status().await?;
    /// println!("{} messages, {} lost", status["messages"], status["lost"]);
    /// # Ok(()) }
    /// ```
    pub async fn status(&mut self) -> Result<serde_json::Value, Error> {
        let reply = self.request(&Command::Status).await?;
        match after_word(&reply, "").and_then(|json| serde_json::from_str(json).ok()) {
            Some(status) => Ok(status),
            None => Err(self.refused("a line of JSON or ERROR", reply)),
        }
    }

    /// Gives the password of user `default`, where the leader asks for one: before that it refuses every other call with
    /// `NOAUTH`.
    pub async fn authenticate(&mut self, password: &str) -> Result<(), Error> {
        self.log_in(&Credentials { user: None, password: password.to_owned() }).await
    }

    /// Logs in as a user: from then on the leader carries out what that one may do, and refuses the rest with `DENIED`.
    pub async fn authenticate_as(&mut self, user: &str, password: &str) -> Result<(), Error> {
        self.log_in(&Credentials { user: Some(user.to_owned()), password: password.to_owned() }).await
    }

    pub(crate) async fn log_in(&mut self, credentials: &Credentials) -> Result<(), Error> {
        let words: Vec<&str> = credentials.words().collect();
        let words = words.join(" ");
        if words.contains('\n') {
            return Err(Error::MessageHasLineBreak);
        }
        match self.request(&Command::Auth(Bytes::from(words))).await? {
            ReplyLine::Ok => {
                self.credentials = Some(credentials.clone());
                Ok(())
            }
            reply => Err(self.refused("OK or ERROR", reply)),
        }
    }

    /// Asks whether the leader is there.
    pub async fn ping(&mut self) -> Result<(), Error> {
        match self.request(&Command::Ping { crlf: false }).await? {
            ReplyLine::Other(line) if line == "+PONG" => Ok(()),
            reply => Err(self.refused("+PONG", reply)),
        }
    }

    /// Requests that leave together, without waiting a round trip for each.
    pub fn batch(&mut self) -> Batch<'_> {
        Batch::new(self)
    }

    /// Whether another call makes sense: nothing has gone wrong, and the leader has not closed the
    /// connection as far as is known. `Err` is what that call would return, or, with several addresses,
    /// why it would connect anew.
    pub fn check(&mut self) -> Result<(), Error> {
        if self.unusable.is_none() && !self.connection.receiver.is_quiet() {
            self.unusable = Some(ANSWER_FOR_NOBODY);
            if let Some(what) = self.connection.receiver.stranger() {
                return Err(Error::NotALeader { what });
            }
            // A leader with too many connections says so before it hangs up.
            if let Some(ReplyLine::Error { code, explanation }) = self.connection.receiver.buffered_reply() {
                return Err(Error::Refused { code, explanation });
            }
        }
        match self.unusable {
            Some(since) => Err(Error::Unusable { since }),
            None => Ok(()),
        }
    }

    /// Sends one request, gives its reply line, as far as that is possible over one of several addresses.
    async fn request(&mut self, command: &Command) -> Result<ReplyLine, Error> {
        self.ready().await?;
        let mut tries = 0;
        loop {
            let asked = self.request_here(command).await;
            if !self.turns_elsewhere(Some(command), &asked, &mut tries).await? {
                return asked;
            }
        }
    }

    /// Sends one request on the connection that there is; a write that is refused as BUSY is sent again.
    async fn request_here(&mut self, command: &Command) -> Result<ReplyLine, Error> {
        // VERIFY reads the whole register before it says that all is well.
        let patience = if *command == Command::Verify { LONGEST_TIMEOUT } else { self.options.timeout };
        let deadline = Instant::now() + patience;
        let mut pause = FIRST_PAUSE;
        for _ in 0..BUSY_RETRIES {
            self.connection.send(command)?;
            let reply = self.exchange(deadline).await?;
            let busy = matches!(command, Command::Set { .. } | Command::SetFor { .. } | Command::Delete(_))
                && matches!(&reply, ReplyLine::Error { code, .. } if code == "BUSY");
            if !busy || Instant::now() + pause >= deadline || !self.stays_open(pause).await {
                return Ok(reply);
            }
            pause *= 2;
        }
        self.connection.send(command)?;
        self.exchange(deadline).await
    }

    /// Sends a line of any kind, without its end, and gives its reply line.
    async fn request_line(&mut self, line: &[u8]) -> Result<ReplyLine, Error> {
        self.ready().await?;
        let mut tries = 0;
        loop {
            self.connection.sender.send_raw(line);
            self.connection.sender.send_raw(b"\n");
            let asked = self.exchange(Instant::now() + self.options.timeout).await;
            // What this client does not know may be a write.
            if !self.turns_elsewhere(None, &asked, &mut tries).await? {
                return asked;
            }
        }
    }

    /// The next line of a reply of many.
    async fn next_part(&mut self) -> Result<ReplyLine, Error> {
        self.exchange(Instant::now() + LONGEST_TIMEOUT).await
    }

    /// Flushes one request and waits for its reply.
    async fn exchange(&mut self, deadline: Instant) -> Result<ReplyLine, Error> {
        self.unusable = Some(DROPPED);
        let reply = self.connection.flush_while(Receiver::next_reply);
        match tokio::time::timeout_at(deadline, reply).await {
            Ok(Ok(reply)) => {
                self.unusable = None;
                Ok(reply)
            }
            Ok(Err(error)) => {
                self.unusable = Some(since(&error));
                Err(error)
            }
            Err(_) => {
                self.unusable = Some(TIMED_OUT);
                Err(Error::Timeout { after: self.options.timeout })
            }
        }
    }

    /// Waits for `pause` while listening, since a leader with too many connections says BUSY and
    /// hangs up: a request after that would turn "surely not" into "maybe".
    async fn stays_open(&mut self, pause: Duration) -> bool {
        match tokio::time::timeout(pause, self.connection.next_reply()).await {
            Err(_) => true,
            Ok(_) => {
                self.unusable = Some(ANSWER_FOR_NOBODY);
                false
            }
        }
    }

    /// The error that a reply stands for; one that does not fit its request ends the connection's use.
    fn refused(&mut self, wanted: &'static str, reply: ReplyLine) -> Error {
        match reply {
            ReplyLine::Error { code, explanation } => Error::Refused { code, explanation },
            other => {
                self.unusable = Some(NOT_UNDERSTOOD);
                unexpected(wanted, &other)
            }
        }
    }
}

fn parse_id(id: &str) -> Result<MessageId, Error> {
    Ok(MessageId::parse(id.as_bytes())?)
}

/// What to say later of a connection that ended so.
fn since(error: &Error) -> &'static str {
    match error {
        Error::Closed => CLOSED,
        Error::Protocol { .. } | Error::NotALeader { .. } => NOT_UNDERSTOOD,
        _ => BROKEN,
    }
}

fn unexpected(wanted: &'static str, reply: &ReplyLine) -> Error {
    let got = match reply {
        ReplyLine::Ok => "OK".to_owned(),
        ReplyLine::Value(_) => "VALUE ...".to_owned(),
        ReplyLine::Error { code, .. } => format!("ERROR {code}"),
        ReplyLine::Other(line) => printable(line, 60),
    };
    Error::Protocol { wanted, got }
}

/// The text of a reply line without a form of its own, after `word`.
fn after_word<'a>(reply: &'a ReplyLine, word: &str) -> Option<&'a str> {
    match reply {
        ReplyLine::Other(line) => std::str::from_utf8(line).ok()?.strip_prefix(word),
        _ => None,
    }
}
