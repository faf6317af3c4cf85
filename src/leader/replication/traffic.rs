//! What the two lanes of a node carry: jobs become frames, and answers go back to those who wait for them.

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::cluster::registry::Way;
use crate::wire::family::{self, from_node, to_node};
use crate::wire::{BATCH_BYTES, BATCH_ITEMS};

/// What one kind of lane carries.
pub(super) trait Traffic {
    type Job: Send;
    type Pending: Send;
    /// Frames under way at once: enough to keep the node busy while the next one forms.
    const WINDOW: usize;
    /// Which of a node's lanes it is.
    const WAY: Way;
    /// Whether nobody waits for a job any more, so that it is not sent.
    fn is_abandoned(job: &Self::Job) -> bool;
    /// Whether a job may wait a moment, to go along with another.
    fn lingers(_: &Self::Job) -> bool {
        false
    }
    /// Makes a frame of a job and of what else has queued.
    fn pack(first: Self::Job, queue: impl FnMut() -> Option<Self::Job>) -> (to_node::Body, Self::Pending);
    /// A frame that only wants an answer.
    fn nothing() -> (to_node::Body, Self::Pending);
    /// Executor an answer to those who wait for it.
    fn unpack(pending: Self::Pending, answer: from_node::Body);
}

#[derive(Debug)]
pub(super) enum WriteJob {
    Store {
        puts: Vec<family::Put>,
        done: oneshot::Sender<family::WriteResult>,
    },
    Settle {
        settles: Vec<family::Settle>,
        lingers: bool,
        _room: OwnedSemaphorePermit,
        done: oneshot::Sender<Vec<bool>>,
    },
    Members {
        members: family::Members,
        done: oneshot::Sender<bool>,
    },
}

pub(super) struct Writes;

/// Who waits for the answers to a frame of writes, with how many puts or settles in it.
#[derive(Default)]
pub(super) struct WritesPending {
    puts: Vec<(usize, oneshot::Sender<family::WriteResult>)>,
    settles: Vec<(usize, oneshot::Sender<Vec<bool>>)>,
    members: Vec<oneshot::Sender<bool>>,
}

impl Traffic for Writes {
    type Job = WriteJob;
    type Pending = WritesPending;
    const WINDOW: usize = 2;
    const WAY: Way = Way::Writes;

    fn is_abandoned(job: &WriteJob) -> bool {
        // What is settled, and who the members are, has to be told whoever hears the answer.
        matches!(job, WriteJob::Store { done, .. } if done.is_closed())
    }

    fn lingers(job: &WriteJob) -> bool {
        matches!(job, WriteJob::Settle { lingers: true, .. })
    }

    fn pack(first: WriteJob, mut queue: impl FnMut() -> Option<WriteJob>) -> (to_node::Body, Self::Pending) {
        let mut batch = family::WriteBatch::default();
        let mut pending = WritesPending::default();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(job) = next.take() {
            match job {
                WriteJob::Members { members, done } => {
                    pending.members.push(done);
                    batch.members = Some(members);
                }
                WriteJob::Settle { settles, done, .. } => {
                    pending.settles.push((settles.len(), done));
                    batch.settles.extend(settles);
                }
                WriteJob::Store { puts, done } => {
                    bytes += puts.iter().map(|put| put.body.len()).sum::<usize>();
                    pending.puts.push((puts.len(), done));
                    batch.puts.extend(puts);
                }
            }
            if bytes < BATCH_BYTES && batch.puts.len() + batch.settles.len() < BATCH_ITEMS {
                next = queue();
            }
        }
        (to_node::Body::Write(batch), pending)
    }

    fn nothing() -> (to_node::Body, Self::Pending) {
        (to_node::Body::Write(family::WriteBatch::default()), WritesPending::default())
    }

    fn unpack(pending: Self::Pending, answer: from_node::Body) {
        let from_node::Body::Written(result) = answer else { return };
        let mut statuses = result.statuses.into_iter();
        let mut unpublished = result.unpublished.into_iter().peekable();
        let mut first = 0;
        for (puts, done) in pending.puts {
            let statuses = statuses.by_ref().take(puts).collect();
            let (error, end) = (result.error.clone(), first + puts as u32);
            let of_these = std::iter::from_fn(|| unpublished.next_if(|place| *place < end));
            let unpublished = of_these.map(|place| place.saturating_sub(first)).collect();
            let _ = done.send(family::WriteResult { statuses, error, unpublished, ..Default::default() });
            first = end;
        }
        let mut settled = result.settled.into_iter().map(|status| status == family::CopyStatus::CopyStored as i32);
        for (settles, done) in pending.settles {
            let _ = done.send(settled.by_ref().take(settles).collect());
        }
        for done in pending.members {
            let _ = done.send(result.members_kept);
        }
    }
}

#[derive(Debug)]
pub(super) struct ReadJob {
    /// Which.
    pub keys: Vec<family::CopyKey>,
    /// They are only checked.
    pub check: bool,
    /// What the node says that it has not, or has wrong, is so: else nothing is known of that.
    pub proves: bool,
    /// Of their bodies.
    pub bytes: usize,
    /// Who waits for them.
    pub done: oneshot::Sender<family::ReadResult>,
}

/// What waits for an answer: so many keys of a frame.
pub(super) struct ReadPending {
    keys: usize,
    /// It wants no bodies.
    check: bool,
    proves: bool,
    done: oneshot::Sender<family::ReadResult>,
}

/// A status by a node whose word proves nothing: what it has can be held against its checksum, and all else is unknown.
fn unproven(status: i32) -> i32 {
    if status == family::CopyStatus::CopyStored as i32 { status } else { family::CopyStatus::CopyUnknown as i32 }
}

pub(super) struct Reads;

impl Traffic for Reads {
    type Job = ReadJob;
    type Pending = Vec<ReadPending>;
    const WINDOW: usize = 4;
    const WAY: Way = Way::Reads;

    fn is_abandoned(job: &ReadJob) -> bool {
        job.done.is_closed()
    }

    fn pack(first: ReadJob, mut queue: impl FnMut() -> Option<ReadJob>) -> (to_node::Body, Self::Pending) {
        let mut batch = family::ReadBatch::default();
        let mut pending = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(job) = next.take() {
            bytes += job.bytes;
            pending.push(ReadPending { keys: job.keys.len(), check: job.check, proves: job.proves, done: job.done });
            batch.keys.extend(job.keys);
            if bytes < BATCH_BYTES && batch.keys.len() < BATCH_ITEMS {
                next = queue();
            }
        }
        (to_node::Body::Read(batch), pending)
    }

    fn nothing() -> (to_node::Body, Self::Pending) {
        (to_node::Body::Read(family::ReadBatch::default()), Vec::new())
    }

    fn unpack(pending: Self::Pending, answer: from_node::Body) {
        let from_node::Body::Read(result) = answer else { return };
        let mut statuses = result.statuses.into_iter();
        let mut bodies = result.bodies.into_iter();
        for ReadPending { keys, check, proves, done } in pending {
            let told = |status: i32| if proves { status } else { unproven(status) };
            let statuses: Vec<i32> = statuses.by_ref().take(keys).map(told).collect();
            let stored = |status: &&i32| **status == family::CopyStatus::CopyStored as i32;
            let sent = if check { 0 } else { statuses.iter().filter(stored).count() };
            let bodies = bodies.by_ref().take(sent).collect();
            let _ = done.send(family::ReadResult { statuses, bodies, error: result.error.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::{Semaphore, mpsc};

    use super::*;

    #[test]
    fn each_writer_hears_of_its_own_copies_that_wait() {
        let (done, mut answers): (Vec<_>, Vec<_>) = (0..3).map(|_| oneshot::channel()).unzip();
        let puts = [2, 0, 3].into_iter().zip(done).collect();
        let statuses = vec![family::CopyStatus::CopyStored as i32; 5];
        let result = family::WriteResult { statuses, unpublished: vec![1, 2, 4, 9], ..Default::default() };
        Writes::unpack(WritesPending { puts, ..WritesPending::default() }, from_node::Body::Written(result));
        let heard = answers.iter_mut().map(|answer| answer.try_recv().unwrap());
        let heard: Vec<_> = heard.map(|result| (result.statuses.len(), result.unpublished)).collect();
        assert_eq!(heard, [(2, vec![1]), (0, vec![]), (3, vec![0, 2])]);
    }

    fn settles(count: usize) -> WriteJob {
        let settles = vec![family::Settle::default(); count];
        let _room = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        WriteJob::Settle { settles, lingers: true, _room, done: oneshot::channel().0 }
    }

    #[test]
    fn a_frame_takes_no_more_settles_than_a_slow_disk_can_answer_in_time() {
        let (jobs, mut queue) = mpsc::unbounded_channel();
        (0..10).for_each(|_| jobs.send(settles(BATCH_ITEMS / 2)).unwrap());
        let mut frames = Vec::new();
        while let Ok(first) = queue.try_recv() {
            let rest = || queue.try_recv().ok();
            let (to_node::Body::Write(batch), pending) = Writes::pack(first, rest) else { unreachable!() };
            frames.push((batch.settles.len(), pending.settles.len()));
        }
        assert_eq!(frames, [(BATCH_ITEMS, 2); 5]);
    }
}
