//! MULTI, WATCH and EXEC: commands that are queued and run at one instant, if what was watched is as it was.

use bytes::Bytes;
use tokio::time::Instant;

use super::data;
use super::session::{Session, error, keys_of};
use crate::error::Refusal;
use crate::leader::transaction::{Need, Transaction};
use crate::protocol::resp::{Value, Words};
use crate::protocol::table::Spec;
use crate::types::{MessageId, Payload};

/// Commands that MULTI queues, and their bytes.
const MOST_QUEUED: usize = 4096;
const MOST_QUEUED_BYTES: usize = 16 << 20;

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

impl Session {
    /// Remembers the versions of ids, for EXEC.
    pub(super) async fn watch(&mut self, spec: &Spec, words: &Words) -> Result<(), String> {
        let ids: Vec<_> = keys_of(spec, words)?;
        if self.watched.len() + ids.len() > MOST_QUEUED {
            return Err(format!("ERR more than {MOST_QUEUED} ids are watched"));
        }
        let records = self.coordinator.records(&ids).await.map_err(|why| self.told(why))?;
        for (id, record) in ids.into_iter().zip(records) {
            // Watching again does not take a newer version for the one that was meant.
            if !self.watched.iter().any(|(watched, _)| *watched == id) {
                self.watched.push((id, record.map(|record| record.version)));
            }
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
        let steps: Vec<Step> = queued.requests.into_iter().map(Step::new).collect();
        let (began, writes) = (Instant::now(), steps.iter().any(Step::writes));
        let mut needs: Vec<(MessageId, Need)> = watched.iter().map(|(id, _)| (id.clone(), Need::Version)).collect();
        needs.extend(steps.iter().flat_map(Step::needs));
        let has_data = !needs.is_empty();
        let max_message = self.door.settings.max_message;
        let decide = move |transaction: &mut Transaction| {
            if watched.iter().any(|(id, version)| transaction.version(id) != *version) {
                return None;
            }
            Some(steps.into_iter().map(|step| step.run(max_message, transaction)).collect::<Vec<_>>())
        };
        let done = self.coordinator.transact(needs, decide).await;
        if has_data {
            self.count(writes, began, [done.as_ref().err().map(Refusal::code)]);
        }
        let done = done.map_err(|why| self.told(why))?;
        let Some(done) = done else { return Ok(Value::NilArray) };
        let mut values = Vec::with_capacity(done.len());
        for done in done {
            values.push(match done {
                Done::Now(value) => value,
                Done::Later(spec, words) => Box::pin(self.run(spec, &words)).await.unwrap_or_else(Value::Error),
            });
        }
        Ok(Value::Array(values))
    }
}

/// A queued command, made ready to run.
enum Step {
    /// It concerns messages: these.
    Data(&'static Spec, Words, Vec<MessageId>),
    /// An id that it names is none.
    Wrong(String),
    /// It concerns no message.
    Other(&'static Spec, Words),
}

/// What became of a step at the instant of the transaction.
enum Done {
    Now(Value),
    /// It runs after the transaction.
    Later(&'static Spec, Words),
}

impl Step {
    fn new((spec, words): (&'static Spec, Words)) -> Self {
        if !spec.is_data() {
            return Self::Other(spec, words);
        }
        match keys_of(spec, &words) {
            Ok(keys) => Self::Data(spec, words, keys),
            Err(why) => Self::Wrong(why),
        }
    }

    fn needs(&self) -> Vec<(MessageId, Need)> {
        match self {
            Self::Data(spec, words, keys) => keys.iter().map(|id| (id.clone(), data::need(spec.op, words))).collect(),
            Self::Wrong(_) | Self::Other(..) => Vec::new(),
        }
    }

    fn writes(&self) -> bool {
        matches!(self, Self::Data(spec, ..) if spec.writes())
    }

    fn run(self, max_message: usize, transaction: &mut Transaction) -> Done {
        match self {
            Self::Data(spec, words, keys) => {
                Done::Now(data::run(spec.op, &words, &keys, max_message, &mut View(transaction)))
            }
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

    fn set(&mut self, id: &MessageId, payload: Payload) {
        self.0.set(id, payload);
    }

    fn delete(&mut self, id: &MessageId) {
        self.0.delete(id);
    }
}
