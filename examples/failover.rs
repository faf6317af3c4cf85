//! Three leaders and four nodes on this machine: whoever leads is killed, again and again, and what clients see is timed.
//!
//!     cargo build --release && cargo run --release --example failover [-- ROUNDS [IDS]]
//!
//! Prints how long it takes from each `kill -9` to the next `OK`, asked of another peer by a client that tries again, and
//! fails if a message that was acknowledged is not there at the end. IDS messages are stored before (1,000).

#![allow(clippy::print_stdout)]

mod common;
#[path = "../tests/tools/group.rs"]
#[allow(dead_code, reason = "tests do more with it")]
mod group;

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use common::binary;
use group::Group;

const PEERS: usize = 3;
const NODES: usize = 4;

/// Between two tries of a client.
const AGAIN: Duration = Duration::from_millis(5);

/// The longest that a round may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Requests that leave together.
const TOGETHER: usize = 500;

fn main() -> anyhow::Result<()> {
    let number = |at: usize, usual: usize| std::env::args().nth(at).map_or(Ok(usual), |text| text.parse::<usize>());
    let (rounds, ids) = (number(1, 10)?, number(2, 1_000)?);
    let home = tempfile::tempdir()?;
    let flags = ["--tolerance", "2", "--io-mode", "unbuffered"];
    let mut group = Group::start(&binary()?, home.path(), (PEERS, NODES), &flags);
    let leader = group.wait_leader();
    insist(&group, leader, "SET first 1")?;
    let all: Vec<usize> = (0..ids).collect();
    for some in all.chunks(TOGETHER) {
        let lines: Vec<String> = some.iter().map(|n| format!("SET id{n} message {n}")).collect();
        let replies = group.ask_all(leader, &lines).context("the leader takes them")?;
        ensure!(replies.iter().all(|reply| reply == "OK"), "{replies:?}");
    }
    println!("{ids} messages, {PEERS} leaders, {NODES} nodes, tolerance 2, unbuffered");
    let mut took = Vec::new();
    for round in 1..=rounds {
        let leader = group.wait_leader();
        let asked = leader % PEERS + 1;
        let killed = Instant::now();
        group.kill_peer(leader);
        insist(&group, asked, &format!("SET round{round} {round}"))?;
        took.push(killed.elapsed());
        println!("round {round:>3}: peer {leader} killed, the next OK after {:.3} s", killed.elapsed().as_secs_f64());
        group.start_peer(leader, &[]);
        // It takes part again before the next one dies.
        insist(&group, leader, &format!("GET round{round}"))?;
    }
    for some in all.chunks(TOGETHER) {
        let lines: Vec<String> = some.iter().map(|n| format!("GET id{n}")).collect();
        let replies = group.ask_all(1, &lines).context("a peer answers")?;
        let right = some.iter().zip(&replies).all(|(n, reply)| *reply == format!("VALUE message {n}"));
        ensure!(right, "a message that was acknowledged is not there: {replies:?}");
    }
    for round in 1..=rounds {
        ensure!(insist(&group, 1, &format!("GET round{round}"))? == format!("VALUE {round}"), "round {round} is lost");
    }
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share).round() as usize].as_secs_f64();
    println!("{rounds} deaths: p50 {:.3} s, p99 {:.3} s, longest {:.3} s; nothing lost", at(0.5), at(0.99), at(1.0));
    Ok(())
}

/// Asks until the answer is no error.
fn insist(group: &Group, peer: usize, line: &str) -> anyhow::Result<String> {
    let began = Instant::now();
    loop {
        if let Some(reply) = group.ask(peer, line).filter(|reply| !reply.starts_with("ERROR ")) {
            return Ok(reply);
        }
        ensure!(began.elapsed() < PATIENCE, "{line}: no answer within {PATIENCE:?}");
        std::thread::sleep(AGAIN);
    }
}
