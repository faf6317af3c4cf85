//! Requests of all connections, gathered into rounds.
//!
//! What is asked while the rounds before are under way becomes the next round, so that rounds grow with load and
//! a request alone does not wait: the rule of group commit (DeWitt et al., "Implementation Techniques for Main
//! Memory Database Systems", 1984). The hand-overs between tasks, lanes and disks are then paid once a round,
//! not once a client. Clients that were answered ask again at once, so the next round waits a moment for as many
//! as the last one had (PostgreSQL's commit_delay, with the number of siblings learnt instead of set): else one that is
//! back first would go alone, and all others after it. A round that takes long stops counting, so that what waits
//! for a slow node holds up nobody else.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use futures::future::FutureExt;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::lock::Lock;

/// Rounds that count at once: one on its way to nodes while the other is written to the log. The second begins only
/// with so many requests: with fewer, what a round costs each node outweighs that they work at once (measured: 32
/// connections, 29,000 SET/s in rounds of 14, and 40,000 in rounds of 32).
const PLACES: usize = 2;
const FULL: usize = 64;

/// A place looks so many times whether those who are expected have come; each look lets everything else that is
/// ready run first. On an idle machine that is 0.1 ms.
const LOOKS: usize = 100;

/// A round counts for this long. Above a sync of a good disk; a tenth of what people notice.
const HOLD: Duration = Duration::from_millis(5);

/// Requests of one round, and bytes of their messages, above which it takes no more: what a frame and a lock can bear.
const ROUND_ITEMS: usize = 1024;
const ROUND_BYTES: usize = 4 << 20;

/// A request that can join a round.
pub(super) trait Item: Send + 'static {
    /// Bytes of its message.
    fn bytes(&self) -> usize;
}

/// What waits for its round.
#[derive(Debug)]
pub(super) struct Rounds<T> {
    state: Lock<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    /// In the order of arrival.
    waiting: Vec<T>,
    running: usize,
}

impl<T> Default for Rounds<T> {
    fn default() -> Self {
        Self { state: Lock::new(State { waiting: Vec::new(), running: 0 }) }
    }
}

/// One of the [`PLACES`], given back when dropped.
struct Place<T> {
    rounds: Arc<Rounds<T>>,
    held: bool,
}

impl<T> Drop for Place<T> {
    fn drop(&mut self) {
        if self.held {
            self.rounds.state().running -= 1;
        }
    }
}

impl<T> Rounds<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock()
    }
}

impl<T: Item> Rounds<T> {
    /// Adds requests; they are worked on by `work`, as tasks of `tasks`, in rounds with whatever else waits.
    pub(super) fn add<F>(
        self: &Arc<Self>,
        items: impl IntoIterator<Item = T>,
        tasks: &TaskTracker,
        work: impl Fn(Vec<T>) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut state = self.state();
        state.waiting.extend(items);
        let places = if state.waiting.len() < FULL { 1 } else { PLACES };
        if state.running < places && !state.waiting.is_empty() {
            state.running += 1;
            drop(state);
            tasks.spawn(run(Place { rounds: self.clone(), held: true }, tasks.clone(), work));
        }
    }
}

impl<T: Item> Place<T> {
    fn waiting(&self) -> usize {
        self.rounds.state().waiting.len()
    }

    /// Waits a moment for as many requests as are expected.
    async fn gather(&self, expected: usize) {
        for _ in 0..LOOKS {
            if self.waiting() >= expected {
                break;
            }
            tokio::task::yield_now().await;
        }
        // Connections that have bytes to read come first: their requests join.
        tokio::task::yield_now().await;
    }

    /// The next round; nothing: none waits, and the place was given back in the same moment.
    fn next(&mut self) -> Option<Vec<T>> {
        let mut state = self.rounds.state();
        if state.waiting.is_empty() {
            state.running -= 1;
            self.held = false;
            return None;
        }
        let mut bytes = 0;
        let joins = |item: &&T| {
            let joins = bytes < ROUND_BYTES;
            bytes += item.bytes();
            joins
        };
        let end = state.waiting.iter().take(ROUND_ITEMS).take_while(joins).count();
        let later = state.waiting.split_off(end);
        Some(std::mem::replace(&mut state.waiting, later))
    }
}

/// Works on round after round, until nobody waits.
async fn run<T: Item, F>(mut place: Place<T>, tasks: TaskTracker, work: impl Fn(Vec<T>) -> F + Send)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut expected = 0;
    loop {
        place.gather(expected).await;
        let Some(items) = place.next() else { return };
        let answered = items.len();
        // One that panics takes only its own requests along: they see that nobody is left to answer them.
        let mut round = Box::pin(AssertUnwindSafe(work(items)).catch_unwind());
        if timeout(HOLD, &mut round).await.is_err() {
            tasks.spawn(round);
            expected = 0;
            continue;
        }
        // Those who were answered, and those who came meanwhile. One alone is not waited for; of many, enough come anyway.
        let asking = answered + place.waiting();
        expected = if (2..=PLACES * FULL).contains(&asking) { asking.min(FULL) } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use tokio::sync::oneshot;
    use tokio::time::sleep;

    struct Asked(oneshot::Sender<()>);

    impl Item for Asked {
        fn bytes(&self) -> usize {
            1
        }
    }

    /// The sizes of all rounds, if so many clients ask so often, each as soon as it was answered.
    async fn sizes(clients: usize, times: usize) -> Vec<usize> {
        let (rounds, tasks) = (Arc::new(Rounds::default()), TaskTracker::new());
        let sizes = Arc::new(Lock::new(Vec::new()));
        let client = || async {
            for _ in 0..times {
                let (asked, answered) = oneshot::channel();
                let noted = sizes.clone();
                rounds.add([Asked(asked)], &tasks, move |items: Vec<Asked>| {
                    noted.lock().push(items.len());
                    async move {
                        sleep(Duration::from_millis(1)).await;
                        items.into_iter().for_each(|Asked(asked)| asked.send(()).unwrap());
                    }
                });
                answered.await.unwrap();
            }
        };
        futures::future::join_all((0..clients).map(|_| client())).await;
        sizes.lock().clone()
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_answered_together_goes_together_again() {
        assert_eq!(sizes(1, 20).await, [1; 20], "one alone does not wait");
        for clients in [2, 8, 48] {
            let sizes = sizes(clients, 20).await;
            assert!(sizes.len() <= 22, "{clients} clients: rounds of {sizes:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_that_takes_long_holds_up_nobody() {
        let (rounds, tasks) = (Arc::new(Rounds::default()), TaskTracker::new());
        let work = |items: Vec<Asked>| async {
            for Asked(asked) in items {
                // Nobody waits for the answer to the one that takes for ever.
                if asked.is_closed() {
                    std::future::pending::<()>().await;
                }
                asked.send(()).unwrap();
            }
        };
        rounds.add([Asked(oneshot::channel().0)], &tasks, work);
        // The clock stands until all tasks wait: then the first round has begun.
        sleep(Duration::from_millis(1)).await;
        let (asked, answered) = oneshot::channel();
        rounds.add([Asked(asked)], &tasks, work);
        answered.await.unwrap();
    }

    #[tokio::test]
    async fn a_round_that_panics_holds_up_nobody() {
        let (rounds, tasks) = (Arc::new(Rounds::default()), TaskTracker::new());
        let work = |items: Vec<Asked>| async {
            for Asked(asked) in items {
                assert!(!asked.is_closed(), "nobody waits for it: that is what this test panics for");
                asked.send(()).unwrap();
            }
        };
        // In rounds of their own, as the first has as many as it takes.
        let lost = (0..ROUND_ITEMS).map(|_| Asked(oneshot::channel().0));
        let (asked, answered) = oneshot::channel();
        rounds.add(lost.chain([Asked(asked)]), &tasks, work);
        answered.await.unwrap();
    }
}
