use std::io;
use std::path::Path;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;

use super::*;
use crate::clock::SystemClock;
use crate::cluster::knowledge::Trust;
use crate::cluster::mapping::Commit;
use crate::cluster::state::Event;
use crate::durable::Disk;
use crate::durable::executor::Executor;
use crate::durable::sim::{Fault, MemDisk};
use crate::leader::journal::{LOG_FILE, Record, encode_event};
use crate::leader::ledger::Agreed;
use crate::raft::proto::{Request, Response, SnapshotPart};
use crate::raft::{Addresses, Group, Lane, PeerNetwork, Runtime, Settings};
use crate::stop::Stop;
use crate::types::{CopyRecord, Deadline, Epoch, Leadership, Member, NodeId, Removed, Uuid, Version};

const METADATA: &str = "/leader_metadata";
const GROUP: &str = "/leader_metadata/group";

/// Nobody is there.
#[derive(Debug)]
struct Nobody;

impl PeerNetwork for Nobody {
    fn call(&self, _: &str, _: Lane, _: Request) -> BoxFuture<'static, io::Result<Response>> {
        Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
    }

    fn snapshot(&self, _: &str, _: BoxStream<'static, SnapshotPart>) -> BoxFuture<'static, io::Result<Response>> {
        Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
    }
}

fn leadership(epoch: u32) -> Leadership {
    Leadership { cluster_id: Uuid([5; 16]), epoch: Epoch(epoch) }
}

fn version(sequence: u32) -> Version {
    Version::new(Epoch(3), sequence)
}

fn commit(id: &str, record: CopyRecord) -> Event {
    Event::Commit(Commit { id: id.parse().unwrap(), record, holders: [NodeId(1), NodeId(2)].into_iter().collect() })
}

/// Some of all that can be true.
fn events() -> Vec<Event> {
    let member = |id, byte| Member { id: NodeId(id), uuid: Uuid([byte; 16]), address: format!("n{id}:5555") };
    let mut events = vec![
        Event::Member(member(1, 1)),
        Event::Member(member(2, 2)),
        Event::Removed(Removed { id: NodeId(3), uuid: Uuid([3; 16]) }),
        Event::Draining { node: NodeId(2), on: true },
        Event::Tolerance(3),
        Event::Time(1_800_000_000_000),
        Event::User { name: "ann".to_owned(), rules: Some(b"on ~* +@all".to_vec()) },
    ];
    for n in 0..40 {
        let expires = (n % 3 == 0).then(|| Deadline::at(1_900_000_000_000 + u64::from(n))).flatten();
        events.push(commit(&format!("id{n}"), CopyRecord { version: version(n + 1), length: n, crc: n, expires }));
    }
    events.push(commit("id7", CopyRecord::tombstone(version(300))));
    events
}

/// Opens a group of one peer, or of more that are not there.
async fn open(disk: &MemDisk, snapshot_log_bytes: u64) -> (Group<Replica>, Arc<Replica>, Stop) {
    let stop = Stop::new();
    let replica = Arc::new(Replica::new(&mut fastrand::Rng::with_seed(4), Arc::new(SystemClock), stop.clone()));
    let addresses = Addresses { peer: "a:1".to_owned(), ..Addresses::default() };
    let mut settings = Settings::new(7, addresses, disk.boot_id());
    settings.runtime = Runtime::Current(Executor::Inline);
    settings.snapshot_log_bytes = snapshot_log_bytes;
    let folder = disk.folder(Path::new(GROUP)).unwrap();
    let group = Group::open(settings, folder, replica.clone(), Arc::new(Nobody), stop.clone()).await.unwrap();
    (group, replica, stop)
}

/// What a state has, in an order of its own.
fn told(events: impl Iterator<Item = Event>) -> Vec<String> {
    let mut told: Vec<String> = events.map(|event| format!("{event:?}")).collect();
    told.sort();
    told
}

/// The disk of a group of one that has agreed on all that, and what a leader of it begins with.
async fn left_alone(snapshot_log_bytes: u64) -> (MemDisk, Vec<String>) {
    let disk = MemDisk::new();
    drop(disk.folder(Path::new(METADATA)).unwrap());
    let (group, replica, stop) = open(&disk, snapshot_log_bytes).await;
    group.found([(7, "a:1".to_owned())].into()).await.unwrap();
    group.leading().wait_for(|standing| standing.leads.is_some()).await.unwrap();
    let agreed = Agreed::new(group.clone(), replica.clone(), stop);
    for epoch in [1, 3] {
        agreed.begin(leadership(epoch), 40 + u64::from(epoch), Trust::Nothing).await.unwrap();
    }
    for some in events().chunks(5) {
        agreed.put_in(Epoch(3), some, encode_event).await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    agreed.put_in(Epoch(3), &[Record::Whole(version(300))], Record::encode).await.unwrap();
    assert_eq!(group.status().snapshot.is_some(), snapshot_log_bytes < 10_000);
    group.close().await;
    let mut told_of = Vec::new();
    replica.lead(|begins| {
        assert_eq!((begins.trust, begins.old), (Trust::Whole, false));
        told_of = told(begins.state.snapshot());
        Arc::new(crate::leader::known::Known::new(crate::cluster::Cluster::new(3, begins.state, begins.trust)))
    });
    (disk, told_of)
}

fn leave(disk: &MemDisk) -> Result<Left, String> {
    let failed = |error: io::Error| error.to_string();
    let metadata = disk.folder(Path::new(METADATA)).map_err(failed)?;
    let group = disk.folder(Path::new(GROUP)).map_err(failed)?;
    let replica = Replica::new(&mut fastrand::Rng::with_seed(8), Arc::new(SystemClock), Stop::new());
    leave_group(&replica, &metadata, ("group", &group), &disk.boot_id())
}

/// What an only leader reads.
fn read(disk: &MemDisk) -> Vec<String> {
    let metadata = disk.folder(Path::new(METADATA)).unwrap();
    let recovered = journal::open(&metadata, &disk.boot_id(), 1).unwrap();
    assert_eq!((recovered.trust, recovered.old, recovered.torn.is_some()), (Trust::Whole, false, false));
    assert_eq!(recovered.state.last(), Some(leadership(3)));
    told(recovered.state.snapshot())
}

#[tokio::test(start_paused = true)]
async fn an_only_leader_goes_on_with_all_that_the_group_had() {
    for snapshot_log_bytes in [1024, 64 << 20] {
        let (disk, wanted) = left_alone(snapshot_log_bytes).await;
        assert!(wanted.len() > 40);
        let left = leave(&disk.after_kill()).unwrap();
        assert_eq!(left, Left { messages: 39, kept: "group.left".to_owned() });
        let disk = disk.after_power_cut(&mut fastrand::Rng::with_seed(1));
        assert_eq!(leave(&disk).unwrap(), left);
        assert_eq!(read(&disk), wanted);
        let kept = disk.peek(Path::new("/leader_metadata/group.left"));
        assert!(kept.contains_key("log") && kept.contains_key("peer"), "{:?}", kept.keys());
        assert!(disk.peek(Path::new(GROUP)).is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn it_breaks_off_anywhere_and_is_begun_anew() {
    let (base, wanted) = left_alone(1024).await;
    let all = {
        let disk = base.after_kill();
        let before = disk.calls();
        leave(&disk).unwrap();
        disk.calls() - before
    };
    assert!(all > 20, "{all} calls");
    let (mut chance, mut half) = (fastrand::Rng::with_seed(2), 0);
    for call in 0..all {
        for fault in [Fault::CrashBefore, Fault::CrashAfter] {
            for round in 0..2 {
                let disk = base.after_kill();
                disk.fault_at(disk.calls() + call, fault);
                let broken = leave(&disk);
                let disk = if round == 0 { disk.after_kill() } else { disk.after_power_cut(&mut chance) };
                // As long as the group has the folder it has everything, and the log, if it is there, has everything too.
                let is_left = disk.peek(Path::new(GROUP)).is_empty();
                let has_log = disk.peek(Path::new(METADATA)).contains_key(LOG_FILE);
                assert!(has_log || !is_left, "call {call} {fault:?}");
                if has_log {
                    assert_eq!(read(&disk), wanted, "call {call} {fault:?}");
                    half += u32::from(!is_left);
                }
                if !is_left {
                    let again = leave(&disk);
                    assert!(again.is_ok(), "call {call} {fault:?}: {again:?}");
                }
                assert!(broken.is_err() || is_left || round > 0, "call {call} {fault:?}");
                assert_eq!(read(&disk), wanted, "call {call} {fault:?}");
            }
        }
    }
    assert!(half > 2, "the log was named, and the group not put aside: {half}");
}

#[tokio::test(start_paused = true)]
async fn who_has_others_beside_it_or_nothing_does_not_leave() {
    let others = MemDisk::new();
    drop(others.folder(Path::new(METADATA)).unwrap());
    let (group, ..) = open(&others, 64 << 20).await;
    group.found([(7, "a:1".to_owned()), (8, "b:1".to_owned()), (9, "c:1".to_owned())].into()).await.unwrap();
    group.close().await;
    let refused = leave(&others).unwrap_err();
    assert!(refused.contains("has other peers (8, 9)") && refused.contains("PEER REMOVE"), "{refused}");
    let never = MemDisk::new();
    drop(never.folder(Path::new(METADATA)).unwrap());
    assert!(leave(&never).unwrap_err().contains("never of a group"));
    let (group, ..) = open(&never, 64 << 20).await;
    group.close().await;
    assert!(leave(&never).unwrap_err().contains("never of a group"));
    // A learner that is added counts as one that may be about to get a vote.
    let (disk, _) = left_alone(64 << 20).await;
    let (group, ..) = open(&disk, 64 << 20).await;
    group.leading().wait_for(|standing| standing.leads.is_some()).await.unwrap();
    let added = tokio::time::timeout(Duration::from_secs(1), group.add(8, "b:1".to_owned())).await;
    assert!(added.is_err(), "nobody is there");
    group.close().await;
    assert!(leave(&disk).unwrap_err().contains("has other peers (8)"));
}
