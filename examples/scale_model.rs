//! What the leader's thinking costs, without disks, network and clients: the real placement, registry, index and
//! repair planner, in one thread.
//!
//!     cargo run --release --example scale_model
//!
//! The first table has real ids, up to ten million. The second is a register of 10,000 nodes and a billion messages:
//! the planner works on holder sets and their counts, so there the messages are counts. The same seed gives the same
//! decisions; only the times differ.

#![allow(clippy::print_stdout)]

use std::collections::HashSet;
use std::hint::black_box;
use std::time::{Duration, Instant};

use hatokuse::cluster::Cluster;
use hatokuse::cluster::knowledge::Trust;
use hatokuse::cluster::mapping::{Commit, SHARDS};
use hatokuse::cluster::registry::{Beat, Traits};
use hatokuse::cluster::state::{Event, State};
use hatokuse::types::{CopyRecord, Epoch, Holders, Leadership, Member, MessageId, NodeId, Uuid, Version};

const TOLERANCE: usize = 3;
const BYTES: u32 = 100;

/// Decisions that are timed.
const TIMED: u32 = 200_000;

/// Nodes and ids of the first table.
const SIZES: [(u32, u32); 9] = [
    (3, 1_000),
    (1_000, 1_000),
    (3, 100_000),
    (1_000, 100_000),
    (3, 1_000_000),
    (100, 1_000_000),
    (1_000, 1_000_000),
    (10_000, 1_000_000),
    (3, 10_000_000),
];

/// The register of counts: its nodes and messages.
const NODES: u32 = 10_000;
const MESSAGES: u64 = 1_000_000_000;

/// Its holder sets, as placement deals them out, and after years of failures and repairs.
const SETS: [u32; 2] = [NODES, 1_000_000];

/// What a message of the model is admitted with.
fn message() -> CopyRecord {
    CopyRecord { version: Version::default(), length: BYTES, crc: 7, expires: None }
}

fn main() -> std::io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| args.get(at).and_then(|text| text.parse().ok()).unwrap_or(0);
    match args.first().map(String::as_str) {
        Some("ids") => with_ids(number(1), number(2)),
        Some("counts") => with_counts(NODES, MESSAGES, number(1)),
        _ => return all(),
    }
    Ok(())
}

/// Each measurement is a process of its own, so that none finds memory that another has left.
fn all() -> std::io::Result<()> {
    let run = |args: &[&str]| std::process::Command::new(std::env::current_exe()?).args(args).status().map(drop);
    println!("{TOLERANCE} copies a message, {BYTES} bytes each; one thread\n");
    println!("   nodes        ids      fill  overwrite    locate     look   counts   holder    RSS");
    println!("                       ns/SET     ns/SET    ns/GET    ns/id       us     sets   B/id");
    for (nodes, ids) in SIZES {
        run(&["ids", &nodes.to_string(), &ids.to_string()])?;
    }
    println!("\nA register of {NODES} nodes and {MESSAGES} messages, as counts");
    SETS.iter().try_for_each(|sets| run(&["counts", &sets.to_string()]))
}

fn id(n: u32) -> MessageId {
    format!("m{n:08}").parse().expect("an id")
}

fn member(n: u32) -> Member {
    Member {
        id: NodeId(n),
        uuid: Uuid(u128::from(n).to_be_bytes()),
        address: format!("10.0.{}.{}:5555", n / 256, n % 256),
    }
}

/// A cluster of healthy nodes, all of which have just joined.
fn cluster(nodes: u32, state: State) -> Cluster {
    let loads = state.mapping().loads();
    let mut cluster = Cluster::new(TOLERANCE, state, Trust::Whole);
    // As if the members had listed what the index says of them.
    cluster.inventory_begins(NodeId(0), 0);
    cluster.inventory_ends(NodeId(0), 0, 0);
    assert!(cluster.settle_knowledge());
    for n in 1..=nodes {
        cluster.apply(&Event::Member(member(n)));
        let (copies, bytes) = loads.get(&NodeId(n)).copied().unwrap_or_default();
        cluster.registry.restore_load(NodeId(n), copies, bytes);
        cluster.registry.join(NodeId(n), u64::from(n), Traits::default(), Duration::ZERO);
    }
    renew(&mut cluster);
    cluster
}

/// A new epoch, with all of its versions.
fn renew(cluster: &mut Cluster) {
    let epoch = cluster.leadership().map_or(1, |leadership| leadership.epoch.0 + 1);
    let leadership = Leadership { cluster_id: Uuid([9; 16]), epoch: Epoch(epoch) };
    cluster.apply(&Event::Began { leadership, run: 1, hears_all: false });
}

/// What the coordinator does for a SET, but for the copies and the log.
fn set(cluster: &mut Cluster, id: &MessageId) {
    let ticket = cluster.admit(id, message()).expect("all nodes are up");
    let mut holders: Holders = ticket.targets.iter().copied().collect();
    holders.sort_unstable();
    let commit = Commit { id: ticket.id.clone(), record: ticket.record, holders };
    cluster.release(&ticket);
    cluster.apply(&Event::Commit(commit));
}

/// The time of one of so many.
fn each(began: Instant, count: u32) -> f64 {
    began.elapsed().as_secs_f64() * 1e9 / f64::from(count)
}

/// Memory of this process that is in use, bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn with_ids(nodes: u32, ids: u32) {
    let before = resident();
    let mut cluster = cluster(nodes, State::new(1));
    let began = Instant::now();
    (0..ids).for_each(|n| set(&mut cluster, &id(n)));
    let fill = each(began, ids);
    let grown = resident().saturating_sub(before);

    // Ids in no order, as clients have them; made outside of what is measured.
    let mut chance = fastrand::Rng::with_seed(1);
    let some: Vec<MessageId> = (0..TIMED).map(|_| id(chance.u32(..ids))).collect();
    let began = Instant::now();
    some.iter().for_each(|id| set(&mut cluster, id));
    let overwrite = each(began, TIMED);
    let began = Instant::now();
    let found = some
        .iter()
        .enumerate()
        .filter(|(turn, id)| matches!(cluster.locate(id, *turn), hatokuse::cluster::Located::Here { .. }));
    assert_eq!(found.count(), TIMED as usize);
    let locate = each(began, TIMED);
    let began = Instant::now();
    assert_eq!(cluster.counts().copies_live, u64::from(ids) * TOLERANCE as u64);
    let counts = began.elapsed().as_secs_f64() * 1e6;
    // What the repair does to find the ids of a lost node: here, of no message that has one copy left.
    let began = Instant::now();
    let none = |part| cluster.urgent(part, 1, usize::MAX, &HashSet::<MessageId>::new()).is_empty();
    assert!((0..SHARDS).all(none));
    let look = each(began, ids);
    let sets = cluster.mapping().sets().count();
    let memory = grown as f64 / f64::from(ids);
    println!(
        "{nodes:>8} {ids:>10} {fill:>9.0} {overwrite:>10.0} {locate:>9.0} {look:>8.0} {counts:>8.0} {sets:>8} {memory:>6.1}"
    );
}

/// Holder sets of a register that is so large: each node in as many as any other.
fn holder_sets(nodes: u32, sets: u32) -> impl Iterator<Item = Holders> {
    let mut chance = fastrand::Rng::with_seed(7);
    let mut order: Vec<u32> = (1..=nodes).collect();
    let mut left: Vec<u32> = Vec::new();
    let in_turn = sets <= nodes;
    (0..sets).map(move |n| {
        let mut holders = Holders::new();
        while holders.len() < TOLERANCE {
            if in_turn {
                holders.push(NodeId((n * TOLERANCE as u32 + holders.len() as u32) % nodes + 1));
                continue;
            }
            let next = left.pop().unwrap_or_else(|| {
                chance.shuffle(&mut order);
                left.extend(&order);
                left.pop().unwrap_or(1)
            });
            if !holders.contains(&NodeId(next)) {
                holders.push(NodeId(next));
            }
        }
        holders.sort_unstable();
        holders
    })
}

fn with_counts(nodes: u32, messages: u64, sets: u32) {
    let before = resident();
    let mut state = State::new(1);
    let each_set = messages / u64::from(sets);
    for holders in holder_sets(nodes, sets) {
        state.count_in(holders, each_set, each_set * u64::from(BYTES));
    }
    let mut cluster = cluster(nodes, state);
    let memory = resident().saturating_sub(before);
    println!("\n  {sets} holder sets of {each_set} messages");
    println!("    memory of registry and sets         {:>10.1} MB", memory as f64 / 1e6);

    let some: Vec<MessageId> = (0..TIMED).map(id).collect();
    let began = Instant::now();
    let tickets: Vec<_> = some.iter().map(|id| cluster.admit(id, message()).expect("all nodes are up")).collect();
    println!("    placing a message                   {:>10.0} ns", each(began, TIMED));
    tickets.iter().for_each(|ticket| cluster.release(ticket));

    let timed = |what: &str, work: &mut dyn FnMut()| {
        let began = Instant::now();
        work();
        println!("    {what:<34} {:>10.3} ms", began.elapsed().as_secs_f64() * 1e3);
    };
    timed("judging all nodes (four times a second)", &mut || drop(cluster.sweep(Duration::ZERO)));
    timed("what STATUS counts", &mut || _ = black_box(cluster.counts()));

    // One node stays away for longer than the grace period; all others beat on.
    let lost = NodeId(nodes / 2);
    let mut now = Duration::ZERO;
    while !cluster.registry.get(lost).is_some_and(|node| node.missing) {
        now += Duration::from_millis(250);
        for n in (1..=nodes).filter(|n| *n != lost.0) {
            cluster.registry.beat(NodeId(n), member(n).uuid, Beat::default(), now);
        }
        if now == Duration::from_millis(250) {
            cluster.registry.part(lost, u64::from(lost.0), true, now);
        }
        cluster.sweep(now);
    }
    println!("  node {lost} is lost, {:.0} s after it went down", now.as_secs_f64());
    timed("how pressing is the most pressing", &mut || _ = black_box(cluster.most_urgent()));
    let mut pending = 0;
    timed("how many messages need a copy", &mut || pending = cluster.repair_view().pending);
    let began = Instant::now();
    let mut gains = vec![0u32; nodes as usize + 1];
    let touched: Vec<(Holders, u64)> = {
        let of_lost = cluster.mapping().sets().filter(|(set, ..)| set.holders.contains(&lost));
        of_lost.map(|(set, messages, _)| (set.holders.clone(), messages)).collect()
    };
    let mut planned = 0;
    // What any node has room for.
    let small = CopyRecord { version: Version(1), length: 1, crc: 0, expires: None };
    for (holders, messages) in &touched {
        for _ in 0..*messages {
            let target = cluster.registry.choose(small, 0, 1, &[], holders)[0];
            cluster.registry.promise(target, 1);
            gains[target.0 as usize] += 1;
            planned += 1;
        }
    }
    let took = began.elapsed();
    assert_eq!(planned, pending);
    let most = gains.iter().max().expect("nodes");
    println!("    a target for each of {planned:>7} messages {:>10.3} ms", took.as_secs_f64() * 1e3);
    println!("    that is, for each                   {:>10.0} ns", took.as_secs_f64() * 1e9 / planned as f64);
    println!("    most new copies on one node         {most:>10}");
}
