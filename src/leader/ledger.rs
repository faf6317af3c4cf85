//! The one way by which something becomes true: it is appended to the log, and then applied to what the leader knows.
//!
//! Nobody else appends, and nobody else applies. What has to happen under the lock under which events are applied
//! (promises are released, nodes chosen that are told) goes along as the *effect* of the append.

mod agreed;
mod alone;
mod entry;
mod import;
mod leave;
mod replica;
mod seen_time;

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

pub use self::agreed::Agreed;
pub use self::alone::recover_alone;
pub(super) use self::import::import;
pub use self::import::{IMPORTED, is_to_import};
pub use self::leave::leave_group;
pub use self::replica::{Begins, Replica, Verdict};
use super::journal::{Journal, NotLogged, Record, encode_event};
use super::known::Known;
use crate::cluster::Cluster;
use crate::cluster::knowledge::Trust;
use crate::cluster::state::{Applied, Event};
use crate::lock::Lock;
use crate::raft::Group;
use crate::types::{IoMode, Leadership, Version};

/// Events that the log has, and that are to be applied now: whoever is handed them does that, once.
#[must_use = "what the log has is true, and has to be applied"]
#[derive(Debug)]
pub struct Logged<'a>(&'a [Event]);

impl<'a> Logged<'a> {
    /// What they are.
    pub fn events(&self) -> &'a [Event] {
        self.0
    }

    /// Makes them true; gives what each did.
    pub fn apply(self, cluster: &mut Cluster) -> Vec<Applied> {
        self.0.iter().map(|event| cluster.apply(event)).collect()
    }
}

/// What happens when events become true, under the same lock. It goes to the ledger with them.
pub trait Effect: Send + 'static {
    /// What it gives.
    type Output: Send + 'static;

    /// The log has these events, and the lock is not taken yet: for what takes its time.
    fn ahead(&self, _events: &[Event]) {}

    /// Applies them, and does what is to be done with it.
    fn apply(self, cluster: &mut Cluster, logged: Logged<'_>) -> Self::Output;
}

/// Events become true, and that is all.
struct Plainly;

impl Effect for Plainly {
    type Output = Vec<Applied>;

    fn apply(self, cluster: &mut Cluster, logged: Logged<'_>) -> Vec<Applied> {
        logged.apply(cluster)
    }
}

/// The log, and what follows from it.
#[derive(Debug)]
pub struct Ledger {
    known: Arc<Known>,
    log: Log,
    /// Ends of intents that the log has not been told: they go with whatever is appended next.
    ends: Arc<Lock<Ends>>,
}

/// How intents have ended.
#[derive(Debug, Default)]
struct Ends {
    concluded: Vec<Version>,
    dropped: Vec<Version>,
}

impl Ends {
    /// As events, for the log.
    fn events(self) -> SmallVec<[Event; 2]> {
        let concluded = Some(self.concluded).filter(|versions| !versions.is_empty()).map(Event::Concluded);
        let dropped = Some(self.dropped).filter(|versions| !versions.is_empty()).map(Event::Dropped);
        concluded.into_iter().chain(dropped).collect()
    }

    /// The log may not have them: they are told once more.
    fn put_back(&mut self, events: SmallVec<[Event; 2]>) {
        for event in events {
            match event {
                Event::Concluded(versions) => self.concluded.extend(versions),
                Event::Dropped(versions) => self.dropped.extend(versions),
                _ => {}
            }
        }
    }
}

/// Where the log is.
#[derive(Debug)]
pub enum Log {
    /// In a file of this leader, the only one.
    File {
        /// The way to it.
        journal: Journal,
        /// This boot of the machine.
        boot_id: String,
        /// Whether every batch is synced.
        io_mode: IoMode,
    },
    /// On most of several leaders.
    Group(Agreed),
}

impl Ledger {
    /// Of this log, by which this is known.
    pub fn new(known: Arc<Known>, log: Log) -> Self {
        let ends = match &log {
            Log::File { .. } => Arc::default(),
            Log::Group(agreed) => agreed.ends(),
        };
        Self { known, log, ends }
    }

    /// Whether several leaders agree on the log.
    pub fn is_of_group(&self) -> bool {
        matches!(self.log, Log::Group(_))
    }

    /// The group that the log is agreed on with, if there are several leaders.
    pub fn group(&self) -> Option<&Group<Replica>> {
        match &self.log {
            Log::File { .. } => None,
            Log::Group(agreed) => Some(agreed.group()),
        }
    }

    /// Why nothing can be logged, where that is known before anything is sent to nodes: a write that is refused then has
    /// surely not happened.
    pub fn refuses(&self) -> Option<&'static str> {
        match &self.log {
            Log::File { journal, .. } => journal.refuses(),
            Log::Group(agreed) => agreed.refuses(),
        }
    }

    /// For how long the disk under the log has not answered, if that is far too long.
    pub fn late(&self) -> Option<Duration> {
        match &self.log {
            Log::File { journal, .. } => journal.late(),
            // One that hangs does not lead for long.
            Log::Group(_) => None,
        }
    }

    /// Makes events true: first in the log, then in what the leader knows. Gives what each did.
    ///
    /// # Errors
    /// The log did not take them, or may not have.
    pub async fn append(&self, events: &[Event]) -> Result<Vec<Applied>, NotLogged> {
        self.append_with(events, Plainly).await.map_err(|(error, _)| error)
    }

    /// Makes events true with this effect.
    ///
    /// # Errors
    /// The log did not take them, or may not have. The effect is given back.
    pub async fn append_with<E: Effect>(&self, events: &[Event], effect: E) -> Result<E::Output, (NotLogged, E)> {
        let ends = std::mem::take(&mut *self.ends.lock()).events();
        let done = match &self.log {
            Log::File { journal, .. } => match journal.append(ends.iter().chain(events)).await {
                Ok(()) => {
                    effect.ahead(events);
                    Ok(effect.apply(&mut self.known.lock(), Logged(events)))
                }
                Err(error) => Err((error, effect)),
            },
            Log::Group(agreed) => agreed.append(ends.iter().chain(events), encode_event, effect).await,
        };
        if done.is_err() {
            self.ends.lock().put_back(ends);
        }
        done
    }

    /// Whether a write's intent can be in the log before its copies are made, so that what becomes of it depends on them
    /// alone. One that is left to the page cache could be lost with its machine, and the copies of a node with the node's.
    pub fn takes_intents(&self) -> bool {
        matches!(self.log, Log::Group(_) | Log::File { io_mode: IoMode::Unbuffered, .. })
    }

    /// Makes these commits true, whose intents the log has and whose nodes have stored them. The log hears of it later.
    ///
    /// # Errors
    /// Another epoch has begun here, which decides what becomes of them. The effect is given back.
    pub fn conclude<E: Effect>(&self, commits: &[Event], effect: E) -> Result<E::Output, E> {
        effect.ahead(commits);
        let mut cluster = self.known.lock();
        if !self.leads(&cluster) {
            return Err(effect);
        }
        let done = effect.apply(&mut cluster, Logged(commits));
        // Under the lock: the group must not have it true here before it is.
        let versions = commits.iter().flat_map(Event::commits).map(|commit| commit.record.version);
        self.ends.lock().concluded.extend(versions);
        Ok(done)
    }

    /// Nothing follows from the intents of these versions, which the log has. It hears of it later.
    pub fn drop_intents(&self, versions: Vec<Version>) {
        let mut cluster = self.known.lock();
        if self.leads(&cluster) {
            self.ends.lock().dropped.extend(&versions);
            cluster.apply(&Event::Dropped(versions));
        }
    }

    /// Whether the last epoch that is true here is this leader's.
    fn leads(&self, cluster: &Cluster) -> bool {
        match &self.log {
            Log::File { .. } => true,
            Log::Group(agreed) => cluster.state().last().is_some_and(|last| last.epoch == agreed.epoch()),
        }
    }

    /// Tells the log how intents have ended, as far as it does not know.
    ///
    /// # Errors
    /// The log did not take it, or may not have.
    pub async fn tell_ends(&self) -> Result<(), NotLogged> {
        let told = {
            let ends = self.ends.lock();
            ends.concluded.is_empty() && ends.dropped.is_empty()
        };
        if told { Ok(()) } else { self.append(&[]).await.map(drop) }
    }

    /// A leader process begins to lead.
    ///
    /// # Errors
    /// The log did not take it, or may not have.
    pub async fn begin(&self, leadership: Leadership, run: u64) -> Result<(), NotLogged> {
        let trust = self.known.lock().trust();
        let (journal, boot_id, io_mode) = match &self.log {
            Log::File { journal, boot_id, io_mode } => (journal, boot_id.clone(), *io_mode),
            Log::Group(agreed) => return agreed.begin(leadership, run, trust).await,
        };
        journal.append_records(&[Record::Began { leadership, run, boot_id, io_mode, trust }]).await?;
        self.known.lock().apply(&Event::Began { leadership, run, hears_all: trust == Trust::Nothing });
        Ok(())
    }

    /// The log holds everything, up to this version at least.
    ///
    /// # Errors
    /// The log did not take it, or may not have.
    pub async fn note_whole(&self, newest: Version) -> Result<(), NotLogged> {
        let whole = [Record::Whole(newest)];
        match &self.log {
            Log::File { journal, .. } => journal.append_records(&whole).await,
            Log::Group(agreed) => agreed.note(&whole).await,
        }
    }

    /// The register's time has come so far, and this is what the boot-time clock shows, both in milliseconds.
    ///
    /// # Errors
    /// The log did not take it, or may not have.
    pub async fn note_time(&self, unix_ms: u64, since_boot_ms: u64) -> Result<(), NotLogged> {
        let time = Event::Time(unix_ms);
        let clock = Record::Clock { unix_ms, since_boot_ms };
        let Log::File { journal, .. } = &self.log else {
            // Another peer has another machine's clock.
            return self.append(&[time]).await.map(drop);
        };
        journal.append_records(&[Record::Event(time.clone()), clock]).await?;
        self.known.lock().apply(&time);
        Ok(())
    }

    /// The leader ends in order.
    ///
    /// # Errors
    /// The log did not take it, or may not have.
    pub async fn close(&self) -> Result<(), NotLogged> {
        self.tell_ends().await?;
        match &self.log {
            Log::File { journal, .. } => journal.append_records(&[Record::Closed]).await,
            Log::Group(_) => Ok(()),
        }
    }
}
