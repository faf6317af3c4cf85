//! One event has one meaning: a leader that makes events true, one that reads them at a start, and one that reads what a
//! rewritten log keeps of them know the same.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::cluster::state::prepared::Standing;
use crate::types::{Deadline, Removed};

/// What happens to a register. Nodes, folders and ids are few, so that they meet.
#[derive(Debug, Clone)]
enum Step {
    Set(u8, Vec<u32>),
    Delete(u8, Vec<u32>),
    /// A commit from before comes once more.
    Again(Index),
    /// A write that the log hears of beside its copies: `Some(true)` concluded, `Some(false)` dropped.
    Intend(u8, Vec<u32>, Option<bool>),
    /// An end of one of those comes once more, or at last.
    End(Index, bool),
    /// A transaction over two ids: prepared, and `Some(true)` committed, `Some(false)` aborted.
    Together(u8, u8, Option<bool>),
    Forget(u8),
    Join(u32, u8),
    Remove(Index),
    Drain(u32, bool),
    Tolerance(u8),
    Begin(bool),
    Time(u64),
    User(u8, Option<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let nodes = || proptest::sample::subsequence((1..=5).collect::<Vec<u32>>(), 1..=3);
    prop_oneof![
        4 => (0..8u8, nodes()).prop_map(|(id, nodes)| Step::Set(id, nodes)),
        2 => (0..8u8, nodes()).prop_map(|(id, nodes)| Step::Delete(id, nodes)),
        1 => any::<Index>().prop_map(Step::Again),
        4 => (0..8u8, nodes(), any::<Option<bool>>()).prop_map(|(id, nodes, end)| Step::Intend(id, nodes, end)),
        2 => any::<(Index, bool)>().prop_map(|(at, concluded)| Step::End(at, concluded)),
        3 => (0..4u8, 4..8u8, any::<Option<bool>>()).prop_map(|(a, b, end)| Step::Together(a, b, end)),
        2 => (0..8u8).prop_map(Step::Forget),
        3 => (1..=5u32, 0..3u8).prop_map(|(node, folder)| Step::Join(node, folder)),
        1 => any::<Index>().prop_map(Step::Remove),
        1 => (1..=5u32, any::<bool>()).prop_map(|(node, on)| Step::Drain(node, on)),
        1 => (1..=7u8).prop_map(Step::Tolerance),
        1 => any::<bool>().prop_map(Step::Begin),
        1 => (0..9u64).prop_map(Step::Time),
        1 => (0..3u8, any::<Option<u8>>()).prop_map(|(name, rules)| Step::User(name, rules)),
    ]
}

/// The events of these steps, with versions in their order.
#[derive(Default)]
struct Story {
    events: Vec<Event>,
    epoch: u32,
    sequence: u32,
    newest: BTreeMap<MessageId, Version>,
}

impl Story {
    fn of(steps: Vec<Step>) -> Vec<Event> {
        let mut story = Self { epoch: 1, ..Self::default() };
        steps.into_iter().for_each(|step| story.take(step));
        story.events
    }

    fn commit(&mut self, name: u8, nodes: &[u32], deleted: bool) -> Commit {
        self.sequence += 1;
        let (id, version) = (id(&format!("id{name}")), Version::new(Epoch(self.epoch), self.sequence));
        let record = if deleted {
            CopyRecord::tombstone(version)
        } else {
            let expires = Deadline::at(self.sequence.into()).filter(|_| self.sequence.is_multiple_of(3));
            CopyRecord { version, length: 10, crc: self.sequence, expires }
        };
        Commit { id, record, holders: nodes.iter().copied().map(NodeId).collect() }
    }

    fn log_commit(&mut self, commit: Commit) {
        self.newest.insert(commit.id.clone(), commit.record.version);
        self.events.push(Event::Commit(commit));
    }

    fn end(&mut self, version: Version, concluded: bool) {
        let versions = vec![version];
        self.events.push(if concluded { Event::Concluded(versions) } else { Event::Dropped(versions) });
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Set(name, nodes) => {
                let commit = self.commit(name, &nodes, false);
                self.log_commit(commit);
            }
            Step::Delete(name, nodes) => {
                let commit = self.commit(name, &nodes, true);
                self.log_commit(commit);
            }
            Step::Again(at) => {
                let commits = self.events.iter().filter(|event| matches!(event, Event::Commit(_)));
                let commits: Vec<Event> = commits.cloned().collect();
                if !commits.is_empty() {
                    self.events.push(at.get(&commits).clone());
                }
            }
            Step::Intend(name, nodes, end) => {
                let intent = self.commit(name, &nodes, false);
                let (id, version) = (intent.id.clone(), intent.record.version);
                self.events.push(Event::Intent(intent));
                if let Some(concluded) = end {
                    self.end(version, concluded);
                }
                if end == Some(true) {
                    self.newest.insert(id, version);
                }
            }
            Step::End(at, concluded) => {
                let intents = self.events.iter().filter_map(|event| match event {
                    Event::Intent(intent) => Some(intent.record.version),
                    _ => None,
                });
                let intents: Vec<Version> = intents.collect();
                if !intents.is_empty() {
                    self.end(*at.get(&intents), concluded);
                }
            }
            Step::Together(a, b, end) => {
                let commits = vec![self.commit(a, &[1, 2], false), self.commit(b, &[2, 3], false)];
                let name = commits[0].record.version;
                let writes = commits.iter().map(|commit| (commit.id.clone(), commit.record.version)).collect();
                self.events.push(Event::Prepared { name, writes });
                match end {
                    Some(true) => {
                        let newest = commits.iter().map(|commit| (commit.id.clone(), commit.record.version));
                        self.newest.extend(newest);
                        self.events.push(Event::Commits(commits));
                    }
                    Some(false) => self.events.push(Event::Aborted { name }),
                    None => {}
                }
            }
            Step::Forget(name) => {
                let id = id(&format!("id{name}"));
                if let Some(version) = self.newest.remove(&id) {
                    self.events.push(Event::Forgotten { id, version });
                }
            }
            Step::Join(node, folder) => {
                let uuid = uuid(10 * node + u32::from(folder));
                self.events.push(Event::Member(Member { id: NodeId(node), uuid, address: format!("host-{node}:1") }));
            }
            Step::Remove(at) => {
                let members = self.events.iter().filter_map(|event| match event {
                    Event::Member(member) => Some(Removed { id: member.id, uuid: member.uuid }),
                    _ => None,
                });
                let members: Vec<Removed> = members.collect();
                if !members.is_empty() {
                    self.events.push(Event::Removed(*at.get(&members)));
                }
            }
            Step::Drain(node, on) => self.events.push(Event::Draining { node: NodeId(node), on }),
            Step::Tolerance(tolerance) => self.events.push(Event::Tolerance(tolerance)),
            Step::Time(unix_ms) => self.events.push(Event::Time(unix_ms)),
            Step::User(name, rules) => {
                let rules = rules.map(|rules| vec![rules; 3]);
                self.events.push(Event::User { name: format!("user{name}"), rules });
            }
            Step::Begin(hears_all) => {
                self.epoch += 1;
                let leadership = Leadership { cluster_id: uuid(99), epoch: Epoch(self.epoch) };
                self.events.push(Event::Began { leadership, run: u64::from(self.epoch), hears_all });
            }
        }
    }
}

/// All that a state says, in words.
fn said(state: &State) -> String {
    let mut lines = vec![
        format!("{:?} of {:?}, {:?} copies", state.last(), state.runs(), state.tolerance()),
        format!("{:?}, draining {:?}", state.members().collect::<Vec<_>>(), state.draining()),
        format!("removed {:?}", state.removed()),
        format!("{} ms, users {:?}", state.time(), state.users()),
        format!("{:?}", state.prepared().all(|standing| standing != Standing::Forward)),
        format!("intents {:?}", state.intents().all().collect::<Vec<_>>()),
        format!("aborted {:?}", state.prepared().all(|standing| standing == Standing::Aborted)),
    ];
    let mapping = state.mapping();
    lines.push(format!("up to {}, forgotten up to {}", mapping.newest_committed(), mapping.horizon()));
    let records = (0..super::super::mapping::SHARDS).flat_map(|part| mapping.records(part));
    let mut records: Vec<String> =
        records.map(|(key, found)| format!("{} {:?} {:?}", key.id(), found.record, found.set.holders)).collect();
    records.sort();
    lines.extend(records);
    lines.join("\n")
}

proptest! {
    #[test]
    fn what_is_made_true_is_what_is_read_again(
        steps in proptest::collection::vec(step(), 1..60),
        cut in any::<Index>(),
    ) {
        let events = Story::of(steps);
        let wanted = said(&logged(events.iter().cloned()));
        // Live.
        let mut cluster = Cluster::new(2, State::new(2), Trust::Whole);
        events.iter().for_each(|event| drop(cluster.apply(event)));
        prop_assert_eq!(said(cluster.state()), wanted.as_str());
        // A log that was rewritten somewhere on the way.
        let (before, after) = events.split_at(cut.index(events.len() + 1));
        let kept = logged(before.iter().cloned()).snapshot().collect::<Vec<_>>();
        prop_assert_eq!(said(&logged(kept.into_iter().chain(after.iter().cloned()))), wanted.as_str());
        // What follows from it besides is what a start makes of it.
        let started = Cluster::new(2, logged(events.iter().cloned()), Trust::Whole);
        let members = |cluster: &Cluster| -> Vec<(Member, bool, u64)> {
            cluster.registry.nodes().iter().map(|node| (node.member.clone(), node.draining, node.committed)).collect()
        };
        let only_members = |state: &State| state.members().cloned().collect::<Vec<_>>();
        prop_assert_eq!(members(&started).iter().map(|(member, ..)| member.clone()).collect::<Vec<_>>(), only_members(started.state()));
        prop_assert_eq!(cluster.registry.nodes().iter().map(|node| node.member.clone()).collect::<Vec<_>>(), only_members(cluster.state()));
        for ((_, draining, _), (member, other, _)) in members(&started).iter().zip(members(&cluster)) {
            prop_assert_eq!(*draining, other, "{:?}", member);
        }
        prop_assert_eq!(started.deletions(), cluster.deletions());
    }
}
