//! One write at a time for each id, in the order of arrival.
//!
//! A write that has to wait holds nothing else while it does, so no two can wait for each other.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::HashMap;
use tokio::sync::oneshot;

use crate::types::MessageId;

/// The ids that are being written, each with those who wait.
#[derive(Debug, Default)]
pub struct Gate {
    busy: Mutex<HashMap<MessageId, VecDeque<oneshot::Sender<Pass>>>>,
}

/// The right to write an id; the next one gets it when this is dropped.
#[derive(Debug)]
pub struct Pass {
    /// Nothing, once it has been passed on.
    gate: Option<Arc<Gate>>,
    id: MessageId,
}

/// What [`Gate::enter`] gives.
#[derive(Debug)]
pub enum Entry {
    /// Go on.
    Entered(Pass),
    /// Another write has it; the pass comes here.
    Wait(oneshot::Receiver<Pass>),
}

impl Gate {
    /// Asks for the right to write an id.
    pub fn enter(self: &Arc<Self>, id: &MessageId) -> Entry {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = busy.get_mut(id) {
            let (give, take) = oneshot::channel();
            waiting.push_back(give);
            return Entry::Wait(take);
        }
        busy.insert(id.clone(), VecDeque::new());
        Entry::Entered(Pass { gate: Some(self.clone()), id: id.clone() })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let Some(gate) = self.gate.take() else { return };
        let mut busy = gate.busy.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(give) = busy.get_mut(&self.id).and_then(VecDeque::pop_front) {
            match give.send(Self { gate: Some(gate.clone()), id: self.id.clone() }) {
                Ok(()) => return,
                // That one has given up waiting. Its pass comes back and must not pass anything on by itself.
                Err(mut unused) => unused.gate = None,
            }
        }
        busy.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(entry: Entry) -> Pass {
        match entry {
            Entry::Entered(pass) => pass,
            Entry::Wait(_) => panic!("the gate is closed"),
        }
    }

    fn wait(entry: Entry) -> oneshot::Receiver<Pass> {
        match entry {
            Entry::Wait(turn) => turn,
            Entry::Entered(_) => panic!("the gate is open"),
        }
    }

    #[test]
    fn writes_of_an_id_come_one_by_one_in_order() {
        let gate = Arc::new(Gate::default());
        let (x, y) = ("x".parse().unwrap(), "y".parse().unwrap());
        let first = pass(gate.enter(&x));
        let mut second = wait(gate.enter(&x));
        let given_up = wait(gate.enter(&x));
        let mut fourth = wait(gate.enter(&x));
        drop(pass(gate.enter(&y)));
        assert!(second.try_recv().is_err());
        drop(given_up);
        drop(first);
        let second = second.try_recv().unwrap();
        assert!(fourth.try_recv().is_err());
        drop(second);
        // A pass that was given and never taken goes on as well.
        drop(fourth);
        drop((pass(gate.enter(&x)), pass(gate.enter(&y))));
    }
}
