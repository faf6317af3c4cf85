//! How a process ends: asked to, or because something it cannot do without has failed.

use std::future::Future;
use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

/// Shared by all tasks of a role.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    token: CancellationToken,
    failure: Arc<OnceLock<String>>,
}

impl Stop {
    /// Nothing has ended yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// That of a part, which ends with the whole, and may end by itself.
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token(), failure: Arc::default() }
    }

    /// Asks everything to end.
    pub fn request(&self) {
        self.token.cancel();
    }

    /// Ends everything, because of this. The first reason counts.
    pub fn fail(&self, reason: impl Into<String>) {
        let reason = reason.into();
        tracing::debug!("stopping: {reason}");
        let _ = self.failure.set(reason);
        self.token.cancel();
    }

    /// Waits until the end was asked for.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// Waits for this, unless the end is asked for before it comes.
    pub async fn unless<T>(&self, what: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            value = what => Some(value),
            () = self.requested() => None,
        }
    }

    /// Whether the end was asked for.
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// The token itself, for what takes one.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Why it had to end, if it had to.
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// How it ended.
    ///
    /// # Errors
    /// Why it had to.
    pub fn ended(&self) -> anyhow::Result<()> {
        self.failure().map_or(Ok(()), |reason| Err(anyhow::anyhow!("{reason}")))
    }

    /// Wraps a loop that must not end by itself: if it does, or panics, everything ends.
    pub fn vital<F: Future<Output = ()>>(&self, name: &'static str, work: F) -> impl Future<Output = ()> + use<F> {
        let guard = Vital { stop: self.clone(), name, may_go: false };
        async move {
            let _guard = guard;
            work.await;
        }
    }

    /// Wraps work that ends when nobody needs it any more, and must not end otherwise: if it panics, everything ends.
    pub fn needed<F: Future<Output = ()>>(&self, name: &'static str, work: F) -> impl Future<Output = ()> + use<F> {
        let guard = Vital { stop: self.clone(), name, may_go: false };
        async move {
            let mut guard = guard;
            work.await;
            guard.may_go = true;
        }
    }
}

struct Vital {
    stop: Stop,
    name: &'static str,
    may_go: bool,
}

impl Drop for Vital {
    fn drop(&mut self) {
        if !self.may_go && !self.stop.is_requested() {
            self.stop.fail(format!(
                "the {} task ended unasked; this is a bug: please report it with the lines above",
                self.name
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_cannot_be_done_without_ends_everything_with_it() {
        let (vital, needed, done) = (Stop::new(), Stop::new(), Stop::new());
        vital.vital("sweep", async {}).await;
        done.needed("journal", async {}).await;
        let died = tokio::spawn(needed.needed("journal", async { panic!("on purpose") })).await;
        assert!(died.is_err() && done.failure().is_none() && !done.is_requested());
        assert!(vital.failure().is_some_and(|why| why.contains("the sweep task ended unasked")));
        assert!(needed.failure().is_some_and(|why| why.contains("the journal task ended unasked")));
    }
}
