//! The leader's log, `leader_metadata/mapping.log`: the authority on what is true.
//!
//! Events are appended in batches by one thread: whatever queued while the last
//! batch was written (and synced, if unbuffered) becomes the next. An event is
//! true only after its append has returned. The file's framing is
//! `durable::record_log`; what the records say is in `record`, what follows from
//! them at a start in `recover`, and how a log of old records becomes short again
//! in `rewrite`.

mod record;
mod recover;
mod rewrite;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

pub use self::record::Record;
pub(super) use self::record::encode as encode_event;
pub(super) use self::recover::Reading;
pub use self::recover::{Recovered, open};
use self::rewrite::Rewriter;
pub use self::rewrite::Rewriting;
pub(super) use self::rewrite::live_records;
use crate::cluster::state::Event;
use crate::durable::Folder;
use crate::durable::executor::Executor;
use crate::durable::record_log::{self, LogError, RecordLog};
use crate::lock::Lock;
use crate::seeded::{self, Bug};
use crate::stop::Stop;
use crate::types::IoMode;

/// The file's name.
pub const LOG_FILE: &str = "mapping.log";

/// How the file starts.
pub(super) const MAGIC: [u8; 8] = *b"HTKSLOG\n";

/// The longest record: that of a transaction of [`MOST_IDS`](super::transaction::MOST_IDS) ids on many nodes.
const LONGEST: usize = 24 << 20;

/// Records and bytes that a batch is filled up to; it holds at least one job, however long.
const BATCH_RECORDS: usize = 16_384;
const BATCH_BYTES: usize = 4 << 20;

/// The log did not take an event: whether it did is not known, and it is not true.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the leader's log cannot be written: {0}")]
pub struct NotLogged(pub String);

/// How often it is tried whether a full disk has room again.
const ROOM_EVERY: Duration = Duration::from_secs(1);

/// A disk that has not answered the log for this long is said to hang.
const LATE: Duration = Duration::from_secs(3);

/// The way to the log's thread.
#[derive(Debug, Clone)]
pub struct Journal {
    jobs: mpsc::UnboundedSender<Job>,
    busy: Busy,
    full: Arc<AtomicBool>,
}

/// Since when the log's thread waits for the disk, while it does.
#[derive(Debug, Clone, Default)]
struct Busy(Arc<Lock<Option<Instant>>>);

impl Busy {
    fn with<T>(&self, work: impl FnOnce() -> T) -> T {
        self.set(Some(Instant::now()));
        let done = work();
        self.set(None);
        done
    }

    fn set(&self, since: Option<Instant>) {
        *self.0.lock() = since;
    }
}

#[derive(Debug)]
struct Job {
    records: Vec<u8>,
    ends: Vec<usize>,
    sync: bool,
    done: oneshot::Sender<Result<(), NotLogged>>,
}

impl Journal {
    /// Starts the log's thread.
    pub fn start(
        mut log: RecordLog,
        io_mode: IoMode,
        rewriting: Rewriting,
        executor: &Executor,
        stop: &Stop,
    ) -> std::io::Result<Self> {
        if io_mode == IoMode::Unbuffered {
            log.keep_room();
        }
        let (jobs, queue) = mpsc::unbounded_channel();
        let rewriter = Rewriter::new(rewriting, &log, executor.clone());
        let (busy, full) = (Busy::default(), Arc::<AtomicBool>::default());
        let writer = write_loop(log, io_mode, rewriter, queue, (busy.clone(), full.clone()), stop.clone());
        executor.spawn("journal", stop.needed("journal", writer))?;
        Ok(Self { jobs, busy, full })
    }

    /// Why nothing can be logged, where that is known before anything is sent to nodes: a write that is refused then has
    /// surely not happened.
    pub fn refuses(&self) -> Option<&'static str> {
        let full = self.full.load(Ordering::Relaxed);
        full.then_some("the disk of the leader's log is full: make room on it, and writes go on by themselves")
    }

    /// For how long the disk under the log has not answered, if that is far too long.
    pub fn late(&self) -> Option<Duration> {
        let since = *self.busy.0.lock();
        since.map(|since| since.elapsed()).filter(|late| *late >= LATE)
    }

    /// Appends events. When this returns `Ok`, they are as safe as the IO mode says (the rare ones: synced).
    /// The queue is bounded by what the coordinator lets in.
    pub async fn append(&self, events: impl Iterator<Item = &Event>) -> Result<(), NotLogged> {
        let one = |event: &Event, out: &mut Vec<u8>| {
            record::encode(event, out);
            record::is_synced(event)
        };
        self.write(events, one).await
    }

    /// Appends records, as [`append`](Self::append) does.
    pub async fn append_records(&self, records: &[Record]) -> Result<(), NotLogged> {
        let one = |record: &Record, out: &mut Vec<u8>| {
            record.encode(out);
            record.is_synced()
        };
        self.write(records.iter(), one).await
    }

    /// `encode` appends the bytes of one, and tells whether it has to be synced.
    async fn write<'a, T: 'a>(
        &self,
        all: impl Iterator<Item = &'a T>,
        encode: impl Fn(&T, &mut Vec<u8>) -> bool,
    ) -> Result<(), NotLogged> {
        let ((done, answer), count) = (oneshot::channel(), all.size_hint().0);
        let mut job =
            Job { records: Vec::with_capacity(count * 64), ends: Vec::with_capacity(count), sync: false, done };
        for one in all {
            job.sync |= encode(one, &mut job.records);
            job.ends.push(job.records.len());
        }
        let ended = || NotLogged("its thread has ended".to_owned());
        let waits = job.sync || !seeded::active(Bug::OkBeforeLog);
        self.jobs.send(job).map_err(|_| ended())?;
        if !waits {
            return Ok(());
        }
        answer.await.map_err(|_| ended())?
    }
}

/// Puts a log of these records in the place of whatever has its name: at once or not at all, and on stable storage when it
/// returns. Blocks.
pub(super) fn replace(folder: &Arc<dyn Folder>, records: impl Iterator<Item = Vec<u8>>) -> Result<(), LogError> {
    const MADE: &str = "mapping.log.made";
    let failed = |source| LogError::Io { what: "replacing", file: LOG_FILE.to_owned(), source };
    match folder.remove(MADE) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let none = &mut |_: u64, _: &[u8]| Ok(());
    let opened =
        RecordLog::open_with(folder.clone(), MADE, MAGIC, LONGEST, none, &|damage| record_log::judge(damage, false));
    opened?.log.replace_with(records)?;
    folder.rename(MADE, LOG_FILE).and_then(|()| folder.sync()).map_err(failed)
}

/// Ends when every [`Journal`] is gone, or when the log is beyond use.
async fn write_loop(
    mut log: RecordLog,
    io_mode: IoMode,
    mut rewriter: Rewriter,
    mut queue: mpsc::UnboundedReceiver<Job>,
    (busy, full): (Busy, Arc<AtomicBool>),
    stop: Stop,
) {
    loop {
        let first = tokio::select! {
            biased;
            rewritten = rewriter.ended() => {
                if let Err(error) = busy.with(|| rewriter.adopt(rewritten, &mut log)) {
                    say(&log, &error, &stop);
                }
                continue;
            }
            job = queue.recv() => match job {
                Some(job) => job,
                None => return,
            },
            () = sleep(ROOM_EVERY), if full.load(Ordering::Relaxed) => {
                if busy.with(|| log.has_room()) {
                    full.store(false, Ordering::Relaxed);
                    tracing::info!("the disk of the leader's log has room again");
                }
                continue;
            }
        };
        let (mut count, mut bytes) = (first.ends.len(), first.records.len());
        let mut batch = vec![first];
        while count < BATCH_RECORDS
            && bytes < BATCH_BYTES
            && let Ok(job) = queue.try_recv()
        {
            count += job.ends.len();
            bytes += job.records.len();
            batch.push(job);
        }
        let result = busy.with(|| write_batch(&mut log, io_mode, &batch));
        match &result {
            Ok(()) => rewriter.look(&log),
            // Said once: as long as it is full, no more is admitted.
            Err(error) if error.is_full() && full.load(Ordering::Relaxed) && !log.is_poisoned() => {}
            Err(error) => say(&log, error, &stop),
        }
        full.store(result.as_ref().is_err_and(LogError::is_full), Ordering::Relaxed);
        let answer = result.map_err(|error| NotLogged(error.to_string()));
        for job in batch {
            let _ = job.done.send(answer.clone());
        }
    }
}

fn say(log: &RecordLog, error: &LogError, stop: &Stop) {
    if log.is_poisoned() {
        stop.fail(format!("{error}; the leader stops, because what its log holds is not known any more: check the disk, then start it again"));
    } else {
        tracing::error!("{error}");
    }
}

fn write_batch(log: &mut RecordLog, io_mode: IoMode, batch: &[Job]) -> Result<(), LogError> {
    let records = batch.iter().flat_map(|job| {
        let starts = std::iter::once(0).chain(job.ends.iter().copied());
        starts.zip(&job.ends).map(|(from, &to)| &job.records[from..to])
    });
    log.append(records)?;
    let unbuffered = io_mode == IoMode::Unbuffered && !seeded::active(Bug::LogNotSynced);
    if unbuffered || batch.iter().any(|job| job.sync) {
        log.sync()?;
    }
    Ok(())
}
