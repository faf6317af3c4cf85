//! What operators see of a group of leaders, and what they have it do.

use serde_json::Value;

use crate::http::register;
use crate::peers::{insist, others, start};
use crate::support::{Wire, code, eventually, eventually_same, folder, mapping, tells};
use crate::tools::group::Group;

/// What PEERS says, as soon as somebody answers who leads.
pub(crate) fn peers(group: &Group, via: usize) -> Value {
    eventually("PEERS", || {
        let said: Option<Value> = serde_json::from_str(&group.ask(via, "PEERS")?).ok();
        said.filter(|said| said["leader"].is_u64())
    })
}

/// The peer that leads.
pub(crate) fn leader(group: &Group, via: usize) -> usize {
    peers(group, via)["leader"].as_u64().unwrap() as usize
}

/// Each peer with its role.
fn roles(group: &Group, via: usize) -> Vec<(u64, String)> {
    let role = |peer: &Value| (peer["id"].as_u64().unwrap(), peer["role"].as_str().unwrap().to_owned());
    peers(group, via)["peers"].as_array().unwrap().iter().map(role).collect()
}

fn is_away(group: &Group, via: usize, peer: usize) -> bool {
    roles(group, via).contains(&(peer as u64, "unreachable".to_owned()))
}

/// Waits until all peers follow the one that leads.
pub(crate) fn all_follow(group: &Group, via: usize) -> usize {
    eventually("all peers", || {
        let now = peers(group, via);
        let follows = |peer: &Value| {
            let is_near = now["last"].as_u64() <= peer["matched"].as_u64().map(|matched| matched + 100);
            is_near && (peer["role"] == "standby" || peer["role"] == "leader")
        };
        now["peers"].as_array().unwrap().iter().all(follows).then(|| now["leader"].as_u64().unwrap() as usize)
    })
}

#[test]
fn a_leader_is_seen_by_all_and_hands_over_to_whom_it_is_told() {
    let home = folder();
    let group = start(home.path(), 3, 2);
    assert_eq!(insist(&group, 1, "SET id 1"), "OK");
    let first = all_follow(&group, 1);
    for via in 1..=3 {
        let seen = peers(&group, via);
        assert_eq!((&seen["me"], &seen["leader"]), (&first.into(), &first.into()), "standbys pass it on: {seen}");
        assert_eq!(seen["peers"].as_array().unwrap().len(), 3);
        assert_eq!(seen["peers"][via - 1]["address"], group.peer(via));
    }
    let status: Value = serde_json::from_str(&group.ask(2, "STATUS").unwrap()).unwrap();
    assert_eq!(
        (status["peers"].as_array().unwrap().len(), status["term"].as_u64()),
        (3, peers(&group, 1)["term"].as_u64())
    );
    // What cannot be is refused, and nothing happens.
    tells(&group.ask(1, &format!("HANDOVER {first}")).unwrap(), &["ERROR BAD_COMMAND", "leads already"]);
    tells(&group.ask(1, "HANDOVER 9").unwrap(), &["ERROR BAD_COMMAND", "there is no peer 9; peers: 1, 2, 3"]);
    assert_eq!(leader(&group, 2), first);
    // Each in its turn, asked for at the one that leads, and at one that does not. The answer always comes.
    let mut before = first;
    for (round, to) in [others(&group, first)[0], others(&group, first)[1], first].into_iter().enumerate() {
        let via = if round == 0 { before } else { 1 + before % 3 };
        all_follow(&group, via);
        assert_eq!(group.ask(via, &format!("HANDOVER {to}")).as_deref(), Some("OK"));
        eventually("the other leads", || (leader(&group, via) == to).then_some(()));
        assert_eq!(peers(&group, via)["peers"][to - 1]["why"], format!("peer {before} handed over"));
        assert_eq!(insist(&group, before, "GET id"), "VALUE 1");
        // In the readable view of the one that leads, whose lines have other places than in that of its last time.
        for n in 0..20 {
            assert_eq!(insist(&group, to, &format!("SET in{round}-{n} x")), "OK");
        }
        for n in 0..10 * round {
            assert_eq!(insist(&group, to, &format!("DEL in{}-{}", round - 1, n % 20)), "OK");
        }
        before = to;
    }
    let listed = || {
        let lines = mapping(&group.folder(first).join("leader_metadata"));
        let ids = lines.iter().filter_map(|line| Some(line.split_once(':')?.0.to_owned()));
        let mut ids: Vec<String> = ids.collect();
        ids.sort();
        ids
    };
    let left = (10..20).map(|n| format!("in0-{n}")).chain((0..20).map(|n| format!("in2-{n}")));
    let mut wanted: Vec<String> = left.chain(["id".to_owned()]).collect();
    wanted.sort();
    eventually_same("the readable view", &wanted, listed);
    all_follow(&group, 1);
    let mut redis = Wire::to(&group.clients(before));
    redis.send("*1\r\n$8\r\nHANDOVER\r\n");
    assert_eq!(redis.line(), "+OK\r");
    eventually("another leads", || (leader(&group, 1) != before).then_some(()));
    assert_eq!(insist(&group, 1, "SET id 2"), "OK");
    tells(&group.said(before), &["audit: user default", ": HANDOVER\n", "is to lead, by order"]);
}

#[test]
fn a_peer_is_added_and_others_are_removed_as_long_as_most_stay() {
    let home = folder();
    let mut group = start(home.path(), 3, 2);
    assert_eq!(insist(&group, 1, "SET id 1"), "OK");
    let first = all_follow(&group, 1);
    let [gone, other] = others(&group, first)[..] else { unreachable!() };
    let added = group.one_more();
    let order = format!("PEER ADD {added} {}", group.peer(added));
    let elsewhere = format!("PEER ADD {added} {}", group.peer(1));
    tells(&group.ask(1, &elsewhere).unwrap(), &["ERROR BAD_COMMAND", "is where peer 1 is"]);
    // The order waits for it, and it has no vote before it is there.
    let mut waits = Wire::to(&group.clients(other));
    waits.send(format!("{order}\n"));
    eventually("it is known", || is_away(&group, first, added).then_some(()));
    group.start_peer(added, &[]);
    assert_eq!(waits.line(), "OK");
    assert!(!is_away(&group, first, added));
    assert_eq!(roles(&group, added).len(), 4);
    tells(&group.ask(1, &order).unwrap(), &["ERROR BAD_COMMAND", &format!("there is a peer {added} already")]);
    // One that is away is taken off.
    group.kill_peer(gone);
    eventually("it is away", || is_away(&group, added, gone).then_some(()));
    tells(&group.ask(first, &format!("HANDOVER {gone}")).unwrap(), &["ERROR UNAVAILABLE", "cannot be reached"]);
    assert_eq!(group.ask(first, &format!("PEER REMOVE {gone}")).as_deref(), Some("OK"));
    let left: Vec<u64> = roles(&group, added).into_iter().map(|(peer, _)| peer).collect();
    assert!(left.len() == 3 && !left.contains(&(gone as u64)), "{left:?}");
    // The added one would be one of two that stay, and the other one is away.
    group.kill_peer(other);
    eventually("it is away", || is_away(&group, added, other).then_some(()));
    let refused = group.ask(first, &format!("PEER REMOVE {added}")).unwrap();
    tells(&refused, &["ERROR UNAVAILABLE", "which is no majority; nothing was changed"]);
    assert_eq!(insist(&group, added, "SET id 2"), "OK");
    assert_eq!(group.ask(first, &format!("PEER REMOVE {other}")).as_deref(), Some("OK"));
    assert_eq!(group.ask(first, &format!("HANDOVER {added}")).as_deref(), Some("OK"));
    eventually("the added one leads", || (leader(&group, first) == added).then_some(()));
    assert_eq!(insist(&group, first, "GET id"), "VALUE 2");
}

#[test]
fn the_one_that_leads_is_removed_until_one_is_left_and_no_number_comes_back() {
    let home = folder();
    let mut group = start(home.path(), 3, 2);
    assert_eq!(insist(&group, 1, "SET id 1"), "OK");
    let first = all_follow(&group, 1);
    let [second, third] = others(&group, first)[..] else { unreachable!() };
    // Asked for at one that passes it on: the answer comes back, and another one leads.
    assert_eq!(group.ask(second, &format!("PEER REMOVE {first}")).as_deref(), Some("OK"));
    let line = group.ends_well(first);
    tells(&line, &["was removed from its group of leaders, by order", "PEER ADD a number that was never used"]);
    tells(&group.said(first), &["with 2 leaders as few may fail as with 1: 2 of them have to be up"]);
    assert_eq!(insist(&group, second, "SET id 2"), "OK");
    let next = leader(&group, second);
    assert_eq!(peers(&group, third)["peers"][usize::from(next == third)]["why"], format!("peer {first} handed over"));
    assert_eq!(peers(&group, third)["removed"], serde_json::json!([first]));
    // Its folder is refused, and its number, with another folder too.
    group.start_peer(first, &[]);
    tells(&group.ends(first), &["was removed from its group of leaders"]);
    let order = format!("PEER ADD {first} {}", group.peer(first));
    tells(&group.ask(next, &order).unwrap(), &["ERROR BAD_COMMAND", "was removed", "take another one, as 4"]);
    std::fs::remove_dir_all(group.folder(first)).unwrap();
    group.start_peer(first, &[]);
    tells(&group.ask(next, &order).unwrap(), &["ERROR BAD_COMMAND", "its number is not used again"]);
    group.kill_peer(first);
    // At the one that leads itself.
    let left = if next == second { third } else { second };
    all_follow(&group, next);
    let said = group.ask(next, &format!("PEER REMOVE {next}")).unwrap_or_default();
    // The only one that is left needs nobody to be elected, and may lead before the answer has left.
    assert!(said == "OK" || said.starts_with("ERROR UNKNOWN the leader ends; PEERS says"), "{said}");
    group.ends_well(next);
    let is_removed = || peers(&group, left)["removed"].as_array().is_some_and(|all| all.contains(&next.into()));
    eventually("it is removed", || is_removed().then_some(()));
    assert_eq!(insist(&group, left, "SET id 3"), "OK");
    let refused = group.ask(left, &format!("PEER REMOVE {left}")).unwrap();
    tells(&refused, &["ERROR BAD_COMMAND", "the only one that has a vote"]);
    tells(&group.ask(left, &format!("PEER REMOVE {next}")).unwrap(), &["ERROR BAD_COMMAND", "was removed already"]);
    // It knows who was removed when it is started again, with the list of all.
    group.kill_peer(left);
    group.start_peer(left, &[]);
    assert_eq!(insist(&group, left, "GET id"), "VALUE 3");
    tells(&group.ask(left, &order).unwrap(), &["ERROR BAD_COMMAND", "its number is not used again"]);
    let now = peers(&group, left);
    assert_eq!((now["peers"].as_array().unwrap().len(), now["removed"].as_array().unwrap().len()), (1, 2), "{now}");
}

#[test]
fn a_standby_that_is_removed_ends() {
    let home = folder();
    let mut group = start(home.path(), 3, 1);
    let first = all_follow(&group, 1);
    let gone = others(&group, first)[0];
    assert_eq!(group.ask(gone, &format!("PEER REMOVE {gone}")).as_deref(), Some("OK"));
    tells(&group.ends_well(gone), &["was removed from its group of leaders, by order"]);
    assert_eq!(leader(&group, first), first, "nobody was deposed for it");
}

#[test]
fn the_only_leader_has_no_group() {
    let register = register(1, 1);
    for order in ["PEERS", "HANDOVER", "HANDOVER 1", "PEER ADD 2 h:5560", "PEER REMOVE 1"] {
        let reply = register.ask(order);
        assert_eq!(code(&reply), "ERROR BAD_COMMAND", "{order}");
        tells(&reply, &["one leader, and no group"]);
    }
    let status: Value = serde_json::from_str(&register.ask("STATUS")).unwrap();
    assert!(status.get("peers").is_none() && status.get("term").is_none(), "{status}");
}
