//! The leader's log, `leader_metadata/mapping.log`: the authority on what is true.
//!
//! Events are appended in batches by one thread: whatever queued while the last
//! batch was written (and synced, if unbuffered) becomes the next. An event is
//! true only after its append has returned. The file's framing is
//! `durable::record_log`; here is what the records say and what follows from them.

mod rewrite;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use self::rewrite::Rewriter;
pub use self::rewrite::Rewriting;
use crate::cluster::Reign;
use crate::cluster::knowledge::Trust;
use crate::cluster::mapping::{Commit, Mapping};
use crate::cluster::registry::Member;
use crate::cluster::removal::Removed;
use crate::cluster::transactions::Transactions;
use crate::durable::Folder;
use crate::durable::hands::Hands;
use crate::durable::record_log::{LogError, RecordLog, Torn, judge};
use crate::seeded::{self, Bug};
use crate::stop::Stop;
use crate::types::{CopyRecord, Epoch, Holders, IoMode, MAX_TOLERANCE, MessageId, NodeId, Uuid, Version};

/// The file's name.
pub const LOG_FILE: &str = "mapping.log";

/// How the file starts.
const MAGIC: [u8; 8] = *b"HTKSLOG\n";

/// A log with more records than this and mostly outdated ones is rewritten at the start.
const COMPACT_FROM: u64 = 10_000;

/// The longest record: that of a transaction of [`MOST_IDS`](super::transaction::MOST_IDS) long ids on many nodes.
const LONGEST: usize = 1 << 20;

/// Records and bytes that a batch is filled up to; it holds at least one job, however long.
const BATCH_RECORDS: usize = 16_384;
const BATCH_BYTES: usize = 4 << 20;

/// Something that became true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A leader began to reign. Always synced.
    Began {
        /// Its cluster and epoch.
        reign: Reign,
        /// Random, one a leader process: tells two leaders with copies of one log apart.
        run: u64,
        /// The boot of the machine that it runs in.
        boot_id: String,
        /// Whether every batch is synced from here on.
        io_mode: IoMode,
        /// How far it could believe what the log says before.
        trust: Trust,
    },
    /// A node was accepted, or has a new address. Always synced.
    Member(Member),
    /// A version of a message became true, or its deletion.
    Commit(Commit),
    /// Several versions became true at once: a transaction.
    Commits(Vec<Commit>),
    /// A transaction is about to send copies: none of these versions is true until all of them are.
    Prepared {
        /// Its name: the first of its versions.
        name: Version,
        /// Its ids with their versions.
        writes: Vec<(MessageId, Version)>,
    },
    /// A transaction never becomes true. Always synced, since what was true before is written again behind it.
    Aborted {
        /// Its name.
        name: Version,
    },
    /// Every member has confirmed a deletion: its tombstone is not needed any more. Always synced, since a power
    /// cut may bring back what a member has removed, and then this says that it is old.
    Forgotten {
        /// The deleted id.
        id: MessageId,
        /// The deletion's version.
        version: Version,
    },
    /// The newest version that a deletion was forgotten of; what a rewritten log keeps of them.
    Horizon(Version),
    /// All that nodes had reported is in the log: it is whole again, and nodes were told of commits up to this
    /// version. Always synced.
    Whole(Version),
    /// A node is to be emptied, or not any more. Always synced.
    Draining {
        /// Which.
        node: NodeId,
        /// Whether.
        on: bool,
    },
    /// A member is none any more, and its folder never will be. Always synced.
    Removed(Removed),
    /// The leader ended after writing everything. Always synced.
    Closed,
}

impl Event {
    /// Whether it is put on stable storage even in buffered mode.
    fn is_synced(&self) -> bool {
        match self {
            Self::Commit(_) | Self::Commits(_) | Self::Prepared { .. } => false,
            Self::Began { .. } => !seeded::active(Bug::EpochNotSynced),
            _ => true,
        }
    }

    /// Appends the record's bytes: a kind, then fixed fields in little endian, then text to the end.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Began { reign, run, boot_id, io_mode, trust } => {
                out.push(1);
                out.extend_from_slice(&reign.cluster_id.0);
                out.extend_from_slice(&reign.epoch.0.to_le_bytes());
                out.extend_from_slice(&run.to_le_bytes());
                out.push(match io_mode {
                    IoMode::Buffered => 0,
                    IoMode::Unbuffered => 1,
                });
                out.push(match trust {
                    Trust::Whole => 0,
                    Trust::MayLackItsEnd => 1,
                    Trust::Nothing => 2,
                });
                out.extend_from_slice(boot_id.as_bytes());
            }
            Self::Member(member) => {
                out.push(2);
                out.extend_from_slice(&member.id.0.to_le_bytes());
                out.extend_from_slice(&member.uuid.0);
                out.extend_from_slice(member.address.as_bytes());
            }
            Self::Commit(commit) => encode_commit(&commit.id, &commit.record, &commit.holders, out),
            Self::Whole(version) => {
                out.push(4);
                out.extend_from_slice(&version.0.to_le_bytes());
            }
            Self::Closed => out.push(5),
            Self::Forgotten { id, version } => {
                out.push(6);
                out.extend_from_slice(&version.0.to_le_bytes());
                out.extend_from_slice(id.as_bytes());
            }
            Self::Horizon(version) => {
                out.push(7);
                out.extend_from_slice(&version.0.to_le_bytes());
            }
            Self::Draining { node, on } => {
                out.extend_from_slice(&[8, u8::from(*on)]);
                out.extend_from_slice(&node.0.to_le_bytes());
            }
            Self::Commits(commits) => {
                out.push(9);
                for commit in commits {
                    encode_record(&commit.record, &commit.holders, out);
                    encode_short_id(&commit.id, out);
                }
            }
            Self::Prepared { name, writes } => {
                out.push(10);
                out.extend_from_slice(&name.0.to_le_bytes());
                for (id, version) in writes {
                    out.extend_from_slice(&version.0.to_le_bytes());
                    encode_short_id(id, out);
                }
            }
            Self::Aborted { name } => {
                out.push(11);
                out.extend_from_slice(&name.0.to_le_bytes());
            }
            Self::Removed(Removed { id, uuid }) => {
                out.push(12);
                out.extend_from_slice(&id.0.to_le_bytes());
                out.extend_from_slice(&uuid.0);
            }
        }
    }

    /// Reads a record's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut fields = Fields(bytes);
        match fields.array::<1>()?[0] {
            1 => Ok(Self::Began {
                reign: Reign { cluster_id: Uuid(fields.array()?), epoch: Epoch(fields.u32()?) },
                run: u64::from_le_bytes(fields.array()?),
                io_mode: match fields.array::<1>()?[0] {
                    0 => IoMode::Buffered,
                    1 => IoMode::Unbuffered,
                    other => return Err(format!("unknown io mode {other}")),
                },
                trust: match fields.array::<1>()?[0] {
                    0 => Trust::Whole,
                    1 => Trust::MayLackItsEnd,
                    2 => Trust::Nothing,
                    other => return Err(format!("unknown trust {other}")),
                },
                boot_id: fields.text()?.to_owned(),
            }),
            2 => Ok(Self::Member(Member {
                id: NodeId(fields.u32()?),
                uuid: Uuid(fields.array()?),
                address: fields.text()?.to_owned(),
            })),
            3 => {
                let (record, holders) = fields.record()?;
                let id = MessageId::from_bytes(fields.0).map_err(|bad| bad.to_string())?;
                Ok(Self::Commit(Commit { id, record, holders }))
            }
            4 => Ok(Self::Whole(fields.version()?)),
            5 => Ok(Self::Closed),
            6 => {
                let version = fields.version()?;
                let id = MessageId::from_bytes(fields.0).map_err(|bad| bad.to_string())?;
                Ok(Self::Forgotten { id, version })
            }
            7 => Ok(Self::Horizon(fields.version()?)),
            8 => Ok(Self::Draining { on: fields.array::<1>()?[0] != 0, node: NodeId(fields.u32()?) }),
            9 => {
                let mut commits = Vec::new();
                while !fields.0.is_empty() {
                    let (record, holders) = fields.record()?;
                    commits.push(Commit { id: fields.short_id()?, record, holders });
                }
                Ok(Self::Commits(commits))
            }
            10 => {
                let (name, mut writes) = (fields.version()?, Vec::new());
                while !fields.0.is_empty() {
                    let version = fields.version()?;
                    writes.push((fields.short_id()?, version));
                }
                Ok(Self::Prepared { name, writes })
            }
            11 => Ok(Self::Aborted { name: fields.version()? }),
            12 => Ok(Self::Removed(Removed { id: NodeId(fields.u32()?), uuid: Uuid(fields.array()?) })),
            other => Err(format!("a record of kind {other}, which this version does not know; use a newer hatokuse")),
        }
    }
}

fn encode_commit(id: &MessageId, record: &CopyRecord, holders: &[NodeId], out: &mut Vec<u8>) {
    out.push(3);
    encode_record(record, holders, out);
    out.extend_from_slice(id.as_bytes());
}

fn encode_record(record: &CopyRecord, holders: &[NodeId], out: &mut Vec<u8>) {
    out.extend_from_slice(&record.version.0.to_le_bytes());
    out.extend_from_slice(&record.length.to_le_bytes());
    out.extend_from_slice(&record.crc.to_le_bytes());
    out.push(holders.len() as u8);
    for node in holders {
        out.extend_from_slice(&node.0.to_le_bytes());
    }
}

/// An id that is not the end of its record.
fn encode_short_id(id: &MessageId, out: &mut Vec<u8>) {
    out.push(id.as_bytes().len() as u8);
    out.extend_from_slice(id.as_bytes());
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or("a record that is too short")?;
        self.0 = rest;
        Ok(*head)
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn version(&mut self) -> Result<Version, String> {
        Ok(Version(u64::from_le_bytes(self.array()?)))
    }

    fn record(&mut self) -> Result<(CopyRecord, Holders), String> {
        let record = CopyRecord { version: self.version()?, length: self.u32()?, crc: self.u32()? };
        let count = self.array::<1>()?[0] as usize;
        if count == 0 || count > MAX_TOLERANCE {
            return Err(format!("a commit on {count} nodes"));
        }
        let holders = (0..count).map(|_| Ok(NodeId(self.u32()?))).collect::<Result<Holders, String>>()?;
        Ok((record, holders))
    }

    fn short_id(&mut self) -> Result<MessageId, String> {
        let length = usize::from(self.array::<1>()?[0]);
        let (id, rest) = self.0.split_at_checked(length).ok_or("a record that is too short")?;
        self.0 = rest;
        MessageId::from_bytes(id).map_err(|bad| bad.to_string())
    }

    fn text(&mut self) -> Result<&'a str, String> {
        std::str::from_utf8(std::mem::take(&mut self.0)).map_err(|_| "a record with bad text".to_owned())
    }
}

/// What a log says.
#[derive(Debug)]
pub struct Recovered {
    /// The log, ready for more.
    pub log: RecordLog,
    /// The committed messages.
    pub mapping: Mapping,
    /// The members, each as last told.
    pub members: Vec<Member>,
    /// Transactions without an end.
    pub transactions: Transactions,
    /// Members that are to be emptied.
    pub draining: BTreeSet<NodeId>,
    /// Those that are members no more.
    pub removed: BTreeSet<Removed>,
    /// The last leader found what was in the log before it to be old, and did not come to settle that.
    pub old: bool,
    /// The last reign, if there ever was one.
    pub last: Option<Reign>,
    /// The leader process of every epoch that this log began, from the last one that had to hear every node.
    pub runs: BTreeMap<Epoch, u64>,
    /// How far all this can be believed.
    pub trust: Trust,
    /// A torn end that was cut off.
    pub torn: Option<Torn>,
    /// Records read.
    pub records: u64,
}

/// What is read along the way.
struct Reading {
    mapping: Mapping,
    transactions: Transactions,
    members: Vec<Member>,
    draining: BTreeSet<NodeId>,
    removed: BTreeSet<Removed>,
    old: bool,
    last: Option<(Reign, String, IoMode)>,
    /// Every beginning, for [`Recovered::runs`] and a rewritten log.
    began: BTreeMap<Epoch, Event>,
    /// Of the last reign, before a power cut is considered.
    trust: Trust,
    closed: bool,
    records: u64,
}

impl Reading {
    fn new(seed: u64) -> Self {
        Self {
            mapping: Mapping::new(seed),
            transactions: Transactions::default(),
            members: Vec::new(),
            draining: BTreeSet::new(),
            removed: BTreeSet::new(),
            old: false,
            last: None,
            began: BTreeMap::new(),
            trust: Trust::Nothing,
            closed: false,
            records: 0,
        }
    }

    /// About how many records say all that is still true.
    fn live(&self) -> u64 {
        self.mapping.len() + self.mapping.tombstones() + (self.members.len() + self.removed.len()) as u64
    }

    fn take(&mut self, event: Event) {
        self.records += 1;
        self.closed = matches!(event, Event::Closed);
        if let Event::Began { reign, trust, .. } = &event {
            if *trust == Trust::Nothing {
                // That leader heard everyone: who had the epochs before does not matter any more.
                self.began.clear();
                self.transactions.forget_undecided(None);
            }
            self.began.insert(reign.epoch, event.clone());
        }
        match event {
            Event::Began { reign, boot_id, io_mode, trust, .. } => {
                self.old |= trust == Trust::Nothing && !self.mapping.is_empty();
                self.last = Some((reign, boot_id, io_mode));
                self.trust = trust;
            }
            // One that joined in the moment in which it was removed stays removed.
            Event::Member(member) if self.removed.iter().any(|removed| removed.uuid == member.uuid) => {}
            Event::Member(member) => {
                self.members.retain(|known| known.id != member.id);
                self.members.push(member);
            }
            Event::Removed(removed) => {
                let is_it = |member: &Member| member.uuid == removed.uuid;
                if self.members.iter().any(is_it) {
                    self.draining.remove(&removed.id);
                }
                self.members.retain(|member| !is_it(member));
                self.removed.insert(removed);
            }
            Event::Commit(commit) => self.commit(&commit),
            Event::Commits(commits) => commits.iter().for_each(|commit| self.commit(commit)),
            Event::Prepared { name, writes } => self.transactions.prepare(name, writes),
            Event::Aborted { name } => self.transactions.abort(name),
            Event::Forgotten { id, version } => drop(self.mapping.forget(&id, version)),
            Event::Horizon(version) => self.mapping.raise_horizon(version),
            Event::Draining { node, on: true } => drop(self.draining.insert(node)),
            Event::Draining { node, on: false } => drop(self.draining.remove(&node)),
            Event::Whole(version) => {
                (self.trust, self.old) = (Trust::Whole, false);
                self.mapping.note_committed(version);
            }
            Event::Closed => {}
        }
    }

    fn commit(&mut self, commit: &Commit) {
        self.mapping.apply(commit);
        self.transactions.hear(commit);
    }

    /// Whether the last writes were left to the page cache of another boot.
    fn power_cut_possible(&self, boot_id: &str) -> bool {
        self.last.as_ref().is_some_and(|(_, last_boot, _)| last_boot != boot_id)
    }

    fn trust(&self, boot_id: &str) -> Trust {
        match &self.last {
            None => Trust::Nothing,
            Some(_) if seeded::active(Bug::BufferedLogBelieved) => self.trust,
            Some((_, _, IoMode::Buffered)) if !self.closed && self.power_cut_possible(boot_id) => match self.trust {
                Trust::Nothing => Trust::Nothing,
                Trust::Whole | Trust::MayLackItsEnd => Trust::MayLackItsEnd,
            },
            Some(_) => self.trust,
        }
    }
}

/// Opens the log in `folder`, making an empty one if there is none. Blocks.
pub fn open(folder: &Arc<dyn Folder>, boot_id: &str, seed: u64) -> Result<Recovered, LogError> {
    let reading = RefCell::new(Reading::new(seed));
    let mut visit = |_offset: u64, bytes: &[u8]| {
        reading.borrow_mut().take(Event::decode(bytes)?);
        Ok(())
    };
    let verdict = |damage: &_| judge(damage, reading.borrow().power_cut_possible(boot_id));
    let opened = RecordLog::open_with(folder.clone(), LOG_FILE, MAGIC, LONGEST, &mut visit, &verdict)?;
    let reading = reading.into_inner();
    let trust = reading.trust(boot_id);
    let last = reading.last.as_ref().map(|(reign, _, _)| *reign);
    let run = |(epoch, began): (&Epoch, &Event)| match began {
        Event::Began { run, .. } => Some((*epoch, *run)),
        _ => None,
    };
    let runs = reading.began.iter().filter_map(run).collect();
    let mut log = opened.log;
    if reading.records > COMPACT_FROM && reading.records > 2 * reading.live() {
        log.replace_with(rewrite::live_records(&reading, trust))?;
    }
    let Reading { mapping, transactions, members, draining, removed, old, records, .. } = reading;
    let torn = opened.torn;
    Ok(Recovered { log, mapping, transactions, members, draining, removed, old, last, runs, trust, torn, records })
}

/// The log did not take an event: whether it did is not known, and it is not true.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the leader's log cannot be written: {0}")]
pub struct NotLogged(pub String);

/// A disk that has not answered the log for this long is said to hang.
const LATE: Duration = Duration::from_secs(3);

/// The way to the log's thread.
#[derive(Debug, Clone)]
pub struct Ledger {
    jobs: mpsc::UnboundedSender<Job>,
    busy: Busy,
}

/// Since when the log's thread waits for the disk, while it does.
#[derive(Debug, Clone, Default)]
struct Busy(Arc<Mutex<Option<Instant>>>);

impl Busy {
    fn with<T>(&self, work: impl FnOnce() -> T) -> T {
        self.set(Some(Instant::now()));
        let done = work();
        self.set(None);
        done
    }

    fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

#[derive(Debug)]
struct Job {
    records: Vec<u8>,
    ends: Vec<usize>,
    sync: bool,
    done: oneshot::Sender<Result<(), NotLogged>>,
}

impl Ledger {
    /// Starts the log's thread.
    pub fn start(
        mut log: RecordLog,
        io_mode: IoMode,
        rewriting: Rewriting,
        hands: &Hands,
        stop: &Stop,
    ) -> std::io::Result<Self> {
        if io_mode == IoMode::Unbuffered {
            log.keep_room();
        }
        let (jobs, queue) = mpsc::unbounded_channel();
        let rewriter = Rewriter::new(rewriting, &log, hands.clone());
        let busy = Busy::default();
        let writer = write_loop(log, io_mode, rewriter, queue, busy.clone(), stop.clone());
        hands.spawn("journal", stop.needed("journal", writer))?;
        Ok(Self { jobs, busy })
    }

    /// For how long the disk under the log has not answered, if that is far too long.
    pub fn late(&self) -> Option<Duration> {
        let since = *self.busy.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.map(|since| since.elapsed()).filter(|late| *late >= LATE)
    }

    /// Appends events. When this returns `Ok`, they are as safe as the IO mode says (the rare ones: synced).
    /// The queue is bounded by what the coordinator lets in.
    pub async fn append(&self, events: &[Event]) -> Result<(), NotLogged> {
        let (done, answer) = oneshot::channel();
        let mut job = Job {
            records: Vec::with_capacity(events.len() * 64),
            ends: Vec::with_capacity(events.len()),
            sync: false,
            done,
        };
        for event in events {
            event.encode(&mut job.records);
            job.ends.push(job.records.len());
            job.sync |= event.is_synced();
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

/// Ends when every [`Ledger`] is gone, or when the log is beyond use.
async fn write_loop(
    mut log: RecordLog,
    io_mode: IoMode,
    mut rewriter: Rewriter,
    mut queue: mpsc::UnboundedReceiver<Job>,
    busy: Busy,
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
            Err(error) => say(&log, error, &stop),
        }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::transaction::MOST_IDS;
    use super::*;

    fn there_and_back(event: &Event) -> Result<Event, String> {
        let mut bytes = Vec::new();
        event.encode(&mut bytes);
        Event::decode(&bytes)
    }

    fn ids() -> impl Strategy<Value = MessageId> {
        proptest::collection::vec(any::<u8>(), 1..=200).prop_map(|bytes| MessageId::from_bytes(&bytes).unwrap())
    }

    fn commits() -> impl Strategy<Value = Commit> {
        let holders = proptest::collection::vec(any::<u32>(), 1..=MAX_TOLERANCE);
        (ids(), any::<(u64, u32, u32)>(), holders).prop_map(|(id, (version, length, crc), holders)| {
            let record = CopyRecord { version: Version(version), length, crc };
            Commit { id, record, holders: holders.into_iter().map(NodeId).collect() }
        })
    }

    proptest! {
        #[test]
        fn records_with_ids_of_any_bytes_are_read_as_they_were_written(
            commits in proptest::collection::vec(commits(), 1..9),
            cut in any::<proptest::sample::Index>(),
        ) {
            let version = commits[0].record.version;
            let writes = commits.iter().map(|commit| (commit.id.clone(), commit.record.version)).collect();
            let events = [
                Event::Commit(commits[0].clone()),
                Event::Forgotten { id: commits[0].id.clone(), version },
                Event::Prepared { name: version, writes },
                Event::Aborted { name: version },
                Event::Removed(Removed { id: NodeId(version.sequence()), uuid: Uuid([7; 16]) }),
                Event::Commits(commits),
            ];
            for event in events {
                prop_assert_eq!(there_and_back(&event), Ok(event.clone()));
                let mut bytes = Vec::new();
                event.encode(&mut bytes);
                bytes.truncate(cut.index(bytes.len()));
                prop_assert_ne!(Event::decode(&bytes), Ok(event));
            }
        }

        #[test]
        fn no_bytes_are_too_strange_to_be_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(event) = Event::decode(&bytes) {
                prop_assert_eq!(there_and_back(&event), Ok(event));
            }
        }
    }

    #[test]
    fn the_largest_transaction_fits_into_a_record() {
        let record = CopyRecord { version: Version(u64::MAX), length: 1, crc: 1 };
        let id = MessageId::from_bytes(&[0xff; 200]).unwrap();
        let commit = Commit { id, record, holders: (0..MAX_TOLERANCE as u32).map(NodeId).collect() };
        let mut bytes = Vec::new();
        Event::Commits(vec![commit; MOST_IDS]).encode(&mut bytes);
        assert!(bytes.len() <= LONGEST, "{} bytes", bytes.len());
    }

    #[test]
    fn records_of_earlier_versions_are_read() {
        let commit = |bytes: &[u8]| Event::decode(bytes);
        let bytes = b"\x03\x07\0\0\0\x01\0\0\0\x05\0\0\0\x63\0\0\0\x02\x01\0\0\0\x02\0\0\0a/b";
        let record = CopyRecord { version: Version(1 << 32 | 7), length: 5, crc: 99 };
        let holders = [NodeId(1), NodeId(2)].into_iter().collect();
        assert_eq!(commit(bytes), Ok(Event::Commit(Commit { id: "a/b".parse().unwrap(), record, holders })));
        assert!(commit(b"\x0d").unwrap_err().contains("use a newer hatokuse"));
    }
}
