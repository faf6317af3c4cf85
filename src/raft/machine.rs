//! The caller's machine as the engine sees it.
//!
//! Entries are applied on the raft thread, some at a time, so that heartbeats go out in between. Snapshots are taken
//! in by threads of their own; they are made by [`build`], from what is on disk and in the log's memory, never under
//! the live machine.

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use openraft::alias;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};

use super::log::Log;
use super::snapshot::{self, Snapshot, Snapshots};
use super::types::{Boxed, Entry, EntryPayload, LogId, Membership, PeerId, StoredMembership, Types};
use super::{Fold, Machine};
use crate::durable::executor::Executor;
use crate::lock::Lock;
use crate::stop::Stop;

/// Entries that are applied before others on this thread have a turn.
const AT_ONCE: usize = 64;

/// A snapshot while it is made.
const MADE: &str = "snapshot.new";

type SnapshotMeta = alias::SnapshotMetaOf<Types>;
type EngineSnapshot = alias::SnapshotOf<Types, Arc<Snapshot>>;

/// A [`Machine`], whatever it answers.
pub(super) trait AnyMachine: Debug + Send + Sync {
    fn apply(&self, payload: &[u8]) -> Box<dyn Any + Send + Sync>;
    fn reset(&self);
    fn restore(&self, records: &mut dyn Iterator<Item = io::Result<Vec<u8>>>) -> io::Result<()>;
    fn fold(&self) -> Box<dyn Fold>;
}

impl<M: Machine> AnyMachine for M {
    fn apply(&self, payload: &[u8]) -> Box<dyn Any + Send + Sync> {
        Box::new(Machine::apply(self, payload))
    }

    fn reset(&self) {
        Machine::reset(self);
    }

    fn restore(&self, records: &mut dyn Iterator<Item = io::Result<Vec<u8>>>) -> io::Result<()> {
        Machine::restore(self, records)
    }

    fn fold(&self) -> Box<dyn Fold> {
        Machine::fold(self)
    }
}

/// How far the machine is.
#[derive(Debug, Clone, Default)]
pub(super) struct Applied {
    pub(super) last: Option<LogId>,
    pub(super) members: StoredMembership,
    /// Peers that were members once. Their numbers are not used again.
    pub(super) removed: BTreeSet<PeerId>,
}

impl Applied {
    /// What a snapshot says.
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let Snapshot { last, members, removed, .. } = snapshot;
        Self { last: Some(*last), members: members.clone(), removed: removed.clone() }
    }

    /// Takes up who the peers are from this place in the log on.
    pub(super) fn take_members(&mut self, at: LogId, members: Membership) {
        self.removed.extend(self.members.membership().nodes().map(|(peer, _)| *peer));
        // A build that knows nothing of numbers that were used may have given one again.
        self.removed.retain(|peer| members.get_node(peer).is_none());
        self.members = StoredMembership::new(Some(at), members);
    }
}

/// The machine with what belongs to it; clones are the same.
#[derive(Debug, Clone)]
pub(super) struct StateMachine {
    pub(super) machine: Arc<dyn AnyMachine>,
    pub(super) applied: Arc<Lock<Applied>>,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) executor: Executor,
    pub(super) stop: Stop,
}

/// Ends the process where a machine panics: the engine itself does not notice, and would go on to lead.
struct Needed<'a>(&'a Stop);

impl Drop for Needed<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("applying an entry of the leaders' log has failed; this is a bug: please report it with the lines above");
        }
    }
}

impl StateMachine {
    /// Takes a snapshot's state in place of what the machine has. Blocks for as long as the file is long.
    pub(super) fn take(&self, snapshot: &Snapshot) -> io::Result<()> {
        let _needed = Needed(&self.stop);
        self.machine.reset();
        let mut records = snapshot.records();
        self.machine.restore(&mut records)?;
        // A machine may stop early; a file that is not whole must not pass for that.
        records.try_for_each(|record| record.map(drop))?;
        *self.applied.lock() = Applied::of(snapshot);
        Ok(())
    }

    fn engine_snapshot(&self) -> Option<EngineSnapshot> {
        self.snapshots.current().map(|snapshot| EngineSnapshot { meta: meta(&snapshot), snapshot })
    }
}

pub(super) fn meta(snapshot: &Snapshot) -> SnapshotMeta {
    SnapshotMeta { last_log_id: Some(snapshot.last), last_membership: snapshot.members.clone() }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = Arc<Snapshot>;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let applied = self.applied.lock().clone();
        Ok((applied.last, applied.members))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + Send,
    {
        let mut count = 0;
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let needed = Needed(&self.stop);
            let answer = match &entry.payload {
                EntryPayload::Normal(payload) => Some(self.machine.apply(&payload.0)),
                EntryPayload::Blank | EntryPayload::Membership(_) => None,
            };
            drop(needed);
            {
                let mut applied = self.applied.lock();
                applied.last = Some(entry.log_id);
                if let EntryPayload::Membership(members) = entry.payload {
                    applied.take_members(entry.log_id, members);
                }
            }
            if let Some(responder) = responder {
                responder.send(Boxed(answer));
            }
            count += 1;
            if count % AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// What is to be built is there already: see [`build`].
    async fn try_create_snapshot_builder(&mut self, _: bool) -> Option<Self> {
        self.snapshots.current().map(|_| self.clone())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, _: &SnapshotMeta, snapshot: Arc<Snapshot>) -> io::Result<()> {
        let machine = self.clone();
        self.executor
            .run(move || {
                machine.snapshots.put(snapshot.clone())?;
                machine.take(&snapshot)
            })
            .await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<EngineSnapshot>> {
        Ok(self.engine_snapshot())
    }
}

impl RaftSnapshotBuilder<Types> for StateMachine {
    type SnapshotData = Arc<Snapshot>;

    async fn build_snapshot(&mut self) -> io::Result<EngineSnapshot> {
        self.engine_snapshot().ok_or_else(|| io::Error::other("there is no snapshot yet"))
    }
}

/// Has a fold take a snapshot, and the entries after it.
pub(super) fn replay<'a>(
    fold: &mut dyn Fold,
    snapshot: Option<&Snapshot>,
    entries: impl Iterator<Item = &'a Entry>,
) -> Result<(), String> {
    for record in snapshot.into_iter().flat_map(Snapshot::records) {
        fold.restore_record(&record.map_err(|error| error.to_string())?)?;
    }
    for entry in entries {
        if let EntryPayload::Normal(payload) = &entry.payload {
            fold.apply(&payload.0);
        }
    }
    Ok(())
}

/// Makes a snapshot of all that is applied, unless the newest has it: the last snapshot and the entries since, through
/// a [`Fold`]. Whether there is a new one. Blocks; an error leaves everything as it was.
pub(super) fn build(machine: &StateMachine, log: &Log) -> Result<bool, String> {
    let applied = machine.applied.lock().clone();
    let before = machine.snapshots.current();
    let Some(last) = applied.last.filter(|last| before.as_ref().is_none_or(|before| before.last < *last)) else {
        return Ok(false);
    };
    let from = before.as_ref().map_or(0, |before| before.last.index + 1);
    let entries = log.span(from, last.index).ok_or("the log has been cut meanwhile")?;
    let mut fold = machine.machine.fold();
    replay(&mut *fold, before.as_deref(), entries.iter())?;
    drop(entries);
    let folder = &*machine.snapshots.folder;
    let made = snapshot::write(folder, MADE, (last, &applied.members, &applied.removed), &mut fold.records());
    let made = made.map_err(|error| format!("writing a snapshot failed: {error}"))?;
    machine.snapshots.put(Arc::new(made)).map_err(|error| format!("naming a snapshot failed: {error}"))?;
    Ok(true)
}
