//! The pure cluster as a whole: what it decides, told as stories.

mod deletions;
mod doubts;
mod evening;
mod intents;
mod inventories;
mod judging;
mod placing;
mod removals;
mod scripts;
mod state;
mod transactions;
mod unnoted;

use std::collections::BTreeMap;
use std::time::Duration;

use super::knowledge::Trust;
use super::mapping::Commit;
use super::registry::Traits;
use super::state::{Event, State};
use super::{Cluster, Reported, Ticket, Uncommitted};
use crate::types::{CopyRecord, Epoch, Leadership, Listed, Member, MessageId, NodeId, Uuid, Version};

/// A moment, in milliseconds since the leader's start.
fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn id(text: &str) -> MessageId {
    text.parse().unwrap()
}

fn uuid(node: u32) -> Uuid {
    Uuid(u128::from(node).to_be_bytes())
}

/// What a message of this length and checksum is admitted with.
fn message(length: u32, crc: u32) -> CopyRecord {
    CopyRecord { version: Version::default(), length, crc, expires: None }
}

/// A cluster in its first epoch that believes its log as far as `trust` says, without nodes.
fn cluster(tolerance: usize, trust: Trust) -> Cluster {
    let mut cluster = Cluster::new(tolerance, State::new(1), trust);
    cluster.begin(Leadership { cluster_id: uuid(99), epoch: Epoch(1) });
    cluster.greet();
    cluster
}

fn member(node: u32) -> Member {
    Member { id: NodeId(node), uuid: uuid(node), address: format!("host-{node}:1") }
}

/// Node `node` joins in this session.
fn join_as(cluster: &mut Cluster, node: u32, session: u64, now: Duration) {
    cluster.registry.remember(member(node), now);
    cluster.registry.note_answered(NodeId(node), now);
    cluster.registry.join(NodeId(node), session, Traits::default(), now);
}

/// A cluster of `nodes` healthy nodes that knows everything.
fn healthy(tolerance: usize, nodes: u32) -> Cluster {
    let mut cluster = cluster(tolerance, Trust::Whole);
    // One that is no member any more; the others have said the same as the log.
    cluster.knowledge.report(NodeId(0));
    assert!(cluster.settle_knowledge());
    for node in 1..=nodes {
        join_as(&mut cluster, node, u64::from(node), Duration::ZERO);
        cluster.knowledge.report(NodeId(node));
    }
    cluster
}

/// What the coordinator does once the log has a write: its ticket ends, and its commit is applied.
fn commit(cluster: &mut Cluster, ticket: &Ticket) {
    let mut holders: super::Holders = ticket.targets.iter().copied().take(cluster.tolerance()).collect();
    holders.sort_unstable();
    cluster.release(ticket);
    cluster.apply(&Event::Commit(Commit { id: ticket.id.clone(), record: ticket.record, holders }));
}

/// Writes a message from beginning to end.
fn set(cluster: &mut Cluster, text: &str) -> Ticket {
    let ticket = cluster.admit(&id(text), message(10, 7)).unwrap();
    commit(cluster, &ticket);
    ticket
}

/// A member confirms all deletions that it is asked for.
fn confirm(cluster: &mut Cluster, node: u32) {
    for ask in cluster.asks(NodeId(node), 9) {
        cluster.confirmed(NodeId(node), &ask);
    }
}

/// A whole inventory of a node, in the session of [`healthy`].
fn report(cluster: &mut Cluster, node: u32, entries: &[Listed]) -> Option<Reported> {
    cluster.inventory_begins(NodeId(node), u64::from(node));
    cluster.inventory_page(NodeId(node), u64::from(node), entries);
    cluster.inventory_ends(NodeId(node), u64::from(node), entries.len() as u64)
}

/// What a log with these events says.
fn logged(events: impl IntoIterator<Item = Event>) -> State {
    let mut state = State::new(1);
    events.into_iter().for_each(|event| drop(state.apply(&event)));
    state
}

/// Nodes 1 to `members`, as a log names them.
fn named(members: u32) -> impl Iterator<Item = Event> {
    (1..=members).map(member).map(Event::Member)
}

/// A leader of tolerance 2 that begins this epoch on such a log.
fn start_on(state: State, trust: Trust, epoch: u32) -> Cluster {
    let mut cluster = Cluster::new(2, state, trust);
    cluster.begin(Leadership { cluster_id: uuid(99), epoch: Epoch(epoch) });
    cluster
}

/// Makes a message true on these very nodes, as a log may say it.
fn put_on(cluster: &mut Cluster, text: &str, nodes: &[u32]) -> CopyRecord {
    let record = CopyRecord { version: cluster.next_version().unwrap(), length: 10, crc: 7, expires: None };
    let holders = nodes.iter().copied().map(NodeId).collect();
    cluster.apply(&Event::Commit(Commit { id: id(text), record, holders }));
    record
}

/// The uncommitted versions that can be completed now.
fn uncommitted(cluster: &Cluster) -> Vec<(MessageId, Uncommitted)> {
    cluster.uncommitted(None, 9).0
}

/// Committed copies on each node, ascending by node.
fn copies(cluster: &Cluster) -> Vec<u64> {
    cluster.registry.nodes().iter().map(|node| node.committed).collect()
}

/// Committed and promised copies on each node, ascending by node.
fn loads(cluster: &Cluster) -> Vec<u64> {
    cluster.registry.nodes().iter().map(super::registry::Node::load).collect()
}

fn spread(counts: &[u64]) -> u64 {
    counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0)
}

/// The loads as they follow from the index and the open tickets alone.
fn expected_loads(cluster: &Cluster, open: &[Ticket]) -> Vec<i64> {
    let mut loads: BTreeMap<NodeId, i64> = cluster.registry.nodes().iter().map(|node| (node.member.id, 0)).collect();
    let mut add = |node: &NodeId, copies: i64| *loads.entry(*node).or_default() += copies;
    for (set, messages, _) in cluster.mapping().sets() {
        set.holders.iter().for_each(|node| add(node, messages as i64));
    }
    for ticket in open {
        ticket.targets.iter().for_each(|node| add(node, 1));
        ticket.held.iter().for_each(|node| add(node, -1));
    }
    loads.into_values().collect()
}
