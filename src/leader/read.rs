//! Reads of a batch of messages from their holders, until each is answered.
//!
//! A holder that fails or is late is passed over for the next. A copy is
//! returned only if it is the committed version and matches its checksum.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use smallvec::SmallVec;
use tokio::time::{Instant, timeout, timeout_at};

use super::coordinator::Coordinator;
use crate::cluster::Located;
use crate::error::{Refusal, name_nodes};
use crate::protocol::Reply;
use crate::types::{CopyRecord, MessageId, NodeId, Payload, Version};
use crate::wire::family::{self, CopyStatus};

/// A holder that takes longer is passed over, if there is another one.
const PATIENCE: Duration = Duration::from_millis(300);

/// A GET that is not answered by then ends as UNAVAILABLE.
const DEADLINE: Duration = Duration::from_secs(5);

/// How long a GET waits for a version that is being completed.
const COMPLETION: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Get {
    at: usize,
    id: MessageId,
    /// The version that the holders below were asked for.
    version: Version,
    /// Holders that were asked, and whether they surely have no intact copy.
    tried: SmallVec<[(NodeId, bool); 7]>,
}

/// A step on the way of one GET.
enum Step {
    Answer(Reply),
    /// Ask this node; there are others to ask after it.
    Ask {
        node: NodeId,
        record: CopyRecord,
        last: bool,
    },
    /// Nothing can be said now, and why.
    Wait(Refusal),
}

/// What a holder said to one GET.
enum Said {
    Here(Payload),
    Bad,
    Silent,
}

impl Coordinator {
    pub(super) async fn read_all(self: &Arc<Self>, gets: Vec<(usize, MessageId)>) -> Vec<(usize, Reply)> {
        let began = Instant::now();
        let turn = self.turn();
        let mut replies = Vec::with_capacity(gets.len());
        let start = |(at, id)| Get { at, id, version: Version::FOREIGN, tried: SmallVec::new() };
        let mut open: Vec<Get> = gets.into_iter().map(start).collect();
        let mut changes = self.changes();
        while !open.is_empty() {
            let mut asked: BTreeMap<(NodeId, bool), Vec<(Get, CopyRecord)>> = BTreeMap::new();
            let mut waiting = Vec::new();
            {
                let cluster = self.cluster();
                for mut get in open.drain(..) {
                    let located = cluster.locate(&get.id, turn);
                    match step(&mut get, located) {
                        Step::Answer(reply) => replies.push((get.at, reply)),
                        Step::Ask { node, record, last } => asked.entry((node, last)).or_default().push((get, record)),
                        Step::Wait(refusal) => waiting.push((get, refusal)),
                    }
                }
            }
            if !asked.is_empty() {
                let answered = join_all(asked.into_iter().map(|((node, last), gets)| self.ask(node, last, gets))).await;
                for (get, said) in answered.into_iter().flatten() {
                    match said {
                        Ok(payload) => replies.push((get.at, Reply::Value(payload))),
                        Err(()) => open.push(get),
                    }
                }
                open.extend(waiting.into_iter().map(|(get, _)| get));
            } else if !waiting.is_empty() {
                let until = self.joining_until().max(began + COMPLETION);
                if timeout_at(until, changes.next()).await.is_ok() {
                    open.extend(waiting.into_iter().map(|(mut get, _)| {
                        get.tried.clear();
                        get
                    }));
                } else {
                    replies.extend(waiting.into_iter().map(|(get, refusal)| (get.at, Reply::Refused(refusal))));
                }
            }
        }
        replies
    }

    /// Asks one node for some messages; gives each back with its payload, or with this node noted as tried.
    async fn ask(&self, node: NodeId, last: bool, gets: Vec<(Get, CopyRecord)>) -> Vec<(Get, Result<Payload, ()>)> {
        let keys: Vec<_> = gets.iter().map(|(get, record)| (get.id.clone(), *record)).collect();
        let patience = if last { DEADLINE } else { PATIENCE };
        let answer = timeout(patience, self.links.fetch(node, &keys)).await.ok().and_then(Result::ok);
        let mut said = read_answer(answer, gets.len()).into_iter();
        let mut bad = Vec::new();
        let each = gets.into_iter().map(|(mut get, record)| {
            let said = said.next().unwrap_or(Said::Silent);
            let surely_bad = match said {
                Said::Here(payload) if record.matches(&payload) => return (get, Ok(payload)),
                Said::Here(_) | Said::Bad => {
                    bad.push((get.id.clone(), record.version));
                    true
                }
                Said::Silent => false,
            };
            get.tried.push((node, surely_bad));
            (get, Err(()))
        });
        let answered = each.collect();
        if !bad.is_empty() {
            let mut cluster = self.cluster();
            for (id, version) in bad {
                // Overwritten, deleted or moved meanwhile: that copy is nobody's any more.
                if cluster.is_holder(&id, version, node) {
                    tracing::warn!("node {node} has no intact copy of {id:?} any more");
                    cluster.note_copy(&id, version, node, false);
                }
            }
        }
        answered
    }
}

/// What to do next for a GET, from where its message is said to be.
fn step(get: &mut Get, located: Located) -> Step {
    let (record, candidates, missed) = match located {
        Located::NotFound => return Step::Answer(Reply::Refused(Refusal::NotFound)),
        Located::Hidden(reason) => return Step::Wait(Refusal::Unavailable(format!("{reason}; try again in a moment"))),
        Located::Here { record, candidates, missed } => (record, candidates, missed),
    };
    if get.version != record.version {
        get.version = record.version;
        get.tried.clear();
    }
    let mut fresh = candidates.iter().copied().filter(|node| get.tried.iter().all(|(tried, _)| tried != node));
    if let Some(node) = fresh.next() {
        return Step::Ask { node, record, last: fresh.next().is_none() };
    }
    let silent = get.tried.iter().filter(|(_, bad)| !bad).map(|(node, _)| *node);
    let missing: Vec<NodeId> = missed.into_iter().chain(silent).collect();
    if missing.is_empty() {
        let text = "every holder was asked, and none has an intact copy any more; write the message again";
        return Step::Answer(Reply::Refused(Refusal::Lost(text.to_owned())));
    }
    let text = format!("its other copies are on {}, which cannot be asked now; start them again", name_nodes(&missing));
    Step::Wait(Refusal::Unavailable(text))
}

fn read_answer(answer: Option<family::ReadResult>, count: usize) -> Vec<Said> {
    let Some(result) = answer else { return Vec::new() };
    let mut bodies = result.bodies.into_iter();
    let said = result.statuses.into_iter().take(count).map(|status| match CopyStatus::try_from(status) {
        Ok(CopyStatus::CopyStored) => bodies.next().map_or(Said::Silent, Said::Here),
        Ok(CopyStatus::CopyAbsent | CopyStatus::CopyDamaged) => Said::Bad,
        _ => Said::Silent,
    });
    said.collect()
}
