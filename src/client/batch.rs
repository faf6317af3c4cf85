//! Many requests in one go, answered in order.
//!
//! Invariant: either nothing of a batch was sent, or every request of it has its
//! own answer in the result, or the result is an error that says writes may have
//! happened. Never tries a request again: a later one may build on it.

use bytes::{Bytes, BytesMut};

use super::connection::encode;
use super::{ANSWER_FOR_NOBODY, Client, DROPPED, Error, NOT_UNDERSTOOD, TIMED_OUT, since, unexpected};
use crate::error::{Certainty, certainty_of};
use crate::protocol::Command;
use crate::protocol::text::ReplyLine;
use crate::types::MessageId;

/// Requests that leave together; made by [`Client::batch`].
///
/// ```no_run
/// use hatokuse::client::{Answer, Client};
///
/// # async fn example() -> Result<(), hatokuse::client::Error> {
/// let mut client = Client::connect("127.0.0.1:6666").await?;
/// let mut batch = client.batch();
/// for n in 0..1000 {
///     batch = batch.set(&format!("sensor-{n}"), "21.5");
/// }
/// let answers = batch.get("sensor-7").run().await?;
/// assert_eq!(answers.len(), 1001);
/// assert_eq!(answers[1000], Answer::Value("21.5".into()));
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "a batch sends nothing before it is run"]
pub struct Batch<'a> {
    client: &'a mut Client,
    requests: BytesMut,
    kinds: Vec<Kind>,
    /// The first request that cannot be sent; it stops the whole batch before it starts.
    refused: Option<Error>,
}

/// What a request of a batch was, and so which answers fit it.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Set,
    Get,
    Delete,
}

/// How one request of a [`Batch`] went.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// The message is kept.
    Stored,
    /// The message is gone, or never was.
    Deleted,
    /// The message.
    Value(Bytes),
    /// Surely no such message.
    NotFound,
    /// The leader answered `ERROR`.
    Refused {
        /// The code word, such as `TOO_FEW_NODES`.
        code: String,
        /// For people: what happened and what to do.
        explanation: String,
    },
}

impl Answer {
    /// Whether a write that was refused so may still appear; nothing for other answers.
    pub fn certainty(&self) -> Option<Certainty> {
        match self {
            Self::Refused { code, .. } => Some(certainty_of(code)),
            _ => None,
        }
    }
}

impl<'a> Batch<'a> {
    pub(super) fn new(client: &'a mut Client) -> Self {
        Self { client, requests: BytesMut::new(), kinds: Vec::new(), refused: None }
    }

    /// Adds a write. A bad id or message is told by [`run`](Self::run).
    pub fn set(self, id: &str, message: impl Into<Bytes>) -> Self {
        let payload = message.into();
        self.add(Kind::Set, id, |id| Command::Set { id, payload })
    }

    /// Adds a deletion. A bad id is told by [`run`](Self::run).
    pub fn delete(self, id: &str) -> Self {
        self.add(Kind::Delete, id, Command::Delete)
    }

    /// Adds a read, which sees the writes before it. A bad id is told by [`run`](Self::run).
    pub fn get(self, id: &str) -> Self {
        self.add(Kind::Get, id, Command::Get)
    }

    fn add(mut self, kind: Kind, id: &str, command: impl FnOnce(MessageId) -> Command) -> Self {
        if self.refused.is_none() {
            let added = id.parse().map_err(Error::from).and_then(|id| encode(&command(id), &mut self.requests));
            match added {
                Ok(()) => self.kinds.push(kind),
                Err(error) => self.refused = Some(error),
            }
        }
        self
    }

    /// How many requests there are.
    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// Sends all requests and gives their answers, in order.
    ///
    /// The client's timeout holds for each next answer, not for the whole, since a batch may
    /// be of any size. A refusal of one request is its [`Answer`] and stops nothing. After an
    /// error of the connection any write of the batch may have happened.
    pub async fn run(self) -> Result<Vec<Answer>, Error> {
        let Self { client, requests, kinds, refused } = self;
        if let Some(error) = refused {
            return Err(error);
        }
        client.ready().await?;
        let timeout = client.options.timeout;
        client.unusable = Some(DROPPED);
        client.connection.sender.send_raw(&requests);
        drop(requests);
        let answers = client
            .connection
            .flush_while(async |receiver: &mut super::Receiver| {
                let mut answers = Vec::with_capacity(kinds.len());
                for kind in kinds {
                    let reply = match tokio::time::timeout(timeout, receiver.next_reply()).await {
                        Ok(reply) => reply?,
                        Err(_) => return Err(Error::Timeout { after: timeout }),
                    };
                    answers.push(answer(kind, reply)?);
                }
                Ok(answers)
            })
            .await;
        client.unusable = match &answers {
            Ok(_) if client.connection.sender.buffered() > 0 => Some(ANSWER_FOR_NOBODY),
            Ok(_) => None,
            Err(Error::Timeout { .. }) => Some(TIMED_OUT),
            Err(Error::Protocol { .. }) => Some(NOT_UNDERSTOOD),
            Err(error) => Some(since(error)),
        };
        answers
    }
}

/// Reads one reply as the answer to one request.
fn answer(kind: Kind, reply: ReplyLine) -> Result<Answer, Error> {
    Ok(match (kind, reply) {
        (Kind::Set, ReplyLine::Ok) => Answer::Stored,
        (Kind::Delete, ReplyLine::Ok) => Answer::Deleted,
        (Kind::Get, ReplyLine::Value(message)) => Answer::Value(message),
        (Kind::Get, ReplyLine::Error { code, .. }) if code == "NOT_FOUND" => Answer::NotFound,
        (_, ReplyLine::Error { code, explanation }) => Answer::Refused { code, explanation },
        (Kind::Set | Kind::Delete, other) => return Err(unexpected("OK or ERROR", &other)),
        (Kind::Get, other) => return Err(unexpected("VALUE or ERROR", &other)),
    })
}
