//! Lives with several leaders: each of them kept in one place by a group of three or five, which fail as nodes do.
//!
//! `FROM=1 SEEDS=20000 cargo test --release --test simulation peers_campaign -- --nocapture`, and `SEED=<n> LOG=1 cargo
//! test --test simulation one_group -- --nocapture`.

use hatokuse::types::IoMode;
use tokio::time::{Instant, sleep};

use crate::machines::{Crash, Sim};
use crate::{Life, came_to, number, play, s, show, simulate, troubles};

/// Seeds of one run of the tests, unless `SEEDS` says otherwise.
const SEEDS: u64 = 60;

/// A life with troubles by chance; gives everything that could be seen of it.
async fn troubled_group(seed: u64, density: u64) -> Life {
    let mut chance = fastrand::Rng::with_seed(!seed);
    let io_mode = if chance.bool() { IoMode::Buffered } else { IoMode::Unbuffered };
    let began = Instant::now();
    let mut sim = Sim::start_group(seed, io_mode, if chance.u8(..5) == 0 { 5 } else { 3 }).await;
    let troubles = troubles::by_chance_in_group(io_mode, &mut chance, 15.0, density as usize);
    sim.live(s(15.0), async |sim| sim.suffer(&troubles).await).await;
    if seed.is_multiple_of(8) {
        sim.check_by_each().await;
    }
    came_to(&sim, began)
}

#[test]
fn three_leaders_serve_as_one_and_each_of_them_knows_it_all() {
    simulate(async {
        let mut sim = Sim::start_group(1, IoMode::Buffered, 3).await;
        sim.live(s(5.0), async |_| {}).await;
        sim.check_by_each().await;
    });
}

#[test]
fn a_leading_peer_dies_and_comes_back() {
    for how in [Crash::Kill, Crash::PowerCut] {
        simulate(async {
            let mut sim = Sim::start_group(2, IoMode::Unbuffered, 3).await;
            sim.live(s(8.0), async |sim| {
                sleep(s(3.0)).await;
                let (peer, _) = sim.net.leading().unwrap();
                assert!(sim.crash_peer(peer, how).await);
                sleep(s(3.0)).await;
            })
            .await;
            sim.check_by_each().await;
        });
    }
}

#[test]
fn the_same_seed_of_a_group_twice_gives_the_same_bytes() {
    for seed in 0..4 {
        let (first, _) = simulate(troubled_group(seed, 1));
        let (second, _) = simulate(troubled_group(seed, 1));
        let differ = first.lines().zip(second.lines()).find(|(first, second)| first != second);
        assert!(first == second, "seed {seed}: {differ:?}");
    }
}

#[test]
fn peers_campaign() {
    let sum = play("one_group", number("FROM", 1), number("SEEDS", SEEDS), troubled_group);
    sum.print();
    // A campaign in which a kind of trouble never took effect proves nothing about it.
    assert!(sum.seeds < SEEDS || sum.faults.len() >= 30, "{:?}", sum.faults);
}

#[test]
fn one_group() {
    show(troubled_group);
}
