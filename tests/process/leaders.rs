//! Two leaders from copies of one log, alive at the same time.

use std::fs;
use std::time::Instant;

use crate::support::{PATIENCE, Register, Server, Wire, code, eventually, folder, tells};

/// Another leader, from a copy of the register's log, and the nodes that follow it.
struct Second {
    leader: Server,
    clients: String,
    grpc: String,
    nodes: Vec<Server>,
    _home: tempfile::TempDir,
}

impl Second {
    fn start(register: &Register) -> Self {
        let home = folder();
        let copied = home.path().join("leader_metadata");
        fs::create_dir(&copied).unwrap();
        fs::copy(register.metadata().join("mapping.log"), copied.join("mapping.log")).unwrap();
        fs::copy(register.dir().join("tolerance.conf"), home.path().join("tolerance.conf")).unwrap();
        let leader = Server::start(home.path(), &["leader", "--port", "0", "--grpc-port", "0"]);
        let ready = leader.says("leader ready");
        let part = |name: &str| ready.split(name).nth(1).unwrap().split(' ').next().unwrap().trim().to_owned();
        Self { clients: part("clients="), grpc: part("nodes="), leader, nodes: Vec::new(), _home: home }
    }

    /// A node of the register is started again, with this leader.
    fn take(&mut self, register: &mut Register, node: u32) {
        register.kill_node(node).unwrap();
        let id = node.to_string();
        let args = ["node", "--id", id.as_str(), "--port", "0", "--leader", &self.grpc];
        self.nodes.push(Server::start(register.dir(), &args));
    }

    fn ask(&self, line: &str) -> String {
        Wire::to(&self.clients).ask(line)
    }
}

#[test]
fn a_leader_whose_nodes_follow_another_one_says_that_it_cannot_tell() {
    let mut register = Register::with(3, 2, folder(), |builder| builder.leader_args(["--cache", "64MiB"]));
    for id in ["x", "gone"] {
        register.set(id, "first");
    }
    assert_eq!(register.get("x"), "first");
    let mut second = Second::start(&register);
    (1..=3).for_each(|node| second.take(&mut register, node));
    eventually("the second leader", || (second.ask("SET x second") == "OK").then_some(()));
    // The first one had the value in its cache, and its index knows nothing of what is new.
    let reply = register.ask("GET x");
    tells(&reply, &["ERROR UNAVAILABLE", "nodes 1, 2, 3", "another leader may have taken over"]);
    assert_eq!(second.ask("SET new second"), "OK");
    assert_eq!(second.ask("DEL gone"), "OK");
    for request in ["GET new", "GET gone", "WHERE x", "COUNT"] {
        assert_eq!(code(&register.ask(request)), "ERROR UNAVAILABLE", "{request}");
    }
    assert_ne!(register.ask("DEL new"), "OK");
    assert_ne!(register.ask("SET x third"), "OK");
    let mut redis = register.wire();
    for request in ["EXISTS gone", "STRLEN x", "TYPE new", "SETNX gone z", "DBSIZE", "KEYS *", "SCAN 0", "RANDOMKEY"] {
        let words: Vec<&str> = request.split(' ').collect();
        let mut wire = format!("*{}\r\n", words.len());
        words.iter().for_each(|word| wire += &format!("${}\r\n{word}\r\n", word.len()));
        redis.send(wire);
        let reply = redis.line();
        assert!(reply.starts_with("-CLUSTERDOWN") || reply.starts_with("-NOREPLICAS"), "{request}: {reply}");
    }
    let waits = register.status().unwrap()["waiting_for"].as_str().unwrap_or_default().to_owned();
    tells(&waits, &["nodes 1, 2, 3"]);
    assert_eq!(second.ask("GET new"), "VALUE second");
    assert_eq!(second.ask("GET x"), "VALUE second");
    assert!(register.leader_is_running(), "nobody could tell it");
    second.leader.stop();
}

#[test]
fn of_two_leaders_with_half_of_the_nodes_each_one_writes() {
    let mut register = Register::start(4, 2);
    register.fill("x", 20, "first");
    let mut second = Second::start(&register);
    (3..=4).for_each(|node| second.take(&mut register, node));
    eventually("its nodes", || (second.ask("STATUS").matches("\"up\"").count() == 2).then_some(()));
    // It has as many nodes as a message has copies, and two more that may know better.
    for request in ["SET x1 second", "GET x1", "GET never", "COUNT"] {
        tells(&second.ask(request), &["ERROR UNAVAILABLE", "nodes 1, 2", "REMOVE <node> FORCE"]);
    }
    eventually("the first one goes on", || (register.ask("SET x1 still") == "OK").then_some(()));
    assert_eq!(register.get("x1"), "still");
    tells(&register.ask("GET never"), &["ERROR UNAVAILABLE", "nodes 3, 4"]);
    // Two more nodes, and the second one leads with all that was acknowledged.
    (1..=2).for_each(|node| second.take(&mut register, node));
    eventually("the second leader", || (second.ask("GET x1") == "VALUE still").then_some(()));
    assert_eq!(second.ask("SET x1 second"), "OK");
    assert_eq!(code(&register.ask("GET x1")), "ERROR UNAVAILABLE");
}

#[test]
fn a_killed_leader_that_is_started_again_writes_soon() {
    let mut register = Register::start(3, 2);
    register.set("a", "1");
    for round in 0..3 {
        register.kill_leader().unwrap();
        let began = Instant::now();
        register.start_leader().unwrap();
        // Requests wait for nodes, which let in nobody else for a second after the last beat of the one before.
        assert_eq!(register.ask(&format!("SET a {round}")), "OK");
        assert_eq!(register.get("a"), round.to_string());
        assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
        eprintln!("the first OK came {:?} after the start", began.elapsed());
    }
}
