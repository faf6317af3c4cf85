//! The leader's log and its view. A new path is a row of [`rows`].

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hatokuse::clock::SystemClock;
use hatokuse::cluster::knowledge::Trust;
use hatokuse::cluster::mapping::Commit;
use hatokuse::cluster::state::Event;
use hatokuse::cluster::state::prepared::Standing;
use hatokuse::durable::executor::Executor;
use hatokuse::durable::sim::MemDisk;
use hatokuse::durable::{Disk, Folder};
use hatokuse::leader::journal::{self, Journal, Record, Rewriting};
use hatokuse::leader::view::VIEW_FILE;
use hatokuse::leader::{Leader, METADATA_FOLDER, Seams, Settings, Source};
use hatokuse::stop::Stop;
use hatokuse::types::{CopyRecord, Epoch, IoMode, Leadership, Member, MessageId, NodeId, Removed, Uuid, Version};
use hatokuse::wire::{Lane, LeaderPort, Network};

use crate::harness::{Counts, Ending, crashes, errors, synced};

#[derive(Debug, Clone)]
enum Step {
    /// The leader starts, and begins the next epoch.
    Begin,
    /// The log takes these records, as one batch.
    Append(Vec<Record>),
}
use Step::{Append, Begin};

/// One path: what the log holds, and what is done while the disk fails.
struct Row {
    name: &'static str,
    before: Vec<Step>,
    path: Vec<Step>,
}

fn rows() -> Vec<Row> {
    let row = |name, before, path| Row { name, before, path };
    let some =
        || vec![Begin, Append(vec![Record::Whole(Version(0)), member(1), member(2), commit("a", 1), commit("b", 2)])];
    let closed = || [some(), vec![Append(vec![Record::Closed])]].concat();
    let outdated = Append((0..10_001).map(|n| commit("a", 10 + n)).collect());
    let undecided = vec![
        Append(vec![commits("t", 10), prepared("u", 30), prepared("w", 34)]),
        Append(vec![aborted(34)]),
        Append((0..10_001).map(|n| commit("a", 100 + n)).collect()),
    ];
    let deleted = Append(vec![delete("a", 3)]);
    let forgotten = Record::Event(Event::Forgotten { id: id("a"), version: v(3) });
    vec![
        row("journal, first start", vec![], vec![Begin]),
        row("journal, start", closed(), vec![Begin]),
        row("journal, start after a crash", some(), vec![Begin]),
        row("journal, append", closed(), vec![Begin, Append(vec![commit("a", 5)]), Append(vec![commit("c", 6)])]),
        row("journal, batch of several", closed(), vec![Begin, Append((0..5).map(|n| commit("m", 10 + n)).collect())]),
        row("journal, registration", closed(), vec![Begin, Append(vec![commit("c", 4), member(3)])]),
        row("journal, DEL", closed(), vec![Begin, deleted.clone(), Append(vec![forgotten])]),
        row(
            "journal, drain",
            closed(),
            vec![Begin, Append(vec![Record::Event(Event::Draining { node: NodeId(1), on: true })])],
        ),
        row(
            "journal, a member is removed and its number used again",
            closed(),
            vec![Begin, Append(vec![commit("c", 4), removed(2), successor(2)]), Append(vec![removed(1)])],
        ),
        row("journal, the time", closed(), vec![Begin, Append(time(1_000, 50)), Append(time(2_000, 1_050))]),
        row("journal, users", closed(), vec![Begin, Append(vec![user("a")]), Append(vec![user("b"), user("c")])]),
        row("journal, clean stop", some(), vec![Begin, Append(vec![commit("c", 4)]), Append(vec![Record::Closed])]),
        row(
            "journal, a transaction",
            some(),
            vec![Begin, Append(vec![prepared("t", 30)]), Append(vec![commits("t", 30)])],
        ),
        row(
            "journal, intents",
            some(),
            vec![
                Begin,
                Append(vec![intent("i", 30), intent("j", 31)]),
                Append(vec![concluded(30), intent("c", 32)]),
                Append(vec![dropped(31), intent("k", 33)]),
                Append(vec![concluded(32), commit("k", 34)]),
            ],
        ),
        row(
            "journal, a transaction that fails",
            some(),
            vec![Begin, Append(vec![prepared("t", 30)]), Append(vec![aborted(30)]), Append(vec![commit("t0", 40)])],
        ),
        row(
            "journal, compaction with transactions and intents",
            [some(), undecided, vec![Append(vec![intent("i", 12_000), intent("j", 12_001)])]].concat(),
            vec![Begin, Append(vec![commit("u0", 11_000), concluded(12_000)])],
        ),
        row(
            "journal, rewritten while it runs",
            [some(), vec![deleted.clone()]].concat(),
            vec![
                Begin,
                Append(
                    [(0..200).map(|n| commit("a", 10 + n)).collect(), vec![prepared("t", 300), prepared("u", 310)]]
                        .concat(),
                ),
                Append(vec![commits("t", 300)]),
                Append(vec![member(3), removed(3), commit("b", 320)]),
                Append(vec![aborted(310), intent("i", 330), intent("b", 331)]),
                Append(vec![concluded(331)]),
            ],
        ),
        row(
            "journal, compaction",
            [some(), vec![deleted, Append(vec![member(3), removed(2), removed(3), successor(2)]), outdated]].concat(),
            // That it joined in the moment of its removal changes nothing.
            vec![Begin, Append(vec![commit("c", 9), member(3)])],
        ),
    ]
}

fn id(text: &str) -> MessageId {
    text.parse().unwrap()
}

fn v(sequence: u32) -> Version {
    Version::new(Epoch(1), sequence)
}

fn member(node: u32) -> Record {
    let address = format!("node-{node}:1");
    Record::Event(Event::Member(Member { id: NodeId(node), uuid: Uuid([node as u8; 16]), address }))
}

fn time(unix_ms: u64, since_boot_ms: u64) -> Vec<Record> {
    vec![Record::Event(Event::Time(unix_ms)), Record::Clock { unix_ms, since_boot_ms }]
}

fn user(name: &str) -> Record {
    Record::Event(Event::User { name: name.to_owned(), rules: Some(b"on nopass ~* +@all".to_vec()) })
}

fn removed(node: u32) -> Record {
    Record::Event(Event::Removed(Removed { id: NodeId(node), uuid: Uuid([node as u8; 16]) }))
}

/// Another folder has the number of one that was removed.
fn successor(node: u32) -> Record {
    let (uuid, address) = (Uuid([100 + node as u8; 16]), format!("new-{node}:1"));
    Record::Event(Event::Member(Member { id: NodeId(node), uuid, address }))
}

fn commit(text: &str, sequence: u32) -> Record {
    let record = CopyRecord::of(v(sequence), text.as_bytes());
    Record::Event(Event::Commit(Commit { id: id(text), record, holders: [NodeId(1), NodeId(2)].into_iter().collect() }))
}

fn intent(text: &str, sequence: u32) -> Record {
    match commit(text, sequence) {
        Record::Event(Event::Commit(commit)) => Record::Event(Event::Intent(commit)),
        other => panic!("{other:?}"),
    }
}

fn concluded(sequence: u32) -> Record {
    Record::Event(Event::Concluded(vec![v(sequence)]))
}

fn dropped(sequence: u32) -> Record {
    Record::Event(Event::Dropped(vec![v(sequence)]))
}

const WRITES: u32 = 3;

/// A transaction of several ids, from this version on.
fn prepared(text: &str, sequence: u32) -> Record {
    let write = |n| (id(&format!("{text}{n}")), v(sequence + n));
    Record::Event(Event::Prepared { name: v(sequence), writes: (0..WRITES).map(write).collect() })
}

/// The end of [`prepared`].
fn commits(text: &str, sequence: u32) -> Record {
    let commits = (0..WRITES).map(|n| match commit(&format!("{text}{n}"), sequence + n) {
        Record::Event(Event::Commit(commit)) => commit,
        other => panic!("{other:?}"),
    });
    Record::Event(Event::Commits(commits.collect()))
}

fn delete(text: &str, sequence: u32) -> Record {
    let record = CopyRecord::tombstone(v(sequence));
    Record::Event(Event::Commit(Commit { id: id(text), record, holders: [NodeId(1), NodeId(2)].into_iter().collect() }))
}

fn aborted(sequence: u32) -> Record {
    Record::Event(Event::Aborted { name: v(sequence) })
}

/// What was asked of the log, and what it acknowledged.
#[derive(Debug, Default, Clone)]
struct Told {
    asked: Vec<Record>,
    acknowledged: Vec<Record>,
    epoch: Epoch,
}

/// Only what a story appends at once after a start makes a log of this length.
const REWRITING: Rewriting = Rewriting { from: 4096, seed: 1 };

const PATH: &str = "/data";

const CLUSTER: Uuid = Uuid([7; 16]);

fn folder(disk: &MemDisk) -> io::Result<Arc<dyn Folder>> {
    disk.folder(&Path::new(PATH).join(METADATA_FOLDER))
}

/// Runs a story in a runtime whose clock only jumps.
fn simulate<T>(story: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(story)
}

impl Told {
    fn run(&mut self, disk: &MemDisk, io_mode: IoMode, steps: &[Step]) {
        simulate(async {
            let stop = Stop::new();
            let mut ledger = None;
            for step in steps {
                let records = match step {
                    Begin => {
                        let Ok(folder) = folder(disk) else { return };
                        let Ok(recovered) = journal::open(&folder, &disk.boot_id(), 1) else { return };
                        let epoch = Epoch(recovered.state.last().map_or(0, |last| last.epoch.0) + 1);
                        assert!(epoch > self.epoch, "epoch {epoch} begins a second time");
                        let leadership = Leadership { cluster_id: CLUSTER, epoch };
                        let (boot_id, trust) = (disk.boot_id(), recovered.trust);
                        ledger =
                            Some(Journal::start(recovered.log, io_mode, REWRITING, &Executor::Inline, &stop).unwrap());
                        vec![Record::Began { leadership, run: u64::from(epoch.0), boot_id, io_mode, trust }]
                    }
                    Append(records) => records.clone(),
                };
                let Some(ledger) = &ledger else { return };
                self.asked.extend(records.iter().cloned());
                let failed = stop.failure().is_some();
                let logged = ledger.append_records(&records).await.is_ok();
                assert!(!(failed && logged), "an OK after the log had failed");
                if !logged && matches!(step, Begin) {
                    return;
                }
                if logged {
                    self.acknowledged.extend(records.iter().cloned());
                    if let [Record::Began { leadership, .. }] = records.as_slice() {
                        self.epoch = leadership.epoch;
                    }
                }
            }
            // What rewrites the log comes to its end.
            tokio::time::sleep(Duration::from_secs(1)).await;
            // Unless it ended for good, a log that failed once takes the next record.
            if let (Some(ledger), None) = (&ledger, stop.failure()) {
                let again = commit("again", 20_000);
                self.asked.push(again.clone());
                if ledger.append_records(std::slice::from_ref(&again)).await.is_ok()
                    || (stop.failure().is_none() && ledger.append_records(std::slice::from_ref(&again)).await.is_ok())
                {
                    self.acknowledged.push(again);
                } else {
                    assert!(disk.crashed() || stop.failure().is_some(), "it does not go on");
                }
            }
        });
    }

    /// What became true by these records.
    /// Whether it was asked to end with nothing.
    fn dropped(&self, intent: &Commit) -> bool {
        let of = |record: &Record| match record {
            Record::Event(Event::Dropped(versions)) => versions.contains(&intent.record.version),
            _ => false,
        };
        self.asked.iter().any(of)
    }

    fn commits(records: &[Record]) -> impl Iterator<Item = &Commit> {
        let events = records.iter().filter_map(|record| match record {
            Record::Event(event) => Some(event),
            _ => None,
        });
        events.flat_map(|event| match event {
            Event::Intent(intent) => std::slice::from_ref(intent),
            event => event.commits(),
        })
    }

    /// A restart: everything acknowledged is there, or the log says that it may lack its end; nothing is made up.
    fn check(&self, disk: &MemDisk, io_mode: IoMode, ending: Ending, what: &str) {
        let folder = folder(disk).unwrap();
        let found = journal::open(&folder, &disk.boot_id(), 1).unwrap_or_else(|error| panic!("{what}: {error}"));
        let unsafe_end = ending != Ending::Kill && io_mode == IoMode::Buffered && found.trust != Trust::Whole;
        let state = &found.state;
        let newest = |id: &MessageId| state.mapping().newest(id).map(|newest| newest.record.version);
        let there = |commit: &Commit| newest(&commit.id).unwrap_or(state.mapping().horizon()) >= commit.record.version;
        let standing = |name| state.prepared().standing(name).filter(|standing| *standing != Standing::Forward);
        let is_removed = |member: &Member| state.removed().iter().any(|removed| removed.uuid == member.uuid);
        let is_member = |member: &Member| state.members().any(|other| other == member);
        let asked = |removed: &Removed| self.asked.contains(&Record::Event(Event::Removed(*removed)));
        assert!(state.removed().iter().all(asked), "{what}: a removal is made up");
        for record in &self.acknowledged {
            let event = match record {
                Record::Event(event) => event,
                Record::Began { leadership, .. } => {
                    assert!(
                        state.last().is_some_and(|last| last.epoch >= leadership.epoch),
                        "{what}: {record:?} is gone"
                    );
                    continue;
                }
                Record::Whole(_) => {
                    assert!(found.trust != Trust::Nothing, "{what}: {record:?} is gone");
                    continue;
                }
                Record::Clock { unix_ms, .. } => {
                    // It is of the boot that it was noted in, or not known.
                    assert!(found.clock.is_none_or(|(time, _)| time >= *unix_ms), "{what}: {record:?} is gone");
                    continue;
                }
                Record::Closed => continue,
            };
            let there = match event {
                Event::Commit(_) | Event::Commits(_) | Event::Prepared { .. } if unsafe_end => true,
                Event::Intent(_) | Event::Concluded(_) | Event::Dropped(_) if unsafe_end => true,
                Event::Began { leadership, .. } => state.last() == Some(*leadership),
                Event::Member(member) => is_member(member) != is_removed(member),
                Event::Removed(removed) => state.removed().contains(removed),
                Event::Draining { node, on } => state.draining().contains(node) == *on,
                Event::Horizon(version) | Event::Forgotten { version, .. } => state.mapping().horizon() >= *version,
                Event::Commit(_) | Event::Commits(_) => event.commits().iter().all(there),
                // Until it has an end, or all that it writes is behind something newer.
                Event::Prepared { name, writes } => {
                    standing(*name).is_some() || writes.iter().all(|(id, version)| newest(id) >= Some(*version))
                }
                // Until it has an end.
                Event::Intent(intent) => {
                    there(intent) || state.intents().get(intent.record.version).is_some() || self.dropped(intent)
                }
                Event::Concluded(versions) | Event::Dropped(versions) => {
                    versions.iter().all(|version| state.intents().get(*version).is_none())
                }
                Event::Aborted { name } => standing(*name).is_none_or(|standing| standing == Standing::Aborted),
                Event::Tolerance(tolerance) => state.tolerance() == Some(usize::from(*tolerance)),
                Event::Time(time) => state.time() >= *time,
                Event::User { name, rules } => state.users().get(name) == rules.as_ref(),
            };
            assert!(there, "{what}: {event:?} was acknowledged and is gone; {:?}", found.trust);
        }
        let asked = |id: &MessageId, record: CopyRecord| {
            Self::commits(&self.asked).any(|commit| commit.id == *id && commit.record == record)
        };
        // A transaction is true as a whole, or not at all.
        for commits in self.asked.iter().filter_map(|record| match record {
            Record::Event(Event::Commits(commits)) => Some(commits),
            _ => None,
        }) {
            let all = commits.iter().filter(|commit| there(commit)).count();
            assert!(all == 0 || all == commits.len(), "{what}: {all} of a transaction's {} writes", commits.len());
        }
        for id in Self::commits(&self.asked).map(|commit| &commit.id).collect::<BTreeSet<_>>() {
            if let Some(newest) = state.mapping().newest(id) {
                assert!(asked(id, newest.record), "{what}: {id} is made up");
            }
        }
        assert!(state.last().is_none_or(|last| last.epoch <= Epoch(self.epoch.0 + 1)), "{what}");
    }
}

impl Row {
    fn enumerate(&self, io_mode: IoMode) -> Counts {
        let (disk, mut told) = (MemDisk::new(), Told::default());
        told.run(&disk, io_mode, &self.before);
        let before = synced(&disk);
        let act = |disk: &MemDisk| {
            let mut told = told.clone();
            told.run(disk, io_mode, &self.path);
            told
        };
        let check = |disk: &MemDisk, told: &Told, ending: Ending, what: &str| {
            told.check(disk, io_mode, ending, &format!("{}, {io_mode}, {ending:?}, {what}", self.name));
        };
        let mut counts = crashes(&before, act, check);
        counts.add(errors(&before, |disk, _, _| act(disk), check));
        counts
    }
}

#[test]
fn no_crash_and_no_error_on_the_journals_path_loses_a_record() {
    for row in rows() {
        let mut counts = row.enumerate(IoMode::Buffered);
        counts.add(row.enumerate(IoMode::Unbuffered));
        counts.say(row.name);
    }
}

/// Nobody answers.
#[derive(Debug)]
struct NoNetwork;

impl Network for NoNetwork {
    fn open_lane(&self, _: NodeId, _: String) -> BoxFuture<'static, io::Result<Lane>> {
        async { Err(io::ErrorKind::ConnectionRefused.into()) }.boxed()
    }

    fn leader(&self, _: String) -> BoxFuture<'static, io::Result<Box<dyn LeaderPort>>> {
        async { Err(io::ErrorKind::ConnectionRefused.into()) }.boxed()
    }
}

/// A leader's life of two seconds; true: it started, and nothing stopped it.
fn live(disk: &MemDisk) -> bool {
    simulate(async {
        let stop = Stop::new();
        let chance = fastrand::Rng::with_seed(1);
        let seams = Seams {
            disk: Arc::new(disk.clone()),
            network: Arc::new(NoNetwork),
            executor: Executor::Inline,
            chance,
            clock: Arc::new(SystemClock),
        };
        let settings = Settings {
            tolerance: Some(2),
            io_mode: IoMode::Unbuffered,
            repair_after: Duration::from_secs(30),
            auto_rebalance: false,
            cache_bytes: 0,
            largest_message: 1 << 20,
            rewrite_log_from: u64::MAX,
            versions_an_epoch: u32::MAX,
        };
        let Ok(leader) = Leader::start(Path::new(PATH), settings, seams, stop.clone(), Source::File).await else {
            return false;
        };
        tokio::time::sleep(Duration::from_secs(2)).await;
        stop.request();
        leader.close().await;
        stop.failure().is_none()
    })
}

/// The view's lines, sorted.
fn view(disk: &MemDisk) -> Vec<String> {
    let files = disk.peek(&Path::new(PATH).join(METADATA_FOLDER));
    let text = String::from_utf8(files[VIEW_FILE].clone().unwrap()).unwrap();
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn the_view_is_the_old_or_the_new_one_and_in_the_end_exact() {
    let disk = MemDisk::new();
    let many = (0..40).map(|n| commit(&format!("m/{n}"), 10 + n)).collect();
    Told::default().run(
        &disk,
        IoMode::Unbuffered,
        &[Begin, Append(vec![Record::Whole(Version(0)), member(1)]), Append(many)],
    );
    disk.plant(&Path::new(PATH).join(METADATA_FOLDER), VIEW_FILE, b"old:9\n");
    let before = synced(&disk);
    let exact = {
        let disk = before.after_kill();
        assert!(live(&disk));
        view(&disk)
    };
    assert!(exact.len() == 41 && exact.contains(&"m%2F7:1,2\n".to_owned()), "{exact:?}");
    let check = |disk: &MemDisk, lived: &bool, ending: Ending, what: &str| {
        if ending == Ending::Kill {
            let found = view(disk);
            assert!(found == exact || (!lived && found == ["old:9\n"]), "{what}, lived {lived}: {found:?}");
        }
        assert!(live(disk), "{what}: the next leader does not live");
        assert_eq!(view(disk), exact, "{what}: the next leader's view");
    };
    let mut counts = crashes(&before, live, check);
    counts.add(errors(&before, |disk, _, _| live(disk), check));
    counts.say("a leader's start, its view's rewriting and its stop");
}
