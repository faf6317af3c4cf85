//! The view is exact after every change that it took up, and names those whom a leader without its log has to hear.

use std::io;
use std::path::Path;
use std::sync::Mutex;

use futures::future::BoxFuture;
use proptest::prelude::*;

use super::*;
use crate::clock::SystemClock;
use crate::cluster::mapping::Commit;
use crate::cluster::registry::Traits;
use crate::cluster::state::{Event, State};
use crate::durable::Disk;
use crate::durable::executor::Executor;
use crate::durable::sim::{Fault, MemDisk, Op};
use crate::leader::{Leader, METADATA_FOLDER, Seams, Settings, Source};
use crate::stop::Stop;
use crate::types::{CopyRecord, Epoch, IoMode, Leadership, Member, Uuid, Version};
use crate::wire::{Lane, LeaderPort, Network};

impl Index for Mutex<Cluster> {
    fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.lock().unwrap()
    }
}

const PATH: &str = "/leader";

#[derive(Debug, Clone)]
enum Step {
    Set(u8, Vec<u32>),
    Delete(u8),
    /// The id is not known any more: its deletion is forgotten, or only an old log spoke of it.
    Forget(u8),
    Write,
    /// The next call of this kind fails.
    Fail(Op),
}

fn step() -> impl Strategy<Value = Step> {
    let nodes = proptest::sample::subsequence(vec![1u32, 2, 30, 400_000], 1..=3);
    prop_oneof![
        6 => (any::<u8>(), nodes).prop_map(|(n, nodes)| Step::Set(n % 40, nodes)),
        2 => any::<u8>().prop_map(|n| Step::Delete(n % 40)),
        2 => any::<u8>().prop_map(|n| Step::Forget(n % 40)),
        4 => Just(Step::Write),
        1 => proptest::sample::select(vec![Op::Append, Op::Rename, Op::Read, Op::Create]).prop_map(Step::Fail),
    ]
}

fn id(n: u8) -> MessageId {
    // Of very different lengths, some of which are named by a hash.
    format!("{n}/{}", "x".repeat(usize::from(n) * 5)).parse().unwrap()
}

fn lines(cluster: &Cluster) -> Vec<String> {
    let mut lines = Vec::new();
    for part in 0..SHARDS {
        for (key, found) in cluster.mapping().records(part).filter(|(_, found)| !found.set.deleted) {
            let mut text = String::new();
            line(&mut text, &key.id(), &found.set.holders);
            lines.push(text);
        }
    }
    lines.sort();
    lines
}

fn file(disk: &MemDisk) -> Vec<String> {
    let text = String::from_utf8(disk.peek(Path::new(PATH))[VIEW_FILE].clone().unwrap()).unwrap();
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    lines.sort();
    lines
}

proptest! {
    #[test]
    fn the_file_is_what_the_index_says(steps in proptest::collection::vec(step(), 1..120)) {
        let disk = MemDisk::new();
        let mut view = View::new(disk.folder(Path::new(PATH)).unwrap(), 7);
        let index = Mutex::new(Cluster::new(2, State::new(1), Trust::Whole));
        let mut pending = BTreeSet::new();
        let mut anew = true;
        for (sequence, step) in (1u32..).zip(steps) {
            let version = Version::new(Epoch(1), sequence);
            match step {
                Step::Set(n, nodes) => {
                    let holders = nodes.into_iter().map(NodeId).collect();
                    let record = CopyRecord { version, length: 1, crc: 1, expires: None };
                    index.cluster().apply(&Event::Commit(Commit { id: id(n), record, holders }));
                    pending.insert(id(n));
                }
                Step::Delete(n) => {
                    let holders = [NodeId(1)].into_iter().collect();
                    index.cluster().apply(&Event::Commit(Commit { id: id(n), record: CopyRecord::tombstone(version), holders }));
                    pending.insert(id(n));
                }
                Step::Forget(n) => {
                    let version = index.cluster().mapping().newest(&id(n)).map(|found| found.record.version);
                    if let Some(version) = version {
                        index.cluster().apply(&Event::Forgotten { id: id(n), version });
                        pending.insert(id(n));
                    }
                }
                Step::Fail(op) => disk.fault_next(op, Fault::Short(5)),
                Step::Write => {
                    if !anew && !pending.is_empty() {
                        anew = view.take(&index, &pending).is_err();
                    }
                    pending.clear();
                    anew = anew && view.rewrite(&index).is_err();
                    prop_assert!(anew || file(&disk) == lines(&index.cluster()), "{:?}", file(&disk));
                }
            }
        }
    }
}

#[test]
fn a_changed_line_costs_no_look_at_the_others() {
    let disk = MemDisk::new();
    let mut view = View::new(disk.folder(Path::new(PATH)).unwrap(), 0);
    let index = Mutex::new(Cluster::new(2, State::new(1), Trust::Whole));
    let put = |sequence, n, node| {
        let record = CopyRecord { version: Version::new(Epoch(1), sequence), length: 1, crc: 1, expires: None };
        index.cluster().apply(&Event::Commit(Commit {
            id: id(n),
            record,
            holders: [NodeId(node)].into_iter().collect(),
        }));
    };
    (0..40).for_each(|n| put(1, n, 1));
    view.rewrite(&index).unwrap();
    put(2, 7, 2);
    let before = view.base;
    view.take(&index, &BTreeSet::from([id(7)])).unwrap();
    assert_eq!((view.base, view.cuts.len()), (before, 1), "one line was cut out, and nothing written anew");
    view.take(&index, &BTreeSet::from([id(7), id(8)])).unwrap();
    assert_eq!(view.cuts.len(), 1, "what is there as it should be stays");
    assert_eq!(file(&disk), lines(&index.cluster()));
}

#[test]
fn nodes_are_read_from_lines_of_a_view_and_from_nothing_else() {
    let disk = MemDisk::new();
    let folder = disk.folder(Path::new(PATH)).unwrap();
    assert_eq!(named_nodes(&*folder).unwrap(), BTreeSet::new());
    let long = "y".repeat(CHUNK + 10);
    let text = format!("a:1,2\r\nb%3A7:3\nno line\nc:0\nd:x\n:5\ne:1,2,3,4,5,6,7,8\n{long}:9\n{long}f:11\ng:12,");
    disk.plant(Path::new(PATH), VIEW_FILE, text.as_bytes());
    let nodes: Vec<u32> = named_nodes(&*folder).unwrap().into_iter().map(|node| node.0).collect();
    assert!([1, 2, 3, 5].iter().all(|node| nodes.contains(node)), "{nodes:?}");
    assert!(![0, 4, 6, 7, 8, 12].iter().any(|node| nodes.contains(node)), "{nodes:?}");
    let many: String = (0..200_000).map(|n| format!("{n}:{}\n", n % 50 + 1)).collect();
    disk.plant(Path::new(PATH), VIEW_FILE, many.as_bytes());
    assert_eq!(named_nodes(&*folder).unwrap(), (1..=50).map(NodeId).collect());
}

/// No node can be reached.
#[derive(Debug)]
struct NoNetwork;

impl Network for NoNetwork {
    fn open_lane(&self, _: NodeId, _: String) -> BoxFuture<'static, io::Result<Lane>> {
        Box::pin(std::future::ready(Err(io::ErrorKind::ConnectionRefused.into())))
    }

    fn leader(&self, _: String) -> BoxFuture<'static, io::Result<Box<dyn LeaderPort>>> {
        Box::pin(std::future::ready(Err(io::ErrorKind::ConnectionRefused.into())))
    }
}

/// A leader starts in a folder that has a view and no log, hears one node that holds nothing, and stops. Gives what it
/// waited for then, and what the view is at the end.
async fn start_without_log(disk: &MemDisk, view: &str, heard: u32) -> (Option<String>, String) {
    let folder = Path::new(PATH).join(METADATA_FOLDER);
    disk.folder(&folder).unwrap();
    disk.plant(&folder, VIEW_FILE, view.as_bytes());
    lead(disk, heard).await
}

async fn lead(disk: &MemDisk, heard: u32) -> (Option<String>, String) {
    let chance = fastrand::Rng::with_seed(1);
    let seams = Seams {
        disk: Arc::new(disk.clone()),
        network: Arc::new(NoNetwork),
        executor: Executor::Inline,
        chance,
        clock: Arc::new(SystemClock),
    };
    let (io_mode, repair_after) = (IoMode::Buffered, Duration::from_secs(30));
    let (rewrite_log_from, versions_an_epoch) = (u64::MAX, u32::MAX);
    let settings = Settings {
        tolerance: Some(1),
        io_mode,
        repair_after,
        auto_rebalance: false,
        cache_bytes: 0,
        largest_message: 1,
        rewrite_log_from,
        versions_an_epoch,
    };
    let stop = Stop::new();
    let leader = Leader::start(Path::new(PATH), settings, seams, stop.clone(), Source::File).await.unwrap();
    let waiting_for = {
        let mut cluster = leader.coordinator.cluster();
        let member = Member { id: NodeId(heard), uuid: Uuid([1; 16]), address: "host:1".to_owned() };
        cluster.registry.remember(member, Duration::ZERO);
        cluster.registry.join(NodeId(heard), 1, Traits::default(), Duration::ZERO);
        if cluster.leadership().is_none() {
            let leadership = Leadership { cluster_id: Uuid([2; 16]), epoch: Epoch(1) };
            cluster.apply(&Event::Began { leadership, run: 1, hears_all: false });
        }
        cluster.inventory_begins(NodeId(heard), 1);
        cluster.inventory_ends(NodeId(heard), 1, 0).unwrap();
        cluster.settle_knowledge();
        cluster.waiting_for()
    };
    tokio::time::sleep(EVERY * 4).await;
    stop.request();
    leader.close().await;
    let view = disk.peek(&Path::new(PATH).join(METADATA_FOLDER))[VIEW_FILE].clone().unwrap();
    (waiting_for, String::from_utf8(view).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_view_without_a_log_names_whom_to_hear_until_they_are_heard() {
    let disk = MemDisk::new();
    for _ in 0..2 {
        // Also the second time: then there is a log, which says nothing yet.
        let (waiting_for, view) = start_without_log(&disk, "a:1,2\n", 1).await;
        assert!(waiting_for.as_ref().is_some_and(|why| why.contains('2') && !why.contains('1')), "{waiting_for:?}");
        assert_eq!(view, "a:1,2\n", "it stays as it was");
    }
    assert_eq!(lead(&disk, 1).await.1, "a:1,2\n");
}

#[tokio::test(start_paused = true)]
async fn a_view_whose_nodes_were_all_heard_is_written_anew() {
    let (waiting_for, view) = start_without_log(&MemDisk::new(), "a:1\n", 1).await;
    assert_eq!((waiting_for, view.as_str()), (None, ""));
}
