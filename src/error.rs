//! What a client can be told when its request did not succeed, and whether a
//! write may have happened all the same.

use std::fmt::Write as _;

use crate::types::NodeId;

/// Whether a refused write may still appear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certainty {
    /// Nothing was written: trying again is safe.
    SurelyNot,
    /// The write may appear later.
    Maybe,
}

/// An error reply: `ERROR <CODE> <explanation>`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request was not understood: which part, and what is right.
    #[error("{0}")]
    BadCommand(String),
    /// The message is over the limit; sizes in bytes.
    #[error("the message is over the limit of {limit} bytes; nothing was written, send a smaller one")]
    TooLarge {
        /// The largest message that is taken.
        limit: usize,
    },
    /// Fewer live nodes than copies to place.
    #[error("{0}")]
    TooFewNodes(String),
    /// A bound was hit.
    #[error("{0}; nothing was written, try again in a moment")]
    Busy(&'static str),
    /// The outcome was not settled in time.
    #[error("{0}; the write may appear later: read the id before you write it again")]
    Unknown(String),
    /// Surely no such message.
    #[error("no message with this id")]
    NotFound,
    /// The message exists or may exist, and cannot be read now.
    #[error("{0}")]
    Unavailable(String),
    /// Every holder was asked, and none has an intact copy.
    #[error("{0}")]
    Lost(String),
    /// The value holds a line break, so that no answer line can carry it.
    #[error("the value holds a line break, which an answer line cannot carry; read it through the Redis protocol")]
    NotALine,
    /// The password was not given.
    #[error("this register asks for a password; nothing was done, send AUTH <password> first")]
    NoAuth,
    /// Another password is right.
    #[error("this is not the password of such a user, or the user is disabled")]
    WrongPassword,
    /// The user may not do this: what, in words.
    #[error("{0}; nothing was done")]
    Denied(String),
    /// A line of HTTP. Nobody is told: the connection closes.
    #[error("this is no web server")]
    OtherProtocol,
}

/// Every code word of the text protocol.
pub const CODES: [&str; 12] = [
    "BAD_COMMAND",
    "BUSY",
    "DENIED",
    "LOST",
    "NOAUTH",
    "NOT_A_LINE",
    "NOT_FOUND",
    "TOO_FEW_NODES",
    "TOO_LARGE",
    "UNAVAILABLE",
    "UNKNOWN",
    "WRONGPASS",
];

impl Refusal {
    /// The code word of the text protocol.
    pub fn code(&self) -> &'static str {
        match self {
            Self::BadCommand(_) => "BAD_COMMAND",
            Self::TooLarge { .. } => "TOO_LARGE",
            Self::TooFewNodes { .. } => "TOO_FEW_NODES",
            Self::Busy(_) => "BUSY",
            Self::Unknown(_) => "UNKNOWN",
            Self::NotFound => "NOT_FOUND",
            Self::Unavailable(_) => "UNAVAILABLE",
            Self::Lost(_) => "LOST",
            Self::NotALine => "NOT_A_LINE",
            Self::NoAuth => "NOAUTH",
            Self::WrongPassword => "WRONGPASS",
            Self::Denied(_) => "DENIED",
            Self::OtherProtocol => "BAD_COMMAND",
        }
    }

    /// Whether the write that was refused so may still appear.
    pub fn certainty(&self) -> Certainty {
        certainty_of(self.code())
    }
}

/// What an error code says of a write; an unknown code is taken for the worst.
pub fn certainty_of(code: &str) -> Certainty {
    match code {
        "BAD_COMMAND" | "TOO_LARGE" | "TOO_FEW_NODES" | "BUSY" | "UNAVAILABLE" | "NOT_FOUND" | "NOT_A_LINE"
        | "LOST" | "NOAUTH" | "WRONGPASS" | "DENIED" => Certainty::SurelyNot,
        _ => Certainty::Maybe,
    }
}

/// `node 3`, or `nodes 1, 3`: how messages to people name nodes, each once.
pub fn name_nodes(nodes: &[NodeId]) -> String {
    let mut named: Vec<NodeId> = Vec::with_capacity(nodes.len());
    nodes.iter().for_each(|node| {
        if !named.contains(node) {
            named.push(*node)
        }
    });
    let mut text = String::from(if named.len() == 1 { "node " } else { "nodes " });
    for (i, node) in named.iter().enumerate() {
        let _ = write!(text, "{}{node}", if i == 0 { "" } else { ", " });
    }
    text
}

/// Text from outside made safe to show: control characters escaped, at most `limit` characters.
pub fn printable(bytes: &[u8], limit: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown = String::new();
    for c in text.chars().take(limit) {
        if c.is_control() {
            let _ = write!(shown, "{}", c.escape_default());
        } else {
            shown.push(c);
        }
    }
    if text.chars().nth(limit).is_some() {
        shown.push_str("...");
    }
    shown
}
