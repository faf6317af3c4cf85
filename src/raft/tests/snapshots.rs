//! Snapshots: made, sent, taken, and bad ones.

use std::time::Duration;

use tokio::time::sleep;

use super::world::{World, path, texts};
use crate::durable::sim::{MemDisk, Survives};

async fn grown() -> (World, Vec<String>) {
    (World::founded_with(3, 4096).await, Vec::new())
}

async fn fill(world: &World, expected: &mut Vec<String>, count: usize) {
    for _ in 0..count {
        let text = format!("{:04}{}", expected.len(), "x".repeat(200));
        world.append(&text).await;
        expected.push(text);
    }
    sleep(Duration::from_secs(3)).await;
}

#[tokio::test(start_paused = true)]
async fn the_log_becomes_short_and_a_peer_far_behind_gets_a_snapshot() {
    let (mut world, mut expected) = grown().await;
    fill(&world, &mut expected, 5).await;
    let behind = 1 + world.leader().await % 3;
    world.kill(behind, None).await;
    for _ in 0..5 {
        fill(&world, &mut expected, 30).await;
    }
    let leader = world.leader().await;
    let status = world.group(leader).status();
    assert!(status.snapshot > Some(100), "{status:#?}");
    let log = world.peers[&leader].disk.peek(path())["log"].as_ref().unwrap().len();
    assert!(log < 40_000, "{log} bytes");
    let sent = *world.network.snapshots.lock();
    world.restart(behind).await.unwrap();
    assert_eq!(texts(&world.settled().await), expected);
    assert!(*world.network.snapshots.lock() > sent, "a snapshot was sent");
    // All of them come back from their snapshots.
    for peer in 1..=3 {
        let disk = world.peers[&peer].disk.after_power_cut_with(|_| Survives::Nothing);
        world.kill(peer, None).await;
        world.start(peer, disk).await.unwrap();
        assert!(world.notes(peer).len() > 50, "peer {peer} begins with its snapshot");
    }
    fill(&world, &mut expected, 10).await;
    assert_eq!(texts(&world.settled().await), expected);
}

#[tokio::test(start_paused = true)]
async fn a_new_peer_gets_a_snapshot_that_names_the_peers() {
    let (mut world, mut expected) = grown().await;
    fill(&world, &mut expected, 100).await;
    let leader = world.leader().await;
    world.start(4, MemDisk::new()).await.unwrap();
    world.group(leader).add(4, super::world::address(4)).await.unwrap();
    assert_eq!(texts(&world.settled().await), expected);
    world.kill(4, Some(&mut fastrand::Rng::with_seed(3))).await;
    world.restart(4).await.unwrap();
    let voters = world.group(4).status().peers.len();
    assert_eq!(voters, 4);
    fill(&world, &mut expected, 3).await;
    assert_eq!(texts(&world.settled().await), expected);
}

#[tokio::test(start_paused = true)]
async fn a_bad_snapshot_is_no_matter_where_the_log_has_it_all_and_refuses_the_start_where_not() {
    let mut world = World::founded(1).await;
    for text in ["a", "b"] {
        world.append(text).await;
    }
    world.kill(1, None).await;
    let disk = world.peers[&1].disk.after_kill();
    disk.plant(path(), "snapshot", b"rubbish");
    world.start(1, disk).await.unwrap();
    assert_eq!(texts(&world.settled().await), ["a", "b"]);

    let (mut world, mut expected) = grown().await;
    fill(&world, &mut expected, 100).await;
    let length = world.peers[&1].disk.peek(path())["snapshot"].as_ref().unwrap().len();
    world.kill(1, None).await;
    for place in (0..length).step_by(97) {
        let disk = world.peers[&1].disk.after_kill();
        disk.rot(path(), "snapshot", |bytes| bytes[place] ^= 0x10);
        let refused = world.start(1, disk).await.unwrap_err();
        assert!(refused.contains("snapshot"), "{refused}");
    }
    for cut in [0, 10, 40, length - 1] {
        let disk = world.peers[&1].disk.after_kill();
        disk.rot(path(), "snapshot", |bytes| bytes.truncate(cut));
        assert!(world.start(1, disk).await.is_err(), "cut at {cut}");
    }
    world.restart(1).await.unwrap();
    assert_eq!(texts(&world.settled().await), expected);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_came_in_part_is_not_taken() {
    let (mut world, mut expected) = grown().await;
    fill(&world, &mut expected, 3).await;
    let leader = world.leader().await;
    let behind = 1 + leader % 3;
    world.kill(behind, None).await;
    fill(&world, &mut expected, 150).await;
    for kept in [0, 1] {
        *world.network.parts.lock() = Some(kept);
        world.restart(behind).await.unwrap();
        sleep(Duration::from_secs(3)).await;
        assert!(world.notes(behind).len() <= 3, "{kept} parts: {}", world.notes(behind).len());
        assert!(world.peers[&behind].stop.failure().is_none(), "{:?}", world.peers[&behind].stop.failure());
        world.kill(behind, None).await;
    }
    *world.network.parts.lock() = None;
    world.restart(behind).await.unwrap();
    assert_eq!(texts(&world.settled().await), expected);
}
