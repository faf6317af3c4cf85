//! A node's disk work: the one writer, and the readers.
//!
//! Each loop has a thread of its own in the program. A frame is checked against the fence when its turn comes, so that
//! late words of an older leader are inert even if they arrived in time; and a write once more before it is answered, as a
//! later leader may have listed this node's copies while it was written.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::identity::Fenced;
use super::lane::Replies;
use super::store::{Body, INVENTORY_PARTS, Put, PutOutcome, ReadFault, Settle, WriteReport};
use super::{Node, Refusal, bad_id, from, id_of, identity_failed};
use crate::durable;
use crate::seeded::{self, Bug};
use crate::stop::Stop;
use crate::types::{CopyRecord, Deadline, Fence, Listed, MessageId, Refusing, Version};
use crate::wire::family::{self, CopyStatus, from_node};
use crate::wire::{BATCH_BYTES, MemberList};

#[derive(Debug)]
pub(super) struct WriteWork {
    fence: Fence,
    seq: u64,
    members: Option<MemberList>,
    settles: Vec<Settle>,
    puts: Vec<Put>,
    bytes: usize,
    arrived: Instant,
    reply: Replies,
}

/// Which copy to read.
#[derive(Debug)]
pub(super) struct ReadKey {
    pub(super) id: MessageId,
    pub(super) version: Version,
    /// Only whether it is whole, without its content.
    pub(super) check: bool,
}

#[derive(Debug)]
pub(super) struct ReadWork {
    pub(super) fence: Fence,
    pub(super) seq: u64,
    pub(super) keys: Vec<ReadKey>,
    pub(super) reply: Replies,
}

impl WriteWork {
    /// Takes a batch off the wire.
    pub(super) fn read(fence: Fence, seq: u64, batch: family::WriteBatch, reply: Replies) -> Result<Self, String> {
        let put = |put: family::Put| {
            let (version, expires) = (Version(put.version), Deadline::at(put.expires));
            let (record, body) = if put.deleted {
                (CopyRecord::tombstone(version), Body::Deleted)
            } else if put.adopt {
                (CopyRecord { version, length: put.length, crc: put.crc, expires }, Body::Adopt)
            } else {
                (CopyRecord { version, length: put.body.len() as u32, crc: put.crc, expires }, Body::Bytes(put.body))
            };
            Ok::<_, String>(Put { id: id_of(&put.id)?, record, body })
        };
        let settles = batch
            .settles
            .into_iter()
            .map(|settle| Settle::try_from(settle).map_err(bad_id))
            .collect::<Result<_, _>>()?;
        let puts: Vec<Put> = batch.puts.into_iter().map(put).collect::<Result<_, _>>()?;
        let members = batch.members.as_ref().map(MemberList::try_from).transpose()?;
        let bytes = puts.iter().map(|put| put.record.bytes() as usize).sum();
        Ok(Self { fence, seq, members, settles, puts, bytes, arrived: Instant::now(), reply })
    }

    /// Whether this can be written in one batch with what came before it: a batch
    /// settles first, which must not overtake a put of the same id.
    fn joins(&self, batch: &[Self]) -> bool {
        if self.settles.is_empty() {
            return true;
        }
        let put: HashSet<&MessageId> = batch.iter().flat_map(|work| &work.puts).map(|put| &put.id).collect();
        self.settles.iter().all(|settle| !put.contains(&settle.id))
    }
}

/// Writes batches until the stop, after what had queued.
pub(super) async fn write_loop(node: Arc<Node>, mut queue: mpsc::Receiver<WriteWork>, stop: Stop) {
    let mut next = None;
    loop {
        let first = match next.take() {
            Some(work) => work,
            None => tokio::select! {
                biased;
                work = queue.recv() => match work { Some(work) => work, None => return },
                () = stop.requested() => return,
            },
        };
        let mut bytes = first.bytes;
        let mut batch = vec![first];
        while bytes < BATCH_BYTES {
            match queue.try_recv() {
                Ok(work) if work.joins(&batch) => {
                    bytes += work.bytes;
                    batch.push(work);
                }
                Ok(work) => {
                    next = Some(work);
                    break;
                }
                Err(_) => break,
            }
        }
        if !write_batch(&node, batch).await {
            return;
        }
    }
}

/// Tends the store until the stop, and once more when nothing is written any more.
pub(super) async fn tend_loop(node: Arc<Node>, stop: Stop) {
    let mut pause = Duration::ZERO;
    loop {
        let stopped = stop.unless(sleep(pause)).await.is_none();
        if stopped {
            node.written.cancelled().await;
        }
        // After a failed sync the next one proves nothing, and what it stood for has to stay in the journal.
        if node.stop.failure().is_some() {
            return;
        }
        if seeded::active(Bug::NodeDropsByClock) {
            drop_by_clock(&node);
        }
        match node.store.tend() {
            Ok(next) => pause = next,
            Err(fatal) => return node.stop.fail(fatal.to_string()),
        }
        if stopped {
            return;
        }
    }
}

/// What a seeded bug does: nobody asked for the end of these copies.
fn drop_by_clock(node: &Node) {
    let now = Deadline::at(node.clock.unix_ms());
    let all = (0..INVENTORY_PARTS).flat_map(|part| node.store.inventory(part));
    let due = all.filter(|listed| listed.record.expires.is_some_and(|deadline| Some(deadline) <= now));
    let settle =
        |Listed { id, record, .. }| Settle { id, version: record.version, keep: false, trash: false, lasting: false };
    let settles: Vec<Settle> = due.map(settle).collect();
    if !settles.is_empty() {
        let _ = node.store.write(&settles, &[]);
    }
}

/// Writes what the fence lets through, and answers every frame. `false`: the disk failed for good.
async fn write_batch(node: &Node, batch: Vec<WriteWork>) -> bool {
    let (batch, late): (Vec<_>, Vec<_>) = batch.into_iter().partition(|work| node.identity.check(work.fence).is_ok());
    for work in late {
        let Err(fenced) = node.identity.check(work.fence) else { continue };
        answer_fenced(&work, fenced);
    }
    let Some(first) = batch.first() else { return true };
    node.meters.queue.record(first.arrived.elapsed(), 1);
    // The last list has all that those before it had.
    let mut learnt = true;
    if let Some(members) = batch.iter().rev().find_map(|work| work.members.clone())
        && let Err(error) = node.identity.learn(members)
    {
        if !durable::is_refused(&error) {
            node.stop.fail(identity_failed(&error));
            return false;
        }
        tracing::warn!("{}", identity_failed(&error));
        learnt = false;
    }
    // Before the last trace of a deletion goes, it is noted that there was something so new: by that a leader which
    // was started from an older copy of its log is told.
    let deleted = batch.iter().flat_map(|work| &work.settles).filter(|settle| settle.lasting);
    if let Some(version) = deleted.map(|settle| settle.version).max()
        && let Err(error) = node.identity.note_committed(version)
    {
        tracing::debug!("what is committed could not be noted: {error}");
    }
    let report = match batch.as_slice() {
        [only] => node.store.write(&only.settles, &only.puts),
        all => {
            let settles: Vec<Settle> = all.iter().flat_map(|work| work.settles.iter().cloned()).collect();
            let puts: Vec<Put> = all.iter().flat_map(|work| work.puts.iter().cloned()).collect();
            node.store.write(&settles, &puts)
        }
    };
    let report = match report {
        Ok(report) => report,
        Err(fatal) => {
            node.stop.fail(fatal.to_string());
            return false;
        }
    };
    node.note(&batch, &report);
    let mut outcomes = report.outcomes.into_iter();
    let mut settled = report.settled.into_iter();
    for work in batch {
        let statuses: Vec<i32> =
            outcomes.by_ref().take(work.puts.len()).map(|outcome| status_of(outcome) as i32).collect();
        node.meters.stores.record(work.arrived.elapsed(), statuses.len() as u64);
        let of = |done| if done { CopyStatus::CopyStored } else { CopyStatus::CopyFailed };
        let settled = settled.by_ref().take(work.settles.len()).map(|done| of(done) as i32).collect();
        let error = report.error.clone().unwrap_or_default();
        let members_kept = learnt && work.members.is_some();
        // A later leader that was let in meanwhile may not have been told of these copies.
        if let Err(fenced) = node.identity.check(work.fence) {
            answer_fenced(&work, fenced);
            continue;
        }
        let hidden = |put: &Put| node.store.is_unpublished(&put.id, put.record.version);
        let unpublished = (0..).zip(&work.puts).filter(|(_, put)| hidden(put)).map(|(place, _)| place).collect();
        let result = family::WriteResult { statuses, error, settled, members_kept, unpublished };
        work.reply.give(from(work.seq, from_node::Body::Written(result)));
    }
    true
}

fn answer_fenced(work: &WriteWork, fenced: Fenced) {
    let body = family::Fenced { epoch_seen: fenced.epoch.0, reason: fenced.reason };
    work.reply.give(from(work.seq, from_node::Body::Fenced(body)));
}

fn status_of(outcome: PutOutcome) -> CopyStatus {
    match outcome {
        PutOutcome::Stored => CopyStatus::CopyStored,
        PutOutcome::Stale => CopyStatus::CopyStale,
        PutOutcome::Conflict => CopyStatus::CopyConflict,
        PutOutcome::Full => CopyStatus::CopyFull,
        PutOutcome::Failed => CopyStatus::CopyFailed,
    }
}

/// Reads copies until the stop, after what had queued.
pub(super) async fn read_loop(node: Arc<Node>, queue: Arc<tokio::sync::Mutex<mpsc::Receiver<ReadWork>>>, stop: Stop) {
    loop {
        let next = async { queue.lock().await.recv().await };
        let work = tokio::select! {
            biased;
            work = next => match work { Some(work) => work, None => return },
            () = stop.requested() => return,
        };
        let body = match node.identity.check(work.fence) {
            Ok(()) => from_node::Body::Read(read_batch(&node, &work.keys)),
            Err(fenced) => {
                from_node::Body::Fenced(family::Fenced { epoch_seen: fenced.epoch.0, reason: fenced.reason })
            }
        };
        work.reply.give(from(work.seq, body));
    }
}

fn read_batch(node: &Node, keys: &[ReadKey]) -> family::ReadResult {
    let began = Instant::now();
    let mut result = family::ReadResult { statuses: Vec::with_capacity(keys.len()), ..Default::default() };
    for ReadKey { id, version, check } in keys {
        let found = match *check {
            true => node.store.check(id, *version),
            false => node.store.read(id, *version).map(|payload| result.bodies.push(payload)),
        };
        let status = match found {
            Ok(()) => CopyStatus::CopyStored,
            Err(ReadFault::Absent) => CopyStatus::CopyAbsent,
            Err(ReadFault::Damaged) => {
                node.meters.bad_checksums.fetch_add(1, Ordering::Relaxed);
                CopyStatus::CopyDamaged
            }
            Err(ReadFault::Unknown(error)) => {
                result.error = error;
                CopyStatus::CopyUnknown
            }
        };
        result.statuses.push(status as i32);
    }
    node.meters.reads.record(began.elapsed(), keys.len() as u64);
    result
}

impl Node {
    fn note(&self, work: &[WriteWork], report: &WriteReport) {
        if let Some(error) = &report.error {
            let refusing = Refusing::of(report.full, error);
            let mut said = self.said.lock();
            if let Some(unsaid) = said.note(&refusing.why, self.started.elapsed()) {
                let space = *self.space.lock();
                tracing::warn!("a copy was not kept: {error}; half a second ago {space}{unsaid}");
            }
            let outcomes = work.iter().flat_map(|work| &work.puts).zip(&report.outcomes);
            let full = outcomes.filter(|(put, outcome)| **outcome == PutOutcome::Full && !put.record.is_tombstone());
            let full_from = full.map(|(put, _)| put.record.bytes()).min();
            let refusal = Refusal::after(self.refusal(), refusing, full_from);
            *self.refusal.lock() = Some(refusal);
        }
        let failed = report.outcomes.iter().filter(|outcome| matches!(outcome, PutOutcome::Full | PutOutcome::Failed));
        let failed = failed.count() as u64;
        self.meters.write_errors.fetch_add(failed, Ordering::Relaxed);
        self.meters.stores.error(failed);
        self.meters.write.record(report.write_time, 1);
        self.meters.sync.record(report.sync_time, 1);
        let mut largest = self.meters.largest.lock();
        for put in work.iter().flat_map(|work| &work.puts) {
            if largest.as_ref().is_none_or(|(bytes, _)| *bytes < u64::from(put.record.bytes())) {
                *largest = Some((u64::from(put.record.bytes()), put.id.to_string()));
            }
        }
    }
}
