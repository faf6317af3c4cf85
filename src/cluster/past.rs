//! What follows from whom a node has served: whether it joins, or shows that the leader's log is an old one.
//!
//! A copy of the register that was started elsewhere has epochs and commits of its own. So only a member's word counts, and
//! none costs a leader that has served its life, or the cluster its epochs.

use super::knowledge::Trust;
use crate::types::{Epoch, Leadership, Version, is_beyond_reason};

/// A leader without a log takes up a cluster's next epoch up to here, so that nobody who comes first uses the epochs up.
pub const LAST_EPOCH_TAKEN_UP: Epoch = Epoch(u32::MAX / 2);

/// Whom a node has served, as it says itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Past {
    /// The highest epoch that it has seen.
    pub epoch: Epoch,
    /// The leader process that had it.
    pub run: u64,
    /// The newest version that a leader called committed.
    pub committed: Version,
}

/// Who says it, and to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hearing {
    /// The leader's epoch.
    pub leadership: Leadership,
    /// The leader process that had the node's epoch, if the log knows.
    pub run: Option<u64>,
    /// The leader's log names the node, under this uuid.
    pub member: bool,
    /// What the log is worth.
    pub trust: Trust,
    /// Clients were answered already.
    pub served: bool,
}

/// What to make of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// It joins; what it calls committed is heard if this is set.
    Joins {
        /// It is a member's word.
        heard: bool,
    },
    /// It cannot be true.
    Nonsense,
    /// It has served a leader that this one knows nothing of, and is no member: members have to say so.
    Stranger,
    /// It has, and is a member, while this one has served clients: one of the two folders was copied or led elsewhere.
    Elsewhere,
    /// The same before anybody was served: this leader's log is an old one.
    OldLog,
}

impl Past {
    /// Whether this can be the first that a leader without a log hears.
    pub fn can_found(self) -> bool {
        self.epoch <= LAST_EPOCH_TAKEN_UP && self.committed.epoch() <= self.epoch
    }

    /// What a leader makes of it.
    pub fn weigh(self, hearing: Hearing) -> Finding {
        let Hearing { leadership, run, member, trust, served } = hearing;
        let later = self.epoch > leadership.epoch || run.is_some_and(|run| run != self.run);
        if self.committed.epoch() > self.epoch || is_beyond_reason(self.epoch, leadership.epoch) {
            return Finding::Nonsense;
        }
        // Without a log everything is heard from nodes.
        let heard = member || trust == Trust::Nothing;
        match (later, heard, served) {
            (false, heard, _) => Finding::Joins { heard },
            (true, false, _) => Finding::Stranger,
            (true, true, true) => Finding::Elsewhere,
            (true, true, false) => Finding::OldLog,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{MOST_EPOCHS_AHEAD, Uuid};

    fn past(epoch: u32, run: u64, committed: u32) -> Past {
        Past { epoch: Epoch(epoch), run, committed: Version::new(Epoch(committed), 1) }
    }

    #[test]
    fn who_is_believed_and_what_follows() {
        use Finding::{Elsewhere, Joins, Nonsense, OldLog, Stranger};
        use Trust::{Nothing, Whole};
        let leadership = Leadership { cluster_id: Uuid([1; 16]), epoch: Epoch(7) };
        let most = 7 + MOST_EPOCHS_AHEAD;
        // (what it says, the run that the log knows, a member, trust, served, what follows)
        let table = [
            (past(7, 3, 7), Some(3), true, Whole, true, Joins { heard: true }),
            (past(2, 3, 2), None, true, Whole, true, Joins { heard: true }),
            (past(7, 3, 7), Some(3), false, Whole, true, Joins { heard: false }),
            (past(7, 3, 7), Some(3), false, Nothing, false, Joins { heard: true }),
            // A later epoch, or another leader's of the same number.
            (past(8, 3, 7), None, true, Whole, false, OldLog),
            (past(8, 3, 7), None, true, Whole, true, Elsewhere),
            (past(6, 3, 1), Some(4), true, Whole, true, Elsewhere),
            (past(6, 3, 1), Some(4), true, Whole, false, OldLog),
            (past(8, 3, 7), None, false, Whole, false, Stranger),
            (past(8, 3, 7), None, false, Nothing, false, OldLog),
            // Beyond reason.
            (past(most, 3, 7), None, true, Whole, false, OldLog),
            (past(most + 1, 3, 7), None, true, Nothing, false, Nonsense),
            (past(u32::MAX, 3, 7), None, true, Whole, true, Nonsense),
            (past(7, 3, 8), Some(3), true, Nothing, false, Nonsense),
            (past(7, 3, 1 << 31), Some(3), true, Whole, true, Nonsense),
        ];
        for (past, run, member, trust, served, finding) in table {
            let hearing = Hearing { leadership, run, member, trust, served };
            assert_eq!(past.weigh(hearing), finding, "{past:?} {hearing:?}");
        }
    }

    #[test]
    fn a_cluster_is_taken_up_where_it_can_go_on() {
        assert!(past(0, 0, 0).can_found() && past(LAST_EPOCH_TAKEN_UP.0, 1, 7).can_found());
        assert!(!past(LAST_EPOCH_TAKEN_UP.0 + 1, 1, 7).can_found() && !past(3, 1, 4).can_found());
    }
}
