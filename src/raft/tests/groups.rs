//! Electing, replicating, being cut off, and coming back.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::world::{World, texts};
use crate::raft::{NotAppended, Role};

#[tokio::test(start_paused = true)]
async fn three_peers_elect_one_and_replicate() {
    let world = World::founded(3).await;
    for text in ["a", "b", "c"] {
        world.append(text).await;
    }
    assert_eq!(texts(&world.settled().await), ["a", "b", "c"]);
    let leader = world.leader().await;
    for peer in 1..=3 {
        let standing = world.group(peer).leading().borrow().clone();
        assert_eq!(standing.leads.is_some(), peer == leader);
        let (named, addresses) = standing.leader.unwrap();
        assert_eq!((named, addresses.clients), (leader, format!("clients-{leader}")));
        assert!(standing.reachable.contains(&leader));
        if peer != leader {
            assert_eq!(world.group(peer).append("x").await, Err(NotAppended::NotLeading));
        }
    }
    let status = world.group(leader).status();
    assert_eq!(status.peers.len(), 3);
    assert!(status.peers.iter().all(|peer| peer.matched == status.last), "{status:#?}");
    assert_eq!(status.peers.iter().filter(|peer| peer.role == Role::Leader).count(), 1);
    // Who answers says where it is, and some heartbeats later all know it.
    sleep(Duration::from_secs(1)).await;
    for peer in 1..=3 {
        let told = world.group(peer).status().peers;
        assert!(told.iter().all(|one| one.clients == Some(format!("clients-{}", one.id))), "{peer}: {told:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_peer_alone_is_a_group() {
    let mut world = World::founded(1).await;
    world.append("a").await;
    world.kill(1, Some(&mut fastrand::Rng::with_seed(1))).await;
    world.restart(1).await.unwrap();
    world.append("b").await;
    assert_eq!(texts(&world.settled().await), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_survives_any_one_peer_and_the_power_of_all() {
    let mut world = World::founded(3).await;
    let mut chance = fastrand::Rng::with_seed(7);
    let mut expected = Vec::new();
    for round in 0..6 {
        for place in 0..5 {
            let text = format!("{round}-{place}");
            world.append(&text).await;
            expected.push(text);
        }
        let peer = 1 + round % 3;
        world.kill(peer, Some(&mut chance)).await;
        let text = format!("{round}-without {peer}");
        world.append(&text).await;
        expected.push(text);
        world.restart(peer).await.unwrap();
    }
    for peer in 1..=3 {
        world.kill(peer, Some(&mut chance)).await;
    }
    for peer in 1..=3 {
        world.restart(peer).await.unwrap();
    }
    assert_eq!(texts(&world.settled().await), expected);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_acknowledges_nothing_and_what_it_took_is_cut() {
    let world = World::founded(3).await;
    world.append("before").await;
    let old = world.leader().await;
    let term = world.group(old).status().term;
    world.isolate(old, true);
    // It takes it, and cannot say OK.
    let pending = tokio::spawn({
        let group = world.group(old).clone();
        async move { group.append("lost").await }
    });
    let others: Vec<u64> = (1..=3).filter(|peer| *peer != old).collect();
    sleep(Duration::from_millis(10)).await;
    let new = world.leader_of(&others).await;
    assert!(world.group(new).status().term > term);
    assert!(world.group(new).append("after").await.is_ok());
    let answer = timeout(Duration::from_secs(10), pending).await.unwrap().unwrap();
    assert!(matches!(answer, Err(NotAppended::Unknown(_))), "{answer:?}");
    // After 2 seconds it does not even believe that it leads.
    sleep(Duration::from_secs(2)).await;
    assert_eq!(world.group(old).leading().borrow().leads, None);
    assert_eq!(world.group(old).append("x").await, Err(NotAppended::NotLeading));
    let taken = world.group(old).status().last;
    assert!(taken >= world.group(old).status().committed.map(|index| index + 1), "it had taken an entry");
    world.isolate(old, false);
    assert_eq!(texts(&world.settled().await), ["before", "after"]);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_cut_one_way_changes_leaders_once_at_most() {
    let world = World::founded(3).await;
    world.append("a").await;
    let leader = world.leader().await;
    let term = world.group(leader).status().term;
    let other = 1 + leader % 3;
    world.network.cut(leader, other, true);
    sleep(Duration::from_secs(60)).await;
    let now = world.leader().await;
    world.append("b").await;
    assert!(world.group(now).status().term <= term + 1, "{} after {term}", world.group(now).status().term);
    world.network.heal();
    assert_eq!(texts(&world.settled().await), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_was_away_deposes_nobody() {
    let world = World::founded(3).await;
    world.append("a").await;
    let leader = world.leader().await;
    let term = world.group(leader).status().term;
    let away = 1 + leader % 3;
    world.isolate(away, true);
    sleep(Duration::from_secs(120)).await;
    world.append("b").await;
    world.isolate(away, false);
    assert_eq!(texts(&world.settled().await), ["a", "b"]);
    assert_eq!((world.leader().await, world.group(leader).status().term), (leader, term));
}

#[tokio::test(start_paused = true)]
async fn leadership_is_handed_over_and_nothing_is_lost() {
    let world = World::founded(3).await;
    world.append("a").await;
    let old = world.leader().await;
    let to = 1 + old % 3;
    let begun = tokio::time::Instant::now();
    assert_eq!(world.group(old).hand_over(Some(to)).await, Ok(to));
    assert_eq!(world.leader_of(&[to]).await, to);
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    world.append("b").await;
    assert!(world.group(to).hand_over(None).await.is_ok());
    assert_eq!(texts(&world.settled().await), ["a", "b"]);
    assert!(world.group(to).hand_over(Some(to)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_leader_is_replaced_soon() {
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let mut world = World::founded(3).await;
        world.append("a").await;
        let old = world.leader().await;
        world.kill(old, None).await;
        let begun = tokio::time::Instant::now();
        world.append("b").await;
        slowest = slowest.max(begun.elapsed());
    }
    eprintln!("the slowest of 20 fail-overs took {slowest:?}");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_is_added_and_another_removed() {
    let mut world = World::founded(3).await;
    world.append("a").await;
    let leader = world.leader().await;
    world.start(4, Default::default()).await.unwrap();
    world.group(leader).add(4, super::world::address(4)).await.unwrap();
    let gone = 1 + leader % 3;
    world.group(leader).remove(gone).await.unwrap();
    world.append("b").await;
    world.kill(gone, None).await;
    world.peers.remove(&gone);
    assert_eq!(texts(&world.settled().await), ["a", "b"]);
    assert!(world.group(4).leading().borrow().voters.contains(&4));
    assert!(!world.group(4).leading().borrow().voters.contains(&gone));
}

/// Heartbeats arrive, and no answers: without a leader that makes way nobody would be elected, and nothing committed.
#[tokio::test(start_paused = true)]
async fn a_leader_that_hears_nobody_makes_way() {
    let world = World::founded(3).await;
    world.append("a").await;
    let old = world.leader().await;
    let others: Vec<u64> = (1..=3).filter(|peer| *peer != old).collect();
    others.iter().for_each(|other| world.network.cut(*other, old, true));
    let new = world.leader_of(&others).await;
    assert!(world.group(new).append("b").await.is_ok());
    // It is not disturbed by the one that hears nothing of it.
    for _ in 0..60 {
        sleep(Duration::from_secs(1)).await;
        assert_eq!(world.leader_of(&others).await, new);
    }
    assert_eq!(world.group(old).append("x").await, Err(NotAppended::NotLeading));
    world.network.heal();
    assert_eq!(texts(&world.settled().await), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn somebody_leads_soon_when_one_of_two_that_were_away_comes_back() {
    for away in [3, 7, 11, 16] {
        let mut world = World::founded(3).await;
        world.append("a").await;
        let old = world.leader().await;
        let others: Vec<u64> = (1..=3).filter(|peer| *peer != old).collect();
        world.kill(others[0], None).await;
        world.kill(others[1], None).await;
        sleep(Duration::from_millis(away * 700)).await;
        world.restart(others[0]).await.unwrap();
        let began = tokio::time::Instant::now();
        world.leader().await;
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        world.append("b").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_gets_its_vote_when_it_has_the_log_and_not_before() {
    let mut world = World::founded(3).await;
    world.append("a").await;
    let leader = world.leader().await;
    let has_vote = |world: &World| {
        world.group(leader).status().peers.len() == 4 && world.group(leader).leading().borrow().voters.contains(&4)
    };
    let add = world.group(leader).add(4, super::world::address(4));
    assert!(timeout(Duration::from_secs(60), add).await.is_err(), "nobody is there");
    assert!(!has_vote(&world));
    world.start(4, Default::default()).await.unwrap();
    world.group(leader).add(4, super::world::address(4)).await.unwrap();
    world.append("b").await;
    assert!(has_vote(&world));
    assert_eq!(texts(&world.settled().await), ["a", "b"]);
}
