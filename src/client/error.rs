//! What can go wrong between a program and the register.
//!
//! Invariant: every text says what happened, whether a write may have happened,
//! and what to do next; [`Error::certainty`] says the middle one to programs.
//! Never decides whether to try again: that is the caller's, with one exception
//! that [`Client::set`](super::Client::set) documents.

use std::io;
use std::time::Duration;

use crate::error::{Certainty, certainty_of};
use crate::tls::{explain, is_refusal};
use crate::types::{BadId, MAX_ID_BYTES, says_nobody_leads};

/// Why a call did not do what was asked.
///
/// ```
/// use hatokuse::client::{Certainty, Error};
///
/// let error = Error::Refused { code: "TOO_FEW_NODES".into(), explanation: "need 3 live nodes, have 2".into() };
/// assert_eq!(error.certainty(), Certainty::SurelyNot); // the same write may be sent again
/// assert_eq!(Error::Closed.certainty(), Certainty::Maybe); // read before writing again
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection came about, so nothing was sent.
    #[error("cannot reach {addr} ({}): {hint}", in_few_words(source))]
    Connect {
        /// Where to.
        addr: String,
        /// What the system said.
        source: io::Error,
        /// What to try.
        hint: &'static str,
    },
    /// None of several addresses answers, so nothing was sent, or nothing came of it.
    #[error("none of the leader's addresses answers: {}; nothing was written", listed(tried))]
    NoneAnswers {
        /// Each address that was tried, and what came of it.
        tried: Vec<(String, String)>,
    },
    /// No answer in time. The connection cannot be used any more.
    #[error(
        "no answer within {}; a write may have happened or may happen yet: connect again, and read the id before you write it again",
        humantime::format_duration(*after)
    )]
    Timeout {
        /// The time that was waited.
        after: Duration,
    },
    /// The leader closed the connection before it answered.
    #[error(
        "the leader closed the connection before it answered; a write may have happened: connect again, and read the id before you write it again"
    )]
    Closed,
    /// The connection broke before the answer came.
    #[error(
        "the connection broke ({source}); a write may have happened: connect again, and read the id before you write it again"
    )]
    Io {
        /// What the system said.
        source: io::Error,
    },
    /// The leader answered `ERROR`. The connection lives on.
    #[error("{code}: {explanation}{}", warning(code))]
    Refused {
        /// The code word, such as `TOO_FEW_NODES`.
        code: String,
        /// For people: what happened and what to do.
        explanation: String,
    },
    /// No id that the register takes; nothing was sent.
    #[error("{reason}; an id is 1 to {MAX_ID_BYTES} bytes of UTF-8 without blanks; nothing was sent")]
    BadId {
        /// What is wrong with it.
        #[from]
        reason: BadId,
    },
    /// A message with a line feed cannot travel as a line; nothing was sent.
    #[error(
        "the message holds a line break, which the text protocol cannot carry; nothing was sent: encode the message, or store it through the Redis protocol (redis-cli -x SET <id> < FILE)"
    )]
    MessageHasLineBreak,
    /// An answer that fits no such request. The connection cannot be used any more.
    #[error(
        "wanted {wanted}, but the server answered {got:?}; a write may have happened: check that the address is a hatokuse leader's port for clients, and connect again"
    )]
    Protocol {
        /// What would have been right.
        wanted: &'static str,
        /// The beginning of what came.
        got: String,
    },
    /// What answers is something else; nothing was stored.
    #[error("this is no leader's port for clients; {what}; nothing was stored")]
    NotALeader {
        /// What it is, and which port is right.
        what: &'static str,
    },
    /// The leader refused the certificate that was shown, or that none was, before it read anything.
    #[error("the leader lets nobody in like this: {why}; nothing was written: look into --tls-cert and --tls-key")]
    NotLetIn {
        /// What it said.
        why: String,
    },
    /// An earlier call left the connection in a state where a late answer could be taken
    /// for another request's; nothing was sent this time.
    #[error("this connection cannot be used any more: {since}; nothing was sent this time: connect again")]
    Unusable {
        /// What happened then.
        since: &'static str,
    },
}

impl Error {
    /// Whether the write that ended in this error may have happened, or may happen yet.
    ///
    /// Of [`Error::Unusable`] it speaks only about the call that returned it.
    pub fn certainty(&self) -> Certainty {
        match self {
            Self::Connect { .. }
            | Self::NoneAnswers { .. }
            | Self::BadId { .. }
            | Self::MessageHasLineBreak
            | Self::NotALeader { .. }
            | Self::NotLetIn { .. }
            | Self::Unusable { .. } => Certainty::SurelyNot,
            Self::Refused { code, .. } => certainty_of(code),
            Self::Timeout { .. } | Self::Closed | Self::Io { .. } | Self::Protocol { .. } => Certainty::Maybe,
        }
    }

    /// Whether this is about one leader process, and another one may do better.
    pub(super) fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Refused { code, explanation } if code == "BUSY" || says_nobody_leads(code, explanation))
    }

    /// What happened, without what it means for writes, or what to do.
    pub(super) fn in_short(&self) -> String {
        match self {
            Self::Connect { source, .. } => in_few_words(source),
            Self::Timeout { after } => format!("no answer within {}", in_millis(*after)),
            Self::Refused { explanation, .. } if self.is_elsewhere() => {
                explanation.split(';').next().unwrap_or_default().to_owned()
            }
            Self::Refused { code, explanation } => format!("{code}: {explanation}"),
            Self::NotALeader { what } => (*what).to_owned(),
            Self::NotLetIn { why } => why.clone(),
            Self::Protocol { got, .. } => format!("it answered {got:?}"),
            Self::NoneAnswers { tried } => listed(tried),
            _ => "the connection was lost".to_owned(),
        }
    }

    pub(super) fn connect(addr: &str, source: io::Error) -> Self {
        let hint = match source.kind() {
            io::ErrorKind::ConnectionRefused => {
                "is the leader running, and is that its address? name another with --addr HOST:PORT or HATOKUSE_ADDR; to try one on this machine: hatokuse leader --local-nodes 4"
            }
            io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                "is the address right, and does a firewall let it through?"
            }
            io::ErrorKind::InvalidData => {
                "look into --tls, --tls-ca and --tls-cert, and whether this is the port that the leader prints as tls="
            }
            _ => "write the leader's address as HOST:PORT, for example 127.0.0.1:6666",
        };
        Self::Connect { addr: addr.to_owned(), source, hint }
    }

    /// An error of an open connection: that the other side went has one name, however the system says it.
    pub(super) fn lost(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => {
                Self::Closed
            }
            _ if is_refusal(&source) => Self::NotLetIn { why: explain(source).to_string() },
            _ => Self::Io { source: explain(source) },
        }
    }
}

fn listed(tried: &[(String, String)]) -> String {
    let each = tried.iter().map(|(addr, why)| format!("{addr} ({why})"));
    each.collect::<Vec<_>>().join(", ")
}

/// A time without the smallest parts of it.
fn in_millis(time: Duration) -> String {
    humantime::format_duration(Duration::from_millis(time.as_millis() as u64)).to_string()
}

/// `connection refused` rather than `Connection refused (os error 111)`, where that is all there is to say.
fn in_few_words(source: &io::Error) -> String {
    match source.kind() {
        kind @ (io::ErrorKind::ConnectionRefused | io::ErrorKind::TimedOut) => kind.to_string(),
        _ => source.to_string(),
    }
}

/// The leader's own explanations say what became of a write; those of a code that this
/// library does not know may not.
fn warning(code: &str) -> &'static str {
    match certainty_of(code) {
        Certainty::Maybe if code != "UNKNOWN" => "; a write may have happened: read the id before you write it again",
        _ if code == "NOAUTH" => " (hatokuse client --user NAME --password-file FILE does)",
        _ => "",
    }
}
