//! What clients ask and what they are told, apart from how it is spelled.

pub mod text;

use crate::error::Refusal;
use crate::types::{MessageId, NodeId, Payload};

/// A request of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Keep a message under an id.
    Set {
        /// Under which id.
        id: MessageId,
        /// The message, byte for byte.
        payload: Payload,
    },
    /// Read a message.
    Get(MessageId),
    /// Which nodes hold a message.
    Where(MessageId),
    /// How many messages there are.
    Count,
    /// The register's state as JSON.
    Status,
    /// Are you there.
    Ping,
    /// Which commands there are.
    Help,
    /// Close the connection.
    Exit,
}

/// The answer to one [`Command`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The message is kept.
    Stored,
    /// The message.
    Value(Payload),
    /// The holders, ascending.
    Nodes(Vec<NodeId>),
    /// How many.
    Count(u64),
    /// One line of JSON.
    Status(String),
    /// Here.
    Pong,
    /// One line of help.
    Help,
    /// The connection closes after this.
    Bye,
    /// It did not succeed, and why.
    Refused(Refusal),
}

/// What a decoder made of the bytes so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded<T> {
    /// More bytes are needed.
    Need,
    /// One item.
    Item(T),
    /// Bytes that are no item; they are used up, and the next item may follow.
    Bad(Refusal),
}
