//! What stands in the environment, and addresses that can never work.

use std::process::Command;

use crate::support::{Server, folder, hatokuse, run};

/// Exit code, stdout and stderr of a command with these variables.
fn with(args: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
    let home = folder();
    let mut command: Command = hatokuse(args);
    command.env_remove("HATOKUSE_HTTP_PORT").envs(variables.iter().copied()).current_dir(home.path());
    let output = run(&mut command, b"");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("an exit code"), text(&output.stdout), text(&output.stderr))
}

const CHECK: [&str; 4] = ["leader", "--config", "off", "--check-config"];

#[test]
fn what_kubernetes_sets_for_a_service_is_no_setting() {
    let address = "tcp://10.43.7.7:6666";
    let services = [
        ("HATOKUSE_PORT", address),
        ("HATOKUSE_GRPC_PORT", "udp://10.43.7.7:5550"),
        ("HATOKUSE_SERVICE_HOST", "10.43.7.7"),
        ("HATOKUSE_SERVICE_PORT_CLIENTS", "6666"),
        ("HATOKUSE_PORT_6666_TCP", address),
        ("HATOKUSE_PORT_6666_TCP_ADDR", "10.43.7.7"),
        ("HATOKUSE_HOST", ""),
    ];
    let (code, out, error) = with(&CHECK, &services);
    assert_eq!(code, 0, "{error}");
    for line in ["host = 127.0.0.1  # default", "port = 6666  # default", "grpc-port = 5550  # default"] {
        assert!(out.lines().any(|told| told == line), "{line} in {out}");
    }
    assert!(out.contains("http-port = 7666, if it is free  # default"), "{out}");
    assert_eq!(error.matches("is ignored").count(), 2, "{error}");
    assert!(error.contains(&format!("HATOKUSE_PORT={address} is ignored")) && error.lines().count() == 2, "{error}");
}

#[test]
fn a_variable_that_is_no_setting_is_told_with_the_nearest_one() {
    let (code, _, error) = with(&CHECK, &[("HATOKUSE_REPAIR_AFTR", "1m")]);
    assert!(code == 0 && error.contains("did you mean HATOKUSE_REPAIR_AFTER?"), "{error}");
    let home = folder();
    let server = Server::start_with(home.path(), &["node", "--id", "1", "--port", "0"], |command| {
        command.env("HATOKUSE_LAYOUTS", "log");
    });
    server.says("did you mean HATOKUSE_LAYOUT?");
}

#[test]
fn a_flag_beats_a_variable_that_it_conflicts_with() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let bench = |args: &[&str], variables: &[(&str, &str)]| {
        let args = [&["bench", "--addr", &nobody], args].concat();
        with(&args, variables)
    };
    let (code, _, error) = bench(&["--count", "5"], &[("HATOKUSE_DURATION", "10s")]);
    assert_eq!(code, 4, "there is nobody, and nothing else is wrong: {error}");
    assert_eq!(bench(&["--duration", "1s"], &[("HATOKUSE_COUNT", "5")]).0, 4);
    assert_eq!(bench(&["--duration", "1s", "--count", "5"], &[]).0, 2);
}

#[test]
fn a_bad_value_is_told_with_its_variable() {
    let (code, _, error) = with(&["leader"], &[("HATOKUSE_PORT", "many")]);
    assert!(code == 2 && error.contains("variable HATOKUSE_PORT"), "{error}");
    let (code, _, error) = with(&["leader", "--repair-after", "5M"], &[]);
    assert!(code == 2 && error.contains("5m for minutes") && !error.contains("variable"), "{error}");
}

#[test]
fn addresses_that_can_never_work_are_refused_at_once() {
    let node = ["node", "--id", "1", "--port", "0"];
    for (flag, address, told) in [
        ("--advertise", "::1:5555", "[::1]:5555"),
        ("--advertise", "http://10.0.0.1:5555", "only a host and a port"),
        ("--advertise", "10.0.0.1", "HOST:PORT"),
        ("--advertise", "10.0.0.1:0", "port 0"),
        ("--advertise", "0.0.0.0:5555", "names no machine"),
        ("--leader", "http://10.0.0.1:5550", "only a host and a port"),
        ("--leader", "leader", "HOST:PORT"),
        ("--host", "10.0.0.1:5555", "a flag of its own"),
    ] {
        let (code, _, error) = with(&[&node[..], &[flag, address]].concat(), &[]);
        assert!(code == 2 && error.contains(told), "{flag} {address}: {error}");
    }
    let (code, _, error) = with(&["client", "--addr", "::1:6666", "PING"], &[]);
    assert!(code == 2 && error.contains("[::1]:6666"), "{error}");
}

#[test]
fn localhost_is_a_host_to_listen_on() {
    let home = folder();
    let args = ["leader", "--host", "localhost", "--port", "0", "--grpc-port", "0"];
    Server::start(home.path(), &args).says("leader ready clients=127.0.0.1:");
}

#[test]
fn a_log_as_json_is_json_throughout() {
    let home = folder();
    let args = ["leader", "--port", "0", "--grpc-port", "0", "--log-format", "json", "--local-nodes", "1"];
    let leader = Server::start_with(home.path(), &args, |command| {
        command.env("HATOKUSE_HTTP_PORT", "0");
    });
    leader.says("leader ready clients=");
    leader.says("leader http=");
    leader.says("node 1 ready grpc=");
    let joined = leader.says("node 1 joined");
    let joined: serde_json::Value = serde_json::from_str(&joined).unwrap();
    assert_eq!((&joined["node.id"], &joined["role"]), (&1.into(), &"leader".into()), "{joined}");
    assert!(joined["node.address"].as_str().is_some_and(|address| address.starts_with("127.0.0.1:")), "{joined}");
    for line in leader.said().lines() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(object["message"].is_string() && object["timestamp"].is_string(), "{line}");
    }
}

#[test]
fn a_journal_gets_levels_instead_of_times() {
    use std::os::unix::fs::MetadataExt as _;
    let home = folder();
    let node = Server::start_with(home.path(), &["node", "--id", "1", "--port", "0"], |command| {
        let said = std::fs::read_dir(home.path()).unwrap().next().unwrap().unwrap().metadata().unwrap();
        command.env("JOURNAL_STREAM", format!("{}:{}", said.dev(), said.ino()));
    });
    assert!(node.says("found 0 messages").starts_with("<6> INFO found"), "{}", node.said());
}
