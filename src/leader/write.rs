//! Copies of a batch of writes onto their nodes, until each write is decided.
//!
//! A target that fails is replaced by the next least loaded node; one that is
//! late gets a hedge beside it, and whoever answers first counts. Nothing here
//! makes a write true: that is the log's part.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use smallvec::SmallVec;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::coordinator::Coordinator;
use super::key_locks::KeyGuard;
use crate::cluster::Ticket;
use crate::cluster::mapping::Commit;
use crate::cluster::notices::Asked;
use crate::cluster::quorum::{Answer, Tally, Verdict};
use crate::error::Refusal;
use crate::protocol::Reply;
use crate::seeded::{self, Bug};
use crate::types::{Deadline, Holders, NodeId, NodeState, Nodes, Payload, Refusing};
use crate::wire::family::{self, CopyStatus};
use crate::wire::id_bytes;

/// How often hedges are looked for, and the longest that the last answers to a write are waited for that is on too
/// few nodes whatever they say. A target gets one only if its node is late with its heartbeats or with
/// all answers: one that merely has much to do is waited for, or else hedges would add to its load and
/// copies would end up unevenly spread.
const PATIENCE: Duration = Duration::from_secs(1);

/// The decided writes of a round wait at least this long for the others, and at most as long as they took themselves.
const LINGER: Duration = Duration::from_millis(1);

/// A write that is not decided by then ends as UNKNOWN. Nodes that are gone are noticed far sooner;
/// this is for disks so slow that a long queue takes its time.
const DEADLINE: Duration = Duration::from_secs(30);

/// A ticket that gives back what was promised for it, unless the write became true.
#[derive(Debug)]
pub(super) struct Promise {
    coordinator: Arc<Coordinator>,
    ticket: Option<Ticket>,
}

impl Promise {
    /// Guards a ticket.
    pub(super) fn new(coordinator: Arc<Coordinator>, ticket: Ticket) -> Self {
        Self { coordinator, ticket: Some(ticket) }
    }

    /// The ticket.
    pub(super) fn ticket(&self) -> &Ticket {
        // Nothing only after `keep`, which takes the guard.
        self.ticket.as_ref().unwrap_or_else(|| unreachable!())
    }

    /// The ticket, for whoever releases it under a lock that is held already.
    pub(super) fn keep(&mut self) -> Ticket {
        self.ticket.take().unwrap_or_else(|| unreachable!())
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if let Some(ticket) = &self.ticket {
            self.coordinator.release(ticket);
        }
    }
}

/// Where a write stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Not decided.
    Open,
    /// On enough nodes.
    Kept,
    /// Not on enough nodes, and no other node can be asked; nor is any answer waited for.
    Failed,
}

/// Who waits for the outcome of a request.
#[derive(Debug)]
pub(super) struct Asker {
    /// The request's place among those of its connection.
    pub at: usize,
    /// Where its connection waits.
    pub replies: mpsc::UnboundedSender<(usize, Reply)>,
}

/// Those who hear of a write: one, or all whose writes of an id went together.
pub(super) type Askers = SmallVec<[Asker; 1]>;

impl Asker {
    /// Says what became of the request. One that has gone does not hear it.
    pub(super) fn tell(self, reply: Reply) {
        let _ = self.replies.send((self.at, reply));
    }
}

/// What a write is for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// The id gets something new.
    Change,
    /// A version that was found on nodes becomes true.
    Completion {
        /// The nodes that have it.
        sources: Nodes,
        /// They have it as a foreign file, which they are to adopt.
        adopt: bool,
    },
    /// A committed version gets other holders.
    Repair {
        /// The targets that have it.
        sources: Nodes,
        /// Holders that stay on record, and are not asked.
        also: Nodes,
        /// Holders that are no targets let go of their copies, as those that stay were read and checked.
        trims: bool,
    },
}

impl Purpose {
    pub(super) fn sources(&self) -> &[NodeId] {
        match self {
            Self::Change => &[],
            Self::Completion { sources, .. } | Self::Repair { sources, .. } => sources,
        }
    }

    fn adopts(&self) -> bool {
        matches!(self, Self::Completion { adopt: true, .. })
    }

    fn also(&self) -> &[NodeId] {
        match self {
            Self::Repair { also, .. } => also,
            Self::Change | Self::Completion { .. } => &[],
        }
    }

    pub(super) fn trims(&self) -> bool {
        matches!(self, Self::Repair { trims: true, .. })
    }
}

/// One admitted write under way.
#[derive(Debug)]
pub(super) struct Write {
    /// Who asked for it; nobody: the register itself.
    pub askers: Askers,
    /// Version and targets.
    pub promise: Promise,
    /// The message.
    pub payload: Payload,
    /// The right to write this id.
    pub guard: KeyGuard,
    /// The answers.
    pub tally: Tally,
    /// Where it stands.
    pub outcome: Outcome,
    /// What it is for.
    pub purpose: Purpose,
    /// Nodes that keep their copy under a hidden name until they are told of the commit.
    pub unpublished: Nodes,
    /// The holders that the log hears of beside the copies, ascending: it becomes true with them, and by no other record.
    pub intent: Option<Holders>,
    /// The first failure, for people.
    trouble: Option<String>,
}

impl Write {
    /// A write that was just admitted.
    pub(super) fn new(askers: Askers, promise: Promise, payload: Payload, guard: KeyGuard, need: usize) -> Self {
        let tally = Tally::new(need, &promise.ticket().targets);
        Self {
            askers,
            promise,
            payload,
            guard,
            tally,
            outcome: Outcome::Open,
            purpose: Purpose::Change,
            unpublished: Nodes::new(),
            intent: None,
            trouble: None,
        }
    }

    /// Who will be on record as a holder, ascending.
    pub(super) fn holders(&self) -> Holders {
        let mut holders = self.tally.holders();
        holders.extend(self.purpose.also().iter().copied().filter(|node| !self.tally.holders().contains(node)));
        holders.sort_unstable();
        holders
    }

    /// Has the log hear of it beside its copies.
    pub(super) fn intend(&mut self) {
        let mut holders: Holders = self.promise.ticket().targets.iter().copied().collect();
        holders.sort_unstable();
        self.intent = Some(holders);
    }

    /// What the log hears of it beside its copies.
    pub(super) fn intent(&self) -> Option<Commit> {
        let ticket = self.promise.ticket();
        self.intent.clone().map(|holders| Commit { id: ticket.id.clone(), record: ticket.record, holders })
    }

    /// Whether it is kept as its intent says: then it is true.
    pub(super) fn is_as_intended(&self) -> bool {
        let holders = self.intent.as_ref();
        holders.is_some_and(|holders| *holders == self.holders() || seeded::active(Bug::ConcludedElsewhere))
    }

    /// What makes it true.
    pub(super) fn commit(&self) -> Commit {
        let ticket = self.promise.ticket();
        Commit { id: ticket.id.clone(), record: ticket.record, holders: self.holders() }
    }

    /// What its commit has to be told to, beside those on record.
    pub(super) fn asked<'a>(&'a self, excess: &'a [NodeId]) -> Asked<'a> {
        let Self { purpose, unpublished, .. } = self;
        Asked { excess, sources: purpose.sources(), unpublished, also: purpose.also(), trims: purpose.trims() }
    }

    /// Looks whether enough nodes keep it by now.
    fn settle(&mut self) {
        if self.outcome == Outcome::Open && self.tally.verdict() == Verdict::Reached {
            self.outcome = Outcome::Kept;
        }
    }

    /// It failed before any node was asked to keep it: only who had this version before may have it.
    fn unsent(&mut self) {
        let sources = if self.purpose.adopts() { &[][..] } else { self.purpose.sources() };
        if let Some(ticket) = &mut self.promise.ticket {
            ticket.unsent(sources);
        }
    }

    fn put(&self, node: NodeId) -> family::Put {
        let ticket = self.promise.ticket();
        let adopt = self.purpose.adopts() && self.purpose.sources().contains(&node);
        family::Put {
            id: id_bytes(&ticket.id),
            version: ticket.record.version.0,
            crc: ticket.record.crc,
            body: if adopt { Payload::new() } else { self.payload.clone() },
            adopt,
            length: if adopt { ticket.record.length } else { 0 },
            deleted: ticket.record.is_tombstone(),
            expires: Deadline::number(ticket.record.expires),
        }
    }
}

/// Copies sent to one node together, until the answer to them comes.
#[derive(Debug)]
struct Flight {
    node: NodeId,
    /// Their places among the writes.
    members: Vec<usize>,
    sent: Instant,
    answer: oneshot::Receiver<family::WriteResult>,
}

/// A flight that has landed: its node, its members, and the answer, if one came.
type Landed = (NodeId, Vec<usize>, Option<family::WriteResult>);

impl Future for Flight {
    type Output = Landed;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Landed> {
        let answer = std::task::ready!(Pin::new(&mut self.answer).poll(context));
        Poll::Ready((self.node, std::mem::take(&mut self.members), answer.ok()))
    }
}

type ByNode = BTreeMap<NodeId, Vec<usize>>;

/// A round of writes on its way to nodes.
pub(super) struct Replication {
    leader: Arc<Coordinator>,
    /// Nothing in the place of one that was handed out.
    writes: Vec<Option<Write>>,
    flights: FuturesUnordered<Flight>,
    began: Instant,
    next_look: Instant,
}

impl Replication {
    /// Sends writes to their targets.
    pub(super) fn start(leader: Arc<Coordinator>, mut writes: Vec<Write>) -> Self {
        let mut by_node = ByNode::new();
        for (i, write) in writes.iter_mut().enumerate() {
            if write.outcome != Outcome::Open {
                write.unsent();
                continue;
            }
            for &node in &write.promise.ticket().targets {
                if write.purpose.adopts() || !write.purpose.sources().contains(&node) {
                    by_node.entry(node).or_default().push(i);
                }
            }
            if !write.purpose.adopts() {
                for &node in write.purpose.sources() {
                    write.tally.record(node, Answer::Stored);
                }
            }
            write.settle();
        }
        let (flights, began) = (FuturesUnordered::new(), Instant::now());
        let writes = writes.into_iter().map(Some).collect();
        let replication = Self { leader, writes, flights, began, next_look: began + PATIENCE };
        replication.send(by_node);
        replication
    }

    /// Writes that were decided meanwhile: [`Outcome::Kept`] or [`Outcome::Failed`]. Nothing: all were handed out.
    ///
    /// Usually that is all of them at once. When some take far longer, those that are decided do not wait for them.
    pub(super) async fn decided(&mut self) -> Option<Vec<Write>> {
        let mut first = None;
        loop {
            let left = || self.writes.iter().flatten();
            let open = left().filter(|write| write.outcome == Outcome::Open).count();
            if open == 0 {
                let all = self.hand_out();
                return (!all.is_empty()).then_some(all);
            }
            if open < left().count() && first.is_none() {
                first = Some(Instant::now());
            }
            let linger = first.map(|first| first + (first - self.began).max(LINGER));
            let deadline = self.began + DEADLINE;
            let wake = self.next_look.min(deadline).min(linger.unwrap_or(deadline));
            tokio::select! {
                biased;
                landed = self.flights.next() => match landed {
                    Some(landed) => self.land(landed),
                    None => self.give_up(),
                },
                () = sleep_until(wake) => {
                    let now = Instant::now();
                    if now >= deadline {
                        self.give_up();
                    } else if now >= self.next_look {
                        self.next_look = now + PATIENCE;
                        self.end_short();
                        self.hedge();
                    } else {
                        return Some(self.hand_out());
                    }
                }
            }
        }
    }

    fn hand_out(&mut self) -> Vec<Write> {
        let decided = |write: &mut Write| write.outcome != Outcome::Open;
        self.writes.iter_mut().filter_map(|place| place.take_if(decided)).collect()
    }

    fn give_up(&mut self) {
        for write in self.writes.iter_mut().flatten().filter(|write| write.outcome == Outcome::Open) {
            write.trouble.get_or_insert_with(|| "its nodes did not answer in time".to_owned());
            write.outcome = Outcome::Failed;
        }
    }

    fn send(&self, by_node: ByNode) {
        for (node, members) in by_node {
            let puts = members.iter().filter_map(|&i| Some(self.writes[i].as_ref()?.put(node))).collect();
            let answer = self.leader.links.store(node, puts);
            self.flights.push(Flight { node, members, sent: Instant::now(), answer });
        }
    }

    /// Counts a node's answers, and sends to others what it did not keep.
    fn land(&mut self, (node, members, answer): Landed) {
        let answer = answer
            .unwrap_or_else(|| family::WriteResult { error: "the connection broke".to_owned(), ..Default::default() });
        let mut short = Vec::new();
        let (mut full, mut failed) = (None::<u32>, false);
        for (k, &i) in members.iter().enumerate() {
            let Some(write) = &mut self.writes[i] else { continue };
            let status = answer.statuses.get(k).and_then(|&status| CopyStatus::try_from(status).ok());
            let record = write.promise.ticket().record;
            if status == Some(CopyStatus::CopyFull) && !record.is_tombstone() {
                full = Some(full.map_or(record.bytes(), |least| least.min(record.bytes())));
            }
            failed |= status == Some(CopyStatus::CopyFailed);
            let said = match status {
                Some(CopyStatus::CopyStored) => Answer::Stored,
                Some(status) => {
                    self.leader.note_refused(node, status, write.promise.ticket());
                    Answer::Refused
                }
                None => Answer::Silent,
            };
            if said != Answer::Stored {
                let said = status.map(|status| format!("{} ({})", status.as_str_name(), answer.error));
                write.trouble.get_or_insert_with(|| format!("node {node}: {}", said.as_ref().unwrap_or(&answer.error)));
            }
            if answer.unpublished.binary_search(&(k as u32)).is_ok() {
                write.unpublished.push(node);
            }
            let verdict = write.tally.record(node, said);
            write.settle();
            if write.outcome == Outcome::Open && matches!(verdict, Verdict::Short(_)) {
                short.push(i);
            }
        }
        if full.is_some() || failed {
            let refusing = Refusing::of(full.is_some(), &answer.error);
            self.leader.note_refusing(node, Some(refusing));
        }
        if !short.is_empty() || full.is_some() {
            let again = self.replace(node, &short, full);
            self.send(again);
        }
    }

    /// Finds other targets for writes that a node did not keep.
    fn replace(&mut self, node: NodeId, short: &[usize], full: Option<u32>) -> ByNode {
        let mut again = ByNode::new();
        let mut cluster = self.leader.cluster();
        if let Some(bytes) = full {
            cluster.registry.note_full(node, bytes);
        }
        for &i in short {
            let Some(write) = &mut self.writes[i] else { continue };
            while let Verdict::Short(_) = write.tally.verdict() {
                let Some(ticket) = write.promise.ticket.as_mut() else { break };
                let Some(next) = cluster.replace(ticket, node, false) else {
                    // It cannot become true any more. If the others refuse it too, it is surely nowhere, which is
                    // worth a moment.
                    if !write.tally.is_awaited() {
                        write.outcome = Outcome::Failed;
                    }
                    break;
                };
                write.tally.ask(next);
                again.entry(next).or_default().push(i);
            }
        }
        again
    }

    /// Ends writes that had no node left to ask before this look: their last answers are not waited for any longer.
    fn end_short(&mut self) {
        let is_short =
            |write: &&mut Write| write.outcome == Outcome::Open && matches!(write.tally.verdict(), Verdict::Short(_));
        self.writes.iter_mut().flatten().filter(is_short).for_each(|write| write.outcome = Outcome::Failed);
    }

    /// Finds hedges for nodes that are late, where there are any.
    fn hedge(&mut self) {
        let mut again = ByNode::new();
        {
            let mut cluster = self.leader.cluster();
            for flight in self.flights.iter().filter(|flight| flight.sent.elapsed() >= PATIENCE) {
                if cluster.registry.get(flight.node).is_some_and(|node| node.state == NodeState::Up) {
                    continue;
                }
                for &i in &flight.members {
                    let Some(write) = self.writes[i].as_mut().filter(|write| write.outcome == Outcome::Open) else {
                        continue;
                    };
                    let Some(ticket) = write.promise.ticket.as_mut() else { continue };
                    if let Some(next) = cluster.replace(ticket, flight.node, true) {
                        write.tally.ask(next);
                        again.entry(next).or_default().push(i);
                    }
                }
            }
        }
        self.send(again);
    }
}

impl Coordinator {
    /// Runs every write to its decision.
    pub(super) async fn replicate(self: &Arc<Self>, writes: Vec<Write>) -> Vec<Write> {
        let mut replication = Replication::start(self.clone(), writes);
        let mut all = Vec::new();
        while let Some(decided) = replication.decided().await {
            all.extend(decided);
        }
        all
    }

    /// A node did not take a copy for what it has already.
    fn note_refused(&self, node: NodeId, status: CopyStatus, ticket: &Ticket) {
        let (id, version) = (&ticket.id, ticket.record.version);
        match status {
            // It holds a version that we have not heard of, or have passed over: its inventory tells, the one that
            // is coming in or else that of its next session.
            CopyStatus::CopyStale if !self.cluster().is_listing(node) => {
                tracing::warn!("node {node} has something newer than {version} of {id:?}");
                self.links.cut(node);
            }
            CopyStatus::CopyConflict => tracing::error!("node {node} holds another message as {version} of {id:?}"),
            _ => {}
        }
    }

    /// How a client hears why its write failed.
    pub(super) fn why(&self, write: &Write) -> Refusal {
        let need = self.cluster().tolerance();
        if write.tally.surely_nowhere() {
            return Refusal::TooFewNodes(self.cluster().registry.shortage(need).to_string());
        }
        let trouble = write.trouble.as_deref().unwrap_or("no node answered");
        Refusal::Unknown(format!("{} of {need} copies confirmed; {trouble}", write.tally.stored()))
    }
}
