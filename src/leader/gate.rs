//! One writer at a time for each id, in the order of arrival.
//!
//! A writer that has to wait holds nothing else while it does, so no two can wait for each other. What clients want
//! done to an id that is being written waits together and goes on together: an id that everybody writes costs one write
//! for all who wait, not one for each (flat combining: Hendler et al., "Flat Combining and the
//! Synchronization-Parallelism Tradeoff", 2010).

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;
use tokio::sync::oneshot;

use super::jobs::Job;
use crate::lock::Lock;
use crate::types::MessageId;

/// Jobs that go on together; what comes later begins another group.
const MOST_TOGETHER: usize = 1024;

/// The ids that are being written, each with those who wait.
#[derive(Debug, Default)]
pub struct Gate {
    busy: Lock<HashMap<MessageId, VecDeque<Waiting>>>,
}

#[derive(Debug)]
enum Waiting {
    One(oneshot::Sender<Pass>),
    Group(Vec<Job>, oneshot::Sender<(Pass, Vec<Job>)>),
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

/// What [`Gate::join`] gives.
#[derive(Debug)]
pub(super) enum Joined {
    /// Go on with this job.
    Entered(Pass, Job),
    /// Another write has it. The pass comes here, with all jobs that wait together by then.
    Wait(oneshot::Receiver<(Pass, Vec<Job>)>),
    /// It goes with others, for which somebody waits.
    With,
}

impl Gate {
    /// Asks for the right to write an id.
    pub fn enter(self: &Arc<Self>, id: &MessageId) -> Entry {
        let mut busy = self.busy.lock();
        if let Some(waiting) = busy.get_mut(id) {
            let (give, take) = oneshot::channel();
            waiting.push_back(Waiting::One(give));
            return Entry::Wait(take);
        }
        Entry::Entered(self.pass(&mut busy, id))
    }

    /// Asks for the right to write an id, for a job that may go together with others.
    pub(super) fn join(self: &Arc<Self>, id: &MessageId, job: Job) -> Joined {
        let mut busy = self.busy.lock();
        let Some(waiting) = busy.get_mut(id) else { return Joined::Entered(self.pass(&mut busy, id), job) };
        if let Some(Waiting::Group(jobs, give)) = waiting.back_mut()
            && jobs.len() < MOST_TOGETHER
            && !give.is_closed()
        {
            jobs.push(job);
            return Joined::With;
        }
        let (give, take) = oneshot::channel();
        waiting.push_back(Waiting::Group(vec![job], give));
        Joined::Wait(take)
    }

    fn pass(self: &Arc<Self>, busy: &mut HashMap<MessageId, VecDeque<Waiting>>, id: &MessageId) -> Pass {
        busy.insert(id.clone(), VecDeque::new());
        Pass { gate: Some(self.clone()), id: id.clone() }
    }
}

impl Waiting {
    /// Gives the pass to who waits here, or back if that one has given up waiting.
    fn give(self, pass: Pass) -> Result<(), Pass> {
        match self {
            Self::One(give) => give.send(pass),
            Self::Group(jobs, give) => give.send((pass, jobs)).map_err(|(pass, _)| pass),
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let Some(gate) = self.gate.take() else { return };
        let mut busy = gate.busy.lock();
        while let Some(next) = busy.get_mut(&self.id).and_then(VecDeque::pop_front) {
            match next.give(Self { gate: Some(gate.clone()), id: self.id.clone() }) {
                Ok(()) => return,
                // It comes back, and must not pass anything on by itself.
                Err(mut unused) => unused.gate = None,
            }
        }
        busy.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::leader::write::Asker;

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

    #[test]
    fn jobs_that_wait_one_behind_the_other_go_together() {
        let (gate, x) = (Arc::new(Gate::default()), "x".parse().unwrap());
        let (replies, _told) = mpsc::unbounded_channel();
        let job =
            |at| Job::Write { asker: Asker { at, replies: replies.clone() }, change: crate::types::Change::Delete };
        let places = |jobs: &[Job]| -> Vec<usize> { jobs.iter().map(|job| job.asker().unwrap().at).collect() };
        let Joined::Entered(first, _) = gate.join(&x, job(0)) else { panic!("the gate is closed") };
        let Joined::Wait(mut group) = gate.join(&x, job(1)) else { panic!("nobody waits for it") };
        assert!(matches!(gate.join(&x, job(2)), Joined::With));
        let mut alone = wait(gate.enter(&x));
        // What came after somebody else goes after somebody else.
        let Joined::Wait(given_up) = gate.join(&x, job(3)) else { panic!("it went before its turn") };
        drop(given_up);
        let Joined::Wait(mut last) = gate.join(&x, job(4)) else { panic!("it waits where nobody looks") };
        drop(first);
        let (second, jobs) = group.try_recv().unwrap();
        assert_eq!(places(&jobs), [1, 2]);
        assert!(alone.try_recv().is_err());
        drop(second);
        drop(alone.try_recv().unwrap());
        assert_eq!(places(&last.try_recv().unwrap().1), [4]);
        drop(pass(gate.enter(&x)));
    }
}
