//! How nodes find their leader, and what they say when they do not.

use std::net::TcpListener;
use std::process::{Command, Stdio};

use crate::support::{BINARY, Register, Server, eventually, folder, hatokuse, run, tells};

#[test]
fn a_node_without_a_leader_starts_says_so_once_and_waits() {
    let home = folder();
    // Somebody who listens and hangs up at once, so that tries can be counted.
    let wrong = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = wrong.local_addr().unwrap();
    let grpc_port = address.port().to_string();
    let node = Server::start(home.path(), &["node", "--id", "1", "--port", "0", "--leader", &address.to_string()]);
    for _ in 0..6 {
        drop(wrong.accept().unwrap());
    }
    let ready = node.says("ready");
    assert!(ready.starts_with("node 1 ready grpc=127.0.0.1:"), "{ready}");
    tells(&node.says("cannot register"), &[&address.to_string(), "trying again until it works"]);
    // Each reason once, not once a try.
    let said = node.said();
    let reasons = said.lines().filter_map(|line| line.split("cannot register").nth(1));
    let mut reasons: Vec<&str> = reasons.collect();
    reasons.sort();
    let count = reasons.len();
    reasons.dedup();
    assert!(count == reasons.len() && count < 5, "{said}");
    drop(wrong);
    let leader = Server::start(home.path(), &["leader", "--port", "0", "--grpc-port", &grpc_port]);
    leader.says("node 1 joined");
    node.says("registered with the leader");
}

#[test]
fn a_node_outlives_a_hang_up() {
    let home = folder();
    let mut node = Server::start(home.path(), &["node", "--id", "1", "--port", "0", "--leader", "127.0.0.1:1"]);
    node.says("node 1 ready");
    node.signal(rustix::process::Signal::HUP);
    node.stop();
    assert_eq!(node.ends().code(), Some(0), "it drains when it is told to: {}", node.said());
}

#[test]
fn local_nodes_log_as_their_leader_does() {
    let home = folder();
    let args = ["leader", "--port", "0", "--grpc-port", "0", "--local-nodes", "1", "--log-format", "json"];
    let leader = Server::start(home.path(), &args);
    leader.says("registered with the leader");
    for line in leader.said().lines().filter(|line| !line.contains(" ready ") && !line.starts_with("leader http=")) {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn an_advertised_address_where_nobody_listens_is_told_to_the_node() {
    let register = Register::start(1, 1);
    let home = folder();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let args = ["node", "--id", "7", "--port", "0", "--leader", register.grpc_addr(), "--advertise", &closed];
    let node = Server::start(home.path(), &args);
    tells(&node.says("cannot register"), &["dialled", &closed, "back", "--advertise"]);
    let nodes = register.status().unwrap()["nodes"].as_array().unwrap().len();
    assert_eq!(nodes, 1, "it is no member");
    // One that no leader can dial is refused at once, and one where another node answers as well.
    let others = register.status().unwrap()["nodes"][0]["address"].as_str().unwrap().to_owned();
    for address in ["host:0", "a b:1"] {
        let args = ["node", "--id", "8", "--port", "0", "--leader", register.grpc_addr(), "--advertise", address];
        let output = run(&mut hatokuse(&args), b"");
        assert_eq!(output.status.code(), Some(2), "{address}");
        tells(&String::from_utf8_lossy(&output.stderr), &[address, "--advertise"]);
    }
    let args = ["node", "--id", "9", "--port", "0", "--leader", register.grpc_addr(), "--advertise", &others];
    let node = Server::start(home.path(), &args);
    tells(&node.says("--advertise"), &["this is node 1, not node 9", "an address of its own"]);
    register.set("1", "x");
    assert_eq!(register.holders("1"), [1]);
}

#[test]
fn a_node_that_is_being_emptied_is_seen_to_be_while_it_is_down() {
    let mut register = Register::start(3, 2);
    assert_eq!(register.ask("DRAIN 3"), "OK");
    register.wait_state(3, "draining");
    let third = |register: &Register| register.status().unwrap()["nodes"][2].clone();
    assert!(third(&register).get("draining").is_none(), "its state says it");
    register.kill_node(3).unwrap();
    register.wait_state(3, "down");
    assert_eq!(third(&register)["draining"], true);
    assert_eq!(register.ask("UNDRAIN 3"), "OK");
    assert!(third(&register).get("draining").is_none());
}

#[test]
fn an_address_where_another_folder_of_that_number_answers_is_refused() {
    let register = Register::start(1, 1);
    let (home, other) = (folder(), folder());
    // It listens as node 9, and never registers.
    let args = ["node", "--id", "9", "--port", "0", "--leader", "127.0.0.1:1"];
    let first = Server::start(home.path(), &args);
    let address = first.says("node 9 ready").split("grpc=").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let args = ["node", "--id", "9", "--port", "0", "--leader", register.grpc_addr(), "--advertise", &address];
    let line = Server::start(other.path(), &args).must_be_refused();
    tells(&line, &["another node answers at", &address, "--advertise"]);
    assert_eq!(register.status().unwrap()["nodes"].as_array().unwrap().len(), 1, "it is no member");
}

#[test]
fn the_whole_register_in_one_command() {
    let home = folder();
    let mut leader = Server::start(home.path(), &["leader", "--port", "0", "--grpc-port", "0", "--local-nodes", "3"]);
    let ready = leader.says("leader ready");
    let addr = ready.split("clients=").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    // Requests wait for the nodes.
    let mut wire = crate::support::Wire::to(&addr);
    assert_eq!(wire.ask("SET 1 hello"), "OK");
    assert_eq!(wire.ask("GET 1"), "VALUE hello");
    leader.says("node 3 ready");
    // One that was removed has ended for good.
    assert_eq!(eventually("it is empty", || Some(wire.ask("DRAIN 3")).filter(|told| told == "OK")), "OK");
    assert_eq!(eventually("it is removed", || Some(wire.ask("REMOVE 3")).filter(|told| told == "OK")), "OK");
    leader.says("local node 3 was removed, and is not started again");
    leader.stop();
    let code = leader.ends().code();
    let said = leader.said();
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("is down"), "a clean stop is nothing to warn of: {said}");
    // Its nodes are gone with it, and their folders free.
    let second = Server::start(home.path(), &["node", "--id", "1", "--port", "0", "--leader", "127.0.0.1:1"]);
    second.says("node 1 ready");
}

#[test]
fn a_leader_whose_local_nodes_cannot_start_says_why_and_ends_in_order() {
    let home = folder();
    // A /dev with nothing in it, as a container's may be.
    let bare = ["-m", "sh", "-c", "mount -t tmpfs none /dev && exec \"$@\"", "sh"];
    if !Command::new("unshare").args(bare).arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: this process may not mount file systems");
        return;
    }
    let mut leader = Command::new("unshare");
    leader.args(bare).args([BINARY, "leader", "--local-nodes", "1", "--config", "off"]).current_dir(home.path());
    leader.args(["--port", "0", "--grpc-port", "0", "--http-port", "off"]);
    let ended = leader.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    tells(&said, &["local node 1 cannot start", BINARY, "/dev/null", "No such file"]);
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn the_largest_number_of_a_node_is_one_like_any_other() {
    let register = Register::start(1, 2);
    let home = folder();
    let args = ["node", "--id", "4294967295", "--port", "0", "--leader", register.grpc_addr()];
    let node = Server::start(home.path(), &args);
    node.says("registered with the leader");
    register.wait_up(2).unwrap();
    register.set("1", "x");
    assert_eq!(register.ask("WHERE 1"), "NODES 1,4294967295");
    assert!(home.path().join("storage_node_4294967295/1.txt").exists());
}

#[test]
fn a_node_on_all_addresses_is_reached_where_the_leader_sees_it() {
    let home = folder();
    let register = Register::start(1, 1);
    let args =
        ["node", "--id", "7", "--port", "0", "--host", "0.0.0.0", "--insecure", "--leader", register.grpc_addr()];
    let node = Server::start(home.path(), &args);
    let ready = node.says("node 7 ready grpc=0.0.0.0:");
    let port = ready.rsplit(':').next().unwrap();
    register.wait_state(7, "up");
    assert!(
        register.ask("STATUS").contains(&format!("\"address\":\"127.0.0.1:{port}\"")),
        "{}",
        register.ask("STATUS")
    );
}
