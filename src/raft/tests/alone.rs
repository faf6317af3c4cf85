//! One peer goes on alone, and the others are lost.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::world::{Folded, World, address, path, settings, texts};
use crate::durable::Disk;
use crate::durable::sim::{Fault, MemDisk};
use crate::raft::{PeerId, recover_alone};

fn recover(peer: PeerId, disk: &MemDisk) -> Result<bool, String> {
    let told = settings(peer, disk);
    let folder = disk.folder(path()).map_err(|error| error.to_string())?;
    recover_alone(&folder, &told, Folded::default(), |Folded(notes)| {
        notes.push(b"alone".to_vec());
        Ok(())
    })
}

/// A group of three that has agreed on some, as their disks are when all have ended; and what was agreed on.
async fn ended(snapshot_log_bytes: u64) -> (World, Vec<String>) {
    let mut world = World::empty(3).await;
    for peer in 1..=3 {
        world.kill(peer, None).await;
    }
    world.snapshot_log_bytes = snapshot_log_bytes;
    for peer in 1..=3 {
        world.restart(peer).await.unwrap();
    }
    world.found().await;
    let expected: Vec<String> = (0..40).map(|n| format!("{n:02}{}", "x".repeat(200))).collect();
    for text in &expected {
        world.append(text).await;
    }
    // Folders are known, and snapshots made.
    sleep(Duration::from_secs(3)).await;
    world.settled().await;
    for peer in 1..=3 {
        world.kill(peer, None).await;
    }
    (world, expected)
}

#[tokio::test(start_paused = true)]
async fn one_goes_on_alone_with_all_that_it_has_and_the_others_are_refused() {
    for snapshot_log_bytes in [4096, 64 << 20] {
        let (mut world, mut expected) = ended(snapshot_log_bytes).await;
        let disk = world.peers[&2].disk.clone();
        assert_eq!(recover(2, &disk), Ok(true));
        assert_eq!(recover(2, &disk), Ok(false), "it is done once, however often it is told to");
        world.recovers = true;
        world.restart(2).await.unwrap();
        assert_eq!(world.leader_of(&[2]).await, 2);
        expected.push("alone".to_owned());
        assert_eq!(texts(&world.notes(2)).into_iter().filter(|note| note != "settled").collect::<Vec<_>>(), expected);
        world.recovers = false;
        // The others come back, and neither lead nor are taken back.
        world.restart(1).await.unwrap();
        world.append("more").await;
        let added = timeout(Duration::from_secs(20), world.group(2).add(1, address(1))).await;
        assert!(!matches!(added, Ok(Ok(()))));
        let status = world.group(2).status();
        let refused = status.peers.iter().find(|peer| peer.id == 1).and_then(|peer| peer.refuses.clone());
        assert!(refused.is_some_and(|why| why.contains("another group of leaders")), "{status:#?}");
        world.kill(1, None).await;
        assert_eq!(recover(2, &world.peers[&2].disk), Ok(false));
        // Once it was started without being told to, it can be told to again.
        world.kill(2, None).await;
        world.restart(2).await.unwrap();
        assert_eq!(world.leader_of(&[2]).await, 2);
        world.kill(2, None).await;
        assert_eq!(recover(2, &world.peers[&2].disk), Ok(true));
    }
}

#[tokio::test(start_paused = true)]
async fn it_breaks_off_anywhere_and_is_begun_anew() {
    let (mut world, mut expected) = ended(4096).await;
    expected.push("alone".to_owned());
    let base = world.peers[&2].disk.after_kill();
    let all = {
        let disk = base.after_kill();
        let before = disk.calls();
        recover(2, &disk).unwrap();
        disk.calls() - before
    };
    assert!(all > 20, "{all} calls");
    let mut chance = fastrand::Rng::with_seed(9);
    for call in 0..all {
        for fault in [Fault::CrashBefore, Fault::CrashAfter] {
            let disk = base.after_kill();
            disk.fault_at(disk.calls() + call, fault);
            let broken = recover(2, &disk);
            let disk = if chance.bool() { disk.after_power_cut(&mut chance) } else { disk.after_kill() };
            // Started without being told to, it is what it was, or leads nothing: never a part of it.
            if broken.is_err() && chance.bool() {
                world.start(2, disk.after_kill()).await.unwrap();
                sleep(Duration::from_secs(5)).await;
                let leads = world.group(2).leading().borrow().leads.is_some();
                assert!(!leads || texts(&world.notes(2)).contains(&"alone".to_owned()), "call {call} {fault:?}");
                world.kill(2, None).await;
            }
            let again = recover(2, &disk);
            assert!(again.is_ok(), "call {call} {fault:?}: {again:?}");
            world.recovers = true;
            world.start(2, disk).await.unwrap();
            world.leader_of(&[2]).await;
            let notes: Vec<String> = texts(&world.notes(2)).into_iter().filter(|note| note != "settled").collect();
            let once: BTreeMap<&String, ()> = notes.iter().map(|note| (note, ())).collect();
            assert!(expected.iter().all(|text| once.contains_key(text)), "call {call} {fault:?}: {notes:?}");
            world.recovers = false;
            world.kill(2, None).await;
        }
    }
}
