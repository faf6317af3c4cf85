//! What was acknowledged a moment before its leader died is what the next one shows, from its first answer on.

use std::time::Duration;

use hatokuse::durable::sim::errno;
use hatokuse::protocol::{Command, Reply};
use hatokuse::types::{IoMode, MessageId, Payload};
use tokio::time::sleep;

use crate::machines::{Crash, Sim};
use crate::simulate;
use crate::world::{ask, ask_of};

fn id() -> MessageId {
    "x".parse().unwrap()
}

async fn set(sim: &Sim, value: usize) -> Option<Reply> {
    let payload = Payload::from(value.to_string().into_bytes());
    ask(&sim.net, Command::Set { id: id(), payload }).await
}

/// The first answer that somebody gives.
async fn first_answer(sim: &Sim) -> String {
    loop {
        if let Some(Reply::Value(payload)) = ask(&sim.net, Command::Get(id())).await {
            return String::from_utf8(payload.to_vec()).unwrap();
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// Kills whoever leads as soon as it has said OK, again and again; `before` is what goes wrong before each write, and
/// `with_it` who dies with it.
async fn kill_at_ok(seed: u64, before: impl Fn(&mut Sim, usize), with_it: impl Fn(usize) -> Option<u32>) {
    let mut sim = Sim::start_group(seed, IoMode::Unbuffered, 3).await;
    sleep(Duration::from_secs(5)).await;
    for round in 0..12 {
        before(&mut sim, round);
        while set(&sim, round).await != Some(Reply::Done) {
            sleep(Duration::from_millis(100)).await;
        }
        let (leading, _) = sim.net.leading().unwrap();
        sim.crash_peer(leading, Crash::Kill).await;
        let node = with_it(round).filter(|node| sim.crash_node(*node, Crash::Kill));
        assert_eq!(first_answer(&sim).await, round.to_string(), "seed {seed}");
        sim.start_peer(leading).await.unwrap();
        node.into_iter().for_each(|node| sim.start_node(node).unwrap());
        sim.nodes.values().for_each(|node| node.disk.heal());
        sleep(Duration::from_secs(3)).await;
    }
}

#[test]
fn what_was_acknowledged_in_the_last_moment_is_shown_by_the_next_leader() {
    (1..=4).for_each(|seed| simulate(kill_at_ok(seed, |_, _| {}, |_| None)));
    let any = |round: usize| Some(1 + round as u32 % 4);
    (5..=8).for_each(|seed| simulate(kill_at_ok(seed, |_, _| {}, any)));
}

#[test]
fn nothing_is_acknowledged_with_its_copies_alone() {
    simulate(async {
        let mut sim = Sim::start_group(1, IoMode::Unbuffered, 3).await;
        sleep(Duration::from_secs(5)).await;
        assert_eq!(set(&sim, 0).await, Some(Reply::Done));
        // It reaches its nodes, and no other leader.
        let (leading, here) = sim.net.leading().unwrap();
        sim.peers.keys().for_each(|peer| sim.net.cut_peers(leading, *peer));
        let asked = Command::Set { id: id(), payload: Payload::from(b"1".to_vec()) };
        let reply = ask_of(&here, &sim.net, asked).await;
        assert!(!matches!(reply, Some(Reply::Done)), "{reply:?}");
        sim.net.heal();
        sim.start_all_peers().await;
        assert!(["0", "1"].contains(&first_answer(&sim).await.as_str()));
    });
}

#[test]
fn so_it_is_where_another_node_had_to_take_a_copy() {
    let full = |sim: &mut Sim, round: usize| sim.nodes[&(1 + round as u32 % 4)].disk.fill(errno::ENOSPC);
    let another = |round: usize| Some(1 + (round as u32 + 1 + round as u32 / 4) % 4);
    (9..=16).for_each(|seed| simulate(kill_at_ok(seed, full, another)));
}
