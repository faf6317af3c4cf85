//! One connection that speaks the Redis protocol: its requests in order, and what it has said of itself.
//!
//! Plain GETs and SETs go to the coordinator in batches, as those of the text protocol do; other commands of one id go
//! together in `pipeline`. Everything else is worked on by itself, in `run`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Door;
use super::OK;
use super::clients::Taken;
use super::connection::{Flow, QUEUED_REQUESTS};
use super::deadlines;
use super::multi::Queued;
use super::outbox::Outbox;
use super::refused::{denial, told, unknown, unknown_subcommand, wrong_count, wrong_number};
use super::rights::Rights;
use super::run::{BAD_COMMAND, DENIED};
use crate::error::Refusal;
use crate::leader::backup::Backup;
use crate::leader::coordinator::{Coordinator, Request};
use crate::leader::sentinel::Subscriptions;
use crate::leader::shares::{Room, Share};
use crate::leader::users::Context;
use crate::protocol::resp::{Asked, ProtocolError, RequestDecoder, Value, Words};
use crate::protocol::table::{self, Misfit, Op, SessionOp, Spec};
use crate::protocol::{Command, Reply};
use crate::telemetry::served::Protocol;
use crate::types::{MAX_ID_BYTES, MessageId, Version};

/// A word may be longer than any message by this much before it costs the connection: a message that is a little too
/// long is told so.
const SPARE_WORD: usize = 64 << 10;

/// Which replies a client wants (CLIENT REPLY).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replies {
    All,
    /// All but the next one.
    ButNext,
    None,
}

/// The state of a connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) door: Arc<Door>,
    pub(super) coordinator: Arc<Coordinator>,
    pub(super) taken: Arc<Taken>,
    /// Of what is under way for this connection.
    pub(super) share: Arc<Share>,
    decoder: RequestDecoder,
    pub(super) requests: VecDeque<Asked>,
    fault: Option<ProtocolError>,
    /// Requests that go to the coordinator together.
    plain: VecDeque<Request>,
    /// Of the protocol.
    pub(super) version: u8,
    pub(super) rights: Rights,
    pub(super) queued: Option<Queued>,
    pub(super) watched: BTreeMap<MessageId, Option<Version>>,
    pub(super) replies: Replies,
    /// The room of the reply to the request that is being worked on.
    pub(super) room: Option<Room>,
    pub(super) backup: Option<Box<Backup>>,
    pub(super) subscribed: Subscriptions,
}

impl Session {
    pub(super) fn new(
        door: Arc<Door>,
        coordinator: Arc<Coordinator>,
        share: Arc<Share>,
        taken: Arc<Taken>,
        rights: Rights,
    ) -> Self {
        Self {
            decoder: RequestDecoder::new(door.settings.max_message + SPARE_WORD),
            door,
            coordinator,
            taken,
            share,
            requests: VecDeque::new(),
            fault: None,
            plain: VecDeque::new(),
            version: 2,
            rights,
            queued: None,
            watched: BTreeMap::new(),
            replies: Replies::All,
            room: None,
            backup: None,
            subscribed: Subscriptions::default(),
        }
    }

    /// Takes all whole requests out of the buffer, up to a bound; gives whether the last one has begun and not ended.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> bool {
        let is_known = self.rights.is_known();
        self.decoder.set_stranger(!is_known);
        // What a stranger may send depends on whether the request before it was the right password.
        let most = if is_known { QUEUED_REQUESTS } else { 1 };
        while self.requests.len() < most && self.fault.is_none() {
            match self.decoder.decode(buffer) {
                Ok(Some(asked)) => self.requests.push_back(asked),
                Ok(None) => break,
                Err(fault) => self.fault = Some(fault),
            }
        }
        self.fault.is_none() && self.decoder.is_inside_request(buffer)
    }

    pub(super) fn is_asked(&self) -> bool {
        !self.requests.is_empty() || !self.plain.is_empty() || self.fault.is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    /// Bytes of an unfinished request that are not in the buffer any more.
    pub(super) fn held(&self) -> usize {
        let watched: usize = self.watched.keys().map(|id| size_of_val(id) + id.as_bytes().len()).sum();
        self.decoder.kept() + self.queued.as_ref().map_or(0, Queued::bytes) + watched
    }

    pub(super) fn give_back(&mut self) {
        self.requests.shrink_to(4);
        self.plain.shrink_to(4);
    }

    /// Works on the next requests, as many as go together.
    pub(super) async fn work(&mut self, to: &mut Outbox) -> Flow {
        self.rights.refresh();
        let replies = self.replies;
        to.mute = replies != Replies::All;
        let most = if replies == Replies::ButNext { 1 } else { QUEUED_REQUESTS };
        while self.plain.len() < most
            && let Some(Asked::Words(words)) = self.requests.front()
            && let Some(command) = self.plain_of(words)
        {
            self.requests.pop_front();
            self.plain.push_back(Ok(command));
        }
        let flow = if let Some(last) = self.plain.back() {
            let name = if matches!(last, Ok(Command::Get(_))) { "GET" } else { "SET" };
            let share = Some(&*self.share);
            let (replies, room) = self.coordinator.execute_for(share, &mut self.plain, Protocol::Resp).await;
            self.taken.note(name, replies.len());
            to.keep(room);
            replies.into_iter().for_each(|reply| to.put(self.value_of(reply), self.version, None));
            Flow::On
        } else if let Some(values) = self.run_together(most).await {
            values.into_iter().for_each(|value| to.put(value, self.version, None));
            Flow::On
        } else {
            self.work_on_one(to).await
        };
        if replies == Replies::ButNext && self.replies == Replies::ButNext && to.mute {
            self.replies = Replies::All;
        }
        flow
    }

    async fn work_on_one(&mut self, to: &mut Outbox) -> Flow {
        let Some(asked) = self.requests.pop_front() else {
            if let Some(fault) = self.fault.take() {
                to.put(Value::Error(format!("ERR {fault}")), self.version, None);
                return Flow::Part;
            }
            return Flow::On;
        };
        let before = self.replies;
        let (value, flow) = match asked {
            Asked::Words(words) => self.ask(words).await,
            Asked::TooLong { name, length, limit } => (Some(self.refuse_too_long(&name, length, limit)), Flow::On),
        };
        let room = self.room.take();
        if self.replies != before {
            // CLIENT REPLY itself is answered only if replies are wanted again; after SKIP the next one is not.
            to.mute = self.replies != Replies::All;
            if let (Some(value), false) = (value, to.mute) {
                to.put(value, self.version, None);
            }
            to.mute = false;
            return flow;
        }
        if let Some(value) = value {
            to.put(value, self.version, room);
        }
        flow
    }

    /// A request that was read past, as it is over a limit: nothing of it was done.
    fn refuse_too_long(&mut self, name: &[u8], length: usize, limit: usize) -> Value {
        self.break_transaction();
        self.count_wrong([Some(BAD_COMMAND)]);
        if !self.rights.is_known() {
            return Value::Error("NOAUTH Authentication required.".to_owned());
        }
        let max_message = self.door.settings.max_message;
        let text = match table::find(name).filter(|spec| spec.data().is_some()) {
            Some(_) if limit <= max_message + SPARE_WORD => {
                format!("ERR a message of {length} bytes is over the limit of {max_message} (--max-message)")
            }
            _ => format!("ERR the request has {length} bytes, and at most {limit} are taken at once"),
        };
        Value::Error(format!("{text}; nothing was done"))
    }

    fn break_transaction(&mut self) {
        if let Some(queued) = &mut self.queued {
            queued.broken = true;
        }
    }

    /// A GET or SET without options, which needs nothing of the session.
    fn plain_of(&self, words: &Words) -> Option<Command> {
        if self.queued.is_some() || !self.rights.is_known() || !self.subscribed.is_empty() {
            return None;
        }
        let command = self.plain_command(words)?;
        // What is denied is told and noted where others are.
        (self.rights.may_all() || self.rights.allow(table::find(&words[0])?, words).is_ok()).then_some(command)
    }

    fn plain_command(&self, words: &Words) -> Option<Command> {
        let is = |name: &[u8]| words[0].eq_ignore_ascii_case(name);
        match words.len() {
            2 if is(b"GET") => Some(Command::Get(MessageId::from_bytes(&words[1]).ok()?)),
            3 if is(b"SET") && words[2].len() <= self.door.settings.max_message => {
                Some(Command::Set { id: MessageId::from_bytes(&words[1]).ok()?, payload: words[2].clone() })
            }
            5 if is(b"SET") && words[2].len() <= self.door.settings.max_message => {
                let time = deadlines::plain_time(&words[3], &words[4])?;
                Some(Command::SetFor { id: MessageId::from_bytes(&words[1]).ok()?, time, payload: words[2].clone() })
            }
            _ => None,
        }
    }

    /// A reply of the coordinator as a value.
    pub(super) fn value_of(&self, reply: Reply) -> Value {
        match reply {
            Reply::Done => OK,
            Reply::Value(payload) => Value::Bulk(payload),
            // When a message ends PEXPIRETIME tells.
            Reply::Nodes { holders, .. } => {
                Value::Array(holders.into_iter().map(|node| Value::Integer(node.0.into())).collect())
            }
            Reply::Count(count) => Value::Integer(count as i64),
            Reply::Ttl(left) => Value::Integer(left.map_or(-1, |left| left as i64)),
            Reply::Status(json) => Value::text(json),
            Reply::Pong { .. } => Value::Simple("PONG"),
            Reply::Refused(Refusal::NotFound) => Value::Nil,
            Reply::Refused(refusal) => Value::Error(self.told(refusal)),
            Reply::Help => Value::text(table::help()),
            Reply::Bye | Reply::Finding(_) | Reply::Verified(_) => OK,
        }
    }

    /// A refusal in words for the client.
    pub(super) fn told(&self, refusal: Refusal) -> String {
        told(&self.coordinator, refusal)
    }

    /// Looks at a request before it is run: whether there is such a command, and whether it may be run now.
    async fn ask(&mut self, words: Words) -> (Option<Value>, Flow) {
        let found = table::find(&words[0]);
        let checked = found.ok_or_else(|| unknown(&words)).and_then(|spec| match spec.fits(&words) {
            Ok(()) => Ok(spec),
            Err(Misfit::Number(name)) => Err(wrong_number(&name)),
            Err(Misfit::Subcommand) => Err(unknown_subcommand(spec.name, &words)),
        });
        let spec = match checked {
            Ok(spec) => spec,
            Err(why) => {
                self.count_wrong([Some(BAD_COMMAND)]);
                let ends = found.is_some_and(|spec| spec.op == Op::Session(SessionOp::Exec)) && self.queued.is_some();
                if !ends {
                    self.break_transaction();
                    return (Some(Value::Error(why)), Flow::On);
                }
                // As Redis: what cannot be run ends it.
                self.queued = None;
                self.watched.clear();
                let why = why.trim_start_matches("ERR ");
                let told = format!("EXECABORT Transaction discarded because of: {why}");
                return (Some(Value::Error(told)), Flow::On);
            }
        };
        self.taken.note(spec.name, 1);
        if spec.op == Op::OtherProtocol {
            tracing::warn!("a client sent a line of HTTP, and is cut off: somebody makes a browser talk to the leader");
            return (None, Flow::Close);
        }
        if !self.rights.is_known() && !spec.flags.contains(&"no_auth") {
            return (Some(Value::Error("NOAUTH Authentication required.".to_owned())), Flow::On);
        }
        if self.version == 2 && !self.subscribed.admits(spec.op) {
            return (Some(Value::Error(Subscriptions::refusal(spec.name))), Flow::On);
        }
        let context = if self.queued.is_some() { Context::Multi } else { Context::TopLevel };
        if let Err(denied) = self.rights.check(spec, &words, context) {
            self.break_transaction();
            self.count_wrong([Some(DENIED)]);
            return (Some(Value::Error(denial(spec, &words, denied))), Flow::On);
        }
        let at_once = matches!(
            spec.op,
            Op::Session(
                SessionOp::Exec
                    | SessionOp::Discard
                    | SessionOp::Multi
                    | SessionOp::Watch
                    | SessionOp::Reset
                    | SessionOp::Exit
            )
        );
        if !at_once && let Some(mut queued) = self.queued.take() {
            let told = match self.surely_refused(spec, &words) {
                None => queued.push(spec, words),
                Some(why) => {
                    queued.broken = true;
                    Value::Error(why)
                }
            };
            self.queued = Some(queued);
            return (Some(told), Flow::On);
        }
        match spec.op {
            Op::Session(SessionOp::Exit) => (Some(OK), Flow::Close),
            _ => (Some(self.run(spec, &words).await.unwrap_or_else(Value::Error)), Flow::On),
        }
    }
}

/// The ids that a request names.
pub(super) fn keys_of(spec: &Spec, words: &Words) -> Result<Vec<MessageId>, String> {
    let places = spec.key_places(words).map_err(|why| wrong_count(spec, why))?;
    places.map(|place| id_of(&words[place])).collect()
}

/// The id that a word is.
pub(super) fn id_of(word: &[u8]) -> Result<MessageId, String> {
    MessageId::from_bytes(word).map_err(|why| format!("ERR {why}; an id is 1 to {MAX_ID_BYTES} bytes"))
}

pub(super) fn bytes_of(id: &MessageId) -> Value {
    Value::Bulk(Bytes::copy_from_slice(id.as_bytes()))
}
