//! What is true, as one of several leader processes keeps it: a standby applies what the group has agreed on as it comes,
//! and a peer that is elected leads with what it has applied.
//!
//! While this peer leads, [`Known`] is shared with everything that serves. When it begins to lead it gets a new one, which
//! takes the state along; whatever is left of an earlier time as the leader keeps the old one, which says nothing any more.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::oneshot;

use super::entry::{Author, Entry};
use super::seen_time::SeenTime;
use super::{Effect, Ends, Logged};
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::cluster::knowledge::Trust;
use crate::cluster::state::{Event, State};
use crate::config::DEFAULT_TOLERANCE;
use crate::durable::Folder;
use crate::durable::executor::Executor;
use crate::leader::journal::{Reading, Record, live_records};
use crate::leader::known::Known;
use crate::leader::register_time::Then;
use crate::lock::Lock;
use crate::raft::{Fold, Machine};
use crate::stop::Stop;
use crate::types::{Epoch, Leadership};

/// What became of an entry that the group has agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is true.
    Applied,
    /// Its epoch is over: it never becomes true.
    Void,
}

/// What a leader begins with.
#[derive(Debug)]
pub struct Begins {
    /// What is true.
    pub state: State,
    /// How far that can be believed.
    pub trust: Trust,
    /// It was found to be old, and that is not settled.
    pub old: bool,
}

/// One peer's copy.
pub struct Replica {
    /// Keeps others from choosing ids that collide in the index.
    seed: u64,
    /// This process; random.
    run: u64,
    time: Arc<SeenTime>,
    stop: Stop,
    held: Lock<Held>,
    /// Effects of what this process has appended and is not agreed on yet.
    expected: Lock<HashMap<u64, Arc<dyn Waiting>>>,
    /// Ends of intents that are true here, and that the group has not been told: whenever this peer leads again, it is.
    ends: Arc<Lock<Ends>>,
    numbers: AtomicU64,
}

#[derive(Debug)]
struct Held {
    known: Arc<Known>,
    trust: Trust,
    old: bool,
}

impl Held {
    fn of(begins: Begins) -> Self {
        let Begins { state, trust, old } = begins;
        // Who does not lead places nothing: its tolerance does not matter.
        Self { known: Arc::new(Known::new(Cluster::new(DEFAULT_TOLERANCE, state, trust))), trust, old }
    }

    fn nothing(seed: u64) -> Self {
        Self::of(Begins { state: State::new(seed), trust: Trust::Nothing, old: false })
    }
}

impl Replica {
    /// Of a peer that knows nothing yet, on a machine with this clock. `stop` is the process's: an entry that cannot be read
    /// ends it.
    pub fn new(chance: &mut fastrand::Rng, clock: Arc<dyn Clock>, stop: Stop) -> Self {
        let seed = chance.u64(..);
        Self {
            seed,
            run: chance.u64(1..),
            time: Arc::new(SeenTime::new(clock)),
            stop,
            held: Lock::new(Held::nothing(seed)),
            expected: Lock::default(),
            ends: Arc::default(),
            numbers: AtomicU64::new(0),
        }
    }

    /// This peer begins to lead with what is true, which `known` takes.
    pub fn lead(&self, known: impl FnOnce(Begins) -> Arc<Known>) -> Arc<Known> {
        let left = std::mem::take(&mut *self.expected.lock());
        // Outside of all locks, as promises are released by it.
        drop(left);
        let mut held = self.held.lock();
        let state = held.known.lock().give_state(State::new(self.seed));
        held.known = known(Begins { state, trust: held.trust, old: held.old });
        held.known.clone()
    }

    /// What this peer has seen of the register's time.
    pub(in crate::leader) fn time(&self) -> Option<Then> {
        self.time.last()
    }

    /// Goes on from what an earlier process in the same boot of the machine has seen of the register's time, and keeps it for
    /// the next one, in this folder.
    pub async fn keep_time(&self, folder: Arc<dyn Folder>, boot: String, executor: Executor, stop: &Stop) {
        let (time, of, name) = (self.time.clone(), folder.clone(), boot.clone());
        executor.run(move || time.recall(&*of, &name)).await;
        let keep = self.time.clone().keep(folder, boot, executor, stop.clone());
        tokio::spawn(stop.needed("keeper of the time", keep));
    }

    /// An empty state beside the live one.
    pub(super) fn folded(&self) -> Folded {
        Folded(Reading::new(self.seed))
    }

    /// Ends of intents that the group has not been told.
    pub(super) fn ends(&self) -> Arc<Lock<Ends>> {
        self.ends.clone()
    }

    /// The process.
    pub(super) fn run(&self) -> u64 {
        self.run
    }

    /// The cluster's last epoch, if there was one, and how many messages there are.
    pub fn summary(&self) -> (Option<Epoch>, u64) {
        let known = self.held.lock().known.clone();
        let cluster = known.lock();
        (cluster.state().last().map(|last| last.epoch), cluster.len())
    }

    /// What a seeded bug does: begins an epoch here, before anybody has agreed on it.
    pub(super) fn begin_alone(&self, leadership: Leadership, run: u64) -> Author {
        let known = self.held.lock().known.clone();
        known.lock().apply(&Event::Began { leadership, run, hears_all: false });
        Author { epoch: leadership.epoch, run: self.run, number: self.numbers.fetch_add(1, Ordering::Relaxed) }
    }

    /// Has this happen when these events, which are about to be appended in the name of this epoch, become true.
    pub(super) fn expect<E: Effect>(&self, epoch: Epoch, effect: E) -> Expected<E> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (tell, output) = oneshot::channel();
        let slot = Arc::new(Slot { effect: Lock::new(Some(effect)), tell: Lock::new(Some(tell)) });
        self.expected.lock().insert(number, slot.clone());
        Expected { author: Author { epoch, run: self.run, number }, slot, output }
    }

    fn decide(&self, entry: &Entry, waiting: Option<&dyn Waiting>) -> Verdict {
        let mut held = self.held.lock();
        let (ends, events) = entry.parts();
        if let Some(waiting) = waiting {
            waiting.ahead(events);
        }
        let known = held.known.clone();
        let mut cluster = known.lock();
        if !entry.is_admitted(cluster.state()) {
            return Verdict::Void;
        }
        for event in &entry.events {
            if let Event::Time(unix_ms) = event {
                self.time.see(*unix_ms);
            }
        }
        drop(Logged(ends).apply(&mut cluster));
        match waiting {
            Some(waiting) => waiting.apply(&mut cluster, Logged(events)),
            None => drop(Logged(events).apply(&mut cluster)),
        }
        for mark in &entry.marks {
            match mark {
                Record::Began { leadership, run, trust, .. } => {
                    let hears_all = *trust == Trust::Nothing;
                    held.old |= hears_all && !cluster.mapping().is_empty();
                    held.trust = *trust;
                    cluster.apply(&Event::Began { leadership: *leadership, run: *run, hears_all });
                }
                Record::Whole(newest) => {
                    (held.old, held.trust) = (false, Trust::Whole);
                    cluster.hear_whole(*newest);
                }
                Record::Event(_) | Record::Clock { .. } | Record::Closed => {}
            }
        }
        Verdict::Applied
    }
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("run", &self.run).finish_non_exhaustive()
    }
}

impl Machine for Replica {
    type Answer = Verdict;

    fn apply(&self, payload: &[u8]) -> Verdict {
        let entry = match Entry::decode(payload) {
            Ok(entry) => entry,
            Err(why) => {
                self.stop.fail(format!("the log of the group of leaders has an entry that cannot be read: {why}"));
                return Verdict::Void;
            }
        };
        let is_own = entry.author.run == self.run;
        let waiting = is_own.then(|| self.expected.lock().remove(&entry.author.number)).flatten();
        let verdict = self.decide(&entry, waiting.as_deref());
        if let (Verdict::Void, Some(waiting)) = (verdict, waiting) {
            waiting.give_back();
        }
        verdict
    }

    fn reset(&self) {
        *self.held.lock() = Held::nothing(self.seed);
    }

    fn restore(&self, records: &mut dyn Iterator<Item = std::io::Result<Vec<u8>>>) -> std::io::Result<()> {
        let mut reading = Reading::new(self.seed);
        for record in records {
            take(&mut reading, &record?).map_err(|why| std::io::Error::new(std::io::ErrorKind::InvalidData, why))?;
        }
        let (trust, old) = (reading.believed(), reading.old);
        *self.held.lock() = Held::of(Begins { state: reading.state, trust, old });
        Ok(())
    }

    fn fold(&self) -> Box<dyn Fold> {
        Box::new(self.folded())
    }
}

fn take(reading: &mut Reading, record: &[u8]) -> Result<(), String> {
    reading.take(Record::decode(record)?);
    Ok(())
}

/// The state that a snapshot is made of.
pub(super) struct Folded(pub(super) Reading);

impl Fold for Folded {
    fn restore_record(&mut self, record: &[u8]) -> Result<(), String> {
        take(&mut self.0, record)
    }

    /// One that cannot be read has ended this process, when it was applied.
    fn apply(&mut self, payload: &[u8]) {
        if let Ok(entry) = Entry::decode(payload)
            && entry.is_admitted(&self.0.state)
        {
            let events = entry.events.into_iter().map(Record::Event);
            events.chain(entry.marks).for_each(|record| self.0.take(record));
        }
    }

    fn records(&mut self) -> Box<dyn Iterator<Item = Vec<u8>> + '_> {
        Box::new(live_records(&self.0, self.0.believed()))
    }
}

/// An effect that waits for its events to be agreed on.
trait Waiting: Send + Sync {
    fn ahead(&self, events: &[Event]);
    fn apply(&self, cluster: &mut Cluster, logged: Logged<'_>);
    /// They never become true.
    fn give_back(&self);
}

/// An effect until its events are applied, and where its output goes.
struct Slot<E: Effect> {
    effect: Lock<Option<E>>,
    tell: Lock<Option<oneshot::Sender<E::Output>>>,
}

impl<E: Effect> Waiting for Slot<E> {
    fn ahead(&self, events: &[Event]) {
        if let Some(effect) = &*self.effect.lock() {
            effect.ahead(events);
        }
    }

    fn apply(&self, cluster: &mut Cluster, logged: Logged<'_>) {
        let effect = self.effect.lock().take();
        match (effect, self.tell.lock().take()) {
            (Some(effect), Some(tell)) => {
                // Who appended may have gone away.
                let _ = tell.send(effect.apply(cluster, logged));
            }
            _ => drop(logged.apply(cluster)),
        }
    }

    fn give_back(&self) {
        drop(self.tell.lock().take());
    }
}

/// The end of whoever appended.
pub(super) struct Expected<E: Effect> {
    pub(super) author: Author,
    slot: Arc<Slot<E>>,
    output: oneshot::Receiver<E::Output>,
}

impl<E: Effect> Expected<E> {
    /// The group says what became of its entry. The effect comes back if it did not happen.
    pub(super) fn decided(mut self) -> Result<E::Output, E> {
        self.output.try_recv().map_err(|_| self.take_back())
    }

    /// Nobody waits for the group any more: the effect comes back, unless it happens just now.
    pub(super) async fn give_up(mut self, replica: &Replica) -> Result<E::Output, E> {
        let waited = replica.expected.lock().remove(&self.author.number).is_some();
        if waited {
            return Err(self.take_back());
        }
        (&mut self.output).await.map_err(|_| self.take_back())
    }

    fn take_back(&self) -> E {
        // Who takes it gives the output instead.
        self.slot.effect.lock().take().unwrap_or_else(|| unreachable!())
    }
}
