//! Who is who: emptied folders, other groups, founding.

use std::time::Duration;

use tokio::time::sleep;

use super::world::{World, address, texts};
use crate::durable::sim::MemDisk;

#[tokio::test(start_paused = true)]
async fn an_emptied_folder_is_refused_and_never_votes() {
    let mut world = World::founded(3).await;
    world.append("a").await;
    // By then the log says which folders there are.
    sleep(Duration::from_secs(2)).await;
    let leader = world.leader().await;
    let emptied = 1 + leader % 3;
    let third = 1 + emptied % 3;
    world.kill(emptied, None).await;
    world.start(emptied, MemDisk::new()).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    assert!(world.notes(emptied).is_empty() && !world.group(emptied).is_founded());
    let status = world.group(leader).status();
    let seen = status.peers.iter().find(|peer| peer.id == emptied).unwrap();
    assert!(seen.refuses.as_ref().is_some_and(|why| why.contains("forgotten its vote")), "{status:#?}");
    // The other two are a majority; with one of them gone the emptied one does not make another.
    world.append("b").await;
    world.kill(leader, None).await;
    sleep(Duration::from_secs(30)).await;
    assert_eq!(world.group(third).leading().borrow().leads, None);
    world.restart(leader).await.unwrap();
    world.append("c").await;
    world.kill(emptied, None).await;
    assert_eq!(texts(&world.settled().await), ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn an_emptied_peer_does_not_vote_before_the_log_knows_its_folder() {
    let mut world = World::empty(3).await;
    // Peer 3 is never heard of at the founding, so that nobody knows its folder.
    world.isolate(3, true);
    world.found().await;
    world.append("a").await;
    let leader = world.leader().await;
    world.kill(leader, None).await;
    world.isolate(3, false);
    sleep(Duration::from_secs(30)).await;
    for peer in (1..=3).filter(|peer| *peer != leader) {
        assert_eq!(world.group(peer).leading().borrow().leads, None);
    }
    world.restart(leader).await.unwrap();
    world.append("b").await;
    assert_eq!(texts(&world.settled().await), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_group_is_founded_once() {
    let mut world = World::founded(3).await;
    world.append("a").await;
    let peers = || (1..=3).map(|peer| (peer, address(peer))).collect();
    for peer in 1..=3 {
        let refused = world.group(peer).found(peers()).await.unwrap_err();
        assert!(refused.0.contains("there is a group already"), "{refused}");
        world.kill(peer, None).await;
        world.restart(peer).await.unwrap();
        assert!(world.group(peer).found(peers()).await.is_err(), "after a restart");
    }
    let others = [(2, address(2))].into();
    let lone = World::empty(1).await;
    assert!(lone.group(1).found(others).await.unwrap_err().0.contains("not among"));
    sleep(Duration::from_secs(60)).await;
    assert!(!lone.group(1).is_founded() && lone.group(1).leading().borrow().leads.is_none(), "nobody founds by itself");
}

#[tokio::test(start_paused = true)]
async fn peers_of_two_groups_do_not_mix() {
    let mut one = World::founded(3).await;
    let other = World::founded(3).await;
    one.append("a").await;
    other.append("b").await;
    // A peer of the other group in place of this one's.
    let disk = other.peers[&2].disk.after_kill();
    one.kill(2, None).await;
    let own = one.peers[&2].disk.clone();
    one.start(2, disk).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    one.append("c").await;
    assert!(!texts(&one.notes(2)).contains(&"a".to_owned()));
    one.kill(2, None).await;
    one.start(2, own).await.unwrap();
    assert_eq!(texts(&one.settled().await), ["a", "c"]);
}
