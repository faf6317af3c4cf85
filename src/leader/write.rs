//! Copies of a batch of writes onto their nodes, until each write is decided.
//!
//! A target that fails is replaced by the next least loaded node; one that is
//! late gets a stand-in beside it, and whoever answers first counts. Nothing here
//! makes a write true: that is the log's part.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use smallvec::SmallVec;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::coordinator::Coordinator;
use super::gate::Pass;
use crate::cluster::Ticket;
use crate::cluster::quorum::{Answer, Tally, Verdict};
use crate::error::Refusal;
use crate::types::{Holders, NodeId, NodeState, Payload};
use crate::wire::family::{self, CopyStatus};

/// How often stand-ins are looked for. A target gets one only if its node is late with its heartbeats or with
/// all answers: one that merely has much to do is waited for, or else stand-ins would add to its load and
/// copies would end up unevenly spread.
const PATIENCE: Duration = Duration::from_secs(1);

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
    pub(super) fn keep(mut self) -> Ticket {
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
    /// Not on enough nodes, and no other node can be asked.
    Failed,
}

/// One admitted write under way.
#[derive(Debug)]
pub(super) struct Write {
    /// Its place among the requests.
    pub at: usize,
    /// Version and targets.
    pub promise: Promise,
    /// The message.
    pub payload: Payload,
    /// The right to write this id.
    pub pass: Pass,
    /// The answers.
    pub tally: Tally,
    /// Where it stands.
    pub outcome: Outcome,
    /// For a completion: nodes that had this version before.
    pub sources: SmallVec<[NodeId; 7]>,
    /// The sources hold it as a foreign file, which they are to adopt.
    pub adopt: bool,
    /// For a repair: holders that stay on record beside those that answered.
    pub also: SmallVec<[NodeId; 7]>,
    /// For a repair: holders that are no targets let go of their copies, as those that stay were read and checked.
    pub trims: bool,
    /// The first failure, for people.
    trouble: Option<String>,
}

impl Write {
    /// A write that was just admitted.
    pub(super) fn new(at: usize, promise: Promise, payload: Payload, pass: Pass, need: usize) -> Self {
        let tally = Tally::new(need, &promise.ticket().targets);
        let (sources, outcome) = (SmallVec::new(), Outcome::Open);
        Self {
            at,
            promise,
            payload,
            pass,
            tally,
            outcome,
            sources,
            adopt: false,
            also: SmallVec::new(),
            trims: false,
            trouble: None,
        }
    }

    /// Who will be on record as a holder, ascending.
    pub(super) fn holders(&self) -> Holders {
        let mut holders = self.tally.holders();
        holders.extend(self.also.iter().copied().filter(|node| !self.tally.holders().contains(node)));
        holders.sort_unstable();
        holders
    }

    fn put(&self, node: NodeId) -> family::Put {
        let ticket = self.promise.ticket();
        let adopt = self.adopt && self.sources.contains(&node);
        family::Put {
            id: ticket.id.to_string(),
            version: ticket.record.version.0,
            crc: ticket.record.crc,
            body: if adopt { Payload::new() } else { self.payload.clone() },
            adopt,
            length: if adopt { ticket.record.length } else { 0 },
            deleted: ticket.record.is_tombstone(),
        }
    }
}

/// Copies sent to one node together, and the answer to them.
type Flight = (NodeId, Vec<usize>, Instant, Result<family::WriteResult, oneshot::error::RecvError>);

type ByNode = BTreeMap<NodeId, Vec<usize>>;

impl Coordinator {
    /// Runs every write to its decision: [`Outcome::Kept`] or [`Outcome::Failed`].
    pub(super) async fn replicate(&self, writes: &mut [Write]) {
        let began = Instant::now();
        let mut by_node = ByNode::new();
        for (i, write) in writes.iter().enumerate().filter(|(_, write)| write.outcome == Outcome::Open) {
            for &node in &write.promise.ticket().targets {
                if write.adopt || !write.sources.contains(&node) {
                    by_node.entry(node).or_default().push(i);
                }
            }
        }
        for write in writes.iter_mut().filter(|write| !write.adopt) {
            for node in std::mem::take(&mut write.sources) {
                write.tally.record(node, Answer::Stored);
                write.sources.push(node);
            }
        }
        let mut flights = FuturesUnordered::new();
        // What is in the air, for finding who is late: the flights themselves only tell when they land.
        let mut in_air: Vec<(NodeId, Vec<usize>, Instant)> = Vec::new();
        let send = |by_node: ByNode, writes: &[Write], in_air: &mut Vec<_>, flights: &FuturesUnordered<_>| {
            for (node, members) in by_node {
                let puts = members.iter().map(|&i| writes[i].put(node)).collect();
                let (answer, sent) = (self.links.store(node, puts), Instant::now());
                in_air.push((node, members.clone(), sent));
                flights.push(land(node, members, sent, answer));
            }
        };
        send(by_node, writes, &mut in_air, &flights);
        let mut open = settle(writes);
        let patience = sleep_until(began + PATIENCE);
        let deadline = sleep_until(began + DEADLINE);
        tokio::pin!(patience, deadline);
        while open > 0 {
            let again = tokio::select! {
                biased;
                landed = flights.next() => match landed {
                    Some((node, members, sent, answer)) => {
                        in_air.retain(|(other, _, at)| (*other, *at) != (node, sent));
                        self.land(writes, node, &members, answer)
                    }
                    None => break,
                },
                () = &mut patience => {
                    patience.as_mut().reset(Instant::now() + PATIENCE);
                    self.stand_in(writes, &in_air)
                }
                () = &mut deadline => break,
            };
            send(again, writes, &mut in_air, &flights);
            open = settle(writes);
        }
        for write in writes.iter_mut().filter(|write| write.outcome == Outcome::Open) {
            write.trouble.get_or_insert_with(|| "its nodes did not answer in time".to_owned());
            write.outcome = Outcome::Failed;
        }
    }

    /// Counts a node's answers; gives what has to be sent to others instead.
    fn land(
        &self,
        writes: &mut [Write],
        node: NodeId,
        members: &[usize],
        answer: Result<family::WriteResult, oneshot::error::RecvError>,
    ) -> ByNode {
        let (statuses, trouble) = match answer {
            Ok(result) => (result.statuses, result.error),
            Err(_) => (Vec::new(), "the connection broke".to_owned()),
        };
        let mut short = Vec::new();
        let mut full = false;
        for (k, &i) in members.iter().enumerate() {
            let status = statuses.get(k).and_then(|&status| CopyStatus::try_from(status).ok());
            let answer = match status {
                Some(CopyStatus::CopyStored) => Answer::Stored,
                Some(_) => Answer::Refused,
                None => Answer::Silent,
            };
            full |= status == Some(CopyStatus::CopyFull);
            if status == Some(CopyStatus::CopyStale) {
                // It holds a version that we have not heard of, or have passed over: its inventory tells, the one that
                // is coming in or else that of its next session.
                let ticket = writes[i].promise.ticket();
                if !self.cluster().is_listing(node) {
                    tracing::warn!("node {node} has something newer than {} of {:?}", ticket.record.version, ticket.id);
                    self.links.cut(node);
                }
            }
            if status == Some(CopyStatus::CopyConflict) {
                let ticket = writes[i].promise.ticket();
                tracing::error!("node {node} holds another message as {} of {:?}", ticket.record.version, ticket.id);
            }
            if answer != Answer::Stored {
                let what =
                    status.map_or_else(|| trouble.clone(), |status| format!("{} ({trouble})", status.as_str_name()));
                writes[i].trouble.get_or_insert_with(|| format!("node {node}: {what}"));
            }
            let verdict = writes[i].tally.record(node, answer);
            if writes[i].outcome == Outcome::Open && matches!(verdict, Verdict::Short(_)) {
                short.push(i);
            }
        }
        let mut again = ByNode::new();
        if short.is_empty() && !full {
            return again;
        }
        let mut cluster = self.cluster();
        if full {
            cluster.registry.note_full(node);
        }
        for i in short {
            while let Verdict::Short(_) = writes[i].tally.verdict() {
                let Some(ticket) = writes[i].promise.ticket.as_mut() else { break };
                let Some(next) = cluster.replace(ticket, node, false) else {
                    writes[i].outcome = Outcome::Failed;
                    break;
                };
                writes[i].tally.ask(next);
                again.entry(next).or_default().push(i);
            }
        }
        again
    }

    /// Finds stand-ins for nodes that are late, where there are any.
    fn stand_in(&self, writes: &mut [Write], in_air: &[(NodeId, Vec<usize>, Instant)]) -> ByNode {
        let mut again = ByNode::new();
        let mut cluster = self.cluster();
        for (node, members, _) in in_air.iter().filter(|(_, _, sent)| sent.elapsed() >= PATIENCE) {
            if cluster.registry.get(*node).is_some_and(|node| node.state == NodeState::Up) {
                continue;
            }
            for &i in members {
                if writes[i].outcome != Outcome::Open {
                    continue;
                }
                let Some(ticket) = writes[i].promise.ticket.as_mut() else { continue };
                if let Some(next) = cluster.replace(ticket, *node, true) {
                    writes[i].tally.ask(next);
                    again.entry(next).or_default().push(i);
                }
            }
        }
        again
    }

    /// How a client hears why its write failed.
    pub(super) fn why(&self, write: &Write) -> Refusal {
        let need = self.cluster().tolerance();
        if write.tally.surely_nowhere() {
            return Refusal::TooFewNodes { need, live: self.cluster().registry.usable().min(need - 1) };
        }
        let trouble = write.trouble.as_deref().unwrap_or("no node answered");
        Refusal::Unknown(format!("{} of {need} copies confirmed; {trouble}", write.tally.stored()))
    }
}

async fn land(
    node: NodeId,
    members: Vec<usize>,
    sent: Instant,
    answer: oneshot::Receiver<family::WriteResult>,
) -> Flight {
    (node, members, sent, answer.await)
}

/// Marks what is kept; gives how many are still open.
fn settle(writes: &mut [Write]) -> usize {
    for write in writes.iter_mut().filter(|write| write.outcome == Outcome::Open) {
        if write.tally.verdict() == Verdict::Reached {
            write.outcome = Outcome::Kept;
        }
    }
    writes.iter().filter(|write| write.outcome == Outcome::Open).count()
}
