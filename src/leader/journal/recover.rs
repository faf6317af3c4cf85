//! What follows from the log at a start: the committed messages, the members, and how far all that can be believed.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Event, LOG_FILE, LONGEST, MAGIC, rewrite};
use crate::cluster::knowledge::Trust;
use crate::cluster::mapping::{Commit, Mapping};
use crate::cluster::transactions::Transactions;
use crate::durable::Folder;
use crate::durable::record_log::{LogError, RecordLog, Torn, judge};
use crate::seeded::{self, Bug};
use crate::types::{Epoch, IoMode, Member, NodeId, Reign, Removed};

/// A log with more records than this and mostly outdated ones is rewritten at the start.
const COMPACT_FROM: u64 = 10_000;

/// What a log says.
#[derive(Debug)]
pub struct Recovered {
    /// The log, ready for more.
    pub log: RecordLog,
    /// The committed messages.
    pub mapping: Mapping,
    /// The members, each as last told.
    pub members: Vec<Member>,
    /// Transactions without an end.
    pub transactions: Transactions,
    /// Members that are to be emptied.
    pub draining: BTreeSet<NodeId>,
    /// Those that are members no more.
    pub removed: BTreeSet<Removed>,
    /// On how many nodes a message was kept last, if the log says so.
    pub tolerance: Option<usize>,
    /// The last leader found what was in the log before it to be old, and did not come to settle that.
    pub old: bool,
    /// The last reign, if there ever was one.
    pub last: Option<Reign>,
    /// The leader process of every epoch that this log began, from the last one that had to hear every node.
    pub runs: BTreeMap<Epoch, u64>,
    /// How far all this can be believed.
    pub trust: Trust,
    /// A torn end that was cut off.
    pub torn: Option<Torn>,
    /// Records read.
    pub records: u64,
}

/// What is read along the way.
pub(super) struct Reading {
    pub(super) mapping: Mapping,
    pub(super) transactions: Transactions,
    pub(super) members: Vec<Member>,
    pub(super) draining: BTreeSet<NodeId>,
    pub(super) removed: BTreeSet<Removed>,
    pub(super) tolerance: Option<u8>,
    pub(super) old: bool,
    pub(super) last: Option<(Reign, String, IoMode)>,
    /// Every beginning, for [`Recovered::runs`] and a rewritten log.
    pub(super) began: BTreeMap<Epoch, Event>,
    /// Of the last reign, before a power cut is considered.
    pub(super) trust: Trust,
    pub(super) closed: bool,
    pub(super) records: u64,
}

impl Reading {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            mapping: Mapping::new(seed),
            transactions: Transactions::default(),
            members: Vec::new(),
            draining: BTreeSet::new(),
            removed: BTreeSet::new(),
            tolerance: None,
            old: false,
            last: None,
            began: BTreeMap::new(),
            trust: Trust::Nothing,
            closed: false,
            records: 0,
        }
    }

    /// About how many records say all that is still true.
    pub(super) fn live(&self) -> u64 {
        self.mapping.len() + self.mapping.tombstones() + (self.members.len() + self.removed.len()) as u64
    }

    pub(super) fn take(&mut self, event: Event) {
        self.records += 1;
        self.closed = matches!(event, Event::Closed);
        if let Event::Began { reign, trust, .. } = &event {
            if *trust == Trust::Nothing {
                // That leader heard everyone: who had the epochs before does not matter any more.
                self.began.clear();
                self.transactions.forget_undecided(None);
            }
            self.began.insert(reign.epoch, event.clone());
        }
        match event {
            Event::Began { reign, boot_id, io_mode, trust, .. } => {
                self.old |= trust == Trust::Nothing && !self.mapping.is_empty();
                self.last = Some((reign, boot_id, io_mode));
                self.trust = trust;
            }
            // One that joined in the moment in which it was removed stays removed.
            Event::Member(member) if self.removed.iter().any(|removed| removed.uuid == member.uuid) => {}
            Event::Member(member) => {
                self.members.retain(|known| known.id != member.id);
                self.members.push(member);
            }
            Event::Removed(removed) => {
                let is_it = |member: &Member| member.uuid == removed.uuid;
                if self.members.iter().any(is_it) {
                    self.draining.remove(&removed.id);
                }
                self.members.retain(|member| !is_it(member));
                self.removed.insert(removed);
            }
            Event::Commit(commit) => self.commit(&commit),
            Event::Commits(commits) => commits.iter().for_each(|commit| self.commit(commit)),
            Event::Prepared { name, writes } => self.transactions.prepare(name, writes),
            Event::Aborted { name } => self.transactions.abort(name),
            Event::Forgotten { id, version } => drop(self.mapping.forget(&id, version)),
            Event::Horizon(version) => self.mapping.raise_horizon(version),
            Event::Draining { node, on: true } => drop(self.draining.insert(node)),
            Event::Draining { node, on: false } => drop(self.draining.remove(&node)),
            Event::Whole(version) => {
                (self.trust, self.old) = (Trust::Whole, false);
                self.mapping.note_committed(version);
            }
            Event::Tolerance(tolerance) => self.tolerance = Some(tolerance),
            Event::Closed => {}
        }
    }

    fn commit(&mut self, commit: &Commit) {
        self.mapping.apply(commit);
        self.transactions.hear(commit);
    }

    /// Whether the last writes were left to the page cache of another boot.
    fn power_cut_possible(&self, boot_id: &str) -> bool {
        self.last.as_ref().is_some_and(|(_, last_boot, _)| last_boot != boot_id)
    }

    fn trust(&self, boot_id: &str) -> Trust {
        match &self.last {
            None => Trust::Nothing,
            Some(_) if seeded::active(Bug::BufferedLogBelieved) => self.trust,
            Some((_, _, IoMode::Buffered)) if !self.closed && self.power_cut_possible(boot_id) => match self.trust {
                Trust::Nothing => Trust::Nothing,
                Trust::Whole | Trust::MayLackItsEnd => Trust::MayLackItsEnd,
            },
            Some(_) => self.trust,
        }
    }
}

/// Opens the log in `folder`, making an empty one if there is none. Blocks.
pub fn open(folder: &Arc<dyn Folder>, boot_id: &str, seed: u64) -> Result<Recovered, LogError> {
    let reading = RefCell::new(Reading::new(seed));
    let mut visit = |_offset: u64, bytes: &[u8]| {
        reading.borrow_mut().take(Event::decode(bytes)?);
        Ok(())
    };
    let verdict = |damage: &_| judge(damage, reading.borrow().power_cut_possible(boot_id));
    let opened = RecordLog::open_with(folder.clone(), LOG_FILE, MAGIC, LONGEST, &mut visit, &verdict)?;
    let reading = reading.into_inner();
    let trust = reading.trust(boot_id);
    let last = reading.last.as_ref().map(|(reign, _, _)| *reign);
    let run = |(epoch, began): (&Epoch, &Event)| match began {
        Event::Began { run, .. } => Some((*epoch, *run)),
        _ => None,
    };
    let runs = reading.began.iter().filter_map(run).collect();
    let mut log = opened.log;
    if reading.records > COMPACT_FROM && reading.records > 2 * reading.live() {
        log.replace_with(rewrite::live_records(&reading, trust))?;
    }
    let Reading { mapping, transactions, members, draining, removed, tolerance, old, records, .. } = reading;
    let tolerance = tolerance.map(usize::from);
    let torn = opened.torn;
    Ok(Recovered {
        log,
        mapping,
        transactions,
        members,
        draining,
        removed,
        tolerance,
        old,
        last,
        runs,
        trust,
        torn,
        records,
    })
}
