//! What follows from what nodes say they hold, and what does not.

use std::collections::HashSet;

use super::*;
use crate::cluster::admission::MOST_IN_DOUBT;
use crate::cluster::{Located, NotAdmitted, Reported};
use crate::types::{Listed, NodeState, Version};

/// A line of an inventory: an id with a version's record.
fn line(text: &str, record: CopyRecord) -> Listed {
    Listed { id: id(text), record, staged: false, damaged: false }
}

/// A line of a write of epoch 1 that no log record speaks of.
fn unknown(text: &str, sequence: u32) -> Listed {
    line(text, CopyRecord { version: Version::new(Epoch(1), sequence), length: 10, crc: 7, expires: None })
}

/// What a GET would be told: `v<sequence>` and the nodes to ask, or why not.
fn look(cluster: &Cluster, text: &str) -> String {
    match cluster.locate(&id(text), 0) {
        Located::Here { record, candidates, .. } => {
            let nodes: Vec<String> = candidates.iter().map(NodeId::to_string).collect();
            format!("v{} on {}", record.version.sequence(), nodes.join(" "))
        }
        Located::NotFound => "not found".to_owned(),
        Located::Hidden(reason) => format!("hidden: {reason}"),
    }
}

/// Five spare versions, so that an inventory may list some that were given and never committed.
fn spend_versions(cluster: &mut Cluster) {
    for _ in 0..5 {
        cluster.next_version();
    }
}

#[test]
fn a_newer_version_is_hidden_until_it_is_completed() {
    let mut cluster = healthy(2, 3);
    put_on(&mut cluster, "x", &[1, 2]);
    spend_versions(&mut cluster);
    report(&mut cluster, 3, &[unknown("x", 4)]).unwrap();
    assert_eq!(look(&cluster, "x"), "hidden: a version found on node 3 is being completed");
    report(&mut cluster, 2, &[unknown("x", 4)]).unwrap();
    let (_, newer) = uncommitted(&cluster).pop().unwrap();
    assert_eq!(newer.holders.to_vec(), [NodeId(2), NodeId(3)]);
    let ticket = cluster.admit_completion(&id("x"), newer.record, &newer.holders, false).unwrap();
    assert_eq!(ticket.targets.to_vec(), [NodeId(2), NodeId(3)], "who has it keeps it");
    commit(&mut cluster, &ticket);
    assert_eq!((look(&cluster, "x"), cluster.uncommitted_len()), ("v4 on 2 3".to_owned(), 0));
}

#[test]
fn a_write_after_it_puts_a_found_version_in_the_past() {
    let mut cluster = healthy(2, 3);
    spend_versions(&mut cluster);
    report(&mut cluster, 3, &[unknown("x", 2)]).unwrap();
    set(&mut cluster, "x");
    assert_eq!((look(&cluster, "x"), cluster.uncommitted_len()), ("v6 on 1 2".to_owned(), 0));
    report(&mut cluster, 3, &[unknown("x", 2)]).unwrap();
    assert_eq!(cluster.uncommitted_len(), 0, "an older version is nothing new");
}

#[test]
fn a_version_without_a_source_is_forgotten_but_not_a_newer_one() {
    let mut cluster = healthy(2, 3);
    spend_versions(&mut cluster);
    report(&mut cluster, 3, &[unknown("x", 2), unknown("x", 3)]).unwrap();
    report(&mut cluster, 2, &[unknown("x", 3)]).unwrap();
    cluster.forget_uncommitted(&id("x"), Version::new(Epoch(1), 2), NodeId(3));
    assert_eq!(cluster.uncommitted_len(), 1);
    cluster.forget_uncommitted(&id("x"), Version::new(Epoch(1), 3), NodeId(3));
    assert_eq!(cluster.uncommitted_len(), 1, "node 2 has it still");
    cluster.forget_uncommitted(&id("x"), Version::new(Epoch(1), 3), NodeId(2));
    assert_eq!(look(&cluster, "x"), "hidden: a version found on node 3 is being completed", "what it stood before");
    let found: Vec<_> = uncommitted(&cluster).into_iter().map(|(_, found)| found.record.version).collect();
    assert_eq!(found, [Version::new(Epoch(1), 2)]);
    cluster.forget_uncommitted(&id("x"), Version::new(Epoch(1), 2), NodeId(3));
    assert_eq!(look(&cluster, "x"), "not found");
}

#[test]
fn what_was_deleted_everywhere_stays_so_when_something_newer_turns_out_to_be_nothing() {
    let mut cluster = healthy(2, 3);
    spend_versions(&mut cluster);
    cluster.apply(&Event::Horizon(Version::new(Epoch(1), 2)));
    report(&mut cluster, 3, &[unknown("x", 3)]).unwrap();
    report(&mut cluster, 2, &[unknown("x", 2)]).unwrap();
    cluster.forget_uncommitted(&id("x"), Version::new(Epoch(1), 3), NodeId(3));
    assert_eq!(look(&cluster, "x"), "not found");
    assert_eq!(cluster.excess.of(&id("x")).collect::<Vec<_>>(), [(NodeId(2), Version::new(Epoch(1), 2))]);
}

#[test]
fn foreign_files_wait_for_all_inventories_and_become_one_message() {
    let mut cluster = healthy(2, 3);
    put_on(&mut cluster, "known", &[1, 2]);
    let foreign = |text| line(text, CopyRecord { version: Version::FOREIGN, length: 3, crc: 9, expires: None });
    let other = line("x", CopyRecord { version: Version::FOREIGN, length: 4, crc: 1, expires: None });
    cluster.inventory_begins(NodeId(2), 2);
    report(&mut cluster, 1, &[foreign("x"), foreign("known")]).unwrap();
    assert!(uncommitted(&cluster).is_empty(), "node 2 may have it too");
    cluster.inventory_page(NodeId(2), 2, &[foreign("x")]);
    cluster.inventory_ends(NodeId(2), 2, 1).unwrap();
    let reported = report(&mut cluster, 3, &[other]).unwrap();
    assert_eq!(reported.differing, 1, "it is said");
    let found = uncommitted(&cluster);
    assert_eq!(found.len(), 1, "a foreign file never beats a recorded copy");
    assert_eq!((found[0].0.as_bytes(), found[0].1.holders.to_vec()), (&b"x"[..], vec![NodeId(1), NodeId(2)]));
}

#[test]
fn versions_under_way_and_after_the_beginning_speak_for_themselves() {
    let mut cluster = healthy(2, 3);
    let ticket = cluster.admit(&id("x"), message(10, 7)).unwrap();
    report(&mut cluster, 1, &[line("x", ticket.record)]).unwrap();
    report(&mut cluster, 1, &[unknown("y", 2)]).unwrap();
    assert_eq!(cluster.uncommitted_len(), 0);
    // What that write is about to replace is another thing: it is there until then.
    let mut before = line("x", ticket.record);
    before.record.version = Version::new(Epoch(0), 9);
    report(&mut cluster, 1, &[before]).unwrap();
    assert_eq!(cluster.uncommitted_len(), 1);
}

#[test]
fn a_damaged_copy_is_no_source_and_no_evidence() {
    let mut cluster = healthy(2, 3);
    let record = put_on(&mut cluster, "x", &[1, 2]);
    spend_versions(&mut cluster);
    let damaged = |entry| Listed { damaged: true, ..entry };
    report(&mut cluster, 1, &[damaged(line("x", record))]).unwrap();
    assert_eq!(look(&cluster, "x"), "v1 on 2");
    report(&mut cluster, 3, &[damaged(unknown("x", 4)), damaged(unknown("y", 5))]).unwrap();
    assert_eq!((look(&cluster, "x"), look(&cluster, "y")), ("v1 on 2".to_owned(), "not found".to_owned()));
    report(&mut cluster, 1, &[line("x", record)]).unwrap();
    assert_eq!(look(&cluster, "x"), "v1 on 1 2", "healed meanwhile");
    report(&mut cluster, 1, &[line("x", CopyRecord { crc: 8, ..record })]).unwrap();
    assert_eq!(look(&cluster, "x"), "v1 on 2", "the same version with another checksum is no copy of it");
}

#[test]
fn a_damaged_copy_that_no_log_speaks_of_goes_with_the_next_write() {
    let mut cluster = cluster(2, Trust::Nothing);
    (1..=3).for_each(|node| join_as(&mut cluster, node, u64::from(node), ms(0)));
    report(&mut cluster, 3, &[Listed { damaged: true, ..unknown("x", 0) }]).unwrap();
    report(&mut cluster, 1, &[]).unwrap();
    report(&mut cluster, 2, &[]).unwrap();
    assert!(cluster.settle_knowledge() && uncommitted(&cluster).is_empty());
    put_on(&mut cluster, "x", &[1, 2]);
    assert_eq!(cluster.excess.of(&id("x")).collect::<Vec<_>>(), [(NodeId(3), Version::new(Epoch(1), 0))]);
}

#[test]
fn a_holder_that_has_not_published_is_told_again() {
    let mut cluster = healthy(2, 2);
    let record = put_on(&mut cluster, "x", &[1, 2]);
    let staged = Listed { staged: true, ..line("x", record) };
    report(&mut cluster, 1, &[line("x", record)]).unwrap();
    report(&mut cluster, 2, &[staged]).unwrap();
    let settles = cluster.trim(&id("x")).unwrap().settles;
    assert_eq!(settles.as_slice(), [(NodeId(2), record.version, true)]);
    assert_eq!(look(&cluster, "x"), "v1 on 1 2", "it has the copy");
}

#[test]
fn what_a_node_did_not_do_is_not_forgotten_when_it_becomes_a_holder() {
    let mut cluster = healthy(2, 3);
    let record = put_on(&mut cluster, "x", &[1, 2]);
    // Node 3 has an older copy, and its disk was read-only when it was told to let go of that.
    cluster.note_undone(&id("x"), record.version, NodeId(3));
    let holders = [NodeId(1), NodeId(3)].into_iter().collect();
    cluster.apply(&Event::Commit(Commit { id: id("x"), record, holders }));
    let settles = cluster.trim(&id("x")).unwrap().settles;
    assert_eq!(settles.as_slice(), [(NodeId(3), record.version, true)]);
}

#[test]
fn absence_follows_only_from_a_whole_inventory() {
    type Tell = fn(&mut Cluster, &[Listed]);
    // How an inventory that lists y and not x goes on, and where x is looked for then.
    let table: [(&str, Tell, &str); 5] = [
        ("whole", |cluster, _| assert!(cluster.inventory_ends(NodeId(1), 1, 1).is_some()), "v1 on 2"),
        ("wrong count", |cluster, _| assert!(cluster.inventory_ends(NodeId(1), 1, 2).is_none()), "v1 on 1 2"),
        ("broken off", |cluster, _| cluster.inventory_breaks(NodeId(1), 1), "v1 on 1 2"),
        ("another session", |cluster, _| assert!(cluster.inventory_ends(NodeId(1), 7, 1).is_none()), "v1 on 1 2"),
        ("not ended", |cluster, page| cluster.inventory_page(NodeId(1), 7, page), "v1 on 1 2"),
    ];
    for (name, tell, expected) in table {
        let mut cluster = healthy(2, 2);
        put_on(&mut cluster, "x", &[1, 2]);
        let page = [line("y", put_on(&mut cluster, "y", &[1, 2]))];
        cluster.inventory_begins(NodeId(1), 1);
        cluster.inventory_page(NodeId(1), 1, &page);
        tell(&mut cluster, &page);
        assert_eq!(look(&cluster, "x"), expected, "{name}");
        assert_eq!(look(&cluster, "y"), "v2 on 1 2", "{name}");
    }
}

#[test]
fn the_missing_are_counted_exactly() {
    let mut cluster = healthy(2, 3);
    let x = put_on(&mut cluster, "x", &[1, 2]);
    put_on(&mut cluster, "y", &[1, 2]);
    let excess = put_on(&mut cluster, "z", &[2, 3]);
    // A copy too many stands for none of those that should be there.
    let reported = report(&mut cluster, 1, &[line("x", x), line("z", excess)]).unwrap();
    assert_eq!(reported, Reported { entries: 2, missing: 1, expected: 2, differing: 0 });
    assert_eq!(look(&cluster, "y"), "v2 on 2");
}

#[test]
fn commits_during_an_inventory_neither_hide_a_loss_nor_look_like_one() {
    // (what is committed during the inventory, copies that node 1 should have at its end)
    type Row = (&'static [(&'static str, &'static [u32])], u64);
    let table: [Row; 3] = [(&[("x", &[2, 3])], 1), (&[("new", &[1, 2])], 3), (&[("x", &[1, 3]), ("x", &[2, 3])], 1)];
    for (commits, expected) in table {
        let mut cluster = healthy(2, 3);
        let x = put_on(&mut cluster, "x", &[1, 2]);
        put_on(&mut cluster, "lost", &[1, 2]);
        cluster.inventory_begins(NodeId(1), 1);
        cluster.inventory_page(NodeId(1), 1, &[line("x", x)]);
        for (text, nodes) in commits {
            put_on(&mut cluster, text, nodes);
        }
        let reported = cluster.inventory_ends(NodeId(1), 1, 1).unwrap();
        assert_eq!(reported, Reported { entries: 1, missing: 1, expected, differing: 0 }, "{commits:?}");
        assert_eq!(look(&cluster, "lost"), "v2 on 2");
    }
}

#[test]
fn a_completion_during_an_inventory_is_no_loss() {
    // Version 2 was found elsewhere, and comes to node 1 after node 1 has listed that part of its copies.
    let mut cluster = healthy(2, 3);
    spend_versions(&mut cluster);
    report(&mut cluster, 3, &[unknown("x", 2)]).unwrap();
    cluster.inventory_begins(NodeId(1), 1);
    let (_, newer) = uncommitted(&cluster).pop().unwrap();
    let ticket = cluster.admit_completion(&id("x"), newer.record, &newer.holders, false).unwrap();
    commit(&mut cluster, &ticket);
    put_on(&mut cluster, "y", &[1, 2]);
    assert_eq!(cluster.inventory_ends(NodeId(1), 1, 0).unwrap().missing, 0);
    assert_eq!(look(&cluster, "x"), "v2 on 1 3");
}

#[test]
fn without_a_log_nothing_is_claimed_until_all_have_reported() {
    let mut cluster = cluster(2, Trust::Nothing);
    assert_eq!(look(&cluster, "x"), "hidden: no node has reported to this leader yet");
    (1..=3).for_each(|node| join_as(&mut cluster, node, u64::from(node), ms(0)));
    report(&mut cluster, 1, &[unknown("x", 0)]).unwrap();
    report(&mut cluster, 2, &[]).unwrap();
    assert!(!cluster.settle_knowledge() && uncommitted(&cluster).is_empty());
    let awaited =
        "hidden: a version found on node 1 is being completed; the leader lost its log and waits to hear from node 3";
    assert_eq!(look(&cluster, "x"), awaited);
    let Err(NotAdmitted::NotYet(reason)) = cluster.admit(&id("y"), message(1, 1)) else {
        panic!("a write was admitted")
    };
    assert_eq!(reason, "the leader lost its log and waits to hear from node 3");
    report(&mut cluster, 3, &[]).unwrap();
    assert!(cluster.settle_knowledge() && uncommitted(&cluster).len() == 1);
    assert_eq!(look(&cluster, "y"), "not found");
    cluster.distrust();
    assert!(look(&cluster, "y").ends_with("waits to hear from nodes 1, 2, 3"));
}

#[test]
fn a_log_that_may_lack_its_end_needs_all_but_tolerance_less_one() {
    let mut cluster = cluster(2, Trust::MayLackItsEnd);
    (1..=3).for_each(|node| join_as(&mut cluster, node, u64::from(node), ms(0)));
    let x = put_on(&mut cluster, "x", &[1, 2]);
    assert!(
        !cluster.settle_knowledge() && look(&cluster, "x").starts_with("hidden: the leader's log may lack its end")
    );
    assert!(cluster.admit(&id("y"), message(1, 1)).is_ok(), "a new version is newer than whatever may be found");
    report(&mut cluster, 1, &[line("x", x)]).unwrap();
    assert!(!cluster.settle_knowledge());
    report(&mut cluster, 3, &[]).unwrap();
    assert!(cluster.settle_knowledge() && !cluster.settle_knowledge(), "it is told once");
    assert_eq!(look(&cluster, "x"), "v1 on 1 2");
}

#[test]
fn a_log_that_says_that_it_is_whole_may_lack_a_commit_older_than_its_newest() {
    let mut before = healthy(2, 3);
    let x = put_on(&mut before, "x", &[1, 2]);
    let under_way = before.admit(&id("x"), message(10, 7)).unwrap();
    let y = put_on(&mut before, "y", &[1, 3]);
    // The log is copied here, and the write became true after that.
    let mut cluster = start_on(before.state, Trust::Whole, 2);
    for node in 1..=3 {
        join_as(&mut cluster, node, u64::from(node), ms(0));
        assert!(cluster.hear_committed(Version::new(Epoch(1), 3)), "no later commit is known to anybody");
        cluster.greet();
    }
    assert_eq!(look(&cluster, "x"), "hidden: the leader has just started, and waits to hear from nodes 1, 2, 3");
    assert!(cluster.admit(&id("z"), message(1, 1)).is_ok(), "a new version is newer than whatever may be found");
    report(&mut cluster, 1, &[line("x", x), line("y", y)]).unwrap();
    assert!(!cluster.settle_knowledge() && look(&cluster, "x").ends_with("waits to hear from nodes 2, 3"));
    report(&mut cluster, 3, &[line("x", under_way.record), line("y", y)]).unwrap();
    assert!(cluster.settle_knowledge() && !cluster.settle_knowledge(), "it is told once");
    assert_eq!(look(&cluster, "x"), "hidden: a version found on node 3 is being completed");
    assert_eq!(look(&cluster, "y"), "v3 on 1 3");
}

#[test]
fn a_log_of_a_majority_of_leaders_is_believed_with_those_that_joined_and_nothing_goes_before_they_were_heard() {
    let mut before = healthy(2, 3);
    named(3).for_each(|member| drop(before.apply(&member)));
    let x = put_on(&mut before, "x", &[1, 2]);
    let y = put_on(&mut before, "y", &[1, 3]);
    let z = put_on(&mut before, "z", &[1, 2]);
    let mut cluster = start_on(before.state, Trust::Whole, 2);
    cluster.rely_on_group();
    let nobody: HashSet<MessageId> = HashSet::new();
    for (node, serves) in [(1, false), (2, true), (3, true)] {
        join_as(&mut cluster, node, u64::from(node), ms(0));
        cluster.greet();
        assert_eq!(look(&cluster, "x") == "v1 on 1 2", serves, "node {node} has joined");
        assert_eq!(cluster.admit(&id("new"), message(1, 1)).is_ok(), serves);
    }
    assert_eq!(look(&cluster, "w"), "not found");
    assert!(cluster.admit_deletion(&id("w")).unwrap().is_some(), "nodes may have what a failed write left");
    // Node 3 has one copy too many, and what a write left that nobody was told of.
    let newer = CopyRecord { version: Version::new(Epoch(1), 9), ..x };
    report(&mut cluster, 3, &[line("x", newer), line("y", y), line("z", z)]).unwrap();
    assert!(!cluster.settle_knowledge() && cluster.is_settled() && !cluster.has_heard());
    assert!(cluster.excess(9, &nobody).is_empty() && uncommitted(&cluster).is_empty(), "nothing is done yet");
    assert_eq!(look(&cluster, "x"), "hidden: a version found on node 3 is being completed");
    report(&mut cluster, 2, &[line("x", x), line("z", z)]).unwrap();
    assert!(cluster.settle_knowledge() && cluster.has_heard());
    assert_eq!((cluster.excess(9, &nobody), uncommitted(&cluster).len()), (vec![id("z")], 1));
}

/// A cluster of tolerance 2 that was started on a log which says that it is whole, and names nodes 1 to `members`.
fn restarted(members: u32) -> Cluster {
    start_on(logged(named(members)), Trust::Whole, 1)
}

#[test]
fn no_time_stands_for_members_that_stay_away() {
    let newer = unknown("x", 0);
    let mut cluster = restarted(3);
    assert!(
        look(&cluster, "x").starts_with("hidden: the leader has just started, and nodes 1, 2, 3 have not joined yet")
    );
    (1..=2).for_each(|node| join_as(&mut cluster, node, u64::from(node), ms(0)));
    report(&mut cluster, 1, std::slice::from_ref(&newer)).unwrap();
    assert!(!cluster.settle_knowledge());
    report(&mut cluster, 2, &[]).unwrap();
    assert!(cluster.settle_knowledge() && uncommitted(&cluster).len() == 1);
    assert_eq!(look(&cluster, "y"), "not found");
    // Nodes 2 and 3 stay away, and nobody can say what they have: another leader may be among them, with as many.
    let mut cluster = restarted(3);
    join_as(&mut cluster, 1, 1, ms(0));
    cluster.greet();
    report(&mut cluster, 1, &[newer]).unwrap();
    (1..=1000).for_each(|second| assert!(!cluster.settle_untold(ms(second * 1000))));
    assert!(!cluster.settle_knowledge() && cluster.admit(&id("z"), message(1, 1)).is_err());
    assert!(
        look(&cluster, "y").contains(
            "waits to hear from nodes 2, 3 (a node that is gone for good is given up by REMOVE <node> FORCE)"
        )
    );
    assert!(cluster.begin_removal(NodeId(2), false).is_err(), "nobody knows what it holds");
    give_up(&mut cluster, 2);
    assert!(cluster.settle_knowledge() && cluster.is_settled(), "two are left, and one has reported");
    assert_eq!((look(&cluster, "y").as_str(), uncommitted(&cluster).len()), ("not found", 1));
    assert!(
        !cluster.hear_committed(Version::new(Epoch(1), 9)),
        "and a commit that it lacks still shows that it is old"
    );
}

/// An operator says that a node is gone for good.
fn give_up(cluster: &mut Cluster, node: u32) {
    cluster.begin_removal(NodeId(node), true).unwrap();
    let removed = cluster.end_removal(NodeId(node), true).unwrap();
    cluster.apply(&Event::Removed(removed));
    cluster.without_given_up();
}

#[test]
fn a_new_node_does_not_stand_for_the_members_of_a_log() {
    for members in [1, 3] {
        let mut cluster = restarted(members);
        join_as(&mut cluster, 9, 9, ms(0));
        cluster.greet();
        report(&mut cluster, 9, &[]).unwrap();
        assert!(!cluster.settle_knowledge());
        assert!(matches!(cluster.admit(&id("x"), message(1, 1)), Err(NotAdmitted::NotYet(_))));
        assert!(look(&cluster, "x").starts_with("hidden: the leader has just started, and waits to hear from "));
        // They are all lost for good.
        (1..=members).for_each(|node| give_up(&mut cluster, node));
        assert!(cluster.settle_knowledge() && cluster.is_settled());
        assert!(cluster.begin_removal(NodeId(9), true).is_err(), "it is there");
    }
}

#[test]
fn what_members_that_were_away_hold_is_not_forgotten_with_a_deletion() {
    // The log is a copy: y may have become true after it was made, with node 3, and is older than the deletion of x.
    let mut cluster = restarted(4);
    for node in [1, 2, 4] {
        join_as(&mut cluster, node, u64::from(node), ms(0));
        report(&mut cluster, node, &[]).unwrap();
    }
    let deletion = Commit {
        id: id("x"),
        record: CopyRecord::tombstone(Version::new(Epoch(0), 3)),
        holders: [NodeId(1), NodeId(2)].into_iter().collect(),
    };
    cluster.apply(&Event::Commit(deletion));
    assert!(cluster.settle_knowledge() && cluster.is_settled());
    let y = line("y", CopyRecord { version: Version::new(Epoch(0), 2), length: 10, crc: 7, expires: None });
    for node in 1..=4 {
        if node == 3 {
            join_as(&mut cluster, node, u64::from(node), ms(0));
        }
        cluster.ask_for_confirmations(NodeId(node));
        confirm(&mut cluster, node);
    }
    assert_eq!(cluster.forgettable(9), [], "all have confirmed, and one has not said what it holds");
    report(&mut cluster, 3, std::slice::from_ref(&y)).unwrap();
    assert_eq!(look(&cluster, "y"), "hidden: a version found on node 3 is being completed");
    assert_eq!(cluster.forgettable(9), [], "nor is it in the log yet");
}

#[test]
fn what_is_listed_while_a_deletion_is_being_forgotten_is_as_old_as_it_will_be_then() {
    let mut cluster = healthy(2, 3);
    spend_versions(&mut cluster);
    let deletion = cluster.admit_deletion(&id("x")).unwrap();
    assert_eq!(deletion, None);
    put_on(&mut cluster, "x", &[1, 2]);
    let deletion = cluster.admit_deletion(&id("x")).unwrap().unwrap();
    commit(&mut cluster, &deletion);
    (1..=3).for_each(|node| confirm(&mut cluster, node));
    assert_eq!(cluster.forgettable(9).len(), 1);
    // The log is being synced, and a write that failed turns up: were it completed, a log that lost its end would know
    // that the deletion is forgotten, and nothing of it.
    report(&mut cluster, 3, &[unknown("y", 2)]).unwrap();
    assert_eq!((cluster.uncommitted_len(), look(&cluster, "y").as_str()), (0, "not found"));
}

#[test]
fn nothing_is_written_before_enough_nodes_could_tell_of_a_later_leader() {
    for trust in [Trust::Whole, Trust::MayLackItsEnd] {
        let mut cluster = healthy(2, 4);
        put_on(&mut cluster, "x", &[1, 2]);
        named(4).for_each(|member| drop(cluster.apply(&member)));
        let mut restarted = start_on(cluster.state, trust, 2);
        // Nodes 1 and 2 may have served another leader of epoch 2, and hold what it acknowledged.
        for node in [3, 4] {
            join_as(&mut restarted, node, u64::from(node), ms(0));
            restarted.greet();
        }
        let Err(NotAdmitted::NotYet(reason)) = restarted.admit(&id("x"), message(10, 7)) else {
            panic!("a write was admitted")
        };
        assert!(
            reason.starts_with("the leader has just started, and nodes 1, 2 have not joined yet (a node"),
            "{reason}"
        );
        report(
            &mut restarted,
            3,
            &[line("f", CopyRecord { version: Version::FOREIGN, length: 3, crc: 9, expires: None })],
        )
        .unwrap();
        report(&mut restarted, 4, &[]).unwrap();
        assert!(uncommitted(&restarted).is_empty(), "what is found would get a version");
        assert!(matches!(restarted.admit_deletion(&id("x")), Err(NotAdmitted::NotYet(_))));
        join_as(&mut restarted, 2, 2, ms(0));
        restarted.greet();
        assert!(restarted.admit(&id("x"), message(10, 7)).is_ok(), "one of them would have said so");
    }
}

#[test]
fn an_inventory_of_a_session_that_is_over_takes_nothing_from_the_one_that_comes_in() {
    let mut cluster = cluster(1, Trust::Nothing);
    join_as(&mut cluster, 1, 2, ms(0));
    let page = [unknown("x", 0)];
    cluster.inventory_begins(NodeId(1), 2);
    // The task of the session before has not heard that it is over.
    cluster.inventory_begins(NodeId(1), 1);
    cluster.inventory_page(NodeId(1), 1, &page);
    cluster.inventory_page(NodeId(1), 2, &page);
    assert_eq!(cluster.inventory_ends(NodeId(1), 1, 1), None);
    assert_eq!(cluster.inventory_ends(NodeId(1), 2, 1).map(|reported| reported.entries), Some(1));
}

#[test]
fn a_write_in_doubt_that_is_completed_elsewhere_leaves_a_copy_too_many() {
    let mut cluster = healthy(2, 4);
    let before = put_on(&mut cluster, "x", &[1, 2]);
    let ticket = cluster.admit(&id("x"), message(10, 7)).unwrap();
    cluster.release(&ticket);
    // The log did not take it.
    cluster.note_in_doubt(&ticket, &[]);
    let (here, there) = (ticket.targets[0], ticket.targets[1]);
    let holders = [here, (1..=4).map(NodeId).find(|node| !ticket.tried.contains(node)).unwrap()];
    cluster.apply(&Event::Commit(Commit {
        id: id("x"),
        record: ticket.record,
        holders: holders.into_iter().collect(),
    }));
    assert!(before.version < ticket.record.version);
    assert_eq!(cluster.excess(9, &HashSet::<MessageId>::new()), [id("x")]);
    let copies: Vec<_> = cluster.excess.of(&id("x")).collect();
    assert_eq!(copies, [(there, ticket.record.version)]);
}

#[test]
fn a_repair_that_the_log_did_not_take_leaves_a_copy_too_many() {
    let mut cluster = healthy(2, 3);
    let x = put_on(&mut cluster, "x", &[1]);
    let repair = cluster.admit_repair(&id("x")).unwrap();
    cluster.release(&repair.ticket);
    cluster.note_in_doubt(&repair.ticket, &[]);
    let copies: Vec<_> = cluster.excess.of(&id("x")).collect();
    assert_eq!(copies, [(repair.ticket.targets[1], x.version)]);
}

#[test]
fn what_a_new_leader_commits_does_not_hide_that_its_log_is_old() {
    let mut cluster = Cluster::new(1, State::new(1), Trust::Whole);
    cluster.begin(Leadership { cluster_id: uuid(99), epoch: Epoch(2) });
    (1..=3).for_each(|node| join_as(&mut cluster, node, u64::from(node), ms(0)));
    (2..=3).for_each(|node| assert!(cluster.registry.part(NodeId(node), u64::from(node), true, ms(0))));
    put_on(&mut cluster, "x", &[1]);
    assert!(cluster.hear_committed(cluster.newest_committed()), "this leader said so itself");
    assert!(!cluster.hear_committed(Version::new(Epoch(1), 5)));
}

#[test]
fn counts_see_what_is_lost_and_what_is_only_away() {
    let mut cluster = healthy(2, 3);
    put_on(&mut cluster, "x", &[1, 2]);
    put_on(&mut cluster, "y", &[2, 3]);
    cluster.registry.part(NodeId(2), 2, true, ms(0));
    assert_eq!(cluster.registry.get(NodeId(2)).unwrap().state, NodeState::Down);
    let counts = cluster.counts();
    assert_eq!((counts.copies_live, counts.under_replicated, counts.lost), (2, 2, 0));
    report(&mut cluster, 1, &[]).unwrap();
    cluster.note_copy(&id("x"), Version::new(Epoch(1), 1), NodeId(2), false);
    let counts = cluster.counts();
    assert_eq!((counts.copies_live, counts.under_replicated, counts.lost), (1, 1, 1));
}

#[test]
fn what_was_deleted_and_forgotten_stays_deleted() {
    let mut cluster = healthy(2, 3);
    let old = put_on(&mut cluster, "x", &[1, 2]);
    let version = cluster.next_version().unwrap();
    let holders = [NodeId(1), NodeId(2)].into_iter().collect();
    cluster.apply(&Event::Commit(Commit { id: id("x"), record: CopyRecord::tombstone(version), holders }));
    cluster.apply(&Event::Forgotten { id: id("x"), version });
    report(&mut cluster, 3, &[line("x", old)]).unwrap();
    assert_eq!((look(&cluster, "x"), cluster.uncommitted_len()), ("not found".to_owned(), 0));
    // Somebody wrote it after that: it is news.
    spend_versions(&mut cluster);
    report(&mut cluster, 3, &[unknown("x", 4)]).unwrap();
    assert_eq!(cluster.uncommitted_len(), 1);
}

#[test]
fn an_inventory_says_nothing_of_what_is_younger_than_it() {
    let mut cluster = healthy(2, 2);
    put_on(&mut cluster, "old", &[1, 2]);
    let under_way = cluster.admit(&id("x"), message(10, 7)).unwrap();
    put_on(&mut cluster, "young", &[1, 2]);
    let reported = report(&mut cluster, 1, &[]).unwrap();
    assert_eq!(reported.missing, 1);
    assert_eq!((look(&cluster, "old"), look(&cluster, "young")), ("v1 on 2".to_owned(), "v3 on 1 2".to_owned()));
    // The next one does, when all that was under way is over.
    commit(&mut cluster, &under_way);
    report(&mut cluster, 1, &[]).unwrap();
    assert_eq!(look(&cluster, "young"), "v3 on 2");
}

#[test]
fn what_cannot_be_completed_stands_before_nothing_that_can() {
    let mut cluster = healthy(2, 3);
    spend_versions(&mut cluster);
    report(&mut cluster, 3, &[unknown("a", 1), unknown("b", 2), unknown("c", 3)]).unwrap();
    let look = |after: Option<&str>, limit| {
        let (found, last) = cluster.uncommitted(after.map(id).as_ref(), limit);
        (found.iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>(), last.map(|last| last.to_string()))
    };
    let some = |ids: &[&str]| ids.iter().map(|&id| id.to_owned()).collect::<Vec<_>>();
    // Whatever became of the first ones, the next look goes on behind them.
    assert_eq!(look(None, 2), (some(&["a", "b"]), Some("b".to_owned())));
    assert_eq!(look(Some("b"), 2), (some(&["c"]), None));
    assert_eq!(look(None, 3), (some(&["a", "b", "c"]), None));
    assert_eq!(look(Some("c"), 2), (vec![], None));
}

#[test]
fn what_is_remembered_of_failed_writes_is_bounded() {
    let mut cluster = healthy(2, 3);
    for n in 0..MOST_IN_DOUBT + 9 {
        put_on(&mut cluster, &format!("id{n}"), &[1, 2]);
        let ticket = cluster.admit(&id(&format!("id{n}")), message(10, 7)).unwrap();
        cluster.note_in_doubt(&ticket, &[]);
        cluster.release(&ticket);
    }
    assert_eq!(cluster.in_doubt.len(), MOST_IN_DOUBT);
    // The next write of an id says what its copies are, and makes room for another.
    set(&mut cluster, "id0");
    assert_eq!(cluster.in_doubt.len(), MOST_IN_DOUBT - 1);
}

#[test]
fn a_version_that_nothing_was_admitted_with_is_given_out_again() {
    let mut cluster = healthy(2, 3);
    let first = cluster.next_version().unwrap();
    cluster.give_back(first);
    let again = cluster.next_version().unwrap();
    let next = cluster.next_version().unwrap();
    // It was used meanwhile.
    cluster.give_back(again);
    assert!(first == again && next < cluster.next_version().unwrap());
}

#[test]
fn who_was_sent_nothing_is_not_in_doubt() {
    let mut cluster = healthy(2, 3);
    let mut ticket = cluster.admit(&id("x"), message(10, 7)).unwrap();
    let source = ticket.targets[1];
    ticket.unsent(&[source]);
    cluster.release(&ticket);
    cluster.note_in_doubt(&ticket, &[]);
    assert_eq!(cluster.in_doubt.of(&id("x")).collect::<Vec<_>>(), [(source, ticket.record.version)]);
}

#[test]
fn what_is_not_known_is_not_counted() {
    let mut cluster = cluster(1, Trust::Nothing);
    assert!(cluster.count().is_err(), "no node has come");
    join_as(&mut cluster, 1, 1, ms(0));
    assert!(cluster.count().is_err(), "node 1 has not reported");
    report(&mut cluster, 1, &[]).unwrap();
    assert!(cluster.settle_knowledge());
    assert_eq!(cluster.count(), Ok(0));
    put_on(&mut cluster, "x", &[1]);
    assert_eq!(cluster.count(), Ok(1));
    cluster.distrust();
    assert!(cluster.count().is_err(), "nodes have seen a later leader");
}
