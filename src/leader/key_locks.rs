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
pub struct KeyLocks {
    busy: Lock<HashMap<MessageId, VecDeque<Waiting>>>,
}

#[derive(Debug)]
enum Waiting {
    One(oneshot::Sender<KeyGuard>),
    Group(Vec<Job>, oneshot::Sender<(KeyGuard, Vec<Job>)>),
}

/// The right to write an id; the next one gets it when this is dropped.
#[derive(Debug)]
pub struct KeyGuard {
    /// Nothing, once it has been passed on.
    key_locks: Option<Arc<KeyLocks>>,
    id: MessageId,
}

/// What [`KeyLocks::enter`] gives.
#[derive(Debug)]
pub enum Entry {
    /// Go on.
    Entered(KeyGuard),
    /// Another write has it; the pass comes here.
    Wait(oneshot::Receiver<KeyGuard>),
}

/// What [`KeyLocks::join`] gives.
#[derive(Debug)]
pub(super) enum Joined {
    /// Go on with this job.
    Entered(KeyGuard, Job),
    /// Another write has it. The pass comes here, with all jobs that wait together by then.
    Wait(oneshot::Receiver<(KeyGuard, Vec<Job>)>),
    /// It goes with others, for which somebody waits.
    With,
}

impl KeyLocks {
    /// Asks for the right to write an id.
    pub fn enter(self: &Arc<Self>, id: &MessageId) -> Entry {
        let mut busy = self.busy.lock();
        if let Some(waiting) = busy.get_mut(id) {
            let (give, take) = oneshot::channel();
            waiting.push_back(Waiting::One(give));
            return Entry::Wait(take);
        }
        Entry::Entered(self.guard(&mut busy, id))
    }

    /// Asks for the right to write an id, for a job that may go together with others.
    pub(super) fn join(self: &Arc<Self>, id: &MessageId, job: Job) -> Joined {
        let mut busy = self.busy.lock();
        let Some(waiting) = busy.get_mut(id) else { return Joined::Entered(self.guard(&mut busy, id), job) };
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

    fn guard(self: &Arc<Self>, busy: &mut HashMap<MessageId, VecDeque<Waiting>>, id: &MessageId) -> KeyGuard {
        busy.insert(id.clone(), VecDeque::new());
        KeyGuard { key_locks: Some(self.clone()), id: id.clone() }
    }
}

impl Waiting {
    /// Gives the pass to who waits here, or back if that one has given up waiting.
    fn give(self, guard: KeyGuard) -> Result<(), KeyGuard> {
        match self {
            Self::One(give) => give.send(guard),
            Self::Group(jobs, give) => give.send((guard, jobs)).map_err(|(guard, _)| guard),
        }
    }
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        let Some(key_locks) = self.key_locks.take() else { return };
        let mut busy = key_locks.busy.lock();
        while let Some(next) = busy.get_mut(&self.id).and_then(VecDeque::pop_front) {
            match next.give(Self { key_locks: Some(key_locks.clone()), id: self.id.clone() }) {
                Ok(()) => return,
                // It comes back, and must not pass anything on by itself.
                Err(mut unused) => unused.key_locks = None,
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

    fn guard(entry: Entry) -> KeyGuard {
        match entry {
            Entry::Entered(guard) => guard,
            Entry::Wait(_) => panic!("the gate is closed"),
        }
    }

    fn wait(entry: Entry) -> oneshot::Receiver<KeyGuard> {
        match entry {
            Entry::Wait(turn) => turn,
            Entry::Entered(_) => panic!("the gate is open"),
        }
    }

    #[test]
    fn writes_of_an_id_come_one_by_one_in_order() {
        let key_locks = Arc::new(KeyLocks::default());
        let (x, y) = ("x".parse().unwrap(), "y".parse().unwrap());
        let first = guard(key_locks.enter(&x));
        let mut second = wait(key_locks.enter(&x));
        let given_up = wait(key_locks.enter(&x));
        let mut fourth = wait(key_locks.enter(&x));
        drop(guard(key_locks.enter(&y)));
        assert!(second.try_recv().is_err());
        drop(given_up);
        drop(first);
        let second = second.try_recv().unwrap();
        assert!(fourth.try_recv().is_err());
        drop(second);
        // A pass that was given and never taken goes on as well.
        drop(fourth);
        drop((guard(key_locks.enter(&x)), guard(key_locks.enter(&y))));
    }

    #[test]
    fn jobs_that_wait_one_behind_the_other_go_together() {
        let (key_locks, x) = (Arc::new(KeyLocks::default()), "x".parse().unwrap());
        let (replies, _told) = mpsc::unbounded_channel();
        let job =
            |at| Job::Write { asker: Asker { at, replies: replies.clone() }, change: crate::types::Change::Delete };
        let places = |jobs: &[Job]| -> Vec<usize> { jobs.iter().map(|job| job.asker().unwrap().at).collect() };
        let Joined::Entered(first, _) = key_locks.join(&x, job(0)) else { panic!("the gate is closed") };
        let Joined::Wait(mut group) = key_locks.join(&x, job(1)) else { panic!("nobody waits for it") };
        assert!(matches!(key_locks.join(&x, job(2)), Joined::With));
        let mut alone = wait(key_locks.enter(&x));
        // What came after somebody else goes after somebody else.
        let Joined::Wait(given_up) = key_locks.join(&x, job(3)) else { panic!("it went before its turn") };
        drop(given_up);
        let Joined::Wait(mut last) = key_locks.join(&x, job(4)) else { panic!("it waits where nobody looks") };
        drop(first);
        let (second, jobs) = group.try_recv().unwrap();
        assert_eq!(places(&jobs), [1, 2]);
        assert!(alone.try_recv().is_err());
        drop(second);
        drop(alone.try_recv().unwrap());
        assert_eq!(places(&last.try_recv().unwrap().1), [4]);
        drop(guard(key_locks.enter(&x)));
    }
}
