//! GETs that take a node: in rounds with those of other connections, each until it is answered.
//!
//! A holder that fails or is late is passed over for the next. A copy is
//! returned only if it is the committed version and matches its checksum.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use smallvec::SmallVec;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::batches::batches;
use super::coordinator::{Changes, Coordinator};
use super::rounds::Item;
use super::write::Asker;
use crate::cluster::Located;
use crate::error::{Refusal, name_nodes};
use crate::protocol::Reply;
use crate::types::{CopyRecord, MessageId, NodeId, Payload, Version};
use crate::wire::family::{self, CopyStatus};

/// A holder that takes longer is passed over, if there is another one.
const PATIENCE: Duration = Duration::from_millis(300);

/// A GET that is not answered by then ends as UNAVAILABLE.
const DEADLINE: Duration = Duration::from_secs(5);

/// GETs and bytes of their messages that are asked of a node in one frame; one message at least.
const BATCH: usize = 1024;
const BATCH_BYTES: u64 = 4 << 20;

/// A GET of a client that takes a node: its place among the requests of a connection, its id, and how many bytes its
/// message seems to have.
pub(super) type Sought = (usize, MessageId, usize);

/// A GET under way.
#[derive(Debug)]
pub(super) struct Get {
    asker: Asker,
    id: MessageId,
    bytes: usize,
    began: Instant,
    /// The version that the holders below were asked for.
    version: Version,
    /// It is told to a client: a message whose deadline has come is deleted before. (Whoever works on an id for other ends
    /// may hold its lock.)
    tells: bool,
    /// Holders that were asked, and whether they surely have no intact copy.
    tried: SmallVec<[(NodeId, bool); 7]>,
}

impl Item for Get {
    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// GETs by the node that they are asked of, and whether there is nobody to ask after it.
type ByHolder = BTreeMap<(NodeId, bool), Vec<(Get, CopyRecord)>>;

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
    /// Its deadline has come, or may have.
    End,
}

/// What a holder said to one GET.
enum Said {
    Here(Payload),
    Bad,
    Silent,
}

impl Coordinator {
    /// Carries out the GETs of one connection; gives their replies.
    pub(super) async fn read(self: &Arc<Self>, gets: Vec<Sought>) -> Vec<(usize, Reply)> {
        if gets.is_empty() {
            return Vec::new();
        }
        let (began, count) = (Instant::now(), gets.len() as u64);
        let all = self.replies_to(gets, true, |gets| self.take_gets(gets)).await;
        let is = |refused: fn(&Refusal) -> bool| {
            all.iter().filter(|(_, reply)| matches!(reply, Reply::Refused(refusal) if refused(refusal))).count() as u64
        };
        let failed = is(|refusal| *refusal != Refusal::NotFound);
        self.note_gets(began, count - failed, is(|refusal| *refusal == Refusal::NotFound), failed);
        all
    }

    /// Asks nodes for messages; gives the replies as they come.
    pub(super) async fn fetch_all(self: &Arc<Self>, gets: Vec<Sought>) -> Vec<(usize, Reply)> {
        self.replies_to(gets, false, |gets| self.take_gets(gets)).await
    }

    /// As [`fetch_all`](Self::fetch_all), for what no client waits for: in a round of its own, so that it holds up none of theirs.
    pub(super) async fn fetch_apart(self: &Arc<Self>, gets: Vec<Sought>) -> Vec<(usize, Reply)> {
        self.replies_to(gets, false, |gets| drop(self.tasks.spawn(self.clone().read_round(gets)))).await
    }

    async fn replies_to(&self, gets: Vec<Sought>, tells: bool, take: impl FnOnce(Vec<Get>)) -> Vec<(usize, Reply)> {
        if gets.is_empty() {
            return Vec::new();
        }
        let (began, count) = (Instant::now(), gets.len());
        let (replies, mut told) = mpsc::unbounded_channel();
        let get = |(at, id, bytes)| {
            let asker = Asker { at, replies: replies.clone() };
            Get { asker, id, bytes, began, version: Version::FOREIGN, tells, tried: SmallVec::new() }
        };
        take(gets.into_iter().map(get).collect());
        drop(replies);
        let mut all = Vec::with_capacity(count);
        while told.recv_many(&mut all, count).await > 0 {}
        all
    }

    fn take_gets(self: &Arc<Self>, gets: impl IntoIterator<Item = Get>) {
        let leader = self.clone();
        self.reads.add(gets, &self.tasks, move |gets| leader.clone().read_round(gets));
    }

    /// Asks one holder after the other, until each GET is answered.
    async fn read_round(self: Arc<Self>, gets: Vec<Get>) {
        let turn = self.turn();
        let mut asks = FuturesUnordered::new();
        let mut open = gets;
        loop {
            for ((node, last), gets) in self.next_holders(open, turn) {
                // A round is bounded by what its messages seemed to have; of one that was hidden nobody knew.
                for some in batches(gets, BATCH, BATCH_BYTES, |(_, record)| record.bytes().into()) {
                    asks.push(self.ask(node, last, some));
                }
            }
            match asks.next().await {
                Some(unanswered) => open = unanswered,
                None => return,
            }
        }
    }

    /// Answers what can be answered, and tells whom to ask for the rest, and whether there is nobody after it. What
    /// can only wait comes back by itself.
    fn next_holders(self: &Arc<Self>, gets: Vec<Get>, turn: usize) -> ByHolder {
        let mut asked = ByHolder::new();
        let (mut waiting, mut ending) = (Vec::new(), Vec::new());
        let changes = self.changes();
        {
            let cluster = self.cluster();
            for mut get in gets {
                let located = cluster.locate(&get.id, turn);
                let may_end =
                    get.tells && matches!(&located, Located::Here { record, .. } if self.may_have_ended(record));
                let step = if may_end { Step::End } else { step(&mut get, located) };
                match step {
                    Step::Answer(reply) => get.asker.tell(reply),
                    Step::Ask { node, record, last } => asked.entry((node, last)).or_default().push((get, record)),
                    Step::Wait(refusal) => waiting.push((get, refusal)),
                    Step::End => ending.push(get),
                }
            }
        }
        if !waiting.is_empty() {
            self.tasks.spawn(self.clone().wait_for_change(waiting, changes));
        }
        if !ending.is_empty() {
            self.tasks.spawn(self.clone().end_first(ending));
        }
        asked
    }

    /// Has the messages deleted whose deadline has come, and asks again.
    async fn end_first(self: Arc<Self>, gets: Vec<Get>) {
        let ids: Vec<MessageId> = gets.iter().map(|get| get.id.clone()).collect();
        match self.end_those_due(&ids).await {
            Ok(()) => self.take_gets(gets.into_iter().map(|get| Get { tried: SmallVec::new(), ..get })),
            Err(refusal) => {
                let why = format!("its time is over, and its deletion, which has to come first, failed: {refusal}");
                let refused = Reply::Refused(Refusal::Unavailable(why));
                gets.into_iter().for_each(|get| get.asker.tell(refused.clone()));
            }
        }
    }

    async fn wait_for_change(self: Arc<Self>, waiting: Vec<(Get, Refusal)>, mut changes: Changes) {
        let began = waiting.iter().map(|(get, _)| get.began).min().unwrap_or_else(Instant::now);
        let until = self.patient_until(began);
        if self.changed(&mut changes, until).await {
            self.take_gets(waiting.into_iter().map(|(get, _)| Get { tried: SmallVec::new(), ..get }));
        } else {
            waiting.into_iter().for_each(|(get, refusal)| get.asker.tell(Reply::Refused(refusal)));
        }
    }

    /// Asks one node for some messages; gives back those that it did not answer, with this node noted as tried.
    async fn ask(&self, node: NodeId, last: bool, gets: Vec<(Get, CopyRecord)>) -> Vec<Get> {
        let keys: Vec<_> = gets.iter().map(|(get, record)| (get.id.clone(), *record)).collect();
        let patience = if last { DEADLINE } else { PATIENCE };
        let answer = timeout(patience, self.links.fetch(node, &keys)).await.ok().and_then(Result::ok);
        let said = read_answer(answer, gets.len());
        let frame: usize = said.iter().map(|said| if let Said::Here(payload) = said { payload.len() } else { 0 }).sum();
        let mut said = said.into_iter();
        let (mut bad, mut unanswered) = (Vec::new(), Vec::new());
        for (mut get, record) in gets {
            let surely_bad = match said.next().unwrap_or(Said::Silent) {
                Said::Here(payload) if record.matches(&payload) => {
                    // A client that is slow to take a small part of a frame must not keep the whole of it.
                    let small = || (payload.len() < frame / 2).then(|| Payload::copy_from_slice(&payload));
                    let own = self.cache.put(&get.id, record.version, &payload).or_else(small);
                    get.asker.tell(Reply::Value(own.unwrap_or(payload)));
                    continue;
                }
                Said::Here(_) | Said::Bad => {
                    bad.push((get.id.clone(), record.version));
                    true
                }
                Said::Silent => false,
            };
            get.tried.push((node, surely_bad));
            unanswered.push(get);
        }
        if !bad.is_empty() {
            self.note_bad(node, &bad);
        }
        unanswered
    }

    fn note_bad(&self, node: NodeId, bad: &[(MessageId, Version)]) {
        let mut cluster = self.cluster();
        for (id, version) in bad {
            // Overwritten, deleted or moved meanwhile: that copy is nobody's any more.
            if cluster.is_holder(id, *version, node) {
                tracing::warn!("node {node} has no intact copy of {id:?} any more");
                cluster.note_copy(id, *version, node, false);
            }
        }
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

/// The bodies of an answer, one or none for each of `count` keys.
pub(super) fn bodies(answer: Option<family::ReadResult>, count: usize) -> Vec<Option<Payload>> {
    let body = |said| if let Said::Here(payload) = said { Some(payload) } else { None };
    read_answer(answer, count).into_iter().map(body).collect()
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
