//! Whom a commit concerns, and what each is told: decided from the commit and what stood there before, by nothing else.

use smallvec::SmallVec;

use super::mapping::{Commit, Committed};
use crate::types::NodeId;

/// What is known of the nodes that a write went to, beside its commit.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked<'a> {
    /// They may hold a copy, and the commit does not need them.
    pub excess: &'a [NodeId],
    /// For a completion: they had this version before.
    pub sources: &'a [NodeId],
    /// They keep their copy under a hidden name until they are told of the commit.
    pub unpublished: &'a [NodeId],
    /// For a repair: holders that stay, and were not asked.
    pub also: &'a [NodeId],
    /// For a repair: those that go let go of their copies, as those that stay were read and checked.
    pub trims: bool,
}

/// What follows from a commit for nodes and for the listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notices {
    /// Who is told, in this order: to keep the version (and publish it, if it is hidden) or to let go of it.
    pub told: SmallVec<[(NodeId, bool); 8]>,
    /// Their copies are of this version and too many, and nobody has read those that stay: they are looked at once more.
    pub excess: SmallVec<[NodeId; 4]>,
    /// Their copies were just made.
    pub made: SmallVec<[NodeId; 4]>,
    /// Who holds the message has changed, or whether there is one.
    pub is_listed_anew: bool,
}

impl Notices {
    /// What follows from this commit.
    pub fn of(commit: &Commit, did: &Committed, asked: &Asked<'_>) -> Self {
        let mut notices = Self::default();
        let stays = |node: &NodeId| commit.holders.contains(node);
        asked.excess.iter().for_each(|&node| notices.tell(node, false));
        asked.sources.iter().for_each(|node| notices.tell(*node, stays(node)));
        let deleted = commit.record.is_tombstone();
        match did {
            Committed::Superseded => return notices,
            Committed::New => notices.is_listed_anew = !deleted,
            Committed::Replaced { record, holders } => {
                // Whoever stays a holder of the same version has nothing to publish.
                let same = record.version == commit.record.version;
                let told = |node: &&NodeId| !same || asked.trims && !stays(node);
                holders.iter().filter(told).for_each(|node| notices.tell(*node, stays(node)));
                if same && !asked.trims {
                    notices.excess.extend(holders.iter().filter(|node| !stays(node)).copied());
                }
                if same {
                    let stayed = |node: &&NodeId| asked.sources.contains(node) || asked.also.contains(node);
                    notices.made.extend(commit.holders.iter().filter(|node| !stayed(node)).copied());
                }
                notices.is_listed_anew = *holders != commit.holders || record.is_tombstone() != deleted;
            }
        }
        // Also what lies beside a copy that is on no record: the node says best whether it has to be told.
        asked.unpublished.iter().filter(|node| stays(node)).for_each(|&node| notices.tell(node, true));
        if deleted {
            // The tombstone has its place beside what it deletes, which goes only now.
            commit.holders.iter().for_each(|&node| notices.tell(node, true));
        }
        notices
    }

    fn tell(&mut self, node: NodeId, keep: bool) {
        if !self.told.contains(&(node, keep)) {
            self.told.push((node, keep));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{CopyRecord, Epoch, Holders, Version};

    fn nodes(ids: &[u32]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn record(sequence: u32) -> CopyRecord {
        CopyRecord { version: Version::new(Epoch(1), sequence), length: 10, crc: 7, expires: None }
    }

    fn tombstone(sequence: u32) -> CopyRecord {
        CopyRecord::tombstone(Version::new(Epoch(1), sequence))
    }

    fn before(record: CopyRecord, holders: &[u32]) -> Committed {
        Committed::Replaced { record, holders: holders.iter().copied().map(NodeId).collect() }
    }

    /// `+1 -2`: node 1 keeps it, node 2 lets go of it.
    fn words(told: &[(NodeId, bool)]) -> String {
        let one = |(node, keep): &(NodeId, bool)| format!("{}{node}", if *keep { '+' } else { '-' });
        told.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn who_is_told_what() {
        let asked = Asked::default();
        let (one, two, three) = (nodes(&[1]), nodes(&[2]), nodes(&[3]));
        let trims = Asked { also: &one, trims: true, ..asked };
        // (what, the commit, on, what it did, asked, told, looked at once more, made, listed anew)
        let table = [
            ("a new message", record(5), &[1, 2][..], Committed::New, asked, "", "", "", true),
            (
                "with a copy too many",
                record(5),
                &[1, 2],
                Committed::New,
                Asked { excess: &three, ..asked },
                "-3",
                "",
                "",
                true,
            ),
            (
                "written over where it was",
                record(5),
                &[1, 2],
                before(record(4), &[1, 2]),
                asked,
                "+1 +2",
                "",
                "",
                false,
            ),
            ("written over elsewhere", record(5), &[2, 3], before(record(4), &[1, 2]), asked, "-1 +2", "", "", true),
            (
                "hidden until then",
                record(5),
                &[2, 3],
                before(record(4), &[1, 2]),
                Asked { unpublished: &three, ..asked },
                "-1 +2 +3",
                "",
                "",
                true,
            ),
            ("deleted", tombstone(5), &[1, 2], before(record(4), &[1, 2]), asked, "+1 +2", "", "", true),
            ("deleted, where nothing was", tombstone(5), &[1, 2], Committed::New, asked, "+1 +2", "", "", false),
            (
                "deleted once more",
                tombstone(5),
                &[2, 3],
                before(tombstone(4), &[1, 2]),
                asked,
                "-1 +2 +3",
                "",
                "",
                true,
            ),
            (
                "written after a deletion",
                record(5),
                &[1, 2],
                before(tombstone(4), &[1, 2]),
                asked,
                "+1 +2",
                "",
                "",
                true,
            ),
            (
                "something newer came first",
                record(5),
                &[1, 2],
                Committed::Superseded,
                Asked { excess: &three, sources: &one, ..asked },
                "-3 +1",
                "",
                "",
                false,
            ),
            ("completed", record(5), &[1, 2], Committed::New, Asked { sources: &one, ..asked }, "+1", "", "", true),
            (
                "completed, and its source is not needed",
                record(5),
                &[1, 2],
                Committed::New,
                Asked { sources: &three, ..asked },
                "-3",
                "",
                "",
                true,
            ),
            (
                "copied again: node 2 is lost, node 3 has it",
                record(5),
                &[1, 3],
                before(record(5), &[1, 2]),
                Asked { sources: &one, ..asked },
                "+1",
                "2",
                "3",
                true,
            ),
            (
                "the same, with a copy that stays and was not asked",
                record(5),
                &[1, 3],
                before(record(5), &[1, 2]),
                Asked { also: &one, ..asked },
                "",
                "2",
                "3",
                true,
            ),
            (
                "one too many is trimmed, the others were read",
                record(5),
                &[1],
                before(record(5), &[1, 2]),
                trims,
                "-2",
                "",
                "",
                true,
            ),
            (
                "the same holders again",
                record(5),
                &[1, 2],
                before(record(5), &[1, 2]),
                Asked { sources: &one, also: &two, ..asked },
                "+1",
                "",
                "",
                false,
            ),
        ];
        for (what, record, on, did, asked, told, excess, made, listed) in table {
            let id = "x".parse().unwrap();
            let holders: Holders = on.iter().copied().map(NodeId).collect();
            let found = Notices::of(&Commit { id, record, holders }, &did, &asked);
            let names = |nodes: &[NodeId]| nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(" ");
            let found = (words(&found.told), names(&found.excess), names(&found.made), found.is_listed_anew);
            assert_eq!(found, (told.to_owned(), excess.to_owned(), made.to_owned(), listed), "{what}");
        }
    }
}
