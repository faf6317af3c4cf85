//! Plays `tests/scripts/*.txt`: what happens above each `---`, and what the cluster decides below it.
//!
//! A line below is what one line above led to. `HATOKUSE_BLESS=1 cargo test scripts` writes anew what is below,
//! for review as a diff. Commands: `join`, `part`, `full` (nodes); `set ID`; `ack`, `lose`, `hush` (ID NODE: kept,
//! refused, no answer), `late` (no answer yet); `inventory NODE ID=VERSION..` (`ID=foreign`, `ID=VERSION!` for damaged); `complete`;
//! `get ID`; `loads`; `remove N` (an order), `gone N` (a node that joins says that it was removed); `tolerance N`; `restart whole|end|nothing` (a new leader, with so much of the log).

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::*;
use crate::cluster::quorum::{Answer, Tally, Verdict};
use crate::cluster::{Located, NotAdmitted};
use crate::types::{Listed, Removed, Version};

#[test]
fn scripts_lead_to_what_they_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut played = 0;
    for file in fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        let script = fs::read_to_string(&path).unwrap();
        let result = play(&script);
        if std::env::var_os("HATOKUSE_BLESS").is_some() {
            fs::write(&path, result).unwrap();
        } else {
            assert_eq!(result, script, "{}", path.display());
        }
        played += 1;
    }
    assert!(played >= 6, "only {played} scripts in {}", folder.display());
}

/// The script with what really happens below each `---`.
fn play(script: &str) -> String {
    let (log, removed, writes) = (Vec::new(), Vec::new(), BTreeMap::new());
    let mut stage = Stage { cluster: healthy(2, 0), log, removed, writes, session: 0 };
    let mut result = String::new();
    for part in script.split("\n\n") {
        let commands = part.split("---").next().unwrap_or_default().trim_end();
        let mut said = String::new();
        for line in commands.lines() {
            let command = line.split('#').next().unwrap_or_default();
            for command in command.split(';').map(str::trim).filter(|command| !command.is_empty()) {
                stage.take(command, &mut said);
            }
        }
        let gap = if result.is_empty() { "" } else { "\n" };
        let line = if said.is_empty() && !part.contains("---") { "" } else { "---\n" };
        let _ = write!(result, "{gap}{commands}\n{line}{said}");
    }
    result
}

struct Stage {
    cluster: Cluster,
    /// All that is durable: what a new leader reads.
    log: Vec<Commit>,
    removed: Vec<Removed>,
    writes: BTreeMap<MessageId, (Ticket, Tally)>,
    session: u64,
}

fn node(word: &str) -> NodeId {
    NodeId(word.parse().unwrap())
}

fn names(nodes: &[NodeId]) -> String {
    if nodes.is_empty() {
        return "none".to_owned();
    }
    nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(" ")
}

impl Stage {
    fn take(&mut self, command: &str, said: &mut String) {
        let mut words = command.split_whitespace();
        let verb = words.next().unwrap();
        let rest: Vec<&str> = words.collect();
        let line = match verb {
            "join" | "part" | "full" => {
                rest.iter().for_each(|word| self.change(verb, node(word)));
                return;
            }
            "tolerance" => return self.cluster.set_tolerance(rest[0].parse().unwrap()),
            "restart" => return self.restart(rest[0]),
            "set" => {
                let admitted = self.cluster.admit(&id(rest[0]), message(10, 7));
                self.place(rest[0], admitted, &[])
            }
            "ack" | "lose" | "hush" => self.answer(verb, &id(rest[0]), node(rest[1])),
            "late" => self.hedge(&id(rest[0]), node(rest[1])),
            "inventory" => self.inventory(node(rest[0]), &rest[1..]),
            "complete" => self.complete(),
            "remove" => self.remove(node(rest[0])),
            "gone" => {
                self.cluster.apply(&Event::Removed(Removed { id: node(rest[0]), uuid: uuid(node(rest[0]).0) }));
                return;
            }
            "get" => self.get(rest[0]),
            "loads" => {
                let load = |node: &super::super::registry::Node| format!("{}:{}", node.member.id, node.load());
                self.cluster.registry.nodes().iter().map(load).collect::<Vec<_>>().join(" ")
            }
            other => panic!("no such command: {other}"),
        };
        let _ = writeln!(said, "{line}");
    }

    fn change(&mut self, verb: &str, node: NodeId) {
        match verb {
            "join" => {
                self.session += 1;
                join_as(&mut self.cluster, node.0, self.session, ms(0));
                self.cluster.greet();
            }
            "part" => {
                let session = self.cluster.registry.get(node).and_then(|node| node.session).unwrap();
                self.cluster.registry.part(node, session, true, ms(0));
            }
            _ => self.cluster.registry.note_full(node, 0),
        }
    }

    fn restart(&mut self, trust: &str) {
        let trust = match trust {
            "whole" => Trust::Whole,
            "end" => Trust::MayLackItsEnd,
            _ => Trust::Nothing,
        };
        let members = self.cluster.registry.nodes().iter().map(|node| Event::Member(node.member.clone()));
        let mut state = logged(members);
        if trust != Trust::Nothing {
            let removed = self.removed.iter().copied().map(Event::Removed);
            let log = removed.chain(self.log.iter().cloned().map(Event::Commit));
            log.for_each(|event| drop(state.apply(&event)));
        }
        let leadership = self.cluster.leadership().unwrap();
        self.cluster = Cluster::new(self.cluster.tolerance(), state, trust);
        self.cluster.begin(Leadership { epoch: Epoch(leadership.epoch.0 + 1), ..leadership });
        self.writes.clear();
    }

    /// A write was admitted, or not; `sources` hold its version already.
    fn place(&mut self, text: &str, admitted: Result<Ticket, NotAdmitted>, sources: &[NodeId]) -> String {
        let ticket = match admitted {
            Ok(ticket) => ticket,
            Err(NotAdmitted::TooFewNodes { need, live }) => return format!("refuse {text}: {live} of {need} nodes"),
            Err(NotAdmitted::NotYet(reason)) => return format!("refuse {text}: {reason}"),
        };
        let mut tally = Tally::new(ticket.targets.len(), &ticket.targets);
        let line = format!("place {text} {} -> {}", ticket.record.version, names(&ticket.targets));
        let id = ticket.id.clone();
        for node in sources {
            tally.record(*node, Answer::Stored);
        }
        let reached = tally.verdict() == Verdict::Reached;
        self.writes.insert(id.clone(), (ticket, tally));
        if reached { format!("{line}\n{}", self.decide(&id, sources[0])) } else { line }
    }

    fn hedge(&mut self, id: &MessageId, late: NodeId) -> String {
        let (ticket, tally) = self.writes.get_mut(id).unwrap();
        let Some(next) = self.cluster.replace(ticket, late, true) else { return format!("no stand-in for {late}") };
        tally.ask(next);
        format!("stand-in {id} {} on {next}", ticket.record.version)
    }

    fn answer(&mut self, verb: &str, id: &MessageId, node: NodeId) -> String {
        let answer = match verb {
            "ack" => Answer::Stored,
            "lose" => Answer::Refused,
            _ => Answer::Silent,
        };
        self.writes.get_mut(id).unwrap().1.record(node, answer);
        self.decide(id, node)
    }

    /// What follows from the answers so far, as in `leader/write.rs`.
    fn decide(&mut self, id: &MessageId, answered: NodeId) -> String {
        let (mut ticket, mut tally) = self.writes.remove(id).unwrap();
        let version = ticket.record.version;
        match tally.verdict() {
            Verdict::Reached => {
                let commit = Commit { id: id.clone(), record: ticket.record, holders: tally.holders() };
                self.cluster.release(&ticket);
                self.cluster.apply(&Event::Commit(commit.clone()));
                let excess: Vec<NodeId> = tally.excess().collect();
                let drop = if excess.is_empty() { String::new() } else { format!(", drop on {}", names(&excess)) };
                let line = format!("commit {id} {version} on {}{drop}", names(&commit.holders));
                self.log.push(commit);
                return line;
            }
            Verdict::Waiting => {
                let line = format!("wait {id} {version} ({} so far)", tally.stored());
                self.writes.insert(id.clone(), (ticket, tally));
                return line;
            }
            Verdict::Short(_) => {}
        }
        match self.cluster.replace(&mut ticket, answered, false) {
            Some(next) => {
                tally.ask(next);
                self.writes.insert(id.clone(), (ticket, tally));
                format!("retry {id} {version} on {next}")
            }
            None => {
                self.cluster.release(&ticket);
                let how = if tally.surely_nowhere() { "it is surely nowhere" } else { "it may appear" };
                format!("fail {id} {version}: {how}")
            }
        }
    }

    /// An order that is logged at once, as no write of a script goes on by itself.
    fn remove(&mut self, node: NodeId) -> String {
        let begun = self.cluster.begin_removal(node, false).and_then(|_| self.cluster.end_removal(node, false));
        match begun {
            Ok(removed) => {
                self.cluster.apply(&Event::Removed(removed));
                self.removed.push(removed);
                format!("node {node} is removed")
            }
            Err(why) => format!("refuse: {why}"),
        }
    }

    fn inventory(&mut self, node: NodeId, words: &[&str]) -> String {
        let entry = |word: &&str| {
            let (text, version) = word.split_once('=').unwrap();
            let damaged = version.ends_with('!');
            let version = match version.trim_end_matches('!').split_once('.') {
                Some((epoch, sequence)) => Version::new(Epoch(epoch.parse().unwrap()), sequence.parse().unwrap()),
                None => Version::FOREIGN,
            };
            Listed {
                id: id(text),
                record: CopyRecord { version, length: 10, crc: 7, expires: None },
                staged: false,
                damaged,
            }
        };
        let entries: Vec<Listed> = words.iter().map(entry).collect();
        self.cluster.inventory_begins(node, 0);
        self.cluster.inventory_page(node, 0, &entries);
        let reported = self.cluster.inventory_ends(node, 0, entries.len() as u64).unwrap();
        let known = if self.cluster.settle_knowledge() { "; all is known" } else { "" };
        format!("node {node} misses {} of {}{known}", reported.missing, reported.expected)
    }

    fn complete(&mut self) -> String {
        let mut lines = Vec::new();
        for (id, newer) in self.cluster.uncommitted(None, 9).0 {
            let mut record = newer.record;
            let foreign = record.version == Version::FOREIGN;
            if foreign {
                record.version = self.cluster.next_version().unwrap();
            }
            let admitted = self.cluster.admit_completion(&id, record, &newer.holders, foreign);
            lines.push(self.place(&id.to_string(), admitted, &newer.holders));
        }
        if lines.is_empty() { "nothing to complete".to_owned() } else { lines.join("\n") }
    }

    fn get(&self, text: &str) -> String {
        match self.cluster.locate(&id(text), 0) {
            Located::Here { record, candidates, missed } => {
                let missed = if missed.is_empty() { String::new() } else { format!(", away: {}", names(&missed)) };
                format!("{text} is {} on {}{missed}", record.version, names(&candidates))
            }
            Located::NotFound => format!("{text} is not found"),
            Located::Hidden(reason) => format!("{text} is hidden: {reason}"),
        }
    }
}
