//! How a [`Client`] comes to its connection, and, where it knows several addresses, to another one.
//!
//! Invariant: a request that may have reached a leader is sent again only if it changes nothing. With one address nothing
//! is ever sent again here, and no connection is made anew.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::advice::writes;
use super::{Client, Connection, DROPPED, Error, LONGEST_TIMEOUT, Options, Receiver, TIMED_OUT, unexpected};
use crate::protocol::Command;
use crate::protocol::text::ReplyLine;
use crate::types::{Credentials, Endpoints, says_nobody_leads};

/// Why a connection is left whose other side has said that nobody leads.
const NOBODY_LEADS: &str = "nobody led behind it";

impl Client {
    /// Connects to `addr`, a `HOST:PORT`, with a timeout of 10 s for this and every later call.
    ///
    /// Of a register with several leader processes `addr` names all of them, with commas between. The first that answers
    /// is used. A call that finds its connection gone, so that nothing of it was sent, goes to the next by itself, and so
    /// does a read whose answer is lost; a write whose answer is lost is an error as ever. The timeout then holds for
    /// connecting to all of them together, and for a call after that.
    pub async fn connect(addr: &str) -> Result<Self, Error> {
        Self::connect_with(addr, Options::default()).await
    }

    /// Connects with other [`Options`]; `addr` is as in [`connect`](Self::connect).
    pub async fn connect_with(addr: &str, options: Options) -> Result<Self, Error> {
        let options = Options { timeout: options.timeout.min(LONGEST_TIMEOUT), ..options };
        let mut endpoints = Endpoints::new(addr);
        let connection = dial(&mut endpoints, &options, None).await?;
        Ok(Self { connection, endpoints, options, credentials: None, unusable: None })
    }

    /// The address that serves this client now.
    pub fn address(&self) -> &str {
        self.endpoints.current()
    }

    /// All addresses, as they were given.
    pub(super) fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Has a connection on which a request can be sent: the one that there is, or, with several addresses, another one.
    pub(super) async fn ready(&mut self) -> Result<(), Error> {
        match self.check() {
            Err(_) if self.endpoints.are_several() => self.reconnect().await,
            checked => checked,
        }
    }

    /// Connects anew, and logs in as before. One that did not answer in time is the last to be tried.
    pub(super) async fn reconnect(&mut self) -> Result<(), Error> {
        if matches!(self.unusable, Some(TIMED_OUT | NOBODY_LEADS)) {
            self.endpoints.move_on();
        }
        // Whoever drops this half way is left with a connection that cannot be used.
        self.unusable = self.unusable.or(Some(DROPPED));
        self.connection = dial(&mut self.endpoints, &self.options, self.credentials.as_ref()).await?;
        self.unusable = None;
        Ok(())
    }

    /// Whether a call that went so is made again on another connection, which is open then. Where it is not, because no
    /// address answers, that is what became of the call: nothing of it happened.
    pub(super) async fn turns_elsewhere(
        &mut self,
        command: Option<&Command>,
        asked: &Result<ReplyLine, Error>,
        tries: &mut usize,
    ) -> Result<bool, Error> {
        *tries += 1;
        let again = match asked {
            Ok(ReplyLine::Error { code, explanation }) if says_nobody_leads(code, explanation) => {
                self.unusable = Some(NOBODY_LEADS);
                true
            }
            Err(Error::Closed | Error::Io { .. }) => command.is_some_and(|command| !writes(command)),
            _ => false,
        };
        if !again || *tries >= self.endpoints.count() {
            return Ok(false);
        }
        self.reconnect().await.map(|()| true)
    }
}

/// A connection to the first of these that answers.
async fn dial(
    endpoints: &mut Endpoints,
    options: &Options,
    credentials: Option<&Credentials>,
) -> Result<Connection, Error> {
    let Options { timeout, tls } = options;
    let open = async |addr: &str, timeout: Duration| match tls {
        None => Connection::open(addr, timeout).await,
        Some(tls) => Connection::open_tls(addr, timeout, tls).await,
    };
    if !endpoints.are_several() {
        let mut connection = open(endpoints.current(), *timeout).await?;
        if let Some(credentials) = credentials {
            log_in(&mut connection, credentials, Instant::now() + *timeout, *timeout).await?;
        }
        return Ok(connection);
    }
    let (deadline, order) = (Instant::now() + *timeout, endpoints.in_order());
    let mut tried = Vec::with_capacity(order.len());
    for (n, (at, addr)) in order.iter().enumerate() {
        // One that is silent leaves time for those after it.
        let share = deadline.saturating_duration_since(Instant::now()) / (order.len() - n) as u32;
        let until = Instant::now() + share;
        let served = async {
            let mut connection = open(addr, share).await?;
            prove(&mut connection, until, share).await?;
            if let Some(credentials) = credentials {
                log_in(&mut connection, credentials, until, share).await?;
            }
            Ok(connection)
        };
        match served.await {
            Ok(connection) => {
                endpoints.served_by(*at);
                return Ok(connection);
            }
            // All of them would say the same.
            Err(error @ Error::Refused { .. }) if !error.is_elsewhere() => return Err(error),
            Err(error) => tried.push((addr.clone(), error.in_short())),
        }
    }
    Err(Error::NoneAnswers { tried })
}

/// Finds out whether the other side answers, and is no standby without a leader.
async fn prove(connection: &mut Connection, until: Instant, within: Duration) -> Result<(), Error> {
    match exchange(connection, &Command::Ping { crlf: false }, until, within).await? {
        ReplyLine::Other(line) if line == "+PONG" => Ok(()),
        // Who has to log in first will do so.
        ReplyLine::Error { code, .. } if code == "NOAUTH" || code == "DENIED" => Ok(()),
        ReplyLine::Error { code, explanation } => Err(Error::Refused { code, explanation }),
        other => Err(unexpected("+PONG", &other)),
    }
}

async fn log_in(
    connection: &mut Connection,
    credentials: &Credentials,
    until: Instant,
    within: Duration,
) -> Result<(), Error> {
    let words: Vec<&str> = credentials.words().collect();
    match exchange(connection, &Command::Auth(words.join(" ").into()), until, within).await? {
        ReplyLine::Ok => Ok(()),
        ReplyLine::Error { code, explanation } => Err(Error::Refused { code, explanation }),
        other => Err(unexpected("OK or ERROR", &other)),
    }
}

async fn exchange(
    connection: &mut Connection,
    command: &Command,
    until: Instant,
    within: Duration,
) -> Result<ReplyLine, Error> {
    connection.send(command)?;
    let reply = connection.flush_while(Receiver::next_reply);
    timeout_at(until, reply).await.unwrap_or(Err(Error::Timeout { after: within }))
}

#[cfg(test)]
#[path = "dial_tests.rs"]
mod tests;
