//! How clients of Redis find who leads: Sentinel's words, and what is told when another one does.

use crate::peers::{insist, others, start};
use crate::resp::Redis;
use crate::support::{BINARY, Register, Wire, eventually, folder, lone_leader, tells};
use crate::tools::group::Group;

/// A connection through a peer, as soon as somebody leads.
fn redis(group: &Group, via: usize) -> Redis {
    eventually("a connection", || {
        let mut redis = Redis::try_to(&group.clients(via))?;
        (redis.try_ask(&[b"PING"])? == "+PONG").then_some(redis)
    })
}

/// An address as SENTINEL gives it.
fn address(group: &Group, peer: usize) -> String {
    format!("[\"{}\" \"{}\"]", group.host, group.ports[peer - 1].clients)
}

#[test]
fn every_peer_tells_who_leads_and_where_the_others_are() {
    let home = folder();
    let group = start(home.path(), 3, 2);
    assert_eq!(insist(&group, 1, "SET id 1"), "OK");
    let leader = group.leader().unwrap();
    for via in 1..=3 {
        let mut two = redis(&group, via);
        assert_eq!(two.say("SENTINEL GET-MASTER-ADDR-BY-NAME hatokuse"), address(&group, leader));
        assert_eq!(two.say("SENTINEL GET-MASTER-ADDR-BY-NAME mymaster"), "*-1");
        assert_eq!(two.say("SENTINEL MASTER mymaster"), "-ERR No such master with that name");
        eventually("both standbys", || {
            let list = two.say("SENTINEL REPLICAS hatokuse");
            let is_there = |peer: usize| list.contains(&format!("\"port\" \"{}\"", group.ports[peer - 1].clients));
            (others(&group, leader).into_iter().all(is_there) && !is_there(leader)).then_some(())
        });
        assert!(two.say("ROLE").starts_with("[\"master\" :"));
        assert_eq!(two.say("ROLE").matches(&format!("\"{}\"", group.host)).count(), 2);
        tells(&two.say("INFO replication"), &["role:master", "connected_slaves:2", "slave1:ip=", "state=online"]);
        let mut three = redis(&group, via);
        three.say("HELLO 3");
        assert!(three.say("SENTINEL MASTERS").starts_with("[{\"name\" \"hatokuse\" \"ip\" "));
        assert!(two.say("SENTINEL MASTERS").starts_with("[[\"name\" \"hatokuse\" \"ip\" "));
        assert_eq!(three.say("SENTINEL GET-MASTER-ADDR-BY-NAME mymaster"), "_");
        tells(&three.say("SENTINEL SENTINELS hatokuse"), &["\"flags\" \"sentinel\""]);
        tells(&three.say("SENTINEL CKQUORUM hatokuse"), &["+OK 3 usable Sentinels."]);
        tells(&three.say("INFO sentinel"), &["master0:name=hatokuse,status=ok", "slaves=2,sentinels=3"]);
        assert!(!three.say("INFO").contains("# Sentinel"));
    }
}

#[test]
fn who_has_subscribed_is_cut_off_at_a_handover_and_finds_the_next_leader() {
    let home = folder();
    let group = start(home.path(), 3, 2);
    assert_eq!(insist(&group, 1, "SET id 1"), "OK");
    let leader = group.leader().unwrap();
    let [next, relay] = others(&group, leader)[..] else { unreachable!() };
    let (mut straight, mut relayed) = (redis(&group, leader), redis(&group, relay));
    assert_eq!(straight.say("SUBSCRIBE +switch-master"), "[\"subscribe\" \"+switch-master\" :1]");
    relayed.say("HELLO 3");
    assert_eq!(relayed.say("PSUBSCRIBE *"), ">[\"psubscribe\" \"*\" :1]");
    // Version 2 reads messages from now on, version 3 has its answers as before.
    assert_eq!(straight.say("PING"), "[\"pong\" \"\"]");
    tells(&straight.say("GET id"), &["-ERR Can't execute 'get'"]);
    assert_eq!((relayed.say("PING"), relayed.say("GET id")), ("+PONG".to_owned(), "\"1\"".to_owned()));
    eventually("an order that is taken", || (group.ask(leader, &format!("HANDOVER {next}"))? == "OK").then_some(()));
    eventually("the end of both", || {
        let is_over = straight.try_ask(&[b"PING"]).is_none() && relayed.try_ask(&[b"PING"]).is_none();
        is_over.then_some(())
    });
    eventually("the next one", || {
        let told =
            Redis::try_to(&group.clients(leader))?.try_ask(&[b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", b"hatokuse"])?;
        (told == address(&group, next)).then_some(())
    });
    assert_eq!(insist(&group, leader, "SET id 2"), "OK");
}

#[test]
fn an_only_leader_says_the_same_of_itself() {
    let register = Register::start(1, 1);
    let addr = register.addr().to_owned();
    let (host, port) = addr.rsplit_once(':').unwrap();
    let mut redis = Redis::to(&addr);
    assert_eq!(redis.say("SENTINEL get-master-addr-by-name hatokuse"), format!("[\"{host}\" \"{port}\"]"));
    assert_eq!(redis.say("SENTINEL REPLICAS hatokuse"), "[]");
    assert_eq!(redis.say("SENTINEL SENTINELS hatokuse"), "[]");
    tells(
        &redis.say("SENTINEL MASTER hatokuse"),
        &["\"flags\" \"master\"", "\"num-other-sentinels\" \"0\"", "\"quorum\" \"1\""],
    );
    tells(&redis.say("SENTINEL HELP"), &["SENTINEL <subcommand>"]);
    assert_eq!(redis.say("SENTINEL FAILOVER hatokuse"), "-ERR unknown subcommand 'FAILOVER'. Try SENTINEL HELP.");
    assert_eq!(redis.say("SENTINEL MASTER"), "-ERR wrong number of arguments for 'sentinel|master' command");
    tells(&redis.say("SUBSCRIBE news"), &["-ERR there is no channel 'news'", "+switch-master"]);
    redis.send("*3\r\n$9\r\nSUBSCRIBE\r\n$14\r\n+switch-master\r\n$6\r\n+sdown\r\n");
    assert_eq!(redis.reply(), "[\"subscribe\" \"+switch-master\" :1]");
    assert_eq!(redis.reply(), "[\"subscribe\" \"+sdown\" :2]");
    redis.send("*1\r\n$11\r\nUNSUBSCRIBE\r\n");
    assert_eq!((redis.reply(), redis.reply()).1, "[\"unsubscribe\" \"+switch-master\" :0]".to_owned());
    assert_eq!(redis.say("SET id 1"), "+OK");
    for lines in [["MULTI", "SUBSCRIBE +switch-master"], ["SUBSCRIBE +switch-master", "RESET"]] {
        redis.say(lines[0]);
        redis.say(lines[1]);
    }
    assert_eq!(redis.say("GET id"), "\"1\"");
    assert!(Wire::to(&addr).ask("SENTINEL MASTERS").starts_with("ERROR BAD_COMMAND"));
}

#[test]
fn where_clients_are_sent_and_by_which_name_can_be_told() {
    let home = folder();
    let (_leader, addr) =
        lone_leader(home.path(), &["--advertise-clients", "register.example:7000", "--master-name", "main"]);
    let mut redis = Redis::to(&addr);
    assert_eq!(redis.say("SENTINEL get-master-addr-by-name main"), "[\"register.example\" \"7000\"]");
    assert_eq!(redis.say("SENTINEL get-master-addr-by-name hatokuse"), "*-1");
    // Who may do little still finds the way.
    redis.say("ACL SETUSER app on >word ~app:* +@read +@connection");
    assert_eq!(redis.say("AUTH app word"), "+OK");
    assert_eq!(redis.say("SENTINEL get-master-addr-by-name main"), "[\"register.example\" \"7000\"]");
    tells(&redis.say("SUBSCRIBE +switch-master"), &["-NOPERM"]);
    let home = folder();
    let group =
        Group::start(BINARY.as_ref(), home.path(), (3, 2), &["--tolerance", "2", "--advertise-clients", "x.example:7"]);
    for via in 1..=3 {
        assert_eq!(insist(&group, via, "SET id 1"), "OK", "relays go by where leaders listen");
        let told = self::redis(&group, via).say("SENTINEL get-master-addr-by-name hatokuse");
        assert_eq!(told, "[\"x.example\" \"7\"]");
    }
}

#[test]
fn a_standby_that_redirects_says_where_to_go_and_tells_when_that_changes() {
    let home = folder();
    let mut group = Group::start(BINARY.as_ref(), home.path(), (3, 3), &["--tolerance", "2", "--standby", "redirect"]);
    let leader = group.leader().unwrap();
    assert_eq!(insist(&group, leader, "SET id 1"), "OK");
    let standby = others(&group, leader)[0];
    let elsewhere =
        |leader: usize| format!("this peer is a standby: peer {leader} leads, clients go to {}", group.clients(leader));
    assert_eq!(
        group.ask(standby, "GET id").unwrap(),
        format!("ERROR UNAVAILABLE {}; nothing was written", elsewhere(leader))
    );
    let mut redis = Redis::to(&group.clients(standby));
    tells(&redis.say("SET id 2"), &["-READONLY", &elsewhere(leader)]);
    assert_eq!(redis.say("SENTINEL GET-MASTER-ADDR-BY-NAME hatokuse"), address(&group, leader));
    assert!(redis.say("ROLE").starts_with(&format!("[\"slave\" \"{}\" :", group.host)));
    tells(&redis.say("INFO replication"), &["role:slave", "master_link_status:up"]);
    assert_eq!(redis.say("SENTINEL REPLICAS hatokuse"), "[]");
    eventually("the others", || {
        (redis.say("SENTINEL SENTINELS hatokuse").matches("\"flags\"").count() == 2).then_some(())
    });
    assert_eq!(Redis::to(&group.clients(leader)).say("SENTINEL REPLICAS hatokuse"), "[]");
    // Each hears of it: who stands by goes on, and who leads closes.
    let mut subscribed: Vec<Redis> =
        others(&group, leader).iter().map(|peer| Redis::to(&group.clients(*peer))).collect();
    for one in &mut subscribed {
        assert_eq!(one.say("SUBSCRIBE +switch-master"), "[\"subscribe\" \"+switch-master\" :1]");
    }
    group.kill_peer(leader);
    let told: Vec<String> = subscribed.iter_mut().map(Redis::reply).collect();
    let next = others(&group, leader)
        .into_iter()
        .find(|peer| told[0].contains(&format!(" {}\"", group.ports[peer - 1].clients)));
    let next = next.unwrap_or_else(|| panic!("{told:?}"));
    let port = |peer: usize| group.ports[peer - 1].clients;
    let said = format!("\"hatokuse {0} {1} {0} {2}\"", group.host, port(leader), port(next));
    assert_eq!(told, vec![format!("[\"message\" \"+switch-master\" {said}]"); 2]);
    let stays: Vec<bool> = subscribed.iter_mut().map(|one| one.try_ask(&[b"PING"]).is_some()).collect();
    assert_eq!(stays, others(&group, leader).iter().map(|peer| *peer != next).collect::<Vec<_>>());
    assert_eq!(insist(&group, next, "GET id"), "VALUE 1");
}
