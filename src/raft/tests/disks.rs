//! Log and vote on a disk that fails and forgets.

use super::world::{World, path, texts};
use crate::durable::sim::{Fault, MemDisk, Op, Survives, errno};

#[tokio::test(start_paused = true)]
async fn nothing_is_acknowledged_before_its_sync_has_returned() {
    let mut world = World::founded(1).await;
    world.append("a").await;
    world.peers[&1].disk.fault_next(Op::Sync, Fault::CrashBefore);
    assert!(world.group(1).append("b").await.is_err());
    assert!(world.peers[&1].stop.failure().is_some(), "the process has to end");
    let disk = world.peers[&1].disk.after_power_cut_with(|_| Survives::Nothing);
    world.kill(1, None).await;
    world.start(1, disk).await.unwrap();
    assert_eq!(texts(&world.settled().await), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_written_and_not_synced_is_synced_before_it_is_believed() {
    let mut world = World::founded(3).await;
    world.append("a").await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let leader = world.leader().await;
    let (follower, third) = (1 + leader % 3, 1 + (leader + 1) % 3);
    world.kill(third, None).await;
    world.peers[&follower].disk.fault_next(Op::Sync, Fault::CrashBefore);
    let group = world.group(leader).clone();
    let pending = tokio::spawn(async move { group.append("b").await });
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    assert!(world.peers[&follower].disk.crashed());
    // The process ends, and the system goes on: the entry is readable, and nobody has synced it.
    world.kill(follower, None).await;
    world.restart(follower).await.unwrap();
    assert_eq!(pending.await.unwrap(), Ok(2), "two of three have it");
    let disk = world.peers[&follower].disk.after_power_cut_with(|_| Survives::Nothing);
    world.kill(follower, None).await;
    world.kill(leader, None).await;
    world.start(follower, disk).await.unwrap();
    world.restart(third).await.unwrap();
    assert_eq!(texts(&world.settled().await), ["a", "b"], "what was acknowledged stays");
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_waited_for() {
    let world = World::founded(3).await;
    world.append("a").await;
    let follower = 1 + world.leader().await % 3;
    world.peers[&follower].disk.set_failing(Some(errno::ENOSPC));
    world.append("b").await;
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    world.peers[&follower].disk.heal();
    assert_eq!(texts(&world.settled().await), ["a", "b"]);
    assert!(world.peers[&follower].stop.failure().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_disk_takes_nothing_steps_down() {
    let world = World::founded(3).await;
    world.append("a").await;
    let old = world.leader().await;
    world.peers[&old].disk.set_failing(Some(errno::ENOSPC));
    let pending = world.group(old).append("b").await;
    tracing::debug!("{pending:?}");
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    let standing = world.group(old).leading().borrow().clone();
    assert!(standing.leads.is_none() && standing.hangs, "{standing:?}");
    let others: Vec<u64> = (1..=3).filter(|peer| *peer != old).collect();
    let new = world.leader_of(&others).await;
    assert!(world.group(new).append("c").await.is_ok());
    world.peers[&old].disk.heal();
    let all = texts(&world.settled().await);
    assert!(all == ["a", "b", "c"] || (all == ["a", "c"] && pending.is_err()), "{all:?} {pending:?}");
    assert!(!world.group(old).leading().borrow().hangs);
}

#[tokio::test(start_paused = true)]
async fn votes_and_terms_survive_and_a_bad_vote_refuses_the_start() {
    let mut world = World::founded(3).await;
    world.append("a").await;
    let term = world.group(1).status().term;
    for peer in 1..=3 {
        let disk = world.peers[&peer].disk.after_power_cut_with(|_| Survives::Nothing);
        world.kill(peer, None).await;
        world.peers.get_mut(&peer).unwrap().disk = disk;
    }
    let disk = world.peers[&2].disk.after_kill();
    disk.rot(path(), "vote", |bytes| bytes[22] ^= 1);
    let refused = world.start(2, disk.clone()).await.unwrap_err();
    assert!(refused.contains("/raft/vote is damaged"), "{refused}");
    disk.rot(path(), "vote", |bytes| bytes[8] = 2);
    let refused = world.start(2, disk).await.unwrap_err();
    assert!(refused.contains("format 2") && refused.contains("upgrade"), "{refused}");
    for peer in 1..=3 {
        world.restart(peer).await.unwrap();
        assert_eq!(world.group(peer).status().term, term, "of peer {peer}");
    }
    world.append("b").await;
    assert!(world.group(1).status().term > term);
}

#[tokio::test(start_paused = true)]
async fn damage_in_the_middle_of_the_log_refuses_the_start() {
    let mut world = World::founded(1).await;
    for text in ["aaaa", "bbbb", "cccc"] {
        world.append(text).await;
    }
    world.kill(1, None).await;
    let disk = world.peers[&1].disk.after_kill();
    disk.rot(path(), "log", |bytes| {
        let place = bytes.windows(4).position(|window| window == b"aaaa").unwrap();
        bytes[place] ^= 1;
    });
    let refused = world.start(1, disk).await.unwrap_err();
    assert!(refused.contains("/raft/log is damaged"), "{refused}");
    assert!(world.restart(1).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_folder_without_its_peer_file_or_of_another_peer_refuses_the_start() {
    let mut world = World::founded(1).await;
    world.append("a").await;
    world.kill(1, None).await;
    let disk: MemDisk = world.peers[&1].disk.after_kill();
    let refused = world.start(2, disk.clone()).await.unwrap_err();
    assert!(refused.contains("is of peer 1, and this is peer 2"), "{refused}");
    use crate::durable::Disk as _;
    disk.folder(path()).unwrap().remove("peer").unwrap();
    let refused = world.start(1, disk).await.unwrap_err();
    assert!(refused.contains("/raft/peer is missing"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_panics_ends_the_process() {
    let world = World::founded(1).await;
    world.append("a").await;
    let group = world.group(1).clone();
    let answer = tokio::time::timeout(std::time::Duration::from_secs(10), group.append("panic")).await.unwrap();
    assert!(matches!(answer, Err(crate::raft::NotAppended::Unknown(_))), "{answer:?}");
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert!(world.peers[&1].stop.failure().is_some());
    assert_eq!(group.leading().borrow().leads, None);
}
