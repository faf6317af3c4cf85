//! A leader that hears nobody makes way.
//!
//! Raft elects another one when a leader is not heard. One that is heard, and hears no answers (a link that carries one way
//! only), would be followed for ever and could commit nothing. So while no majority answers it is silent, for long
//! enough to be replaced, and speaks up again in between, for others may have come back. (etcd's *check quorum* is the
//! idea; there a leader becomes a follower.)

use std::time::Duration;

use tokio::time::Instant;

/// What a leader makes of how long ago a majority has answered it.
#[derive(Debug)]
pub(super) struct Silence {
    /// It is silent for so long at once: others have been elected by then.
    lasts: Duration,
    /// After so long without answers, and between two silences.
    after: Duration,
    /// Since when it leads, or has spoken up again.
    speaks: Option<Instant>,
    /// Until when it is silent.
    until: Option<Instant>,
}

impl Silence {
    /// Of a peer whose elections take so long at most, and that leads on without answers for so long.
    pub(super) fn new(election: Duration, after: Duration) -> Self {
        Self { lasts: election * 3, after, speaks: None, until: None }
    }

    /// Whether it is to be silent now. `answered`: whether it leads by what it knows, and when a majority has answered last,
    /// if one has.
    pub(super) fn look(&mut self, leads: bool, answered: Option<Instant>) -> bool {
        let now = Instant::now();
        if !leads {
            (self.speaks, self.until) = (None, None);
            return false;
        }
        if let Some(until) = self.until {
            if now < until {
                return true;
            }
            (self.speaks, self.until) = (Some(now), None);
        }
        let spoke = *self.speaks.get_or_insert(now);
        let heard = answered.map_or(spoke, |answered| answered.max(spoke));
        if now.saturating_duration_since(heard) < self.after {
            return false;
        }
        self.until = Some(now + self.lasts);
        true
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn it_is_silent_when_nobody_answers_and_speaks_up_in_between() {
        let mut silence = Silence::new(SECOND / 2, 2 * SECOND);
        let began = Instant::now();
        let mut silent = Vec::new();
        for tenth in 0..100 {
            if silence.look(true, Some(began)) {
                silent.push(tenth);
            }
            advance(SECOND / 10).await;
        }
        // Two seconds of talking, one and a half of silence.
        let wanted: Vec<_> = [20..35, 55..70, 90..100].into_iter().flatten().collect();
        assert_eq!(silent, wanted);
        // An answer, or the end of its term, ends it.
        advance(2 * SECOND).await;
        assert!(!silence.look(true, Some(Instant::now())));
        advance(2 * SECOND).await;
        assert!(silence.look(true, Some(began)) && !silence.look(false, None) && !silence.look(true, None));
    }
}
