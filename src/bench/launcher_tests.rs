//! The launcher against servers that are shell scripts: `/bin/sh leader ...` runs
//! the script `leader` of the cluster's folder, where its processes run.

use std::io::Read as _;
use std::net::TcpListener;

use super::*;

/// Says that it is ready, writes its arguments down, and waits for the end of stdin.
const LEADER: &str = r#"
echo "$@" >> leader.args; env > leader.env
echo "some log line" >&2
echo "leader ready clients=$FAKE nodes=127.0.0.1:4444" >&2
cat > /dev/null
"#;

const NODE: &str = r#"
echo "$@" >> node.args; mkdir -p storage_node_1; touch storage_node_1/1.txt storage_node_1/.2.txt storage_node_1/x
trap 'echo draining >&2; exit 0' TERM
echo "node 1 ready grpc=127.0.0.1:3333" >&2
while read line; do :; done
"#;

/// Answers every connection with a STATUS line of one node.
fn fake_status() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 100]);
            let _ = stream.write_all(b"{\"nodes\":[{\"id\":1,\"state\":\"up\"},{\"id\":2,\"state\":\"down\"}]}\n");
        }
    });
    addr
}

fn builder(dir: &Path, leader: &str, node: &str) -> Builder {
    std::fs::write(dir.join("leader"), leader).unwrap();
    std::fs::write(dir.join("node"), node).unwrap();
    Cluster::builder("/bin/sh").dir(dir).nodes(1).env("FAKE", fake_status())
}

fn alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn a_cluster_lives_and_dies_with_its_value() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = builder(dir.path(), LEADER, NODE)
        .tolerance(3)
        .leader_args(["--max-message", "1KiB"])
        .node_args(["--report-every", "1s"])
        .start()
        .unwrap();
    assert_eq!(cluster.grpc_addr(), "127.0.0.1:4444");
    assert_eq!(std::fs::read_to_string(dir.path().join("tolerance.conf")).unwrap(), "tolerance=3\n");
    assert_eq!(cluster.copies().unwrap(), [(1, 1)].into(), "hidden files and others are no messages");
    cluster.wait_up(1).unwrap();
    assert!(cluster.node_stderr(1).contains("node 1 ready"));

    // The leader comes back on the ports it had.
    cluster.kill_leader().unwrap();
    assert!(!cluster.leader_is_running());
    cluster.start_leader().unwrap();
    assert!(cluster.start_leader().is_err(), "only one at a time");
    let args = std::fs::read_to_string(dir.path().join("leader.args")).unwrap();
    let (first, second) = args.trim().split_once('\n').unwrap();
    assert!(first.contains("--port 0 --grpc-port 0 --tolerance-conf "), "{first}");
    assert!(first.ends_with("--max-message 1KiB"), "{first}");
    let port = port_of(cluster.addr());
    assert!(second.contains(&format!("--port {port} --grpc-port 4444 ")), "{second}");

    // So do nodes; SIGTERM lets them finish.
    assert_eq!(cluster.stop_node(1).unwrap().code(), Some(0));
    assert!(!cluster.node_is_running(1) && cluster.kill_node(1).is_err());
    cluster.start_node(1).unwrap();
    cluster.restart_node(1).unwrap();
    let args = std::fs::read_to_string(dir.path().join("node.args")).unwrap();
    let lines: Vec<_> = args.lines().collect();
    assert!(lines[0].contains("--id 1 --port 0 --leader 127.0.0.1:4444 --report-every 1s"), "{args}");
    assert!(lines[2].contains("--id 1 --port 3333 "), "{args}");
    assert_eq!(cluster.node_stderr(1).matches("ready").count(), 3, "what it said stays over restarts");

    cluster.pause_node(1).unwrap();
    cluster.resume_node(1).unwrap();
    let pids = [cluster.leader_pid().unwrap(), cluster.node_pid(1).unwrap()];
    assert!(pids.iter().all(|pid| alive(*pid)));
    drop(cluster);
    assert!(!pids.iter().any(|pid| alive(*pid)));
    assert!(dir.path().join("tolerance.conf").exists(), "a folder that was given stays");
}

#[test]
fn a_server_that_ends_or_hangs_is_quoted() {
    let dir = tempfile::tempdir().unwrap();
    let error = builder(dir.path(), "echo 'no disk' >&2; exit 3", NODE).start().unwrap_err().to_string();
    assert!(error.contains("leader ended before it was ready, exit status: 3") && error.contains("no disk"), "{error}");

    let hanging = builder(dir.path(), "echo 'thinking' >&2; cat", NODE).patience(Duration::from_millis(200));
    let error = hanging.start().unwrap_err().to_string();
    assert!(error.contains("leader was not ready in time") && error.contains("thinking"), "{error}");

    let error = format!("{:#}", Cluster::builder("/nowhere/hatokuse").start().unwrap_err());
    assert!(error.contains("/nowhere/hatokuse"), "{error}");
}

#[test]
fn a_state_that_never_comes_is_a_failure_with_the_last_status() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = builder(dir.path(), LEADER, NODE).patience(Duration::from_secs(2)).start().unwrap();
    let error = cluster.wait_up(2).unwrap_err().to_string();
    assert!(error.contains("2 nodes up") && error.contains("\"down\"") && error.contains("some log line"), "{error}");
}

#[test]
fn temporary_folders_are_private_and_distinct() {
    use std::os::unix::fs::PermissionsExt as _;
    let dirs = [fresh_dir().unwrap(), fresh_dir().unwrap()];
    assert_ne!(dirs[0], dirs[1]);
    assert_eq!(std::fs::metadata(&dirs[0]).unwrap().permissions().mode() & 0o777, 0o700);
    dirs.iter().for_each(|dir| std::fs::remove_dir(dir).unwrap());
}
