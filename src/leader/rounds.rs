//! Requests of all connections, gathered into rounds.
//!
//! What is asked while the rounds before are under way becomes the next round, so that rounds grow with load and
//! a request alone does not wait: the rule of group commit (DeWitt et al., "Implementation Techniques for Main
//! Memory Database Systems", 1984). The hand-overs between tasks, lanes and disks are then paid once a round,
//! not once a client. A round that takes long stops counting, so that what waits for a slow node holds up nobody else.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::task::TaskTracker;

/// Rounds that count at once: one on its way to nodes while the other is written to the log.
const PLACES: usize = 2;

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
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    /// In the order of arrival.
    waiting: Vec<T>,
    running: usize,
}

impl<T> Default for Rounds<T> {
    fn default() -> Self {
        Self { state: Mutex::new(State { waiting: Vec::new(), running: 0 }) }
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
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        if state.running < PLACES && !state.waiting.is_empty() {
            state.running += 1;
            drop(state);
            tasks.spawn(run(Place { rounds: self.clone(), held: true }, tasks.clone(), work));
        }
    }
}

impl<T: Item> Place<T> {
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
    loop {
        // Connections that have bytes to read come first: their requests join.
        tokio::task::yield_now().await;
        let Some(items) = place.next() else { return };
        let mut round = Box::pin(work(items));
        if timeout(HOLD, &mut round).await.is_err() {
            tasks.spawn(round);
        }
    }
}
