//! Copies that are too old or too many are put away.

use std::collections::{BTreeMap, HashSet};

use tokio::time::timeout;

use super::repair::{ANSWER, Repairer};
use crate::cluster::repair::Trim;
use crate::leader::key_locks::{Entry, KeyGuard};
use crate::seeded::{self, Bug};
use crate::types::{MessageId, NodeId};
use crate::wire::Settle;

impl Repairer {
    /// Has nodes put away copies that are too old or too many, where enough others have proved that they have theirs.
    pub(super) async fn trim(&mut self, ids: Vec<MessageId>) {
        let mut trims: Vec<(MessageId, Trim, KeyGuard)> = Vec::new();
        for id in ids {
            let Entry::Entered(guard) = self.core.key_locks.enter(&id) else {
                self.skip.insert(id);
                continue;
            };
            let trim = self.core.cluster().trim(&id);
            match trim {
                Some(trim) => trims.push((id, trim, guard)),
                None => drop(self.skip.insert(id)),
            }
        }
        let checks = trims.iter().enumerate().flat_map(|(i, (id, trim, _))| {
            trim.committed
                .into_iter()
                .flat_map(move |record| trim.check.iter().map(move |&node| (i, node, id.clone(), record)))
        });
        let checks: Vec<_> = checks.collect();
        let failed: HashSet<usize> =
            self.check(checks).await.into_iter().filter(|(_, intact)| !intact).map(|(i, _)| i).collect();
        let mut settles: BTreeMap<NodeId, Vec<Settle>> = BTreeMap::new();
        let mut guards = Vec::with_capacity(trims.len());
        for (i, (id, trim, guard)) in trims.into_iter().enumerate() {
            guards.push(guard);
            if failed.contains(&i) && !seeded::active(Bug::TrimmedUnchecked) {
                self.skip.insert(id);
                continue;
            }
            for (node, version, keep) in trim.settles {
                let settle = Settle { id: id.clone(), version, keep, trash: true, lasting: false };
                settles.entry(node).or_default().push(settle);
            }
            self.core.cluster().trimmed(&id, &trim.copies);
        }
        let told = settles.into_iter().map(|(node, settles)| {
            *self.told.entry(node).or_default() += settles.len() as u64;
            (node, self.core.links.settle(node, &settles, false), settles)
        });
        let told: Vec<_> = told.collect();
        // On their way before the next write of these ids: its copy would be staged beside what then goes, and nobody
        // would tell the node to publish it.
        drop(guards);
        for (node, answer, settles) in told {
            let done = timeout(ANSWER, answer).await.ok().and_then(Result::ok);
            self.skip.extend(self.core.note_undone(node, &settles, &done.unwrap_or_default()));
        }
    }
}
