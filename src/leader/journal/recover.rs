//! What follows from the log at a start: the committed messages, the members, and how far all that can be believed.

use std::cell::RefCell;
use std::sync::Arc;

use super::{LOG_FILE, LONGEST, MAGIC, Record, rewrite};
use crate::cluster::knowledge::Trust;
use crate::cluster::state::{Event, State};
use crate::durable::Folder;
use crate::durable::record_log::{LogError, RecordLog, Torn, judge};
use crate::seeded::{self, Bug};
use crate::types::{Deadline, IoMode};

/// A log with more records than this and mostly outdated ones is rewritten at the start.
const COMPACT_FROM: u64 = 10_000;

/// What a log says.
#[derive(Debug)]
pub struct Recovered {
    /// The log, ready for more.
    pub log: RecordLog,
    /// What is true by it.
    pub state: State,
    /// The last leader found what was in the log before it to be old, and did not come to settle that.
    pub old: bool,
    /// How far all this can be believed.
    pub trust: Trust,
    /// A torn end that was cut off.
    pub torn: Option<Torn>,
    /// The register's time and the boot-time clock at one moment of this boot, in milliseconds.
    pub clock: Option<(u64, u64)>,
    /// Records read.
    pub records: u64,
}

/// How the last leader wrote into the file.
pub(in crate::leader) struct Writer {
    pub(super) boot_id: String,
    pub(super) io_mode: IoMode,
    /// How far it believed what was before, or all of it once it had noted that it is whole.
    pub(super) trust: Trust,
}

/// What is read along the way: what is true, and what the file says of itself.
pub(in crate::leader) struct Reading {
    pub(in crate::leader) state: State,
    pub(in crate::leader) old: bool,
    pub(in crate::leader) writer: Option<Writer>,
    pub(in crate::leader) closed: bool,
    /// Of the boot of the last writer.
    pub(in crate::leader) clock: Option<(u64, u64)>,
    pub(in crate::leader) records: u64,
}

impl Reading {
    pub(in crate::leader) fn new(seed: u64) -> Self {
        Self { state: State::new(seed), old: false, writer: None, closed: false, clock: None, records: 0 }
    }

    pub(in crate::leader) fn take(&mut self, record: Record) {
        self.records += 1;
        self.closed = matches!(record, Record::Closed);
        match record {
            Record::Event(event) => {
                if let Event::Time(unix_ms) = event
                    && seeded::active(Bug::TimeToLiveAnew)
                {
                    self.begin_anew(unix_ms);
                }
                drop(self.state.apply(&event));
            }
            Record::Began { leadership, run, boot_id, io_mode, trust } => {
                let hears_all = trust == Trust::Nothing;
                self.old |= hears_all && !self.state.mapping().is_empty();
                if self.power_cut_possible(&boot_id) {
                    self.clock = None;
                }
                self.writer = Some(Writer { boot_id, io_mode, trust });
                self.state.apply(&Event::Began { leadership, run, hears_all });
            }
            Record::Whole(version) => {
                self.old = false;
                if let Some(writer) = &mut self.writer {
                    writer.trust = Trust::Whole;
                }
                self.state.note_committed(version);
            }
            Record::Clock { .. } if seeded::active(Bug::ClockForgotten) => {}
            Record::Clock { unix_ms, since_boot_ms } => self.clock = Some((unix_ms, since_boot_ms)),
            Record::Closed => {}
        }
    }

    /// What a seeded bug does: no deadline comes nearer by what the log says of the time.
    fn begin_anew(&mut self, unix_ms: u64) {
        let passed = unix_ms.saturating_sub(self.state.time());
        if self.state.time() == 0 {
            return;
        }
        let all: Vec<Event> = self.state.snapshot().collect();
        for mut event in all {
            if let Event::Commit(commit) = &mut event
                && let Some(deadline) = commit.record.expires
            {
                commit.record.expires = Deadline::at(deadline.unix_ms() + passed);
                self.state.apply(&event);
            }
        }
    }

    /// How far the last leader believed the log, before a power cut is considered.
    pub(in crate::leader) fn believed(&self) -> Trust {
        self.writer.as_ref().map_or(Trust::Nothing, |writer| writer.trust)
    }

    /// Whether the last writes were left to the page cache of another boot.
    fn power_cut_possible(&self, boot_id: &str) -> bool {
        self.writer.as_ref().is_some_and(|last| last.boot_id != boot_id)
    }

    fn trust(&self, boot_id: &str) -> Trust {
        let left_to_cache = self.writer.as_ref().is_some_and(|last| last.io_mode == IoMode::Buffered);
        let may_lack = left_to_cache && !self.closed && self.power_cut_possible(boot_id);
        match self.believed() {
            Trust::Whole if may_lack && !seeded::active(Bug::BufferedLogBelieved) => Trust::MayLackItsEnd,
            believed => believed,
        }
    }
}

/// Opens the log in `folder`, making an empty one if there is none. Blocks.
pub fn open(folder: &Arc<dyn Folder>, boot_id: &str, seed: u64) -> Result<Recovered, LogError> {
    let reading = RefCell::new(Reading::new(seed));
    let mut visit = |_offset: u64, bytes: &[u8]| {
        reading.borrow_mut().take(Record::decode(bytes)?);
        Ok(())
    };
    let verdict = |damage: &_| judge(damage, reading.borrow().power_cut_possible(boot_id));
    let opened = RecordLog::open_with(folder.clone(), LOG_FILE, MAGIC, LONGEST, &mut visit, &verdict)?;
    let reading = reading.into_inner();
    let trust = reading.trust(boot_id);
    let clock = reading.clock.filter(|_| !reading.power_cut_possible(boot_id));
    let mut log = opened.log;
    if reading.records > COMPACT_FROM && reading.records > 2 * reading.state.events() {
        log.replace_with(rewrite::live_records(&reading, trust))?;
    }
    let Reading { state, old, records, .. } = reading;
    Ok(Recovered { log, state, old, trust, torn: opened.torn, clock, records })
}
