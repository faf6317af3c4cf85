//! Two leaders from one log: one of them speaks at most.

use std::net::Ipv4Addr;
use std::time::Duration;

use hatokuse::error::Refusal;
use hatokuse::protocol::{Command, Reply};
use hatokuse::types::{IoMode, MessageId};
use hatokuse::wire::FORMAT;
use hatokuse::wire::family::{NodeInfo, RegisterNodeRequest};
use tokio::time::{Instant, sleep};

use crate::machines::{Sim, address};
use crate::network::LeaderHere;
use crate::world::ask_of;
use crate::{s, simulate};

pub(crate) fn id(text: &str) -> MessageId {
    text.parse().unwrap()
}

pub(crate) fn get(text: &str) -> Command {
    Command::Get(id(text))
}

pub(crate) fn set(text: &str, message: &str) -> Command {
    Command::Set { id: id(text), payload: message.to_owned().into() }
}

pub(crate) async fn ask(sim: &Sim, leader: &LeaderHere, command: Command) -> Reply {
    ask_of(leader, &sim.net, command).await.expect("it lives")
}

pub(crate) fn is_unavailable(reply: &Reply) -> bool {
    matches!(reply, Reply::Refused(Refusal::Unavailable(_)))
}

pub(crate) fn value(text: &str) -> Reply {
    Reply::Value(text.to_owned().into())
}

/// A register with a second leader that has these nodes, and both leaders.
pub(crate) async fn two(nodes: &[u32], cut: bool, io_mode: IoMode) -> (Sim, LeaderHere, LeaderHere) {
    let mut sim = Sim::start(1, io_mode).await;
    sleep(s(5.0)).await;
    let first = sim.net.leader().unwrap();
    for message in ["x", "gone"] {
        assert_eq!(ask(&sim, &first, set(message, "first")).await, Reply::Done);
    }
    assert!(sim.start_second(nodes, cut).await);
    let second = sim.net.second().unwrap();
    (sim, first, second)
}

#[test]
fn a_leader_that_its_nodes_have_left_says_so() {
    // Without and with a cache; its nodes are cut off, or restarted elsewhere.
    for (io_mode, cut) in [(IoMode::Buffered, true), (IoMode::Unbuffered, true), (IoMode::Unbuffered, false)] {
        simulate(async {
            let (sim, first, second) = two(&[1, 2, 3, 4], cut, io_mode).await;
            let (began, mut overwritten) = (Instant::now(), false);
            while began.elapsed() < s(20.0) {
                let reply = ask(&sim, &first, get("x")).await;
                let now = began.elapsed();
                assert!(is_unavailable(&reply) || reply == value("first") && !overwritten, "{now:?}: {reply:?}");
                assert!(is_unavailable(&reply) || now < s(1.0), "{now:?}: {reply:?}");
                for nothing in [get("new"), Command::Where(id("x")), Command::Count] {
                    let reply = ask(&sim, &first, nothing.clone()).await;
                    assert!(is_unavailable(&reply) || !overwritten, "{nothing:?}: {reply:?}");
                }
                if !overwritten && began.elapsed() > s(0.5) {
                    overwritten = ask(&sim, &second, set("x", "second")).await == Reply::Done;
                    assert_eq!(ask(&sim, &second, set("new", "second")).await, Reply::Done);
                    assert_eq!(ask(&sim, &second, Command::Delete(id("gone"))).await, Reply::Done);
                    assert!(overwritten);
                }
                sleep(Duration::from_millis(40)).await;
            }
            assert_eq!(ask(&sim, &second, get("x")).await, value("second"));
            let records = first.coordinator.records(&[id("gone")]).await;
            assert!(matches!(records, Err(Refusal::Unavailable(_))), "{records:?}");
            let deleted = ask(&sim, &first, Command::Delete(id("never"))).await;
            assert!(matches!(deleted, Reply::Refused(_)), "{deleted:?}");
        });
    }
}

#[test]
fn a_leader_that_can_be_told_stops_at_once() {
    simulate(async {
        let (sim, first, second) = two(&[], false, IoMode::Buffered).await;
        // It keeps its lanes to the first one, and asks the second to let it in.
        let (began, node) = (Instant::now(), sim.net.node(&address(1)).unwrap());
        let identity = node.identity().get();
        let (leadership, run_seen) = identity.seen.unwrap();
        let node_info = Some(NodeInfo { node_id: 1, address: address(1), ..NodeInfo::default() });
        let request = RegisterNodeRequest {
            node_info,
            format: FORMAT,
            uuid: identity.uuid.0.to_vec().into(),
            cluster_id: leadership.cluster_id.0.to_vec().into(),
            incarnation: node.incarnation(),
            epoch_seen: leadership.epoch.0,
            run_seen,
            committed: 0,
        };
        let answer = second.membership.register(request, Ipv4Addr::LOCALHOST.into()).await;
        assert!(answer.success, "{answer:?}");
        let waited = began.elapsed();
        assert!(
            (s(0.7)..s(1.2)).contains(&waited),
            "it was held back as long as the first one counts on it: {waited:?}"
        );
        sleep(Duration::from_millis(50)).await;
        let why = first.coordinator.stop.failure().expect("it has stopped");
        assert!(why.contains("another leader has taken over"), "{why}");
    });
}

#[test]
fn of_two_leaders_with_half_of_the_nodes_each_one_at_most_writes() {
    simulate(async {
        let (mut sim, first, second) = two(&[3, 4], true, IoMode::Buffered).await;
        sleep(s(60.0)).await;
        let reply = ask(&sim, &second, set("x", "second")).await;
        let named = matches!(&reply, Reply::Refused(Refusal::Unavailable(why)) if why.contains("nodes 1, 2") && why.contains("REMOVE <node> FORCE"));
        assert!(named, "{reply:?}");
        assert!(is_unavailable(&ask(&sim, &second, get("x")).await));
        assert_eq!(ask(&sim, &first, set("x", "still first")).await, Reply::Done);
        assert_eq!(ask(&sim, &first, get("x")).await, value("still first"));
        assert!(is_unavailable(&ask(&sim, &first, get("nothing")).await), "two of four answer");
        // One more goes over.
        sim.send_to_second(2, true);
        sleep(s(10.0)).await;
        assert!(matches!(ask(&sim, &first, set("x", "too late")).await, Reply::Refused(_)));
        assert!(is_unavailable(&ask(&sim, &first, get("x")).await));
        // What node 2 was told of shows the second one that its log is old: now it has to hear everybody.
        assert!(is_unavailable(&ask(&sim, &second, get("x")).await));
        sim.send_to_second(1, true);
        sleep(s(10.0)).await;
        assert_eq!(ask(&sim, &second, get("x")).await, value("still first"));
        assert_eq!(ask(&sim, &second, set("x", "second")).await, Reply::Done);
    });
}

#[test]
fn a_lower_tolerance_does_not_let_a_leader_write_alone() {
    simulate(async {
        let (mut sim, first, second) = two(&[2, 3, 4], true, IoMode::Buffered).await;
        sleep(s(10.0)).await;
        first.coordinator.cluster().set_tolerance(1);
        sleep(s(2.0)).await;
        // Its only node would do for one copy, and the second leader would not ask it.
        for message in ["x", "new"] {
            let reply = ask(&sim, &first, set(message, "alone")).await;
            let named =
                matches!(&reply, Reply::Refused(Refusal::Unavailable(why)) if why.contains("fewer copies than the 2"));
            assert!(named, "{message}: {reply:?}");
        }
        assert!(matches!(ask(&sim, &first, Command::Delete(id("gone"))).await, Reply::Refused(_)));
        assert_eq!(ask(&sim, &second, get("x")).await, value("first"));
        assert_eq!(ask(&sim, &second, get("gone")).await, value("first"));
        assert_eq!(ask(&sim, &second, set("x", "second")).await, Reply::Done);
        sim.send_to_second(1, true);
        sleep(s(10.0)).await;
        assert_eq!(ask(&sim, &second, get("x")).await, value("second"));
    });
}
