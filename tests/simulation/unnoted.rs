//! Nodes whose disks do not take that there is a new leader: they answer its reads, and nothing else depends on them.

use hatokuse::durable::sim::errno;
use hatokuse::protocol::{Command, Reply};
use hatokuse::types::{IoMode, Layout, NodeId, NodeState};
use tokio::time::sleep;

use crate::leaders::{ask, get, id, is_unavailable, set, two, value};
use crate::machines::{Crash, NODES, Sim, folder, layouts};
use crate::network::LeaderHere;
use crate::{s, simulate};

fn is_linked(leader: &LeaderHere, node: u32) -> bool {
    leader.coordinator.cluster().registry.is_linked(NodeId(node))
}

fn only_reads(leader: &LeaderHere, node: u32) -> bool {
    leader.coordinator.cluster().registry.only_reading().any(|reading| reading.member.id == NodeId(node))
}

/// The ids of many messages, and of those that node 1 holds, with their other holder.
async fn fill(sim: &Sim, leader: &LeaderHere) -> Vec<(String, u32)> {
    let mut held = Vec::new();
    for n in 0..20 {
        let name = format!("m{n}");
        assert_eq!(ask(sim, leader, set(&name, &name)).await, Reply::Done);
        let holders = leader.coordinator.cluster().holders(&id(&name)).unwrap();
        if holders.contains(&NodeId(1)) {
            let other = holders.iter().find(|node| **node != NodeId(1)).unwrap();
            held.push((name, other.0));
        }
    }
    held
}

/// Another leader, for which node 1 answers reads, and all others have joined.
async fn succeed(sim: &mut Sim) -> LeaderHere {
    assert!(sim.crash_leader(Crash::Kill));
    sim.start_leader().await.unwrap();
    let leader = sim.net.leader().unwrap();
    for _ in 0..100 {
        let joined = (2..=NODES).all(|node| is_linked(&leader, node));
        if only_reads(&leader, 1) && joined && leader.coordinator.cluster().has_heard() {
            break;
        }
        sleep(s(0.02)).await;
    }
    let joined = leader.coordinator.cluster().registry.linked().collect::<Vec<_>>();
    assert!(only_reads(&leader, 1) && joined.len() == NODES as usize - 1, "{joined:?}");
    leader
}

fn why(reply: &Reply) -> String {
    match reply {
        Reply::Refused(refusal) => refusal.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_node_on_a_disk_that_takes_nothing_serves_reads_and_returns_by_itself() {
    for error in [errno::ENOSPC, errno::EROFS, errno::EDQUOT] {
        simulate(async {
            let mut sim = Sim::start(1, IoMode::Buffered).await;
            sleep(s(5.0)).await;
            let held = fill(&sim, &sim.net.leader().unwrap()).await;
            let (name, other) = held[0].clone();
            sim.nodes[&1].disk.set_failing(Some(error));
            // Another member has a new address, which this node cannot note; it has noted this leader.
            assert!(sim.crash_node(other, Crash::Kill));
            let disk = sim.nodes[&other].disk.clone();
            let (life, stop) = sim.start_node_at(other, "elsewhere:1", &disk).unwrap();
            sleep(s(5.0)).await;
            assert!(is_linked(&sim.net.leader().unwrap(), 1) && !sim.nodes[&1].has_failed());
            // Nor can it note that there is a new leader.
            let seen = sim.net.node("node-1:1").unwrap().identity().get().seen;
            let leader = succeed(&mut sim).await;
            let node = sim.net.node("node-1:1").unwrap();
            assert!(!is_linked(&leader, 1) && only_reads(&leader, 1) && !sim.nodes[&1].has_failed());
            assert!(node.identity().get().seen != seen && !node.identity().is_noted());
            let on_disk = sim.nodes[&1].disk.peek(&folder(1)).remove(".hatokuse").unwrap().unwrap();
            assert!(String::from_utf8_lossy(&on_disk).contains(&format!("epoch={}\n", seen.unwrap().0.epoch)));
            {
                let cluster = leader.coordinator.cluster();
                let shown = cluster.registry.get(NodeId(1)).unwrap();
                let refuses = shown.refuses_as().unwrap();
                assert!(shown.shown() == NodeState::Up && refuses.contains("could not note this leader"), "{refuses}");
            }
            // The only copy that is up is read; it has not been away for so long that it was made again.
            let holders = leader.coordinator.cluster().holders(&id(&name)).unwrap();
            assert!([1, other].iter().all(|node| holders.contains(&NodeId(*node))), "{holders:?}");
            let copies = node.store().totals().messages;
            life.cancel();
            stop.request();
            sim.net.set_node("elsewhere:1", None);
            assert_eq!(ask(&sim, &leader, get(&name)).await, value(&name));
            // If it lasts, it is the source of the copies that are made elsewhere.
            sleep(s(8.0)).await;
            let holders = leader.coordinator.cluster().holders(&id(&name)).unwrap();
            assert!([1, other].iter().all(|node| !holders.contains(&NodeId(*node))), "{holders:?}");
            // New ones go elsewhere, and where too few others are, it is said why.
            for n in 0..20 {
                assert_eq!(ask(&sim, &leader, set(&format!("n{n}"), "new")).await, Reply::Done);
            }
            let another = (2..=NODES).find(|node| *node != other).unwrap();
            assert!(sim.crash_node(another, Crash::Kill));
            sleep(s(1.0)).await;
            let refused = why(&ask(&sim, &leader, set("n", "new")).await);
            let named = refused.contains("node 1: ") && refused.contains("could not note this leader");
            assert!(named && refused.contains("nothing was written"), "{refused}");
            assert_eq!(node.store().totals().messages, copies);
            sim.start_node(another).unwrap();
            sim.nodes[&1].disk.set_failing(None);
            sleep(s(5.0)).await;
            assert!(is_linked(&leader, 1) && node.identity().is_noted());
            assert_eq!(leader.coordinator.cluster().registry.get(NodeId(1)).unwrap().refuses_as(), None);
            sim.heal().await;
            sim.check().await;
        });
    }
}

#[test]
fn a_leader_does_not_begin_with_nodes_that_would_forget_it() {
    simulate(async {
        let mut sim = Sim::start(1, IoMode::Buffered).await;
        sleep(s(5.0)).await;
        let first = sim.net.leader().unwrap();
        assert_eq!(ask(&sim, &first, set("x", "first")).await, Reply::Done);
        sim.nodes[&1].disk.set_failing(Some(errno::EROFS));
        assert!(sim.start_second(&[1, 2, 3], true).await);
        let second = sim.net.second().unwrap();
        sleep(s(20.0)).await;
        assert!(is_linked(&second, 2) && is_linked(&second, 3) && only_reads(&second, 1));
        for asked in [set("x", "second"), get("x"), Command::Delete(id("x"))] {
            let refused = why(&ask(&sim, &second, asked).await);
            assert!(refused.contains("node 1 only answers reads"), "{refused}");
        }
        // It forgets, and with node 4 the first one has enough for its reads again.
        assert!(sim.send_to_first(1));
        sleep(s(10.0)).await;
        assert!(is_linked(&first, 1) && is_linked(&first, 4));
        assert_eq!(ask(&sim, &first, get("x")).await, value("first"));
        assert_eq!(ask(&sim, &first, set("x", "again")).await, Reply::Done);
        assert!(matches!(ask(&sim, &second, set("x", "second")).await, Reply::Refused(_)));
    });
}

#[test]
fn a_node_that_would_forget_its_leader_does_not_count_for_it() {
    simulate(async {
        let mut sim = Sim::start(1, IoMode::Buffered).await;
        sleep(s(5.0)).await;
        sim.nodes[&1].disk.set_failing(Some(errno::ENOSPC));
        let leader = succeed(&mut sim).await;
        assert_eq!(ask(&sim, &leader, set("x", "x")).await, Reply::Done);
        // Two of four that it can count on are enough to ask a holder, and one is not.
        assert!(sim.crash_node(4, Crash::Kill));
        sleep(s(2.0)).await;
        assert_eq!(ask(&sim, &leader, get("x")).await, value("x"));
        assert!(is_unavailable(&ask(&sim, &leader, get("nothing")).await));
        assert!(sim.crash_node(3, Crash::Kill));
        sleep(s(2.0)).await;
        let refused = ask(&sim, &leader, get("x")).await;
        assert!(is_unavailable(&refused) && why(&refused).contains("node 1 only answers reads"), "{refused:?}");
    });
}

#[test]
fn the_leader_of_before_does_nothing_with_a_node_that_forgot_the_next_one() {
    simulate(async {
        let (mut sim, first, second) = two(&[2, 3, 4], true, IoMode::Buffered).await;
        sim.nodes[&1].disk.set_failing(Some(errno::EROFS));
        sim.send_to_second(1, true);
        sleep(s(10.0)).await;
        assert!(only_reads(&second, 1));
        assert_eq!(ask(&sim, &second, set("x", "second")).await, Reply::Done);
        // As long as it lives it lets the first one in no more.
        sim.net.send_to_first(&first.home, "node-1:1");
        sleep(s(10.0)).await;
        assert!(!is_linked(&first, 1) && !only_reads(&first, 1));
        assert!(sim.send_to_first(1));
        sleep(s(10.0)).await;
        assert!(is_linked(&first, 1) && sim.net.node("node-1:1").unwrap().identity().is_noted());
        for asked in [get("x"), set("x", "first again"), Command::Delete(id("x")), Command::Count] {
            let reply = ask(&sim, &first, asked.clone()).await;
            assert!(matches!(reply, Reply::Refused(_)), "{asked:?}: {reply:?}");
        }
        assert_eq!(ask(&sim, &second, get("x")).await, value("second"));
    });
}

#[test]
fn what_a_node_lacks_that_would_forget_its_leader_is_unknown() {
    simulate(async {
        let all_text = |seed: &u64| layouts(*seed).iter().all(|layout| *layout == Layout::Text);
        let mut sim = Sim::start((1..).find(all_text).unwrap(), IoMode::Buffered).await;
        sleep(s(5.0)).await;
        let (name, other) = fill(&sim, &sim.net.leader().unwrap()).await[0].clone();
        sim.nodes[&1].disk.set_failing(Some(errno::EROFS));
        let leader = succeed(&mut sim).await;
        let rot = |node: u32| sim.nodes[&node].disk.rot(&folder(node), &format!("{name}.txt"), |bytes| bytes[0] ^= 1);
        [1, other].into_iter().for_each(rot);
        let refused = ask(&sim, &leader, get(&name)).await;
        assert!(is_unavailable(&refused) && why(&refused).contains("node 1"), "{refused:?}");
    });
}
