//! Members that are taken off the list.

use super::*;
use crate::cluster::Located;
use crate::cluster::removal::NotRemovable;
use crate::types::{Listed, Removed, Version};

fn removed(node: u32) -> Removed {
    Removed { id: NodeId(node), uuid: uuid(node) }
}

/// Node `node` is gone for good.
fn part(cluster: &mut Cluster, node: u32) {
    let session = cluster.registry.get(NodeId(node)).unwrap().session.unwrap();
    cluster.registry.part(NodeId(node), session, true, ms(0));
}

fn order(cluster: &mut Cluster, node: u32) -> Result<(), NotRemovable> {
    let begun = cluster.begin_removal(NodeId(node), false).and_then(|_| cluster.end_removal(NodeId(node), false));
    match begun {
        Ok(removed) => drop(cluster.apply(&Event::Removed(removed))),
        Err(why) => {
            cluster.keep_member(NodeId(node));
            return Err(why);
        }
    }
    Ok(())
}

fn list(cluster: &mut Cluster, node: u32, copies: &[(&str, Version)]) {
    let entry = |&(text, version): &(&str, Version)| {
        let record = CopyRecord { version, length: 10, crc: 7, expires: None };
        Listed { id: id(text), record, staged: false, damaged: false }
    };
    let entries: Vec<Listed> = copies.iter().map(entry).collect();
    let session = cluster.registry.get(NodeId(node)).and_then(|node| node.session).unwrap_or(0);
    cluster.inventory_begins(NodeId(node), session);
    cluster.inventory_page(NodeId(node), session, &entries);
    cluster.inventory_ends(NodeId(node), session, entries.len() as u64).unwrap();
    cluster.settle_knowledge();
}

#[test]
fn a_member_that_anything_depends_on_stays() {
    let mut cluster = healthy(2, 4);
    let held = put_on(&mut cluster, "x", &[3, 4]);
    let node = NodeId(3);
    assert_eq!(order(&mut cluster, 9), Err(NotRemovable::NoMember(NodeId(9))));
    assert_eq!(order(&mut cluster, 3), Err(NotRemovable::InUse(node)));
    part(&mut cluster, 3);
    let holds = NotRemovable::Holds { node, messages: 1, deletions: 0, alone: 0, draining: false };
    assert_eq!(order(&mut cluster, 3), Err(holds));
    // The other holder has gone as well.
    part(&mut cluster, 4);
    let alone = order(&mut cluster, 3).unwrap_err();
    assert!(matches!(alone, NotRemovable::Holds { alone: 1, .. }), "{alone}");
    join_as(&mut cluster, 4, 9, ms(0));
    let holders = [NodeId(1), NodeId(4)].into_iter().collect();
    cluster.apply(&Event::Commit(Commit { id: id("x"), record: held, holders }));
    // A version was found on it alone.
    join_as(&mut cluster, 3, 10, ms(0));
    list(&mut cluster, 3, &[("y", Version::new(Epoch(0), 5))]);
    part(&mut cluster, 3);
    assert_eq!(order(&mut cluster, 3), Err(NotRemovable::Found { node, count: 1 }));
    set(&mut cluster, "y");
    cluster.set_tolerance(4);
    assert_eq!(order(&mut cluster, 3), Err(NotRemovable::TooFewLeft { need: 4, left: 3 }));
    cluster.set_tolerance(3);
    assert_eq!(order(&mut cluster, 3), Ok(()));
    assert!(cluster.registry.get(node).is_none() && cluster.is_removed(uuid(3)) && !cluster.is_removed(uuid(4)));
    assert_eq!(order(&mut cluster, 3), Err(NotRemovable::NoMember(node)));
}

#[test]
fn a_leader_that_does_not_know_everything_removes_nobody() {
    let mut cluster = cluster(2, Trust::MayLackItsEnd);
    (1..=3).for_each(|node| join_as(&mut cluster, node, u64::from(node), ms(0)));
    part(&mut cluster, 3);
    assert!(matches!(order(&mut cluster, 3), Err(NotRemovable::NotYet(_))));
    list(&mut cluster, 1, &[]);
    list(&mut cluster, 2, &[]);
    assert_eq!(order(&mut cluster, 3), Ok(()));
}

#[test]
fn writes_that_chose_it_before_are_waited_for_and_none_chooses_it_after() {
    let mut cluster = healthy(2, 3);
    cluster.registry.set_draining(NodeId(3), true);
    // The only other node that could take the second copy is full.
    cluster.registry.note_full(NodeId(2), 0);
    let ticket = cluster.admit(&id("x"), message(10, 7)).unwrap();
    assert!(ticket.targets.contains(&NodeId(3)));
    let before = cluster.begin_removal(NodeId(3), false).unwrap();
    assert!(cluster.any_under_way(&before));
    assert!(cluster.admit(&id("y"), message(10, 7)).is_err(), "nothing is placed on a node that leaves");
    commit(&mut cluster, &ticket);
    assert!(!cluster.any_under_way(&before));
    let why = cluster.end_removal(NodeId(3), false).unwrap_err();
    assert!(matches!(why, NotRemovable::Holds { messages: 1, .. }), "{why}");
    cluster.keep_member(NodeId(3));
    assert!(cluster.admit(&id("y"), message(10, 7)).is_ok());
}

#[test]
fn a_tombstone_that_waited_for_it_alone_goes_when_all_others_know_that_it_is_gone() {
    let mut cluster = healthy(2, 3);
    part(&mut cluster, 3);
    let version = cluster.next_version().unwrap();
    let holders = [NodeId(1), NodeId(2)].into_iter().collect();
    cluster.apply(&Event::Commit(Commit { id: id("x"), record: CopyRecord::tombstone(version), holders }));
    for node in [1, 2] {
        let ask = cluster.asks(NodeId(node), 9).pop().unwrap();
        cluster.confirmed(NodeId(node), &ask);
    }
    assert_eq!(cluster.forgettable(9), [], "node 3 may come back with the old message");
    order(&mut cluster, 3).unwrap();
    assert_eq!(cluster.uninformed(), [NodeId(1), NodeId(2)]);
    cluster.note_informed(NodeId(1), 1);
    assert_eq!(cluster.forgettable(9), [], "without its log, only node 1 would tell the leader");
    cluster.note_informed(NodeId(2), 1);
    assert_eq!(cluster.forgettable(9), [(id("x"), version)]);
}

#[test]
fn a_folder_with_the_number_of_one_that_was_removed_inherits_nothing_of_it() {
    let mut cluster = healthy(2, 3);
    let version = cluster.next_version().unwrap();
    let holders = [NodeId(1), NodeId(2)].into_iter().collect();
    cluster.apply(&Event::Commit(Commit { id: id("x"), record: CopyRecord::tombstone(version), holders }));
    let ask = cluster.asks(NodeId(3), 9).pop().unwrap();
    cluster.confirmed(NodeId(3), &ask);
    cluster.registry.set_draining(NodeId(3), true);
    order(&mut cluster, 3).unwrap();
    let member = Member { id: NodeId(3), uuid: uuid(33), address: "new:1".to_owned() };
    cluster.registry.remember(member, ms(0));
    cluster.registry.join(NodeId(3), 9, Traits::default(), ms(0));
    cluster.ask_for_confirmations(NodeId(3));
    // An old list of members, or an old log, names the folder once more: its number belongs to another now.
    cluster.apply(&Event::Removed(removed(3)));
    let node = cluster.registry.get(NodeId(3)).unwrap();
    assert!(node.member.uuid == uuid(33) && !node.draining && cluster.is_removed(uuid(3)));
    for node in [1, 2] {
        let ask = cluster.asks(NodeId(node), 9).pop().unwrap();
        cluster.confirmed(NodeId(node), &ask);
    }
    (1..=3).for_each(|node| cluster.note_informed(NodeId(node), 1));
    assert_eq!(cluster.forgettable(9), [], "the new folder has not been asked");
    let ask = cluster.asks(NodeId(3), 9).pop().unwrap();
    cluster.confirmed(NodeId(3), &ask);
    assert_eq!(cluster.forgettable(9), [], "nor has it said what it holds");
    cluster.knowledge.report(NodeId(3));
    assert_eq!(cluster.forgettable(9), [(id("x"), version)]);
}

#[test]
fn a_leader_without_its_log_neither_waits_for_it_nor_takes_anything_from_it() {
    let mut cluster = Cluster::new(2, State::new(1), Trust::Nothing);
    cluster.begin(crate::types::Leadership { cluster_id: uuid(99), epoch: Epoch(9) });
    // The readable view named it a moment before.
    cluster.expect(NodeId(3));
    let old = Version::new(Epoch(1), 7);
    for node in 1..=3 {
        cluster.announce(NodeId(node), uuid(node));
        join_as(&mut cluster, node, u64::from(node), ms(0));
        cluster.note_told();
    }
    list(&mut cluster, 3, &[("deleted", old), ("kept", old)]);
    list(&mut cluster, 1, &[("kept", old)]);
    cluster.apply(&Event::Removed(removed(3)));
    assert!(matches!(cluster.locate(&id("deleted"), 0), Located::Hidden(_)), "node 2 has not reported");
    list(&mut cluster, 2, &[("kept", old)]);
    assert_eq!(cluster.trust(), Trust::Whole);
    assert_eq!(cluster.locate(&id("deleted"), 0), Located::NotFound);
    let (uncommitted, _) = cluster.uncommitted(None, 9);
    assert_eq!((uncommitted.len(), &uncommitted[0].0), (1, &id("kept")));
    assert_eq!(uncommitted[0].1.holders.as_slice(), [NodeId(1), NodeId(2)]);
}

#[test]
fn copies_that_an_old_log_gives_to_a_removed_member_are_asked_of_others() {
    let mut cluster = healthy(2, 3);
    let record = put_on(&mut cluster, "x", &[3]);
    cluster.apply(&Event::Removed(removed(3)));
    assert!(matches!(cluster.locate(&id("x"), 0), Located::Here { candidates, .. } if candidates.is_empty()));
    // Another has it since, which the log does not know.
    list(&mut cluster, 1, &[("x", record.version)]);
    assert!(matches!(cluster.locate(&id("x"), 0), Located::Hidden(_)), "a copy is being taken in");
    let none = std::collections::HashSet::<MessageId>::new();
    assert_eq!(cluster.rescuable(9, &none), [id("x")]);
}
