//! One connection that speaks the Redis protocol: its requests in order, and what it has said of itself.
//!
//! Plain GETs and SETs go to the coordinator in batches, as those of the text protocol do. Everything else is worked on
//! by itself: `data` says what it does to messages, `server` what it tells.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::clients::Taken;
use super::{Door, Flow, Outbox, QUEUED_REQUESTS, WRITE_SIZE, data, glob};
use crate::error::Refusal;
use crate::leader::coordinator::{Coordinator, Request};
use crate::leader::transaction::{Need, Transaction};
use crate::protocol::resp::{ProtocolError, RequestDecoder, Value, Words, bulk, number};
use crate::protocol::table::{self, Op, Spec};
use crate::protocol::{Command, Reply};
use crate::telemetry::served::Protocol;
use crate::types::{MessageId, NodeId, Payload, Version};

/// A word may be longer than any message by this much before it costs the connection: a message that is a little too
/// long is told so.
const SPARE_WORD: usize = 64 << 10;

/// Commands that MULTI queues, and their bytes.
const MOST_QUEUED: usize = 4096;
const MOST_QUEUED_BYTES: usize = 16 << 20;

/// Ids that KEYS looks at in one step.
const KEYS_STEP: usize = 1000;

/// Bytes of ids that one answer of KEYS may have.
const MOST_KEYS_BYTES: usize = 64 << 20;

/// Ids that one step of SCAN looks at, whatever COUNT says.
const MOST_SCANNED: usize = 4096;

const OK: Value = Value::Simple("OK");

/// What was queued since MULTI.
#[derive(Debug, Default)]
struct Queued {
    requests: Vec<(&'static Spec, Words)>,
    bytes: usize,
    /// One of them was wrong: EXEC runs none.
    broken: bool,
}

/// The state of a connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) door: Arc<Door>,
    pub(super) coordinator: Arc<Coordinator>,
    pub(super) taken: Arc<Taken>,
    decoder: RequestDecoder,
    requests: VecDeque<Words>,
    fault: Option<ProtocolError>,
    /// Requests that go to the coordinator together.
    plain: VecDeque<Request>,
    /// Of the protocol.
    pub(super) version: u8,
    /// The password was given, or none is asked for.
    pub(super) allowed: bool,
    queued: Option<Queued>,
    watched: Vec<(MessageId, Option<Version>)>,
}

impl Session {
    pub(super) fn new(door: Arc<Door>, coordinator: Arc<Coordinator>, taken: Arc<Taken>, allowed: bool) -> Self {
        Self {
            decoder: RequestDecoder::new(door.settings.max_message + SPARE_WORD),
            door,
            coordinator,
            taken,
            requests: VecDeque::new(),
            fault: None,
            plain: VecDeque::new(),
            version: 2,
            allowed,
            queued: None,
            watched: Vec::new(),
        }
    }

    /// Takes all whole requests out of the buffer, up to a bound; gives whether the last one has begun and not ended.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> bool {
        self.decoder.set_stranger(!self.allowed);
        while self.requests.len() < QUEUED_REQUESTS && self.fault.is_none() {
            match self.decoder.decode(buffer) {
                Ok(Some(words)) => self.requests.push_back(words),
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
        self.decoder.kept()
    }

    pub(super) fn give_back(&mut self) {
        self.requests.shrink_to(4);
        self.plain.shrink_to(4);
    }

    /// Works on the next requests, as many as go together.
    pub(super) async fn work(&mut self, to: &mut Outbox) -> Flow {
        while self.plain.len() < QUEUED_REQUESTS
            && let Some(command) = self.requests.front().and_then(|words| self.plain_of(words))
        {
            self.requests.pop_front();
            self.plain.push_back(Ok(command));
        }
        if !self.plain.is_empty() {
            let (replies, room) = self.coordinator.execute(&mut self.plain, Protocol::Resp).await;
            to.rooms.extend(room);
            replies.into_iter().for_each(|reply| self.tell(reply, to));
            return Flow::On;
        }
        let Some(words) = self.requests.pop_front() else {
            if let Some(fault) = self.fault.take() {
                Value::Error(format!("ERR {fault}")).encode(self.version, &mut to.out);
                return Flow::Part;
            }
            return Flow::On;
        };
        let (value, flow) = self.ask(words).await;
        if let Some(value) = value {
            self.classed(value).encode(self.version, &mut to.out);
        }
        if to.out.len() >= WRITE_SIZE { Flow::Flush.max(flow) } else { flow }
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

    /// While the leader does not know its messages yet, no other try helps soon: that has a class of its own.
    fn classed(&self, value: Value) -> Value {
        match value {
            Value::Error(text)
                if text.starts_with("TRYAGAIN ") && self.coordinator.cluster().waiting_for().is_some() =>
            {
                Value::Error(text.replacen("TRYAGAIN", "CLUSTERDOWN", 1))
            }
            other => other,
        }
    }

    fn tell(&self, reply: Reply, to: &mut Outbox) {
        match reply {
            Reply::Value(payload) => bulk(&payload, &mut to.out),
            other => self.classed(value_of(other)).encode(self.version, &mut to.out),
        }
    }

    /// Looks at a request before it is run: whether there is such a command, and whether it may be run now.
    async fn ask(&mut self, words: Words) -> (Option<Value>, Flow) {
        let checked = table::find(&words[0]).ok_or_else(|| unknown(&words)).and_then(|spec| {
            let takes = spec.takes(words.len());
            if takes { Ok(spec) } else { Err(wrong_number(spec.name)) }
        });
        let spec = match checked {
            Ok(spec) => spec,
            Err(why) => {
                if let Some(queued) = &mut self.queued {
                    queued.broken = true;
                }
                return (Some(Value::Error(why)), Flow::On);
            }
        };
        {
            let mut said = self.taken.seat.said();
            said.command = spec.name;
            said.at = tokio::time::Instant::now();
        }
        if spec.op == Op::OtherProtocol {
            tracing::warn!("a client sent a line of HTTP, and is cut off: somebody makes a browser talk to the leader");
            return (None, Flow::Close);
        }
        if !self.allowed && !spec.flags.contains(&"no_auth") {
            return (Some(Value::Error("NOAUTH Authentication required.".to_owned())), Flow::On);
        }
        let at_once = matches!(spec.op, Op::Exec | Op::Discard | Op::Multi | Op::Watch | Op::Reset | Op::Exit);
        if !at_once && let Some(queued) = &mut self.queued {
            return (Some(queued.push(spec, words)), Flow::On);
        }
        match spec.op {
            Op::Exit => (Some(OK), Flow::Close),
            _ => (Some(self.run(spec, &words).await.unwrap_or_else(Value::Error)), Flow::On),
        }
    }

    /// Runs a command.
    async fn run(&mut self, spec: &'static Spec, words: &Words) -> Result<Value, String> {
        match spec.op {
            op if data::is_data(op) => return self.run_data(spec, words).await,
            Op::Multi if self.queued.is_some() => return error("ERR MULTI calls can not be nested"),
            Op::Multi => self.queued = Some(Queued::default()),
            Op::Discard => {
                if self.queued.take().is_none() {
                    return error("ERR DISCARD without MULTI");
                }
                self.watched.clear();
            }
            Op::Exec => return self.exec().await,
            Op::Watch if self.queued.is_some() => return error("ERR WATCH inside MULTI is not allowed"),
            Op::Watch => self.watch(spec, words).await?,
            Op::Unwatch => self.watched.clear(),
            Op::Select => match number(&words[1]) {
                Some(0) => {}
                Some(_) => return error("ERR DB index is out of range"),
                None => return error("ERR invalid DB index"),
            },
            Op::Reset => {
                (self.queued, self.version) = (None, 2);
                self.watched.clear();
                self.allowed = self.door.settings.password.is_none();
                let mut said = self.taken.seat.said();
                (said.name, said.version) = (String::new(), 2);
                return Ok(Value::Simple("RESET"));
            }
            Op::Ping => match words.len() {
                1 => return Ok(Value::Simple("PONG")),
                2 => return Ok(Value::Bulk(words[1].clone())),
                _ => return Err(wrong_number(spec.name)),
            },
            Op::Echo => return Ok(Value::Bulk(words[1].clone())),
            Op::Keys => return self.keys(&words[1]).await,
            Op::Scan => return self.scan(words).await,
            Op::RandomKey => {
                let id = self.coordinator.random_id(fastrand::u64(..)).await.map_err(told)?;
                return Ok(id.map_or(Value::Nil, |id| bytes_of(&id)));
            }
            Op::Flush => self.flush(words).await?,
            _ => return self.tell_of_server(spec, words).await,
        }
        Ok(OK)
    }

    async fn run_data(&mut self, spec: &'static Spec, words: &Words) -> Result<Value, String> {
        let keys = keys_of(spec, words)?;
        match spec.op {
            Op::Mget => {
                let (messages, _room) = self.coordinator.read_many(&keys).await.map_err(told)?;
                return Ok(Value::Array(messages.into_iter().map(|m| m.map_or(Value::Nil, Value::Bulk)).collect()));
            }
            op if !spec.writes() && data::need(op, words) == Need::Version => {
                let records = self.coordinator.records(&keys).await.map_err(told)?;
                let known = keys.iter().cloned().zip(records.iter().map(|record| record.map(|r| r.bytes() as usize)));
                let mut known = Lengths(known.collect());
                return Ok(data::run(op, words, &keys, 0, &mut known));
            }
            _ => {}
        }
        let (op, words, max_message) = (spec.op, words.clone(), self.door.settings.max_message);
        let need = data::need(op, &words);
        let needs: Vec<(MessageId, Need)> = keys.iter().map(|id| (id.clone(), need)).collect();
        let decide =
            move |transaction: &mut Transaction| data::run(op, &words, &keys, max_message, &mut View(transaction));
        self.coordinator.transact(needs, decide).await.map_err(told)
    }

    async fn watch(&mut self, spec: &Spec, words: &Words) -> Result<(), String> {
        let ids: Vec<_> = keys_of(spec, words)?;
        if self.watched.len() + ids.len() > MOST_QUEUED {
            return Err(format!("ERR more than {MOST_QUEUED} ids are watched"));
        }
        let records = self.coordinator.records(&ids).await.map_err(told)?;
        for (id, record) in ids.into_iter().zip(records) {
            // Watching again does not take a newer version for the one that was meant.
            if !self.watched.iter().any(|(watched, _)| *watched == id) {
                self.watched.push((id, record.map(|record| record.version)));
            }
        }
        Ok(())
    }

    /// Runs what was queued: all that concerns messages at one instant, the rest after it.
    async fn exec(&mut self) -> Result<Value, String> {
        let Some(queued) = self.queued.take() else { return error("ERR EXEC without MULTI") };
        let watched = std::mem::take(&mut self.watched);
        if queued.broken {
            return error("EXECABORT Transaction discarded because of previous errors.");
        }
        let mut needs: Vec<(MessageId, Need)> = watched.iter().map(|(id, _)| (id.clone(), Need::Version)).collect();
        let mut steps: Vec<Option<(Op, Words, Vec<MessageId>)>> = Vec::new();
        let mut wrong: Vec<Option<String>> = Vec::new();
        for (spec, words) in &queued.requests {
            let keys = if data::is_data(spec.op) { keys_of(spec, words).map(Some) } else { Ok(None) };
            let (keys, why) = match keys {
                Ok(keys) => (keys, None),
                Err(why) => (None, Some(why)),
            };
            if let Some(keys) = &keys {
                needs.extend(keys.iter().map(|id| (id.clone(), data::need(spec.op, words))));
            }
            steps.push(keys.map(|keys| (spec.op, words.clone(), keys)));
            wrong.push(why);
        }
        let max_message = self.door.settings.max_message;
        let decide = move |transaction: &mut Transaction| {
            if watched.iter().any(|(id, version)| transaction.version(id) != *version) {
                return None;
            }
            let mut run = |step: Option<(Op, Words, Vec<MessageId>)>| {
                step.map(|(op, words, keys)| data::run(op, &words, &keys, max_message, &mut View(transaction)))
            };
            Some(steps.into_iter().map(&mut run).collect::<Vec<_>>())
        };
        let Some(told_by_data) = self.coordinator.transact(needs, decide).await.map_err(told)? else {
            return Ok(Value::NilArray);
        };
        let mut values = Vec::with_capacity(told_by_data.len());
        for ((value, why), (spec, words)) in told_by_data.into_iter().zip(wrong).zip(&queued.requests) {
            values.push(match (value, why) {
                (Some(value), _) => value,
                (None, Some(why)) => Value::Error(why),
                (None, None) => Box::pin(self.run(spec, words)).await.unwrap_or_else(Value::Error),
            });
        }
        Ok(Value::Array(values))
    }

    async fn keys(&self, pattern: &[u8]) -> Result<Value, String> {
        let (mut found, mut bytes, mut cursor) = (Vec::new(), 0, 0);
        loop {
            let (next, ids) = self.coordinator.scan(cursor, KEYS_STEP).await.map_err(told)?;
            for id in ids.into_iter().filter(|id| glob::matches(pattern, id.as_bytes())) {
                bytes += id.as_bytes().len();
                found.push(bytes_of(&id));
            }
            if bytes > MOST_KEYS_BYTES {
                return error("ERR too many ids match: go through them with SCAN");
            }
            cursor = next;
            if cursor == 0 {
                return Ok(Value::Array(found));
            }
            tokio::task::yield_now().await;
        }
    }

    async fn scan(&self, words: &Words) -> Result<Value, String> {
        let cursor = std::str::from_utf8(&words[1]).ok().and_then(|text| text.parse().ok());
        let cursor: u64 = cursor.ok_or("ERR invalid cursor")?;
        let (mut pattern, mut count, mut type_is_ours) = (None, 10, true);
        let mut options = words[2..].iter();
        while let Some(option) = options.next() {
            let value = options.next().ok_or("ERR syntax error")?;
            match option.to_ascii_uppercase().as_slice() {
                b"MATCH" => pattern = Some(value),
                b"COUNT" => match number(value) {
                    Some(1..) => count = number(value).unwrap_or(1) as usize,
                    Some(_) => return error("ERR syntax error"),
                    None => return error("ERR value is not an integer or out of range"),
                },
                b"TYPE" => type_is_ours = value.eq_ignore_ascii_case(b"string"),
                _ => return error("ERR syntax error"),
            }
        }
        let (next, ids) = self.coordinator.scan(cursor, count.min(MOST_SCANNED)).await.map_err(told)?;
        let matching = |id: &MessageId| pattern.is_none_or(|pattern| glob::matches(pattern, id.as_bytes()));
        let ids = ids.iter().filter(|id| type_is_ours && matching(id)).map(bytes_of).collect();
        Ok(Value::Array(vec![Value::text(next.to_string()), Value::Array(ids)]))
    }

    async fn flush(&self, words: &Words) -> Result<(), String> {
        match words.get(1).map(|word| word.to_ascii_uppercase()).as_deref() {
            None | Some(b"SYNC" | b"ASYNC") if words.len() <= 2 => {}
            _ => return error("ERR syntax error"),
        }
        if !self.door.settings.allow_flush {
            return error(
                "ERR FLUSHALL deletes every message; nothing was deleted: start the leader with --allow-flush if that is meant",
            );
        }
        let mut cursor = 0;
        loop {
            let (next, ids) = self.coordinator.scan(cursor, KEYS_STEP).await.map_err(told)?;
            let mut deletes: VecDeque<Request> = ids.into_iter().map(|id| Ok(Command::Delete(id))).collect();
            while !deletes.is_empty() {
                let (replies, _room) = self.coordinator.execute(&mut deletes, Protocol::Resp).await;
                let refused = replies.into_iter().find_map(|reply| match reply {
                    Reply::Refused(refusal) => Some(told(refusal)),
                    _ => None,
                });
                refused.map_or(Ok(()), Err)?;
            }
            cursor = next;
            if cursor == 0 {
                return Ok(());
            }
        }
    }

    /// Commands of the register itself, as the text protocol has them.
    pub(super) async fn register(&mut self, spec: &Spec, words: &Words) -> Result<Value, String> {
        let node = || match number(&words[1]) {
            Some(node @ 1..=0xFFFF_FFFF) => Ok(NodeId(node as u32)),
            _ => Err(format!("ERR {} wants the number of a node, 1 to {}", spec.name, u32::MAX)),
        };
        let command = match spec.op {
            Op::Where => Command::Where(keys_of(spec, words)?.swap_remove(0)),
            Op::Count => Command::Count,
            Op::Status => Command::Status,
            Op::Drain => Command::Drain(node()?),
            Op::Undrain => Command::Undrain(node()?),
            Op::Rebalance => match words.get(1) {
                None => Command::Rebalance(true),
                Some(stop) if words.len() == 2 && stop.eq_ignore_ascii_case(b"STOP") => Command::Rebalance(false),
                Some(_) => return error("ERR REBALANCE stands alone, or with STOP"),
            },
            _ => return error("ERR this command is of the text protocol: try it with nc, or with hatokuse client"),
        };
        let (mut replies, _room) = self.coordinator.execute(&mut VecDeque::from([Ok(command)]), Protocol::Resp).await;
        Ok(replies.pop().map_or(Value::Nil, value_of))
    }
}

impl Queued {
    fn push(&mut self, spec: &'static Spec, words: Words) -> Value {
        self.bytes += words.iter().map(Bytes::len).sum::<usize>();
        if self.requests.len() >= MOST_QUEUED || self.bytes > MOST_QUEUED_BYTES {
            self.broken = true;
            return Value::Error(format!(
                "ERR a transaction takes up to {MOST_QUEUED} commands of {MOST_QUEUED_BYTES} bytes in all"
            ));
        }
        self.requests.push((spec, words));
        Value::Simple("QUEUED")
    }
}

/// A transaction as the data commands see it.
struct View<'a>(&'a mut Transaction);

impl data::Ids for View<'_> {
    fn get(&self, id: &MessageId) -> Option<Payload> {
        self.0.get(id).cloned()
    }

    fn length(&self, id: &MessageId) -> Option<usize> {
        self.0.length(id)
    }

    fn set(&mut self, id: &MessageId, payload: Payload) {
        self.0.set(id, payload);
    }

    fn delete(&mut self, id: &MessageId) {
        self.0.delete(id);
    }
}

/// Lengths of messages, for commands that write nothing and need no more.
struct Lengths(std::collections::BTreeMap<MessageId, Option<usize>>);

impl data::Ids for Lengths {
    fn get(&self, _: &MessageId) -> Option<Payload> {
        None
    }

    fn length(&self, id: &MessageId) -> Option<usize> {
        self.0.get(id).copied().flatten()
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
fn keys_of(spec: &Spec, words: &Words) -> Result<Vec<MessageId>, String> {
    let id = |place: usize| {
        MessageId::from_bytes(&words[place]).map_err(|why| format!("ERR {why}; an id is 1 to 200 bytes"))
    };
    spec.key_places(words.len()).map(id).collect()
}

fn bytes_of(id: &MessageId) -> Value {
    Value::Bulk(Bytes::copy_from_slice(id.as_bytes()))
}

/// A reply of the coordinator as a value.
fn value_of(reply: Reply) -> Value {
    match reply {
        Reply::Done => OK,
        Reply::Value(payload) => Value::Bulk(payload),
        Reply::Nodes(nodes) => Value::Array(nodes.into_iter().map(|node| Value::Integer(node.0.into())).collect()),
        Reply::Count(count) => Value::Integer(count as i64),
        Reply::Status(json) => Value::text(json),
        Reply::Pong { .. } => Value::Simple("PONG"),
        Reply::Refused(Refusal::NotFound) => Value::Nil,
        Reply::Refused(refusal) => Value::Error(told(refusal)),
        Reply::Help => Value::text(table::help()),
        Reply::Bye | Reply::Finding(_) | Reply::Verified(_) => OK,
    }
}

/// A refusal with the class word that clients of Redis know, if there is one.
pub(super) fn told(refusal: Refusal) -> String {
    let class = match &refusal {
        Refusal::BadCommand(_) | Refusal::TooLarge { .. } | Refusal::NotALine | Refusal::OtherProtocol => "ERR",
        Refusal::TooFewNodes { .. } => "NOREPLICAS",
        Refusal::Busy(_) => "OOM",
        Refusal::Unavailable(_) => "TRYAGAIN",
        Refusal::NoAuth => "NOAUTH",
        Refusal::WrongPassword => "WRONGPASS",
        Refusal::Unknown(_) | Refusal::Lost(_) | Refusal::NotFound => refusal.code(),
    };
    format!("{class} {refusal}")
}
