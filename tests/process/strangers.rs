//! Who may speak: what a caller of RegisterNode says counts for nothing until it has answered at its own address.

use hatokuse::wire::family::family_service_client::FamilyServiceClient;
use hatokuse::wire::family::{NodeInfo, RegisterNodeRequest, RegisterNodeResponse};
use rustix::process::Signal;

use crate::support::{Register, Server, folder, refused_node, tells};

/// Calls RegisterNode as anybody can.
fn call(addr: &str, request: RegisterNodeRequest) -> RegisterNodeResponse {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = FamilyServiceClient::connect(format!("http://{addr}")).await.unwrap();
        client.register_node(request).await.unwrap().into_inner()
    })
}

/// A registration of node `id` at `address` from nobody, who says the wildest that there is.
fn claims(id: i32, address: &str, cluster_id: Vec<u8>, uuid: Vec<u8>) -> RegisterNodeRequest {
    RegisterNodeRequest {
        node_info: Some(NodeInfo { node_id: id, address: address.to_owned(), ..Default::default() }),
        format: 1,
        uuid: uuid.into(),
        cluster_id: cluster_id.into(),
        incarnation: 5,
        epoch_seen: u32::MAX - 1,
        run_seen: 7,
        committed: 1 << 63,
    }
}

fn bytes_of(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// A line of a node's identity.
fn identity(register: &Register, node: u32, key: &str) -> String {
    let text = std::fs::read_to_string(register.node_dir(node).join(".hatokuse")).unwrap();
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap().to_owned()
}

#[test]
fn what_a_caller_says_of_epochs_and_commits_is_not_believed() {
    let mut register = Register::start(3, 2);
    register.fill("m", 20, "x");
    let cluster = bytes_of(&identity(&register, 1, "cluster"));
    let uuid = |node| bytes_of(&identity(&register, node, "uuid"));
    let address = |register: &Register, node: u32| {
        let status = register.status().unwrap();
        status["nodes"][node as usize - 1]["address"].as_str().unwrap().to_owned()
    };
    // Nobody answers there; another member does; the folder of a member, at nobody's address, at another's, at its own.
    let (one, two) = (address(&register, 1), address(&register, 2));
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let stranger = || b"u".repeat(16);
    let calls = [
        (77, nowhere.as_str(), stranger()),
        (77, one.as_str(), stranger()),
        (1, one.as_str(), stranger()),
        (1, nowhere.as_str(), uuid(1)),
        (1, two.as_str(), uuid(1)),
        (1, one.as_str(), uuid(1)),
    ];
    let epoch = |register: &Register| register.status().unwrap()["epoch"].as_u64().unwrap();
    for served in [true, false] {
        if !served {
            assert!(register.stop_leader().unwrap().success());
            register.start_leader().unwrap();
            register.wait_up(3).unwrap();
        }
        let before = epoch(&register);
        for (id, address, uuid) in &calls {
            let answer = call(register.grpc_addr(), claims(*id, address, cluster.clone(), uuid.clone()));
            tells(&answer.error, &["--advertise"]);
            assert!(!answer.success, "{answer:?}");
        }
        assert!(register.leader_is_running());
        assert_eq!(epoch(&register), before);
        register.set("after", "y");
        register.check("m", 20, "x");
        register.wait_up(3).unwrap();
        assert!(!register.leader_stderr().contains("is suspect"), "no member's connection ends by that");
    }
    // Nor does the next leader hear of it, from anybody.
    register.kill_node(3).unwrap();
    assert!(register.stop_leader().unwrap().success());
    register.start_leader().unwrap();
    register.wait_up(2).unwrap();
    register.check("m", 20, "x");
    assert!(epoch(&register) < 10);
}

#[test]
fn a_copy_of_the_register_that_was_started_elsewhere_stops_nobody() {
    let mut register = Register::start(3, 2);
    register.fill("m", 20, "ours");
    let other = folder();
    for name in ["leader_metadata", "storage_node_3"] {
        let from = register.dir().join(name);
        let done = std::process::Command::new("cp").arg("-a").arg(from).arg(other.path()).status().unwrap();
        assert!(done.success());
    }
    // The copy lives three times, and its node sees those epochs.
    let args = ["leader", "--port", "0", "--grpc-port", "0"];
    for _ in 0..3 {
        let mut leader = Server::start(other.path(), &args);
        let ready = leader.says("leader ready");
        let word = |key: &str| ready.split(key).nth(1).unwrap().split(' ').next().unwrap().to_owned();
        let mut node = Server::start(other.path(), &["node", "--id", "3", "--port", "0", "--leader", &word("nodes=")]);
        node.says("registered with the leader");
        for server in [&mut node, &mut leader] {
            server.signal(Signal::TERM);
            assert_eq!(server.ends().code(), Some(0));
        }
    }
    // Beside the original, and when that is down.
    let line = refused_node(other.path(), 3, register.grpc_addr());
    tells(&line, &["copy of this folder", "node 3"]);
    register.kill_node(3).unwrap();
    register.wait_state(3, "down");
    let line = refused_node(other.path(), 3, register.grpc_addr());
    tells(&line, &["has served another leader", "a copy that was started elsewhere", "REMOVE 3"]);
    assert!(register.leader_is_running());
    register.check("m", 20, "ours");
    register.start_node(3).unwrap();
    register.wait_up(3).unwrap();
    register.set("after", "y");
}

#[test]
fn callers_with_silent_addresses_keep_no_member_away() {
    const CALLS: usize = 64;
    let mut register = Register::start(3, 2);
    register.fill("m", 20, "x");
    register.kill_node(1).unwrap();
    register.wait_state(1, "down");
    // Whoever connects there is taken, and hears nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let grpc = register.grpc_addr().to_owned();
    let caller = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = FamilyServiceClient::connect(format!("http://{grpc}")).await.unwrap();
            let calls = (0..CALLS).map(|at| {
                let request = claims(100 + at as i32, &address, Vec::new(), b"u".repeat(16));
                let mut client = client.clone();
                async move { client.register_node(request).await.unwrap().into_inner().error }
            });
            futures::future::join_all(calls).await
        })
    });
    let first = silent.accept().unwrap();
    register.start_node(1).unwrap();
    register.wait_up(3).unwrap();
    register.check("m", 20, "x");
    let answers = caller.join().unwrap();
    let said = |words: &str| answers.iter().filter(|answer| answer.contains(words)).count();
    assert_eq!(said("too many registrations are under way") + said("--advertise"), CALLS, "{answers:?}");
    assert!(
        said("too many registrations are under way") >= CALLS / 4,
        "one caller has a share of the places: {answers:?}"
    );
    drop((first, silent));
}
