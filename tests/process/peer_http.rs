//! What a standby answers by itself over HTTP, and what it passes on.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};

use serde_json::Value;

use crate::http::{connect, get, metrics, request, send};
use crate::peers::{insist, others, start};
use crate::support::{BINARY, eventually, eventually_same, folder, tells};
use crate::tools::group::Group;

/// The peers that say so.
fn saying(group: &Group, path: &str, status: u16) -> Vec<usize> {
    let all = 1..=group.ports.len();
    // One that is gone says nothing.
    let answers = |peer: &usize| std::net::TcpStream::connect(group.http(*peer)).is_ok();
    all.filter(answers).filter(|peer| get(&group.http(*peer), path).status == status).collect()
}

#[test]
fn one_peer_leads_and_all_are_ready() {
    let home = folder();
    let mut group = start(home.path(), 3, 2);
    assert_eq!(insist(&group, 1, "SET id 1"), "OK");
    let leader = group.leader().unwrap();
    eventually_same("all ready", &vec![1, 2, 3], || saying(&group, "/readyz", 200));
    eventually_same("one leader", &vec![leader], || saying(&group, "/readyz?leader", 200));
    let [one, other] = others(&group, leader)[..] else { unreachable!() };
    let refused = get(&group.http(one), "/readyz?leader").body;
    assert_eq!(refused, format!("not ready: peer {leader} leads\n"));
    // Another one leads after it.
    group.kill_peer(leader);
    let next = eventually("another leader", || match saying(&group, "/readyz?leader", 200)[..] {
        [next] => Some(next),
        _ => None,
    });
    assert!(next == one || next == other);
    eventually_same("both ready", &others(&group, leader), || saying(&group, "/readyz", 200));
    // Without a majority nobody is, and each lives all the same.
    let left = others(&group, leader).into_iter().find(|peer| *peer != next).unwrap();
    group.kill_peer(next);
    let why = eventually("not ready", || {
        let answer = get(&group.http(left), "/readyz");
        (answer.status == 503 && answer.body.contains("no leader")).then_some(answer.body)
    });
    tells(&why, &[&format!("not ready: no leader: peers {left} of 1,2,3 can be reached")]);
    for path in ["/livez", "/healthz"] {
        assert_eq!(get(&group.http(left), path).status, 200, "{path}");
    }
    // What would be passed on is told why it is not.
    let page = get(&group.http(left), "/");
    assert_eq!(page.status, 503);
    tells(&page.body, &["no leader"]);
}

#[test]
fn a_standby_shows_metrics_of_its_own() {
    let home = folder();
    let group = start(home.path(), 3, 2);
    assert_eq!(insist(&group, 1, "SET id 1"), "OK");
    let leader = group.leader().unwrap();
    let all: BTreeMap<usize, BTreeMap<String, f64>> = (1..=3).map(|peer| (peer, metrics(&group.http(peer)))).collect();
    for (peer, samples) in &all {
        assert_eq!(samples["hatokuse_peer_leads"], f64::from(*peer == leader), "peer {peer}");
        assert_eq!(samples["hatokuse_peer_term"], all[&leader]["hatokuse_peer_term"]);
        assert!(samples["process_resident_memory_bytes"] > 0.0 && samples["hatokuse_disk_size_bytes"] > 0.0);
        assert_eq!(samples.contains_key("hatokuse_messages"), *peer == leader, "peer {peer}");
        assert_eq!(samples.contains_key("hatokuse_ready"), *peer == leader, "peer {peer}");
        assert_eq!(samples.contains_key("hatokuse_peers{role=\"unreachable\"}"), *peer == leader, "peer {peer}");
    }
    let standby = others(&group, leader)[0];
    let lag = format!("hatokuse_peer_lag_entries{{peer=\"{standby}\"}}");
    eventually("it follows", || {
        let own = metrics(&group.http(standby));
        let wanted = metrics(&group.http(leader))["hatokuse_peer_committed_index"];
        (own[&lag] == 0.0 && own["hatokuse_peer_applied_index"] >= wanted).then_some(())
    });
    // Connections that it relays are counted while they are there.
    let relayed = |name: &str| metrics(&group.http(standby))[name];
    let mut held = crate::support::Wire::to(&group.clients(standby));
    assert_eq!(held.ask("GET id"), "VALUE 1");
    assert_eq!(relayed("hatokuse_relayed_connections{way=\"clients\"}"), 1.0);
    drop(held);
    eventually_same("it has gone", &0.0, || relayed("hatokuse_relayed_connections{way=\"clients\"}"));
    assert!(relayed("hatokuse_relayed_total{way=\"clients\"}") >= 1.0);
}

#[test]
fn a_standby_passes_on_what_is_not_about_itself() {
    let home = folder();
    let group = start(home.path(), 3, 2);
    assert_eq!(insist(&group, 1, "SET id 1"), "OK");
    let standby = others(&group, group.leader().unwrap())[0];
    let addr = group.http(standby);
    let status: Value = serde_json::from_str(&get(&addr, "/api/status").body).unwrap();
    assert_eq!(status["messages"], 1);
    assert!(get(&addr, "/").body.contains("<html"));
    assert_eq!(get(&addr, "/nothing").status, 404);
    assert_eq!(send(&addr, &request("POST", "/metrics")).status, 405);
    let head = send(&addr, &request("HEAD", "/metrics"));
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(head.headers["content-length"].parse::<usize>().unwrap() > 100);
    // Garbage and slow requests hold nothing up.
    let slow: Vec<_> = ["", "GE", "GET /metr", "GET /metrics HTTP/1.1\r\nHost: "]
        .map(|part| {
            let mut stream = connect(&addr);
            stream.write_all(part.as_bytes()).unwrap();
            stream
        })
        .into();
    for garbage in [&b"\x16\x03\x01\x02\x00"[..], b"\0\0\0\0", b"GET GET GET\r\n\r\n", &[0xff; 20_000]] {
        let mut stream = connect(&addr);
        let _ = stream.write_all(garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
        assert_eq!(get(&addr, "/livez").status, 200);
    }
    assert_eq!(insist(&group, standby, "GET id"), "VALUE 1");
    assert_eq!(get(&addr, "/metrics").status, 200);
    drop(slow);
}

#[test]
fn a_standby_asks_for_the_token_where_the_leader_does() {
    let home = folder();
    std::fs::write(home.path().join("token"), "s3cret\n").unwrap();
    let token = home.path().join("token").display().to_string();
    let group = Group::start(BINARY.as_ref(), home.path(), (3, 1), &["--tolerance", "1", "--http-token-file", &token]);
    for peer in 1..=3 {
        let addr = group.http(peer);
        let shown = request("GET", "/metrics").replacen("\r\n\r\n", "\r\nAuthorization: Bearer s3cret\r\n\r\n", 1);
        // One may be about to lead.
        eventually_same("a refusal", &401, || get(&addr, "/metrics").status);
        eventually_same("metrics", &200, || send(&addr, &shown).status);
        eventually_same("health", &200, || get(&addr, "/livez").status);
    }
}
