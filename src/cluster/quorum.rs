//! Counting the answers to one replicated write, apart from asking for them.

use smallvec::SmallVec;

use crate::seeded::{self, Bug};
use crate::types::{Holders, MAX_TOLERANCE, NodeId};

/// How one node answered a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It keeps the copy.
    Stored,
    /// It surely keeps no copy.
    Refused,
    /// Nobody knows: the link broke or time ran out.
    Silent,
}

/// Where a write stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Enough answers are still to come.
    Waiting,
    /// As many nodes as needed keep the copy.
    Reached,
    /// More nodes have to be asked: this many.
    Short(usize),
}

/// The answers to one write so far.
#[derive(Debug, Clone)]
pub struct Tally {
    need: usize,
    stored: SmallVec<[NodeId; MAX_TOLERANCE]>,
    asked: SmallVec<[NodeId; MAX_TOLERANCE]>,
    refused: SmallVec<[NodeId; MAX_TOLERANCE]>,
    silent: bool,
}

impl Tally {
    /// A write that needs `need` copies and was sent to `targets`.
    pub fn new(need: usize, targets: &[NodeId]) -> Self {
        Self { need, stored: SmallVec::new(), asked: targets.into(), refused: SmallVec::new(), silent: false }
    }

    /// One more node was asked.
    pub fn ask(&mut self, node: NodeId) {
        self.asked.push(node);
    }

    /// `node` answered. An answer of a node that was not asked, or a second one, changes nothing.
    pub fn record(&mut self, node: NodeId, answer: Answer) -> Verdict {
        if let Some(at) = self.asked.iter().position(|&asked| asked == node) {
            self.asked.swap_remove(at);
            match answer {
                Answer::Stored => self.stored.push(node),
                Answer::Refused => self.refused.push(node),
                Answer::Silent => self.silent = true,
            }
        }
        self.verdict()
    }

    /// Where the write stands now.
    pub fn verdict(&self) -> Verdict {
        let possible = self.stored.len() + self.asked.len();
        if self.stored.len() >= if seeded::active(Bug::OneCopyIsEnough) { 1 } else { self.need } {
            Verdict::Reached
        } else if possible >= self.need {
            Verdict::Waiting
        } else {
            Verdict::Short(self.need - possible)
        }
    }

    /// The nodes that keep it: the first `need` that said so, ascending.
    pub fn holders(&self) -> Holders {
        let mut holders: Holders = self.stored.iter().copied().take(self.need).collect();
        holders.sort_unstable();
        holders
    }

    /// How many nodes said that they keep it.
    pub fn stored(&self) -> usize {
        self.stored.len()
    }

    /// Nodes that may keep a copy beyond the holders: stored too many, or not answered.
    pub fn excess(&self) -> impl Iterator<Item = NodeId> {
        self.stored.iter().skip(self.need).chain(&self.asked).copied()
    }

    /// Whether any node that was asked has not answered.
    pub fn is_awaited(&self) -> bool {
        !self.asked.is_empty()
    }

    /// The nodes that surely keep nothing of it.
    pub fn refused(&self) -> &[NodeId] {
        &self.refused
    }

    /// Whether every node asked so far has surely kept nothing.
    pub fn surely_nowhere(&self) -> bool {
        self.stored.is_empty() && self.asked.is_empty() && !self.silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(id: u32) -> NodeId {
        NodeId(id)
    }

    #[test]
    fn answers_are_counted() {
        use Answer::{Refused, Silent, Stored};
        // (need, asked, answers, verdict, holders, surely nowhere)
        type Row = (usize, &'static [u32], &'static [(u32, Answer)], Verdict, &'static [u32], bool);
        let table: [Row; 8] = [
            (2, &[1, 2], &[], Verdict::Waiting, &[], false),
            (2, &[2, 1], &[(2, Stored), (1, Stored)], Verdict::Reached, &[1, 2], false),
            (2, &[1, 2], &[(1, Stored), (1, Stored)], Verdict::Waiting, &[1], false),
            (2, &[1, 2], &[(1, Stored), (2, Silent)], Verdict::Short(1), &[1], false),
            (2, &[1, 2], &[(1, Refused), (2, Refused)], Verdict::Short(2), &[], true),
            (2, &[1, 2], &[(1, Refused), (2, Silent)], Verdict::Short(2), &[], false),
            (1, &[1, 2], &[(2, Stored)], Verdict::Reached, &[2], false),
            (2, &[1, 2], &[(9, Stored)], Verdict::Waiting, &[], false),
        ];
        for (need, asked, answers, verdict, holders, nowhere) in table {
            let asked: Vec<NodeId> = asked.iter().copied().map(n).collect();
            let mut tally = Tally::new(need, &asked);
            for &(node, answer) in answers {
                tally.record(n(node), answer);
            }
            assert_eq!(tally.verdict(), verdict, "{need} {asked:?} {answers:?}");
            assert_eq!(tally.holders().to_vec(), holders.iter().copied().map(n).collect::<Vec<_>>());
            assert_eq!(tally.surely_nowhere(), nowhere, "{need} {asked:?} {answers:?}");
        }
    }

    #[test]
    fn who_was_asked_in_vain_is_excess() {
        let mut tally = Tally::new(1, &[n(1), n(2)]);
        tally.ask(n(3));
        tally.record(n(3), Answer::Stored);
        tally.record(n(1), Answer::Stored);
        assert_eq!(tally.holders().to_vec(), [n(3)]);
        assert_eq!(tally.excess().collect::<Vec<_>>(), [n(1), n(2)]);
    }
}
