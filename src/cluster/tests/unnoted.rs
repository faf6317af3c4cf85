//! Members that are here for reads only, as they could not note the leader.

use super::*;
use crate::cluster::registry::{Beat, REPAIR_AFTER};
use crate::cluster::removal::NotRemovable;
use crate::cluster::{Located, NotAdmitted};
use crate::types::{NodeState, Refusing};

/// Node `node` comes back in this session, and cannot note the leader.
fn join_to_read(cluster: &mut Cluster, node: u32, session: u64, now: Duration) {
    let why = Refusing { full: false, why: "Read-only file system".to_owned() };
    cluster.registry.join_to_read(NodeId(node), session, Traits::default(), why, now);
}

fn candidates(cluster: &Cluster, text: &str) -> Vec<u32> {
    match cluster.find_here(&id(text), 0) {
        Located::Here { candidates, .. } => candidates.iter().map(|node| node.0).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_that_only_reads_is_asked_last_and_takes_nothing() {
    let mut cluster = healthy(2, 3);
    put_on(&mut cluster, "x", &[1, 2]);
    put_on(&mut cluster, "y", &[1, 3]);
    cluster.registry.part(NodeId(1), 1, false, ms(10));
    join_to_read(&mut cluster, 1, 4, ms(20));
    assert_eq!((candidates(&cluster, "x"), candidates(&cluster, "y")), (vec![2, 1], vec![3, 1]));
    let known = cluster.registry.get(NodeId(1)).unwrap();
    assert!(known.only_reads() && !known.is_linked() && known.shown() == NodeState::Up);
    assert_eq!((cluster.registry.usable(), cluster.registry.linked().count()), (2, 2));
    assert!(cluster.registry.beat(NodeId(1), uuid(1), Beat::default(), ms(30)), "it need not register again");
    let ticket = set(&mut cluster, "new");
    assert_eq!(ticket.targets.to_vec(), [NodeId(2), NodeId(3)]);
    cluster.registry.part(NodeId(3), 3, true, ms(40));
    assert_eq!(candidates(&cluster, "y"), [1]);
    assert_eq!(cluster.admit(&id("z"), message(1, 1)), Err(NotAdmitted::TooFewNodes { need: 2, live: 1 }));
    let shortage = cluster.registry.shortage(2).to_string();
    let wanted = "need 2 live nodes, have 2, of which 1 refuses copies (node 1: Read-only file system; it could not note this leader, and only answers reads) (node 3 is down); nothing was written, mend their disks or add nodes and try again";
    assert_eq!(shortage, wanted);
    join_as(&mut cluster, 1, 5, ms(50));
    assert_eq!((cluster.registry.usable(), cluster.registry.get(NodeId(1)).unwrap().refuses_as()), (2, None));
}

#[test]
fn one_that_only_reads_counts_for_no_lease_and_for_no_beginning() {
    let mut cluster = healthy(2, 3);
    assert_eq!(cluster.leases(), (true, true));
    for (node, reads, writes) in [(1, true, true), (2, false, false)] {
        cluster.registry.part(NodeId(node), u64::from(node), false, Duration::ZERO);
        join_to_read(&mut cluster, node, 4, Duration::ZERO);
        cluster.registry.note_answered(NodeId(node), Duration::ZERO);
        assert_eq!(cluster.leases(), (reads, writes), "{node}");
    }
    assert!(!cluster.answers(NodeId(1)) && cluster.answers(NodeId(3)));
    let why = cluster.unsure().unwrap();
    assert!(why.contains("nodes 1, 2 only answer reads: Read-only file system"), "{why}");

    let mut cluster = start_on(logged(named(3)), Trust::Whole, 2);
    for node in [1, 2] {
        join_to_read(&mut cluster, node, u64::from(node), Duration::ZERO);
        cluster.greet();
    }
    join_as(&mut cluster, 3, 3, Duration::ZERO);
    cluster.greet();
    assert!(
        matches!(cluster.admit(&id("x"), message(1, 1)), Err(NotAdmitted::NotYet(why)) if why.contains("only answer"))
    );
    join_as(&mut cluster, 2, 4, Duration::ZERO);
    cluster.greet();
    assert!(cluster.admit(&id("x"), message(1, 1)).is_ok());
}

#[test]
fn copies_that_can_only_be_read_are_made_again_after_a_while() {
    let mut cluster = healthy(2, 3);
    put_on(&mut cluster, "x", &[1, 2]);
    cluster.registry.part(NodeId(1), 1, false, ms(10));
    join_to_read(&mut cluster, 1, 4, ms(20));
    let mut missing = Vec::new();
    for at in (20..=20 + REPAIR_AFTER.as_millis() as u64).step_by(500) {
        assert_eq!(cluster.admit_repair(&id("x")), None, "{at}: it may still note the leader");
        for node in 1..=3 {
            cluster.registry.beat(NodeId(node), uuid(node), Beat::default(), ms(at));
        }
        missing.extend(cluster.registry.sweep(ms(at)));
    }
    assert_eq!((missing.len(), missing[0].node, missing[0].state), (1, NodeId(1), NodeState::Up));
    let repair = cluster.admit_repair(&id("x")).unwrap();
    assert_eq!((repair.ticket.targets.to_vec(), repair.trims), (vec![NodeId(2), NodeId(3)], false));
    assert_eq!(repair.sources.to_vec(), [NodeId(2), NodeId(1)], "it is the last that is asked");
    cluster.registry.part(NodeId(2), 2, false, ms(60_000));
    cluster.release(&repair.ticket);
    assert_eq!(cluster.admit_repair(&id("x")).unwrap().sources.to_vec(), [NodeId(1)]);
}

#[test]
fn one_that_only_reads_can_be_given_up() {
    let mut cluster = healthy(2, 3);
    put_on(&mut cluster, "x", &[1, 2]);
    assert_eq!(cluster.end_removal(NodeId(1), true), Err(NotRemovable::Answers(NodeId(1))));
    join_to_read(&mut cluster, 1, 4, ms(20));
    assert_eq!(cluster.end_removal(NodeId(1), false), Err(NotRemovable::InUse(NodeId(1))));
    assert!(cluster.end_removal(NodeId(1), true).is_ok());
}
