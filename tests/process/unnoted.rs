//! Nodes whose disks take nothing, so that they cannot note a new leader: what they hold is read all the same.

use std::collections::BTreeMap;

use crate::layers::{Faulty, LAYOUTS};
use crate::mounts::Mount;
use crate::support::{Register, eventually, flip_byte, folder};

/// Another leader comes, for which node 1 answers reads and all others have joined.
fn succeed(register: &mut Register, nodes: usize) {
    register.kill_leader().unwrap();
    register.start_leader().unwrap();
    let reads = |status: &serde_json::Value| {
        let all = status["nodes"].as_array().unwrap();
        let up = all.iter().filter(|node| node["state"] == "up").count();
        let why = all[0]["reason"].as_str().unwrap_or_default();
        up == nodes && why.ends_with("it could not note this leader, and only answers reads")
    };
    let told = register.wait_status("node 1 to answer reads only", reads);
    told.unwrap_or_else(|why| panic!("{why}; {}", register.node_stderr(1)));
}

/// It joins by itself when its disk works again, and has not ended meanwhile.
fn comes_back(register: &mut Register) {
    let joined =
        |status: &serde_json::Value| status["nodes"][0]["state"] == "up" && status["nodes"][0]["reason"].is_null();
    let joined = register.wait_status("node 1 to join", joined);
    joined.unwrap_or_else(|why| panic!("{why}; {}", register.node_stderr(1)));
    assert!(register.node_is_running(1));
}

/// What it said once, and not with every try.
fn says_once(register: &Register) {
    let told = |said: &str, line: &str| said.lines().filter(|said| said.contains(line)).count();
    let (node, leader) = (register.node_stderr(1), register.leader_stderr());
    assert_eq!(told(&node, "the new leader could not be noted"), 1, "{node}");
    assert_eq!(told(&leader, "node 1 only answers reads"), 1, "{leader}");
}

/// Every call that changes something fails with this error, as on a disk that is read-only or full.
fn takes_nothing(error: &str) -> String {
    let calls =
        ["write", "create", "rename", "unlink", "truncate", "setxattr", "removexattr", "chmod", "utimens", "mkdir"];
    calls.map(|call| format!("{call} * {error}\n")).concat()
}

#[test]
fn a_node_that_cannot_note_a_new_leader_serves_reads_and_joins_when_it_can() {
    for (layout, error, said) in
        [(LAYOUTS[0], "EROFS", "Read-only file system"), (LAYOUTS[1], "ENOSPC", "No space left on device")]
    {
        let Some(mut faulty) = Faulty::start(4, 2, layout) else { return };
        faulty.register.fill("m", 40, "x");
        let mut with: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for n in 0..40 {
            let holders = faulty.register.holders(&format!("m{n}"));
            if let [1, other] = holders[..] {
                with.entry(other).or_default().push(n);
            }
        }
        faulty.fails(&takes_nothing(error));
        let register = &mut faulty.register;
        succeed(register, 4);
        register.check("m", 40, "x");
        // The only copies that are up are there; new ones go to the others.
        let (&other, here) = with.iter().max_by_key(|(_, here)| here.len()).expect("it holds some");
        register.kill_node(other).unwrap();
        register.wait_state(other, "down");
        for n in here {
            assert_eq!(register.get(&format!("m{n}")), format!("x {n}"), "{layout}");
        }
        register.fill("n", 10, "y");
        // It is said why there are too few.
        let another = (2..=4).find(|node| *node != other).unwrap();
        register.kill_node(another).unwrap();
        register.wait_state(another, "down");
        let refused = register.ask("SET new z");
        let named = refused.starts_with("ERROR TOO_FEW_NODES need 2 live nodes, have 2")
            && refused.contains(&format!("node 1: {said}; it could not note this leader"))
            && refused.contains("nothing was written");
        assert!(named, "{refused}");
        register.start_node(other).unwrap();
        register.start_node(another).unwrap();
        // Two of four say nothing from what they know: where messages are can be told when three answer.
        [other, another].into_iter().for_each(|node| register.wait_state(node, "up"));
        eventually("three to answer", || register.ask("WHERE n0").starts_with("NODES ").then_some(()));
        for n in 0..10 {
            assert!(!register.holders(&format!("n{n}")).contains(&1));
        }
        says_once(register);
        faulty.fails("");
        comes_back(&mut faulty.register);
        faulty.register.wait_up(4).unwrap();
        faulty.register.set("new", "z");
        faulty.register.check("m", 40, "x");
        faulty.register.check("n", 10, "y");
        faulty.is_whole(51, 2);
    }
}

/// Whatever node 2 lacks is read from node 1, which takes nothing.
fn reads_what_is_only_there(register: &mut Register) {
    succeed(register, 2);
    for n in 0..5 {
        flip_byte(&register.copy(2, &format!("m{n}")), 0);
    }
    register.check("m", 20, "x");
    let refused = register.ask("SET new y");
    assert!(refused.starts_with("ERROR TOO_FEW_NODES") && refused.contains("node 1: "), "{refused}");
}

#[test]
fn a_disk_that_has_become_read_only_is_read_by_a_new_leader() {
    let home = folder();
    let image = home.path().join("image");
    let Some(mount) = Mount::ext4(&home.path().join("storage_node_1"), &image, 32, &[]) else { return };
    let mut register = Register::with(2, 2, home, |builder| builder);
    register.fill("m", 20, "x");
    register.restart_node(1).unwrap();
    register.wait_up(2).unwrap();
    mount.break_down();
    reads_what_is_only_there(&mut register);
    assert!(register.node_is_running(1), "{}", register.node_stderr(1));
    drop(register);
}

#[test]
fn a_full_btrfs_with_snapshots_is_read_by_a_new_leader() {
    let home = folder();
    let Some(mount) = Mount::btrfs(&home.path().join("storage_node_1"), &home.path().join("image")) else { return };
    let mut register = Register::with(2, 2, home, |builder| builder);
    register.fill("m", 20, "x");
    assert!(mount.snapshot());
    mount.fill();
    reads_what_is_only_there(&mut register);
    mount.empty();
    comes_back(&mut register);
    eventually("it takes copies again", || (register.ask("SET new y") == "OK").then_some(()));
    register.check("m", 20, "x");
    drop(register);
}
