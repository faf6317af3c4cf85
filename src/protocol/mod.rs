//! What clients ask and what they are told, apart from how it is spelled.

pub mod glob;
pub mod peers;
pub mod resp;
pub mod table;
pub mod text;

use std::time::Duration;

use crate::error::Refusal;
use crate::types::{Deadline, MessageId, NodeId, Payload, PeerId};

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
    /// Keep a message under an id for a while.
    SetFor {
        /// Under which id.
        id: MessageId,
        /// For how long.
        time: Duration,
        /// The message, byte for byte.
        payload: Payload,
    },
    /// Have a message end after a while, or (with nothing) stay.
    Expire {
        /// Which.
        id: MessageId,
        /// After how long; nothing: it stays.
        time: Option<Duration>,
    },
    /// How long a message stays.
    Ttl(MessageId),
    /// Read a message.
    Get(MessageId),
    /// Delete a message.
    Delete(MessageId),
    /// Which nodes hold a message.
    Where(MessageId),
    /// How many messages there are.
    Count,
    /// The register's state as JSON.
    Status,
    /// Check every copy of every message now.
    Verify,
    /// Move everything off a node.
    Drain(NodeId),
    /// Let a node take copies again.
    Undrain(NodeId),
    /// Take a node that holds nothing off the list of members, for good.
    Remove {
        /// Which.
        node: NodeId,
        /// It is gone for good, with whatever it held.
        force: bool,
    },
    /// Even out the copies (or, with `false`, stop doing so).
    Rebalance(bool),
    /// Take the time that most clocks show, though it is far ahead of the register's.
    AcceptClock,
    /// The group of leaders as JSON.
    Peers,
    /// Let another peer of that group lead: this one, or whichever is ready for it.
    HandOver(Option<PeerId>),
    /// Take a peer into that group.
    AddPeer {
        /// Its number.
        peer: PeerId,
        /// Where the others reach it.
        address: String,
    },
    /// Take a peer off that group, for good.
    RemovePeer(PeerId),
    /// Give the password.
    Auth(Payload),
    /// Are you there. With the line ended by CR and LF, as clients of Redis do that read such replies only, so is the reply.
    Ping {
        /// CR and LF.
        crlf: bool,
    },
    /// Which commands there are.
    Help,
    /// Close the connection.
    Exit,
}

/// The answer to one [`Command`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// It is done: the message is kept, or gone, or the order is taken.
    Done,
    /// The message.
    Value(Payload),
    /// Who holds a message.
    Nodes {
        /// Ascending.
        holders: Vec<NodeId>,
        /// When the message ends by itself, if it does.
        expires: Option<Deadline>,
    },
    /// How many.
    Count(u64),
    /// How long a message stays, in milliseconds; nothing: it does not end.
    Ttl(Option<u64>),
    /// One line of JSON.
    Status(String),
    /// One finding of VERIFY; more lines follow.
    Finding(Finding),
    /// The end of VERIFY.
    Verified(Verified),
    /// Here; with the line end of the request.
    Pong {
        /// CR and LF.
        crlf: bool,
    },
    /// One line of help.
    Help,
    /// The connection closes after this.
    Bye,
    /// It did not succeed, and why.
    Refused(Refusal),
}

/// What VERIFY found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A copy that is not as it should be.
    Copy {
        /// Of which message.
        id: MessageId,
        /// On which node.
        node: NodeId,
        /// What is wrong with it.
        fault: CopyFault,
        /// When the message ends by itself, if it does.
        expires: Option<Deadline>,
    },
    /// A node that is not here to be asked.
    Away {
        /// Which.
        node: NodeId,
        /// How many copies it should have.
        copies: u64,
    },
}

/// What VERIFY can find wrong with a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyFault {
    /// It is not there; it is being made again.
    Missing,
    /// It does not match its record; it is being made again.
    Damaged,
    /// Its node did not answer, or could not read it.
    Unknown,
}

/// What VERIFY counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// Messages looked at.
    pub messages: u64,
    /// Intact copies.
    pub intact: u64,
    /// Missing and damaged ones.
    pub bad: u64,
    /// Those that could not be asked for.
    pub unknown: u64,
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
