//! What it costs to admit and commit one message, and to find one, over nodes and over committed messages.
//!
//! The claim: it grows with neither. Every measurement writes ids that are there already, so that the index keeps
//! its size while it is measured, and the nodes' loads keep the shape that a register in use has.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use hatokuse::cluster::knowledge::Trust;
use hatokuse::cluster::mapping::Commit;
use hatokuse::cluster::registry::Traits;
use hatokuse::cluster::state::{Event, State};
use hatokuse::cluster::{Cluster, Located};
use hatokuse::types::{CopyRecord, Epoch, Holders, Leadership, Member, MessageId, NodeId, Uuid, Version};

const TOLERANCE: usize = 3;

fn id(n: u32) -> MessageId {
    n.to_string().parse().expect("a number is an id")
}

/// What the coordinator does for a SET, but for the copies and the log.
fn set(cluster: &mut Cluster, id: &MessageId) {
    let ticket = cluster.admit(id, CopyRecord::of(Version::default(), &[b'x'; 100])).expect("all nodes are up");
    let mut holders: Holders = ticket.targets.iter().copied().collect();
    holders.sort_unstable();
    let commit = Commit { id: ticket.id.clone(), record: ticket.record, holders };
    cluster.release(&ticket);
    cluster.apply(&Event::Commit(commit));
}

/// A register with so many healthy nodes and so many committed messages.
fn register(nodes: u32, messages: u32) -> Cluster {
    let mut cluster = Cluster::new(TOLERANCE, State::new(1), Trust::Whole);
    for n in 1..=nodes {
        let uuid = Uuid(u128::from(n).to_be_bytes());
        cluster.apply(&Event::Member(Member { id: NodeId(n), uuid, address: format!("host-{n}:1") }));
        cluster.registry.join(NodeId(n), u64::from(n), Traits::default(), Duration::ZERO);
    }
    cluster.greet();
    renew(&mut cluster);
    (0..messages).for_each(|n| set(&mut cluster, &id(n)));
    cluster
}

/// A new epoch, so that a long measurement does not use up the versions of one.
fn renew(cluster: &mut Cluster) {
    let epoch = cluster.leadership().map_or(1, |leadership| leadership.epoch.0 + 1);
    let leadership = Leadership { cluster_id: Uuid([9; 16]), epoch: Epoch(epoch) };
    cluster.apply(&Event::Began { leadership, run: 1, hears_all: false });
}

/// Nodes and committed messages of what is measured; `examples/scale_model.rs` goes on to ten million.
const SIZES: [(u32, u32); 5] = [(3, 1_000), (100, 1_000), (1_000, 1_000), (3, 1_000_000), (1_000, 1_000_000)];

fn decisions(criterion: &mut Criterion) {
    for (nodes, messages) in SIZES {
        let mut cluster = register(nodes, messages);
        // Ids in no order, as clients name them; made outside of what is measured.
        let mut chance = fastrand::Rng::with_seed(1);
        let ids: Vec<MessageId> = (0..65_536).map(|_| id(chance.u32(..messages))).collect();
        let mut measure = |name: &str, decide: &mut dyn FnMut(&mut Cluster, &MessageId)| {
            let mut group = criterion.benchmark_group(name);
            group.sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
            let size = BenchmarkId::from_parameter(format!("{nodes} nodes, {messages} messages"));
            group.bench_function(size, |bencher| {
                renew(&mut cluster);
                let mut next = ids.iter().cycle();
                bencher.iter(|| decide(black_box(&mut cluster), next.next().expect("it has no end")));
            });
            group.finish();
        };
        measure("admit_and_commit", &mut set);
        measure("locate", &mut |cluster, id| {
            assert!(matches!(black_box(cluster.locate(id, 0)), Located::Here { .. }));
        });
    }
}

criterion_group!(placement, decisions);
criterion_main!(placement);
