//! The log is rewritten without what is outdated: at a start, and while the leader runs.
//!
//! While it runs, another thread reads the log up to some record as a start would, writes what is still true of it
//! beside the log, and copies behind that what was appended meanwhile, as it is. Then the journal's thread copies the
//! rest and puts the new file in place. The index of the running leader is not asked, so that nothing can be in the
//! log and not yet in what is copied; the price is a second index while it lasts. (Redis does the same with the
//! memory of a forked child: BGREWRITEAOF.)
//!
//! Until the new file has the log's name, the old one is the log, and no failure to rewrite it does it any harm.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::oneshot;

use super::recover::Reading;
use super::{LOG_FILE, Record, record};
use crate::cluster::knowledge::Trust;
use crate::cluster::state::Event;
use crate::durable::DiskFile;
use crate::durable::executor::Executor;
use crate::durable::record_log::{FIRST_FRAME, LogError, Place, RecordLog, Replacement};

/// How many times as long as when it was last looked at the log has to be to be looked at again.
const GROWTH: u64 = 2;

/// Read or written between two chances for others to go on: bytes, and records.
const SLICE_BYTES: u64 = 256 << 10;
const SLICE_RECORDS: usize = 4096;

/// What was appended meanwhile is copied until no more than this is left, which the journal's thread copies while
/// writes wait; or this many times, if it comes as fast.
const LEFT_BYTES: u64 = 256 << 10;
const ROUNDS: usize = 16;

/// When a log is rewritten while the leader runs.
#[derive(Debug, Clone, Copy)]
pub struct Rewriting {
    /// Not while it is shorter than this; bytes.
    pub from: u64,
    /// Of the index that is built for it.
    pub seed: u64,
}

/// A new file, and up to where in the old one it has everything; nothing, if that is not worth it.
type Rewritten = Result<Option<(Replacement, u64)>, LogError>;

/// The journal's side: when to begin, and what to do with what comes of it.
pub(super) struct Rewriter {
    settings: Rewriting,
    place: Place,
    executor: Executor,
    /// The length of what is surely in the log.
    appended: Arc<AtomicU64>,
    /// The length at which it is looked at again.
    next: u64,
    running: Option<oneshot::Receiver<Rewritten>>,
}

impl Rewriter {
    pub(super) fn new(settings: Rewriting, log: &RecordLog, executor: Executor) -> Self {
        let appended = Arc::new(AtomicU64::new(log.len()));
        Self { settings, place: log.place(), executor, appended, next: settings.from.max(log.len()), running: None }
    }

    /// Something was appended.
    pub(super) fn look(&mut self, log: &RecordLog) {
        self.appended.store(log.len(), Ordering::Release);
        if self.running.is_some() || log.len() < self.next {
            return;
        }
        let work = Work { place: self.place.clone(), appended: self.appended.clone(), seed: self.settings.seed };
        let (done, running) = oneshot::channel();
        let work = async move {
            let rewritten = work.rewrite(&done).await;
            if let Err(Ok(Some((unwanted, _)))) = done.send(rewritten) {
                unwanted.discard();
            }
        };
        match self.executor.spawn("rewrite", work) {
            Ok(()) => self.running = Some(running),
            Err(error) => self.put_off(log, &format!("no thread for it: {error}")),
        }
    }

    /// Waits for the end of what runs; for ever, if nothing does.
    pub(super) async fn ended(&mut self) -> Rewritten {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let rewritten = running.await;
        self.running = None;
        rewritten.unwrap_or(Ok(None))
    }

    /// Goes on in the new file, if there is one. An error is of the log itself.
    pub(super) fn adopt(&mut self, rewritten: Rewritten, log: &mut RecordLog) -> Result<(), LogError> {
        let before = log.len();
        match rewritten {
            Ok(None) => self.next = before.max(self.settings.from) * GROWTH,
            Ok(Some((next, from))) => match log.adopt(next, from) {
                Ok(()) => {
                    self.appended.store(log.len(), Ordering::Release);
                    self.next = self.settings.from.max(log.len() * GROWTH);
                    tracing::info!("the log was rewritten: {before} bytes before, {} now", log.len());
                }
                Err(error) if log.is_poisoned() => return Err(error),
                Err(error) => self.put_off(log, &error.to_string()),
            },
            Err(error) => self.put_off(log, &error.to_string()),
        }
        Ok(())
    }

    fn put_off(&mut self, log: &RecordLog, why: &str) {
        self.next = log.len() + self.settings.from;
        tracing::warn!("the log was not rewritten and goes on as it is ({} bytes): {why}", log.len());
    }
}

/// The other thread's side.
struct Work {
    place: Place,
    appended: Arc<AtomicU64>,
    seed: u64,
}

impl Work {
    async fn rewrite(&self, done: &oneshot::Sender<Rewritten>) -> Rewritten {
        let file = self.place.open()?;
        let until = self.appended.load(Ordering::Acquire);
        let mut reading = Reading::new(self.seed);
        let mut at = FIRST_FRAME;
        while at < until {
            let bad = |reason| LogError::BadRecord { file: LOG_FILE.to_owned(), offset: at, reason };
            let mut take = |record: &[u8]| {
                reading.take(Record::decode(record).map_err(bad)?);
                Ok(())
            };
            at = self.place.read(&*file, (at, until), SLICE_BYTES, &mut take)?;
            tokio::task::yield_now().await;
            if done.is_closed() {
                return Ok(None);
            }
        }
        // A log that is not whole is read with care at a start, and what it says has to stay as it was said.
        let is_whole = reading.believed() == Trust::Whole && !reading.old;
        if !is_whole || reading.records * 2 <= reading.state.events() * 3 {
            return Ok(None);
        }
        let mut next = self.place.replacement()?;
        let copied = self.write(&mut next, &reading, &*file, until).await;
        match copied {
            Ok(copied) if !done.is_closed() => Ok(Some((next, copied))),
            Ok(_) => {
                next.discard();
                Ok(None)
            }
            Err(error) => {
                next.discard();
                Err(error)
            }
        }
    }

    /// Gives up to where the old log was copied.
    async fn write(
        &self,
        next: &mut Replacement,
        reading: &Reading,
        file: &dyn DiskFile,
        mut copied: u64,
    ) -> Result<u64, LogError> {
        for (n, record) in live_records(reading, reading.believed()).enumerate() {
            next.push(&record)?;
            if n % SLICE_RECORDS == 0 {
                tokio::task::yield_now().await;
            }
        }
        for _ in 0..ROUNDS {
            // The journal's thread has nearly nothing left to sync.
            next.sync()?;
            let until = self.appended.load(Ordering::Acquire);
            while copied < until {
                copied = self.place.read(file, (copied, until), SLICE_BYTES, &mut |record| next.push(record))?;
                tokio::task::yield_now().await;
            }
            if self.appended.load(Ordering::Acquire) - copied <= LEFT_BYTES {
                break;
            }
        }
        Ok(copied)
    }
}

/// What a log has to say to be read as this one was, but for what is outdated, where `trust` is how far it is believed.
/// The messages are never in memory as records all at once.
pub(in crate::leader) fn live_records(reading: &Reading, trust: Trust) -> impl Iterator<Item = Vec<u8>> {
    let (state, writer) = (&reading.state, reading.writer.as_ref());
    let is_whole = trust == Trust::Whole && !reading.old;
    let whole = is_whole.then(|| bytes(|out| Record::Whole(state.mapping().newest_committed()).encode(out)));
    // Behind the beginnings, which say how far what is before is believed.
    let mut whole = whole.filter(|_| writer.is_some());
    let records = state.snapshot().flat_map(move |event| match (&event, writer) {
        (Event::Began { leadership, run, .. }, Some(last)) if state.last() == Some(*leadership) => {
            let (boot_id, io_mode) = (last.boot_id.clone(), last.io_mode);
            let began = Record::Began { leadership: *leadership, run: *run, boot_id, io_mode, trust };
            [Some(bytes(|out| began.encode(out))), whole.take()]
        }
        _ => [Some(bytes(|out| record::encode(&event, out))), None],
    });
    let clock =
        reading.clock.map(|(unix_ms, since_boot_ms)| bytes(|out| Record::Clock { unix_ms, since_boot_ms }.encode(out)));
    records.flatten().chain(clock)
}

fn bytes(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    out
}
