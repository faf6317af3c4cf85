//! Troubles by chance: deaths with and without the power, cuts of both kinds, loss, hand-overs, and appends by whoever
//! believes that it leads.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::sleep;

use super::world::{World, texts};
use crate::durable::sim::{Fault, Op};
use crate::lock::Lock;
use crate::raft::PeerId;

/// What was acknowledged, and what may be there.
#[derive(Debug, Default)]
struct Said {
    acknowledged: BTreeSet<String>,
    refused: BTreeSet<String>,
}

/// All orders are prefixes of the longest.
fn check_orders(world: &World) {
    let all: Vec<_> = world.peers.values().map(|peer| peer.machine.all()).collect();
    let longest = all.iter().max_by_key(|notes| notes.len()).unwrap();
    for notes in &all {
        assert!(longest.starts_with(notes), "orders differ: {:?} and {:?}", texts(notes), texts(longest));
    }
}

async fn disturb(world: &mut World, chance: &mut Rng, said: &Arc<Lock<Said>>, count: &mut u64) {
    let peers: Vec<PeerId> = world.peers.keys().copied().collect();
    let peer = peers[chance.usize(..peers.len())];
    let other = peers[chance.usize(..peers.len())];
    let is_up = world.peers[&peer].group.is_some();
    match chance.u8(..100) {
        0..=59 if is_up => {
            for _ in 0..chance.u8(1..6) {
                *count += 1;
                // Most of them by who leads, so that something happens.
                let leads = peers.iter().filter(|peer| world.peers[peer].group.is_some());
                let leads = leads.copied().find(|peer| world.group(*peer).leading().borrow().leads.is_some());
                let by = if chance.u8(..4) == 0 { peer } else { leads.unwrap_or(peer) };
                let (text, group, said) = (format!("{count}"), world.group(by).clone(), said.clone());
                let stop = world.peers[&by].stop.clone();
                tokio::spawn(async move {
                    let answer = group.append(text.clone().into_bytes()).await;
                    let mut said = said.lock();
                    match answer {
                        // Its client hears nothing more of it.
                        _ if stop.is_requested() => {}
                        Ok(_) => drop(said.acknowledged.insert(text)),
                        Err(crate::raft::NotAppended::NotLeading) => drop(said.refused.insert(text)),
                        Err(_) => {}
                    }
                });
            }
        }
        60..=64 if is_up => world.kill(peer, Some(chance)).await,
        65..=67 if is_up => world.kill(peer, None).await,
        68..=70 if is_up => {
            let fault = if chance.bool() { Fault::CrashBefore } else { Fault::CrashAfter };
            let op = [Op::Sync, Op::Append, Op::Rename, Op::SyncFolder][chance.usize(..4)];
            world.peers[&peer].disk.fault_next(op, fault);
        }
        71..=74 if peer != other => world.network.cut(peer, other, true),
        75..=77 => world.isolate(peer, true),
        78..=80 => world.network.heal(),
        81..=82 => *world.network.lost.lock() = chance.u8(..60),
        83..=84 => *world.network.slowest.lock() = Duration::from_millis(chance.u64(..60)),
        85 if is_up => {
            let group = world.group(peer).clone();
            tokio::spawn(async move { group.hand_over(None).await });
        }
        _ => {}
    }
    sleep(Duration::from_millis(chance.u64(..400))).await;
    for peer in peers {
        if let Some(why) = world.peers[&peer].stop.failure()
            && world.peers[&peer].group.is_some()
        {
            assert!(world.peers[&peer].disk.crashed() && !why.contains("panicked"), "peer {peer}: {why}");
            world.kill(peer, Some(chance)).await;
        }
        if world.peers[&peer].group.is_none() && chance.u8(..4) == 0 {
            world.restart(peer).await.unwrap();
        }
    }
    check_orders(world);
}

/// What came of a life: how many were acknowledged, all that is there in its order, and in which term it ended.
type Came = (usize, Vec<String>, u64);

async fn play(seed: u64) -> Came {
    // The engine's chance, and the network's.
    fastrand::seed(seed);
    let mut chance = Rng::with_seed(seed);
    let mut world = World::empty(if seed % 5 == 4 { 5 } else { 3 }).await;
    if seed.is_multiple_of(3) {
        // Snapshots come thick and fast.
        world.make_snapshots_from(2048).await;
    }
    world.found().await;
    let (said, mut count) = (Arc::<Lock<Said>>::default(), 0);
    for _ in 0..300 {
        disturb(&mut world, &mut chance, &said, &mut count).await;
    }
    world.network.heal();
    *world.network.lost.lock() = 0;
    *world.network.slowest.lock() = Duration::ZERO;
    let peers: Vec<PeerId> = world.peers.keys().copied().collect();
    for peer in peers {
        if world.peers[&peer].disk.crashed() {
            world.kill(peer, Some(&mut chance)).await;
        }
        world.peers[&peer].disk.heal();
        if world.peers[&peer].group.is_none() {
            world.restart(peer).await.unwrap();
        }
    }
    let all = texts(&world.settled().await);
    check_orders(&world);
    let said = std::mem::take(&mut *said.lock());
    for text in &said.acknowledged {
        let times = all.iter().filter(|one| *one == text).count();
        assert_eq!(times, 1, "{text} was acknowledged and is there {times} times");
    }
    for text in &said.refused {
        assert!(!all.contains(text), "{text} was refused and is there");
    }
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "nothing is there twice");
    let term = world.group(world.leader().await).status().term;
    (said.acknowledged.len(), all, term)
}

fn played(seed: u64) -> Came {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let played = std::panic::catch_unwind(|| runtime.block_on(play(seed)));
    played.unwrap_or_else(|_| panic!("seed {seed} failed: its cause is above"))
}

#[test]
fn what_was_acknowledged_is_there_once_whatever_happens() {
    let number = |name, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (first, count) = (number("HATOKUSE_SEED", 0), number("HATOKUSE_SEEDS", 30));
    let mut acknowledged = 0;
    for seed in first..first + count {
        let (yes, all, term) = played(seed);
        eprintln!("seed {seed}: {yes} acknowledged, {} there, term {term}", all.len());
        acknowledged += yes;
    }
    assert!(acknowledged as u64 > 50 * count, "{acknowledged}: too little happens here to prove anything");
}

#[test]
fn the_same_seed_twice_is_the_same_life() {
    for seed in 0..6 {
        assert!(played(seed) == played(seed), "seed {seed}");
    }
}
