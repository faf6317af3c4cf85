//! Evening out that begins by itself.

use super::*;

const S: Duration = Duration::from_secs(1);

/// Three nodes with messages, and a fourth that came to stay.
fn with_a_late_node(messages: u32) -> Cluster {
    let mut cluster = healthy(2, 3);
    cluster.rebalance_by_itself(30 * S);
    for n in 0..messages {
        set(&mut cluster, &n.to_string());
    }
    join_as(&mut cluster, 4, 4, Duration::ZERO);
    cluster.knowledge.report(NodeId(4));
    cluster
}

#[test]
fn one_node_that_stays_poor_begins_it() {
    let mut cluster = with_a_late_node(400);
    let asks = [(10, None), (39, None), (40, Some(NodeId(4)))];
    for (second, wanted) in asks {
        assert_eq!(cluster.rebalancing_begins(second * S), wanted, "{second} s");
        assert_eq!(cluster.is_rebalancing(), wanted.is_some());
    }
    assert!(!cluster.rebalancing_ends(), "there is something to move");
    assert_eq!(cluster.rebalancing_begins(100 * S), None, "it has begun");
}

#[test]
fn the_end_names_who_has_no_room() {
    let mut cluster = healthy(2, 3);
    cluster.set_rebalancing(true);
    cluster.registry.note_full(NodeId(3), 100);
    assert!(cluster.rebalancing_ends());
    assert_eq!(cluster.full_nodes(), [NodeId(3)]);
}

#[test]
fn it_does_not_begin_for_little_or_when_it_is_not_wanted() {
    let mut few = with_a_late_node(100);
    let mut by_order = healthy(2, 3);
    for second in [0, 100] {
        assert_eq!(few.rebalancing_begins(second * S), None);
        assert_eq!(by_order.rebalancing_begins(second * S), None);
    }
    // Who was poor for a moment, and is again, begins anew.
    let mut cluster = with_a_late_node(400);
    assert_eq!(cluster.rebalancing_begins(Duration::ZERO), None);
    (0..200).for_each(|n| drop(set(&mut cluster, &format!("new-{n}"))));
    assert_eq!((cluster.rebalancing_begins(20 * S), cluster.poor()), (None, None));
}

#[test]
fn an_operator_who_ends_it_has_it_stay_so() {
    let mut cluster = with_a_late_node(400);
    assert_eq!(cluster.rebalancing_begins(Duration::ZERO), None);
    assert_eq!(cluster.rebalancing_begins(30 * S), Some(NodeId(4)));
    cluster.set_rebalancing(false);
    assert_eq!(cluster.rebalancing_begins(31 * S), None);
    assert_eq!(cluster.rebalancing_begins(999 * S), None);
    cluster.set_rebalancing(true);
    assert!(cluster.is_rebalancing());
}
