//! What nodes say they hold: whatever it is, it changes no committed message.

use std::collections::BTreeMap;
use std::time::Duration;

use hatokuse::cluster::knowledge::Trust;
use hatokuse::cluster::mapping::Commit;
use hatokuse::cluster::registry::Traits;
use hatokuse::cluster::state::{Event, State};
use hatokuse::cluster::{Cluster, Located};
use hatokuse::types::{CopyRecord, Epoch, Leadership, Listed, Member, MessageId, NodeId, Uuid, Version};
use hatokuse::wire::family::InventoryPage;
use prost::Message;

use super::Script;

const NODES: u32 = 3;
const IDS: [&str; 4] = ["a", "b", "c", "d"];

fn cluster(trust: Trust) -> Cluster {
    let mut cluster = Cluster::new(2, State::new(1), trust);
    let leadership = Leadership { cluster_id: Uuid([9; 16]), epoch: Epoch(2) };
    cluster.apply(&Event::Began { leadership, run: 1, hears_all: trust == Trust::Nothing });
    for node in 1..=NODES {
        let member = Member { id: NodeId(node), uuid: Uuid([node as u8; 16]), address: format!("node-{node}:1") };
        cluster.apply(&Event::Member(member));
        cluster.registry.join(NodeId(node), u64::from(node), Traits::default(), Duration::ZERO);
    }
    cluster
}

/// The `n`-th of a few ids, and a record that is likely to be the same as another one's.
fn entry(script: &mut Script<'_>) -> Listed {
    let (id, version, kind) = (script.byte(), script.byte(), script.byte());
    let version = match version {
        0 => Version::FOREIGN,
        0xFF => Version(u64::MAX),
        some => Version::new(Epoch(u32::from(some >> 5)), u32::from(some & 0x1F)),
    };
    let record = match kind & 7 {
        7 => CopyRecord::tombstone(version),
        crc => CopyRecord { version, length: 10, crc: u32::from(crc), expires: None },
    };
    Listed {
        id: IDS[usize::from(id) % IDS.len()].parse().unwrap(),
        record,
        staged: kind & 16 != 0,
        damaged: kind & 8 != 0,
    }
}

/// A page as it comes over the wire, or one of entries that are close to what the leader knows.
fn page(script: &mut Script<'_>) -> Option<Vec<Listed>> {
    let kind = script.byte();
    if kind & 1 == 0 {
        return Some((0..kind >> 5).map(|_| entry(script)).collect());
    }
    let length = usize::from(script.byte());
    let page = InventoryPage::decode(script.bytes(length)).ok()?;
    page.entries.into_iter().map(|entry| Listed::try_from(entry).ok()).collect()
}

/// Inventories of several nodes, mixed with commits, in any order: pages of other sessions, wrong counts, lies.
pub(super) fn inventory(data: &[u8]) {
    let mut script = Script(data);
    let trust = if script.byte() & 1 == 0 { Trust::Whole } else { Trust::Nothing };
    let mut cluster = cluster(trust);
    let mut committed: BTreeMap<MessageId, CopyRecord> = BTreeMap::new();
    let mut counts: BTreeMap<NodeId, u64> = BTreeMap::new();
    while !script.is_over() {
        let step = script.byte();
        let node = NodeId(1 + u32::from(step >> 4) % (NODES + 1));
        let session = if step & 8 == 0 { u64::from(node.0) } else { 99 };
        match step & 7 {
            0 | 1 => {
                cluster.inventory_begins(node, session);
                counts.insert(node, 0);
            }
            2 | 3 => match page(&mut script) {
                Some(entries) => {
                    cluster.inventory_page(node, session, &entries);
                    *counts.entry(node).or_default() += entries.len() as u64;
                }
                None => cluster.inventory_breaks(node, session),
            },
            4 => {
                let count = counts.get(&node).copied().unwrap_or_default() + u64::from(script.byte() & 1);
                if let Some(reported) = cluster.inventory_ends(node, session, count) {
                    assert_eq!(reported.entries, count);
                    assert!(reported.missing <= reported.expected, "{reported:?}");
                    cluster.settle_knowledge();
                }
            }
            5 => cluster.inventory_breaks(node, session),
            _ => {
                let mut entry = entry(&mut script);
                let Some(version) = cluster.next_version() else { continue };
                entry.record.version = version;
                let other = NodeId(1 + node.0 % NODES);
                let mut holders: Vec<NodeId> = vec![NodeId(1 + (node.0 - 1) % NODES), other];
                holders.sort_unstable();
                holders.dedup();
                let holders = holders.into_iter().collect();
                cluster.apply(&Event::Commit(Commit { id: entry.id.clone(), record: entry.record, holders }));
                committed.insert(entry.id, entry.record);
            }
        }
        check(&mut cluster, &committed);
    }
}

fn check(cluster: &mut Cluster, committed: &BTreeMap<MessageId, CopyRecord>) {
    for text in IDS {
        let id: MessageId = text.parse().unwrap();
        let record = committed.get(&id).copied();
        assert_eq!(cluster.mapping().newest(&id).map(|found| found.record), record, "an inventory changed {id}");
        match cluster.find_here(&id, 0) {
            Located::Here { record: found, candidates, .. } => {
                assert_eq!(Some(found), record, "{id} is shown and not committed");
                let holders = cluster.holders(&id).unwrap();
                assert!(candidates.iter().all(|node| holders.contains(node)));
            }
            Located::NotFound => {
                assert!(record.is_none_or(|record| record.is_tombstone()), "{id} is not found");
                assert!(cluster.is_settled(), "{id} is not found, says who does not know");
            }
            Located::Hidden(_) => {}
        }
        if let Some(trim) = cluster.trim(&id) {
            assert_eq!(trim.committed, record, "copies of {id} go for another reason than a commit");
            for (node, version, keep) in &trim.settles {
                let is_holder = cluster.holders(&id).is_some_and(|holders| holders.contains(node));
                let newest = record.map_or(cluster.mapping().horizon(), |record| record.version);
                assert!(*version <= newest && (*keep || !is_holder), "{id} on {node} would lose what is committed");
            }
        }
    }
    for (id, newer) in cluster.uncommitted(None, usize::MAX).0 {
        let known = committed.get(&id).map_or(Version::FOREIGN, |record| record.version);
        assert!(newer.record.version > known || !committed.contains_key(&id), "{id} is not newer");
        assert!(!newer.holders.is_empty() && newer.holders.is_sorted());
    }
}
