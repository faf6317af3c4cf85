//! Nodes that are killed, paused and restarted while clients go on.

use crate::support::{Register, eventually, eventually_same, tells};
use crate::support_load::Load;

#[test]
fn a_killed_node_costs_no_answer() {
    let mut register = Register::start(4, 2);
    let load = Load::start(&register);
    load.goes_on(200);
    register.kill_node(2).unwrap();
    load.goes_on(400);
    register.wait_state(2, "down");
    load.goes_on(50);
    register.start_node(2).unwrap();
    register.wait_up(4).unwrap();
    load.goes_on(200);
    let told = load.finish();
    told.is_flawless();
    told.is_all_there(&register);
    // The one that came back takes its share again.
    let copies = register.copies().unwrap();
    assert!(copies.values().all(|&copies| copies > 0), "{copies:?}");
}

#[test]
fn a_paused_node_holds_nobody_up_and_says_nothing_old() {
    let register = Register::start(4, 2);
    register.fill("m", 40, "old");
    let load = Load::start(&register);
    load.goes_on(50);
    register.pause_node(3).unwrap();
    load.goes_on(100);
    register.fill("m", 40, "new");
    register.check("m", 40, "new");
    register.wait_state(3, "down");
    load.goes_on(100);
    register.resume_node(3).unwrap();
    register.wait_up(4).unwrap();
    register.check("m", 40, "new");
    load.goes_on(100);
    let told = load.finish();
    told.is_flawless();
    told.is_all_there(&register);
    register.check("m", 40, "new");
}

#[test]
fn a_pause_too_short_to_be_noticed_loses_nothing() {
    let register = Register::start(3, 3);
    let load = Load::start(&register);
    for node in [1, 2, 3, 1] {
        load.goes_on(20);
        register.pause_node(node).unwrap();
        // Every write needs this node: none is answered until it goes on.
        let mut wire = register.wire();
        wire.send("SET needs all\nPING\n");
        register.resume_node(node).unwrap();
        assert_eq!(wire.line(), "OK");
        assert_eq!(wire.line(), "+PONG");
    }
    let told = load.finish();
    told.is_flawless();
    told.is_all_there(&register);
}

#[test]
fn nodes_are_restarted_one_after_the_other_under_load() {
    let mut register = Register::start(4, 2);
    let load = Load::start(&register);
    for node in 1..=4 {
        load.goes_on(50);
        assert!(register.stop_node(node).unwrap().success(), "{}", register.node_stderr(node));
        load.goes_on(50);
        register.start_node(node).unwrap();
        register.wait_up(4).unwrap();
    }
    let told = load.finish();
    told.is_flawless();
    told.is_all_there(&register);
    let status = register.status().unwrap();
    assert_eq!((&status["lost"], &status["under_replicated"]), (&0.into(), &0.into()), "{status}");
}

#[test]
fn with_both_holders_away_the_answer_is_unavailable_and_comes_back() {
    let mut register = Register::start(4, 2);
    register.fill("m", 20, "x");
    let holders = register.holders("m0");
    for &node in &holders {
        register.kill_node(node).unwrap();
        register.wait_state(node, "down");
    }
    let reply = register.ask("GET m0");
    assert!(reply.starts_with("ERROR UNAVAILABLE "), "{reply}");
    for node in &holders {
        assert!(reply.contains(&node.to_string()), "it names node {node}: {reply}");
    }
    assert_eq!(register.status().unwrap()["lost"], 0, "what is away is not lost");
    // The id can be written all the same; then the old copies come back, and do not count.
    register.set("m0", "x 0");
    // With half of the nodes gone another leader could have them: what no node is asked for cannot be told.
    for request in ["GET never", "WHERE m0", "COUNT"] {
        tells(&register.ask(request), &["ERROR UNAVAILABLE ", "3 of 4 members"]);
    }
    assert_eq!(register.get("m0"), "x 0");
    register.start_nodes(&holders).unwrap();
    register.wait_up(4).unwrap();
    register.check("m", 20, "x");
    assert!(register.holders("m0").iter().all(|node| !holders.contains(node)));
}

#[test]
fn a_folder_that_lost_most_of_its_files_raises_an_alarm() {
    let mut register = Register::start(3, 2);
    register.fill("m", 60, "x");
    register.kill_node(1).unwrap();
    let mut removed = 0;
    for entry in std::fs::read_dir(register.node_dir(1)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "txt") {
            std::fs::remove_file(path).unwrap();
            removed += 1;
        }
    }
    assert!(removed > 10, "{removed}");
    register.start_node(1).unwrap();
    register.wait_up(3).unwrap();
    eventually("an alarm", || register.leader_stderr().contains("ALARM").then_some(()));
    register.check("m", 60, "x");
    assert_eq!(register.status().unwrap()["lost"], 0);
    // And the folder gone altogether: another uuid, which the number does not belong to.
    register.kill_node(1).unwrap();
    std::fs::remove_dir_all(register.node_dir(1)).unwrap();
    let line = crate::support::refused_node(register.dir(), 1, register.grpc_addr());
    crate::support::tells(&line, &["number 1 belongs to another folder", "--id"]);
    register.check("m", 60, "x");
}

#[test]
fn stop_means_finish_what_was_admitted() {
    let mut register = Register::start(3, 2);
    let load = Load::start(&register);
    load.goes_on(200);
    let status = register.stop_leader().unwrap();
    assert_eq!(status.code(), Some(0), "{}", register.leader_stderr());
    for node in 1..=3 {
        let status = register.stop_node(node).unwrap();
        assert_eq!(status.code(), Some(0), "{}", register.node_stderr(node));
    }
    let told = load.finish();
    register.start_leader().unwrap();
    register.start_nodes(&[1, 2, 3]).unwrap();
    register.wait_up(3).unwrap();
    told.is_all_there(&register);
    assert!(told.refused.is_empty(), "{:?}", told.refused);
    // What was admitted was finished: at most the one request in flight is unknown.
    let count = register.ask("COUNT");
    let kept = told.kept.len();
    assert!([format!("COUNT {kept}"), format!("COUNT {}", kept + 1)].contains(&count), "{count}, kept {kept}");
    eventually_same("copies", &(2 * count[6..].parse::<u64>().unwrap()), || register.copies().unwrap().values().sum());
}

#[test]
fn a_second_signal_stops_at_once() {
    let mut register = Register::start(2, 2);
    register.set("1", "x");
    // A write that cannot be decided keeps the drain busy.
    register.pause_node(1).unwrap();
    let mut wire = register.wire();
    wire.send("SET 2 y\n");
    register.signal_leader(rustix::process::Signal::TERM).unwrap();
    eventually("the drain", || register.leader_stderr().contains("a second signal stops at once").then_some(()));
    let _ = register.signal_leader(rustix::process::Signal::TERM);
    eventually("its end", || (!register.leader_is_running()).then_some(()));
    register.kill_leader().unwrap();
    register.resume_node(1).unwrap();
    register.start_leader().unwrap();
    register.wait_up(2).unwrap();
    assert_eq!(register.get("1"), "x");
    // That write may appear or not, but whole.
    let reply = register.ask("GET 2");
    assert!(reply == "VALUE y" || reply.starts_with("ERROR NOT_FOUND "), "{reply}");
}
