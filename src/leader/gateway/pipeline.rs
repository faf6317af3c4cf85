//! Pipelined commands: those of a connection that stand one behind the other go to work together.
//!
//! Commands of one same id are one step, in their order; a command of several ids is a step by itself, and goes along if
//! none of them is another step's. So every step has its own ids, and waits for nobody else's.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::future::join_all;
use tokio::time::Instant;

use super::data;
use super::multi::View;
use super::run::outcome;
use super::session::{Session, keys_of};
use crate::leader::transaction::{Need, Transaction};
use crate::protocol::resp::{Asked, Value, Words};
use crate::protocol::table::{self, DataOp, Spec};
use crate::types::MessageId;

/// Commands that go together, the ids that they name, and their bytes: what they read and write is in memory until they
/// are answered.
const MOST: usize = 64;
const MOST_IDS: usize = 1024;
const MOST_BYTES: usize = 16 << 20;

/// A command that can go with others.
#[derive(Debug)]
struct Ready {
    spec: &'static Spec,
    op: DataOp,
    words: Words,
    keys: Vec<MessageId>,
}

impl Ready {
    /// Commands that read a message and write none go alone: their answers are as large as messages.
    fn of(words: &Words) -> Option<Self> {
        let spec = table::find(&words[0])?;
        let op = spec.data()?;
        if !spec.takes(words.len()) {
            return None;
        }
        let keys = keys_of(spec, words).ok()?;
        let joins = spec.writes() || data::need(op, words) == Need::Version;
        joins.then(|| Self { spec, op, words: words.clone(), keys })
    }

    /// Whether it names one id, perhaps several times.
    fn is_single(&self) -> bool {
        self.keys.windows(2).all(|pair| pair[0] == pair[1])
    }

    fn run(&self, max_message: usize, transaction: &mut Transaction) -> Value {
        data::run(self.op, &self.words, &self.keys, max_message, &mut View(transaction))
    }
}

/// Commands that happen at one instant, each with the place of its reply.
type Step = Vec<(usize, Ready)>;

/// The commands at the front that go together.
#[derive(Debug, Default)]
struct Steps {
    steps: Vec<Step>,
    /// The step of each id.
    of: BTreeMap<MessageId, usize>,
    commands: usize,
    bytes: usize,
}

impl Steps {
    /// `false`: this one has to wait for those before it.
    fn take(&mut self, ready: Ready) -> bool {
        let bytes = self.bytes + ready.words.iter().map(Bytes::len).sum::<usize>();
        if self.commands == MOST || self.of.len() + ready.keys.len() > MOST_IDS || bytes > MOST_BYTES {
            return false;
        }
        let joined = ready.keys.iter().find_map(|id| self.of.get(id).copied());
        let step = match joined {
            Some(step) if ready.is_single() && self.steps[step][0].1.is_single() => step,
            Some(_) => return false,
            None => {
                self.steps.push(Step::new());
                self.of.extend(ready.keys.iter().map(|id| (id.clone(), self.steps.len() - 1)));
                self.steps.len() - 1
            }
        };
        self.steps[step].push((self.commands, ready));
        (self.commands, self.bytes) = (self.commands + 1, bytes);
        true
    }
}

impl Session {
    /// Works on the commands at the front that go together, if there are several; gives their replies in order.
    pub(super) async fn run_together(&mut self, most: usize) -> Option<Vec<Value>> {
        if self.queued.is_some() || !self.rights.is_known() || !self.subscribed.is_empty() || most < MOST {
            return None;
        }
        let mut together = Steps::default();
        let mut last = None;
        let words = self.requests.iter().map_while(|asked| match asked {
            Asked::Words(words) => Some(words),
            Asked::TooLong { .. } => None,
        });
        let ready = |words: &Words| Ready::of(words).filter(|ready| self.rights.allow(ready.spec, words).is_ok());
        for ready in words.map_while(ready) {
            let name = ready.spec.name;
            if !together.take(ready) {
                break;
            }
            last = Some(name);
        }
        let name = last.filter(|_| together.commands > 1)?;
        self.taken.note(name, together.commands);
        self.requests.drain(..together.commands);
        let mut values = vec![Value::Nil; together.commands];
        let done = join_all(together.steps.into_iter().map(|step| self.run_step(step))).await;
        done.into_iter().flatten().for_each(|(place, value)| values[place] = value);
        Some(values)
    }

    /// Runs commands at one instant.
    async fn run_step(&self, step: Step) -> Vec<(usize, Value)> {
        let began = Instant::now();
        let needs = step.iter().flat_map(|(_, ready)| {
            let need = data::need(ready.op, &ready.words);
            ready.keys.iter().map(move |id| (id.clone(), need))
        });
        let needs: Vec<(MessageId, Need)> = needs.collect();
        let places: Vec<(usize, bool)> = step.iter().map(|(place, ready)| (*place, ready.spec.writes())).collect();
        let max_message = self.door.settings.max_message;
        let decide = move |transaction: &mut Transaction| {
            step.iter().map(|(_, ready)| ready.run(max_message, transaction)).collect::<Vec<_>>()
        };
        let done: Vec<_> = match self.coordinator.transact(needs, decide).await {
            Ok(values) => values.into_iter().map(Ok).collect(),
            Err(why) => vec![Err(why); places.len()],
        };
        for writes in [true, false] {
            let of_kind = places.iter().zip(&done).filter(|((_, writing), _)| *writing == writes);
            self.count(writes, began, of_kind.map(|(_, done)| outcome(writes, done)));
        }
        let value = |done: Result<Value, _>| done.unwrap_or_else(|why| Value::Error(self.told(why)));
        places.into_iter().zip(done).map(|((place, _), done)| (place, value(done))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of these commands go together, and in which steps.
    fn steps(lines: &[&str]) -> Vec<Vec<usize>> {
        let words = |line: &&str| line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        let mut steps = Steps::default();
        let requests: Vec<Words> = lines.iter().map(words).collect();
        let _ = requests.iter().map_while(Ready::of).all(|ready| steps.take(ready));
        steps.steps.iter().map(|step| step.iter().map(|(place, _)| *place).collect()).collect()
    }

    #[test]
    fn commands_of_one_id_are_one_step_and_others_go_beside_it() {
        assert_eq!(steps(&["INCR a", "INCR b", "APPEND a x", "MSET a 1 a 2"]), [vec![0, 2, 3], vec![1]]);
        assert_eq!(steps(&["MSET a 1 b 2", "INCR c", "DEL d e", "EXISTS f"]), [[0], [1], [2], [3]]);
    }

    #[test]
    fn a_command_waits_for_those_that_have_one_of_its_ids() {
        assert_eq!(steps(&["MSET a 1 b 2", "INCR c", "INCR b", "INCR d"]), [[0], [1]]);
        assert_eq!(steps(&["INCR b", "MSET a 1 b 2"]), [[0]]);
        assert_eq!(steps(&["MSET a 1 b 2", "MSET c 3 a 4"]), [[0]]);
    }

    #[test]
    fn what_reads_messages_or_is_wrong_goes_alone() {
        assert_eq!(steps(&["INCR a", "MGET b c", "INCR d"]), [[0]]);
        assert_eq!(steps(&["INCR a", "INCR", "INCR d"]), [[0]]);
        assert_eq!(steps(&["INCR a", "NOSUCH x"]), [[0]]);
    }

    #[test]
    fn what_goes_together_is_bounded() {
        let many: Vec<String> = (0..100).map(|n| format!("INCR {n}")).collect();
        assert_eq!(steps(&many.iter().map(String::as_str).collect::<Vec<_>>()).len(), MOST);
        let ids: String = (0..600).map(|n| format!(" {n}")).collect();
        let other: String = (600..1200).map(|n| format!(" {n}")).collect();
        assert_eq!(steps(&[&format!("DEL{ids}"), &format!("DEL{other}")]), [[0]]);
        let big = "x".repeat(MOST_BYTES / 2);
        assert_eq!(steps(&[&format!("APPEND a {big}"), &format!("APPEND b {big}")]), [[0]]);
    }
}
