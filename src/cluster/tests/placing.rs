//! Where messages go: exactly spread, whatever is under way at once.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// What may happen next; an [`Index`] picks among the ids, or among the tickets that are out.
#[derive(Debug, Clone)]
enum Step {
    /// A write of one of a few ids, so that most are overwrites.
    Set(u16),
    /// A write is kept and logged.
    Commit(Index),
    /// A write fails.
    Release(Index),
    /// A target of a write fails, or is late.
    Replace { ticket: Index, target: Index, beside: bool },
}

fn step(with_trouble: bool) -> BoxedStrategy<Step> {
    let ids = 0u16..200;
    if !with_trouble {
        return prop_oneof![ids.prop_map(Step::Set), any::<Index>().prop_map(Step::Commit)].boxed();
    }
    prop_oneof![
        4 => ids.prop_map(Step::Set),
        2 => any::<Index>().prop_map(Step::Commit),
        1 => any::<Index>().prop_map(Step::Release),
        1 => (any::<Index>(), any::<Index>(), any::<bool>())
            .prop_map(|(ticket, target, beside)| Step::Replace { ticket, target, beside }),
    ]
    .boxed()
}

/// A cluster and its open tickets; at most one an id, which in the leader the lock sees to.
struct Under {
    cluster: Cluster,
    open: Vec<Ticket>,
}

impl Under {
    fn take(&mut self, step: &Step) {
        match step {
            Step::Set(n) => {
                let id = id(&n.to_string());
                if self.open.iter().all(|ticket| ticket.id != id) {
                    self.open.push(self.cluster.admit(&id, message(10, 7)).unwrap());
                }
            }
            _ if self.open.is_empty() => {}
            Step::Commit(at) => {
                let ticket = self.open.swap_remove(at.index(self.open.len()));
                commit(&mut self.cluster, &ticket);
            }
            Step::Release(at) => {
                let ticket = self.open.swap_remove(at.index(self.open.len()));
                self.cluster.release(&ticket);
            }
            Step::Replace { ticket, target, beside } => {
                let at = ticket.index(self.open.len());
                let failed = *target.get(&self.open[at].targets);
                self.cluster.replace(&mut self.open[at], failed, *beside);
            }
        }
    }

    /// Loads are what the index and the open tickets say, to the copy, and never negative.
    fn check_loads(&self) -> Result<(), TestCaseError> {
        let expected = expected_loads(&self.cluster, &self.open);
        prop_assert!(expected.iter().all(|load| *load >= 0), "{:?}", expected);
        let loads: Vec<i64> = loads(&self.cluster).into_iter().map(|load| load as i64).collect();
        prop_assert_eq!(loads, expected);
        Ok(())
    }

    fn commit_all(&mut self) {
        for ticket in std::mem::take(&mut self.open) {
            commit(&mut self.cluster, &ticket);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn on_healthy_nodes_copies_are_spread_exactly(
        tolerance in 1usize..=4, more in 0u32..5, steps in proptest::collection::vec(step(false), 1..400),
    ) {
        let mut under = Under { cluster: healthy(tolerance, tolerance as u32 + more), open: Vec::new() };
        for step in &steps {
            under.take(step);
            under.check_loads()?;
            prop_assert!(spread(&loads(&under.cluster)) <= 1, "at every moment: {:?}", loads(&under.cluster));
        }
        under.commit_all();
        prop_assert!(spread(&copies(&under.cluster)) <= 1, "{:?}", copies(&under.cluster));
    }

    #[test]
    fn what_failures_leave_uneven_new_messages_even_out(
        tolerance in 1usize..=4, more in 1u32..5, steps in proptest::collection::vec(step(true), 1..400),
    ) {
        let mut under = Under { cluster: healthy(tolerance, tolerance as u32 + more), open: Vec::new() };
        for step in &steps {
            under.take(step);
            under.check_loads()?;
        }
        under.commit_all();
        under.check_loads()?;
        let counts = copies(&under.cluster);
        let most = *counts.iter().max().unwrap();
        // Each new message leaves out at least the most loaded node, so that this many suffice.
        let lacking: u64 = counts.iter().map(|count| most - count).sum();
        for n in 0..lacking * counts.len() as u64 {
            set(&mut under.cluster, &format!("new-{n}"));
        }
        prop_assert!(spread(&copies(&under.cluster)) <= 1, "{counts:?} became {:?}", copies(&under.cluster));
    }

    #[test]
    fn the_three_laws_hold_with_any_128_writes_in_flight(seed in any::<u64>()) {
        law(2, 4, &[(1000, &[500; 4])], Some(seed));
        law(3, 6, &[(9000, &[4500; 6])], Some(seed));
        law(2, 3, &[(500, &[333, 333, 334]), (500, &[500; 4])], Some(seed));
    }
}

#[test]
fn a_thousand_on_four_nodes_are_five_hundred_each() {
    law(2, 4, &[(1000, &[500, 500, 500, 500])], None);
}

#[test]
fn nine_thousand_on_six_nodes_are_four_and_a_half_thousand_each() {
    law(3, 6, &[(9000, &[4500; 6])], None);
}

#[test]
fn a_node_that_joins_half_way_has_its_share_at_the_end() {
    law(2, 3, &[(500, &[333, 333, 334]), (500, &[500; 4])], None);
}

/// Writes each part of new messages, after all but the first part with one more node, and compares the copies
/// on the nodes (sorted) with what is said. With a seed up to 128 writes are in flight, and end in any order.
fn law(tolerance: usize, nodes: u32, parts: &[(u32, &[u64])], seed: Option<u64>) {
    let mut cluster = healthy(tolerance, nodes);
    let mut chance = fastrand::Rng::with_seed(seed.unwrap_or(0));
    let mut open: Vec<Ticket> = Vec::new();
    let most = seed.map_or(1, |_| chance.usize(1..=128));
    for (part, (messages, expected)) in parts.iter().enumerate() {
        if part > 0 {
            // Writes of the part before may still be under way when the node joins.
            join_as(&mut cluster, nodes + part as u32, 100 + part as u64, Duration::ZERO);
        }
        for n in 0..*messages {
            open.push(cluster.admit(&id(&format!("{part}-{n}")), message(10, 7)).unwrap());
            while open.len() >= most || (seed.is_some() && !open.is_empty() && chance.u8(..4) == 0) {
                commit(&mut cluster, &open.swap_remove(chance.usize(..open.len())));
            }
        }
        if part + 1 == parts.len() {
            open.drain(..).for_each(|ticket| commit(&mut cluster, &ticket));
        }
        if open.is_empty() {
            let mut found = copies(&cluster);
            found.sort_unstable();
            assert_eq!(&found, expected, "tolerance {tolerance}, {nodes} nodes, part {part}, seed {seed:?}");
        }
    }
}

#[test]
fn reservations_are_given_back() {
    let mut cluster = healthy(2, 3);
    let first = cluster.admit(&id("x"), message(10, 7)).unwrap();
    assert_eq!(loads(&cluster), [1, 1, 0]);
    cluster.release(&first);
    assert_eq!(loads(&cluster), [0, 0, 0]);
    put_on(&mut cluster, "x", &[1, 2]);
    let mut over = cluster.admit(&id("x"), message(10, 7)).unwrap();
    assert_eq!(loads(&cluster), [1, 1, 0], "an overwrite in place changes no load");
    cluster.replace(&mut over, NodeId(2), false).unwrap();
    assert_eq!(loads(&cluster), [1, 0, 1]);
    cluster.release(&over);
    assert_eq!(loads(&cluster), [1, 1, 0]);
}

#[test]
fn a_hedge_goes_to_the_least_loaded_even_if_another_gives_up_the_old_copy() {
    // Node 1 has two messages more than the others, and x is one of its own.
    let mut cluster = healthy(1, 3);
    for text in ["x", "a", "b"] {
        set(&mut cluster, text);
    }
    for text in ["c", "d"] {
        put_on(&mut cluster, text, &[1]);
    }
    assert_eq!(loads(&cluster), [3, 1, 1]);
    let mut over = cluster.admit(&id("x"), message(10, 7)).unwrap();
    assert_eq!((over.targets.to_vec(), loads(&cluster)), (vec![NodeId(2)], vec![2, 2, 1]));
    assert_eq!(cluster.replace(&mut over, NodeId(2), false), Some(NodeId(3)));
}
