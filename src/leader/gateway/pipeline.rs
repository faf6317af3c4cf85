//! Pipelined commands of one id each: those of a connection that stand one behind the other go to work together.
//!
//! Commands of the same id are one step, in their order; those of different ids wait for nobody but their own.

use std::collections::BTreeMap;

use futures::future::join_all;

use super::data;
use super::multi::View;
use super::session::{Session, keys_of};
use crate::leader::transaction::{Need, Transaction};
use crate::protocol::resp::{Value, Words};
use crate::protocol::table::{self, Spec};
use crate::types::MessageId;

/// Commands that go together: what they read is in memory until they are answered.
const MOST: usize = 64;

/// A command that names one id, perhaps several times.
struct Single {
    spec: &'static Spec,
    words: Words,
    keys: Vec<MessageId>,
}

impl Single {
    /// Commands that read a message and write none go alone: their answers are as large as messages.
    fn of(words: &Words) -> Option<Self> {
        let spec = table::find(&words[0])?;
        if !spec.is_data() || !spec.takes(words.len()) {
            return None;
        }
        let keys = keys_of(spec, words).ok()?;
        let one = keys.windows(2).all(|pair| pair[0] == pair[1]);
        let joins = spec.writes() || data::need(spec.op, words) == Need::Version;
        (one && joins).then(|| Self { spec, words: words.clone(), keys })
    }

    fn run(&self, max_message: usize, transaction: &mut Transaction) -> Value {
        data::run(self.spec.op, &self.words, &self.keys, max_message, &mut View(transaction))
    }
}

impl Session {
    /// Works on the commands at the front that go together, if there are several; gives their replies in order.
    pub(super) async fn run_together(&mut self) -> Option<Vec<Value>> {
        if self.queued.is_some() || !self.allowed {
            return None;
        }
        let run: Vec<Single> = self.requests.iter().take(MOST).map_while(Single::of).collect();
        let last = run.last().filter(|_| run.len() > 1)?;
        self.taken.seat.note(last.spec.name);
        self.requests.drain(..run.len());
        let mut values = vec![Value::Nil; run.len()];
        let mut by_id: BTreeMap<MessageId, Vec<(usize, Single)>> = BTreeMap::new();
        for (place, single) in run.into_iter().enumerate() {
            by_id.entry(single.keys[0].clone()).or_default().push((place, single));
        }
        let done = join_all(by_id.into_iter().map(|(id, step)| self.run_step(id, step))).await;
        done.into_iter().flatten().for_each(|(place, value)| values[place] = value);
        Some(values)
    }

    /// Runs commands of one id at one instant.
    async fn run_step(&self, id: MessageId, step: Vec<(usize, Single)>) -> Vec<(usize, Value)> {
        let need = |(_, single): &(usize, Single)| data::need(single.spec.op, &single.words);
        let need = step.iter().map(need).max().unwrap_or(Need::Nothing);
        let places: Vec<usize> = step.iter().map(|(place, _)| *place).collect();
        let max_message = self.door.settings.max_message;
        let decide = move |transaction: &mut Transaction| {
            step.iter().map(|(_, single)| single.run(max_message, transaction)).collect::<Vec<_>>()
        };
        match self.coordinator.transact([(id, need)], decide).await {
            Ok(values) => places.into_iter().zip(values).collect(),
            Err(why) => places.into_iter().map(|place| (place, Value::Error(self.told(why.clone())))).collect(),
        }
    }
}
