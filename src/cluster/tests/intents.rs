//! Writes that the leader before had under way: decided by those who may have stored them, and by nothing else.

use super::super::Located;
use super::super::intents::{Decided, Kept};
use super::*;
use crate::types::Removed;

/// A version of the epoch before.
fn intent(text: &str, sequence: u32, nodes: &[u32]) -> Commit {
    let record = CopyRecord { version: Version::new(Epoch(1), sequence), length: 10, crc: 7, expires: None };
    Commit { id: id(text), record, holders: nodes.iter().copied().map(NodeId).collect() }
}

/// The leader of epoch 2, of tolerance 2, on a log of four members that is agreed on, with what it says. These have joined.
fn next_leader(said: impl IntoIterator<Item = Event>, joined: &[u32]) -> Cluster {
    let mut cluster = start_on(logged(named(4).chain(said)), Trust::Whole, 2);
    cluster.rely_on_group();
    joined.iter().for_each(|&node| join_as(&mut cluster, node, u64::from(node), Duration::ZERO));
    cluster.greet();
    cluster
}

fn look(cluster: &Cluster, text: &str) -> &'static str {
    match cluster.locate_known(&id(text), 0) {
        Located::Here { .. } => "here",
        Located::NotFound => "not found",
        Located::Hidden(_) => "hidden",
    }
}

/// What is decided is logged.
fn log_decided(cluster: &mut Cluster) {
    let Decided { commits, dropped } = cluster.decided_intents();
    commits
        .into_iter()
        .map(Event::Commit)
        .chain([Event::Dropped(dropped)])
        .for_each(|event| drop(cluster.apply(&event)));
}

#[test]
fn what_the_leader_before_had_under_way_is_decided_by_those_who_may_have_it() {
    use Kept::{Absent, Damaged, Here};
    // (what nodes 1 and 2 say in turn, how the id looks then)
    type Row = (&'static [(u32, Kept)], &'static str);
    let table: [Row; 10] = [
        (&[], "hidden"),
        (&[(1, Here)], "hidden"),
        (&[(1, Here), (2, Here)], "here"),
        // Nobody can have been told that it is true.
        (&[(1, Absent)], "not found"),
        (&[(1, Absent), (2, Absent)], "not found"),
        // What is there goes forward all the same, as soon as enough inventories have come.
        (&[(1, Here), (2, Absent)], "hidden"),
        // It was there; whether it was on the other node too is not known.
        (&[(1, Damaged)], "hidden"),
        (&[(1, Here), (2, Damaged)], "hidden"),
        (&[(1, Damaged), (2, Damaged)], "not found"),
        // Somebody else's word says nothing of it.
        (&[(3, Absent)], "hidden"),
    ];
    for (said, looks) in table {
        let write = intent("x", 5, &[1, 2]);
        let mut cluster = next_leader([Event::Intent(write.clone())], &[1, 2, 3]);
        let asked: Vec<NodeId> = cluster.intents_to_ask(9).into_iter().map(|(node, _)| node).collect();
        assert_eq!(
            (asked, look(&cluster, "x"), look(&cluster, "y")),
            (vec![NodeId(1), NodeId(2)], "hidden", "not found")
        );
        assert!(cluster.count().is_err() && cluster.decided_intents() == Decided::default());
        for &(node, kept) in said {
            cluster.hear_of_intent(NodeId(node), &id("x"), write.record, kept);
        }
        log_decided(&mut cluster);
        assert_eq!(look(&cluster, "x"), looks, "{said:?}");
        assert!(looks != "here" || cluster.holders(&id("x")) == Some(write.holders));
    }
}

#[test]
fn the_value_before_is_not_shown_until_it_is_known_whether_it_was_overwritten() {
    let old = Event::Commit(intent("x", 3, &[1, 2]));
    let write = intent("x", 5, &[3, 4]);
    for (kept, version) in [(Kept::Absent, 3), (Kept::Here, 5)] {
        let mut cluster = next_leader([old.clone(), Event::Intent(write.clone())], &[1, 2, 3, 4]);
        assert_eq!(look(&cluster, "x"), "hidden");
        for node in [3, 4] {
            cluster.hear_of_intent(NodeId(node), &id("x"), write.record, kept);
        }
        log_decided(&mut cluster);
        let found = cluster.mapping().get(&id("x")).unwrap().record.version;
        assert_eq!((look(&cluster, "x"), found.sequence()), ("here", version), "{kept:?}");
    }
}

#[test]
fn whoever_is_away_is_not_asked_and_who_was_removed_is_not_waited_for() {
    let write = intent("x", 5, &[1, 2]);
    let mut cluster = next_leader([Event::Intent(write.clone())], &[1, 3, 4]);
    assert_eq!(cluster.intents_to_ask(9), [(NodeId(1), vec![(id("x"), write.record)])]);
    cluster.hear_of_intent(NodeId(1), &id("x"), write.record, Kept::Here);
    // Node 2 is dead: node 1's copy is completed, before any inventory has come.
    assert!(cluster.decided_intents() == Decided::default() && look(&cluster, "x") == "hidden" && !cluster.has_heard());
    let (found, newer) = uncommitted(&cluster).pop().expect("it can be completed");
    let ticket = cluster.admit_completion(&found, newer.record, &newer.holders, false).unwrap();
    commit(&mut cluster, &ticket);
    assert_eq!((look(&cluster, "x"), cluster.state().intents().len()), ("here", 0));

    // Both were given up: nobody is left who could have it.
    let mut cluster = next_leader([Event::Intent(write)], &[3, 4]);
    for node in [1, 2] {
        assert_eq!(cluster.decided_intents(), Decided::default());
        cluster.apply(&Event::Removed(Removed { id: NodeId(node), uuid: uuid(node) }));
    }
    log_decided(&mut cluster);
    assert_eq!((cluster.state().intents().len(), cluster.intents_to_ask(9)), (0, vec![]));
}

#[test]
fn that_later_deletions_were_forgotten_says_nothing_of_what_was_under_way() {
    let write = intent("x", 5, &[1, 2]);
    let mut cluster =
        next_leader([Event::Intent(write.clone()), Event::Horizon(Version::new(Epoch(1), 9))], &[1, 3, 4]);
    let listed = Listed { id: id("x"), record: write.record, staged: true, damaged: false };
    report(&mut cluster, 1, &[listed]).unwrap();
    cluster.hear_of_intent(NodeId(1), &id("x"), write.record, Kept::Here);
    let excess = cluster.excess(9, &std::collections::HashSet::new());
    assert_eq!((excess, uncommitted(&cluster).len(), look(&cluster, "x")), (vec![], 1, "hidden"));
}

#[test]
fn ids_that_have_a_message_either_way_are_counted() {
    let (old, write) = (Event::Commit(intent("x", 3, &[1, 2])), intent("x", 5, &[3, 4]));
    let next = |said: Vec<Event>| {
        let mut cluster = next_leader(said, &[1, 2, 3, 4]);
        [1, 2, 3, 4].into_iter().for_each(|node| cluster.registry.note_answered(NodeId(node), ms(0)));
        cluster.count()
    };
    assert_eq!(next(vec![old, Event::Intent(write.clone())]), Ok(1));
    assert!(next(vec![Event::Intent(write)]).is_err());
}

#[test]
fn a_newer_write_of_the_id_ends_what_was_under_way() {
    let write = intent("x", 5, &[1, 2]);
    let mut cluster = next_leader([Event::Intent(write)], &[1, 2, 3, 4]);
    // A deletion cannot know that there is nothing.
    let deletion = cluster.admit_deletion(&id("x")).unwrap().expect("a tombstone");
    commit(&mut cluster, &deletion);
    assert_eq!(
        (look(&cluster, "x"), cluster.intents_to_ask(9), cluster.state().intents().len()),
        ("not found", vec![], 0)
    );
}

#[test]
fn that_nodes_were_told_of_what_was_under_way_does_not_make_the_log_an_old_one() {
    let (old, write) = (Event::Commit(intent("w", 3, &[1, 2])), intent("x", 5, &[1, 2]));
    let told = write.record.version;
    let mut cluster = next_leader([old.clone(), Event::Intent(write)], &[1, 2, 3]);
    assert!(cluster.hear_committed(told));
    assert!(!cluster.hear_committed(Version::new(Epoch(1), 6)));
    assert!(!next_leader([old], &[1, 2, 3]).hear_committed(told), "without the intent it is");
}

#[test]
fn only_nodes_that_sync_tell_what_became_of_a_write() {
    let mut cluster = healthy(2, 2);
    let join = |cluster: &mut Cluster, node: u32, io_mode: &str| {
        let traits = Traits { io_mode: io_mode.to_owned(), ..Traits::default() };
        cluster.registry.join(NodeId(node), u64::from(node), traits, Duration::ZERO);
    };
    for (modes, takes) in [(["unbuffered"; 2], true), (["unbuffered", "buffered"], false), (["buffered"; 2], false)] {
        (1..=2).zip(modes).for_each(|(node, mode)| join(&mut cluster, node, mode));
        let ticket = cluster.admit(&id("x"), message(10, 7)).unwrap();
        assert_eq!(cluster.takes_intent(&ticket), takes, "{modes:?}");
        cluster.release(&ticket);
    }
}
