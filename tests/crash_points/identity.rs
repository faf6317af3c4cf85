//! A node's own file: its making, a later epoch, the member list.

use std::path::Path;
use std::sync::Arc;

use hatokuse::durable::sim::{Fault, MemDisk, Op, errno};
use hatokuse::durable::{Disk, Folder};
use hatokuse::node::identity::IdentityFile;
use hatokuse::types::{Epoch, Fence, Layout, Leadership, Member, NodeId, Removed, Uuid};
use hatokuse::wire::MemberList;

use crate::harness::{Counts, Ending, crashes, errors, synced};

#[derive(Debug, Clone, Copy)]
enum Step {
    /// The node starts; a folder without a name takes this one.
    Open(u8),
    /// A leader of this epoch opens a lane.
    Admit(u32),
    /// As [`Admit`], while there is no room for another file.
    AdmitFull(u32),
    /// The leader tells of so many members.
    Learn(u32),
}
use Step::{Admit, AdmitFull, Learn, Open};

/// A path: its name, what was done before, and what is done while the disk fails.
const ROWS: &[(&str, &[Step], &[Step])] = &[
    ("identity, creation", &[], &[Open(1)]),
    ("identity, first epoch", &[Open(1)], &[Open(2), Admit(1)]),
    ("identity, later epoch", &[Open(1), Admit(1)], &[Open(2), Admit(2)]),
    ("identity, later epoch on a full disk", &[Open(1), Admit(1)], &[Open(2), AdmitFull(2), AdmitFull(3)]),
    ("identity, members", &[Open(1), Admit(1)], &[Open(2), Learn(3)]),
    ("identity, everything", &[], &[Open(1), Admit(1), Learn(2), Admit(3), Learn(3)]),
];

/// What was answered with success.
#[derive(Debug, Default, Clone)]
struct Told {
    uuid: Option<Uuid>,
    epoch: Epoch,
    members: usize,
}

fn folder(disk: &MemDisk) -> std::io::Result<Arc<dyn Folder>> {
    disk.folder(Path::new("/storage_node_1"))
}

fn open(disk: &MemDisk, uuid: u8) -> std::io::Result<IdentityFile> {
    IdentityFile::open(folder(disk)?, NodeId(1), Uuid([uuid; 16]), Layout::Text)
}

fn fence(epoch: u32) -> Fence {
    let leadership = Leadership { cluster_id: Uuid([7; 16]), epoch: Epoch(epoch) };
    Fence { leadership, run: u64::from(epoch), session: u64::from(epoch) }
}

fn members(count: u32) -> Vec<Member> {
    let member = |n| Member { id: NodeId(n), uuid: Uuid([n as u8; 16]), address: format!("node-{n}:1") };
    (1..=count).map(member).collect()
}

/// As many that were removed.
fn removed(count: u32) -> Vec<Removed> {
    (1..=count).map(|n| Removed { id: NodeId(100 + n), uuid: Uuid([100 + n as u8; 16]) }).collect()
}

fn run(disk: &MemDisk, told: &mut Told, steps: &[Step]) {
    let mut file = None;
    for step in steps {
        match (*step, &file) {
            (Open(uuid), _) => {
                let Ok(opened) = open(disk, uuid) else { return };
                told.uuid = Some(opened.get().uuid);
                file = Some(opened);
            }
            (Admit(epoch) | AdmitFull(epoch), Some(opened)) => {
                if matches!(step, AdmitFull(_)) {
                    disk.fault_next(Op::Create, Fault::Fail(errno::ENOSPC));
                    disk.fault_next(Op::Rename, Fault::Fail(errno::ENOSPC));
                }
                if let Ok(Ok(())) = opened.admit(fence(epoch)) {
                    told.epoch = told.epoch.max(Epoch(epoch));
                }
            }
            (Learn(count), Some(opened)) => {
                if let Ok(()) = opened.learn(MemberList { members: members(count), removed: removed(count) }) {
                    told.members = count as usize;
                }
            }
            (_, None) => unreachable!("a row opens first"),
        }
    }
}

/// It is one whole file of one of its states, and never goes back.
fn check(disk: &MemDisk, told: &Told, what: &str) {
    let file = open(disk, 99).unwrap_or_else(|error| panic!("{what}: {error}"));
    let found = file.get();
    if let Some(uuid) = told.uuid {
        assert_eq!(found.uuid, uuid, "{what}: the folder has another name");
    }
    assert!(found.seen.map_or(Epoch(0), |(leadership, _)| leadership.epoch) >= told.epoch, "{what}: {found:?}");
    assert!(found.members.len() >= told.members && found.members == members(found.members.len() as u32), "{what}");
    assert_eq!(found.removed, removed(found.members.len() as u32), "{what}");
    assert!(file.admit(fence(50)).unwrap().is_ok(), "{what}: it does not go on");
    assert!(file.admit(fence(49)).unwrap().is_err(), "{what}: an older epoch is admitted");
}

#[test]
fn an_identity_is_whole_and_never_goes_back() {
    for (name, before, path) in ROWS {
        let (disk, mut told) = (MemDisk::new(), Told::default());
        run(&disk, &mut told, before);
        let before = synced(&disk);
        let act = |disk: &MemDisk| {
            let mut told = told.clone();
            run(disk, &mut told, path);
            told
        };
        let check = |disk: &MemDisk, told: &Told, ending: Ending, what: &str| {
            check(disk, told, &format!("{name}, {ending:?}, {what}"));
        };
        let mut counts: Counts = crashes(&before, act, check);
        counts.add(errors(&before, |disk, _, _| act(disk), check));
        counts.say(name);
    }
}

#[test]
fn only_the_latest_session_of_the_latest_epoch_commands() {
    let ours = |epoch: u32, run: u64, session: u64| {
        let leadership = Leadership { cluster_id: Uuid([7; 16]), epoch: Epoch(epoch) };
        Fence { leadership, run, session }
    };
    let foreign = Leadership { cluster_id: Uuid([8; 16]), epoch: Epoch(9) };
    // (who, whether it is let in)
    let table = [
        (ours(2, 20, 5), true),
        (ours(2, 20, 4), false),
        (ours(2, 21, 6), false),
        (ours(1, 10, 7), false),
        (Fence { leadership: foreign, run: 90, session: 8 }, false),
        (ours(2, 20, 6), true),
        (ours(3, 30, 1), true),
        (ours(2, 20, 7), false),
    ];
    let disk = MemDisk::new();
    let file = open(&disk, 1).unwrap();
    let mut commands = None;
    for (fence, enters) in table {
        assert_eq!(file.admit(fence).unwrap().is_ok(), enters, "{fence:?}");
        if enters {
            commands = Some(fence);
        }
        for (other, _) in table {
            assert_eq!(file.check(other).is_ok(), commands == Some(other), "{other:?} after {fence:?}");
        }
    }
}
