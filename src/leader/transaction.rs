//! Reading and writing several messages at one instant: what counters, appends, renames and MULTI are made of.
//!
//! The locks of all ids are taken in the order of their bytes, so that no two transactions wait for each other; what
//! is to be known is read, `decide` says what to write, and that is made true in one record of the log. What writes
//! one message goes the way of a SET, in a round with others. What writes more is prepared in the log before any copy
//! is sent, so that a leader that comes after knows what must not become true by halves (`cluster::transactions`).
//! Once it is admitted, a transaction runs to its decision even if its client has gone.

mod entries;

use std::collections::BTreeMap;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use smallvec::smallvec;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use self::entries::Known;
pub use self::entries::{Need, Transaction};
use super::coordinator::{Changes, Coordinator, OUTCOME, REQUEST_COST};
use super::jobs::{Decision, Job};
use super::key_locks::{Entry, KeyGuard};
use super::set::{Turn, not_in_time};
use super::write::{Asker, Askers, Outcome, Promise, Write};
use crate::cluster::state::Event;
use crate::cluster::{Located, NotAdmitted, Ticket};
use crate::error::Refusal;
use crate::protocol::Reply;
use crate::types::{Change, CopyRecord, MessageId, Version};

/// Ids of one transaction, and their bytes; more are refused as BAD_COMMAND. As much as one record of the log holds.
pub const MOST_IDS: usize = 65_536;
pub const MOST_ID_BYTES: usize = 16 << 20;

/// Bytes that one transaction reads, and that it writes; more are refused as BAD_COMMAND.
pub const MOST_BYTES: usize = 64 << 20;

/// A transaction that has locks waits so long for the next one, far longer than a write takes that does not hang: whoever
/// else wants those is not to wait for one that does. Then it lets them go, waits for that one alone, and begins anew,
/// with twice the patience, so that it comes to an end where all ids are busy.
const HOLDING: Duration = Duration::from_millis(500);

/// A transaction that has not got all locks by then is refused: shorter than its client waits for an outcome.
const ENTERING: Duration = Duration::from_secs(30);
/// Ids that are looked up under one lock, where they need not be at one instant.
pub(super) const LOOKED_AT: usize = 1024;

/// A write of a transaction: its id, what it does to that, and the right to write it.
type Wanted = (MessageId, Change, KeyGuard);

/// A transaction after its decision, and what its client is told; or why none was come to: then nothing is written.
pub type Decided<R> = Result<(Transaction, R), Refusal>;

/// A decision that is come to at once.
fn at_once<R>(decide: impl FnOnce(&mut Transaction) -> R) -> impl FnOnce(Transaction) -> Ready<Decided<R>> {
    move |mut transaction| {
        let told = decide(&mut transaction);
        ready(Ok((transaction, told)))
    }
}

impl Coordinator {
    /// Reads and writes the messages of `ids` at one instant. `decide` gets what was asked for, and says what is to be
    /// written; it becomes true all at once or, if this is an error that says so, not at all. Without writes it is a
    /// read of one instant.
    pub async fn transact<R, F>(
        self: &Arc<Self>,
        ids: impl IntoIterator<Item = (MessageId, Need)>,
        decide: F,
    ) -> Result<R, Refusal>
    where
        R: Send + 'static,
        F: FnOnce(&mut Transaction) -> R + Send + 'static,
    {
        self.transact_with(ids, at_once(decide), true).await
    }

    /// As [`Coordinator::transact`], where `decide` may take its time: the locks of all ids are held meanwhile, and nothing
    /// else. It gives the transaction back; what of it is lost was not decided.
    pub async fn transact_apart<R, F, D>(
        self: &Arc<Self>,
        ids: impl IntoIterator<Item = (MessageId, Need)>,
        decide: F,
    ) -> Result<R, Refusal>
    where
        R: Send + 'static,
        F: FnOnce(Transaction) -> D + Send + 'static,
        D: Future<Output = Decided<R>> + Send + 'static,
    {
        self.transact_with(ids, decide, false).await
    }

    /// One that `joins` is answered together with others who want something of the same id: so it must not take long.
    async fn transact_with<R, F, D>(
        self: &Arc<Self>,
        ids: impl IntoIterator<Item = (MessageId, Need)>,
        decide: F,
        joins: bool,
    ) -> Result<R, Refusal>
    where
        R: Send + 'static,
        F: FnOnce(Transaction) -> D + Send + 'static,
        D: Future<Output = Decided<R>> + Send + 'static,
    {
        let mut needs: BTreeMap<MessageId, Need> = BTreeMap::new();
        for (id, need) in ids {
            let before = needs.entry(id).or_insert(need);
            *before = need.max(*before);
        }
        check_ids(needs.keys())?;
        let began = Instant::now();
        let done = match needs.first_key_value() {
            Some((id, &need)) if joins && needs.len() == 1 => self.decide_on(id.clone(), need, decide).await,
            _ => {
                let (leader, (tell, told)) = (self.clone(), oneshot::channel());
                // One that has gone does not hear it.
                self.tasks.spawn(async move { tell.send(leader.run(needs, None, decide).await) });
                outcome(began, told).await
            }
        };
        let (told, writes) = match done {
            Ok(done) => done,
            Err(refusal) => {
                self.meters.sets.error(1);
                return Err(refusal);
            }
        };
        self.served.store(true, Ordering::Relaxed);
        if writes > 0 {
            self.meters.sets.record(began.elapsed(), writes);
        }
        Ok(told)
    }

    /// Reads and writes the message of one id, together with others who want something of it; gives how many writes that was.
    pub(super) async fn decide<R, F>(
        self: &Arc<Self>,
        id: MessageId,
        need: Need,
        decide: F,
    ) -> Result<(R, u64), Refusal>
    where
        R: Send + 'static,
        F: FnOnce(&mut Transaction) -> R + Send + 'static,
    {
        self.decide_on(id, need, at_once(decide)).await
    }

    async fn decide_on<R, F, D>(self: &Arc<Self>, id: MessageId, need: Need, decide: F) -> Result<(R, u64), Refusal>
    where
        R: Send + 'static,
        F: FnOnce(Transaction) -> D + Send + 'static,
        D: Future<Output = Decided<R>> + Send + 'static,
    {
        let (began, (tell, told)) = (Instant::now(), oneshot::channel());
        let decision = Decision { need, decide: Some(decide), decided: None, told: tell };
        self.take_job(id, Job::Decide(Box::new(decision)));
        outcome(began, told).await
    }

    /// Reads, decides and writes; `passes` are those of all ids, if they are held already. Gives how many ids were written.
    pub(super) async fn run<R, D: Future<Output = Decided<R>> + Send>(
        self: &Arc<Self>,
        needs: BTreeMap<MessageId, Need>,
        guards: Option<Vec<KeyGuard>>,
        decide: impl FnOnce(Transaction) -> D + Send,
    ) -> Result<(R, u64), Refusal> {
        // Whatever it does depends on what has ended.
        self.know_time().await?;
        let bytes = needs.len() * REQUEST_COST;
        let Some(_room) = self.room(bytes) else { return Err(self.too_much(bytes)) };
        let (guards, mut entries) = self.begin(needs, guards).await?;
        let (now, ended) = self.delete_due(&mut entries);
        let _read = self.read_messages(&mut entries).await?;
        let (transaction, told) = decide(Transaction::new(entries, now)).await?;
        let writes = transaction.into_writes().zip(guards);
        let writes: Vec<Wanted> =
            writes.filter_map(|((id, change), guard)| change.map(|change| (id, change, guard))).collect();
        let bytes = writes.iter().map(|(_, change, _)| change.bytes()).sum();
        if bytes > MOST_BYTES {
            return Err(Refusal::BadCommand(format!(
                "it writes {bytes} bytes, and at most {MOST_BYTES} are written at once; nothing was written"
            )));
        }
        let Some(_written) = self.room(bytes) else { return Err(self.too_much(bytes)) };
        let count = writes.len() as u64;
        if count == 0 {
            self.vouch().await?;
        }
        self.write_together(writes).await?;
        self.meters.expired.fetch_add(ended, Ordering::Relaxed);
        Ok((told, count))
    }

    /// Has the messages whose deadline has come deleted with whatever else is written; gives the time, which is one for all
    /// of them, and how many they are.
    fn delete_due(&self, entries: &mut BTreeMap<MessageId, Known>) -> (u64, u64) {
        let expires = |known: &Known| known.record.and_then(|record| record.expires);
        let depends = entries.values().any(|known| expires(known).is_some());
        let now = if depends { self.time.now() } else { self.time.peek() };
        let mut ended = 0;
        for known in entries.values_mut() {
            if expires(known).is_some_and(|deadline| deadline.unix_ms() <= now) {
                (known.record, known.written) = (None, Some(Change::Delete));
                ended += 1;
            }
        }
        (now, ended)
    }

    /// Takes the locks of all ids, and looks them up. What is being completed needs the lock of its id for that, so
    /// that it is waited for without any.
    async fn begin(
        self: &Arc<Self>,
        needs: BTreeMap<MessageId, Need>,
        mut held: Option<Vec<KeyGuard>>,
    ) -> Result<(Vec<KeyGuard>, BTreeMap<MessageId, Known>), Refusal> {
        let began = Instant::now();
        loop {
            let guards = match held.take() {
                Some(guards) => guards,
                None => self.guards(needs.keys()).await?,
            };
            let changes = self.changes();
            let reason = match self.look_up(&needs).await {
                Ok(entries) => return Ok((guards, entries)),
                Err(reason) => reason,
            };
            drop(guards);
            self.wait(changes, self.patient_until(began), reason).await?;
        }
    }

    /// Takes the locks of all ids, in their order.
    async fn guards<'a>(
        &self,
        ids: impl ExactSizeIterator<Item = &'a MessageId> + Clone,
    ) -> Result<Vec<KeyGuard>, Refusal> {
        let (until, mut holding) = (Instant::now() + ENTERING, HOLDING);
        let mut guards = Vec::with_capacity(ids.len());
        'anew: loop {
            for id in ids.clone() {
                let mut turn = match self.key_locks.enter(id) {
                    Entry::Entered(guard) => {
                        guards.push(guard);
                        continue;
                    }
                    Entry::Wait(turn) => turn,
                };
                let lost = |_| Refusal::Busy("the writer before was lost");
                if !guards.is_empty() {
                    if let Ok(guard) = timeout(holding, &mut turn).await {
                        guards.push(guard.map_err(lost)?);
                        continue;
                    }
                    guards.clear();
                    holding *= 2;
                }
                let Ok(guard) = timeout_at(until, turn).await else {
                    let why = format!("a write of {id:?} does not end; nothing was written, try again");
                    return Err(Refusal::Unavailable(why));
                };
                let guard = guard.map_err(lost)?;
                if ids.clone().next() != Some(id) {
                    // Those before it in the order come first.
                    continue 'anew;
                }
                guards.push(guard);
            }
            return Ok(guards);
        }
    }

    /// In slices, with the lock let go in between: nobody else writes these ids meanwhile.
    async fn look_up(&self, needs: &BTreeMap<MessageId, Need>) -> Result<BTreeMap<MessageId, Known>, String> {
        let mut all = BTreeMap::new();
        let mut left = needs.iter();
        let together = needs.len() > 1;
        loop {
            {
                let cluster = self.cluster();
                for (id, &need) in left.by_ref().take(LOOKED_AT) {
                    let located = match need {
                        // Were this one to fail, its copies would stand before those of the one that is undecided.
                        Need::Nothing if together => cluster.undecided(id).map_or(Located::NotFound, Located::Hidden),
                        Need::Nothing => Located::NotFound,
                        // Another leader may know better: the commit that follows shows that none does, or else `vouch`.
                        Need::Deletion => cluster.locate_known(id, 0),
                        Need::Version | Need::Message => cluster.find_here(id, 0),
                    };
                    let record = match located {
                        Located::Here { record, .. } => Some(record),
                        Located::NotFound => None,
                        Located::Hidden(reason) => return Err(reason),
                    };
                    all.insert(id.clone(), Known::new(need, record));
                }
            }
            if left.len() == 0 {
                return Ok(all);
            }
            tokio::task::yield_now().await;
        }
    }

    /// Waits for a change; once there was time enough, the reason for waiting is the answer.
    pub(super) async fn wait(&self, mut changes: Changes, until: Instant, reason: String) -> Result<(), Refusal> {
        if Instant::now() < until && self.changed(&mut changes, until).await {
            return Ok(());
        }
        Err(Refusal::Unavailable(format!("{reason}; nothing was written, try again in a moment")))
    }

    /// Reads the messages that are asked for; gives the room that they take.
    async fn read_messages(
        self: &Arc<Self>,
        entries: &mut BTreeMap<MessageId, Known>,
    ) -> Result<Option<super::shares::Room>, Refusal> {
        let here = |known: &Known| known.record.filter(|_| known.need == Need::Message);
        let wanted: Vec<(MessageId, CopyRecord)> =
            entries.iter().filter_map(|(id, known)| Some((id.clone(), here(known)?))).collect();
        if wanted.is_empty() {
            return Ok(None);
        }
        let (messages, room) = self.messages(None, &wanted).await?;
        for ((id, _), message) in wanted.into_iter().zip(messages) {
            if let Some(known) = entries.get_mut(&id) {
                known.message = message;
            }
        }
        Ok(Some(room))
    }

    /// Makes all writes true at one instant, or none.
    async fn write_together(self: &Arc<Self>, mut writes: Vec<Wanted>) -> Result<(), Refusal> {
        if writes.len() > 1 {
            return self.write_all(writes).await;
        }
        let Some((id, change, guard)) = writes.pop() else { return Ok(()) };
        self.write_alone(id, change, guard).await
    }

    /// Writes one message as a SET does.
    pub(super) async fn write_alone(
        self: &Arc<Self>,
        id: MessageId,
        change: Change,
        guard: KeyGuard,
    ) -> Result<(), Refusal> {
        let (replies, mut told) = mpsc::unbounded_channel();
        self.take_turns([Turn { askers: smallvec![Asker { at: 0, replies }], id, change, guard }]);
        match told.recv().await {
            Some((_, Reply::Done)) => Ok(()),
            Some((_, Reply::Refused(refusal))) => Err(refusal),
            _ => Err(Refusal::Unknown("the leader failed while it wrote".to_owned())),
        }
    }

    /// Admit all, prepare, copies on as many nodes as tolerance says, one log record, the index.
    async fn write_all(self: &Arc<Self>, wanted: Vec<Wanted>) -> Result<(), Refusal> {
        let tickets = self.admit_together(&wanted).await?;
        let mut writes = Vec::with_capacity(wanted.len());
        for ((_, change, guard), ticket) in wanted.into_iter().zip(tickets) {
            let Some(ticket) = ticket else { continue };
            let need = ticket.targets.len();
            let promise = Promise::new(self.clone(), ticket);
            writes.push(Write::new(Askers::new(), promise, change.into_payload(), guard, need));
        }
        let Some(name) = writes.first().map(|write| write.promise.ticket().record.version) else { return Ok(()) };
        let prepared = writes.iter().map(|write| write.promise.ticket());
        let prepared = prepared.map(|ticket| (ticket.id.clone(), ticket.record.version)).collect();
        if let Err(error) = self.ledger().append(&[Event::Prepared { name, writes: prepared }]).await {
            // No copy was sent: whatever the log has of it, nothing follows from that.
            return Err(Refusal::Unavailable(format!("{error}; nothing was written, try again later")));
        }
        let writes = self.replicate(writes).await;
        let failed = writes.iter().find(|write| write.outcome != Outcome::Kept).map(|write| self.why(write));
        let trouble = match failed {
            Some(trouble) => trouble,
            None => match self.commit_together(writes).await {
                Ok(()) => return Ok(()),
                Err((writes, error)) => return self.roll_back(name, writes, Refusal::Unknown(error)).await,
            },
        };
        self.roll_back(name, writes, trouble).await
    }

    /// Gives each write a version and targets, or none of them; waits for nodes that are still joining after a start.
    async fn admit_together(self: &Arc<Self>, wanted: &[Wanted]) -> Result<Vec<Option<Ticket>>, Refusal> {
        let records: Vec<_> = wanted.iter().map(|(id, change, _)| (id, change.record())).collect();
        loop {
            let mut changes = self.changes();
            let refused = {
                if let Some(why) = self.ledger().refuses() {
                    return Err(self.refusal(NotAdmitted::NotYet(why.to_owned())));
                }
                let mut cluster = self.cluster();
                if cluster.is_rolling_back_much() {
                    return Err(Refusal::Busy("too many transactions that failed are still to be taken back"));
                }
                match cluster.admit_together(&records) {
                    Ok(tickets) => return Ok(tickets),
                    Err(refused) => refused,
                }
            };
            if !self.changed(&mut changes, self.joining_until()).await {
                return Err(self.refusal(refused));
            }
        }
    }

    /// Makes these writes true in one record, or gives them back with the reason why the log does not have it.
    pub(super) async fn commit_together(self: &Arc<Self>, writes: Vec<Write>) -> Result<(), (Vec<Write>, String)> {
        let event = Event::Commits(writes.iter().map(Write::commit).collect());
        self.make_writes_true(writes, &[event]).await
    }

    /// None of these becomes true: the log says so before anything else is written to these ids. What lies on nodes
    /// is put behind newer versions later, see `rollback`.
    async fn roll_back(self: &Arc<Self>, name: Version, writes: Vec<Write>, trouble: Refusal) -> Result<(), Refusal> {
        self.cluster().void(name, writes.iter().map(|write| write.promise.ticket()));
        let aborted = self.abort(&[name]).await;
        Err(rolled_back(trouble, aborted))
    }
}

/// What became of something that began then.
async fn outcome<R>(began: Instant, told: oneshot::Receiver<Result<(R, u64), Refusal>>) -> Result<(R, u64), Refusal> {
    let failed = |_| Err(Refusal::Unknown("the leader failed while it worked on it".to_owned()));
    let in_time = timeout_at(began + OUTCOME, told).await;
    in_time.map_or_else(|_| Err(not_in_time()), |told| told.unwrap_or_else(failed))
}

/// What is told of a transaction that did not become true, for this reason. What one write alone would be told, that it
/// may appear later, is not so for one that the log says is `aborted`; if it does not say so, it may be.
fn rolled_back(trouble: Refusal, aborted: bool) -> Refusal {
    match (trouble, aborted) {
        (trouble @ Refusal::TooFewNodes(_), true) => trouble,
        (Refusal::Unknown(trouble), true) => {
            Refusal::Unavailable(format!("{trouble}; all of it was taken back, nothing was written: try again"))
        }
        (trouble, true) => Refusal::Unavailable(format!("{trouble}; all of it was taken back: try again")),
        (Refusal::TooFewNodes(why), false) => {
            // What it says of the outcome is not so here.
            Refusal::Unknown(why.split("; nothing was written").next().unwrap_or_default().to_owned())
        }
        (Refusal::Unknown(trouble), false) => Refusal::Unknown(trouble),
        (trouble, false) => Refusal::Unknown(trouble.to_string()),
    }
}

/// Refuses more ids than go together.
pub(super) fn check_ids<'a>(ids: impl ExactSizeIterator<Item = &'a MessageId>) -> Result<(), Refusal> {
    let (count, bytes) = (ids.len(), ids.map(|id| id.as_bytes().len()).sum::<usize>());
    if count > MOST_IDS || bytes > MOST_ID_BYTES {
        return Err(Refusal::BadCommand(format!(
            "it names {count} ids of {bytes} bytes in all, and at most {MOST_IDS} of {MOST_ID_BYTES} bytes go together"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Certainty;

    #[test]
    fn a_text_never_says_otherwise_than_its_code() {
        let few = "need 2 live nodes, have 1; nothing was written, start more nodes and try again";
        let (few, late) = (Refusal::TooFewNodes(few.into()), Refusal::Unknown("1 of 2 copies confirmed".into()));
        for (trouble, aborted) in [(few.clone(), true), (few, false), (late.clone(), true), (late, false)] {
            let told = rolled_back(trouble, aborted);
            assert_eq!(told.certainty() == Certainty::SurelyNot, aborted, "{told:?}");
            assert_eq!(told.to_string().contains("may appear"), !aborted, "{told}");
            assert_eq!(told.to_string().contains("nothing was written"), aborted, "{told}");
        }
    }
}
