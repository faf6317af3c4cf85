//! Peers that are removed: the one that leads too, and for good.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::world::{World, address, path, texts};
use crate::raft::PeerId;

/// How long a peer may take to learn that it was removed.
const SOON: Duration = Duration::from_secs(5);

async fn learns(world: &World, peer: PeerId) {
    let said = timeout(SOON, world.group(peer).removed()).await;
    assert!(said.is_ok_and(|said| said.contains("was removed from its group")), "peer {peer} was not told");
}

/// Starts a peer anew that was removed, which has to be refused without anybody beside it.
async fn is_refused(world: &mut World, peer: PeerId) {
    world.kill(peer, None).await;
    world.isolate(peer, true);
    let refused = world.restart(peer).await.unwrap_err();
    assert!(refused.contains("was removed from its group"), "{refused}");
    world.network.heal();
    world.peers.remove(&peer);
}

#[tokio::test(start_paused = true)]
async fn the_one_that_leads_is_removed_and_hands_over() {
    let mut world = World::founded(3).await;
    world.append("a").await;
    let old = world.leader().await;
    world.group(old).remove(old).await.unwrap();
    // The answer leaves while it still leads, and so does what others ask of it.
    assert!(world.group(old).append(b"b".to_vec()).await.is_ok());
    let changed = world.group(old).remove(1 + old % 3).await.unwrap_err();
    assert!(changed.0.contains("another one is about to lead"), "{changed}");
    let begun = Instant::now();
    let next = world.group(old).hand_over(None).await.unwrap();
    assert!(next != old && begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
    world.append("c").await;
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    learns(&world, old).await;
    is_refused(&mut world, old).await;
    let voters = world.group(next).leading().borrow().voters.clone();
    assert!(voters.len() == 2 && !voters.contains(&old), "{voters:?}");
    assert_eq!(texts(&world.settled().await), ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_removed_and_dies_or_forgets_to_hand_over_is_replaced() {
    for dies in [false, true] {
        let mut world = World::founded(3).await;
        world.append("a").await;
        let old = world.leader().await;
        world.group(old).remove(old).await.unwrap();
        if dies {
            world.kill(old, Some(&mut fastrand::Rng::with_seed(3))).await;
        }
        let others: Vec<PeerId> = (1..=3).filter(|peer| *peer != old).collect();
        let next = timeout(Duration::from_secs(4), world.leader_of(&others)).await.unwrap();
        world.append("b").await;
        if dies {
            world.restart(old).await.unwrap();
        }
        learns(&world, old).await;
        is_refused(&mut world, old).await;
        assert!(!world.group(next).leading().borrow().voters.contains(&old));
        assert_eq!(texts(&world.settled().await), ["a", "b"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_standby_that_was_removed_is_told_even_if_it_was_away() {
    for away in [false, true] {
        let mut world = World::founded(3).await;
        world.append("a").await;
        sleep(Duration::from_secs(2)).await;
        let leader = world.leader().await;
        let gone = 1 + leader % 3;
        world.isolate(gone, away);
        world.group(leader).remove(gone).await.unwrap();
        if away {
            // Nobody says so, and it stays as it is.
            assert!(timeout(Duration::from_secs(30), world.group(gone).removed()).await.is_err());
            world.network.heal();
        }
        learns(&world, gone).await;
        is_refused(&mut world, gone).await;
        world.append("b").await;
        assert_eq!(texts(&world.settled().await), ["a", "b"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_number_is_not_used_again_whatever_happens_in_between() {
    let mut world = World::founded_with(3, 4096).await;
    world.append("a").await;
    sleep(Duration::from_secs(2)).await;
    let gone = 1 + world.leader().await % 3;
    world.group(world.leader().await).remove(gone).await.unwrap();
    learns(&world, gone).await;
    is_refused(&mut world, gone).await;
    let left: Vec<PeerId> = world.peers.keys().copied().collect();
    let is_not_taken = async |world: &World| {
        let leader = world.leader().await;
        let refused = world.group(leader).add(gone, address(gone)).await.unwrap_err();
        assert!(refused.0.contains("its number is not used again"), "{refused}");
        assert_eq!(world.group(leader).status().removed, [gone].into());
    };
    is_not_taken(&world).await;
    // By the next one that leads.
    world.group(world.leader().await).hand_over(None).await.unwrap();
    is_not_taken(&world).await;
    // When it is in no log any more, but in snapshots: one on a disk, and one that was sent.
    let behind = left[0];
    world.start(4, Default::default()).await.unwrap();
    world.group(world.leader().await).add(4, address(4)).await.unwrap();
    world.kill(behind, None).await;
    for round in 0..5 {
        for n in 0..30 {
            world.append(&format!("{round}-{n}{}", "x".repeat(200))).await;
        }
        sleep(Duration::from_secs(3)).await;
    }
    let sent = *world.network.snapshots.lock();
    world.restart(behind).await.unwrap();
    world.settled().await;
    assert!(*world.network.snapshots.lock() > sent, "a snapshot was sent");
    for peer in [left[0], left[1], 4] {
        world.kill(peer, Some(&mut fastrand::Rng::with_seed(peer))).await;
        world.restart(peer).await.unwrap();
        let log = world.peers[&peer].disk.peek(path())["log"].as_ref().unwrap().len();
        assert!(log < 40_000 && world.group(peer).status().snapshot > Some(20), "{log} bytes");
        world.settled().await;
        assert_eq!(world.group(peer).status().removed, [gone].into(), "peer {peer}");
    }
    is_not_taken(&world).await;
}

#[tokio::test(start_paused = true)]
async fn the_last_one_is_not_removed() {
    let mut world = World::founded(2).await;
    world.append("a").await;
    let first = world.leader().await;
    world.group(first).remove(first).await.unwrap();
    let last = world.group(first).hand_over(None).await.unwrap();
    learns(&world, first).await;
    is_refused(&mut world, first).await;
    world.leader_of(&[last]).await;
    let refused = world.group(last).remove(last).await.unwrap_err();
    assert!(refused.0.contains("the only one that has a vote"), "{refused}");
    // Neither with one beside it that has no vote.
    let add = world.group(last).add(4, address(4));
    assert!(timeout(SOON, add).await.is_err(), "nobody is there");
    assert!(world.group(last).remove(last).await.is_err());
    world.append("b").await;
    assert_eq!(texts(&world.settled().await), ["a", "b"]);
    world.group(last).remove(4).await.unwrap();
    assert_eq!(world.group(last).status().removed, [first, 4].into());
}
