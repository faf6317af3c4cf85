//! What becomes of transactions that did not come to their end.

use super::*;
use crate::cluster::Located;
use crate::cluster::state::prepared::Standing;
use crate::types::{Listed, Version};

fn v(sequence: u32) -> Version {
    Version::new(Epoch(1), sequence)
}

fn record(sequence: u32) -> CopyRecord {
    CopyRecord { version: v(sequence), length: 10, crc: 7, expires: None }
}

/// A transaction that was to write 5 to `x` and 6 to `y`.
fn prepared() -> Event {
    Event::Prepared { name: v(5), writes: vec![(id("x"), v(5)), (id("y"), v(6))] }
}

fn commit_on(text: &str, sequence: u32, nodes: &[u32]) -> Event {
    let holders = nodes.iter().copied().map(NodeId).collect();
    Event::Commit(Commit { id: id(text), record: record(sequence), holders })
}

/// A log that speaks of `x` on nodes 1 and 2, and of a transaction that was to write 5 to `x` and 6 to `y`; nodes
/// come, and list these copies.
fn restarted(trust: Trust, found: &[(u32, &str, u32)]) -> Cluster {
    let mut cluster = start_on(logged([commit_on("x", 1, &[1, 2]), prepared()]), trust, 2);
    (1..=3).for_each(|node| join_as(&mut cluster, node, u64::from(node), ms(0)));
    for node in 1..=3 {
        let old = (node < 3).then(|| Listed { id: id("x"), record: record(1), staged: false, damaged: false });
        let new = found.iter().filter(|(on, ..)| *on == node);
        let new = new.map(|(_, text, sequence)| Listed {
            id: id(text),
            record: record(*sequence),
            staged: false,
            damaged: false,
        });
        let entries: Vec<Listed> = old.into_iter().chain(new).collect();
        report(&mut cluster, node, &entries).unwrap();
    }
    assert!(uncommitted(&cluster).is_empty(), "nothing is completed too early");
    assert!(cluster.settle_knowledge());
    cluster
}

fn is_hidden(cluster: &Cluster, text: &str) -> bool {
    matches!(cluster.locate(&id(text), 0), Located::Hidden(_))
}

#[test]
fn if_a_part_of_it_is_nowhere_it_is_void_and_put_behind_what_was_true() {
    let mut cluster = restarted(Trust::Whole, &[(1, "x", 5), (3, "x", 5)]);
    assert!(uncommitted(&cluster).is_empty() && cluster.uncommitted_len() == 0, "none of it is completed");
    assert_eq!((cluster.to_abort(), cluster.to_roll_back(9)), (vec![v(5)], vec![]));
    assert!(is_hidden(&cluster, "x") && is_hidden(&cluster, "y"), "answers wait for the log");
    cluster.apply(&Event::Aborted { name: v(5) });
    assert_eq!((cluster.to_abort(), cluster.to_roll_back(9)), (vec![], vec![id("x"), id("y")]));
    assert!(matches!(cluster.locate(&id("x"), 0), Located::Here { record: found, .. } if found == record(1)));
    assert_eq!(cluster.locate(&id("y"), 0), Located::NotFound);
    // A node that comes back with such a copy changes nothing.
    let entry = Listed { id: id("y"), record: record(6), staged: false, damaged: false };
    cluster.inventory_begins(NodeId(1), 1);
    cluster.inventory_page(NodeId(1), 1, &[entry]);
    assert_eq!((cluster.uncommitted_len(), cluster.locate(&id("y"), 0)), (0, Located::NotFound));
    // Then what was true is written once more, and where nothing was a deletion.
    set(&mut cluster, "x");
    let deletion = cluster.admit_deletion(&id("y")).unwrap().expect("there may be copies");
    commit(&mut cluster, &deletion);
    assert!(cluster.to_roll_back(9).is_empty() && !cluster.rolls_back(&id("x")));
    let skip: std::collections::HashSet<MessageId> = std::collections::HashSet::new();
    assert_eq!(cluster.excess(9, &skip), [id("x"), id("y")], "what lies on nodes goes");
    assert_eq!(cluster.admit_deletion(&id("z")).unwrap(), None);
}

#[test]
fn what_is_found_behind_a_void_version_becomes_true_as_a_newer_one() {
    let mut cluster = restarted(Trust::Whole, &[(1, "x", 5)]);
    cluster.apply(&Event::Aborted { name: v(5) });
    let entry = Listed { id: id("x"), record: record(4), staged: false, damaged: false };
    cluster.inventory_begins(NodeId(3), 3);
    cluster.inventory_page(NodeId(3), 3, &[entry]);
    cluster.inventory_ends(NodeId(3), 3, 1).unwrap();
    let found: Vec<_> = uncommitted(&cluster).into_iter().map(|(id, newer)| (id, newer.record.version)).collect();
    assert_eq!(found, [(id("x"), v(4))]);
    assert!(is_hidden(&cluster, "x"), "it may have been true");
    // Node 1 would refuse what is older than its copy.
    assert!(cluster.needs_new_version(&id("x"), v(4)) && !cluster.needs_new_version(&id("z"), v(4)));
    let record = CopyRecord { version: cluster.next_version().unwrap(), ..record(4) };
    let ticket = cluster.admit_completion(&id("x"), record, &[NodeId(3)], false).unwrap();
    commit(&mut cluster, &ticket);
    assert!(!cluster.rolls_back(&id("x")) && uncommitted(&cluster).iter().all(|(found, _)| *found != id("x")));
    assert!(!cluster.needs_new_version(&id("x"), v(4)));
}

#[test]
fn it_goes_forward_if_all_of_it_is_there() {
    // A log that says that it is whole may be an old copy that lacks the end of it.
    for trust in [Trust::Whole, Trust::MayLackItsEnd] {
        goes_forward(trust);
    }
}

fn goes_forward(trust: Trust) {
    let mut cluster = restarted(trust, &[(1, "x", 5), (3, "y", 6)]);
    assert_eq!(cluster.to_abort(), []);
    assert!(uncommitted(&cluster).is_empty(), "no part of it by itself");
    let found = cluster.found_transactions();
    let found: Vec<Vec<_>> =
        found.iter().map(|all| all.iter().map(|(id, of)| (id, of.record.version)).collect()).collect();
    assert_eq!(found, [[(&id("x"), v(5)), (&id("y"), v(6))]]);
    assert!(is_hidden(&cluster, "x") && is_hidden(&cluster, "y"));
    // The only copy of one turns out to be damaged: all that could have another were heard.
    cluster.forget_uncommitted(&id("y"), v(6), NodeId(3));
    assert!(is_hidden(&cluster, "y") && cluster.found_transactions().is_empty());
    assert_eq!((cluster.to_abort(), cluster.uncommitted_len()), (vec![v(5)], 0));
    for part in [&[(1, "x", 5), (3, "x", 5)][..], &[(3, "y", 6)], &[]] {
        let cluster = restarted(trust, part);
        assert_eq!((cluster.to_abort(), cluster.uncommitted_len()), (vec![v(5)], 0), "{part:?}");
    }
}

#[test]
fn it_is_not_given_up_while_members_that_may_hold_it_are_away() {
    let mut cluster = start_on(logged(named(4).chain([prepared()])), Trust::Whole, 2);
    let list = |cluster: &mut Cluster, node: u32, text: &str, sequence| {
        join_as(cluster, node, u64::from(node), ms(0));
        let entry = Listed { id: id(text), record: record(sequence), staged: false, damaged: false };
        report(cluster, node, &[entry]).unwrap();
    };
    // It was committed with x on nodes 1 and 2, y on 3 and 4, after the log was copied.
    list(&mut cluster, 1, "x", 5);
    list(&mut cluster, 2, "x", 5);
    assert!(!cluster.settle_knowledge() && cluster.found_transactions().is_empty());
    assert_eq!(cluster.to_abort(), []);
    assert!(is_hidden(&cluster, "x") && is_hidden(&cluster, "y"));
    list(&mut cluster, 3, "y", 6);
    assert!(cluster.settle_knowledge());
    assert_eq!(cluster.found_transactions().len(), 1, "all of it is there");
    // Or node 3 has nothing of it, and so few are left that nobody was told that it is true.
    cluster.forget_uncommitted(&id("y"), v(6), NodeId(3));
    assert!(cluster.found_transactions().is_empty());
    assert_eq!(cluster.to_abort(), [v(5)]);
}

#[test]
fn no_transaction_goes_over_one_that_is_undecided() {
    let held = |cluster: &Cluster| ["x", "y", "z"].map(|text| cluster.undecided(&id(text)).is_some());
    let open = start_on(logged(named(4).chain([prepared()])), Trust::Whole, 2);
    assert_eq!(held(&open), [true, true, false], "nobody was heard");
    let mut found = restarted(Trust::Whole, &[(1, "x", 5), (3, "x", 5), (2, "y", 6), (3, "y", 6)]);
    assert_eq!((found.found_transactions().len(), held(&found)), (1, [true, true, false]));
    let commits = [("x", 5), ("y", 6)].map(|(text, sequence)| match commit_on(text, sequence, &[1, 3]) {
        Event::Commit(commit) => commit,
        other => panic!("{other:?}"),
    });
    found.apply(&Event::Commits(commits.into()));
    assert_eq!(held(&found), [false; 3], "it is true");
    let mut void = restarted(Trust::Whole, &[(1, "x", 5), (3, "x", 5)]);
    assert_eq!((void.to_abort(), held(&void)), (vec![v(5)], [true, true, false]));
    void.apply(&Event::Aborted { name: v(5) });
    assert_eq!(held(&void), [false; 3], "what is written now stands before its copies");
}

/// The name of a transaction, its writes, whether it never becomes true.
type Told = (Version, Vec<(MessageId, Version)>, bool);

/// What the log still has to say of transactions.
fn told(state: &State) -> Vec<Told> {
    let is_aborted = |name| state.prepared().standing(name) == Some(Standing::Aborted);
    let all = state.prepared().all(|standing| standing != Standing::Forward);
    all.into_iter().map(|(name, writes)| (name, writes, is_aborted(name))).collect()
}

#[test]
fn what_was_committed_or_overwritten_is_no_matter_any_more() {
    let log = |events: &[Event]| told(&logged([prepared()].into_iter().chain(events.iter().cloned())));
    let commit = |text, sequence| commit_on(text, sequence, &[1]);
    let leadership = Leadership { cluster_id: uuid(99), epoch: Epoch(2) };
    let (aborted, anew) = (Event::Aborted { name: v(5) }, Event::Began { leadership, run: 2, hears_all: true });
    let left = |aborted| vec![(v(5), vec![(id("y"), v(6))], aborted)];
    assert_eq!(log(&[commit("x", 5)]), [], "one of its writes is true, so it is");
    assert_eq!(log(&[commit("x", 5), commit("y", 6)]), []);
    assert_eq!(log(&[commit("x", 7)]), left(false));
    let overwritten = [commit("x", 7), aborted, commit("y", 4), anew.clone()];
    assert_eq!(log(&overwritten[..3]), left(true));
    assert_eq!(log(&overwritten), left(true), "what the log says of it stays true");
    assert_eq!(log(&[&overwritten[..], &[commit("y", 8)]].concat()), []);
    assert_eq!(log(&[anew]), [], "a leader that hears all members learns what became of it");
}

#[test]
fn what_is_to_be_rolled_back_is_bounded() {
    use crate::cluster::transactions::MOST_ROLLED_BACK;
    let write = |n: usize| (id(&n.to_string()), v(n as u32 + 1));
    let many = Event::Prepared { name: v(1), writes: (1..MOST_ROLLED_BACK).map(write).collect() };
    assert!(!start_on(logged([many.clone()]), Trust::Whole, 2).is_rolling_back_much());
    let one_more = Event::Prepared { name: v(0), writes: vec![(id("last"), v(0))] };
    assert!(start_on(logged([many, one_more]), Trust::Whole, 2).is_rolling_back_much());
}

#[test]
fn several_writes_are_admitted_all_or_none() {
    let mut cluster = healthy(2, 2);
    let (a, b, c) = (id("a"), id("b"), id("c"));
    let before = loads(&cluster);
    set(&mut cluster, "b");
    let tickets = cluster.admit_together(&[(&a, Some(message(1, 1))), (&b, None), (&c, None)]).unwrap();
    let versions: Vec<_> = tickets.iter().map(|ticket| ticket.as_ref().map(|ticket| ticket.record.version)).collect();
    assert_eq!(versions, [Some(v(2)), Some(v(3)), None], "there is nothing to delete at c");
    cluster.void(v(2), tickets.iter().flatten());
    tickets.iter().flatten().for_each(|ticket| cluster.release(ticket));
    assert_eq!(cluster.to_abort(), [v(2)]);
    cluster.registry.part(NodeId(2), 2, true, ms(0));
    assert!(cluster.admit_together(&[(&a, Some(message(1, 1))), (&c, Some(message(1, 1)))]).is_err());
    assert_eq!(loads(&cluster), before.iter().map(|load| load + 1).collect::<Vec<_>>(), "no promise is left");
}
