//! Clients that know the addresses of several leader processes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;
use std::time::Duration;

use hatokuse::client::Client;

use crate::peers::{insist, others, start};
use crate::support::{BINARY, eventually, folder, hatokuse, run, tell, tells};
use crate::tools::group::Group;

/// The addresses of these peers, as a flag takes them.
fn list(group: &Group, peers: &[usize]) -> String {
    peers.iter().map(|peer| group.clients(*peer)).collect::<Vec<_>>().join(",")
}

#[test]
fn one_address_of_three_is_enough() {
    let home = folder();
    let mut group = start(home.path(), 3, 2);
    assert_eq!(insist(&group, 1, "SET id 1"), "OK");
    let leader = group.leader().unwrap();
    let [dead, standby] = others(&group, leader)[..] else { unreachable!() };
    group.kill_peer(dead);
    let all = list(&group, &[dead, standby, leader]);
    let set = run(&mut hatokuse(&["client", "--addr", &all, "SET", "id", "2"]), b"");
    assert_eq!((set.status.code(), &set.stdout[..]), (Some(0), &b"OK\n"[..]), "{set:?}");
    // As a variable, which all commands read.
    let get = run(hatokuse(&["client", "GET", "id"]).env("HATOKUSE_ADDR", &all), b"");
    assert_eq!((get.status.code(), &get.stdout[..]), (Some(0), &b"2\n"[..]), "{get:?}");
    let copy = home.path().join("copy");
    let backup = run(hatokuse(&["backup", copy.to_str().unwrap()]).env("HATOKUSE_ADDR", &all), b"");
    assert!(backup.status.success(), "{backup:?}");
    // Where none answers all of them are named.
    group.kill_peer(leader);
    let refused = eventually("no leader", || {
        let get = run(&mut hatokuse(&["client", "--addr", &all, "GET", "id"]), b"");
        let said = String::from_utf8_lossy(&get.stderr).into_owned();
        said.contains("none of the leader's addresses").then_some((get.status.code(), said))
    });
    assert_eq!(refused.0, Some(4));
    let away = |peer: usize| format!("{} (connection refused)", group.clients(peer));
    let no_leader = format!("{} (no leader: peers {standby} of 1,2,3 can be reached)", group.clients(standby));
    tells(&refused.1, &[&away(dead), &no_leader, &away(leader), "nothing was written"]);
}

#[test]
fn standbys_that_redirect_are_passed_over() {
    let home = folder();
    let flags = ["--tolerance", "2", "--standby", "redirect"];
    let group = Group::start(BINARY.as_ref(), home.path(), (3, 2), &flags);
    let leader = group.wait_leader();
    assert_eq!(insist(&group, leader, "SET id 1"), "OK");
    let mut order = others(&group, leader);
    order.push(leader);
    let all = list(&group, &order);
    let set = run(&mut hatokuse(&["client", "--addr", &all, "SET", "id", "2"]), b"");
    assert_eq!((set.status.code(), &set.stdout[..]), (Some(0), &b"OK\n"[..]), "{set:?}");
    let piped = run(&mut hatokuse(&["client", "--addr", &all]), b"GET id\nSET id 3\nGET id\n");
    assert_eq!(String::from_utf8_lossy(&piped.stdout), "VALUE 2\nOK\nVALUE 3\n", "{piped:?}");
    let copy = home.path().join("copy");
    let backup = run(&mut hatokuse(&["backup", "--addr", &all, copy.to_str().unwrap()]), b"");
    assert!(backup.status.success(), "{backup:?}");
    for protocol in ["text", "resp"] {
        let bench = run(&mut hatokuse(&["bench", "--addr", &all, "--protocol", protocol, "--count", "50"]), b"");
        assert!(bench.status.success(), "{protocol}: {bench:?}");
    }
    assert_eq!(insist(&group, leader, "GET id"), "VALUE 3");
}

#[test]
fn a_pipe_outlives_the_leader() {
    let home = folder();
    let mut group = start(home.path(), 3, 2);
    assert_eq!(insist(&group, 1, "SET id 1"), "OK");
    let leader = group.leader().unwrap();
    let mut order = vec![leader];
    order.extend(others(&group, leader));
    let mut client = hatokuse(&["client", "--addr", &list(&group, &order)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut typed = client.stdin.take().unwrap();
    let mut said = BufReader::new(client.stdout.take().unwrap());
    let mut ask = |line: &str| {
        writeln!(typed, "{line}").unwrap();
        let mut reply = String::new();
        said.read_line(&mut reply).unwrap();
        reply.trim_end().to_owned()
    };
    assert_eq!(ask("SET id 2"), "OK");
    group.kill_peer(leader);
    assert_eq!(insist(&group, order[1], "SET id 3"), "OK");
    assert_eq!(ask("GET id"), "VALUE 3");
    assert_eq!(ask("SET id 4"), "OK");
    drop(typed);
    let output = client.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    tells(&String::from_utf8_lossy(&output.stderr), &["connected to "]);
}

#[test]
fn the_library_goes_from_leader_to_leader() {
    let home = folder();
    let mut group = start(home.path(), 3, 2);
    assert_eq!(insist(&group, 1, "SET id 0"), "OK");
    let all = list(&group, &[1, 2, 3]);
    tell(async {
        let mut client = Client::builder().timeout(Duration::from_secs(20)).connect(&all).await.unwrap();
        for round in 1..=3 {
            let leader = group.leader().unwrap();
            group.kill_peer(leader);
            // A read is asked elsewhere by itself. A write that is lost is said: it is the caller's to try again.
            assert!(client.get("id").await.is_ok(), "round {round}");
            while client.set("id", round.to_string()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert_eq!(client.get("id").await.unwrap().unwrap(), round.to_string());
            group.start_peer(leader, &[]);
        }
    });
}

#[test]
fn a_bench_goes_on_after_the_leader() {
    let home = folder();
    let mut group = start(home.path(), 3, 2);
    assert_eq!(insist(&group, 1, "SET id 1"), "OK");
    let leader = group.leader().unwrap();
    let next = others(&group, leader)[0];
    let all = list(&group, &[leader, next]);
    let bench = hatokuse(&["bench", "--addr", &all, "--duration", "8s", "--connections", "4", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let count = |group: &Group| {
        let reply = group.ask(next, "COUNT")?;
        reply.strip_prefix("COUNT ")?.parse::<u64>().ok()
    };
    eventually("some are written", || count(&group).filter(|count| *count > 50));
    group.kill_peer(leader);
    let after = eventually("another leader", || count(&group));
    eventually("the bench goes on", || count(&group).filter(|count| *count > after + 50));
    let output = bench.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "what was under way is counted: {output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["addr"], all);
    assert!(report["results"][0]["errors"].as_u64() > Some(0), "{report}");
}
