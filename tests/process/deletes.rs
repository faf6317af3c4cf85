//! DEL: what is gone stays gone, whoever comes back with it.

use std::fs;

use crate::support::{Register, code, eventually, mapping};

/// Everything of this id in the nodes' folders, hidden files too, but for the trash, where an old copy ends that was
/// found to be excess before its node was asked to confirm the deletion.
fn traces(register: &Register, nodes: u32, stem: &str) -> Vec<String> {
    let files = (1..=nodes).flat_map(|node| fs::read_dir(register.node_dir(node)).unwrap());
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let copies = names.filter(|name| !name.starts_with(".trash-"));
    copies.filter(|name| *name == format!("{stem}.txt") || name.ends_with(&format!("-{stem}"))).collect()
}

#[test]
fn a_deleted_message_is_gone_everywhere() {
    let register = Register::start(3, 2);
    register.fill("m", 50, "some");
    assert_eq!(register.ask("DEL m7"), "OK");
    assert_eq!(code(&register.ask("GET m7")), "ERROR NOT_FOUND");
    assert_eq!(code(&register.ask("WHERE m7")), "ERROR NOT_FOUND");
    assert_eq!(register.ask("COUNT"), "COUNT 49");
    assert_eq!(register.ask("DEL m7"), "OK", "it is gone");
    assert_eq!(register.ask("DEL never-was"), "OK");
    let replies = register.ask_all(["SET m8 x", "DEL m8", "GET m8", "SET m8 y", "GET m8", "DEL m9"].map(str::to_owned));
    assert_eq!(replies[1..2], ["OK"]);
    assert_eq!(replies[3..], ["OK", "VALUE y", "OK"]);
    assert_eq!(code(&replies[2]), "ERROR NOT_FOUND");
    // Once all members have confirmed it, nothing is left of it but what the log says.
    eventually("the end of the tombstones", || {
        (traces(&register, 3, "m7").is_empty() && traces(&register, 3, "m9").is_empty()).then_some(())
    });
    eventually("the view", || {
        let lines = mapping(&register.metadata());
        let has = |id: &str| lines.iter().any(|line| line.starts_with(&format!("{id}:")));
        (lines.len() == 48 && !has("m7") && has("m8")).then_some(())
    });
    let copies: u64 = register.copies().unwrap().values().sum();
    assert_eq!(copies, 48 * 2);
}

#[test]
fn who_was_away_does_not_bring_a_deleted_message_back() {
    let mut register = Register::start(3, 2);
    register.fill("m", 30, "old");
    register.kill_node(3).unwrap();
    register.wait_state(3, "down");
    for n in 0..30 {
        assert_eq!(register.ask(&format!("DEL m{n}")), "OK");
    }
    register.set("m1", "new");
    assert!(!traces(&register, 3, "m0").is_empty() || !traces(&register, 3, "m2").is_empty(), "node 3 has old copies");
    // Not even to a leader that has lost its folder: nodes 1 and 2 keep the tombstones until node 3 has confirmed.
    register.kill_leader().unwrap();
    fs::remove_dir_all(register.metadata()).unwrap();
    register.start_leader().unwrap();
    register.start_nodes(&[3]).unwrap();
    register.wait_up(3).unwrap();
    for n in (0..30).filter(|n| *n != 1) {
        assert_eq!(code(&register.ask(&format!("GET m{n}"))), "ERROR NOT_FOUND", "m{n}");
    }
    assert_eq!(register.get("m1"), "new");
    assert_eq!(register.ask("COUNT"), "COUNT 1");
    eventually("the end of the old copies", || {
        (0..30).filter(|n| *n != 1).all(|n| traces(&register, 3, &format!("m{n}")).is_empty()).then_some(())
    });
    // And it stays so when everybody comes again.
    register.kill_leader().unwrap();
    (1..=3).for_each(|node| register.kill_node(node).unwrap());
    register.start_nodes(&[1, 2, 3]).unwrap();
    register.start_leader().unwrap();
    register.wait_up(3).unwrap();
    assert_eq!(register.ask("COUNT"), "COUNT 1");
    assert_eq!(register.get("m1"), "new");
}

#[test]
fn a_deletion_needs_as_many_nodes_as_a_message() {
    let mut register = Register::start(2, 2);
    register.set("1", "x");
    register.kill_node(2).unwrap();
    register.wait_state(2, "down");
    assert_eq!(code(&register.ask("DEL 1")), "ERROR TOO_FEW_NODES");
    assert_eq!(register.get("1"), "x", "nothing happened");
    assert_eq!(register.ask("DEL 2"), "OK", "it never was");
}

/// A SET that node 1 has kept, and node 2 has not answered to.
fn unknown(register: &Register, id: &str) {
    register.pause_node(2).unwrap();
    assert_eq!(code(&register.ask(&format!("SET {id} secret"))), "ERROR UNKNOWN");
}

#[test]
fn what_a_failed_write_may_have_left_is_not_absent_and_does_not_come_back() {
    let mut register = Register::start(2, 2);
    register.set("other", "x");
    unknown(&register, "a");
    assert_eq!(code(&register.ask("GET a")), "ERROR UNAVAILABLE");
    assert_eq!(code(&register.ask("DEL a")), "ERROR TOO_FEW_NODES", "its tombstone finds no place");
    // Nor does a leader that knows nothing of that write delete it for nothing.
    register.kill_leader().unwrap();
    register.start_leader().unwrap();
    register.wait_status("node 1", |status| status["nodes"][0]["state"] == "up").unwrap();
    eventually("a refusal", || (code(&register.ask("DEL a")) == "ERROR TOO_FEW_NODES").then_some(()));
    register.resume_node(2).unwrap();
    register.wait_up(2).unwrap();
    // It is settled by itself: it went forward, as node 1 has it.
    eventually("the end of the doubt", || (register.ask("GET a") == "VALUE secret").then_some(()));
    assert_eq!(register.ask("DEL a"), "OK");
    for restart in ["node", "leader"] {
        assert_eq!(code(&register.ask("GET a")), "ERROR NOT_FOUND", "before the {restart} is restarted");
        if restart == "node" {
            register.kill_node(1).unwrap();
            register.start_nodes(&[1]).unwrap();
        } else {
            register.kill_leader().unwrap();
            register.start_leader().unwrap();
        }
        register.wait_up(2).unwrap();
    }
    assert_eq!(code(&register.ask("GET a")), "ERROR NOT_FOUND");
    assert_eq!((register.ask("COUNT").as_str(), register.get("other").as_str()), ("COUNT 1", "x"));
}

#[test]
fn nobody_counts_what_is_not_known() {
    let mut register = Register::start(2, 2);
    register.fill("m", 10, "x");
    register.kill_leader().unwrap();
    (1..=2).for_each(|node| register.kill_node(node).unwrap());
    register.start_leader().unwrap();
    assert_eq!(code(&register.ask("COUNT")), "ERROR UNAVAILABLE");
    let status = register.status().unwrap();
    assert_eq!(status["incomplete"], true, "{status}");
    let dbsize = |words: &str| {
        let mut wire = register.wire();
        wire.send(words);
        wire.line()
    };
    assert!(dbsize("*1\r\n$6\r\nDBSIZE\r\n").starts_with("-LOADING"));
    assert!(dbsize("*2\r\n$4\r\nINFO\r\n$8\r\nkeyspace\r\n").starts_with("-LOADING"));
    register.start_nodes(&[1, 2]).unwrap();
    register.wait_up(2).unwrap();
    eventually("the count", || (register.ask("COUNT") == "COUNT 10").then_some(()));
}
