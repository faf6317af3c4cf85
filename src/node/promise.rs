//! What a node has promised its leader: to let in no other one for a while.
//!
//! A leader that was answered speaks from its own knowledge for a moment (`cluster::lease`), and must not be wrong
//! meanwhile. So the first word of another leader process waits here until that is over. While one waits the leader of
//! before gets no new promise, as it would else never end.

use std::sync::Arc;

use tokio::time::{Instant, sleep_until};

use crate::lock::Lock;
use crate::seeded::{self, Bug};
use crate::types::LEASE;

/// The promise of one node.
#[derive(Debug)]
pub(super) struct Promise(Lock<State>);

#[derive(Debug)]
struct State {
    /// To which leader process, and until when.
    to: Option<(u64, Instant)>,
    /// Leader processes that wait for the end of it, or are being let in.
    waiting: Vec<u64>,
}

/// The turn of a leader process that is to be let in: until this is dropped, nobody else is promised anything.
#[derive(Debug)]
pub(super) struct Turn {
    promise: Arc<Promise>,
    run: u64,
}

impl Turn {
    /// It was let in, and is promised the same.
    pub(super) fn promise(&self) {
        self.promise.state().to = Some((self.run, Instant::now() + LEASE));
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.promise.state();
        if let Some(at) = state.waiting.iter().position(|run| *run == self.run) {
            state.waiting.swap_remove(at);
        }
    }
}

impl Promise {
    /// Of a node that starts: what it promised in its life before it does not know, but whom it served last.
    pub(super) fn of_before(served: Option<u64>) -> Self {
        let to = served.map(|run| (run, Instant::now() + LEASE));
        let to = to.filter(|_| !seeded::active(Bug::PromiseForgotten));
        Self(Lock::new(State { to, waiting: Vec::new() }))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock()
    }

    /// Promises once more; `false`: another leader waits.
    pub(super) fn renew(&self, run: u64) -> bool {
        let mut state = self.state();
        if state.waiting.iter().any(|other| *other != run) {
            return false;
        }
        state.to = Some((run, Instant::now() + LEASE));
        true
    }

    /// The leader gives the promise back.
    pub(super) fn release(&self, run: u64) {
        let mut state = self.state();
        if state.to.is_some_and(|(to, _)| to == run) {
            state.to = None;
        }
    }

    /// Until when another leader process has to wait.
    fn held_until(&self, run: u64) -> Option<Instant> {
        let to = self.state().to.filter(|(to, until)| *to != run && *until > Instant::now());
        to.map(|(_, until)| until).filter(|_| !seeded::active(Bug::LeaderLetInAtOnce))
    }

    /// Waits until this leader process may be let in.
    pub(super) async fn turn_of(self: &Arc<Self>, run: u64) -> Turn {
        // First of all: what is promised from here on is promised to nobody else.
        self.state().waiting.push(run);
        let turn = Turn { promise: self.clone(), run };
        while let Some(until) = self.held_until(run) {
            sleep_until(until).await;
        }
        turn
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn waits(promise: &Arc<Promise>, run: u64) -> Duration {
        let began = Instant::now();
        let _turn = promise.turn_of(run).await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn another_leader_waits_for_the_end_of_a_promise() {
        let promise = Arc::new(Promise::of_before(None));
        assert_eq!(waits(&promise, 2).await, Duration::ZERO, "nobody was promised anything");
        assert!(promise.renew(1));
        assert_eq!(waits(&promise, 1).await, Duration::ZERO, "it is the same one");
        assert!(waits(&promise, 2).await >= LEASE);
        assert!(promise.renew(1));
        promise.release(2);
        assert!(waits(&promise, 2).await >= LEASE, "only the one to whom it was made gives it back");
        assert!(promise.renew(1));
        promise.release(1);
        assert_eq!(waits(&promise, 2).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_goes_on_does_not_keep_another_out_for_ever() {
        let promise = Arc::new(Promise::of_before(None));
        assert!(promise.renew(1));
        let other = tokio::spawn({
            let promise = promise.clone();
            async move { waits(&promise, 2).await }
        });
        tokio::time::sleep(LEASE / 2).await;
        assert!(!promise.renew(1), "another one waits");
        assert!(other.await.unwrap() >= LEASE);
        // One that has gone away while it waited is not waited for.
        assert!(promise.renew(1));
        assert!(tokio::time::timeout(LEASE / 2, promise.turn_of(2)).await.is_err());
        assert!(promise.renew(1));
        // Nor does the one before get another promise while the next one is let in.
        let turn = promise.turn_of(2);
        tokio::pin!(turn);
        let turn = turn.await;
        assert!(!promise.renew(1));
        turn.promise();
        drop(turn);
        assert!(waits(&promise, 1).await >= LEASE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_starts_keeps_what_it_may_have_promised() {
        let promise = Arc::new(Promise::of_before(Some(1)));
        assert_eq!(waits(&promise, 1).await, Duration::ZERO);
        assert!(waits(&promise, 2).await >= LEASE);
    }
}
