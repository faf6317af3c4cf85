//! Tombstones, and who has to confirm them.

use super::*;

#[test]
fn a_tombstone_waits_for_every_member() {
    let mut cluster = healthy(2, 3);
    put_on(&mut cluster, "x", &[1, 2]);
    let version = cluster.next_version().unwrap();
    let holders = [NodeId(1), NodeId(2)].into_iter().collect();
    cluster.apply(&Commit { id: id("x"), record: CopyRecord::tombstone(version), holders });
    for node in 1..=3 {
        assert_eq!(cluster.forgettable(9), [], "node {node} has not answered");
        let ask = cluster.asks(NodeId(node), 9).pop().unwrap();
        assert_eq!((&ask.id, ask.version, ask.keep), (&id("x"), version, node < 3));
        cluster.confirmed(NodeId(node), &ask);
    }
    // Whoever joins before it is forgotten may have the old message too.
    join_as(&mut cluster, 4, 4, Duration::ZERO);
    cluster.ask_for_confirmations(NodeId(4));
    assert_eq!(cluster.forgettable(9), [], "node 4 has not answered");
    let ask = cluster.asks(NodeId(4), 9).pop().unwrap();
    cluster.confirmed(NodeId(4), &ask);
    assert_eq!(cluster.forgettable(9), [(id("x"), version)]);
    assert_eq!(cluster.forget(&id("x"), version).as_slice(), [NodeId(1), NodeId(2)]);
}
