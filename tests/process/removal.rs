//! Members are taken off the list for good, and their numbers are used again.

use std::fs;
use std::process::Command;

use crate::support::{Register, code, eventually, folder, refused_node, tells};

fn members(register: &Register) -> Vec<u64> {
    let status = register.status().unwrap();
    status["nodes"].as_array().unwrap().iter().map(|node| node["id"].as_u64().unwrap()).collect()
}

#[test]
fn a_dead_node_is_removed_and_its_number_given_to_a_new_disk() {
    let more = |builder: hatokuse::bench::launcher::Builder| builder.leader_args(["--repair-after", "5s"]);
    let mut register = Register::with(4, 2, folder(), more);
    register.fill("m", 200, "x");
    tells(&register.ask("REMOVE 3"), &["ERROR BAD_COMMAND", "not down", "DRAIN"]);
    tells(&register.ask("REMOVE 9"), &["ERROR BAD_COMMAND", "no node 9", "1, 2, 3, 4"]);
    register.kill_node(3).unwrap();
    register.wait_state(3, "down");
    tells(&register.ask("REMOVE 3"), &["ERROR UNAVAILABLE", "still holds 100 messages", "--repair-after"]);
    // What is deleted meanwhile waits for it, until it is no member any more.
    assert_eq!(register.ask("DEL m0"), "OK");
    eventually("its messages are on others", || (register.ask("REMOVE 3") == "OK").then_some(()));
    assert_eq!(members(&register), [1, 2, 4]);
    assert_eq!(register.status().unwrap()["under_replicated"], 0);
    assert_eq!(code(&register.ask("REMOVE 3")), "ERROR BAD_COMMAND");
    // The old folder comes back.
    let refused = ["node 3 was removed", "not let in any more", "hidden .hatokuse"];
    tells(&refused_node(register.dir(), 3, register.grpc_addr()), &refused);
    let old = folder();
    let away = old.path().join("storage_node_3");
    assert!(Command::new("cp").arg("-a").arg(register.node_dir(3)).arg(&away).status().unwrap().success());
    fs::remove_dir_all(register.node_dir(3)).unwrap();
    // A new disk under the same number.
    register.start_node(3).unwrap();
    register.wait_up(4).unwrap();
    assert_eq!(register.ask("REBALANCE"), "OK");
    eventually("the new node has its share", || (register.copies().unwrap()[&3] >= 90).then_some(()));
    tells(&refused_node(old.path(), 3, register.grpc_addr()), &refused);
    // The log says so to the next leader, and the nodes say so to one that has no log.
    for lost in [false, true] {
        register.kill_leader().unwrap();
        if lost {
            fs::remove_dir_all(register.metadata()).unwrap();
        }
        register.start_leader().unwrap();
        register.wait_up(4).unwrap();
        tells(&refused_node(old.path(), 3, register.grpc_addr()), &refused);
    }
    assert_eq!(members(&register), [1, 2, 3, 4]);
    assert_eq!(code(&register.ask("GET m0")), "ERROR NOT_FOUND");
    for n in 1..200 {
        assert_eq!(register.get(&format!("m{n}")), format!("x {n}"));
    }
}

#[test]
fn a_drained_node_that_is_removed_says_so_and_ends() {
    let mut register = Register::start(3, 2);
    register.fill("m", 60, "x");
    assert_eq!(register.ask("DRAIN 3"), "OK");
    eventually("it is empty", || (register.ask("REMOVE 3") == "OK").then_some(()));
    assert_eq!(members(&register), [1, 2]);
    eventually("it ends", || (!register.node_is_running(3)).then_some(()));
    let said = register.node_stderr(3);
    assert_eq!(said.matches("node 3 was removed from this register").count(), 1, "{said}");
    register.check("m", 60, "x");
    // It is over for the folder, not for the number.
    tells(&refused_node(register.dir(), 3, register.grpc_addr()), &["was removed"]);
    fs::remove_dir_all(register.node_dir(3)).unwrap();
    register.start_node(3).unwrap();
    register.wait_up(3).unwrap();
    register.check("m", 60, "x");
}
