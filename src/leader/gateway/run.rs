//! Commands that are worked on by themselves: `data` says what they do to messages, `server` and `tools` what they tell.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::OK;
use super::multi::{Queued, View};
use super::refused::{error, select, wrong_number};
use super::session::{Replies, Session, bytes_of, keys_of};
use super::{data, keyspace, lcs};
use crate::error::Refusal;
use crate::leader::sentinel::Subscriptions;
use crate::leader::transaction::{Need, Transaction};
use crate::protocol::resp::{Value, Words, number};
use crate::protocol::table::{DataOp, KeyspaceOp, Op, RegisterOp, SessionOp, Spec};
use crate::protocol::{Command, peers};
use crate::telemetry::served::{NOT_FOUND, Operation, Outcome, Protocol};
use crate::types::{CopyRecord, Deadline, MessageId, NodeId, Payload};

impl Session {
    /// Runs a command, and notes those of operators.
    pub(super) async fn run(&mut self, spec: &'static Spec, words: &Words) -> Result<Value, String> {
        let done = self.carry_out(spec, words).await;
        let outcome = match &done {
            Ok(Value::Error(why)) | Err(why) => Err(why.as_str()),
            Ok(_) => Ok(()),
        };
        self.rights.audit(spec, words, outcome);
        done
    }

    async fn carry_out(&mut self, spec: &'static Spec, words: &Words) -> Result<Value, String> {
        match spec.op {
            Op::Data(op) => self.run_data(op, spec, words).await,
            Op::Session(op) => self.run_session(op, spec, words).await,
            Op::Keyspace(op) => self.run_keyspace(op, words).await,
            Op::Server(op) => self.tell_of_server(op, words).await,
            Op::Script(op) => self.run_script(op, spec, words).await,
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
                self.subscribed = Subscriptions::default();
                self.rights.reset();
                let mut said = self.taken.seat.said();
                (said.name, said.version) = (String::new(), 2);
                return Ok(Value::Simple("RESET"));
            }
            SessionOp::Ping => match words.len() {
                1 | 2 if !self.subscribed.is_empty() && self.version == 2 => {
                    return Ok(Subscriptions::pong(words.get(1)));
                }
                1 => return Ok(Value::Simple("PONG")),
                2 => return Ok(Value::Bulk(words[1].clone())),
                _ => return Err(wrong_number(spec.name)),
            },
            SessionOp::Echo => return Ok(Value::Bulk(words[1].clone())),
            SessionOp::PSubscribe | SessionOp::PUnsubscribe | SessionOp::Subscribe | SessionOp::Unsubscribe => {
                return self.subscribed.change(op, words);
            }
            SessionOp::Exit => {}
        }
        Ok(OK)
    }

    async fn run_keyspace(&mut self, op: KeyspaceOp, words: &Words) -> Result<Value, String> {
        match op {
            KeyspaceOp::Keys => self.keys(&words[1]).await,
            KeyspaceOp::Scan => self.scan(words).await,
            KeyspaceOp::RandomKey => {
                let id = self.random_id().await?;
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
    pub(super) fn count_wrong(&self, wrong: impl IntoIterator<Item = Outcome>) {
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
                let mut known = Known(keys.iter().cloned().zip(records).collect(), self.coordinator.time.now());
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
        let common = self.door.heavy.run(move || lcs::common(&words, &a, &b)).await;
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
            RegisterOp::Clock if words[1].eq_ignore_ascii_case(b"ACCEPT") => Command::AcceptClock,
            RegisterOp::Clock => return error("ERR CLOCK wants ACCEPT: CLOCK ACCEPT"),
            RegisterOp::Peers => Command::Peers,
            RegisterOp::HandOver => peers::hand_over(&words[1..]).map_err(|why| format!("ERR {why}"))?,
            RegisterOp::Peer => peers::change(&words[1..]).map_err(|why| format!("ERR {why}"))?,
            RegisterOp::Verify => return error(super::server::OF_TEXT),
        };
        let mut queue = VecDeque::from([Ok(command)]);
        let (mut replies, _room) = self.coordinator.execute_for(Some(&self.share), &mut queue, Protocol::Resp).await;
        Ok(replies.pop().map_or(Value::Nil, |reply| self.value_of(reply)))
    }
}

/// The code of a request that is wrong in itself.
pub(super) const BAD_COMMAND: &str = "BAD_COMMAND";

/// That of one which its user may not have run.
pub(super) const DENIED: &str = "DENIED";

/// How a request for messages ended, for the counts.
pub(super) fn outcome(writes: bool, done: &Result<Value, Refusal>) -> Outcome {
    match done {
        Err(refusal) => Some(refusal.code()),
        Ok(Value::Error(_)) => Some(BAD_COMMAND),
        Ok(Value::Nil) if !writes => Some(NOT_FOUND),
        Ok(_) => None,
    }
}

/// What the index knows of messages, and the register's time: for commands that write nothing and need no more.
struct Known(BTreeMap<MessageId, Option<CopyRecord>>, u64);

impl data::Ids for Known {
    fn get(&self, _: &MessageId) -> Option<Payload> {
        None
    }

    fn length(&self, id: &MessageId) -> Option<usize> {
        self.0.get(id).copied().flatten().map(|record| record.bytes() as usize)
    }

    fn expires(&self, id: &MessageId) -> Option<Deadline> {
        self.0.get(id).copied().flatten()?.expires
    }

    fn now(&self) -> u64 {
        self.1
    }

    fn take(&mut self, _: &MessageId) -> Option<Payload> {
        None
    }

    fn set(&mut self, _: &MessageId, _: Payload, _: Option<Deadline>) {}

    fn delete(&mut self, _: &MessageId) {}
}
