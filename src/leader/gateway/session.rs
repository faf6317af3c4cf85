//! One connection that speaks the Redis protocol: its requests in order, and what it has said of itself.
//!
//! Plain GETs and SETs go to the coordinator in batches, as those of the text protocol do; other commands of one id go
//! together in `pipeline`. Everything else is worked on by itself: `data` says what it does to messages, `server` what it
//! tells.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::clients::Taken;
use super::connection::{Flow, QUEUED_REQUESTS};
use super::multi::{Queued, View};
use super::outbox::Outbox;
use super::{Door, data, keyspace, strings};
use crate::cluster::Cluster;
use crate::error::Refusal;
use crate::leader::backup::Backup;
use crate::leader::coordinator::{Coordinator, Request};
use crate::leader::shares::{Room, Share};
use crate::leader::transaction::{Need, Transaction};
use crate::protocol::resp::{Asked, ProtocolError, RequestDecoder, Value, Words, number};
use crate::protocol::table::{self, DataOp, KeyspaceOp, Misfit, Op, RegisterOp, SessionOp, Spec};
use crate::protocol::{Command, Reply};
use crate::telemetry::served::{NOT_FOUND, Operation, Outcome, Protocol};
use crate::types::{MAX_ID_BYTES, MessageId, NodeId, Payload, Version};

/// A word may be longer than any message by this much before it costs the connection: a message that is a little too
/// long is told so.
const SPARE_WORD: usize = 64 << 10;

const OK: Value = Value::Simple("OK");

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
    /// The password was given, or none is asked for.
    pub(super) allowed: bool,
    pub(super) queued: Option<Queued>,
    pub(super) watched: BTreeMap<MessageId, Option<Version>>,
    pub(super) replies: Replies,
    /// The room of the reply to the request that is being worked on.
    pub(super) room: Option<Room>,
    pub(super) backup: Option<Box<Backup>>,
}

impl Session {
    pub(super) fn new(
        door: Arc<Door>,
        coordinator: Arc<Coordinator>,
        share: Arc<Share>,
        taken: Arc<Taken>,
        allowed: bool,
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
            allowed,
            queued: None,
            watched: BTreeMap::new(),
            replies: Replies::All,
            room: None,
            backup: None,
        }
    }

    /// Takes all whole requests out of the buffer, up to a bound; gives whether the last one has begun and not ended.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> bool {
        self.decoder.set_stranger(!self.allowed);
        // What a stranger may send depends on whether the request before it was the right password.
        let most = if self.allowed { QUEUED_REQUESTS } else { 1 };
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
        if !self.allowed {
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
        if self.queued.is_some() || !self.allowed {
            return None;
        }
        let is = |name: &[u8]| words[0].eq_ignore_ascii_case(name);
        match words.len() {
            2 if is(b"GET") => Some(Command::Get(MessageId::from_bytes(&words[1]).ok()?)),
            3 if is(b"SET") && words[2].len() <= self.door.settings.max_message => {
                Some(Command::Set { id: MessageId::from_bytes(&words[1]).ok()?, payload: words[2].clone() })
            }
            _ => None,
        }
    }

    /// A reply of the coordinator as a value.
    fn value_of(&self, reply: Reply) -> Value {
        match reply {
            Reply::Done => OK,
            Reply::Value(payload) => Value::Bulk(payload),
            Reply::Nodes(nodes) => Value::Array(nodes.into_iter().map(|node| Value::Integer(node.0.into())).collect()),
            Reply::Count(count) => Value::Integer(count as i64),
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
        if !self.allowed && !spec.flags.contains(&"no_auth") {
            return (Some(Value::Error("NOAUTH Authentication required.".to_owned())), Flow::On);
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

    /// Runs a command.
    pub(super) async fn run(&mut self, spec: &'static Spec, words: &Words) -> Result<Value, String> {
        match spec.op {
            Op::Data(op) => self.run_data(op, spec, words).await,
            Op::Session(op) => self.run_session(op, spec, words).await,
            Op::Keyspace(op) => self.run_keyspace(op, words).await,
            Op::Server(op) => self.tell_of_server(op, words).await,
            Op::Tool(op) => self.small_word(op, spec, words).await,
            Op::Register(op) => self.register(op, spec, words).await,
            // The connection has ended.
            Op::OtherProtocol => Ok(OK),
        }
    }

    async fn run_session(&mut self, op: SessionOp, spec: &'static Spec, words: &Words) -> Result<Value, String> {
        match op {
            SessionOp::Multi if self.queued.is_some() => return error("ERR MULTI calls can not be nested"),
            SessionOp::Multi => self.queued = Some(Queued::default()),
            SessionOp::Discard => {
                if self.queued.take().is_none() {
                    return error("ERR DISCARD without MULTI");
                }
                self.watched.clear();
            }
            SessionOp::Exec => return self.exec().await,
            SessionOp::Watch if self.queued.is_some() => return error("ERR WATCH inside MULTI is not allowed"),
            SessionOp::Watch => self.watch(spec, words).await?,
            SessionOp::Unwatch => self.watched.clear(),
            SessionOp::Select => select(&words[1])?,
            SessionOp::Reset => {
                (self.queued, self.version, self.replies, self.backup) = (None, 2, Replies::All, None);
                self.watched.clear();
                self.allowed = self.door.settings.password.is_none();
                let mut said = self.taken.seat.said();
                (said.name, said.version) = (String::new(), 2);
                return Ok(Value::Simple("RESET"));
            }
            SessionOp::Ping => match words.len() {
                1 => return Ok(Value::Simple("PONG")),
                2 => return Ok(Value::Bulk(words[1].clone())),
                _ => return Err(wrong_number(spec.name)),
            },
            SessionOp::Echo => return Ok(Value::Bulk(words[1].clone())),
            SessionOp::Exit => {}
        }
        Ok(OK)
    }

    async fn run_keyspace(&mut self, op: KeyspaceOp, words: &Words) -> Result<Value, String> {
        match op {
            KeyspaceOp::Keys => self.keys(&words[1]).await,
            KeyspaceOp::Scan => self.scan(words).await,
            KeyspaceOp::RandomKey => {
                let id = self.coordinator.random_id(fastrand::u64(..)).await.map_err(|why| self.told(why))?;
                Ok(id.map_or(Value::Nil, |id| bytes_of(&id)))
            }
            KeyspaceOp::Backup => self.back_up(words).await,
            KeyspaceOp::Flush => {
                keyspace::flush(&self.coordinator, words, self.door.settings.allow_flush).await.map(|()| OK)
            }
        }
    }

    async fn run_data(&mut self, op: DataOp, spec: &'static Spec, words: &Words) -> Result<Value, String> {
        let keys = keys_of(spec, words).inspect_err(|_| self.count_wrong([Some(BAD_COMMAND)]))?;
        if let Some(why) = data::surely_refused(op, words, self.door.settings.max_message) {
            self.count_wrong([Some(BAD_COMMAND)]);
            return Err(why);
        }
        let began = Instant::now();
        let done = self.run_on(keys, op, spec, words).await;
        self.count(spec.writes(), began, [outcome(spec.writes(), &done)]);
        done.map_err(|why| self.told(why))
    }

    /// Counts requests for messages that were not the coordinator's to count, by how they ended.
    pub(super) fn count(&self, writes: bool, began: Instant, outcomes: impl IntoIterator<Item = Outcome>) {
        let op = if writes { Operation::Write } else { Operation::Read };
        let is_wrong = |outcome: &Outcome| *outcome == Some(BAD_COMMAND);
        let (wrong, rest): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(is_wrong);
        self.coordinator.meters.served.note(Protocol::Resp, op, began.elapsed(), rest);
        self.count_wrong(wrong);
    }

    /// Counts requests that are their client's mistake, as the text protocol's are.
    fn count_wrong(&self, wrong: impl IntoIterator<Item = Outcome>) {
        self.coordinator.meters.served.note(Protocol::Resp, Operation::Other, Duration::ZERO, wrong);
    }

    async fn run_on(
        &mut self,
        keys: Vec<MessageId>,
        op: DataOp,
        spec: &'static Spec,
        words: &Words,
    ) -> Result<Value, Refusal> {
        match op {
            DataOp::Mget | DataOp::GetRange | DataOp::Lcs => {
                let (mut messages, room) = self.coordinator.read_many_for(Some(&self.share), &keys).await?;
                self.room = Some(room);
                if op == DataOp::Mget {
                    return Ok(Value::Array(messages.into_iter().map(|m| m.map_or(Value::Nil, Value::Bulk)).collect()));
                }
                let mut message = || messages.pop().flatten().unwrap_or_default();
                if op == DataOp::GetRange {
                    return Ok(data::get_range(words, &message()).unwrap_or_else(Value::Error));
                }
                let (b, a) = (message(), message());
                return Ok(self.common(words.clone(), a, b).await);
            }
            _ if !spec.writes() && data::need(op, words) == Need::Version => {
                let records = self.coordinator.records(&keys).await?;
                let known = keys.iter().cloned().zip(records.iter().map(|record| record.map(|r| r.bytes() as usize)));
                let mut known = Lengths(known.collect());
                return Ok(data::run(op, words, &keys, 0, &mut known));
            }
            _ => {}
        }
        let (words, max_message) = (words.clone(), self.door.settings.max_message);
        let need = data::need(op, &words);
        let needs: Vec<(MessageId, Need)> = keys.iter().map(|id| (id.clone(), need)).collect();
        let decide =
            move |transaction: &mut Transaction| data::run(op, &words, &keys, max_message, &mut View(transaction));
        self.coordinator.transact(needs, decide).await
    }

    /// What two messages have in common, away from the threads that serve.
    pub(super) async fn common(&self, words: Words, a: Payload, b: Payload) -> Value {
        let common = self.door.heavy.run(move || strings::common(&words, &a, &b)).await;
        common.unwrap_or_else(|| error("ERR the leader cannot work on it now")).unwrap_or_else(Value::Error)
    }

    /// Commands of the register itself, as the text protocol has them.
    pub(super) async fn register(&mut self, op: RegisterOp, spec: &Spec, words: &Words) -> Result<Value, String> {
        let node = || match number(&words[1]) {
            Some(node @ 1..=0xFFFF_FFFF) => Ok(NodeId(node as u32)),
            _ => Err(format!("ERR {} wants the number of a node, 1 to {}", spec.name, u32::MAX)),
        };
        let command = match op {
            RegisterOp::Where => Command::Where(keys_of(spec, words)?.swap_remove(0)),
            RegisterOp::Count => Command::Count,
            RegisterOp::Status => Command::Status,
            RegisterOp::Drain => Command::Drain(node()?),
            RegisterOp::Undrain => Command::Undrain(node()?),
            RegisterOp::Remove => Command::Remove {
                node: node()?,
                force: match words.get(2) {
                    None => false,
                    Some(force) if words.len() == 3 && force.eq_ignore_ascii_case(b"FORCE") => true,
                    Some(_) => return error("ERR REMOVE wants the number of a node, alone or with FORCE"),
                },
            },
            RegisterOp::Rebalance => match words.get(1) {
                None => Command::Rebalance(true),
                Some(stop) if words.len() == 2 && stop.eq_ignore_ascii_case(b"STOP") => Command::Rebalance(false),
                Some(_) => return error("ERR REBALANCE stands alone, or with STOP"),
            },
            RegisterOp::Verify => return error(super::server::OF_TEXT),
        };
        let mut queue = VecDeque::from([Ok(command)]);
        let (mut replies, _room) = self.coordinator.execute_for(Some(&self.share), &mut queue, Protocol::Resp).await;
        Ok(replies.pop().map_or(Value::Nil, |reply| self.value_of(reply)))
    }
}

/// The code of a request that is wrong in itself.
const BAD_COMMAND: &str = "BAD_COMMAND";

/// How a request for messages ended, for the counts.
pub(super) fn outcome(writes: bool, done: &Result<Value, Refusal>) -> Outcome {
    match done {
        Err(refusal) => Some(refusal.code()),
        Ok(Value::Error(_)) => Some(BAD_COMMAND),
        Ok(Value::Nil) if !writes => Some(NOT_FOUND),
        Ok(_) => None,
    }
}

/// Lengths of messages, for commands that write nothing and need no more.
struct Lengths(BTreeMap<MessageId, Option<usize>>);

impl data::Ids for Lengths {
    fn get(&self, _: &MessageId) -> Option<Payload> {
        None
    }

    fn length(&self, id: &MessageId) -> Option<usize> {
        self.0.get(id).copied().flatten()
    }

    fn take(&mut self, _: &MessageId) -> Option<Payload> {
        None
    }

    fn set(&mut self, _: &MessageId, _: Payload) {}

    fn delete(&mut self, _: &MessageId) {}
}

pub(super) fn error<T>(text: &str) -> Result<T, String> {
    Err(text.to_owned())
}

pub(super) fn wrong_number(name: &str) -> String {
    format!("ERR wrong number of arguments for '{}' command", name.to_lowercase())
}

/// There is one database, number 0.
pub(super) fn select(word: &[u8]) -> Result<(), String> {
    match number(word) {
        Some(0) => Ok(()),
        Some(_) => error("ERR DB index is out of range"),
        None => error("ERR value is not an integer or out of range"),
    }
}

fn unknown_subcommand(command: &str, words: &Words) -> String {
    let shown = crate::error::printable(&words[1], 128);
    format!("ERR unknown subcommand '{shown}'. Try {command} HELP.")
}

fn unknown(words: &Words) -> String {
    let shown = |word: &Bytes| crate::error::printable(word, 128);
    let mut text = format!("ERR unknown command '{}', with args beginning with: ", shown(&words[0]));
    for word in &words[1..] {
        if text.len() > 256 {
            break;
        }
        text.push_str(&format!("'{}' ", shown(word)));
    }
    text
}

/// The ids that a request names.
pub(super) fn keys_of(spec: &Spec, words: &Words) -> Result<Vec<MessageId>, String> {
    let id = |place: usize| {
        MessageId::from_bytes(&words[place]).map_err(|why| format!("ERR {why}; an id is 1 to {MAX_ID_BYTES} bytes"))
    };
    spec.key_places(words.len()).map(id).collect()
}

pub(super) fn bytes_of(id: &MessageId) -> Value {
    Value::Bulk(Bytes::copy_from_slice(id.as_bytes()))
}

/// A refusal with the class word that clients of Redis know, if there is one.
pub(super) fn told(coordinator: &Coordinator, refusal: Refusal) -> String {
    format!("{} {refusal}", class(&refusal, || unavailable(&coordinator.cluster())))
}

/// The class word of what cannot be told: as a Redis that still reads its file, while the leader does not know its
/// messages yet; as one whose cluster is broken, when another leader may know better.
fn unavailable(cluster: &Cluster) -> &'static str {
    if cluster.waiting_for().is_some() {
        "LOADING"
    } else if cluster.unsure().is_some() {
        "CLUSTERDOWN"
    } else {
        "TRYAGAIN"
    }
}

/// The class word of a refusal; `unavailable` is that of what cannot be told.
pub(super) fn class(refusal: &Refusal, unavailable: impl FnOnce() -> &'static str) -> &'static str {
    match refusal {
        Refusal::BadCommand(_) | Refusal::TooLarge { .. } | Refusal::NotALine | Refusal::OtherProtocol => "ERR",
        Refusal::TooFewNodes { .. } => "NOREPLICAS",
        Refusal::Busy(_) => "OOM",
        Refusal::Unavailable(_) => unavailable(),
        Refusal::NoAuth => "NOAUTH",
        Refusal::WrongPassword => "WRONGPASS",
        Refusal::Unknown(_) | Refusal::Lost(_) | Refusal::NotFound => refusal.code(),
    }
}
