//! MULTI, WATCH and EXEC: commands that are queued and run at one instant, if what was watched is as it was.

use tokio::time::Instant;

use super::refused::{error, select};
use super::run::DENIED;
use super::script::{Call, Interpreter, Killed};
use super::server::{NO_SNAPSHOT, OF_TEXT, config_set_refused};
use super::session::{Session, keys_of};
use super::{data, keyspace};
use crate::acl::Denied;
use crate::error::Refusal;
use crate::leader::shares::{Room, Share};
use crate::leader::transaction::{Need, Transaction};
use crate::leader::users::Context;
use crate::protocol::resp::{Value, WORD_COST, Words};
use crate::protocol::table::{DataOp, KeyspaceOp, Op, RegisterOp, ScriptOp, ServerOp, SessionOp, Spec};
use crate::seeded::{self, Bug};
use crate::types::{Deadline, MessageId, Payload};

/// Commands that MULTI queues, and bytes of all their words, with what each takes beside them.
const MOST_QUEUED: usize = 65_536;
const MOST_QUEUED_BYTES: usize = 48 << 20;

/// Ids that are watched.
const MOST_WATCHED: usize = 65_536;

/// Bytes of the replies to a transaction.
pub(super) const MOST_REPLY_BYTES: usize = 64 << 20;

/// A transaction of more commands is decided while another thread serves in place of this one.
const QUICK: usize = 256;

/// What a queued command takes beside its words.
const COMMAND_COST: usize = 64;

/// What was queued since MULTI.
#[derive(Debug, Default)]
pub(super) struct Queued {
    requests: Vec<(&'static Spec, Words)>,
    bytes: usize,
    /// One of them was wrong: EXEC runs none.
    pub(super) broken: bool,
}

impl Queued {
    /// Takes a command; gives what the client is told.
    pub(super) fn push(&mut self, spec: &'static Spec, words: Words) -> Value {
        self.bytes += words.iter().map(|word| word.len() + WORD_COST).sum::<usize>() + COMMAND_COST;
        if self.broken || self.requests.len() >= MOST_QUEUED || self.bytes > MOST_QUEUED_BYTES {
            // EXEC runs none of them: there is nothing to keep them for.
            let was_broken = std::mem::replace(&mut self.broken, true);
            (self.requests, self.bytes) = (Vec::new(), 0);
            if was_broken {
                return Value::Simple("QUEUED");
            }
            return Value::Error(format!(
                "ERR a transaction takes up to {MOST_QUEUED} commands of {MOST_QUEUED_BYTES} bytes in all; this one is discarded"
            ));
        }
        self.requests.push((spec, words));
        Value::Simple("QUEUED")
    }

    /// Bytes that are held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Session {
    /// Why a command cannot succeed, whatever the messages are when it is run: what is known when it is queued is said
    /// then, and EXEC runs none of the others.
    pub(super) fn surely_refused(&self, spec: &Spec, words: &Words) -> Option<String> {
        let is = |name: &[u8]| words.get(1).is_some_and(|word| word.eq_ignore_ascii_case(name));
        match spec.op {
            Op::Data(op) => match keys_of(spec, words) {
                Err(why) => Some(why),
                Ok(_) => data::surely_refused(op, words, self.door.settings.max_message),
            },
            Op::Session(SessionOp::Select) => select(&words[1]).err(),
            Op::Keyspace(KeyspaceOp::Flush) if !self.door.settings.allow_flush => Some(keyspace::NO_FLUSH.to_owned()),
            Op::Server(ServerOp::Config) if is(b"SET") => Some(config_set_refused(words)),
            Op::Register(RegisterOp::Verify) => Some(OF_TEXT.to_owned()),
            Op::Session(
                SessionOp::PSubscribe | SessionOp::PUnsubscribe | SessionOp::Subscribe | SessionOp::Unsubscribe,
            ) => Some(format!("ERR {} is not allowed in transactions", spec.name)),
            Op::Server(ServerOp::Save) => Some(NO_SNAPSHOT.to_owned()),
            _ => None,
        }
    }

    /// Remembers the versions of ids, for EXEC.
    pub(super) async fn watch(&mut self, spec: &Spec, words: &Words) -> Result<(), String> {
        let ids: Vec<_> = keys_of(spec, words)?;
        if self.watched.len() + ids.len() > MOST_WATCHED {
            return Err(format!("ERR more than {MOST_WATCHED} ids are watched"));
        }
        let records = self.coordinator.records(&ids).await.map_err(|why| self.told(why))?;
        for (id, record) in ids.into_iter().zip(records) {
            // Watching again does not take a newer version for the one that was meant.
            self.watched.entry(id).or_insert(record.map(|record| record.version));
        }
        Ok(())
    }

    /// Runs what was queued: all that concerns messages at one instant, the rest after it.
    pub(super) async fn exec(&mut self) -> Result<Value, String> {
        let Some(queued) = self.queued.take() else { return error("ERR EXEC without MULTI") };
        let watched = std::mem::take(&mut self.watched);
        if queued.broken {
            return error("EXECABORT Transaction discarded because of previous errors.");
        }
        let mut steps: Vec<Step> = Vec::with_capacity(queued.requests.len());
        for (spec, words) in queued.requests {
            // Its rights may have changed since it was queued.
            if let Err(denied) = self.rights.check(spec, &words, Context::Multi)
                && !seeded::active(Bug::QueuedUnchecked)
            {
                self.count_wrong([Some(DENIED)]);
                steps.push(Step::Wrong(denied_since(denied)));
                continue;
            }
            steps.push(match spec.op {
                Op::Script(op) if op != ScriptOp::Script => self
                    .script_call(op, spec, &words)
                    .await
                    .map_or_else(Step::Wrong, |call| Step::Script(Box::new(call))),
                _ => Step::new(spec, words),
            });
        }
        let (began, writes) = (Instant::now(), steps.iter().any(Step::writes));
        let mut needs: Vec<(MessageId, Need)> = watched.keys().map(|id| (id.clone(), Need::Version)).collect();
        needs.extend(steps.iter().flat_map(Step::needs));
        let (has_data, is_quick) = (!needs.is_empty(), steps.len() <= QUICK);
        let has_scripts = steps.iter().any(|step| matches!(step, Step::Script(_)));
        let (max_message, share) = (self.door.settings.max_message, self.share.clone());
        let decide = move |transaction: &mut Transaction, mut scripts: Option<(&mut Interpreter, &Killed)>| {
            if watched.iter().any(|(id, version)| transaction.version(id) != *version) {
                return Ok(None);
            }
            let decide = || transaction.attempt(|all| run_all(steps, max_message, &share, &mut scripts, all).map(Some));
            if is_quick { decide() } else { tokio::task::block_in_place(decide) }
        };
        let done = if has_scripts {
            let scripts = self.door.scripts.clone();
            let apart = move |mut transaction: Transaction| async move {
                let work = move |interpreter: &mut Interpreter, killed: &Killed| {
                    let told = decide(&mut transaction, Some((interpreter, killed)));
                    (transaction, told)
                };
                scripts.run(work).await
            };
            self.coordinator.transact_apart(needs, apart).await
        } else {
            self.coordinator.transact(needs, move |transaction| decide(transaction, None)).await
        };
        let done = done.flatten();
        if has_data {
            self.count(writes, began, [done.as_ref().err().map(Refusal::code)]);
        }
        let done = done.map_err(|why| self.told(why))?;
        let Some((done, room)) = done else { return Ok(Value::NilArray) };
        let mut values = Vec::with_capacity(done.len());
        for done in done {
            values.push(match done {
                Done::Now(value) => value,
                Done::Common(words, a, b) => self.common(words, a, b).await,
                // An AUTH before it may have made the connection another user's.
                Done::Later(spec, words) => match self.rights.check(spec, &words, Context::Multi) {
                    Err(denied) => Value::Error(denied_since(denied)),
                    Ok(()) => Box::pin(self.run(spec, &words)).await.unwrap_or_else(Value::Error),
                },
            });
        }
        self.room = Some(room);
        Ok(Value::Array(values))
    }
}

/// What is said of a command that could be queued, and may not be run.
fn denied_since(denied: Denied) -> String {
    let reason = match denied {
        Denied::Command => "no permission to execute the command or subcommand",
        Denied::Key(_) => "no permission to touch the specified keys",
    };
    format!(
        "NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. This command is \
         no longer allowed for the following reason: {reason}"
    )
}

/// Runs all commands at one instant; gives what they came to, with the room that the replies need.
fn run_all(
    steps: Vec<Step>,
    max_message: usize,
    share: &Share,
    scripts: &mut Option<(&mut Interpreter, &Killed)>,
    transaction: &mut Transaction,
) -> Result<(Vec<Done>, Room), Refusal> {
    let (mut all, mut bytes) = (Vec::with_capacity(steps.len()), 0);
    for step in steps {
        let done = step.run(max_message, scripts, transaction);
        bytes += done.size();
        if bytes > MOST_REPLY_BYTES {
            return Err(Refusal::BadCommand(format!(
                "the replies to this transaction have more than {MOST_REPLY_BYTES} bytes; nothing was written, read less \
                 in one"
            )));
        }
        all.push(done);
    }
    let room = share.room(bytes).ok_or(Refusal::Busy("too many bytes are under way in the leader"))?;
    Ok((all, room))
}

/// A queued command, made ready to run.
enum Step {
    /// It concerns messages: these.
    Data(DataOp, &'static Spec, Words, Vec<MessageId>),
    /// It runs a script.
    Script(Box<Call>),
    /// What it names is not there, or wrong.
    Wrong(String),
    /// It concerns no message.
    Other(&'static Spec, Words),
}

/// What became of a step at the instant of the transaction.
enum Done {
    Now(Value),
    /// LCS of these messages, which takes long.
    Common(Words, Payload, Payload),
    /// It runs after the transaction.
    Later(&'static Spec, Words),
}

impl Done {
    fn size(&self) -> usize {
        match self {
            Self::Now(value) => value.size(),
            Self::Common(_, a, b) => a.len() + b.len(),
            Self::Later(..) => 0,
        }
    }
}

impl Step {
    fn new(spec: &'static Spec, words: Words) -> Self {
        let Some(op) = spec.data() else { return Self::Other(spec, words) };
        match keys_of(spec, &words) {
            Ok(keys) => Self::Data(op, spec, words, keys),
            Err(why) => Self::Wrong(why),
        }
    }

    fn needs(&self) -> Vec<(MessageId, Need)> {
        match self {
            Self::Data(op, _, words, keys) => keys.iter().map(|id| (id.clone(), data::need(*op, words))).collect(),
            Self::Script(call) => call.keys.iter().map(|id| (id.clone(), Need::Message)).collect(),
            Self::Wrong(_) | Self::Other(..) => Vec::new(),
        }
    }

    fn writes(&self) -> bool {
        match self {
            Self::Data(_, spec, ..) => spec.writes(),
            Self::Script(call) => !call.reads_only,
            Self::Wrong(_) | Self::Other(..) => false,
        }
    }

    fn run(
        self,
        max_message: usize,
        scripts: &mut Option<(&mut Interpreter, &Killed)>,
        transaction: &mut Transaction,
    ) -> Done {
        match self {
            Self::Data(DataOp::Lcs, _, words, keys) => {
                let message = |id| transaction.get(id).cloned().unwrap_or_default();
                let (a, b) = (message(&keys[0]), message(&keys[1]));
                Done::Common(words, a, b)
            }
            Self::Data(op, _, words, keys) => {
                Done::Now(data::run(op, &words, &keys, max_message, &mut View(transaction)))
            }
            Self::Script(call) => Done::Now(match scripts {
                Some((interpreter, killed)) => interpreter.run(&call, killed, transaction).unwrap_or_else(Value::Error),
                None => Value::Error("ERR no interpreter for scripts".to_owned()),
            }),
            Self::Wrong(why) => Done::Now(Value::Error(why)),
            Self::Other(spec, words) => Done::Later(spec, words),
        }
    }
}

/// A transaction as the data commands see it.
pub(super) struct View<'a>(pub(super) &'a mut Transaction);

impl data::Ids for View<'_> {
    fn get(&self, id: &MessageId) -> Option<Payload> {
        self.0.get(id).cloned()
    }

    fn length(&self, id: &MessageId) -> Option<usize> {
        self.0.length(id)
    }

    fn take(&mut self, id: &MessageId) -> Option<Payload> {
        self.0.take(id)
    }

    fn expires(&self, id: &MessageId) -> Option<Deadline> {
        self.0.expires(id)
    }

    fn now(&self) -> u64 {
        self.0.now()
    }

    fn set(&mut self, id: &MessageId, payload: Payload, expires: Option<Deadline>) {
        self.0.set(id, payload, expires);
    }

    fn delete(&mut self, id: &MessageId) {
        self.0.delete(id);
    }
}
