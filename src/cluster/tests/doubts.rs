//! What failed writes may have left: never absent, and deleted with a tombstone.

use super::super::Located;
use super::super::doubt::MOST_DOUBTS;
use super::*;
use crate::types::Version;

/// A write of x that node 1 has and node 2 did not answer to, in a cluster of two that needs both.
fn failed(cluster: &mut Cluster, text: &str) -> Ticket {
    let ticket = cluster.admit(&id(text), message(10, 7)).unwrap();
    cluster.release(&ticket);
    cluster.note_in_doubt(&ticket, &[]);
    ticket
}

fn look(cluster: &Cluster, text: &str) -> &'static str {
    match cluster.locate(&id(text), 0) {
        Located::Here { .. } => "here",
        Located::NotFound => "not found",
        Located::Hidden(_) => "hidden",
    }
}

#[test]
fn what_a_failed_write_may_have_left_is_not_absent_and_is_deleted_with_a_tombstone() {
    let mut cluster = healthy(2, 2);
    let ticket = failed(&mut cluster, "x");
    assert_eq!(look(&cluster, "x"), "hidden");
    let deletion = cluster.admit_deletion(&id("x")).unwrap().expect("a tombstone");
    assert!(deletion.record.version > ticket.record.version);
    commit(&mut cluster, &deletion);
    assert_eq!((look(&cluster, "x"), cluster.doubts(9)), ("not found", vec![]));
    // Whoever comes back with it has something that is older than the tombstone.
    let old = Listed { id: id("x"), record: ticket.record, staged: false, damaged: false };
    report(&mut cluster, 2, &[old]).unwrap();
    assert_eq!((look(&cluster, "x"), cluster.uncommitted_len()), ("not found", 0));
}

#[test]
fn nodes_that_answer_settle_what_is_in_doubt() {
    for (here, seen) in [([false, false], "not found"), ([true, false], "hidden"), ([true, true], "hidden")] {
        let mut cluster = healthy(2, 2);
        let ticket = failed(&mut cluster, "x");
        let both = vec![(id("x"), ticket.record)];
        assert_eq!(cluster.doubts(9), [(NodeId(1), both.clone()), (NodeId(2), both)]);
        for (node, here) in [NodeId(1), NodeId(2)].into_iter().zip(here) {
            assert_eq!(look(&cluster, "x"), "hidden", "{node} has not answered");
            cluster.settle_doubt(node, &id("x"), ticket.record, here);
        }
        assert_eq!((look(&cluster, "x"), cluster.doubts(9)), (seen, vec![]));
        // What is there is completed.
        let holders = uncommitted(&cluster).pop().map_or(0, |(_, found)| found.holders.len());
        assert_eq!(holders, here.into_iter().filter(|here| *here).count());
    }
}

#[test]
fn who_is_away_is_not_asked_and_who_refused_has_nothing() {
    let mut cluster = healthy(2, 3);
    let ticket = cluster.admit(&id("x"), message(10, 7)).unwrap();
    let (refused, silent) = (ticket.targets[0], ticket.targets[1]);
    cluster.note_in_doubt(&ticket, &[refused]);
    cluster.release(&ticket);
    assert_eq!(cluster.doubts(9).len(), 1);
    cluster.registry.part(silent, u64::from(silent.0), true, ms(0));
    assert_eq!((cluster.doubts(9), look(&cluster, "x")), (vec![], "hidden"));
    // All refused it: it is surely nowhere.
    let ticket = cluster.admit(&id("y"), message(10, 7)).unwrap();
    cluster.note_in_doubt(&ticket, &ticket.targets.clone());
    assert_eq!((look(&cluster, "y"), cluster.admit_deletion(&id("y"))), ("not found", Ok(None)));
}

#[test]
fn the_value_before_stays_readable_and_a_deletion_of_it_stands_before_both() {
    let mut cluster = healthy(2, 2);
    set(&mut cluster, "x");
    let over = failed(&mut cluster, "x");
    assert_eq!((look(&cluster, "x"), cluster.doubts(9)), ("here", vec![]));
    let deletion = cluster.admit_deletion(&id("x")).unwrap().unwrap();
    // Nor does one that fails itself make anything absent or present.
    cluster.release(&deletion);
    cluster.note_in_doubt(&deletion, &[]);
    assert_eq!(look(&cluster, "x"), "here");
    let deletion = cluster.admit_deletion(&id("x")).unwrap().unwrap();
    commit(&mut cluster, &deletion);
    assert!(deletion.record.version > over.record.version);
    assert_eq!(look(&cluster, "x"), "not found");
    // After a deletion it is as if it had never been.
    failed(&mut cluster, "x");
    assert_eq!(look(&cluster, "x"), "hidden");
    set(&mut cluster, "x");
    assert_eq!((look(&cluster, "x"), cluster.doubts(9)), ("here", vec![]));
}

#[test]
fn a_member_that_this_leader_has_not_heard_may_have_what_a_write_left_under_the_one_before() {
    let mut cluster = healthy(2, 2);
    assert_eq!(cluster.admit_deletion(&id("x")), Ok(None));
    join_as(&mut cluster, 3, 3, ms(0));
    let deletion = cluster.admit_deletion(&id("x")).unwrap().expect("a tombstone");
    cluster.release(&deletion);
    report(&mut cluster, 3, &[]).unwrap();
    assert_eq!(cluster.admit_deletion(&id("x")), Ok(None));
}

#[test]
fn what_is_in_doubt_is_bounded() {
    let mut cluster = healthy(1, 2);
    set(&mut cluster, "old");
    for n in 0..MOST_DOUBTS {
        failed(&mut cluster, &format!("id{n}"));
    }
    assert!(cluster.admit(&id("new"), message(10, 7)).is_err(), "nothing could be said of it if it failed");
    assert!(cluster.admit(&id("old"), message(10, 7)).is_ok());
    let (node, mut some) = cluster.doubts(1).pop().unwrap();
    let (first, record) = some.pop().unwrap();
    cluster.settle_doubt(node, &first, record, false);
    assert!(cluster.admit(&id("new"), message(10, 7)).is_ok());
    // A member that never comes back is given up.
    let version = Version::new(Epoch(1), 1);
    assert!(record.version > version);
    cluster.apply(&Event::Removed(crate::types::Removed { id: node, uuid: uuid(node.0) }));
    assert!(cluster.doubts(9).iter().all(|(other, _)| *other != node));
}
