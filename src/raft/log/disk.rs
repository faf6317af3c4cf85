//! The log on its disk: the file `log`, the file `vote`, and the one thread that writes both.
//!
//! Whatever queued while the last sync ran becomes the next batch: one append, one sync, then the callbacks in order.
//! A disk that is full (or takes nothing for a while) is waited for: meanwhile it counts as one that hangs, and a
//! leader steps down over it. Any other error ends the engine, and with it the process.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::storage::IOFlushed;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::record::{self, Parts, Record};
use super::rewrite::{Begun, Rewrite, shorter};
use super::{LONGEST_PAYLOAD, Log, Memory};
use crate::durable::executor::Executor;
use crate::durable::record_log::{self, LogError, RecordLog};
use crate::durable::{Folder, takes_nothing};
use crate::lock::Lock;
use crate::raft::identity::Identity;
use crate::raft::types::{EntryPayload, LogId, Types, Vote};
use crate::raft::{convert, proto, small};
use crate::seeded::{self, Bug};
use crate::stop::Stop;

/// The files' names, and how they begin.
pub(in crate::raft) const LOG_FILE: &str = "log";
const LOG_MAGIC: [u8; 8] = *b"HTKSRAFT";
pub(in crate::raft) const VOTE_FILE: &str = "vote";
const VOTE_MAGIC: [u8; 8] = *b"HTKSVOTE";

/// The longest record: an entry's head is far shorter than this.
const LONGEST: usize = LONGEST_PAYLOAD + (1 << 20);

/// Bytes that a batch is filled up to; it holds at least one job, however long.
const BATCH_BYTES: usize = 8 << 20;

/// How often a disk that took nothing is tried again.
const ROOM_EVERY: Duration = Duration::from_millis(500);

/// Work for the thread, in order.
pub(super) enum Job {
    Append(Vec<Parts>, IOFlushed<Types>),
    Cut(Parts),
    Vote(Vote, oneshot::Sender<io::Result<()>>),
    Rewrite(Rewrite),
}

/// How the disk is, for whoever watches it.
#[derive(Debug, Default)]
pub(in crate::raft) struct Pulse {
    busy: Lock<Option<Instant>>,
    length: AtomicU64,
    pub(super) base: AtomicU64,
}

impl Pulse {
    fn busy(&self, is_busy: bool) {
        *self.busy.lock() = is_busy.then(Instant::now);
    }

    /// For how long the disk has not answered.
    pub(in crate::raft) fn late(&self) -> Duration {
        self.busy.lock().map(|since| since.elapsed()).unwrap_or_default()
    }

    /// Bytes of the file since it was written anew.
    pub(in crate::raft) fn grown(&self) -> u64 {
        self.length.load(Ordering::Relaxed).saturating_sub(self.base.load(Ordering::Relaxed))
    }
}

/// What [`open`] gives.
pub(in crate::raft) struct Opened {
    log: RecordLog,
    folder: Arc<dyn Folder>,
    boot: String,
    pub(in crate::raft) memory: Memory,
}

/// Reads log and vote. What is read is on stable storage when this returns.
pub(in crate::raft) fn open(folder: &Arc<dyn Folder>, boot: &str) -> Result<Opened, String> {
    let vote = read_vote(&**folder)?;
    let memory = RefCell::new(Memory { vote, ..Memory::default() });
    let same_boot = Cell::new(false);
    let mut number = 0_u64;
    let opened = RecordLog::open_with(
        folder.clone(),
        LOG_FILE,
        LOG_MAGIC,
        LONGEST,
        &mut |_, bytes| {
            number += 1;
            let read = record::read(bytes)?;
            if let Record::Boot(name) = &read {
                same_boot.set(name == boot);
            }
            replay(&mut memory.borrow_mut(), read, number == 1)
        },
        &|damage| record_log::judge(damage, !same_boot.get()),
    );
    let record_log::Opened { mut log, torn } = opened.map_err(|error| error.to_string())?;
    if let Some(torn) = torn {
        tracing::warn!(
            "{LOG_FILE}: {} bytes of writes that were not finished were cut off at byte {}",
            torn.bytes,
            torn.offset
        );
    }
    log.keep_room();
    if !same_boot.get() {
        log.append([&*record::boot(boot).0]).map_err(|error| error.to_string())?;
    }
    // The engine takes what it finds for safe: entries that were written and not synced, a vote whose name was not.
    if !seeded::active(Bug::PeerReadBack) {
        log.sync().and_then(|()| folder.sync().map_err(io_error)).map_err(|error| error.to_string())?;
    }
    Ok(Opened { log, folder: folder.clone(), boot: boot.to_owned(), memory: memory.into_inner() })
}

fn io_error(source: io::Error) -> LogError {
    LogError::Io { what: "syncing the folder of", file: LOG_FILE.to_owned(), source }
}

fn replay(memory: &mut Memory, record: Record, is_first: bool) -> Result<(), String> {
    match record {
        Record::Entry(entry) => {
            let next = memory.last().map_or(0, |last| last.index + 1);
            if entry.log_id.index != next {
                return Err(format!("entry {} where {next} should be", entry.log_id.index));
            }
            if memory.last().is_some_and(|last| last.leader_id > entry.log_id.leader_id) {
                return Err(format!("the term goes backward at entry {next}"));
            }
            memory.entries.push_back(entry);
        }
        Record::Cut(after) => memory.cut(after.map(|after| after.index)),
        Record::Begin(purged) if is_first => memory.purged = purged,
        Record::Begin(_) => return Err("a beginning in the middle".to_owned()),
        Record::Boot(_) => {}
    }
    Ok(())
}

fn read_vote(folder: &dyn Folder) -> Result<Option<Vote>, String> {
    let Some(content) = small::read(folder, VOTE_FILE, VOTE_MAGIC)? else { return Ok(None) };
    let vote = proto::Vote::decode(&*content)
        .map_err(|error| format!("{} makes no sense: {error}", folder.path().join(VOTE_FILE).display()))?;
    Ok(Some(convert::read_vote(&vote)))
}

/// On stable storage when it returns.
pub(in crate::raft) fn write_vote(folder: &dyn Folder, vote: &Vote) -> io::Result<()> {
    small::write(folder, VOTE_FILE, VOTE_MAGIC, &convert::vote(vote).encode_to_vec())
}

impl Opened {
    /// The peers that the entries name, oldest first.
    pub(in crate::raft) fn memberships(&self) -> impl Iterator<Item = &crate::raft::types::Membership> {
        self.memory.entries.iter().filter_map(|entry| match &entry.payload {
            EntryPayload::Membership(members) => Some(members),
            _ => None,
        })
    }

    /// Lets go of everything, as a snapshot that ends at `last` is not of one piece with it.
    pub(in crate::raft) fn begin_behind(&mut self, last: LogId) -> Result<(), String> {
        (self.memory.purged, self.memory.entries) = (Some(last), Default::default());
        let begun = [record::begin(Some(last)).0, record::boot(&self.boot).0];
        self.log.replace_with(begun).map_err(|error| error.to_string())
    }

    /// Starts the thread.
    pub(in crate::raft) fn start(
        self,
        identity: Arc<Identity>,
        executor: &Executor,
        stop: &Stop,
    ) -> io::Result<(Log, Arc<Pulse>)> {
        let Self { log, folder, boot, memory } = self;
        let (jobs, queue) = mpsc::unbounded_channel();
        let pulse = Arc::new(Pulse::default());
        let (executor, stop) = (executor.clone(), stop.clone());
        let writer = Writer {
            log,
            folder,
            boot,
            executor: executor.clone(),
            begun: None,
            pulse: pulse.clone(),
            stop: stop.clone(),
        };
        // With much of it already behind the last snapshot, the next one is near.
        writer.tell();
        executor.spawn("raft-log", stop.needed("raft-log", writer.run(queue)))?;
        Ok((Log { memory: Arc::new(Lock::new(memory)), jobs, identity }, pulse))
    }
}

pub(super) struct Writer {
    pub(super) log: RecordLog,
    folder: Arc<dyn Folder>,
    pub(super) boot: String,
    pub(super) executor: Executor,
    /// A shorter file that is being written, and where the log ended when it was begun.
    pub(super) begun: Option<Begun>,
    pub(super) pulse: Arc<Pulse>,
    stop: Stop,
}

impl Writer {
    /// Ends when the log is let go of, or when the disk is beyond use.
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Job>) {
        let mut held = None;
        loop {
            let job = match held.take() {
                Some(job) => job,
                None => tokio::select! {
                    biased;
                    (next, from) = shorter(&mut self.begun) => {
                        self.pulse.busy(true);
                        self.adopt(next, from);
                        self.pulse.busy(false);
                        self.tell();
                        continue;
                    }
                    job = queue.recv() => match job {
                        Some(job) => job,
                        None => return,
                    },
                },
            };
            self.pulse.busy(true);
            match job {
                Job::Append(mut records, done) => {
                    let (mut bytes, mut callbacks) = (size(&records), vec![done]);
                    while bytes < BATCH_BYTES && held.is_none() {
                        match queue.try_recv() {
                            Ok(Job::Append(more, done)) => {
                                bytes += size(&more);
                                records.extend(more);
                                callbacks.push(done);
                            }
                            Ok(other) => held = Some(other),
                            Err(_) => break,
                        }
                    }
                    let result = self.append(&records, true).await;
                    for done in callbacks {
                        done.io_completed(result.as_ref().copied().map_err(|why| io::Error::other(why.clone())));
                    }
                }
                // Its order is what counts: the sync of what is appended behind it is its own.
                Job::Cut(record) => drop(self.append(&[record], false).await),
                Job::Vote(vote, done) => {
                    let _ = done.send(self.save_vote(&vote).await.map_err(io::Error::other));
                }
                Job::Rewrite(rewrite) => self.rewrite(rewrite).await,
            }
            self.pulse.busy(false);
            self.tell();
        }
    }

    fn tell(&self) {
        self.pulse.length.store(self.log.len(), Ordering::Relaxed);
    }

    async fn append(&mut self, records: &[Parts], sync: bool) -> Result<(), String> {
        loop {
            let parts = records.iter().map(|(head, body)| (&head[..], &body[..]));
            match self.log.append_parts(parts) {
                Ok(_) => break,
                Err(error) => self.bear(error).await?,
            }
        }
        if !sync || seeded::active(Bug::PeerFlushedBeforeSync) {
            return Ok(());
        }
        loop {
            // Where the sync itself has failed the log is poisoned, and nothing is tried again.
            match self.log.sync() {
                Ok(()) => return Ok(()),
                Err(error) => self.bear(error).await?,
            }
        }
    }

    /// Waits where the disk has done nothing and may do it later; ends the process where it never will.
    pub(super) async fn bear(&self, error: LogError) -> Result<(), String> {
        if let LogError::Io { source, .. } = &error
            && takes_nothing(source)
            && !self.log.is_poisoned()
        {
            tracing::warn!("{error}; tried again until it works");
            return self.wait().await;
        }
        Err(self.end(error.to_string()))
    }

    async fn wait(&self) -> Result<(), String> {
        match self.stop.unless(sleep(ROOM_EVERY)).await {
            Some(()) => Ok(()),
            None => Err("the process ends".to_owned()),
        }
    }

    pub(super) fn end(&self, error: String) -> String {
        self.stop.fail(format!(
            "{error}; this peer stops, because what its log holds is not known any more: check the disk, then start it again"
        ));
        error
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), String> {
        if seeded::active(Bug::PeerVoteNotKept) {
            return Ok(());
        }
        loop {
            match write_vote(&*self.folder, vote) {
                Ok(()) => return Ok(()),
                Err(error) if takes_nothing(&error) => self.wait().await?,
                Err(error) => return Err(self.end(format!("writing the vote failed: {error}"))),
            }
        }
    }
}

fn size(records: &[Parts]) -> usize {
    records.iter().map(|(head, body)| head.len() + body.len()).sum()
}
