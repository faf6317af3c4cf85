//! A leader that is killed, stopped, or robbed of its folder.

use std::os::unix::fs::MetadataExt;

use crate::support::{Register, code, eventually, flip_byte, folder, refused_leader, refused_node, tells};
use crate::support_load::Load;

/// Kills every process.
fn kill_all(register: &mut Register, nodes: u32) {
    register.kill_leader().unwrap();
    (1..=nodes).for_each(|node| register.kill_node(node).unwrap());
}

#[test]
fn a_restarted_leader_keeps_everything() {
    let mut register = Register::start(3, 2);
    let load = Load::start(&register);
    load.goes_on(150);
    for kill in [true, false, true] {
        if kill {
            register.kill_leader().unwrap();
        } else {
            assert!(register.stop_leader().unwrap().success());
        }
        register.start_leader().unwrap();
        register.wait_up(3).unwrap();
        load.goes_on(150);
    }
    let told = load.finish();
    assert!(told.refused.is_empty(), "requests wait for nodes that are joining: {:?}", told.refused);
    told.is_all_there(&register);
    let epoch = register.status().unwrap()["epoch"].as_u64().unwrap();
    assert!(epoch >= 4, "every life is an epoch of its own: {epoch}");
}

#[test]
fn a_log_is_rewritten_while_the_leader_runs_and_loses_nothing() {
    let more = ["--rewrite-log-from", "16KiB"];
    let mut register = Register::with(3, 2, folder(), |builder| builder.leader_args(more));
    let log = register.metadata().join("mapping.log");
    // It is another file when it was rewritten.
    let file = || std::fs::metadata(&log).unwrap().ino();
    for life in 0..3 {
        let load = Load::start(&register);
        for rewritten in 0..3 {
            let before = file();
            eventually("a rewritten log", || {
                register.fill("outdated", 100, "before");
                (file() != before).then_some(())
            });
            register.fill("outdated", 100, &format!("{life}-{rewritten}"));
        }
        load.goes_on(50);
        register.kill_leader().unwrap();
        let told = load.finish();
        register.start_leader().unwrap();
        register.wait_up(3).unwrap();
        told.is_all_there(&register);
        register.check("outdated", 100, &format!("{life}-2"));
    }
}

#[test]
fn everything_killed_at_once_keeps_every_acknowledged_message() {
    let mut register = Register::start(3, 2);
    for round in 0..3 {
        let load = Load::start(&register);
        load.goes_on(150);
        kill_all(&mut register, 3);
        let told = load.finish();
        // In another order each time.
        if round == 1 {
            register.start_nodes(&[3, 1, 2]).unwrap();
            register.start_leader().unwrap();
        } else {
            register.start_leader().unwrap();
            register.start_nodes(&[2, 3, 1]).unwrap();
        }
        register.wait_up(3).unwrap();
        told.is_all_there(&register);
    }
}

#[test]
fn a_leader_without_its_folder_learns_everything_from_the_nodes() {
    const COUNT: usize = 60;
    let mut register = Register::start(3, 2);
    register.fill("m", COUNT, "old");
    register.fill("m", COUNT, "new");
    register.kill_leader().unwrap();
    register.kill_node(3).unwrap();
    std::fs::remove_dir_all(register.metadata()).unwrap();
    register.start_leader().unwrap();
    // Before anybody is believed, and then with one member missing: nothing is claimed.
    let asked = (0..COUNT).map(|n| format!("GET m{n}"));
    let asked = asked.chain(["GET never".to_owned(), "WHERE never".to_owned(), "WHERE m0".to_owned()]);
    let replies = register.ask_all(asked);
    assert!(replies.iter().all(|reply| reply.starts_with("ERROR UNAVAILABLE ")), "{replies:?}");
    register.wait_up(2).unwrap();
    for reply in register.ask_all((0..COUNT).map(|n| format!("GET m{n}")).chain(["GET never".to_owned()])) {
        tells(&reply, &["ERROR UNAVAILABLE "]);
    }
    tells(&register.ask("GET never"), &["ERROR UNAVAILABLE ", "node 3"]);
    register.start_node(3).unwrap();
    eventually("answers", || (register.ask(&format!("GET m{}", COUNT - 1)) == "VALUE new 59").then_some(()));
    register.check("m", COUNT, "new");
    assert_eq!(code(&register.ask("GET never")), "ERROR NOT_FOUND");
    assert_eq!(register.ask("COUNT"), format!("COUNT {COUNT}"));
    register.set("m0", "after");
    // It is a leader with a log again.
    register.kill_leader().unwrap();
    register.start_leader().unwrap();
    register.wait_up(3).unwrap();
    assert_eq!(register.get("m0"), "after");
}

#[test]
fn what_is_asked_of_a_leader_before_its_nodes_are_back_waits_for_them() {
    let mut register = Register::start(3, 2);
    register.set("m", "here");
    let holders = register.ask("WHERE m");
    register.kill_leader().unwrap();
    register.start_leader().unwrap();
    let asked = ["WHERE m", "GET m", "SET n after", "WHERE n", "GET never", "WHERE never"].map(str::to_owned);
    let replies = register.ask_all(asked);
    assert_eq!(replies[..3], [holders.as_str(), "VALUE here", "OK"]);
    tells(&replies[3], &["NODES "]);
    assert_eq!([code(&replies[4]), code(&replies[5])], ["ERROR NOT_FOUND"; 2]);
}

#[test]
fn an_old_value_is_never_shown_again() {
    const COUNT: usize = 40;
    let mut register = Register::start(3, 2);
    register.fill("m", COUNT, "old");
    register.kill_node(3).unwrap();
    register.wait_state(3, "down");
    register.fill("m", COUNT, "new");
    // The stale node comes back first, to a leader that knows nothing.
    kill_all_but(&mut register, 3);
    std::fs::remove_dir_all(register.metadata()).unwrap();
    register.start_node(3).unwrap();
    register.start_leader().unwrap();
    register.wait_up(1).unwrap();
    let mut seen_new = false;
    let mut started = false;
    eventually("the new values", || {
        let replies = register.read("m", COUNT);
        for (n, reply) in replies.iter().enumerate() {
            assert!(
                *reply == format!("VALUE new {n}") || reply.starts_with("ERROR UNAVAILABLE "),
                "an old or wrong answer: {reply}"
            );
            seen_new |= reply.starts_with("VALUE");
        }
        if !started {
            assert!(!seen_new, "nobody who knows is there");
            register.start_nodes(&[1, 2]).unwrap();
            started = true;
        }
        replies.iter().all(|reply| reply.starts_with("VALUE new")).then_some(())
    });
    register.wait_up(3).unwrap();
    register.check("m", COUNT, "new");
    // Nor when the ones who know go away.
    register.kill_node(1).unwrap();
    register.kill_node(2).unwrap();
    for reply in register.read("m", COUNT) {
        assert!(reply.starts_with("VALUE new") || reply.starts_with("ERROR UNAVAILABLE "), "{reply}");
    }
}

fn kill_all_but(register: &mut Register, node: u32) {
    register.kill_leader().unwrap();
    (1..=3).filter(|&other| other != node).for_each(|other| register.kill_node(other).unwrap());
}

#[test]
fn an_old_backup_of_the_leaders_folder_is_noticed() {
    let mut register = Register::start(3, 2);
    register.fill("m", 20, "old");
    assert!(register.stop_leader().unwrap().success());
    let backup = folder();
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        assert!(std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
    };
    copy(&register.metadata(), backup.path());
    register.start_leader().unwrap();
    register.wait_up(3).unwrap();
    register.fill("m", 20, "new");
    register.set("later", "x");
    register.kill_leader().unwrap();
    std::fs::remove_dir_all(register.metadata()).unwrap();
    copy(&backup.path().join("leader_metadata"), register.dir());
    register.start_leader().unwrap();
    eventually("the new values", || {
        let replies = register.read("m", 20);
        for reply in &replies {
            assert!(reply.starts_with("VALUE new") || reply.starts_with("ERROR UNAVAILABLE "), "{reply}");
        }
        replies.iter().all(|reply| reply.starts_with("VALUE")).then_some(())
    });
    assert_eq!(register.get("later"), "x");
    register.check("m", 20, "new");
}

#[test]
fn a_restarted_leader_waits_for_members_until_they_are_given_up() {
    let mut register = Register::start(4, 2);
    register.fill("m", 40, "old");
    assert!(register.stop_leader().unwrap().success());
    (1..=2).for_each(|node| register.kill_node(node).unwrap());
    register.start_leader().unwrap();
    register.wait_up(2).unwrap();
    // Nodes 1 and 2 might follow a later leader, and be the holders of what it wrote.
    for request in ["SET new x", "GET new", "COUNT", "DEL new"] {
        tells(&register.ask(request), &["ERROR UNAVAILABLE", "1, 2", "REMOVE <node> FORCE"]);
    }
    let waits = |status: &serde_json::Value| {
        status["waiting_for"].as_str().is_some_and(|why| why.contains("nodes 1, 2") && why.contains("FORCE"))
    };
    assert!(waits(&register.status().unwrap()));
    tells(&register.ask("REMOVE 1"), &["ERROR UNAVAILABLE", "nothing was removed"]);
    tells(&register.ask("REMOVE 3 FORCE"), &["ERROR UNAVAILABLE", "not down"]);
    assert_eq!(register.ask("REMOVE 1 FORCE"), "OK");
    // Two of three are enough.
    assert_eq!(register.ask("SET new x"), "OK");
    assert_eq!(register.get("new"), "x");
    assert_eq!(code(&register.ask("GET never")), "ERROR NOT_FOUND");
    register.start_node(2).unwrap();
    register.wait_up(3).unwrap();
    eventually("all copies", || (register.status().unwrap()["under_replicated"] == 0).then_some(()));
    register.check("m", 40, "old");
    // It is logged, and its folder is not let in any more.
    register.kill_leader().unwrap();
    register.start_leader().unwrap();
    register.wait_up(3).unwrap();
    assert_eq!(register.status().unwrap()["nodes"].as_array().unwrap().len(), 3);
    tells(&refused_node(register.dir(), 1, register.grpc_addr()), &["node 1 was removed"]);
    register.check("m", 40, "old");
}

#[test]
fn a_torn_end_of_the_log_is_cut_off_and_said() {
    let mut register = Register::start(3, 2);
    register.fill("m", 20, "x");
    for lost in [3, 1, 30] {
        register.kill_leader().unwrap();
        let log = std::fs::OpenOptions::new().write(true).open(register.metadata().join("mapping.log")).unwrap();
        let length = log.metadata().unwrap().len();
        log.set_len(length - lost).unwrap();
        register.start_leader().unwrap();
        tells(&register.leader_stderr(), &["torn end", "were cut off"]);
        register.wait_up(3).unwrap();
        // The nodes know what the log forgot.
        let all = || register.read("m", 20).iter().enumerate().all(|(n, reply)| *reply == format!("VALUE x {n}"));
        eventually("everything", || all().then_some(()));
        register.fill("m", 20, "x");
    }
}

#[test]
fn damage_in_the_middle_of_the_log_stops_the_start() {
    let mut register = Register::start(3, 2);
    register.fill("m", 200, "x");
    assert!(register.stop_leader().unwrap().success());
    let log = register.metadata().join("mapping.log");
    let good = std::fs::read(&log).unwrap();
    for at in [good.len() / 4, good.len() / 2, good.len() * 3 / 4] {
        flip_byte(&log, at);
        let damaged = std::fs::read(&log).unwrap();
        let line = refused_leader(register.dir(), &[]);
        tells(&line, &["leader_metadata/mapping.log", "damaged at byte ", "nothing was changed"]);
        let offset = line.split("at byte ").nth(1).unwrap();
        let offset: usize = offset.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap();
        assert!(offset <= at && at - offset < 4096, "{offset} for {at}");
        assert_eq!(std::fs::read(&log).unwrap(), damaged, "nothing was changed");
        std::fs::write(&log, &good).unwrap();
    }
    // What the line advises works: away with the file, and the nodes tell everything.
    flip_byte(&log, good.len() / 2);
    std::fs::rename(&log, log.with_extension("log.damaged")).unwrap();
    register.start_leader().unwrap();
    register.wait_up(3).unwrap();
    let all = || register.read("m", 200).iter().enumerate().all(|(n, reply)| *reply == format!("VALUE x {n}"));
    eventually("everything", || all().then_some(()));
    assert_eq!(register.ask("COUNT"), "COUNT 200");
}

#[test]
fn a_leader_that_was_paused_judges_nobody() {
    let register = Register::start(3, 2);
    register.fill("m", 20, "x");
    register.signal_leader(rustix::process::Signal::STOP).unwrap();
    // As long as it takes a node to miss it.
    eventually("a node to notice", || {
        (1..=3).any(|node| register.node_stderr(node).contains("lost the leader")).then_some(())
    });
    register.signal_leader(rustix::process::Signal::CONT).unwrap();
    register.check("m", 20, "x");
    // Who has missed it comes anew, which ends the connection of before.
    eventually("who left to be back", || {
        (1..=3)
            .all(|node| {
                let said = register.node_stderr(node);
                let times = |words: &str| said.matches(words).count();
                times("registered with the leader") > times("lost the leader")
            })
            .then_some(())
    });
    register.wait_up(3).unwrap();
    for n in 0..20 {
        eventually("a write", || (register.ask(&format!("SET m{n} y {n}")) == "OK").then_some(()));
    }
    assert!(!register.leader_stderr().contains("is down: no heartbeat"), "{}", register.leader_stderr());
    register.check("m", 20, "y");
}

#[test]
fn a_check_of_everything_does_not_hold_up_a_stop() {
    let mut register = Register::start(2, 2);
    register.fill("m", 500, "x");
    // It does not answer, so that each batch of the check takes as long as an answer may.
    register.pause_node(2).unwrap();
    let mut wire = register.wire();
    wire.send("PING\nVERIFY\n");
    assert_eq!(wire.line(), "+PONG");
    assert!(register.stop_leader().unwrap().success(), "{}", register.leader_stderr());
}
