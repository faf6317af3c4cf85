//! Tombstones, and who has to confirm them.

use super::*;
use crate::cluster::state::Applied;
use crate::types::Version;

#[test]
fn a_tombstone_waits_for_every_member() {
    let mut cluster = healthy(2, 3);
    put_on(&mut cluster, "x", &[1, 2]);
    let version = cluster.next_version().unwrap();
    let holders = [NodeId(1), NodeId(2)].into_iter().collect();
    cluster.apply(&Event::Commit(Commit { id: id("x"), record: CopyRecord::tombstone(version), holders }));
    for node in 1..=3 {
        assert_eq!(cluster.forgettable(9), [], "node {node} has not answered");
        let ask = cluster.asks(NodeId(node), 9).pop().unwrap();
        assert_eq!((&ask.id, ask.version, ask.keep), (&id("x"), version, node < 3));
        cluster.confirmed(NodeId(node), &ask);
    }
    // Whoever joins before it is forgotten may have the old message too.
    join_as(&mut cluster, 4, 4, Duration::ZERO);
    cluster.knowledge.report(NodeId(4));
    cluster.ask_for_confirmations(NodeId(4));
    assert_eq!(cluster.forgettable(9), [], "node 4 has not answered");
    let ask = cluster.asks(NodeId(4), 9).pop().unwrap();
    cluster.confirmed(NodeId(4), &ask);
    assert_eq!(cluster.forgettable(9), [(id("x"), version)]);
    let Applied::Forgotten(_, holders) = cluster.apply(&Event::Forgotten { id: id("x"), version }) else {
        panic!("it is not there")
    };
    assert_eq!(holders.as_slice(), [NodeId(1), NodeId(2)]);
}

#[test]
fn a_deletion_is_forgotten_when_all_that_is_older_has_come_to_its_end() {
    let mut cluster = healthy(2, 3);
    put_on(&mut cluster, "x", &[1, 2]);
    put_on(&mut cluster, "y", &[1, 2]);
    let under_way = cluster.admit(&id("z"), message(10, 7)).unwrap();
    let deletion = cluster.admit_deletion(&id("x")).unwrap().unwrap();
    commit(&mut cluster, &deletion);
    (1..=3).for_each(|node| confirm(&mut cluster, node));
    // A copy of the log that says that x was forgotten would say nothing of z, which became true after it.
    assert_eq!(cluster.forgettable(9), [], "z is older");
    // What gets another holder was true before.
    cluster.note_copy(&id("y"), Version::new(Epoch(1), 2), NodeId(2), false);
    let repair = cluster.admit_repair(&id("y")).unwrap();
    commit(&mut cluster, &under_way);
    assert_eq!(cluster.forgettable(9), [(id("x"), deletion.record.version)]);
    cluster.release(&repair.ticket);
    assert!(!cluster.is_writing());
}

#[test]
fn a_deletion_is_not_forgotten_while_what_was_found_waits_to_be_completed() {
    let mut cluster = healthy(2, 3);
    put_on(&mut cluster, "x", &[1, 2]);
    let deletion = cluster.admit_deletion(&id("x")).unwrap().unwrap();
    commit(&mut cluster, &deletion);
    (1..=3).for_each(|node| confirm(&mut cluster, node));
    let found = |version| Listed {
        id: id("z"),
        record: CopyRecord { version, length: 10, crc: 7, expires: None },
        staged: false,
        damaged: false,
    };
    // Acknowledged by a leader before, perhaps, whose log this one's is a copy of.
    report(&mut cluster, 3, &[found(Version::new(Epoch(0), 9))]).unwrap();
    assert_eq!(cluster.forgettable(9), []);
    cluster.forget_uncommitted(&id("z"), Version::new(Epoch(0), 9), NodeId(3));
    assert_eq!(cluster.forgettable(9), [(id("x"), deletion.record.version)]);
}
