//! Several leaders, of which one leads: what clients and nodes see when it dies, hangs, or is alone.

use rustix::process::Signal;

use crate::support::{BINARY, Server, Wire, code, eventually, folder, refused_leader, tells};
use crate::tools::group::Group;

pub(crate) fn start(home: &std::path::Path, peers: usize, nodes: usize) -> Group {
    Group::start(BINARY.as_ref(), home, (peers, nodes), &["--tolerance", "2"])
}

/// Asks until the answer is no error, as clients that try again do.
pub(crate) fn insist(group: &Group, peer: usize, line: &str) -> String {
    eventually(line, || group.ask(peer, line).filter(|reply| !reply.starts_with("ERROR ")))
}

pub(crate) fn others(group: &Group, peer: usize) -> Vec<usize> {
    (1..=group.ports.len()).filter(|other| *other != peer).collect()
}

#[test]
fn every_peer_takes_clients_and_the_next_one_leads_when_the_leader_dies() {
    let home = folder();
    let mut group = start(home.path(), 3, 3);
    for peer in 1..=3 {
        assert_eq!(insist(&group, peer, &format!("SET by{peer} {peer}")), "OK");
    }
    // Each has led and died by the end, some twice.
    for round in 0..4 {
        let leader = group.leader().unwrap();
        group.kill_peer(leader);
        let [one, other] = others(&group, leader)[..] else { unreachable!() };
        assert_eq!(insist(&group, one, &format!("SET round{round} {leader}")), "OK");
        let next = group.leader().unwrap();
        assert_ne!(next, leader);
        tells(&group.said(next), &[&format!(": peer {leader} did not answer\n")]);
        for peer in 1..=3 {
            assert_eq!(insist(&group, other, &format!("GET by{peer}")), format!("VALUE {peer}"));
        }
        group.start_peer(leader, &[]);
        assert_eq!(insist(&group, leader, &format!("GET round{round}")), format!("VALUE {leader}"));
    }
    let count = insist(&group, 1, "COUNT");
    assert_eq!(count, "COUNT 7");
}

#[test]
fn a_leader_that_was_paused_says_nothing_old() {
    let home = folder();
    let group = start(home.path(), 3, 3);
    let leader = group.leader().unwrap();
    let other = others(&group, leader)[0];
    assert_eq!(insist(&group, leader, "SET id old"), "OK");
    // In its cache, if it ever is anywhere.
    assert_eq!(insist(&group, leader, "GET id"), "VALUE old");
    let mut held = Wire::to(&group.clients(leader));
    assert_eq!(held.ask("GET id"), "VALUE old");
    group.signal(leader, Signal::STOP);
    assert_eq!(insist(&group, other, "SET id new"), "OK");
    held.send("GET id\n");
    group.signal(leader, Signal::CONT);
    // The connection ends, or it says that it cannot tell; it never is the old message.
    let said = held.rest();
    assert!(!said.contains("old"), "{said}");
    assert_eq!(insist(&group, leader, "GET id"), "VALUE new");
}

#[test]
fn a_leader_without_the_others_writes_nothing() {
    let home = folder();
    let mut group = start(home.path(), 3, 3);
    let leader = group.leader().unwrap();
    assert_eq!(insist(&group, leader, "SET id 1"), "OK");
    others(&group, leader).into_iter().for_each(|peer| group.kill_peer(peer));
    // What comes before it has noticed is not known; from then on nothing is even tried.
    let refused = eventually("a refusal", || {
        let reply = group.ask(leader, "SET id 2")?;
        assert_ne!(reply, "OK");
        reply.starts_with("ERROR UNAVAILABLE no leader").then_some(reply)
    });
    tells(&refused, &["nothing was written", &format!("peers {leader} of 1,2,3 can be reached")]);
    let reply = group.ask(leader, "GET id").unwrap();
    assert_eq!(code(&reply), "ERROR UNAVAILABLE", "{reply}");
    // Redis's clients hear what they know.
    let mut redis = Wire::to(&group.clients(leader));
    redis.send("*1\r\n$4\r\nPING\r\n");
    assert!(redis.line().starts_with("-LOADING no leader"));
    let back = others(&group, leader)[0];
    group.start_peer(back, &[]);
    assert_eq!(insist(&group, back, "SET id 3"), "OK");
    assert_eq!(insist(&group, leader, "GET id"), "VALUE 3");
}

#[test]
fn a_leader_that_is_told_to_stop_hands_over() {
    let home = folder();
    let mut group = start(home.path(), 3, 3);
    let leader = group.leader().unwrap();
    let other = others(&group, leader)[0];
    assert_eq!(insist(&group, other, "SET id 1"), "OK");
    group.signal(leader, Signal::TERM);
    group.ends(leader);
    assert_eq!(insist(&group, other, "SET id 2"), "OK");
    tells(&group.said(group.leader().unwrap()), &["this peer leads"]);
    assert_ne!(group.leader(), Some(leader));
    group.start_peer(leader, &[]);
    assert_eq!(insist(&group, leader, "GET id"), "VALUE 2");
}

#[test]
fn all_peers_may_die_at_once() {
    let home = folder();
    let mut group = start(home.path(), 3, 3);
    for n in 0..50 {
        assert_eq!(insist(&group, 1 + n % 3, &format!("SET id{n} {n}")), "OK");
    }
    (1..=3).for_each(|peer| group.kill_peer(peer));
    (1..=3).for_each(|peer| group.start_peer(peer, &[]));
    for n in 0..50 {
        assert_eq!(insist(&group, 1 + n % 3, &format!("GET id{n}")), format!("VALUE {n}"));
    }
}

#[test]
fn one_peer_of_a_group_of_one_is_a_leader_like_any_other() {
    let home = folder();
    // With a tolerance that has to be noted before any node has joined.
    let mut group = Group::start(BINARY.as_ref(), home.path(), (1, 2), &["--tolerance", "1"]);
    assert_eq!(insist(&group, 1, "SET id 1"), "OK");
    group.kill_peer(1);
    group.start_peer(1, &[]);
    assert_eq!(insist(&group, 1, "GET id"), "VALUE 1");
    let where_it_is = insist(&group, 1, "WHERE id");
    assert!(!where_it_is.contains(','), "{where_it_is}");
}

#[test]
fn a_peer_that_comes_back_with_an_empty_folder_is_refused() {
    let home = folder();
    let mut group = start(home.path(), 3, 2);
    let leader = group.leader().unwrap();
    assert_eq!(insist(&group, leader, "SET id 1"), "OK");
    let emptied = others(&group, leader)[0];
    // From then on it is that folder, or none.
    let known = format!("peer {emptied} is known by its folder");
    eventually("its folder in the log", || group.said(leader).contains(&known).then_some(()));
    group.kill_peer(emptied);
    std::fs::remove_dir_all(group.folder(emptied)).unwrap();
    group.start_peer(emptied, &[]);
    eventually("a refusal", || {
        let said: String = (1..=3).map(|peer| group.said(peer)).collect();
        said.contains("came with another folder").then_some(())
    });
    // The other two go on, and without one of them nobody leads: the emptied one has no vote.
    assert_eq!(insist(&group, leader, "SET id 2"), "OK");
    let third = others(&group, leader).into_iter().find(|peer| *peer != emptied).unwrap();
    group.kill_peer(third);
    eventually("no leader", || {
        group.ask(leader, "SET other 3").filter(|reply| reply.starts_with("ERROR UNAVAILABLE no leader"))
    });
    group.start_peer(third, &[]);
    assert_eq!(insist(&group, third, "GET id"), "VALUE 2");
}

#[test]
fn one_peer_goes_on_alone_when_the_others_are_gone_for_good() {
    let home = folder();
    let mut group = start(home.path(), 3, 3);
    let leader = group.leader().unwrap();
    for n in 0..20 {
        assert_eq!(insist(&group, leader, &format!("SET id{n} {n}")), "OK");
    }
    assert_eq!(insist(&group, leader, "DEL id7"), "OK");
    (1..=3).for_each(|peer| group.kill_peer(peer));
    // It had not heard of what came after, which two of three had agreed on; the nodes have it.
    let [one, left] = others(&group, leader)[..] else { unreachable!() };
    group.start_peer(leader, &[]);
    group.start_peer(one, &[]);
    assert_eq!(insist(&group, one, "SET late 1"), "OK");
    assert_eq!(insist(&group, one, "SET id3 newer"), "OK");
    (1..=3).for_each(|peer| group.kill_peer(peer));
    let alone = format!("{left}={}", group.peer(left));
    // Any word shows whose folder it is, and changes nothing.
    group.start_peer_of(left, &alone, &["--recover-alone", "which"]);
    let said = group.ends(left);
    tells(&said, &["this peer does not go on alone", "19 messages", "say --recover-alone"]);
    let cluster = said.rsplit(' ').next().unwrap().trim().to_owned();
    let list = group.list();
    tells(
        &refused_leader(home.path(), &["--peer", "1", "--peers", &list, "--recover-alone", &cluster]),
        &["--peers is to name this one alone"],
    );
    for _ in 0..2 {
        // Told again, as by a unit that still has the flag, it goes on.
        group.start_peer_of(left, &alone, &["--recover-alone", &cluster]);
        assert_eq!(insist(&group, left, "GET id3"), "VALUE newer");
        assert_eq!(insist(&group, left, "GET late"), "VALUE 1");
        assert!(group.ask(left, "GET id7").unwrap().starts_with("ERROR NOT_FOUND"));
        assert_eq!(insist(&group, left, "COUNT"), "COUNT 20");
        assert_eq!(insist(&group, left, "SET more 1"), "OK");
        assert_eq!(insist(&group, left, "DEL more"), "OK");
        group.kill_peer(left);
    }
    assert!(group.said(left).contains("--recover-alone does nothing any more"));
    // The others come back: their folders are of another group.
    group.start_peer_of(left, &alone, &[]);
    assert_eq!(insist(&group, left, "SET last 1"), "OK");
    group.start_peer(one, &[]);
    let add = format!("PEER ADD {one} {}", group.peer(one));
    let refused = group.ask(left, &add).unwrap();
    tells(&refused, &["takes no part", "another group of leaders", "PEER REMOVE"]);
    tells(&group.ask(left, "PEERS").unwrap(), &["another group of leaders"]);
    assert_eq!(insist(&group, left, "GET last"), "VALUE 1");
    assert_eq!(insist(&group, left, &format!("PEER REMOVE {one}")), "OK");
    // A new peer with an empty folder is taken.
    let new = group.one_more();
    let list = format!("{alone},{new}={}", group.peer(new));
    group.start_peer_of(new, &list, &[]);
    assert_eq!(insist(&group, left, &format!("PEER ADD {new} {}", group.peer(new))), "OK");
    assert_eq!(insist(&group, new, "GET id3"), "VALUE newer");
}

#[test]
fn what_is_no_group_is_refused_with_one_line() {
    let home = folder();
    let mut group = Group::prepare(BINARY.as_ref(), home.path(), (3, 0), &[]);
    let refused = |group: &mut Group, peer: usize, more: &[&str]| {
        group.start_peer(peer, more);
        group.ends(peer)
    };
    // The folder of a leader that was the only one.
    let metadata = group.folder(1).join("leader_metadata");
    std::fs::create_dir_all(&metadata).unwrap();
    std::fs::write(metadata.join("mapping.log"), "HTKSLOG").unwrap();
    tells(&refused(&mut group, 1, &[]), &["has the log of a leader that was the only one", "add --found"]);
    std::fs::remove_file(metadata.join("mapping.log")).unwrap();
    // Founded once.
    group.start_peer(1, &["--found"]);
    eventually("the group", || group.said(1).contains("has founded the group").then_some(()));
    group.kill_peer(1);
    tells(&refused(&mut group, 1, &["--found"]), &["there is a group already"]);
    // Two processes of one peer.
    let ready = |group: &Group| group.said(1).matches("leader peer=").count();
    let before = ready(&group);
    group.start_peer(1, &[]);
    eventually("ready", || (ready(&group) > before).then_some(()));
    let list = group.list();
    let second = refused_leader(
        home.path(),
        &["--peer", "1", "--peers", &list, "--data-dir", &group.folder(1).display().to_string()],
    );
    tells(&second, &["is in use by another leader"]);
    for (peers, why) in [
        ("1=127.0.0.1:1,1=127.0.0.1:2", "names a number twice"),
        ("1=127.0.0.1:1,2=127.0.0.1:1", "names an address twice"),
        ("2=127.0.0.1:1,3=127.0.0.1:2", "--peer 1 is not among --peers"),
    ] {
        tells(&refused_leader(home.path(), &["--peer", "1", "--peers", peers]), &[why]);
    }
    for alone in [&["--peer", "1"][..], &["--peers", "1=127.0.0.1:1"], &["--found"]] {
        tells(&refused_leader(home.path(), alone), &["--peer, --peers, --found and --recover-alone go together"]);
    }
    // The list is the same everywhere, and may stand in a file; the number is each machine's own.
    let file = home.path().join("leader.toml");
    std::fs::write(&file, "peers = \"2=127.0.0.1:1,3=127.0.0.1:2\"").unwrap();
    let refused = refused_leader(home.path(), &["--config", file.to_str().unwrap(), "--peer", "1"]);
    tells(&refused, &["--peer 1 is not among --peers"]);
}

#[test]
fn what_an_only_leader_has_kept_is_taken_over_by_the_peer_that_founds() {
    let home = folder();
    let mut group = Group::prepare(BINARY.as_ref(), home.path(), (3, 3), &["--tolerance", "2"]);
    let (host, data) = (group.host.clone(), group.folder(1).display().to_string());
    let ports = group.ports[0];
    let (clients, nodes) = (ports.clients.to_string(), ports.nodes.to_string());
    let only = ["leader", "--host", &host, "--port", &clients, "--grpc-port", &nodes, "--data-dir", &data];
    let mut leader = Server::start(home.path(), &[&only[..], &["--tolerance", "2"]].concat());
    leader.says("leader ready");
    (1..=3).for_each(|node| group.start_node(node));
    for n in 0..200 {
        assert_eq!(insist(&group, 1, &format!("SET id{n} {n}")), "OK");
    }
    for n in 0..20 {
        assert_eq!(insist(&group, 1, &format!("DEL id{n}")), "OK");
    }
    assert_eq!(insist(&group, 1, "DRAIN 3"), "OK");
    assert_eq!(insist(&group, 1, "UNDRAIN 3"), "OK");
    leader.stop();
    leader.ends();
    group.start_peer(1, &["--found"]);
    (2..=3).for_each(|peer| group.start_peer(peer, &[]));
    assert_eq!(insist(&group, 2, "COUNT"), "COUNT 180");
    assert!(home.path().join("peer-1/leader_metadata/mapping.log.before-group").exists());
    // The others have it all as well, once they are of the group.
    for peer in 2..=3 {
        let joined = format!("peer {peer} is of the group");
        eventually("the others", || group.said(1).contains(&joined).then_some(()));
    }
    group.kill_peer(1);
    assert_eq!(insist(&group, 2, "SET id0 again"), "OK");
    for n in 1..200 {
        let reply = eventually("an answer", || {
            group.ask(3, &format!("GET id{n}")).filter(|reply| code(reply) != "ERROR UNAVAILABLE")
        });
        let wanted = if n < 20 { "ERROR NOT_FOUND".to_owned() } else { format!("VALUE {n}") };
        assert!(reply.starts_with(&wanted), "id{n}: {reply}");
    }
    // Nobody takes the folder for that of an only leader any more.
    let refused = refused_leader(home.path(), &["--data-dir", &data]);
    tells(&refused, &["one of several leaders", "--peers"]);
    group.start_peer(1, &[]);
    assert_eq!(insist(&group, 1, "GET id0"), "VALUE again");
}
