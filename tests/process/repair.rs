//! The register heals itself: copies of missing nodes, bad copies, copies too many, drained nodes, new tolerances.

use std::collections::BTreeMap;
use std::fs;

use crate::support::{Register, code, eventually, flip_byte, folder};

/// A register that repairs half a second after a node is down.
fn quick(nodes: u32, tolerance: usize) -> Register {
    Register::with(nodes, tolerance, folder(), |builder| builder.leader_args(["--repair-after", "500ms"]))
}

/// Waits until every message has exactly so many copies, all on these nodes.
fn healed(register: &Register, messages: u64, tolerance: u64, nodes: &[u32]) {
    let done = |status: &serde_json::Value| {
        let copies = |of: &[u32]| -> u64 {
            let all = status["nodes"].as_array().unwrap().iter();
            all.filter(|node| of.contains(&(node["id"].as_u64().unwrap() as u32)))
                .map(|n| n["messages"].as_u64().unwrap())
                .sum()
        };
        let everywhere: u64 = status["nodes"].as_array().unwrap().iter().map(|n| n["messages"].as_u64().unwrap()).sum();
        status["under_replicated"] == 0
            && status["repair"]["pending"] == 0
            && copies(nodes) == messages * tolerance
            && everywhere == messages * tolerance
    };
    register.wait_status("healed", done).unwrap();
}

/// The files of messages on each node.
fn files(register: &Register, nodes: u32) -> BTreeMap<u32, usize> {
    let count =
        |node| fs::read_dir(register.node_dir(node)).unwrap().filter(|f| is_message(f.as_ref().unwrap())).count();
    (1..=nodes).map(|node| (node, count(node))).collect()
}

fn is_message(file: &fs::DirEntry) -> bool {
    let name = file.file_name().into_string().unwrap();
    name.ends_with(".txt") && !name.starts_with('.')
}

#[test]
fn a_missing_nodes_messages_are_copied_again_and_it_is_reconciled_when_it_returns() {
    let mut register = quick(4, 2);
    register.fill("m", 400, "first");
    register.kill_node(3).unwrap();
    healed(&register, 400, 2, &[1, 2, 4]);
    register.check("m", 400, "first");
    // Whoever dies next takes nothing along.
    register.kill_node(1).unwrap();
    register.check("m", 400, "first");
    healed(&register, 400, 2, &[2, 4]);
    register.fill("m", 100, "second");
    // Node 3 comes back with copies that are too old and copies that are too many: they go into its trash.
    assert_eq!(files(&register, 4)[&3], 200);
    register.start_nodes(&[1, 3]).unwrap();
    register.wait_up(4).unwrap();
    eventually("nothing too much", || (files(&register, 4).values().sum::<usize>() == 800).then_some(()));
    healed(&register, 400, 2, &[1, 2, 3, 4]);
    for n in 0..400 {
        let value = if n < 100 { "second" } else { "first" };
        assert_eq!(register.get(&format!("m{n}")), format!("{value} {n}"));
    }
    let trash = fs::read_dir(register.node_dir(3)).unwrap();
    let trash = trash.filter(|f| f.as_ref().unwrap().file_name().to_string_lossy().starts_with(".trash-")).count();
    assert!(trash > 0);
    // It is like new: messages come to it again.
    assert_eq!(register.ask("REBALANCE"), "OK");
    register
        .wait_status("even", |status| {
            let counts: Vec<u64> =
                status["nodes"].as_array().unwrap().iter().map(|n| n["messages"].as_u64().unwrap()).collect();
            status["repair"]["rebalancing"] == false && counts == [200; 4]
        })
        .unwrap();
    assert_eq!(files(&register, 4).values().copied().collect::<Vec<_>>(), [200; 4]);
}

#[test]
fn what_cannot_be_repaired_is_told_with_reason_and_remedy() {
    let mut register = quick(3, 3);
    register.fill("m", 20, "x");
    register.kill_node(3).unwrap();
    let mut told = serde_json::Value::Null;
    register
        .wait_status("blocked", |status| {
            told = status["repair"]["blocked"][0].clone();
            told["ids"].as_array().is_some_and(|ids| !ids.is_empty())
        })
        .unwrap();
    assert_eq!(told["messages"], 20, "{told}");
    assert!(told["why"].as_str().unwrap().contains("3 copies are wanted and 2 nodes take any"), "{told}");
    assert!(told["help"].as_str().unwrap().contains("start a node"), "{told}");
    // A node returns: nothing has to be copied, and nothing is lost.
    register.start_nodes(&[3]).unwrap();
    register.wait_up(3).unwrap();
    healed(&register, 20, 3, &[1, 2, 3]);
}

#[test]
fn a_bad_copy_is_made_again_at_once() {
    let register = quick(3, 2);
    register.fill("m", 10, "sound");
    for (n, harm) in [(0, "flip"), (1, "gone"), (2, "empty")] {
        let id = format!("m{n}");
        let holder = register.holders(&id)[0];
        let file = register.copy(holder, &id);
        match harm {
            "flip" => flip_byte(&file, 1),
            "gone" => fs::remove_file(&file).unwrap(),
            _ => fs::write(&file, "").unwrap(),
        }
        eventually("the copy is there again", || {
            assert_eq!(register.get(&id), format!("sound {n}"));
            (fs::read(&file).ok()? == format!("sound {n}").as_bytes()).then_some(())
        });
    }
    // VERIFY finds what nobody reads, and says when all is well.
    let (gone, bad) = (register.copy(register.holders("m7")[0], "m7"), register.copy(register.holders("m8")[1], "m8"));
    let (gone_on, bad_on) = (register.holders("m7")[0], register.holders("m8")[1]);
    fs::remove_file(&gone).unwrap();
    flip_byte(&bad, 0);
    let mut wire = register.wire();
    wire.send("VERIFY\nPING\n");
    let mut lines = vec![wire.line(), wire.line()];
    lines.sort();
    assert_eq!(lines, [format!("COPY m7 {gone_on} MISSING"), format!("COPY m8 {bad_on} DAMAGED")]);
    assert_eq!(wire.line(), "VERIFIED messages=10 intact=18 bad=2 unknown=0");
    assert_eq!(wire.line(), "+PONG");
    eventually("all copies intact", || {
        (register.ask("VERIFY") == "VERIFIED messages=10 intact=20 bad=0 unknown=0").then_some(())
    });
    assert_eq!(fs::read(&gone).unwrap(), b"sound 7");
    assert_eq!(fs::read(&bad).unwrap(), b"sound 8");
}

#[test]
fn tolerance_changes_while_it_serves() {
    let register = quick(4, 2);
    register.fill("m", 100, "x");
    register.set_tolerance(3).unwrap();
    healed(&register, 100, 3, &[1, 2, 3, 4]);
    assert_eq!(files(&register, 4).values().sum::<usize>(), 300);
    register.set("new", "y");
    assert_eq!(register.holders("new").len(), 3);
    // What is no tolerance changes nothing, and is said.
    let conf = register.dir().join("tolerance.conf");
    for illegal in ["tolerance=0\n", "tolerance=8\n", "tolerance=abc\n", ""] {
        fs::write(&conf, illegal).unwrap();
        eventually("a warning", || register.leader_stderr().contains("tolerance stays 3").then_some(()));
    }
    assert_eq!(register.status().unwrap()["tolerance"], 3);
    register.set_tolerance(1).unwrap();
    healed(&register, 101, 1, &[1, 2, 3, 4]);
    eventually("the files are gone", || (files(&register, 4).values().sum::<usize>() == 101).then_some(()));
    register.check("m", 100, "x");
}

#[test]
fn a_node_is_drained_while_it_serves() {
    let mut register = quick(4, 2);
    register.fill("m", 400, "x");
    assert_eq!(code(&register.ask("DRAIN 9")), "ERROR BAD_COMMAND");
    assert_eq!(register.ask("DRAIN 2"), "OK");
    register.wait_state(2, "draining");
    register.set("during", "y");
    assert!(!register.holders("during").contains(&2));
    // It goes on after a restart of the leader.
    register.kill_leader().unwrap();
    register.start_leader().unwrap();
    healed(&register, 401, 2, &[1, 3, 4]);
    register.wait_state(2, "draining");
    eventually("an empty folder", || (files(&register, 4)[&2] == 0).then_some(()));
    eventually("the news", || register.leader_stderr().contains("node 2 is drained").then_some(()));
    register.check("m", 400, "x");
    // Two have to stay.
    assert_eq!(register.ask("DRAIN 3"), "OK");
    assert_eq!(code(&register.ask("DRAIN 4")), "ERROR TOO_FEW_NODES");
    assert_eq!(register.ask("UNDRAIN 3"), "OK");
    assert_eq!(register.ask("UNDRAIN 2"), "OK");
    register.wait_state(2, "up");
    healed(&register, 401, 2, &[1, 2, 3, 4]);
    // Evening out can be stopped at once.
    assert_eq!(register.ask_all(["REBALANCE".to_owned(), "REBALANCE STOP".to_owned()]), ["OK", "OK"]);
    assert_eq!(register.status().unwrap()["repair"]["rebalancing"], false);
    assert_eq!(register.ask("REBALANCE"), "OK");
    eventually("even", || {
        let counts = register.copies().unwrap();
        let (least, most) = (counts.values().min().unwrap(), counts.values().max().unwrap());
        (most - least <= 1).then_some(())
    });
    register.check("m", 400, "x");
}

#[test]
fn a_copy_too_many_stays_where_those_that_stay_are_bad() {
    let mut register = quick(3, 2);
    register.fill("m", 30, "sound");
    let held: Vec<usize> = (0..30).filter(|n| register.holders(&format!("m{n}")).contains(&1)).collect();
    register.kill_node(1).unwrap();
    healed(&register, 30, 2, &[2, 3]);
    // Nobody has looked at these since.
    let id = format!("m{}", held[0]);
    for node in [2, 3] {
        flip_byte(&register.copy(node, &id), 1);
    }
    // Its copies are too many by now, and one of them is the last that is good.
    register.start_node(1).unwrap();
    register.wait_up(3).unwrap();
    eventually("the others are gone", || (files(&register, 3)[&1] <= 1).then_some(()));
    eventually("it is the message again", || {
        let reply = register.ask(&format!("GET {id}"));
        assert!(!reply.starts_with("ERROR LOST"), "{reply}");
        (reply == format!("VALUE sound {}", held[0])).then_some(())
    });
    eventually("all copies intact", || {
        (register.ask("VERIFY") == "VERIFIED messages=30 intact=60 bad=0 unknown=0").then_some(())
    });
    register.check("m", 30, "sound");
}

#[test]
fn a_copy_that_cannot_be_read_is_passed_over_for_another_one() {
    let mut register =
        Register::with(4, 3, folder(), |builder| builder.leader_args(["--repair-after", "500ms", "--cache", "0"]));
    register.fill("m", 8, "sound");
    let ids = (0..8).map(|n| format!("m{n}")).filter(|id| register.holders(id) == [1, 2, 3]);
    let ids: Vec<String> = ids.collect();
    for id in &ids {
        // A folder in its place can be opened and not be read: nobody knows what became of the copy.
        let file = register.copy(1, id);
        fs::rename(&file, file.with_extension("moved")).unwrap();
        fs::create_dir(&file).unwrap();
    }
    register.kill_node(3).unwrap();
    for id in &ids {
        eventually("a copy on node 4", || (register.holders(id) == [1, 2, 4]).then_some(()));
    }
    assert!(!ids.is_empty());
}

#[test]
fn a_message_is_lost_when_the_copy_too_many_is_bad_too() {
    let mut register = quick(3, 2);
    register.fill("m", 8, "sound");
    let id = (0..8).map(|n| format!("m{n}")).find(|id| register.holders(id) == [1, 3]).unwrap();
    register.kill_node(3).unwrap();
    eventually("its copy is made again", || (register.holders(&id) == [1, 2]).then_some(()));
    register.kill_leader().unwrap();
    (1..=2).for_each(|node| register.kill_node(node).unwrap());
    (1..=3).for_each(|node| flip_byte(&register.copy(node, &id), 1));
    register.start_leader().unwrap();
    register.start_nodes(&[1, 2, 3]).unwrap();
    register.wait_up(3).unwrap();
    eventually("the truth", || (code(&register.ask(&format!("GET {id}"))) == "ERROR LOST").then_some(()));
    // Written again, it leaves nothing behind.
    register.set(&id, "new");
    eventually("no copy too many", || (files(&register, 3).values().sum::<usize>() == 16).then_some(()));
    assert_eq!(register.get(&id), "new");
}

#[test]
fn verify_names_a_node_that_is_away_in_one_line() {
    let mut register = Register::with(3, 2, folder(), |builder| builder);
    register.fill("m", 300, "x");
    register.kill_node(3).unwrap();
    register.wait_state(3, "down");
    let mut wire = register.wire();
    wire.send("VERIFY\n");
    assert_eq!(wire.line(), "NODE 3 UNKNOWN copies=200");
    assert_eq!(wire.line(), "VERIFIED messages=300 intact=400 bad=0 unknown=200");
}

#[test]
fn a_node_that_was_added_gets_its_share_by_itself_where_that_is_wanted() {
    let mut register =
        Register::with(3, 2, folder(), |builder| builder.leader_args(["--repair-after", "500ms", "--auto-rebalance"]));
    register.fill("m", 600, "x");
    register.start_node(4).unwrap();
    register.wait_up(4).unwrap();
    eventually("the copies are even", || {
        let copies = register.copies().unwrap();
        copies.values().all(|count| *count == 300).then_some(())
    });
    register.wait_status("it ends", |status| status["repair"]["rebalancing"] == false).unwrap();
    register.check("m", 600, "x");
}
