//! From several leaders back to one.

use serde_json::Value;

use crate::peer_orders::peers;
use crate::peers::{insist, start};
use crate::support::{Server, Wire, code, eventually, folder, refused_leader, tells};
use crate::tools::group::Group;

/// The flags of a leader that is to be the only one, in the place of this peer.
fn only(group: &Group, peer: usize) -> Vec<String> {
    let ports = group.ports[peer - 1];
    let (clients, nodes) = (ports.clients.to_string(), ports.nodes.to_string());
    let data = group.folder(peer).display().to_string();
    let flags = ["leader", "--host", &group.host, "--port", &clients, "--grpc-port", &nodes, "--data-dir", &data];
    flags.iter().map(|&flag| flag.to_owned()).collect()
}

fn start_only(group: &Group, peer: usize, home: &std::path::Path, more: &[&str]) -> Server {
    let flags = only(group, peer);
    let leader = Server::start(home, &[&flags.iter().map(String::as_str).collect::<Vec<_>>(), more].concat());
    leader.says("leader ready");
    leader
}

/// All that is asked afterwards, of whoever leads.
fn has_all(group: &Group, peer: usize) {
    for n in 0..60 {
        let reply = eventually("an answer", || {
            group.ask(peer, &format!("GET id{n}")).filter(|reply| code(reply) != "ERROR UNAVAILABLE")
        });
        let wanted = if n < 9 { "ERROR NOT_FOUND".to_owned() } else { format!("VALUE {n}") };
        assert!(reply.starts_with(&wanted), "id{n}: {reply}");
    }
    eventually("the node that is drained", || {
        let status: Value = serde_json::from_str(&group.ask(peer, "STATUS")?).ok()?;
        assert_eq!(status["tolerance"], 2, "{status}");
        (status["nodes"][2]["state"] == "draining").then_some(())
    });
    let left = insist(group, peer, "TTL id50");
    let left: u64 = left.strip_prefix("TTL ").and_then(|left| left.strip_suffix("ms")).unwrap().parse().unwrap();
    assert!((80_000_000..=90_000_000).contains(&left), "{left} ms");
    let mut redis = Wire::to(&group.clients(peer));
    redis.send("*3\r\n$4\r\nAUTH\r\n$3\r\nann\r\n$6\r\nsecret\r\n");
    assert_eq!(redis.line().trim_end(), "+OK");
}

#[test]
fn the_last_leader_of_a_group_becomes_the_only_one_and_founds_another() {
    let home = folder();
    let mut group = start(home.path(), 3, 3);
    for n in 0..60 {
        assert_eq!(insist(&group, 1 + n % 3, &format!("SET id{n} {n}")), "OK");
    }
    for n in 0..9 {
        assert_eq!(insist(&group, 1, &format!("DEL id{n}")), "OK");
    }
    insist(&group, 1, "EXPIRE id50 90000");
    assert_eq!(insist(&group, 1, "DRAIN 3"), "OK");
    let mut redis = Wire::to(&group.clients(1));
    redis.send("*6\r\n$3\r\nACL\r\n$7\r\nSETUSER\r\n$3\r\nann\r\n$2\r\non\r\n$7\r\n>secret\r\n$5\r\n+@all\r\n");
    assert_eq!(redis.line().trim_end(), "+OK");
    drop(redis);
    // Not while there are others, whether they are up or not.
    let last = 2;
    (1..=3).for_each(|peer| group.kill_peer(peer));
    let data = group.folder(last).display().to_string();
    let refused = refused_leader(home.path(), &["--data-dir", &data, "--leave-group"]);
    tells(&refused, &["does not leave its group", "has other peers (1, 3)", "PEER REMOVE them first"]);
    (1..=3).for_each(|peer| group.start_peer(peer, &[]));
    for gone in [1, 3] {
        // The one that leads may be among them, and who is to lead next may not be ready for a moment.
        let order = format!("PEER REMOVE {gone}");
        eventually(&order, || {
            group.ask(last, &order).filter(|reply| reply == "OK" || reply.contains("removed already"))
        });
        group.ends_well(gone);
    }
    eventually("the last one", || (peers(&group, last)["leader"] == last).then_some(()));
    let epoch = |group: &Group| {
        let status: Value = serde_json::from_str(&insist(group, last, "STATUS")).unwrap();
        status["epoch"].as_u64().unwrap()
    };
    let before = epoch(&group);
    group.kill_peer(last);
    tells(&refused_leader(home.path(), &["--data-dir", &data]), &["one of several leaders", "with --leave-group"]);
    let list = format!("{last}={}", group.peer(last));
    let both = ["--data-dir", &data, "--leave-group", "--peer", "2", "--peers", &list];
    tells(&refused_leader(home.path(), &both), &["--leave-group makes this leader the only one"]);
    let mut leader = start_only(&group, last, home.path(), &["--leave-group"]);
    tells(&leader.said(), &["has left its group and is the only one from here on, with 51 messages", "group.left"]);
    has_all(&group, last);
    assert!(epoch(&group) > before);
    assert_eq!(insist(&group, last, "SET id9 9"), "OK");
    tells(&group.ask(last, "PEERS").unwrap(), &["one leader, and no group"]);
    // Left where it is, the flag does nothing, and without it nothing is different.
    for more in [&["--leave-group"][..], &[]] {
        leader.signal(rustix::process::Signal::KILL);
        leader.ends();
        leader = start_only(&group, last, home.path(), more);
        has_all(&group, last);
        assert_eq!(leader.said().contains("--leave-group does nothing"), !more.is_empty());
    }
    leader.stop();
    leader.ends();
    // And to a group again, with numbers of its own.
    group.start_peer_of(last, &list, &["--found"]);
    has_all(&group, last);
    assert_eq!(peers(&group, last)["peers"].as_array().unwrap().len(), 1);
    let kept = home.path().join(format!("peer-{last}/leader_metadata/group.left"));
    assert!(kept.join("log").exists(), "it is kept");
}
